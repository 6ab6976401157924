"""CLIP: images and captions in one space, which judges pictures and from which DALL-E 2 draws them."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from diffusion.process import add_noise, expand
from diffusion.schedules import NoiseSchedule
from lightning_modules.base import Judge, matrices_and_rest
from networks.clip import ContrastiveNet
from networks.text.bpe import BPETokenizer
from objectives.contrastive import clip_loss, siglip_loss
from objectives.damage import NUM_UNIFORM, STAINS, damaged
from objectives.processes import gather_over_processes
from rng.hashing import stable_hash
from rng.keyed import keyed_rand, keyed_randn

LOSSES = ("infonce", "siglip")
CLEAN = 0.1  # share of the images that stay clean where the others are noised


class CLIP(Judge):
    """Learns which caption belongs to which image of a batch; images with equal captions fit each other's.

    Args:
        net: both towers and the temperature (networks.clip).
        tokenizer: captions to token numbers, of the vocabulary and length that the text tower has.
        image_size, channels: of the data; kept for those who use the model to judge.
        loss: `infonce` (CLIP) or `siglip`, for which the net has a bias.
        max_logit_scale: the inverse temperature is kept at or below it.
        damage_prob: share of the training images that are lightly stained, noisy or blurred (objectives.damage), so that
            a model that judges others does not mind what nobody sees.
        noise: the levels at which training images are noised, so that it can guide a diffusion model; a tenth stays
            clean. None trains on clean images alone. Judging is of clean images in both cases.
        **kwargs: optimiser, schedule and clipping, see ``GenerativeModule``.
    Raises: ValueError for a loss or tokenizer that does not fit the net.
    Source: Radford et al. 2021; Zhai et al. 2023 (SigLIP)
    """

    refusal = "CLIP draws no images: it says how well images and captions fit each other"

    def __init__(
        self,
        net: ContrastiveNet,
        image_size: int,
        channels: int = 3,
        loss: str = "infonce",
        max_logit_scale: float = 100.0,
        damage_prob: float = 0.0,
        noise: NoiseSchedule | None = None,
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        if loss not in LOSSES:
            raise ValueError(f"model.loss={loss!r}: one of {', '.join(LOSSES)}")
        if (loss == "siglip") != (net.logit_bias is not None):
            raise ValueError(f"model.loss={loss}: model.net.init_logit_bias is for siglip, null for infonce")
        if max_logit_scale <= 1:
            raise ValueError(f"model.max_logit_scale={max_logit_scale}: above 1")
        if (noise is None) == (getattr(net.visual, "level", None) is not None):
            raise ValueError("model.noise and tower.noise_levels=true go together, as in experiment=clip_noised")
        self.net, self.image_size, self.channels = net, image_size, channels
        self.loss_name, self.max_logit_scale, self.damage_prob, self.noise = loss, max_logit_scale, damage_prob, noise
        self.tokenizer = BPETokenizer(net.text.vocab_size, net.text.context_length)
        self._warned = False

    def losses(self, batch: dict[str, Any]) -> dict[str, Tensor]:
        """The contrastive loss over the batch of all processes, and the share of images whose own caption is nearest.

        Raises: ValueError for a batch without captions.
        """
        if "caption" not in batch:
            raise ValueError("CLIP learns from captions: choose data with captions, as data=scenes or data=captions")
        captions = list(batch["caption"])
        self._warn_of_cut(captions)
        image = self._damaged(self._checked(batch["image"]), batch)
        read = (image,) if self.noise is None else self.noised(image, batch["seed"])
        image = gather_over_processes(self.net.encode_image(*read))
        text = gather_over_processes(self.net.encode_text(self.tokens(captions)))
        key = torch.tensor([stable_hash(caption) for caption in captions], device=image.device)
        key = gather_over_processes(key)
        positive = key[:, None] == key[None]
        nearest = (image.detach() @ text.detach().T).argmax(1)
        right = positive.gather(1, nearest[:, None]).float().mean()
        return {"loss": self.pair_loss(image, text, positive), "accuracy": right, "logit_scale": self.net.logit_scale.detach().exp()}

    def _damaged(self, image: Tensor, batch: dict[str, Any]) -> Tensor:
        """Training images as they are shown to the net; the damage of an image is keyed by its seed."""
        if not (self.training and self.damage_prob):
            return image
        seeds, device, small = batch["seed"], image.device, (image.shape[1], STAINS, STAINS)
        u = keyed_rand(seeds, "damage", shape=(NUM_UNIFORM,), device=device)
        coarse = keyed_randn(seeds, small, "damage", "stains", device=device)
        return damaged(image, self.damage_prob, u, coarse, keyed_randn(seeds, image.shape[1:], "damage", "noise", device=device))

    def pair_loss(self, image: Tensor, text: Tensor, positive: Tensor | None = None) -> Tensor:
        """The loss of unit vectors (N, E), each compared with all others; `positive` as of `objectives.contrastive.clip_loss`."""
        scale = self.net.logit_scale.exp()
        with torch.autocast(image.device.type, enabled=False):
            if self.loss_name == "siglip":
                return siglip_loss(image, text, scale, self.net.logit_bias, positive)
            return clip_loss(image, text, scale, positive)

    def validation_step(self, batch: dict[str, Any], batch_idx: int) -> dict[str, Tensor]:
        """Cosines of images with their own captions; a loss would depend on the batch. callbacks.retrieval has more."""
        image, text = self.embed_image(batch["image"]), self.embed_text(batch["caption"])
        return {"cosine": (image * text).sum(1).mean()}

    def noised(self, image: Tensor, seeds: Tensor) -> tuple[Tensor, Tensor]:
        """Images (B, C, S, S) noised to keyed levels, scaled to alpha² + sigma² = 1, and their log-SNR (B,)."""
        t = ((keyed_rand(seeds, "clip", "t", device=image.device) - CLEAN) / (1 - CLEAN)).clamp(min=0)
        x_t = add_noise(image, keyed_randn(seeds, image.shape[1:], "clip", "eps", device=image.device), t, self.noise)
        spread = (self.noise.alpha(t) ** 2 + self.noise.sigma(t) ** 2).sqrt()
        return x_t / expand(spread, x_t), self.noise.log_snr(t)

    def score_noised(self, x: Tensor, log_snr: Tensor, text: Tensor) -> Tensor:
        """exp(s) f(x) . g (B,), with a gradient in x (B, C, S, S) of alpha² + sigma² = 1; text (B, E) of `embed_text`."""
        return self.net.logit_scale.exp() * (self.net.encode_image(self._checked(x), log_snr) * text).sum(1)

    def tokens(self, captions: Sequence[str]) -> Tensor:
        """Token numbers (B, L) on the CPU, where the net reads how long they are."""
        return self.tokenizer(captions)

    @torch.no_grad()
    def embed_image(self, image: Tensor) -> Tensor:
        """Unit vectors (B, E), float32, of images (B, C, S, S) in [-1, 1]. Raises: ValueError for another size."""
        return self.net.encode_image(self._checked(image))

    @torch.no_grad()
    def embed_text(self, captions: Sequence[str]) -> Tensor:
        """Unit vectors (B, E), float32, of captions; what is beyond the model's length is cut off."""
        return self.net.encode_text(self.tokens(captions))

    @torch.no_grad()
    def embed_tokens(self, captions: Sequence[str]) -> tuple[Tensor, Tensor, Tensor]:
        """Unit vectors (B, E), and the captions' tokens (B, L, W) with their mask (B, L) bool, True = real."""
        return self.net.encode_tokens(self.tokens(captions))

    def truncated(self, captions: Sequence[str]) -> list[bool]:
        """Which captions are longer than the model reads."""
        return self.tokenizer.truncated(list(captions))

    def _warn_of_cut(self, captions: Sequence[str]) -> None:
        if not self._warned and self.global_rank == 0 and any(cut := self.tokenizer.truncated(captions)):
            self._warned = True
            print(f"warning: captions are cut after {self.tokenizer.context_length} tokens, for instance "
                  f"{captions[cut.index(True)][:60]!r}: raise model.net.text.context_length", flush=True)  # fmt: skip

    def _checked(self, image: Tensor) -> Tensor:
        trained = (self.channels, self.image_size, self.image_size)
        if tuple(image.shape[1:]) != trained:
            raise ValueError(f"this CLIP reads images {trained}, got {tuple(image.shape[1:])}")
        return image

    # ---- training ----

    def param_groups(self) -> list[dict[str, Any]]:
        """Matrices, and apart from them what neither decays nor is orthogonalised: gains, biases, tables, the temperature."""
        return matrices_and_rest(self)

    def optimizer_step(self, *args: Any, **kwargs: Any) -> None:
        super().optimizer_step(*args, **kwargs)
        with torch.no_grad():
            self.net.logit_scale.clamp_(max=math.log(self.max_logit_scale))

    def setup(self, stage: str) -> None:
        """Raises: ValueError for accumulated batches: a batch is compared with itself alone."""
        if self.trainer.accumulate_grad_batches > 1:
            raise ValueError("trainer.accumulate is above 1, and CLIP compares the images of one batch: set "
                             "trainer.accumulate=1 and a smaller model.net, or use more processes")  # fmt: skip
