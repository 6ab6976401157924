"""Runs that are disturbed until they are done, and what is compared then."""

from __future__ import annotations

import math
import os
import random
import re
import shutil
import signal
import time
from dataclasses import dataclass, field
from multiprocessing import Process
from pathlib import Path
from typing import Any

from benchmarks import sessions
from benchmarks.chaos import troubles
from benchmarks.chaos.families import STEPS, Task
from benchmarks.chaos.tally import Tally


@dataclass(frozen=True)
class Pace:
    """How hard runs are met.

    Args:
        troubles: at most so many for one run; then it is left in peace.
        reach: a signal comes while a session is within this share of all steps from where it began. The shorter, the
            more of them a run meets before it is done.
        signals: share of troubles that are signals; the rest are full disks.
        patience_sec: a session that takes longer hangs. An undisturbed one takes a few seconds on a machine with time for it.
    """

    troubles: int = 6
    reach: float = 0.9
    signals: float = 0.72
    patience_sec: float = 240.0


@dataclass
class Reference:
    """A run that nobody disturbed."""

    contents: dict[str, Any]
    checkpoint_bytes: int
    train_sec: float


@dataclass
class Place:
    """Where one disturbed run lives, and what it has met."""

    task: Task
    folder: Path
    run: Path
    on_small_disk: bool
    sessions: int = 0
    met: list[str] = field(default_factory=list)
    unnoticed: str | None = None  # a damaged checkpoint that no session has passed over yet
    disk_was_full: bool = False

    def new_log(self) -> Path:
        self.sessions += 1
        return self.folder / f"session-{self.sessions:02d}.log"


