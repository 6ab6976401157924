"""CLIP as a module of the house: its loss, its groups of parameters, its temperature, and that it learns and resumes."""

from __future__ import annotations

import math
from pathlib import Path

import pytest
import torch

import train
from contracts import EmbedsImages, EmbedsTexts, EmbedsTokens, Request
from diffusion.schedules import LinearSchedule, RectifiedFlowSchedule
from lightning_modules.clip import CLIP
from networks.clip import ContrastiveNet, TextTransformer, VisionTransformer
from objectives.contrastive import clip_loss, siglip_loss
from optimizers.muon import Muon
from runtime.checkpoint import load_module
from tests.sessions import assert_same, contents

TOWER = ("tower.width=32", "tower.layers=1", "tower.heads=2", "tower.patch_size=8")
SMALL = ("tower.embed_dim=16", *(f"model.net.text.{s}" for s in ("width=32", "layers=1", "heads=2", "vocab_size=600")))


def make(loss: str = "infonce", **kwargs) -> CLIP:
    torch.manual_seed(0)
    visual, text = VisionTransformer(16, 16, 8, 32, 1, 2), TextTransformer(16, 600, 16, 32, 1, 2)
    bias = {"init_logit_scale": 10.0, "init_logit_bias": -10.0} if loss == "siglip" else {}
    return CLIP(ContrastiveNet(visual, text, **bias), 16, loss=loss, **kwargs)


def batch(captions: list[str]) -> dict:
    image = torch.rand(len(captions), 3, 16, 16, generator=torch.Generator().manual_seed(0)) * 2 - 1
    return {"image": image, "caption": captions, "seed": torch.arange(len(captions))}


def overrides(run: Path, *more: str) -> list[str]:
    return ["model=clip", "trainer=cpu", "trainer.precision=32-true", f"run_dir={run}", "logger.wandb=null", "callbacks.progress=null",
            "data.image_size=32", "data.batch_size=32", "data.num_val=40", "model.lr_schedule.total_steps=60", *SMALL, *(() if "tower=resnet" in more else TOWER), *more]  # fmt: skip


def test_the_loss_is_its_definition_and_equal_captions_are_no_enemies() -> None:
    for name in ("infonce", "siglip"):
        module = make(name)
        told = batch(["a red square", "a dog", "a red square", "two cats"])
        image, text = module.embed_image(told["image"]), module.embed_text(told["caption"])
        fits = torch.eye(4, dtype=torch.bool)
        fits[0, 2] = fits[2, 0] = True
        scale = module.net.logit_scale.exp()
        if name == "siglip":
            wanted = siglip_loss(image, text, scale, -10.0, fits)
        else:
            wanted = clip_loss(image, text, scale, fits)
        found = module.losses(told)
        torch.testing.assert_close(found["loss"], wanted)
        nearest = (image @ text.T).argmax(1)
        assert found["accuracy"].item() == pytest.approx(fits[torch.arange(4), nearest].float().mean().item())
        assert found["logit_scale"].item() == pytest.approx(10.0 if name == "siglip" else 1 / 0.07, rel=1e-5)


def test_it_starts_near_the_logarithm_of_the_batch() -> None:
    """As near as an untrained net is to knowing nothing: all its vectors point about the same way."""
    module, captions = make(), [f"number {i}" for i in range(32)]
    module.net.logit_scale.data.zero_()
    assert module.losses(batch(captions))["loss"].item() == pytest.approx(math.log(32), rel=0.02)


def test_validation_is_a_mean_over_images() -> None:
    module, told = make().eval(), batch(["a", "b", "c", "d"])
    whole = module.validation_step(told, 0)["cosine"]
    parts = [module.validation_step({**told, "image": told["image"][i : i + 2], "caption": told["caption"][i : i + 2]}, 0)["cosine"] for i in (0, 2)]
    torch.testing.assert_close(whole, (parts[0] + parts[1]) / 2)


def test_damage_is_of_training_images_alone_and_keyed_by_their_seeds() -> None:
    told, module, seen = batch(["a", "b", "c", "d"]), make(damage_prob=0.5), []
    module.net.visual.register_forward_pre_hook(lambda _, args: seen.append(args[0]))
    module.losses(told)
    module.losses({name: value[2:] for name, value in told.items()})
    module.eval().losses(told)
    module.train().damage_prob = 0.0
    module.losses(told)
    torch.testing.assert_close(seen[0][2:], seen[1])  # whatever else is in the batch
    torch.testing.assert_close(seen[2], seen[3])
    changed = (seen[0] != seen[3]).flatten(1).any(1)
    assert changed.any() and not changed.all()
    other = make(damage_prob=0.5)
    other.net.visual.register_forward_pre_hook(lambda _, args: seen.append(args[0]))
    other.losses(told | {"seed": told["seed"] + 100})
    assert not torch.equal(seen[4], seen[0])


