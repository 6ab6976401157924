"""Encoders and decoders: shapes at any size, mirrored resolutions, no mixing of images, one-line refusals."""

from __future__ import annotations

import pytest
import torch

from networks.autoencoder import ConvDecoder, ConvEncoder, MLPDecoder, MLPEncoder, sides
from networks.resample import UPSAMPLE_KINDS

CONV = {"dims": (8, 16, 24)}
RESIDUAL = {**CONV, "num_res_blocks": 1}
ENCODERS = [(MLPEncoder, {"hidden": (32,)}), (MLPEncoder, {"hidden": ()}), (ConvEncoder, CONV), (ConvEncoder, RESIDUAL)]
DECODERS = [
    (MLPDecoder, {"hidden": (32,)}),
    (MLPDecoder, {"hidden": ()}),
    (ConvDecoder, RESIDUAL),
    *((ConvDecoder, {**CONV, "upsample": kind}) for kind in UPSAMPLE_KINDS),
]


def awake(net: torch.nn.Module) -> torch.nn.Module:
    """Residual blocks start as the identity; here they do something."""
    for name, weight in net.named_parameters():
        if name.endswith("conv_2.weight"):
            torch.nn.init.normal_(weight, std=0.1)
    return net


@pytest.mark.parametrize(("size", "channels"), [(28, 1), (32, 3), (15, 1), (1, 3)])
@pytest.mark.parametrize(("kind", "arguments"), ENCODERS)
def test_encoders_take_any_size(kind, arguments, size: int, channels: int) -> None:
    assert kind(size, channels, 7, **arguments)(torch.randn(3, channels, size, size)).shape == (3, 7)


@pytest.mark.parametrize(("size", "channels"), [(28, 1), (32, 30), (15, 2), (1, 3)])
@pytest.mark.parametrize(("kind", "arguments"), DECODERS)
def test_decoders_give_any_size_and_any_number_of_channels(kind, arguments, size: int, channels: int) -> None:
    assert kind(size, channels, 5, **arguments)(torch.randn(3, 5)).shape == (3, channels, size, size)


def test_resolutions_round_up_on_the_way_down_and_are_cut_on_the_way_up() -> None:
    assert sides(28, 3) == [28, 14, 7, 4] and sides(32, 3) == [32, 16, 8, 4] and sides(15, 2) == [15, 8, 4]
    decoder = ConvDecoder(28, 1, 5, dims=(24, 16, 8))
    assert decoder.shape == (24, 4, 4) and decoder.sides == [7, 14, 28]
    assert ConvEncoder(28, 1, 5, dims=(8, 16, 24)).head.in_features == 24 * 4 * 4


@pytest.mark.parametrize(("kind", "arguments"), ENCODERS)
def test_an_image_is_encoded_alone(kind, arguments) -> None:
    image, net = torch.randn(6, 1, 28, 28), awake(kind(28, 1, 4, **arguments))
    assert torch.allclose(net.train()(image)[2:3], net.eval()(image[2:3]), atol=1e-5)


@pytest.mark.parametrize(("kind", "arguments"), DECODERS)
def test_a_latent_is_decoded_alone(kind, arguments) -> None:
    z, net = torch.randn(6, 4), awake(kind(13, 2, 4, **arguments))
    assert torch.allclose(net.train()(z)[2:3], net.eval()(z[2:3]), atol=1e-5)


@pytest.mark.parametrize(("kind", "arguments"), ENCODERS + DECODERS)
def test_every_part_is_used(kind, arguments) -> None:
    net = awake(kind(28, 1, 4, **arguments))
    given = torch.randn(4, 4) if "Decoder" in kind.__name__ else torch.randn(4, 1, 28, 28)
    net(given).square().sum().backward()
    assert all(p.grad is not None and p.grad.any() for p in net.parameters())


def test_channels_last_changes_no_number() -> None:
    image, z = torch.randn(2, 3, 20, 20), torch.randn(2, 4)
    encoder, decoder = awake(ConvEncoder(20, 3, 4, **RESIDUAL)), awake(ConvDecoder(20, 3, 4, **RESIDUAL))
    expected = encoder(image), decoder(z)
    last = torch.channels_last
    found = encoder.to(memory_format=last)(image.to(memory_format=last)), decoder.to(memory_format=last)(z)
    assert all(torch.allclose(a, b, atol=1e-5) for a, b in zip(expected, found))


def test_no_hidden_layer_is_a_linear_map() -> None:
    encoder, decoder = MLPEncoder(6, 2, 3, hidden=()), MLPDecoder(6, 2, 3, hidden=())
    a, b = torch.randn(2, 5, 2, 6, 6)
    middle = decoder(encoder((a + b) / 2))
    assert torch.allclose(middle, (decoder(encoder(a)) + decoder(encoder(b))) / 2, atol=1e-6)
    assert len(list(encoder.parameters())) == 2 and len(MLPEncoder(6, 2, 3).net) == 3  # one hidden layer


@pytest.mark.parametrize("latent_dim", [0, -1, 2.5, True, None])
@pytest.mark.parametrize("kind", [MLPDecoder, ConvDecoder])
def test_a_latent_without_dimensions_is_refused(kind, latent_dim) -> None:
    with pytest.raises(ValueError, match=r"^model\.latent_dim=.* must be a whole number of at least 1$"):
        kind(28, 1, latent_dim)


def test_other_sizes_that_cannot_be_are_refused() -> None:
    for make in (
        lambda: MLPEncoder(28, 1, 0),
        lambda: ConvEncoder(28, 1, 0),
        lambda: MLPEncoder(28, 1, 2, hidden=(64, 0)),
        lambda: ConvEncoder(0, 1, 2),
        lambda: ConvDecoder(28, 0, 2),
    ):
        with pytest.raises(ValueError, match="must be a whole number of at least 1"):
            make()
    for dims in ((), (32, 12), (0,)):
        with pytest.raises(ValueError, match=r"dims=.* must be one or more multiples of 8"):
            ConvEncoder(28, 1, 2, dims=dims)
    with pytest.raises(ValueError, match="upsample='nearest' is not known: choose one of repetition"):
        ConvDecoder(28, 1, 2, upsample="nearest")


def test_a_convolutional_pair_is_its_formula() -> None:
    encoder, image = awake(ConvEncoder(8, 1, 3, dims=(8, 16), num_res_blocks=1)), torch.randn(4, 1, 8, 8)
    x = image
    for down, blocks, norm in zip(encoder.down, encoder.blocks, encoder.norms):
        h = norm(blocks(down(x)))
        x = h * h.sigmoid()
    assert torch.allclose(encoder(image), encoder.head(x.flatten(1)), atol=1e-5)
    decoder, z = awake(ConvDecoder(8, 2, 3, dims=(16, 8), num_res_blocks=1)), torch.randn(4, 3)
    x = decoder.stem(z).view(4, 16, 2, 2)
    for blocks, norm, up in zip(decoder.blocks, decoder.norms, decoder.up):
        h = norm(blocks(x))
        x = up(h * h.sigmoid())
    assert torch.allclose(decoder(z), x, atol=1e-5)


def test_a_hidden_layer_bends() -> None:
    encoder, image = MLPEncoder(2, 1, 3, hidden=(8,)), torch.randn(4, 1, 2, 2)
    first, _, last = encoder.net
    h = first(image.flatten(1))
    assert torch.allclose(encoder(image), last(h * h.sigmoid()), atol=1e-6)
