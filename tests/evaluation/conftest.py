"""Real scenes as prompts, so that the parser and the scoring are the real ones; and a tiny CLIP model."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
import torch

from evaluation.metrics.prompt_set import PromptSet
from scenes.captions import caption
from scenes.grammar import sample_spec
from scenes.render import render

if TYPE_CHECKING:
    from evaluation.extractors.clip_towers import CLIP


@pytest.fixture(scope="session")
def make_prompts() -> Callable[..., PromptSet]:
    """make_prompts(n, split="iid") -> PromptSet of `scenes` at 64 pixels."""

    def make(n: int, split: str = "iid") -> PromptSet:
        specs = [sample_spec(i, "scenes", split) for i in range(2 * n)]
        images = torch.stack(
            [torch.from_numpy(render(s, i, 64)[0].copy()).permute(2, 0, 1) for i, s in enumerate(specs)]
        )
        captions = [caption(s, i) for i, s in enumerate(specs[:n])]
        return PromptSet(split, captions, [s.to_dict() for s in specs[:n]], None, images[:n], images[n:], split)

    return make


@pytest.fixture
def weights(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The file of a tiny CLIP model that open_clip knows by name."""
    from evaluation.extractors import clip_towers  # open_clip is slow to import: only where it is used
    from tests.evaluation.tiny_clip import install

    clip_towers.text_tower.cache_clear()
    return install(tmp_path, monkeypatch)


@pytest.fixture
def clip(weights: Path) -> CLIP:
    from evaluation.extractors.clip_towers import CLIP
    from tests.evaluation.tiny_clip import NAME, TAG

    return CLIP(NAME, TAG, weights=str(weights))
