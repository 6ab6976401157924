"""The command evaluate.py: finds out what was asked for and which folder it goes to, and starts the evaluation."""

from __future__ import annotations

import os
import re
import shlex
from collections.abc import Sequence
from pathlib import Path

from omegaconf import DictConfig, OmegaConf

from evaluation.checkpoint_evaluation import evaluate_checkpoint
from evaluation.compare import compare
from evaluation.drawing import swept
from evaluation.folder_evaluation import evaluate_folder
from evaluation.metrics.base import Evaluator
from evaluation.metrics.run_evaluators import Ranks
from evaluation.output import table, write_report
from evaluation.processes import processes
from evaluation.report import FinishedEvaluation
from files import printable
from runtime.build import instantiate
from runtime.checkpoint import locate
from runtime.config import compose
from runtime.options import SHORT, chosen, given_options
from runtime.settings import check as check_settings
from runtime.settings import known_data, readable, writable

ASKED = ("ckpt", "images", "compare")
# Settings that only one of the three reads. With another one they are refused, or they would be ignored in silence.
ONLY_WITH = {
    "ckpt": (*SHORT, "weaker", "guide_clip", "options", "sweep", "binarize", "other_data", "importance_samples", "likelihood_options"),
    "images": ("reference", "prompts", "allow_lossy", "allow_outside"),
}


def run(overrides: Sequence[str]) -> tuple[DictConfig, list[FinishedEvaluation]]:
    """Evaluates as the overrides say; the results on process 0, none on the others.

    Raises:
        ValueError, FileNotFoundError: a wrong option, checkpoint, folder or split, in one line.
    """
    cfg = compose("evaluate", overrides)
    overrides = [shlex.quote(lasting(text)) for text in overrides]  # as a shell takes them, for the results' "reproduce"
    check(cfg)
    out = default_out(cfg)
    writable(out, "out")
    if cfg.compare is not None:
        results = compare(list(cfg.compare))
        print(f"{write_report(out, results)}")
        return cfg, results
    evaluators = {name: instantiate(node) for name, node in cfg.evaluator.items() if node is not None}
    with processes() as ranks:
        results = measured(cfg, overrides, out, evaluators, ranks)
    return cfg, results


def lasting(override: str) -> str:
    """An override that means the same tomorrow: in place of a link `latest`, the run that it leads to today."""

    def run_of(found: re.Match[str]) -> str:
        path = Path(found[0])
        return os.path.relpath(path.resolve()) if path.name == "latest" and path.is_symlink() else found[0]

    return re.sub(r"[^\[\],=]+", run_of, override)


def measured(
    cfg: DictConfig, overrides: Sequence[str], out: Path, evaluators: dict[str, Evaluator], ranks: Ranks
) -> list[FinishedEvaluation]:
    """The evaluations that need images: of a folder, or of one or several checkpoints."""
    found: list[FinishedEvaluation | None] = []
    if cfg.images is not None:
        found.append(evaluate_folder(cfg, overrides, out, evaluators, ranks))
    else:
        several = OmegaConf.is_list(cfg.ckpt)
        ckpts = list(cfg.ckpt) if several else [cfg.ckpt]
        for ckpt, name in zip(ckpts, names(ckpts, cfg.name)):
            place = out / name if several else out
            found.append(evaluate_checkpoint(cfg, overrides, ckpt, name, place, evaluators, ranks))
    results = [result for result in found if result is not None]
    if not results:
        return []
    for result in results:
        page = write_report(result.folder, [result])
        print(f"\n{printable(result.name)}\n{table(result.data)}\n\n{page}")
    if len(results) > 1:
        print(write_report(out, compare([str(result.folder) for result in results])))
    return results


def check(cfg: DictConfig) -> None:
    """Refuses what is missing, contradictory or out of range before anything is loaded."""
    check_settings("evaluate", cfg)
    asked = [name for name in ASKED if cfg[name] is not None]
    if len(asked) != 1:
        what = f"give one of {', '.join(f'{name}=' for name in asked)}" if asked else "what to evaluate?"
        ways = "ckpt=a run directory, a file or a name in zoo/; images=DIR reference=DIR; compare=[OUT1,OUT2]"
        raise ValueError(f"{what} Pass {ways}" if not asked else f"{what}, they are different things: {ways}")
    for kind, names_ in ONLY_WITH.items():
        wrong = [n for n in names_ if kind not in asked and _given(cfg[n])]
        if wrong:
            raise ValueError(f"{wrong[0]}= goes with {kind}=, and means nothing to {asked[0]}=")
    known_data(cfg.other_data)
    given_options(cfg)
    for option, values in swept(cfg).items():
        for value in values:
            chosen(option, value)
    if cfg.prompts is not None:
        readable(cfg.prompts, "prompts")
    for ckpt in cfg.ckpt if OmegaConf.is_list(cfg.ckpt) else [cfg.ckpt] if cfg.ckpt is not None else []:
        locate(ckpt)  # also the last of several is there, before the first is measured


def _given(value: object) -> bool:
    values = value.values() if OmegaConf.is_dict(value) else [value]
    return any(v is not None and v is not False for v in values)


def default_out(cfg: DictConfig) -> Path:
    """`evaluation/` in a run directory, `evaluations/<name>` here for one other thing, `evaluations` for several."""
    if cfg.out is not None:
        return Path(cfg.out)
    if cfg.compare is not None or OmegaConf.is_list(cfg.ckpt):
        return Path("evaluations")
    if cfg.images is not None:
        return Path("evaluations") / (cfg.name or Path(cfg.images).resolve().name)
    ckpt = Path(cfg.ckpt)
    if (ckpt / "checkpoints").is_dir():
        return ckpt / "evaluation"
    return Path("evaluations") / (cfg.name or ckpt.stem)


def names(ckpts: Sequence[str], name: str | None) -> list[str]:
    """One short name per checkpoint, all different: of the run or zoo folder, and of the file where one was named.

    Raises: ValueError for one `name` of several checkpoints.
    """
    if name is not None:
        if len(ckpts) > 1:
            what = f"name={name} for {len(ckpts)} checkpoints"
            raise ValueError(f"{what}: leave it out, they are named after their folders")
        return [name]
    found: list[str] = []
    for ckpt in ckpts:
        chosen = base = _name(ckpt)
        while chosen in found:
            chosen = f"{base}-{1 + sum(other.startswith(base) for other in found)}"
        found.append(chosen)
    return found


def _name(ckpt: str) -> str:
    path = Path(ckpt)
    if path.is_file():
        folder = path.resolve().parent
        run_name = folder.parent.name if folder.name == "checkpoints" else ""
        return f"{run_name}-{path.stem}" if run_name else path.stem
    return (path if path.is_dir() else locate(ckpt) if "/" not in ckpt else path).resolve().name
