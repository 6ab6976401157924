"""Properties of the samplers against closed forms; test_against_diffusers.py compares them with another library."""

from __future__ import annotations

import math

import pytest
import torch

from diffusion.guidance import guided
from rng.keyed import keyed_generators, keyed_randn
from diffusion.samplers import ddim, ddpm, dpmpp_2m, edm, heun, unipc
from diffusion.schedules import CosineSchedule, KarrasSchedule
from diffusion.threshold import thresholded
from tests.diffusion.oracles import SCHEDULES, fitted_order, gaussian, mixture, noise_quantiles

DETERMINISTIC = {"ddim": ddim, "heun": heun, "dpmpp_2m": dpmpp_2m, "unipc": unipc}
STOCHASTIC = {"ddpm": ddpm, "ddim_eta": lambda *a, **k: ddim(*a, eta=1.0, **k), "edm": edm}
ALL = {**DETERMINISTIC, **STOCHASTIC}
TWO_EVALUATIONS = ("heun", "edm")
# log_snr of the last evaluation, per schedule: the evenly spaced grid in log_snr on which the orders are clean.
LOG_SNR_END = {"cosine": 20.0, "cosine_shifted": 17.0, "linear": 14.0, "karras": 12.42}


def errors(sampler, schedule, oracle, num_steps, grid=None):
    """Root mean square distance from the exact probability-flow map, per number of steps."""
    x_T = noise_quantiles(schedule)
    exact = oracle.ode_map(x_T)
    runs = [sampler(oracle.denoise, schedule, x_T, num_steps=n, grid=grid) for n in num_steps]
    return [(x_0 - exact).square().mean().sqrt().item() for x_0 in runs]


def churned(schedule, num_steps):
    """How many steps of `edm` start from a time off the grid: those with sigma / alpha in its default range."""
    t = schedule.grid(num_steps)[:-1]
    ratio = schedule.sigma(t) / schedule.alpha(t)
    return int(((ratio >= 0.05) & (ratio <= 50) & (t < 1)).sum())


def log_snr_grid(schedule, end):
    def grid(num_steps):
        start = schedule.log_snr(torch.ones((), dtype=torch.float64)).item()
        t = schedule.t_from_log_snr(torch.linspace(start, end, num_steps, dtype=torch.float64))
        return torch.cat([torch.ones_like(t[:1]), t[1:], torch.zeros_like(t[:1])])

    return grid


@pytest.mark.parametrize("data", [gaussian, mixture])
@pytest.mark.parametrize("name", LOG_SNR_END)
@pytest.mark.parametrize("sampler, order", [("ddim", 1), ("heun", 2), ("dpmpp_2m", 2)])
def test_order_of_convergence(sampler, order, name, data):
    """With steps even in log_snr the error falls with the promised power of their number."""
    schedule, num_steps = SCHEDULES[name], [48, 96, 192]
    grid = log_snr_grid(schedule, LOG_SNR_END[name])
    found = errors(DETERMINISTIC[sampler], schedule, data(schedule), num_steps, grid)
    assert abs(fitted_order(num_steps, found) - order) < 0.25, found


@pytest.mark.parametrize("name", [name for name in SCHEDULES if not name.startswith("linear")])
@pytest.mark.parametrize("sampler, least, most", [("ddim", 0.8, 1.3), ("heun", 1.7, 2.5), ("dpmpp_2m", 1.1, 2.7)])
def test_order_on_the_default_grid(sampler, least, most, name):
    """Steps even in t are long in log_snr at the ends, which costs dpmpp_2m a logarithm: n^-2 log n.

    The linear table starts like sqrt(t) and keeps a first-order remainder of size sigma(1 / num_steps)².
    """
    schedule, num_steps = SCHEDULES[name], [96, 192]
    found = errors(DETERMINISTIC[sampler], schedule, mixture(schedule), num_steps)
    assert least < fitted_order(num_steps, found) < most, found


@pytest.mark.parametrize("name", SCHEDULES)
@pytest.mark.parametrize("sampler", DETERMINISTIC)
def test_probability_flow_map(sampler, name):
    schedule = SCHEDULES[name]
    limit = {"ddim": 0.05, "heun": 0.01, "dpmpp_2m": 0.01, "unipc": 0.01}[sampler]
    assert errors(DETERMINISTIC[sampler], schedule, mixture(schedule), [100])[0] < limit


@pytest.mark.parametrize("name", SCHEDULES)
def test_oracle_map_of_a_gaussian_is_affine(name):
    schedule, one = SCHEDULES[name], torch.ones((), dtype=torch.float64)
    x_T, alpha, sigma = noise_quantiles(schedule), schedule.alpha(one), schedule.sigma(one)
    affine = 0.3 + 0.6 * (x_T - alpha * 0.3) / (alpha**2 * 0.36 + sigma**2).sqrt()
    torch.testing.assert_close(gaussian(schedule).ode_map(x_T), affine)


