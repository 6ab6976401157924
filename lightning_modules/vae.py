"""Variational autoencoders: an encoder, a decoder and a pixel likelihood, trained and judged by bounds of log p(x)."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from rng.keyed import keyed_generators, keyed_rand, keyed_randn, randn
from contracts import Request
from lightning_modules.base import GenerativeModule
from objectives import elbo, iwae
from objectives.pixels import dequantise
from objectives.precision import full_precision
from objectives.processes import mean_over_processes

MODES = ("mean", "sample")
STREAMED = 50  # importance samples that an image draws at once: fixed, so that no batch size changes the noise
DECODED_AT_ONCE = 1000  # latents decoded at once where bounds are streamed; limits memory
COLLAPSED_NATS = 0.1  # a rate below this carries no information about the image
ACTIVE_VARIANCE = 0.01


class VAE(GenerativeModule):
    """p(x) = ∫ p(x | z) N(z; 0, I) dz with an encoder q(z | x) = N(mean, diag exp(log_var)), trained on the ELBO.

    ``elbo_nats`` is an upper bound of -log p(x), in nats per image, so lower is better. It is the sum of
    ``distortion_nats`` and ``rate_nats``, with beta = 1 and no free bits, whatever the training loss has. The names end
    in ``_density_nats`` where the likelihood is a density of pixels in [-1, 1].

    Args:
        encoder: partial of a net (B, C, S, S) -> (B, out_dim), called with image_size, channels and out_dim.
        decoder: partial of a net (B, latent_dim) -> (B, P, S, S), called with image_size, latent_dim and out_channels.
        likelihood: p(x | z) of the decoder's output, one of objectives.pixels.
        latent_dim: d, at least 1.
        beta: weight of the rate in what is trained.
        kl_warmup_images: training images over which that weight rises from 0.
        free_bits_nats: rate that each latent dimension may have at no cost.
        importance_samples: k of the bound that is trained; 1 is the ELBO, above 1 the IWAE.
        dreg: train the encoder of an IWAE on the doubly reparameterised gradient.
        eval_importance_samples: every k at which ``likelihood`` gives an IWAE bound.
        **kwargs: optimiser, schedule and clipping, see ``GenerativeModule``.
    Raises: ValueError for an argument out of range, or for beta and free bits where the IWAE is trained.
    Source: Kingma and Welling 2014; Higgins et al. 2017 (beta); Kingma et al. 2016 (free bits); Burda et al. 2016 (k)
    """

    def __init__(
        self,
        encoder: Callable[..., nn.Module],
        decoder: Callable[..., nn.Module],
        likelihood: nn.Module,
        latent_dim: int,
        image_size: int,
        channels: int,
        beta: float = 1.0,
        kl_warmup_images: int = 0,
        free_bits_nats: float = 0.0,
        importance_samples: int = 1,
        dreg: bool = False,
        eval_importance_samples: Sequence[int] = (50,),
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        check_arguments(
            latent_dim, beta, kl_warmup_images, free_bits_nats, importance_samples, dreg, eval_importance_samples
        )
        self.encoder = encoder(image_size=image_size, channels=channels, out_dim=2 * latent_dim)
        self.decoder = decoder(
            image_size=image_size, latent_dim=latent_dim, out_channels=likelihood.num_params(channels)
        )
        self.pixels, self.latent_dim, self.image_size, self.channels = likelihood, latent_dim, image_size, channels
        self.beta, self.kl_warmup_images, self.free_bits_nats = beta, kl_warmup_images, free_bits_nats
        self.importance_samples, self.dreg = importance_samples, dreg
        self.eval_importance_samples = tuple(sorted(eval_importance_samples))
        self._unit = "density_nats" if likelihood.density else "nats"
        self._checked = self._warned = False

    # ---- the model ----

    def encode(self, image: Tensor) -> tuple[Tensor, Tensor]:
        """Images (B, C, S, S) in [-1, 1] -> mean and log-variance of q(z | x), (B, d) each, in full precision.

        Raises: ValueError for images of another shape than the model's.
        """
        if (shape := tuple(image.shape[1:])) != (made := (self.channels, self.image_size, self.image_size)):
            raise ValueError(f"the model was made for images {made}, got {shape}")
        mean, log_var = full_precision(self.encoder(image)).chunk(2, dim=-1)
        return mean, log_var

    def decode(self, z: Tensor) -> Tensor:
        """Latents (..., d) -> parameters of the pixels' likelihood (..., P, S, S), in full precision."""
        params = full_precision(self.decoder(z.reshape(-1, self.latent_dim)))
        return params.reshape(*z.shape[:-1], *params.shape[1:])

    # ---- training ----

    def losses(self, batch: dict[str, Any]) -> dict[str, Tensor]:
        """``loss`` as it is trained, and the ELBO with its terms; a batch has ``image`` and ``seed``.

        Where the IWAE is trained, ``iwae_<k>_nats`` is its bound.

        Raises: ValueError for pixels that the likelihood does not describe.
        """
        return self._losses(batch)[0]

    def _losses(self, batch: dict[str, Any]) -> tuple[dict[str, Tensor], Tensor, Tensor]:
        """`losses`, and of q(z | x) the means (B, d) and the KL of each dimension (B, d)."""
        image = self._pixels_of(batch)
        mean, log_var = self.encode(image)
        eps = keyed_randn(batch["seed"], (self.importance_samples, self.latent_dim), "vae", device=image.device)
        z = elbo.reparameterise(mean, log_var, eps.transpose(0, 1).to(mean.dtype))  # (k, B, d)
        log_p = self.pixels.log_prob(self.decode(z), image)  # (k, B)
        kl = elbo.gaussian_kl(mean, log_var)  # (B, d)
        distortion, rate = -log_p.mean(), kl.sum(-1).mean()
        found = {"elbo": distortion + rate, "distortion": distortion}
        if self.importance_samples == 1:
            weight = self.beta * elbo.kl_warmup(self.images_seen, self.kl_warmup_images)
            # Processes may validate different numbers of batches, so they meet in training only.
            whole = mean_over_processes(kl.mean(0)) if self.training and self.free_bits_nats else None
            loss = distortion + weight * elbo.free_bits(kl, self.free_bits_nats, whole)
        else:
            log_w = iwae.log_weights(log_p, z, mean, log_var, self.dreg)
            loss = iwae.dreg_loss(log_w, z) if self.dreg else iwae.iwae_loss(log_w)
            found[f"iwae_{self.importance_samples}"] = loss
        losses = {"loss": loss, **{f"{name}_{self._unit}": v for name, v in found.items()}, "rate_nats": rate}
        return losses, mean, kl

    def validation_step(self, batch: dict[str, Any], batch_idx: int) -> dict[str, Tensor]:
        """The losses, and per latent dimension (d,) what ``validation_summary`` needs."""
        losses, mean, kl = self._losses(batch)
        mean, kl = mean.double(), kl.double()
        return losses | {"kl": kl.mean(0), "mean": mean.mean(0), "mean_square": mean.square().mean(0)}

    def validation_summary(self, means: dict[str, Tensor], images: int) -> dict[str, Tensor]:
        """The losses and ``active_units`` over all validation images; warns once if the posterior has collapsed.

        ``loss`` has the rate's final weight, not that of the warm-up, so that it is a function of the weights alone.
        """
        values = {name: value for name, value in means.items() if name not in ("kl", "mean", "mean_square")}
        if self.importance_samples == 1:
            rate = elbo.free_bits(means["kl"][None], self.free_bits_nats)
            values["loss"] = means[f"distortion_{self._unit}"] + self.beta * rate
        if images > 1:  # one image has no variance
            variance = (means["mean_square"] - means["mean"].square()) * images / (images - 1)
            active = values["active_units"] = (variance > ACTIVE_VARIANCE).sum()
            if not self._warned and self.images_seen >= self.kl_warmup_images and self.global_rank == 0:
                self._warned = self._warn_of_collapse(float(means["rate_nats"]), int(active))
        return values

    def setup(self, stage: str) -> None:
        """Raises: ValueError where accumulated batches would change the objective, which is not linear in images."""
        if self.trainer.accumulate_grad_batches > 1:
            check_accumulation(self.pixels.of_the_batch, self.free_bits_nats)

    def _warn_of_collapse(self, rate: float, active: int) -> bool:
        collapsed = not active or rate < COLLAPSED_NATS
        if collapsed:
            print(f"posterior collapse: {rate:.2g} nats of rate, {active} of {self.latent_dim} latents in use: "
                  "try model.kl_warmup_images, model.free_bits_nats or a smaller model.beta", flush=True)
        return collapsed

    def _pixels_of(self, batch: dict[str, Any]) -> Tensor:
        """The images as the likelihood takes them: for a density, bytes spread over their bins by keyed noise."""
        image = batch["image"]
        if not self._checked:  # the first images only: reading them all would make a GPU wait at every step
            self.pixels.check(image)
            self._checked = True
        if not self.pixels.density:
            return image
        noise = keyed_rand(batch["seed"], "dequantise", shape=image.shape[1:], device=image.device)
        return dequantise(image, noise.to(image.dtype))

    # ---- images ----

    @torch.no_grad()
    def sample(
        self,
        request: Request,
        *,
        seeds: Sequence[int],
        mode: str | None = None,
        temperature: float | None = None,
        **others: Any,
    ) -> Tensor:
        """Images (n, C, S, S) in [-1, 1] from latents of the prior, image i from seeds[i].

        Args:
            mode: `mean`, the default, shows E[x | z], the usual picture of a VAE; `sample` draws the pixels too, as p(x) does.
            temperature: standard deviation of the latents; 1 by default.
        Raises: ValueError for another mode, a negative temperature or an option that a VAE does not have.
        """
        if others:
            raise ValueError(f"a VAE draws in one step: it has no {', '.join(others)}, only mode and temperature")
        mode, temperature = mode or MODES[0], 1.0 if temperature is None else temperature
        if mode not in MODES:
            raise ValueError(f"mode={mode!r}: choose one of {', '.join(MODES)}")
        if not 0 <= temperature < float("inf"):
            raise ValueError(f"temperature={temperature}: give a number of at least 0")
        params = self.decode((temperature * self.latents(seeds)).to(self.dtype))
        if mode == "mean":
            return self.pixels.mean(params)
        shape = self.pixels.noise_shape(params)[1:]
        noise = [torch.rand(shape, generator=generator) for generator in keyed_generators(seeds, "vae pixels")]
        return self.pixels.sample(params, torch.stack(noise).to(params))

    def sampling_settings(self) -> dict[str, Any]:
        """What ``sample`` does unless it is told otherwise."""
        return {"mode": MODES[0], "temperature": 1.0}

    def latents(self, seeds: Sequence[int]) -> Tensor:
        """z (n, latent_dim) of the images that ``sample`` draws from these seeds."""
        return keyed_randn(seeds, (self.latent_dim,), "vae sample", device=self.device)

    @torch.no_grad()
    def generate(self, z: Tensor, label: None = None) -> Tensor:
        """E[x | z], images (B, C, S, S) in [-1, 1] of latents (B, latent_dim)."""
        return self.pixels.mean(self.decode(z.to(self.dtype)))

    @torch.no_grad()
    def encode_latents(self, image: Tensor) -> Tensor:
        """The mean of each image's posterior, (B, latent_dim)."""
        return self.encode(image)[0]

    def latent_moments(self) -> tuple[Tensor, Tensor]:
        """Mean 0 and standard deviation 1, those of the prior that the posteriors are held to."""
        return torch.zeros(self.latent_dim), torch.ones(self.latent_dim)

    def reconstruct(self, batch: dict[str, Any]) -> Tensor:
        """E[x | z] in [-1, 1] at the mean of each image's posterior, (B, C, S, S)."""
        return self.pixels.mean(self.decode(self.encode(batch["image"])[0]))

    # ---- likelihood and health ----

    @torch.no_grad()
    def likelihood(self, batch: dict[str, Any]) -> dict[str, Tensor]:
        """Upper bounds of -log p(x), (B,) nats per image: the ELBO and an IWAE bound for each evaluation k.

        All come from one stream of the largest k's importance samples, in memory that depends on no k. The ELBO
        is the mean over the stream. Noise is keyed by ``batch["seed"]``.

        Raises: ValueError for pixels that the likelihood does not describe.
        Source: Burda et al. 2016, eq. 8
        """
        self.pixels.check(batch["image"])
        image, seeds = self._pixels_of(batch).to(self.dtype), torch.as_tensor(batch["seed"])
        group = max(1, DECODED_AT_ONCE // STREAMED)
        parts = [self._bounds(*part) for part in zip(image.split(group), seeds.split(group))]
        return {f"{name}_{self._unit}": torch.cat([part[name] for part in parts]) for name in parts[0]}

    def _bounds(self, image: Tensor, seeds: Tensor) -> dict[str, Tensor]:
        mean, log_var = self.encode(image)
        generators, total = keyed_generators(seeds, "vae likelihood"), torch.zeros_like(mean[:, 0], dtype=torch.float64)

        def draw(k: int) -> Tensor:
            eps = randn((len(image), k, self.latent_dim), generators, image.device, mean.dtype).transpose(0, 1)
            z = elbo.reparameterise(mean, log_var, eps)
            log_w = iwae.log_weights(self.pixels.log_prob(self.decode(z), image), z, mean, log_var)  # (k, B)
            total.add_(log_w.sum(0))
            return log_w

        ks = self.eval_importance_samples
        bounds = iwae.streamed_log_mean_exp(draw, ks, STREAMED)
        return {"elbo": -total / ks[-1], **{f"iwae_{k}": -bounds[k] for k in ks}}

    @torch.no_grad()
    def health(self, batches: Iterable[dict[str, Any]]) -> dict[str, Any]:
        """What the latents carry, over batches of images: plain numbers.

        ``active_units``, ``rate_per_dim_nats`` (list of d), ``rate_nats``, the distortion, and both parts of the rate:
        ``mutual_information_nats`` of latent and image (at most the log of the images' number), and
        ``aggregate_kl_nats``, how far the posteriors' mixture is from the prior.

        Source: Burda et al. 2016, section 5.2 (active units); Hoffman and Johnson 2016 (parts of the rate)
        """
        rows = []
        for batch in batches:
            image = self._pixels_of(batch).to(self.device, self.dtype)
            mean, log_var = self.encode(image)
            eps = keyed_randn(batch["seed"], (self.latent_dim,), "vae health", device=image.device)
            z = elbo.reparameterise(mean, log_var, eps.to(mean.dtype))
            rows.append((mean, log_var, z, -self.pixels.log_prob(self.decode(z), image)))
        mean, log_var, z, distortion = (torch.cat(column) for column in zip(*rows))
        per_dim = elbo.gaussian_kl(mean, log_var).mean(0)  # (d,)
        information = elbo.mutual_information(mean, log_var, z)
        return {
            "active_units": int(elbo.active_units(mean, ACTIVE_VARIANCE).sum()),
            "rate_per_dim_nats": per_dim.tolist(),
            "rate_nats": float(per_dim.sum()),
            f"distortion_{self._unit}": float(distortion.mean()),
            "mutual_information_nats": information,
            "aggregate_kl_nats": float(per_dim.sum()) - information,
        }


def check_accumulation(likelihood_of_the_batch: bool, free_bits_nats: float) -> None:
    """Raises ValueError, naming the setting, for an objective of the whole batch, which several parts do not add up to."""
    if likelihood_of_the_batch:
        what, other = "likelihood=gaussian_optimal takes its variance", "choose likelihood=gaussian"
    elif free_bits_nats:
        what, other = f"model.free_bits_nats={free_bits_nats} takes its mean", "set model.free_bits_nats=0"
    else:
        return
    raise ValueError(f"trainer.accumulate is above 1, and {what} over the whole batch: set trainer.accumulate=1, or {other}")


def check_arguments(
    latent_dim: int,
    beta: float,
    kl_warmup_images: int,
    free_bits_nats: float,
    importance_samples: int,
    dreg: bool,
    eval_importance_samples: Sequence[int],
) -> None:
    """Raises ValueError, naming the setting, for a value out of range or one without effect."""
    counts = {"latent_dim": latent_dim, "importance_samples": importance_samples}
    counts |= {f"eval_importance_samples[{i}]": k for i, k in enumerate(eval_importance_samples)}
    for name, value in counts.items():
        if not isinstance(value, int) or value < 1:
            raise ValueError(f"model.{name}={value!r}: a whole number of at least 1")
    if not eval_importance_samples:
        raise ValueError("model.eval_importance_samples is empty: name at least one k, for instance [50]")
    for name, value in {
        "beta": beta, "kl_warmup_images": kl_warmup_images, "free_bits_nats": free_bits_nats
    }.items():  # fmt: skip
        if not value >= 0:
            raise ValueError(f"model.{name}={value!r}: a number of at least 0")
    if importance_samples > 1 and (beta != 1 or kl_warmup_images or free_bits_nats):
        what = f"model.importance_samples={importance_samples} trains a bound of log p(x) that has no separate rate"
        raise ValueError(f"{what}: leave model.beta at 1, kl_warmup_images and free_bits_nats at 0")
    if dreg and importance_samples == 1:
        raise ValueError("model.dreg=true with one importance sample: set model.importance_samples above 1")
