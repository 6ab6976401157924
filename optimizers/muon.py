"""Muon for matrices and convolutions, AdamW for everything else, in one optimiser."""

from __future__ import annotations

import functools
from collections import defaultdict
from collections.abc import Iterable, Sequence

import torch
import torch.distributed as dist
from torch import Tensor

from optimizers.sharded import is_sharded, lengths, local

# Quintic Newton-Schulz coefficients. Four iterations take singular values from 0.01 up (of a matrix of norm 1) to [0.7, 1.2];
# a fifth would reach down to 0.003, for a quarter more time.
COEFFICIENTS = (3.4445, -4.7750, 2.0315)
LONG = 3  # columns / rows from which the Gram form takes less time: 0.4 to 0.7 of it on a CPU, and 0.85 at 2


class Muon(torch.optim.Optimizer):
    """Momentum whose update is orthogonalised: every direction of a weight matrix learns at the same speed.

    Parameters with two or more dimensions are updated by Muon (a convolution as the matrix out x in*kh*kw), the rest,
    and matrices with a side below ``min_side``, by AdamW with ``adam_lr``. torch.optim.Muon takes matrices alone.
    Of sharded parameters it keeps the state of this process's rows.

    Args:
        params: parameters or parameter groups.
        lr: root-mean-square of a Muon update's elements over ``0.2``, so that AdamW's rates carry over.
        momentum: Nesterov momentum.
        weight_decay: decoupled, for both kinds.
        adam_lr, betas, eps: AdamW's; ``adam_lr`` None means ``lr``.

    Source: Jordan et al. 2024 (Muon); Liu et al. 2025 (Moonlight), eq. 4 for the scale 0.2 sqrt(max(rows, columns)).
    """

    shards = True  # it updates sharded parameters

    def __init__(
        self,
        params: Iterable,
        lr: float = 1e-3,
        momentum: float = 0.95,
        weight_decay: float = 0.0,
        adam_lr: float | None = None,
        betas: tuple[float, float] = (0.9, 0.99),
        eps: float = 1e-8,
        min_side: int = 8,
    ) -> None:
        defaults = dict(
            lr=lr,
            momentum=momentum,
            weight_decay=weight_decay,
            adam_ratio=1.0 if adam_lr is None else adam_lr / lr,
            betas=tuple(betas),
            eps=eps,
            min_side=min_side,
        )
        super().__init__(params, defaults)

    @torch.no_grad()
    def step(self, closure=None):
        """One update of all parameters that have a gradient."""
        loss = None if closure is None else torch.enable_grad()(closure)()
        for group in self.param_groups:
            matrices, others = [], []
            for p in group["params"]:
                if p.grad is not None:
                    (matrices if is_matrix(p, group["min_side"]) else others).append(p)
            if matrices:
                self._muon(matrices, group)
            if others:
                self._adamw(others, group)
        return loss

    def _muon(self, params: list[Tensor], group: dict) -> None:
        buffers = []
        for p in params:
            state = self.state[p]
            if not state:
                state["momentum"] = torch.zeros_like(local(p))
            buffers.append(state["momentum"])
        parts, grads = [local(p) for p in params], [local(p.grad) for p in params]
        torch._foreach_lerp_(buffers, grads, 1 - group["momentum"])
        updates = torch._foreach_lerp(grads, buffers, group["momentum"])  # Nesterov
        if group["weight_decay"]:
            torch._foreach_mul_(parts, 1 - group["lr"] * group["weight_decay"])
        for p, part, u in zip(params, parts, directions(updates, params)):
            rows, columns = sides(p)
            scale = group["lr"] * 0.2 * max(rows, columns) ** 0.5
            part.add_(u.view(part.shape), alpha=-scale)

    def _adamw(self, params: list[Tensor], group: dict) -> None:
        (beta_1, beta_2), lr = group["betas"], group["lr"] * group["adam_ratio"]
        for p in params:
            if not self.state[p]:
                self.state[p] = {"step": 0, "mean": torch.zeros_like(local(p)), "square": torch.zeros_like(local(p))}
            self.state[p]["step"] += 1
        states, grads = [self.state[p] for p in params], [local(p.grad) for p in params]
        params = [local(p) for p in params]
        means, squares = [s["mean"] for s in states], [s["square"] for s in states]
        torch._foreach_lerp_(means, grads, 1 - beta_1)
        torch._foreach_mul_(squares, beta_2)
        torch._foreach_addcmul_(squares, grads, grads, 1 - beta_2)
        if group["weight_decay"]:
            torch._foreach_mul_(params, 1 - lr * group["weight_decay"])
        denominators = torch._foreach_div(squares, [1 - beta_2 ** s["step"] for s in states])
        torch._foreach_sqrt_(denominators)
        torch._foreach_add_(denominators, group["eps"])
        torch._foreach_mul_(denominators, [(1 - beta_1 ** s["step"]) / -lr for s in states])
        torch._foreach_addcdiv_(params, means, denominators)


