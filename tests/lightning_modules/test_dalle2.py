"""DALL-E 2: what its stages are told, candidates, the paper's baselines, stages apart and together, identity, refusals."""

from __future__ import annotations

import functools
import math
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from contracts import DrawsEmbeddings, Request
from diffusion.samplers import ddim
from diffusion.schedules import CosineSchedule
from lightning_modules.autoregressive_prior import AutoregressivePrior
from lightning_modules.dalle2 import DallE2
from lightning_modules.spaces import Embeddings, Pixels
from lightning_modules.stage import DiffusionStage
from lightning_modules.super_resolution import LowResolution
from networks.conditioners import ImageEmbeddingConditioner, LowresConditioner, TextConditioner
from networks.prior import EmbeddedCaptionConditioner, PriorTransformer
from networks.unet import UNet
from tests.lightning_modules.stub_clip import EMBED, TOKEN, stub

PROMPTS = ["a red circle", "two blue squares left of a green one", "", "a red circle"]
DIM = 16


def stages(text: bool = True) -> dict[str, DiffusionStage]:
    shared = {"schedule": CosineSchedule(), "num_steps": 3, "sampler": functools.partial(ddim, eta=1.0)}
    unet = {"dim": 16, "dim_mults": (1, 2), "num_res_blocks": 1, "head_dim": 8}
    prior = DiffusionStage(
        PriorTransformer(size=EMBED, dim=DIM, layers=2, heads=2, tokens_dim=DIM), space=Embeddings(EMBED), prediction="x_0",
        conditioners={"caption": EmbeddedCaptionConditioner(TOKEN, EMBED, DIM)}, **shared,
    )  # fmt: skip
    told: dict[str, nn.Module] = {"image": ImageEmbeddingConditioner(EMBED, 64, 24, 2)}
    if text:
        told["text"] = TextConditioner(TOKEN, 24, 64, head_dim=8)
    decoder = DiffusionStage(
        UNet(image_size=8, attn_resolutions=(4,), tokens_dim=24, **unet), space=Pixels(8), conditioners=told, guidance_scale=2.0,
        threshold="static", cond_drop_prob={"image": 0.1, "text": 0.5} if text else 0.1, **shared,
    )  # fmt: skip
    upsampler = DiffusionStage(
        UNet(image_size=16, attn_resolutions=(), cond_channels=3, **unet), space=Pixels(16), threshold="static",
        lowres=LowResolution(8, crop_size=8, blur_sigma=0.6), conditioners={"lowres": LowresConditioner(64)}, **shared,
    )  # fmt: skip
    return {"prior": prior, "decoder": decoder, "upsampler": upsampler}


def make(trained: bool = True, text: bool = True, clip: Any = None, **options: Any) -> DallE2:
    torch.manual_seed(0)
    module = DallE2(
        stub()[0] if clip is None else clip, stages(text), optimizer=functools.partial(torch.optim.SGD, lr=0.1), clip_norm=None, **options
    )
    generator = torch.Generator().manual_seed(1)
    for p in module.parameters():  # what starts at zero is woken, so that all that is told matters
        if not p.any():
            p.data = torch.randn(p.shape, generator=generator) * 0.1
    if trained:
        for stage in module.stages.values():
            stage.images_trained += 1
    return module.eval()


def batch(n: int = 4) -> dict[str, Any]:
    image = torch.rand(n, 3, 16, 16, generator=torch.Generator().manual_seed(2)) * 2 - 1
    return {"image": image, "caption": PROMPTS[:n], "seed": torch.arange(n) + 10}


def draw(module: DallE2, texts: list[str], images: Tensor | None = None, **options: Any) -> Tensor:
    return module.sample(Request(len(texts), texts=texts, images=images), **options)


