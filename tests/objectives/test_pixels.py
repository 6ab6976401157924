from __future__ import annotations

import math

import pytest
import torch
from torch import distributions

from evaluation.metrics.likelihood import bits_per_dim
from objectives.pixels import (
    Bernoulli,
    ContinuousBernoulli,
    DiscretizedLogistic,
    DiscretizedLogisticMixture,
    Gaussian,
    dequantise,
)

ALL = {
    "bernoulli": Bernoulli,
    "continuous": ContinuousBernoulli,
    "gaussian": Gaussian,
    "gaussian_optimal": lambda: Gaussian("optimal"),
    "gaussian_fixed": lambda: Gaussian(0.25),
    "logistic": DiscretizedLogistic,
    "mixture": lambda: DiscretizedLogisticMixture(3),
}
LEVELS = torch.arange(256, dtype=torch.float64) / 127.5 - 1


def make(name, channels=1, seed=0, scale=1.0, dtype=torch.float64):
    """A likelihood, params (4, 2, P, 3, 5) and images of its own (2, C, 3, 5)."""
    generator = torch.Generator().manual_seed(seed)
    likelihood = ALL[name]().eval()
    shape = (4, 2, likelihood.num_params(channels), 3, 5)
    params = scale * torch.randn(shape, generator=generator, dtype=dtype)
    noise = torch.rand(likelihood.noise_shape(params[0]), generator=generator, dtype=dtype)
    return likelihood, params, likelihood.sample(params[0], noise)


@pytest.mark.parametrize("channels", [1, 2, 3])
@pytest.mark.parametrize("name", ALL)
def test_shapes_ranges_and_broadcasting(name, channels):
    likelihood, params, image = make(name, channels)
    assert image.shape == (2, channels, 3, 5) and image.abs().max() <= 1
    likelihood.check(image)
    mean = likelihood.mean(params)
    assert mean.shape == (4, 2, channels, 3, 5) and mean.abs().max() <= 1
    value = likelihood.log_prob(params, image)
    assert value.shape == (4, 2) and value.dtype == torch.float64
    alone = torch.stack([likelihood.log_prob(params[k, b], image[b]) for k in range(4) for b in range(2)])
    torch.testing.assert_close(value.flatten(), alone)


@pytest.mark.parametrize("name", ALL)
def test_half_precision_is_computed_in_float32(name):
    likelihood, params, image = make(name, dtype=torch.float32)
    half = params.bfloat16()
    value = likelihood.log_prob(half, image)
    assert value.dtype == likelihood.mean(half).dtype == torch.float32
    torch.testing.assert_close(value, likelihood.log_prob(half.float(), image), rtol=0, atol=0)
    torch.testing.assert_close(value.double(), likelihood.log_prob(half.double(), image.double()), rtol=1e-5, atol=1e-4)


@pytest.mark.parametrize("name", ALL)
def test_gradients_are_right_and_finite_at_extremes(name):
    likelihood, params, image = make(name, channels=2)
    params = params[0, :, :, :1, :2].clone().requires_grad_()
    image = image[:, :, :1, :2]
    assert torch.autograd.gradcheck(lambda p: likelihood.log_prob(p, image), params)
    for dtype in (torch.float32, torch.float64):
        for scale in (0.0, 1e-6, 40.0, 1e4):
            far = (scale * params.detach().sign()).to(dtype).requires_grad_()
            for x in (image, -image, torch.ones_like(image)):
                value = likelihood.log_prob(far, x.to(dtype))
                (gradient,) = torch.autograd.grad(value.sum(), far)
                assert value.isfinite().all() and gradient.isfinite().all(), (dtype, scale)


