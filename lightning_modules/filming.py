"""The way from noise to images, and the way there, step by step."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from contracts import Request
from rng.keyed import keyed_generators

FILMED = 60  # steps of a film, at most


class Filming:
    """What a `Cascade` can show: how its base stage draws, and how noise is added to an image."""

    @torch.no_grad()
    def film(
        self,
        request: Request,
        *,
        seeds: Sequence[int],
        guidance_scale: float | None = None,
        num_steps: int | None = None,
        sampler: Callable[..., Tensor] | None = None,
    ) -> tuple[Tensor, Tensor]:
        """x_t and x_0_hat (K, n, C, S, S) in [-1, 1] of at most 60 steps of the base stage; both end with its images."""
        name, stage = self.base, self.stages[self.base]
        self.check_sampling([name], request, seeds)
        steps = num_steps or stage.num_steps
        wanted = {round(i * (steps - 1) / max(1, FILMED - 2)) for i in range(FILMED - 1)} if steps >= FILMED else set(range(steps))
        seen: dict[int, tuple[Tensor, Tensor]] = {}

        def watch(step: int, x_t: Tensor, x_0_hat: Tensor) -> None:
            if step in wanted:
                seen[step] = stage.shown(x_t), stage.shown(x_0_hat)

        image = stage.sample(
            self.drawing_fields(request, seeds),
            seeds,
            name,
            device=self.device,
            guidance_scale=guidance_scale,
            num_steps=num_steps,
            sampler=sampler,
            weaker=None if self.weaker is None else self.weaker.stages[name],
            on_step=watch,
        )
        x_t, x_0_hat = zip(*seen.values(), (image, image))
        return torch.stack(x_t), torch.stack(x_0_hat)

    @torch.no_grad()
    def noised(self, request: Request, *, seeds: Sequence[int], frames: int) -> Tensor:
        """`images` of a request (frames, n, C, S, S) in [-1, 1], from clean to noise at even times, each with one noise."""
        name, stage = self.base, self.stages[self.base]
        x_0 = stage.space.encode({"image": request.images.to(self.device)})
        eps = stage.noise(x_0.shape, keyed_generators(seeds, name, "film"), x_0.device) / stage.schedule.sigma(torch.ones(()))
        times = torch.linspace(0, 1, frames)
        return torch.stack([stage.shown(stage.schedule.alpha(t) * x_0 + stage.schedule.sigma(t) * eps) for t in times])
