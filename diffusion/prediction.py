"""What a network may predict (eps, x_0, v, flow) and how each turns into x_0_hat; all exact for any (alpha, sigma)."""

from __future__ import annotations

from torch import Tensor

from diffusion.process import expand

PREDICTIONS = ("eps", "x_0", "v", "flow")


def check_prediction(kind: str) -> None:
    """Raises: ValueError if `kind` is no prediction type."""
    if kind not in PREDICTIONS:
        raise ValueError(f"unknown prediction {kind!r}: choose one of {', '.join(PREDICTIONS)}")


def target(kind: str, x_0: Tensor, eps: Tensor, alpha: Tensor, sigma: Tensor) -> Tensor:
    """What the network should output: eps, x_0, v = alpha eps - sigma x_0, or flow = eps - x_0; scales (B,).

    Source: Ho et al. 2020, eq. 14 (eps); Salimans & Ho 2022, appendix D (v); Liu et al. 2022, eq. 1 (flow)
    """
    check_prediction(kind)
    if kind == "eps":
        return eps
    if kind == "x_0":
        return x_0
    if kind == "v":
        return expand(alpha, x_0) * eps - expand(sigma, x_0) * x_0
    return eps - x_0


def to_x_0(kind: str, out: Tensor, x_t: Tensor, alpha: Tensor, sigma: Tensor) -> Tensor:
    """x_0_hat that the network output stands for; scales (B,), alpha > 0 for eps.

    Source: solves `target` together with x_t = alpha x_0 + sigma eps
    """
    check_prediction(kind)
    alpha, sigma = expand(alpha, x_t), expand(sigma, x_t)
    if kind == "eps":
        return (x_t - sigma * out) / alpha
    if kind == "x_0":
        return out
    if kind == "v":
        return (alpha * x_t - sigma * out) / (alpha**2 + sigma**2)
    return (x_t - sigma * out) / (alpha + sigma)


def to_eps(x_0_hat: Tensor, x_t: Tensor, alpha: Tensor, sigma: Tensor) -> Tensor:
    """eps_hat consistent with x_0_hat: (x_t - alpha x_0_hat) / sigma; scales (B,), sigma > 0.

    Source: Song et al. 2021 (DDIM), eq. 9 solved for eps
    """
    return (x_t - expand(alpha, x_t) * x_0_hat) / expand(sigma, x_t)
