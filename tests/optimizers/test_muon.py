"""Muon against its definition, over several steps in float64, and AdamW against torch's."""

from __future__ import annotations

import math
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from optimizers import muon
from optimizers.muon import Muon, orthogonalise, product_dtype, shared_out

REPO = Path(__file__).resolve().parents[2]


@pytest.mark.parametrize("shape", [(2, 16, 40), (1, 40, 16), (3, 24, 24)])
def test_orthogonalise_brings_all_singular_values_near_one(shape):
    u, _, vh = torch.linalg.svd(
        torch.randn(shape, generator=torch.Generator().manual_seed(0)).double(), full_matrices=False
    )
    spread = torch.logspace(-1, 0, u.shape[-1], dtype=torch.float64)
    result = orthogonalise((u * spread @ vh).float()).double()
    values = torch.linalg.svdvals(result)
    assert 0.6 < values.min() and values.max() < 1.3  # from 0.1 ... 1
    assert torch.nn.functional.cosine_similarity(result.flatten(1), (u @ vh).flatten(1)).min() > 0.97


def test_vectors_are_updated_as_by_adamw():
    torch.manual_seed(0)
    start, target = torch.randn(7), torch.randn(7)
    results = []
    for make in (
        lambda p: Muon([p], lr=0.01, betas=(0.9, 0.99), weight_decay=0.1),
        lambda p: torch.optim.AdamW([p], lr=0.01, betas=(0.9, 0.99), weight_decay=0.1),
    ):
        p = torch.nn.Parameter(start.clone())
        optimizer = make(p)
        for _ in range(20):
            optimizer.zero_grad()
            (p - target).square().sum().backward()
            optimizer.step()
        results.append(p.detach())
    torch.testing.assert_close(*results, rtol=1e-5, atol=1e-6)


def test_update_of_a_matrix_has_the_promised_size_and_convolutions_are_matrices():
    p = torch.nn.Parameter(torch.zeros(16, 8, 3, 3))
    p.grad = torch.randn(p.shape, generator=torch.Generator().manual_seed(0)) * 1e-4
    Muon([p], lr=0.01).step()
    assert 0.8 < p.square().mean().sqrt() / (0.01 * 0.2) < 1.2


def test_state_survives_saving():
    def run(interrupted: bool) -> torch.Tensor:
        torch.manual_seed(0)
        net = torch.nn.Sequential(torch.nn.Linear(8, 16), torch.nn.Linear(16, 8))
        optimizer = Muon(net.parameters(), lr=0.01)
        x = torch.randn(32, 8)
        for i in range(6):
            if interrupted and i == 3:
                state, optimizer = optimizer.state_dict(), Muon(net.parameters(), lr=0.01)
                optimizer.load_state_dict(state)
            optimizer.zero_grad()
            (net(x) - x.flip(1)).square().mean().backward()
            optimizer.step()
        return net[0].weight.detach()

    assert torch.equal(run(False), run(True))


def orthogonal(g: torch.Tensor) -> torch.Tensor:
    """Jordan et al. 2024: X <- a X + (b A + c A²) X with A = X X^T, four times, from a matrix of norm just below 1."""
    x = g / (g.norm() * 1.02)
    for _ in range(4):
        gram = x @ x.T
        x = 3.4445 * x + (-4.7750 * gram + 2.0315 * gram @ gram) @ x
    return x


class Reference:
    """Both rules as their papers write them, a parameter at a time, in float64."""

    def __init__(self, p: torch.Tensor, muon: bool, lr: float, adam_lr: float, decay: float, eps: float) -> None:
        self.p, self.muon, self.lr, self.adam_lr, self.decay, self.eps = p.double(), muon, lr, adam_lr, decay, eps
        self.m = self.v = torch.zeros_like(self.p)
        self.step_number = 0

    def step(self, g: torch.Tensor) -> None:
        g, self.step_number = g.double(), self.step_number + 1
        if self.muon:  # Jordan et al. 2024 with the scale of Liu et al. 2025, eq. 4
            self.m = 0.9 * self.m + 0.1 * g
            nesterov = (0.9 * self.m + 0.1 * g).flatten(1)
            update = orthogonal(nesterov) * 0.2 * math.sqrt(max(nesterov.shape))
            self.p = self.p - self.lr * self.decay * self.p - self.lr * update.view(self.p.shape)
        else:  # Loshchilov & Hutter 2019, algorithm 2
            self.m, self.v = 0.8 * self.m + 0.2 * g, 0.95 * self.v + 0.05 * g**2
            m, v = self.m / (1 - 0.8**self.step_number), self.v / (1 - 0.95**self.step_number)
            self.p = self.p - self.adam_lr * self.decay * self.p - self.adam_lr * m / (v.sqrt() + self.eps)


