"""Speed runs: processor minutes of a whole training until 50, 80 and 95 % of new captioned scenes are drawn as told.

python -m benchmarks.speedrun --name NAME [--seeds 0 1 2 --n 256 --jobs 2 --by WHO --about "what is new"] [-- model=imagen trainer.max_steps=2000 …]

Every seed trains from nothing in a process of its own on one thread, with the command after --. Its time is processor time: start-up, text
encoding and saving included. Then new scenes are drawn and the scene parser reads them back. The split `dev` decides, so that no split that
is reported elsewhere is chosen by; `iid`, `combo` and `word` stand beside it. A record is the folder benchmarks/results/speedrun/NAME:
record.json, and per seed the training's configuration and log. docs/speedrun.md lists all of them; --page alone writes it anew.
"""

from __future__ import annotations

import argparse
import json
import re
import shutil
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from statistics import mean, stdev
from typing import Any

import torch

from benchmarks.common import REPO, RESULTS, machine, markdown_table, positive, provenance, run, write_json
from benchmarks.diffusion_table import make_rows
from benchmarks.peer_ddpm import processor_sec
from benchmarks.scene_scores import scores_of
from benchmarks.tables import fill
from datamodules.scenes import ScenesDataModule
from runtime.build import instantiate
from runtime.checkpoint import load_module
from runtime.config import compose
from scenes.scoring import aggregate, wilson

RECORDS, PAGE = RESULTS / "speedrun", REPO / "docs" / "speedrun.md"
SPLITS = ("dev", "iid", "combo", "word")
MARKS = (0.5, 0.8, 0.95)
SKILLS = ("count", "shape", "colour", "binding", "relation")
QUIET = ("callbacks.validate=null", "callbacks.samples=null", "callbacks.evaluate=null", "logger.wandb=null")


@dataclass(frozen=True)
class Settings:
    """How every seed of a record is judged."""

    n: int = 256
    by: str = "the authors"
    about: str = ""


def make_row(seed: int, s: Settings, folder: Path, overrides: Sequence[str]) -> None:
    """Trains and judges one seed below `folder`, unless that was done.

    Raises: ValueError if the data is not captioned scenes.
    """
    import train

    torch.set_num_threads(1)
    out = folder / str(seed)
    if (out / "scores.json").exists():
        return
    shutil.rmtree(out / "run", ignore_errors=True)  # of a training that did not end: its seconds are not known
    family = () if any(o.startswith("model=") for o in overrides) else ("model=imagen",)
    words = [*family, "trainer=cpu", *QUIET, *overrides, f"seed={seed}", f"run_dir={out / 'run'}"]
    if not isinstance(data := instantiate(compose("train", words).data), ScenesDataModule):  # before the minutes are spent
        raise ValueError(f"a speed run draws captioned scenes, not {type(data).__name__}: give data=scenes_simple or data=scenes")
    began = processor_sec()
    train.main(words)
    cpu_sec = processor_sec() - began
    module, _, info = load_module(out / "run")
    splits = {split: judged(module, data, split, s.n) for split in SPLITS}
    facts = {"cpu_sec": cpu_sec, "images": info["images_seen"], "steps": module.optimizer_steps, "splits": splits,
             "parameters": sum(p.numel() for p in module.parameters())}  # fmt: skip
    write_json(out / "scores.json", facts)


def judged(module: Any, data: ScenesDataModule, split: str, n: int) -> dict[str, Any]:
    """Skills of n prompts of a split; those of written words apart, but in the split of words."""
    pairs = [(spec, text) for text, spec in data.prompts(split, n)]
    if split != "word":
        pairs = [(spec, text) for spec, text in pairs if spec.kind != "word"]
    found, sec = scores_of(module, pairs, {})
    return {"skills": {name: row["mean"] for name, row in aggregate(found).items()}, "n": len(pairs), "sec": sec}


def record(folder: Path, name: str, s: Settings, overrides: Sequence[str]) -> dict[str, Any]:
    """What a record's seeds found; their logs and configurations go beside it."""
    seeds = {}
    for out in sorted(folder.iterdir(), key=lambda path: path.name):
        if (out / "scores.json").exists():
            seeds[out.name] = json.loads((out / "scores.json").read_text())
            kept = RECORDS / name / out.name
            kept.mkdir(parents=True, exist_ok=True)
            for file in ("config.yaml", "metrics.jsonl"):
                text = (out / "run" / file).read_text()
                (kept / file).write_text(text.replace(f"{folder}/", "").replace(f"{REPO}/", "").replace(str(REPO), "."))
    return {
        "benchmark": "speedrun", "name": name, "settings": asdict(s) | {"overrides": " ".join(overrides) or "none"},
        "machine": machine(1), **provenance("torch"), "seeds": seeds,
    }  # fmt: skip


