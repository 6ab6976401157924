"""Imagen: what a sample depends on, guidance at its corners, stages apart and together, refusals."""

from __future__ import annotations

import functools
from types import SimpleNamespace

import pytest
import torch

from contracts import Request
from diffusion.denoiser import make_denoiser
from diffusion.samplers import ddim, ddpm
from diffusion.schedules import CosineSchedule
from lightning_modules.imagen import Imagen
from lightning_modules.stage import DiffusionStage, drop_text, enlarge, reduce
from networks.text import BagOfWords, TextEmbedding
from networks.unet import UNet

PROMPTS = ["a red circle", "two blue squares left of a green one", "", "a red circle"]


def asked(texts: list[str]) -> Request:
    return Request(len(texts), texts=texts)


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
    together = module.sample(asked(PROMPTS), seeds=seeds)
    assert together.shape == (4, 3, 16, 16) and together.abs().max() <= 1
    for i in (0, 2):
        torch.testing.assert_close(module.sample(asked([PROMPTS[i]]), seeds=[seeds[i]])[0], together[i], rtol=0, atol=2e-4)
    turned = module.sample(asked(PROMPTS[::-1]), seeds=seeds[::-1])
    torch.testing.assert_close(turned.flip(0), together, rtol=0, atol=2e-4)
    assert (together[0] - together[3]).abs().max() > 0.05  # same prompt, other seed


def test_ancestral_noise_is_per_image_too():
    module = make_imagen()
    both = module.sample(asked(PROMPTS[:2]), seeds=[1, 2], sampler=functools.partial(ddpm), stages=["base"])
    one = module.sample(asked(PROMPTS[1:2]), seeds=[2], sampler=functools.partial(ddpm), stages=["base"])
    torch.testing.assert_close(one[0], both[1], rtol=0, atol=2e-4)


def test_swapping_captions_changes_the_pictures():
    module = make_imagen()
    a = module.sample(asked(["a red circle", "two blue squares"]), seeds=[1, 1])
    b = module.sample(asked(["two blue squares", "a red circle"]), seeds=[1, 1])
    assert (a[0] - a[1]).abs().max() > 0.01
    torch.testing.assert_close(a.flip(0), b, rtol=0, atol=2e-4)


def test_a_single_guidance_scale_is_the_base_stages():
    module, options = make_imagen(), dict(seeds=[3])
    base = module.sample(asked(["a red circle"]), guidance_scale=4.0, stages=["base"], **options)
    by_hand = module.sample(asked(["a red circle"]), lowres=base, stages=["up"], **options)
    torch.testing.assert_close(module.sample(asked(["a red circle"]), guidance_scale=4.0, **options), by_hand)
    both = module.sample(asked(["a red circle"]), guidance_scale={"base": 4.0, "up": 4.0}, **options)
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
    torch.testing.assert_close(module.sample(asked(["a red circle"]), guidance_scale=1.0, **options), conditional)
    torch.testing.assert_close(module.sample(asked(["a red circle"]), guidance_scale=0.0, **options), unconditional)
    for scale in (1.0, 5.0):
        empty = module.sample(asked([""]), guidance_scale=scale, **options)
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
        module.sample(asked(["a"]), seeds=[0])
    module.stages["base"].images_trained += 1
    assert module.sample(asked(["a"]), seeds=[0], stages=["base"]).shape[-1] == 8
    with pytest.raises(ValueError, match="stage 'up' is not trained"):
        module.sample(asked(["a"]), seeds=[0])
    with pytest.raises(ValueError, match="no stage 'top', only base, up"):
        module.sample(asked(["a"]), seeds=[0], stages=["top"])
    with pytest.raises(ValueError, match="2 seeds for 1 prompts"):
        make_imagen().sample(asked(["a"]), seeds=[0, 1])
    with pytest.raises(ValueError, match="give lowres"):
        make_imagen().sample(asked(["a"]), seeds=[0], stages=["up"])
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


# ---- the assembly, with recorders in place of the encoder and the stages ----


class Encoder:
    """A text encoder that keeps what it is asked: tokens of the caption's length, and whether autocast was on."""

    id, revision = "recorder", "7"

    def __init__(self) -> None:
        self.asked: list[list[str]] = []
        self.autocast: list[bool] = []

    def encode(self, captions: list[str]) -> TextEmbedding:
        self.asked.append(captions)
        self.autocast.append(torch.is_autocast_enabled("cpu"))
        lengths = torch.tensor([max(1, len(c.split())) for c in captions])
        mask = torch.arange(int(lengths.max())) < lengths[:, None]
        return TextEmbedding(torch.ones(*mask.shape, 3) * lengths[:, None, None] * mask[..., None], mask, torch.ones(1, 3))

    def check_length(self, prompts: list[str], *, strict: bool) -> None:
        if strict and max(map(len, prompts)) > 20:
            raise ValueError("too long")


