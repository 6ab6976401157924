"""Filling images by a cascade: what each stage is given, known pixels, masks of training, and what fine-tuning is worth."""

from __future__ import annotations

import functools
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from contracts import Batch, Inpaints, Request
from diffusion.samplers import ddim
from diffusion.schedules import CosineSchedule
from lightning_modules.cascade import Cascade
from lightning_modules.inpainting import hidden, known_at
from lightning_modules.spaces import Embeddings, Pixels
from lightning_modules.stage import DiffusionStage
from networks.masked_image_conditioner import MaskedImageConditioner
from networks.unet import UNet
from optimizers.muon import Muon
from runtime.checkpoint import start_from
from tests.lightning_modules.test_cascade import Stage
from tests.lightning_modules.test_glide import make_glide
from tests.lightning_modules.test_imagen import make_imagen


def image_and_mask(n: int = 2, size: int = 16) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(0)
    mask = torch.ones(n, 1, size, size, dtype=torch.bool)
    mask[:, :, 3:9, 5:12] = False
    return torch.rand(n, 3, size, size, generator=generator) * 2 - 1, mask


def request(n: int = 2, size: int = 16, **more: Any) -> Request:
    image, mask = image_and_mask(n, size)
    return Request(n, images=image, masks=mask, **more)


def test_a_smaller_stage_is_given_averages_and_knows_blocks_of_which_every_pixel_is_known() -> None:
    image, mask = image_and_mask()
    small, known = known_at(image, mask, 4)
    assert known.dtype == torch.bool and known.shape == (2, 1, 4, 4)
    for y in range(4):
        for x in range(4):
            block = (slice(None), slice(None), slice(4 * y, 4 * y + 4), slice(4 * x, 4 * x + 4))
            torch.testing.assert_close(small[:, :, y, x], image[block].mean((2, 3)))
            assert torch.equal(known[:, :, y, x], mask[block].all(-1).all(-1))
    assert known.any() and not known.all()
    same, as_it_is = known_at(image, mask, 16)
    assert torch.equal(same, image) and torch.equal(as_it_is, mask)


def test_each_stage_draws_around_what_is_known_at_its_size_and_is_told_it() -> None:
    class Told(Cascade):
        def request_fields(self, asked: Request) -> Batch:
            return {"texts": list(asked.texts)}

    module = Told({"small": Stage(8), "large": Stage(16, 8)})
    for stage in module.stages.values():
        stage.images_trained += 1
    asked = request(texts=["a", "b"])
    found = module.inpaint(asked, seeds=[4, 5], guidance_scale=3.0, num_steps={"large": 7}, sampler=print)
    for name, size in (("small", 8), ("large", 16)):
        given, (image, mask) = module.stages[name].given, known_at(asked.images, asked.masks, size)
        assert given["tag"] == name and list(given["seeds"]) == [4, 5] and given["batch"]["texts"] == ["a", "b"]
        assert torch.equal(given["around"][0], image) and torch.equal(given["around"][1], mask)
        assert torch.equal(given["batch"]["known"], image) and torch.equal(given["batch"]["known_mask"], mask)
        assert given["sampler"] is print
    small, large = module.stages["small"].given, module.stages["large"].given
    assert (small["guidance_scale"], large["guidance_scale"], small["num_steps"], large["num_steps"]) == (3.0, None, None, 7)
    assert small["lowres"] is None and (large["lowres"] == 0.08).all(), "the picture of the stage below"
    assert torch.equal(found, torch.where(asked.masks, asked.images, torch.tensor(0.16)))


@pytest.mark.parametrize("make", [make_imagen, make_glide])
def test_families_of_text_keep_known_pixels_exactly_and_draw_the_rest_by_prompt_and_seed(make: Any) -> None:
    module = make()
    assert isinstance(module, Inpaints)
    asked = request(texts=["a red circle", "two blue squares"])
    found = module.inpaint(asked, seeds=[1, 2])
    known = asked.masks.expand(-1, 3, -1, -1)
    assert found.shape == (2, 3, 16, 16) and torch.equal(found[known], asked.images[known])
    assert (found - asked.images)[~known].abs().max() > 0.1
    alone = module.inpaint(asked.take([1]), seeds=[2])
    torch.testing.assert_close(alone[0], found[1], rtol=0, atol=2e-4)
    other = module.inpaint(request(texts=["two blue squares", "a red circle"]), seeds=[1, 2])
    assert (other - found).abs().max() > 1e-3


def test_what_cannot_be_filled_is_refused_in_one_line() -> None:
    module = make_glide()
    with pytest.raises(ValueError, match="give the image and a mask"):
        module.inpaint(Request(1, texts=["a"]), seeds=[0])
    with pytest.raises(ValueError, match="images of 32 pixels: this model fills images of 16"):
        module.inpaint(request(size=32, texts=["a", "b"]), seeds=[0, 1])
    with pytest.raises(ValueError, match="2 seeds for 1 images"):
        module.inpaint(request(1, texts=["a"]), seeds=[0, 1])
    vectors = DiffusionStage(nn.Linear(2, 2), space=Embeddings(4), schedule=CosineSchedule(), sampler=ddim)
    with pytest.raises(ValueError, match="only a model of pixels can fill parts of an image"):
        Cascade({"prior": vectors}).inpaint(request(), seeds=[0, 1])
    with pytest.raises(ValueError, match="stage 'base' is not trained"):
        make_glide(trained=False).inpaint(request(texts=["a", "b"]), seeds=[0, 1])


