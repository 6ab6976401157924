"""Trained models from Python: `load("imagen-scenes").sample("two red circles", n=4, seed=0)` gives four pictures.

`hubconf.py` offers the same through torch.hub.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import torch
from PIL import Image
from torch import Tensor

from contracts import Request
from evaluation.metrics.images import to_uint8
from evaluation.pictures.captioned_grid import to_pil
from runtime.checkpoint import load_module
from runtime.options import built_options
from runtime.settings import check_options


def load(ckpt: str, *, device: str = "auto", ema: bool = True, trust: Sequence[str] = ()) -> Model:
    """A trained model.

    Args:
        ckpt: a checkpoint file, a run directory, or a name in zoo/. It may come from anybody: no code in it is run.
        device: auto takes a GPU where there is one.
        ema: averaged weights instead of the raw ones, where the checkpoint has them.
        trust: text encoders and folders that a checkpoint of somebody else may name.
    Raises: FileNotFoundError, ValueError for what is no checkpoint of this repository.
    """
    module, config, info = load_module(ckpt, ema=ema, trust=tuple(trust))
    chosen = ("cuda" if torch.cuda.is_available() else "cpu") if device == "auto" else device
    return Model(module.to(chosen), config, info)


class Model:
    """A trained model that draws pictures.

    Attributes:
        module: the LightningModule, for everything else.
        config: the configuration of its run.
        info: what is known of the weights: path, sha256, step, images_seen, train_sec, seed and more.
    """

    def __init__(self, module: Any, config: Any, info: dict[str, Any]) -> None:
        self.module, self.config, self.info = module, config, info

    def sample(
        self,
        prompts: str | Sequence[str] | None = None,
        *,
        labels: int | Sequence[int] | None = None,
        n: int = 1,
        seed: int = 0,
        batch_size: int = 16,
        tensors: bool = False,
        **options: Any,
    ) -> list[Image.Image] | Tensor:
        """Draw n pictures of each prompt or class; the same as `sample.py` draws with the same seed.

        Args:
            prompts: one or several, for a model of text.
            labels: class numbers, for a model of classes.
            n: pictures of each, or in all where there is neither prompt nor label.
            seed: picture i is drawn from seed + i.
            batch_size: changes the speed, not the pictures.
            tensors: give (N, C, H, W) in [-1, 1] instead of a list of PIL images.
            options: of the model's `sample`, for instance guidance_scale=3 or num_steps=16.
        Raises: ValueError for options and requests that the model does not take, and for a model that is not trained.
        """
        if n < 1 or batch_size < 1:
            raise ValueError(f"n={n}, batch_size={batch_size}: give whole numbers of at least 1")
        if not hasattr(self.module, "sample"):
            raise ValueError(f"a {type(self.module).__name__} draws no pictures")
        for name, value in options.items():
            check_options(self.module, {name: value})
        if not options and (reason := self.module.sampling_refusal()) is not None:
            raise ValueError(reason)
        parts = draw(self.module, self.request(prompts, labels, n), seed, batch_size, built_options(options))
        images = torch.cat([image for _, image in parts])
        return images if tensors else [to_pil(image) for image in to_uint8(images)]

    def request(self, prompts: str | Sequence[str] | None, labels: int | Sequence[int] | None, n: int) -> Request:
        """n of each prompt or class. Raises: ValueError for what the model does not take."""
        kind = self.module.conditioning
        wanted = {"text": prompts, "label": labels}
        if other := [name for name, given in wanted.items() if given is not None and name != kind]:
            takes = {"text": "prompts", "label": "class numbers", "none": "neither prompts nor class numbers"}[kind]
            raise ValueError(f"this model takes {takes}: leave {'prompts' if other[0] == 'text' else 'labels'} out")
        if kind == "none":
            return Request(n)
        given = wanted[kind]
        if given is None:
            raise ValueError("this model draws what it is told: give prompts, for instance sample('a red circle')" if kind == "text"
                             else "this model draws classes: give labels, for instance sample(labels=[0, 1])")  # fmt: skip
        each = [one for one in ([given] if isinstance(given, (str, int)) else list(given)) for _ in range(n)]
        if kind == "text":
            self.module.check_prompts(list(dict.fromkeys(each)))
        return Request(len(each), **{"text": {"texts": each}, "label": {"labels": each}}[kind])


@torch.inference_mode()
def draw(module: Any, request: Request, seed: int, batch_size: int, options: dict[str, Any]) -> Iterator[tuple[list[int], Tensor]]:
    """The seeds and images (b, C, H, W) in [-1, 1], on the CPU, of one batch after the other; image i is drawn from seed + i."""
    for start in range(0, request.n, batch_size):
        part = request.take(range(start, min(start + batch_size, request.n)))
        seeds = [seed + start + i for i in range(part.n)]
        yield seeds, module.sample(part, seeds=seeds, **options).float().cpu()
