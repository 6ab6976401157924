"""The VAE as a module: bounds against an exact likelihood, training objectives, keyed noise, samples and health."""

from __future__ import annotations

import functools
import math
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.distributions import MultivariateNormal, Normal
from torch.nn import functional as F

from contracts import Request
from rng.keyed import keyed_generators, keyed_randn
from lightning_modules.vae import VAE
from networks.autoencoder import MLPDecoder, MLPEncoder
from objectives.elbo import gaussian_kl
from objectives.pixels import Bernoulli, DiscretizedLogistic, Gaussian
from runtime.build import instantiate
from runtime.config import CONF, compose

SIZE, DIM = 6, 3
LIKELIHOODS = sorted(path.stem for path in (CONF / "likelihood").glob("*.yaml"))


def vae(likelihood: torch.nn.Module | None = None, hidden: tuple[int, ...] = (32,), **kwargs: Any) -> VAE:
    torch.manual_seed(0)
    encoder, decoder = (functools.partial(kind, hidden=hidden) for kind in (MLPEncoder, MLPDecoder))
    kwargs = {"latent_dim": DIM, "image_size": SIZE, "channels": 1} | kwargs
    return VAE(encoder, decoder, likelihood or Bernoulli(), **kwargs)


def stripes(n: int, first: int = 0) -> dict[str, Tensor]:
    """Black images with one white row or column: 12 kinds, of which a latent must tell which."""
    image = -torch.ones(n, 1, SIZE, SIZE)
    for i in range(n):
        kind = (first + i) % (2 * SIZE)
        if kind < SIZE:
            image[i, 0, kind] = 1
        else:
            image[i, 0, :, kind - SIZE] = 1
    return {"image": image, "seed": torch.arange(first, first + n)}


def validated(module: VAE, batch: dict[str, Tensor], batch_size: int = 10**6) -> dict[str, Tensor]:
    """What is logged of a validation set that comes in batches of this size."""
    n, sums = len(batch["image"]), {}
    for start in range(0, n, batch_size):
        part = {name: value[start : start + batch_size] for name, value in batch.items()}
        for name, value in module.validation_step(part, start).items():
            sums[name] = sums.get(name, 0.0) + value.double() * len(part["image"])
    return module.validation_summary({name: value / n for name, value in sums.items()}, n)


def trained(module: VAE, steps: int, lr: float = 3e-3) -> VAE:
    optimizer = torch.optim.Adam(module.parameters(), lr)
    for step in range(steps):
        batch = stripes(24, 24 * step)
        optimizer.zero_grad()
        module.losses(batch)["loss"].backward()
        optimizer.step()
        module.images_seen += 24
    return module.eval()


@pytest.fixture(scope="module")
def good() -> VAE:
    return trained(vae(eval_importance_samples=(1, 5, 50, 130)), 400)


# ---- against what is known exactly ----


def linear_gaussian(n: int, wrong: float = 0.0) -> tuple[VAE, dict[str, Tensor], Tensor]:
    """x = W z + b + 0.3 noise with orthogonal columns of W, whose posterior is diagonal and linear, and log p(x).

    `wrong` moves the posterior's means by that many standard deviations.
    """
    module = vae(Gaussian(0.09), hidden=(), eval_importance_samples=(1, 10, 120)).double().eval()
    torch.manual_seed(1)
    basis = torch.linalg.qr(torch.randn(SIZE**2, DIM, dtype=torch.float64))[0] * torch.tensor([2.0, 1.0, 0.5])  # (D, d)
    bias = torch.randn(SIZE**2, dtype=torch.float64) / 5
    precision = 1 + basis.square().sum(0) / 0.09  # (d,)
    gain = basis.T / 0.09 / precision[:, None]  # (d, D)
    with torch.no_grad():
        decoder, encoder = module.decoder.net[0], module.encoder.net[0]
        decoder.weight.copy_(basis), decoder.bias.copy_(bias)
        encoder.weight.copy_(torch.cat([gain, torch.zeros_like(gain)]))
        encoder.bias.copy_(torch.cat([wrong * precision.rsqrt() - gain @ bias, -precision.log()]))
    cov = basis @ basis.T + 0.09 * torch.eye(SIZE**2, dtype=torch.float64)
    truth = MultivariateNormal(bias, cov)
    x = truth.sample((n,))
    module.pixels.check = lambda image: None
    module._pixels_of = lambda batch: batch["image"]  # such draws are no bytes and leave [-1, 1]
    return module, {"image": x.reshape(n, 1, SIZE, SIZE), "seed": torch.arange(n)}, truth.log_prob(x)


