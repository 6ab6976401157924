"""What the raw output F of a net stands for. Every kind is one row of the table: x_0_hat = c_skip x_t + c_out F(c_in x_t).

No other place knows the kinds: targets, losses and weights follow from the row.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor


class Row(NamedTuple):
    """Coefficients (B,) of one kind at noise levels (alpha, sigma).

    x_0_hat = c_skip x_t + c_out F(c_in x_t), and F's target is on_x_0 x_0 + on_eps eps.
    """

    c_skip: Tensor
    c_out: Tensor
    c_in: Tensor
    on_x_0: Tensor
    on_eps: Tensor


def eps(alpha: Tensor, sigma: Tensor, sigma_data: float) -> Row:
    """F is the noise. Source: Ho et al. 2020, eq. 14"""
    zero, one = torch.zeros_like(alpha), torch.ones_like(alpha)
    return Row(1 / alpha, -sigma / alpha, one, zero, one)


def x_0(alpha: Tensor, sigma: Tensor, sigma_data: float) -> Row:
    """F is the clean sample. Source: Ramesh et al. 2022 (DALL-E 2), section 2.2, for the prior"""
    zero, one = torch.zeros_like(alpha), torch.ones_like(alpha)
    return Row(zero, one, one, one, zero)


def v(alpha: Tensor, sigma: Tensor, sigma_data: float) -> Row:
    """F is v = alpha eps - sigma x_0. Source: Salimans & Ho 2022, appendix D, for any alpha² + sigma²"""
    power = alpha**2 + sigma**2
    return Row(alpha / power, -sigma / power, torch.ones_like(alpha), -sigma, alpha)


def flow(alpha: Tensor, sigma: Tensor, sigma_data: float) -> Row:
    """F is the velocity eps - x_0 of the straight line from data to noise. Source: Liu et al. 2022, eq. 1"""
    one, total = torch.ones_like(alpha), alpha + sigma
    return Row(1 / total, -sigma / total, one, -one, one)


def edm(alpha: Tensor, sigma: Tensor, sigma_data: float) -> Row:
    """Input and target of F have unit variance where the data has standard deviation sigma_data.

    Source: Karras et al. 2022 (EDM), table 1, with their sigma = sigma / alpha
    """
    c_in = (alpha**2 * sigma_data**2 + sigma**2).rsqrt()
    # The target (x_0 - c_skip x_t) / c_out, written so that nothing cancels at small sigma.
    on_x_0, on_eps = sigma * c_in / sigma_data, -alpha * sigma_data * c_in
    return Row(alpha * sigma_data**2 * c_in**2, sigma * sigma_data * c_in, c_in, on_x_0, on_eps)


TABLE: dict[str, Callable[[Tensor, Tensor, float], Row]] = {"eps": eps, "x_0": x_0, "v": v, "flow": flow, "edm": edm}
NEEDS_SIGNAL = ("eps",)  # kinds whose x_0_hat divides by alpha


def row(kind: str, alpha: Tensor, sigma: Tensor, sigma_data: float = 0.5) -> Row:
    """Coefficients of a kind; alpha, sigma (B,) of any precision. Raises: ValueError for an unknown kind."""
    check_prediction(kind)
    return TABLE[kind](alpha, sigma, sigma_data)


def check_prediction(kind: str) -> None:
    """Raises: ValueError if `kind` is not in the table."""
    if kind not in TABLE:
        raise ValueError(f"unknown prediction {kind!r}: choose one of {', '.join(TABLE)}")

