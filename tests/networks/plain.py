"""The parts of the published U-Nets as plain re-computations, and inputs for them, in float64."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

from networks.unet_ddpm import AttentionBlock, ResBlock


def randomised(module: nn.Module, seed: int = 0) -> nn.Module:
    """Every weight a random number, so that none is without effect; float64."""
    g = torch.Generator().manual_seed(seed)
    for p in module.parameters():
        fan_in = p[0].numel() if p.ndim > 1 else 4
        p.data = torch.randn(p.shape, generator=g, dtype=torch.float64) / math.sqrt(fan_in)
    return module.double().eval()


def draw(*shape: int, seed: int = 1) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def group_norm(layer: nn.GroupNorm, x: Tensor) -> Tensor:
    grouped = x.unflatten(1, (layer.num_groups, -1)).flatten(2)
    centred = grouped - grouped.mean(-1, keepdim=True)
    normed = (centred / (centred.square().mean(-1, keepdim=True) + 1e-6).sqrt()).view(x.shape)
    return normed * layer.weight[:, None, None] + layer.bias[:, None, None]


def silu(x: Tensor) -> Tensor:
    return x / (1 + (-x).exp())


def res_block(block: ResBlock, x: Tensor, emb: Tensor) -> Tensor:
    resample = block.resample
    h = block.conv_1(resample(silu(group_norm(block.norm_1, x))))
    emb = emb @ block.modulation.weight.T + block.modulation.bias
    if block.scale_shift:
        scale, shift = emb[:, : h.shape[1], None, None], emb[:, h.shape[1] :, None, None]
        h = group_norm(block.norm_2, h) * (1 + scale) + shift
    else:
        h = group_norm(block.norm_2, h + emb[..., None, None])
    return (block.skip(resample(x)) + block.conv_2(silu(h))) * block.skip_scale


def attention(block: AttentionBlock, x: Tensor, tokens: Tensor | None, mask: Tensor | None) -> Tensor:
    """softmax(q k / sqrt(width)) v over the positions and the valid tokens, head by head."""
    layer, places = block.attention, group_norm(block.norm, x).flatten(2).mT
    out = torch.zeros_like(places)
    for b in range(len(x)):
        kv = layer.to_kv(places[b])
        if tokens is not None:
            kv = torch.cat([kv, layer.to_context_kv(tokens[b, mask[b]])])
        q, (k, v) = layer.to_q(places[b]), kv.chunk(2, -1)
        for first in range(0, x.shape[1], layer.head_dim):
            part = slice(first, first + layer.head_dim)
            out[b, :, part] = (q[:, part] @ k[:, part].T / math.sqrt(layer.head_dim)).softmax(-1) @ v[:, part]
    return (x + layer.to_out(out).mT.view(x.shape)) * block.skip_scale