class Recorded:
    """What a stage's `sample` and `loss` were given; its draws are what the test says."""

    def __init__(self, stage: DiffusionStage, monkeypatch: pytest.MonkeyPatch, drawn: Any = None) -> None:
        self.calls: list[dict[str, Any]] = []

        def sample(fields: dict[str, Any], seeds: Any, tag: str, **options: Any) -> Tensor:
            self.calls.append({"fields": fields, "seeds": seeds, "tag": tag, **options})
            if drawn is not None:
                return drawn(len(self.calls) - 1, len(seeds))
            return torch.zeros(len(seeds), *stage.space.shape)

        monkeypatch.setattr(stage, "sample", sample)


# ---- training ----


def test_stages_are_told_the_embeddings_of_images_and_captions_once_a_batch() -> None:
    clip, model, _ = stub()
    module, given = make(clip=clip), batch()
    clip.model()
    model.asked.clear()
    fields = module.fields(given)
    assert model.asked == [("image", 4), ("text", 4)]
    assert torch.equal(fields["image_embeds"], clip.images(given["image"]))
    texts = clip.texts(PROMPTS)
    assert all(torch.equal(fields[name], texts[name]) for name in texts) and fields["text_keep"].tolist() == [True, True, False, True]
    torch.testing.assert_close(module.stages["prior"].space.encode(fields), 0.54 * EMBED**0.5 * fields["image_embeds"])
    assert "image_embeds" not in given


def test_embeddings_of_the_data_are_taken_as_they_are_and_an_upsampler_asks_for_none() -> None:
    clip, model, _ = stub()
    given = batch() | {"image_embeds": torch.ones(4, EMBED)}
    assert torch.equal(make(clip=clip).fields(given)["image_embeds"], torch.ones(4, EMBED))
    alone = make(clip=clip, train_stages=["upsampler"])
    model.asked.clear()
    assert alone.fields(batch()).keys() == batch().keys() and model.asked == []
    silent = make(clip=clip, text=False, train_stages=["decoder"])
    del (uncaptioned := batch())["caption"]
    assert set(silent.fields(uncaptioned)) == {*uncaptioned, "image_embeds"}
    with pytest.raises(ValueError, match="learns from captions: choose data with captions"):
        make().fields(uncaptioned)


def gradients(module: DallE2) -> dict[str, Tensor]:
    module.train()
    module.losses(batch())["loss"].backward()
    return {name: p.grad for name, p in module.named_parameters() if p.grad is not None}


def test_a_joint_run_gives_each_stage_the_gradients_of_a_run_of_its_own() -> None:
    joint = gradients(make(trained=False))
    assert {name.split(".")[1] for name in joint} == {"prior", "decoder", "upsampler"}
    for name in ("prior", "decoder", "upsampler"):
        alone = gradients(make(trained=False, train_stages=[name]))
        assert alone and all(key.startswith(f"stages.{name}.") for key in alone)
        for key, grad in alone.items():
            torch.testing.assert_close(grad, joint[key])


def test_image_and_caption_are_dropped_apart_in_the_decoder_and_together_in_the_prior() -> None:
    module, n = make(), 400
    given = {name: value[[0] * n] if isinstance(value, Tensor) else ["a b"] * n for name, value in batch().items()}
    fields = module.fields(given | {"seed": torch.arange(n)})
    dropped = module.stages["decoder"]._dropped(fields, fields["seed"], "decoder")
    nothing = module.stages["decoder"].conditioners["image"].nothing
    no_image = (dropped["image"]["embeds"] == nothing).all(1)
    no_text = dropped["text"]["mask"].sum(1) == 1
    assert 0.05 < no_image.float().mean() < 0.15 and 0.43 < no_text.float().mean() < 0.57
    assert (no_image & no_text).float().mean() < 0.1, "by draws of their own"
    caption = module.stages["prior"]._dropped(fields, fields["seed"], "prior")["caption"]
    assert 0.05 < 1 - caption["keep"].float().mean() < 0.15
    assert torch.equal(caption["mask"].sum(1) == 1, ~caption["keep"])


# ---- sampling ----


