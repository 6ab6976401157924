"""An average of the weights whose length is chosen after training, from the snapshots of `callbacks.power_ema`.

python -m runtime.ema_length ckpt=RUN sigma_rel=0.07 out=FILE.ckpt
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from files import replacing
from optimizers.power_ema import gamma_of, solve
from runtime.checkpoint import locate
from runtime.checkpoint_io import checksums_fit, read, write

FOLDER = "power_ema"  # of a run directory
LEFT_OUT = ("optimizer_states", "lr_schedulers", "power_ema", "callbacks")  # what only training needs


def ema_length(ckpt: str | Path, sigma_rel: float, out: str | Path) -> Path:
    """Writes the run's newest checkpoint with its average of weights replaced by one of another length.

    Raises: ValueError, in one line, for a run without these averages, a length out of range, or a file that is there.
    """
    gamma, out = gamma_of(sigma_rel), Path(out)
    if out.exists() or out.suffix != ".ckpt":
        raise ValueError(f"out={out}: give the name of a new file that ends in .ckpt")
    path = locate(ckpt)
    checkpoint = read(path)
    if "power_ema" not in checkpoint:
        raise ValueError(f"ckpt={ckpt}: the run keeps no averages to choose from; train with callbacks.power_ema (docs/diffusion.md)")
    stored = [now(checkpoint["power_ema"])]
    step = stored[0]["step"]
    for snapshot in sorted((path.parent.parent / FOLDER).glob("step=*.pt")):
        if not checksums_fit(snapshot):
            print(f"warning: {snapshot} is damaged and left out", flush=True)
        elif (found := read(snapshot))["step"] < step:
            stored.append(found)
    checkpoint["ema"] = {"num_updates": step, "params": combined(stored, step, gamma)}
    checkpoint["weights"] = f"power-function average, sigma_rel {sigma_rel:g}"
    for name in LEFT_OUT:
        checkpoint.pop(name, None)
    out.parent.mkdir(parents=True, exist_ok=True)
    with replacing(out, durable=True) as fresh:
        write(checkpoint, fresh)
    return out


def now(state: dict[str, Any]) -> dict[str, Any]:
    """The averages in a checkpoint, in the form of a snapshot."""
    gammas = [gamma_of(s) for s in state["sigma_rel"]]
    return {"step": state["num_updates"], "gammas": gammas, "averages": state["averages"]}


def combined(stored: Sequence[dict[str, Any]], step: int, gamma: float) -> dict[str, Tensor]:
    """The weighted sum of all stored averages that comes nearest to the average of `gamma` at `step`, in float32."""
    steps = [s["step"] for s in stored for _ in s["gammas"]]
    weights = solve(steps, [g for s in stored for g in s["gammas"]], step, gamma).tolist()
    averages = [average for s in stored for average in s["averages"]]
    return {
        name: sum(w * a[name].double() for w, a in zip(weights, averages)).to(torch.float32) for name in averages[0]
    }


def main(arguments: Sequence[str]) -> Path:
    """The command. Raises ValueError for missing, unknown or wrong settings."""
    given = dict(text.split("=", 1) if "=" in text else (text, "") for text in arguments)
    if set(given) != {"ckpt", "sigma_rel", "out"}:
        raise ValueError("give ckpt=RUN sigma_rel=0.07 out=FILE.ckpt")
    try:
        sigma_rel = float(given["sigma_rel"])
    except ValueError:
        raise ValueError(f"sigma_rel={given['sigma_rel']}: give a number such as 0.07") from None
    return ema_length(given["ckpt"], sigma_rel, given["out"])


if __name__ == "__main__":
    try:
        print(main(sys.argv[1:]))
    except (ValueError, FileNotFoundError) as error:
        sys.exit(f"error: {error}")
