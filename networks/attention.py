"""Attention of image positions on each other and on text, and the transformer block built from it."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

FEW_KEYS = {torch.bfloat16: 512, torch.float32: 63}  # up to which a CPU attends by plain products


class Attention(nn.Module):
    """Multi-head attention whose keys and values are the input itself, a context, or both side by side.

    Imagen concatenates the text's keys and values to those of the image's self-attention: one softmax decides how much
    a position listens to other positions and how much to words. Queries and keys are RMS-normalised per head, which
    keeps logits bounded at large learning rates (Dehghani et al. 2023).

    Args:
        dim: width of the input (B, N, dim) and of the output.
        context_dim: width of the context (B, L, context_dim), or None for self-attention alone.
        head_dim: width of a head; ``inner_dim`` must be a multiple of it.
        inner_dim: width of queries, keys and values of all heads; None for ``dim``.
        attend_self: False gives pure cross-attention on the context (Imagen's 256 -> 1024 stage).
        bias: whether queries, keys and values have one, as in DDPM and DiT.
        qk_norm: False leaves queries and keys as they are, as in DDPM and DiT.

    Source: Saharia et al. 2022 (Imagen), appendix D.3.1.
    """

    def __init__(
        self,
        dim: int,
        *,
        context_dim: int | None = None,
        head_dim: int = 32,
        inner_dim: int | None = None,
        attend_self: bool = True,
        bias: bool = False,
        qk_norm: bool = True,
    ) -> None:
        super().__init__()
        inner = inner_dim or dim
        if inner % head_dim:
            name = "dim" if inner_dim is None else "inner_dim"
            raise ValueError(f"{name}={inner} is not a multiple of head_dim={head_dim}")
        if not attend_self and context_dim is None:
            raise ValueError("attend_self=False needs a context_dim: there would be nothing to attend to")
        self.head_dim, self.attend_self = head_dim, attend_self
        self.to_q = nn.Linear(dim, inner, bias=bias)
        self.to_kv = nn.Linear(dim, 2 * inner, bias=bias) if attend_self else None
        self.to_context_kv = nn.Linear(context_dim, 2 * inner, bias=bias) if context_dim else None
        self.q_scale = nn.Parameter(torch.ones(head_dim)) if qk_norm else None
        self.k_scale = nn.Parameter(torch.ones(head_dim)) if qk_norm else None
        self.to_out = nn.Linear(inner, dim)

    def forward(self, x: Tensor, context: Tensor | None = None, context_mask: Tensor | None = None) -> Tensor:
        """Attend.

        Args:
            x: (B, N, dim).
            context: (B, L, context_dim), if the module was built with one.
            context_mask: (B, L) bool, True = real token; None = all real.
        """
        q = self._heads(self.to_q(x))  # (B, heads, N, head_dim)
        pairs = []
        if self.to_kv is not None:
            pairs.append(self.to_kv(x))
        if self.to_context_kv is not None:
            pairs.append(self.to_context_kv(context))
        k, v = torch.cat(pairs, dim=1).chunk(2, dim=-1)  # (B, M, inner) each
        mask = None
        if self.to_context_kv is not None and context_mask is not None:
            own = x.shape[1] if self.to_kv is not None else 0
            mask = F.pad(context_mask, (own, 0), value=True)[:, None, None, :]  # (B, 1, 1, M)
        k = self._heads(k)  # (B, heads, M, head_dim)
        if self.q_scale is not None:
            q, k = _rms(q, self.q_scale), _rms(k, self.k_scale)
        out = attend(q, k, self._heads(v), mask)
        return self.to_out(out.transpose(1, 2).flatten(2))  # (B, N, dim)

    def _heads(self, x: Tensor) -> Tensor:
        return x.unflatten(-1, (-1, self.head_dim)).transpose(1, 2)  # (B, N, inner) -> (B, heads, N, head_dim)


def attend(q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None = None) -> Tensor:
    """softmax(q k^T / sqrt(head_dim)) v, (B, heads, N, head_dim).

    On a CPU few keys go through plain products: the fused kernel's backward pass in bfloat16 takes three to four times as long
    there (33 against 9 ms for 64 x 6 heads of 64 queries and 78 keys). In float32 it is quicker than they from some 64 keys on:
    forward and backward take 0.94 of their time with 76 keys, 0.74 with 104 and 0.37 with 268, but 1.4 with 12.
    """
    if q.device.type != "cpu" or k.shape[-2] > FEW_KEYS.get(q.dtype, FEW_KEYS[torch.float32]):
        return F.scaled_dot_product_attention(q, k, v, attn_mask=mask)
    logits = (q * q.shape[-1] ** -0.5) @ k.transpose(-1, -2)
    if mask is not None:
        logits = logits + torch.zeros(mask.shape, dtype=logits.dtype).masked_fill_(~mask, -1e4)
    return logits.softmax(-1) @ v


def _rms(x: Tensor, scale: Tensor) -> Tensor:
    """RMS-normalise the last dimension, in x's own precision."""
    return F.rms_norm(x, x.shape[-1:]) * scale.to(x.dtype)


class TransformerBlock(nn.Module):
    """Attention, then a two-layer perceptron, each on a normalised input and added to a residual path.

    With ``emb_dim`` set, an embedding (noise level and text) scales, shifts and gates both branches. The modulation
    starts at zero and the gates at one: DiT's gates of zero train steadily for days but cost a short run its beginning.

    Source: Vaswani et al. 2017; Peebles & Xie 2023 (DiT), section 3.2 for the modulation.
    """

    def __init__(
        self,
        dim: int,
        *,
        emb_dim: int | None = None,
        context_dim: int | None = None,
        head_dim: int = 32,
        attend_self: bool = True,
        ff_mult: float = 4,
    ) -> None:
        super().__init__()
        self.norm_1 = nn.LayerNorm(dim, elementwise_affine=emb_dim is None)
        self.attention = Attention(dim, context_dim=context_dim, head_dim=head_dim, attend_self=attend_self)
        self.norm_2 = nn.LayerNorm(dim, elementwise_affine=emb_dim is None)
        hidden = int(dim * ff_mult)
        self.ff = nn.Sequential(nn.Linear(dim, hidden), nn.GELU(), nn.Linear(hidden, dim))
        self.modulation = None
        if emb_dim is not None:
            self.modulation = nn.Linear(emb_dim, 6 * dim)
            nn.init.zeros_(self.modulation.weight)
            nn.init.zeros_(self.modulation.bias)

    def forward(
        self,
        x: Tensor,
        emb: Tensor | None = None,
        context: Tensor | None = None,
        context_mask: Tensor | None = None,
    ) -> Tensor:
        """Args: x (B, N, dim); emb (B, emb_dim); context (B, L, context_dim); context_mask (B, L) bool."""
        if self.modulation is None:
            x = x + self.attention(self.norm_1(x), context, context_mask)
            return x + self.ff(self.norm_2(x))
        scale_1, shift_1, gate_1, scale_2, shift_2, gate_2 = self.modulation(emb)[:, None].chunk(6, dim=-1)
        x = x + (1 + gate_1) * self.attention(self.norm_1(x) * (1 + scale_1) + shift_1, context, context_mask)
        return x + (1 + gate_2) * self.ff(self.norm_2(x) * (1 + scale_2) + shift_2)
