"""A cascade that learns to draw in few steps what a trained one draws in many."""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterable, Mapping
from typing import Any

import torch
from torch import Tensor

from contracts import Batch
from diffusion.distillation import aligned, few_step_target
from diffusion.learned_denoiser import LearnedVarianceDenoiser
from diffusion.process import add_noise, expand
from diffusion.samplers import ddim
from lightning_modules.stage import DiffusionStage
from rng.keyed import keyed_randn


class Distillation:
    """Training on the steps of a teacher in place of the data's noise.

    Each step of the student learns to end where `substeps` DDIM steps of the teacher end, the teacher's guidance and
    threshold included. So the student draws with num_steps steps of DDIM and a single pass in each. The teacher is loaded
    with the first batch and is no part of the module tree: a checkpoint holds its checksum, and drawing does not need it.

    Args:
        ckpt: the teacher, a run, checkpoint or name in zoo/ with the same stages; the student should start from it (`init=`).
        load: ckpt -> (module, its configuration, facts with a `sha256`).
        num_steps: of the student, for every stage that trains, or stage name -> number.
        substeps: of the teacher, in each of them.
        guidance_scale: of the teacher's first stage that is distilled; None leaves it as it draws.
    Raises: ValueError without a teacher, or for a number below 1.
    Source: Salimans & Ho 2022 (progressive distillation); Meng et al. 2023 (guidance)
    """

    def __init__(
        self,
        ckpt: str | None,
        load: Callable[[str], tuple[Any, Any, dict[str, Any]]],
        num_steps: int | dict[str, int] = 8,
        substeps: int = 4,
        guidance_scale: float | None = None,
    ) -> None:
        if ckpt is None:
            raise ValueError("distillation needs a trained model to learn from: give init=RUN, or model.distill.ckpt=RUN")
        for name, value in (("substeps", substeps), *(("num_steps", n) for n in per_stage(num_steps, [""]).values())):
            if not isinstance(value, int) or value < 1:
                raise ValueError(f"distill.{name}={value!r}: give a whole number of at least 1")
        self.ckpt, self.load, self.num_steps, self.substeps = ckpt, load, num_steps, substeps
        self.guidance_scale = guidance_scale
        self.identity: str | None = None  # checksum of the teacher, once it is known
        self._teacher: list[Any] = []

    def prepare(self, stages: Mapping[str, DiffusionStage]) -> None:
        """Makes stages draw as the student does. Raises ValueError for one that cannot be distilled, or without its number of steps."""
        numbers = per_stage(self.num_steps, stages)
        if unknown := [name for name in numbers if name not in stages]:
            raise ValueError(f"distill.num_steps: no stage {unknown[0]!r} trains here, only {', '.join(stages)}")
        for name, stage in stages.items():
            if name not in numbers:
                raise ValueError(f"distill.num_steps: give a number for the stage {name!r}, or leave it out of model.train_stages")
            if not isinstance(stage, DiffusionStage) or isinstance(stage.denoiser, LearnedVarianceDenoiser):
                raise ValueError(f"stage {name!r} draws without DDIM and cannot be distilled: leave it out of model.train_stages")
            if not aligned(stage.schedule, numbers[name], self.substeps):
                raise ValueError(f"stage {name!r}: {numbers[name]} steps are no part of {numbers[name] * self.substeps} on the grid of "
                                 f"{type(stage.schedule).__name__}: distil a model with an even grid")  # fmt: skip
            stage.num_steps, stage.guidance_scale, stage.guidance_interval = numbers[name], 1.0, None
            stage.sampler, stage.threshold = functools.partial(ddim, eta=0.0), "none"

    def teacher(self, module: Any) -> Any:
        """The teacher, on the device of the model that learns from it.

        Raises: FileNotFoundError where it is not there; ValueError for a model with other stages or noise levels, with another
            text encoder or CLIP, or for another one than this run had before.
        """
        if not self._teacher:
            try:
                other, _, facts = self.load(self.ckpt)
                module.check_like(other)
                other.on_save_checkpoint(identity := {})
                module.check_identity(identity)
                for name in module.train_stages:
                    check_levels(name, other.stages[name], module.stages[name])
            except FileNotFoundError as error:
                raise FileNotFoundError(f"the teacher is not there (model.distill.ckpt=RUN names another): {error}") from None
            except ValueError as error:
                raise ValueError(f"model.distill.ckpt={self.ckpt}: {error}") from None
            if self.identity not in (None, facts["sha256"]):
                raise ValueError(f"model.distill.ckpt={self.ckpt}: this run learned from another teacher so far")
            self.identity = facts["sha256"]
            self._teacher = [other.eval().requires_grad_(False)]
        if self._teacher[0].device != module.device:
            self._teacher[0].to(module.device)
        return self._teacher[0]

    def loss(self, batch: Batch, u: Tensor, name: str, module: Any) -> Tensor:
        """Per-sample loss (B,) of a stage: its squared error, weighted as it was trained, from what the teacher's steps say.

        Args:
            batch: as of `DiffusionStage.loss`.
            u: (B,) in [0, 1), which step of the stage each sample learns.
            name: of the stage of `module`.
        """
        stage, teacher = module.stages[name], self.teacher(module).stages[name]
        x_0, batch = stage.clean(batch, name)
        index = (u.double() * stage.num_steps).long().clamp(max=stage.num_steps - 1)
        t = stage.schedule.grid(stage.num_steps).to(u.device)[index].to(x_0.dtype)
        eps = keyed_randn(batch["seed"], x_0.shape[1:], name, "eps", device=x_0.device)
        x_t = add_noise(x_0, eps, t, stage.schedule)
        first = name == next(n for n in module.stages if n in module.train_stages)
        with torch.no_grad():
            denoise = teacher.guided(batch, guidance_scale=self.guidance_scale if first else None)
            goal = few_step_target(denoise, stage.schedule, x_t, index, stage.num_steps, self.substeps)
            noise = (x_t - expand(stage.schedule.alpha(t), x_t) * goal) / expand(stage.schedule.sigma(t), x_t)
        out = stage.denoiser.raw(x_t, t, stage.denoiser.row(t), **stage.conditions(batch))
        return stage.denoiser.error(out, goal, noise, t, stage.weighting, stage.times, stage.weighting_kwargs)


def per_stage(num_steps: int | Mapping[str, int], stages: Iterable[str]) -> dict[str, int]:
    """Stage name -> number of steps."""
    return dict(num_steps) if isinstance(num_steps, Mapping) else dict.fromkeys(stages, num_steps)


def check_levels(name: str, other: Any, own: DiffusionStage) -> None:
    """Raises ValueError unless two stages of a name noise alike."""
    if not isinstance(other, DiffusionStage) or isinstance(other.denoiser, LearnedVarianceDenoiser):
        raise ValueError(f"its stage {name!r} draws without DDIM")
    t = torch.linspace(0, 1, 33, dtype=torch.float64)
    if any(not torch.allclose(getattr(other.schedule, f)(t), getattr(own.schedule, f)(t)) for f in ("alpha", "sigma")):
        raise ValueError(f"its stage {name!r} has other noise levels: give this run the schedule of the teacher")
