"""The order of damage: every metric on drawings made here, and on Fashion-MNIST where it is on disk."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image, ImageDraw

from benchmarks import ordering
from benchmarks.corruptions import (
    CHAINS, Labelled, balanced, blur, generator, image_sets, invert, jpeg, low_bits, noise, salt_and_pepper, shift,
)  # fmt: skip
from benchmarks.ordering import evaluators, expectations, fashion_mnist, measure, strip, table
from datamodules.class_files import FORMATS, lacking
from evaluation.extractors.lite0 import EfficientNetLite0

SPACE = "efficientnet_lite0"


def drawings(n: int, seed: int) -> tuple[torch.Tensor, torch.Tensor]:
    """uint8 (n, 1, 28, 28) and labels: ten kinds of star, each at its own size, angle and grey."""
    rng = np.random.default_rng(seed)
    images, labels = [], np.arange(n) % 10
    for label in labels:
        picture = Image.new("L", (112, 112))
        corners = 3 + label % 5
        radius, turn, grey = rng.uniform(28, 48), rng.uniform(0, 2 * np.pi), int(rng.uniform(90, 255))
        inner = 1.0 if label < 5 else 0.45
        angles = turn + np.arange(2 * corners) * np.pi / corners
        between = np.cos(np.pi / corners) if inner == 1 else inner
        reach = radius * np.where(np.arange(2 * corners) % 2, between, 1)
        x, y = (rng.uniform(48, 64) + reach * f(angles) for f in (np.cos, np.sin))
        ImageDraw.Draw(picture).polygon(list(zip(x, y)), fill=grey)
        images.append(np.asarray(picture.resize((28, 28), Image.Resampling.LANCZOS)))
    return torch.from_numpy(np.stack(images))[:, None], torch.from_numpy(labels)


@pytest.fixture(scope="module")
def data() -> Labelled:
    return Labelled(drawings(400, 0), drawings(2000, 1), drawings(300, 2))


FEW = ("B", "test", "blur 0.5", "blur 1", "noise 0.1", "noise 0.4", "8 of 10 classes", "copies x10")


def check_few(rows: dict) -> None:
    fd = {name: row[f"fd_{SPACE}"] for name, row in rows.items()}
    assert fd["B"] < fd["blur 0.5"] < fd["blur 1"]
    assert fd["B"] < fd["noise 0.1"] < fd["noise 0.4"]
    assert fd["B"] < fd["8 of 10 classes"]
    assert abs(fd["test"] / fd["B"] - 1) < 0.2
    sw2 = {name: row[f"sw2_{SPACE}"] for name, row in rows.items()}
    assert sw2["B"] < sw2["blur 0.5"] < sw2["blur 1"] and sw2["B"] < sw2["8 of 10 classes"]
    assert rows["copies x10"][f"recall_{SPACE}"] < 0.05 and rows["copies x10"][f"coverage_{SPACE}"] < 0.6
    assert rows["B"][f"coverage_{SPACE}"] > max(0.9, rows["8 of 10 classes"][f"coverage_{SPACE}"])


def test_metrics_order_damage_of_drawings(data: Labelled) -> None:
    rows = measure(data, 200, evaluators(EfficientNetLite0(64)), FEW)  # 32 misjudges noise on flat grey
    assert list(rows) == list(FEW)
    check_few(rows)


def garments() -> Labelled:
    places = [p for p in (ordering.REPO / ".cache" / "data", *map(Path, FORMATS["fashion_mnist"].system))]
    root = next((p for p in places if not lacking(p, FORMATS["fashion_mnist"])), None)
    root = root or (places[0] if (places[0] / "FashionMNIST" / "raw").is_dir() else None)
    if root is None:
        pytest.skip("Fashion-MNIST is not on disk: apt-get install dataset-fashion-mnist, or see docs/data.md")
    return fashion_mnist(root)


def test_metrics_order_damage_of_garments() -> None:
    check_few(measure(garments(), 400, evaluators(EfficientNetLite0()), FEW))


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_every_ordering_of_the_page_holds() -> None:
    rows = measure(garments(), 1000, evaluators(EfficientNetLite0(64)))
    broken = [e["expected"] for e in expectations(rows, SPACE) if not e["holds"]]
    assert not broken


# ---- the corruptions do what their names say ----


def test_blur_keeps_the_mean_and_takes_the_contrast(data: Labelled) -> None:
    image_u8 = data.b[0][:20]
    spread = [blur(image_u8, sigma).float().std() for sigma in (0.01, 0.5, 1, 2, 3)]
    assert torch.equal(blur(image_u8, 0.01), image_u8) and spread == sorted(spread, reverse=True)
    dot = torch.zeros(1, 1, 29, 29, dtype=torch.uint8)
    dot[..., 14, 14] = 255
    x = np.arange(-14, 15)
    expected = np.exp(-(x[:, None] ** 2 + x**2) / 2)
    expected = 255 * expected / expected.sum()
    assert np.abs(blur(dot, 1)[0, 0].numpy() - expected).max() <= 0.51


def test_noise_has_its_strength() -> None:
    grey = torch.full((50, 1, 28, 28), 128, dtype=torch.uint8)
    assert noise(grey, 0.1).float().std() == pytest.approx(25.5, rel=0.03)
    spotted = salt_and_pepper(grey, 0.2)
    assert (spotted == 0).float().mean() == pytest.approx(0.1, abs=0.01)
    assert (spotted == 255).float().mean() == pytest.approx(0.1, abs=0.01)
    assert set(spotted.unique().tolist()) == {0, 128, 255}


def test_the_others_are_exact(data: Labelled) -> None:
    image_u8 = data.b[0][:5]
    assert torch.equal(low_bits(image_u8, 2), image_u8 // 4 * 4) and torch.equal(invert(invert(image_u8)), image_u8)
    moved = shift(image_u8, 3)
    assert torch.equal(moved[..., 3:], image_u8[..., :-3])
    assert not moved[..., :3].any() and moved.shape == image_u8.shape
    error = [(jpeg(image_u8, q).float() - image_u8.float()).abs().mean() for q in (95, 50, 10)]
    assert 0 < error[0] < error[1] < error[2] < 40
    colour = torch.randint(0, 256, (2, 3, 16, 16), dtype=torch.uint8, generator=generator())
    assert jpeg(colour, 90).shape == colour.shape


def test_sets_are_balanced_disjoint_and_repeatable(data: Labelled) -> None:
    sets, again = image_sets(data, 100), image_sets(data, 100)
    assert set(sets) >= {name for chain in CHAINS for name in chain}
    for name, make in sets.items():
        image_u8 = make()
        assert image_u8.shape == (100, 1, 28, 28) and image_u8.dtype == torch.uint8, name
        assert torch.equal(image_u8, again[name]()), name
    assert torch.equal(sets["B"](), balanced(*data.b, 100))
    assert len(sets["copies x10"]().flatten(1).unique(dim=0)) == 10
    one = sets["1 of 10 classes"]()
    assert all((data.b[0][data.b[1] == 0] == image).flatten(1).all(1).any() for image in one[:5])
    with pytest.raises(ValueError, match="n=400 needs 400 images of each of 1 classes, and one has 200"):
        sets = image_sets(data, 400)
        sets["1 of 10 classes"]()


# ---- the record ----


def fake_rows(**changed: float) -> dict:
    """Rows in which everything holds, but for the Fréchet distances given."""
    rows = {}
    names = ["B", "test", *dict.fromkeys(name for chain in CHAINS for name in chain[1:])]
    for rank, name in enumerate(names):
        rows[name] = {f"{d}_{SPACE}": 0.1 + max(0, rank - 1) for d in ordering.DISTANCES}
        rows[name] |= {f"{s}_{SPACE}": 0.9 - 0.02 * rank for s in ordering.SHARES}
    top = {f"{d}_{SPACE}": 99.0 for d in ordering.DISTANCES}
    rows["uniform noise"] |= top
    rows["copies x10"] |= {f"recall_{SPACE}": 0.0, f"coverage_{SPACE}": 0.4}
    for name, value in changed.items():
        rows[name.replace("_", " ")][f"fd_{SPACE}"] = value
    return rows


def test_expectations_fail_where_the_order_does() -> None:
    assert all(e["holds"] for e in expectations(fake_rows(), SPACE))
    broken = [e["expected"] for e in expectations(fake_rows(blur_1=98), SPACE) if not e["holds"]]
    assert broken == [f"fd_{SPACE}: B < blur 0.5 < blur 1 < blur 1.5 < blur 2 < blur 3 < uniform noise"]
    broken = [e["expected"] for e in expectations(fake_rows(test=0.2), SPACE) if not e["holds"]]
    assert broken == [f"fd_{SPACE}: test within 10 % of B"]


def test_the_table_shows_every_set_and_what_does_not_hold() -> None:
    rows = fake_rows(blur_1=98)
    result = {"spaces": {SPACE: {"rows": rows, "expectations": expectations(rows, SPACE), "resize": "none"}}}
    text = table(result)
    assert all(f"| {name} " in text for name in rows)
    count = len(result["spaces"][SPACE]["expectations"])
    assert f"{count - 1} of {count} expected orderings hold: not fd_" in text
    assert "| set " in text and "× B" in text


def test_the_picture_shows_every_set(data: Labelled) -> None:
    picture = strip(data, 100)
    assert picture.mode == "RGB" and picture.width < 1400 and np.asarray(picture).std() > 30
