from __future__ import annotations

import pytest
import torch
from diffusers import EDMEulerScheduler

from diffusion.denoiser import denoising_loss, make_denoiser, preconditioning
from diffusion.prediction import target
from diffusion.process import add_noise, expand
from diffusion.schedules import KarrasSchedule, LinearSchedule, RectifiedFlowSchedule, zero_terminal_snr
from tests.diffusion.oracles import SCHEDULES, gaussian, mixture

T = torch.tensor([0.05, 0.4, 0.8], dtype=torch.float64)
KINDS = ["eps", "x_0", "v", "flow"]
PAIRS = [(n, k) for n in SCHEDULES for k in KINDS if k != "eps" or SCHEDULES[n].alpha(torch.ones(1)) > 0]


def draw(shape=(3, 2, 4), dtype=torch.float64):
    return torch.randn(2, *shape, dtype=dtype, generator=torch.Generator().manual_seed(3))


def ideal_net(oracle, kind, schedule):
    """The network that predicts `kind` perfectly: a function of (x_t, log_snr) only, as a real one is."""

    def net(x_t, log_snr):
        t = schedule.t_from_log_snr(log_snr)
        alpha, sigma = schedule.alpha(t), schedule.sigma(t)
        x_0_hat = oracle.denoise(x_t, t)
        return target(kind, x_0_hat, (x_t - expand(alpha, x_t) * x_0_hat) / expand(sigma, x_t), alpha, sigma)

    return net


@pytest.mark.parametrize("name, kind", PAIRS)
def test_denoiser_is_the_posterior_mean_whatever_the_net_predicts(name, kind):
    schedule = SCHEDULES[name]
    oracle = mixture(schedule)
    x_t = add_noise(*draw(), T, schedule)
    x_0_hat = make_denoiser(ideal_net(oracle, kind, schedule), schedule, kind)(x_t, T)
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


def test_edm_preconditioning_is_table_1():
    sigma, sigma_data = torch.tensor([0.01, 1.0, 50.0], dtype=torch.float64), 0.6
    c_skip, c_out, c_in = preconditioning(torch.ones_like(sigma), sigma, sigma_data)
    torch.testing.assert_close(c_skip, sigma_data**2 / (sigma**2 + sigma_data**2))
    torch.testing.assert_close(c_out, sigma * sigma_data / (sigma**2 + sigma_data**2).sqrt())
    torch.testing.assert_close(c_in, 1 / (sigma**2 + sigma_data**2).sqrt())
    edm = EDMEulerScheduler(sigma_data=sigma_data)
    x, out = draw((4,))
    theirs = edm.precondition_outputs(x, out, sigma[1])
    torch.testing.assert_close(c_skip[1] * x + c_out[1] * out, theirs)


@pytest.mark.parametrize("name", SCHEDULES)
def test_preconditioning_does_not_care_how_x_t_is_scaled(name):
    """For every schedule the result is EDM's at sigma / alpha, and c_in x_t has unit variance."""
    schedule = SCHEDULES[name]
    alpha, sigma = schedule.alpha(T), schedule.sigma(T)
    c_skip, c_out, c_in = preconditioning(alpha, sigma, 0.6)
    ve_skip, ve_out, ve_in = preconditioning(torch.ones_like(alpha), sigma / alpha, 0.6)
    torch.testing.assert_close(c_skip * alpha, ve_skip)
    torch.testing.assert_close(c_out, ve_out)
    torch.testing.assert_close(c_in * alpha, ve_in)
    torch.testing.assert_close(c_in**2 * (alpha**2 * 0.36 + sigma**2), torch.ones_like(alpha))


def test_a_silent_preconditioned_net_is_the_best_linear_denoiser():
    """Output 0 leaves c_skip x_t, the posterior mean of N(0, sigma_data²) data."""
    schedule = SCHEDULES["rectified_flow"]
    x_t = draw()[0]
    x_0_hat = make_denoiser(lambda x, _: torch.zeros_like(x), schedule, "x_0", sigma_data=0.6)(x_t, T)
    torch.testing.assert_close(x_0_hat, gaussian(schedule, 0.0, 0.6).denoise(x_t, T))