def test_a_sample_depends_on_its_prompt_and_seed_only() -> None:
    module, seeds = make(), [5, 6, 7, 8]
    together = draw(module, PROMPTS, seeds=seeds)
    assert together.shape == (4, 3, 16, 16) and together.abs().max() <= 1
    for i in (0, 2):
        torch.testing.assert_close(draw(module, [PROMPTS[i]], seeds=[seeds[i]])[0], together[i], rtol=0, atol=2e-4)
    turned = draw(module, PROMPTS[::-1], seeds=seeds[::-1])
    torch.testing.assert_close(turned.flip(0), together, rtol=0, atol=2e-4)
    assert (together[0] - together[3]).abs().max() > 0.05  # same prompt, other seed
    assert (draw(module, ["a blue dog"], seeds=[5])[0] - together[0]).abs().max() > 0.01


def test_of_two_candidates_the_one_closer_to_the_caption_is_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    module = make()
    vector = module.embedder.texts(PROMPTS)["text_vector"]
    near = torch.tensor([[0.0], [1.0], [1.0], [1.0]])  # in the second draw, of whom the first is not near

    def drawn(call: int, n: int) -> Tensor:
        share = near[:n] if call else 1 - near[:n]
        return vector[:n] * (2 * share - 1)

    prior = Recorded(module.stages["prior"], monkeypatch, drawn)
    decoder = Recorded(module.stages["decoder"], monkeypatch)
    draw(module, PROMPTS, seeds=[1, 2, 3, 4], stages=["decoder"])
    assert [call["tag"] for call in prior.calls] == ["prior.0", "prior.1"] and all(c["seeds"] == [1, 2, 3, 4] for c in prior.calls)
    kept = decoder.calls[0]["fields"]["image_embeds"]
    torch.testing.assert_close(kept, vector * torch.tensor([[1.0], [1.0], [-1.0], [1.0]]))  # of an empty caption, the first
    draw(module, PROMPTS, seeds=[1, 2, 3, 4], stages=["decoder"], candidates=3)
    assert [call["tag"] for call in prior.calls[2:]] == ["prior.0", "prior.1", "prior.2"]
    assert (prior.calls[0]["fields"]["text_vector"] == vector).all()


def test_the_baselines_of_the_paper_tell_the_decoder_something_else(monkeypatch: pytest.MonkeyPatch) -> None:
    module = make()
    texts = module.embedder.texts(PROMPTS)
    prior, decoder = Recorded(module.stages["prior"], monkeypatch), Recorded(module.stages["decoder"], monkeypatch)
    for kind in ("none", "text"):
        draw(module, PROMPTS, seeds=[1, 2, 3, 4], stages=["decoder"], prior=kind)
        told = decoder.calls[-1]["fields"]
        assert all(torch.equal(told[name], texts[name]) for name in texts)
        keep = [False] * 4 if kind == "none" else [True, True, False, True]
        assert told["image_keep"].tolist() == keep and (kind == "none" or torch.equal(told["image_embeds"], texts["text_vector"]))
    assert not prior.calls
    draw(module, PROMPTS, seeds=[1, 2, 3, 4], stages=["decoder"], prior="diffusion")
    assert len(prior.calls) == 2 and "image_keep" not in decoder.calls[-1]["fields"]


def test_a_caption_alone_is_the_decoder_without_an_image() -> None:
    module, options = make(), {"seeds": [3], "stages": ["decoder"], "guidance_scale": 1.0}
    alone = draw(module, ["a red circle"], prior="none", **options)
    fields = module.request_fields(Request(1, texts=["a red circle"])) | {"image_embeds": torch.zeros(1, EMBED)}
    conditioner = module.stages["decoder"].conditioners["image"]
    fields["image_embeds"] = conditioner.nothing.detach()[None]
    torch.testing.assert_close(alone, module.stages["decoder"].sample(fields, [3], "decoder", guidance_scale=1.0))
    assert (draw(module, ["a red circle"], prior="text", **options) - alone).abs().max() > 1e-3


