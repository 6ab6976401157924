"""What a denoiser is told besides the noised sample: one small module per kind of condition.

A conditioner reads its fields from a batch (`from_batch`), makes the unconditional value of it (`drop`), and turns a
value into what a net can use (`forward`): any of

    vector      (B, emb_dim), added to the embedding of the noise level
    tokens      (B, L, tokens_dim) with token_mask (B, L) bool, True = valid, or without where all are: attention looks at them
    channels    (B, C', H, W), stacked on the noised image

A net knows these three and no kind of condition. `combine` sums the vectors, joins the tokens and stacks the channels
of several conditioners.
"""

from __future__ import annotations

import math
from collections.abc import Iterable

import torch
from torch import Tensor, nn

from contracts import Batch
from networks.embedding import waves

Value = dict[str, Tensor]  # what a conditioner reads: tensors (B, ...) by name
Told = dict[str, Tensor]  # what a net is told: vector, tokens and token_mask, channels


class Conditioner(nn.Module):
    """One kind of condition."""

    reads = ""  # what it is told by: "label" and "text" of a request, "lowres" and "known" of a stage
    dropped_with = ""  # the name of another conditioner, to be dropped for the same images where the probabilities are the same
    droppable = True  # whether there is an unconditional value; False keeps the value in both passes of guidance

    def from_batch(self, batch: Batch) -> Value:
        """The value of this condition in a batch. Raises: ValueError if the batch does not hold it."""
        raise NotImplementedError

    def drop(self, value: Value, keep: Tensor) -> Value:
        """The value where keep (B,) bool is True, and the unconditional one where it is False."""
        raise NotImplementedError

    def forward(self, value: Value) -> Told:
        """What a net is told."""
        raise NotImplementedError


class LevelEmbedding(nn.Module):
    """Embed a noise level (a log-SNR or an augmentation level) as a vector.

    Args:
        dim: width of the result.
        scale: what the level is divided by, so that its useful range is about [-1, 1].

    Source: Vaswani et al. 2017 (sinusoids); Ho et al. 2020, appendix B (as time embedding).
    """

    def __init__(self, dim: int, scale: float, num_frequencies: int = 32) -> None:
        super().__init__()
        self.scale = scale
        # from a quarter of a period over the range to periods of a few hundredths of it
        frequencies = 2 * math.pi * torch.exp(torch.linspace(math.log(0.25), math.log(16.0), num_frequencies))
        self.register_buffer("frequencies", frequencies, persistent=False)
        self.mlp = nn.Sequential(nn.Linear(2 * num_frequencies, dim), nn.SiLU(), nn.Linear(dim, dim))

    def forward(self, level: Tensor) -> Tensor:
        """Level (B,) -> (B, dim)."""
        # float32, or float64 for float64 levels: bf16 cannot tell levels apart
        level = level if level.dtype == torch.float64 else level.float()
        angles = (level / self.scale)[:, None] * self.frequencies.to(level.dtype)
        return self.mlp(torch.cat([angles.sin(), angles.cos()], dim=-1))


class LabelConditioner(Conditioner):
    """A class number as a learned vector; a further one stands for no class.

    Reads `label` (B,) int64 and, where given, `label_keep` (B,) bool, False = no class.

    Args:
        num_classes: of the data, at least 1.
        emb_dim: width of the vector.
    Raises: ValueError where the data has no classes.
    Source: Ho & Salimans 2022, section 3.2 (the null class)
    """

    reads = "label"

    def __init__(self, num_classes: int | None, emb_dim: int) -> None:
        super().__init__()
        if not num_classes:
            raise ValueError("a class-conditional model needs data with classes, for instance data=fashion_mnist")
        self.num_classes = num_classes
        self.table = nn.Embedding(num_classes + 1, emb_dim)
        nn.init.normal_(self.table.weight, std=0.02)

    def from_batch(self, batch: Batch) -> Value:
        if "label" not in batch:
            raise ValueError("a class-conditional model needs a class number per image: the batch has no label")
        label = batch["label"]
        keep = batch.get("label_keep")
        return {"label": label if keep is None else torch.where(keep, label, self.num_classes)}

    def drop(self, value: Value, keep: Tensor) -> Value:
        return {"label": torch.where(keep, value["label"], self.num_classes)}

    def forward(self, value: Value) -> Told:
        return {"vector": self.table(value["label"])}


