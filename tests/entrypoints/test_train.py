"""train.py as a user meets it: errors in a line, exit codes, resuming with changes, help."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
from omegaconf import OmegaConf

from tests import toy
from tests.sessions import run
from tests.toy import overrides
from train import main

REPO = Path(__file__).resolve().parents[2]


@pytest.fixture(scope="module")
def short(tmp_path_factory) -> Path:
    path = tmp_path_factory.mktemp("short") / "run"
    main(overrides("trainer.max_steps=4", run=path))
    return path


def test_metrics_come_back(short: Path) -> None:
    metrics = main([f"resume={short}"])  # finished: says so, changes nothing
    assert metrics["step"] == 4 and {"train/loss", "val/loss", "train/lr"} <= set(metrics)


@pytest.mark.parametrize(
    ("wrong", "code", "line"),
    [
        ("model.width=0", 2, "error: model.width=0: at least 1"),
        ("modle=toy", 2, "error: unknown setting 'modle'. Did you mean model=toy?"),
        ("trainer.max_time=soon", 2, "error: trainer.max_time=soon: give days:hours:minutes:seconds"),
        ("trainer.max_steps=0", 2, "error: trainer.max_steps=0"),
        ("+model.nonsense=1", 2, "error: "),
        ("model.optimizer._target_=torch.optim.Adamm", 2, "error: "),
        ("data.batch_size=0", 2, "error: data.batch_size=0: give a whole number of at least 1"),
    ],
)
def test_user_errors_are_one_line(wrong: str, code: int, line: str, tmp_path: Path) -> None:
    log = tmp_path / "log"
    assert run(overrides(wrong, run=tmp_path / "run"), log) == code
    errors = [l for l in log.read_text().splitlines() if l.startswith("error")]
    assert len(errors) == 1 and errors[0].startswith(line)
    assert "Traceback" not in log.read_text()


def test_a_run_is_not_overwritten(short: Path) -> None:
    with pytest.raises(ValueError, match="holds a run already: continue it with resume="):
        main(overrides(run=short))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ("data.batch_size=4", "data.batch_size=4: the run has data.batch_size=8"),
        ("seed=1", "seed=1: the run has seed=0"),
        ("model.optimizer.lr=1", "model.optimizer.lr=1: the run has"),
        ("trainer.accumulate=2", "trainer.accumulate=2: the run has"),
        ("data=scenes", "data=scenes: a resumed run keeps its data"),
        ("trainer.maxsteps=9", "Did you mean trainer.max_steps=9?"),
    ],
)
def test_resume_refuses_what_would_make_another_run(short: Path, change: str, message: str) -> None:
    with pytest.raises(ValueError) as error:
        main([f"resume={short}", change])
    assert message in str(error.value)


def test_resume_with_other_data_is_refused_unless_forced(tmp_path: Path, monkeypatch) -> None:
    main(overrides("trainer.max_steps=4", run=tmp_path))
    monkeypatch.setattr("tests.toy.ToyData.fingerprint", lambda self: "other")
    with pytest.raises(ValueError, match="the run was trained with fingerprint toy-30, and now it is other"):
        main([f"resume={tmp_path}", "trainer.max_steps=6"])
    assert main([f"resume={tmp_path}", "trainer.max_steps=6", "resume_force=true"])["step"] == 6


def test_resume_of_nothing(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match="resume=nowhere: no run there"):
        main(["resume=nowhere"])


def test_a_hostile_run_directory_is_refused(tmp_path: Path) -> None:
    main(overrides("trainer.max_steps=1", run=tmp_path))
    source = tmp_path / "resume.yaml"
    source.write_text(source.read_text().replace("callbacks.ema.EMA", "os.system"))
    with pytest.raises(ValueError, match="os.system.*refused"):
        main([f"resume={tmp_path}", "trainer.max_steps=2"])


def test_names_and_latest(tmp_path: Path) -> None:
    for name in ("a", "b"):
        main(overrides("trainer.max_steps=1", f"paths.runs={tmp_path}", f"name={name}"))
    assert (tmp_path / "toy" / "toy" / "a" / "config.yaml").exists()
    assert os.readlink(tmp_path / "latest") == "toy/toy/b"
    assert sorted(p.name for p in tmp_path.iterdir()) == ["latest", "toy"]


def test_latest_moves_with_the_first_checkpoint(tmp_path: Path, monkeypatch) -> None:
    runs, seen, losses = f"paths.runs={tmp_path}", [], toy.Toy.losses

    def watched(self, batch):
        seen.append(os.readlink(tmp_path / "latest") if (tmp_path / "latest").is_symlink() else None)
        return losses(self, batch)

    main(overrides("trainer.max_steps=1", runs, "name=a"))
    monkeypatch.setattr(toy.Toy, "losses", watched)
    main(overrides("trainer.max_steps=4", "callbacks.checkpoint.every_steps=2", "callbacks.validate=null", runs, "name=b"))
    assert seen == ["toy/toy/a"] * 2 + ["toy/toy/b"] * 2
    main(overrides("trainer.max_steps=1", "callbacks.checkpoint=null", runs, "name=c"))
    assert os.readlink(tmp_path / "latest") == "toy/toy/c"  # a run that saves nothing: at its end


@pytest.mark.parametrize("wrong", ["model.width=0", "model.optimizer.lr=-1", "data.n=0", "init=nowhere"])
def test_a_failed_start_leaves_nothing_and_moves_nothing(wrong: str, tmp_path: Path) -> None:
    main(overrides("trainer.max_steps=1", f"paths.runs={tmp_path}", "name=a"))
    before = sorted(str(p) for p in tmp_path.rglob("*"))
    for name in ("name=b", "name=null"):
        with pytest.raises(Exception):
            main(overrides(wrong, f"paths.runs={tmp_path}", name))
    assert sorted(str(p) for p in tmp_path.rglob("*")) == before and os.readlink(tmp_path / "latest") == "toy/toy/a"
    own = tmp_path / "own"
    own.mkdir()
    with pytest.raises(Exception):
        main(overrides(wrong, run=own))
    assert own.is_dir() and not list(own.iterdir())


def test_a_run_that_broke_after_its_first_step_stays(tmp_path: Path, monkeypatch) -> None:
    losses = toy.Toy.losses

    def broken(self, batch):
        if self.batches_seen == 2:
            raise RuntimeError("out of memory")
        return losses(self, batch)

    monkeypatch.setattr(toy.Toy, "losses", broken)
    with pytest.raises(RuntimeError, match="out of memory"):
        main(overrides(run=tmp_path / "run"))
    assert (tmp_path / "run" / "resume.yaml").exists()


def script(*arguments: str, cwd: Path) -> subprocess.CompletedProcess:
    env = {**os.environ, "PYTHONPATH": str(REPO), "OMP_NUM_THREADS": "1"}
    command = [sys.executable, *arguments]
    return subprocess.run(command, cwd=cwd, env=env, capture_output=True, text=True, timeout=900)


def test_help_from_a_shell(tmp_path: Path) -> None:
    done = script(str(REPO / "train.py"), "--help", cwd=tmp_path)
    assert done.returncode == 0 and "python train.py model=imagen" in done.stdout, done.stderr
    assert not list(tmp_path.iterdir())


@pytest.mark.slow
def test_a_sweep_from_a_shell(tmp_path: Path) -> None:
    settings = overrides("trainer.max_steps=1", f"paths.runs={tmp_path / 'runs'}")
    refused = script("-m", "tests.toy", "-m", *settings, "seed=0,1", "trainer.devices=2", cwd=tmp_path)
    assert refused.returncode == 2 and "error: -m with trainer.devices=2" in refused.stderr
    done = script("-m", "tests.toy", "-m", *settings, "seed=0,1", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert sorted(OmegaConf.load(p).seed for p in (tmp_path / "runs/toy/toy").glob("*/config.yaml")) == [0, 1]
    assert [p.name for p in tmp_path.iterdir()] == ["runs"]  # no litter
