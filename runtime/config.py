"""Composing a configuration, with misspelt overrides answered in one line."""

from __future__ import annotations

import difflib
import functools
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import hydra
from hydra.core.global_hydra import GlobalHydra
from hydra.core.object_type import ObjectType
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import Override, QuotedString
from hydra.errors import ConfigCompositionException, HydraException
from omegaconf import DictConfig, OmegaConf, open_dict

REPO = Path(__file__).resolve().parent.parent
CONF = REPO / "conf"

# Paths relative to the checkout stay valid when a run or a checkpoint moves to another machine.
OmegaConf.register_new_resolver("repo", lambda path="": str(REPO / path) if path else str(REPO), replace=True)

# Settings that are text, by the last word of their names: what is typed after the first `=` is taken as it is.
TEXTS = {
    "annotations", "backbone", "cache", "cache_dir", "caption_template", "ckpt", "class_template", "compare", "from", "guide_clip", "image",
    "images", "init", "local_dir", "mask", "model_id", "name", "out", "pretrained", "prompt", "prompts", "reference", "resume", "root", "run_dir",
    "runs", "to", "weaker", "weights",
}  # fmt: skip
OF_THE_MODEL = ("options", "likelihood_options")  # dicts whose keys are those that a model takes
OPEN = (*OF_THE_MODEL, "sweep", "callbacks", "logger", "evaluator", "evaluators")  # dicts that take any key
NEW = "new_optimizer"  # where an optimiser that replaces another is composed
HELP = "See python {}.py --help."
ASSIGNMENT = re.compile(r"(\+{0,2}[\w.@/-]+)=(.*)", re.DOTALL)
QUOTED = re.compile(r"""'(?:[^'\\]|\\.)*'|"(?:[^"\\]|\\.)*\"""", re.DOTALL)
ELEMENT = re.compile(rf"\s*({QUOTED.pattern}|[^,]*?)\s*(?:,|$)", re.DOTALL)


def typed(overrides: Sequence[str]) -> list[str]:
    """Overrides in Hydra's grammar, from what a user types: text stands for itself, with commas, quotes, `=` and `$`.

    `null`, a list in brackets and a value that is quoted as a whole mean what they mean to Hydra.
    """
    found = []
    for text in overrides:
        if text.split(".")[0] in OF_THE_MODEL and "=" in text:  # `+` goes without saying
            text = f"++{text}"
        match = ASSIGNMENT.fullmatch(text)
        key, value = match.groups() if match else ("", "")
        if key.lstrip("+").split("@")[0].split(".")[-1].split("/")[-1] not in TEXTS:
            found.append(text)
        elif value.startswith("[") and value.endswith("]"):
            elements = ELEMENT.findall(value[1:-1] + ",")[:-1] if value[1:-1].strip() else []
            found.append(f"{key}=[{','.join(map(quoted, elements))}]")
        else:
            found.append(f"{key}={value if value == 'null' else quoted(value)}")
    return found


def quoted(text: str) -> str:
    """Text in the quotes of Hydra's grammar, which reads it back as it was; what is quoted already stays."""
    if QUOTED.fullmatch(text):
        return text
    text = re.sub(r"(\\*)\$\{", r"\1\1\\${", text)  # or it would be looked up in the configuration
    text = re.sub(r"(\\*)'", r"\1\1\\'", text)
    text = re.sub(r"(\\+)$", r"\1\1", text)
    return f"'{text}'"


def as_typed(override: Override) -> str:
    """An override as the user wrote it: key=value."""
    value = override._value
    text = str(value.text) if isinstance(value, QuotedString) else override.input_line.partition("=")[2]
    return f"{override.input_line.partition('=')[0]}={text}" if "=" in override.input_line else override.input_line


def compose(config_name: str, overrides: Sequence[str]) -> DictConfig:
    """The configuration `conf/<config_name>.yaml` with overrides; `choices` in it names what each group chose.

    Raises: ValueError, in one line with the nearest name, for a misspelt group, choice or setting.
    """
    overrides = typed(overrides)
    with hydra.initialize_config_dir(str(CONF), version_base="1.3"):
        check_overrides(config_name, overrides)
        cfg = composed(config_name, overrides, return_hydra_config=True)
        choices = {str(k).removesuffix(f"@{NEW}"): v for k, v in cfg.hydra.runtime.choices.items() if not str(k).startswith("hydra/")}
    with open_dict(cfg):
        del cfg["hydra"]
        cfg.choices = choices
    return cfg


