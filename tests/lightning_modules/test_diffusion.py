"""Diffusion of one stage: by class or unconditional, and over vectors, in training and sampling."""

from __future__ import annotations

import functools
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from contracts import GuidedByWeaker, Request
from diffusion.samplers import ddim
from diffusion.schedules import CosineSchedule, RectifiedFlowSchedule
from diffusion.times import LogitNormalTimes
from lightning_modules.diffusion import Diffusion
from lightning_modules.spaces import Pixels
from lightning_modules.stage import DiffusionStage
from networks.conditioners import LabelConditioner


class Net(nn.Module):
    """A net over small images that is told a class."""

    def __init__(self) -> None:
        super().__init__()
        self.layers = nn.Sequential(nn.Linear(12 + 1 + 8, 64), nn.SiLU(), nn.Linear(64, 12))

    def forward(self, x: Tensor, log_snr: Tensor, *, vector: Tensor | None = None) -> Tensor:
        vector = x.new_zeros(len(x), 8) if vector is None else vector
        return self.layers(torch.cat([x.flatten(1), log_snr[:, None] / 10, vector], 1)).view(x.shape)


def make(classes: int | None = 3, trained: bool = True, **options: Any) -> Diffusion:
    torch.manual_seed(0)
    conditioners = {} if classes is None else {"label": LabelConditioner(classes, 8)}
    given = dict(schedule=CosineSchedule(), sampler=functools.partial(ddim), num_steps=8, guidance_scale=2.0)
    stage = DiffusionStage(Net(), space=Pixels(2), conditioners=conditioners, **given | options)
    module = Diffusion(stage, optimizer=functools.partial(torch.optim.Adam, lr=5e-3), clip_norm=None)
    stage.images_trained += int(trained)
    return module.eval()


def test_the_one_stage_has_a_name_and_no_loss_of_its_own() -> None:
    module = make().train()
    batch = {"image": torch.zeros(4, 3, 2, 2), "label": torch.tensor([0, 1, 2, 0]), "seed": torch.arange(4)}
    assert list(module.losses(batch)) == ["loss"] and list(module.stages) == ["diffusion"]
    assert module.stage is module.stages["diffusion"] and int(module.stage.images_trained) == 5
    assert module.sampling_settings() == module.stage.settings() and module.sampling_settings()["num_steps"] == 8


def test_grids_show_each_class_once_or_sixteen_images() -> None:
    assert make(3).example_request() == Request(3, labels=[0, 1, 2]) and make(3).conditioning == "label"
    assert make(40).example_request() == Request(16, labels=list(range(16)))
    assert make(None).example_request() == Request(16) and make(None).conditioning == "none"


def test_an_image_depends_on_its_class_and_seed_only() -> None:
    module = make()
    together = module.sample(Request(4, labels=[0, 2, None, 0]), seeds=[5, 6, 7, 8])
    assert together.shape == (4, 3, 2, 2) and together.abs().max() <= 1
    for i, label in enumerate([0, 2, None]):
        alone = module.sample(Request(1, labels=[label]), seeds=[5 + i])
        torch.testing.assert_close(alone[0], together[i], rtol=0, atol=1e-4)
    assert (together[0] - together[3]).abs().max() > 0.01
    other = module.sample(Request(1, labels=[1]), seeds=[5])
    assert (other[0] - together[0]).abs().max() > 1e-4


def test_no_class_is_an_unconditional_image_at_any_guidance() -> None:
    module = make()
    drawn = [module.sample(Request(2), seeds=[1, 2], guidance_scale=w) for w in (0.0, 1.0, 4.0)]
    for one in drawn[1:]:
        torch.testing.assert_close(one, drawn[0], rtol=0, atol=1e-4)
    nobody = module.sample(Request(2, labels=[None, None]), seeds=[1, 2])
    torch.testing.assert_close(nobody, drawn[0], rtol=0, atol=1e-4)
    by_class = module.sample(Request(2, labels=[1, 1]), seeds=[1, 2], guidance_scale=0.0)
    torch.testing.assert_close(by_class, drawn[0], rtol=0, atol=1e-4)


def test_an_untrained_model_and_an_unknown_class_are_refused() -> None:
    with pytest.raises(ValueError, match="the model is not trained yet"):
        make(trained=False).sample(Request(1), seeds=[0])
    with pytest.raises(ValueError, match="label=3: the model knows the classes 0 to 2"):
        make().sample(Request(1, labels=[3]), seeds=[0])


@pytest.mark.parametrize(
    "options",
    [
        dict(prediction="v"),
        dict(prediction="edm", weighting="edm", sigma_data=0.8),
        dict(prediction="flow", schedule=RectifiedFlowSchedule(), times=LogitNormalTimes()),
    ],
    ids=["v", "edm", "flow"],
)
def test_classes_are_learned(options: dict[str, Any]) -> None:
    """Images of one colour per class: a few hundred steps, and draws have the colour of their class."""
    module = make(cond_drop_prob=0.1, guidance_scale=1.0, num_steps=16, trained=False, **options).train()
    optimizer = module.configure_optimizers()
    colours = torch.tensor([[0.8, -0.8, -0.8], [-0.8, 0.8, -0.8], [-0.8, -0.8, 0.8]])
    for step in range(300):
        label = torch.arange(48) % 3
        image = colours[label][:, :, None, None].expand(-1, -1, 2, 2)
        module.batches_seen = step
        loss = module.losses({"image": image, "label": label, "seed": torch.arange(48) + 48 * step})["loss"]
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    label = torch.arange(60) % 3
    drawn = module.eval().sample(Request(60, labels=label.tolist()), seeds=list(range(60))).mean((2, 3))  # (60, 3)
    assert (drawn.argmax(1) == label).float().mean() > 0.85
    means = torch.stack([drawn[label == c].mean(0) for c in range(3)])
    assert (means - colours).abs().max() < 0.5


def test_only_a_model_of_the_same_kind_guides() -> None:
    module, request = make(), Request(2, labels=[0, 1])
    alone = module.sample(request, seeds=[1, 2], guidance_scale=3.0)
    with pytest.raises(ValueError, match="the model is not trained yet"):
        module.guide_by(make(trained=False))
    with pytest.raises(ValueError, match="give a checkpoint of the same model, with the stages diffusion"):
        module.guide_by(nn.Linear(1, 1))
    with pytest.raises(ValueError, match="it is told a label, and this model is not"):
        make(None).guide_by(make())
    with pytest.raises(ValueError, match="in a space of its own"):
        small = make()
        small.stage.space = Pixels(4)
        module.guide_by(small)
    weaker = make(None)
    weaker.guide_by(make(None))
    assert isinstance(module, GuidedByWeaker) and weaker.sampling_settings()["guidance_scale"] == 2.0
    module.guide_by(make(None))
    assert not torch.allclose(module.sample(request, seeds=[1, 2], guidance_scale=3.0), alone)
    assert not any("weaker" in name for name in module.state_dict())
