"""The autoencoder: it rebuilds what it sees, draws from latents like those it saw, resumes, and is a file."""

from __future__ import annotations

from functools import partial
from pathlib import Path

import pytest
import torch
from torch import nn

from contracts import Request
import evaluate
import sample
import train
from lightning_modules.autoencoder import Autoencoder, root
from networks.autoencoder import MLPDecoder, MLPEncoder
from runtime.checkpoint import load_module
from tests.datamodules.class_data import small_run, write_class_data
from tests.sessions import assert_same, contents


def overrides(tmp_path: Path, run: str, *more: str) -> list[str]:
    return small_run(
        "autoencoder", tmp_path, run, "callbacks.validate.every_steps=10", "model.latent_dim=3",
        "codec.encoder.dims=[8,8,8]", "codec.decoder.dims=[8,8,8]", *more,
    )  # fmt: skip


def small(latent_dim: int = 3, size: int = 6, **arguments) -> Autoencoder:
    torch.manual_seed(0)
    encoder, decoder = partial(MLPEncoder, hidden=()), partial(MLPDecoder, hidden=())
    return Autoencoder(encoder, decoder, size, 1, latent_dim, **arguments)


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("autoencoder")
    write_class_data(path / "data", "fashion_mnist", num_train=400, num_test=40)
    return path


@pytest.fixture(scope="module")
def trained(place: Path) -> dict:
    dims = ["codec.encoder.dims=[16,16,16]", "codec.decoder.dims=[16,16,16]", "callbacks.ema.half_life_images=200"]
    return train.main(overrides(place, "run", "trainer.max_steps=80", *dims))


def test_it_learns_and_says_so_in_decibels(trained: dict) -> None:
    assert trained["val/psnr_db"] > 15, "bars at ten heights; grey alone has 7"
    assert trained["val/loss"] == pytest.approx(4 / 10 ** (trained["val/psnr_db"] / 10), rel=0.5)
    assert {"train/loss", "train/psnr_db"} <= set(trained)


def test_training_shows_reconstructions(trained: dict, place: Path) -> None:
    names = {p.name for p in (place / "run" / "samples").iterdir()}
    assert names == {"step=00000080.png", "reconstructions-step=00000080.png"}


def test_its_file_alone_draws_and_measures(trained: dict, place: Path) -> None:
    sample.main([f"ckpt={place / 'run'}", "n=3", f"out={place / 'drawn'}", "device=cpu"])
    assert len(list((place / "drawn").glob("*.png"))) >= 3
    evaluate.main([
        f"ckpt={place / 'run'}", "n=20", "device=cpu", f"out={place / 'evaluation'}",
        *(f"~evaluator.{name}" for name in (
            "fd", "fd_inf", "sw2", "kd", "prdc", "memorisation", "fid", "kid", "inception_score", "lpips", "clip_score",
            "r_precision",
        )),
    ])  # fmt: skip
    page = (place / "evaluation" / "report.html").read_text()
    assert "psnr_db" in page and "checkerboard" in page


def test_an_image_depends_on_its_own_seed(trained: dict, place: Path) -> None:
    module = load_module(place / "run")[0]
    together, alone = module.sample(Request(3), seeds=[5, 6, 7]), module.sample(Request(1), seeds=[6])
    assert torch.allclose(together[1:2], alone, atol=1e-5) and together.abs().max() <= 1
    assert not torch.allclose(together[0], together[1], atol=1e-3)
    with pytest.raises(ValueError, match="draws in one step: it has no num_steps"):
        module.sample(Request(1), seeds=[0], num_steps=4)


