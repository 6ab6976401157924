"""Importance-weighted bounds of log p(x): one batch of weights, a stream of any number, and their gradients."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from objectives.elbo import log_normal


def log_weights(log_likelihood: Tensor, z: Tensor, mean: Tensor, log_var: Tensor, dreg: bool = False) -> Tensor:
    """log w = log p(x | z) + log p(z) - log q(z | x) in nats, (K, B).

    Args:
        log_likelihood: log p(x | z), (K, B).
        z: (K, B, d), draws of q(z | x) = N(mean, exp(log_var)).
        mean, log_var: (B, d).
        dreg: keep the parameters of q out of its density, as `dreg_loss` needs.
    Source: Burda et al. 2016, eq. 8
    """
    if dreg:
        mean, log_var = mean.detach(), log_var.detach()
    return log_likelihood + log_normal(z) - log_normal(z, mean, log_var)


def iwae_bound(log_w: Tensor) -> Tensor:
    """Lower bound of log p(x) from K importance weights: log of their mean, (K, B) -> (B,); K = 1 is the ELBO.

    Source: Burda et al. 2016, eq. 8
    """
    return torch.logsumexp(log_w, 0) - math.log(log_w.shape[0])


def iwae_loss(log_w: Tensor) -> Tensor:
    """What importance-weighted training minimises: minus the bound, mean over the batch, a scalar; log_w (K, B).

    Source: Burda et al. 2016, section 3
    """
    return -iwae_bound(log_w).mean()


def dreg_loss(log_w: Tensor, z: Tensor) -> Tensor:
    """iwae_loss with the doubly reparameterised gradient for the encoder; call it once per graph.

    The value and the decoder's gradient are those of iwae_loss. The encoder's has the same expectation, a signal that
    does not fade with K, and vanishes for every draw once the posterior is exact.

    Args:
        log_w: (K, B), by `log_weights(..., dreg=True)`.
        z: (K, B, d), the draws that log_w was computed from.
    Source: Tucker et al. 2019 (DReG), its estimator for the IWAE
    """
    weight = torch.softmax(log_w.detach(), 0).unsqueeze(-1)  # (K, B, 1)
    if z.requires_grad:
        # iwae_loss hands back to z one factor of its normalised weight; the estimator has its square.
        z.register_hook(lambda grad: grad * weight)
    return iwae_loss(log_w)


@torch.no_grad()
def streamed_log_mean_exp(draw: Callable[[int], Tensor], counts: Sequence[int], chunk: int) -> dict[int, Tensor]:
    """Importance-weighted bounds for several numbers of samples from one stream, in the memory of one chunk.

    The bound of k samples is that of the first k of the stream. Running sums are float64.

    Args:
        draw: number n <= chunk -> log weights (n, B) of n fresh samples; asked for max(counts) in all.
        counts: numbers of samples, each at least 1.
        chunk: samples at once.

    Returns: {k: (B,) float64 nats}, in ascending k.
    Raises: ValueError for a count or a chunk below 1, or no count.
    Source: Burda et al. 2016, eq. 8
    """
    if not counts or min(counts) < 1 or chunk < 1:
        raise ValueError(f"importance samples {list(counts)} in chunks of {chunk}: give numbers of at least 1")
    ascending = sorted(set(counts))
    bounds: dict[int, Tensor] = {}
    done, total = 0, torch.tensor(-math.inf, dtype=torch.float64)  # log of the sum of the weights so far
    while done < ascending[-1]:
        log_w = draw(min(chunk, ascending[-1] - done)).double()
        total = total.to(log_w.device)
        for k in ascending:
            if done < k <= done + len(log_w):
                bounds[k] = torch.logaddexp(total, log_w[: k - done].logsumexp(0)) - math.log(k)
        total = torch.logaddexp(total, log_w.logsumexp(0))
        done += len(log_w)
    return bounds
