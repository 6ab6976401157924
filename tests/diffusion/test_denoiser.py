from __future__ import annotations

import pytest
import torch
from torch import nn

from diffusion.denoiser import Denoiser, check_weighting
from diffusion.parameterisation import TABLE
from diffusion.process import add_noise, expand
from diffusion.schedules import KarrasSchedule, LinearSchedule, RectifiedFlowSchedule, zero_terminal_snr
from diffusion.times import LogitNormalTimes, NormalLogSNR
from diffusion.weighting import WEIGHTINGS
from tests.diffusion.oracles import SCHEDULES, coefficients, gaussian, mixture, target

T = torch.tensor([0.0503, 0.4003, 0.8003], dtype=torch.float64)  # between the points of the table of betas
PAIRS = [(n, k) for n in SCHEDULES for k in TABLE if k != "eps" or SCHEDULES[n].alpha(torch.ones(1)) > 0]


def draw(shape=(3, 2, 4), dtype=torch.float64):
    return torch.randn(2, *shape, dtype=dtype, generator=torch.Generator().manual_seed(3))


def ideal_net(oracle, kind, schedule):
    """The network that predicts `kind` perfectly: a function of (its input, log_snr) only, as a real one is."""

    def net(x, log_snr):
        t = schedule.t_from_log_snr(log_snr)
        alpha, sigma = schedule.alpha(t), schedule.sigma(t)
        x_t = x / expand(coefficients(kind, alpha, sigma)[2], x)
        x_0_hat = oracle.denoise(x_t, t)
        return target(kind, x_0_hat, (x_t - expand(alpha, x_t) * x_0_hat) / expand(sigma, x_t), alpha, sigma)

    return net


