"""Where weights come from: the named file, the cache, a download, in this order, and never a substitute."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

import pytest

from evaluation.extractors import weights
from evaluation.extractors.weights import find_weights, first_line, unreachable
from evaluation.metrics.base import NotComputed


def find(tmp_path: Path, **given: Any) -> Path:
    known = {"weights": None, "allow_download": False, "cached": lambda: None, "download": lambda: tmp_path / "loaded"}
    return find_weights("Test", **(known | {"host": "https://nowhere.invalid"} | given))


def test_a_named_file_comes_first_then_the_cache_then_a_download(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(weights, "unreachable", lambda host: None)
    own, cached = tmp_path / "own", tmp_path / "cached"
    own.touch()
    everything = {"cached": lambda: cached, "allow_download": True}
    assert find(tmp_path, weights=str(own), **everything) == own
    assert find(tmp_path, **everything) == cached
    assert find(tmp_path, allow_download=True) == tmp_path / "loaded"


def test_a_named_file_that_is_missing_is_not_replaced(tmp_path: Path) -> None:
    with pytest.raises(NotComputed, match="no Test weights: .*gone is not there: pass extractor.weights=FILE"):
        find(tmp_path, weights=str(tmp_path / "gone"), cached=lambda: tmp_path / "cached")


def test_no_download_without_leave_or_without_a_host(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(NotComputed, match="or allow the download with extractor.allow_download=true"):
        find(tmp_path)
    monkeypatch.setattr(weights, "unreachable", lambda host: "it is asleep")
    with pytest.raises(NotComputed, match=r"no download \(it is asleep\)"):
        find(tmp_path, allow_download=True, download=lambda: pytest.fail("asked a host that is asleep"))


def test_offline_asks_nobody(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    assert unreachable("https://nowhere.invalid") == "HF_HUB_OFFLINE is set"


def test_an_error_is_one_line() -> None:
    assert first_line(ValueError("a\nb")) == "a" and first_line(ValueError()) == "ValueError"
    assert len(first_line(ValueError("x" * 500))) == 200


def test_a_host_that_does_not_answer_is_given_up_within_two_seconds(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("HF_HUB_OFFLINE")
    monkeypatch.setattr(weights.urllib.request, "urlopen", lambda url, timeout: time.sleep(20))
    began = time.monotonic()
    assert "does not answer" in weights.unreachable("https://example.invalid")
    assert time.monotonic() - began < 5

    def refused(url: str, timeout: float) -> None:
        raise OSError("connection refused\nand more")

    monkeypatch.setattr(weights.urllib.request, "urlopen", refused)
    assert weights.unreachable("https://x.invalid") == "https://x.invalid: connection refused"


def test_a_failed_download_is_one_line(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(weights, "unreachable", lambda host: None)

    def download() -> Path:
        raise RuntimeError("disk full\nTraceback ...")

    with pytest.raises(NotComputed, match=r"no download \(disk full\): pass extractor.weights=FILE$"):
        weights.find_weights("x", None, lambda: None, download, True, "host")
    assert weights.find_weights("x", None, lambda: None, lambda: Path("got"), True, "host") == Path("got")
    with pytest.raises(NotComputed):
        weights.find_weights("x", None, lambda: None, lambda: Path("got"), False, "host")
