"""Parts of tensors: norms, averages, and optimisers that update them as they would the whole."""

from __future__ import annotations

import copy
import functools
import warnings
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
import torch.distributed as dist
from torch import Tensor, nn

from optimizers import muon
from optimizers.muon import Muon
from optimizers.sharded import (
    average, clip_gradients, cut, for_checkpoint, gathered, is_sharded, lengths, load_whole_state, local, refusal, total_norm,
    update_parts, whole_state,
)  # fmt: skip
from tests.processes import in_two

OPTIMIZERS: dict[str, Callable[..., torch.optim.Optimizer]] = {
    "Adam": functools.partial(torch.optim.Adam, lr=0.01, fused=True),
    "AdamW": functools.partial(torch.optim.AdamW, lr=0.01, foreach=True),
    "SGD": functools.partial(torch.optim.SGD, lr=0.01, momentum=0.9),
    "RMSprop": functools.partial(torch.optim.RMSprop, lr=0.01),
    "NAdam": functools.partial(torch.optim.NAdam, lr=0.01),
    "RAdam": functools.partial(torch.optim.RAdam, lr=0.01),
    "Adamax": functools.partial(torch.optim.Adamax, lr=0.01),
    "Adagrad": functools.partial(torch.optim.Adagrad, lr=0.01, initial_accumulator_value=0.1),
    "Adafactor": functools.partial(torch.optim.Adafactor, lr=0.01),
    "Muon": functools.partial(Muon, lr=0.02, adam_lr=0.01, weight_decay=0.1, min_side=3),
}
SHAPES = ((5, 7), (8, 3, 2, 2), (7,), (1, 6), (4, 9), (2, 2))  # rows that two processes share unevenly, or one holds alone
COMMON = 2  # so many of them again, whole on both processes


@pytest.mark.parametrize(("rows", "world"), [(5, 2), (1, 2), (8, 3), (4, 3), (2, 5), (9, 4)])
def test_rows_are_dealt_out_as_torch_does(rows: int, world: int) -> None:
    chunks = [len(chunk) for chunk in torch.arange(rows).chunk(world)]
    assert lengths(rows, world) == chunks + [0] * (world - len(chunks))


def test_only_what_updates_parts_of_a_tensor_is_taken() -> None:
    assert refusal(Muon) is None and refusal(torch.optim.AdamW) is None and refusal(torch.optim.Adafactor) is None
    assert "LBFGS" in refusal(torch.optim.LBFGS) and "\n" not in refusal(torch.optim.LBFGS)


def test_without_sharded_tensors_all_is_torchs_own() -> None:
    params = [nn.Parameter(torch.randn(3, 4)), nn.Parameter(torch.randn(5))]
    for p in params:
        p.grad = torch.randn_like(p)
    theirs = copy.deepcopy(params)
    for mine, other in zip(params, theirs):
        other.grad = mine.grad.clone()
    norm = total_norm([p.grad for p in params])
    assert torch.equal(norm, nn.utils.clip_grad_norm_(theirs, 0.5))
    clip_gradients(params, 0.5, norm)
    assert all(torch.equal(a.grad, b.grad) for a, b in zip(params, theirs))
    assert local(params[0]) is params[0] and cut(theirs[0], params[0]) is theirs[0] and gathered(params[0], params[0]) is params[0]


# ---- in two processes ----


def weights() -> tuple[list[nn.Parameter], list[nn.Parameter]]:
    """Whole parameters, the same on both processes, and the same with most of them sharded."""
    from torch.distributed.device_mesh import init_device_mesh
    from torch.distributed.tensor import Shard, distribute_tensor

    generator = torch.Generator().manual_seed(0)
    whole = [nn.Parameter(torch.randn(shape, generator=generator)) for shape in (*SHAPES, *SHAPES[:COMMON])]
    mesh = init_device_mesh("cpu", (2,))
    return whole, [
        nn.Parameter(p.detach().clone() if i >= len(SHAPES) else distribute_tensor(p.detach().clone(), mesh, [Shard(0)]))
        for i, p in enumerate(whole)
    ]