def test_with_the_exact_posterior_every_bound_is_the_likelihood() -> None:
    module, batch, log_p = linear_gaussian(7)
    bounds = module.likelihood(batch)
    assert list(bounds) == [f"{n}_density_nats" for n in ("elbo", "iwae_1", "iwae_10", "iwae_120")]
    for name, value in bounds.items():
        assert (value + log_p).abs().max() < 1e-10, name
    with torch.no_grad():
        losses = module.losses(batch)
        mean, log_var = module.encode(batch["image"])
    assert float(losses["elbo_density_nats"]) != pytest.approx(float(-log_p.mean()), abs=1e-6)  # its KL is analytic
    assert float(losses["rate_nats"]) == pytest.approx(float(gaussian_kl(mean, log_var).sum(1).mean()))


def test_with_a_wrong_posterior_the_gap_is_its_divergence() -> None:
    module, batch, log_p = linear_gaussian(300, wrong=0.5)
    module.eval_importance_samples = (1, 5, 25, 1000)
    gaps = {name: value + log_p for name, value in module.likelihood(batch).items()}
    divergence = DIM * 0.5**2 / 2  # of two normal distributions half a standard deviation apart
    assert (gaps["elbo_density_nats"] - divergence).abs().max() < 0.12  # each a mean of 1000 draws with deviation 0.87
    assert float(gaps["elbo_density_nats"].mean()) == pytest.approx(divergence, abs=0.01)
    means = [float(gaps[f"iwae_{k}_density_nats"].mean()) for k in (1, 5, 25, 1000)]
    assert means[0] > means[1] > means[2] > abs(means[3]) and abs(means[3]) < 0.01


def test_bounds_fall_with_k_and_rank_below_independent_pixels(good: VAE) -> None:
    bounds = {name: float(value.mean()) for name, value in good.likelihood(stripes(600)).items()}
    ks = [bounds[f"iwae_{k}_nats"] for k in (1, 5, 50, 130)]
    assert ks == sorted(ks, reverse=True) and bounds["elbo_nats"] > ks[1]
    white = (stripes(12)["image"] + 1).mean(0) / 2
    factorised = float(F.binary_cross_entropy(white, white, reduction="sum"))  # 36 H(1/6 · 11/12 …), about 16 nats
    assert math.log(12) - 0.1 < ks[-1] < 0.5 * factorised, "twelve kinds of equal probability: log 12 nats at best"


def test_a_density_is_one_of_bytes_spread_over_their_bins() -> None:
    module = vae(Gaussian(1e-5), hidden=()).eval()
    with torch.no_grad():
        for part in (module.encoder, module.decoder):
            part.net[0].weight.zero_(), part.net[0].bias.zero_()
        module.decoder.net[0].bias.fill_(-1 + 1 / 256)  # the middle of the lowest bin, where every pixel lies
    batch = {"image": -torch.ones(50, 1, SIZE, SIZE), "seed": torch.arange(50)}
    nats = float(module.likelihood(batch)["elbo_density_nats"].mean())
    bits = nats / (SIZE**2 * math.log(2)) + 7
    assert bits > 0, "of the bytes themselves it would be below zero, which no probability is"
    with torch.no_grad():
        loss, again, other = (module.losses({**batch, "seed": batch["seed"] + k})["loss"] for k in (0, 0, 50))
    assert float(loss) == float(again) != float(other)


