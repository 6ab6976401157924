"""What folders of images share: parts by hash of the name."""

from __future__ import annotations

import pytest

from datamodules.caption_sources import Sample
from datamodules.folder import split_by_name

SAMPLES = [Sample(f"{i}.png", ()) for i in range(2000)]


def test_parts_of_two_names_are_independent() -> None:
    (_, val), (_, test) = split_by_name(SAMPLES, 0.2), split_by_name(SAMPLES, 0.2, "test")
    assert 300 < len(val) < 500 and 300 < len(test) < 500
    assert 40 < len(set(val) & set(test)) < 120


def test_too_few_images_say_for_what() -> None:
    with pytest.raises(ValueError, match="1 usable image is too few to hold one out for test"):
        split_by_name(SAMPLES[:1], 0.5, "test")