def test_options_reach_the_stage_that_they_are_for(monkeypatch: pytest.MonkeyPatch) -> None:
    module = make()
    calls = {name: Recorded(stage, monkeypatch).calls for name, stage in module.stages.items()}
    sampler = functools.partial(ddim)
    draw(module, ["a"], seeds=[1], guidance_scale=4.0, num_steps=7, sampler=sampler, threshold="none", aug_level=0.5, guidance_interval=[-1, 2])
    given = {name: found[-1] for name, found in calls.items()}
    assert {name: g["guidance_scale"] for name, g in given.items()} == {"prior": None, "decoder": 4.0, "upsampler": None}
    assert all(g["num_steps"] == 7 and g["sampler"] is sampler and g["guidance_interval"] == [-1, 2] for g in given.values())
    assert "threshold" not in given["prior"] and "aug_level" not in given["prior"] and given["upsampler"]["aug_level"] == 0.5
    assert given["decoder"]["threshold"] == "none" and given["upsampler"]["lowres"].shape == (1, 3, 8, 8)
    draw(module, ["a"], seeds=[1], guidance_scale={"prior": 3.0}, num_steps={"prior": 2, "upsampler": 5})
    given = {name: found[-1] for name, found in calls.items()}
    assert {name: g["guidance_scale"] for name, g in given.items()} == {"prior": 3.0, "decoder": None, "upsampler": None}
    assert {name: g["num_steps"] for name, g in given.items()} == {"prior": 2, "decoder": None, "upsampler": 5}


def test_an_upsampler_alone_enlarges_a_picture_and_asks_no_clip() -> None:
    clip, model, _ = stub()
    module, image = make(clip=clip), torch.rand(1, 3, 8, 8)
    clip.model()
    model.asked.clear()
    drawn = module.sample(Request(1, images=image), seeds=[3], stages=["upsampler"])
    assert drawn.shape == (1, 3, 16, 16) and model.asked == []
    whole = draw(module, ["a b"], seeds=[3])
    small = draw(module, ["a b"], seeds=[3], stages=["decoder"])
    torch.testing.assert_close(draw(module, ["a b"], small, seeds=[3], stages=["upsampler"]), whole)


def test_a_film_shows_the_decoder_and_ends_with_its_picture() -> None:
    module = make()
    x_t, x_0_hat = module.film(Request(2, texts=PROMPTS[:2]), seeds=[1, 2])
    assert x_t.shape == x_0_hat.shape == (4, 2, 3, 8, 8)
    torch.testing.assert_close(x_0_hat[-1], draw(module, PROMPTS[:2], seeds=[1, 2], stages=["decoder"]))
    assert module.noised(Request(1, images=torch.zeros(1, 3, 16, 16)), seeds=[0], frames=3).shape == (3, 1, 3, 8, 8)


# ---- the autoregressive prior in the diffusion prior's place ----


def with_autoregressive(**options: Any) -> tuple[DallE2, SimpleNamespace]:
    """The family with it, and a datamodule of 40 captioned images that counts what it is asked."""
    torch.manual_seed(0)
    prior = AutoregressivePrior(
        space=Embeddings(EMBED), conditioners={"caption": EmbeddedCaptionConditioner(TOKEN, EMBED, DIM)}, components=3, buckets=8, dim=DIM,
        layers=1, heads=2, fit_images=100,
    )  # fmt: skip
    module = DallE2(stub()[0], stages() | {"prior": prior}, **options)
    g = torch.Generator().manual_seed(3)
    images = torch.rand(40, 3, 16, 16, generator=g) * 2 - 1

    class Data:
        asked: list[tuple[int, int]] = []

        def __len__(self) -> int:
            return 40

        def __getitem__(self, key: tuple[int, int]) -> dict[str, Any]:
            self.asked.append(key)
            return {"image": images[key[0]], "caption": PROMPTS[key[0] % 4], "seed": key[1]}

    datamodule = SimpleNamespace(train_dataset=Data())
    module._trainer = SimpleNamespace(datamodule=datamodule, world_size=1, global_rank=0)
    return module, datamodule


