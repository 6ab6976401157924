"""Likelihoods of a diffusion model against closed forms, with the exact denoiser of Gaussian images."""

from __future__ import annotations

import functools
import math
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import lightning_modules.diffusion as family
from contracts import ExplainsLikelihood, has_likelihood
from diffusion.samplers import ddim
from diffusion.schedules import CosineSchedule, KarrasSchedule, LinearSchedule, RectifiedFlowSchedule
from lightning_modules.diffusion import Diffusion
from lightning_modules.spaces import Embeddings, Pixels
from lightning_modules.stage import DiffusionStage
from networks.conditioners import LabelConditioner
from objectives.pixels import dequantise
from rng.keyed import keyed_rand

MEAN, STD, SIDE, N = 0.1, 0.2, 8, 60  # 25 levels of a byte: what rounding does to the density is below 1e-3
DIM = 3 * SIDE * SIDE
SCHEDULES = {"cosine": CosineSchedule, "linear": LinearSchedule, "karras": KarrasSchedule, "flow": RectifiedFlowSchedule}


class Exact(nn.Module):
    """E[x_0 | x_t] of images of independent N(MEAN, STD²) pixels, as the output of a net that predicts x_0."""

    def __init__(self, shift: float = 0.0) -> None:
        super().__init__()
        self.shift = nn.Parameter(torch.tensor(shift))  # a wrong mean

    def forward(self, x: Tensor, log_snr: Tensor, *, vector: Tensor | None = None, schedule: Any = None) -> Tensor:
        t = self.schedule.t_from_log_snr(log_snr.double())
        alpha, sigma = (s(t).float()[:, None, None, None] for s in (self.schedule.alpha, self.schedule.sigma))
        mean = MEAN + self.shift
        x_0_hat = mean + alpha * STD**2 / (alpha**2 * STD**2 + sigma**2) * (x - alpha * mean)
        return x_0_hat if vector is None else x_0_hat + vector.mean(1)[:, None, None, None]


def make(name: str = "cosine", classes: int | None = None, shift: float = 0.0, space: Any = None, **options: Any) -> Diffusion:
    schedule, net = SCHEDULES[name](), Exact(shift)
    net.schedule = schedule
    conditioners = {} if classes is None else {"label": LabelConditioner(classes, 8)}
    given = dict(schedule=schedule, sampler=functools.partial(ddim), prediction="x_0")
    stage = DiffusionStage(net, space=space or Pixels(SIDE), conditioners=conditioners, **given | options)
    return Diffusion(stage, optimizer=functools.partial(torch.optim.Adam, lr=1e-3)).eval()


def images(n: int = N) -> dict[str, Tensor]:
    """Bytes of Gaussian pixels, with seeds."""
    x = MEAN + STD * torch.randn(n, 3, SIDE, SIDE, generator=torch.Generator().manual_seed(0))
    return {"image": ((x + 1) * 127.5).round().clamp(0, 255) / 127.5 - 1, "seed": torch.arange(n)}


def exact_density(x: Tensor, extra: float = 0.0) -> Tensor:
    """log density (B,) of x, with more variance for the noise at which the path starts."""
    var = STD**2 + extra
    return (-0.5 * ((x - MEAN).square() / var + math.log(2 * math.pi * var))).flatten(1).sum(1)


def cost_of_bytes(ratio: float) -> float:
    """Nats per dimension of a bound that ends at noise of std ratio with a decoder of that std, above -log (density x bin).

    The noise costs its entropy less than the bin, and the decoder must find the bin from x_0_hat = x_0 + noise.
    """
    eps = torch.linspace(-6, 6, 20001, dtype=torch.float64)
    weight = (-0.5 * eps**2).exp() / math.sqrt(2 * math.pi) * 12 / 20000
    inside = torch.special.ndtr(eps + 1 / 255 / ratio) - torch.special.ndtr(eps - 1 / 255 / ratio)
    return math.log(2 / 255 / ratio) - 0.5 * math.log(2 * math.pi * math.e) - (weight * inside.log()).sum().item()


@pytest.mark.parametrize("name", SCHEDULES)
def test_both_are_the_closed_form_of_gaussian_images(name: str) -> None:
    """Nats per dimension: the density of each image to 2e-3, the bound in the mean to 0.06, four standard errors."""
    module, batch = make(name), images()
    found = module.likelihood(batch, num_terms=40)
    spread = dequantise(batch["image"], keyed_rand(batch["seed"], "dequantise", shape=(3, SIDE, SIDE)))
    schedule, end = SCHEDULES[name](), torch.zeros((), dtype=torch.float64)
    finest = (schedule.sigma(end) / schedule.alpha(end)).item()
    exact = -exact_density(spread, max(family.RATIO_0, finest) ** 2)
    assert (found["ode_density_nats"] - exact).abs().max() / DIM < 2e-3
    of_bytes = -(exact_density(batch["image"]) + DIM * math.log(2 / 255))
    gap = (found["bound_nats"] - of_bytes).mean().item() / DIM
    assert gap == pytest.approx(cost_of_bytes(max(math.exp(-12.5 / 2), finest)), abs=0.06)


