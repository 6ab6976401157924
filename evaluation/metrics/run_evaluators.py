"""Runs evaluators over one set of prompts and their generated images."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch.distributed as dist
from torch import Tensor

from evaluation.metrics.base import Evaluator, NotComputed, by_metric
from evaluation.metrics.card import Card
from evaluation.metrics.prompt_set import PromptSet

PER_IMAGE = ("captions", "specs", "labels")  # what an image of a folder may lack though others have it


@dataclass
class Numbers:
    """Numbers of one split: per metric its value, unit, direction, interval, controls and protocol."""

    metrics: dict[str, dict[str, Any]] = field(default_factory=dict)
    not_computed: dict[str, str] = field(default_factory=dict)
    details: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Ranks:
    """The processes that share a measurement: image i belongs to process i mod `world`.

    Args:
        gather: called by every process with its object, gives the list of all, in the order of ranks.
    """

    rank: int = 0
    world: int = 1
    gather: Callable[[Any], list[Any]] = field(default=lambda mine: [mine])

    def share(self, n: int) -> list[int]:
        """This process's indices out of n."""
        return list(range(n))[self.rank :: self.world]


ALONE = Ranks()


def gather(mine: Any) -> list[Any]:
    """Every process's object, in the order of ranks."""
    shares: list[Any] = [None] * dist.get_world_size()
    dist.all_gather_object(shares, mine)
    return shares


def measure(
    evaluators: dict[str, Evaluator],
    prompts: PromptSet,
    fake: Callable[[list[int]], Tensor],
    batch_size: int = 64,
    device: str = "cpu",
    ranks: Ranks = ALONE,
) -> Numbers:
    """Every evaluator's numbers for `fake(indices)`, uint8 (B, C, H, W), in one pass over the images.

    An evaluator that raises NotComputed drops out, with its reason, and the others go on. With several processes each
    reads its share of the images; process 0 has the numbers, the others get an empty `Numbers`.
    """
    found = Numbers()
    going: dict[str, Evaluator] = {}
    reasons: dict[str, str] = {}
    for name, evaluator in evaluators.items():
        evaluator.reset()
        if (lacking := _lacking(evaluator, prompts)) is not None:
            reasons[name] = lacking
            continue
        going[name] = evaluator
        _attempt(name, reasons, lambda: evaluator.prepare(prompts))
    mine = ranks.share(len(prompts))
    for start in range(0, len(mine), batch_size):
        if not (active := {name: e for name, e in going.items() if name not in reasons}):
            break
        batch = _Batch(prompts, mine[start : start + batch_size], fake, device)
        for name, evaluator in active.items():
            _attempt(name, reasons, lambda: batch.give(evaluator))
    # One process may fail where another does not, for instance for weights that only one of them has.
    for other in reversed(ranks.gather(reasons)):
        reasons |= other
    for name, evaluator in evaluators.items():
        if name not in reasons:
            evaluator.sync(ranks.gather)
    if ranks.rank != 0:
        return found
    for name, evaluator in evaluators.items():
        if name not in reasons:
            _attempt(name, reasons, lambda: _collect(found, evaluator, prompts))
        if name in reasons:
            found.not_computed[evaluator.headlines[0]] = reasons[name]
    return found


def _lacking(evaluator: Evaluator, prompts: PromptSet) -> str | None:
    """Why this data or this model cannot give what the evaluator needs; None if it can."""
    lacking = [name for name in sorted(evaluator.needs) if getattr(prompts, name) is None]
    why = " (a likelihood of latents is none of images)" if lacking == ["likelihood"] else ""
    return f"needs {' and '.join(lacking)}, which this data or this model does not have{why}" if lacking else None


def _attempt(name: str, reasons: dict[str, str], action: Callable[[], None]) -> None:
    try:
        action()
    except NotComputed as reason:
        reasons[name] = str(reason)


class _Batch:
    """One batch of images, read once and given to every evaluator with what it asks for."""

    def __init__(
        self, prompts: PromptSet, indices: list[int], fake: Callable[[list[int]], Tensor], device: str
    ) -> None:
        self.prompts, self.indices, self.device = prompts, indices, device
        self.fake = fake(indices).to(device)
        self.real = prompts.real[indices].to(device)
        self.images = {
            name: image[indices].to(device)
            for name in ("reference", "reconstruction")
            if (image := getattr(prompts, name)) is not None
        }

    def give(self, evaluator: Evaluator) -> None:
        """Updates an evaluator with those images that have all the texts and labels it needs."""
        prompts = self.prompts
        rows = _answerable(evaluator, prompts, self.indices)
        if not rows:
            return
        indices = [self.indices[row] for row in rows]
        every = len(rows) == len(self.indices)
        extra: dict[str, Any] = {n: image if every else image[rows] for n, image in self.images.items()}
        for name in ("specs", "labels"):
            if (values := getattr(prompts, name)) is not None:
                extra[name] = [values[i] for i in indices]
        if prompts.likelihood is not None:
            extra["likelihood"] = {key: column[indices] for key, column in prompts.likelihood.items()}
        captions = None if prompts.captions is None else [prompts.captions[i] or "" for i in indices]
        real, fake = (self.real, self.fake) if every else (self.real[rows], self.fake[rows])
        evaluator.update(real, fake, captions, indices=indices, **extra)


def _answerable(evaluator: Evaluator, prompts: PromptSet, indices: Sequence[int]) -> list[int]:
    """Positions of those indices whose captions, specs and labels are there, as far as the evaluator needs them."""
    columns = [getattr(prompts, name) for name in PER_IMAGE if name in evaluator.needs]
    return [row for row, i in enumerate(indices) if all(column[i] is not None for column in columns)]


def _collect(found: Numbers, evaluator: Evaluator, prompts: PromptSet) -> None:
    """Adds an evaluator's numbers, with their circumstances, to what was found."""
    rows = by_metric(evaluator.compute())
    n = len(_answerable(evaluator, prompts, range(len(prompts))))
    protocol = evaluator.protocol() | prompts.identity(evaluator.needs) | {"images": n}
    unpaired = not prompts.paired and evaluator.needs & set(PER_IMAGE)
    for metric, row in rows.items():
        if unpaired:
            row.pop("real", None)
        card = Card(metric, row["value"], prompts.split, n, n, "", "", None, protocol)
        found.metrics[metric] = row | {
            "unit": _of(evaluator.unit, metric, ""),
            "higher_is_better": _of(evaluator.higher_is_better, metric, False),
            "headline": metric in evaluator.headlines,
            "section": evaluator.section,
            "protocol": protocol,
            "protocol_id": card.protocol_id(),
        }
        found.metrics[metric].setdefault("n", n)
    found.details |= evaluator.details()


def _of(value: Any, metric: str, default: Any) -> Any:
    """One answer for all metrics of an evaluator, or a dict with some."""
    return value.get(metric, default) if isinstance(value, dict) else value