class Stage(DiffusionStage):
    """A stage that keeps what it is given; its loss is 1, 2, 3, ... and its picture has its size."""

    def __init__(self, size: int, lowres: int | None = None, **kwargs) -> None:
        super().__init__(torch.nn.Linear(2, 2), image_size=size, lowres_size=lowres, schedule=None, sampler=None, **kwargs)

    def loss(self, image, text, text_mask, seeds, u, tag):
        self.given = dict(image=image, text=text, text_mask=text_mask, seeds=seeds, u=u, tag=tag)
        return torch.arange(1.0, len(image) + 1) * self.image_size

    def sample(self, text, text_mask, keep, seeds, tag, **options):
        self.given = dict(text=text, text_mask=text_mask, keep=keep, seeds=seeds, tag=tag, **options)
        return torch.full((len(text), 3, self.image_size, self.image_size), self.image_size / 100)


def assembled(world_size: int = 1, rank: int = 0, share: float = 0.5, **kwargs) -> Imagen:
    stages = {"small": Stage(8), "middle": Stage(16, 8, batch_share=share), "large": Stage(32, 16)}
    module = Imagen(Encoder(), stages, **kwargs)
    module._trainer = SimpleNamespace(world_size=world_size, global_rank=rank)
    return module


CAPTIONS = ["a red circle", "", "a dog", "  ", "two", "blue", "a b c d", "x"]


def train_batch(**more) -> dict:
    return {"image": torch.rand(8, 3, 32, 32), "caption": CAPTIONS, "seed": torch.arange(8) + 40, **more}


def test_each_stage_gets_its_share_of_the_batch_with_its_own_captions_seeds_and_name():
    module, batch = assembled(), train_batch()
    losses = module.losses(batch)
    text, mask, keep = module.embed(CAPTIONS)
    assert keep.tolist() == [True, False, True, False, True, True, True, True]
    for name, n in (("small", 8), ("middle", 4), ("large", 8)):
        given = module.stages[name].given
        assert given["tag"] == name and torch.equal(given["image"], batch["image"][:n])
        assert torch.equal(given["seeds"], batch["seed"][:n]) and torch.equal(given["text_mask"], mask[:n])
        assert torch.equal(given["text"], (text * keep[:, None, None])[:n]), "an empty caption is no text"
        assert torch.equal(given["u"], module.quantiles(n, name))
    assert {k: v.item() for k, v in losses.items()} == {
        "loss": 36 + 40 + 144, "loss_small": 36, "loss_middle": 2.5 * 16, "loss_large": 144
    }  # fmt: skip
    tiny = assembled(share=0.1)
    tiny.losses({k: v[:2] for k, v in batch.items()})
    assert len(tiny.stages["middle"].given["image"]) == 1


def test_images_are_counted_over_all_ranks_in_training_only():
    module = assembled(world_size=4, train_stages=["small", "middle"])
    module.eval().losses(train_batch())
    assert [int(s.images_trained) for s in module.stages.values()] == [0, 0, 0]
    for _ in range(2):
        module.train().losses(train_batch())
    assert [int(s.images_trained) for s in module.stages.values()] == [64, 32, 0]


def test_only_stages_in_training_learn_and_each_is_clipped_alone():
    module = assembled(train_stages=["middle"])
    assert [all(p.requires_grad for p in s.parameters()) for s in module.stages.values()] == [False, True, False]
    assert not any(p.requires_grad for name in ("small", "large") for p in module.stages[name].parameters())
    assert list(module.losses(train_batch())) == ["loss", "loss_middle"]
    both = assembled(train_stages=["small", "large"]).clip_groups()
    assert list(both) == ["small", "large"] and all(len(group) == 2 for group in both.values())
    assert list(assembled().stages) == ["small", "middle", "large"]
    assert assembled().train_stages == ["small", "middle", "large"]


def test_noise_levels_of_all_ranks_together_are_even_and_of_this_batch_stage_and_run():
    ranks = [assembled(world_size=3, rank=rank) for rank in range(3)]
    for number in range(6):
        for module in ranks:
            module.batches_seen = number
        together = torch.cat([module.quantiles(4, "small") for module in ranks])
        assert 0 <= together.min() and together.max() < 1
        torch.testing.assert_close(together.sort().values.diff(), torch.full((11,), 1 / 12))
        own = ranks[1].quantiles(4, "small")
        torch.testing.assert_close((own - own[0]) % 1, torch.arange(4) / 4)

    def first(tag: str = "small", batch: int = 0, seed: int = 0, training: bool = True) -> float:
        module = assembled().train(training)
        module.batches_seen, module.run_seed = batch, seed
        return module.quantiles(4, tag).min().item()

    assert len({first(), first(tag="large"), first(batch=1), first(seed=1), first(training=False)}) == 5
    assert first(training=False) == first(training=False, seed=1), "validation is the same in every run"
    assert first(training=False, tag="large") != first(training=False)


