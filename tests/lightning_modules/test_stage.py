"""A diffusion stage: what its net and its sampler are given and what it makes of their answers, noted by recorders."""

from __future__ import annotations

import functools
import math
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from diffusion.denoiser import Denoiser
from diffusion.samplers import ddim
from diffusion.optimal_transport import pair
from diffusion.schedules import CosineSchedule, KarrasSchedule
from diffusion.times import NormalLogSNR, UniformTimes
from lightning_modules.spaces import Embeddings, Pixels, enlarge
from lightning_modules.stage import DiffusionStage
from lightning_modules.super_resolution import LowResolution
from networks.conditioners import (
    AugmentConditioner,
    ImageEmbeddingConditioner,
    LabelConditioner,
    LowresConditioner,
    TextConditioner,
)
from networks.spelling import SpellingConditioner

N, LENGTH, DIM = 240, 4, 6
SCHEDULE = CosineSchedule(shift=-1.0)
LOWRES = ("size", "crop_size", "aug_level", "max_aug_level")


class Recorder(nn.Module):
    """A net that keeps what it is given; its answer depends on all of it."""

    def __init__(self) -> None:
        super().__init__()
        self.calls: list[dict[str, Any]] = []

    def forward(self, x: Tensor, log_snr: Tensor, **told: Any) -> Tensor:
        self.calls.append({"x": x.clone(), "log_snr": log_snr, **told})
        return answer(x, log_snr, **told)


def answer(x: Tensor, log_snr: Tensor, tokens: Any = None, token_mask: Any = None, channels: Any = None, vector: Any = None) -> Tensor:
    told = log_snr / 20 + (0 if tokens is None else tokens.sum((1, 2)) + token_mask.sum(1))
    told = told + (0 if vector is None else 5 * vector.sum(1))
    told = told.view(-1, *[1] * (x.ndim - 1)) / 10
    return (0.5 + told / 3) * x + told + (0 if channels is None else channels)


class PlainText(TextConditioner):
    """Text that reaches the net as it is."""

    def __init__(self) -> None:
        nn.Module.__init__(self)
        self.calls = 0

    def forward(self, value: dict[str, Tensor]) -> dict[str, Tensor]:
        self.calls += 1
        return {"tokens": value["text"], "token_mask": value["mask"]}


class PlainLowres(LowresConditioner):
    """A low-resolution image and its level that reach the net as they are."""

    def __init__(self) -> None:
        nn.Module.__init__(self)

    def forward(self, value: dict[str, Tensor]) -> dict[str, Tensor]:
        return {"channels": value["lowres"], "vector": value["aug_level"][:, None]}


class Sampler:
    """A sampler that keeps what it is given, asks the denoiser once and returns x_T, three times as large."""

    def __init__(self, t: float = 0.6) -> None:
        self.t = t

    def __call__(self, denoise: Any, schedule: Any, x_T: Tensor, **options: Any) -> Tensor:
        self.x_T, self.schedule, self.options = x_T, schedule, options
        self.x_t = torch.linspace(-2, 2, x_T.numel()).view(x_T.shape)
        self.x_0_hat = denoise(self.x_t, torch.full((len(x_T),), self.t))
        return 3 * x_T


def make(size: int | None = None, image_size: int = 8, **options: Any) -> DiffusionStage:
    """A stage told by text, and with `size` of super-resolution."""
    lowres = {k: options.pop(k) for k in LOWRES if k in options}
    conditioners: dict[str, nn.Module] = {"text": PlainText()}
    if size is not None:
        conditioners["lowres"] = PlainLowres()
        options["lowres"] = LowResolution(size, **lowres)
    given = dict(
        space=Pixels(image_size, 2), schedule=SCHEDULE, sampler=Sampler(), prediction="x_0", conditioners=conditioners
    )
    return DiffusionStage(Recorder(), **given | options)


