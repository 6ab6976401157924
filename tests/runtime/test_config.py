"""Misspelt command lines are answered in one line that names what was meant."""

from __future__ import annotations

import pytest

from runtime.cli import help_text, user_error
from runtime.config import CONF, compose
from tests.toy import CONF as TOY_CONF

TOY = [f"hydra.searchpath=[file://{TOY_CONF}]", "model=toy"]


@pytest.mark.parametrize(
    ("wrong", "expected"),
    [
        ("model=toi", "model=toi: there is no such model. Did you mean model=toy?"),
        ("trainer=gpus", "trainer=gpus: there is no such trainer. Did you mean trainer=gpu? Available: auto, cpu, ddp"),
        ("experiment=lecture/upsamplin", "experiment=lecture/upsamplin: there is no such experiment. "
         "Did you mean experiment=lecture/upsampling?"),
        ("modle=toy", "unknown setting 'modle'. Did you mean model=toy?"),
        ("max_steps=3", "unknown setting 'max_steps'. Did you mean trainer.max_steps=3?"),
        ("trainer.maxsteps=3", "unknown setting 'trainer.maxsteps'. Did you mean trainer.max_steps=3?"),
        ("maxsteps=3", "unknown setting 'maxsteps'. Did you mean trainer.max_steps=3?"),
        ("model.widht=3", "unknown setting 'model.widht'. Did you mean model.width=3?"),
        ("callbacks.emma=null", "unknown setting 'callbacks.emma'. Did you mean callbacks.ema=null?"),
        ("--seed=1", "--seed=1: settings are written without dashes, for instance seed=1"),
        ("seed", "'seed': write key=value"),
        ("seed=1,2", "seed=1,2: several values are a sweep, add -m"),
        ("data.root={", "cannot read 'data.root={'"),
    ],
)
def test_a_wrong_override_is_one_clear_line(wrong: str, expected: str) -> None:
    with pytest.raises(ValueError) as error:
        compose("train", [*TOY, wrong])
    line = user_error(error.value)
    assert line.startswith(expected) and "\n" not in line


def test_a_models_file_chooses_its_data_and_the_command_line_overrules_it() -> None:
    assert compose("train", TOY).choices.data == "toy"
    assert compose("train", [*TOY, "data=scenes"]).choices.data == "scenes"


def test_right_overrides_pass() -> None:
    right = ["trainer.max_time=00:00:01:00", "+new=1", "callbacks.ema=null", "logger.wandb=null", "seed=3"]
    cfg = compose("train", [*TOY, *right])
    assert cfg.new == 1 and cfg.callbacks.ema is None and cfg.trainer.stop.max_time == "00:00:01:00"


def test_help_lists_every_choice_with_its_first_line() -> None:
    text = help_text("train")
    for group in ("model", "data", "trainer", "experiment", "codec"):
        for path in (CONF / group).rglob("*.yaml"):
            assert f"\n  {path.relative_to(CONF / group).with_suffix('').as_posix()} " in text, path
    assert "resume=runs/latest" in text and "Two CPU processes" in text


@pytest.mark.parametrize("trainer", sorted(p.stem for p in (CONF / "trainer").glob("*.yaml")))
@pytest.mark.parametrize("group", ["schedule", "sampler"])
def test_small_choices_compose(trainer: str, group: str) -> None:
    from omegaconf import OmegaConf

    from runtime.build import instantiate

    assert compose("train", [*TOY, f"trainer={trainer}"]).trainer.accumulate == 1
    for path in (CONF / group).glob("*.yaml"):
        assert callable(getattr(built := instantiate(OmegaConf.load(path)), "alpha", built))
