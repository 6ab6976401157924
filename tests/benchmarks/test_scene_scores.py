"""Pictures of scenes, drawn and read back."""

from __future__ import annotations

from typing import Any

import torch

from benchmarks.scene_scores import AT_ONCE, scores_of
from contracts import Request
from datamodules.base import to_model_range
from datamodules.scenes import ScenesDataset
from scenes.captions import caption
from scenes.render import render


class Renderer:
    """Draws each prompt's own scene, and another one for the last prompt."""

    def __init__(self, pairs: list[Any]) -> None:
        self.specs, self.last, self.calls = {text: spec for spec, text in pairs}, pairs[-1][1], []

    def sample(self, request: Request, **options: Any) -> torch.Tensor:
        self.calls.append(options)
        specs = [next(iter(self.specs.values())) if text == self.last else self.specs[text] for text in request.texts]
        return torch.stack([to_model_range(render(spec, 0, 64)[0]) for spec in specs])


def test_each_picture_is_scored_against_its_own_scene() -> None:
    data = ScenesDataset("scenes_simple", 64, 60, ("dev",), 0, "test")
    pairs = list({caption(data.spec(i), i): (data.spec(i), caption(data.spec(i), i)) for i in range(60)}.values())[:20]
    assert len(pairs) == 20
    model = Renderer(pairs)
    found, sec = scores_of(model, pairs, {"num_steps": 3})
    assert [s["all_correct"] for s in found] == [1] * 19 + [0] and sec > 0
    assert [call["num_steps"] for call in model.calls] == [3, 3]
    assert [call["seeds"] for call in model.calls] == [list(range(AT_ONCE)), list(range(AT_ONCE, 20))]
