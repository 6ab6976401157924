"""CLIP in one loop: images and captions as arrows in one space. python -m programs.clip

Each image picks its own caption among all of the batch by the cosine of their arrows, and each caption its image: two cross-entropies.
Trained so, the space answers which of some captions fits an image that it never saw. Radford et al. 2021.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import torch

from datamodules.scenes import ScenesDataset
from evaluation.pictures.captioned_grid import captioned_grid
from evaluation.metrics.images import to_uint8
from networks.clip import ContrastiveNet, TextTransformer, VisionTransformer
from objectives.contrastive import clip_loss
from scenes.captions import all_captions

LENGTH = 16  # words read of a caption, with the mark of its end


def train(steps: int, batch_size: int, width: int) -> tuple[ContrastiveNet, Callable[[list[str]], torch.Tensor], list[float]]:
    """The trained net, what turns captions into numbers for it, and the loss of every step."""
    data = ScenesDataset("scenes_simple", 32, 50_000, ("train",), 0, "train")
    number = {word: i for i, word in enumerate(sorted({word for text in all_captions() for word in text.split()}), 1)}
    end = len(number) + 1  # the largest number: where the caption's arrow is read

    def tokens(captions: list[str]) -> torch.Tensor:
        rows = [[number.get(word, 0) for word in text.split()][: LENGTH - 1] + [end] for text in captions]
        return torch.tensor([row + [0] * (LENGTH - len(row)) for row in rows])

    net = ContrastiveNet(
        VisionTransformer(64, image_size=32, patch_size=8, width=width, layers=3, heads=4),
        TextTransformer(64, vocab_size=end + 1, context_length=LENGTH, width=width, layers=2, heads=4),
    )
    optimizer = torch.optim.AdamW(net.parameters(), lr=1e-3)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, steps)

    losses = []
    for step in range(steps):
        items = [data[(index, step)] for index in torch.randint(len(data), (batch_size,)).tolist()]
        captions = [item["caption"] for item in items]
        image, text = net.encode_image(torch.stack([item["image"] for item in items])), net.encode_text(tokens(captions))
        same = torch.tensor([[a == b for a in captions] for b in captions])  # two images may share a caption
        loss = clip_loss(image, text, net.logit_scale.exp(), same)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        schedule.step()
        losses.append(loss.item())
        if step % 50 == 0:
            print(f"step {step}/{steps}  cross-entropy {losses[-1]:.3f}", flush=True)
    return net.eval(), tokens, losses


def main(steps: int = 800, batch_size: int = 64, width: int = 128, out: str = "clip.png") -> list[float]:
    """Trains, writes new images with the captions that it finds for them, and returns the loss of every step."""
    torch.manual_seed(0)
    net, tokens, losses = train(steps, batch_size, width)
    test = ScenesDataset("scenes_simple", 32, 64, ("iid",), 0, "test")
    items = [test[(i, i)] for i in range(len(test))]
    images, captions = torch.stack([item["image"] for item in items]), [item["caption"] for item in items]
    with torch.no_grad():
        best = (net.encode_image(images) @ net.encode_text(tokens(captions)).T).argmax(1).tolist()
    right = sum(captions[found] == own for found, own in zip(best, captions))
    print(f"{right} of {len(captions)} new images find their caption among all {len(captions)}")
    captioned_grid(to_uint8(images[:16]), [captions[found] for found in best[:16]], columns=8).save(Path(out))
    return losses


if __name__ == "__main__":
    main()
