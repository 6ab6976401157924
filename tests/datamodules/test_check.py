"""The checker says what training would do, and its exit status agrees."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

from datamodules.check import main


def run(folder: Path, *arguments: str) -> int:
    return main([str(folder), "--cache-dir", str(folder.parent / "cache"), *arguments])


def test_a_good_folder(folder: Path, capsys):
    assert run(folder) == 0
    out = capsys.readouterr().out.splitlines()
    assert out[:2] == ["layout: metadata.jsonl", "24 of 24 images usable"]
    assert out[2] == "48 captions, 48 of them different, 2 per image, 2 words in the median, 2 at most"
    assert out[3] == "  000.png: picture 0 | number 0"


def test_a_damaged_folder(folder: Path, truncate, capsys):
    truncate(folder / "003.png")
    assert run(folder, "--max-bad-fraction", "0.05") == 0
    assert "truncated: 1\n  003.png (OSError: " in capsys.readouterr().out
    assert run(folder) == 1
    assert capsys.readouterr().err.startswith("error: 1 of 24 images cannot be used")


def test_the_command_line(tmp_path: Path):
    command = [sys.executable, "-m", "datamodules.check", str(tmp_path / "nowhere")]
    done = subprocess.run(command, capture_output=True, text=True, cwd=Path(__file__).parents[2])
    assert done.returncode == 1
    assert done.stderr == f"error: data.root: there is no folder {tmp_path / 'nowhere'}\n"
