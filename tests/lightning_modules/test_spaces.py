"""What a stage diffuses: pixels, latents of a frozen autoencoder, embeddings."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from lightning_modules.spaces import Embeddings, Latents, Pixels, Space, enlarge, reduce


def test_reducing_averages_blocks_and_enlarging_interpolates() -> None:
    image = torch.tensor([[0.0, 4.0, 1.0, 1.0], [8.0, 0.0, 1.0, 5.0]]).repeat(2, 1).view(1, 1, 4, 4)
    assert reduce(image, 2).flatten().tolist() == [3, 2, 3, 2]
    assert reduce(image, 4) is image
    grown = enlarge(torch.tensor([[0.0, 4.0], [0.0, 4.0]]).view(1, 1, 2, 2), 4)
    assert grown[0, 0, 0].tolist() == [0, 1, 3, 4]  # pixel centres, not corners
    image = torch.rand(2, 3, 16, 16)
    torch.testing.assert_close(reduce(image, 8)[0, 0, 0, 0], image[0, 0, :2, :2].mean())
    assert enlarge(image, 32).shape == (2, 3, 32, 32)
    with pytest.raises(ValueError, match="16 pixels cannot be reduced to a stage's 7"):
        reduce(image, 7)


def test_pixels_are_averaged_down_and_draws_are_clamped() -> None:
    space, image = Pixels(8, 1), torch.rand(2, 1, 16, 16) * 2 - 1
    assert (space.shape, space.image_size, space.bounded) == ((1, 8, 8), 8, True)
    assert torch.equal(space.encode({"image": image}), reduce(image, 8))
    assert torch.equal(space.decode(torch.tensor([-1.5, -0.5, 2.0])), torch.tensor([-1.0, -0.5, 1.0]))
    assert Pixels(8).shape == (3, 8, 8)
    for size in (0, 8.0, "8"):
        with pytest.raises(ValueError, match=f"image_size={size}: give a whole number"):
            Pixels(size)


class Doubling(nn.Module):
    """An autoencoder whose latents are the first two pixels, doubled."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.tensor(2.0))
        self.dropout = nn.Dropout(0.9)
        self.moved: list[torch.device] = []

    @property
    def device(self) -> torch.device:
        return self.weight.device

    def to(self, device: torch.device) -> Doubling:
        self.moved.append(device)
        return super().to(device)

    latent_dim = 2
    moments = torch.zeros(2), torch.ones(2)

    def latent_moments(self) -> tuple[Tensor, Tensor]:
        return self.moments

    def encode_latents(self, image: Tensor) -> Tensor:
        return self.dropout(self.weight * image.flatten(1)[:, :2])

    def generate(self, z: Tensor) -> Tensor:
        return (z / self.weight).view(-1, 2, 1, 1)


def latents(mean: float = 0.0, std: float = 1.0, **options: Any) -> tuple[Latents, Doubling, list[str]]:
    """A space over the stand-in, the stand-in, and what was asked for loading it."""
    model, asked = Doubling(), []
    model.moments = torch.full((2,), mean), torch.full((2,), std)

    def load(ckpt: str) -> tuple[Doubling, None, dict[str, str]]:
        asked.append(ckpt)
        return model, None, {"sha256": "abc"}

    return Latents(**dict(ckpt="run", load=load, latent_dim=2, image_size=1) | options), model, asked


def test_latents_are_those_of_a_frozen_autoencoder_shifted_and_scaled() -> None:
    space, model, asked = latents(0.5, 4.0)
    assert asked == [], "loaded with the first batch"
    image = torch.tensor([[1.0, 3.0], [0.5, -0.5]]).view(2, 2, 1, 1)
    x_0 = space.encode({"image": image})
    torch.testing.assert_close(x_0, (2 * image.flatten(1) - 0.5) / 4)
    torch.testing.assert_close(space.decode(x_0), image)
    assert asked == ["run"] and space.identity == "abc"
    assert (space.shape, space.image_size, space.bounded) == ((2,), 1, False)
    assert not model.training and not any(p.requires_grad for p in model.parameters()) and not x_0.requires_grad
    assert not isinstance(space, nn.Module), "its weights are in no checkpoint of the model"


def test_the_autoencoder_follows_the_batch() -> None:
    space, model, _ = latents()
    meta = torch.device("meta")
    space.encode({"image": torch.zeros(1, 2, 1, 1)})
    assert model.moved == []
    assert space.encode({"image": torch.zeros(1, 2, 1, 1, device=meta)}).device == meta
    assert space.decode(torch.zeros(1, 2, device=meta)).device == meta and model.moved == [meta]


def test_what_has_no_latents_or_others_is_refused_by_name() -> None:
    with pytest.raises(ValueError, match="give space.ckpt=RUN"):
        latents(ckpt=None)
    with pytest.raises(ValueError, match="space.latent_dim=3: the model in run has latents of 2 numbers"):
        latents(latent_dim=3)[0].encode({"image": torch.zeros(1, 2, 1, 1)})
    with pytest.raises(ValueError, match="space.ckpt=run: Linear has no latents"):
        latents(load=lambda ckpt: (nn.Linear(1, 1), None, {}))[0].encode({"image": torch.zeros(1, 2, 1, 1)})


def test_embeddings_are_scaled_to_the_spread_of_pixels_and_never_clamped() -> None:
    embeds = torch.randn(64, 1024, generator=torch.Generator().manual_seed(0)) * 3
    space = Embeddings(1024)
    x_0 = space.encode({"image_embeds": embeds})
    torch.testing.assert_close(x_0, 0.54 * 32 * F.normalize(embeds, dim=1))
    assert x_0.std().item() == pytest.approx(0.54, abs=0.01) and space.scale == pytest.approx(17.28)
    assert (space.shape, space.image_size, space.bounded) == ((1024,), None, False)
    torch.testing.assert_close(space.decode(3 * x_0), F.normalize(embeds, dim=1))
    given = Embeddings(4, scale=5.0, embed=lambda batch: batch["image"].flatten(1)).encode({"image": torch.ones(1, 4, 1, 1)})
    torch.testing.assert_close(given, torch.full((1, 4), 2.5))


def test_a_space_without_its_two_directions_is_not_finished() -> None:
    for call in (lambda: Space().encode({}), lambda: Space().decode(torch.zeros(1))):
        with pytest.raises(NotImplementedError):
            call()
    assert not Space.bounded and Space.image_size is None