def test_the_terms_add_up_to_the_bound() -> None:
    found = make().likelihood(images(5), num_terms=7, ode_steps=0)
    assert set(found) == {"bound_nats", "bound_terms_nats", "bound_terms_log_snr"}
    assert found["bound_terms_nats"].shape == found["bound_terms_log_snr"].shape == (5, 9)
    torch.testing.assert_close(found["bound_terms_nats"].sum(1), found["bound_nats"])
    assert (found["bound_terms_log_snr"].diff(dim=1) >= 0).all() and (found["bound_terms_nats"] > -1e-6).all()


@pytest.mark.parametrize("broken", ["sign", "weight", "decoder", "prior"])
def test_a_wrong_term_is_noticed(monkeypatch: pytest.MonkeyPatch, broken: str) -> None:
    right = make().likelihood(images(), ode_steps=0)["bound_nats"].mean()
    bound = family.variational_bound

    def wrong(*args: Any, **options: Any) -> Any:
        found = bound(*args, **options)
        found.steps = -found.steps if broken == "sign" else found.steps / found.weight if broken == "weight" else found.steps
        found.decoder = 0 * found.decoder if broken == "decoder" else found.decoder
        found.prior = found.prior + DIM / 8 if broken == "prior" else found.prior
        return found

    monkeypatch.setattr(family, "variational_bound", wrong)
    other = make().likelihood(images(), ode_steps=0)["bound_nats"].mean()
    assert (other - right).abs() / DIM > 0.06, "more than the tolerance of the closed form"


def test_a_wrong_model_is_worse_by_its_divergence() -> None:
    """KL between Gaussians that differ by a shift of half a standard deviation is 1/8 nat per dimension."""
    right, wrong = (make(shift=s).likelihood(images()) for s in (0.0, STD / 2))
    for name in ("bound_nats", "ode_density_nats"):
        worse = (wrong[name] - right[name]).mean().item() / DIM
        assert worse == pytest.approx(1 / 8, abs=0.03), name


def test_an_image_is_judged_alike_in_any_batch() -> None:
    module, batch = make("flow"), images(6)
    whole = module.likelihood(batch)
    for rows in ([0], [5, 2, 3]):
        part = module.likelihood({name: value[rows] for name, value in batch.items()})
        for name, value in whole.items():
            torch.testing.assert_close(part[name], value[rows], rtol=1e-4, atol=1e-3)
    other = module.likelihood(batch | {"seed": batch["seed"] + 100})
    assert not torch.equal(other["bound_nats"], whole["bound_nats"])
    assert not torch.equal(other["ode_density_nats"], whole["ode_density_nats"])


def test_the_true_class_is_told_without_guidance() -> None:
    module = make("flow", classes=3, guidance_scale=5.0, cond_drop_prob=0.1)
    batch = images(3) | {"label": torch.tensor([0, 1, 2])}
    first, again = module.likelihood(batch), module.likelihood(batch | {"label": torch.tensor([0, 2, 2])})
    differs = (first["bound_nats"] != again["bound_nats"]).tolist()
    assert differs == [False, True, False] and module.likelihood_settings()["given"] == "the true label"
    assert make().likelihood_settings()["given"] == "nothing"


def test_what_is_no_image_or_no_byte_has_no_likelihood() -> None:
    assert has_likelihood(make()) and isinstance(make(), ExplainsLikelihood)
    assert not has_likelihood(make(space=Embeddings(192))) and not has_likelihood(object())
    with pytest.raises(ValueError, match="none of the 256 levels"):
        make().likelihood(images(2) | {"image": torch.full((2, 3, SIDE, SIDE), 0.1255)})
    larger = torch.tensor([0.0, 255.0]).repeat(2, 3, 16, 8) / 127.5 - 1
    with pytest.raises(ValueError, match="none of the 256 levels"):  # averaged down to 8 pixels
        make().likelihood({"image": larger, "seed": torch.arange(2)})
    with pytest.raises(ValueError, match="variance=learned: this model learns no variances"):
        make().likelihood(images(2), variance="learned")


def test_the_card_says_how() -> None:
    how = make().likelihood_settings(num_steps=100, num_terms=99, ode_steps=0)
    assert how["bound_steps"] == 100 and how["bound_terms"] is None and how["bound_variance"] == "small" and "ode" not in how
    assert make().likelihood_settings() | {"bound_terms": 20, "ode_steps": 32} == make().likelihood_settings()
