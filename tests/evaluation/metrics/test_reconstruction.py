"""Reconstruction: per-image scores against torchmetrics and closed forms."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from evaluation.metrics.base import NotComputed
from evaluation.metrics.reconstruction import Lpips, Reconstruction, psnr, ssim
from tests.evaluation.pixel_features import images


def pair(n: int = 6, side: int = 24) -> tuple[torch.Tensor, torch.Tensor]:
    real = torch.nn.functional.interpolate(images(n, 0).float(), size=(side, side), mode="bilinear").to(torch.uint8)
    noise = 12 * torch.randn(real.shape, generator=torch.Generator().manual_seed(1))
    return real, (real + noise).clamp(0, 255).round().to(torch.uint8)


def test_scores_are_torchmetrics_image_by_image() -> None:
    from torchmetrics.functional.image import peak_signal_noise_ratio, structural_similarity_index_measure

    real, rebuilt = pair()
    for i in range(len(real)):
        a, b = real[i : i + 1].float() / 255, rebuilt[i : i + 1].float() / 255
        assert float(psnr(real, rebuilt)[i]) == pytest.approx(float(peak_signal_noise_ratio(b, a, 1.0)), rel=1e-5)
        expected = structural_similarity_index_measure(b, a, data_range=1.0)
        assert float(ssim(real, rebuilt)[i]) == pytest.approx(float(expected), abs=1e-5)


def test_closed_form_and_a_perfect_copy_is_finite() -> None:
    real = torch.full((2, 1, 16, 16), 100, dtype=torch.uint8)
    assert psnr(real, real + 10).tolist() == pytest.approx([28.1308] * 2, abs=1e-4)  # 10 log10(255² / 100)
    assert psnr(real, real).tolist() == pytest.approx([58.9226] * 2, abs=1e-4)
    assert ssim(real, real).tolist() == pytest.approx([1, 1])
    assert ssim(*pair(2, side=8)).shape == (2,)  # smaller than the window


def test_evaluator_gives_means_with_intervals() -> None:
    real, rebuilt = pair(10)
    evaluator = Reconstruction()
    for part in (slice(4, 10), slice(0, 4)):
        evaluator.update(
            real[part], real[part], None, reconstruction=rebuilt[part], indices=list(range(10))[part]
        )
    values = evaluator.compute()
    assert values["psnr_db"] == pytest.approx(float(psnr(real, rebuilt).mean()), rel=1e-12)
    assert values["ssim_low"] < values["ssim"] < values["ssim_high"] and values["ssim_n"] == 10
    with pytest.raises(ValueError, match="reconstructions .* of real images"):
        evaluator.update(real, real, None, reconstruction=rebuilt[..., :4])
    with pytest.raises(NotComputed):
        Reconstruction().compute()


def test_lpips_is_computed_only_where_its_backbone_is(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.hub, "get_dir", lambda: str(tmp_path))
    real, rebuilt = pair(2, side=64)
    with pytest.raises(NotComputed, match="no AlexNet weights .* evaluator.lpips.backbone=alexnet"):
        Lpips().update(real, real, None, reconstruction=rebuilt)
    torch.save({"features.0.weight": torch.zeros(3)}, path := tmp_path / "other.pth")
    with pytest.raises(NotComputed, match="does not hold torchvision's AlexNet"):
        Lpips(str(path)).update(real, real, None, reconstruction=rebuilt)


def test_lpips_reads_a_backbone_and_puts_its_own_layers_on_top(tmp_path: Path, monkeypatch) -> None:
    from torchmetrics.functional.image.lpips import _LPIPS
    from torchvision.models import alexnet

    torch.manual_seed(0)
    backbone = alexnet(weights=None)
    (tmp_path / "checkpoints").mkdir()
    torch.save(backbone.state_dict(), tmp_path / "checkpoints" / "alexnet-owt-7be5be79.pth")
    monkeypatch.setattr(torch.hub, "get_dir", lambda: str(tmp_path))
    real, rebuilt = pair(3, side=64)
    evaluator = Lpips()
    evaluator.update(real, real, None, reconstruction=rebuilt)
    monkeypatch.setattr("torchmetrics.functional.image.lpips._get_tv_model_features", lambda *_: backbone.features)
    theirs = _LPIPS(pretrained=True, net="alex").eval()
    with torch.no_grad():
        expected = theirs(real.float() / 127.5 - 1, rebuilt.float() / 127.5 - 1).flatten()
    assert evaluator.compute()["lpips_alex"] == pytest.approx(float(expected.mean()), rel=1e-5)
    same = Lpips()
    same.update(real, real, None, reconstruction=real)
    assert same.compute()["lpips_alex"] == 0


@pytest.mark.parametrize(("side", "window"), [(5, 5), (7, 7), (8, 7), (9, 9)])
def test_small_images_have_the_largest_odd_window(side: int, window: int) -> None:
    from torchmetrics.functional.image import structural_similarity_index_measure

    real, rebuilt = (images(3, seed, side=side).double() for seed in (0, 1))
    settings = {"data_range": 255.0, "gaussian_kernel": False, "reduction": "none"}
    expected = structural_similarity_index_measure(rebuilt, real, kernel_size=window, **settings)
    torch.testing.assert_close(ssim(real.to(torch.uint8), rebuilt.to(torch.uint8)), expected.flatten())


def test_more_decibels_are_better_and_less_lpips_is() -> None:
    assert Reconstruction().higher_is_better is True and Lpips().higher_is_better is False
