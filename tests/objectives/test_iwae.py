from __future__ import annotations

import math

import pytest
import torch

from objectives.elbo import gaussian_kl, log_normal, reparameterise
from objectives.iwae import dreg_loss, iwae_bound, iwae_loss, log_weights, streamed_log_mean_exp
from tests.objectives.oracles import LinearGaussian


def test_every_weight_of_the_exact_posterior_is_the_likelihood():
    model = LinearGaussian(diagonal=True)
    image = model.images(6)
    mean, log_var = model.mean_field(image)
    assert model.gap(image, mean, log_var).abs().max() < 1e-12
    log_w = model.log_w(image, mean, log_var, 100)
    torch.testing.assert_close(log_w, model.log_p(image).expand(100, -1), atol=1e-10, rtol=0)
    torch.testing.assert_close(iwae_bound(log_w), model.log_p(image), atol=1e-10, rtol=0)


def test_the_elbo_misses_the_divergence_from_the_posterior():
    model = LinearGaussian(diagonal=False)
    image = model.images(4)
    mean, log_var = model.mean_field(image, widened=1.7)
    gap = model.gap(image, mean, log_var)
    assert gap.min() > 0.05
    log_w = model.log_w(image, mean, log_var, 200_000)
    error = 5 * log_w.std(0) / math.sqrt(len(log_w))
    assert ((model.log_p(image) - log_w.mean(0) - gap).abs() < error).all()


def test_the_elbo_is_distortion_and_rate():
    model = LinearGaussian(diagonal=False)
    image = model.images(3)
    mean, log_var = model.mean_field(image, widened=1.7)
    rate = gaussian_kl(mean, log_var).sum(-1)
    eps = torch.randn(100_000, *mean.shape, dtype=torch.float64, generator=model.generator)
    z = reparameterise(mean, log_var, eps)
    log_p = model.pixels.log_prob(model.decode(z), image)
    log_w = log_weights(log_p, z, mean, log_var)
    difference = log_w - (log_p - rate)  # only the rate is estimated on one side, and exact on the other
    assert (difference.mean(0).abs() < 5 * difference.std(0) / math.sqrt(len(z))).all()


def test_more_samples_never_loosen_the_bound():
    model = LinearGaussian(diagonal=False)
    image = model.images(5)
    log_w = model.log_w(image, *model.mean_field(image, widened=1.7), 100_000)
    exact, gaps = model.log_p(image), []
    for k in (1, 5, 50, 500):
        bound = iwae_bound(log_w.reshape(k, -1, len(image))).mean(0) if k > 1 else log_w.mean(0)
        gaps.append((exact - bound).mean().item())
    assert gaps == sorted(gaps, reverse=True) and gaps[-1] > -1e-3
    assert gaps[0] > 4 * gaps[1] / 2 > 0 and gaps[-1] < gaps[0] / 50


# ---- a stream ----


def counted(log_w, asked):
    rows = iter(log_w)

    def draw(n):
        asked.append(n)
        return torch.stack([next(rows) for _ in range(n)])

    return draw


@pytest.mark.parametrize("chunk", [1, 7, 64, 5000])
def test_a_stream_gives_the_bounds_of_its_prefixes(chunk):
    log_w = 30 * torch.randn(1000, 4, dtype=torch.float64) - 500
    asked, counts = [], [1, 50, 1000, 7, 50]
    bounds = streamed_log_mean_exp(counted(log_w, asked), counts, chunk)
    assert list(bounds) == [1, 7, 50, 1000] and sum(asked) == 1000 and max(asked) <= chunk
    for k, bound in bounds.items():
        torch.testing.assert_close(bound, iwae_bound(log_w[:k]), rtol=1e-12, atol=0)


def test_a_stream_of_float32_is_summed_in_float64_without_overflow():
    log_w = torch.tensor([[-1e4], [2e4], [2e4]])
    bound = streamed_log_mean_exp(counted(log_w, []), [3], 1)[3]
    assert bound.dtype == torch.float64 and bound.item() == pytest.approx(2e4 + math.log(2 / 3), abs=1e-9)