@pytest.mark.parametrize("name, kind", PAIRS)
def test_denoiser_is_the_posterior_mean_whatever_the_net_predicts(name, kind):
    schedule = SCHEDULES[name]
    oracle = mixture(schedule)
    x_t = add_noise(*draw(), T, schedule)
    x_0_hat = Denoiser(ideal_net(oracle, kind, schedule), schedule, kind, sigma_data=0.6)(x_t, T)
    torch.testing.assert_close(x_0_hat, oracle.denoise(x_t, T), rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("name", SCHEDULES)
def test_oracle_is_the_posterior_mean(name):
    """The oracle itself, against numerical integration of x_0 p(x_0) p(x_t | x_0) and against Tweedie's formula."""
    schedule = SCHEDULES[name]
    oracle = mixture(schedule)
    alpha, sigma = schedule.alpha(T)[:, None], schedule.sigma(T)[:, None]
    x_t = (0.2 * alpha + 0.5 * sigma).requires_grad_()
    grid = torch.linspace(-4, 4, 40001, dtype=torch.float64)
    components = (-((grid[:, None] - oracle.mean) / oracle.std) ** 2 / 2).exp() / oracle.std
    prior = components @ oracle.log_weights.softmax(0)
    joint = prior * (-((x_t.detach() - alpha * grid) / sigma) ** 2 / 2).exp()
    mean = (joint * grid).sum(1, keepdim=True) / joint.sum(1, keepdim=True)
    torch.testing.assert_close(oracle.denoise(x_t, T).detach(), mean, rtol=1e-8, atol=1e-8)
    (score,) = torch.autograd.grad(oracle.log_prob(x_t, T).sum(), x_t)
    torch.testing.assert_close((x_t.detach() + sigma**2 * score) / alpha, mean, rtol=1e-8, atol=1e-8)


def test_a_silent_preconditioned_net_is_the_best_linear_denoiser():
    """Output 0 leaves c_skip x_t, the posterior mean of N(0, sigma_data²) data."""
    schedule = SCHEDULES["rectified_flow"]
    x_t = draw()[0]
    x_0_hat = Denoiser(lambda x, _: torch.zeros_like(x), schedule, "edm", sigma_data=0.6)(x_t, T)
    torch.testing.assert_close(x_0_hat, gaussian(schedule, 0.0, 0.6).denoise(x_t, T))


def weight_on_x_0(weighting, schedule, c_out, times):
    """What a weighting puts on the squared error of x_0_hat, from its own definition."""
    log_snr = schedule.log_snr(T)
    if weighting == "uniform":
        return c_out**-2
    if weighting == "min_snr":
        return log_snr.exp().clamp(max=2.0)
    if weighting == "edm":
        return log_snr.exp() + 1 / 0.6**2
    step = 1e-6
    slope = (schedule.log_snr(T + step) - schedule.log_snr(T - step)).abs() / (2 * step)
    if times is None:
        density = 1 / slope
    elif isinstance(times, NormalLogSNR):
        density = torch.distributions.Normal(times.mean, times.std).log_prob(log_snr).exp()
    else:
        logit = torch.distributions.Normal(times.mean, times.std).log_prob(torch.logit(T)).exp()
        density = logit / (T * (1 - T)) / slope
    return log_snr.exp() * torch.sigmoid(-1 - log_snr) / density


@pytest.mark.parametrize(
    "weighting, times",
    [*((w, None) for w in WEIGHTINGS), ("sigmoid", NormalLogSNR(0.5, 3.0)), ("sigmoid", LogitNormalTimes(0.1, 1.5))],
)
@pytest.mark.parametrize("name, kind", PAIRS)
def test_the_loss_is_the_weight_on_x_0_times_the_error_of_x_0(name, kind, weighting, times):
    """For every parameterisation, weighting and schedule, variance preserving or not."""
    schedule, (x_0, eps) = SCHEDULES[name], draw()
    denoiser = Denoiser(lambda x, log_snr: torch.tanh(x) + 0.1 * log_snr[:, None, None], schedule, kind, sigma_data=0.6)
    options = {"min_snr": {"gamma": 2.0}, "sigmoid": {"bias": -1.0}}.get(weighting, {})
    loss = denoiser.loss(x_0, T, eps, weighting, times=times, weighting_kwargs=options)
    error = (denoiser(add_noise(x_0, eps, T, schedule), T) - x_0).square().mean((1, 2))
    c_out = coefficients(kind, schedule.alpha(T), schedule.sigma(T))[1]
    torch.testing.assert_close(loss, weight_on_x_0(weighting, schedule, c_out, times) * error, rtol=1e-5, atol=0)
    assert loss.dtype == torch.float64


def test_edm_weighting_weighs_the_raw_output_evenly():
    x_0, eps = draw()

    def loss(answer):
        denoiser = Denoiser(lambda x, _: answer * torch.ones_like(x), KarrasSchedule(), "edm", sigma_data=0.5)
        return denoiser.loss(x_0, T, eps, "edm")

    # second difference
    torch.testing.assert_close(loss(2) - 2 * loss(1) + loss(0), 2 * torch.ones(3, dtype=torch.float64))


@pytest.mark.parametrize("name, kind", PAIRS)
def test_loss_is_the_mse_of_the_target(name, kind):
    schedule, (x_0, eps) = SCHEDULES[name], draw()
    wanted = target(kind, x_0, eps, schedule.alpha(T), schedule.sigma(T))
    off = torch.tensor([0.0, 1.0, 2.0], dtype=torch.float64)
    denoiser = Denoiser(lambda x, _: wanted + off[:, None, None], schedule, kind, sigma_data=0.6)
    torch.testing.assert_close(denoiser.target(x_0, eps, T), wanted, rtol=1e-7, atol=1e-7)
    torch.testing.assert_close(denoiser.loss(x_0, T, eps), off**2)


def test_the_posterior_mean_minimises_the_loss():
    """No constant shift of the ideal prediction does better on data of the oracle."""
    schedule, n = SCHEDULES["cosine"], 4000
    oracle = gaussian(schedule)
    generator = torch.Generator().manual_seed(4)
    x_0 = 0.3 + 0.6 * torch.randn(n, 8, dtype=torch.float64, generator=generator)
    eps = torch.randn(n, 8, dtype=torch.float64, generator=generator)
    t = torch.rand(n, dtype=torch.float64, generator=generator)
    ideal = ideal_net(oracle, "v", schedule)
    losses = [
        Denoiser(lambda x, s, d=d: ideal(x, s) + d, schedule, "v").loss(x_0, t, eps, "uniform").mean()
        for d in (-0.05, 0.0, 0.05)
    ]
    assert losses[1] < losses[0] and losses[1] < losses[2]


@pytest.mark.parametrize("name", SCHEDULES)
@pytest.mark.parametrize("kind", ["x_0", "v", "flow", "edm"])
def test_ends_are_finite_in_float32(name, kind):
    t = torch.tensor([0.0, 1.0])
    x_0, eps = draw((2, 5), torch.float32)
    seen = []

    def net(x, log_snr):
        seen.append(log_snr)
        return 0.1 * x

    denoiser = Denoiser(net, SCHEDULES[name], kind, sigma_data=0.5)
    assert denoiser(x_0, t).isfinite().all()
    for weighting in ("uniform", "min_snr", "edm", "sigmoid"):
        loss = denoiser.loss(x_0, t, eps, weighting)
        assert loss.isfinite().all() and loss.shape == (2,) and loss.dtype == torch.float32
    assert all(s.abs().max() <= 20 and s.dtype == torch.float32 and s.shape == (2,) for s in seen)


def test_low_precision_net_gives_float32_and_conditions_arrive():
    def net(x, log_snr, *, tokens, token_mask=None):
        assert token_mask is None
        return (x + tokens[:, :1]).bfloat16()

    denoise = Denoiser(net, SCHEDULES["cosine"], "v")
    x_t = torch.randn(3, 6)
    assert denoise(x_t, T.float(), tokens=torch.ones(3, 2), token_mask=None).dtype == torch.float32
    assert denoise(x_t.bfloat16(), T.float(), tokens=torch.ones(3, 2)).dtype == torch.float32
    x_t, t = torch.randn(3, 6), torch.full((3,), 0.5)
    shift = denoise(x_t, t, tokens=torch.ones(3, 2)) - denoise(x_t, t, tokens=torch.zeros(3, 2))
    sigma = SCHEDULES["cosine"].sigma(t)[:, None].expand(3, 6)
    torch.testing.assert_close(shift, -sigma, rtol=0, atol=0.02)
    eps = torch.randn(3, 6)
    losses = [denoise.loss(x_t, t, eps, tokens=c * torch.ones(3, 2)) for c in (0.0, 5.0)]
    assert (losses[1] - losses[0]).min() > 5, "conditions reach the net in training, too"


def test_impossible_predictions():
    net = lambda x, log_snr: x  # noqa: E731
    for schedule in (RectifiedFlowSchedule(), zero_terminal_snr(LinearSchedule())):
        with pytest.raises(ValueError, match="prediction='eps' cannot recover x_0"):
            Denoiser(net, schedule, "eps")
    with pytest.raises(ValueError, match="unknown prediction 'score'"):
        Denoiser(net, KarrasSchedule(), "score")
    for sigma_data in (0.0, -1.0):
        with pytest.raises(ValueError, match=f"sigma_data={sigma_data}"):
            Denoiser(net, KarrasSchedule(), "edm", sigma_data=sigma_data)
    with pytest.raises(ValueError, match="unknown weighting 'snr'"):
        check_weighting("snr")
    with pytest.raises(ValueError, match="unknown weighting 'snr'"):
        Denoiser(net, KarrasSchedule()).loss(*[torch.ones(1)] * 3, "snr")


def test_a_half_precision_estimate_of_x_0_is_float32():
    t = torch.full((2,), 0.5)
    denoise = Denoiser(lambda x, log_snr: x.bfloat16(), SCHEDULES["cosine"], "x_0")
    assert denoise(torch.randn(2, 3), t).dtype == torch.float32


def test_a_preconditioned_net_sees_its_input_scaled():
    schedule, t, seen = SCHEDULES["karras"], torch.tensor([0.2, 0.9], dtype=torch.float64), []

    def net(x, log_snr):
        seen.append(x)
        return x

    x_0, eps = torch.randn(2, 2, 3, dtype=torch.float64)
    x_t = x_0 + schedule.sigma(t)[:, None] * eps
    expected = x_t / (schedule.sigma(t)[:, None] ** 2 + 0.3**2).sqrt()  # Karras et al. 2022, table 1
    denoiser = Denoiser(net, schedule, "edm", sigma_data=0.3)
    denoiser(x_t, t)
    denoiser.loss(x_0, t, eps)
    assert len(seen) == 2
    for x in seen:
        torch.testing.assert_close(x, expected)


def test_the_sigmoid_weighting_has_the_schedules_own_slope():
    schedule, t = SCHEDULES["cosine"], torch.tensor([0.1, 0.5, 0.8], dtype=torch.float64)
    x_0, eps = torch.randn(2, 3, 4, dtype=torch.float64)
    denoiser = Denoiser(lambda x, log_snr: 0 * x, schedule, "eps")
    slope = (schedule.log_snr(t + 1e-6) - schedule.log_snr(t - 1e-6)) / 2e-6
    expected = -slope * torch.sigmoid(-1 - schedule.log_snr(t)) * denoiser.loss(x_0, t, eps)
    found = denoiser.loss(x_0, t, eps, "sigmoid", weighting_kwargs={"bias": -1.0})
    torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-8)


