"""Real scenes as prompts, so that the parser and the scoring are the real ones."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch

from evaluation.metrics.prompt_set import PromptSet
from scenes.captions import caption
from scenes.grammar import sample_spec
from scenes.render import render


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
