"""Imagen: what a sample depends on, guidance at its corners, stages apart and together, text, refusals."""

from __future__ import annotations

import functools

import pytest
import torch

from contracts import Request
from diffusion.denoiser import Denoiser
from rng.keyed import keyed_randn
from diffusion.samplers import ddim, ddpm
from diffusion.schedules import CosineSchedule
from lightning_modules.imagen import Imagen
from lightning_modules.spaces import Pixels
from lightning_modules.stage import DiffusionStage
from lightning_modules.super_resolution import LowResolution
from networks.conditioners import LowresConditioner, TextConditioner
from networks.text import BagOfWords, TextEmbedding
from networks.unet import UNet
from optimizers.muon import Muon

PROMPTS = ["a red circle", "two blue squares left of a green one", "", "a red circle"]


def make_stage(size: int, lowres: int | None = None, **kwargs) -> DiffusionStage:
    net = UNet(
        image_size=size, dim=16, dim_mults=(1, 2), num_res_blocks=1, attn_resolutions=(size // 2,), head_dim=8,
        tokens_dim=24, cond_channels=0 if lowres is None else 3,
    )  # fmt: skip
    conditioners = {"text": TextConditioner(24, 24, 64, head_dim=8)}
    if lowres is not None:
        conditioners["lowres"] = LowresConditioner(64)
        kwargs["lowres"] = LowResolution(lowres, crop_size=kwargs.pop("crop_size", None))
    return DiffusionStage(
        net,
        space=Pixels(size),
        conditioners=conditioners,
        schedule=CosineSchedule(),
        sampler=kwargs.pop("sampler", functools.partial(ddim)),
        num_steps=3,
        guidance_scale=2.0,
        threshold="dynamic",
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


def draw(module: Imagen, texts: list[str], images: torch.Tensor | None = None, **options) -> torch.Tensor:
    return module.sample(Request(len(texts), texts=texts, images=images), **options)


def batch(n: int = 4, size: int = 16) -> dict:
    image = torch.rand(n, 3, size, size, generator=torch.Generator().manual_seed(2)) * 2 - 1
    return {"image": image, "caption": PROMPTS[:n], "seed": torch.arange(n) + 10}


def test_a_sample_depends_on_its_prompt_and_seed_only():
    module, seeds = make_imagen(), [5, 6, 7, 8]
    together = draw(module, PROMPTS, seeds=seeds)
    assert together.shape == (4, 3, 16, 16) and together.abs().max() <= 1
    for i in (0, 2):
        torch.testing.assert_close(draw(module, [PROMPTS[i]], seeds=[seeds[i]])[0], together[i], rtol=0, atol=2e-4)
    turned = draw(module, PROMPTS[::-1], seeds=seeds[::-1])
    torch.testing.assert_close(turned.flip(0), together, rtol=0, atol=2e-4)
    assert (together[0] - together[3]).abs().max() > 0.05  # same prompt, other seed


def test_ancestral_noise_is_per_image_too():
    module = make_imagen()
    both = draw(module, PROMPTS[:2], seeds=[1, 2], sampler=functools.partial(ddpm), stages=["base"])
    one = draw(module, PROMPTS[1:2], seeds=[2], sampler=functools.partial(ddpm), stages=["base"])
    torch.testing.assert_close(one[0], both[1], rtol=0, atol=2e-4)


def test_swapping_captions_changes_the_pictures():
    module = make_imagen()
    a = draw(module, ["a red circle", "two blue squares"], seeds=[1, 1])
    b = draw(module, ["two blue squares", "a red circle"], seeds=[1, 1])
    assert (a[0] - a[1]).abs().max() > 0.01
    torch.testing.assert_close(a.flip(0), b, rtol=0, atol=2e-4)


def test_a_single_guidance_scale_is_the_base_stages():
    module, options = make_imagen(), dict(seeds=[3])
    base = draw(module, ["a red circle"], guidance_scale=4.0, stages=["base"], **options)
    by_hand = draw(module, ["a red circle"], images=base, stages=["up"], **options)
    torch.testing.assert_close(draw(module, ["a red circle"], guidance_scale=4.0, **options), by_hand)
    both = draw(module, ["a red circle"], guidance_scale={"base": 4.0, "up": 4.0}, **options)
    assert (both - by_hand).abs().max() > 1e-3


def stage_sample_by_hand(module: Imagen, prompt: str, conditional: bool) -> torch.Tensor:
    """One pass a step through the base net, without the guidance code."""
    stage = module.stages["base"]
    encoded = module.text_encoder.encode([prompt])
    conditioner = stage.conditioners["text"]
    value = conditioner.drop({"text": encoded.embeds, "mask": encoded.mask}, torch.tensor([conditional]))
    denoise, told = Denoiser(stage.net, stage.schedule, "v"), conditioner(value)
    x_T = stage.schedule.sigma(torch.ones(())) * keyed_randn([3], (3, 8, 8), "base", "sample")
    return ddim(
        lambda x, t: denoise(x, t, **told).clamp(-1, 1), stage.schedule, x_T, num_steps=3
    ).clamp(-1, 1)


def test_guidance_1_is_the_conditional_model_and_an_empty_prompt_the_unconditional_one():
    module, options = make_imagen(), dict(seeds=[3], stages=["base"], threshold="static")
    conditional = stage_sample_by_hand(module, "a red circle", True)
    unconditional = stage_sample_by_hand(module, "a red circle", False)
    assert (conditional - unconditional).abs().max() > 0.01
    torch.testing.assert_close(draw(module, ["a red circle"], guidance_scale=1.0, **options), conditional)
    torch.testing.assert_close(draw(module, ["a red circle"], guidance_scale=0.0, **options), unconditional)
    for scale in (1.0, 5.0):
        empty = draw(module, [""], guidance_scale=scale, **options)
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


def test_refusals_are_one_clear_line():
    module = make_imagen(trained=False)
    with pytest.raises(ValueError, match=r"stage 'base' is not trained.*train_stages=\[base\]"):
        draw(module, ["a"], seeds=[0])
    module.stages["base"].images_trained += 1
    assert draw(module, ["a"], seeds=[0], stages=["base"]).shape[-1] == 8
    with pytest.raises(ValueError, match="stage 'up' is not trained"):
        draw(module, ["a"], seeds=[0])
    with pytest.raises(ValueError, match="no stage 'top', only base, up"):
        draw(module, ["a"], seeds=[0], stages=["top"])
    with pytest.raises(ValueError, match="2 seeds for 1 images"):
        draw(make_imagen(), ["a"], seeds=[0, 1])
    with pytest.raises(ValueError, match="give images"):
        draw(make_imagen(), ["a"], seeds=[0], stages=["up"])
    with pytest.raises(ValueError, match="train_stages: there is no stage 'sr'"):
        make_imagen(train_stages=["sr"])
    with pytest.raises(ValueError, match="draws from prompts: give one per image"):
        make_imagen().sample(Request(1), seeds=[0])
    with pytest.raises(ValueError, match="lowres.size=4, but the stage before it gives 8"):
        Imagen(BagOfWords(dim=24), {"base": make_stage(8), "up": make_stage(16, 4)})


def test_a_checkpoint_of_another_text_encoder_is_refused_and_no_encoder_is_saved():
    module, checkpoint = make_imagen(), {"counters": dict(batches_seen=0, optimizer_steps=0, images_seen=0)}
    module.on_save_checkpoint(checkpoint)
    make_imagen().on_load_checkpoint(checkpoint)
    other = Imagen(BagOfWords(dim=32), {"base": make_stage(8)})
    with pytest.raises(ValueError, match="was trained with text encoder bag"):
        other.on_load_checkpoint(checkpoint)
    assert not [key for key in module.state_dict() if "encoder" in key]


# ---- text, with recorders in place of the encoder and the stage ----


class Encoder:
    """A text encoder that keeps what it is asked: tokens of the caption's length, and whether autocast was on."""

    id, revision = "recorder", "7"

    def __init__(self) -> None:
        self.asked: list[list[str]] = []
        self.autocast: list[bool] = []
        self.device = torch.device("cpu")

    def to(self, device: torch.device) -> Encoder:
        self.device = device
        return self

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
    """A stage that keeps what it is given; its loss is 1, 2, 3, ..."""

    def __init__(self) -> None:
        super().__init__(torch.nn.Linear(2, 2), space=Pixels(32), schedule=None, sampler=None)

    def loss(self, batch, u, tag):
        self.given = batch
        return torch.arange(1.0, len(batch["image"]) + 1)

    def sample(self, batch, seeds, tag, **options):
        self.given = batch
        return torch.zeros(len(seeds), 3, 32, 32)


def test_the_text_is_encoded_where_the_model_is() -> None:
    module = assembled()
    module.embed(["x"])
    assert module.text_encoder.device == torch.device("cpu")
    module.to("cpu:0").embed(["x"])  # another name of the same place: what a test without a GPU has
    assert module.text_encoder.device == module.device == torch.device("cpu:0")


def assembled(**kwargs) -> Imagen:
    return Imagen(Encoder(), {"base": Stage()}, **kwargs)


CAPTIONS = ["a red circle", "", "a dog", "  ", "two", "blue", "a b c d", "x"]
KEEP = [True, False, True, False, True, True, True, True]


def train_batch(**more) -> dict:
    return {"image": torch.rand(8, 3, 32, 32), "caption": CAPTIONS, "seed": torch.arange(8) + 40, **more}


def test_stages_are_told_the_text_of_a_batch_and_which_captions_are_empty():
    module, batch = assembled(), train_batch()
    module.losses(batch)
    given, embedded = module.stages["base"].given, module.embed(CAPTIONS)
    assert embedded["text_keep"].tolist() == KEEP
    assert all(torch.equal(given[key], embedded[key]) for key in ("text_embeds", "text_mask", "text_keep"))
    assert given["image"] is not None and torch.equal(given["seed"], batch["seed"]) and "text_embeds" not in batch


def test_stages_are_told_the_text_of_a_request():
    module = assembled()
    module.stages["base"].images_trained += 1
    draw(module, ["a b", ""], seeds=[4, 9])
    given, embedded = module.stages["base"].given, module.embed(["a b", ""])
    assert sorted(given) == ["caption", "text_embeds", "text_keep", "text_mask"]
    assert given["caption"] == ["a b", ""] and given["text_keep"].tolist() == [True, False]
    assert torch.equal(given["text_embeds"], embedded["text_embeds"]) and torch.equal(given["text_mask"], embedded["text_mask"])
    assert module.conditioning == "text"


class Listener(torch.nn.Module):
    """A net that keeps what it is told."""

    def forward(self, x, log_snr, **told):
        self.told = told
        return 0 * x


@pytest.mark.parametrize("precomputed", [False, True])
def test_an_empty_caption_in_training_is_exactly_a_dropped_one(precomputed: bool):
    """Nothing to draw is told to the net in one way, in training as in sampling: one token of zeros."""
    told = {}
    text = TextConditioner(3, 8, 8, head_dim=4)
    for name, captions, prob in (("empty", ["", "  ", ""], 0.0), ("dropped", ["a b", "c", "d e f"], 1.0)):
        stage = DiffusionStage(
            Listener(), space=Pixels(4), schedule=CosineSchedule(), sampler=ddim, conditioners={"text": text}, cond_drop_prob=prob
        )
        batch = {"image": torch.zeros(3, 3, 4, 4), "caption": captions, "seed": torch.arange(3)}
        if precomputed:  # a tokenizer marks the ends of an empty caption, too, so its mask is longer than one
            batch |= {"text_embeds": torch.randn(3, 4, 3), "text_mask": torch.ones(3, 4, dtype=torch.bool)}
        Imagen(Encoder(), {"base": stage}).losses(batch)
        told[name] = stage.net.told
    for name in told:
        assert told[name]["token_mask"].sum(1).tolist() == [1, 1, 1] and told[name]["token_mask"][:, 0].all()
    torch.testing.assert_close(told["empty"]["vector"], told["dropped"]["vector"])
    torch.testing.assert_close(told["empty"]["tokens"][:, 0], told["dropped"]["tokens"][:, 0])


def test_text_comes_from_the_encoder_in_full_precision_or_from_the_data():
    module = assembled()
    with torch.autocast("cpu", dtype=torch.bfloat16):
        found = module.embed(["a b", "c"])
    assert module.text_encoder.autocast == [False] and found["text_mask"].tolist() == [[True, True], [True, False]]
    assert found["text_embeds"].dtype == torch.float32
    embeds, mask = torch.rand(8, 5, 3), torch.rand(8, 5) > 0.5
    module.losses(train_batch(text_embeds=embeds, text_mask=mask))
    assert len(module.text_encoder.asked) == 1, "the encoder is not asked for what is there"
    given = module.stages["base"].given
    assert torch.equal(given["text_mask"], mask) and torch.equal(given["text_embeds"], embeds)
    assert given["text_keep"].tolist() == KEEP
    only_embeds = {k: v for k, v in train_batch(text_embeds=embeds, text_mask=mask).items() if k != "caption"}
    module.losses(only_embeds)
    assert "text_keep" not in module.stages["base"].given


def test_long_prompts_are_refused():
    assembled().check_prompts(["short"])
    with pytest.raises(ValueError, match="too long"):
        assembled().check_prompts(["a " * 20])


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
    assert assembled(example_prompts=("a cat", "")).example_request() == Request(2, texts=["a cat", ""])


@pytest.mark.slow
def test_two_colours_are_learned():
    """A base stage tells a red picture from a blue one after a few hundred steps."""
    torch.manual_seed(0)
    module = Imagen(BagOfWords(dim=24), {"base": make_stage(8, cond_drop_prob=0.1)}).train()
    optimizer, steps = Muon(module.parameters(), lr=5e-3, adam_lr=2e-3), 1000
    falling = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: min(1, (step + 1) / 20) * (1 - step / steps))
    colours = {"red": torch.tensor([1.0, -1, -1]), "blue": torch.tensor([-1.0, -1, 1])}
    for step in range(steps):
        names = [("red", "blue")[i % 2] for i in range(16)]
        image = torch.stack([colours[n] for n in names])[:, :, None, None].expand(-1, -1, 8, 8)
        module.batches_seen = step
        loss = module.losses({"image": image, "caption": names, "seed": torch.arange(16) + 16 * step})["loss"]
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        falling.step()
    drawn = draw(module.eval(), ["red", "blue"] * 4, seeds=list(range(8)), num_steps=10)
    for image, name in zip(drawn, ["red", "blue"] * 4):
        assert (image.mean((1, 2)) - colours[name]).abs().max() < 0.25
