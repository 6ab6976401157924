"""The one place that turns configuration into objects, and the check of configurations from somebody else.

A configuration from a checkpoint or the zoo may build classes of the kinds below that this checkout defines, and the
names in OUTSIDE. docs/conventions.md, "Files from others", says what a user sees of it.
"""

from __future__ import annotations

import importlib
import importlib.util
import inspect
import re
import sys
from collections.abc import Sequence
from contextlib import nullcontext
from pathlib import Path
from typing import Any, ContextManager

import hydra.utils
from omegaconf import DictConfig, ListConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from runtime.config import REPO
from runtime.nodes import check_nodes, largest
from runtime.places import check_places

# Room -> the classes, by name, whose subclasses defined in it may be built. A new family, net or data set enters no list.
KINDS = {
    "lightning_modules": (
        "torch.nn.Module", "lightning_modules.spaces.Space", "lightning_modules.super_resolution.LowResolution",
        "lightning_modules.distillation.Distillation", "lightning_modules.frozen_clip.FrozenCLIP",
    ),
    "networks": ("torch.nn.Module", "networks.text.base.TextEncoder", "networks.text.cache.CachedTextEncoder"),
    "diffusion": ("diffusion.schedules.NoiseSchedule", "diffusion.times.Times"),
    "objectives": ("torch.nn.Module",),
    "optimizers": ("torch.optim.Optimizer", "collections.abc.Callable"),
    "datamodules": ("datamodules.base.ImageDataModule",),
    "callbacks": ("pytorch_lightning.callbacks.Callback",),
    "evaluation": ("evaluation.metrics.base.Evaluator", "evaluation.extractors.base.FeatureExtractor"),
}
# What else may be built: name -> the arguments it may be given, None for all.
OUTSIDE: dict[str, tuple[str, ...] | None] = {
    "runtime.wandb.WandbLogger": ("project", "dir", "id", "name", "group", "tags", "notes"),
    "runtime.checkpoint.load_module": (),  # of a classifier that judges: it goes through the same gate
    **{f"torch.optim.{n}": None for n in "Adam AdamW SGD RMSprop NAdam RAdam Adamax Adagrad Adafactor".split()},
}
SAMPLERS, SAMPLER_ARGUMENTS = "diffusion.samplers", ["denoise", "schedule", "x_T"]
MODULE, DATA = "pytorch_lightning.LightningModule", "datamodules.base.ImageDataModule"  # kinds, for those who call
DOTTED = re.compile(r"[A-Za-z]\w*(\.[A-Za-z]\w*)+", re.ASCII)
MAGIC = {"_target_", "_partial_"}
PARTIAL_ROOMS = ("networks.", "optimizers.", "torch.optim.", "runtime.checkpoint.", SAMPLERS + ".")
# Argument -> what its text may be: names of folders are made of it, or a library looks it up.
WORDS = {
    "id": re.compile(r"[\w.-]{1,128}", re.ASCII),
    "strategy": re.compile(r"auto|fsdp2|ddp\w*", re.ASCII),
    "accelerator": re.compile(r"[a-z]{1,16}", re.ASCII),
}


def instantiate(node: Any, **kwargs: Any) -> Any:
    """Builds what a configuration node describes; lists and dicts arrive as plain Python ones."""
    # A plain copy: Hydra would resolve, in place, the nodes that this one refers to, and this machine's paths would
    # travel in every checkpoint.
    return hydra.utils.instantiate(plain(node), _convert_="all", **kwargs)


def instantiate_untrusted(
    node: Any,
    *,
    trust: Sequence[str] = (),
    budget: ContextManager[Any] | None = None,
    where: str = "the configuration",
    kind: str | None = None,
) -> Any:
    """`instantiate` for a node that came from somebody else.

    Args:
        trust: places and text encoders that the user has named on the command line.
        budget: of memory, while it is built.
        where: names the file in messages.
        kind: dotted name of the class that it must be one of.
    Raises: ValueError in one line for what the gate refuses, and for what cannot be built.
    """
    node = checked(node, trust=trust, kind=kind)
    try:
        check_nodes(node, "data" if kind == DATA else "model")  # some settings are used long after they are given
        with budget or nullcontext():
            return instantiate(node)
    except Exception as error:  # arguments from somebody else can raise nearly anything
        root: BaseException = error
        while root.__cause__ is not None:
            root = root.__cause__
        text = " ".join(str(root).split())[:400]
        known = isinstance(root, (ValueError, FileNotFoundError))
        text = text if known else f"{type(root).__name__}: {text}"
        raise ValueError(f"{where} describes what cannot be built: {text}")  # without a cause: the user sees this line alone


def check_targets(
    node: Any, where: str = "", *, trust: Sequence[str] = (), run: Path | None = None, kind: str | None = None
) -> None:
    """Raises ValueError, in one line, unless a configuration from somebody else may build everything in a node.

    Args:
        where: name of the node, for messages.
        trust, run: as of `places.check_places`.
        kind: as of `instantiate_untrusted`.
    """
    checked(node, where, trust=trust, run=run, kind=kind)


def checked(
    node: Any, where: str = "", *, trust: Sequence[str] = (), run: Path | None = None, kind: str | None = None
) -> Any:
    """The node as plain values, after `check_targets`."""
    try:
        node = plain(node)
    except (OmegaConfBaseException, RecursionError) as error:
        why = " ".join(str(error).split("full_key:")[0].split())[:300]
        raise ValueError(f"the configuration refers to what is not there: {why}") from None
    _check(node, where, "")
    check_places(node, trust, run)
    if kind is not None:
        found = allowed(node.get("_target_")) if isinstance(node, dict) else None
        if not inspect.isclass(found) or not issubclass(found, _named(kind)):
            what = getattr(found, "__name__", str(node)[:60])
            raise ValueError(f"the configuration has {what} where a {kind.rsplit('.')[-1]} belongs: refused")
    return node


