"""The command `python -m app` is that of demo/app.py."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path


def test_it_shows_its_options() -> None:
    command = [sys.executable, "-m", "app", "--help"]
    out = subprocess.run(command, capture_output=True, text=True, timeout=60, cwd=Path(__file__).parents[1], check=True).stdout
    assert "--ckpt" in out and "--port" in out