@pytest.mark.parametrize("name", SCHEDULES)
@pytest.mark.parametrize("weighting", ["uniform", "min_snr", "edm"])
def test_preconditioned_loss_is_the_weighted_x_0_error(name, weighting):
    schedule, (x_0, eps) = SCHEDULES[name], draw()
    net = lambda x, log_snr: torch.tanh(x) * log_snr[:, None, None]  # noqa: E731
    shared = {"schedule": schedule, "prediction": "x_0", "t": T, "eps": eps, "weighting": weighting}
    x_0_hat = make_denoiser(net, schedule, "x_0", sigma_data=0.6)(add_noise(x_0, eps, T, schedule), T)
    by_hand = denoising_loss(lambda x, _: x_0_hat, x_0, **shared, weighting_kwargs={"sigma_data": 0.6})
    torch.testing.assert_close(denoising_loss(net, x_0, sigma_data=0.6, **shared), by_hand, rtol=1e-6, atol=0)


def test_edm_weighting_weighs_the_raw_output_evenly():
    x_0, eps = draw()
    shared = {"schedule": KarrasSchedule(), "prediction": "x_0", "t": T, "eps": eps, "sigma_data": 0.5}
    zero = denoising_loss(lambda x, _: torch.zeros_like(x), x_0, weighting="edm", **shared)
    one = denoising_loss(lambda x, _: torch.ones_like(x), x_0, weighting="edm", **shared)
    two = denoising_loss(lambda x, _: 2 * torch.ones_like(x), x_0, weighting="edm", **shared)
    torch.testing.assert_close(two - 2 * one + zero, 2 * torch.ones(3, dtype=torch.float64))  # second difference


@pytest.mark.parametrize("name, kind", PAIRS)
def test_loss_is_the_mse_of_the_target(name, kind):
    schedule, (x_0, eps) = SCHEDULES[name], draw()
    wanted = target(kind, x_0, eps, schedule.alpha(T), schedule.sigma(T))
    shared = {"schedule": schedule, "prediction": kind, "t": T, "eps": eps, "weighting": "uniform"}
    off = torch.tensor([0.0, 1.0, 2.0], dtype=torch.float64)
    loss = denoising_loss(lambda x, _: wanted + off[:, None, None], x_0, **shared)
    torch.testing.assert_close(loss, off**2)


def test_the_posterior_mean_minimises_the_loss():
    """No constant shift of the ideal prediction does better on data of the oracle."""
    schedule, n = SCHEDULES["cosine"], 4000
    oracle = gaussian(schedule)
    generator = torch.Generator().manual_seed(4)
    x_0 = 0.3 + 0.6 * torch.randn(n, 8, dtype=torch.float64, generator=generator)
    eps = torch.randn(n, 8, dtype=torch.float64, generator=generator)
    t = torch.rand(n, dtype=torch.float64, generator=generator)
    ideal = ideal_net(oracle, "v", schedule)
    shared = {"schedule": schedule, "prediction": "v", "t": t, "eps": eps, "weighting": "uniform"}
    losses = [denoising_loss(lambda x, s, d=d: ideal(x, s) + d, x_0, **shared).mean() for d in (-0.05, 0.0, 0.05)]
    assert losses[1] < losses[0] and losses[1] < losses[2]


