"""A family and a data set small enough to train in a second, to test everything around them."""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.data import Dataset

from contracts import Request
from datamodules.base import ImageDataModule
from rng.keyed import keyed_rand, keyed_randn
from lightning_modules.base import GenerativeModule
from runtime.build import OUTSIDE

SIZE = 4
OUTSIDE.update({"tests.toy.Toy": None, "tests.toy.ToyData": None})  # or load_module and resume would refuse to build them
CONF = Path(__file__).parent / "conf"


class Toy(GenerativeModule):
    """A two-layer denoiser with dropout (which uses the global random state) and keyed noise."""

    conditioning = "text"

    def __init__(
        self,
        width: int = 16,
        nan_at: list[int] | None = None,
        untrained: bool = False,
        dropout: float = 0.1,
        sleep_sec: float = 0,
        **kwargs: Any
    ) -> None:
        super().__init__(**kwargs)
        if width < 1:
            raise ValueError(f"model.width={width}: at least 1")
        self.net = nn.Sequential(
            nn.Flatten(),
            nn.Linear(3 * SIZE * SIZE, width),
            nn.SiLU(),
            nn.Dropout(dropout),
            nn.Linear(width, 3 * SIZE * SIZE),
        )
        self.nan_at, self.untrained, self.sleep_sec = nan_at or [], untrained, sleep_sec

    def losses(self, batch: dict[str, Any]) -> dict[str, Tensor]:
        x_0, seeds = batch["image"], batch["seed"]
        time.sleep(self.sleep_sec)
        t = keyed_rand(seeds, "t", device=x_0.device)[:, None, None, None]
        eps = keyed_randn(seeds, x_0.shape[1:], "eps", device=x_0.device)
        error = (self.net((1 - t) * x_0 + t * eps).view_as(x_0) - x_0).square()
        loss = error.mean() * (float("nan") if self.batches_seen in self.nan_at and self.training else 1.0)
        return {"loss": loss, "loss_toy": loss}

    @torch.no_grad()
    def sample(
        self,
        request: Request,
        *,
        seeds: Any,
        guidance_scale: float | None = None,
        num_steps: int | None = None,
        sampler: Callable[..., Tensor] | None = None,
    ) -> Tensor:
        if self.untrained:
            raise ValueError("stage 'toy' is not trained")
        x_T = keyed_randn(seeds, (3, SIZE, SIZE), "sample", device=self.device)
        lengths = torch.tensor([len(c) for c in request.texts], device=self.device)[:, None, None, None] / 10
        return (self.net(x_T).view_as(x_T) + lengths * (guidance_scale or 1)).tanh()

    def example_request(self) -> Request:
        return Request(3, texts=["one", "two words", "three"])

    def check_prompts(self, prompts: Any) -> None:
        for prompt in prompts:
            if len(prompt.split()) > 5:
                raise ValueError(f"prompt {prompt!r} has {len(prompt.split())} words, the encoder reads 5")


class ToyDataset(Dataset):
    def __init__(self, n: int) -> None:
        self.n = n

    def __len__(self) -> int:
        return self.n

    def __getitem__(self, key: tuple[int, int]) -> dict[str, Any]:
        index, seed = key
        base = keyed_randn([index], (3, SIZE, SIZE), "image")[0].tanh()
        image = base + 0.01 * keyed_randn([seed], (3, SIZE, SIZE), "augment")[0]
        return {"image": image, "caption": "toy", "seed": seed}


class ToyData(ImageDataModule):
    def __init__(self, n: int = 30, batch_size: int = 8, num_workers: int = 0) -> None:
        super().__init__(image_size=SIZE, batch_size=batch_size, captioned=True, num_workers=num_workers)
        self.n = n

    def setup(self, stage: str | None = None) -> None:
        self.train_dataset, self.val_dataset = ToyDataset(self.n), ToyDataset(7)

    def fingerprint(self) -> str:
        return f"toy-{self.n}"


def overrides(*more: str, run: Path | str | None = None) -> list[str]:
    """A fast run of the toy without W&B; `more` comes last and wins."""
    return [
        f"hydra.searchpath=[file://{CONF}]",
        "model=toy",
        "data=toy",
        "trainer=cpu",
        "trainer.precision=32-true",
        "logger.wandb=null",
        "callbacks.progress=null",
        "trainer.max_steps=20",
        "callbacks.metrics_log.every_steps=3",
        "callbacks.validate.every_steps=6",
        "callbacks.samples.every_steps=7",
        "callbacks.checkpoint.every_steps=4",
        "callbacks.checkpoint.every_sec=null",
        *([f"run_dir={run}"] if run else []),
        *more,
    ]


if __name__ == "__main__":  # python -m tests.toy OVERRIDES…: train.py with the toy allowed in checkpoints
    torch.set_num_threads(1)
    from runtime.cli import launch
    from train import main

    launch(main, "train")
