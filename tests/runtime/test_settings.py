"""The schema of the commands' settings: what is refused, what passes, and what this machine must have."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import pytest

from runtime import settings
from runtime.config import compose
from tests.toy import CONF

SEARCH = f"hydra.searchpath=[file://{CONF}]"


def test_the_defaults_pass() -> None:
    settings.check("sample", compose("sample", ["ckpt=somewhere"]))
    settings.check("evaluate", compose("evaluate", ["ckpt=somewhere"]))
    settings.check_train(compose("train", [SEARCH, "model=toy", "trainer=cpu"]))


@pytest.mark.parametrize(
    "right",
    ["trainer.max_time=00:00:01:00", "trainer.max_steps=3", "trainer.devices=2", "name=a=b", "callbacks.ema=null",
     "callbacks.checkpoint.every_sec=0.5", "seed=9223372036854775807", "trainer.deterministic=warn"],
)  # fmt: skip
def test_right_settings_of_training_pass(right: str) -> None:
    settings.check_train(compose("train", [SEARCH, "model=toy", "trainer=cpu", right]))


@pytest.mark.parametrize(
    "right",
    ["guidance_scale=2", "guidance_scale={base: 3.5}", "num_steps={base: 3}", "sampler=heun", "label=0", "ema=false",
     "+options.mode=sample", "prompt=null", "device=cpu"],
)  # fmt: skip
def test_right_settings_of_sampling_pass(right: str) -> None:
    settings.check("sample", compose("sample", ["ckpt=somewhere", right]))


def test_a_check_leaves_the_configuration_as_it_was() -> None:
    cfg = compose("train", [SEARCH, "model=toy", "trainer=cpu"])
    settings.check_train(cfg)
    assert cfg.run_dir is None


def test_a_judge_that_nobody_named_may_be_missing(monkeypatch: pytest.MonkeyPatch) -> None:
    def nothing(ckpt: str, name: str) -> None:
        raise FileNotFoundError(f"{name}={ckpt}: there is no such run")

    monkeypatch.setattr("runtime.checkpoint.locate", nothing)
    settings.check("evaluate", compose("evaluate", ["ckpt=somewhere"]))  # the report says what is not computed
    with pytest.raises(FileNotFoundError, match="^clip_scenes.ckpt=elsewhere: there is no such run"):
        settings.check("evaluate", compose("evaluate", ["ckpt=somewhere", "clip_scenes.ckpt=elsewhere"]))


def test_folders_and_files_are_judged_before_anything_is_made(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("x")
    settings.writable(tmp_path / "a" / "b", "out")
    assert list(tmp_path.iterdir()) == [tmp_path / "file"]
    with pytest.raises(ValueError, match="out=.*file: is a file; give a folder"):
        settings.writable(tmp_path / "file", "out")
    with pytest.raises(ValueError, match="cannot be made: .*file is a file"):
        settings.writable(tmp_path / "file" / "deep" / "er", "out")
    settings.readable(tmp_path / "file", "prompts")
    with pytest.raises(FileNotFoundError, match="prompts=.*: no such file"):
        settings.readable(tmp_path / "none", "prompts")
    with pytest.raises(FileNotFoundError, match="it is no file"):
        settings.readable(tmp_path, "prompts")


def test_places_without_permission_are_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "file").write_text("x")
    monkeypatch.setattr(os, "access", lambda path, mode: False)
    with pytest.raises(ValueError, match="out=.*: no permission to write into"):
        settings.writable(tmp_path / "new", "out")
    with pytest.raises(ValueError, match="prompts=.*: no permission to read it"):
        settings.readable(tmp_path / "file", "prompts")


def test_machines_that_nothing_has_started(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in settings.LAUNCHED:
        monkeypatch.delenv(name, raising=False)
    with pytest.raises(ValueError, match="trainer.num_nodes=2: start it on every machine by torchrun or srun"):
        settings.usable_trainer("cpu", 1, 2)
    for name in settings.LAUNCHED:
        with monkeypatch.context() as patch:
            patch.setenv(name, "1")
            settings.usable_trainer("cpu", 1, 2)


@pytest.mark.parametrize(
    ("accelerator", "devices", "gpus", "says"),
    [
        ("gpu", 1, 0, "torch finds no GPU"),
        ("gpu", 4, 2, "trainer.devices=4: this machine has 2"),
        ("gpu", [0, 2], 2, r"trainer.devices=\[0,2\]: this machine has 2"),
        ("auto", 3, 2, "trainer.devices=3: this machine has 2"),
        ("cpu", -1, 2, "trainer.devices=-1: on a CPU"),
        ("gpu", -1, 2, None),
        ("gpu", [0, 1], 2, None),
        ("cpu", 8, 0, None),
        ("auto", "auto", 0, None),
    ],
)
def test_hardware_that_is_not_there(
    accelerator: str, devices: Any, gpus: int, says: str | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("torch.cuda.device_count", lambda: gpus)
    if says is None:
        settings.usable_trainer(accelerator, devices)
    else:
        with pytest.raises(ValueError, match=says):
            settings.usable_trainer(accelerator, devices)


class Cascade:
    """A model with stages, by its signature alone."""

    stages = {"base": None, "up": None}

    def sample(self, request: Any, *, seeds: Any, guidance_scale: float | dict[str, float] | None = None,
               num_steps: int | None = None) -> None: ...  # fmt: skip


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ({"foo": 1}, r"options.foo=1: this model takes no 'foo'. It takes guidance_scale, num_steps"),
        ({"guidance": 1}, "Did you mean guidance_scale"),
        ({"seeds": [1]}, "takes no 'seeds'"),
        ({"guidance_scale": {"nope": 3}}, "the model has no stage 'nope'; its stages are base, up"),
        ({"guidance_scale": float("nan")}, "options.guidance_scale=nan: give a number"),
        ({"guidance_scale": True}, "options.guidance_scale=true"),
        ({"num_steps": 0}, "options.num_steps=0: give a whole number of at least 1"),
        ({"num_steps": {"base": 3}}, "options.num_steps="),
        ({"guidance_scale": {"up": 3}, "num_steps": 4}, None),
        ({"guidance_scale": 3}, None),
    ],
)
def test_options_are_those_of_the_models_sample(options: dict[str, Any], says: str | None) -> None:
    if says is None:
        settings.check_options(Cascade(), options, "options.")
    else:
        with pytest.raises(ValueError, match=says):
            settings.check_options(Cascade(), options, "options.")


def test_other_data_is_known() -> None:
    settings.known_data(["mnist"])
    with pytest.raises(ValueError, match=r"other_data=\[mnist,nope\]: there is no data 'nope'; there are captions"):
        settings.known_data(["mnist", "nope"])
