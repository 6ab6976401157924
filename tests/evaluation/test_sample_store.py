"""The cache of samples: keyed by protocol, grown by count."""

from __future__ import annotations

import pytest
import torch

from evaluation.metrics.card import digest
from evaluation.sample_store import TimedBatch, SampleStore, save_shown, sec_per_image, write_png


def images(n: int, channels: int = 3) -> torch.Tensor:
    return torch.randint(0, 256, (n, channels, 8, 8), generator=torch.Generator().manual_seed(0), dtype=torch.uint8)


def test_images_come_back_bit_for_bit_and_a_larger_n_only_adds(tmp_path) -> None:
    store = SampleStore(tmp_path, "iid", {"seed": 0})
    store.write([0, 1], images(2), sec=4.0)
    again = SampleStore(tmp_path, "iid", {"seed": 0})
    assert again.missing(range(4)) == [2, 3]
    assert torch.equal(again.read([1, 0]), images(2).flip(0))
    assert sec_per_image(again.timing()) == (2.0, 2.0)


def test_grey_images(tmp_path) -> None:
    store = SampleStore(tmp_path, "test", {})
    store.write([0, 1, 2], images(3, channels=1), sec=1.0)
    assert torch.equal(store.read([0, 1, 2]), images(3, channels=1))


def test_another_protocol_is_another_folder(tmp_path) -> None:
    SampleStore(tmp_path, "iid", {"guidance_scale": 1.0}).write([0], images(1), sec=1.0)
    other = SampleStore(tmp_path, "iid", {"guidance_scale": 2.0})
    assert other.missing([0]) == [0] and other.timing() == []


def test_a_killed_write_leaves_no_half_image(tmp_path) -> None:
    store = SampleStore(tmp_path, "iid", {})
    (store.folder / "00000.tmp-123").write_bytes(b"half")
    assert store.missing([0]) == [0]


def test_digest_does_not_depend_on_key_order() -> None:
    assert digest({"a": 1, "b": [1, 2]}) == digest({"b": [1, 2], "a": 1}) != digest({"a": 1, "b": [2, 1]})


def test_times_of_warm_and_whole_batches_come_first() -> None:
    cold, part = TimedBatch(4, 40.0, False), TimedBatch(1, 9.0, True)
    warm = [TimedBatch(4, sec, True) for sec in (4.0, 8.0, 20.0)]
    assert sec_per_image([cold, part, *warm]) == (2.0, 1.0)
    assert sec_per_image([cold]) == (10.0, 10.0) and sec_per_image([]) == (None, None)


def test_processes_keep_their_own_times_and_share_the_images(tmp_path) -> None:
    for rank in (0, 1):
        SampleStore(tmp_path, "iid", {}, rank).write([rank], images(1), sec=1.0 + rank)
    store = SampleStore(tmp_path, "iid", {})
    assert store.missing(range(3)) == [2] and [batch.sec for batch in store.timing()] == [1.0, 2.0]


def test_shown_images_lie_under_their_contents(tmp_path) -> None:
    folder = save_shown(tmp_path, "iid", images(5), count=3)
    assert [p.name for p in sorted(folder.iterdir())] == ["00000.png", "00001.png", "00002.png"]
    assert save_shown(tmp_path, "iid", images(5), count=3) == folder
    assert save_shown(tmp_path, "iid", images(5).flip(0), count=3) != folder


def test_a_picture_that_cannot_be_put_in_place_leaves_the_old_one(tmp_path, monkeypatch) -> None:
    path = tmp_path / "00000.png"
    write_png(path, torch.zeros(3, 4, 4, dtype=torch.uint8))
    before = path.read_bytes()

    def refuse(*_) -> None:
        raise OSError("no")

    monkeypatch.setattr("os.replace", refuse)
    with pytest.raises(OSError, match="no"):
        write_png(path, torch.full((3, 4, 4), 9, dtype=torch.uint8))
    assert path.read_bytes() == before and [p.name for p in tmp_path.iterdir()] == [path.name]
