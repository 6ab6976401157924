"""From a run to a small file that anyone can load by name.

python -m runtime.export ckpt=runs/latest out=zoo/imagen-scenes
"""

from __future__ import annotations

import hashlib
import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from omegaconf import DictConfig, OmegaConf
from safetensors.torch import load_file, save_file

from files import read_json, replacing, write_json, write_text
from runtime.build import plain
from runtime.checkpoint import load_module
from runtime.checkpoint_io import sha256
from runtime.checkpoint_scan import shortened
from runtime.foreign import read_foreign_config
from runtime.places import claims, trusted
from runtime.settings import writable

WEIGHTS, CONFIG, CARD = "model.safetensors", "config.yaml", "card.json"
MAX_CARD_BYTES = 2**16
FACTS = frozenset({"name", "weights", "parameters", "sha256", "train_sec", "seed", "versions", "module"})
SEALS = frozenset({"config_sha256", "card_sha256"})


def export(ckpt: str, out: str | Path, trust: Sequence[str] = ()) -> Path:
    """Writes averaged weights in float16, the configuration and a card into the folder `out`; `trust` as of `load_module`.

    Raises: ValueError if the folder holds a model already or a weight does not fit float16.
    """
    out = Path(out)
    if (out / WEIGHTS).exists():
        raise ValueError(f"out={out} holds a model already: choose another name")
    module, config, info = load_module(ckpt, trust=trust)
    facts = {"train_sec": info["train_sec"], "seed": info["seed"], "versions": info["versions"]}
    # Buffers keep their own type: a counter does not fit half precision.
    halves = {name for name, _ in module.named_parameters()}
    state = {n: half(v, n) if n in halves else v for n, v in module.state_dict().items()}
    write_zoo(out, module, state, portable(config), {"weights": f"{info['weights']}, float16", **facts})
    if needed := needs(config):
        print(f"note: {out} holds no weights of {', '.join(needed)}: whoever loads it needs that model in the same place", flush=True)
    return out


def write_zoo(out: Path, module: Any, state: dict[str, torch.Tensor], config: Any, facts: dict[str, Any]) -> None:
    """Writes weights, configuration and card into the folder `out`; the card is last."""
    extra: dict[str, Any] = {}
    module.on_save_checkpoint(extra)
    out.mkdir(parents=True, exist_ok=True)
    with replacing(out / WEIGHTS, durable=True) as fresh:
        save_file({n: v.contiguous().clone() for n, v in state.items()}, fresh)
    write_text(out / CONFIG, OmegaConf.to_yaml(config, resolve=False), durable=True)
    card = facts | {
        "name": out.name,
        "parameters": sum(p.numel() for p in module.parameters()),
        "sha256": sha256(out / WEIGHTS),
        "config_sha256": sha256(out / CONFIG),
        "module": extra,
    }
    write_json(out / CARD, sealed(card), durable=True)


def needs(config: DictConfig) -> list[str]:
    """The checkpoints that a model cannot be built without; a teacher is asked in training alone."""
    model = {key: value for key, value in plain(config.model).items() if key != "distill"}
    return [value for _, key, value in claims(model) if key == "ckpt"]


def sealed(card: dict[str, Any]) -> dict[str, Any]:
    """A card with a checksum of its own facts, so that a damaged one is noticed."""
    return card | {"card_sha256": card_sha256(card)}


def card_sha256(card: dict[str, Any]) -> str:
    """Hex digest of a card's facts, whatever their order and layout."""
    facts = {name: value for name, value in card.items() if name != "card_sha256"}
    return hashlib.sha256(json.dumps(facts, sort_keys=True).encode()).hexdigest()


def half(value: torch.Tensor, name: str) -> torch.Tensor:
    """float16 of a weight. Raises ValueError if it overflows."""
    small = value.to(torch.float16)
    if not torch.isfinite(small).all():
        raise ValueError(f"{name} holds values that are not finite in float16, up to {value.abs().max():.3g}")
    return small