# ---- noise and batches ----


def test_an_images_bounds_depend_on_no_batch_and_no_other_k(good: VAE) -> None:
    batch = stripes(45)
    whole = good.likelihood(batch)
    for rows in (slice(0, 1), slice(30, 45)):
        part = good.likelihood({name: value[rows] for name, value in batch.items()})
        for name, value in part.items():
            torch.testing.assert_close(value, whole[name][rows], atol=1e-4, rtol=1e-5)
    few = vae(eval_importance_samples=(50,)).eval()
    few.load_state_dict(good.state_dict())
    torch.testing.assert_close(few.likelihood(batch)["iwae_50_nats"], whole["iwae_50_nats"])
    other = good.likelihood(batch | {"seed": batch["seed"] + 1000})
    assert (other["iwae_1_nats"] != whole["iwae_1_nats"]).all()


def test_training_noise_is_keyed_by_the_seed(good: VAE) -> None:
    batch = stripes(10)
    first = good.losses(batch)
    torch.manual_seed(5)
    assert torch.equal(first["distortion_nats"], good.losses(batch)["distortion_nats"])
    order = torch.randperm(10)
    shuffled = good.losses({name: value[order] for name, value in batch.items()})
    assert shuffled["loss"].item() == pytest.approx(first["loss"].item(), rel=1e-5)
    other = good.losses(batch | {"seed": batch["seed"] + 99})
    assert not torch.equal(other["distortion_nats"], first["distortion_nats"])
    assert torch.equal(other["rate_nats"], first["rate_nats"])


# ---- what is trained ----


def test_the_objective_weighs_the_rate_and_the_bound_does_not() -> None:
    batch = stripes(16)
    plain = vae().losses(batch)
    elbo, distortion, rate = (float(plain[f"{n}_nats"]) for n in ("elbo", "distortion", "rate"))
    assert elbo == pytest.approx(distortion + rate) and float(plain["loss"]) == pytest.approx(elbo)
    assert rate > 0.01
    for seen, weight in ((0, 0), (250, 1), (500, 2), (1000, 4), (9999, 4)):
        module = vae(beta=4.0, kl_warmup_images=1000)
        module.images_seen = seen
        losses = module.losses(batch)
        assert float(losses["loss"]) == pytest.approx(distortion + weight * rate, rel=1e-5)
        assert float(losses["elbo_nats"]) == pytest.approx(elbo)
    spared = vae(free_bits_nats=10.0).losses(batch)
    assert float(spared["loss"]) == pytest.approx(distortion + DIM * 10, rel=1e-5)
    assert float(spared["rate_nats"]) == pytest.approx(rate)


def test_importance_weighted_training_has_a_tighter_bound_and_both_gradients_agree_on_the_decoder() -> None:
    batch = stripes(16)
    modules = [trained(vae(importance_samples=20, dreg=dreg), 30) for dreg in (False, True)]
    for module in modules:
        losses = module.losses(batch)
        assert torch.equal(losses["loss"], losses["iwae_20_nats"])
        assert losses["iwae_20_nats"] < losses["elbo_nats"]
    grads = []
    for dreg in (False, True):
        module = vae(importance_samples=20, dreg=dreg)
        module.load_state_dict(modules[0].state_dict())
        module.losses(batch)["loss"].backward()
        grads.append({name: p.grad for name, p in module.named_parameters()})
    for name in grads[0]:
        same = torch.allclose(grads[0][name], grads[1][name], rtol=1e-3, atol=1e-5)
        assert same == name.startswith("decoder"), name