def test_text_comes_from_the_encoder_in_full_precision_or_from_the_data():
    module = assembled()
    with torch.autocast("cpu", dtype=torch.bfloat16):
        text, mask, _ = module.embed(["a b", "c"])
    assert module.text_encoder.autocast == [False] and mask.tolist() == [[True, True], [True, False]]
    assert text.dtype == torch.float32
    embeds, given = torch.rand(8, 5, 3), torch.rand(8, 5) > 0.5
    module.losses(train_batch(text_embeds=embeds, text_mask=given))
    assert len(module.text_encoder.asked) == 1, "the encoder is not asked for what is there"
    assert torch.equal(module.stages["small"].given["text_mask"], given)
    assert torch.equal(module.stages["small"].given["text"][0], embeds[0])


def test_long_prompts_are_refused():
    assembled().check_prompts(["short"])
    with pytest.raises(ValueError, match="too long"):
        assembled().check_prompts(["a " * 20])


def trained(**kwargs) -> Imagen:
    module = assembled(**kwargs)
    for stage in module.stages.values():
        stage.images_trained += 1
    return module


def test_stages_are_drawn_in_order_each_from_the_one_below_under_its_own_name():
    module, sampler = trained(), object()
    image = module.sample(asked(["a b", ""]), seeds=[4, 9], sampler=sampler, threshold="static", aug_level=0.2, num_steps=6)
    assert image.shape == (2, 3, 32, 32)
    text, mask, keep = module.embed(["a b", ""])
    for (name, stage), below in zip(module.stages.items(), (None, 0.08, 0.16)):
        given = stage.given
        assert given["tag"] == name and given["seeds"] == [4, 9] and given["keep"].tolist() == [True, False]
        assert torch.equal(given["text"], text) and torch.equal(given["text_mask"], mask)
        assert given["lowres"] is None if below is None else float(given["lowres"].mean()) == pytest.approx(below)
        assert (given["sampler"], given["threshold"], given["aug_level"]) == (sampler, "static", 0.2)
        assert given["num_steps"] == 6 and given["guidance_scale"] is None


def test_numbers_for_one_stage_reach_that_stage():
    module, names = trained(), ("small", "middle", "large")
    module.sample(asked(["a"]), seeds=[0], num_steps={"middle": 3, "large": 5}, guidance_scale={"small": 2.0, "large": 0.0})
    assert [module.stages[n].given["num_steps"] for n in names] == [None, 3, 5]
    assert [module.stages[n].given["guidance_scale"] for n in names] == [2.0, None, 0.0]
    module.sample(asked(["a"]), seeds=[0], guidance_scale=7.0)
    assert [module.stages[n].given["guidance_scale"] for n in names] == [7.0, None, None]
    lowres = torch.zeros(1, 3, 8, 8)
    assert module.sample(asked(["a"]), seeds=[0], stages=["middle"], lowres=lowres, guidance_scale=3.0).shape[-1] == 16
    assert module.stages["middle"].given["guidance_scale"] == 3.0 and module.stages["middle"].given["lowres"] is lowres


def test_sampling_is_refused_for_a_stage_that_saw_no_image():
    module = trained()
    assert module.sampling_refusal() is None
    module.stages["large"].images_trained.zero_()
    assert "stage 'large' is not trained" in module.sampling_refusal()
    assert module.sampling_refusal(["small", "middle"]) is None
    with pytest.raises(ValueError, match="stage 'large' is not trained"):
        module.sample(asked(["a"]), seeds=[0])


def test_a_cascade_begins_at_a_base_and_each_stage_at_the_one_below():
    with pytest.raises(ValueError, match="'up' starts from lowres_size=8, but the stage before it gives None"):
        Imagen(Encoder(), {"up": Stage(16, 8)})
    with pytest.raises(ValueError, match="'top' starts from lowres_size=8, but the stage before it gives 16"):
        Imagen(Encoder(), {"base": Stage(8), "up": Stage(16, 8), "top": Stage(32, 8)})
    with pytest.raises(ValueError, match="stages is empty"):
        Imagen(Encoder(), {})


def test_a_checkpoint_carries_counters_and_the_encoders_identity():
    module, checkpoint = assembled(), {}
    module.batches_seen, module.optimizer_steps, module.images_seen = 5, 4, 40
    module.on_save_checkpoint(checkpoint)
    assert checkpoint["text_encoder"] == {"id": "recorder", "revision": "7"}
    other = assembled()
    other.on_load_checkpoint(checkpoint)
    assert (other.batches_seen, other.optimizer_steps, other.images_seen) == (5, 4, 40)
    for change in ("id", "revision"):
        stranger = assembled()
        setattr(stranger.text_encoder, change, "other")
        with pytest.raises(ValueError, match="was trained with text encoder recorder \\(7\\).*other"):
            stranger.on_load_checkpoint(checkpoint)
    other.on_load_checkpoint({**checkpoint, "text_encoder": None})  # of a run before encoders were noted


def test_grids_show_the_prompts_of_the_configuration():
    assert assembled(example_prompts=("a cat", "")).example_request() == asked(["a cat", ""])


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
    drawn = module.eval().sample(asked(["red", "blue"] * 4), seeds=list(range(8)), num_steps=10)
    for image, name in zip(drawn, ["red", "blue"] * 4):
        assert (image.mean((1, 2)) - colours[name]).abs().max() < 0.25
