"""What a CLIP tower is shown: the whole image, in its size, clamped, normalised per channel; and whose weights it has."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from evaluation.extractors.base import file_sha256
from evaluation.extractors.open_clip import OpenCLIP, resized
from evaluation.metrics.base import NotComputed
from tests.evaluation.pixel_features import images

pytestmark = pytest.mark.usefixtures("no_network")

MEAN, STD = (0.5, 0.4, 0.3), (0.1, 0.2, 0.5)


def test_an_image_of_the_right_size_is_only_normalised() -> None:
    image = torch.randint(256, (2, 3, 8, 8), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    found = resized(image, 8, MEAN, STD)
    back = found * torch.tensor(STD).view(1, 3, 1, 1) + torch.tensor(MEAN).view(1, 3, 1, 1)
    torch.testing.assert_close(back * 255, image.float(), rtol=0, atol=1e-3)


def test_enlarging_stays_between_black_and_white() -> None:
    edge = torch.zeros(1, 3, 4, 4, dtype=torch.uint8)
    edge[..., 2:] = 255  # bicubic would overshoot here
    found = resized(edge, 16, (0.0,) * 3, (1.0,) * 3)
    assert found.shape == (1, 3, 16, 16) and found.min() == 0 and found.max() == 1


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
