"""The one place that turns configuration into objects."""

from __future__ import annotations

import inspect
from typing import Any

import hydra.utils
from omegaconf import DictConfig, ListConfig, OmegaConf

# A configuration that travelled inside a checkpoint may only build what these packages define themselves.
TRUSTED = [
    "lightning_modules",
    "networks",
    "diffusion",
    "objectives",
    "optimizers",
    "datamodules",
    "scenes",
    "callbacks",
    "evaluators",
    "runtime.wandb",
    "runtime.checkpoint.load_module",  # of a classifier that judges; it trusts the file no more than this list does
    "torch.nn",
    "torch.optim",
]


def instantiate(node: Any, **kwargs: Any) -> Any:
    """Builds what a configuration node describes; lists and dicts arrive as plain Python ones."""
    # A plain copy: Hydra would resolve, in place, the nodes that this one refers to, and this machine's paths would
    # travel in every checkpoint.
    plain = OmegaConf.to_container(node, resolve=True) if OmegaConf.is_config(node) else node
    return hydra.utils.instantiate(plain, _convert_="all", **kwargs)


def instantiate_untrusted(node: Any, **kwargs: Any) -> Any:
    """`instantiate` for a node from a checkpoint; raises ValueError for a `_target_` outside the allow-list."""
    check_targets(node)
    return instantiate(node, **kwargs)


def check_targets(node: Any, where: str = "") -> None:
    """Raises ValueError unless every `_target_` is a class or function defined in a trusted package.

    The name's prefix is checked before anything is imported, then the object it leads to: a trusted module may have
    imported a dangerous one.
    """
    if isinstance(node, (DictConfig, ListConfig)):
        node = OmegaConf.to_container(node, resolve=True)
    if isinstance(node, dict):
        if "_target_" in node and not allowed(node["_target_"]):
            raise ValueError(f"the checkpoint's configuration wants {node['_target_']!r} at {where or 'the top'}, "
                             "which is nothing of ours: refused")
        for key, value in node.items():
            check_targets(value, f"{where}.{key}" if where else str(key))
    elif isinstance(node, (list, tuple)):
        for i, value in enumerate(node):
            check_targets(value, f"{where}[{i}]")


def allowed(target: Any) -> bool:
    """Whether a dotted name may be called on behalf of a stranger."""
    if not isinstance(target, str) or not _inside(target):
        return False
    try:
        found = hydra.utils.get_object(target)
    except Exception:  # hydra wraps whatever importing can raise
        return False
    ours = inspect.isclass(found) or inspect.isfunction(found)
    return ours and _inside(f"{found.__module__}.{found.__qualname__}")


def _inside(name: str) -> bool:
    return any(name == package or name.startswith(package + ".") for package in TRUSTED)
