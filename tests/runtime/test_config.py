"""Misspelt command lines are answered in one line that names what was meant."""

from __future__ import annotations

import random

import pytest
from omegaconf import OmegaConf

from runtime.cli import help_text, user_error
from runtime.config import CONF, QUOTED, compose, parse, typed
from tests.toy import CONF as TOY_CONF

TOY = [f"hydra.searchpath=[file://{TOY_CONF}]", "model=toy"]


def test_an_optimizer_takes_the_place_of_the_models_own() -> None:
    own, other = compose("train", ["model=vae"]), compose("train", ["model=vae", "optimizer=adamw", "model.optimizer.lr=2e-3"])
    assert own.model.optimizer._target_ == "optimizers.muon.Muon" and "optimizer" not in own.choices
    assert dict(other.model.optimizer) == {
        "_target_": "torch.optim.AdamW", "_partial_": True, "lr": 2e-3, "weight_decay": 0.01, "fused": True,
    }, "nothing is left of the other one"  # fmt: skip
    assert other.choices["optimizer"] == "adamw" and not any("@" in name for name in other.choices)
    others = [{name: node for name, node in cfg.model.items() if name != "optimizer"} for cfg in (own, other)]
    assert others[0] == others[1]
    assert other.choices == {**own.choices, "optimizer": "adamw"} and other.data == own.data, "nothing else changes"


def test_settings_of_a_new_optimizer_are_its_own() -> None:
    more = ["model=vae", "optimizer=adam", "+model.optimizer.betas=[0.5,0.9]", "~model.optimizer.fused"]
    assert dict(compose("train", more).model.optimizer) == {"_target_": "torch.optim.Adam", "_partial_": True, "lr": 2e-4, "betas": [0.5, 0.9]}
    with pytest.raises(ValueError, match="unknown setting 'model.optimizer.min_side'"):
        compose("train", ["model=vae", "optimizer=adam", "model.optimizer.min_side=3"])
    assert compose("train", ["model=ddpm", "optimizer=adam", "optimizer.lr=3"]).optimizer.lr == 3, "where it is a group, it stays one"
    with pytest.raises(ValueError, match="optimizer=adam: nothing that is chosen here has optimizer=|unknown setting 'optimizer'"):
        compose("sample", ["ckpt=a", "optimizer=adam"])


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
        ("model.colour=red", "unknown setting 'model.colour'. model has width, nan_at, untrained, sleep_sec, dropout, optimizer, lr_schedule, clip_norm."),
        ("--seed=1", "--seed=1: settings are written without dashes, for instance seed=1"),
        ("seed", "'seed': write key=value"),
        ("seed=1,2", "seed=1,2: several values are a sweep, add -m"),
        ("model.width={", "cannot read 'model.width={'"),
        ("+new=1", "+new=1: nothing reads 'new'"),
        ("+trainer.new=1", "+trainer.new=1: nothing reads 'trainer.new'"),
        ("++new=1", "unknown setting 'new'"),
    ],
)
def test_a_wrong_override_is_one_clear_line(wrong: str, expected: str) -> None:
    with pytest.raises(ValueError) as error:
        compose("train", [*TOY, wrong])
    line = user_error(error.value)
    assert line.startswith(expected) and "\n" not in line


def test_the_beginning_of_a_name_is_understood() -> None:
    with pytest.raises(ValueError, match="unknown setting 'guidance'. Did you mean guidance_scale=2?"):
        compose("evaluate", ["ckpt=a", "guidance=2"])


def test_a_models_file_chooses_its_data_and_the_command_line_overrules_it() -> None:
    assert compose("train", TOY).choices.data == "toy"
    assert compose("train", [*TOY, "data=scenes"]).choices.data == "scenes"


def test_right_overrides_pass() -> None:
    right = ["trainer.max_time=00:00:01:00", "+callbacks.new={}", "callbacks.ema=null", "logger.wandb=null", "seed=3"]
    cfg = compose("train", [*TOY, *right])
    assert cfg.callbacks.new == {} and cfg.callbacks.ema is None and cfg.trainer.stop.max_time == "00:00:01:00"


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


@pytest.mark.parametrize(
    "prompt",
    ["a red circle, a blue square", 'the word "CAT" in red', "it's red", "a = b", "${seed} and $HOME", "{a: b}", "[open",
     "5", "true", "back\\slash\\", "'a' and 'b'", 'say "hi", it\'s me', "#1 ~ 100%", "null and void", "é\nü", "(1,2)"],
)
def test_text_is_taken_as_it_is_typed(prompt: str) -> None:
    typed_in = [f"{key}={prompt}" for key in ("prompt", "from", "to")]
    cfg = compose("sample", ["ckpt=runs/x/checkpoints/step=00000008.ckpt", *typed_in])
    assert cfg.prompt == cfg["from"] == cfg.to == prompt


def test_any_text_comes_back_from_hydras_grammar() -> None:
    rng, pieces = random.Random(0), [*"a'\"\\${}=, []é~:()#%@!", "${", "\\'", '\\"']
    for _ in range(400):
        text = "".join(rng.choices(pieces, k=rng.randint(1, 9)))
        if QUOTED.fullmatch(text) or text.startswith("[") and text.endswith("]"):
            continue
        (line,) = typed([f"prompt={text}"])
        assert typed([line]) == [line]
        assert OmegaConf.create({"prompt": parse([line])[0].value()}).prompt == text


@pytest.mark.parametrize(
    ("typed_value", "value"),
    [
        ("runs/x/checkpoints/step=00000008.ckpt", "runs/x/checkpoints/step=00000008.ckpt"),
        ("null", None),
        ("[a,runs/x/step=1.ckpt]", ["a", "runs/x/step=1.ckpt"]),
        ("['a, b', \"c\"]", ["a, b", "c"]),
        ("[]", []),
        ('"quoted, before"', "quoted, before"),
        ("'it\\'s'", "it's"),
    ],
)
def test_lists_null_and_quotes_mean_what_they_did(typed_value: str, value: object) -> None:
    assert compose("evaluate", [f"ckpt={typed_value}"]).ckpt == value


def test_other_settings_keep_hydras_grammar_in_a_sweep() -> None:
    assert typed(["seed=0,1", "name=a,b", "data@modes=grid"]) == ["seed=0,1", "name='a,b'", "data@modes=grid"]


def test_a_file_whose_name_has_an_equals_sign_can_be_given_everywhere() -> None:
    for command, key in (("train", "init"), ("train", "resume"), ("sample", "ckpt"), ("evaluate", "reference")):
        assert compose(command, [f"{key}=a/step=00000008.ckpt"])[key] == "a/step=00000008.ckpt"