@pytest.mark.parametrize("word", LIKELIHOODS)
def test_every_likelihood_trains_and_says_what_its_numbers_are(word: str) -> None:
    cfg = compose("train", ["model=vae", f"likelihood={word}", "codec=mlp"])
    assert cfg.data.binarize == ("dynamic" if word == "bernoulli" else "none")
    module = instantiate(cfg.model)
    image = torch.randint(0, 256, (4, 1, 28, 28), generator=torch.Generator().manual_seed(0)) / 127.5 - 1
    batch = {"image": image.sign() if word == "bernoulli" else image, "seed": torch.arange(4)}
    losses = module.losses(batch)
    losses["loss"].backward()
    assert all(p.grad is not None and p.grad.isfinite().all() for p in module.parameters())
    unit = "density_nats" if word in ("continuous_bernoulli", "gaussian", "gaussian_optimal") else "nats"
    assert set(losses) == {"loss", "rate_nats", f"elbo_{unit}", f"distortion_{unit}"}
    module.eval_importance_samples = (3,)
    bounds = module.eval().likelihood(batch)
    assert set(bounds) == {f"elbo_{unit}", f"iwae_3_{unit}"}
    assert all(value.shape == (4,) and value.isfinite().all() for value in bounds.values())
    for mode in ("mean", "sample"):
        drawn = module.sample(Request(2), seeds=[0, 1], mode=mode)
        assert drawn.shape == (2, 1, 28, 28) and drawn.abs().max() <= 1


def test_likelihoods_are_computed_in_full_precision_under_autocast(good: VAE) -> None:
    batch = stripes(12)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert good.encoder(batch["image"]).dtype == torch.bfloat16
        losses = good.losses(batch)
    exact = good.losses(batch)
    for name, value in losses.items():
        assert value.dtype == torch.float32
        assert float(value) == pytest.approx(float(exact[name]), rel=0.05)


# ---- images ----


def test_image_i_is_drawn_from_its_own_seed(good: VAE) -> None:
    for mode in ("mean", "sample"):
        whole = good.sample(Request(5), seeds=[3, 1, 4, 1, 5], mode=mode)
        assert whole.shape == (5, 1, SIZE, SIZE) and not whole.requires_grad
        torch.testing.assert_close(whole[2:3], good.sample(Request(1), seeds=[4], mode=mode), atol=1e-5, rtol=1e-4)
        assert torch.equal(whole[1], whole[3]) and not torch.equal(whole[0], whole[1])
    assert set(whole.unique().tolist()) == {-1.0, 1.0}, "black and white pixels are drawn"
    cold = good.sample(Request(3), seeds=[0, 1, 2], temperature=0)
    torch.testing.assert_close(cold[0], cold[2])
    for bad, words in (({"mode": "median"}, "mode='median': choose one of mean, sample"), ({"temperature": -1}, "-1"),
                       ({"num_steps": 5}, "it has no num_steps")):
        with pytest.raises(ValueError, match=words):
            good.sample(Request(1), seeds=[0], **bad)


def test_drawn_pixels_have_the_mean_that_is_shown() -> None:
    module = vae().eval()
    seeds = list(range(4000))
    shown = module.sample(Request(4000), seeds=seeds).mean(0)
    drawn = module.sample(Request(4000), seeds=seeds, mode="sample").mean(0)
    assert (shown - drawn).abs().max() < 5 / math.sqrt(4000)


def test_reconstructions_are_close_where_training_was_good(good: VAE) -> None:
    batch = stripes(12)
    rebuilt = good.reconstruct(batch)
    assert rebuilt.shape == batch["image"].shape and rebuilt.abs().max() <= 1
    assert (rebuilt.sign() == batch["image"]).float().mean() > 0.97
    z = torch.randn(4, 2, DIM)
    assert good.decode(z).shape == (4, 2, 1, SIZE, SIZE)


# ---- health ----


