"""Finished evaluations as evaluate.py leaves them, made of real scenes so that pages and tables can be looked at.

python -m tests.evaluation.results_on_disk DIR writes three models and their page.
"""

from __future__ import annotations

import json
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image, ImageFilter

from evaluation.metrics.alignment import SceneAlignment
from evaluation.metrics.base import by_metric
from evaluation.report import FinishedEvaluation
from evaluation.report.svg_charts import png_uri
from scenes.captions import caption
from scenes.grammar import SceneSpec, sample_spec
from scenes.render import render as draw

FLOORS = {"iid": 488.0, "combo": 497.0, "word": 302.0}


def write_result(
    root: Path, name: str, *, wrong: float, blur: float = 0.0, n: int = 16, splits: tuple[str, ...] = ("iid", "combo"),
    family: str = "alpha", seed: int = 0, guided: bool = True, prompted: bool = True, size: int = 64,
    protocol_id: str = "aaaa0000", likelihood: bool = False,
) -> FinishedEvaluation:  # fmt: skip
    """Writes one evaluation into root/name: a share `wrong` of the pictures shows another scene than was asked for."""
    folder, rng = root / name, np.random.default_rng(seed)
    entries = {}
    for split in splits:
        specs = [sample_spec(i, "scenes", split) for i in range(n)]
        drawn = [other(spec, rng, split) if rng.random() < wrong else spec for spec in specs]
        real = np.stack([draw(spec, i, size)[0] for i, spec in enumerate(specs)])
        fake = np.stack([soften(draw(spec, 1000 + i, size)[0], blur, rng) for i, spec in enumerate(drawn)])
        save(folder / "real" / f"{split}-0123abcd", real[:24])
        save(folder / "samples" / f"{split}-{name}", fake)
        captions = [caption(spec, i) for i, spec in enumerate(specs)] if prompted else None
        metrics, details = numbers(specs if prompted else None, real, fake, FLOORS.get(split, 490.0), wrong + blur / 4)
        if likelihood:
            ends = {"low": 2.28 + wrong, "high": 2.34 + wrong}
            metrics["bits_per_dim"] = entry(2.31 + wrong, "bits/dim", False, "likelihood", **ends)
            metrics["bits_per_dim"]["protocol"] = {"bound": "upper", "dequantisation": "none"}
        for row in metrics.values():
            row |= {"protocol_id": protocol_id, "n": row.get("n", n)}
        details["memorisation"] = neighbours(real, fake, rng)
        entries[split] = {
            "n": n, "samples": f"samples/{split}-{name}", "captions": captions, "labels": None,
            "seeds": [1_000_000 + 37 * i for i in range(n)], "metrics": metrics, "details": details,
            "not_computed": {"fid": "no Inception weights here; pass evaluator.fid.extractor.weights=FILE"}
            | ({} if prompted else {"all_correct": "needs specs, which this data or this model does not have"}),
        }  # fmt: skip
    data = {
        "schema": 2, "name": name, "family": family, "title": f"{family} on scenes, {size} pixels",
        "date": "2026-03-01 10:00 UTC", "commit": "0a1b2c3",
        "facts": {"checkpoint": f"zoo/{name} (sha256 0123456789ab)", "weights": "ema after 6,500 steps",
                  "data": "scenes", "seeds": "one per image, from seed=0", "device": "CPU, 2 threads"},
        "sampling": {"num_steps": 32, "guidance_scale": 3.0}, "model": {"family": family},
        "cost": {"parameters": 6_960_000 + 10 * seed, "flops_per_image": 3.1e9 * (1 + seed), "nfe": 44,
                 "sec_per_image": 0.21 * (1 + seed), "sec_per_image_min": 0.19 * (1 + seed), "images_seen": 416_000,
                 "train_sec": None if seed else 2520.0, "device": "CPU, 2 threads", "batch_size": 64},
        "splits": entries, "sweeps": sweeps(wrong, splits[0], n) if guided else [],
        "notes": ["Alignment: a parser that never sees the caption reads each image back."],
        "reproduce": f"python evaluate.py ckpt=zoo/{name} n={n}",
    }  # fmt: skip
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "metrics.json").write_text(json.dumps(data, indent=1))
    return FinishedEvaluation.load(folder)


def other(spec: SceneSpec, rng: np.random.Generator, split: str) -> SceneSpec:
    """The scene with one group recoloured, or another scene altogether."""
    if spec.groups and rng.random() < 0.7:
        colour = "red" if spec.groups[0].colour != "red" else "blue"
        return replace(spec, groups=(replace(spec.groups[0], colour=colour), *spec.groups[1:]))
    return sample_spec(int(rng.integers(5000, 9000)), "scenes", split)


def soften(image: np.ndarray, blur: float, rng: np.random.Generator) -> np.ndarray:
    picture = np.asarray(Image.fromarray(image).filter(ImageFilter.GaussianBlur(blur)), dtype=float)
    return np.clip(picture + rng.normal(0, 2, picture.shape), 0, 255).round().astype(np.uint8)


def save(folder: Path, images: np.ndarray) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    for i, image in enumerate(images):
        Image.fromarray(image).save(folder / f"{i:05d}.png")


