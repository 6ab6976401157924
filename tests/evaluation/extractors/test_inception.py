"""Inception: the published weights and no others, on a stand-in with its names and shapes."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import nn

from evaluation.extractors import inception as inception_file
from evaluation.extractors.base import file_sha256
from evaluation.extractors.inception import FILE, SHA256_START, InceptionV3, load_inception
from evaluation.metrics.base import NotComputed
from tests.evaluation.pixel_features import images

pytestmark = pytest.mark.usefixtures("no_network")


@pytest.fixture(scope="module")
def stand_in(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A file with Inception's names and shapes and random numbers in it."""
    from torch_fidelity.feature_extractor_inceptionv3 import FeatureExtractorInceptionV3

    path = tmp_path_factory.mktemp("weights") / f"pt_{FILE}"
    saved: dict[str, torch.Tensor] = {}
    with pytest.MonkeyPatch.context() as patch, torch.random.fork_rng():
        torch.manual_seed(0)
        patch.setattr(nn.Module, "load_state_dict", lambda self, state: saved.update(self.state_dict()))
        patch.setattr(torch, "load", lambda *_, **__: {})
        FeatureExtractorInceptionV3("inception-v3-compat", ["2048"], feature_extractor_weights_path="none")
    torch.save(saved, path)
    return path


def test_inception_loads_from_a_file_and_gives_features_and_classes_in_one_pass(
    stand_in: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    net = load_inception(stand_in)
    assert not net.training and not any(p.requires_grad for p in net.parameters())
    monkeypatch.setattr(inception_file, "SHA256_START", file_sha256(stand_in)[:8])  # as if these were the weights
    monkeypatch.setattr("evaluation.extractors.base.BLOCK", 2)
    extractor = InceptionV3(str(stand_in))
    batch = images(2, 0, side=8)
    features = extractor(batch)
    assert features.shape == (2, 2048) and features.dtype == torch.float32
    computed, extractor._net = extractor._net, None  # classes were kept with the features: no second pass
    probabilities = extractor.probabilities(batch)
    assert extractor._net is None and computed is not None
    assert probabilities.shape == (2, 1008)
    torch.testing.assert_close(probabilities.sum(1), torch.ones(2))
    torch.testing.assert_close(features, net(batch)[0])
    assert extractor.describe()["resize"] == "bilinear TF1 (8, 8) -> 299 (torch-fidelity)"


def test_inception_of_another_checksum_is_refused_before_it_is_read(stand_in: Path) -> None:
    with pytest.raises(NotComputed, match="not the published Inception file: sha256 .* expected 6726825d"):
        InceptionV3(str(stand_in))(images(1, 0))


def test_inception_is_found_in_torchs_cache(stand_in: Path, tmp_path: Path) -> None:
    (tmp_path / "hub" / "checkpoints").mkdir(parents=True)
    (tmp_path / "hub" / "checkpoints" / f"weights-{FILE}").symlink_to(stand_in)
    with pytest.raises(NotComputed, match="not the published"):  # found, and looked at
        InceptionV3()(images(1, 0))


def test_a_download_goes_to_torchs_cache_and_is_checked(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    asked = []

    def download(url: str, place: str, hash_prefix: str, progress: bool) -> None:
        asked.append((url.rpartition("/")[2], hash_prefix))
        Path(place).write_bytes(b"other")

    monkeypatch.setattr("evaluation.extractors.weights.unreachable", lambda host: None)
    monkeypatch.setattr(torch.hub, "download_url_to_file", download)
    with pytest.raises(NotComputed, match=f"hub/checkpoints/weights-{FILE} is not the published Inception file"):
        InceptionV3(allow_download=True)(images(1, 0))
    assert asked == [(f"weights-{FILE}", SHA256_START)]


def test_a_file_that_holds_no_tensors_is_refused_in_one_line(tmp_path: Path) -> None:
    (tmp_path / "x.pth").write_bytes(b"nonsense")
    with pytest.raises(NotComputed, match=r"x.pth is not the published Inception file \(\w+ when read\)$"):
        load_inception(tmp_path / "x.pth")


def test_only_inceptions_distance_is_fid() -> None:
    assert InceptionV3().distance_name == "fid" and InceptionV3.logits
