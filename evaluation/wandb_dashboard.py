"""A W&B workspace for evaluations, as code: python -m evaluation.wandb_dashboard ENTITY/PROJECT [EVALUATION …] [--print]

Every family logs the same keys, so one dashboard compares all runs of a project. The folders of finished evaluations
say which splits and metrics there are; without any, those of captioned scenes are taken. `--print` shows what would be
created and needs neither a login nor the network.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from evaluation.report import FinishedEvaluation

DEFAULT = {split: ("all_correct", "skills_mean", "fd_efficientnet_lite0") for split in ("iid", "combo", "word")}
NEEDS = "this needs the package wandb-workspaces: pip install wandb-workspaces (or look with --print)"
LOGIN = "no W&B login here: run `wandb login`, or set WANDB_API_KEY (or look with --print)"


@dataclass(frozen=True)
class Panel:
    """One panel: `kind` bars, lines, media, table or runs."""

    kind: str
    title: str
    keys: tuple[str, ...] = ()


def plan(splits: dict[str, tuple[str, ...]], sweeps: Sequence[str] = ()) -> dict[str, list[Panel]]:
    """Sections and their panels.

    Args:
        splits: {split: headline metrics}.
        sweeps: swept options, for instance guidance_scale.
    """
    scores = [
        Panel("bars", f"{metric}, {split}", (f"eval/{split}/{metric}",)) for split in splits for metric in splits[split]
    ]
    training = [Panel("lines", panel.title, panel.keys) for panel in scores]
    pictures = [Panel("media", f"samples, {split}", (f"eval/{split}/samples",)) for split in splits]
    tables = [
        Panel("table", f"{what}, {split}", (f"eval/{split}/{what}",))
        for split in splits
        for what in ("skills", "images")
    ]
    sections = {
        "Scores": scores,
        "Samples": pictures,
        "Report": [Panel("media", "report", ("eval/report",))],
        "Sweeps": [Panel("table", option, (f"eval/sweep/{option}",)) for option in sweeps],
        "Tables": tables,
        "Cost": [Panel("bars", what, (f"eval/cost/{what}",)) for what in ("parameters", "nfe", "sec_per_image")],
        "During training": training,
        "Runs": [Panel("runs", "configuration")],
    }
    return {name: panels for name, panels in sections.items() if panels}


def plan_of(places: Sequence[str]) -> dict[str, list[Panel]]:
    """The plan for finished evaluations, or for captioned scenes where none are named."""
    results = [FinishedEvaluation.load(place) for place in places]
    splits: dict[str, dict[str, None]] = {}
    for result in results:
        for split, entry in result.splits.items():
            headlines = [name for name, row in entry["metrics"].items() if row.get("headline", True)]
            splits.setdefault(split, {}).update(dict.fromkeys(headlines))
    sweeps = dict.fromkeys(sweep["option"] for result in results for sweep in result.data.get("sweeps") or [])
    return plan({split: tuple(names) for split, names in splits.items()} or DEFAULT, tuple(sweeps))


def described(sections: dict[str, list[Panel]]) -> str:
    """The plan as text, a line per panel."""
    lines = []
    for name, panels in sections.items():
        lines += [name, *[f"  {panel.kind:<6} {panel.title:<28} {' '.join(panel.keys)}".rstrip() for panel in panels]]
    return "\n".join(lines)


def workspace(entity: str, project: str, sections: dict[str, list[Panel]]) -> Any:
    """The plan as an unsaved wandb_workspaces.workspaces.Workspace.

    Raises:
        ValueError: the package is missing.
    """
    try:
        import wandb_workspaces.reports.v2 as wr
        import wandb_workspaces.workspaces as ws
    except ImportError:
        raise ValueError(NEEDS) from None
    make = {
        "bars": lambda p: wr.BarPlot(title=p.title, metrics=[wr.SummaryMetric(key) for key in p.keys]),
        "lines": lambda p: wr.LinePlot(title=p.title, x="step", y=list(p.keys)),
        "media": lambda p: wr.MediaBrowser(title=p.title, media_keys=list(p.keys), num_columns=1),
        "table": lambda p: wr.WeavePanelSummaryTable(table_name=p.keys[0]),
        "runs": lambda p: wr.RunComparer(diff_only="split"),
    }
    made = [
        ws.Section(name=name, panels=[make[panel.kind](panel) for panel in panels], is_open=i < 3)
        for i, (name, panels) in enumerate(sections.items())
    ]
    return ws.Workspace(entity=entity, project=project, name="Evaluation", sections=made)


def save(entity: str, project: str, sections: dict[str, list[Panel]]) -> str:
    """Creates the workspace in the project and returns its address.

    Raises:
        ValueError: no package, no login, or W&B refused; in one line.
    """
    made = workspace(entity, project, sections)
    import wandb

    try:
        logged_in = wandb.login(prompt=False)
    except Exception:
        logged_in = False
    if not logged_in:
        raise ValueError(LOGIN)
    try:
        return str(made.save().url)
    except Exception as error:
        reason = (str(error) or type(error).__name__).splitlines()[0]
        raise ValueError(f"W&B did not take the workspace for {entity}/{project}: {reason}") from None


def main(arguments: Sequence[str]) -> None:
    """The command; a mistake is answered in one line on stderr with exit code 2."""
    parser = argparse.ArgumentParser(prog="python -m evaluation.wandb_dashboard", description="Create a W&B workspace.")
    parser.add_argument("place", metavar="ENTITY/PROJECT")
    parser.add_argument("evaluations", nargs="*", metavar="EVALUATION", help="folders that evaluate.py wrote")
    parser.add_argument("--print", action="store_true", dest="look", help="show what would be created, and stop")
    asked = parser.parse_args(arguments)
    try:
        entity, _, project = asked.place.partition("/")
        if not entity or not project or "/" in project:
            raise ValueError(f"where to? Pass ENTITY/PROJECT, for instance my-name/imagen, got {asked.place!r}")
        sections = plan_of(asked.evaluations)
        print(described(sections) if asked.look else save(entity, project, sections))
    except (ValueError, FileNotFoundError) as error:
        print(f"error: {error}", file=sys.stderr)
        raise SystemExit(2) from None


if __name__ == "__main__":
    main(sys.argv[1:])
