"""DINOv2 through timm."""

from __future__ import annotations

from pathlib import Path

from torch import Tensor, nn

from evaluation.extractors.base import FeatureExtractor, file_sha256
from evaluation.extractors.open_clip import resized
from evaluation.extractors.weights import find_weights, first_line, hub_cached, hub_host
from evaluation.metrics.base import NotComputed

HUB_FILES = ("model.safetensors", "pytorch_model.bin")


class DINOv2(FeatureExtractor):
    """Class-token features of a DINOv2 vision transformer at 224 pixels, for `fd_dinov2_…`.

    Position embeddings are resampled by timm from 518 pixels to 224; the original code does so a little differently, so
    values are near those of papers and not equal to them.

    Args:
        model: timm's name, with one of the sizes small, base, large (as in papers), giant.
        weights: a checkpoint file of that model; None looks in the hub's local cache.
        allow_download: fetch the weights when they are not there.
        cache_dir: folder that keeps features between runs.
    Raises:
        ValueError: not a DINOv2 model of timm.
    Source: Oquab et al. 2023; Stein et al. 2023 (FD-DINOv2).
    """

    SIZE = 224

    def __init__(
        self,
        model: str = "vit_large_patch14_dinov2",
        weights: str | None = None,
        allow_download: bool = False,
        cache_dir: str | Path | None = None,
    ) -> None:
        super().__init__(cache_dir)
        if "dinov2" not in model:
            raise ValueError(f"extractor.model={model!r} is no DINOv2: for instance vit_large_patch14_dinov2")
        self.model, self.weights, self.allow_download = model, weights, allow_download
        self.id = f"dinov2_{model.removesuffix('_dinov2')}"
        self._path: Path | None = None

    def _locate(self) -> str:
        import timm

        config = timm.get_pretrained_cfg(self.model)
        if config is None:
            raise ValueError(f"timm has no model {self.model!r}: see timm.list_models('*dinov2*')")
        repo = config.hf_hub_id

        def download() -> Path:
            from huggingface_hub import hf_hub_download

            return Path(hf_hub_download(repo, HUB_FILES[0]))

        self._path = find_weights(
            f"timm {self.model}",
            self.weights,
            lambda: hub_cached(repo, HUB_FILES),
            download,
            self.allow_download,
            hub_host(),
        )
        return file_sha256(self._path)

    def _load(self) -> nn.Module:
        import timm

        try:
            overlay = {"file": str(self._path)}
            return timm.create_model(
                self.model, pretrained=True, pretrained_cfg_overlay=overlay, img_size=self.SIZE, num_classes=0
            )
        except Exception as error:  # a damaged file can raise nearly anything
            raise NotComputed(f"{self._path} is no checkpoint of timm's {self.model}: {first_line(error)}") from None

    def resize_rule(self, height: int, width: int) -> str:
        return f"bicubic antialias ({height}, {width}) -> {self.SIZE}, float"

    def _features(self, net: nn.Module, image_u8: Tensor) -> Tensor:
        x = resized(image_u8, self.SIZE, (0.485, 0.456, 0.406), (0.229, 0.224, 0.225))
        return net(x)  # (B, D), the class token