@pytest.mark.parametrize("name", ALL)
def test_mean_is_that_of_samples(name):
    """Within five standard errors; rounding to levels and clamping to [-1, 1] move it by less than 0.003."""
    likelihood, params, _ = make(name, channels=2, scale=0.3)
    if name.startswith("gaussian"):
        params = params * 0  # an unclamped Gaussian's mean: only away from the ends
    many = params[:1, :1].expand(20_000, *params.shape[1:])[:, 0]
    noise = torch.rand(likelihood.noise_shape(many), dtype=torch.float64, generator=torch.Generator().manual_seed(3))
    drawn = likelihood.sample(many, noise)
    error = 5 * drawn.std(0) / math.sqrt(len(drawn)) + 0.003
    assert ((drawn.mean(0) - likelihood.mean(params[0, 0])).abs() <= error).all()


# ---- Bernoulli ----


def test_bernoulli_is_cross_entropy_on_bits():
    likelihood, params, image = make("bernoulli")
    wanted = distributions.Bernoulli(logits=params).log_prob((image + 1) / 2).sum((-3, -2, -1))
    torch.testing.assert_close(likelihood.log_prob(params, image), wanted)
    one = params[0, 0, :, :1, :1]
    pair = torch.stack([likelihood.log_prob(one, torch.full((1, 1, 1), x)) for x in (-1.0, 1.0)])
    assert pair.exp().sum().item() == pytest.approx(1, abs=1e-12)


def test_bernoulli_of_certain_pixels_keeps_its_digits():
    params = torch.full((1, 1, 784), 20.0)
    value = Bernoulli().log_prob(params, torch.ones(1, 1, 784))
    assert value.item() == pytest.approx(-784 * math.exp(-20), rel=1e-4)


def test_grey_pixels_are_refused_by_a_bernoulli():
    image = torch.ones(2, 1, 4, 4)
    Bernoulli().check(image)
    image[0, 0, 0, :3] = 0.5
    with pytest.raises(ValueError, match=r"^3 of 32 pixels are neither -1 nor 1.*data\.binarize=dynamic") as error:
        Bernoulli().check(image)
    assert "\n" not in str(error.value)


# ---- continuous Bernoulli ----


