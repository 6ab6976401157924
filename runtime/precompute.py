"""Embeds every caption of a data set ahead of a run, on the device, into the encoder's cache; what is there is not computed again.

python -m runtime.precompute data=captions data.root=DIR text_encoder=t5_xl [device=cuda] [part=1/8]

The settings are those of train.py; model=imagen unless another is named. part=K/N takes every N-th image, for N such commands at a time.
"""

from __future__ import annotations

import re
import sys
import time
from collections.abc import Sequence
from itertools import islice
from typing import Any

import torch

from runtime.build import instantiate
from runtime.config import compose

BLOCK = 4096  # captions that are sorted by length together
REPORT_SEC = 5.0


def precompute(data: Any, encoder: Any, part: tuple[int, int] = (1, 1)) -> tuple[int, int]:
    """How many captions were found, and how many of them were new.

    Args:
        data: a datamodule, set up.
        encoder: as networks.text.CachedTextEncoder.
        part: (k, n) takes the images k, k + n, k + 2n, ….
    Raises: ValueError for data without a list of captions.
    """
    first, step = part
    number, images = data.captions()
    total, images = -(-(number - first + 1) // step), islice(images, first - 1, None, step)
    found = new = done = 0
    start = told = time.monotonic()
    while block := list(islice(images, BLOCK)):
        captions = [caption for image in block for caption in image]
        new += encoder.precompute(captions, progress=False)
        found, done, now = found + len(captions), done + len(block), time.monotonic()
        if encoder.is_full:
            break  # which the cache has told
        if now - told > REPORT_SEC or done == total:
            told, left_sec = now, round((now - start) / done * (total - done))
            clock = f"{left_sec // 3600}:{left_sec // 60 % 60:02}:{left_sec % 60:02}"
            print(f"{done:,} of {total:,} images, {found:,} captions, {new:,} of them new, {found / max(now - start, 1e-9):,.0f}/s, {clock} left", flush=True)
    return found, new


def main(argv: Sequence[str]) -> None:
    """`data=…`, `text_encoder=…` and other settings of train.py, `device=` and `part=K/N`."""
    own = {name: [text.partition("=")[2] for text in argv if text.startswith(f"{name}=")] for name in ("device", "part")}
    settings = [text for text in argv if not text.startswith(("device=", "part="))]
    named = any(text.startswith("model=") or text.startswith("experiment=") for text in settings)
    part = parsed_part(own["part"][-1] if own["part"] else "1/1")
    device = parsed_device(own["device"][-1] if own["device"] else "auto")
    cfg = compose("train", settings if named else ["model=imagen", *settings])
    if cfg.get("text_encoder") is None:
        raise ValueError("this model has no text encoder whose vectors could be computed ahead: model=imagen has one")
    encoder = instantiate(cfg.text_encoder)
    if not hasattr(encoder, "precompute"):
        raise ValueError("this text encoder has no cache: it costs nothing to compute")
    data = instantiate(cfg.data)
    data.prepare_data()
    data.setup()
    found, new = precompute(data, encoder.to(device), part)
    print(f"{found:,} captions, {new:,} of them new, in {cfg.text_encoder.cache_dir}")


def parsed_device(text: str) -> torch.device:
    """A device that is there; auto takes a GPU where there is one. Raises ValueError."""
    try:
        device = torch.device(("cuda" if torch.cuda.is_available() else "cpu") if text == "auto" else text)
        torch.empty(1, device=device)
    except (RuntimeError, AssertionError) as error:  # torch built without CUDA asserts
        raise ValueError(f"device={text}: not to be had here, give cpu, cuda, cuda:1 or auto ({str(error).splitlines()[0][:60]})") from None
    return device


def parsed_part(text: str) -> tuple[int, int]:
    """(k, n) of "k/n". Raises ValueError."""
    match = re.fullmatch(r"(\d+)/(\d+)", text)
    if not match or not 1 <= int(match[1]) <= int(match[2]):
        raise ValueError(f"part={text}: give K/N with K from 1 to N, as in part=1/8")
    return int(match[1]), int(match[2])


if __name__ == "__main__":
    from runtime.cli import guarded

    sys.exit(guarded(lambda: main(sys.argv[1:])))