def is_matrix(p: Tensor, min_side: int) -> bool:
    """Whether Muon, and not AdamW, updates this parameter."""
    return p.ndim >= 2 and min(sides(p)) >= min_side


def sides(p: Tensor) -> tuple[int, int]:
    """Rows and columns of a parameter as one matrix."""
    return p.shape[0], p.shape[1:].numel()


@functools.cache
def product_dtype(device: str) -> torch.dtype:
    """bfloat16 on a GPU and on a CPU with AMX, else float32.

    Not measured, unlike the precision of a run, which is recorded: a resumed run must give the same bits.
    """
    amx = device == "cpu" and getattr(torch.cpu, "_is_amx_tile_supported", bool)()
    return torch.bfloat16 if device != "cpu" or amx else torch.float32


def directions(updates: list[Tensor], params: list[Tensor]) -> list[Tensor]:
    """The nearest orthogonal matrix, about, of each parameter's update (rows, ...); of sharded ones this process's rows."""
    found = [u.flatten(1) for u in updates]
    sharded = [i for i, p in enumerate(params) if is_sharded(p)]
    for chosen, do in (
        ([i for i in range(len(params)) if i not in sharded], orthogonalised),
        (sharded, lambda parts: orthogonalised_parts(parts, [params[i].shape[0] for i in sharded])),
    ):
        for i, u in zip(chosen, do([found[i] for i in chosen]) if chosen else ()):
            found[i] = u
    return found


def orthogonalised_parts(parts: list[Tensor], rows: list[int]) -> list[Tensor]:
    """`orthogonalised` of matrices of `rows` rows, of which each process holds some and gets these back.

    Each process is sent the rest of those matrices that it does, so that it holds no more whole ones than its share.
    """
    world, rank = dist.get_world_size(), dist.get_rank()
    owners = shared_out([torch.Size((n, part.shape[1])) for n, part in zip(rows, parts)], world)
    dealt = [lengths(n, world) for n in rows]  # of a matrix, the rows of each process
    by_owner = [[i for i, owner in enumerate(owners) if owner == r] for r in range(world)]
    sent = torch.cat([parts[i].flatten() for mine in by_owner for i in mine])
    sizes = [[dealt[i][r] * parts[i].shape[1] for i in by_owner[rank]] for r in range(world)]
    come, gone = [sum(size) for size in sizes], [sum(parts[i].numel() for i in mine) for mine in by_owner]
    received = sent.new_empty(sum(come))
    dist.all_to_all_single(received, sent, come, gone)
    pieces = [flat.split(size) for flat, size in zip(received.split(come), sizes)]  # [process][matrix]
    mine = [torch.cat(column).view(rows[i], -1) for i, column in zip(by_owner[rank], zip(*pieces))]
    done = [u.split(dealt[i]) for i, u in zip(by_owner[rank], _by_shape(mine))]  # [matrix][process]
    back = torch.cat([sent.new_empty(0), *(u[r].flatten() for r in range(world) for u in done)])
    dist.all_to_all_single(sent, back, gone, come)
    order = [i for those in by_owner for i in those]
    found = list(parts)
    for i, piece in zip(order, sent.split([parts[i].numel() for i in order])):
        found[i] = piece.view(parts[i].shape)
    return found