def composed(config_name: str, overrides: Sequence[str], **kwargs: Any) -> DictConfig:
    """hydra.compose, where `optimizer=NAME` also takes the place of an optimiser that a model's own file describes.

    Hydra would merge the two, and one optimiser's settings mean nothing to another. `model.optimizer.…` are then the new one's.
    """
    try:
        return hydra.compose(config_name, list(overrides), **kwargs)
    except ConfigCompositionException as error:
        if config_name != "train" or "Could not override 'optimizer'." not in str(error):
            raise
    inner = [o for o in overrides if o.lstrip("+~").startswith("model.optimizer.")]
    outer = [f"+optimizer@{NEW}={o.partition('=')[2]}" if o.startswith("optimizer=") else o for o in overrides if o not in inner]
    cfg = hydra.compose(config_name, outer, **kwargs)
    with open_dict(cfg):
        cfg.model.optimizer = cfg.pop(NEW)
        for override in parse(inner):
            if override.is_delete():
                cfg.model.optimizer.pop(override.key_or_group.removeprefix("model.optimizer."))
            else:
                OmegaConf.update(cfg, override.key_or_group, override.value())
    return cfg


def compose_data(name: str) -> DictConfig:
    """conf/data/<name>.yaml by itself, with no model to change it.

    Raises: ValueError for data that conf/data does not have.
    """
    with hydra.initialize_config_dir(str(CONF), version_base="1.3"):
        if name not in (known := available("train", ())["data"]):
            raise ValueError(f"data={name}: there is no such data. Available: {', '.join(sorted(known))}")
        return hydra.compose("sample", [f"+data={name}"]).data  # the command with the paths and little else


def parse(overrides: Sequence[str]) -> list[Override]:
    """Parsed overrides. Raises ValueError for what is not key=value."""
    parser, parsed = OverridesParser.create(), []
    for text in typed(overrides):
        if text.startswith("-"):
            plain = text.lstrip("-") or "seed=1"
            raise ValueError(f"{text}: settings are written without dashes, for instance {plain}")
        if ("=" not in text or text.startswith("=")) and not text.startswith("~"):
            raise ValueError(f"{text!r}: write key=value, for instance model=imagen or trainer.max_steps=1000")
        try:
            parsed += parser.parse_overrides([text])
        except HydraException as error:
            raise ValueError(f"cannot read {text!r}: put quotes around the value, for instance 'key=\"a, b\"' "
                             f"({str(error).splitlines()[0]})") from None
    return parsed


def check_overrides(config_name: str, overrides: Sequence[str], sweep: bool = False) -> None:
    """Raises ValueError naming the nearest group, choice or setting; must run inside an initialised hydra."""
    parsed = parse(overrides)
    search = tuple(o.input_line for o in parsed if o.key_or_group == "hydra.searchpath")
    groups = available(config_name, search)
    chosen = [o for o in parsed if o.key_or_group in groups]
    for override in parsed:
        if override.is_sweep_override() and not sweep:
            raise ValueError(f"{override.input_line}: several values are a sweep, add -m to run them one after another")
    for override in chosen:
        _check_choice(override, options(groups, override.key_or_group))
    if sweep:
        chosen = [o for o in chosen if not o.is_sweep_override()]
    cfg = chosen_groups(config_name, (*search, *(o.input_line for o in chosen)))
    for override in parsed:
        key = override.key_or_group
        if override in chosen or key in groups or key.startswith("hydra.") or has_key(cfg, key):
            continue
        adds = override.is_add() or override.is_force_add()
        if adds and (is_read(cfg, key) or any(f"${{{key}" in o.input_line for o in parsed)):
            continue
        raise ValueError(unknown_setting(override, cfg, groups, config_name))


@functools.lru_cache(maxsize=8)
def chosen_groups(config_name: str, overrides: tuple[str, ...]) -> DictConfig:
    """The configuration of the chosen groups, without single settings; to be read only."""
    try:
        return composed(config_name, overrides)
    except ConfigCompositionException as error:
        found = re.match(r"Could not override '([^']+)'\. No match in the defaults list", str(error))
        if found is None:
            raise
        text = next((o for o in overrides if o.partition("=")[0] == found[1]), found[1])
        raise ValueError(f"{text}: nothing that is chosen here has {found[1]}=; another model= or data= may") from None


