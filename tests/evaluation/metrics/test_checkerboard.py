"""Checkerboards: closed forms, the Fourier transform, growth with the square of the amplitude, smooth images."""

from __future__ import annotations

import pytest
import torch

from evaluation.metrics.base import NotComputed
from evaluation.metrics.checkerboard import Checkerboard, alternating
from tests.evaluation.pixel_features import images


def smooth(n: int, side: int, seed: int = 0) -> torch.Tensor:
    """Soft blobs (n, 3, side, side) around middle grey."""
    coarse = torch.randn(n, 3, 4, 4, generator=torch.Generator().manual_seed(seed))
    image = torch.nn.functional.interpolate(coarse, size=(side, side), mode="bicubic", align_corners=True)
    return (128 + 25 * image).clamp(60, 190).round().to(torch.uint8)


def board(side: int) -> torch.Tensor:
    rows, columns = torch.meshgrid(torch.arange(side), torch.arange(side), indexing="ij")
    return 1 - 2 * ((rows + columns) % 2)


def with_board(image_u8: torch.Tensor, amplitude: int) -> torch.Tensor:
    return (image_u8.int() + amplitude * board(image_u8.shape[-1])).to(torch.uint8)


def value(fake: torch.Tensor, real: torch.Tensor, **extra: torch.Tensor) -> dict[str, float]:
    evaluator = Checkerboard()
    evaluator.update(real, fake, None, **extra)
    return evaluator.compute()


def test_a_pattern_of_a_levels_has_energy_a_squared() -> None:
    rows = torch.arange(16)[:, None] % 2 * torch.ones(1, 16, dtype=torch.long)
    for pattern in (board(16), 1 - 2 * rows, (1 - 2 * rows).T):
        image = (100 + 7 * pattern).expand(2, 3, 16, 16).to(torch.uint8)
        assert alternating(image).flatten().tolist() == pytest.approx([49] * 4)


@pytest.mark.parametrize("shape", [(12, 20), (13, 21)])
def test_energy_and_variance_are_those_of_the_fourier_transform(shape: tuple[int, int]) -> None:
    image = torch.randint(0, 256, (4, 3, *shape), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    power = (torch.fft.fft2(image[..., :12, :20].double()) / 240).abs().square()  # adds up to the mean square
    lines = power[..., 6, :].sum(-1) + power[..., 10].sum(-1) - power[..., 6, 10]
    rest = power.sum((-2, -1)) - power[..., 0, 0]
    expected = torch.stack([lines.mean(1), rest.mean(1)], 1)
    assert torch.allclose(alternating(image), expected, rtol=1e-10)


def test_it_grows_with_the_square_of_the_amplitude_and_is_little_in_smooth_images() -> None:
    real = smooth(20, 32)
    energies = [float(alternating(with_board(real, a))[:, 0].mean()) for a in (0, 4, 8, 16)]
    assert energies[0] < 1
    grown = [e - energies[0] for e in energies[1:]]
    assert grown == pytest.approx([16, 64, 256], rel=0.05)
    shares = [value(with_board(real, a), real)["checkerboard"] for a in (0, 4, 8, 16)]
    assert shares[0] < 0.002 < shares[1] < shares[2] < shares[3]


def test_controls_stand_beside_it() -> None:
    real = smooth(40, 32)
    noise = torch.randint(0, 256, real.shape, dtype=torch.uint8, generator=torch.Generator().manual_seed(1))
    values = value(noise, real, reconstruction=with_board(real, 10))
    assert values["checkerboard"] == pytest.approx(values["checkerboard_noise"], rel=0.05)
    assert values["checkerboard_noise"] == pytest.approx(63 / 1023)
    assert values["checkerboard_real"] == value(real, real)["checkerboard"] < values["checkerboard_reconstruction"]
    assert values["checkerboard_low"] < values["checkerboard"] < values["checkerboard_high"]
    assert values["checkerboard_n"] == 40 and "checkerboard_reconstruction" not in value(real, real)
    pure = (128 + 100 * board(16)).expand(3, 1, 16, 16).to(torch.uint8)
    assert value(pure, pure)["checkerboard"] == pytest.approx(1)


def test_batches_change_nothing() -> None:
    real = images(12, 0)
    evaluator = Checkerboard()
    for part in (range(5, 12), range(5)):
        evaluator.update(real[list(part)], real[list(part)], None, indices=list(part))
    assert evaluator.compute() == value(real, real)


def test_its_interval_covers_as_often_as_it_says() -> None:
    every = alternating(with_board(smooth(400, 16), 6))
    truth, inside = float(every[:, 0].sum() / every[:, 1].sum()), 0
    draw = torch.Generator().manual_seed(0)
    for _ in range(200):
        evaluator = Checkerboard()
        evaluator.rows.add(range(40), fake=every[torch.randint(0, 400, (40,), generator=draw)])
        found = evaluator.compute()
        inside += found["checkerboard_low"] <= truth <= found["checkerboard_high"]
    assert 170 <= inside <= 199


def test_what_cannot_be_measured_is_said() -> None:
    flat = torch.full((2, 1, 8, 8), 9, dtype=torch.uint8)
    with pytest.raises(NotComputed, match="every generated image is of one colour"):
        value(flat, smooth(2, 8)[:, :1])
    with pytest.raises(NotComputed, match="has seen no images"):
        Checkerboard().compute()
    with pytest.raises(NotComputed, match="at least 2 x 2"):
        value(flat[..., :1], flat[..., :1])
    with pytest.raises(ValueError, match="fake must be uint8"):
        value(flat.float(), flat)