class TextConditioner(Conditioner):
    """Tokens of a frozen text encoder as context for attention and as one pooled vector.

    Reads `text_embeds` (B, L, text_dim), `text_mask` (B, L) bool and, where given, `text_keep` (B,) bool, False = an
    empty caption. Tokens are layer-normalised (the paper found that this "considerably" helps) and projected;
    ``num_layers`` trainable transformer layers may refine them for the image's sake (0 in the paper; cheap, since a
    caption has few tokens). The pooled vector is an attention pooling by learned queries: with one it is an average of the
    tokens, with several it can keep apart what different words say.

    Args:
        text_dim: width of the encoder's tokens.
        tokens_dim: width of the context given to attention.
        emb_dim: width of the pooled vector.
        num_layers: trainable layers on top of the frozen encoder.
        num_queries: of the pooling.
        max_length: longest caption, in tokens, that the position table covers.

    Source: Saharia et al. 2022 (Imagen), appendix D.3.1.
    """

    reads = "text"

    def __init__(
        self,
        text_dim: int,
        tokens_dim: int,
        emb_dim: int,
        *,
        num_layers: int = 0,
        num_queries: int = 1,
        head_dim: int = 32,
        max_length: int = 256,
    ) -> None:
        super().__init__()
        self.norm_in = nn.LayerNorm(text_dim)
        self.project = nn.Linear(text_dim, tokens_dim)
        self.position = nn.Parameter(waves(max_length, tokens_dim, longest=128)) if num_layers else None
        self.layers = nn.ModuleList(
            nn.TransformerEncoderLayer(
                tokens_dim, tokens_dim // head_dim, 4 * tokens_dim, dropout=0.0, activation="gelu", batch_first=True,
                norm_first=True,
            )
            for _ in range(num_layers)
        )  # fmt: skip
        self.norm_out = nn.LayerNorm(tokens_dim)
        self.pool_logit = nn.Linear(tokens_dim, num_queries)
        width = num_queries * tokens_dim
        self.pool_out = nn.Sequential(nn.LayerNorm(width), nn.Linear(width, emb_dim), nn.SiLU(), nn.Linear(emb_dim, emb_dim))

    def from_batch(self, batch: Batch) -> Value:
        if "text_embeds" not in batch:
            raise ValueError("a text-conditional model needs captions: the batch has no text_embeds")
        value = {"text": batch["text_embeds"], "mask": batch["text_mask"]}
        keep = batch.get("text_keep")
        return value if keep is None else self.drop(value, keep)

    def drop(self, value: Value, keep: Tensor) -> Value:
        """A dropped caption is one token of zeros, whatever its length was.

        Source: Saharia et al. 2022 (Imagen), section 2.2 (embeddings zeroed).
        """
        first = torch.zeros_like(value["mask"])
        first[:, 0] = True
        return {
            "text": value["text"] * keep[:, None, None],
            "mask": torch.where(keep[:, None], value["mask"], first),
        }

    def forward(self, value: Value) -> Told:
        text, mask = value["text"], value["mask"]
        tokens = self.project(self.norm_in(text))  # (B, L, tokens_dim)
        if self.position is not None:
            if text.shape[1] > len(self.position):
                raise ValueError(
                    f"a caption of {text.shape[1]} tokens is longer than the {len(self.position)} the model was built for"
                )
            tokens = tokens + self.position[: text.shape[1]]
        for layer in self.layers:
            tokens = layer(tokens, src_key_padding_mask=~mask)
        tokens = self.norm_out(tokens)
        logits = self.pool_logit(tokens).float().masked_fill(~mask[..., None], float("-inf"))  # (B, L, num_queries)
        pooled = logits.softmax(1).to(tokens.dtype).transpose(1, 2) @ tokens  # (B, num_queries, tokens_dim)
        return {"vector": self.pool_out(pooled.flatten(1)), "tokens": tokens, "token_mask": mask}


class LowresConditioner(Conditioner):
    """A low-resolution image, enlarged and noised, stacked on the noised image; its noise level as a vector.

    Reads `lowres` (B, C, H, W) and `aug_level` (B,) in [0, 1]. It is never dropped: a super-resolution stage without
    the image that it enlarges would be another model.

    Source: Ho et al. 2022 (cascaded diffusion), section 4.2
    """

    reads = "lowres"
    droppable = False

    def __init__(self, emb_dim: int) -> None:
        super().__init__()
        self.level = LevelEmbedding(emb_dim, scale=1.0)

    def from_batch(self, batch: Batch) -> Value:
        return {"lowres": batch["lowres"], "aug_level": batch["aug_level"]}

    def drop(self, value: Value, keep: Tensor) -> Value:
        return value

    def forward(self, value: Value) -> Told:
        return {"vector": self.level(value["aug_level"]), "channels": value["lowres"]}


