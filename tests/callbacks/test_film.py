"""The film of a run: every grid in its order, the last one held, across sessions, whatever happened to a frame."""

from __future__ import annotations

import signal
from pathlib import Path

import pytest
from PIL import Image

from callbacks import film
from callbacks.film import MAX_FRAMES, MAX_SIDE, evenly, write_film
from evaluation.pictures.animation import LAST_MS
from tests import toy
from train import main


def shades(path: Path) -> list[int]:
    """The grey value at the middle of each frame."""
    return [frame.getpixel((frame.width // 2, frame.height // 2))[0] for frame in frames(path)]


def frames(path: Path) -> list[Image.Image]:
    with Image.open(path) as picture:
        found = []
        for i in range(picture.n_frames):
            picture.seek(i)
            found.append(picture.convert("RGB"))
        return found


def durations(path: Path) -> list[int]:
    with Image.open(path) as picture:
        found = []
        for i in range(picture.n_frames):
            picture.seek(i)
            found.append(picture.info["duration"])
        return found


def grids(folder: Path, values: list[int], side: int = 40) -> None:
    for i, value in enumerate(values):
        Image.new("RGB", (side, side), (value,) * 3).save(folder / f"step={100 * i:08d}.png")


def test_frames_stand_in_order_and_the_last_is_held(tmp_path: Path) -> None:
    grids(tmp_path, [200, 20, 120, 60])
    Image.new("RGB", (40, 40), "red").save(tmp_path / "reconstructions-step=00000100.png")
    assert write_film(tmp_path, tmp_path / "film.gif")
    assert shades(tmp_path / "film.gif") == pytest.approx([200, 20, 120, 60], abs=2)
    assert durations(tmp_path / "film.gif") == [200, 200, 200, LAST_MS]
    with Image.open(tmp_path / "film.gif") as picture:
        assert picture.info["loop"] == 0


def test_a_broken_frame_is_left_out_with_a_warning(tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    grids(tmp_path, [200, 20, 120, 60, 90])
    whole = (tmp_path / "step=00000100.png").read_bytes()
    (tmp_path / "step=00000100.png").write_bytes(whole[: len(whole) // 2])
    (tmp_path / "step=00000200.png").write_bytes(b"")
    (tmp_path / "step=last.png").write_bytes(whole)
    assert write_film(tmp_path, tmp_path / "film.gif")
    assert shades(tmp_path / "film.gif") == pytest.approx([200, 60, 90], abs=2)
    said = capsys.readouterr().out.splitlines()
    assert len(said) == 3 and all(line.startswith("warning: the film goes without ") for line in said)
    assert "step=00000100.png" in said[0] and "step=00000200.png" in said[1] and "step=last.png" in said[2]


def test_a_film_is_neither_large_nor_long(tmp_path: Path) -> None:
    assert [p.name for p in evenly([Path(str(i)) for i in range(9)], 5)] == ["0", "2", "4", "6", "8"]
    grids(tmp_path, list(range(MAX_FRAMES + 30)), side=MAX_SIDE * 2)
    assert write_film(tmp_path, tmp_path / "film.gif")
    found = shades(tmp_path / "film.gif")
    assert len(found) == MAX_FRAMES and found[0] == 0 and found[-1] == MAX_FRAMES + 29
    assert max(frames(tmp_path / "film.gif")[0].size) == MAX_SIDE


def test_frames_of_other_sizes_are_fitted_in_and_few_make_no_film(tmp_path: Path) -> None:
    assert not write_film(tmp_path / "nowhere", tmp_path / "film.gif")
    grids(tmp_path, [200])
    assert not write_film(tmp_path, tmp_path / "film.gif") and not (tmp_path / "film.gif").exists()
    Image.new("RGB", (80, 40), (50,) * 3).save(tmp_path / "step=00000100.png")
    assert write_film(tmp_path, tmp_path / "film.gif")
    assert {frame.size for frame in frames(tmp_path / "film.gif")} == {(80, 40 + film.BAR)}


def test_a_run_ends_with_a_film_of_all_its_sessions(tmp_path: Path) -> None:
    run = tmp_path / "run"
    main(toy.overrides("trainer.max_steps=6", "callbacks.samples.every_steps=2", run=run))
    assert len(frames(run / "samples.gif")) == 3
    (run / "samples.gif").unlink()
    main([f"resume={run}", "trainer.max_steps=10"])
    assert len(frames(run / "samples.gif")) == 5 == len(list((run / "samples").iterdir()))
    main(toy.overrides("trainer.max_steps=3", run=tmp_path / "short"))
    assert not (tmp_path / "short" / "samples.gif").exists(), "one grid is no film"


def test_a_run_that_a_signal_stops_has_its_film(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    losses = toy.Toy.losses

    def stopped(self, batch):
        if self.batches_seen == 5:
            signal.raise_signal(signal.SIGTERM)
        return losses(self, batch)

    monkeypatch.setattr(toy.Toy, "losses", stopped)
    with pytest.raises(SystemExit):
        main(toy.overrides("callbacks.samples.every_steps=2", run=tmp_path))
    assert len(frames(tmp_path / "samples.gif")) == 2 == len(list((tmp_path / "samples").iterdir()))


def test_a_full_disk_costs_the_film_alone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
) -> None:
    def full(*_) -> None:
        raise OSError("no space left")

    grids(tmp_path, [1, 2])
    with monkeypatch.context() as patch, pytest.raises(OSError):
        patch.setattr("files.os.replace", full)
        write_film(tmp_path, tmp_path / "film.gif")
    assert not list(tmp_path.glob("film*"))
    monkeypatch.setattr("callbacks.samples.write_film", full)
    assert main(toy.overrides("trainer.max_steps=4", run=tmp_path / "run"))["step"] == 4
    assert f"warning: no film of the samples: {tmp_path / 'run'}: no space left" in capsys.readouterr().out
