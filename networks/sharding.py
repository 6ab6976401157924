"""Nets whose parameters are sharded over processes with torch's FSDP2."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import NamedTuple

from torch import nn
from torch.distributed.fsdp import FSDPModule, fully_shard

from networks.checkpointing import BLOCKS
from networks.compiling import nets
from networks.conditioners import Conditioner


class Sharded(NamedTuple):
    """A module that was sharded, and the numbers of the hooks by which it gathers its parameters for a forward pass."""

    module: FSDPModule
    hooks: frozenset[int]


def shard_nets(module: nn.Module) -> list[Sharded]:
    """Shards every block, then the rest of every net that a module trains, over all processes; returns what it sharded.

    Whole on every process stay: what is in no net; conditioners, whose parameters are also used outside their forward pass;
    nets that are called by another name, of which the nets inside are sharded; scalars; nets that do not train.
    """
    found = []
    for net in called(module):
        if any(p.requires_grad for p in net.parameters()):
            scalars = {p for p in net.parameters() if not p.ndim}
            inside = [part for part in net.modules() if isinstance(part, BLOCKS) and part is not net]
            found += [_shard(part, scalars) for part in (*reversed(inside), net)]  # from the inside outwards, as torch wants it
    return found


def called(module: nn.Module) -> list[nn.Module]:
    """The nets that a module holds, conditioners apart, and of those without a forward pass the nets inside."""
    found = []
    for net in nets(module):
        if type(net).forward is nn.Module.forward:
            found += called(net)
        elif not isinstance(net, Conditioner):
            found.append(net)
    return found


def _shard(part: nn.Module, scalars: set[nn.Parameter]) -> Sharded:
    before = {*part._forward_pre_hooks, *part._forward_hooks}
    fully_shard(part, ignored_params=scalars)
    return Sharded(part, frozenset({*part._forward_pre_hooks, *part._forward_hooks} - before))


@contextmanager
def whole_nets(parts: Sequence[Sharded]) -> Iterator[None]:
    """Whole parameters on every process, for as long as it takes; all processes enter it.

    Inside, forward passes exchange nothing: each process may make as many as it likes, with gradients of its inputs too.
    Without their hooks they also leave no trace in the order in which the backward pass of training gathers parameters, which
    must be the same on all processes.
    """
    hooks = [(part.module, part.module._forward_pre_hooks, part.module._forward_hooks) for part in parts]
    for part in parts:
        part.module.unshard()
        for name in ("_forward_pre_hooks", "_forward_hooks"):
            kept = getattr(part.module, name).copy()
            for number in part.hooks & kept.keys():
                del kept[number]
            setattr(part.module, name, kept)
    try:
        yield
    finally:
        for module, before, after in hooks:
            module._forward_pre_hooks, module._forward_hooks = before, after
            module.reshard()