def test_health_tells_used_from_idle_latents(good: VAE) -> None:
    healthy = good.health([stripes(24), stripes(24, 24)])
    assert healthy["active_units"] >= 2 and len(healthy["rate_per_dim_nats"]) == DIM
    assert sum(healthy["rate_per_dim_nats"]) == pytest.approx(healthy["rate_nats"], rel=1e-4)
    parts = healthy["mutual_information_nats"] + healthy["aggregate_kl_nats"]
    assert parts == pytest.approx(healthy["rate_nats"], rel=1e-4)
    assert 1.5 < healthy["mutual_information_nats"] < math.log(48)
    both = good.losses(stripes(48))
    assert healthy["rate_nats"] == pytest.approx(float(both["rate_nats"]), rel=1e-4)
    assert healthy["distortion_nats"] == pytest.approx(float(both["distortion_nats"]), rel=0.3)
    with torch.no_grad():
        idle = vae()
        idle.encoder.net[-1].weight.zero_(), idle.encoder.net[-1].bias.zero_()
    collapsed = idle.health([stripes(24)])
    assert collapsed["active_units"] == 0 and collapsed["rate_nats"] == 0
    assert collapsed["mutual_information_nats"] == pytest.approx(0, abs=1e-6)


def test_collapse_is_said_once_and_not_before_the_warmup_is_over(good: VAE, capsys: pytest.CaptureFixture) -> None:
    with torch.no_grad():
        idle = vae(kl_warmup_images=100)
        idle.encoder.net[-1].weight.zero_(), idle.encoder.net[-1].bias.zero_()
        assert float(validated(good, stripes(24))["active_units"]) >= 2
        assert float(validated(idle, stripes(24))["active_units"]) == 0
        assert capsys.readouterr().out == ""
        idle.images_seen = 100
        for _ in range(3):
            validated(idle, stripes(24))
        (line,) = capsys.readouterr().out.splitlines()
        assert line.startswith("posterior collapse: 0 nats of rate, 0 of 3 latents in use: try model.kl_warmup_images")
        assert "active_units" not in validated(idle, stripes(1))


# ---- what a user can get wrong ----


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"latent_dim": 0}, "model.latent_dim=0: a whole number of at least 1"),
        ({"latent_dim": 2.5}, "model.latent_dim=2.5"),
        ({"beta": -1.0}, "model.beta=-1.0: a number of at least 0"),
        ({"kl_warmup_images": -1}, "model.kl_warmup_images=-1"),
        ({"free_bits_nats": float("nan")}, "model.free_bits_nats=nan"),
        ({"importance_samples": 0}, "model.importance_samples=0"),
        ({"eval_importance_samples": [50, 0]}, r"model.eval_importance_samples\[1\]=0"),
        ({"eval_importance_samples": []}, "model.eval_importance_samples is empty"),
        ({"importance_samples": 5, "beta": 2.0}, "no separate rate: leave model.beta at 1"),
        ({"importance_samples": 5, "free_bits_nats": 0.5}, "no separate rate: leave model.beta at 1"),
        ({"importance_samples": 5, "kl_warmup_images": 9}, "no separate rate: leave model.beta at 1"),
        ({"dreg": True}, "model.dreg=true with one importance sample"),
    ],
)
def test_settings_out_of_range_are_refused_in_one_line(settings: dict, words: str) -> None:
    with pytest.raises(ValueError, match=words) as error:
        vae(**settings)
    assert "\n" not in str(error.value)


def test_grey_values_and_other_sizes_are_refused_in_one_line() -> None:
    levels = torch.arange(4 * SIZE**2) / 127.5 - 1
    grey = {"image": levels.reshape(4, 1, SIZE, SIZE), "seed": torch.arange(4)}
    for call in (vae().losses, vae().likelihood):
        with pytest.raises(ValueError, match=r"\d+ of 144 pixels .*data\.binarize=dynamic") as error:
            call(grey)
        assert "\n" not in str(error.value)
    assert vae(DiscretizedLogistic()).losses(grey)["loss"].isfinite()
    with pytest.raises(ValueError, match=r"made for images \(1, 6, 6\), got \(1, 8, 8\)"):
        vae().losses({"image": torch.ones(2, 1, 8, 8), "seed": torch.arange(2)})


# ---- what the objective is made of ----


