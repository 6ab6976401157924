"""Tensors that are sharded over processes: their parts, gradient norms over all of them, and optimisers that update parts.

A sharded tensor is a DTensor along its first dimension, as `fully_shard` makes parameters and their gradients: each process
holds some rows, as `Tensor.chunk` deals them out. Averages and optimisers keep plain tensors of this process's rows.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn

# Each number of an update depends on the same number of gradient and state alone: an update of parts is a part of the update.
OF_PARTS = (
    torch.optim.Adam, torch.optim.AdamW, torch.optim.SGD, torch.optim.RMSprop, torch.optim.NAdam, torch.optim.RAdam,
    torch.optim.Adamax, torch.optim.Adagrad,
)  # fmt: skip
OF_WHOLES = (torch.optim.Adafactor,)  # means over rows and columns


def is_sharded(tensor: Tensor) -> bool:
    """Whether a tensor is sharded over processes."""
    return hasattr(tensor, "to_local")


def local(tensor: Tensor) -> Tensor:
    """This process's rows of a sharded tensor, in the same memory, without gradient; other tensors as they are."""
    with torch.no_grad():
        return tensor.to_local() if is_sharded(tensor) else tensor


def lengths(rows: int, world: int) -> list[int]:
    """How many of some rows each process holds, as `Tensor.chunk` deals them out; the last ones may hold none."""
    size = -(-rows // world)
    return [max(0, min(size, rows - rank * size)) for rank in range(world)]


def cut(whole: Tensor, like: Tensor) -> Tensor:
    """This process's rows of a whole tensor, as those of a sharded one of its shape; all of it for one that is not sharded."""
    if not is_sharded(like):
        return whole
    return whole.split(lengths(len(whole), like.device_mesh.size()))[like.device_mesh.get_local_rank()]


def gathered(part: Tensor, like: Tensor) -> Tensor:
    """The whole tensor of which each process holds a part, as it does of `like`. All processes call this."""
    if not is_sharded(like):
        return part
    from torch.distributed.tensor import DTensor

    placed = DTensor.from_local(part, like.device_mesh, like.placements, run_check=False, shape=like.shape, stride=like.stride())
    return placed.full_tensor()


def for_checkpoint(part: Tensor, like: Tensor) -> Tensor | None:
    """`gathered` for a checkpoint: on the CPU of process 0, None on the others. What is not sharded stays as it is."""
    if not is_sharded(like):
        return part
    whole = gathered(part, like)
    return whole.cpu() if dist.get_rank() == 0 else None


# ---- gradients ----


def total_norm(grads: Sequence[Tensor]) -> Tensor:
    """The norm of all numbers of some gradients, over all processes where some are sharded, which then all call this."""
    parts = [local(grad) for grad in grads if is_sharded(grad)]
    if not parts:
        return nn.utils.get_total_norm(grads)
    square = torch.stack(torch._foreach_norm(parts)).square().sum()
    dist.all_reduce(square)
    if common := [grad for grad in grads if not is_sharded(grad)]:  # the same on every process: counted once
        square = square + nn.utils.get_total_norm(common).square()
    return square.sqrt()


def clip_gradients(params: Sequence[Tensor], most: float, norm: Tensor) -> None:
    """Scale gradients whose norm over all processes is known, to one of at most `most`."""
    if not any(is_sharded(p.grad) for p in params):
        nn.utils.clip_grads_with_norm_(params, most, norm)
        return
    torch._foreach_mul_([local(p.grad) for p in params], (most / (norm + 1e-6)).clamp(max=1.0))


def average(params: Sequence[Tensor]) -> None:
    """Averages the gradients of parameters that are whole on every process, over the processes, in one message.

    After a further batch was added to averaged gradients, to average again is still right: what is the same on all processes
    stays as it is. No gradient counts as zero: to ask who has one would make a GPU wait for the processor.
    """
    if params:
        flat = torch.cat([(torch.zeros_like(p) if p.grad is None else p.grad).flatten() for p in params])
        dist.all_reduce(flat)
        for p, mean in zip(params, (flat / dist.get_world_size()).split([p.numel() for p in params])):
            p.grad = mean.view_as(p).to(p.dtype)


# ---- optimisers ----


def refusal(optimizer: type) -> str | None:
    """Why an optimiser cannot update sharded parameters; None if it can."""
    if getattr(optimizer, "shards", False) or issubclass(optimizer, OF_PARTS + OF_WHOLES):
        return None
    return f"{optimizer.__name__} is not known to update parts of a tensor: choose torch.optim.AdamW or optimizers.muon.Muon"


def update_parts(optimizer: torch.optim.Optimizer) -> None:
    """Lets an optimiser of torch update sharded parameters: from now on its `step` is given plain tensors.

    Lists of sharded and other tensors, which its fused kernels would be given otherwise, are refused by torch. Muon knows
    sharded parameters by itself.
    """
    for p, state in optimizer.state.items():  # Adagrad has one from the start
        state.update({name: local(value) for name, value in state.items() if isinstance(value, Tensor)})
    if not getattr(optimizer, "shards", False):
        step = optimizer.step
        optimizer.step = lambda closure=None: _step(optimizer, step, closure)


def _step(optimizer: torch.optim.Optimizer, step: Callable[[], Any], closure: Callable[[], Any] | None) -> Any:
    loss = None if closure is None else closure()
    if not isinstance(optimizer, OF_WHOLES):
        with _given(optimizer, optimizer.param_groups, local):
            step()
        return loss
    for group in optimizer.param_groups:  # one by one: all whole tensors at once would be what sharding saves
        for p in group["params"]:
            if p.grad is not None:
                with _given(optimizer, [{**group, "params": [p]}], lambda t: gathered(local(t), t)) as given:
                    step()
                local(p).copy_(cut(given[p], p)) if is_sharded(p) else None
    return loss


@contextmanager
def _given(
    optimizer: torch.optim.Optimizer, groups: list[dict[str, Any]], of: Callable[[Tensor], Tensor]
) -> Iterator[dict[Tensor, Tensor]]:
    """An optimiser with the tensors `of(p)` and their gradients in place of the parameters p of some groups."""
    given = {}
    for p in (p for group in groups for p in group["params"]):
        given[p] = of(p).detach()
        given[p].grad = None if p.grad is None else of(p.grad)
    groups_before, state = optimizer.param_groups, optimizer.state
    optimizer.param_groups = [{**group, "params": [given[p] for p in group["params"]]} for group in groups]
    optimizer.state = defaultdict(dict, {given[p]: state[p] for p in given if p in state})
    try:
        yield given
    finally:
        state.update({p: optimizer.state[q] for p, q in given.items() if q in optimizer.state})
        optimizer.param_groups, optimizer.state = groups_before, state


def whole_state(optimizer: torch.optim.Optimizer) -> dict[str, Any]:
    """An optimiser's `state_dict` with whole tensors, for a checkpoint: on process 0 alone. All processes call this."""
    found = optimizer.state_dict()
    return found | {"state": _of_parts(optimizer, found["state"], lambda p: local(p).shape, for_checkpoint)}


def load_whole_state(optimizer: torch.optim.Optimizer, state: dict[str, Any]) -> None:
    """Loads a `state_dict` of whole tensors, of which this process keeps its parts."""
    optimizer.load_state_dict(state | {"state": _of_parts(optimizer, state["state"], lambda p: p.shape, cut)})


def _of_parts(
    optimizer: torch.optim.Optimizer, states: dict[int, Any], shape: Callable[[Tensor], torch.Size], do: Callable[..., Any]
) -> dict[int, Any]:
    """States by a parameter's number, with `do(value, p)` for the values of p's shape where p and they are sharded."""
    params = [p for group in optimizer.param_groups for p in group["params"]]
    found = {}
    for i, state in states.items():
        sharded = is_sharded(params[i]) and not isinstance(optimizer, OF_WHOLES)
        found[i] = {
            name: do(value, params[i]) if sharded and isinstance(value, Tensor) and value.shape == shape(params[i]) else value
            for name, value in state.items()
        }
    return found
