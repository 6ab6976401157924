"""A picture goes into the run's directory and to the loggers that take pictures; a full disk costs the file alone."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace

import pytest
from PIL import Image

from callbacks.pictures import publish
from tests.callbacks.test_loss_by_level import Recorder


@pytest.mark.parametrize("room", [True, False])
def test_file_and_loggers(room: bool, tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    folder, recorder = tmp_path / "a" / "b", Recorder()
    if not room:
        (tmp_path / "a").write_text("a file where a folder should be")
    trainer = SimpleNamespace(loggers=[SimpleNamespace(), recorder])
    publish(trainer, SimpleNamespace(optimizer_steps=7), folder / "x.png", "grids", Image.new("RGB", (5, 3)))
    assert recorder.pictures == [("grids", (5, 3), 7)]
    if room:
        assert [p.name for p in folder.iterdir()] == ["x.png"] and Image.open(folder / "x.png").size == (5, 3)
    assert ("warning: no x.png: " in capsys.readouterr().out) is not room
