"""What tells the net the noise level and the text, against a plain re-computation in float64."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor, nn

from networks.conditioning import LevelEmbedding, TextConditioner
from tests.networks.test_attention import normed, randomised

MASK = torch.tensor([[True, True, False, False], [True, True, True, True], [True, False, False, False]])


def text() -> Tensor:
    return 3 * torch.randn(3, 4, 12, dtype=torch.float64, generator=torch.Generator().manual_seed(0)) + 1


def test_levels_are_sines_and_cosines_of_frequencies_over_the_range() -> None:
    layer = LevelEmbedding(6, scale=20.0, num_frequencies=5)
    layer.mlp = nn.Identity()
    level = torch.tensor([-20.0, -3.7, 0.0, 11.0])
    frequencies = [0.25 * 64 ** (i / 4) for i in range(5)]  # cycles over a range of 1: 0.25 to 16, even in the logarithm
    angles = [[2 * math.pi * f * float(x) / 20 for f in frequencies] for x in level]
    expected = torch.tensor([[*map(math.sin, row), *map(math.cos, row)] for row in angles])
    torch.testing.assert_close(layer(level), expected, rtol=0, atol=1e-4)


def test_neighbouring_levels_differ_in_half_precision_too() -> None:
    layer = LevelEmbedding(6, scale=20.0)
    layer.mlp = nn.Identity()
    near = layer(torch.tensor([10.0, 10.01]))
    assert (near[0] - near[1]).abs().max() > 0.04


def test_the_embedding_is_a_perceptron_of_the_waves() -> None:
    layer = LevelEmbedding(6, scale=1.0)
    assert "frequencies" not in layer.state_dict()
    assert [type(m).__name__ for m in layer.mlp] == ["Linear", "SiLU", "Linear"] and layer(torch.rand(3)).shape == (3, 6)


def test_without_layers_tokens_are_normalised_projected_and_pooled_by_attention() -> None:
    net = randomised(TextConditioner(12, 16, 10, head_dim=8))
    context, pooled = net(text(), MASK)
    tokens = net.project(normed(text()) * net.norm_in.weight + net.norm_in.bias)
    tokens = normed(tokens) * net.norm_out.weight + net.norm_out.bias
    torch.testing.assert_close(context, tokens)
    for b, (row, mask) in enumerate(zip(tokens, MASK)):
        real = row[mask]
        weights = torch.softmax(net.pool_logit(real)[:, 0].float(), 0).double()
        expected = net.pool_out((weights[:, None] * real).sum(0))
        torch.testing.assert_close(pooled[b], expected, rtol=1e-5, atol=1e-6)


def test_layers_see_positions_and_real_tokens_and_normalise_first() -> None:
    net = randomised(TextConditioner(12, 16, 10, num_layers=1, head_dim=8, max_length=6))
    context, _ = net(text(), MASK)
    tokens = net.project(normed(text()) * net.norm_in.weight + net.norm_in.bias) + net.position[:4]
    layer = net.layers[0]

    def norm(module: nn.LayerNorm, x: Tensor) -> Tensor:
        return normed(x) * module.weight + module.bias

    for b, mask in enumerate(MASK):
        x = tokens[b, mask]
        qkv = norm(layer.norm1, x) @ layer.self_attn.in_proj_weight.T + layer.self_attn.in_proj_bias
        q, k, v = (part.unflatten(-1, (2, 8)).transpose(0, 1) for part in qkv.chunk(3, -1))
        heads = (q @ k.mT / math.sqrt(8)).softmax(-1) @ v
        x = x + layer.self_attn.out_proj(heads.transpose(0, 1).flatten(1))
        x = x + layer.linear2(nn.functional.gelu(layer.linear1(norm(layer.norm2, x))))
        torch.testing.assert_close(context[b, mask], norm(net.norm_out, x), rtol=1e-5, atol=1e-6)


def test_the_longest_caption_fits_and_a_longer_one_is_refused() -> None:
    net = randomised(TextConditioner(12, 16, 10, num_layers=1, head_dim=8, max_length=4))
    assert net(text(), MASK)[0].shape == (3, 4, 16)
    with pytest.raises(ValueError, match="a caption of 5 tokens is longer than the 4"):
        net(torch.zeros(1, 5, 12, dtype=torch.float64), torch.ones(1, 5, dtype=torch.bool))
