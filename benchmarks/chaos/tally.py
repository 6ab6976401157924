"""What happened, counted, as JSON and as a table."""

from __future__ import annotations

from collections import Counter
from typing import Any

from benchmarks.common import markdown_table
from benchmarks.chaos.troubles import FULL, SIGNALS

# Violations of what is promised; each of them makes the campaign fail.
PROBLEMS = {
    "different": "runs that ended differently",
    "lost": "runs that could not be finished",
    "wrong_exit": "sessions with an exit code that says something else than what happened",
    "silent": "sessions that ended with exit code 0 and without a last checkpoint",
    "traceback": "sessions that ended in a traceback",
    "hung": "sessions that neither ended nor went on",
    "left_behind": "sessions that left processes or temporary files behind",
    "undetected": "damaged checkpoints that were taken for good",
    "crashed": "image files that ended a process, or an error without a name",
}


class Tally:
    """Counts by name, and the problems with their details."""

    def __init__(self) -> None:
        self.counts: Counter[str] = Counter()
        self.exits: Counter[str] = Counter()
        self.problems: list[dict[str, str]] = []

    @classmethod
    def of(cls, result: dict[str, Any]) -> Tally:
        """The tally of a campaign that is over, from its JSON."""
        tally = cls()
        tally.counts.update(result["counts"])
        tally.exits.update(result["exit_codes"])
        tally.problems = result["problems"]
        return tally

    def add(self, name: str, n: int = 1) -> None:
        self.counts[name] += n

    def exit(self, kind: str, code: int | None) -> None:
        """An exit code, by what was done to the session."""
        self.exits[f"{kind}: {code}"] += 1

    def problem(self, kind: str, task: str, what: str, kept: str = "") -> None:
        self.problems.append({"kind": kind, "task": task, "what": what[:600], "kept": kept})
        print(f"problem: {kind} {task}: {what[:600]}  {kept}", flush=True)

    @property
    def kills(self) -> int:
        return sum(self.counts[f"hit_{kind}"] for kind in SIGNALS)

    def line(self) -> str:
        """One line to follow a campaign by."""
        c = self.counts
        parts = [f"{c['runs']} runs", f"{c['equal']} equal", f"{self.kills} kills", f"{c['torn_writes']} torn writes",
                 f"{c['damaged_checkpoints']} damaged, {c['fell_back']} fell back",
                 f"{sum(c[kind] for kind in FULL)} full disks", f"{len(self.problems)} problems"]  # fmt: skip
        return ", ".join(parts)

    def rows(self) -> list[tuple[str, str]]:
        """Lines of the table: what, how many."""
        c = self.counts
        rows = [("runs, each compared with one that nobody disturbed", f"{c['runs']}"),
                ("… equal bit for bit, with byte-equal metrics and pictures", f"{c['equal']}")]  # fmt: skip
        for what, kinds in KILLS.items():
            if n := sum(c[f"hit_{kind}"] for kind in kinds):
                rows.append((what, f"{n:,}"))
        rows.append(("all kills", f"{self.kills:,}"))
        for name, what in NAMES.items():
            if c[name]:
                rows.append((what, f"{c[name]:,}"))
        found = Counter(p["kind"] for p in self.problems)
        rows += [(what, f"{found[kind]}") for kind, what in PROBLEMS.items()]
        return rows

    def table(self) -> str:
        return markdown_table(("", "count"), self.rows())

    def as_json(self) -> dict[str, Any]:
        return {"kills": self.kills, "counts": dict(sorted(self.counts.items())),
                "exit_codes": dict(sorted(self.exits.items())), "problems": self.problems}  # fmt: skip


KILLS = {
    "SIGKILL in training, saving, validating, drawing": ("sigkill",),
    "SIGKILL while a checkpoint is written": ("sigkill_writing",),
    "SIGKILL while a session starts": ("sigkill_starting",),
    "SIGTERM": ("sigterm",),
    "Ctrl-C": ("ctrl_c", "ctrl_c_all"),
    "Ctrl-C twice": ("ctrl_c_twice",),
    "SIGKILL of rank 0 of two": ("sigkill_rank_0",),
    "SIGKILL of rank 1 of two": ("sigkill_rank_1",),
    "SIGTERM of rank 0 or rank 1 of two": ("sigterm_rank_0", "sigterm_rank_1"),
}
NAMES = {
    "torn_writes": "unfinished files met after a kill",
    "damaged_checkpoints": "newest checkpoints damaged between two sessions",
    "fell_back": "… noticed, and the one before taken",
    "torn_metrics": "metrics.jsonl torn between two sessions",
    "file_limit": "sessions under a limit on the size of files",
    "no_space": "sessions with writes that fail (ENOSPC)",
    "small_disk": "sessions on a disk that is almost full",
    "damaged": "checkpoints damaged in all ways, by the hundred",
    "detected": "… detected",
    "harmless": "… in bytes that mean nothing: the contents are the same",
    "stock_detected": "… that torch.load alone would have noticed",
    "fuzzed": "damaged image files read",
    "pictures": "… that still give a picture",
    "refused": "… refused with a named reason",
    "stock_ended": "… at which torchvision's loader would have ended the training",
    "bad_pictures": "pictures that went bad between two sessions of a run",
    "bad_pictures_counted": "… named, and the run went on or was refused in one line",
}
