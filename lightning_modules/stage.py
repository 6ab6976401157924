"""One diffusion stage: a denoiser in a space, what it is told, how it is trained and how it is sampled."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from contracts import Batch
from diffusion.denoiser import Denoiser, check_weighting
from diffusion.gradient_guidance import Likelihood, gradient_guided
from diffusion.guidance import guided
from diffusion.inpainting import inpainted
from diffusion.learned_denoiser import LearnedVarianceDenoiser
from rng.keyed import keyed_generators, keyed_rand, keyed_randn, randn
from diffusion.optimal_transport import paired
from diffusion.samplers import OnStep
from diffusion.schedules import NoiseSchedule
from diffusion.threshold import THRESHOLDS, thresholded
from diffusion.times import Times, UniformTimes
from lightning_modules.inpainting import hidden
from lightning_modules.spaces import Space
from lightning_modules.super_resolution import LowResolution
from networks.conditioners import combine

PAIRINGS = ("none", "optimal_transport")


class DiffusionStage(nn.Module):
    """A net with its noise levels, conditions, loss, guidance and sampler. It knows no kind of condition by name.

    Args:
        net: called as ``net(x, log_snr, vector=, tokens=, token_mask=, channels=)`` with what its conditioners give.
        space: what is diffused.
        schedule: the noise levels.
        sampler: a function of ``diffusion.samplers``.
        conditioners: name -> ``Conditioner``; none for an unconditional stage.
        lowres: set for a super-resolution stage; it then needs a ``LowresConditioner``.
        prediction: what the net predicts, a row of ``diffusion.parameterisation``.
        sigma_data: standard deviation of the data, for ``prediction=edm``.
        weighting: the loss weighting, see ``diffusion.weighting``; ``weighting_kwargs`` are its parameters.
        times: which noise levels are trained; None draws t uniformly.
        pairing: ``none`` | ``optimal_transport``: which sample of a batch gets which noise. Pairing by optimal transport is
            for unconditional flows: under conditions it would skew the noise. Validation pairs nothing.
        num_steps: of the sampler.
        guidance_scale: w of ``uncond + w (cond - uncond)``; 1 is off.
        guidance_rescale: share of the way back to the conditional estimate's standard deviation.
        guidance_interval: (low, high) of the log-SNR at which to guide; None guides at every noise level.
        threshold: ``none | static | dynamic`` on the estimate, after guidance; null is none.
        cond_drop_prob: probability of training a sample without a condition, one number or one per conditioner.
        batch_share: share of each batch this stage trains on, rounded in every process; a cheap stage needs fewer images.
        learned_variance_steps: steps T of a process whose reverse variances the net learns, with twice the output
            channels and the hybrid loss; None for fixed variances.

    Raises:
        ValueError: for a share, probability or word that is not allowed.

    Source: Ho & Salimans 2022; Saharia et al. 2022 (Imagen), section 2
    """

    def __init__(
        self,
        net: nn.Module,
        *,
        space: Space,
        schedule: NoiseSchedule,
        sampler: Callable[..., Tensor],
        conditioners: Mapping[str, nn.Module] | None = None,
        lowres: LowResolution | None = None,
        prediction: str = "v",
        sigma_data: float = 0.5,
        weighting: str = "uniform",
        weighting_kwargs: dict[str, float] | None = None,
        times: Times | None = None,
        pairing: str = "none",
        num_steps: int = 50,
        guidance_scale: float = 1.0,
        guidance_rescale: float = 0.0,
        guidance_interval: Sequence[float] | None = None,
        threshold: str = "none",
        threshold_percentile: float = 0.995,
        cond_drop_prob: float | dict[str, float] = 0.1,
        batch_share: float = 1.0,
        learned_variance_steps: int | None = None,
    ) -> None:
        super().__init__()
        if learned_variance_steps is None:
            self.denoiser = Denoiser(net, schedule, prediction, sigma_data=sigma_data)
        else:
            self.denoiser = LearnedVarianceDenoiser(net, schedule, prediction, learned_variance_steps, sigma_data=sigma_data)
        self.conditioners = nn.ModuleDict(conditioners or {})
        self.space, self.sampler, self.num_steps, self.lowres = space, sampler, num_steps, lowres
        self.weighting, self.weighting_kwargs, self.times = weighting, weighting_kwargs, times or UniformTimes()
        self.pairing = pairing
        self.guidance_scale, self.guidance_rescale = guidance_scale, guidance_rescale
        self.guidance_interval = None if guidance_interval is None else tuple(guidance_interval)
        self.threshold, self.threshold_percentile = threshold, threshold_percentile
        self.cond_drop_prob, self.batch_share = self._drop_probs(cond_drop_prob), batch_share
        # In the state_dict, so that a checkpoint says by itself which of its stages may be sampled.
        self.register_buffer("images_trained", torch.zeros((), dtype=torch.int64))
        self._check()

    def _drop_probs(self, given: float | dict[str, float]) -> dict[str, float]:
        if isinstance(given, dict):
            if unknown := [name for name in given if name not in self.conditioners]:
                known = ", ".join(self.conditioners) or "none"
                raise ValueError(f"cond_drop_prob: there is no conditioner {unknown[0]!r}; there are {known}")
            probs = {name: given.get(name, 0.0) for name in self.conditioners}
        else:
            probs = dict.fromkeys(self.conditioners, given)
        for name, prob in [*probs.items(), *([("", given)] if not isinstance(given, dict) else [])]:
            if not 0 <= prob <= 1:
                raise ValueError(f"cond_drop_prob={prob}{f' of {name}' if name else ''} is outside [0, 1]")
        return probs

    def _check(self) -> None:
        check_weighting(self.weighting)
        if self.threshold not in THRESHOLDS:
            raise ValueError(f"threshold={self.threshold}: choose one of {', '.join(THRESHOLDS)}")
        if self.pairing not in PAIRINGS:
            raise ValueError(f"pairing={self.pairing}: choose one of {', '.join(PAIRINGS)}")
        if self.pairing != "none" and any(c.droppable for c in self.conditioners.values()):
            raise ValueError(f"pairing={self.pairing} is for unconditional models: under conditions it skews the noise")
        if self.threshold != "none" and not self.space.bounded:
            raise ValueError(f"threshold={self.threshold}: only pixels are thresholded; leave it at none")
        if not 0 < self.batch_share <= 1:
            raise ValueError(f"batch_share={self.batch_share}: a stage trains on a share of the batch in (0, 1]")
        check_interval(self.guidance_interval)
        if self.num_steps < 1:
            raise ValueError(f"num_steps={self.num_steps}: give a whole number of at least 1")
        if self.lowres is not None:
            if not self.space.bounded:
                raise ValueError("only a stage of pixels starts from a low-resolution image: leave lowres out")
            if not any(c.reads == "lowres" for c in self.conditioners.values()):
                raise ValueError("a stage with lowres needs a LowresConditioner, or its net never sees the image")
            self.lowres.check(self.space.image_size)

    @property
    def net(self) -> nn.Module:
        """The net inside the denoiser."""
        return self.denoiser.net

    @property
    def schedule(self) -> NoiseSchedule:
        """The noise levels."""
        return self.denoiser.schedule

    # ---- training ----

    def loss(self, batch: Batch, u: Tensor, tag: str) -> Tensor:
        """Per-sample loss (B,); all randomness but u is keyed by the samples' seeds and the tag.

        Args:
            batch: what the space and the conditioners read, and `seed` (B,) int64.
            u: (B,) uniform in [0, 1), the quantile of each sample's noise level.
        """
        seeds = batch["seed"]
        x_0, batch = self.clean(batch, tag)
        told = self.told(self._dropped(batch, seeds, tag))
        eps = keyed_randn(seeds, x_0.shape[1:], tag, "eps", device=x_0.device)
        if self.pairing == "optimal_transport" and self.training:  # a validation loss depends on no other image
            eps = paired(eps, x_0)
        t = self.times.draw(u, self.schedule)
        options = {"times": self.times, "weighting_kwargs": self.weighting_kwargs}
        return self.denoiser.loss(x_0, t, eps, self.weighting, **options, **told)

    def clean(self, batch: Batch, tag: str) -> tuple[Tensor, Batch]:
        """What is diffused (B, ...), and the batch with what a stage that enlarges, or fills holes, is shown of it."""
        seeds, x_0 = batch["seed"], self.space.encode(batch)
        if self.lowres is not None:
            x_0, fields = self.lowres.for_training(batch, x_0, seeds, tag)
            batch = batch | fields
        for conditioner in self.conditioners.values():
            if conditioner.reads == "known":
                batch = batch | hidden(x_0, seeds, tag, conditioner.nothing_prob)
        return x_0, batch

    def _dropped(self, batch: Batch, seeds: Tensor, tag: str) -> dict[str, dict[str, Tensor]]:
        """Each conditioner's value, some of them dropped."""
        values = {}
        for name, conditioner in self.conditioners.items():
            value = conditioner.from_batch(batch)
            if conditioner.droppable:
                key = conditioner.dropped_with or name
                keep = keyed_rand(seeds, tag, "drop", key, device=device_of(value)) >= self.cond_drop_prob[name]
                value = conditioner.drop(value, keep)
            values[name] = value
        return values

    def told(self, values: dict[str, dict[str, Tensor]]) -> dict[str, Tensor]:
        """What the net is told by its conditioners' values."""
        return combine(self.conditioners[name](value) for name, value in values.items())

    # ---- sampling ----

    def guided(
        self,
        batch: Batch,
        *,
        guidance_scale: float | None = None,
        guidance_interval: Sequence[float] | None = None,
        threshold: str | None = None,
        weaker: DiffusionStage | None = None,
        likelihood: Likelihood | None = None,
        likelihood_scale: float = 1.0,
    ) -> Callable[[Tensor, Tensor], Tensor]:
        """`denoise(x_t, t) -> x_0_hat` with the conditions of a batch, guidance, and then the threshold.

        The conditioners run once, however many steps a sampler takes.

        Args:
            weaker: a worse model of the same data, whose estimate guidance moves away from, in place of the
                unconditional one.
            likelihood: log p(c | x_t) (B,) of (x_t, t), whose gradient guides as well, times `likelihood_scale`.
            others: None leaves an option as the stage has it.
        """
        scale = self.guidance_scale if guidance_scale is None else guidance_scale
        interval = self.guidance_interval if guidance_interval is None else tuple(guidance_interval)
        check_interval(interval)
        if weaker is None and not any(c.droppable for c in self.conditioners.values()):
            scale = 1.0  # without conditions to drop both passes would be the same
        unused = scale == 0 and interval is None and weaker is None
        cond = {} if unused else self.conditions(batch)
        uncond = self.conditions(batch, keep=False) if weaker is None and scale != 1 else None
        worse = None
        if weaker is not None:
            theirs = weaker.conditions(batch)

            def worse(x_t: Tensor, t: Tensor, **_: Any) -> Tensor:
                return weaker.denoiser(x_t, t, **theirs)

        denoise = guided(
            self.denoiser, cond, uncond, scale, rescale=self.guidance_rescale, weaker=worse,
            interval=interval if scale != 1 else None, schedule=self.schedule,
        )  # fmt: skip
        if likelihood is not None:
            denoise = gradient_guided(denoise, likelihood, self.schedule, likelihood_scale)
        kind = self.threshold if threshold is None else threshold
        limited = thresholded(denoise, kind, self.threshold_percentile)
        if isinstance(self.denoiser, LearnedVarianceDenoiser):
            limited.with_variance = lambda x_t, t: (limited(x_t, t), self.denoiser.with_variance(x_t, t, **cond)[1])
        return limited

    def conditions(self, batch: Batch, keep: bool = True) -> dict[str, Tensor]:
        """What the net is told of a batch; with keep=False, what it is told where every condition is dropped."""
        values = {name: conditioner.from_batch(batch) for name, conditioner in self.conditioners.items()}
        if not keep:
            for name, value in values.items():
                rows = next(iter(value.values()))
                none = torch.zeros(len(rows), dtype=torch.bool, device=rows.device)
                values[name] = self.conditioners[name].drop(value, none)
        return self.told(values)

    @torch.no_grad()
    def sample(
        self,
        batch: Batch,
        seeds: Sequence[int],
        tag: str,
        *,
        device: torch.device | str = "cpu",
        lowres: Tensor | None = None,
        guidance_scale: float | None = None,
        num_steps: int | None = None,
        sampler: Callable[..., Tensor] | None = None,
        guidance_interval: Sequence[float] | None = None,
        threshold: str | None = None,
        aug_level: float | None = None,
        weaker: DiffusionStage | None = None,
        around: tuple[Tensor, Tensor] | None = None,
        on_step: OnStep | None = None,
        likelihood: Likelihood | None = None,
        likelihood_scale: float = 1.0,
    ) -> Tensor:
        """Draw (B, ...) of the space, decoded: images in [-1, 1] for pixels and latents.

        Args:
            batch: what the conditioners read.
            seeds: B integers, one per sample.
            lowres: (B, C, s, s) in [-1, 1] for a super-resolution stage.
            weaker, likelihood, likelihood_scale: as of ``guided``.
            around: known samples (B, ...) of the space and a bool mask, True = known: these stay as they are.
            others: None leaves an option as the stage has it.
        """
        generators, shape = keyed_generators(seeds, tag, "sample"), (len(seeds), *self.space.shape)
        batch = {"seed": seeds} | batch
        if self.lowres is not None:
            batch |= self.lowres.for_sampling(lowres, self.space.image_size, generators, aug_level)
        denoise = self.guided(
            batch, guidance_scale=guidance_scale, guidance_interval=guidance_interval, threshold=threshold, weaker=weaker,
            likelihood=likelihood, likelihood_scale=likelihood_scale,
        )  # fmt: skip
        if around is not None:
            denoise = inpainted(denoise, *around)
        x_T = self.noise(shape, generators, device)
        x_0 = (self.sampler if sampler is None else sampler)(
            denoise,
            self.schedule,
            x_T,
            num_steps=self.num_steps if num_steps is None else num_steps,
            generator=generators,
            on_step=on_step,
        )
        return self.space.decode(x_0)

    def shown(self, x: Tensor) -> Tensor:
        """Samples (B, ...) at any noise level as images in [-1, 1]; those of a spread above 1 are scaled to 1."""
        spread = x.flatten(1).std(1).clamp(min=1).view(-1, *[1] * (x.ndim - 1))  # (B, 1, ...)
        return self.space.decode(x / spread)

    def noise(self, shape: Sequence[int], generators: Any, device: torch.device | str) -> Tensor:
        """x_T of standard deviation sigma(1)."""
        return self.schedule.sigma(torch.ones((), device=device)) * randn(shape, generators, device)

    def settings(self, guided: bool = False) -> dict[str, Any]:
        """How it samples, as plain values.

        Args:
            guided: whether a weaker model guides it; a stage with conditions to drop is guided in any case.
        """
        found = {"sampler": name_of(self.sampler), "num_steps": self.num_steps, "threshold": self.threshold}
        if guided or any(c.droppable for c in self.conditioners.values()):
            found |= {"guidance_scale": self.guidance_scale, "guidance_rescale": self.guidance_rescale}
            found |= {} if self.guidance_interval is None else {"guidance_interval": list(self.guidance_interval)}
        if self.threshold == "dynamic":
            found["threshold_percentile"] = self.threshold_percentile
        if self.lowres is not None:
            found["aug_level"] = self.lowres.aug_level
        return found


def device_of(value: dict[str, Tensor]) -> torch.device:
    """Where a conditioner's value lies."""
    return next(iter(value.values())).device


def name_of(function: Any) -> str:
    """The name of a function, also of one with some arguments given, with those arguments."""
    whole = getattr(function, "func", function)
    given = ", ".join(f"{key}={value}" for key, value in getattr(function, "keywords", {}).items())
    name = getattr(whole, "__name__", type(whole).__name__)
    return f"{name}({given})" if given else name


def check_interval(interval: Sequence[float] | None) -> None:
    """Raises ValueError unless an interval of log-SNR is None or (low, high)."""
    if interval is not None and not (len(interval) == 2 and interval[0] <= interval[1]):
        raise ValueError(f"guidance_interval={list(interval)}: give [low, high] of the log-SNR, for instance [-3,4]")
