"""What the rooms promise each other, on one screen: batches, requests, and what only some families can do."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, fields, replace
from typing import Any, Protocol, runtime_checkable

import torch
from torch import Tensor

# A batch is a dict: `image` float32 (B, C, H, W) in [-1, 1] and `seed` int64 (B,), which keys the sample's noise;
# loaders may leave `image` uint8, which `model_range` turns into that when the batch is on its device;
# where the data has them, `label` int64 (B,), `caption` list[str], `text_embeds` (B, L, D), `text_mask` (B, L) bool,
# `image_embeds` (B, E) and `text_vector` (B, E), unit vectors of one space.
Batch = dict[str, Any]


def model_range(image: Tensor) -> Tensor:
    """uint8 (0 to 255) -> float32 in [-1, 1], as x / 127.5 - 1; what is not uint8 stays as it is."""
    return image.float().div_(127.5).sub_(1.0) if image.dtype == torch.uint8 else image


@dataclass(frozen=True)
class Request:
    """What n images are asked for; None is what was not given.

    Args:
        n: number of images, at least 0.
        texts: n prompts; an empty one asks for an unconditional image.
        labels: n class numbers; None among them asks for an unconditional image.
        images: (n, C, H, W) in [-1, 1], images to start from.
        masks: (n, 1, H, W) bool, True = pixels of `images` that are known and stay.

    Raises: ValueError if a field has another length than n.
    """

    n: int
    texts: Sequence[str] | None = None
    labels: Sequence[int | None] | None = None
    images: Tensor | None = None
    masks: Tensor | None = None

    def __post_init__(self) -> None:
        if self.n < 0:
            raise ValueError(f"n={self.n}: give a number of at least 0")
        for name, value in self._given().items():
            if len(value) != self.n:
                raise ValueError(f"a request for {self.n} images has {len(value)} {name}: give one per image")

    def _given(self) -> dict[str, Any]:
        values = {f.name: getattr(self, f.name) for f in fields(self) if f.name != "n"}
        return {name: value for name, value in values.items() if value is not None}

    def take(self, indices: Iterable[int]) -> Request:
        """The same request for some of its images, in the order of the indices."""
        chosen = list(indices)
        parts = {
            name: value[chosen] if isinstance(value, Tensor) else [value[i] for i in chosen]
            for name, value in self._given().items()
        }
        return replace(self, n=len(chosen), **parts)

    def names(self) -> list[str] | None:
        """One line per image for people: its prompt or class; None where nothing was asked for."""
        chosen = self.texts if self.texts is not None else self.labels
        return None if chosen is None else ["" if c is None else str(c) for c in chosen]


# ---- what only some families can do; shared code asks with isinstance ----


@runtime_checkable
class Reconstructs(Protocol):
    """Images through the model and back."""

    def reconstruct(self, batch: Batch) -> Tensor:
        """(B, C, H, W) in [-1, 1]."""


@runtime_checkable
class HasLikelihood(Protocol):
    """Bounds or values of -log p(image). A module that cannot say it for its images sets `likelihood` to None."""

    def likelihood(self, batch: Batch, **options: Any) -> dict[str, Tensor]:
        """Columns (B,) in nats per image by name; a name that ends in `_density_nats` is of a density on [-1, 1].

        Columns (B, K) are no numbers but a curve of each image: `NAME_terms_nats`, whose sum is `NAME_nats`, over
        `NAME_terms_log_snr`. Options are keyword arguments with a type and a default of None, as those of `sample`.
        """


def has_likelihood(module: Any) -> bool:
    """Whether a module says how likely images are; a model of latents may have the method and not the images."""
    return isinstance(module, HasLikelihood) and module.likelihood is not None


@runtime_checkable
class ExplainsLikelihood(Protocol):
    """Says how its likelihoods are computed, for the evaluation card."""

    def likelihood_settings(self, **options: Any) -> dict[str, Any]:
        """Plain values by name, for the options that `likelihood` gets."""


@runtime_checkable
class HasLossByLevel(Protocol):
    """Has noise levels, and a loss at each."""

    def loss_by_level(self, batch: Batch) -> dict[str, tuple[Tensor, Tensor]]:
        """Part of the model -> log-SNR (B,) and loss (B,) of the samples, at the levels of `quantile` (B,)."""


@runtime_checkable
class HasImportanceSamples(Protocol):
    """Bounds its likelihood with importance samples, as many as one asks for."""

    eval_importance_samples: Sequence[int]  # every k at which `likelihood` gives a bound


@runtime_checkable
class HasLatents(Protocol):
    """Draws from latents of a known distribution."""

    def latents(self, seeds: Sequence[int]) -> Tensor:
        """(n, d), those from which `sample` draws with these seeds."""

    def generate(self, z: Tensor, label: Tensor | None = None) -> Tensor:
        """Images (n, C, H, W) in [-1, 1] of latents (n, d)."""


@runtime_checkable
class EncodesLatents(Protocol):
    """Goes from images to latents and back, so that another model can draw the latents."""

    latent_dim: int

    def encode_latents(self, image: Tensor) -> Tensor:
        """(B, latent_dim) for images (B, C, H, W) in [-1, 1], without randomness."""

    def latent_moments(self) -> tuple[Tensor, Tensor]:
        """Mean and standard deviation (latent_dim,) of the latents of training images, as far as they are known."""

    def generate(self, z: Tensor, label: Tensor | None = None) -> Tensor:
        """Images (n, C, H, W) in [-1, 1] of latents (n, latent_dim)."""


@runtime_checkable
class Inpaints(Protocol):
    """Fills the unknown part of an image."""

    def inpaint(self, request: Request, *, seeds: Sequence[int], **options: Any) -> Tensor:
        """Images (n, C, H, W) in [-1, 1] for `images` and `masks`; known pixels are as they were."""


@runtime_checkable
class Inverts(Protocol):
    """Goes from an image to the noise it can be drawn from, and back."""

    def invert(self, request: Request, **options: Any) -> Tensor:
        """Noise (n, ...) of `images`."""

    def draw_from(self, x_T: Tensor, request: Request, **options: Any) -> Tensor:
        """Images (n, C, H, W) in [-1, 1] drawn from this noise without further randomness."""


@runtime_checkable
class DrawsEmbeddings(Protocol):
    """Draws what an embedding in the space of captions says, from noise, and finds both of an image: unCLIP."""

    def embedding_of(self, request: Request) -> Tensor:
        """Unit vectors (n, E) of `images`."""

    def noise_of(self, z: Tensor, request: Request, **options: Any) -> Tensor:
        """Noise (n, ...) from which `draw_embedded` comes back to `images` with their embeddings z (n, E)."""

    def draw_embedded(self, z: Tensor, request: Request, *, seeds: Sequence[int], x_T: Tensor | None = None, **options: Any) -> Tensor:
        """Images (n, C, H, W) in [-1, 1] of embeddings z (n, E), from new noise or from x_T (n, ...)."""

    def captions_embedded(self, captions: Sequence[str]) -> Tensor:
        """Unit vectors (n, E)."""


@runtime_checkable
class Films(Protocol):
    """Draws in steps, and shows them."""

    def film(self, request: Request, *, seeds: Sequence[int], **options: Any) -> tuple[Tensor, Tensor]:
        """x_t and x_0_hat (K, n, C, H, W) in [-1, 1] of K steps on the way from noise to images; the last are the images."""

    def noised(self, request: Request, *, seeds: Sequence[int], frames: int) -> Tensor:
        """`images` (frames, n, C, H, W) in [-1, 1] on the way from clean to noise."""


@runtime_checkable
class GuidedByWeaker(Protocol):
    """Is guided away from a worse model of the same data, in place of the unconditional estimate."""

    def guide_by(self, other: Any) -> None:
        """Draw from now on with this model as the worse one. Raises ValueError if the two do not go together."""


@runtime_checkable
class GuidedByCLIP(Protocol):
    """Follows the gradient of a noise-aware CLIP's score on its way from noise to images."""

    def guide_by_clip(self, other: Any) -> None:
        """Draw from now on guided by this CLIP. Raises ValueError if the two do not go together."""