@functools.lru_cache(maxsize=256)
def available(config_name: str, search: tuple[str, ...], parent: str = "") -> dict[str, list[str]]:
    """Config group -> its choices; to be read only. Hydra reads its search path anew for every group: slow."""
    loader, found = GlobalHydra.instance().config_loader(), {}
    for name in loader.get_group_options(parent, ObjectType.GROUP, config_name, list(search)):
        group = f"{parent}/{name}" if parent else name
        if group != "hydra":
            found[group] = loader.get_group_options(group, ObjectType.CONFIG, config_name, list(search))
            found |= available(config_name, search, group)
    return found


def options(groups: dict[str, list[str]], group: str) -> list[str]:
    """What a group can be set to, files in its folders as FOLDER/NAME."""
    inside = {name.removeprefix(f"{group}/"): found for name, found in groups.items() if name.startswith(f"{group}/")}
    return [*groups[group], *(f"{folder}/{name}" for folder, names in inside.items() for name in names)]


def _check_choice(override: Override, options: list[str]) -> None:
    value = override.value()
    if value is None and not override.is_delete():
        raise ValueError(f"{override.key_or_group}=null: choose one of {', '.join(sorted(options))}")
    values = [o for o in value.list] if override.is_choice_sweep() else [value]
    for value in values:
        if value is None or isinstance(value, list) or str(value) in options:
            continue
        near = difflib.get_close_matches(str(value), options, n=1)
        hint = f"Did you mean {override.key_or_group}={near[0]}? " if near else ""
        key = override.key_or_group
        raise ValueError(f"{key}={value}: there is no such {key}. {hint}Available: {', '.join(sorted(options))}")


def has_key(cfg: DictConfig, key: str) -> bool:
    """Whether a dotted key exists, also when its value is null."""
    node: Any = cfg
    for part in key.split("."):
        if OmegaConf.is_list(node) and part.isdigit() and int(part) < len(node):
            node = node[int(part)]
        elif OmegaConf.is_dict(node) and part in node.keys():  # `part in node` denies values that must be given (???)
            node = node._get_node(part)
            node = node if OmegaConf.is_config(node) else None
        else:
            return False
    return True


def is_read(cfg: DictConfig, key: str) -> bool:
    """Whether something would see a new key: a constructor, or what goes through all of a dict."""
    node: Any = cfg
    for part in key.split(".")[:-1]:
        if not OmegaConf.is_dict(node) or part not in node.keys():
            return False
        node = node._get_node(part)
        if part in OPEN or OmegaConf.is_dict(node) and "_target_" in node.keys():
            return True
    return False


def unknown_setting(
    override: Override, cfg: DictConfig, groups: dict[str, list[str]] | None = None, command: str = "train"
) -> str:
    """One line that names the setting or group nearest to an unknown one."""
    key, value, groups = override.key_or_group, as_typed(override).partition("=")[2], groups or {}
    names = [*groups, *_keys(OmegaConf.to_container(cfg))]
    same_end = [n for n in names if n.split(".")[-1] == key.split(".")[-1]]
    near = same_end or difflib.get_close_matches(key, names, n=1, cutoff=0.75)
    if not near:  # the last word may be misspelt and its place left out
        ends = {n.split(".")[-1]: n for n in reversed(names)}
        near = [ends[end] for end in difflib.get_close_matches(key.split(".")[-1], list(ends), n=1, cutoff=0.75)]
    near = near or [n for n in names if n.startswith(f"{key}_")]
    near = [n for n in near if n not in groups or value in options(groups, n)]  # model=3 is nobody's wish
    hint = f"Did you mean {' or '.join(f'{n}={value}' for n in near[:3])}?" if near else others(cfg, key) or HELP.format(command)
    what = f"{as_typed(override)}: nothing reads {key!r}" if override.is_add() else f"unknown setting {key!r}"
    return f"{what}. {hint}"


def others(cfg: DictConfig, key: str) -> str:
    """What there is where an unknown setting was looked for, below the top; empty where that is no group of settings."""
    parent = key.rpartition(".")[0]
    node = OmegaConf.select(cfg, parent) if parent and has_key(cfg, parent) else None
    there = [str(name) for name in node.keys() if not str(name).startswith("_")] if OmegaConf.is_dict(node) else []
    return f"{parent} has {', '.join(there)}." if there else ""


def _keys(node: Any, prefix: str = "") -> list[str]:
    found = []
    for key, value in node.items() if isinstance(node, dict) else ():
        if not str(key).startswith("_"):
            found += [f"{prefix}{key}", *_keys(value, f"{prefix}{key}.")]
    return found
