"""Models from Python: the pictures of sample.py, what is refused, and how it is found by torch.hub."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

import sample
from api import Model, load
from contracts import Request
from tests.toy import overrides
from train import main as train

REPO = Path(__file__).resolve().parents[1]


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("trained") / "run"
    train(overrides("trainer.max_steps=4", run=path))
    return path


def test_pictures_are_those_of_the_command(trained: Path, tmp_path: Path) -> None:
    sample.main([f"ckpt={trained}", "prompt=a red circle", "n=5", "seed=7", f"out={tmp_path}", "guidance_scale=2"])
    model = load(trained)
    drawn = model.sample("a red circle", n=5, seed=7, batch_size=2, guidance_scale=2)
    for i, picture in enumerate(drawn):
        assert np.array_equal(np.asarray(picture), np.asarray(Image.open(tmp_path / f"{i:05d}.png")))
    tensors = model.sample(["a red circle"], n=5, seed=7, guidance_scale=2, tensors=True)
    assert tensors.shape == (5, 3, *drawn[0].size) and tensors.min() >= -1 and tensors.max() <= 1
    assert not torch.equal(tensors, model.sample("a red circle", n=5, seed=8, guidance_scale=2, tensors=True))
    assert model.info["step"] == 4 and model.config.trainer.max_steps == 4


def test_prompts_come_in_order_n_of_each(trained: Path) -> None:
    model = load(str(trained))
    together = model.sample(["one", "two words"], n=2, seed=3, tensors=True)
    assert torch.allclose(together[2:], model.sample("two words", n=2, seed=5, tensors=True), atol=1e-5)
    assert not torch.allclose(together[2:], model.sample("one", n=2, seed=5, tensors=True), atol=1e-3)


def test_torch_hub_finds_it(trained: Path) -> None:
    model = torch.hub.load(str(REPO), "load", str(trained), source="local")
    assert len(model.sample("x", n=2)) == 2


class Classes:
    """A model of classes."""

    conditioning = "label"

    def sample(self, request: Request, *, seeds: list[int]) -> torch.Tensor:
        return torch.tensor([[label / 10, seed / 10] for label, seed in zip(request.labels, seeds)]).view(-1, 2, 1, 1)

    def sampling_refusal(self) -> str | None:
        return None


def test_classes_are_drawn_by_number() -> None:
    drawn = Model(Classes(), None, {}).sample(labels=[4, 2], n=2, seed=5, batch_size=3, tensors=True)
    assert torch.allclose(drawn.flatten(1), torch.tensor([[0.4, 0.5], [0.4, 0.6], [0.2, 0.7], [0.2, 0.8]]))
    assert len(Model(Classes(), None, {}).sample(labels=1, tensors=True)) == 1


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({}, "this model draws what it is told: give prompts"),
        ({"labels": 3}, "this model takes prompts: leave labels out"),
        ({"prompts": "x", "n": 0}, "n=0, batch_size=16: give whole numbers"),
        ({"prompts": "x", "guidance": 2}, "guidance"),
    ],
)
def test_what_the_model_does_not_take_is_refused(given: dict[str, Any], message: str, trained: Path) -> None:
    with pytest.raises(ValueError, match=message):
        load(trained).sample(**given)


def test_untrained_models_and_those_that_draw_nothing_say_so() -> None:
    untrained = Classes()
    untrained.sampling_refusal = lambda: "the model is not trained yet"
    with pytest.raises(ValueError, match="not trained yet"):
        Model(untrained, None, {}).sample(labels=1)
    with pytest.raises(ValueError, match="a object draws no pictures"):
        Model(object(), None, {}).sample()
    with pytest.raises(ValueError, match="give labels"):
        Model(Classes(), None, {}).sample()
    with pytest.raises(FileNotFoundError):
        load("no-such-run")
