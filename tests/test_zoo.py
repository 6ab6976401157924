"""The zoo: every entry is small, described, loads by its name as its card says, and does what it is for."""

from __future__ import annotations

import re

import pytest
import torch

from contracts import EmbedsImages, EmbedsTexts, Request
from datamodules.base import to_model_range
from datamodules.class_files import load
from evaluation.metrics.images import to_uint8
from runtime.checkpoint import load_module
from runtime.config import REPO
from scenes.grammar import Group, SceneSpec
from scenes.parser import parse
from scenes.render import render

ENTRIES = sorted(path.name for path in (REPO / "zoo").iterdir() if path.is_dir())
PROMPTS = {"two large green circles": "green", "a large yellow square above a small yellow triangle": "yellow"}


@pytest.mark.parametrize("name", ENTRIES)
def test_an_entry_is_small_and_the_page_says_how_it_was_made(name: str) -> None:
    folder, page = REPO / "zoo" / name, (REPO / "zoo" / "README.md").read_text()
    assert sum(path.stat().st_size for path in folder.iterdir()) < 16 * 10**6
    assert f"| `{name}` |" in page and f"out=zoo/{name}" in page
    named = re.findall(r"(?:^|[\s\[,\"'])(/[\w./-]+)", (folder / "config.yaml").read_text())
    assert not named, "places of the machine that made it"


@pytest.mark.parametrize("name", ENTRIES)
def test_an_entry_loads_by_its_name_and_does_what_it_is_for(name: str) -> None:
    module, _, info = load_module(name)
    assert info["weights"].startswith("ema")
    if isinstance(module, EmbedsImages) and isinstance(module, EmbedsTexts):
        specs = [SceneSpec("single", (Group(1, "large", colour, "square"),)) for colour in ("red", "green", "blue")]
        image = torch.stack([to_model_range(render(spec, 0, module.image_size)[0]) for spec in specs])
        found = module.embed_text([f"a large {spec.groups[0].colour} square" for spec in specs]) @ module.embed_image(image).T
        assert found.argmax(0).tolist() == found.argmax(1).tolist() == [0, 1, 2]
        return
    if module.conditioning == "none":
        drawn = to_uint8(module.sample(Request(64), seeds=list(range(64)))).double().mean(0)
        (real, _), _, _ = load("garments", None)
        both = torch.stack([drawn.flatten(), torch.from_numpy(real.copy()).double().mean(0).flatten()])
        assert torch.corrcoef(both)[0, 1] > 0.9, "the mean of its images is about that of the data"
        return
    if module.conditioning == "label":
        labels = [i % 10 for i in range(80)]
        drawn = to_uint8(module.sample(Request(80, labels=labels), seeds=list(range(80)), num_steps=10)).double().flatten(1)
        (real, classes), _, _ = load("garments", None)
        means = torch.stack([torch.from_numpy(real[classes == i].copy()).double().mean(0).flatten() for i in range(10)])
        nearest = torch.corrcoef(torch.cat([means, drawn.unflatten(0, (8, 10)).mean(0)]))[10:, :10].argmax(1)
        assert (nearest == torch.arange(10)).sum() >= 8, "the mean of a class's images is nearest to that of the class"
        return
    drawn = to_uint8(module.sample(Request(len(PROMPTS), texts=list(PROMPTS)), seeds=list(range(len(PROMPTS)))))
    for picture, colour in zip(drawn, PROMPTS.values()):
        seen = [found.colour for found in parse(picture.permute(1, 2, 0).numpy()).objects]
        assert seen and seen.count(colour) > len(seen) / 2, (name, seen)