def data(n: int = N, size: int = 8) -> dict[str, Tensor]:
    g = torch.Generator().manual_seed(0)
    mask = torch.arange(LENGTH) < torch.randint(2, LENGTH + 1, (n, 1), generator=g)
    text = torch.randn(n, LENGTH, DIM, generator=g) * mask[..., None]
    return dict(
        image=torch.rand(n, 2, size, size, generator=g) * 2 - 1, text_embeds=text, text_mask=mask,
        seed=torch.arange(n) + 100, u=torch.rand(n, generator=g) * 0.8 + 0.1,
    )  # fmt: skip


def seen_in_loss(stage: DiffusionStage, batch: dict[str, Tensor], tag: str = "up") -> tuple[dict[str, Any], Tensor]:
    loss = stage.loss({k: v for k, v in batch.items() if k != "u"}, batch["u"], tag)
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
    wanted = (answer(**seen) - batch["image"]).square().mean((1, 2, 3))
    torch.testing.assert_close(loss, wanted)
    again, _ = seen_in_loss(stage, {k: v[7:9] for k, v in batch.items()})
    torch.testing.assert_close(again["x"], seen["x"][7:9])
    other, _ = seen_in_loss(stage, batch, tag="base")
    assert (noise_in(other["x"], batch["image"], batch["u"], SCHEDULE) - eps).abs().mean() > 1
    assert "channels" not in seen and "vector" not in seen


def test_larger_images_are_averaged_down_to_the_stages_own() -> None:
    stage, batch = make(image_size=4), data()
    seen, _ = seen_in_loss(stage, batch)
    assert_normal(noise_in(seen["x"], F.avg_pool2d(batch["image"], 2), batch["u"], SCHEDULE))


def test_the_loss_is_that_of_the_stages_own_settings() -> None:
    batch = data(16)
    for options in (
        dict(prediction="eps", weighting="min_snr", weighting_kwargs={"gamma": 0.3}),
        dict(prediction="edm", weighting="edm", sigma_data=0.4),
        dict(prediction="flow", weighting="uniform"),
        dict(prediction="v", weighting="sigmoid", weighting_kwargs={"bias": -2.0}, times=NormalLogSNR(-1.0, 2.0)),
    ):
        stage = make(cond_drop_prob=0.0, **options)
        seen, loss = seen_in_loss(stage, batch)
        t = options.get("times", UniformTimes()).draw(batch["u"], SCHEDULE)
        eps = noise_in(seen["x"], batch["image"], t, SCHEDULE)
        if "sigma_data" in options:  # the net's input is scaled to unit variance
            alpha, sigma = (f(t).view(-1, 1, 1, 1) for f in (SCHEDULE.alpha, SCHEDULE.sigma))
            eps = (seen["x"] * (alpha**2 * 0.4**2 + sigma**2).sqrt() - alpha * batch["image"]) / sigma
        assert_normal(eps)
        denoiser = Denoiser(stage.net, SCHEDULE, options["prediction"], sigma_data=options.get("sigma_data", 0.5))
        text = dict(tokens=batch["text_embeds"], token_mask=batch["text_mask"])
        given = {k: v for k, v in options.items() if k in ("weighting", "weighting_kwargs", "times")}
        expected = denoiser.loss(batch["image"], t, eps, **given, **text)
        torch.testing.assert_close(loss, expected, rtol=1e-4, atol=1e-5)


def test_noise_levels_are_the_quantiles_of_the_distribution_asked_for() -> None:
    stage, u = make(times=NormalLogSNR(-1.5, 2.0)), torch.tensor([0.1, 0.5, 0.9])
    expected = torch.distributions.Normal(-1.5, 2.0).icdf(u)
    seen, _ = seen_in_loss(stage, data(3) | dict(u=u))
    torch.testing.assert_close(seen["log_snr"], expected, rtol=1e-3, atol=1e-3)


