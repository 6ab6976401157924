"""Imagen: what a sample depends on, guidance at its corners, stages apart and together, refusals."""

from __future__ import annotations

import functools

import pytest
import torch

from diffusion.denoiser import make_denoiser
from diffusion.samplers import ddim, ddpm
from diffusion.schedules import CosineSchedule
from lightning_modules.imagen import Imagen
from lightning_modules.stage import DiffusionStage, drop_text, enlarge, reduce
from networks.text import BagOfWords
from networks.unet import UNet

PROMPTS = ["a red circle", "two blue squares left of a green one", "", "a red circle"]


def make_stage(size: int, lowres: int | None = None, **kwargs) -> DiffusionStage:
    net = UNet(
        image_size=size, dim=16, dim_mults=(1, 2), num_res_blocks=1, attn_resolutions=(size // 2,), head_dim=8,
        text_dim=24, lowres=lowres is not None,
    )  # fmt: skip
    return DiffusionStage(
        net,
        image_size=size,
        lowres_size=lowres,
        schedule=CosineSchedule(),
        sampler=kwargs.pop("sampler", functools.partial(ddim)),
        num_steps=3,
        guidance_scale=2.0,
        **kwargs,
    )


def make_imagen(trained: bool = True, seed: int = 0, **kwargs) -> Imagen:
    torch.manual_seed(seed)
    stages = {"base": make_stage(8), "up": make_stage(16, 8, crop_size=8, batch_share=0.5)}
    module = Imagen(
        BagOfWords(dim=24), stages, optimizer=functools.partial(torch.optim.SGD, lr=0.1), clip_norm=None, **kwargs
    )
    generator = torch.Generator().manual_seed(1)
    for p in module.parameters():  # branches start at zero: wake them, so that text and levels matter
        if not p.any():
            p.data = torch.randn(p.shape, generator=generator) * 0.1
    if trained:
        for stage in module.stages.values():
            stage.images_trained += 1
    return module.eval()


def batch(n: int = 4, size: int = 16) -> dict:
    image = torch.rand(n, 3, size, size, generator=torch.Generator().manual_seed(2)) * 2 - 1
    return {"image": image, "caption": PROMPTS[:n], "seed": torch.arange(n) + 10}


def test_a_sample_depends_on_its_prompt_and_seed_only():
    module, seeds = make_imagen(), [5, 6, 7, 8]
    together = module.sample(PROMPTS, seeds=seeds)
    assert together.shape == (4, 3, 16, 16) and together.abs().max() <= 1
    for i in (0, 2):
        torch.testing.assert_close(module.sample([PROMPTS[i]], seeds=[seeds[i]])[0], together[i], rtol=0, atol=2e-4)
    turned = module.sample(PROMPTS[::-1], seeds=seeds[::-1])
    torch.testing.assert_close(turned.flip(0), together, rtol=0, atol=2e-4)
    assert (together[0] - together[3]).abs().max() > 0.05  # same prompt, other seed


def test_ancestral_noise_is_per_image_too():
    module = make_imagen()
    both = module.sample(PROMPTS[:2], seeds=[1, 2], sampler=functools.partial(ddpm), stages=["base"])
    one = module.sample(PROMPTS[1:2], seeds=[2], sampler=functools.partial(ddpm), stages=["base"])
    torch.testing.assert_close(one[0], both[1], rtol=0, atol=2e-4)


def test_swapping_captions_changes_the_pictures():
    module = make_imagen()
    a = module.sample(["a red circle", "two blue squares"], seeds=[1, 1])
    b = module.sample(["two blue squares", "a red circle"], seeds=[1, 1])
    assert (a[0] - a[1]).abs().max() > 0.01
    torch.testing.assert_close(a.flip(0), b, rtol=0, atol=2e-4)


def test_a_single_guidance_scale_is_the_base_stages():
    module, options = make_imagen(), dict(seeds=[3])
    base = module.sample(["a red circle"], guidance_scale=4.0, stages=["base"], **options)
    by_hand = module.sample(["a red circle"], lowres=base, stages=["up"], **options)
    torch.testing.assert_close(module.sample(["a red circle"], guidance_scale=4.0, **options), by_hand)
    both = module.sample(["a red circle"], guidance_scale={"base": 4.0, "up": 4.0}, **options)
    assert (both - by_hand).abs().max() > 1e-3


def stage_sample_by_hand(module: Imagen, prompt: str, conditional: bool) -> torch.Tensor:
    """One pass a step through the base net, without the guidance code."""
    stage = module.stages["base"]
    encoded = module.text_encoder.encode([prompt])
    text, mask = drop_text(encoded.embeds, encoded.mask, torch.tensor([conditional]))
    denoise = make_denoiser(stage.net, stage.schedule, "v")
    from diffusion.random import keyed_randn

    x_T = stage.schedule.sigma(torch.ones(())) * keyed_randn([3], (3, 8, 8), "base", "sample")
    return ddim(
        lambda x, t: denoise(x, t, text=text, text_mask=mask).clamp(-1, 1), stage.schedule, x_T, num_steps=3
    ).clamp(-1, 1)


def test_guidance_1_is_the_conditional_model_and_an_empty_prompt_the_unconditional_one():
    module, options = make_imagen(), dict(seeds=[3], stages=["base"], threshold="static")
    conditional = stage_sample_by_hand(module, "a red circle", True)
    unconditional = stage_sample_by_hand(module, "a red circle", False)
    assert (conditional - unconditional).abs().max() > 0.01
    torch.testing.assert_close(module.sample(["a red circle"], guidance_scale=1.0, **options), conditional)
    torch.testing.assert_close(module.sample(["a red circle"], guidance_scale=0.0, **options), unconditional)
    for scale in (1.0, 5.0):
        empty = module.sample([""], guidance_scale=scale, **options)
        torch.testing.assert_close(empty, unconditional, rtol=0, atol=1e-4)


def gradients(module: Imagen) -> dict[str, torch.Tensor]:
    module.train()
    module.losses(batch())["loss"].backward()
    return {name: p.grad for name, p in module.named_parameters() if p.grad is not None}


def test_a_joint_run_gives_each_stage_the_gradients_of_a_run_of_its_own():
    joint = gradients(make_imagen(trained=False))
    for name in ("base", "up"):
        alone = gradients(make_imagen(trained=False, train_stages=[name]))
        assert alone and all(key.startswith(f"stages.{name}.") for key in alone)
        for key, grad in alone.items():
            torch.testing.assert_close(grad, joint[key])


def test_losses_are_reported_per_stage_and_only_trained_stages_count_images():
    module = make_imagen(trained=False, train_stages=["up"]).train()
    losses = module.losses(batch())
    assert set(losses) == {"loss", "loss_up"}
    assert [int(s.images_trained) for s in module.stages.values()] == [0, 2]  # half of four


def test_times_are_spread_over_the_batch_and_over_ranks():
    module = make_imagen()
    t = module.quantiles(8, "base").sort().values
    torch.testing.assert_close(t.diff(), torch.full((7,), 1 / 8))
    assert 0 <= t[0] and t[-1] < 1
    assert not torch.equal(t, module.quantiles(8, "up").sort().values)


def test_noise_levels_follow_the_distribution_asked_for():
    stage = make_stage(8, noise_levels=(-1.5, 2.0))
    log_snr = stage.schedule.log_snr(stage.times((torch.arange(4000) + 0.5) / 4000))
    assert log_snr.mean() == pytest.approx(-1.5, abs=0.02) and log_snr.std() == pytest.approx(2.0, abs=0.02)
    assert torch.equal(make_stage(8).times(torch.tensor([0.25])), torch.tensor([0.25]))


def test_crops_cut_the_same_window_from_image_and_condition():
    stage = make_stage(16, 8, crop_size=8)
    image = torch.arange(256.0).view(1, 1, 16, 16).expand(3, 3, 16, 16) / 128 - 1
    x_0, condition = stage._targets(image)
    crop, crop_condition = stage._crop(x_0, condition, torch.tensor([1, 2, 3]), "up")
    assert crop.shape == crop_condition.shape == (3, 3, 8, 8)
    assert len({float(c[0, 0, 0]) for c in crop}) > 1  # windows differ by seed
    for one, cond in zip(crop, crop_condition):
        place = int((x_0[0, 0] == one[0, 0, 0]).nonzero()[0] @ torch.tensor([16, 1]))
        y, x = divmod(place, 16)
        assert y % 2 == x % 2 == 0  # on the low-resolution grid
        torch.testing.assert_close(cond, condition[0, :, y : y + 8, x : x + 8])


def test_reduce_and_enlarge():
    image = torch.rand(2, 3, 16, 16)
    torch.testing.assert_close(reduce(image, 8)[0, 0, 0, 0], image[0, 0, :2, :2].mean())
    assert enlarge(image, 32).shape == (2, 3, 32, 32)
    with pytest.raises(ValueError, match="16 pixels cannot be reduced to a stage's 7"):
        reduce(image, 7)


def test_refusals_are_one_clear_line():
    module = make_imagen(trained=False)
    with pytest.raises(ValueError, match=r"stage 'base' is not trained.*train_stages=\[base\]"):
        module.sample(["a"], seeds=[0])
    module.stages["base"].images_trained += 1
    assert module.sample(["a"], seeds=[0], stages=["base"]).shape[-1] == 8
    with pytest.raises(ValueError, match="stage 'up' is not trained"):
        module.sample(["a"], seeds=[0])
    with pytest.raises(ValueError, match="no stage 'top', only base, up"):
        module.sample(["a"], seeds=[0], stages=["top"])
    with pytest.raises(ValueError, match="2 seeds for 1 prompts"):
        make_imagen().sample(["a"], seeds=[0, 1])
    with pytest.raises(ValueError, match="give lowres"):
        make_imagen().sample(["a"], seeds=[0], stages=["up"])
    with pytest.raises(ValueError, match="train_stages: there is no stage 'sr'"):
        make_imagen(train_stages=["sr"])
    with pytest.raises(ValueError, match="lowres_size=4, but the stage before it gives 8"):
        Imagen(BagOfWords(dim=24), {"base": make_stage(8), "up": make_stage(16, 4)})


def test_a_checkpoint_of_another_text_encoder_is_refused_and_no_encoder_is_saved():
    module, checkpoint = make_imagen(), {"counters": dict(batches_seen=0, optimizer_steps=0, images_seen=0)}
    module.on_save_checkpoint(checkpoint)
    make_imagen().on_load_checkpoint(checkpoint)
    other = Imagen(BagOfWords(dim=32), {"base": make_stage(8)})
    with pytest.raises(ValueError, match="was trained with text encoder bag"):
        other.on_load_checkpoint(checkpoint)
    assert not [key for key in module.state_dict() if "encoder" in key]


@pytest.mark.slow
def test_two_colours_are_learned():
    """A base stage tells a red picture from a blue one after a few hundred steps."""
    torch.manual_seed(0)
    module = Imagen(BagOfWords(dim=24), {"base": make_stage(8, cond_drop_prob=0.1)}).train()
    optimizer = torch.optim.AdamW(module.parameters(), 2e-3)
    colours = {"red": torch.tensor([1.0, -1, -1]), "blue": torch.tensor([-1.0, -1, 1])}
    for step in range(300):
        names = [("red", "blue")[i % 2] for i in range(16)]
        image = torch.stack([colours[n] for n in names])[:, :, None, None].expand(-1, -1, 8, 8)
        module.batches_seen = step
        loss = module.losses({"image": image, "caption": names, "seed": torch.arange(16) + 16 * step})["loss"]
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    drawn = module.eval().sample(["red", "blue"] * 4, seeds=list(range(8)), num_steps=10)
    for image, name in zip(drawn, ["red", "blue"] * 4):
        assert (image.mean((1, 2)) - colours[name]).abs().max() < 0.25