def test_continuous_bernoulli_against_torch():
    _, params, image = make("continuous")
    theirs = distributions.ContinuousBernoulli(logits=params)
    wanted = (theirs.log_prob((image + 1) / 2) - math.log(2)).sum((-3, -2, -1))  # a density of pixels in [-1, 1]
    torch.testing.assert_close(ContinuousBernoulli().log_prob(params, image), wanted, rtol=1e-6, atol=1e-5)
    torch.testing.assert_close(ContinuousBernoulli().mean(params), 2 * theirs.mean - 1, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("logit", [-60.0, -3.0, -0.49, -1e-5, 0.0, 1e-3, 0.51, 2.0, 200.0])
def test_continuous_bernoulli_is_a_density_with_its_mean_and_quantiles(logit):
    # Gauss's two-point rule on 4,000 pieces of [-1, 1].
    edges = torch.linspace(-1, 1, 4001, dtype=torch.float64)
    middle, half = (edges[1:] + edges[:-1]) / 2, (edges[1] - edges[0]) / 2
    x = torch.cat([middle - half / math.sqrt(3), middle + half / math.sqrt(3)])
    density = ContinuousBernoulli().log_prob(torch.full((1, 1, 1), logit).double(), x[:, None, None, None]).exp()
    params = torch.full((999, 1, 1, 1), logit, dtype=torch.float64)
    assert (density.sum() * half).item() == pytest.approx(1, abs=1e-7)
    mean = (density * x).sum().item() * half.item()
    assert ContinuousBernoulli().mean(params)[0].item() == pytest.approx(mean, abs=1e-7)
    noise = (torch.arange(999, dtype=torch.float64) + 1) / 1000
    drawn = ContinuousBernoulli().sample(params, noise[:, None, None, None]).flatten()
    below = ((x[None] <= drawn[:, None]) * density).sum(1) * half
    torch.testing.assert_close(below, noise, atol=0.02 if abs(logit) > 50 else 6e-4, rtol=0)


def test_a_uniform_density_has_eight_bits_per_dimension():
    params, image = torch.zeros(2, 3, 8, 8), torch.rand(2, 3, 8, 8) * 2 - 1
    nats = -ContinuousBernoulli().log_prob(params, image)
    torch.testing.assert_close(bits_per_dim(nats, 192, density=True), torch.full((2,), 8.0), atol=1e-5, rtol=0)


# ---- Gaussian ----


@pytest.mark.parametrize("variance", ["learned", 0.25, 4, 1e-3])
def test_gaussian_has_its_normaliser(variance):
    likelihood, params, image = Gaussian(variance), *make("gaussian")[1:]
    std = torch.as_tensor(likelihood.variance()).double().sqrt()
    wanted = distributions.Normal(params, std).log_prob(image).sum((-3, -2, -1))
    torch.testing.assert_close(likelihood.log_prob(params, image), wanted, rtol=1e-6, atol=1e-5)


def test_learned_variance_finds_the_mean_squared_error():
    likelihood, params, image = Gaussian("learned"), torch.zeros(64, 1, 6, 6), 0.5 * torch.randn(64, 1, 6, 6)
    optimizer = torch.optim.Adam(likelihood.parameters(), lr=0.1)
    for _ in range(120):
        optimizer.zero_grad()
        (-likelihood.log_prob(params, image).mean()).backward()
        optimizer.step()
    assert likelihood.variance().item() == pytest.approx(image.square().mean().item(), rel=1e-2)


def test_optimal_variance_is_the_batch_in_training_and_the_running_one_after():
    likelihood, params = Gaussian("optimal"), torch.zeros(8, 1, 4, 4, requires_grad=True)
    batches = [scale * torch.randn(8, 1, 4, 4) for scale in (0.2, 0.4)]
    errors = [x.square().mean().item() for x in batches]
    for x, error in zip(batches, errors):
        value = likelihood.log_prob(params, x)
        torch.testing.assert_close(value, Gaussian(error).log_prob(params, x))
        assert value.mean() > max(Gaussian(f * error).log_prob(params, x).mean() for f in (0.9, 1.1))
    value.mean().backward()
    assert params.grad.abs().sum() > 0
    loaded = Gaussian("optimal").eval()
    loaded.load_state_dict(likelihood.state_dict())
    running = sum(errors) / 2
    torch.testing.assert_close(loaded.log_prob(params, x), Gaussian(running).log_prob(params, x), rtol=1e-5, atol=1e-4)
    before = {k: v.clone() for k, v in loaded.state_dict().items()}
    loaded.log_prob(params, batches[0])
    assert all(torch.equal(v, before[k]) for k, v in loaded.state_dict().items())


def test_optimal_variance_of_perfect_images_stays_finite():
    likelihood, image = Gaussian("optimal"), torch.zeros(2, 1, 4, 4)
    assert likelihood.log_prob(image, image).isfinite().all()


@pytest.mark.parametrize("variance", ["mse", 0, -1.0, float("nan"), float("inf")])
def test_a_wrong_variance_is_refused(variance):
    with pytest.raises(ValueError, match="variance=.*give learned, optimal or a positive number"):
        Gaussian(variance)


# ---- bytes ----


@pytest.mark.parametrize("name", ["logistic", "mixture"])
def test_probabilities_of_a_pixel_sum_to_one(name):
    likelihood, params, _ = make(name, scale=2.0)
    pixels = LEVELS[:, None, None, None, None]
    each = params.flatten(0, 1).permute(2, 3, 0, 1).reshape(-1, params.shape[2], 1, 1)  # one pixel after the other
    total = likelihood.log_prob(each, pixels).logsumexp(0)
    torch.testing.assert_close(total, torch.zeros_like(total), atol=1e-12, rtol=0)


def test_probabilities_of_two_dependent_channels_sum_to_one():
    likelihood, params, _ = make("mixture", channels=2, scale=2.0)
    pairs = torch.cartesian_prod(LEVELS, LEVELS)[:, :, None, None]
    values = likelihood.log_prob(params[0, 0, :, :1, :1], pairs)
    assert values.logsumexp(0).item() == pytest.approx(0, abs=1e-12)
    first, second = values.exp().reshape(256, 256).sum(1), values.exp().reshape(256, 256).sum(0)
    assert (values.exp().reshape(256, 256) - first[:, None] * second).abs().max() > 1e-5  # colours share a component


def test_coefficients_move_later_channels_only():
    likelihood = DiscretizedLogisticMixture(1)
    params = torch.zeros(10, 1, 1, dtype=torch.float64)  # weight, 3 means, 3 log scales, 3 coefficients
    params[4:7] = -4.0
    params[7:] = torch.tensor([0.5, -0.5, 0.9]).atanh().reshape(3, 1, 1)
    red, green = 0.4, 0.6
    noise = torch.full((4, 1, 1), 0.5, dtype=torch.float64)
    params[1], params[2] = red, green - 0.5 * red
    image = likelihood.sample(params, noise).flatten()
    wanted = torch.tensor([red, green, -0.5 * red + 0.9 * green], dtype=torch.float64)
    torch.testing.assert_close(image, wanted, atol=2 / 255, rtol=0)
    torch.testing.assert_close(likelihood.mean(params).flatten(), wanted, atol=0.03, rtol=0)
    alone = DiscretizedLogistic().log_prob(
        torch.stack([wanted, torch.full((3,), -4.0)]).reshape(6, 1, 1), image.reshape(3, 1, 1)
    )
    assert likelihood.log_prob(params, image.reshape(3, 1, 1)).item() == pytest.approx(alone.item(), abs=0.05)


def test_a_mixture_of_one_is_a_logistic():
    one, params, image = DiscretizedLogisticMixture(1), *make("logistic")[1:]
    full = torch.cat([torch.zeros_like(params[:, :, :1]), params], 2)
    torch.testing.assert_close(one.log_prob(full, image), DiscretizedLogistic().log_prob(params, image))
    torch.testing.assert_close(one.mean(full), DiscretizedLogistic().mean(params))
    noise = torch.rand(one.noise_shape(full), dtype=torch.float64)
    torch.testing.assert_close(one.sample(full, noise), DiscretizedLogistic().sample(params, noise[:, :, 1:]))


def test_components_differ_where_the_decoder_says_nothing():
    params = torch.zeros(3 * 5, 1, 1, requires_grad=True)
    DiscretizedLogisticMixture(5).log_prob(params, torch.full((1, 1, 1), -1.0)).backward()
    assert len(params.grad[:5].unique()) == 5


def test_mixture_samples_have_the_mixtures_probabilities():
    likelihood, params, _ = make("mixture")
    n = 200
    choice, value = torch.cartesian_prod(*2 * [(torch.arange(n * 3, dtype=torch.float64) + 0.5) / (n * 3)]).T
    params = params[0, 0, :, :1, :1]
    noise = torch.stack([choice, value], 1)[:, :, None, None]
    drawn = likelihood.sample(params.expand(len(noise), -1, -1, -1), noise).flatten()
    share = ((drawn + 1) * 127.5).round().long().bincount(minlength=256) / len(drawn)
    wanted = likelihood.log_prob(params, LEVELS[:, None, None, None]).exp()
    torch.testing.assert_close(share.double(), wanted, atol=5e-3, rtol=0)


@pytest.mark.parametrize("name", ["logistic", "mixture"])
def test_a_likelihood_of_bytes_refuses_other_pixels(name):
    likelihood = ALL[name]()
    likelihood.check((torch.arange(256).float() / 127.5 - 1).reshape(1, 1, 16, 16))
    with pytest.raises(ValueError, match="2 of 3 pixels are none of the 256 levels") as error:
        likelihood.check(torch.tensor([[[[0.0, 1.0, 257 / 127.5 - 1]]]]))
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("name", ["continuous", "gaussian"])
def test_a_density_refuses_pixels_outside_its_range(name):
    ALL[name]().check(torch.tensor([[[[-1.0, 0.123, 1.0]]]]))
    for wrong in (3.0, float("nan")):
        with pytest.raises(ValueError, match=r"pixels between .*must lie in \[-1, 1\]"):
            ALL[name]().check(torch.tensor([[[[0.0, wrong]]]]))


def test_no_components_are_refused():
    with pytest.raises(ValueError, match="components=0"):
        DiscretizedLogisticMixture(0)


def test_dequantised_bytes_fill_their_bins():
    image = (torch.arange(256).float() / 127.5 - 1).reshape(1, 1, 16, 16)
    low, high = (dequantise(image, torch.full_like(image, u)).flatten() for u in (0.0, 1 - 1e-6))
    torch.testing.assert_close(low, torch.arange(256) / 128 - 1)
    torch.testing.assert_close(high[:-1], low[1:], atol=1e-6, rtol=0)
    assert high.max() <= 1


@pytest.mark.parametrize("likelihood", [ContinuousBernoulli(), Gaussian(1e-6)])
def test_dequantised_bytes_have_no_less_than_zero_bits(likelihood):
    """A pixel that is always black: the density of its byte grows without limit, the bound stays above 0."""
    black = torch.full((1000, 1, 1, 1), -1.0, dtype=torch.float64)
    noise = ((torch.arange(1000, dtype=torch.float64) + 0.5) / 1000).reshape(black.shape)
    certain = torch.full_like(black, -1e4 if isinstance(likelihood, ContinuousBernoulli) else -1.0)
    bits = {
        name: bits_per_dim(-likelihood.log_prob(certain, image).mean(), 1, density=True).item()
        for name, image in {"bytes": black, "dequantised": dequantise(black, noise)}.items()
    }
    assert bits["bytes"] < -1 and bits["dequantised"] > 0
    for logit in (-2000.0, -500.0, -10.0, 0.0, 10.0):
        params = torch.full_like(black, logit)
        assert -ContinuousBernoulli().log_prob(params, dequantise(black, noise)).mean() + 7 * math.log(2) > 0


@pytest.mark.parametrize("variance", [0.04, "learned", "optimal"])
def test_gaussian_pixels_are_drawn_with_the_deviation_that_their_density_has(variance):
    likelihood = Gaussian(variance).eval()
    noise = ((torch.arange(20_000, dtype=torch.float64) + 0.5) / 20_000).reshape(-1, 1, 1, 1)
    with torch.no_grad():
        drawn = likelihood.sample(torch.full_like(noise, 0.1), noise)
        wide = float(torch.as_tensor(likelihood.variance())) ** 0.5
    inside = (drawn - 0.1).abs() < wide
    assert inside.double().mean().item() == pytest.approx(0.6827, abs=1e-3), "68 % within one deviation"
    if variance == 0.04:
        assert drawn.std().item() == pytest.approx(0.2, rel=1e-2)


def test_the_running_variance_keeps_no_graph():
    likelihood, params = Gaussian("optimal"), torch.zeros(2, 1, 4, 4, requires_grad=True)
    for _ in range(2):
        likelihood.log_prob(params, torch.ones(2, 1, 4, 4)).mean().backward()
    assert not likelihood.running_variance.requires_grad


def test_a_learned_variance_starts_at_a_tenth_and_is_its_parameters_exponential():
    likelihood = Gaussian("learned")
    assert likelihood.variance().item() == pytest.approx(0.1, rel=1e-4)
    with torch.no_grad():
        likelihood.log_variance.fill_(math.log(0.5))
    assert likelihood.variance().item() == pytest.approx(0.5, rel=1e-4)