def test_several_steps_equal_the_papers_rules() -> None:
    lr, adam_lr, decay, eps = 0.1, 0.03, 0.4, 1e-8
    # shape, size of the gradient, whether Muon's: two of one shape, tall, a convolution, one just wide enough, narrow
    kinds = [
        ((12, 20), 1.0, True), ((12, 20), 1e-3, True), ((20, 12), 1.0, True), ((9, 3, 3, 3), 1.0, True),
        ((8, 30), 1.0, True), ((7, 30), 1.0, False), ((30, 7), 1.0, False), ((5,), 1.0, False),
    ]  # fmt: skip
    g = torch.Generator().manual_seed(0)
    params = [torch.nn.Parameter(torch.randn(shape, generator=g)) for shape, _, _ in kinds]
    references = [Reference(p.detach(), muon, lr, adam_lr, decay, eps) for p, (_, _, muon) in zip(params, kinds)]
    idle = torch.nn.Parameter(torch.ones(9, 9))
    optimizer = Muon(
        [*params, idle], lr=lr, momentum=0.9, weight_decay=decay, adam_lr=adam_lr, betas=(0.8, 0.95), eps=eps
    )
    for _ in range(5):
        before = [p.detach().double().clone() for p in params]
        expected = [r.p for r in references]
        for p, r, (shape, size, _) in zip(params, references, kinds):
            p.grad = torch.randn(shape, generator=g) * size
            r.step(p.grad)
        optimizer.step()
        for p, r, old, start, kind in zip(params, references, before, expected, kinds):
            moved, wanted = p.detach().double() - old, r.p - start
            # the product's iteration runs in bfloat16
            assert (moved - wanted).norm() < (0.03 if kind[2] else 1e-4) * wanted.norm(), kind
    assert torch.equal(idle, torch.ones(9, 9)), "a parameter without gradient does not decay either"


def test_eps_bounds_the_step_of_a_small_gradient() -> None:
    p = torch.nn.Parameter(torch.zeros(3))
    p.grad = torch.full((3,), 1e-6)
    Muon([p], lr=0.1, eps=1e-6).step()
    torch.testing.assert_close(p.detach(), torch.full((3,), -0.05))


def test_adam_lr_keeps_its_ratio_when_the_schedule_changes_lr() -> None:
    moved = []
    for lr in (0.1, 0.05):
        p = torch.nn.Parameter(torch.zeros(3))
        p.grad = torch.ones(3)
        optimizer = Muon([p], lr=0.1, adam_lr=0.02)
        optimizer.param_groups[0]["lr"] = lr
        optimizer.step()
        moved.append(-p[0].item())
    assert moved == pytest.approx([0.02, 0.01])


def test_a_closure_is_called_with_gradients() -> None:
    p = torch.nn.Parameter(torch.ones(3))

    def closure() -> torch.Tensor:
        loss = p.square().sum()
        loss.backward()
        return loss

    assert Muon([p], lr=0.1).step(closure) == 3 and p[0] < 1


@pytest.mark.parametrize("shape", [(2, 16, 48), (1, 60, 16), (3, 8, 100)])
def test_the_gram_form_of_long_matrices_is_the_same_iteration(shape: tuple[int, ...]) -> None:
    g = torch.randn(shape, generator=torch.Generator().manual_seed(0))
    if product_dtype("cpu") == torch.float32:
        expected = torch.stack([orthogonal(x.double() if shape[1] < shape[2] else x.double().T) for x in g])
        expected = expected if shape[1] < shape[2] else expected.mT
        torch.testing.assert_close(orthogonalise(g), expected.float(), rtol=1e-5, atol=1e-5)
    x = g.double() / g.norm(dim=(-2, -1), keepdim=True)
    x = x if shape[1] < shape[2] else x.mT
    torch.testing.assert_close(muon._by_gram(x, 4), muon._by_products(x, 4), rtol=1e-12, atol=1e-12)