def test_latents_are_drawn_like_those_that_were_seen() -> None:
    module = small()
    mixing = torch.tensor([[2.0, 0, 0], [1, 0.5, 0], [-1, 0.2, 0.1]])
    for _ in range(60):
        module._follow(torch.randn(500, 3) @ mixing.T + torch.tensor([1.0, -2, 3]))
    module.decoder = nn.Sequential(nn.Identity())  # images are latents; clamping needs them small
    module.latent_mean /= 100
    module.latent_cov /= 100**2
    drawn = module.sample(Request(4000), seeds=range(4000)) * 100
    assert torch.allclose(drawn.mean(0), torch.tensor([1.0, -2, 3]), atol=0.15)
    assert torch.allclose(drawn.T.cov(), mixing @ mixing.T, atol=0.3)


def test_moments_over_batches_are_those_of_all_latents_together() -> None:
    module, z = small(), torch.randn(40, 8, 3) * torch.tensor([1.0, 10, 0.1]) + torch.randn(40, 1, 3)
    for part in z:
        module._follow(part)
    every = z.flatten(0, 1)
    assert torch.allclose(module.latent_mean, every.mean(0), atol=1e-5)
    assert torch.allclose(module.latent_cov, every.T.cov(correction=0), rtol=1e-4, atol=1e-5)


def test_processes_follow_the_moments_of_the_whole_batch(monkeypatch: pytest.MonkeyPatch) -> None:
    torch.manual_seed(0)
    z = torch.randn(10, 3) @ torch.randn(3, 3) + torch.linspace(0, 4, 10)[:, None]  # the halves differ
    whole = small()
    whole._follow(z)
    halves, mean = z.split(5), z.mean(0)
    around = [(half - mean).T @ (half - mean) / 5 for half in halves]
    for mine, half in enumerate(halves):
        others = [halves[1 - mine].mean(0), around[1 - mine]]
        monkeypatch.setattr(
            "lightning_modules.autoencoder.mean_over_processes", lambda x, others=others: (x + others.pop(0)) / 2
        )
        module = small()
        module._follow(half)
        assert not others
        torch.testing.assert_close(module.latent_mean, whole.latent_mean, atol=1e-6, rtol=0)
        torch.testing.assert_close(module.latent_cov, whole.latent_cov, atol=1e-6, rtol=0)


def test_moments_forget_what_the_encoder_was_and_a_broken_batch_leaves_them() -> None:
    module = small()
    for value in (0.0, 5.0):
        for _ in range(1000):
            module._follow(torch.full((4, 3), value))
    assert torch.allclose(module.latent_mean, torch.full((3,), 5.0), atol=1e-3)
    before = {name: value.clone() for name, value in module.named_buffers()}
    module._follow(torch.full((4, 3), torch.nan))
    assert all(torch.equal(value, before[name]) for name, value in module.named_buffers())


def test_only_training_moves_the_moments() -> None:
    module, batch = small(), {"image": torch.randn(4, 1, 6, 6)}
    module.eval().losses(batch)
    assert module.latent_batches == 0 and "seen no images" in module.sampling_refusal()
    with pytest.raises(ValueError, match="seen no images"):
        module.sample(Request(1), seeds=[0])
    module.train().losses(batch)
    assert module.latent_batches == 1 and module.sampling_refusal() is None
    assert module.sample(Request(2), seeds=[0, 1]).shape == (2, 1, 6, 6), "two images, three dimensions: a singular covariance"


def test_the_loss_is_the_squared_error_and_its_decibels() -> None:
    module = small()
    image = torch.randn(4, 1, 6, 6)
    losses = module.losses({"image": image})
    error = (module.decode(module.encode(image)) - image).square().mean((1, 2, 3))
    assert torch.allclose(losses["loss"], error.mean())
    assert torch.allclose(losses["psnr_db"], (10 * torch.log10(4 / error)).mean())
    assert losses["loss"].requires_grad and not losses["psnr_db"].requires_grad
    assert torch.equal(module.reconstruct({"image": image}), module.decode(module.encode(image)).clamp(-1, 1))