def test_components_are_found_before_training_and_not_again_after_a_resume(capsys: pytest.CaptureFixture) -> None:
    module, datamodule = with_autoregressive()
    datamodule.train_dataset.asked.clear()
    module.on_fit_start()
    assert datamodule.train_dataset.asked == [(i % 40, i) for i in range(100)] and module.stages["prior"].fitted
    assert "stage 'prior': 3 components keep" in capsys.readouterr().out
    by_hand = torch.stack([datamodule.train_dataset[(i % 40, i)]["image"] for i in range(100)])
    torch.testing.assert_close(module.stages["prior"].mean, module.embedder.images(by_hand).mean(0))
    vectors = module.embedder.texts([PROMPTS[i % 4] for i in range(100)])["text_vector"]
    torch.testing.assert_close(module.stages["prior"].dots, (module.embedder.images(by_hand) * vectors).sum(1).sort().values)
    resumed, again = with_autoregressive()
    resumed.load_state_dict(module.state_dict())
    again.train_dataset.asked.clear()
    resumed.on_fit_start()
    assert again.train_dataset.asked == [] and torch.equal(resumed.stages["prior"].basis, module.stages["prior"].basis)
    other, untouched = with_autoregressive(train_stages=["decoder"])
    untouched.train_dataset.asked.clear()
    other.on_fit_start()
    assert untouched.train_dataset.asked == []


def test_it_trains_and_draws_as_the_other_prior_does() -> None:
    module, _ = with_autoregressive()
    module.on_fit_start()
    losses = module.train().losses(batch())
    assert losses["loss_prior"].item() == pytest.approx(math.log(8), abs=0.3), "at first every bucket is as likely"
    losses["loss"].backward()
    assert all(p.grad is not None for p in module.stages["prior"].parameters())
    assert set(module.loss_by_level(batch() | {"quantile": torch.rand(4)})) == {"decoder", "upsampler"}
    module.eval()
    drawn = draw(module, PROMPTS, seeds=[1, 2, 3, 4])
    assert drawn.shape == (4, 3, 16, 16) and torch.equal(drawn, draw(module, PROMPTS, seeds=[1, 2, 3, 4], prior="autoregressive"))
    torch.testing.assert_close(draw(module, PROMPTS[1:2], seeds=[2])[0], drawn[1], rtol=0, atol=2e-4)
    with pytest.raises(ValueError, match="prior=diffusion: this model has none, text, autoregressive"):
        draw(module, ["a"], seeds=[1], prior="diffusion")
    assert module.sampling_settings()["prior.sampler"] == "autoregressive"


# ---- from images ----


class GaussianDenoiser(nn.Module):
    """The exact denoiser of pixels around the level that the conditioner's vector says, with the deviation 0.3."""

    deviation = 0.3

    def __init__(self, schedule: CosineSchedule) -> None:
        super().__init__()
        self.schedule = schedule

    def mean(self, vector: Tensor) -> Tensor:
        return torch.tanh(vector[:, :3, None, None]) / 2

    def forward(self, x_t: Tensor, t: Tensor, *, vector: Tensor, **_: Any) -> Tensor:
        alpha, sigma = (f(t).view(-1, 1, 1, 1) for f in (self.schedule.alpha, self.schedule.sigma))
        gain = alpha * self.deviation**2 / (alpha**2 * self.deviation**2 + sigma**2)
        return self.mean(vector) + gain * (x_t - alpha * self.mean(vector))


def with_known_decoder() -> tuple[DallE2, GaussianDenoiser]:
    module = make(text=False)
    stage = module.stages["decoder"]
    stage.denoiser = GaussianDenoiser(stage.schedule)
    return module, stage.denoiser