@pytest.mark.parametrize("prob", [0.0, 0.3, 1.0])
def test_text_is_dropped_as_often_as_asked(prob: float) -> None:
    batch = data()
    seen, _ = seen_in_loss(make(cond_drop_prob=prob), batch)
    dropped = ~seen["tokens"].any(2).any(1)
    assert abs(dropped.float().mean() - prob) <= 4 * (prob * (1 - prob) / N) ** 0.5
    nothing = torch.tensor([True] + [False] * (LENGTH - 1))
    assert (seen["token_mask"][dropped] == nothing).all()
    torch.testing.assert_close(seen["tokens"][~dropped], batch["text_embeds"][~dropped])
    assert torch.equal(seen["token_mask"][~dropped], batch["text_mask"][~dropped])
    other, _ = seen_in_loss(make(cond_drop_prob=prob), batch, tag="base")
    assert torch.equal(~other["tokens"].any(2).any(1), dropped) == (prob != 0.3)


def test_what_a_caption_says_is_dropped_as_a_whole() -> None:
    conditioners = {"text": PlainText(), "spelling": SpellingConditioner(DIM)}
    batch = data(64) | {"caption": ['"A"'] * 64}
    seen, _ = seen_in_loss(make(cond_drop_prob=0.5, conditioners=conditioners), batch)
    dropped = ~seen["tokens"].any(2).any(1)
    assert 20 < dropped.sum() < 44 and torch.equal(~seen["vector"].any(1), dropped)


def test_an_empty_caption_is_told_as_a_dropped_one() -> None:
    batch = data(6)
    empty, _ = seen_in_loss(make(cond_drop_prob=0.0), batch | {"text_keep": torch.zeros(6, dtype=torch.bool)})
    dropped, _ = seen_in_loss(make(cond_drop_prob=1.0), batch)
    assert empty.keys() == dropped.keys() and all(torch.equal(empty[key], dropped[key]) for key in empty)
    assert not empty["tokens"].any() and empty["token_mask"].sum(1).tolist() == [1] * 6


def test_super_resolution_is_given_the_reduced_image_noised_to_the_level_it_is_told() -> None:
    stage, batch = make(4, max_aug_level=0.5, cond_drop_prob=0.3), data()
    seen, _ = seen_in_loss(stage, batch)
    level, given = seen["vector"][:, 0], F.avg_pool2d(batch["image"], 2)
    assert 0 <= level.min() < 0.02 and 0.48 < level.max() <= 0.5 and abs(level.mean() - 0.25) < 0.04
    far = level > 0.05  # below, the noise cannot be told from rounding
    enlarged = F.interpolate(given, scale_factor=2, mode="bilinear", align_corners=False)
    aug_eps = noise_in(seen["channels"], enlarged, level, CosineSchedule())[far]
    assert_normal(aug_eps)
    eps = noise_in(seen["x"], batch["image"], batch["u"], SCHEDULE)[far]
    assert abs((eps * aug_eps).mean()) < 5 / eps.numel() ** 0.5, "the augmentation's noise is its own"
    kept = seen["tokens"].any(2).any(1)
    assert 0.6 < kept.float().mean() < 0.8, "the text is dropped, the low-resolution image never"
    assert abs(level[kept].mean() - level[~kept].mean()) < 0.1, "the level has nothing to do with the text's dropout"


def test_crops_of_the_image_go_with_their_low_resolution_image() -> None:
    stage, batch = make(4, crop_size=4, max_aug_level=0.0), data(40)
    seen, _ = seen_in_loss(stage, batch)
    x_0, enlarged = stage.lowres.crop(batch["image"], enlarge(F.avg_pool2d(batch["image"], 2), 8), batch["seed"], "up")
    assert seen["x"].shape == (40, 2, 4, 4)
    torch.testing.assert_close(seen["channels"], enlarged, rtol=0, atol=1e-3)
    assert_normal(noise_in(seen["x"], x_0, batch["u"], SCHEDULE))


