"""A limit on the memory that a model from somebody else may allocate while it is built, by the size of its weights."""

from __future__ import annotations

from typing import Any

import torch
from torch.utils._python_dispatch import TorchDispatchMode

SLACK = 2**24  # numbers that any model may have beyond its weights, in tables and while they are set
CALLS = 20_000  # and of calls, beyond 50 for each weight


class TooLarge(ValueError):
    """A model allocates more than the size of its weights allows."""


class Budget(TorchDispatchMode):
    """Inside the block, tensors that are made may hold `most` numbers in all, and so many calls may make them.

    The size is known before the memory is taken: what makes a tensor from nothing is first tried on the meta device.

    Raises: TooLarge inside the block.
    """

    def __init__(self, most: int, calls: int = CALLS) -> None:
        super().__init__()
        self.left, self.calls = most, calls

    def __torch_dispatch__(self, func: Any, types: Any, args: tuple = (), kwargs: dict[str, Any] | None = None) -> Any:
        kwargs = kwargs or {}
        self.calls -= 1
        makes = not any(isinstance(a, torch.Tensor) for a in args) and _takes_device(func)
        if makes:
            self.left -= func(*args, **{**kwargs, "device": torch.device("meta"), "pin_memory": None}).numel()
        if self.left < 0 or self.calls < 0:
            raise TooLarge("the model would be larger than the weights in the checkpoint")
        result = func(*args, **kwargs)
        if not makes and isinstance(result, torch.Tensor) and result.numel() > max(self.left, SLACK):
            raise TooLarge("the model would be larger than the weights in the checkpoint")
        return result


def _takes_device(func: Any) -> bool:
    return any(argument.name == "device" for argument in func._schema.arguments)


def budget_of(tensors: dict[str, torch.Tensor]) -> Budget:
    """The budget of a model whose weights these are: they, their copies while they are set, and some more."""
    return Budget(8 * sum(value.numel() for value in tensors.values()) + SLACK, 50 * len(tensors) + CALLS)