def exact(found: dict[str, Any], split: str) -> list[float]:
    """The all-correct share of each seed."""
    return [seed["splits"][split]["skills"]["all_correct"] for seed in found["seeds"].values()]


def minutes(found: dict[str, Any]) -> float:
    """Mean processor minutes of a record's seeds."""
    return mean(seed["cpu_sec"] for seed in found["seeds"].values()) / 60


def share(found: dict[str, Any], split: str) -> str:
    """Mean over the seeds and their standard deviation, or the Wilson 95 % interval of one seed, in percent."""
    values = exact(found, split)
    if len(values) > 1:
        return f"{100 * mean(values):.0f} ± {100 * stdev(values):.0f} %"
    n = next(iter(found["seeds"].values()))["splits"][split]["n"]
    low, high = wilson(values[0] * n, n)
    return f"{100 * values[0]:.0f} % [{100 * low:.0f}, {100 * high:.0f}]"


def page(records: Sequence[dict[str, Any]]) -> str:
    """The fastest record of each mark, then all of them, the best first."""
    lines = []
    for mark in MARKS:
        fit = sorted((r for r in records if mean(exact(r, "dev")) >= mark), key=minutes)
        lines.append([f"{mark:.0%}", f"{minutes(fit[0]):.0f}" if fit else "–", fit[0]["name"] if fit else "nobody yet"])
    marks = markdown_table(["of `dev` all-correct", "processor minutes", "record"], lines)
    head = ["record", "processor minutes", "images", "parameters", "`dev`", "`iid`", "`combo`", "new words", *SKILLS, "seeds", "by"]
    rows = []
    for r in sorted(records, key=lambda r: -mean(exact(r, "dev"))):
        seeds = list(r["seeds"].values())
        skills = [f"{100 * mean(s['splits']['dev']['skills'][skill] for s in seeds):.0f}" for skill in SKILLS]
        rows.append([f"[{r['name']}](../benchmarks/results/speedrun/{r['name']}/record.json)", f"{minutes(r):.0f}", f"{mean(s['images'] for s in seeds):,.0f}",
                     f"{seeds[0]['parameters'] / 1e6:.1f} M", *(share(r, split) for split in SPLITS), *skills, str(len(seeds)), r["settings"]["by"]])  # fmt: skip
    told = [f"- **{r['name']}**: {r['settings']['about'] or 'no word on it'}. `{r['settings']['overrides']}`; {r['machine']['cpu']}, {r['date']}" for r in records]
    return "\n\n".join([marks, markdown_table(head, rows), "\n".join(told)])


def publish() -> None:
    """Writes the page from the records."""
    records = [json.loads(path.read_text()) for path in sorted(RECORDS.glob("*/record.json"))]
    if not records:
        raise ValueError(f"there is no record in {RECORDS.relative_to(REPO)}: give --name and the command of a training")
    PAGE.write_text(fill(PAGE.read_text(), "speedrun", f"\n{page(records)}\n\n", PAGE.name))


def main(argv: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.speedrun", description=__doc__.splitlines()[0])
    parser.add_argument("--name", help="of the record")
    parser.add_argument("--seeds", nargs="+", type=int, default=[0, 1, 2])
    parser.add_argument("--n", type=positive(int), default=Settings.n, help=f"prompts of each split (default {Settings.n})")
    parser.add_argument("--jobs", type=positive(int), default=1, help="seeds at once (default 1)")
    parser.add_argument("--by", default=Settings.by, help="who made it")
    parser.add_argument("--about", default="", help="a sentence on what is new in it")
    parser.add_argument("--dir", type=Path, help="folder of the runs (default runs/speedrun/NAME)")
    parser.add_argument("--page", action="store_true", help="only write docs/speedrun.md anew from the records")
    parser.add_argument("--only-row", type=int, help=argparse.SUPPRESS)
    parser.add_argument("overrides", nargs="*", help="of the training, after --, for instance trainer.max_steps=2000")
    args = parser.parse_args(argv)
    if not args.page:
        if not args.name or not re.fullmatch(r"[\w.-]+", args.name):
            raise ValueError(f"--name={args.name}: give the record a name of letters, digits, - and _")
        s, folder = Settings(args.n, args.by, args.about), (args.dir or REPO / "runs" / "speedrun" / args.name).resolve()
        if args.only_row is not None:
            make_row(args.only_row, s, folder, args.overrides)
            return
        words = [f"--name={args.name}", f"--n={s.n}", f"--dir={folder}", "--", *args.overrides]
        make_rows([str(seed) for seed in args.seeds], args.jobs, words, folder, "speedrun")
        write_json(RECORDS / args.name / "record.json", record(folder, args.name, s, args.overrides))
    publish()
    print(PAGE.read_text())


if __name__ == "__main__":
    run(main)