def test_vectors_are_of_unit_length_without_gradient_and_size_is_checked() -> None:
    module = make()
    assert isinstance(module, EmbedsImages) and isinstance(module, EmbedsTexts)
    image, text = module.embed_image(batch(["a"] * 3)["image"]), module.embed_text(["a", "b"])
    assert image.shape == (3, 16) and text.shape == (2, 16) and not image.requires_grad and not text.requires_grad
    torch.testing.assert_close(text.norm(dim=1), torch.ones(2))
    with pytest.raises(ValueError, match=r"this CLIP reads images \(3, 16, 16\), got \(3, 8, 8\)"):
        module.embed_image(torch.zeros(1, 3, 8, 8))


def test_gains_tables_and_the_temperature_neither_decay_nor_are_orthogonalised() -> None:
    module = make()
    decayed, plain = module.param_groups()
    names = {id(p): name for name, p in module.named_parameters()}
    assert len(decayed["params"]) + len(plain["params"]) == len(names)
    assert {names[id(p)] for p in plain["params"] if p.ndim > 1} == {
        "net.visual.positional_embedding", "net.text.positional_embedding", "net.text.token_embedding.weight"
    }  # fmt: skip
    assert all(p.ndim > 1 for p in decayed["params"])
    optimizer = Muon([decayed, plain], lr=1e-3, weight_decay=0.1)
    assert [group["weight_decay"] for group in optimizer.param_groups] == [0.1, 0.0]
    module.losses(batch(["a", "b"]))["loss"].backward()
    optimizer.step()
    kinds = {names[id(p)]: set(state) for p, state in optimizer.state.items()}
    assert kinds["net.text.token_embedding.weight"] == {"step", "mean", "square"}
    assert kinds["net.visual.proj"] == {"momentum"}


def test_what_does_not_go_together_is_refused() -> None:
    net, biased = make().net, make("siglip").net
    for arguments, line in (
        ((net, 16, 3, "nce"), "model.loss='nce': one of infonce, siglip"),
        ((net, 16, 3, "siglip"), "model.loss=siglip: model.net.init_logit_bias"),
        ((biased, 16, 3, "infonce"), "model.loss=infonce: model.net.init_logit_bias"),
        ((net, 16, 3, "infonce", 1.0), "model.max_logit_scale=1.0: above 1"),
    ):
        with pytest.raises(ValueError, match=line):
            CLIP(*arguments)
    with pytest.raises(ValueError, match="CLIP learns from captions"):
        make().losses({"image": torch.zeros(2, 3, 16, 16), "seed": torch.arange(2)})


def test_a_caption_that_is_cut_is_told_once(capsys) -> None:
    module = make()
    for _ in range(2):
        module.losses(batch(["short", "a long caption about many red squares and blue circles"]))
    said = capsys.readouterr().out
    assert said.count("warning: captions are cut after 16 tokens") == 1 and "'a long caption" in said
    module = make()
    module.losses(batch(["short", "two cats"]))
    assert "warning" not in capsys.readouterr().out


def make_noised() -> CLIP:
    torch.manual_seed(0)
    visual, text = VisionTransformer(16, 16, 8, 32, 1, 2, noise_levels=True), TextTransformer(16, 600, 16, 32, 1, 2)
    return CLIP(ContrastiveNet(visual, text), 16, noise=LinearSchedule())


def test_noised_training_images_and_their_levels_are_keyed_by_their_seeds() -> None:
    module, seeds = make_noised(), torch.arange(400)
    image = torch.ones(400, 1, 16, 16)
    x, log_snr = module.noised(image, seeds)
    clean = (x - 1).abs().flatten(1).amax(1) < 0.02
    assert 0.06 < clean.float().mean() < 0.16, "about a tenth"
    signal = torch.sigmoid(log_snr).sqrt()
    torch.testing.assert_close(x.mean((1, 2, 3)), signal, rtol=0, atol=0.25)
    torch.testing.assert_close(x.std((1, 2, 3)), torch.sigmoid(-log_snr).sqrt(), rtol=0, atol=0.2)
    times = module.noise.alpha(torch.linspace(0, 1, 400)).sort().values  # alpha of even times, but for those that stay clean
    torch.testing.assert_close(signal.sort().values[:300], times.quantile(torch.linspace(0, 300 / 360, 300)), rtol=0, atol=0.08)
    again = module.noised(image[7:9], seeds[7:9])
    assert torch.equal(again[0], x[7:9]) and torch.equal(again[1], log_snr[7:9])
    flow = make_noised()
    flow.noise = RectifiedFlowSchedule()
    x, log_snr = flow.noised(torch.zeros(50, 3, 32, 32), seeds[:50])  # scaled to alpha² + sigma² = 1
    torch.testing.assert_close(x.std((1, 2, 3)), torch.sigmoid(-log_snr).sqrt(), rtol=0, atol=0.05)


