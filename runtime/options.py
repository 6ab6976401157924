"""The options of a model's sample(), from the command line to the call: sample.py, evaluate.py and sweeps go this way.

No option is listed here. What a model takes, the signature of its sample() says (`settings.check_options`).
"""

from __future__ import annotations

import types
import typing
from typing import Any, get_args, get_origin

from omegaconf import DictConfig, OmegaConf

from runtime.build import instantiate
from runtime.config import CONF, compose
from runtime.nodes import builds
from runtime.settings import check_options, known_options

SHORT = ("guidance_scale", "num_steps", "sampler")  # settings of their own; options.NAME means the same


def given_options(cfg: DictConfig) -> dict[str, Any]:
    """The options of a command as plain values. What is null stays as the model has it.

    Raises: ValueError for an option that is given twice.
    """
    short = {name: plain(cfg[name]) for name in SHORT if cfg.get(name) is not None}
    others = {name: value for name, value in plain(cfg.get("options") or {}).items() if value is not None}
    if twice := [name for name in others if name in short]:
        raise ValueError(f"{twice[0]}= and options.{twice[0]}= mean the same: give one of them")
    return short | {name: chosen(name, value) for name, value in others.items()}


def chosen(name: str, value: Any) -> Any:
    """An option's value; of one that the commands choose from conf/, such as sampler=ddim, its configuration.

    Another option may share its name with a folder of conf/: `prior` of a DALL-E 2 is a word here, and a net in training.
    """
    if isinstance(value, str) and name in SHORT and (CONF / name).is_dir():
        return plain(compose("evaluate", [f"{name}={value}"])[name])
    return value


def swept_option(module: Any, name: str, value: Any, stage: str | None = None) -> Any:
    """What sample() gets for one value of a sweep, for all stages or, where an option can be given per stage, for one."""
    value, annotation = chosen(name, value), known_options(module).get(name, Any)
    kinds = get_args(annotation) if get_origin(annotation) in (typing.Union, types.UnionType) else (annotation,)
    if isinstance(value, int) and not isinstance(value, bool) and float in kinds and int not in kinds:
        value = float(value)  # 1 and 1.0 are the same images, and lie in the same folder
    per_stage = Any in kinds or any(get_origin(kind) is dict for kind in kinds)
    return {stage: value} if stage is not None and per_stage else value


def merged_options(options: dict[str, Any], overrides: dict[str, Any]) -> dict[str, Any]:
    """Overrides over options; of an option given per stage, the other stages stay."""
    found = dict(options)
    for name, value in overrides.items():
        stages = not builds(value) and isinstance(value, dict) and isinstance(found.get(name), dict)
        found[name] = found[name] | value if stages else value
    return found


def built_options(options: dict[str, Any]) -> dict[str, Any]:
    """The options as sample() takes them, with what a configuration describes built."""
    return {name: instantiate(value) if builds(value) else value for name, value in options.items()}


def shown_options(options: dict[str, Any]) -> dict[str, Any]:
    """The options for people: what a configuration describes goes by its name."""
    return {name: short_name(value) for name, value in options.items()}


def short_name(value: Any) -> Any:
    """`ddim` for {_target_: diffusion.samplers.ddim}; another value stays as it is."""
    return str(value["_target_"]).rpartition(".")[2] if isinstance(value, dict) and "_target_" in value else value


def plain(value: Any) -> Any:
    """A value of a configuration in Python's own containers."""
    return OmegaConf.to_container(value, resolve=True) if OmegaConf.is_config(value) else value


def check_callbacks(cfg: DictConfig, module: Any) -> None:
    """Makes the options of callbacks what sample() takes: names of choices become configurations.

    Raises: ValueError before training for an option that the model does not have.
    """
    for name, node in (cfg.callbacks or {}).items():
        given = plain(node.get("options") or {}) if node is not None else {}
        options = {option: chosen(option, value) for option, value in given.items()}
        check_options(module, options, f"callbacks.{name}.options.")
        if options != given:
            node.options = options