def test_optimal_transport_gives_each_image_of_an_unconditional_stage_the_noise_near_it() -> None:
    batch = data(12)
    stages = [make(conditioners={}, pairing=pairing) for pairing in ("none", "optimal_transport")]
    plain, paired = (noise_in(seen_in_loss(s, batch)[0]["x"], batch["image"], batch["u"], SCHEDULE) for s in stages)
    order = pair(plain, batch["image"])
    assert order.tolist() != list(range(12))
    torch.testing.assert_close(paired, plain[order], rtol=1e-4, atol=1e-4)
    cost = [(eps - batch["image"]).square().sum() for eps in (plain, paired)]
    assert cost[1] < cost[0] - 1
    with pytest.raises(ValueError, match="pairing=optimal_transport is for unconditional models"):
        make(pairing="optimal_transport")
    with pytest.raises(ValueError, match="pairing=nearest: choose one of none, optimal_transport"):
        make(pairing="nearest")


# ---- sampling ----


def draw(stage: DiffusionStage, n: int = 3, keep: list[bool] | None = None, **options: Any) -> tuple[Tensor, Sampler]:
    batch = {k: v for k, v in data(n).items() if k.startswith("text")} | {"text_keep": torch.tensor(keep or [True] * n)}
    seeds = options.pop("seeds", list(range(n)))
    tag = options.pop("tag", "up")
    image = stage.sample(batch, seeds, tag, **options)
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
    assert torch.equal(seen["x"], torch.cat([x_t, x_t])) and len(seen["tokens"]) == 2 * n
    return answer(**seen).chunk(2)


@pytest.mark.parametrize("scale", [None, 2.5])
def test_guidance_is_between_text_and_nothing(scale: float | None) -> None:
    stage, batch = make(guidance_scale=4.0), data(3)
    _, sampler = draw(stage, keep=[True, False, True], guidance_scale=scale)
    (seen,) = stage.net.calls
    value = {"text": batch["text_embeds"], "mask": batch["text_mask"]}
    cond, uncond = (PlainText().drop(value, torch.tensor(keep)) for keep in ([True, False, True], [False] * 3))
    torch.testing.assert_close(seen["tokens"], torch.cat([cond["text"], uncond["text"]]))
    assert torch.equal(seen["token_mask"], torch.cat([cond["mask"], uncond["mask"]]))
    cond, uncond = estimates(stage, sampler.x_t)
    torch.testing.assert_close(sampler.x_0_hat, uncond + (scale or 4.0) * (cond - uncond))


def test_guidance_of_0_is_no_text_and_of_1_the_text_alone_in_one_pass() -> None:
    for scale in (0, 1):
        stage = make(guidance_scale=4.0)
        draw(stage, guidance_scale=scale)
        (seen,) = stage.net.calls
        assert len(seen["x"]) == 3 and bool(seen["tokens"].any()) == (scale == 1)
        assert stage.conditioners["text"].calls == 1, "what is not used is not computed"


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
    _, sampler = draw(make(guidance_scale=6.0))
    torch.testing.assert_close(sampler.x_0_hat, out)  # none unless asked for


def test_the_nets_answer_is_read_as_what_it_predicts() -> None:
    t = torch.full((3,), 0.6)
    alpha, sigma = SCHEDULE.alpha(t)[0], SCHEDULE.sigma(t)[0]
    stage = make(prediction="eps")
    _, sampler = draw(stage)
    torch.testing.assert_close(sampler.x_0_hat, (sampler.x_t - sigma * answer(**stage.net.calls[0])) / alpha)
    schedule = KarrasSchedule()
    stage = make(schedule=schedule, prediction="edm", sigma_data=0.4)
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
    torch.testing.assert_close(seen["vector"][:, 0], level)
    cond, uncond = seen["channels"].chunk(2)
    assert torch.equal(cond, uncond)
    aug_eps = noise_in(cond, enlarge(lowres, 16), level[:n], CosineSchedule())
    assert_normal(aug_eps)
    draw(stage, 2, lowres=lowres[:2], aug_level=given, seeds=[0, 1])
    torch.testing.assert_close(stage.net.calls[-1]["channels"][:2], cond[:2])
    assert (noise_in(stage.sampler.x_T, lowres.new_zeros(()), torch.ones(2), SCHEDULE) - aug_eps[:2]).abs().mean() > 0.5


