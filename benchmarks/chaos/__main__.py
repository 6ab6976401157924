"""Trainings that are killed, starved and damaged until they are done, each compared with one that nobody disturbed.

    python -m benchmarks.chaos minutes=30
    python -m benchmarks.chaos minutes=90 kills=1000 damaged=600 fuzzed=1500 troubles=30 reach=0.15 signals=0.95

Every number is a lower bound on what to do; `minutes` ends it in any case. Problems make the exit code 1, and what
they left stays on disk. The result is a JSON file with a table beside it.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tempfile
import time
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path
from typing import Any

from benchmarks import sessions
from benchmarks.chaos.campaign import Campaign, Pace
from benchmarks.chaos.families import FAMILIES, make_material, tasks
from benchmarks.chaos.files import damaged_checkpoints, fuzzed_images
from benchmarks.chaos.tally import Tally
from benchmarks.common import RESULTS, machine, provenance, run, write_json

DISK_MIB = 48


@dataclass
class Settings:
    """What can be given as key=value."""

    minutes: float = 30.0  # stop then, whatever is left to do
    kills: int = 0  # stop when so many signals have hit; 0 goes on until the minutes are over
    damaged: int = 60  # checkpoints to damage
    fuzzed: int = 150  # image files to mutate
    pictures: int = 3  # runs whose data goes bad
    troubles: int = Pace.troubles  # of one run, at most
    reach: float = Pace.reach  # a signal comes within this share of all steps
    signals: float = Pace.signals  # share of troubles that are signals, not full disks
    patience: float = Pace.patience_sec  # a session that takes longer hangs
    families: list[str] = field(default_factory=lambda: list(FAMILIES))
    seed: int = 0
    out: Path = RESULTS / "chaos.json"
    dir: Path | None = None  # where runs live; None is a new folder in memory, which goes where all is well


def parse(words: list[str]) -> Settings:
    """Raises ValueError in one line for what is no setting."""
    kinds = {f.name: f for f in fields(Settings)}
    given: dict[str, Any] = {}
    for word in words:
        key, equals, value = word.partition("=")
        if key not in kinds or not equals:
            raise ValueError(f"{word}: give key=value with one of {', '.join(kinds)}")
        try:
            if key == "families":
                given[key] = value.strip("[]").split(",")
            else:
                given[key] = {"minutes": float, "reach": float, "signals": float, "patience": float, "out": Path, "dir": Path}.get(key, int)(value)
        except ValueError:
            raise ValueError(f"{word}: give a number") from None
    if any(isinstance(value, (int, float)) and value < 0 for value in given.values()):
        raise ValueError("give numbers of at least 0")
    settings = Settings(**given)
    if settings.troubles < 1 or settings.reach > 1 or settings.signals > 1:
        raise ValueError(f"troubles={settings.troubles} reach={settings.reach:g} signals={settings.signals:g}: "
                         "give at least 1 trouble, and shares up to 1")  # fmt: skip
    return settings


def main() -> None:
    settings = parse(sys.argv[1:])
    todo = tasks(settings.families)
    sessions.preload("benchmarks.chaos.warm")
    memory = Path("/dev/shm")
    parent = memory if os.access(memory, os.W_OK) else None
    work = settings.dir or Path(tempfile.mkdtemp(prefix="chaos-", dir=parent))
    work.mkdir(parents=True, exist_ok=True)
    make_material(work / "material")
    disk = small_disk(work / "disk")
    tally = Tally()
    began = time.monotonic()
    pace = Pace(settings.troubles, settings.reach, settings.signals, settings.patience)
    campaign = Campaign(work, work / "material", disk, tally, settings.seed, began + 60 * settings.minutes, pace)
    before = machine(threads=1)
    try:
        campaigns(campaign, settings, todo, began)
    except KeyboardInterrupt:
        print("stopped: what was done so far is written", flush=True)
    finally:
        if disk is not None:
            subprocess.run(["umount", str(disk)], check=False)
    for reference in work.glob("reference-*"):
        shutil.rmtree(reference)
    minutes = (time.monotonic() - began) / 60
    stated = {key: str(value) if isinstance(value, Path) else value for key, value in asdict(settings).items()}
    result = {"settings": stated | {"dir": None, "out": None}, "minutes": round(minutes, 1), **tally.as_json(), "machine": before,
              **provenance("torch", "pytorch-lightning")}  # fmt: skip
    write_json(settings.out, result)
    settings.out.with_suffix(".md").write_text(tally.table() + "\n")
    print(f"\n{tally.table()}\n\n{settings.out}")
    if tally.problems:
        raise SystemExit(1)
    if settings.dir is None:
        shutil.rmtree(work)


def campaigns(campaign: Campaign, settings: Settings, todo: list[Any], began: float) -> None:
    """The small ones first, then runs until kills or minutes are used up."""
    alone = [task for task in todo if task.variant == "plain"]
    if settings.fuzzed:
        fuzzed_images(campaign, settings.fuzzed, settings.seed)
        say(campaign, settings, began)
    if settings.damaged:
        damaged_checkpoints(campaign, alone, settings.damaged)
        say(campaign, settings, began)
    captions = [task for task in alone if task.family == "imagen_captions"]
    for _ in range(settings.pictures if captions and time.monotonic() < campaign.end else 0):
        campaign.bad_picture(captions[0])
    turn = 0
    while time.monotonic() < campaign.end and not (settings.kills and campaign.tally.kills >= settings.kills):
        campaign.disturb(todo[turn % len(todo)])
        turn += 1
        say(campaign, settings, began)


def say(campaign: Campaign, settings: Settings, began: float) -> None:
    """The tally and about how long it still takes."""
    took = (time.monotonic() - began) / 60
    left = settings.minutes - took
    if settings.kills and campaign.tally.kills:
        left = min(left, took * (settings.kills / campaign.tally.kills - 1))
    print(f"{took:5.1f} min, {max(left, 0):.0f} left: {campaign.tally.line()}", flush=True)


def small_disk(place: Path) -> Path | None:
    """A file system of its own that can be filled, where this process may mount one."""
    if not hasattr(os, "geteuid") or os.geteuid() != 0 or not shutil.which("mount"):
        return None
    place.mkdir(exist_ok=True)
    command = ["mount", "-t", "tmpfs", "-o", f"size={DISK_MIB}m", "chaos", str(place)]
    mounted = subprocess.run(command, capture_output=True).returncode == 0
    return place if mounted else None


if __name__ == "__main__":
    run(main)