@runtime_checkable
class ScoresNoised(Protocol):
    """Says how well noised images fit captions: a CLIP, if `noise` is not None."""

    image_size: int
    channels: int
    noise: Any  # the noise levels of its training; None: it has seen clean images alone

    def score_noised(self, x: Tensor, log_snr: Tensor, text: Tensor) -> Tensor:
        """(B,), with a gradient, for x (B, C, S, S) of alpha² + sigma² = 1 and vectors (B, E) of `embed_text`."""

    def embed_text(self, captions: Sequence[str]) -> Tensor:
        """(B, E) of unit length."""


@runtime_checkable
class EmbedsImages(Protocol):
    """Says what is in an image as a vector, for instance CLIP."""

    def embed_image(self, image: Tensor) -> Tensor:
        """(B, E) of unit length for images (B, C, H, W) in [-1, 1]."""


@runtime_checkable
class EmbedsTexts(Protocol):
    """Says what a caption means as a vector, in the space of `embed_image`."""

    def embed_text(self, captions: Sequence[str]) -> Tensor:
        """(B, E) of unit length."""

    def pair_loss(self, image: Tensor, text: Tensor) -> Tensor:
        """What training minimises, for vectors (N, E) of N pairs that are compared with each other."""


@runtime_checkable
class EmbedsTokens(Protocol):
    """Says what a caption means word by word too, so that another model can be told it."""

    def embed_tokens(self, captions: Sequence[str]) -> tuple[Tensor, Tensor, Tensor]:
        """Unit vectors (B, E) as of `embed_text`, tokens (B, L, W), and their mask (B, L) bool, True = real."""

    def truncated(self, captions: Sequence[str]) -> list[bool]:
        """Which captions are longer than the model reads."""


@runtime_checkable
class Classifies(Protocol):
    """Knows classes: its features and scores can judge the images of others."""

    def features(self, image: Tensor) -> Tensor:
        """(B, D) for images (B, C, H, W) in [-1, 1]."""

    def logits(self, image: Tensor) -> Tensor:
        """Class scores (B, K) before the softmax, for images (B, C, H, W) in [-1, 1]."""


@runtime_checkable
class HasPrompts(Protocol):
    """A datamodule that writes prompts for any split of its grammar."""

    def prompts(self, split: str, n: int) -> list[tuple[str, Any]]:
        """The first n captions of a split, each with the specification of what it asks for."""


@runtime_checkable
class LogsPictures(Protocol):
    """A logger that takes pictures."""

    def log_picture(self, name: str, picture: Any, step: int) -> None:
        """Send one Pillow picture under a name."""


def label_tensor(labels: Sequence[int | None], device: torch.device | str | None = None) -> tuple[Tensor, Tensor]:
    """Class numbers (n,) int64 and keep (n,) bool, False where the class is None (the number is then 0)."""
    numbers = torch.tensor([0 if label is None else label for label in labels], dtype=torch.int64, device=device)
    keep = torch.tensor([label is not None for label in labels], dtype=torch.bool, device=device)
    return numbers, keep
