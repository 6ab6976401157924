"""Attention and the transformer block against a plain re-computation in float64, written from the papers."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor, nn

from networks.attention import Attention, TransformerBlock, attend

B, N, L, DIM, TEXT, HEAD = 2, 5, 4, 16, 12, 8
MASK = torch.tensor([[True, True, False, False], [True, True, True, True]])


def randomised(module: nn.Module, seed: int = 0) -> nn.Module:
    """Every weight a random number, so that none is without effect; float64."""
    g = torch.Generator().manual_seed(seed)
    for p in module.parameters():
        p.data = torch.randn(p.shape, generator=g, dtype=torch.float64) / math.sqrt(p.shape[-1])
    return module.double()


def inputs() -> tuple[Tensor, Tensor, Tensor]:
    g = torch.Generator().manual_seed(1)
    shapes = ((B, N, DIM), (B, L, TEXT), (B, 20))
    return tuple(torch.randn(shape, generator=g, dtype=torch.float64) for shape in shapes)


def by_hand(layer: Attention, x: Tensor, context: Tensor | None = None, mask: Tensor | None = None) -> Tensor:
    """One softmax a head and query over the image's own positions, then the words; queries and keys of RMS 1."""
    q, keys, values = layer.to_q(x), [], []
    for source, projection in ((x, layer.to_kv), (context, layer.to_context_kv)):
        if projection is not None:
            kv = projection(source)
            keys.append(kv[..., :DIM])
            values.append(kv[..., DIM:])
    k, v = torch.cat(keys, 1), torch.cat(values, 1)
    own = x.shape[1] if layer.to_kv is not None else 0
    out = torch.zeros_like(q)
    for b in range(len(x)):
        heard = [j for j in range(k.shape[1]) if j < own or mask is None or mask[b, j - own]]
        for first in range(0, DIM, HEAD):
            part = slice(first, first + HEAD)
            for i in range(x.shape[1]):
                query = q[b, i, part] / q[b, i, part].square().mean().sqrt() * layer.q_scale
                logits = torch.stack(
                    [(query * k[b, j, part] / k[b, j, part].square().mean().sqrt() * layer.k_scale).sum() for j in heard]
                )
                weights = torch.softmax(logits / math.sqrt(HEAD), 0)
                out[b, i, part] = sum(w * v[b, j, part] for w, j in zip(weights, heard))
    return layer.to_out(out)


@pytest.mark.parametrize("mask", [None, MASK])
@pytest.mark.parametrize(("context_dim", "attend_self"), [(None, True), (TEXT, True), (TEXT, False)])
def test_attention_is_its_definition(context_dim: int | None, attend_self: bool, mask: Tensor | None) -> None:
    layer = randomised(Attention(DIM, context_dim=context_dim, head_dim=HEAD, attend_self=attend_self))
    x, context, _ = inputs()
    text = (context, mask) if context_dim else (None, mask)
    torch.testing.assert_close(layer(x, *text), by_hand(layer, x, *text), rtol=1e-6, atol=1e-6)


def test_without_norms_and_with_biases_it_is_the_published_attention() -> None:
    layer = randomised(Attention(DIM, context_dim=TEXT, head_dim=HEAD, bias=True, qk_norm=False))
    assert layer.q_scale is None and all(p.bias is not None for p in (layer.to_q, layer.to_kv, layer.to_context_kv))
    x, context, _ = inputs()
    for b in range(B):
        kv = torch.cat([layer.to_kv(x[b]), layer.to_context_kv(context[b, MASK[b]])])
        q, (k, v) = layer.to_q(x[b]), kv.split(DIM, -1)
        parts = [slice(first, first + HEAD) for first in range(0, DIM, HEAD)]
        out = torch.cat([(q[:, p] @ k[:, p].T / math.sqrt(HEAD)).softmax(-1) @ v[:, p] for p in parts], -1)
        torch.testing.assert_close(layer(x, context, MASK)[b], layer.to_out(out), rtol=1e-6, atol=1e-6)
    plain = Attention(DIM, head_dim=HEAD)
    assert plain.to_q.bias is None and plain.q_scale is not None


def test_heads_may_be_wider_than_the_input() -> None:
    layer = randomised(Attention(DIM, head_dim=HEAD, inner_dim=3 * HEAD, qk_norm=False))
    x, _, _ = inputs()
    q, (k, v) = layer.to_q(x), layer.to_kv(x).split(3 * HEAD, -1)
    parts = [slice(first, first + HEAD) for first in range(0, 3 * HEAD, HEAD)]
    out = torch.cat([(q[..., p] @ k[..., p].mT / math.sqrt(HEAD)).softmax(-1) @ v[..., p] for p in parts], -1)
    torch.testing.assert_close(layer(x), layer.to_out(out), rtol=1e-6, atol=1e-6)
    with pytest.raises(ValueError, match="inner_dim=20 is not a multiple of head_dim=8"):
        Attention(DIM, head_dim=HEAD, inner_dim=20)


