"""A stage of the cascade: what its net and its sampler are given and what it makes of their answers, noted by recorders."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from diffusion.denoiser import denoising_loss
from diffusion.schedules import CosineSchedule, KarrasSchedule
from lightning_modules.stage import DiffusionStage, drop_text, enlarge, reduce

N, LENGTH, DIM = 240, 4, 6
SCHEDULE = CosineSchedule(shift=-1.0)


class Recorder(nn.Module):
    """A net that keeps what it is given; its answer depends on all of it."""

    def __init__(self) -> None:
        super().__init__()
        self.calls: list[dict[str, Any]] = []

    def forward(self, x: Tensor, log_snr: Tensor, **cond: Any) -> Tensor:
        self.calls.append({"x": x.clone(), "log_snr": log_snr, **cond})
        return answer(x, log_snr, **cond)


def answer(x: Tensor, log_snr: Tensor, text: Tensor, text_mask: Tensor, lowres: Any = None, aug_level: Any = None) -> Tensor:
    told = text.sum((1, 2)) + text_mask.sum(1) + log_snr / 20 + (0 if aug_level is None else 5 * aug_level)
    told = told[:, None, None, None] / 10
    return (0.5 + told / 3) * x + told + (0 if lowres is None else lowres)


class Sampler:
    """A sampler that keeps what it is given, asks the denoiser once and returns x_T, three times as large."""

    def __init__(self, t: float = 0.6) -> None:
        self.t = t

    def __call__(self, denoise: Any, schedule: Any, x_T: Tensor, **options: Any) -> Tensor:
        self.x_T, self.schedule, self.options = x_T, schedule, options
        self.x_t = torch.linspace(-2, 2, x_T.numel()).view(x_T.shape)
        self.x_0_hat = denoise(self.x_t, torch.full((len(x_T),), self.t))
        return 3 * x_T


def make(lowres_size: int | None = None, **options: Any) -> DiffusionStage:
    given = dict(image_size=8, channels=2, schedule=SCHEDULE, sampler=Sampler(), prediction="x_0", threshold="none")
    return DiffusionStage(Recorder(), **given | dict(lowres_size=lowres_size) | options)


def data(n: int = N, size: int = 8) -> dict[str, Tensor]:
    g = torch.Generator().manual_seed(0)
    mask = torch.arange(LENGTH) < torch.randint(2, LENGTH + 1, (n, 1), generator=g)
    text = torch.randn(n, LENGTH, DIM, generator=g) * mask[..., None]
    return dict(
        image=torch.rand(n, 2, size, size, generator=g) * 2 - 1, text=text, text_mask=mask,
        seeds=torch.arange(n) + 100, u=torch.rand(n, generator=g) * 0.8 + 0.1,
    )  # fmt: skip


def seen_in_loss(stage: DiffusionStage, batch: dict[str, Tensor], tag: str = "up") -> tuple[dict[str, Any], Tensor]:
    loss = stage.loss(**batch, tag=tag)
    return stage.net.calls[-1], loss


def noise_in(x_t: Tensor, x_0: Tensor, t: Tensor, schedule: Any) -> Tensor:
    """eps of x_t = alpha x_0 + sigma eps."""
    alpha, sigma = (f(t).view(-1, 1, 1, 1) for f in (schedule.alpha, schedule.sigma))
    return (x_t - alpha * x_0) / sigma


def assert_normal(eps: Tensor) -> None:
    """Standard normal, and no two samples alike."""
    n = eps.numel()
    assert abs(eps.mean()) < 5 / n**0.5 and abs(eps.var() - 1) < 5 * (2 / n) ** 0.5
    assert torch.corrcoef(eps.flatten(1)[:20]).triu(1).abs().max() < 0.6


# ---- training ----


def test_the_image_is_noised_by_its_seed_and_the_stage_and_the_net_is_told_the_level() -> None:
    stage, batch = make(), data()
    seen, loss = seen_in_loss(stage, batch)
    torch.testing.assert_close(seen["log_snr"], SCHEDULE.log_snr(batch["u"]))
    eps = noise_in(seen["x"], batch["image"], batch["u"], SCHEDULE)
    assert_normal(eps)
    wanted = (answer(**{k: v for k, v in seen.items()}) - batch["image"]).square().mean((1, 2, 3))
    torch.testing.assert_close(loss, wanted)
    again, _ = seen_in_loss(stage, {k: v[7:9] for k, v in batch.items()})
    torch.testing.assert_close(again["x"], seen["x"][7:9])
    other, _ = seen_in_loss(stage, batch, tag="base")
    assert (noise_in(other["x"], batch["image"], batch["u"], SCHEDULE) - eps).abs().mean() > 1
    assert "lowres" not in seen and "aug_level" not in seen


def test_the_loss_is_that_of_the_stages_own_settings() -> None:
    batch = data(16)
    for options in (
        dict(prediction="eps", weighting="min_snr", weighting_kwargs={"gamma": 0.3}),
        dict(prediction="x_0", weighting="edm", sigma_data=0.4),
        dict(prediction="flow", weighting="uniform"),
    ):
        stage = make(cond_drop_prob=0.0, **options)
        seen, loss = seen_in_loss(stage, batch)
        eps = noise_in(seen["x"], batch["image"], batch["u"], SCHEDULE)
        if "sigma_data" in options:  # the net's input is scaled to unit variance
            alpha, sigma = (f(batch["u"]).view(-1, 1, 1, 1) for f in (SCHEDULE.alpha, SCHEDULE.sigma))
            eps = (seen["x"] * (alpha**2 * 0.4**2 + sigma**2).sqrt() - alpha * batch["image"]) / sigma
        text = dict(text=batch["text"], text_mask=batch["text_mask"])
        expected = denoising_loss(stage.net, batch["image"], schedule=SCHEDULE, t=batch["u"], eps=eps, **options, **text)
        torch.testing.assert_close(loss, expected, rtol=1e-4, atol=1e-5)


def test_noise_levels_are_the_quantiles_of_the_distribution_asked_for() -> None:
    stage, u = make(noise_levels=(-1.5, 2.0)), torch.tensor([0.1, 0.5, 0.9])
    expected = torch.distributions.Normal(-1.5, 2.0).icdf(u)
    torch.testing.assert_close(SCHEDULE.log_snr(stage.times(u)), expected, rtol=1e-3, atol=1e-3)
    seen, _ = seen_in_loss(stage, data(3) | dict(u=u))
    torch.testing.assert_close(seen["log_snr"], expected, rtol=1e-3, atol=1e-3)


@pytest.mark.parametrize("prob", [0.0, 0.3, 1.0])
def test_text_is_dropped_as_often_as_asked(prob: float) -> None:
    batch = data()
    seen, _ = seen_in_loss(make(cond_drop_prob=prob), batch)
    dropped = ~seen["text"].any(2).any(1)
    assert abs(dropped.float().mean() - prob) <= 4 * (prob * (1 - prob) / N) ** 0.5
    nothing = torch.tensor([True] + [False] * (LENGTH - 1))
    assert (seen["text_mask"][dropped] == nothing).all()
    torch.testing.assert_close(seen["text"][~dropped], batch["text"][~dropped])
    assert torch.equal(seen["text_mask"][~dropped], batch["text_mask"][~dropped])
    other, _ = seen_in_loss(make(cond_drop_prob=prob), batch, tag="base")
    assert torch.equal(~other["text"].any(2).any(1), dropped) == (prob != 0.3)


def test_super_resolution_is_given_the_reduced_image_noised_to_the_level_it_is_told() -> None:
    stage, batch = make(4, max_aug_level=0.5, cond_drop_prob=0.3), data()
    seen, _ = seen_in_loss(stage, batch)
    level, given = seen["aug_level"], F.avg_pool2d(batch["image"], 2)
    assert 0 <= level.min() < 0.02 and 0.48 < level.max() <= 0.5 and abs(level.mean() - 0.25) < 0.04
    far = level > 0.05  # below, the noise cannot be told from rounding
    enlarged = F.interpolate(given, scale_factor=2, mode="bilinear", align_corners=False)
    aug_eps = noise_in(seen["lowres"], enlarged, level, CosineSchedule())[far]
    assert_normal(aug_eps)
    eps = noise_in(seen["x"], batch["image"], batch["u"], SCHEDULE)[far]
    assert abs((eps * aug_eps).mean()) < 5 / eps.numel() ** 0.5, "the augmentation's noise is its own"
    kept = seen["text"].any(2).any(1)
    assert abs(level[kept].mean() - level[~kept].mean()) < 0.1, "the level has nothing to do with the text's dropout"


def test_crops_of_image_and_condition_are_one_window_anywhere_on_the_grid() -> None:
    stage, n = make(4, crop_size=4), 400
    ramp = torch.arange(64.0).view(1, 1, 8, 8).expand(n, 2, 8, 8)
    seeds = torch.arange(n)
    x_0, condition = stage._crop(ramp, ramp + 1000, seeds, "up")
    assert x_0.shape == (n, 2, 4, 4)
    torch.testing.assert_close(condition, x_0 + 1000)
    corners = [divmod(int(c), 8) for c in x_0[:, 0, 0, 0]]
    assert set(corners) == {(y, x) for y in (0, 2, 4) for x in (0, 2, 4)}
    for (y, x), crop in zip(corners, x_0):
        assert torch.equal(crop[0], ramp[0, 0, y : y + 4, x : x + 4])
    other = stage._crop(ramp, ramp, seeds, "top")[0]
    assert not torch.equal(other, x_0)


def test_rows_of_a_crop_are_drawn_for_rows() -> None:
    """Written down once: a change here changes which windows every run sees."""
    stage = make(4, crop_size=4)
    ramp = torch.arange(64.0).view(1, 1, 8, 8).expand(6, 2, 8, 8)
    corners = [divmod(int(c), 8) for c in stage._crop(ramp, ramp, torch.arange(6), "up")[0][:, 0, 0, 0]]
    assert corners == [(0, 0), (2, 2), (0, 4), (0, 4), (4, 2), (0, 2)]


def test_a_dropped_caption_is_one_token_of_zeros() -> None:
    text, mask = torch.ones(2, 3, 2), torch.tensor([[True, True, True], [True, True, False]])
    text, mask = drop_text(text, mask, torch.tensor([False, True]))
    assert not text[0].any() and text[1].all()
    assert mask.tolist() == [[True, False, False], [True, True, False]]


def test_reducing_averages_blocks_and_enlarging_interpolates() -> None:
    image = torch.tensor([[0.0, 4.0, 1.0, 1.0], [8.0, 0.0, 1.0, 5.0]]).repeat(2, 1).view(1, 1, 4, 4)
    assert reduce(image, 2).flatten().tolist() == [3, 2, 3, 2]
    assert reduce(image, 4) is image
    grown = enlarge(torch.tensor([[0.0, 4.0], [0.0, 4.0]]).view(1, 1, 2, 2), 4)
    assert grown[0, 0, 0].tolist() == [0, 1, 3, 4]  # pixel centres, not corners
    stage = make(4, image_size=8)
    image = torch.rand(1, 2, 16, 16)
    x_0, condition = stage._targets(image)
    assert torch.equal(x_0, reduce(image, 8)) and torch.equal(condition, enlarge(reduce(image, 4), 8))
    assert x_0.shape == condition.shape == (1, 2, 8, 8)
    torch.testing.assert_close(reduce(x_0, 4).mean(), condition.mean(), atol=0.05, rtol=0)


# ---- sampling ----


def draw(stage: DiffusionStage, n: int = 3, keep: list[bool] | None = None, **options: Any) -> tuple[Tensor, Sampler]:
    batch = data(n)
    keep = torch.tensor(keep or [True] * n)
    seeds = options.pop("seeds", list(range(n)))
    tag = options.pop("tag", "up")
    image = stage.sample(batch["text"], batch["text_mask"], keep, seeds, tag, **options)
    return image, options.get("sampler") or stage.sampler


def test_the_sampler_gets_scaled_noise_of_each_images_seed_and_its_answer_is_clamped() -> None:
    stage = make(schedule=KarrasSchedule(sigma_max=7.0), num_steps=9, image_size=16)
    image, sampler = draw(stage, 5)
    assert torch.equal(image, (3 * sampler.x_T).clamp(-1, 1)) and image.shape == (5, 2, 16, 16)
    assert image.min() == -1, "samples are in [-1, 1], not in [0, 1]"
    assert_normal(sampler.x_T / 7)
    assert sampler.schedule is stage.schedule and sampler.options["num_steps"] == 9 and sampler.options["on_step"] is None
    noise = torch.stack([torch.randn(4, generator=g) for g in sampler.options["generator"]])
    x_T = sampler.x_T
    draw(stage, 2, seeds=[3, 1])
    assert torch.equal(sampler.x_T, x_T[[3, 1]])
    again = torch.stack([torch.randn(4, generator=g) for g in sampler.options["generator"]])
    assert torch.equal(again, noise[[3, 1]])
    draw(stage, 5, tag="base")
    assert (sampler.x_T - x_T).abs().mean() > 1, "every stage has noise of its own"


def test_options_of_the_call_go_before_the_stages() -> None:
    stage, other, steps = make(num_steps=9, guidance_scale=4.0), Sampler(), []
    draw(stage, num_steps=2, sampler=other, on_step=steps.append)
    assert other.options["num_steps"] == 2 and other.options["on_step"] == steps.append
    assert not hasattr(stage.sampler, "x_T")


def estimates(stage: DiffusionStage, x_t: Tensor) -> tuple[Tensor, Tensor]:
    """The conditional and the unconditional answer to what the net saw last, where it predicts x_0."""
    seen = stage.net.calls[-1]
    n = len(x_t)
    assert torch.equal(seen["x"], torch.cat([x_t, x_t])) and len(seen["text"]) == 2 * n
    return answer(**seen).chunk(2)


@pytest.mark.parametrize("scale", [None, 2.5])
def test_guidance_is_between_text_and_nothing(scale: float | None) -> None:
    stage, batch = make(guidance_scale=4.0), data(3)
    _, sampler = draw(stage, keep=[True, False, True], guidance_scale=scale)
    (seen,) = stage.net.calls
    conditional, unconditional = drop_text(batch["text"], batch["text_mask"], torch.tensor([True, False, True])), drop_text(
        batch["text"], batch["text_mask"], torch.tensor([False] * 3)
    )  # fmt: skip
    torch.testing.assert_close(seen["text"], torch.cat([conditional[0], unconditional[0]]))
    assert torch.equal(seen["text_mask"], torch.cat([conditional[1], unconditional[1]]))
    cond, uncond = estimates(stage, sampler.x_t)
    torch.testing.assert_close(sampler.x_0_hat, uncond + (scale or 4.0) * (cond - uncond))


def test_guidance_of_0_is_no_text_and_of_1_the_text_alone() -> None:
    for scale in (0, 1):
        stage = make(guidance_scale=4.0)
        draw(stage, guidance_scale=scale)
        (seen,) = stage.net.calls
        assert len(seen["x"]) == 3 and bool(seen["text"].any()) == (scale == 1)


def test_guidance_is_rescaled() -> None:
    stage = make(guidance_scale=4.0, guidance_rescale=0.7)
    _, sampler = draw(stage)
    cond, uncond = estimates(stage, sampler.x_t)
    out = uncond + 4 * (cond - uncond)
    ratio = (cond.flatten(1).std(1) / out.flatten(1).std(1)).view(-1, 1, 1, 1)
    torch.testing.assert_close(sampler.x_0_hat, 0.7 * ratio * out + 0.3 * out)


def test_the_threshold_comes_after_guidance() -> None:
    stage = make(guidance_scale=6.0, threshold="dynamic", threshold_percentile=0.8)
    _, sampler = draw(stage)
    cond, uncond = estimates(stage, sampler.x_t)
    out = uncond + 6 * (cond - uncond)
    s = torch.quantile(out.abs().flatten(1), 0.8, dim=1).clamp(min=1).view(-1, 1, 1, 1)
    assert s.max() > 1.2, "the test's own numbers are beyond the threshold"
    torch.testing.assert_close(sampler.x_0_hat, out.clamp(-s, s) / s)
    _, sampler = draw(stage, threshold="static")
    torch.testing.assert_close(sampler.x_0_hat, out.clamp(-1, 1))


def test_the_nets_answer_is_read_as_what_it_predicts() -> None:
    t = torch.full((3,), 0.6)
    alpha, sigma = SCHEDULE.alpha(t)[0], SCHEDULE.sigma(t)[0]
    stage = make(prediction="eps")
    _, sampler = draw(stage)
    torch.testing.assert_close(sampler.x_0_hat, (sampler.x_t - sigma * answer(**stage.net.calls[0])) / alpha)
    schedule = KarrasSchedule()
    stage = make(schedule=schedule, sigma_data=0.4)
    _, sampler = draw(stage)
    sigma = schedule.sigma(t)[0]
    norm = math.sqrt(sigma**2 + 0.4**2)  # Karras et al. 2022, table 1
    torch.testing.assert_close(stage.net.calls[0]["x"], sampler.x_t / norm)
    expected = 0.4**2 / norm**2 * sampler.x_t + sigma * 0.4 / norm * answer(**stage.net.calls[0])
    torch.testing.assert_close(sampler.x_0_hat, expected)


@pytest.mark.parametrize("given", [None, 0.6])
def test_super_resolution_starts_from_the_image_below_noised_by_the_seed(given: float | None) -> None:
    stage, n = make(8, image_size=16, aug_level=0.3, max_aug_level=0.9, guidance_scale=2.0), 3
    lowres = torch.rand(n, 2, 8, 8, generator=torch.Generator().manual_seed(3)) * 2 - 1
    draw(stage, n, lowres=lowres, aug_level=given)
    seen = stage.net.calls[-1]
    level = torch.full((2 * n,), 0.3 if given is None else given)
    torch.testing.assert_close(seen["aug_level"], level)
    cond, uncond = seen["lowres"].chunk(2)
    assert torch.equal(cond, uncond)
    aug_eps = noise_in(cond, enlarge(lowres, 16), level[:n], CosineSchedule())
    assert_normal(aug_eps)
    draw(stage, 2, lowres=lowres[:2], aug_level=given, seeds=[0, 1])
    torch.testing.assert_close(stage.net.calls[-1]["lowres"][:2], cond[:2])
    assert (noise_in(stage.sampler.x_T, lowres.new_zeros(()), torch.ones(2), SCHEDULE) - aug_eps[:2]).abs().mean() > 0.5


def test_a_checkpoint_says_what_was_trained_and_wrong_sizes_are_refused() -> None:
    assert "images_trained" in make().state_dict()
    for options, message in (
        (dict(cond_drop_prob=-0.1), "cond_drop_prob=-0.1"),
        (dict(aug_level=1.5), "aug_level=1.5"),
        (dict(lowres_size=3), "not a multiple of lowres_size=3"),
        (dict(crop_size=4), "crop_size=4"),
        (dict(lowres_size=4, crop_size=3), "crop_size=3"),
    ):
        with pytest.raises(ValueError, match=message):
            make(**{"lowres_size": None, **options})
