"""Nets compiled by torch.compile, in place: names of weights and checkpoints stay as they are."""

from __future__ import annotations

from torch import nn

BACKEND = "inductor"


def compile_nets(module: nn.Module) -> int:
    """Compiles every net of this room that a module holds, each as a whole, at its first call; returns how many there are.

    A net is recompiled once where a length varies, as that of captions does, and takes any length from then on.
    """
    found = nets(module)
    for net in found:
        net.compile(backend=BACKEND)
    return len(found)


def nets(module: nn.Module) -> list[nn.Module]:
    """The outermost modules of this room that a module holds."""
    found = []
    for child in module.children():
        found += [child] if type(child).__module__.startswith("networks.") else nets(child)
    return found
