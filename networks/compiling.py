"""Nets compiled by torch.compile, in place: names of weights and checkpoints stay as they are."""

from __future__ import annotations

from torch import nn

BACKEND = "inductor"


def compile_nets(module: nn.Module) -> int:
    """Compiles every net of this room that a module holds, each as a whole, at its first call; returns how many there are.

    A net is recompiled once where a length varies, as that of captions does, and takes any length from then on.
    """
    found = 0
    for child in module.children():
        if type(child).__module__.startswith("networks."):
            child.compile(backend=BACKEND)
            found += 1
        else:
            found += compile_nets(child)
    return found
