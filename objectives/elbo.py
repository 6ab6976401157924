"""Terms of the evidence lower bound for Gaussian posteriors and a standard normal prior, and signs of their health."""

from __future__ import annotations

import math

import torch
from torch import Tensor


def reparameterise(mean: Tensor, log_var: Tensor, eps: Tensor) -> Tensor:
    """mean + exp(log_var / 2) eps, a draw of N(mean, exp(log_var)) that has gradients; eps broadcasts, (K, B, d) say.

    Source: Kingma & Welling 2014, eq. 10
    """
    return mean + torch.exp(0.5 * log_var) * eps


def gaussian_kl(mean: Tensor, log_var: Tensor) -> Tensor:
    """KL(N(mean, exp(log_var)) || N(0, 1)) in nats, elementwise (..., d): each latent dimension on its own.

    Source: Kingma & Welling 2014, appendix B
    """
    # expm1(l) - l instead of exp(l) - 1 - l: posteriors near the prior keep their digits.
    return 0.5 * (mean.square() + torch.expm1(log_var) - log_var)


def log_normal(z: Tensor, mean: Tensor | float = 0.0, log_var: Tensor | float = 0.0) -> Tensor:
    """log N(z; mean, exp(log_var)) in nats, summed over the last dimension; the defaults are the prior N(0, I).

    Source: the density
    """
    log_var = torch.as_tensor(log_var, dtype=z.dtype, device=z.device)
    return -0.5 * ((z - mean).square() * torch.exp(-log_var) + log_var + math.log(2 * math.pi)).sum(-1)


def free_bits(kl_per_dim: Tensor, nats: float, batch_mean: Tensor | None = None) -> Tensor:
    """Rate to minimise, a scalar: per latent dimension the batch's mean KL, but at least `nats`, summed.

    A dimension below the floor has no gradient, so it may carry that much at no cost; 0 gives the plain mean KL.

    Args:
        kl_per_dim: (..., d), leading dimensions are averaged.
        nats: the floor.
        batch_mean: (d,), the mean KL of the whole batch, where kl_per_dim is one process's share of it. It decides
            which dimensions are below the floor. The mean of the results over equal shares is then the value of the
            whole batch, and so are the gradients.
    Source: Kingma et al. 2016 (inverse autoregressive flow), eq. 15
    """
    mean = kl_per_dim.flatten(0, -2).mean(0)  # (d,)
    above = (mean if batch_mean is None else batch_mean) >= nats
    return torch.where(above, mean, nats).sum()


def kl_warmup(step: float, steps: float) -> float:
    """Weight of the KL that grows linearly from 0 at step 0 to 1 at `steps` and stays there; 1 without warm-up.

    Source: Bowman et al. 2016, section 3.1
    """
    return min(1.0, step / steps) if steps > 0 else 1.0


# ---- health ----


def active_units(mean: Tensor, threshold: float = 0.01) -> Tensor:
    """Which latent dimensions tell images apart: bool (d,), variance of the posteriors' means (N, d) above threshold.

    Raises: ValueError for fewer than two images.
    Source: Burda et al. 2016, section 5.2
    """
    if mean.shape[0] < 2:
        raise ValueError(f"active units of {mean.shape[0]} images: at least 2 are needed for a variance")
    return mean.var(0) > threshold


@torch.no_grad()
def mutual_information(mean: Tensor, log_var: Tensor, z: Tensor, chunk: int = 1024) -> float:
    """Nats that a latent tells about which of N images it was drawn for, at most log N; estimated from one draw each.

    The rest of the rate is KL(q(z) || N(0, I)) of the aggregate posterior q(z), the mean of the N posteriors:
    the mean of gaussian_kl's sums minus this.

    Args:
        mean, log_var: posteriors (N, d).
        z: (N, d), a draw of each.
        chunk: draws at once; memory is chunk * N float64.
    Source: Hoffman & Johnson 2016 (ELBO surgery), index-code mutual information
    """
    mean, log_var, z = mean.double(), log_var.double(), z.double()
    precision = torch.exp(-log_var)  # (N, d)
    own = (mean.square() * precision + log_var + math.log(2 * math.pi)).sum(1)  # (N,)
    log_aggregate = []
    for part in z.split(chunk):
        distance = part.square() @ precision.T - 2 * part @ (mean * precision).T + own  # (chunk, N)
        log_aggregate.append(torch.logsumexp(-0.5 * distance, 1) - math.log(len(mean)))
    return float((log_normal(z, mean, log_var) - torch.cat(log_aggregate)).mean())