def test_impossible_draws_count_as_nothing_and_broken_ones_are_seen():
    never = torch.full((4, 1), -math.inf)
    assert streamed_log_mean_exp(counted(never, []), [4], 2)[4].item() == -math.inf
    some = torch.cat([never, torch.zeros(4, 1)])
    assert streamed_log_mean_exp(counted(some, []), [8], 3)[8].item() == pytest.approx(math.log(0.5))
    some[2] = math.nan
    assert streamed_log_mean_exp(counted(some, []), [8], 3)[8].isnan().all()


def test_a_stream_keeps_no_graph():
    parameter = torch.zeros(2, requires_grad=True)
    assert not streamed_log_mean_exp(lambda n: parameter.expand(n, 2) * 2, [5], 2)[5].requires_grad


@pytest.mark.parametrize(("counts", "chunk"), [([], 5), ([0, 3], 5), ([5], 0)])
def test_a_stream_of_nothing_is_refused(counts, chunk):
    with pytest.raises(ValueError, match="give numbers of at least 1"):
        streamed_log_mean_exp(lambda n: torch.zeros(n, 1), counts, chunk)


# ---- gradients ----


class Line:
    """x = w z + noise on a line, many images at once; q(z | x) = N(a x, exp(l)); parameters (a, l) and w."""

    def __init__(self, exact=False):
        w, variance = 1.3, 0.5
        precision = 1 + w * w / variance
        a, log_var = (w / variance / precision, -math.log(precision)) if exact else (0.3, -0.2)
        self.params = [torch.tensor(v, dtype=torch.float64, requires_grad=True) for v in (a, log_var, w)]
        self.variance = math.log(variance)

    def gradients(self, x, k, estimator, seed=0):
        """Gradients for each image by itself in (a, l, w), (B, 3): every image has parameters of its own."""
        a, log_var, w = (p.detach().expand(len(x)).clone().requires_grad_() for p in self.params)
        eps = torch.randn(k, len(x), 1, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))
        mean, spread = (a * x)[:, None], log_var[:, None]
        z = reparameterise(mean, spread, eps)
        log_p = log_normal(x[:, None], w[:, None] * z, self.variance)
        dreg = estimator is dreg_loss
        log_w = log_weights(log_p, z, mean, spread, dreg=dreg)
        loss = dreg_loss(log_w, z) if dreg else iwae_loss(log_w)
        assert loss.item() == pytest.approx(-iwae_bound(log_w).mean().item(), rel=1e-12)
        return torch.stack(torch.autograd.grad(loss * len(x), (a, log_var, w)), 1)


@pytest.mark.parametrize("k", [1, 2, 8])
def test_dreg_is_unbiased(k):
    x = torch.full((400_000,), 0.9, dtype=torch.float64)
    plain = Line().gradients(x, k, iwae_loss)
    doubly = Line().gradients(x, k, dreg_loss, seed=1)
    error = (plain.var(0) + doubly.var(0)).sqrt() / math.sqrt(len(x))
    assert ((plain.mean(0) - doubly.mean(0)).abs() < 4.5 * error).all()
    assert (plain.mean(0).abs()[:2] > 10 * error[:2]).all()  # a wrong factor would show
    if k == 8:
        assert (doubly.var(0)[:2] < plain.var(0)[:2] / 4).all()


def test_dregs_decoder_gradient_is_the_plain_one():
    x = torch.randn(100, dtype=torch.float64)
    plain, doubly = (Line().gradients(x, 5, loss) for loss in (iwae_loss, dreg_loss))
    torch.testing.assert_close(doubly[:, 2], plain[:, 2], rtol=1e-12, atol=1e-14)
    assert (doubly[:, :2] - plain[:, :2]).abs().min() > 0


def test_dreg_has_no_noise_at_the_exact_posterior():
    x = torch.randn(100, dtype=torch.float64)
    assert Line(exact=True).gradients(x, 5, dreg_loss)[:, :2].abs().max() < 1e-12
    assert Line(exact=True).gradients(x, 5, iwae_loss)[:, :2].abs().max() > 0.1


def test_dreg_without_gradients_is_the_bound():
    log_w, z = torch.randn(4, 3), torch.randn(4, 3, 2)
    torch.testing.assert_close(dreg_loss(log_w, z), iwae_loss(log_w))
