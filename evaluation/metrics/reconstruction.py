"""How close is an image that went through the model to the one that went in?"""

from __future__ import annotations

from abc import abstractmethod
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from evaluation.metrics.base import ImageBatch, Evaluator, NotComputed, check_u8
from evaluation.metrics.intervals import means

# Rounding to bytes alone leaves this mean squared error (levels²): bytes cannot show anything better.
ROUNDING_MSE = 1 / 12
BACKBONE = "alexnet-owt-7be5be79.pth"


class PerImage(Evaluator):
    """Compares real images with their reconstructions one by one: mean and 95 % interval of each score."""

    section = "reconstruction"
    needs = frozenset({"reconstruction"})

    def columns(self, batch: ImageBatch) -> dict[str, Any]:
        real, rebuilt = batch.real, batch.extra["reconstruction"]
        check_u8(real=real, reconstruction=rebuilt)
        if real.shape != rebuilt.shape:
            raise ValueError(f"reconstructions {tuple(rebuilt.shape)} of real images {tuple(real.shape)}")
        return self.scores(real, rebuilt)

    @abstractmethod
    def scores(self, real: Tensor, rebuilt: Tensor) -> dict[str, Tensor]:
        """(B,) of each metric for uint8 (B, C, H, W)."""

    def compute(self) -> dict[str, float]:
        if not len(self.rows):
            raise NotComputed(f"{self.name} has seen no images")
        return means({name: self.rows.column(name) for name in self.rows.names})


class Reconstruction(PerImage):
    """PSNR and SSIM of reconstructions.

    `psnr_db` is the mean over images of each image's own PSNR, in decibels for a range of 255; an error below that of
    rounding counts as rounding, so that a perfect copy has 58.9 dB and no infinity. `ssim` has Gaussian windows of 11
    pixels (for smaller images the largest odd size). Both reward blur where the model is unsure.

    Source: Wang et al. 2004 (SSIM).
    """

    name = "reconstruction"
    headlines = ("psnr_db", "ssim")
    higher_is_better = True

    def scores(self, real: Tensor, rebuilt: Tensor) -> dict[str, Tensor]:
        return {"psnr_db": psnr(real, rebuilt), "ssim": ssim(real, rebuilt)}


class Lpips(PerImage):
    """LPIPS of reconstructions with AlexNet, where its weights are on disk.

    Args:
        backbone: torchvision's alexnet-owt-7be5be79.pth; None looks in torch's hub cache. The small learned layers on
            top come with torchmetrics.
    Source: Zhang et al. 2018, section 3.
    """

    name = "lpips_alex"
    headlines = ("lpips_alex",)

    def __init__(self, backbone: str | None = None) -> None:
        self.backbone = backbone
        self._net: Any = None

    def scores(self, real: Tensor, rebuilt: Tensor) -> dict[str, Tensor]:
        if self._net is None:
            self._net = self._load()
        net = self._net.to(real.device)
        with torch.no_grad():
            x, y = (three(image).float() / 127.5 - 1 for image in (real, rebuilt))
            return {"lpips_alex": net(x, y).flatten().cpu()}

    def _load(self) -> Any:
        cached = Path(torch.hub.get_dir()) / "checkpoints" / BACKBONE
        path = Path(self.backbone).expanduser() if self.backbone else cached
        if not path.is_file():
            raise NotComputed(f"no AlexNet weights ({path} is not there): pass evaluator.lpips.backbone={BACKBONE}")
        from torchmetrics.functional.image.lpips import _LPIPS

        net = _LPIPS(pretrained=True, net="alex", pnet_rand=True)  # heads from the package, the backbone from the file
        load_backbone(net.net, torch.load(path, map_location="cpu", weights_only=True))
        return net.eval().requires_grad_(False)


def load_backbone(net: torch.nn.Module, weights: dict[str, Tensor]) -> None:
    """torchvision's AlexNet features into LPIPS's slices, which hold the same layers in the same order."""
    kept = [value for name, value in weights.items() if name.startswith("features.")]
    own = net.state_dict()
    if [tuple(v.shape) for v in own.values()] != [tuple(v.shape) for v in kept]:
        raise NotComputed("the file of evaluator.lpips.backbone does not hold torchvision's AlexNet")
    net.load_state_dict(dict(zip(own, kept)))


def psnr(real: Tensor, rebuilt: Tensor) -> Tensor:
    """PSNR (B,) in dB of uint8 images (B, C, H, W); at most 58.9, what rounding to bytes leaves."""
    from torchmetrics.functional.image import peak_signal_noise_ratio

    a, b = real.double(), rebuilt.double()
    each = peak_signal_noise_ratio(b, a, data_range=255.0, dim=(1, 2, 3), reduction="none").cpu()
    best = 10 * torch.log10(torch.tensor(255.0**2 / ROUNDING_MSE, dtype=torch.float64))
    return each.clamp(max=best)


def ssim(real: Tensor, rebuilt: Tensor) -> Tensor:
    """SSIM (B,) of uint8 images (B, C, H, W)."""
    from torchmetrics.functional.image import structural_similarity_index_measure

    side = min(real.shape[-2:])
    window = min(11, side - 1 + side % 2)
    a, b = real.double(), rebuilt.double()
    each = structural_similarity_index_measure(
        b, a, data_range=255.0, gaussian_kernel=window == 11, kernel_size=window, reduction="none"
    )
    return each.flatten().cpu()


def three(image_u8: Tensor) -> Tensor:
    """Grey images as three equal channels."""
    return image_u8.expand(-1, 3, -1, -1) if image_u8.shape[1] == 1 else image_u8
