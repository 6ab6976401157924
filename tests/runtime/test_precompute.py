"""Captions ahead of a run: each once, in parts that together are all, and never again."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace

import pytest

from runtime import precompute as precompute_file
from runtime.precompute import main, parsed_device, parsed_part, precompute
from tests.datamodules.tars import samples, tar


class Remembering:
    """Counts what it would compute."""

    is_full = False

    def __init__(self, most: int = 10**9) -> None:
        self.blocks: list[list[str]] = []
        self.known: set[str] = set()
        self.most = most

    def precompute(self, captions: list[str], progress: bool) -> int:
        self.blocks.append(captions)
        new = set(captions) - self.known
        self.known |= new
        self.is_full = len(self.known) >= self.most
        return len(new)


def data_of(*images: tuple[str, ...]) -> SimpleNamespace:
    return SimpleNamespace(captions=lambda: (len(images), iter(images)))


def test_every_caption_once_in_blocks(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture) -> None:
    monkeypatch.setattr(precompute_file, "BLOCK", 2)
    encoder = Remembering()
    data = data_of(("a", "b"), ("c",), (), ("a",), ("d",))
    assert precompute(data, encoder) == (5, 4) and encoder.blocks == [["a", "b", "c"], ["a"], ["d"]]
    assert precompute(data, encoder) == (5, 0)
    assert "5 of 5 images, 5 captions, 4 of them new" in capsys.readouterr().out


@pytest.mark.parametrize("number", [1, 7, 8, 9])
def test_parts_together_are_all(number: int, capsys: pytest.CaptureFixture) -> None:
    data, encoder = data_of(*((str(i),) for i in range(number))), Remembering()
    assert sum(precompute(data, encoder, (k, 4))[0] for k in (1, 2, 3, 4)) == number == len(encoder.known)
    told = [line.split(" images")[0] for line in capsys.readouterr().out.splitlines()]
    assert all(line.split(" of ")[0] == line.split(" of ")[1] for line in told), "each part tells its own end"


def test_a_full_cache_ends_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(precompute_file, "BLOCK", 2)
    assert precompute(data_of(*((str(i),) for i in range(10))), Remembering(most=3)) == (4, 4)


def test_as_it_is_typed(tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    tar(tmp_path / "in" / "0.tar", samples(range(6)))
    typed = ["data=shards", f"data.root={tmp_path / 'in'}", "data.val_fraction=0.2", f"paths.cache={tmp_path / 'cache'}", "device=cpu"]
    main([*typed, "part=2/2"])
    main(typed)
    lines = capsys.readouterr().out.splitlines()
    assert [line for line in lines if line.endswith("text")] == [f"{n} captions, 3 of them new, in {tmp_path / 'cache'}/text" for n in (3, 6)]


@pytest.mark.parametrize(("typed", "message"), [
    (["part=3/2"], "part=3/2: give K/N"), (["part=0/2"], "give K/N"), (["part=x"], "give K/N"), (["device=qpu"], "device=qpu: not to be had here"),
    (["model=vae"], "this model has no text encoder"), (["text_encoder=bag_of_words"], "has no cache"), (["data=scenes"], "ScenesDataModule has no list of captions"),
    (["data=scenes_simple", "data.spelling=0.5"], "has no list of captions"), (["data=garments"], "ClassDataModule has no list of captions"),
])  # fmt: skip
def test_what_cannot_be_is_told(typed: list[str], message: str, tmp_path: Path) -> None:
    with pytest.raises((ValueError, FileNotFoundError), match=message):
        main([*typed, f"paths.cache={tmp_path}"])


def test_parts_and_devices() -> None:
    assert parsed_part("2/8") == (2, 8) and parsed_device("cpu").type == "cpu" and parsed_device("auto").type in ("cpu", "cuda")