def set_gradients(whole: list[nn.Parameter], sharded: list[nn.Parameter], seed: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    for p, q in zip(whole, sharded):
        p.grad = torch.randn(p.shape, generator=generator)
        q.grad = p.grad.clone()
        if is_sharded(q):
            q.grad = type(q.data).from_local(cut(p.grad, q).clone(), q.device_mesh, q.placements, run_check=False, shape=p.shape, stride=p.stride())


def same(whole: list[Tensor], sharded: list[Tensor], what: object = "") -> None:
    for p, q in zip(whole, sharded, strict=True):
        torch.testing.assert_close(gathered(local(q), q).detach(), p.detach(), rtol=0, atol=1e-6, msg=lambda text: f"{what}: {text}")


def norms_and_parts() -> None:
    whole, sharded = weights()
    assert [is_sharded(q) for q in sharded] == [True] * len(SHAPES) + [False] * COMMON
    same(whole, sharded)
    for p, q in zip(whole, sharded):
        stored = for_checkpoint(local(q), q)
        assert torch.equal(stored, p) if dist.get_rank() == 0 or not is_sharded(q) else stored is None
        assert torch.equal(cut(p, q), local(q))
    set_gradients(whole, sharded, 1)
    norm = total_norm([p.grad for p in sharded])
    torch.testing.assert_close(norm, nn.utils.get_total_norm([p.grad for p in whole]))
    torch.testing.assert_close(total_norm([p.grad for p in sharded[:2]]), nn.utils.get_total_norm([p.grad for p in whole[:2]]))
    clip_gradients(sharded, 2.0, norm)
    torch.testing.assert_close(total_norm([p.grad for p in sharded]), torch.tensor(2.0))
    clip_gradients(sharded, 3.0, total_norm([p.grad for p in sharded]))
    torch.testing.assert_close(total_norm([p.grad for p in sharded]), torch.tensor(2.0), msg="what is small enough stays")
    if dist.get_rank() == 1:
        local(sharded[0].grad)[0] = float("nan")
    assert total_norm([p.grad for p in sharded]).isnan(), "on both processes"


def averages() -> None:
    rank = dist.get_rank()
    params = [nn.Parameter(torch.zeros(2, 3)), nn.Parameter(torch.zeros(4))]
    params[0].grad = torch.full((2, 3), 1.0 + rank)
    average(params)
    assert torch.equal(params[0].grad, torch.full((2, 3), 1.5)) and torch.equal(params[1].grad, torch.zeros(4))
    params[0].grad += 3.0 * rank  # a further batch on top of what is averaged
    if rank:
        params[1].grad = torch.ones(4)
    average(params)
    assert torch.equal(params[0].grad, torch.full((2, 3), 3.0)) and torch.equal(params[1].grad, torch.full((4,), 0.5))
    average([])


def step(
    whole: list[nn.Parameter], sharded: list[nn.Parameter], one: torch.optim.Optimizer, two: torch.optim.Optimizer, seeds: range
) -> None:
    for seed in seeds:
        set_gradients(whole, sharded, seed)
        one.step()
        two.step(lambda: None)
        same(whole, sharded, f"{type(one).__name__}, step {seed}")


def optimizers_agree() -> None:
    muon.product_dtype = lambda device: torch.float32
    warnings.simplefilter("ignore")
    for name, make in OPTIMIZERS.items():
        whole, sharded = weights()
        one, two = make(whole), make(sharded)
        update_parts(two)
        step(whole, sharded, one, two, range(3))
        held = sum(v.numel() for p in sharded[: len(SHAPES)] for v in two.state[p].values() if isinstance(v, Tensor) and v.ndim)
        all_of = sum(v.numel() for p in whole[: len(SHAPES)] for v in one.state[p].values() if isinstance(v, Tensor) and v.ndim)
        assert name == "Adafactor" or held <= 0.7 * all_of, f"{name} holds {held} of {all_of} numbers"
        stored = whole_state(two)
        if dist.get_rank() == 0:
            torch.testing.assert_close(stored, one.state_dict(), rtol=0, atol=1e-6)
        # What one process has stored goes on in two.
        fresh = make(sharded)
        update_parts(fresh)
        load_whole_state(fresh, copy.deepcopy(one.state_dict()))
        step(whole, sharded, one, fresh, range(3, 5))


@pytest.mark.parametrize("what", [norms_and_parts, averages, optimizers_agree])
def test_two_processes_agree_with_one(what: Callable[[], None], tmp_path: Path) -> None:
    in_two(what, tmp_path)
