"""Options of sample(): one way for sample.py, evaluate.py, sweeps and callbacks, and no option listed anywhere."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
from omegaconf import OmegaConf

from diffusion.samplers import ddim
from runtime.config import CONF
from runtime.options import (
    built_options, check_callbacks, given_options, merged_options, shown_options, swept_option,
)  # fmt: skip


class Model:
    """A model by the signature of its sample() alone."""

    stages = {"base": None, "up": None}

    def sample(self, request: Any, *, seeds: Any, truncation: float | None = None, mode: str | None = None,
               num_steps: int | dict[str, int] | None = None, sampler: Callable[..., Any] | None = None) -> None: ...  # fmt: skip


def command(**settings: Any) -> Any:
    return OmegaConf.create(dict.fromkeys(("guidance_scale", "num_steps", "sampler")) | {"options": {}} | settings)


def test_short_names_and_options_are_one() -> None:
    assert given_options(command()) == {}
    assert given_options(command(num_steps=4, options={"mode": "sample", "truncation": None})) == {"num_steps": 4, "mode": "sample"}
    for both in (command(num_steps=4, options={"num_steps": 4}), command(num_steps=4, options={"num_steps": 5})):
        with pytest.raises(ValueError, match="num_steps= and options.num_steps= mean the same"):
            given_options(both)


def test_a_sampler_goes_by_its_name_until_it_is_used() -> None:
    options = given_options(command(options={"sampler": "ddim", "mode": "ddim"}))
    assert options["sampler"]["_target_"] == "diffusion.samplers.ddim" and options["mode"] == "ddim"
    assert shown_options(options) == {"sampler": "ddim", "mode": "ddim"}
    assert built_options(options)["sampler"].func is ddim
    with pytest.raises(ValueError, match="Did you mean sampler=ddim"):
        given_options(command(options={"sampler": "dimm"}))


def test_a_word_that_is_also_a_choice_of_training_stays_a_word() -> None:
    assert (CONF / "prior" / "diffusion.yaml").exists()
    options = given_options(command(options={"prior": "diffusion"}))
    assert options == {"prior": "diffusion"} and swept_option(Model(), "prior", "text") == "text"


@pytest.mark.parametrize(
    ("name", "value", "expected"),
    [("truncation", 1, 1.0), ("num_steps", 8, {"base": 8}), ("mode", "mean", "mean"), ("nothing", 3, {"base": 3})],
)
def test_the_signature_says_what_a_value_of_a_sweep_becomes(name: str, value: Any, expected: Any) -> None:
    found = swept_option(Model(), name, value, "base")
    assert found == expected and type(found) is type(expected)
    alone = swept_option(Model(), name, value)
    assert alone == value and (type(alone) is float) == (name == "truncation")


def test_options_of_one_stage_leave_the_others() -> None:
    given = {"guidance_scale": {"base": 3, "sr": 1}, "num_steps": 8, "sampler": {"_target_": "a"}}
    found = merged_options(given, {"guidance_scale": {"base": 5}, "num_steps": {"sr": 4}, "sampler": {"_target_": "b"}})
    assert found == {"guidance_scale": {"base": 5, "sr": 1}, "num_steps": {"sr": 4}, "sampler": {"_target_": "b"}}
    assert given["guidance_scale"] == {"base": 3, "sr": 1}


def test_options_of_callbacks_are_checked_before_training() -> None:
    cfg = OmegaConf.create({"callbacks": {"samples": {"options": {"truncation": 0.5, "sampler": "ddim"}}, "ema": None}})
    check_callbacks(cfg, Model())
    assert cfg.callbacks.samples.options.truncation == 0.5
    assert cfg.callbacks.samples.options.sampler._target_ == "diffusion.samplers.ddim"
    cfg.callbacks.samples.options = {"temperature": 2}
    with pytest.raises(ValueError, match="callbacks.samples.options.temperature=2: this model takes no 'temperature'"):
        check_callbacks(cfg, Model())
    check_callbacks(OmegaConf.create({"callbacks": None}), Model())
