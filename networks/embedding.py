"""What the nets of published diffusion models share: sinusoids of a step, DDPM's step of a noise level, stacked inputs."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn
from torch.nn import functional as F


def sinusoids(position: Tensor, dim: int, period: float = 10_000.0) -> Tensor:
    """Sines, then cosines, of ``dim // 2`` frequencies that fall from 1 to 1 / period.

    Args:
        position: (...,), float64 for a result in float64; anything else gives float32, since bfloat16 cannot tell
            neighbouring steps apart.
        dim: width of the result, even and at least 4.

    Returns:
        (..., dim).

    Source: Vaswani et al. 2017, section 3.5; Ho et al. 2020, appendix B.
    """
    dtype = torch.float64 if position.dtype == torch.float64 else torch.float32
    index = torch.arange(dim // 2, dtype=dtype, device=position.device)
    frequencies = torch.exp(index * (-math.log(period) / (dim // 2 - 1)))
    angles = position.to(dtype)[..., None] * frequencies  # (..., dim / 2)
    return torch.cat([angles.sin(), angles.cos()], dim=-1)


def waves(length: int, dim: int, longest: float | None = None) -> Tensor:
    """Sines, then cosines, of places 0 … length - 1, for tables of positions that training goes on from: (length, dim).

    The wavelengths go from 4 places to `longest`, four times the length by default, evenly in their logarithm: the short
    ones tell neighbours apart, the long ones one end from the other. The amplitude is 0.5. An odd last column is zero.

    A table that starts near zero is drowned by the noise beside which it stands: docs/imagen.md, "What moved it".
    Source: Vaswani et al. 2017, section 3.5, with wavelengths that fit the length
    """
    longest = 4.0 * length if longest is None else longest
    wavelength = torch.logspace(math.log2(4.0), math.log2(max(4.0, longest)), dim // 2, base=2.0)
    angle = 2 * math.pi * torch.arange(length)[:, None] / wavelength  # (length, dim / 2)
    return F.pad(0.5 * torch.cat([angle.sin(), angle.cos()], dim=-1), (0, dim % 2))


def plane_waves(rows: int, columns: int, dim: int) -> Tensor:
    """`waves` of each place's row in the first half of the channels, and of its column in the second: (dim, rows, columns)."""
    of_row = waves(rows, dim // 2).T[:, :, None].expand(-1, -1, columns)
    of_column = waves(columns, dim - dim // 2).T[:, None].expand(-1, rows, -1)
    return torch.cat([of_row, of_column])


class StepEmbedding(nn.Module):
    """Sinusoids of a position (B,), then two layers: (B, dim_out).

    Args:
        dim: width of the sinusoids.
        dim_out: width of the result.

    Source: Ho et al. 2020, appendix B.
    """

    def __init__(self, dim: int, dim_out: int) -> None:
        super().__init__()
        self.dim = dim
        self.mlp = nn.Sequential(nn.Linear(dim, dim_out), nn.SiLU(), nn.Linear(dim_out, dim_out))

    def forward(self, position: Tensor) -> Tensor:
        return self.mlp(sinusoids(position, self.dim).to(self.mlp[0].weight.dtype))


class LinearSteps:
    """The index, in DDPM's table of betas, of the step that has a given log-SNR.

    Index i has alpha_bar = prod_{j <= i} (1 - beta_j). Between two steps log alpha_bar is interpolated; levels beyond
    the table count as its first or last step.

    Args:
        num_train_steps: length of the table; betas are those of 1000 steps, scaled by 1000 / num_train_steps.
        beta_start: first beta, of 1000 steps.
        beta_end: last beta, of 1000 steps.

    Raises:
        ValueError: where the table would hold a beta of 1 or more.

    Source: Ho et al. 2020, section 4.
    """

    def __init__(self, num_train_steps: int = 1000, beta_start: float = 1e-4, beta_end: float = 0.02) -> None:
        if num_train_steps < 2 or not 0 < beta_start <= beta_end < num_train_steps / 1000:
            raise ValueError(
                f"num_train_steps={num_train_steps}, beta_start={beta_start}, beta_end={beta_end}: "
                "needs 0 < beta_start <= beta_end < num_train_steps / 1000"
            )
        scale = 1000 / num_train_steps
        beta = torch.linspace(beta_start * scale, beta_end * scale, num_train_steps, dtype=torch.float64, device="cpu")
        # a copy per device: not a buffer, which a net in half precision would round
        self._falling = {torch.device("cpu"): torch.log1p(-beta).cumsum(0)}

    def __call__(self, log_snr: Tensor) -> Tensor:
        """log_snr (B,) -> index (B,) in [0, num_train_steps - 1], float64."""
        table = self._falling.get(log_snr.device)
        if table is None:
            table = self._falling[log_snr.device] = self._falling[torch.device("cpu")].to(log_snr.device)
        log_alpha_bar = F.logsigmoid(log_snr.double())  # alpha² + sigma² = 1
        after = torch.searchsorted(-table, -log_alpha_bar).clamp(1, len(table) - 1)
        low, high = table[after - 1], table[after]
        return (after - 1 + (low - log_alpha_bar) / (low - high)).clamp(0, len(table) - 1)


def stack(x: Tensor, channels: Tensor | None, cond_channels: int) -> Tensor:
    """A net's input: x (B, C, H, W) and the condition's channels (B, cond_channels, H, W), one over the other.

    Raises:
        ValueError: where the channels given are not those that the net was built for.
    """
    given = 0 if channels is None else channels.shape[1]
    if given != cond_channels:
        raise ValueError(f"the net was built for cond_channels={cond_channels}, and is given {given} channels")
    return x if channels is None else torch.cat([x, channels], dim=1)


def check_tokens(tokens: Tensor | None, tokens_dim: int | None) -> None:
    """ValueError unless tokens (B, L, tokens_dim) are given exactly where the net was built for them."""
    given = None if tokens is None else tokens.shape[-1]
    if given != tokens_dim:
        raise ValueError(f"the net was built for tokens_dim={tokens_dim}, and is given tokens of width {given}")