class ImageEmbeddingConditioner(Conditioner):
    """An embedding of an image, such as CLIP's, as a vector and as a few tokens.

    Reads `image_embeds` (B, embed_dim) and, where given, `image_keep` (B,) bool, False = none. A dropped embedding is a
    learned one.

    Args:
        embed_dim: width of the embedding.
        emb_dim: width of the vector.
        tokens_dim: width of the tokens; None gives none.
        num_tokens: tokens that the embedding is projected to.
        scale: factor on the embedding; None is sqrt(embed_dim), which brings the numbers of a unit vector to about 1.
    Source: Ramesh et al. 2022 (DALL-E 2), section 2.1
    """

    def __init__(
        self, embed_dim: int, emb_dim: int, tokens_dim: int | None = None, num_tokens: int = 4, scale: float | None = None
    ) -> None:
        super().__init__()
        self.scale = embed_dim**0.5 if scale is None else scale
        self.nothing = nn.Parameter(torch.zeros(embed_dim))
        self.to_vector = nn.Linear(embed_dim, emb_dim)
        self.num_tokens = num_tokens if tokens_dim else 0
        self.to_tokens = nn.Linear(embed_dim, num_tokens * tokens_dim) if tokens_dim else None

    def from_batch(self, batch: Batch) -> Value:
        if "image_embeds" not in batch:
            raise ValueError("a model of image embeddings needs one per image: the batch has no image_embeds")
        value = {"embeds": batch["image_embeds"]}
        return self.drop(value, batch["image_keep"]) if "image_keep" in batch else value

    def drop(self, value: Value, keep: Tensor) -> Value:
        return {"embeds": torch.where(keep[:, None], value["embeds"], self.nothing.to(value["embeds"].dtype))}

    def forward(self, value: Value) -> Told:
        embeds = self.scale * value["embeds"]
        told = {"vector": self.to_vector(embeds)}
        if self.to_tokens is not None:
            tokens = self.to_tokens(embeds).unflatten(1, (self.num_tokens, -1))  # (B, num_tokens, tokens_dim)
            told |= {"tokens": tokens, "token_mask": tokens.new_ones(tokens.shape[:2], dtype=torch.bool)}
        return told


class AugmentConditioner(Conditioner):
    """How a training image was augmented, as a vector without bias: an image as it is adds nothing.

    Reads `augment` (B, num_params), zeros where it is absent, as in sampling.

    Args:
        emb_dim: width of the vector.
        num_params: numbers that describe an augmentation.
    Source: Karras et al. 2022 (EDM), appendix F.2
    """

    droppable = False

    def __init__(self, emb_dim: int, num_params: int = 9) -> None:
        super().__init__()
        self.num_params = num_params
        self.to_vector = nn.Linear(num_params, emb_dim, bias=False)

    def from_batch(self, batch: Batch) -> Value:
        given = batch.get("augment")
        if given is None:
            given = torch.zeros(len(batch["seed"]), self.num_params, device=self.to_vector.weight.device)
        return {"augment": given.to(self.to_vector.weight)}

    def drop(self, value: Value, keep: Tensor) -> Value:
        return value

    def forward(self, value: Value) -> Told:
        return {"vector": self.to_vector(value["augment"])}


def combine(parts: Iterable[Told]) -> Told:
    """What a net is told by several conditioners: vectors summed, tokens joined, channels stacked.

    Tokens without a mask are all valid; the mask says so where others' tokens have one.
    """
    parts = list(parts)
    masked = any("token_mask" in part for part in parts)
    found: dict[str, list[Tensor]] = {}
    for part in parts:
        if masked and "tokens" in part and "token_mask" not in part:
            part = part | {"token_mask": part["tokens"].new_ones(part["tokens"].shape[:2], dtype=torch.bool)}
        for name, value in part.items():
            found.setdefault(name, []).append(value)
    return {name: _joined(name, values) for name, values in found.items()}


def _joined(name: str, values: list[Tensor]) -> Tensor:
    if len(values) == 1:
        return values[0]
    return torch.stack(values).sum(0) if name == "vector" else torch.cat(values, dim=1)