class Campaign:
    """Disturbs runs in `work`; `disk` is a small file system for runs on an almost full disk, or None."""

    def __init__(
        self, work: Path, material: Path, disk: Path | None, tally: Tally, seed: int, end: float = math.inf, pace: Pace = Pace()
    ) -> None:
        self.pace = pace
        self.end = end  # by time.monotonic(): nothing is begun after it
        self.work, self.material, self.disk, self.tally = work, material, disk, tally
        self.rng = random.Random(seed)
        self.references: dict[str, Reference] = {}
        self.number = 0

    def reference(self, task: Task) -> Reference:
        """The undisturbed run of a task, made once. Raises RuntimeError where even that fails."""
        if task.name not in self.references:
            folder = self.work / f"reference-{task.name}"
            folder.mkdir()
            process = sessions.start(task.arguments(folder / "run", self.material), folder / "log")
            self.wait(folder / "log", process)
            began = time.monotonic()
            process.join(self.pace.patience_sec)
            if process.exitcode != 0:
                text = (folder / "log").read_text()[-800:]
                raise RuntimeError(f"{task.name} fails undisturbed, with exit code {process.exitcode}: {text}")
            newest = sorted((folder / "run" / "checkpoints").glob("*.ckpt"))[-1]
            took = time.monotonic() - began
            self.references[task.name] = Reference(sessions.contents(folder / "run"), newest.stat().st_size, took)
        return self.references[task.name]

    def wait(self, log: Path, process: Process) -> None:
        """Until training begins or the session ends."""
        sessions.wait_for(lambda: log.exists() and "run: " in log.read_text(), process, self.pace.patience_sec)

    # ---- one run ----

    def disturb(self, task: Task) -> None:
        """One run from its first session to the comparison."""
        reference = self.reference(task)
        self.number += 1
        folder = self.work / f"{self.number:05d}-{task.name}"
        folder.mkdir()
        small = self.disk is not None and self.rng.random() < 0.25
        place = Place(task, folder, (self.disk / folder.name if small else folder / "run"), small)
        found = len(self.tally.problems)
        self.tally.add("runs")
        kinds = troubles.TOGETHER if task.processes > 1 else troubles.with_signals(troubles.ALONE, self.pace.signals)
        done = False
        for _ in range(self.rng.randint(1, self.pace.troubles)):
            done = self.session(place, troubles.choose(kinds, self.rng), reference)
            if done:
                break
            self.between(place)
        for _ in range(2):  # the second is for a run whose disk was full
            done = done or self.session(place, "nothing", reference)
        if done:
            self.compare(place, reference)
        else:
            self.problem("lost", place, f"not finished; last words: {self.last_words(place)}")
        if len(self.tally.problems) == found:
            shutil.rmtree(folder)
        if small:
            if len(self.tally.problems) > found:
                shutil.copytree(place.run, folder / "run", symlinks=True)
            shutil.rmtree(place.run, ignore_errors=True)

    def session(self, place: Place, kind: str, reference: Reference) -> bool:
        """One session with one trouble; whether the run is finished after it."""
        rng, log = self.rng, place.new_log()
        if kind == "small_disk" and not place.on_small_disk:
            kind = "file_limit"
        place.met.append(kind)
        resuming = (place.run / "resume.yaml").exists()
        arguments = [f"resume={place.run}"] if resuming else place.task.arguments(place.run, self.material)
        ballast = None
        if kind == "small_disk":
            ballast = troubles.Ballast(self.disk, int(reference.checkpoint_bytes * rng.uniform(0.05, 2.5)))
        process = sessions.start(arguments, log, troubles.before_session(kind, rng, reference.checkpoint_bytes))
        hit = kind in troubles.SIGNALS and self.strike(process, kind, place, log, reference)
        process.join(self.pace.patience_sec)
        if process.exitcode is None:
            self.problem("hung", place, f"{kind}: {self.last_words(place)}")
            os.kill(process.pid, signal.SIGKILL)
            process.join()
        self.check_left_behind(place, process, kind)
        if ballast is not None:
            ballast.drop()
        self.tally.add(f"hit_{kind}" if hit else kind)
        self.tally.exit(kind if hit or kind in troubles.FULL else "nothing", process.exitcode)
        place.disk_was_full |= kind in troubles.FULL
        if hit and process.exitcode != 0:
            self.tally.add("torn_writes", len(list(place.run.rglob("*.tmp-*"))))
        text = log.read_text(errors="replace")
        noticed = f"{place.unnoticed} is damaged" in text  # also by a session that was killed right after
        if place.unnoticed and (noticed or "run: " in text):
            self.tally.add("fell_back", noticed)
            if not noticed:
                self.problem("undetected", place, place.unnoticed)
            place.unnoticed = None
        return self.judge(place, kind, hit, process.exitcode, text)

    def strike(self, process: Process, kind: str, place: Place, log: Path, reference: Reference) -> bool:
        """Waits for the moment and sends the signal; whether it came in time."""
        rng = self.rng
        if kind == "sigkill_starting":
            time.sleep(rng.uniform(0, 1.0))
            return troubles.send(process, kind) if process.is_alive() else False
        self.wait(log, process)
        target = (newest_step(place.run) or 0) + int(rng.uniform(0, self.pace.reach) * STEPS)
        while process.is_alive() and (newest_step(place.run) or 0) < target:
            time.sleep(0.002)
        process.join(rng.uniform(0, 2 * reference.train_sec / STEPS))
        if kind == "sigkill_writing":
            checkpoints = place.run / "checkpoints"
            while process.is_alive() and not any(".tmp-" in e.name for e in os.scandir(checkpoints)):
                time.sleep(0.0002)
        return process.is_alive() and troubles.send(process, kind)

    def judge(self, place: Place, kind: str, hit: bool, code: int | None, text: str) -> bool:
        """Whether the run is finished, by its exit code; an exit code that does not fit is a problem."""
        finished = newest_step(place.run) == STEPS
        together = place.task.processes > 1
        if code == 0 and not finished:
            what = "silent" if kind in troubles.FULL else "wrong_exit"
            self.problem(what, place, f"{kind}: exit code 0 at step {newest_step(place.run)}: {text[-300:]}")
        allowed = {"sigterm": {143, -15}, "ctrl_c": {130}, "sigkill": {-9}}
        if hit and code != 0 and not together:
            expected = next(codes for name, codes in allowed.items() if kind.startswith(name))
            if code not in expected:
                self.problem("wrong_exit", place, f"{kind}: {code}: {text[-300:]}")
        if (end := traceback_in(text)) and not together and not (hit and kind.startswith("sigkill")):
            self.problem("traceback", place, f"{kind}: {end[-500:]}")
        return code == 0 and finished

    def check_left_behind(self, place: Place, process: Process, kind: str) -> None:
        left = sessions.left_behind(process.pid, within=self.pace.patience_sec / 8)
        if left:
            self.problem("left_behind", place, f"{kind}: {len(left)} processes")
        for pid in left:
            try:
                os.kill(pid, signal.SIGKILL)
            except ProcessLookupError:
                continue

    def between(self, place: Place) -> None:
        """An accident to the run's files, or none."""
        kind = troubles.choose(troubles.BETWEEN, self.rng)
        if kind == "damaged_checkpoint" and not place.unnoticed:
            place.unnoticed = troubles.damage_newest(place.run / "checkpoints", self.rng)
            self.tally.add("damaged_checkpoints", place.unnoticed is not None)
            place.met.append(f"damaged {place.unnoticed}")
        elif kind == "torn_metrics" and troubles.tear_metrics(place.run, self.rng):
            self.tally.add("torn_metrics")
            place.met.append("torn metrics")

    def compare(self, place: Place, reference: Reference) -> None:
        """Weights, averages, optimiser, metrics and pictures against the undisturbed run's."""
        left = [p.name for p in place.run.rglob("*.tmp-*")]
        if left:
            self.problem("left_behind", place, f"temporary files at the end: {left}")
        try:
            ours, whole = sessions.contents(place.run), dict(reference.contents)
            if place.disk_was_full:  # a picture that has no room is dropped, and said
                missing = set(whole["pictures"]) - set(ours["pictures"])
                self.tally.add("pictures_without_room", len(missing))
                whole["pictures"] = {n: p for n, p in whole["pictures"].items() if n not in missing}
            sessions.assert_same(ours, whole)
        except Exception as error:  # whatever cannot be read is a difference too
            self.problem("different", place, f"{type(error).__name__}: {error}")
        else:
            self.tally.add("equal")

    # ---- a picture that goes bad ----

    def bad_picture(self, task: Task) -> None:
        """A picture turns to junk between two sessions: it is named, and the run goes on or is refused in one line."""
        self.number += 1
        folder = self.work / f"{self.number:05d}-bad-picture"
        material = folder / "material"
        shutil.copytree(self.material, material)
        place = Place(task, folder, folder / "run", False)
        found = len(self.tally.problems)
        first = sessions.start(task.arguments(place.run, material), place.new_log())
        sessions.wait_for(lambda: (newest_step(place.run) or 0) > 5, first, self.pace.patience_sec)
        os.kill(first.pid, signal.SIGKILL) if first.is_alive() else None
        first.join()
        picture = self.rng.choice(sorted((material / "captions").glob("*.png")))
        good, kind = picture.read_bytes(), self.rng.choice(troubles.DAMAGES)
        picture.write_bytes(troubles.damage(good, "truncated" if kind == "bit_flipped" else kind, self.rng))
        log = place.new_log()
        code = sessions.run([f"resume={place.run}"], log, self.pace.patience_sec)
        text = log.read_text(errors="replace")
        self.tally.add("bad_pictures")
        self.tally.exit("bad picture", code)
        told = picture.name in text or "image" in text or "data" in text
        if code in (0, 2) and "Traceback" not in text and told:
            self.tally.add("bad_pictures_counted")
        else:
            self.problem("lost", place, f"{kind} {picture.name}: exit code {code}: {text[-400:]}")
        if code == 2:  # refused: with the picture back, it is the same run
            picture.write_bytes(good)
            code = sessions.run([f"resume={place.run}"], place.new_log(), self.pace.patience_sec)
            if code:
                self.problem("lost", place, f"picture restored, exit code {code}: {self.last_words(place)}")
        if len(self.tally.problems) == found:
            shutil.rmtree(folder)

    # ---- words ----

    def problem(self, kind: str, place: Place, what: str) -> None:
        met = " -> ".join(place.met)
        self.tally.problem(kind, place.task.name, f"{what} [{met}]", str(place.folder))

    @staticmethod
    def last_words(place: Place) -> str:
        logs = sorted(place.folder.glob("session-*.log"))
        return logs[-1].read_text(errors="replace")[-400:] if logs else ""


def traceback_in(text: str) -> str:
    """The first traceback and what follows it, or "". Python prints one too where it ignores an exception and goes on."""
    told = re.sub(r"(?m)^(Exception ignored in.*\n)Traceback", r"\1", text)
    return told[told.index("Traceback") :] if "Traceback" in told else ""


def newest_step(run: Path) -> int | None:
    """The step of the newest checkpoint by its name."""
    found = sorted((run / "checkpoints").glob("step=*.ckpt"))
    return int(found[-1].stem.partition("=")[2]) if found else None
