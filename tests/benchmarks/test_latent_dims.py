"""The benchmark of latent dimensions from training to table and picture, tiny; its pictures against closed forms."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from torch import Tensor

from benchmarks.latent_dims import (
    COLUMNS, HEADING, MANIFOLD, ZOOM, benchmark, held_out, interpolations, manifold, mosaic, table, uncertainty,
)  # fmt: skip
from runtime.checkpoint import load_module
from tests.datamodules.class_data import write_class_data

K = 20


class Means:
    """Features that need no weights: the grey values of a 4 x 4 reduction."""

    id = "means"

    def __call__(self, image_u8: Tensor) -> Tensor:
        return torch.nn.functional.avg_pool2d(image_u8.float(), 7).flatten(1)


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> tuple[dict, object, Path]:
    path = tmp_path_factory.mktemp("latent_dims")
    write_class_data(path / "data", "mnist", num_train=300, num_test=60)
    overrides = [
        "trainer=cpu", "trainer.precision=32-true", "trainer.max_steps=150", "codec=mlp", "codec.encoder.hidden=[64]",
        "codec.decoder.hidden=[64]", "data.batch_size=32", "data.num_val=60", "logger.wandb=null",
        "callbacks.progress=null", "callbacks.samples=null", f"paths.cache={path}", f"paths.runs={path / 'elsewhere'}",
    ]  # fmt: skip
    result, sheet = benchmark(path / "runs", [2, 4], 40, K, Means(), overrides)
    return result, sheet, path


def test_it_trains_measures_and_tells_latent_dimensions_apart(made: tuple) -> None:
    result, _, path = made
    assert sorted(p.name for p in (path / "runs").iterdir()) == ["latent_dim_2", "latent_dim_4"]
    two, four = result["rows"][2], result["rows"][4]
    for row in (two, four):
        assert row[f"iwae_{K}_nats"] < row["elbo_nats"] and row["images_seen"] == 150 * 32
        assert row["elbo_nats"] == pytest.approx(row["rate_nats"] + row["distortion_nats"], rel=0.05)
        assert row["fd_means"] > result["fd_of_real_images"] >= 0
        assert set(row) >= {"active_units", "mutual_information_nats", "aggregate_kl_nats"}
    assert table(result).count("\n") == 6 and "| real images " in table(result) and f"IWAE-{K}" in table(result)


def test_runs_that_are_there_are_taken_and_the_numbers_come_out_again(made: tuple) -> None:
    result, sheet, path = made
    before = {p: p.stat().st_mtime_ns for p in (path / "runs").rglob("*.ckpt")}
    again, same = benchmark(path / "runs", [2, 4], 40, K, Means(), ["trainer.max_steps=1"])
    assert before == {p: p.stat().st_mtime_ns for p in (path / "runs").rglob("*.ckpt")}
    assert again["rows"] == result["rows"] and np.array_equal(np.asarray(same), np.asarray(sheet))


def test_the_picture_holds_a_column_for_each_and_the_plane(made: tuple) -> None:
    _, sheet, _ = made
    assert sheet.width >= max(2 * COLUMNS, MANIFOLD) * 28 * ZOOM
    plane = np.asarray(sheet)[-MANIFOLD * 28 * ZOOM - 20 :, : MANIFOLD * 28 * ZOOM]
    assert plane.std() > 20 and np.asarray(sheet)[: HEADING + 2].min() < 100, "images and headings"


def test_too_many_images_are_refused(made: tuple) -> None:
    config = load_module(made[2] / "runs" / "latent_dim_2")[1]
    assert len(held_out(config.data, 60)[1]) == 60
    with pytest.raises(ValueError, match="--n 61: there are 60 images"):
        held_out(config.data, 61)


def line(slope: float) -> SimpleNamespace:
    """A decoder of one-pixel images x = slope (z_0 + z_1 / 10), and posteriors around an image's own value."""

    def encode(image: Tensor) -> tuple[Tensor, Tensor]:
        mean = torch.stack([image.flatten(), torch.zeros(len(image))], 1)
        return mean, torch.full_like(mean, 2 * np.log(0.1))

    decode = lambda z: (slope * (z[..., 0] + z[..., 1] / 10))[..., None, None, None]  # noqa: E731
    return SimpleNamespace(encode=encode, decode=decode, pixels=SimpleNamespace(mean=lambda params: params))


def test_uncertainty_interpolation_and_plane_are_what_they_say() -> None:
    image = torch.tensor([-0.5, 0.0, 0.5]).reshape(3, 1, 1, 1)
    mean, std = uncertainty(line(0.5), image, draws=4000)
    assert torch.allclose(mean.flatten(), 0.5 * image.flatten(), atol=0.005)
    assert torch.allclose(std.flatten(), torch.full((3,), 0.05 * 1.01**0.5), rtol=0.05)
    between = interpolations(line(1.0), image[:2], image[1:], steps=5)
    assert torch.allclose(between.flatten(), torch.cat([torch.linspace(-0.5, 0, 5), torch.linspace(0, 0.5, 5)]))
    plane = manifold(line(1.0), side=5).reshape(5, 5)
    quantiles = torch.tensor([-1.2816, -0.5244, 0.0, 0.5244, 1.2816])  # of 10, 30, 50, 70 and 90 %
    assert torch.allclose(plane, quantiles + quantiles.flip(0)[:, None] / 10, atol=1e-4)


def test_a_mosaic_puts_images_row_by_row() -> None:
    image = torch.linspace(-1, 1, 5)[:, None, None, None].expand(5, 1, 3, 3)
    pixels = np.asarray(mosaic(image, across=2))[:: 3 * ZOOM, :: 3 * ZOOM, 0]
    assert pixels.tolist() == [[0, 64], [128, 191], [255, 255]]
