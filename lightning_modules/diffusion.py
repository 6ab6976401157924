"""Diffusion models of images or latents, unconditional or by class: DDPM, EDM and flow matching differ in yaml alone."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, Literal

import torch
from torch import Tensor

from contracts import Batch, Request
from diffusion.denoiser import LOG_SNR_LIMIT
from diffusion.density import flow_log_density
from diffusion.learned_denoiser import LearnedVarianceDenoiser
from diffusion.likelihood import even_log_snr, variational_bound
from diffusion.samplers import ddim, ddim_invert
from lightning_modules.cascade import Cascade
from lightning_modules.spaces import Pixels
from lightning_modules.stage import DiffusionStage
from objectives.pixels import check_levels, dequantise
from rng.keyed import keyed_rand

COLUMNS = 16  # images of an unconditional sample grid
INVERSION_STEPS = 100  # of DDIM there and back, where none are given
BOUND_STEPS, BOUND_TERMS, ODE_STEPS = 4000, 20, 32  # of likelihoods, where none are given
RATIO_0 = 1e-3  # noise of the density beside the images; dequantisation has a standard deviation of 2.3e-3


class Diffusion(Cascade):
    """P(image), or P(image | class), by one diffusion stage.

    Args:
        stage: the diffusion model.
        **kwargs: optimiser, schedule and clipping, see ``GenerativeModule``.

    Source: Ho et al. 2020 (DDPM); Karras et al. 2022 (EDM); Lipman et al. 2022, Liu et al. 2022 (flow matching)
    """

    def __init__(self, stage: DiffusionStage, **kwargs: Any) -> None:
        super().__init__({"diffusion": stage}, **kwargs)
        if not isinstance(stage.space, Pixels):
            self.likelihood = None

    @property
    def stage(self) -> DiffusionStage:
        """The one stage."""
        return self.stages["diffusion"]

    # ---- tasks beside drawing ----

    @torch.no_grad()
    def invert(self, request: Request, *, num_steps: int | None = None) -> Tensor:
        """The noise (n, ...) from which `draw_from` comes back to `images`, up to an error that falls with num_steps.

        Source: Song et al. 2021 (DDIM), eq. 14; Dhariwal & Nichol 2021, appendix F
        """
        if request.images is None:
            raise ValueError("to invert an image, give it")
        x_0 = self.stage.space.encode({"image": request.images.to(self.device)})
        return ddim_invert(self._plain(request), self.stage.schedule, x_0, num_steps=num_steps or INVERSION_STEPS)

    @torch.no_grad()
    def draw_from(self, x_T: Tensor, request: Request, *, num_steps: int | None = None) -> Tensor:
        """Images (n, C, S, S) in [-1, 1] drawn from this noise by deterministic DDIM."""
        steps = num_steps or INVERSION_STEPS
        return self.stage.space.decode(ddim(self._plain(request), self.stage.schedule, x_T.to(self.device), num_steps=steps))

    def _plain(self, request: Request) -> Callable[[Tensor, Tensor], Tensor]:
        """The denoiser without guidance and threshold, with which inversion and drawing are each other's opposite."""
        batch = {"seed": torch.zeros(request.n, dtype=torch.int64)} | self.request_fields(request)
        return self.stage.guided(batch, guidance_scale=1.0, threshold="none")

    # ---- likelihood ----

    @torch.no_grad()
    def likelihood(
        self,
        batch: Batch,
        *,
        num_steps: int | None = None,
        num_terms: int | None = None,
        variance: Literal["small", "large", "learned"] | None = None,
        ode_steps: int | None = None,
    ) -> dict[str, Tensor]:
        """What the model says about images, given their classes where it knows classes, in nats per image (B,).

        `bound_nats` is the variational bound of the bytes, with `bound_terms_nats` (B, K + 2), its prior, the drawn steps
        and its decoder, over `bound_terms_log_snr`. `ode_density_nats` is the density of the bytes, spread over their bins
        by noise, along the probability-flow equation. All noise is keyed by the images' seeds.

        Args:
            num_steps: of the chain that is bounded; None is 4000, even in log-SNR, or the model's own where it learns variances.
            num_terms: drawn of them for each image, one of each of as many even stretches; None is 20.
            variance: of the reverse steps; None is the learned one where there is one, else small.
            ode_steps: of the classical Runge-Kutta rule, with four evaluations each; None is 32, and 0 leaves the density out.
        Raises: ValueError for pixels that are no bytes, and for what `variational_bound` refuses.
        Source: Ho et al. 2020, section 3.3; Song et al. 2021 (score SDE), appendix D.2
        """
        kept = self.likelihood_settings(num_steps=num_steps, num_terms=num_terms, variance=variance, ode_steps=ode_steps)
        batch = self.fields(batch)
        x_0, seeds, schedule = self.stage.space.encode(batch), torch.as_tensor(batch["seed"]), self.stage.schedule
        check_levels(x_0)
        # An estimate outside [-1, 1] is always further from the image than its nearest point inside.
        own = isinstance(self.stage.denoiser, LearnedVarianceDenoiser)  # its variances are those of its own steps
        grid = schedule.grid if own else even_log_snr(schedule)
        bound = variational_bound(
            self.stage.guided(batch, guidance_scale=1.0, threshold="static"), schedule, x_0, seeds=seeds,
            num_steps=kept["bound_steps"], terms=kept["bound_terms"], variance=kept["bound_variance"], grid=grid,
        )  # fmt: skip
        nats = torch.cat([bound.prior[:, None], bound.steps, bound.decoder[:, None]], 1).double()
        times = grid(kept["bound_steps"]).double()
        ends = torch.tensor([0, kept["bound_steps"] - 1]).expand(len(x_0), -1)
        at = torch.cat([ends[:, :1], bound.index, ends[:, 1:]], 1)
        log_snr = schedule.log_snr(times).clamp(-LOG_SNR_LIMIT, LOG_SNR_LIMIT)[at]
        found = {"bound_nats": nats.sum(1), "bound_terms_nats": nats, "bound_terms_log_snr": log_snr}
        if kept["ode_steps"]:
            spread = dequantise(x_0, keyed_rand(seeds, "dequantise", shape=x_0.shape[1:], device=x_0.device))
            found["ode_density_nats"] = -flow_log_density(
                self.stage.guided(batch, guidance_scale=1.0, threshold="none"), schedule, spread, seeds=seeds,
                method="rk4", num_steps=kept["ode_steps"], spacing="log_snr", ratio_0=RATIO_0,
            ).log_density  # fmt: skip
        return found

    def likelihood_settings(
        self,
        num_steps: int | None = None,
        num_terms: int | None = None,
        variance: str | None = None,
        ode_steps: int | None = None,
    ) -> dict[str, Any]:
        """What `likelihood` does with these options, for the evaluation card."""
        learned = isinstance(self.stage.denoiser, LearnedVarianceDenoiser)
        if variance == "learned" and not learned:
            raise ValueError("variance=learned: this model learns no variances, choose small or large")
        steps = num_steps or (self.stage.denoiser.num_steps if learned else BOUND_STEPS)
        terms = min(BOUND_TERMS, max(steps - 1, 1)) if num_terms is None else num_terms
        ode = ODE_STEPS if ode_steps is None else ode_steps
        found = {
            "bound_steps": steps,
            "bound_grid": "the model's own" if learned else "even in log-SNR, -10 to 12.5",
            "bound_terms": None if terms == steps - 1 else terms,
            "bound_variance": variance or ("learned" if learned else "small"),
            "bound_estimate": "clipped to [-1, 1], unguided",
            "decoder": "Gaussian rounded to bytes",
            "ode_steps": ode,
        }
        if ode:
            found["ode"] = f"rk4 even in log-SNR, from noise {RATIO_0}; one Rademacher probe; bytes + keyed uniform noise"
        return found | {"given": "the true label" if self.conditioning == "label" else "nothing"}

    def example_request(self) -> Request:
        """One image of each class, at most 16 classes, or 16 images."""
        if self.conditioning == "none":
            return Request(COLUMNS)
        classes = next(c.num_classes for c in self.stage.conditioners.values() if c.reads == "label")
        labels = list(range(min(classes, COLUMNS)))
        return Request(len(labels), labels=labels)
