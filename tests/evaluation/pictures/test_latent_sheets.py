"""Pictures of a latent space: arcs keep the length, rows and columns hold what their captions say, any family is served."""

from __future__ import annotations

import math
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from PIL import Image

from contracts import Request
from rng.keyed import keyed_randn
from evaluation.pictures.latent_sheets import STEPS, TRUNCATIONS, check_sheet, interpolation, slerp, straight, truncation
from runtime.checkpoint import load_module
from sample import main as sample
from tests import toy
from tests.datamodules.class_data import write_class_data
from train import main as train

SIDE, GAP, TEXT = 128, 4, 18  # of an image of 4 pixels in a grid with one line of text


def latents(n: int, dim: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(n, dim, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def test_an_arc_is_what_geometry_says() -> None:
    t = torch.linspace(0, 1, 7, dtype=torch.float64)
    right = slerp(torch.tensor([[1.0, 0.0]], dtype=torch.float64), torch.tensor([[0.0, 1.0]], dtype=torch.float64), t)
    quarter = torch.stack([torch.cos(t * math.pi / 2), torch.sin(t * math.pi / 2)], -1)
    torch.testing.assert_close(right[0], quarter)
    a, b = latents(5, 100), latents(5, 100, 1)
    way = slerp(a, b, t)
    torch.testing.assert_close(way[:, 0], a)
    torch.testing.assert_close(way[:, -1], b)
    unit = [x / x.norm(dim=-1, keepdim=True) for x in (a, b)]
    torch.testing.assert_close(slerp(*unit, t).norm(dim=-1), torch.ones(5, 7, dtype=torch.float64))
    steps = (slerp(*unit, t).diff(dim=1)).norm(dim=-1)
    torch.testing.assert_close(steps, steps[:, :1].expand_as(steps))  # equal steps
    middle = torch.tensor([0.5], dtype=torch.float64)
    assert (slerp(a, b, middle).norm(dim=-1) > 8.5).all() and (straight(a, b, middle).norm(dim=-1) < 8.5).all()


def test_arcs_without_a_plane_are_lines() -> None:
    a, t = latents(1, 6), torch.tensor([0.0, 0.25, 1.0], dtype=torch.float64)
    for b in (a, 3 * a, -2 * a):
        found = slerp(a, b, t)
        assert found.isfinite().all()
        torch.testing.assert_close(found, straight(a, b, t))


def model(conditioning: str = "none") -> SimpleNamespace:
    """Images of 4 pixels: red the first latent, green half the second, blue the class."""

    def generate(z: torch.Tensor, label: torch.Tensor | None = None) -> torch.Tensor:
        blue = torch.zeros(len(z)) if label is None else label / 5 - 1
        colour = torch.stack([z[:, 0] / 4, z[:, 1] / 4, blue], 1)
        return colour[:, :, None, None].expand(-1, -1, 4, 4)

    return SimpleNamespace(
        latents=lambda seeds: keyed_randn(seeds, (2,), "test"), generate=generate, device="cpu",
        conditioning=conditioning, example_request=lambda: Request(10, labels=range(10)),
    )  # fmt: skip


def colours(picture: Image.Image, rows: int, columns: int) -> torch.Tensor:
    """What the middles of the cells show, (rows, columns, 3) in [-1, 1]."""
    assert picture.size == (columns * (SIDE + GAP) + GAP, rows * (SIDE + TEXT + GAP) + GAP)
    middles = [(GAP + c * (SIDE + GAP) + SIDE // 2, GAP + r * (SIDE + TEXT + GAP) + SIDE // 2)
               for r in range(rows) for c in range(columns)]  # fmt: skip
    found = torch.tensor([picture.getpixel(middle) for middle in middles])
    return (found / 127.5 - 1).view(rows, columns, 3)


def test_rows_of_an_interpolation_are_arc_and_line_of_each_pair() -> None:
    found = colours(interpolation(model(), Request(2), seed=5), rows=4, columns=STEPS)
    z, t = model().latents([5, 6, 7, 8]), torch.linspace(0, 1, STEPS)
    for pair in (0, 1):
        ends = z[2 * pair : 2 * pair + 1], z[2 * pair + 1 : 2 * pair + 2]
        for row, way in ((2 * pair, slerp), (2 * pair + 1, straight)):
            torch.testing.assert_close(found[row, :, :2], way(*ends, t)[0] / 4, rtol=0, atol=0.005)
    assert (found[0] - found[1]).abs().max() > 0.02


def test_rows_of_a_truncation_are_factors_on_the_same_latents() -> None:
    found = colours(truncation(model("label"), Request(3, labels=[3, 4, 9]), seed=2), rows=4, columns=3)
    z = model().latents([2, 3, 4]) / 4
    for row, factor in enumerate(TRUNCATIONS):
        torch.testing.assert_close(found[row, :, :2], factor * z, rtol=0, atol=0.005)
        torch.testing.assert_close(found[row, :, 2], torch.tensor([3, 4, 9]) / 5 - 1, rtol=0, atol=0.005)
    way = colours(interpolation(model("label"), Request(2, labels=[3, 9]), seed=2), rows=4, columns=STEPS)
    torch.testing.assert_close(way[:2, :, 2], torch.full((2, STEPS), -0.4), rtol=0, atol=0.005)
    torch.testing.assert_close(way[2:, :, 2], torch.full((2, STEPS), 0.8), rtol=0, atol=0.005)


def test_what_cannot_be_shown_is_said(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="sheet=grid: choose one of interpolation, truncation"):
        check_sheet("grid", model())
    with pytest.raises(ValueError, match="label=10: the model knows the classes 0 to 9"):
        truncation(model("label"), Request(1, labels=[10]), seed=0)
    train(toy.overrides("trainer.max_steps=1", run=tmp_path / "run"))
    with pytest.raises(ValueError, match="sheet=truncation: this model draws from no latents"):
        sample([f"ckpt={tmp_path / 'run'}", "sheet=truncation", f"out={tmp_path / 'out'}"])
    assert not (tmp_path / "out").exists()


GAN = ("model=gan", "model.conditional=true", "data=ring", "data.num_val=20", "players=mlp", "callbacks.samples=null",
       "players.generator.hidden=[8]", "players.discriminator.hidden=[8]")  # fmt: skip
VAE = ("model=vae", "data=mnist", "data.image_size=4", "data.num_val=8", "likelihood=gaussian", "model.latent_dim=3")


def trained(family: tuple[str, ...], folder: Path) -> Path:
    write_class_data(folder / "cache" / "data", "mnist")
    train(toy.overrides(*family, f"paths.cache={folder / 'cache'}", "trainer.max_steps=1", run=folder / "run"))
    return folder / "run"


@pytest.mark.parametrize("family", [GAN, VAE], ids=["gan", "vae"])
def test_sample_writes_one_picture(family: tuple[str, ...], tmp_path: Path) -> None:
    run = trained(family, tmp_path)
    for sheet, rows in (("interpolation", 4), ("truncation", 4)):
        arguments = [f"ckpt={run}", f"sheet={sheet}", "n=2", "seed=3", f"out={tmp_path / sheet}"]
        assert sample(arguments) == []
        (path,) = (tmp_path / sheet).iterdir()
        columns = STEPS if sheet == "interpolation" else 2
        with Image.open(path) as picture:
            assert path.name == f"{sheet}.png"
            assert picture.size == (columns * (SIDE + GAP) + GAP, rows * (SIDE + TEXT + GAP) + GAP)


def test_a_vae_generates_what_it_samples(tmp_path: Path) -> None:
    module, _, _ = load_module(trained(VAE, tmp_path))
    assert torch.equal(module.generate(0.7 * module.latents([1, 2])), module.sample(Request(2), seeds=[1, 2], temperature=0.7))
