"""Kernel distances against closed forms, torch-fidelity and torchmetrics."""

from __future__ import annotations

import pytest
import torch

from evaluation.metrics import kernel_distance as kernel
from evaluation.metrics.base import NotComputed
from evaluation.metrics.kernel_distance import CMMD, KernelDistance, disjoint, gaussian_mmd2, mmd2, polynomial
from tests.evaluation.pixel_features import Pixels, fed, images, normal


@pytest.mark.parametrize(("dtype", "rel"), [(torch.float64, 1e-10), (torch.float32, 1e-5)])
@pytest.mark.parametrize(("n", "m"), [(300, 300), (1500, 1100)])  # within a block and over several
def test_agrees_with_torch_fidelity_and_torchmetrics(dtype: torch.dtype, rel: float, n: int, m: int) -> None:
    from torch_fidelity.metric_kid import kernel_poly
    from torch_fidelity.metric_kid import mmd2 as fidelity_mmd2
    from torchmetrics.image.kid import maximum_mean_discrepancy, poly_kernel

    x, y = normal(n, 32, 0, dtype), (1.3 * normal(m, 32, 1) + 0.2).to(dtype)
    found = mmd2(x, y, polynomial(32))[0]
    if n == m:
        own = [kernel_poly(a.numpy(), b.numpy()) for a, b in ((x, x), (x, y), (y, y))]
        assert found == pytest.approx(float(fidelity_mmd2(*own)), rel=rel)
        blocks = [poly_kernel(a, b) for a, b in ((x, x), (x, y), (y, y))]
        assert found == pytest.approx(float(maximum_mean_discrepancy(*blocks)), rel=rel)
    exact = mmd2(x.double(), y.double(), polynomial(32))[0]
    assert found == pytest.approx(exact, rel=rel)


def test_unbiased_with_an_honest_error_and_negative_as_often_as_positive() -> None:
    found = [mmd2(normal(60, 8, 2 * i), normal(60, 8, 2 * i + 1), polynomial(8)) for i in range(80)]
    values = torch.tensor([value for value, _ in found])
    assert abs(values.mean()) < 4 * values.std() / 80**0.5
    assert 20 < (values < 0).sum() < 70
    assert sum(abs(value) < 2.5 * error for value, error in found) > 70
    shifted = [mmd2(normal(60, 8, 2 * i), normal(60, 8, 2 * i + 1) + 0.5, polynomial(8)) for i in range(80)]
    spread, error = torch.tensor([v for v, _ in shifted]).std(), torch.tensor([e for _, e in shifted]).mean()
    assert 0.7 < spread / error < 1.3  # the error that is claimed is the one that is there


def test_features_are_normalised_except_inceptions() -> None:
    class Inception(Pixels):
        id, distance_name = "inception", "fid"

    sets = {"real": images(64, 0), "fake": images(64, 1, high=128), "reference": images(64, 2)}
    own, kid = fed(KernelDistance(Pixels()), **sets), fed(KernelDistance(Inception()), **sets)
    values = own.compute()
    assert (own.name, kid.name) == ("kd_pixels_raw", "kid")
    assert values["kd_pixels_raw_low"] < values["kd_pixels_raw"] < values["kd_pixels_raw_high"]
    reference, fake = (own.rows.column(name) for name in ("reference", "fake"))
    rms = reference.double().square().mean().sqrt()
    expected = mmd2(reference.double() / rms, fake.double() / rms, polynomial(16))[0]
    assert values["kd_pixels_raw"] == pytest.approx(expected, rel=1e-5)
    assert kid.compute()["kid"] == pytest.approx(mmd2(reference.double(), fake.double(), polynomial(16))[0], rel=1e-5)
    assert own.protocol()["kernel"] != kid.protocol()["kernel"]
    with pytest.raises(NotComputed, match="at least 50, got 20"):
        fed(KernelDistance(Pixels()), **{k: v[:20] for k, v in sets.items()}).compute()


def test_large_sets_are_cut_into_disjoint_blocks_by_a_seed_of_their_own(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(kernel, "LIMIT", 100)
    x = torch.arange(250.0)[:, None]
    torch.manual_seed(1)
    blocks = disjoint(x, x)
    torch.manual_seed(2)
    again = disjoint(x, x)
    assert len(blocks) == 3 and all(torch.equal(a, b) for p, q in zip(blocks, again) for a, b in zip(p, q))
    assert torch.equal(torch.cat([a for a, _ in blocks]).sort(0).values, x)
    assert len(disjoint(x[:100], x[:100])) == 1


def test_blocks_are_averaged_and_their_interval_is_that_of_a_mean(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(kernel, "LIMIT", 100)
    sets = {"real": images(400, 0), "fake": images(400, 1, high=200), "reference": images(400, 2)}
    evaluator = fed(KernelDistance(Pixels(), controls=False), **sets)
    values = evaluator.compute()
    reference, fake = (evaluator.rows.column(name).double() for name in ("reference", "fake"))
    rms = reference.square().mean().sqrt()
    found = [mmd2(x, y, polynomial(16)) for x, y in disjoint(reference / rms, fake / rms)]
    assert len(found) == 4 and len({value for value, _ in found}) == 4
    mean = sum(value for value, _ in found) / 4
    half = 1.96 * (sum(error**2 for _, error in found) / 4**2) ** 0.5  # variance of a mean of four
    expected = {"kd_pixels_raw": mean, "kd_pixels_raw_low": mean - half, "kd_pixels_raw_high": mean + half}
    assert {name: values[name] for name in expected} == pytest.approx(expected, rel=1e-4)


def test_both_sets_are_shuffled_before_they_are_cut(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(kernel, "LIMIT", 100)
    x = torch.arange(300.0)[:, None]
    for part in range(2):
        cut = [block[part].flatten() for block in disjoint(x, x)]
        assert all(block.min() < 60 and block.max() > 240 for block in cut)
    assert not any(torch.equal(a, b) for a, b in disjoint(x, x)), "an image would meet its own number"


def test_cmmd_is_a_thousand_times_the_discrepancy_of_unit_vectors() -> None:
    sets = {"real": images(200, 0), "fake": images(200, 1, high=128), "reference": images(200, 2)}
    evaluator = fed(CMMD(Pixels(), controls=False), **sets)
    unit = [torch.nn.functional.normalize(evaluator.rows.column(name).double()) for name in ("reference", "fake")]
    assert evaluator.compute()["cmmd_pixels_raw"] == pytest.approx(1000 * gaussian_mmd2(*unit), rel=1e-9)


def test_cmmd_compares_means_of_unit_vectors() -> None:
    x, y = (torch.nn.functional.normalize(f) for f in (normal(400, 64, 0), normal(400, 64, 1) + 0.3))
    shift = (x.mean(0) - y.mean(0)).square().sum()
    assert 1000 * gaussian_mmd2(x, y) == pytest.approx(float(10 * shift), rel=0.02)
    distances = torch.cdist(x, y).square()
    kernels = [torch.exp(-torch.cdist(a, b).square() / 200).mean() for a, b in ((x, x), (y, y), (x, y))]
    assert gaussian_mmd2(x, y) == pytest.approx(float(kernels[0] + kernels[1] - 2 * kernels[2]), rel=1e-6)
    assert distances.max() <= 4 + 1e-9
    assert CMMD(Pixels()).name == "cmmd_pixels_raw"
