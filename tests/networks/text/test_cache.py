from __future__ import annotations

import copy
import pickle
from pathlib import Path

import pytest
import torch
from torch import Tensor

from networks.text import BagOfWords, CachedTextEncoder, TextEncoder
from networks.text import store as store_module

CAPTIONS = ["a red circle", "", "two blue squares next to a star", "a red circle", "a dog"]


class Counting(TextEncoder):
    """Fast stand-in that counts what it computes; its vectors are no float16 numbers, pooled is wider than a token."""

    id, revision, dim, pooled_dim = "counting/encoder[1]", "1", 6, 9

    def __init__(self, scale: float = 1.0, max_length: int = 100) -> None:
        super().__init__()
        self.computed, self.scale, self.max_length = 0, scale, max_length

    def _load(self) -> str:
        return "weights"

    def _tokenize(self, captions: list[str]) -> list[list[int]]:
        return [[1, *map(len, c.split())] for c in captions]

    def _forward(self, ids: Tensor) -> tuple[Tensor, Tensor]:
        self.computed += len(ids)
        assert self.loaded == "weights"
        embeds = self.scale * torch.sin(ids[..., None] * torch.arange(1, 7) / 3)
        return embeds, torch.cos(embeds.mean(1).repeat(1, 2)[:, :9])


def test_round_trip_on_disk(tmp_path: Path) -> None:
    first = CachedTextEncoder(Counting(), tmp_path)
    miss, hit = first.encode(CAPTIONS), first.encode(CAPTIONS)
    assert first.encoder.computed == 4  # each different caption once
    second = CachedTextEncoder(Counting(), tmp_path)
    again = second.encode(CAPTIONS)
    assert second.encoder.computed == 0 and second.encoder._loaded is None
    raw = Counting().encode(CAPTIONS)
    for name in ("embeds", "mask", "pooled"):
        assert torch.equal(getattr(miss, name), getattr(hit, name))
        assert torch.equal(getattr(miss, name), getattr(again, name))
        assert getattr(miss, name).dtype == getattr(raw, name).dtype
        torch.testing.assert_close(getattr(miss, name), getattr(raw, name), atol=5e-4, rtol=0)
    assert torch.equal(again.embeds, raw.embeds.half().float())


def test_without_directory_memory_only(tmp_path: Path) -> None:
    cached = CachedTextEncoder(Counting())
    assert torch.equal(cached.encode(CAPTIONS).embeds, cached.encode(CAPTIONS).embeds)
    assert cached.encoder.computed == 4


def test_no_captions(tmp_path: Path) -> None:
    out = CachedTextEncoder(Counting(), tmp_path).encode([])
    assert out.embeds.shape == (0, 1, 6) and out.pooled.shape == (0, 9) and out.mask.shape == (0, 1)


def test_other_settings_have_another_directory(tmp_path: Path) -> None:
    for change in ({}, {"id": "other"}, {"revision": "2"}, {"max_length": 50}):
        encoder = Counting()
        for name, value in change.items():
            setattr(encoder, name, value)
        cached = CachedTextEncoder(encoder, tmp_path)
        cached.encode(CAPTIONS)
        assert encoder.computed == 4, change
    assert len(list(tmp_path.iterdir())) == 4
    assert all((folder / "encoder.json").is_file() for folder in tmp_path.iterdir())


def test_constructing_touches_nothing(tmp_path: Path) -> None:
    cached = CachedTextEncoder(Counting(), tmp_path / "new")
    assert cached.dim == 6 and cached.pooled_dim == 9 and not (tmp_path / "new").exists()


def test_stated_width_is_checked(tmp_path: Path) -> None:
    wrong = CachedTextEncoder(Counting(), tmp_path, dim=7)
    for _ in range(2):
        with pytest.raises(ValueError, match="dim is 7, but .* has 6"):
            wrong.encode(CAPTIONS)


def test_long_captions_warn_though_cached(tmp_path: Path) -> None:
    for _ in range(2):  # the second run computes nothing
        cached = CachedTextEncoder(Counting(max_length=6), tmp_path)
        with pytest.warns(UserWarning, match="8 tokens, .* at most 6") as caught:
            cached.encode(CAPTIONS)
            cached.encode(CAPTIONS)
        assert len(caught) == 1 and cached.truncated == 1
    with pytest.raises(ValueError, match="8 tokens"):
        cached.check_length(CAPTIONS)


