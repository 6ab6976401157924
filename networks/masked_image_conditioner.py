"""The known part of an image as a condition, for nets that were fine-tuned to draw the rest."""

from __future__ import annotations

import torch
from torch import Tensor

from contracts import Batch
from networks.conditioners import Conditioner, Told, Value


class MaskedImageConditioner(Conditioner):
    """Known pixels and the mask that says where they are, as further channels: zeros where nothing is known.

    Reads `known` (B, C, S, S) in [-1, 1] and `known_mask` (B, 1, S, S) bool, True = known; a batch without them knows
    nothing. It is never dropped: guidance is by the caption, and both of its passes see the known pixels. A net that is
    made of one without these channels (`init=RUN`) starts with weights of zero for them, and so as what it was.

    Args:
        image_size, channels: of the stage.
        nothing_prob: share of training images of which nothing is shown, so that plain drawing stays possible.

    Raises: ValueError for a probability outside [0, 1].
    Source: Nichol et al. 2022 (GLIDE), section 3.2
    """

    reads = "known"
    droppable = False

    def __init__(self, image_size: int, channels: int = 3, nothing_prob: float = 0.1) -> None:
        super().__init__()
        if not 0 <= nothing_prob <= 1:
            raise ValueError(f"nothing_prob={nothing_prob} is outside [0, 1]")
        self.nothing_prob = nothing_prob
        self.register_buffer("nothing", torch.zeros(channels + 1, image_size, image_size), persistent=False)

    def from_batch(self, batch: Batch) -> Value:
        if "known" not in batch:
            nothing = self.nothing.expand(len(batch["seed"]), -1, -1, -1)  # (B, C + 1, S, S)
            return {"known": nothing[:, :-1], "mask": nothing[:, -1:].bool()}
        return {"known": batch["known"], "mask": batch["known_mask"]}

    def drop(self, value: Value, keep: Tensor) -> Value:
        return value

    def forward(self, value: Value) -> Told:
        mask = value["mask"].to(value["known"].dtype)
        return {"channels": torch.cat([value["known"] * mask, mask], dim=1)}