def test_free_bits_are_of_the_rate_itself_whatever_its_weight() -> None:
    batch = stripes(16)
    plain = vae().losses(batch)
    spared = vae(free_bits_nats=10.0, beta=4.0).losses(batch)
    assert float(spared["loss"]) == pytest.approx(float(plain["distortion_nats"]) + 4 * DIM * 10, rel=1e-5)


@pytest.mark.parametrize("dreg", [False, True])
def test_gradients_of_the_importance_weighted_bound_are_its_estimators(dreg: bool) -> None:
    module, batch = vae(importance_samples=6, dreg=dreg), stripes(5)
    names, weights = zip(*module.named_parameters())
    found = torch.autograd.grad(module.losses(batch)["loss"], weights)

    mean, log_var = module.encode(batch["image"])
    eps = keyed_randn(batch["seed"], (6, DIM), "vae").transpose(0, 1)
    z = mean + (log_var / 2).exp() * eps
    q = [t.detach() for t in (mean, log_var)] if dreg else [mean, log_var]
    log_p = module.pixels.log_prob(module.decode(z), batch["image"])
    prior, posterior = Normal(0.0, 1.0).log_prob(z).sum(-1), Normal(q[0], (q[1] / 2).exp()).log_prob(z).sum(-1)
    log_w = log_p + prior - posterior
    weight = log_w.detach().softmax(0)
    # Tucker et al. 2019: the weights of the encoder's gradient are squared, those of the decoder's are not.
    decoder = -(weight * log_w).sum(0).mean()
    encoder = -(weight**2 * log_w).sum(0).mean() if dreg else decoder
    for name, gradient in zip(names, found):
        value = decoder if name.startswith("decoder") else encoder
        (expected,) = torch.autograd.grad(value, module.get_parameter(name), retain_graph=True)
        torch.testing.assert_close(gradient, expected, rtol=1e-4, atol=1e-6, msg=lambda text, name=name: f"{name}: {text}")


def test_the_order_in_which_importance_samples_are_named_changes_nothing() -> None:
    batch = stripes(4)
    one, other = (vae(eval_importance_samples=ks).eval().likelihood(batch) for ks in ((2, 60), (60, 2)))
    assert list(one) == list(other) and all(torch.equal(one[name], other[name]) for name in one)


def test_pixels_are_drawn_from_other_numbers_than_latents() -> None:
    module, seen = vae().eval(), []
    module.pixels.sample = lambda params, noise: seen.append(noise) or params
    module.sample(Request(3), seeds=[4, 5, 6], mode="sample")
    of_latents = [torch.rand(1, SIZE, SIZE, generator=g) for g in keyed_generators([4, 5, 6], "vae sample")]
    assert not torch.isclose(seen[0], torch.stack(of_latents)).any()
    assert seen[0].min() >= 0 and seen[0].max() < 1 and not torch.equal(seen[0][0], seen[0][1])


# ---- when latents count as used, and what is said of collapse ----


def certain(deviations: list[float]) -> VAE:
    """Its posteriors' means have these standard deviations over `spread_images`, and no variance to speak of."""
    module = vae(latent_dim=len(deviations), hidden=())
    with torch.no_grad():
        layer = module.encoder.net[0]
        layer.weight.zero_(), layer.bias.fill_(-20.0)
        layer.bias[: len(deviations)] = 0
        for i, deviation in enumerate(deviations):
            layer.weight[i, 0] = deviation
    return module


def test_a_latent_is_in_use_where_its_means_vary_by_a_hundredth() -> None:
    module = certain([0.2, 0.15, 0.09, 0.0])  # variances 0.04, 0.0225, 0.0081 and none
    batch = stripes(400)
    batch["image"][:, 0, 0, 0] = torch.tensor([1.0, -1.0]).repeat(200)  # the pixel that the means look at
    with torch.no_grad():
        assert module.health([batch])["active_units"] == 2
        assert float(validated(module, batch)["active_units"]) == 2
        assert float(validated(module, batch, batch_size=3)["active_units"]) == 2


