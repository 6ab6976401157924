"""Guidance by a noise-aware CLIP: which stage follows which gradient, empty prompts, and which CLIPs are refused."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from contracts import GuidedByCLIP, Request, ScoresNoised
from diffusion.schedules import CosineSchedule, RectifiedFlowSchedule
from lightning_modules.clip import CLIP
from lightning_modules.clip_guidance import caption_likelihood
from networks.clip import ContrastiveNet, TextTransformer, VisionTransformer
from tests.lightning_modules.test_diffusion import make as make_diffusion
from tests.lightning_modules.test_glide import make_glide
from tests.lightning_modules.test_imagen import make_imagen

PROMPTS = ["a red circle", "two blue squares"]


def make_clip(size: int = 8, noised: bool = True) -> CLIP:
    torch.manual_seed(3)
    visual = VisionTransformer(16, size, 4, 32, 1, 2, noise_levels=noised)
    if noised:  # zero at first: wake it, so that levels matter
        nn.init.normal_(visual.level.mlp[-1].weight)
    net = ContrastiveNet(visual, TextTransformer(16, 600, 40, 32, 1, 2))
    return CLIP(net, size, noise=CosineSchedule() if noised else None)


def draw(module, texts: list[str], stages: list[str] | None = None, **options) -> Tensor:
    return module.sample(Request(len(texts), texts=texts), seeds=list(range(len(texts))), stages=stages, **options)


@pytest.mark.parametrize("make", [make_glide, make_imagen])
def test_the_stage_of_its_size_follows_it_and_draws_what_it_scores_higher(make) -> None:
    module, clip = make(), make_clip()
    assert isinstance(module, GuidedByCLIP) and isinstance(clip, ScoresNoised)
    alone = {stage: draw(module, PROMPTS, [stage] if stage == "base" else None) for stage in ("base", "all")}
    module.guide_by_clip(clip)

    def score(images: Tensor) -> Tensor:
        return (clip.embed_image(images) * clip.embed_text(PROMPTS)).sum(1)

    assert torch.equal(draw(module, PROMPTS, ["base"], clip_scale=0.0), alone["base"])
    guided = draw(module, PROMPTS, ["base"], clip_scale=0.5, num_steps=12)
    without = draw(module, PROMPTS, ["base"], clip_scale=0.0, num_steps=12)
    against = draw(module, PROMPTS, ["base"], clip_scale=-0.5, num_steps=12)
    assert (score(guided) > score(without)).all() and (score(against) < score(without)).all()
    torch.testing.assert_close(draw(module, PROMPTS, clip_scale=None), draw(module, PROMPTS, clip_scale=1.0))
    assert (draw(module, PROMPTS) - alone["all"]).abs().max() > 1e-3, "1 where no scale is given"
    with torch.inference_mode():
        torch.testing.assert_close(draw(module, PROMPTS, ["base"], clip_scale=0.5, num_steps=12), guided)
    one = module.sample(Request(1, texts=PROMPTS[1:]), seeds=[1], stages=["base"], clip_scale=0.5, num_steps=12)
    torch.testing.assert_close(one[0], guided[1], rtol=0, atol=2e-3)  # an image depends on its own prompt and seed


def test_the_larger_stage_is_guided_by_a_clip_of_its_size() -> None:
    module = make_glide()
    base, whole = draw(module, PROMPTS, ["base"]), draw(module, PROMPTS)
    module.guide_by_clip(make_clip(16))
    assert torch.equal(draw(module, PROMPTS, ["base"], clip_scale=3.0), base)
    assert (draw(module, PROMPTS, clip_scale=3.0) - whole).abs().max() > 1e-3


def test_an_empty_prompt_is_not_guided_and_holes_are() -> None:
    module = make_glide()
    alone = draw(module, ["", "a red circle"], ["base"])
    module.guide_by_clip(make_clip())
    guided = draw(module, ["", "a red circle"], ["base"])
    torch.testing.assert_close(guided[0], alone[0])
    assert (guided[1] - alone[1]).abs().max() > 1e-3
    asked = Request(1, texts=["a red circle"], images=torch.zeros(1, 3, 16, 16), masks=torch.rand(1, 1, 16, 16) > 0.9)
    found = [module.inpaint(asked, seeds=[0], clip_scale=scale) for scale in (0.0, 4.0)]
    assert (found[0] - found[1]).abs().max() > 1e-3
    assert module.sampling_settings()["clip_scale"] == 1.0 and "clip_scale" not in make_glide().sampling_settings()
    assert not any("clip" in name.split(".")[0] for name in module.state_dict())


@pytest.mark.parametrize("schedule", [CosineSchedule(shift=-2.0), RectifiedFlowSchedule()], ids=["cosine", "flow"])
def test_it_is_shown_noised_images_of_its_own_spread_and_their_level(schedule) -> None:
    clip, stage = make_clip(), make_glide().stages["base"]
    stage.denoiser.schedule = schedule
    x_0, eps, t = torch.randn(2, 3, 8, 8), torch.randn(2, 3, 8, 8), torch.tensor([0.3, 0.8])
    alpha, sigma = (f(t)[:, None, None, None] for f in (schedule.alpha, schedule.sigma))
    found = caption_likelihood(clip, PROMPTS, stage)(alpha * x_0 + sigma * eps, t)
    log_snr = schedule.log_snr(t)
    own = torch.sigmoid(log_snr).sqrt()[:, None, None, None] * x_0 + torch.sigmoid(-log_snr).sqrt()[:, None, None, None] * eps
    image, text = clip.net.encode_image(own, log_snr), clip.embed_text(PROMPTS)
    torch.testing.assert_close(found, clip.net.logit_scale.exp() * (image * text).sum(1), rtol=1e-4, atol=1e-4)


def test_what_does_not_go_together_is_refused_in_one_line() -> None:
    module = make_glide()
    for other, line in (
        (make_glide(), "Glide is no CLIP of this repository"),
        (make_clip(noised=False), "this CLIP was trained on clean images.*experiment=clip_noised"),
        (make_clip(32), r"this CLIP reads images \(3, 32, 32\), and the stages draw \(3, 8, 8\), \(3, 16, 16\): .*data.image_size=8"),
    ):
        with pytest.raises(ValueError, match=line) as caught:
            module.guide_by_clip(other)
        assert "\n" not in str(caught.value)
    with pytest.raises(ValueError, match="CLIP guides by captions, and this model draws from none"):
        make_diffusion().guide_by_clip(make_clip())
    with pytest.raises(ValueError, match="clip_scale=2.0 is of guidance by a CLIP: give one, guide_clip=RUN"):
        draw(module, PROMPTS, clip_scale=2.0)