def test_sampling_above_the_trained_level_of_noise_is_refused() -> None:
    stage = make(4, max_aug_level=0.3)
    with pytest.raises(ValueError, match=r"aug_level=0.4 is outside \[0, 0.3\]"):
        draw(stage, lowres=torch.zeros(3, 2, 4, 4), aug_level=0.4)


def test_conditioners_run_once_per_draw_however_many_steps_it_has() -> None:
    stage = make(guidance_scale=3.0, sampler=ddim, num_steps=7)
    draw(stage)
    assert stage.conditioners["text"].calls == 2 and len(stage.net.calls) == 7


def test_a_stage_without_conditions_to_drop_takes_one_pass_whatever_the_guidance() -> None:
    lowres = dict(size=4, conditioners={"lowres": PlainLowres()}, lowres=LowResolution(4))
    for options in (dict(conditioners=None), lowres):
        stage = make(guidance_scale=4.0, **{k: v for k, v in options.items() if k != "size"})
        stage.sample({}, [1, 2], "up", lowres=torch.zeros(2, 2, 4, 4))
        (seen,) = stage.net.calls
        assert len(seen["x"]) == 2 and ("channels" in seen) == ("lowres" in options)
        assert "guidance_scale" not in stage.settings()


# ---- several kinds of conditions ----


def several(probs: float | dict[str, float] = 0.0, **options: Any) -> DiffusionStage:
    conditioners = {
        "label": LabelConditioner(5, DIM),
        "clip": ImageEmbeddingConditioner(3, DIM, tokens_dim=DIM, num_tokens=2),
        "text": TextConditioner(DIM, DIM, DIM, head_dim=2),
        "lowres": LowresConditioner(DIM),
        "augment": AugmentConditioner(DIM, num_params=2),
    }
    torch.manual_seed(0)
    for c in conditioners.values():
        for p in c.parameters():
            nn.init.normal_(p)
    return make(conditioners=conditioners, lowres=LowResolution(4, max_aug_level=0.4), cond_drop_prob=probs, **options)


def several_data(n: int = N) -> dict[str, Tensor]:
    g = torch.Generator().manual_seed(5)
    more = {"label": torch.randint(5, (n,), generator=g), "image_embeds": torch.randn(n, 3, generator=g)}
    return data(n) | more | {"augment": torch.randn(n, 2, generator=g)}


def test_the_net_is_told_the_sum_the_join_and_the_stack() -> None:
    stage, batch = several(), several_data(7)
    seen, _ = seen_in_loss(stage, batch)
    label, clip, text, lowres, augment = stage.conditioners.values()
    _, fields = stage.lowres.for_training(batch, batch["image"], batch["seed"], "up")
    from_text = text({"text": batch["text_embeds"], "mask": batch["text_mask"]})
    from_clip = clip({"embeds": batch["image_embeds"]})
    vectors = [label.table(batch["label"]), from_clip["vector"], from_text["vector"], lowres.level(fields["aug_level"])]
    torch.testing.assert_close(seen["vector"], sum(vectors) + augment.to_vector(batch["augment"]))
    torch.testing.assert_close(seen["tokens"], torch.cat([from_clip["tokens"], from_text["tokens"]], 1))
    assert torch.equal(seen["token_mask"], torch.cat([torch.ones(7, 2, dtype=torch.bool), batch["text_mask"]], 1))
    assert torch.equal(seen["channels"], fields["lowres"])


