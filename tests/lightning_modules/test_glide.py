"""GLIDE: what a sample depends on, guidance at its corners, captions of batches and requests, long ones, resuming."""

from __future__ import annotations

import functools
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

import train
from contracts import Request
from diffusion.denoiser import Denoiser
from diffusion.samplers import ddim
from diffusion.schedules import CosineSchedule
from lightning_modules.glide import Glide
from lightning_modules.spaces import Pixels
from lightning_modules.stage import DiffusionStage
from lightning_modules.super_resolution import LowResolution
from networks.caption_conditioner import CaptionConditioner
from networks.conditioners import LowresConditioner
from networks.unet import UNet
from optimizers.muon import Muon
from rng.keyed import keyed_randn
from tests.sessions import assert_same, contents

PROMPTS = ["a red circle", "two blue squares left of a green one", "", "a red circle"]


def make_stage(size: int, lowres: int | None = None, length: int = 32, **kwargs) -> DiffusionStage:
    net = UNet(
        image_size=size, dim=16, dim_mults=(1, 2), num_res_blocks=1, attn_resolutions=(size // 2,), head_dim=8,
        tokens_dim=24, cond_channels=0 if lowres is None else 3,
    )  # fmt: skip
    conditioners: dict[str, nn.Module] = {
        "text": CaptionConditioner(24, 64, vocab_size=600, context_length=length, num_layers=1, heads=3)
    }
    if lowres is not None:
        conditioners["lowres"] = LowresConditioner(64)
        kwargs["lowres"] = LowResolution(lowres, crop_size=kwargs.pop("crop_size", None))
    return DiffusionStage(
        net, space=Pixels(size), conditioners=conditioners, schedule=CosineSchedule(), sampler=functools.partial(ddim),
        num_steps=3, guidance_scale=2.0, threshold="static", **kwargs,
    )  # fmt: skip


def make_glide(trained: bool = True, seed: int = 0, **kwargs) -> Glide:
    torch.manual_seed(seed)
    stages = {"base": make_stage(8), "up": make_stage(16, 8, length=28, crop_size=8, batch_share=0.5)}
    module = Glide(stages, optimizer=functools.partial(torch.optim.SGD, lr=0.1), clip_norm=None, **kwargs)
    generator = torch.Generator().manual_seed(1)
    for p in module.parameters():  # branches start at zero: wake them, so that text and levels matter
        if not p.any():
            p.data = torch.randn(p.shape, generator=generator) * 0.1
    if trained:
        for stage in module.stages.values():
            stage.images_trained += 1
    return module.eval()


def draw(module: Glide, texts: list[str], **options) -> Tensor:
    return module.sample(Request(len(texts), texts=texts), **options)


def batch(n: int = 4, size: int = 16) -> dict:
    image = torch.rand(n, 3, size, size, generator=torch.Generator().manual_seed(2)) * 2 - 1
    return {"image": image, "caption": PROMPTS[:n], "seed": torch.arange(n) + 10}


def test_a_sample_depends_on_its_prompt_and_seed_only() -> None:
    module, seeds = make_glide(), [5, 6, 7, 8]
    together = draw(module, PROMPTS, seeds=seeds)
    assert together.shape == (4, 3, 16, 16) and together.abs().max() <= 1
    for i in (0, 2):
        torch.testing.assert_close(draw(module, [PROMPTS[i]], seeds=[seeds[i]])[0], together[i], rtol=0, atol=2e-4)
    assert (together[0] - together[3]).abs().max() > 0.05  # same prompt, other seed
    swapped = draw(module, [PROMPTS[1], PROMPTS[0]], seeds=[5, 5])
    torch.testing.assert_close(swapped[1], together[0], rtol=0, atol=2e-4)
    assert (swapped[0] - swapped[1]).abs().max() > 0.01  # same seed, other prompt


def test_every_stage_reads_the_caption_with_a_transformer_of_its_own() -> None:
    module = make_glide()
    before = draw(module, PROMPTS[:2], seeds=[1, 2])
    base = draw(module, PROMPTS[:2], seeds=[1, 2], stages=["base"])
    with torch.no_grad():
        module.stages["up"].conditioners["text"].token_embedding.weight.mul_(3)
    assert torch.equal(draw(module, PROMPTS[:2], seeds=[1, 2], stages=["base"]), base)
    assert (draw(module, PROMPTS[:2], seeds=[1, 2]) - before).abs().max() > 1e-3


def test_guidance_1_is_the_conditional_model_and_an_empty_prompt_the_unconditional_one() -> None:
    module, options = make_glide(), {"seeds": [3], "stages": ["base"]}
    stage = module.stages["base"]
    x_T = stage.schedule.sigma(torch.ones(())) * keyed_randn([3], (3, 8, 8), "base", "sample")

    def by_hand(scale: float) -> Tensor:
        denoise, text = Denoiser(stage.net, stage.schedule, "v"), stage.conditioners["text"]
        cond, uncond = (text(text.from_batch({"caption": [caption]})) for caption in ("a red circle", ""))

        def guided(x: Tensor, t: Tensor) -> Tensor:
            return (denoise(x, t, **uncond) + scale * (denoise(x, t, **cond) - denoise(x, t, **uncond))).clamp(-1, 1)

        return ddim(guided, stage.schedule, x_T, num_steps=3).clamp(-1, 1)

    assert (by_hand(1.0) - by_hand(0.0)).abs().max() > 0.01
    for scale in (0.0, 1.0, 4.0):
        torch.testing.assert_close(draw(module, ["a red circle"], guidance_scale=scale, **options), by_hand(scale), rtol=0, atol=1e-4)
    torch.testing.assert_close(draw(module, [""], guidance_scale=4.0, **options), by_hand(0.0), rtol=0, atol=1e-4)


def test_a_joint_run_gives_each_stage_the_gradients_of_a_run_of_its_own() -> None:
    def gradients(module: Glide) -> dict[str, Tensor]:
        module.train().losses(batch())["loss"].backward()
        return {name: p.grad for name, p in module.named_parameters() if p.grad is not None}

    joint = gradients(make_glide(trained=False))
    assert len(joint) == len(list(make_glide().parameters())), "every weight has a gradient"
    for name in ("base", "up"):
        alone = gradients(make_glide(trained=False, train_stages=[name]))
        assert alone and all(key.startswith(f"stages.{name}.") for key in alone)
        for key, grad in alone.items():
            torch.testing.assert_close(grad, joint[key])


def test_tables_are_left_to_adam() -> None:
    module = make_glide(train_stages=["base"])
    matrices, rest = module.param_groups()
    names = {id(p): name.removeprefix("stages.base.") for name, p in module.named_parameters()}
    tables = {names[id(p)] for p in rest["params"] if p.ndim > 1}
    assert tables == {f"conditioners.text.{n}" for n in ("token_embedding.weight", "positional_embedding", "padding_embedding")}
    assert all(names[id(p)].startswith(("conditioners", "denoiser")) for p in matrices["params"])
    optimizer = Muon([matrices, rest], lr=1e-3)
    module.train().losses(batch())["loss"].backward()
    optimizer.step()
    used = {names[id(p)]: set(state) for p, state in optimizer.state.items()}
    assert used["conditioners.text.token_embedding.weight"] == {"step", "mean", "square"}
    assert used["conditioners.text.transformer.resblocks.0.attn.out_proj.weight"] == {"momentum"}


def test_captions_come_from_batches_and_requests() -> None:
    module = make_glide()
    assert module.conditioning == "text" and module.request_fields(Request(2, texts=("a", ""))) == {"caption": ["a", ""]}
    with pytest.raises(ValueError, match="draws from prompts: give one per image"):
        module.sample(Request(1), seeds=[0])
    with pytest.raises(ValueError, match="GLIDE learns from captions"):
        module.losses({"image": torch.zeros(2, 3, 16, 16), "seed": torch.arange(2)})
    assert make_glide(example_prompts=("a cat", "")).example_request() == Request(2, texts=["a cat", ""])


def test_a_prompt_that_some_stage_would_cut_is_refused_and_a_caption_told_once(capsys: pytest.CaptureFixture) -> None:
    module, fits, long = make_glide(), "a dog " * 6, "a dog " * 7  # 26 and 30 tokens; the stages read 32 and 28
    assert [len(module.stages["base"].conditioners["text"].tokenizer.tokens(c)) for c in (fits, long)] == [26, 30]
    module.check_prompts([fits, ""])
    with pytest.raises(ValueError, match="the prompt 'a dog a dog .*' is longer than the 28 tokens that the model reads"):
        module.check_prompts([fits, long])
    module.losses(batch())
    assert "warning" not in capsys.readouterr().out
    for _ in range(2):
        module.losses(batch() | {"caption": ["", long, "", ""]})
    said = capsys.readouterr().out
    assert said.count("warning: captions are cut after 28 tokens, for instance 'a dog") == 1


def overrides(run: Path, *more: str) -> list[str]:
    small = [f"model.stages.{stage}.{setting}" for stage in ("base", "upsampler") for setting in (
        "net.dim=16", "net.mid_blocks=1", "net.tokens_dim=32", "conditioners.text.vocab_size=600", "conditioners.text.num_layers=1",
        "conditioners.text.heads=2")]  # fmt: skip
    return ["model=glide", "trainer=cpu", "trainer.precision=32-true", f"run_dir={run}", "logger.wandb=null", "callbacks.progress=null",
            "callbacks.samples=null", "callbacks.evaluate=null", "data.batch_size=4", "data.num_val=4", "callbacks.validate.max_batches=1",
            "model.stages.base.net.dim_mults=[1,2]", "model.lr_schedule.total_steps=6", *small, *more]  # fmt: skip


def test_a_resumed_run_is_a_run_that_never_stopped(tmp_path: Path) -> None:
    train.main(overrides(tmp_path / "whole", "trainer.max_steps=4"))
    train.main(overrides(tmp_path / "parts", "trainer.max_steps=2"))
    train.main([f"resume={tmp_path / 'parts'}", "trainer.max_steps=4"])
    whole, parts = (contents(tmp_path / run) for run in ("whole", "parts"))
    for side in (whole, parts):
        side.pop("metrics"), side.pop("callbacks"), side.pop("pictures", None)  # the stop at step 2 measured once more
    assert_same(whole, parts)


@pytest.mark.slow
def test_two_colours_and_their_order_are_learned() -> None:
    """The text transformer learns with the net: not only words but their order decide what is drawn."""
    torch.manual_seed(0)
    module = Glide({"base": make_stage(8, cond_drop_prob=0.1)}).train()
    optimizer, steps = Muon(module.param_groups(), lr=5e-3, adam_lr=2e-3), 250
    falling = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: min(1, (step + 1) / 20) * (1 - step / steps))
    colours = {"red": torch.tensor([1.0, -1, -1]), "blue": torch.tensor([-1.0, -1, 1])}
    kinds = [("red", "blue"), ("blue", "red")]

    def picture(left: str, right: str) -> Tensor:
        halves = [colours[c][:, None, None].expand(-1, 8, 4) for c in (left, right)]
        return torch.cat(halves, 2)

    for step in range(steps):
        chosen = [kinds[i % 2] for i in range(16)]
        told = {"image": torch.stack([picture(*c) for c in chosen]), "caption": [f"{a} left of {b}" for a, b in chosen]}
        module.batches_seen = step
        loss = module.losses(told | {"seed": torch.arange(16) + 16 * step})["loss"]
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        falling.step()
    drawn = draw(module.eval(), [f"{a} left of {b}" for a, b in kinds] * 4, seeds=list(range(8)), num_steps=10)
    for image, kind in zip(drawn, kinds * 4):
        assert (image - picture(*kind)).abs().mean() < 0.3, "a picture of the other order differs by 1.3"
