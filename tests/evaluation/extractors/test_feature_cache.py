"""The cache of features: what is the same is found, what differs in anything is not."""

from __future__ import annotations

import os

import pytest
import torch

from evaluation.extractors.base import BLOCK, content_key
from evaluation.extractors.feature_cache import FeatureCache, shared
from tests.evaluation.pixel_features import Pixels, images


def extractor(cache: FeatureCache, **kwargs) -> Pixels:
    made = Pixels(**kwargs)
    made.cache = cache
    return made


def test_equal_images_are_computed_once_and_a_changed_pixel_weight_or_rule_misses() -> None:
    cache, batch = FeatureCache(), images(BLOCK, 0)
    first = extractor(cache)
    expected = first(batch)
    again = extractor(cache)
    torch.testing.assert_close(again(batch.clone()), expected, rtol=0, atol=0)
    assert (first.computed, again.computed) == (BLOCK, 0)

    changed = batch.clone()
    changed[3, 1, 2, 2] ^= 1
    for other, image in (
        (extractor(cache), changed),
        (extractor(cache, sha256="other weights"), batch),
        (extractor(cache, rule="other resize"), batch),
        (extractor(cache), batch.reshape(BLOCK, 3, 2, 8)),
    ):
        other(image)
        assert other.computed == BLOCK


def test_the_same_bytes_in_another_shape_are_another_key() -> None:
    batch = images(4, 0)
    assert content_key(batch, "k") != content_key(batch.reshape(4, 3, 2, 8), "k")
    assert content_key(batch, "k") != content_key(batch, "l")
    assert content_key(batch, "k") == content_key(batch.flip(0).flip(0), "k")


def test_features_survive_the_process_and_damage_is_a_miss(tmp_path, capsys) -> None:
    batch = images(5, 1)
    expected = extractor(FeatureCache(tmp_path))(batch)
    reader = extractor(FeatureCache(tmp_path))
    torch.testing.assert_close(reader(batch), expected, rtol=0, atol=0)
    assert reader.computed == 0
    assert not list(tmp_path.glob("*/*.tmp*"))

    for path in tmp_path.glob("*/*.pt"):
        path.write_bytes(path.read_bytes()[:50])
    damaged = extractor(FeatureCache(tmp_path))
    torch.testing.assert_close(damaged(batch), expected, rtol=0, atol=0)
    assert damaged.computed == BLOCK  # a short batch is filled up to a block
    assert "is damaged" in capsys.readouterr().out


def test_disk_and_memory_stay_below_their_limits(tmp_path) -> None:
    value = torch.zeros(1000)  # 4 kB, and 1 kB of file around it
    cache = FeatureCache(tmp_path, memory_bytes=10_000, disk_bytes=30_000)
    for i in range(12):
        cache.put(f"{i:02d}", value)
        for path in tmp_path.glob("*/*.pt"):  # older than what comes next, whatever the clock's resolution
            os.utime(path, ns=(i * 10**9, path.stat().st_mtime_ns - 10**9))
    files = list(tmp_path.glob("*/*.pt"))
    assert sum(p.stat().st_size for p in files) <= 30_000 and len(files) < 12
    assert cache.get("11") is not None and cache.get("00") is None
    assert len(cache._memory) <= 2


def test_a_folder_that_cannot_be_written_is_left_alone(tmp_path, capsys) -> None:
    (tmp_path / "file").write_text("")
    cache = FeatureCache(tmp_path / "file")
    cache.put("ab", torch.zeros(1))
    assert cache.get("ab") is not None and "features are not kept" in capsys.readouterr().out


def test_extractors_of_one_folder_share_a_cache(tmp_path) -> None:
    assert shared(tmp_path) is shared(str(tmp_path)) and shared(None) is shared(None) is not shared(tmp_path)
    assert Pixels().cache is shared(None)


def test_batches_of_any_size_give_the_same_features() -> None:
    batch = images(70, 2)
    parts = [torch.cat([extractor(FeatureCache())(p) for p in batch.split(size)]) for size in (1, 7, 32, 70)]
    assert all(torch.equal(parts[0], part) for part in parts[1:])


def test_broken_weights_are_a_reason_not_a_number() -> None:
    from evaluation.metrics.base import NotComputed

    class Broken(Pixels):
        def _features(self, net, image_u8):
            return super()._features(net, image_u8) / 0

    with pytest.raises(NotComputed, match="NaN or infinity"):
        extractor_broken = Broken()
        extractor_broken.cache = FeatureCache()
        extractor_broken(images(2, 0))


def test_a_part_of_a_large_tensor_is_kept_alone(tmp_path) -> None:
    large = torch.zeros(1000, 1000)
    FeatureCache(tmp_path).put("a" * 40, large[:2, :2])
    (path,) = tmp_path.glob("*/*.pt")
    assert path.stat().st_size < 10_000


def test_reading_makes_a_file_young(tmp_path) -> None:
    FeatureCache(tmp_path).put("a" * 40, torch.ones(2))
    (path,) = tmp_path.glob("*/*.pt")
    os.utime(path, (1, 1))
    assert torch.equal(FeatureCache(tmp_path).get("a" * 40), torch.ones(2))
    assert path.stat().st_mtime > 1000, "what is used is deleted last"


def test_probabilities_are_of_an_images_classes() -> None:
    found = extractor(FeatureCache()).probabilities(images(5, 0))
    assert found.shape == (5, 16)
    torch.testing.assert_close(found.sum(1), torch.ones(5))
