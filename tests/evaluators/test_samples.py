"""The cache of samples: keyed by protocol, grown by count."""

from __future__ import annotations

import torch

from evaluators.samples import SampleStore, digest


def images(n: int, channels: int = 3) -> torch.Tensor:
    return torch.randint(0, 256, (n, channels, 8, 8), generator=torch.Generator().manual_seed(0), dtype=torch.uint8)


def test_images_come_back_bit_for_bit_and_a_larger_n_only_adds(tmp_path) -> None:
    store = SampleStore(tmp_path, "iid", {"seed": 0})
    store.write([0, 1], images(2), sec=4.0)
    again = SampleStore(tmp_path, "iid", {"seed": 0})
    assert again.missing(4) == [2, 3]
    assert torch.equal(again.read([1, 0]), images(2).flip(0))
    assert again.sec_per_image() == 2.0


def test_grey_images(tmp_path) -> None:
    store = SampleStore(tmp_path, "test", {})
    store.write([0, 1, 2], images(3, channels=1), sec=1.0)
    assert torch.equal(store.read([0, 1, 2]), images(3, channels=1))


def test_another_protocol_is_another_folder(tmp_path) -> None:
    SampleStore(tmp_path, "iid", {"guidance_scale": 1.0}).write([0], images(1), sec=1.0)
    other = SampleStore(tmp_path, "iid", {"guidance_scale": 2.0})
    assert other.missing(1) == [0] and other.sec_per_image() is None


def test_a_killed_write_leaves_no_half_image(tmp_path) -> None:
    store = SampleStore(tmp_path, "iid", {})
    (store.folder / "000000.tmp-123").write_bytes(b"half")
    assert store.missing(1) == [0]


def test_digest_does_not_depend_on_key_order() -> None:
    assert digest({"a": 1, "b": [1, 2]}) == digest({"b": [1, 2], "a": 1}) != digest({"a": 1, "b": [2, 1]})
