"""Builds a module from a checkpoint, without running code from the file."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from omegaconf import DictConfig

from contracts import GuidedByCLIP, GuidedByWeaker
from runtime.budget import budget_of
from runtime.build import MODULE, instantiate_untrusted
from runtime.checkpoint_io import newest_good, read, sha256
from runtime.config import REPO
from runtime.foreign import foreign_config
from runtime.run_dir import listing

COUNTERS = ("batches_seen", "optimizer_steps", "images_seen")

def load_module(
    ckpt: str | Path, *, ema: bool = True, setting: str = "ckpt", trust: Sequence[str] = ()
) -> tuple[Any, DictConfig, dict[str, Any]]:
    """Rebuilds a module from a checkpoint file, a run directory (its newest good checkpoint) or a name in zoo/.

    The file may come from anybody: see docs/conventions.md, "Files from others".

    Args:
        ema: averaged weights instead of the raw ones, where the checkpoint has them.
        setting: what the user calls it, for messages.
        trust: text encoders that the user has named on the command line; the file may then name them too.
    Returns: the module in evaluation mode on the CPU; the run's configuration, resolved here; and what is known of the
        weights: path, sha256, step, images_seen, train_sec, weights ("ema" or "raw"), versions, seed.
    Raises: FileNotFoundError if there is no such file, run or zoo entry; ValueError for a damaged or hostile checkpoint.
    """
    path = locate(ckpt, setting)
    if path.is_dir():
        from runtime.export import read_zoo

        checkpoint = read_zoo(path)
        path = path / "model.safetensors"
    else:
        checkpoint = read(path)
    if "config_source" not in checkpoint:
        raise ValueError(f"{path} is a checkpoint of something else: it holds no configuration of this repository")
    check_contents(checkpoint, path)
    config = foreign_config(checkpoint["config_source"], path)
    if not isinstance(config.get("model"), DictConfig):
        raise ValueError(f"{path} is a checkpoint of something else: its configuration describes no model")
    budget = budget_of(checkpoint["state_dict"])
    module = instantiate_untrusted(config.model, trust=trust, budget=budget, where=str(path), kind=MODULE)
    weights = {name.replace("_orig_mod.", ""): value for name, value in checkpoint["state_dict"].items()}
    averaged = ema and "ema" in checkpoint
    if averaged:
        weights |= checkpoint["ema"]["params"]
    own = module.state_dict()
    weights = {n: v.to(own[n].dtype) if n in own else v for n, v in weights.items()}
    module.on_load_checkpoint(checkpoint)
    _load(module, weights, path)
    info = {
        "path": str(path),
        "sha256": checkpoint.get("sha256") or sha256(path),
        "step": checkpoint["counters"]["optimizer_steps"],
        **checkpoint["counters"],
        "train_sec": checkpoint.get("train_sec"),
        "weights": checkpoint.get("weights") or ("ema" if averaged else "raw"),
        "seed": config.get("seed"),
        "versions": checkpoint.get("versions"),
    }
    return module.eval(), config, info


# Setting -> what a model must be to be guided so, its method for it, and what to say of one that is not.
GUIDES: dict[str, tuple[type, str, str]] = {
    "weaker": (GuidedByWeaker, "guide_by", "is not guided by a weaker model; diffusion models are"),
    "guide_clip": (GuidedByCLIP, "guide_by_clip", "is not guided by a CLIP; diffusion models of captions are"),
}


def guide(module: Any, cfg: DictConfig, trust: Sequence[str] = ()) -> dict[str, dict[str, Any]]:
    """Lets the models that a command's settings name guide this one; returns what is known of each, by setting.

    Raises: ValueError, in one line, for a model that knows no such guidance, and for a guide that does not fit or is not
        trained; what `load_module` raises.
    """
    found = {}
    for setting, (ability, method, refusal) in GUIDES.items():
        if (ckpt := cfg[setting]) is None:
            continue
        if not isinstance(module, ability):
            raise ValueError(f"{setting}={ckpt}: {type(module).__name__} {refusal}")
        other, _, found[setting] = load_module(ckpt, ema=cfg.ema, setting=setting, trust=trust)
        try:
            getattr(module, method)(other)
        except ValueError as error:
            raise ValueError(f"{setting}={ckpt}: {error}") from None
    return found


def check_contents(checkpoint: dict[str, Any], path: Path) -> None:
    """Raises ValueError, in one line, unless a checkpoint has the parts that are read here in the form that they have."""

    def number(value: Any) -> bool:
        return isinstance(value, (int, float)) and not isinstance(value, bool)

    def tensors(value: Any) -> bool:
        return isinstance(value, dict) and all(isinstance(k, str) and torch.is_tensor(v) for k, v in value.items())

    counters, ema = checkpoint.get("counters"), checkpoint.get("ema", {"params": {}, "num_updates": 0})
    encoder, versions = checkpoint.get("text_encoder"), checkpoint.get("versions")
    frozen = checkpoint.get("frozen", {})
    texts = [value for value in (encoder, versions) if value is not None]
    forms = {
        "state_dict": tensors(checkpoint.get("state_dict")),
        "ema": isinstance(ema, dict) and tensors(ema.get("params")) and number(ema.get("num_updates", 0)),
        "counters": isinstance(counters, dict)
        and set(counters) == set(COUNTERS)
        and all(isinstance(n, int) and 0 <= n < 2**63 for n in counters.values()),
        "text_encoder or versions": all(
            isinstance(t, dict) and all(isinstance(x, str) for pair in t.items() for x in pair) for t in texts
        )
        and (encoder is None or set(encoder) == {"id", "revision"}),
        "data": isinstance(checkpoint.get("data", {}), dict),
        "frozen": isinstance(frozen, dict) and all(isinstance(x, str) for pair in frozen.items() for x in pair),
        "train_sec": checkpoint.get("train_sec") is None or number(checkpoint["train_sec"]),
        "weights": isinstance(checkpoint.get("weights", ""), str),
    }
    if wrong := next((name for name, fits in forms.items() if not fits), None):
        raise ValueError(f"{path} is damaged or a checkpoint of something else: its {wrong} cannot be read")


def start_from(module: torch.nn.Module, ckpt: str | Path, trust: Sequence[str] = ()) -> None:
    """Gives a new module the averaged weights of another run, wherever names agree.

    So a cascade can be trained stage by stage: each run trains one stage and starts from the run before it. Convolutions
    may have further input channels here, as of a condition that the other run had not: these weights are zero at first.

    Raises: FileNotFoundError if there is no such file, run or zoo entry; ValueError if no weight fits or one is of another
        shape, or text encoders differ.
    """
    other, _, info = load_module(ckpt, setting="init", trust=trust)
    if hasattr(module, "check_identity"):
        identity: dict[str, Any] = {}
        other.on_save_checkpoint(identity)
        module.check_identity(identity)
    own, weights = module.state_dict(), other.state_dict()
    fitting = {name: value for name, value in weights.items() if name in own}
    if not fitting:
        raise ValueError(f"init={ckpt}: none of its {len(weights)} weights fits this model")
    widened = [name for name, value in fitting.items() if widens(value, own[name])]
    for name, value in fitting.items():
        if name not in widened and value.shape != own[name].shape:
            raise ValueError(f"init={ckpt}: its {name!r} is {tuple(value.shape)}, this model's is {tuple(own[name].shape)}: "
                             "build the same nets, or convolutions with more input channels")  # fmt: skip
    for name in widened:
        old, fitting[name] = fitting[name], torch.zeros_like(own[name])
        fitting[name][:, : old.shape[1]] = old
    module.load_state_dict(fitting, strict=False)
    more = f", {len(widened)} of them with new input channels, which start at zero" if widened else ""
    print(f"started from {info['path']}: {len(fitting)} of {len(own)} weights{more}", flush=True)


def widens(old: torch.Tensor, new: torch.Tensor) -> bool:
    """Whether two weights are of the same convolution, the new one with more input channels."""
    return old.ndim == new.ndim == 4 and old.shape[1] < new.shape[1] and (old[:, 0].shape == new[:, 0].shape)


def _load(module: torch.nn.Module, weights: dict[str, torch.Tensor], path: Path) -> None:
    for name, own in module.state_dict().items():
        if name in weights and weights[name].shape != own.shape:
            stored, built = tuple(weights[name].shape), tuple(own.shape)
            raise ValueError(f"{path} does not fit the code of today: its {name!r} is {stored}, the model's is {built}")
    missing, unexpected = module.load_state_dict(weights, strict=False)
    if missing or unexpected:
        what = f"lacks {missing[0]!r}" if missing else f"has {unexpected[0]!r}, which the model does not know"
        count = len(missing) + len(unexpected)
        raise ValueError(f"{path} does not fit the code of today: it {what} ({count} differences)")


def locate(ckpt: str | Path, setting: str = "ckpt") -> Path:
    """A checkpoint file, or a directory of zoo/ form. Raises FileNotFoundError that lists what there is."""
    runs, zoo = REPO / "runs", REPO / "zoo"
    for path in (Path(ckpt), zoo / ckpt, runs / ckpt):
        if path.is_file() or (path / "model.safetensors").is_file():
            return path
        if (path / "checkpoints").is_dir():
            newest = newest_good(path / "checkpoints")
            if newest is None:
                raise FileNotFoundError(f"{setting}={ckpt}: this run has no undamaged checkpoint yet")
            return newest
    names = ", ".join(sorted(p.parent.name for p in zoo.glob("*/model.safetensors"))) or "empty"
    raise FileNotFoundError(f"{setting}={ckpt}: no such file, run or name in zoo/; zoo: {names}{listing(runs)}")
