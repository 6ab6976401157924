"""W&B never asks, never stops a run, and mirrors what the record holds."""

from __future__ import annotations

import re
import subprocess
import sys
from types import SimpleNamespace

import pytest
from PIL import Image

from runtime.wandb import WandbLogger, choose_mode


@pytest.mark.parametrize(
    ("env", "login", "mode"),
    [
        ("disabled", True, "disabled"),
        (None, True, "online"),
        (None, False, "offline"),
        (None, OSError("dead"), "offline"),
    ],
)
def test_mode(monkeypatch, env, login, mode) -> None:
    monkeypatch.delenv("WANDB_MODE", raising=False)
    if env:
        monkeypatch.setenv("WANDB_MODE", env)

    def answer(prompt: bool) -> bool:
        assert prompt is False
        if isinstance(login, Exception):
            raise login
        return login

    assert choose_mode(SimpleNamespace(login=answer)) == mode


def test_a_broken_wandb_is_reported_once_and_ignored(monkeypatch, tmp_path, capsys) -> None:
    def fail(**_):
        raise RuntimeError("no server\nat all")

    fake = SimpleNamespace(init=fail, login=lambda prompt: False, Settings=lambda **_: None)
    monkeypatch.setitem(sys.modules, "wandb", fake)
    logger = WandbLogger("p", str(tmp_path), "id")
    logger.log_metrics({"a": 1.0}, step=1)
    logger.log_metrics({"a": 1.0}, step=2)
    logger.finalize("success")
    assert capsys.readouterr().out == "warning: W&B is off for the rest of this run: no server\n"


def test_lines_and_pictures_arrive_with_our_step(monkeypatch, tmp_path) -> None:
    rows, asked = [], {}
    summary: dict = {}
    run = SimpleNamespace(log=rows.append, define_metric=lambda *a, **k: None, finish=lambda exit_code: None, summary=summary)
    fake = SimpleNamespace(
        init=lambda **k: asked.update(k) or run,
        login=lambda prompt: False,
        Settings=lambda **_: None,
        Image=lambda x: x,
    )
    monkeypatch.setitem(sys.modules, "wandb", fake)
    logger = WandbLogger("p", str(tmp_path), "abc", group="study", tags=["imagen", 3], notes="why")
    picture = Image.new("RGB", (2, 2))
    logger.log_metrics({"train/loss": 1.0}, step=5)
    logger.log_picture("samples", picture, step=5)
    logger.log_summary({"parameters": 7})
    logger.finalize("success")
    assert summary == {"parameters": 7}
    assert {k: asked[k] for k in ("group", "tags", "notes", "job_type")} == {
        "group": "study", "tags": ["imagen", "3"], "notes": "why", "job_type": "train",
    }  # fmt: skip
    assert rows == [{"train/loss": 1.0, "step": 5}, {"samples": picture, "step": 5}]
    assert asked["id"] == "abc" and asked["resume"] == "allow" and asked["mode"] == "offline"


@pytest.mark.slow
def test_an_offline_run_is_written_and_read_by_the_terminal_dashboard(tmp_path) -> None:
    logger = WandbLogger("p", str(tmp_path), "abc")
    logger.log_metrics({"train/loss": 1.0}, step=5)
    logger.log_picture("samples", Image.new("RGB", (8, 8)), step=5)
    logger.finalize("success")
    assert list((tmp_path / "wandb").glob("offline-run-*-abc/run-abc.wandb"))
    command = [sys.executable, "-m", "wandb", "leet", "inspect", "--summary", str(tmp_path / "wandb")]
    found = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    assert re.search(r"^project +p$", found, re.M) and re.search(r"^ +train/loss +1$", found, re.M) and re.search(r"^ +samples +image-file", found, re.M)