def dropped_in_loss(stage: DiffusionStage, monkeypatch: pytest.MonkeyPatch, tag: str = "up") -> dict[str, Tensor]:
    """Which samples were trained without which condition."""
    found = {}
    for name, conditioner in stage.conditioners.items():
        if conditioner.droppable:
            def noted(value: Any, keep: Tensor, name: str = name, drop: Any = conditioner.drop) -> Any:
                found[name] = ~keep
                return drop(value, keep)

            monkeypatch.setattr(conditioner, "drop", noted)
    seen_in_loss(stage, several_data(), tag)
    return found


def test_each_condition_is_dropped_by_itself(monkeypatch: pytest.MonkeyPatch) -> None:
    found = dropped_in_loss(several(0.5), monkeypatch)
    assert list(found) == ["label", "clip", "text"]
    together = torch.corrcoef(torch.stack([d.float() for d in found.values()]))
    assert together.triu(1).abs().max() < 5 / N**0.5
    assert all(abs(d.float().mean() - 0.5) < 0.15 for d in found.values())
    other = dropped_in_loss(several(0.5), monkeypatch, tag="base")
    assert all((other[name] != found[name]).float().mean() > 0.3 for name in found)


def test_each_condition_has_its_own_probability(monkeypatch: pytest.MonkeyPatch) -> None:
    found = dropped_in_loss(several({"label": 1.0, "text": 0.2}), monkeypatch)
    assert found["label"].all() and not found["clip"].any() and abs(found["text"].float().mean() - 0.2) < 0.11


def test_guidance_drops_every_condition_that_can_be_dropped() -> None:
    stage, batch = several(guidance_scale=3.0), several_data(3)
    lowres = torch.zeros(3, 2, 4, 4)
    stage.sample({k: v for k, v in batch.items() if k not in ("image", "u", "seed")}, [5, 6, 7], "up", lowres=lowres)
    (seen,) = stage.net.calls
    label, clip, text, level, augment = stage.conditioners.values()
    _, uncond = seen["vector"].chunk(2)
    empty = text(text.drop({"text": batch["text_embeds"], "mask": batch["text_mask"]}, torch.zeros(3, dtype=torch.bool)))
    nothing = label.table.weight[5] + clip.to_vector(3**0.5 * clip.nothing) + empty["vector"] + level.level(torch.zeros(3))
    torch.testing.assert_close(uncond, nothing + augment.to_vector(batch["augment"]))
    torch.testing.assert_close(seen["token_mask"][3:, 2:], empty["token_mask"])
    assert torch.equal(*seen["channels"].chunk(2))


def test_sampling_is_of_images_that_were_not_augmented() -> None:
    stage = make(conditioners={"augment": AugmentConditioner(4)})
    nn.init.ones_(stage.conditioners["augment"].to_vector.weight)
    stage.sample({}, [1, 2], "up")
    assert stage.net.calls[0]["vector"].shape == (2, 4) and not stage.net.calls[0]["vector"].any()


# ---- vectors ----


class Perceptron(nn.Module):
    """A small net over (B, D) vectors."""

    def __init__(self, dim: int) -> None:
        super().__init__()
        self.layers = nn.Sequential(nn.Linear(dim + 9, 64), nn.SiLU(), nn.Linear(64, 64), nn.SiLU(), nn.Linear(64, dim))

    def forward(self, x: Tensor, log_snr: Tensor, *, vector: Tensor) -> Tensor:
        return self.layers(torch.cat([x, log_snr[:, None] / 10, vector], 1))