def asked(n: int = 2) -> Request:
    return Request(n, texts=[""] * n, images=0.6 * batch(n)["image"])


def test_the_noise_of_an_image_is_that_of_the_known_flow_and_draws_it_again() -> None:
    module, oracle = with_known_decoder()
    request = asked()
    z = module.embedding_of(request)
    torch.testing.assert_close(z, module.embedder.images(request.images))
    x_0 = module.stages["decoder"].space.encode({"image": request.images})
    mean = oracle.mean(module.stages["decoder"].conditions({"image_embeds": z})["vector"].detach())
    alpha, sigma = (f(torch.ones(())) for f in (module.stages["decoder"].schedule.alpha, module.stages["decoder"].schedule.sigma))
    exact = alpha * mean + (x_0 - mean) / oracle.deviation * (alpha**2 * oracle.deviation**2 + sigma**2).sqrt()
    errors, rebuilt = [], []
    for num_steps in (25, 400):
        x_T = module.noise_of(z, request, num_steps=num_steps)
        errors.append(float((x_T - exact).abs().max()))
        again = module.draw_embedded(z, request, seeds=[1, 2], x_T=x_T, num_steps=num_steps, stages=["decoder"], eta=0)
        rebuilt.append(float((again - x_0).square().mean()))
    assert errors[1] < 0.05 and errors[1] < errors[0] / 4
    assert rebuilt[1] < rebuilt[0] / 4 and rebuilt[1] < 4e-5, "PSNR above 50 dB over a range of 2"
    other = module.noise_of(z.flip(0), request, num_steps=400)
    assert (other - exact).abs().max() > 0.2, "the noise depends on the embedding"


def test_with_eta_each_seed_leaves_the_image_in_its_own_way() -> None:
    module, _ = with_known_decoder()
    request = asked(1)
    z = module.embedding_of(request)
    x_T, three = module.noise_of(z, request).expand(3, -1, -1, -1), Request(3, texts=[""] * 3)
    options = {"x_T": x_T, "stages": ["decoder"], "num_steps": 50}
    still = module.draw_embedded(z.expand(3, -1), three, seeds=[1, 2, 3], **options)
    assert torch.equal(still[0], still[2])
    drawn = module.draw_embedded(z.expand(3, -1), three, seeds=[1, 2, 3], eta=1.0, **options)
    assert min((drawn[i] - drawn[j]).abs().max() for i, j in ((0, 1), (1, 2), (0, 2))) > 0.1
    alone = module.draw_embedded(z, Request(1, texts=[""]), seeds=[2], eta=1.0, x_T=x_T[:1], stages=["decoder"], num_steps=50)
    torch.testing.assert_close(alone[0], drawn[1], rtol=0, atol=1e-5)
    little = module.draw_embedded(z.expand(3, -1), three, seeds=[1, 2, 3], eta=0.2, **options)
    assert (little - still).abs().mean() < (drawn - still).abs().mean() / 2


def test_without_noise_an_embedding_is_drawn_as_a_sample_is() -> None:
    module = make()
    request = Request(2, texts=PROMPTS[:2])
    z = module.captions_embedded(PROMPTS[:2])
    assert torch.equal(z, module.embedder.texts(PROMPTS[:2])["text_vector"])
    torch.testing.assert_close(module.draw_embedded(z, request, seeds=[3, 4]), module.sample(request, seeds=[3, 4], prior="text"))
    small = module.draw_embedded(z, request, seeds=[3, 4], stages=["decoder"], guidance_scale=1.0, num_steps=2)
    torch.testing.assert_close(small, module.sample(request, seeds=[3, 4], prior="text", stages=["decoder"], guidance_scale=1.0, num_steps=2))
    drawn = module.draw_embedded(z, request, seeds=[3, 4], x_T=torch.randn(2, 3, 8, 8))
    assert drawn.shape == (2, 3, 16, 16)
    with pytest.raises(ValueError, match="this task draws with the stage 'decoder'"):
        module.draw_embedded(z, request, seeds=[3, 4], stages=["upsampler"])
    with pytest.raises(ValueError, match="eta=0.5: new noise has no way back"):
        module.draw_embedded(z, request, seeds=[3, 4], eta=0.5)
    with pytest.raises(ValueError, match="to embed an image, give it"):
        module.embedding_of(request)
    assert isinstance(module, DrawsEmbeddings)