@pytest.mark.parametrize("name", SCHEDULES)
@pytest.mark.parametrize("sampler", ALL)
def test_the_last_step_adds_no_noise(sampler, name):
    """A denoiser that always answers c must lead to c itself, from one step to many."""
    schedule = SCHEDULES[name]
    x_T = noise_quantiles(schedule)
    c = torch.full_like(x_T, 0.37)
    for n in (1, 2, 7):
        torch.testing.assert_close(ALL[sampler](lambda x, t: c, schedule, x_T, num_steps=n), c, rtol=0, atol=1e-9)


@pytest.mark.parametrize("name", SCHEDULES)
@pytest.mark.parametrize("sampler", ALL)
def test_times_visited(sampler, name):
    """The first evaluation is at t = 1 on x_T, times fall, none is repeated and each is the time of the whole batch."""
    schedule, seen = SCHEDULES[name], []

    def denoise(x_t, t):
        assert t.shape == (9,) and (t == t[0]).all() and schedule.sigma(t).min() > 0
        seen.append(t[0].item())
        return 0.5 * x_t

    ALL[sampler](denoise, schedule, noise_quantiles(schedule), num_steps=5)
    distinct = 5 + churned(schedule, 5) if sampler == "edm" else 5
    assert seen[0] == 1 and len(set(seen)) == distinct and len(seen) == (9 if sampler in TWO_EVALUATIONS else 5)


@pytest.mark.parametrize("name", SCHEDULES)
@pytest.mark.parametrize("sampler", ALL)
def test_float32_stays_close_to_float64(sampler, name):
    schedule = SCHEDULES[name]
    oracle, x_T = mixture(schedule), noise_quantiles(schedule)
    if sampler in STOCHASTIC:
        x_T = x_T.repeat(300, 1)
    low = ALL[sampler](oracle.denoise, schedule, x_T.float(), num_steps=20, generator=torch.Generator().manual_seed(0))
    high = ALL[sampler](oracle.denoise, schedule, x_T, num_steps=20, generator=torch.Generator().manual_seed(0))
    assert low.dtype == torch.float32 and high.dtype == torch.float64
    if sampler in DETERMINISTIC:
        torch.testing.assert_close(low.double(), high, rtol=0, atol=2e-3 if name == "karras" else 1e-4)
    else:  # float32 and float64 draw different numbers
        assert (low.mean() - high.mean()).abs() < 0.06 and (low.std() - high.std()).abs() < 0.06


@pytest.mark.parametrize("name", SCHEDULES)
@pytest.mark.parametrize(
    "kwargs", [{"variance": "small"}, {"variance": "large"}, {"eta": 1.0}, {"eta": 0.5}, {"s_noise": 1.0}]
)
def test_stochastic_samplers_reach_the_data(name, kwargs):
    """Sample mean and variance against N(mu, s²): four standard errors plus the O(1 / num_steps) of the kernels."""
    schedule, n, num_steps = SCHEDULES[name], 10_000, 100
    generator = torch.Generator().manual_seed(7)
    x_T = torch.randn(n, 1, dtype=torch.float64, generator=generator)
    # From the exact marginal at t = 1, so that the sampler alone is on trial.
    one = torch.ones((), dtype=torch.float64)
    alpha, sigma = schedule.alpha(one), schedule.sigma(one)
    x_T = alpha * 0.3 + (alpha**2 * 0.36 + sigma**2).sqrt() * x_T
    sampler = {"variance": ddpm, "eta": ddim, "s_noise": edm}[next(iter(kwargs))]
    x_0 = sampler(gaussian(schedule).denoise, schedule, x_T, num_steps=num_steps, generator=generator, **kwargs)
    assert abs(x_0.mean() - 0.3) < 4 * 0.6 / n**0.5 + 1 / num_steps
    assert abs(x_0.var() - 0.36) < 4 * 0.36 * (2 / n) ** 0.5 + 6 / num_steps


def test_heun_is_edm_algorithm_1():
    """Against Karras et al. 2022, algorithm 1 written in their variables (sigma(t) = t, s(t) = 1)."""
    schedule, n = KarrasSchedule(), 18
    oracle, x_T = mixture(schedule), noise_quantiles(schedule)
    sigmas = [*schedule.sigma(schedule.grid(n)[:-1]).tolist(), 0.0]

    def d(x, sigma):
        t = schedule.t_from_log_snr(torch.full((9,), -2 * math.log(sigma), dtype=torch.float64))
        return (x - oracle.denoise(x, t)) / sigma

    x = x_T
    for sigma, sigma_next in zip(sigmas, sigmas[1:]):
        slope = d(x, sigma)
        x_next = x + (sigma_next - sigma) * slope
        if sigma_next > 0:
            x_next = x + (sigma_next - sigma) * (slope + d(x_next, sigma_next)) / 2
        x = x_next
    torch.testing.assert_close(heun(oracle.denoise, schedule, x_T, num_steps=n), x, rtol=0, atol=1e-9)