def plain(node: Any) -> Any:
    """A node as Python's own containers, with references resolved, also inside a dict of nodes."""
    if OmegaConf.is_config(node):
        return OmegaConf.to_container(node, resolve=True)
    if isinstance(node, dict) and any(isinstance(value, (DictConfig, ListConfig)) for value in node.values()):
        return {key: plain(value) for key, value in node.items()}
    return node


def _check(node: Any, where: str, key: str) -> None:
    if isinstance(node, dict):
        if odd := next((k for k in node if not isinstance(k, (str, int)) or str(k).startswith("_") and k not in MAGIC), None):
            raise ValueError(f"the configuration has {str(odd)[:60]!r} at {where or 'the top'}: refused")
        if MAGIC & set(node):
            _check_call(node, where or "the top")
        for name, value in node.items():
            _check(value, f"{where}.{name}" if where else str(name), str(name))
    elif isinstance(node, (list, tuple)):
        for i, value in enumerate(node):
            _check(value, f"{where}[{i}]", key)
    elif isinstance(node, str):
        if "${" in node:  # would be resolved a second time
            raise ValueError(f"the configuration has {node[:60]!r} at {where}: refused")
        if key in WORDS and not WORDS[key].fullmatch(node):
            raise ValueError(f"the configuration has {where}={node[:60]!r}, which is no {key}: refused")
    elif isinstance(node, (int, float)) and (most := largest(key)) is not None and not abs(node) <= most:
        raise ValueError(f"the configuration has {where}={node:.6g}: at most {most:,}")


def _check_call(node: dict[Any, Any], where: str) -> None:
    """One `_target_` with its arguments."""
    name, partial = node.get("_target_"), node.get("_partial_", False)
    found = allowed(name)
    if not found:
        what = f"{str(name)[:200]!r} at {where}, which this repository does not define"
        raise ValueError(f"the configuration wants {what}: refused")
    if not isinstance(partial, bool):
        raise ValueError(f"the configuration has _partial_={str(partial)[:60]!r} at {where}: true or false")
    if partial and not name.startswith(PARTIAL_ROOMS) or not partial and not inspect.isclass(found):
        what = "in part" if partial else "at once"
        raise ValueError(f"the configuration wants to call {name} {what} at {where}: refused")
    arguments = _own_arguments(found) if name.startswith(SAMPLERS) else OUTSIDE.get(name)
    if arguments is not None and (other := next((k for k in node if k not in (*arguments, *MAGIC)), None)):
        raise ValueError(f"the configuration gives {name} the argument {str(other)[:60]!r} at {where}: refused")


def allowed(target: Any) -> Any:
    """The class or function of a dotted name if a configuration from somebody else may build it, else None.

    The name is checked before anything is imported; the file that would be imported must be this checkout's own; then
    the object must be defined there and be of a kind that its room has.
    """
    if not isinstance(target, str) or len(target) > 200 or not DOTTED.fullmatch(target):
        return None
    module_name, _, name = target.rpartition(".")
    room = target.split(".")[0]
    if target in OUTSIDE:
        return getattr(importlib.import_module(module_name), name, None)
    if room not in KINDS or not _is_own_file(module_name):
        return None
    try:
        module = importlib.import_module(module_name)
    except Exception:  # a broken file of this checkout may raise anything
        return None
    found = vars(module).get(name)
    if module_name == SAMPLERS and inspect.isfunction(found) and _is_defined_below(found, SAMPLERS):
        return found if _is_sampler(found) else None
    if not inspect.isclass(found) or inspect.isabstract(found) or not _is_defined_below(found, module_name):
        return None
    return found if issubclass(found, tuple(_named(base) for base in KINDS[room])) else None


def _is_own_file(module: str) -> bool:
    """Whether importing a module would run a file of this checkout; found out without importing it."""
    room, *rest = module.split(".")
    spec = importlib.util.find_spec(room)  # of a package at the top: nothing is imported
    if spec is None or spec.origin is None or Path(spec.origin).resolve() != (REPO / room / "__init__.py").resolve():
        return False
    loaded = sys.modules.get(room)
    if loaded is not None and [Path(p).resolve() for p in loaded.__path__] != [(REPO / room).resolve()]:
        return False
    path = REPO.joinpath(room, *rest)
    files = [p for p in (path / "__init__.py", path.with_suffix(".py")) if p.is_file()]
    return any(p.resolve() == REPO.resolve() / p.relative_to(REPO) for p in files)


def _is_defined_below(found: Any, module: str) -> bool:
    """Whether a class or function is defined in a module, or in a file of a package that hands it on."""
    home = found.__module__
    package = getattr(sys.modules.get(module), "__path__", None) is not None
    return found.__qualname__.isidentifier() and (home == module or package and home.startswith(f"{module}."))


def _own_arguments(sampler: Any) -> list[str]:
    """What a configuration may give a sampler: the rest comes from who draws."""
    given = (*SAMPLER_ARGUMENTS, "num_steps", "generator", "on_step", "grid")
    return [name for name in inspect.signature(sampler).parameters if name not in given]


def _is_sampler(function: Any) -> bool:
    return list(inspect.signature(function).parameters)[:3] == SAMPLER_ARGUMENTS


def _named(dotted: str) -> Any:
    module, _, name = dotted.rpartition(".")
    return getattr(importlib.import_module(module), name)