def entry(value: float, unit: str, higher: bool, section: str, headline: bool = True, **more: float) -> dict[str, Any]:
    return {"value": value, "unit": unit, "higher_is_better": higher, "section": section, "headline": headline,
            "protocol": {}} | more  # fmt: skip


def numbers(
    specs: list[SceneSpec] | None, real: np.ndarray, fake: np.ndarray, floor: float, badness: float
) -> tuple[dict[str, Any], dict[str, Any]]:
    """Alignment as the parser measures it; distances as a generator of this quality might have."""
    fd = floor * (1 + badness)
    counts, good = [125, 250, 500, 1000], 0.8 - badness / 2
    metrics = {
        "fd_efficientnet_lite0": entry(
            fd, "", False, "quality", real=floor, noise=4.1 * floor, low=fd - 14, high=fd + 14
        ),
        "kd_efficientnet_lite0": entry(0.012 * badness, "", False, "quality", real=0.0, noise=0.9),
        "precision": entry(
            good, "%", True, "diversity", real=0.86, noise=0.01, low=good - 0.1, high=good + 0.05
        ),
        "recall": entry(0.6, "%", True, "diversity", real=0.84, noise=0.0),
        "copies_below_1pct": entry(0.01, "%", False, "memorisation", real=0.01),
    }  # fmt: skip
    metrics["fd_efficientnet_lite0"]["protocol"] = {
        "extractor": "efficientnet_lite0",
        "sha256": "f00d",
        "resize": "bicubic 64",
    }
    fit = [0.4 * fd, 0.6 * fd * counts[-1]]
    curve = {"n": counts, "value": [fit[0] + fit[1] / c * (1 + 0.01 * (-1) ** i) for i, c in enumerate(counts)]}
    details: dict[str, Any] = {"fd_efficientnet_lite0_curve": curve | {"fit": fit, "r2": 0.9991}}
    if specs is not None:
        alignment = SceneAlignment()
        tensors = [torch.from_numpy(images).permute(0, 3, 1, 2).contiguous() for images in (real, fake)]
        alignment.update(
            *tensors, [""] * len(specs), specs=[spec.to_dict() for spec in specs], indices=range(len(specs))
        )
        rows = by_metric(alignment.compute())
        metrics |= {
            m: entry(row.pop("value"), "%", True, "alignment", m in alignment.headlines, **row)
            for m, row in rows.items()
        }
        details |= alignment.details()
    return metrics, details


def neighbours(real: np.ndarray, fake: np.ndarray, rng: np.random.Generator) -> dict[str, Any]:
    pairs = [
        {"fake": i, "train": 100 + i, "feature_distance": 0.2 + 0.05 * i, "pixel_distance": 4.0 + i,
         "train_png": png_uri(real[i])}
        for i in range(min(4, len(real)))
    ]  # fmt: skip
    hist = {"fake": rng.normal(1.0, 0.1, 200).tolist(), "holdout": rng.normal(1.1, 0.1, 200).tolist()}
    return {"pairs": pairs, "hist": hist}


def sweeps(wrong: float, split: str, n: int) -> list[dict[str, Any]]:
    def point(x: Any, nfe: int, exact: float, fd: float) -> dict[str, Any]:
        return {"x": x, "nfe": nfe, "all_correct": exact, "all_correct_low": exact - 0.08, "all_correct_high": exact + 0.08,
                "all_correct_real": 1.0, "fd_efficientnet_lite0": fd, "fd_efficientnet_lite0_real": 488.0}  # fmt: skip

    good = 1 - wrong
    units = {"all_correct": "%", "fd_efficientnet_lite0": ""}
    guidance = [point(w, 44, good * (1 - 0.8 / (1 + w)), 500 + 30 * abs(w - 3)) for w in (1.0, 1.5, 2.0, 3.0, 4.0, 6.0)]
    steps = [point(s, s, good * (1 - 1 / s), 500 + 900 / s) for s in (4, 8, 16, 32, 64)]
    samplers = [point(s, 32, good * g, 520) for s, g in (("ddim", 0.9), ("heun", 0.8), ("dpmpp_2m", 0.95))]
    common = {"split": split, "n": n, "metrics": units}
    return [
        common | {"option": "guidance_scale", "series": "static", "points": guidance},
        common | {"option": "num_steps", "series": "ddim", "points": steps},
        common | {"option": "sampler", "series": "", "points": samplers},
    ]


def three(root: Path, n: int = 48) -> list[FinishedEvaluation]:
    """Two models with text, of which one draws better, and one without prompts that knows likelihoods."""
    splits = ("iid", "combo", "word")
    return [
        write_result(root, "alpha-scenes", wrong=0.25, n=n, splits=splits),
        write_result(root, "beta-scenes-early", wrong=0.6, blur=1.0, n=n, splits=splits, family="beta", seed=1),
        write_result(root, "gamma", wrong=0.5, blur=1.5, n=n, splits=("iid",), family="gamma", seed=2, guided=False,
                     prompted=False, likelihood=True),
    ]  # fmt: skip


if __name__ == "__main__":
    from evaluation.report import render

    root = Path(sys.argv[1])
    results = three(root)
    (root / "report.html").write_text(render(results), encoding="utf-8")
    (root / "one.html").write_text(render(results[:1]), encoding="utf-8")