def orthogonalised(updates: list[Tensor]) -> list[Tensor]:
    """The nearest orthogonal matrix, about, of each of some matrices (rows, columns), those of a shape in one product.

    Processes that train together hold the same updates. Each does a part of the matrices, and they exchange the results.
    """
    if not (dist.is_available() and dist.is_initialized() and dist.get_world_size() > 1):
        return _by_shape(updates)
    world, rank = dist.get_world_size(), dist.get_rank()
    owners = shared_out([u.shape for u in updates], world)
    parts = [[i for i, owner in enumerate(owners) if owner == r] for r in range(world)]
    sizes = [[updates[i].numel() for i in part] for part in parts]
    sent = updates[0].new_zeros(max(map(sum, sizes)))
    for u, place in zip(_by_shape([updates[i] for i in parts[rank]]), sent[: sum(sizes[rank])].split(sizes[rank])):
        place.copy_(u.flatten())
    received = sent.new_empty(world * len(sent))
    dist.all_gather_into_tensor(received, sent)
    found = list(updates)
    for part, size, flat in zip(parts, sizes, received.view(world, -1)):
        for i, piece in zip(part, flat[: sum(size)].split(size)):
            found[i] = piece.view(updates[i].shape)
    return found


def shared_out(shapes: Sequence[torch.Size], world: int) -> list[int]:
    """Which of `world` processes orthogonalises which matrix: the dearest first, each to the process that has least to do."""
    cost = [min(shape) ** 2 * max(shape) for shape in shapes]
    owners, load = [0] * len(shapes), [0] * world
    for i in sorted(range(len(shapes)), key=lambda i: -cost[i]):
        owners[i] = load.index(min(load))
        load[owners[i]] += cost[i]
    return owners


def _by_shape(updates: list[Tensor]) -> list[Tensor]:
    places: dict[torch.Size, list[int]] = defaultdict(list)
    for i, u in enumerate(updates):
        places[u.shape].append(i)
    found = list(updates)
    for chosen in places.values():
        for i, u in zip(chosen, orthogonalise(torch.stack([updates[i] for i in chosen]))):
            found[i] = u
    return found


def orthogonalise(g: Tensor, iterations: int = 4) -> Tensor:
    """Replace the singular values of each matrix in (N, rows, columns) by about 1.

    Source: Jordan et al. 2024 (Muon): Newton-Schulz iteration with coefficients tuned for slope at zero.
    """
    tall = g.shape[-2] > g.shape[-1]
    x = (g.mT if tall else g).to(product_dtype(g.device.type))
    x = x / (x.norm(dim=(-2, -1), keepdim=True) * 1.02 + 1e-7)
    long = x.shape[-1] >= LONG * x.shape[-2] and x.dtype != torch.bfloat16
    x = _by_gram(x, iterations) if long else _by_products(x, iterations)
    return (x.mT if tall else x).to(g.dtype)


def _by_products(x: Tensor, iterations: int) -> Tensor:
    a, b, c = COEFFICIENTS
    for _ in range(iterations):
        gram = x @ x.mT
        x = torch.baddbmm(x, torch.baddbmm(gram, gram, gram, beta=b, alpha=c), x, beta=a)
    return x


def _by_gram(x: Tensor, iterations: int) -> Tensor:
    """The same, with the iteration on the small square matrix x xᵀ.

    With r = columns / rows it takes as long as 13 + 2 r products of that matrix in place of 4 + 8 r.
    Each iteration multiplies x by a polynomial p of its Gram matrix, and the Gram matrix by p twice. Rounding errors of small
    singular values are squared, so this is not for bfloat16.
    """
    a, b, c = COEFFICIENTS
    gram, whole = x @ x.mT, None
    for i in range(iterations):
        p = torch.baddbmm(gram, gram, gram, beta=b, alpha=c)
        p.diagonal(dim1=-2, dim2=-1).add_(a)
        whole = p if whole is None else p @ whole
        if i + 1 < iterations:
            gram = p @ gram @ p
    return whole @ x
