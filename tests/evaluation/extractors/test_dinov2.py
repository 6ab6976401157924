"""DINOv2: a checkpoint of the model that was named, at 224 pixels, and nothing else."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from evaluation.extractors.dinov2 import DINOv2
from evaluation.metrics.base import NotComputed
from tests.evaluation.pixel_features import images

pytestmark = pytest.mark.usefixtures("no_network")


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


def test_a_model_that_timm_does_not_have_is_named() -> None:
    with pytest.raises(ValueError, match="timm has no model 'vit_none_dinov2'"):
        DINOv2("vit_none_dinov2")(images(1, 0))


def test_the_network_sees_224_pixels_as_imagenet_is_normalised() -> None:
    class Whole(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            assert x.shape[-2:] == (224, 224)
            return x.mean((2, 3))

    extractor = DINOv2("vit_small_patch14_dinov2")
    grey = torch.full((1, 3, 8, 8), 255, dtype=torch.uint8)
    expected = (1 - torch.tensor([[0.485, 0.456, 0.406]])) / torch.tensor([[0.229, 0.224, 0.225]])
    torch.testing.assert_close(extractor._features(Whole(), grey), expected, rtol=1e-5, atol=1e-5)
    assert extractor.id == "dinov2_vit_small_patch14"
    assert extractor.resize_rule(8, 16) == "bicubic antialias (8, 16) -> 224, float"