def idle() -> VAE:
    module = vae()
    with torch.no_grad():
        module.encoder.net[-1].weight.zero_(), module.encoder.net[-1].bias.zero_()
    return module


@pytest.mark.parametrize(("rate", "active", "said"), [(0.05, 3, True), (5.0, 0, True), (0.2, 1, False)])
def test_a_posterior_has_collapsed_without_rate_or_without_latents(
    rate: float, active: int, said: bool, capsys: pytest.CaptureFixture
) -> None:
    assert vae()._warn_of_collapse(rate, active) is said
    assert capsys.readouterr().out.startswith("posterior collapse") is said


@torch.no_grad()
def test_collapse_is_said_by_one_process_once_all_images_are_seen(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
) -> None:
    module = idle()
    module.validation_step(stripes(24), 0)
    assert capsys.readouterr().out == ""
    monkeypatch.setattr(VAE, "global_rank", 1)
    validated(module, stripes(24))
    assert capsys.readouterr().out == ""
    monkeypatch.setattr(VAE, "global_rank", 0)
    validated(module, stripes(24))
    assert capsys.readouterr().out.startswith("posterior collapse")


# ---- validation ----


@torch.no_grad()
def test_validation_does_not_depend_on_the_batch_size() -> None:
    module = vae(Gaussian("optimal"), free_bits_nats=0.5, beta=2.0)
    module.encoder.net[-1].weight.mul_(5)  # rates on both sides of the floor
    module.eval()
    batch = stripes(25)
    whole = validated(module, batch)
    mean, log_var = module.encode(module._pixels_of(batch))
    rates = gaussian_kl(mean, log_var).mean(0)
    assert min(rates) < 0.5 < max(rates)
    distortion = float(whole["distortion_density_nats"])
    assert float(whole["loss"]) == pytest.approx(distortion + 2 * float(rates.clamp(min=0.5).sum()), rel=1e-5)
    for batch_size in (1, 4, 24):
        parts = validated(module, batch, batch_size)
        assert set(parts) == set(whole)
        for name, value in whole.items():
            assert float(parts[name]) == pytest.approx(float(value), rel=1e-5, abs=1e-5), (batch_size, name)


@torch.no_grad()
def test_the_validation_loss_is_a_function_of_the_weights_alone() -> None:
    module = vae(beta=4.0, kl_warmup_images=1000).eval()
    early = validated(module, stripes(24))
    module.images_seen = 700
    assert float(validated(module, stripes(24))["loss"]) == float(early["loss"])
    assert float(early["loss"]) == pytest.approx(float(early["distortion_nats"]) + 4 * float(early["rate_nats"]))
    importance = vae(importance_samples=3).eval()
    found = validated(importance, stripes(24))
    assert float(found["loss"]) == float(found["iwae_3_nats"])


# ---- several batches in one step ----


@pytest.mark.parametrize(
    ("likelihood", "settings", "words"),
    [
        ("optimal", {}, "likelihood=gaussian_optimal takes its variance .*trainer.accumulate=1, or choose likelihood=gaussian"),
        ("learned", {"free_bits_nats": 0.5}, "model.free_bits_nats=0.5 takes its mean .*, or set model.free_bits_nats=0$"),
    ],
)
def test_an_objective_of_the_whole_batch_is_not_accumulated(likelihood: str, settings: dict, words: str) -> None:
    module = vae(Gaussian(likelihood), **settings)
    module._trainer = SimpleNamespace(accumulate_grad_batches=2)
    with pytest.raises(ValueError, match=words) as error:
        module.setup("fit")
    assert "\n" not in str(error.value)
    module._trainer.accumulate_grad_batches = 1
    module.setup("fit")
    linear = vae(Gaussian("learned"))
    linear._trainer = SimpleNamespace(accumulate_grad_batches=2)
    linear.setup("fit")
