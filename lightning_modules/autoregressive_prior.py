"""The autoregressive prior of unCLIP: an embedding as a sequence of numbers in buckets, drawn one after the other."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from contracts import Batch
from lightning_modules.spaces import Embeddings
from networks.clip import Transformer, check_width
from networks.conditioners import combine
from rng.keyed import keyed_rand


class AutoregressivePrior(nn.Module):
    """P(embedding | caption) as a product over the embedding's principal components, in buckets, largest variance first.

    A causal transformer reads the caption, then in which bucket the dot product of the caption's and the image's embedding
    lies, then component after component. In sampling the dot product is drawn from the top half of those of the training data.
    It takes a ``DiffusionStage``'s place among the stages of a cascade.

    Args:
        space: the embeddings.
        conditioners: what gives the caption's tokens, of width `dim`.
        components: principal components that are drawn, at most the embeddings' width; the paper keeps 319 of 1024.
        buckets: of each component and of the dot product, even from the smallest to the largest that was seen; the paper has 1024.
        dim, layers, heads: of the transformer.
        fit_images: training images whose embeddings give components and ranges, before training starts.
        guidance_scale: w of ``uncond + w (cond - uncond)``, of the logits; 1 is off.
        cond_drop_prob: probability of training a sample without its caption.
    Raises: ValueError for more components than the embeddings have numbers, and widths that do not fit.
    Source: Ramesh et al. 2022 (unCLIP), section 2.2
    """

    lowres = None

    def __init__(
        self, *, space: Embeddings, conditioners: Mapping[str, nn.Module], components: int, buckets: int = 1024, dim: int = 192,
        layers: int = 4, heads: int = 6, fit_images: int = 4096, guidance_scale: float = 1.0, cond_drop_prob: float = 0.1,
        batch_share: float = 1.0,
    ) -> None:  # fmt: skip
        super().__init__()
        check_width(dim, heads)
        if components > space.shape[0]:
            raise ValueError(f"components={components}: an embedding has {space.shape[0]} numbers, and no more components")
        if buckets < 2:
            raise ValueError(f"buckets={buckets}: at least 2")
        if not 0 <= cond_drop_prob <= 1:
            raise ValueError(f"cond_drop_prob={cond_drop_prob} is outside [0, 1]")
        if fit_images <= components:
            raise ValueError(f"fit_images={fit_images}: more than the {components} components that are found in them")
        self.space, self.components, self.buckets, self.fit_images = space, components, buckets, fit_images
        self.guidance_scale, self.cond_drop_prob, self.batch_share = guidance_scale, cond_drop_prob, batch_share
        self.conditioners = nn.ModuleDict(conditioners)
        self.dot_table, self.table = nn.Embedding(buckets, dim), nn.Embedding(buckets, dim)
        self.positional_embedding = nn.Parameter(0.02 * torch.randn(components, dim))
        self.transformer, self.norm, self.head = Transformer(dim, layers, heads), nn.LayerNorm(dim), nn.Linear(dim, buckets)
        for layer in (self.dot_table, self.table, self.head):  # at first every bucket is about as likely
            nn.init.normal_(layer.weight, std=0.02)
        nn.init.zeros_(self.head.bias)
        self.register_buffer("images_trained", torch.zeros((), dtype=torch.int64))
        self.register_buffer("fitted", torch.zeros((), dtype=torch.bool))
        self.register_buffer("variance_kept", torch.zeros(()))
        self.register_buffer("mean", torch.zeros(space.shape[0]))
        self.register_buffer("basis", torch.zeros(components, space.shape[0]))
        self.register_buffer("limits", torch.zeros(2, components))  # smallest and largest of each component
        self.register_buffer("dots", torch.zeros(fit_images))  # of captions and images, sorted

    # ---- embeddings as buckets ----

    @torch.no_grad()
    def fit(self, image_embeds: Tensor, text_vector: Tensor) -> None:
        """Components, their ranges and the distribution of dot products, of training pairs (fit_images, E) of unit vectors.

        Raises: ValueError for another number of pairs.
        """
        if len(image_embeds) != self.fit_images or len(text_vector) != self.fit_images:
            raise ValueError(f"fit_images={self.fit_images}, and there are {len(image_embeds)} embeddings")
        z = image_embeds.double().cpu()  # on every device the same
        mean = z.mean(0)
        variance, vectors = torch.linalg.eigh((z - mean).T @ (z - mean) / len(z))
        variance, basis = variance.flip(0).clamp(min=0), vectors.flip(1).T[: self.components]
        basis = basis * basis.gather(1, basis.abs().argmax(1, keepdim=True)).sign()  # an eigenvector's sign is arbitrary
        numbers = (z - mean) @ basis.T
        kept = variance[: self.components].sum() / variance.sum().clamp(min=1e-12)
        found = {
            "mean": mean, "basis": basis, "limits": torch.stack([numbers.amin(0), numbers.amax(0)]), "variance_kept": kept,
            "dots": (z * text_vector.double().cpu()).sum(1).sort().values, "fitted": torch.ones((), dtype=torch.bool),
        }  # fmt: skip
        for name, value in found.items():
            getattr(self, name).copy_(value)

    def encode(self, z: Tensor) -> Tensor:
        """Bucket numbers (B, components) of unit vectors (B, E)."""
        low, high = self.limits
        share = ((z - self.mean) @ self.basis.T - low) / (high - low).clamp(min=1e-12)
        return (share * self.buckets).long().clamp(0, self.buckets - 1)

    def decode(self, buckets: Tensor) -> Tensor:
        """Unit vectors (B, E) at the middle of buckets (B, components)."""
        low, high = self.limits
        numbers = low + (high - low) * (buckets + 0.5) / self.buckets
        return F.normalize(self.mean + numbers @ self.basis, dim=-1)

    def dot_bucket(self, dot: Tensor) -> Tensor:
        """Bucket numbers (B,) of dot products (B,)."""
        share = (dot - self.dots[0]) / (self.dots[-1] - self.dots[0]).clamp(min=1e-12)
        return (share * self.buckets).long().clamp(0, self.buckets - 1)

    # ---- the transformer ----

    def logits(self, told: dict[str, Tensor], dot: Tensor, known: Tensor) -> Tensor:
        """Scores (B, k + 1, buckets) of the first k + 1 components.

        Args:
            told: the caption's tokens and their mask.
            dot: (B,), bucket numbers of the dot products.
            known: (B, k), bucket numbers of the first k components.
        """
        own = torch.cat([self.dot_table(dot)[:, None], self.table(known)], 1) + self.positional_embedding[: known.shape[1] + 1]
        mask = torch.cat([told["token_mask"], told["token_mask"].new_ones(own.shape[:2])], 1)
        x = self.transformer(torch.cat([told["tokens"].to(own.dtype), own], 1), causal=True, mask=mask)
        return self.head(self.norm(x[:, -own.shape[1] :])).float()

    def loss(self, batch: Batch, u: Tensor, tag: str) -> Tensor:
        """Nats per component (B,); u is not read: there are no noise levels."""
        if not self.fitted:
            raise ValueError("the autoregressive prior does not know the components of the embeddings yet: training finds them")
        z, seeds = F.normalize(batch["image_embeds"], dim=-1), batch["seed"]
        buckets, values = self.encode(z), {}
        for name, conditioner in self.conditioners.items():
            value = conditioner.from_batch(batch)
            values[name] = conditioner.drop(value, keyed_rand(seeds, tag, "drop", name, device=z.device) >= self.cond_drop_prob)
        told = combine(self.conditioners[name](value) for name, value in values.items())
        scores = self.logits(told, self.dot_bucket((z * batch["text_vector"]).sum(1)), buckets[:, :-1])
        return F.cross_entropy(scores.transpose(1, 2), buckets, reduction="none").mean(1)

    @torch.no_grad()
    def sample(
        self, batch: Batch, seeds: Sequence[int], tag: str, *, device: torch.device | str = "cpu", guidance_scale: float | None = None,
        **_: Any,
    ) -> Tensor:  # fmt: skip
        """Unit vectors (B, E); options of diffusion stages say nothing to it."""
        u = keyed_rand(seeds, tag, "sample", shape=(self.components + 1,), device=device)
        half = len(self.dots) // 2
        place = half + (u[:, 0] * (len(self.dots) - half)).long().clamp(max=len(self.dots) - half - 1)
        dot, scale = self.dot_bucket(self.dots[place]), self.guidance_scale if guidance_scale is None else guidance_scale
        values = {name: conditioner.from_batch(batch) for name, conditioner in self.conditioners.items()}
        nothing = torch.zeros(len(seeds), dtype=torch.bool, device=device)
        cond = combine(self.conditioners[name](value) for name, value in values.items())
        uncond = combine(c(c.drop(values[name], nothing)) for name, c in self.conditioners.items())
        known = torch.zeros(len(seeds), 0, dtype=torch.int64, device=device)
        for k in range(self.components):
            scores = self.logits(cond, dot, known)[:, -1]
            if scale != 1:
                base = self.logits(uncond, dot, known)[:, -1]
                scores = base + scale * (scores - base)
            below = scores.double().softmax(-1).cumsum(-1) <= u[:, k + 1, None]
            known = torch.cat([known, below.sum(-1, keepdim=True).clamp(max=self.buckets - 1)], 1)
        return self.decode(known)

    def settings(self, guided: bool = False) -> dict[str, Any]:
        """How it samples, as plain values."""
        return {"sampler": "autoregressive", "components": self.components, "buckets": self.buckets, "guidance_scale": self.guidance_scale}