def test_a_stage_over_vectors_trains_and_samples() -> None:
    """Two classes of unit vectors, each around a direction of its own: draws of a class point there."""
    torch.manual_seed(0)
    dim, directions = 6, F.normalize(torch.randn(2, 6), dim=1)
    stage = DiffusionStage(
        Perceptron(dim), space=Embeddings(dim), schedule=CosineSchedule(), sampler=functools.partial(ddim), num_steps=12,
        prediction="x_0", conditioners={"label": LabelConditioner(2, 8)}, cond_drop_prob=0.1, guidance_scale=1.5,
    )  # fmt: skip
    optimizer = torch.optim.Adam(stage.parameters(), 5e-3)
    losses = []
    for step in range(200):
        label = torch.arange(64) % 2
        embeds = directions[label] + 0.05 * torch.randn(64, dim)
        u = (torch.rand(()) + torch.arange(64) / 64) % 1
        batch = {"image_embeds": embeds, "label": label, "seed": torch.arange(64) + 64 * step}
        loss = stage.loss(batch, u[torch.randperm(64)], "prior").mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert sum(losses[-20:]) < 0.5 * sum(losses[:20])
    label = torch.arange(16) % 2
    drawn = stage.sample({"label": label}, list(range(16)), "prior")
    assert drawn.shape == (16, dim)
    torch.testing.assert_close(drawn.norm(dim=1), torch.ones(16))
    assert (drawn * directions[label]).sum(1).min() > 0.9


# ---- settings ----


def test_a_checkpoint_says_what_was_trained_and_wrong_settings_are_refused() -> None:
    assert "images_trained" in make().state_dict()
    for options, message in (
        (dict(cond_drop_prob=-0.1), "cond_drop_prob=-0.1"),
        (dict(cond_drop_prob={"text": 1.5}), "cond_drop_prob=1.5 of text"),
        (dict(cond_drop_prob={"label": 0.1}), "there is no conditioner 'label'; there are text"),
        (dict(conditioners=None, cond_drop_prob=2.0), "cond_drop_prob=2.0"),
        (dict(conditioners=None, cond_drop_prob={"text": 0.1}), "there are none"),
        (dict(size=4, aug_level=1.5), "aug_level=1.5"),
        (dict(size=3), "not a multiple of the low resolution, size=3"),
        (dict(size=4, crop_size=3), "crop_size=3"),
        (dict(weighting="snr"), "unknown weighting 'snr'"),
        (dict(prediction="score"), "unknown prediction 'score'"),
        (dict(threshold="soft"), "threshold=soft: choose one of none, static, dynamic"),
        (dict(threshold="static", space=Embeddings(4)), "threshold=static: only pixels are thresholded"),
        (dict(batch_share=0.0), "batch_share=0.0"),
        (dict(batch_share=1.1), "batch_share=1.1"),
        (dict(num_steps=0), "num_steps=0"),
    ):
        with pytest.raises(ValueError, match=message):
            make(**options)


def test_settings_say_how_it_samples() -> None:
    given = dict(sampler=functools.partial(ddim, eta=0.5), num_steps=4, guidance_scale=2.0, guidance_rescale=0.3)
    found = {"sampler": "ddim(eta=0.5)", "num_steps": 4, "threshold": "none", "guidance_scale": 2.0, "guidance_rescale": 0.3}
    assert make(**given).settings() == found
    dynamic = dict(threshold="dynamic", threshold_percentile=0.9)
    assert make(4, aug_level=0.2, **given, **dynamic).settings() == found | dynamic | {"aug_level": 0.2}
    assert make().settings()["sampler"] == "Sampler"


def test_its_net_and_schedule_are_the_denoisers() -> None:
    stage = make()
    assert stage.net is stage.denoiser.net and stage.schedule is SCHEDULE
    assert isinstance(stage.times, UniformTimes) and stage.cond_drop_prob == {"text": 0.1}


def test_a_low_resolution_image_that_no_net_would_see_is_refused() -> None:
    with pytest.raises(ValueError, match="a stage with lowres needs a LowresConditioner"):
        make(conditioners={"text": PlainText()}, lowres=LowResolution(4))
    with pytest.raises(ValueError, match="only a stage of pixels starts from a low-resolution image"):
        make(space=Embeddings(8), lowres=LowResolution(4))