# ---- checkpoints and refusals ----


def test_a_checkpoint_of_another_clip_is_refused_and_no_clip_is_saved() -> None:
    module, checkpoint = make(), {}
    module.on_save_checkpoint(checkpoint)
    assert checkpoint["frozen"] == {"clip": "abc"}
    assert not [key for key in module.state_dict() if "projection" in key or "embedder" in key]
    make().on_load_checkpoint(checkpoint)
    with pytest.raises(ValueError, match="was trained with another CLIP than run: give the one it was trained with as clip.ckpt"):
        make(clip=stub(sha256="def")[0]).on_load_checkpoint(checkpoint)


def test_a_weaker_model_has_the_same_clip_and_guides_every_stage(monkeypatch: pytest.MonkeyPatch) -> None:
    module, weaker = make(), make()
    with pytest.raises(ValueError, match="trained with another CLIP"):
        module.guide_by(make(clip=stub(sha256="def")[0]))
    module.guide_by(weaker)
    calls = {name: Recorded(stage, monkeypatch).calls for name, stage in module.stages.items()}
    draw(module, ["a"], seeds=[1])
    assert all(calls[name][0]["weaker"] is weaker.stages[name] for name in module.stages)


def test_the_clip_is_loaded_before_training() -> None:
    clip, _, asked = stub()
    make(clip=clip).setup("fit")
    assert asked == ["run"]


def test_refusals_are_one_clear_line() -> None:
    module = make(trained=False)
    for name in ("decoder", "upsampler"):
        module.stages[name].images_trained += 1
    with pytest.raises(ValueError, match=r"stage 'prior' is not trained: train it with model.train_stages=\[prior\], or draw with prior=text"):
        draw(module, ["a"], seeds=[0])
    assert draw(module, ["a"], seeds=[0], prior="text").shape == (1, 3, 16, 16)
    for options, message in (
        ({"prior": "autoregressive"}, "prior=autoregressive: this model has none, text, diffusion"),
        ({"stages": ["prior"]}, r"stages=\['prior'\]: name a stage that draws images, for instance decoder"),
        ({"stages": ["top"]}, "there is no stage 'top', only prior, decoder, upsampler"),
        ({"stages": ["upsampler"]}, "starts from a low-resolution image"),
        ({"seeds": [0, 1]}, "2 seeds for 1 images"),
    ):
        with pytest.raises(ValueError, match=message):
            draw(make(), ["a"], **{"seeds": [0], **options})
    with pytest.raises(ValueError, match="draws from prompts"):
        make().sample(Request(1), seeds=[0])
    with pytest.raises(ValueError, match="prior=none leaves the decoder the caption alone, and this decoder reads no caption"):
        draw(make(text=False), ["a"], seeds=[0], prior="none")
    with pytest.raises(ValueError, match="longer than the text tower"):
        make().check_prompts(["w " * 20])
    parts = stages()
    with pytest.raises(ValueError, match="the stages prior have no decoder"):
        DallE2(stub()[0], {"prior": parts["prior"]})
    parts["prior"].space = Embeddings(7)
    with pytest.raises(ValueError, match="stage 'prior' draws embeddings of 7 numbers, and clip.embed_dim=6"):
        DallE2(stub()[0], parts)


def test_grids_show_the_prompts_of_the_configuration() -> None:
    module = make(example_prompts=("a cat", ""))
    assert module.example_request() == Request(2, texts=["a cat", ""]) and module.conditioning == "text"