@pytest.mark.parametrize("name", SCHEDULES)
@pytest.mark.parametrize("sigma_data", [None, 0.5])
def test_ends_are_finite_in_float32(name, sigma_data):
    t = torch.tensor([0.0, 1.0])
    x_0, eps = draw((2, 5), torch.float32)
    seen = []

    def net(x, log_snr):
        seen.append(log_snr)
        return 0.1 * x

    x_0_hat = make_denoiser(net, SCHEDULES[name], "x_0", sigma_data=sigma_data)(x_0, t)
    assert x_0_hat.isfinite().all()
    for weighting in ("uniform", "min_snr", "edm", "sigmoid"):
        kwargs = {"schedule": SCHEDULES[name], "prediction": "x_0", "sigma_data": sigma_data}
        loss = denoising_loss(net, x_0, **kwargs, t=t, eps=eps, weighting=weighting)
        assert loss.isfinite().all() and loss.shape == (2,) and loss.dtype == torch.float32
    assert all(s.abs().max() <= 20 and s.dtype == torch.float32 and s.shape == (2,) for s in seen)


def test_low_precision_net_gives_float32_and_conditions_arrive():
    def net(x, log_snr, *, text, text_mask=None):
        assert text_mask is None
        return (x + text[:, :1]).bfloat16()

    denoise = make_denoiser(net, SCHEDULES["cosine"], "v")
    x_t = torch.randn(3, 6)
    assert denoise(x_t, T.float(), text=torch.ones(3, 2), text_mask=None).dtype == torch.float32
    assert denoise(x_t.bfloat16(), T.float(), text=torch.ones(3, 2)).dtype == torch.float32


def test_impossible_predictions():
    net = lambda x, log_snr: x  # noqa: E731
    for schedule in (RectifiedFlowSchedule(), zero_terminal_snr(LinearSchedule())):
        with pytest.raises(ValueError, match="prediction='eps' cannot recover x_0"):
            make_denoiser(net, schedule, "eps")
    with pytest.raises(ValueError, match="EDM preconditioning needs prediction='x_0'"):
        make_denoiser(net, KarrasSchedule(), "v", sigma_data=0.5)
    with pytest.raises(ValueError, match="unknown prediction 'score'"):
        make_denoiser(net, KarrasSchedule(), "score")


def test_a_half_precision_estimate_of_x_0_is_float32():
    t = torch.full((2,), 0.5)
    denoise = make_denoiser(lambda x, log_snr: x.bfloat16(), SCHEDULES["cosine"], "x_0")
    assert denoise(torch.randn(2, 3), t).dtype == torch.float32


def test_a_preconditioned_net_sees_its_input_scaled():
    schedule, t, seen = SCHEDULES["karras"], torch.tensor([0.2, 0.9], dtype=torch.float64), []

    def net(x, log_snr):
        seen.append(x)
        return x

    x_0, eps = torch.randn(2, 2, 3, dtype=torch.float64)
    x_t = x_0 + schedule.sigma(t)[:, None] * eps
    expected = x_t / (schedule.sigma(t)[:, None] ** 2 + 0.3**2).sqrt()  # Karras et al. 2022, table 1
    make_denoiser(net, schedule, "x_0", sigma_data=0.3)(x_t, t)
    denoising_loss(net, x_0, schedule=schedule, prediction="x_0", weighting="uniform", t=t, eps=eps, sigma_data=0.3)
    for x in seen:
        torch.testing.assert_close(x, expected)


def test_the_sigmoid_weighting_has_the_schedules_own_slope():
    schedule, t = SCHEDULES["cosine"], torch.tensor([0.1, 0.5, 0.8], dtype=torch.float64)
    x_0, eps = torch.randn(2, 3, 4, dtype=torch.float64)

    def loss(**options):
        return denoising_loss(lambda x, log_snr: 0 * x, x_0, schedule=schedule, prediction="eps", t=t, eps=eps, **options)

    slope = (schedule.log_snr(t + 1e-6) - schedule.log_snr(t - 1e-6)) / 2e-6
    expected = -slope * torch.sigmoid(-1 - schedule.log_snr(t)) * loss(weighting="uniform")
    torch.testing.assert_close(loss(weighting="sigmoid", weighting_kwargs={"bias": -1.0}), expected, rtol=1e-5, atol=1e-8)