def test_a_clip_of_noised_images_learns_from_them_and_judges_clean_ones() -> None:
    module, told = make_noised(), batch(["a", "b", "c"])
    torch.nn.init.normal_(module.net.visual.level.mlp[-1].weight)
    x, log_snr = module.noised(told["image"], told["seed"])
    image, text = module.net.encode_image(x, log_snr), module.embed_text(told["caption"])
    torch.testing.assert_close(module.losses(told)["loss"], clip_loss(image, text, module.net.logit_scale.exp(), torch.eye(3, dtype=torch.bool)))
    torch.testing.assert_close(module.embed_image(told["image"]), module.net.encode_image(told["image"], torch.full((3,), 20.0)))
    x.requires_grad_()
    scores = module.score_noised(x, log_snr, text)
    torch.testing.assert_close(scores, module.net.logit_scale.exp() * (image * text).sum(1))
    assert torch.autograd.grad(scores.sum(), x)[0].abs().flatten(1).amax(1).min() > 0
    with pytest.raises(ValueError, match=r"this CLIP reads images \(3, 16, 16\)"):
        module.score_noised(torch.zeros(1, 3, 8, 8), torch.zeros(1), text[:1])
    for net, noise in ((make().net, LinearSchedule()), (module.net, None)):
        with pytest.raises(ValueError, match="model.noise and tower.noise_levels=true go together"):
            CLIP(net, 16, noise=noise)


def test_it_draws_nothing_and_says_so() -> None:
    module = make()
    assert module.example_request().n == 0 and "draws no images" in module.sampling_refusal()
    with pytest.raises(ValueError, match="CLIP draws no images"):
        module.sample(Request(1), seeds=[0])


def test_it_learns_to_find_captions_and_its_checkpoint_alone_does_too(tmp_path: Path) -> None:
    found = train.main(overrides(tmp_path / "run", "trainer.max_steps=150", "model.max_logit_scale=10", "model.lr_schedule.total_steps=150"))
    assert found["val/retrieval/chance_r1"] < 0.05 and found["val/cosine"] > 0.3
    assert found["val/retrieval/image_to_text_r10"] > 0.6 and found["val/retrieval/text_to_image_r10"] > 0.6, "a guess has 0.3"
    assert not (tmp_path / "run" / "samples").exists() and list((tmp_path / "run" / "retrieval").glob("*.png"))
    module, _, _ = load_module(tmp_path / "run", ema=False)
    assert module.net.logit_scale.exp().item() <= 10 * (1 + 1e-6), "the inverse temperature is kept below its largest"
    assert module.embed_text(["a red circle"]).shape == (1, 16)


def test_a_residual_network_serves_as_image_tower(tmp_path: Path) -> None:
    metrics = train.main(overrides(tmp_path / "run", "tower=resnet", "tower.width=8", "tower.heads=4", "trainer.max_steps=3"))
    assert math.isfinite(metrics["train/loss"])
    module, _, _ = load_module(str(tmp_path / "run"))
    assert type(module.net.visual).__name__ == "ResNetTower"
    assert module.embed_image(torch.zeros(2, 3, 32, 32)).shape == (2, 16)


def test_a_caption_is_told_word_by_word_too_and_what_is_cut_is_known() -> None:
    module, captions = make(), ["a red circle", "a", "x " * 100]
    vector, tokens, mask = module.embed_tokens(captions)
    torch.testing.assert_close(vector, module.embed_text(captions))
    lengths = [min(len(module.tokenizer.tokens(c)), module.tokenizer.context_length) for c in captions]
    assert mask.sum(1).tolist() == lengths and tokens.shape[:2] == mask.shape and not tokens.requires_grad
    assert module.truncated(captions) == [False, False, True] and isinstance(module, EmbedsTokens)


def test_accumulated_batches_are_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="trainer.accumulate is above 1, and CLIP compares the images of one batch"):
        train.main(overrides(tmp_path / "run", "trainer.max_steps=2", "trainer.accumulate=2"))


def test_a_resumed_run_is_a_run_that_never_stopped(tmp_path: Path) -> None:
    train.main(overrides(tmp_path / "whole", "trainer.max_steps=6"))
    train.main(overrides(tmp_path / "parts", "trainer.max_steps=3"))
    train.main([f"resume={tmp_path / 'parts'}", "trainer.max_steps=6"])
    whole, parts = (contents(tmp_path / run) for run in ("whole", "parts"))
    for side in (whole, parts):
        side.pop("metrics"), side.pop("callbacks"), side.pop("pictures", None)  # the stop at step 3 measured once more
    assert_same(whole, parts)