def test_edm_weighting_takes_the_denoisers_sigma_data_unless_told_another():
    x_0, eps = draw()
    denoiser = Denoiser(lambda x, _: 0 * x, SCHEDULES["cosine"], "x_0", sigma_data=0.3)
    snr, plain = SCHEDULES["cosine"].log_snr(T).exp(), denoiser.loss(x_0, T, eps)
    torch.testing.assert_close(denoiser.loss(x_0, T, eps, "edm"), (snr + 1 / 0.3**2) * plain)
    other = denoiser.loss(x_0, T, eps, "edm", weighting_kwargs={"sigma_data": 0.7})
    torch.testing.assert_close(other, (snr + 1 / 0.7**2) * plain)


def test_it_is_a_module_of_its_net_and_takes_any_shape():
    net = nn.Bilinear(5, 1, 5)
    denoiser = Denoiser(lambda x, s: x, SCHEDULES["cosine"])
    assert not list(denoiser.parameters())
    denoiser = Denoiser(net, SCHEDULES["cosine"])
    assert {"net.weight", "net.bias"} == set(denoiser.state_dict())
    for shape in ((3,), (3, 5), (3, 2, 4, 4)):
        x = torch.randn(shape)
        assert Denoiser(lambda x, s: x, SCHEDULES["cosine"])(x, T.float()).shape == shape