def test_a_linear_one_finds_the_principal_components() -> None:
    torch.manual_seed(1)
    scales = torch.tensor([3.0, 2, 1] + [0.05] * 33)
    image = (torch.randn(512, 36) * scales @ torch.linalg.qr(torch.randn(36, 36))[0]).view(-1, 1, 6, 6)
    module = small(latent_dim=3)
    optimizer = torch.optim.Adam(module.parameters(), lr=0.02)
    for _ in range(600):
        optimizer.zero_grad()
        module.losses({"image": image})["loss"].backward()
        optimizer.step()
    flat = image.flatten(1)
    best = torch.linalg.eigvalsh((flat - flat.mean(0)).T @ (flat - flat.mean(0)) / 512)[:-3].sum() / 36
    assert module.losses({"image": image})["loss"].item() == pytest.approx(float(best), rel=0.02)


def test_root_is_a_root() -> None:
    mixing = torch.randn(5, 5, dtype=torch.float64)
    for cov in (mixing @ mixing.T, torch.outer(mixing[0], mixing[0]), torch.zeros(5, 5, dtype=torch.float64)):
        assert torch.allclose(root(cov) @ root(cov).T, cov, atol=1e-5)


@pytest.mark.parametrize("latent_dim", ["0", "-2", "2.5"])
def test_a_latent_without_dimensions_is_one_line(latent_dim: str, place: Path) -> None:
    from runtime.cli import user_error

    with pytest.raises(Exception) as error:  # noqa: PT011 hydra wraps it
        train.main(overrides(place, "none", f"model.latent_dim={latent_dim}"))
    assert user_error(error.value) == f"model.latent_dim={latent_dim}: give a whole number of at least 1"


def test_images_of_another_size_are_refused() -> None:
    with pytest.raises(ValueError, match=r"built for images \(1, 6, 6\), got \(3, 8, 8\)"):
        small().reconstruct({"image": torch.zeros(2, 3, 8, 8)})


def test_a_resumed_run_is_a_run_that_never_stopped(place: Path) -> None:
    train.main(overrides(place, "whole", "trainer.max_steps=8"))
    train.main(overrides(place, "parts", "trainer.max_steps=3"))
    train.main([f"resume={place / 'parts'}", "trainer.max_steps=8"])
    whole, parts = (contents(place / run) for run in ("whole", "parts"))
    for side in (whole, parts):
        side.pop("metrics"), side.pop("callbacks")  # the stop at step 3 validated and logged once more
        side["pictures"] = {name: file for name, file in side["pictures"].items() if "step=00000008" in name}
    assert len(whole["pictures"]) == 2
    assert_same(whole, parts)


def test_reconstructions_stay_in_range() -> None:
    module, image = small(), 20 * torch.randn(8, 1, 6, 6)
    assert module.decode(module.encode(image)).abs().max() > 1
    assert module.reconstruct({"image": image}).abs().max() == 1


def test_moments_travel_with_the_weights() -> None:
    module, other = small(), small()
    module._follow(torch.randn(50, 3) @ torch.randn(3, 3) + 5)
    other.load_state_dict(module.state_dict())
    assert other.sampling_refusal() is None
    assert torch.equal(other.sample(Request(3), seeds=[1, 2, 3]), module.sample(Request(3), seeds=[1, 2, 3]))
    for name, value in module.named_buffers():
        assert value.any() and torch.equal(other.get_buffer(name), value), name


def test_an_image_is_drawn_from_its_seed_and_not_from_its_place() -> None:
    module = small()
    module._follow(torch.randn(50, 3))
    image = module.sample(Request(3), seeds=[5, 6, 7])
    assert torch.allclose(module.sample(Request(2), seeds=[7, 5]), image[[2, 0]], atol=1e-6)
    assert not torch.allclose(image[0], image[1], atol=1e-3)


def test_moments_keep_no_graph() -> None:
    module, seen = small(), []
    follow = module._follow
    module._follow = lambda z: (seen.append(z.requires_grad), follow(z))
    for _ in range(2):
        module.losses({"image": torch.randn(4, 1, 6, 6)})["loss"].backward()
    assert seen == [False, False] and not any(buffer.requires_grad for buffer in module.buffers())