@pytest.mark.parametrize("sampler", ALL)
def test_an_image_depends_on_its_own_generator_only(sampler):
    schedule = SCHEDULES["cosine"]
    oracle, seeds = mixture(schedule), [11, 5, 8, 2, 9]

    def run(seeds):
        x_T = keyed_randn(seeds, (3, 4, 4), "x_T")
        return ALL[sampler](oracle.denoise, schedule, x_T, num_steps=6, generator=keyed_generators(seeds, "steps"))

    together = run(seeds)
    apart = torch.cat([run(seeds[:2]), run(seeds[2:3]), run(seeds[3:])])
    torch.testing.assert_close(together, apart, rtol=0, atol=1e-6)
    assert (together[0] - together[1]).abs().max() > 0.1


@pytest.mark.parametrize("sampler", DETERMINISTIC)
def test_eps_is_rederived_from_the_thresholded_estimate(sampler):
    """With an estimate that runs away, thresholding keeps x_t on alpha [-1, 1] + sigma eps: no drift, no blow-up."""
    schedule = CosineSchedule()
    runaway = lambda x, t: 50 * torch.sign(x)  # noqa: E731
    x_T = torch.tensor([[0.5], [-0.5]], dtype=torch.float64)
    seen = []
    x_0 = DETERMINISTIC[sampler](thresholded(runaway, "static"), schedule, x_T, num_steps=10,
                                 on_step=lambda i, x, x_0_hat: seen.append((x, x_0_hat)))
    torch.testing.assert_close(x_0, torch.sign(x_T))
    assert all(x_0_hat.abs().max() <= 1 and x.abs().max() < 2.5 for x, x_0_hat in seen)
    alpha, sigma = (f(torch.tensor(0.9, dtype=torch.float64)) for f in (schedule.alpha, schedule.sigma))
    one = torch.ones((), dtype=torch.float64)
    eps = (x_T - schedule.alpha(one) * torch.sign(x_T)) / schedule.sigma(one)
    torch.testing.assert_close(seen[0][0], alpha * torch.sign(x_T) + sigma * eps)


def test_vectors_images_and_guidance_through_a_whole_run():
    """Guided sampling of one component of the mixture lands beyond its plain samples, away from the other component."""
    schedule = SCHEDULES["rectified_flow"]
    oracle = mixture(schedule)
    for shape in ((64, 6), (64, 3, 4, 4)):
        x_T = torch.randn(shape, dtype=torch.float64, generator=torch.Generator().manual_seed(2))
        cond = {"log_weights": torch.tensor([[0.0, -torch.inf]] * 64, dtype=torch.float64)}
        uncond = {"log_weights": oracle.log_weights.expand(64, 2)}
        means = [ddim(guided(oracle.denoise, cond, uncond, w), schedule, x_T, num_steps=25).mean() for w in (0, 1, 3)]
        assert means[0] > means[1] + 0.3 and means[1] > means[2] + 0.01
        assert abs(means[1] + 0.5) < 0.1


@pytest.mark.parametrize("sampler", ALL)
def test_on_step_and_grid(sampler):
    schedule, steps = SCHEDULES["cosine"], []
    grid = lambda n: torch.tensor([1.0, 0.9, 0.1, 0.0], dtype=torch.float64)  # noqa: E731
    x_0 = ALL[sampler](gaussian(schedule).denoise, schedule, noise_quantiles(schedule), num_steps=3, grid=grid,
                       on_step=lambda i, x, x_0_hat: steps.append((i, x)))
    assert [i for i, _ in steps] == [0, 1, 2] and torch.equal(steps[-1][1], x_0)


def test_no_steps_are_refused():
    schedule = SCHEDULES["cosine"]
    with pytest.raises(ValueError, match="num_steps=0"):
        ddim(lambda x, t: x, schedule, noise_quantiles(schedule), num_steps=0)


@pytest.mark.gpu
@pytest.mark.parametrize("sampler", ALL)
def test_gpu_gives_the_images_of_the_cpu(sampler):
    schedule, seeds = SCHEDULES["linear"], [1, 2, 3]

    def run(device):
        oracle = mixture(schedule)
        oracle.mean, oracle.std, oracle.log_weights = (
            v.to(device) for v in (oracle.mean, oracle.std, oracle.log_weights)
        )
        x_T = keyed_randn(seeds, (3, 8, 8), "x_T", device=device)
        generators = keyed_generators(seeds, "steps")
        return ALL[sampler](oracle.denoise, schedule, x_T, num_steps=10, generator=generators).cpu()

    torch.testing.assert_close(run("cuda"), run("cpu"), rtol=0, atol=1e-5)
