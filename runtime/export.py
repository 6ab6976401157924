"""From a run to a small file that anyone can load by name.

python -m runtime.export ckpt=runs/latest out=zoo/imagen-scenes
"""

from __future__ import annotations

import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from omegaconf import OmegaConf
from safetensors.torch import load_file, save_file

from files import write_json
from runtime.checkpoint import load_module
from runtime.checkpoint_io import sha256
from runtime.settings import writable

WEIGHTS, CONFIG, CARD = "model.safetensors", "config.yaml", "card.json"


def export(ckpt: str, out: str | Path) -> Path:
    """Writes averaged weights in float16, the configuration and a card into the folder `out`.

    Raises: ValueError if the folder holds a model already or a weight does not fit float16.
    """
    out = Path(out)
    if (out / WEIGHTS).exists():
        raise ValueError(f"out={out} holds a model already: choose another name")
    module, config, info = load_module(ckpt)
    # Buffers keep their own type: a counter does not fit half precision.
    halves = {name for name, _ in module.named_parameters()}
    state = {n: half(v, n) if n in halves else v for n, v in module.state_dict().items()}
    extra: dict[str, Any] = {}
    module.on_save_checkpoint(extra)
    out.mkdir(parents=True, exist_ok=True)
    save_file({n: v.contiguous().clone() for n, v in state.items()}, out / WEIGHTS)
    (out / CONFIG).write_text(OmegaConf.to_yaml(portable(config), resolve=False))
    card = {
        "name": out.name,
        "weights": f"{info['weights']}, float16",
        "parameters": sum(p.numel() for p in module.parameters()),
        "sha256": sha256(out / WEIGHTS),
        "train_sec": info["train_sec"],
        "seed": info["seed"],
        "versions": info["versions"],
        "module": extra,
    }
    write_json(out / CARD, card)
    return out


def half(value: torch.Tensor, name: str) -> torch.Tensor:
    """float16 of a weight. Raises ValueError if it overflows."""
    small = value.to(torch.float16)
    if not torch.isfinite(small).all():
        raise ValueError(f"{name} holds values that are not finite in float16, up to {value.abs().max():.3g}")
    return small


def portable(config: Any) -> Any:
    """The configuration without the place of the run and the name of its W&B page."""
    config = config.copy()
    OmegaConf.set_struct(config, False)
    config.run_dir, config.name, config.logger = None, None, None
    return config


def read_zoo(folder: Path) -> dict[str, Any]:
    """A folder written by `export`, in the form of a checkpoint. Raises ValueError if its checksum is another."""
    try:
        card = json.loads((folder / CARD).read_text())
        config = OmegaConf.to_container(OmegaConf.load(folder / CONFIG))
    except FileNotFoundError as error:
        raise FileNotFoundError(f"{folder} is incomplete: {Path(error.filename).name} is missing") from None
    if sha256(folder / WEIGHTS) != card["sha256"]:
        raise ValueError(f"{folder / WEIGHTS} is damaged: its checksum is not the one on its card")
    state = load_file(folder / WEIGHTS)
    return {
        "config_source": config,
        "state_dict": state,
        "sha256": card["sha256"],
        "weights": card["weights"],
        "train_sec": card["train_sec"],
        "versions": card["versions"],
        **card["module"],
    }


def main(argv: Sequence[str]) -> Path:
    """`ckpt=RUN out=zoo/NAME`."""
    options = dict(text.split("=", 1) for text in argv if "=" in text)
    if set(options) != {"ckpt", "out"} or len(argv) != 2:
        raise ValueError("write: python -m runtime.export ckpt=RUN out=zoo/NAME")
    for name, value in options.items():
        if not value.strip():
            raise ValueError(f"{name}=: give a {'run' if name == 'ckpt' else 'folder'}")
    writable(options["out"], "out")
    out = export(options["ckpt"], options["out"])
    print(f"{out}: {(out / WEIGHTS).stat().st_size / 1e6:.1f} MB; load it with ckpt={out.name}")
    return out


if __name__ == "__main__":
    from runtime.cli import guarded

    sys.exit(guarded(lambda: main(sys.argv[1:])))
