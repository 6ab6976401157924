"""The shell around the scripts: exit codes, one line for what a user can put right, help, and several runs at once."""

from __future__ import annotations

import os
import shlex
import signal
import subprocess
import sys
from importlib import metadata
from pathlib import Path

import pytest
import yaml
from hydra.errors import InstantiationException
from omegaconf import OmegaConf
from omegaconf.errors import OmegaConfBaseException

from runtime import cli, sweeps
from runtime.cli import VERSION, first_comment, guarded, help_text, launch, user_error
from runtime.config import CONF, REPO


def raising(error: BaseException):
    def action() -> None:
        raise error

    return action


@pytest.fixture(autouse=True)
def no_debugging(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("HYDRA_FULL_ERROR", raising=False)
    monkeypatch.setattr(sys, "argv", ["train.py"])


@pytest.mark.parametrize(
    ("error", "code"),
    [(ValueError("x"), 2), (FloatingPointError("x"), 2), (PermissionError("x"), 2), (KeyboardInterrupt(), 130),
     (RuntimeError("x"), 1), (KeyError("x"), 1)],
)  # fmt: skip
def test_exit_codes(error: BaseException, code: int) -> None:
    assert guarded(raising(error)) == code
    assert guarded(lambda: None) == 0


def test_what_a_user_can_put_right_is_one_line_and_a_fault_is_a_traceback(capsys: pytest.CaptureFixture) -> None:
    guarded(raising(ValueError("model.x=3:\n  a number \x1b[31m")))
    assert capsys.readouterr().err == "error: model.x=3: a number \\x1b[31m\n"
    guarded(raising(RuntimeError("broken")))
    text = capsys.readouterr().err
    assert "Traceback" in text and "RuntimeError: broken" in text and "error: " not in text


@pytest.mark.parametrize("how", ["environment", "argument"])
def test_a_traceback_can_be_had_of_every_error(
    how: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
) -> None:
    if how == "environment":
        monkeypatch.setenv("HYDRA_FULL_ERROR", "1")
    else:
        monkeypatch.setattr(sys, "argv", ["train.py", "debug=true"])
    assert guarded(raising(ValueError("x"))) == 2
    text = capsys.readouterr().err
    assert "Traceback" in text and text.endswith("error: x\n")


def caused(error: BaseException, cause: BaseException) -> BaseException:
    error.__cause__ = cause
    return error


def test_the_cause_is_what_is_told() -> None:
    wrapped = InstantiationException("Error in call to target 'x':\nfull_key: model.net")
    assert user_error(caused(wrapped, ValueError("dim=3"))) == "dim=3"
    assert user_error(caused(wrapped, TypeError("no argument y"))) == "no argument y (at model.net)"
    assert user_error(caused(RuntimeError("outer"), TypeError("a fault"))) is None
    assert user_error(caused(ValueError("outer"), RuntimeError("a fault"))) is None
    assert user_error(InstantiationException("no such target\nfull_key: data")) == "no such target (at data)"


def test_an_error_of_the_system_names_its_file() -> None:
    assert user_error(FileNotFoundError(2, "No such file or directory", "a.ckpt")) == "a.ckpt: no such file or directory"
    assert user_error(FileNotFoundError("a.ckpt is not there")) == "a.ckpt is not there"
    assert user_error(ValueError("a", 3)) == "('a', 3)"


def test_an_error_of_the_configuration_is_one_line() -> None:
    with pytest.raises(OmegaConfBaseException) as error:
        OmegaConf.create({"a": "${nothing.there}"}).a
    line = user_error(error.value)
    assert line == "Interpolation key 'nothing.there' not found (at a)"


def test_a_message_with_a_key_error_inside_is_no_user_error() -> None:
    assert user_error(KeyError("x")) is None


# ---- help ----


@pytest.mark.parametrize("script", ["train", "evaluate"])
def test_help_does_not_wait_for_torch(script: str) -> None:
    code = f"import sys, {script}; from runtime.cli import help_text; help_text({script!r}); print('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], cwd=REPO, capture_output=True, text=True).stdout == "False\n"


@pytest.mark.parametrize("flags", ["--help", "--info", "--cfg job"])
def test_a_reader_that_has_read_enough_ends_a_long_text_without_a_word(flags: str) -> None:
    script = f"{shlex.quote(sys.executable)} train.py {flags} | true"
    buffered = {name: value for name, value in os.environ.items() if name != "PYTHONUNBUFFERED"}
    done = subprocess.run(["bash", "-o", "pipefail", "-c", script], cwd=REPO, env=buffered, capture_output=True, text=True)
    assert (done.returncode, done.stderr) == (0, "")


@pytest.mark.parametrize("flag", ["-h", "--help", "help"])
def test_help_is_printed_and_nothing_runs(
    flag: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
) -> None:
    monkeypatch.setattr(sys, "argv", ["train.py", "model=vae", flag])
    launch(raising(RuntimeError("ran")), "train")
    assert capsys.readouterr().out == help_text("train") + "\n"


def test_the_version_is_the_one_that_is_cited(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture) -> None:
    monkeypatch.setattr(sys, "argv", ["train.py", "--version"])
    launch(raising(RuntimeError("ran")), "train")
    version, *rest = capsys.readouterr().out.strip().split(", ")
    cited = yaml.safe_load((CONF.parent / "CITATION.cff").read_text())
    assert version == VERSION == cited["version"] and f"## {version}" in (CONF.parent / "CHANGELOG.md").read_text()
    assert [part.split()[0] for part in rest] == ["python", "torch", "pytorch-lightning", "hydra-core"]
    assert rest[1] == f"torch {metadata.version('torch')}"


@pytest.mark.parametrize("script", ["train", "sample"])
def test_help_lists_every_choice_with_its_first_comment(script: str) -> None:
    text = help_text(script)
    assert text.startswith(cli.EXAMPLES[script].strip().splitlines()[0]) and text.endswith(cli.SETTINGS[script])
    for group, title in cli.GROUPS[script].items():
        block = text.split(f"{group}=   {title}\n", 1)[1].split("\n\n")[0]
        paths = sorted((CONF / group).rglob("*.yaml"))
        names = [line.split()[0] for line in block.splitlines()]
        assert names == sorted(path.relative_to(CONF / group).with_suffix("").as_posix() for path in paths)
        first = {path.stem: first_comment(path.read_text()) for path in paths}
        assert all(line.strip().partition(" ")[2].strip() == first[line.split()[0].split("/")[-1]] for line in block.splitlines())


def test_the_first_comment_is_none_of_hydras() -> None:
    assert first_comment("# @package _global_\n# A model.\na: 1\n# late") == "A model."
    assert first_comment("a: 1\nb: 2\nc: 3\n# late") == ""
    assert first_comment("# One.\n# Two.") == "One."


# ---- launch ----


def test_main_gets_the_overrides_and_its_end_is_the_exit_code(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "argv", ["train.py", "a=1", "b=2"])
    got: list[list[str]] = []
    for main, code in ((got.append, 0), (raising_with_arguments(ValueError("x")), 2)):
        with pytest.raises(SystemExit) as ended:
            launch(main, "train")
        assert ended.value.code == code
        assert signal.getsignal(signal.SIGINT) == signal.SIG_IGN, "at its end Python answers Ctrl-C with a traceback"
    assert got == [["a=1", "b=2"]]


def raising_with_arguments(error: BaseException):
    return lambda argv: raising(error)()


@pytest.mark.parametrize("flag", ["-m", "--multirun"])
def test_several_runs_get_the_rest_of_the_line(flag: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "argv", ["train.py", flag, "seed=1,2"])
    seen: list[tuple] = []
    monkeypatch.setattr(sweeps, "sweep", lambda *given: seen.append(given))
    with pytest.raises(SystemExit) as ended:
        launch(print, "train")
    assert ended.value.code == 0 and seen == [(print, "train", ["seed=1,2"], cli.guarded)]


def test_flags_of_hydra_do_what_people_know(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture, tmp_path: Path) -> None:
    (tmp_path / "data").mkdir()
    (tmp_path / "data" / "mine.yaml").write_text("_target_: datamodules.scenes.ScenesDataModule\nimage_size: 48\n")
    ran: list[list[str]] = []

    def typed_in(*argv: str) -> str:
        monkeypatch.setattr(sys, "argv", ["train.py", *argv])
        with pytest.raises(SystemExit) as end:
            launch(lambda overrides: ran.append(list(overrides)), "train")
        out = capsys.readouterr()
        return out.out if end.value.code == 0 else out.err

    cfg = OmegaConf.create(typed_in("model=imagen", "--cfg", "job", "data.batch_size=7"))
    assert cfg.data.batch_size == 7 and OmegaConf.is_interpolation(cfg.model.lr_schedule, "total_steps")
    assert OmegaConf.create(typed_in("-c", "job", "--resolve", "trainer.max_steps=9")).model.lr_schedule.total_steps == 9
    assert OmegaConf.create(typed_in("--config-dir", str(tmp_path), "data=mine", "--cfg=job")).data.image_size == 48
    assert OmegaConf.create(typed_in("model=vae", "-c", "job", "-p", "model.optimizer", "model.optimizer.lr=0.25")).lr == 0.25
    assert typed_in("--package=model.lr_schedule.total_steps", "trainer.max_steps=9") == "9\n"
    shown = [OmegaConf.create(typed_in("-p", "model.lr_schedule", "trainer.max_steps=9", *more)) for more in ((), ("--resolve",))]
    assert OmegaConf.is_interpolation(shown[0], "total_steps") and shown[1].total_steps == 9
    assert typed_in("-p", "model.none").startswith("error: --package model.none: the configuration has no such part")
    files = dict(line.split() for line in typed_in("--info", "model=ddpm", "optimizer=adamw").splitlines())
    assert files["model"] == "model/ddpm.yaml" and files["data"] == "data/garments.yaml" and "experiment" not in files
    assert all((CONF / name).is_file() for name in files.values()), files
    assert not ran
    typed_in(f"--config-dir={tmp_path}", "data=mine", "seed=1")
    assert ran == [[f"hydra.searchpath=[file://{tmp_path}]", "data=mine", "seed=1"]]
    assert typed_in("--cfg", "all") == "error: --cfg all: write --cfg job\n"
    assert typed_in("-p") == "error: --package: write --package KEY, such as model.optimizer\n"
    assert typed_in("--config-dir") == "error: --config-dir: write --config-dir DIR, a folder of configuration files\n"
    assert typed_in("model=imagin", "--cfg", "job").startswith("error: model=imagin: there is no such model")
