"""What evaluate.py does: which of the three things was asked for, into which folder, by how many processes."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from omegaconf import DictConfig, OmegaConf

from evaluators.base import Evaluator
from evaluators.measure import Ranks
from evaluators.report import Result
from evaluators.results import table, write_report
from files import printable
from runtime.build import instantiate
from runtime.checkpoint import locate
from runtime.config import compose
from runtime.evaluation.compare import compare
from runtime.evaluation.folders import evaluate_folder
from runtime.evaluation.models import evaluate_checkpoint
from runtime.evaluation.processes import processes
from runtime.evaluation.sampling import OPTIONS, check_precision
from runtime.evaluation.sweeps import setting

ASKED = ("ckpt", "images", "compare")
# Settings that are lists, with an example.
LISTS = {"splits": "iid,word", "other_data": "mnist", "importance_samples": "50,500", "compare": "OUT1,OUT2"}
# Settings that mean nothing to the other two: given all the same, they would be ignored without a word.
ONLY_WITH = {
    "ckpt": ("guidance_scale", "num_steps", "sampler", "sweep", "other_data", "importance_samples"),
    "images": ("reference", "prompts", "allow_lossy", "allow_outside"),
}


def run(overrides: Sequence[str]) -> tuple[DictConfig, list[Result]]:
    """Evaluates as the overrides say; the results on process 0, none on the others.

    Raises:
        ValueError, FileNotFoundError: a wrong option, checkpoint, folder or split, in one line.
    """
    cfg = compose("evaluate", overrides)
    check(cfg)
    out = default_out(cfg)
    if cfg.compare is not None:
        results = compare([str(place) for place in cfg.compare])
        print(f"{write_report(out, results)}")
        return cfg, results
    evaluators = {name: instantiate(node) for name, node in cfg.evaluator.items() if node is not None}
    with processes() as ranks:
        results = measured(cfg, overrides, out, evaluators, ranks)
    return cfg, results


def measured(
    cfg: DictConfig, overrides: Sequence[str], out: Path, evaluators: dict[str, Evaluator], ranks: Ranks
) -> list[Result]:
    """The evaluations that need images: of a folder, or of one or several checkpoints."""
    found: list[Result | None] = []
    if cfg.images is not None:
        found.append(evaluate_folder(cfg, overrides, out, evaluators, ranks))
    else:
        several = OmegaConf.is_list(cfg.ckpt)
        ckpts = [str(ckpt) for ckpt in (cfg.ckpt if several else [cfg.ckpt])]
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
    asked = [name for name in ASKED if cfg[name] is not None]
    if len(asked) != 1:
        what = f"give one of {', '.join(f'{name}=' for name in asked)}" if asked else "what to evaluate?"
        ways = "ckpt=a run directory, a file or a name in zoo/; images=DIR reference=DIR; compare=[OUT1,OUT2]"
        raise ValueError(f"{what} Pass {ways}" if not asked else f"{what}, they are different things: {ways}")
    for kind, names_ in ONLY_WITH.items():
        wrong = [n for n in names_ if kind not in asked and _given(cfg[n])]
        if wrong:
            raise ValueError(f"{wrong[0]}= goes with {kind}=, and means nothing to {asked[0]}=")
    for name, least in (("n", 1), ("batch_size", 1), ("train_images", 1)):
        if not (name == "n" and cfg.n is None) and (not isinstance(cfg[name], int) or cfg[name] < least):
            raise ValueError(f"{name} must be a whole number of at least {least}, got {cfg[name]!r}")
    check_precision(str(cfg.precision))
    examples = {"guidance_scale": "1,2,4", "num_steps": "8,16,32", "sampler": "ddim,heun"}
    lists = [(name, cfg[name], example) for name, example in LISTS.items()]
    lists += [(f"sweep.{name}", cfg.sweep[name], examples[name]) for name in OPTIONS]
    for name, values, example in lists:
        if values is not None and not (OmegaConf.is_list(values) and len(values)):
            raise ValueError(f"{name} must be a list, for instance {name}=[{example}], got {values!r}")
    for option in OPTIONS:
        for value in cfg.sweep[option] or ():
            setting(cfg, option, value)


def _given(value: object) -> bool:
    values = value.values() if OmegaConf.is_dict(value) else [value]
    return any(v is not None and v is not False for v in values)


def default_out(cfg: DictConfig) -> Path:
    """`evaluation/` in a run directory, `evaluation/<name>` here for one other thing, `evaluation` for several."""
    if cfg.out:
        return Path(cfg.out)
    if cfg.compare is not None or OmegaConf.is_list(cfg.ckpt):
        return Path("evaluation")
    if cfg.images is not None:
        return Path("evaluation") / str(cfg.name or Path(cfg.images).resolve().name)
    ckpt = Path(cfg.ckpt)
    if (ckpt / "checkpoints").is_dir():
        return ckpt / "evaluation"
    return Path("evaluation") / str(cfg.name or ckpt.stem)


def names(ckpts: Sequence[str], name: str | None) -> list[str]:
    """One short name per checkpoint, all different: of the run or zoo folder, and of the file where one was named.

    Raises: ValueError for one `name` of several checkpoints.
    """
    if name is not None:
        if len(ckpts) > 1:
            what = f"name={name} for {len(ckpts)} checkpoints"
            raise ValueError(f"{what}: leave it out, they are named after their folders")
        return [str(name)]
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