def test_unusable_directory_is_said_once_and_survived(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("in the way")
    cached = CachedTextEncoder(Counting(), tmp_path / "file")
    with pytest.warns(UserWarning, match="memory only") as caught:
        assert torch.equal(cached.encode(CAPTIONS).embeds, cached.encode(CAPTIONS).embeds)
    assert len(caught) == 1 and cached.encoder.computed == 4


def test_full_disk_is_survived(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    cached = CachedTextEncoder(Counting(), tmp_path)
    before = cached.encode(CAPTIONS[:2])

    def full(*args: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(store_module, "write_at", full)
    with pytest.warns(UserWarning, match="No space left"):
        cached.encode(CAPTIONS)
    assert torch.equal(cached.encode(CAPTIONS[:2]).embeds, before.embeds)
    cached.encode(["something new"])
    assert cached.encoder.computed == 5
    monkeypatch.undo()
    later = CachedTextEncoder(Counting(), tmp_path)
    later.encode(CAPTIONS)
    assert later.encoder.computed == 2


def test_values_outside_float16_are_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="outside float16"):
        CachedTextEncoder(Counting(scale=1e6), tmp_path).encode(["a dog"])


def test_precompute(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    cached = CachedTextEncoder(Counting(), tmp_path)
    captions = [f"{'a' * (i % 7 + 1)} {i}" for i in range(1200)] * 2
    assert cached.precompute(captions) == 1200
    report = capsys.readouterr().err.splitlines()
    assert "1,200/1,200" in report[-1] and report[-1].endswith("0:00:00 left")
    assert cached.precompute(captions, progress=False) == 0 and not capsys.readouterr().err
    other = CachedTextEncoder(Counting(), tmp_path)
    other.encode(captions)
    assert other.encoder.computed == 0


def test_copies_work_on_the_same_directory(tmp_path: Path) -> None:
    cached = CachedTextEncoder(BagOfWords(8), tmp_path, dim=8)
    expected = cached.encode(CAPTIONS).embeds
    for twin in (copy.deepcopy(cached), pickle.loads(pickle.dumps(cached))):
        assert twin._store is None
        assert torch.equal(twin.encode(CAPTIONS).embeds, expected)


def test_bare_string_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="bare string"):
        CachedTextEncoder(Counting(), tmp_path).encode("a dog")


@pytest.mark.parametrize("on_disk", [True, False])
def test_a_full_cache_stays_as_it_is_and_gives_the_same_numbers(on_disk: bool, tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    captions = [f"caption {'x' * (i + 1)}" for i in range(40)]
    record_bytes = 2 * (9 + 3 * 6)  # pooled, and three tokens
    cached = CachedTextEncoder(Counting(), tmp_path if on_disk else None, cache_gb=20.5 * record_bytes / 1e9)
    plain = CachedTextEncoder(Counting(), None)
    for first in range(0, 40, 4):
        assert torch.equal(cached.encode(captions[first : first + 4]).embeds, plain.encode(captions[first : first + 4]).embeds)
    assert cached.is_full and capsys.readouterr().err.count("full with 20 captions (1.107e-06 GB, text_encoder.cache_gb)") == 1
    for _ in range(2):
        assert torch.equal(cached.encode(captions).embeds, plain.encode(captions).embeds)
    assert cached.encoder.computed == 40 + 2 * 20
    if on_disk:
        assert sum(path.stat().st_size for path in tmp_path.glob("*/embeds.bin")) == 20 * record_bytes
        other = CachedTextEncoder(Counting(), tmp_path)
        assert torch.equal(other.encode(captions).embeds, plain.encode(captions).embeds) and other.encoder.computed == 20, "another limit fills on"


def test_a_full_cache_ends_precomputing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("networks.text.cache.PRECOMPUTE_CHUNK", 5)
    cached = CachedTextEncoder(Counting(), cache_gb=12 * 2 * (9 + 3 * 6) / 1e9)
    assert cached.precompute([f"caption {i}" for i in range(50)], progress=False) == 15 == cached.encoder.computed


def test_memory_in_place_of_a_disk_is_bounded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("networks.text.cache.MEMORY_GB", 1e-9)
    monkeypatch.setattr(store_module.EmbeddingStore, "append", lambda *_: (_ for _ in ()).throw(OSError("disk full")))
    cached = CachedTextEncoder(Counting(), tmp_path)
    with pytest.warns(UserWarning, match="cannot be written"):
        cached.encode(CAPTIONS)
    cached.encode(CAPTIONS)
    assert not cached._memory and cached.encoder.computed == 8


def test_a_limit_below_zero_is_refused() -> None:
    with pytest.raises(ValueError, match="cache_gb must be at least 0, got -1"):
        CachedTextEncoder(Counting(), cache_gb=-1)


def test_a_copy_of_a_full_cache_begins_anew() -> None:
    cached = CachedTextEncoder(Counting(), cache_gb=60 / 1e9)  # room for one caption
    cached.encode(["a dog"])
    cached.encode(["a cat"])
    fresh = copy.deepcopy(cached)
    assert cached.is_full and not fresh.is_full
    for _ in range(2):
        fresh.encode(["a cat"])
    assert not fresh.is_full and fresh.encoder.computed == cached.encoder.computed + 1, "the room is for one, and it has one"
