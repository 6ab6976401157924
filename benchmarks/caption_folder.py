"""A folder of captioned scenes as any other project could read it, and prompts with the truth about them."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from scenes.captions import caption
from scenes.grammar import SceneSpec, sample_spec
from scenes.parser import parse
from scenes.render import render
from scenes.scoring import aggregate, score

PRESET = "scenes_simple"
METADATA = "metadata.jsonl"


@dataclass(frozen=True)
class Prompt:
    """What is asked for, the truth it is scored by, and the seed of its image."""

    caption: str
    spec: SceneSpec
    seed: int


def make_folder(root: Path, num_images: int, image_size: int, seed: int = 0) -> list[dict[str, Any]]:
    """Writes PNGs and metadata.jsonl (file_name, text, spec, …) and returns its lines; keeps a folder that fits.

    Raises:
        ValueError: the folder holds other captioned images.
    """
    rows = []
    for i in range(num_images):
        spec = sample_spec(seed + i, PRESET, "train")
        row = {"file_name": f"{i:06d}.png", "text": caption(spec, seed + i, preset=PRESET), "spec": spec.to_dict()}
        rows.append(row | {"seed": seed + i, "image_size": image_size})
    wanted = "".join(json.dumps(row) + "\n" for row in rows)
    metadata = root / METADATA
    if metadata.exists():
        if metadata.read_text() != wanted:
            raise ValueError(
                f"{root} holds other images than {num_images} of {image_size} pixels: remove it or choose another --dir"
            )
        return rows
    root.mkdir(parents=True, exist_ok=True)
    for row in rows:
        image_u8, _ = render(SceneSpec.from_dict(row["spec"]), row["seed"], image_size)
        Image.fromarray(image_u8).save(root / row["file_name"])
    metadata.write_text(wanted)  # last, so that a folder with it is complete
    return rows


def held_out_prompts(n: int, seed: int = 0) -> list[Prompt]:
    """n prompts of scenes that no training image shows (split iid)."""
    specs = [sample_spec(seed + i, PRESET, "iid") for i in range(n)]
    return [Prompt(caption(spec, seed + i, preset=PRESET), spec, seed + i) for i, spec in enumerate(specs)]


def score_images(prompts: Sequence[Prompt], images_u8: np.ndarray) -> dict[str, dict[str, float]]:
    """Skill -> mean, n, low, high over images uint8 (N, H, W, 3), read back by the parser."""
    parsed = [parse(np.ascontiguousarray(image)) for image in images_u8]
    return aggregate([score(p.spec, found) for p, found in zip(prompts, parsed, strict=True)])


def real_images(prompts: Sequence[Prompt], image_size: int) -> np.ndarray:
    """What a perfect generator would draw, uint8 (N, H, W, 3)."""
    return np.stack([render(p.spec, p.seed, image_size)[0] for p in prompts])
