"""What all guards of a run cost: training images a second with them and without.

    python -m benchmarks.guards                  # [--segments 20 --steps 50 --models vae,imagen --out FILE]

Two trainings of the same model take turns: one trains `steps` steps while the other waits, then they change. A figure is
images by processor second, so that whatever else the machine does weighs little; a ratio is that of two neighbouring
segments, with guards to without. Guards are: the search for gradients that are not finite, the check that weights are
finite before they are saved, the reading back and flushing of what was saved, the run's own metrics file and its
flushing, the lock, and the watch of loader workers over their parent. A checkpoint falls into every segment, which is
ten to twenty times as often as by default.
"""

from __future__ import annotations

import json
import os
import shutil
import statistics
import tempfile
import time
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import pytorch_lightning as pl

from benchmarks import sessions
from benchmarks.chaos.families import MODULES, make_material
from benchmarks.common import arguments, machine, markdown_table, provenance, publish, run

MODELS = {
    "vae": ("model=vae", "data=fashion_mnist", "data.num_val=20"),
    "imagen": ("model=imagen", "callbacks.evaluate=null"),
}
SIDES = ("with", "without")
PATIENCE_SEC = 1800.0


@dataclass
class Settings:
    """Defaults of the command line."""

    segments: int = 20  # of each side, the first of which is not counted
    steps: int = 50


class Turns(pl.Callback):
    """Trains `steps` steps in its turn, notes the processor time, and hands the turn to the other side."""

    ours: Any = None
    others: Any = None

    def __init__(self, steps: int, out: str) -> None:
        self.steps, self.out = steps, out
        self.begun: tuple[float, float, int] | None = None

    def on_train_batch_start(self, trainer: pl.Trainer, module: Any, batch: Any, batch_idx: int) -> None:
        if batch_idx % self.steps == 0:
            self.finish(module)
            self.ours.acquire(timeout=PATIENCE_SEC)
            self.begun = processor_time(), time.perf_counter(), module.images_seen

    def on_train_end(self, trainer: pl.Trainer, module: Any) -> None:
        self.finish(module)

    def finish(self, module: Any) -> None:
        if self.begun is None:
            return
        (cpu, wall, images), self.begun = self.begun, None
        line = {"images": module.images_seen - images, "cpu_sec": processor_time() - cpu,
                "wall_sec": time.perf_counter() - wall}  # fmt: skip
        with open(self.out, "a") as file:
            file.write(json.dumps(line) + "\n")
        self.others.release()


def processor_time() -> float:
    """Seconds of this process and of the workers that have ended."""
    return sum(os.times()[:4])


def take_turns(ours: Any, others: Any) -> None:
    from benchmarks import guards  # where this file is the command, its classes are not those that a run imports

    guards.Turns.ours, guards.Turns.others = ours, others


def without_guards() -> None:
    """Takes every guard out of this process. Raises AttributeError where one has got another name."""
    from runtime import checkpoint_io, jsonl, run_dir

    replaced = {
        (checkpoint_io, "is_good"): lambda path: True,
        (checkpoint_io, "not_finite"): lambda node: None,
        (run_dir, "lock"): lambda path: None,
        (jsonl.JsonlLogger, "log_metrics"): lambda self, metrics, step=None: None,
        (jsonl.JsonlLogger, "save"): lambda self: None,
    }
    for (place, name), then in replaced.items():
        getattr(place, name)
        setattr(place, name, then)
    os.fsync = lambda file: None


def before(side: str, ours: Any, others: Any) -> None:
    take_turns(ours, others)
    if side == "without":
        without_guards()


def measure(model: str, segments: int, steps: int, work: Path) -> dict[str, Any]:
    """Both sides' segments of one model, and the ratios of neighbours."""
    folder = work / model
    folder.mkdir()
    turn = {side: sessions.FORKS.Semaphore(int(side == SIDES[0])) for side in SIDES}
    processes = {}
    for side, other in (SIDES, SIDES[::-1]):
        words = [
            *MODELS[model], "trainer=cpu", "logger.wandb=null", "callbacks.progress=null",
            "callbacks.validate=null", "callbacks.samples=null", f"trainer.max_steps={segments * steps}",
            f"callbacks.checkpoint.every_steps={steps}", "callbacks.checkpoint.every_sec=null",
            f"run_dir={folder / side}", f"paths.cache={work / 'material'}",
            "+callbacks.turns._target_=benchmarks.guards.Turns", f"+callbacks.turns.steps={steps}",
            f"+callbacks.turns.out={folder / side}.jsonl",
            *(["callbacks.nan_guard=null"] if side == "without" else []),
        ]  # fmt: skip
        prepare = partial(before, side, turn[side], turn[other])
        processes[side] = sessions.start(words, folder / f"{side}.log", prepare)
    for side, process in processes.items():
        process.join()
        if process.exitcode:
            for other in processes.values():
                other.kill()
            raise ValueError(f"{model} {side} guards ended with {process.exitcode}: {(folder / f'{side}.log').read_text()[-500:]}")
    lines = {side: [json.loads(text) for text in open(f"{folder / side}.jsonl")][1:] for side in SIDES}
    speeds = {side: [line["images"] / line["cpu_sec"] for line in lines[side]] for side in SIDES}
    ratios = [a / b for a, b in zip(speeds["with"], speeds["without"])]
    low, middle, high = statistics.quantiles(ratios, n=4) if len(ratios) > 1 else (ratios * 3)
    return {"segments": lines, "images_per_cpu_sec": {side: statistics.median(speeds[side]) for side in SIDES},
            "ratio": middle, "quartiles": [low, high], "ratios": ratios}  # fmt: skip


def main() -> None:
    options = {"segments": "segments of each side, the first not counted", "steps": "optimiser steps of a segment"}
    parser = arguments("guards", __doc__, Settings, options)
    parser.add_argument("--models", default=",".join(MODELS), help=f"of {', '.join(MODELS)}, with commas")
    given = parser.parse_args()
    models = given.models.split(",")
    if unknown := [m for m in models if m not in MODELS]:
        raise ValueError(f"--models {unknown[0]}: choose from {', '.join(MODELS)}")
    state = machine(threads=1)
    sessions.preload("benchmarks.guards", *MODULES)
    work = Path(tempfile.mkdtemp(prefix="guards-"))  # on a disk: flushing is one of the guards
    make_material(work / "material")
    found = {model: measure(model, given.segments, given.steps, work) for model in models}
    shutil.rmtree(work)
    settings = {"segments": given.segments, "steps": given.steps}
    publish(given.out, {"settings": settings, "models": found, "machine": state, **provenance("torch")}, table(found))


def table(found: dict[str, Any]) -> str:
    """Model -> both speeds and their ratio."""
    rows = []
    for model, result in found.items():
        speed, (low, high) = result["images_per_cpu_sec"], result["quartiles"]
        rows.append([model, f"{speed['with']:.4g}", f"{speed['without']:.4g}", f"{result['ratio']:.3f} ({low:.3f}–{high:.3f})"])
    return markdown_table(["images by processor second", "with guards", "without", "ratio (quartiles)"], rows)


if __name__ == "__main__":
    run(main)
