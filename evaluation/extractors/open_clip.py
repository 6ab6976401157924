"""Image towers of CLIP models, through open_clip."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from evaluation.extractors.base import FeatureExtractor, file_sha256
from evaluation.extractors.weights import find_weights, first_line, hub_cached, hub_host
from evaluation.metrics.base import NotComputed

HUB_FILES = ("open_clip_model.safetensors", "open_clip_pytorch_model.bin")


class OpenCLIP(FeatureExtractor):
    """Image embeddings of a CLIP model, not normalised; `fd_clip_…` in them, never FID.

    Args:
        model: open_clip's model name.
        pretrained: open_clip's tag: which weights are meant, and where they are looked for and downloaded.
        weights: a checkpoint file of that model; None looks in the local caches.
        allow_download: fetch the weights when they are not there.
        cache_dir: folder that keeps features between runs.
    Source: Radford et al. 2021; Cherti et al. 2022 (OpenCLIP); Kynkäänniemi et al. 2023 (CLIP features in FD).
    """

    def __init__(
        self,
        model: str = "ViT-B-32",
        pretrained: str = "laion2b_s34b_b79k",
        weights: str | None = None,
        allow_download: bool = False,
        cache_dir: str | Path | None = None,
    ) -> None:
        super().__init__(cache_dir)
        self.model, self.pretrained, self.weights, self.allow_download = model, pretrained, weights, allow_download
        self.id = f"clip_{model}_{pretrained}".lower().replace("-", "_")
        self._path: Path | None = None

    def _tag(self) -> dict[str, Any]:
        import open_clip

        tag = open_clip.get_pretrained_cfg(self.model, self.pretrained)
        if not tag:
            tags = ", ".join(open_clip.list_pretrained_tags_by_model(self.model)) or "none: see open_clip.list_models()"
            raise ValueError(f"open_clip has no weights {self.pretrained!r} of {self.model!r}; there are {tags}")
        return tag

    def _locate(self) -> str:
        import open_clip

        tag = self._tag()
        repo, _, name = tag.get("hf_hub", "").rpartition("/")

        def cached() -> Path | None:
            by_url = Path("~/.cache/clip").expanduser() / Path(tag.get("url") or "-").name
            return hub_cached(repo, (name,) if name else HUB_FILES) if repo else by_url if by_url.is_file() else None

        what = f"open_clip {self.model}/{self.pretrained}"
        self._path = find_weights(
            what,
            self.weights,
            cached,
            lambda: Path(open_clip.download_pretrained(tag)),
            self.allow_download,
            hub_host(),
        )
        return file_sha256(self._path)

    def _load(self) -> nn.Module:
        import open_clip

        level = logging.root.level
        logging.root.setLevel(logging.ERROR)
        try:
            model = open_clip.create_model(
                self.model,
                pretrained=str(self._path),
                precision="fp32",
                weights_only=True,
                force_quick_gelu=bool(self._tag().get("quick_gelu")),
            )
        except Exception as error:  # a damaged file can raise nearly anything
            reason = first_line(error)
            raise NotComputed(f"{self._path} is no checkpoint of open_clip's {self.model}: {reason}") from None
        finally:
            logging.root.setLevel(level)
        return model.visual

    def _side(self) -> int:
        import open_clip

        size = open_clip.get_model_config(self.model)["vision_cfg"].get("image_size", 224)
        return size if isinstance(size, int) else size[0]

    def resize_rule(self, height: int, width: int) -> str:
        return f"bicubic antialias ({height}, {width}) -> {self._side()}, float"

    def _features(self, net: nn.Module, image_u8: Tensor) -> Tensor:
        tag = self._tag()
        return net(resized(image_u8, self._side(), tag["mean"], tag["std"]))  # (B, D)


def resized(image_u8: Tensor, size: int, mean: tuple[float, ...], std: tuple[float, ...]) -> Tensor:
    """The whole image at size x size (bicubic, antialiased, clamped, not quantised), normalised per channel."""
    x = image_u8.float() / 255
    if image_u8.shape[-2:] != (size, size):
        x = F.interpolate(x, size=(size, size), mode="bicubic", antialias=True).clamp(0, 1)
    shift, scale = (torch.tensor(v, device=x.device).view(1, 3, 1, 1) for v in (mean, std))
    return (x - shift) / scale
