"""Frozen image features: each extractor says which weights it holds and how it resizes; nothing is computed twice."""

from __future__ import annotations

import hashlib
from abc import ABC, abstractmethod
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from evaluation.extractors.feature_cache import shared
from evaluation.metrics.base import NotComputed, check_u8

CODE_VERSION = 1  # part of every key: raise it when an extractor gives other numbers for the same image
BLOCK = 32  # images a network sees at once, always


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

    The network always sees blocks of the same number of images, the last one filled up, since a convolution may round
    differently for another batch size: an image's features then depend on the image alone. Every block is looked up
    in `cache` under its bytes, the weights' checksum and the resize rule.

    Args:
        cache_dir: folder that keeps features between runs; None keeps them in memory.
    Attributes:
        id: names the network; part of the metrics' names (`fd_<id>`).
        logits: whether the network also classifies, as `probabilities` needs.
        needs: what data must have for the network to know it, as `Evaluator.needs`.
    """

    id: str
    logits = False
    needs: frozenset[str] = frozenset()

    def __init__(self, cache_dir: str | Path | None = None) -> None:
        self.cache = shared(cache_dir)
        self._net: nn.Module | None = None
        self._sha256: str | None = None
        self._resize: str | None = None

    @property
    def distance_name(self) -> str:
        """What a Fréchet distance in these features is called; only Inception's is `fid`."""
        return f"fd_{self.id}"

    def __call__(self, image_u8: Tensor) -> Tensor:
        """Features (B, D), float32, on the CPU; raises NotComputed without weights, ValueError for other dtypes."""
        return self._blocks(image_u8, "features")

    def probabilities(self, image_u8: Tensor) -> Tensor:
        """Class probabilities (B, K), float32, on the CPU; raises NotComputed where the network has no classes."""
        if not self.logits:
            raise NotComputed(f"{self.id} has no classes: use extractor=inception or extractor=classifier")
        return self._blocks(image_u8, "logits").softmax(1)

    def describe(self) -> dict[str, Any]:
        """Extractor, checksum of its weights and resize rule, as they go on the card."""
        return {"extractor": self.id, "extractor_sha256": self._sha256, "resize": self._resize}

    def key(self, height: int, width: int) -> str:
        """What features of images of this size depend on beside the images."""
        return f"{CODE_VERSION}|{self.id}|{self._sha256}|{self.resize_rule(height, width)}"

    def _blocks(self, image_u8: Tensor, what: str) -> Tensor:
        check_u8(image=image_u8)
        if self._sha256 is None:
            self._sha256 = self._locate()
        self._resize = self.resize_rule(*image_u8.shape[-2:])
        found = [self._block(block, what) for block in image_u8.split(BLOCK)]
        return found[0] if len(found) == 1 else torch.cat(found)

    def _block(self, image_u8: Tensor, what: str) -> Tensor:
        key = content_key(image_u8, self.key(*image_u8.shape[-2:]))
        if (known := self.cache.get(f"{key}-{what}")) is not None:
            return known
        values = self._compute(image_u8)
        for name, value in values.items():
            self.cache.put(f"{key}-{name}", value)
        return values[what]

    @torch.no_grad()
    def _compute(self, image_u8: Tensor) -> dict[str, Tensor]:
        if self._net is None:
            self._net = Frozen(self._load())
        count = len(image_u8)
        if image_u8.shape[1] == 1:
            image_u8 = image_u8.expand(-1, 3, -1, -1)
        if count < BLOCK:
            image_u8 = torch.cat([image_u8, image_u8[-1:].expand(BLOCK - count, -1, -1, -1)])
        outputs = self._outputs(self._net.to(image_u8.device), image_u8)
        values = {name: value[:count].float().cpu() for name, value in outputs.items()}
        if not all(torch.isfinite(value).all() for value in values.values()):
            raise NotComputed(f"{self.id} gives NaN or infinity: its weights (sha256 {self._sha256}) are broken")
        return values

    @abstractmethod
    def _locate(self) -> str:
        """Finds the weights and returns their sha256, or raises NotComputed."""

    @abstractmethod
    def _load(self) -> nn.Module:
        """The network with the weights that `_locate` found, or raises NotComputed."""

    @abstractmethod
    def resize_rule(self, height: int, width: int) -> str:
        """How images of this size are brought to the network's, in words: goes on the card."""

    @abstractmethod
    def _features(self, net: nn.Module, image_u8: Tensor) -> Tensor:
        """Features (B, D) of uint8 (B, 3, H, W)."""

    def _outputs(self, net: nn.Module, image_u8: Tensor) -> dict[str, Tensor]:
        """`features`, and `logits` (B, K) where there are classes, in one pass."""
        return {"features": self._features(net, image_u8)}


def content_key(image_u8: Tensor, extractor_key: str) -> str:
    """Digest of pixels, shape and extractor; another pixel, weight, size or resize rule gives another key."""
    image_u8 = image_u8.contiguous().cpu()
    digest = hashlib.blake2b(f"{extractor_key}|{tuple(image_u8.shape)}|".encode(), digest_size=20)
    digest.update(image_u8.numpy().data)
    return digest.hexdigest()


def file_sha256(path: str | Path) -> str:
    """Hex sha256 of a file; remembered while its size and time of change stay the same."""
    stat = Path(path).stat()
    known = _SHA256.get(key := (str(path), stat.st_size, stat.st_mtime_ns))
    if known is None:
        with open(path, "rb") as file:
            known = _SHA256[key] = hashlib.file_digest(file, "sha256").hexdigest()
    return known


_SHA256: dict[tuple[str, int, int], str] = {}
