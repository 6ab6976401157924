"""Draws captioned scenes with a model and reads back what is in the pictures."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from typing import Any

import torch

from contracts import Request
from evaluation.metrics.images import to_uint8
from runtime.bfloat16 import cpu_prefers_bf16
from scenes.grammar import SceneSpec
from scenes.parser import parse
from scenes.scoring import score

AT_ONCE = 16


@torch.inference_mode()
def scores_of(module: Any, pairs: Sequence[tuple[SceneSpec, str]], options: Mapping[str, Any]) -> tuple[list[dict[str, float]], float]:
    """Skill -> score of each scene's picture, and seconds an image in batches of 16.

    Args:
        pairs: scenes, each with its caption.
        options: of `module.sample`.
    """
    bf16, found, sec = cpu_prefers_bf16(), [], 0.0
    for start in range(0, len(pairs), AT_ONCE):
        part = pairs[start : start + AT_ONCE]
        request, seeds = Request(len(part), texts=[text for _, text in part]), list(range(start, start + len(part)))
        began = time.perf_counter()
        with torch.autocast("cpu", torch.bfloat16, enabled=bf16):
            image = module.sample(request, seeds=seeds, **options)
        sec += time.perf_counter() - began
        found += [score(spec, parse(picture.permute(1, 2, 0).numpy())) for (spec, _), picture in zip(part, to_uint8(image.float()))]
    return found, sec / len(pairs)
