"""Memorisation on the page: distances of samples and of unseen images, and the closest pairs."""

from __future__ import annotations

import re
from typing import Any

import numpy as np

from evaluation.report.memorisation import PAIRS, memorisation
from evaluation.report.svg_charts import png_uri
from tests.evaluation.report_models import cells, models, text

PICTURE = png_uri(np.zeros((4, 4, 3), dtype=np.uint8))


def result(**details: Any) -> dict[str, Any]:
    return {"splits": {"iid": {"n": 4, "details": {"memorisation": details}}}}


def pair(fake: int, **more: Any) -> dict[str, Any]:
    return {"fake": fake, "train": 100 + fake, "feature_distance": 0.25, "pixel_distance": 4.0, "train_png": PICTURE, **more}


def test_samples_and_unseen_images_keep_their_names_and_colours() -> None:
    shown = memorisation(models({"splits": {}}, result(hist={"fake": [1.0, 2.0, 3.0], "holdout": [4.0, 5.0], "other": [9.0]})))
    assert '<i class="c1"></i>samples</li><li><i class="real"></i>unseen real images' in shown
    rows = cells(shown)
    assert rows[0] == ["images", "n", "1 % below", "10 % below", "median", "90 % below"]
    assert rows[1:] == [["samples", "3", "1.02", "1.2", "2", "2.8"], ["unseen real images", "2", "4.01", "4.1", "4.5", "4.9"]]
    assert "samples: median 2 of 3; unseen real images: median 4.5 of 2" in shown


def test_a_pair_shows_the_sample_beside_its_training_image() -> None:
    shown = memorisation(models(result(pairs=[pair(3), pair(1, pixel_distance=None, train_png=None)])))
    first, second = re.findall(r'<div class="pair">.*?distance: [^<]*</small></div>', shown)
    assert text(first) == "no image sample 3 train 103 distance: features 0.25, pixels 4"
    assert f'<img src="{PICTURE}"' in first and 'alt="nearest training image, number 103"' in first
    assert text(second) == "no image sample 1 no image train 101 distance: features 0.25"


def test_only_embedded_pictures_are_taken() -> None:
    for address in ("https://x.example/a.png", "data:text/html;base64,AAAA", PICTURE.replace(";base64", ""), PICTURE[:30] + "é"):
        assert "<img" not in memorisation(models(result(pairs=[pair(0, train_png=address)]))), address


def test_the_page_has_room_for_few_pairs_of_many_models() -> None:
    many = [result(pairs=[pair(i) for i in range(PAIRS)])]
    assert memorisation(models(*many)).count('<div class="pair">') == PAIRS
    assert memorisation(models(*many * 4)).count('<div class="pair">') == PAIRS
    assert memorisation(models(*many * 12)).count('<div class="pair">') == 3 * 12


def test_the_first_split_is_open_and_names_are_escaped() -> None:
    details = {"details": {"memorisation": {"pairs": [pair(0)]}}}
    shown = memorisation(models({"name": "<m>", "splits": {"<a>": details, "<b>": details, "c": {}}}))
    opened, folded = shown.split("<details>")
    assert "Closest pairs (&lt;a&gt;)" in opened and "&lt;m&gt;" in opened and "&lt;b&gt;" not in opened
    assert folded.startswith("<summary>Memorisation, &lt;b&gt;</summary>")
    assert not re.search("<a>|<b>|<m>", shown) and memorisation(models({"splits": {"iid": {"n": 4}}})) == ""