def portable(config: Any) -> Any:
    """The configuration without places on this machine and the name of the W&B page; of a run it started from, the name."""
    config = config.copy()
    OmegaConf.set_struct(config, False)
    config.run_dir, config.name, config.logger = None, None, None
    if config.get("init") is not None and Path(config.init).is_absolute():
        config.init = Path(config.init).name
    return config


def read_zoo(folder: Path) -> dict[str, Any]:
    """A folder written by `export`, in the form of a checkpoint.

    Raises: FileNotFoundError if a file is missing; ValueError, in one line, for a file that is not what the card says, or
        not of the form that `export` writes.
    """
    if missing := next((name for name in (CARD, CONFIG, WEIGHTS) if not (folder / name).exists()), None):
        raise FileNotFoundError(f"{folder} is incomplete: {missing} is missing")
    card = read_card(folder / CARD)
    if "config_sha256" in card:
        check_sha256(folder / CONFIG, card["config_sha256"])
    else:
        print(f"note: {folder} was written before cards had a checksum: its configuration and card are not verified")
    config = OmegaConf.to_container(read_foreign_config(folder / CONFIG), resolve=False)
    check_sha256(folder / WEIGHTS, card["sha256"])
    try:
        state = load_file(folder / WEIGHTS)
    except Exception as error:  # safetensors has an error of its own, and others come from below it
        why = " ".join(str(error).split())[:200]
        raise ValueError(f"{folder / WEIGHTS} is damaged or no safetensors file ({why})") from None
    facts = {name: card[name] for name in ("sha256", "weights", "train_sec", "versions")}
    return {**card["module"], **facts, "config_source": config, "state_dict": state}


def read_card(path: Path) -> dict[str, Any]:
    """The facts on a card. Raises ValueError, in one line, for a damaged card and for facts that no card has."""
    card = read_json(path, MAX_CARD_BYTES)
    if not isinstance(card, dict):
        raise ValueError(f"{path} is no card: it holds a {type(card).__name__}")
    # Cards from before the checksums have neither of the two; a card with one of them has lost the other.
    for facts in (FACTS, FACTS | SEALS):
        if set(card) == facts:
            break
    else:
        odd = sorted(set(card) ^ (FACTS | SEALS))[0]
        raise ValueError(f"{path} is damaged or no card: {shortened(odd)!r} is {'unknown' if odd in card else 'missing'}")
    if "card_sha256" in card and card["card_sha256"] != card_sha256(card):
        raise ValueError(f"{path} is damaged: its facts are not those that were written (card_sha256 does not fit)")
    texts, module = ("name", "weights", "sha256", *sorted(SEALS & set(card))), card["module"]
    if not all(isinstance(card[name], str) for name in texts) or not isinstance(module, dict):
        raise ValueError(f"{path} is damaged or no card: its facts are not of the form that they should have")
    return card


def check_sha256(path: Path, expected: str) -> None:
    """Raises ValueError if a file is another than the card says, or no file."""
    if not path.is_file():
        raise ValueError(f"{path} is not a regular file")
    if sha256(path) != expected:
        raise ValueError(f"{path} is damaged: its checksum is not the one on its card")


def main(argv: Sequence[str]) -> Path:
    """`ckpt=RUN out=zoo/NAME`, and `trust=PLACE` for a run that names a place outside this repository."""
    options = dict(text.split("=", 1) for text in argv if "=" in text)
    if set(options) - {"trust"} != {"ckpt", "out"} or len(argv) != len(options):
        raise ValueError("write: python -m runtime.export ckpt=RUN out=zoo/NAME")
    for name, value in options.items():
        if not value.strip():
            raise ValueError(f"{name}=: give a {'run' if name == 'ckpt' else 'folder'}")
    writable(options["out"], "out")
    out = export(options["ckpt"], options["out"], trust=trusted(options.get("trust")))
    print(f"{out}: {(out / WEIGHTS).stat().st_size / 1e6:.1f} MB; load it with ckpt={out.name}")
    return out


if __name__ == "__main__":
    from runtime.cli import guarded

    sys.exit(guarded(lambda: main(sys.argv[1:])))