def test_products_are_in_bfloat16_only_where_it_is_faster(monkeypatch) -> None:
    monkeypatch.setattr(torch.cpu, "_is_avx512_bf16_supported", lambda: True, raising=False)
    by_gram, squared = muon._by_gram, []
    monkeypatch.setattr(muon, "_by_gram", lambda x, n: squared.append(x.dtype) or by_gram(x, n))
    for has, expected in ((True, torch.bfloat16), (False, torch.float32)):
        product_dtype.cache_clear()
        monkeypatch.setattr(torch.cpu, "_is_amx_tile_supported", lambda has=has: has, raising=False)
        assert product_dtype("cpu") == expected and product_dtype("cuda") == torch.bfloat16
        for columns in (12, 40):
            out = orthogonalise(torch.randn(3, 8, columns, generator=torch.Generator().manual_seed(0)))
            assert out.dtype == torch.float32
            singular = torch.linalg.svdvals(out)
            assert 0.6 < singular.min() and singular.max() < 1.3
    assert squared == [torch.float32]
    product_dtype.cache_clear()


# ---- several processes ----

SHAPES = [(16, 40), (40, 16), (24, 24), (16, 40), (8, 8), (12, 6, 3, 3), (5,)]
PROCESS = """
import sys
import torch
from torch import distributed
from optimizers import muon
from tests.optimizers.test_muon import trained

rank, folder, world = int(sys.argv[1]), sys.argv[2], int(sys.argv[3])
torch.set_num_threads(1)
distributed.init_process_group("gloo", init_method=f"file://{folder}/meet", rank=rank, world_size=world)
done, whole = [], muon.orthogonalise
muon.orthogonalise = lambda g: (done.extend([tuple(g.shape[1:])] * len(g)), whole(g))[1]
torch.save({"params": trained(), "done": done}, f"{folder}/{rank}.pt")
"""


def trained() -> list[torch.Tensor]:
    """Parameters after five steps on given gradients."""
    generator = torch.Generator().manual_seed(0)
    params = [torch.nn.Parameter(torch.randn(shape, generator=generator)) for shape in SHAPES]
    optimizer = Muon(params, lr=0.05, weight_decay=0.1)
    for _ in range(5):
        for p in params:
            p.grad = torch.randn(p.shape, generator=generator)
        optimizer.step()
    return [p.detach() for p in params]


@pytest.mark.parametrize("world", [2, 9])
def test_processes_share_the_work_and_agree_with_one(world: int, tmp_path: Path) -> None:
    """Nine processes are more than there are matrices."""
    command = [sys.executable, "-c", PROCESS]
    processes = [subprocess.Popen([*command, str(rank), str(tmp_path), str(world)], cwd=REPO) for rank in range(world)]
    assert [p.wait(100) for p in processes] == [0] * world
    found = [torch.load(tmp_path / f"{rank}.pt") for rank in range(world)]
    for a, b in zip(found[0]["params"], trained()):
        torch.testing.assert_close(a, b, rtol=1e-5, atol=1e-5)
    assert all(torch.equal(a, b) for other in found[1:] for a, b in zip(found[0]["params"], other["params"]))
    done = [shape for rank in found for shape in rank["done"]]
    assert len(done) == 5 * 6 and len(found[0]["done"]) < len(done)  # each matrix by one process, once a step


def test_work_is_shared_out_by_its_cost() -> None:
    shapes = [torch.Size(s) for s in [(128, 512), (8, 8), (128, 128), (128, 128), (512, 128), (64, 64)]]
    owners = shared_out(shapes, 2)
    assert owners[0] != owners[4] and owners[2] != owners[3]
    assert shared_out(shapes, 1) == [0] * 6 and set(shared_out(shapes, 3)) == {0, 1, 2}