# ---- masks of training ----


def test_masks_are_rectangles_keyed_by_each_samples_seed() -> None:
    x_0, seeds = torch.randn(400, 3, 10, 10), torch.arange(400)
    told = hidden(x_0, seeds, "base", 0.1)
    mask = told["known_mask"]
    assert torch.equal(told["known"], x_0 * mask) and mask.shape == (400, 1, 10, 10)
    nothing = (~mask).flatten(1).all(1)
    assert 0.06 < nothing.float().mean() < 0.15, "the tenth of which nothing is known"
    inside = mask[:, 0, [0, 0, -1, -1], [0, -1, 0, -1]].sum(1) < 2  # a shown rectangle holds at most one corner
    assert 0.12 < (inside & ~nothing).float().mean() < 0.3, "about a quarter"
    for one in mask[~nothing, 0]:
        both = [r for r in (one, ~one) if r.any() and torch.equal(r, r.any(1)[:, None] & r.any(0)[None])]
        assert both, "one of the two parts is a rectangle"
    again = hidden(x_0[5:7], seeds[5:7], "base", 0.1)["known_mask"]
    assert torch.equal(again, mask[5:7]) and not torch.equal(hidden(x_0, seeds, "up", 0.1)["known_mask"], mask)
    assert not hidden(x_0, seeds, "base", 1.0)["known_mask"].any()
    shown = hidden(x_0, seeds, "base", 0.0)["known_mask"].flatten(1).any(1).float().mean()
    assert shown > 0.98, "but for the few where the hidden rectangle is the whole picture"


class Listener(nn.Module):
    """A net that keeps what it is told."""

    def forward(self, x: Tensor, log_snr: Tensor, **told: Tensor) -> Tensor:
        self.told = told
        return 0 * x


def test_a_stage_shows_its_net_a_part_of_the_very_image_that_it_learns_to_draw() -> None:
    known = MaskedImageConditioner(8, nothing_prob=0.0)
    stage = DiffusionStage(Listener(), space=Pixels(8), schedule=CosineSchedule(), sampler=ddim, conditioners={"known": known})
    image, seeds = torch.randn(6, 3, 16, 16), torch.arange(6) + 3
    stage.loss({"image": image, "seed": seeds}, torch.rand(6), "base")
    told = stage.net.told["channels"]
    wanted = hidden(nn.functional.avg_pool2d(image, 2), seeds, "base", 0.0)
    assert torch.equal(told, torch.cat([wanted["known"], wanted["known_mask"].float()], 1)) and told[:, 3].any()


# ---- what fine-tuning is worth ----


def plain_stage(tuned: bool) -> DiffusionStage:
    net = UNet(image_size=4, dim=16, dim_mults=(1, 2), num_res_blocks=1, attn_resolutions=(), cond_channels=4 if tuned else 0)
    known = {"known": MaskedImageConditioner(4)} if tuned else {}
    return DiffusionStage(net, space=Pixels(4), schedule=CosineSchedule(), sampler=functools.partial(ddim), num_steps=12, conditioners=known)


def shades(seeds: Tensor) -> Tensor:
    """Pictures of one of two shades each: any pixel says what all others are."""
    return (1.6 * (seeds * 7919 % 13 < 6).float() - 0.8)[:, None, None, None].expand(-1, 3, 4, 4)


def train(module: Cascade, steps: int, first: int) -> None:
    module.train()
    optimizer = Muon(module.parameters(), lr=5e-3, adam_lr=2e-3)
    falling = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: min(1, (step + 1) / 20) * (1 - step / steps))
    for step in range(first, first + steps):
        seeds, module.batches_seen = torch.arange(16) + 16 * step, step
        loss = module.losses({"image": shades(seeds), "seed": seeds})["loss"]
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        falling.step()
    module.eval()


@pytest.mark.slow
def test_a_fine_tuned_model_knows_what_the_rest_must_be_better_than_one_that_is_not(monkeypatch: pytest.MonkeyPatch) -> None:
    torch.manual_seed(0)
    plain, tuned = (Cascade({"base": plain_stage(t)}) for t in (False, True))
    train(plain, 150, 0)
    monkeypatch.setattr("runtime.checkpoint.load_module", lambda *a, **k: (plain, None, {"path": "plain"}))
    start_from(tuned, "plain")
    x_T = torch.randn(2, 3, 4, 4)
    level = torch.zeros(2)
    torch.testing.assert_close(tuned.stages["base"].net(x_T, level, channels=torch.randn(2, 4, 4, 4)), plain.stages["base"].net(x_T, level))
    train(plain, 150, 150)
    train(tuned, 150, 150)
    truth = shades(torch.arange(16) + 10**6)
    mask = torch.zeros(16, 1, 4, 4, dtype=torch.bool)
    mask[..., :1] = True
    asked = Request(16, images=truth, masks=mask)
    error = {name: (model.inpaint(asked, seeds=list(range(16))) - truth)[..., 1:].abs().mean().item()
             for name, model in (("plain", plain), ("tuned", tuned))}  # fmt: skip
    assert error["tuned"] < 0.25 and error["tuned"] < error["plain"] / 2, "the other shade differs by 1.6"
    drawn = tuned.sample(Request(16), seeds=list(range(16))).mean((1, 2, 3))
    assert (drawn > 0.5).any() and (drawn < -0.5).any(), "without known pixels it still draws both shades"
