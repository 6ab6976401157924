"""Extractors that need weights from elsewhere: the loading code on stand-ins, and refusals in one line and at once."""

from __future__ import annotations

import time
from pathlib import Path

import pytest
import torch
from torch import nn

from evaluation.extractors import inception as inception_file
from evaluation.extractors import weights as weights_file
from evaluation.extractors.base import file_sha256
from evaluation.extractors.classifier import ClassifierFeatures
from evaluation.extractors.dinov2 import DINOv2
from evaluation.extractors.inception import FILE, InceptionV3, load_inception
from evaluation.extractors.open_clip import OpenCLIP
from evaluation.metrics.base import NotComputed
from evaluation.metrics.frechet import FrechetDistance
from evaluation.metrics.inception_score import InceptionScore
from runtime.build import instantiate
from runtime.config import compose
from tests.evaluation.pixel_features import images


@pytest.fixture(autouse=True)
def no_network(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """An empty cache, and an address that nothing answers on."""
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    monkeypatch.setattr(torch.hub, "get_dir", lambda: str(tmp_path / "hub"))
    monkeypatch.setattr(weights_file, "hub_cached", lambda repo, names: None)
    for module in ("open_clip", "dinov2"):
        monkeypatch.setattr(f"evaluation.extractors.{module}.hub_cached", lambda repo, names: None)


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


@pytest.mark.parametrize(
    ("make", "what", "node"),
    [
        (InceptionV3, "Inception", "inception"),
        (OpenCLIP, "open_clip ViT-B-32/laion2b_s34b_b79k", "extractor"),
        (DINOv2, "timm vit_large_patch14_dinov2", "extractor"),
    ],
)
def test_without_weights_it_says_so_at_once_in_one_line(make, what: str, node: str) -> None:
    began = time.monotonic()
    with pytest.raises(NotComputed) as asked:
        make()(images(1, 0))
    assert str(asked.value) == (
        f"no {what} weights in the local cache: pass {node}.weights=FILE, "
        f"or allow the download with {node}.allow_download=true"
    )
    with pytest.raises(NotComputed) as offline:
        make(allow_download=True)(images(1, 0))
    assert f"no {what} weights in the local cache and no download (" in str(offline.value)
    with pytest.raises(NotComputed, match=f"nowhere.bin is not there: pass {node}.weights=FILE"):
        make(weights="nowhere.bin")(images(1, 0))
    assert time.monotonic() - began < 30  # packages are imported here for the first time


def test_a_host_that_does_not_answer_is_given_up_within_two_seconds(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("HF_HUB_OFFLINE")
    monkeypatch.setattr(weights_file.urllib.request, "urlopen", lambda url, timeout: time.sleep(20))
    began = time.monotonic()
    assert "does not answer" in weights_file.unreachable("https://example.invalid")
    assert time.monotonic() - began < 5

    def refused(url: str, timeout: float) -> None:
        raise OSError("connection refused\nand more")

    monkeypatch.setattr(weights_file.urllib.request, "urlopen", refused)
    assert weights_file.unreachable("https://x.invalid") == "https://x.invalid: connection refused"


def test_a_failed_download_is_one_line(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(weights_file, "unreachable", lambda host: None)

    def download() -> Path:
        raise RuntimeError("disk full\nTraceback ...")

    with pytest.raises(NotComputed, match=r"no download \(disk full\): pass extractor.weights=FILE$"):
        weights_file.find_weights("x", None, lambda: None, download, True, "host")
    assert weights_file.find_weights("x", None, lambda: None, lambda: Path("got"), True, "host") == Path("got")
    with pytest.raises(NotComputed):
        weights_file.find_weights("x", None, lambda: None, lambda: Path("got"), False, "host")


@pytest.mark.slow
def test_open_clip_reads_a_checkpoint_of_its_model(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import open_clip

    monkeypatch.setattr("evaluation.extractors.base.BLOCK", 2)
    torch.manual_seed(0)
    model = open_clip.create_model("ViT-B-32", pretrained=None)
    torch.save(model.state_dict(), path := tmp_path / "clip.pt")
    extractor = OpenCLIP(weights=str(path))
    batch = images(2, 0, side=16)
    found = extractor(batch)
    assert found.shape == (2, 512) and extractor.distance_name == "fd_clip_vit_b_32_laion2b_s34b_b79k"
    assert extractor.describe()["extractor_sha256"] == file_sha256(path)
    from PIL import Image

    # At the network's own size nothing is resized: our normalisation and pass are open_clip's.
    whole = images(2, 1, side=224)
    transform = open_clip.image_transform(224, is_train=False, interpolation="bicubic")
    theirs = torch.stack([transform(Image.fromarray(i.permute(1, 2, 0).numpy())) for i in whole])
    with torch.no_grad():
        torch.testing.assert_close(extractor(whole), model.eval().encode_image(theirs), rtol=1e-4, atol=1e-4)
    path.write_bytes(b"damaged")
    with pytest.raises(NotComputed, match="no checkpoint of open_clip's ViT-B-32"):
        OpenCLIP(weights=str(path))(images(2, 5, side=16))


def test_open_clip_names_the_tags_there_are() -> None:
    with pytest.raises(ValueError, match="no weights 'nope' of 'ViT-B-32'; there are openai"):
        OpenCLIP(pretrained="nope")(images(1, 0))


@pytest.mark.slow
def test_dinov2_reads_a_checkpoint_of_its_model(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import timm

    monkeypatch.setattr("evaluation.extractors.base.BLOCK", 2)
    torch.manual_seed(0)
    model = timm.create_model("vit_small_patch14_dinov2", pretrained=False, img_size=518, num_classes=0)
    torch.save(model.state_dict(), path := tmp_path / "dino.pth")
    extractor = DINOv2("vit_small_patch14_dinov2", weights=str(path))
    found = extractor(images(2, 0, side=16))
    assert found.shape == (2, 384) and extractor.distance_name == "fd_dinov2_vit_small_patch14"
    own = extractor._net.net
    assert own.pos_embed.shape[1] == 1 + 16 * 16 and model.pos_embed.shape[1] == 1 + 37 * 37  # resampled to 224 pixels
    weight = model.state_dict()["blocks.3.mlp.fc1.weight"]
    assert torch.equal(own.state_dict()["blocks.3.mlp.fc1.weight"], weight)
    path.write_bytes(b"damaged")
    with pytest.raises(NotComputed, match="no checkpoint of timm's vit_small"):
        DINOv2("vit_small_patch14_dinov2", weights=str(path))(images(1, 9, side=16))


def test_dinov2_refuses_another_model() -> None:
    with pytest.raises(ValueError, match="is no DINOv2"):
        DINOv2("resnet50")


class Grey(nn.Module):
    """What a trained classifier offers."""

    channels = 1

    def features(self, image: torch.Tensor) -> torch.Tensor:
        assert image.shape[1] == 1 and -1 <= image.min() and image.max() <= 1
        if image.shape[-1] != 4:
            raise ValueError("the classifier was trained on images (1, 4, 4)")
        return image.flatten(1)

    def logits(self, image: torch.Tensor) -> torch.Tensor:
        return 3 * image.flatten(1)[:, :10]


def test_classifier_gives_features_and_classes_of_grey_images() -> None:
    extractor = ClassifierFeatures(lambda ckpt: (Grey(), None, {"sha256": "ab" * 32}), ckpt="runs/x", id="digits")
    grey = images(3, 0)[:, :1]
    torch.testing.assert_close(extractor(grey), grey.flatten(1).float() / 127.5 - 1)
    torch.testing.assert_close(extractor(grey.expand(-1, 3, -1, -1)), extractor(grey))
    assert extractor.probabilities(grey).shape == (3, 10)
    assert FrechetDistance(extractor).name == "fd_digits" and InceptionScore(extractor).name == "is_digits"
    assert extractor.describe()["extractor_sha256"] == "ab" * 32
    with pytest.raises(NotComputed, match="trained on grey images"):
        extractor(images(2, 1))
    with pytest.raises(NotComputed, match="trained on images"):
        extractor(images(2, 1, side=8)[:, :1])


def test_classifier_that_is_none_is_not_computed() -> None:
    def missing(ckpt: str) -> None:
        raise FileNotFoundError(f"ckpt={ckpt}: no such file")

    with pytest.raises(NotComputed, match="no classifier is named: train one .* classifier.ckpt=RUN"):
        ClassifierFeatures(missing)(images(1, 0))
    with pytest.raises(NotComputed, match="cannot be had: ckpt=nowhere: no such file"):
        ClassifierFeatures(missing, ckpt="nowhere")(images(1, 0))
    with pytest.raises(NotComputed, match="is no classifier"):
        ClassifierFeatures(lambda ckpt: (nn.Identity(), None, {"sha256": ""}), ckpt="runs/x")(images(1, 0))


def test_extractors_without_classes_have_no_score() -> None:
    with pytest.raises(NotComputed, match="has no classes: use extractor=inception or extractor=classifier"):
        OpenCLIP().probabilities(images(1, 0))


@pytest.mark.parametrize("name", ["efficientnet_lite0", "inception", "open_clip", "dinov2", "classifier"])
def test_every_extractor_can_be_chosen(name: str) -> None:
    cfg = compose("evaluate", [f"extractor={name}"])
    evaluator = instantiate(cfg.evaluator.fd)
    assert evaluator.extractor.cache.folder.name == "features"
    assert evaluator.name == evaluator.extractor.distance_name and (evaluator.name == "fid") == (name == "inception")


def test_a_classifiers_metrics_load_it_by_its_run() -> None:
    cfg = compose("evaluate", ["evaluator=classifier", "classifier.ckpt=no_such_run"])
    evaluator = instantiate(cfg.evaluator.is_classifier)
    assert instantiate(cfg.evaluator.fd_classifier).extractor.ckpt == "no_such_run"
    with pytest.raises(NotComputed, match="ckpt=no_such_run: no such file, run or name"):
        evaluator.extractor(images(1, 0))
