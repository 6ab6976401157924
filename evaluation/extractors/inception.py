"""Inception-v3 as in the published FID."""

from __future__ import annotations

import io
from pathlib import Path

import torch
from torch import Tensor, nn

from evaluation.extractors.base import FeatureExtractor, file_sha256
from evaluation.extractors.weights import find_weights
from evaluation.metrics.base import NotComputed

FILE = "inception-2015-12-05-6726825d.pth"
URL = f"https://github.com/toshas/torch-fidelity/releases/download/v0.2.0/weights-{FILE}"
SHA256_START = "6726825d"


class InceptionV3(FeatureExtractor):
    """The 2048-d Inception features of the published FID; the only ones whose distance may be called `fid`.

    Args:
        weights: path of pt_inception-2015-12-05-6726825d.pth (or weights-inception-…). None looks in torch's hub cache.
            Another file under that name is refused.
        allow_download: fetch the file (95 MB) when it is not there.
        cache_dir: folder that keeps features between runs.
    Source: Heusel et al. 2017; weights as ported for pytorch-fid and torch-fidelity.
    """

    id = "inception_v3_2015"
    distance_name = "fid"
    logits = True

    def __init__(
        self, weights: str | None = None, allow_download: bool = False, cache_dir: str | Path | None = None
    ) -> None:
        super().__init__(cache_dir)
        self.weights, self.allow_download = weights, allow_download
        self._path: Path | None = None

    def _locate(self) -> str:
        hub = Path(torch.hub.get_dir()) / "checkpoints"
        places = [hub / f"{prefix}-{FILE}" for prefix in ("weights", "pt")]

        def download() -> Path:
            hub.mkdir(parents=True, exist_ok=True)
            torch.hub.download_url_to_file(URL, str(places[0]), hash_prefix=SHA256_START, progress=False)
            return places[0]

        path = find_weights(
            "Inception",
            self.weights,
            lambda: next((p for p in places if p.is_file()), None),
            download,
            self.allow_download,
            "https://github.com",
            node="inception",
        )
        sha256 = file_sha256(path)
        if not sha256.startswith(SHA256_START):
            raise NotComputed(
                f"{path} is not the published Inception file: sha256 {sha256[:8]}…, expected {SHA256_START}…"
            )
        self._path = path
        return sha256

    def _load(self) -> nn.Module:
        return load_inception(self._path)

    def resize_rule(self, height: int, width: int) -> str:
        return f"bilinear TF1 ({height}, {width}) -> 299 (torch-fidelity)"

    def _features(self, net: nn.Module, image_u8: Tensor) -> Tensor:
        return net(image_u8)[0]  # (B, 2048)

    def _outputs(self, net: nn.Module, image_u8: Tensor) -> dict[str, Tensor]:
        features, logits = net(image_u8)  # (B, 2048), (B, 1008)
        return {"features": features, "logits": logits}


def load_inception(path: Path) -> nn.Module:
    """torch-fidelity's port of the 2015 network with a file's weights; gives (pooled 2048, unbiased logits 1008)."""
    from torch_fidelity.feature_extractor_inceptionv3 import FeatureExtractorInceptionV3

    # torch-fidelity unpickles whatever it is given: it gets a copy that holds tensors alone.
    plain = io.BytesIO()
    try:
        torch.save(torch.load(path, map_location="cpu", weights_only=True), plain)
    except Exception as error:  # torch's own text goes on to advise to trust the file
        raise NotComputed(f"{path} is not the published Inception file ({type(error).__name__} when read)") from None
    plain.seek(0)
    return FeatureExtractorInceptionV3(
        "inception-v3-compat", ["2048", "logits_unbiased"], feature_extractor_weights_path=plain
    )