@pytest.mark.parametrize("positions", [4, 600])
def test_both_ways_to_attend_are_softmax_attention(positions: int) -> None:
    """Short sequences go through plain products, long ones through torch's kernel."""
    g = torch.Generator().manual_seed(0)
    q, k, v = (torch.randn(2, 3, n, 8, dtype=torch.float64, generator=g) * 4 for n in (3, positions, positions))
    mask = torch.rand(2, 1, 1, positions, generator=g) > 0.3
    mask[..., 0] = True
    logits = torch.einsum("bhid,bhjd->bhij", q, k) / math.sqrt(8)
    weights = logits.masked_fill(~mask, -math.inf).softmax(-1)
    torch.testing.assert_close(attend(q, k, v, mask), weights @ v)
    torch.testing.assert_close(attend(q, k, v), logits.softmax(-1) @ v)


@pytest.mark.parametrize(("dtype", "keys", "fused"), [
    (torch.float32, 63, False), (torch.float32, 64, True), (torch.bfloat16, 512, False), (torch.bfloat16, 513, True),
])  # fmt: skip
def test_torchs_kernel_is_used_where_it_is_quicker(dtype: torch.dtype, keys: int, fused: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    used, kernel = [], torch.nn.functional.scaled_dot_product_attention
    monkeypatch.setattr("networks.attention.F.scaled_dot_product_attention", lambda *a, **k: used.append(1) or kernel(*a, **k))
    attend(*(torch.zeros(1, 1, n, 8, dtype=dtype) for n in (2, keys, keys)))
    assert bool(used) == fused


def test_a_masked_word_counts_for_nothing_however_loud() -> None:
    q, k = torch.zeros(1, 1, 1, 4), torch.zeros(1, 1, 2, 4)
    q[..., 0], k[..., 1, 0] = 8, 8  # the masked word's logit is 32, the other's 0
    v = torch.tensor([[1.0] * 4, [2.0] * 4]).view(1, 1, 2, 4)
    mask = torch.tensor([True, False]).view(1, 1, 1, 2)
    torch.testing.assert_close(attend(q, k, v, mask), torch.ones(1, 1, 1, 4))


def test_logits_stay_bounded_whatever_the_weights() -> None:
    layer = randomised(Attention(DIM, head_dim=HEAD))
    x, _, _ = inputs()
    out = layer(x)
    layer.to_q.weight.data *= 1000
    torch.testing.assert_close(layer(x), out, rtol=1e-6, atol=1e-6)
    layer.to_kv.weight.data[:DIM] *= 1000
    torch.testing.assert_close(layer(x), out, rtol=1e-6, atol=1e-6)


def normed(x: Tensor) -> Tensor:
    return (x - x.mean(-1, keepdim=True)) / (x.var(-1, unbiased=False, keepdim=True) + 1e-5).sqrt()


def test_a_modulated_block_is_its_definition() -> None:
    block = randomised(TransformerBlock(DIM, emb_dim=20, context_dim=TEXT, head_dim=HEAD, ff_mult=2))
    x, context, emb = inputs()
    scale_1, shift_1, gate_1, scale_2, shift_2, gate_2 = block.modulation(emb)[:, None].split(DIM, -1)
    h = x + (1 + gate_1) * by_hand(block.attention, normed(x) * (1 + scale_1) + shift_1, context, MASK)
    h = h + (1 + gate_2) * block.ff(normed(h) * (1 + scale_2) + shift_2)
    torch.testing.assert_close(block(x, emb, context, MASK), h, rtol=1e-6, atol=1e-6)


def test_a_plain_block_is_its_definition() -> None:
    block = randomised(TransformerBlock(DIM, context_dim=TEXT, head_dim=HEAD))
    x, context, _ = inputs()
    h = x + by_hand(block.attention, normed(x) * block.norm_1.weight + block.norm_1.bias, context, MASK)
    h = h + block.ff(normed(h) * block.norm_2.weight + block.norm_2.bias)
    torch.testing.assert_close(block(x, None, context, MASK), h, rtol=1e-6, atol=1e-6)


def test_at_the_start_the_embedding_changes_nothing_and_both_branches_are_open() -> None:
    torch.manual_seed(0)
    block = TransformerBlock(DIM, emb_dim=20, head_dim=HEAD).double()
    x, _, emb = inputs()
    out = block(x, emb)
    assert torch.equal(block(x, -3 * emb), out)
    h = x + block.attention(normed(x))
    torch.testing.assert_close(out, h + block.ff(normed(h)), rtol=1e-6, atol=1e-6)


def test_widths_that_do_not_fit_are_refused() -> None:
    with pytest.raises(ValueError, match="dim=20 is not a multiple of head_dim=8"):
        Attention(20, head_dim=8)
    with pytest.raises(ValueError, match="attend_self=False needs a context_dim"):
        Attention(16, head_dim=8, attend_self=False)


def test_pure_cross_attention_ignores_other_positions():
    layer = Attention(16, context_dim=12, head_dim=8, attend_self=False)
    x, context = torch.randn(1, 4, 16), torch.randn(1, 5, 12)
    out = layer(x, context)
    x_changed = torch.cat([x[:, :1], torch.randn(1, 3, 16)], dim=1)
    torch.testing.assert_close(layer(x_changed, context)[:, 0], out[:, 0])
