"""Two processes that share a batch have the objective of one, also where it is not linear in the images."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
import torch

from objectives.elbo import free_bits
from objectives.pixels import Gaussian
from objectives.contrastive import clip_loss
from objectives.processes import gather_over_processes, mean_over_processes

REPO = Path(__file__).resolve().parents[2]
PROCESS = """
import sys
import torch
from torch import distributed
from objectives.processes import mean_over_processes
from tests.objectives.test_processes import contrast, objective

rank, folder = int(sys.argv[1]), sys.argv[2]
torch.set_num_threads(1)
distributed.init_process_group("gloo", init_method=f"file://{folder}/meet", rank=rank, world_size=2)
found = objective(slice(4 * rank, 4 * rank + 4))
found["x"] = mean_over_processes(torch.tensor([1.0 + rank, 10.0 * rank]))
found |= contrast(rank)
torch.save(found, f"{folder}/{rank}.pt")
"""


def objective(mine: slice) -> dict[str, torch.Tensor]:
    """Value and gradients of both objectives on a share of eight images, and the variance that is kept."""
    generator = torch.Generator().manual_seed(0)
    image = torch.rand(8, 1, 4, 4, generator=generator, dtype=torch.float64)
    spread = torch.linspace(0.1, 3, 8, dtype=torch.float64)  # the two halves differ
    scale = torch.ones((), dtype=torch.float64, requires_grad=True)
    likelihood = Gaussian("optimal")
    nll = -likelihood.log_prob(scale * (image * spread[:, None, None, None])[mine], image[mine]).mean()
    # Means over all: 1, 0.45 and 0.15. The floor of 0.5 lies between the halves' own means of the first two.
    kl = torch.tensor([[0.2, 0.8, 0.1]] * 4 + [[1.8, 0.1, 0.2]] * 4, dtype=torch.float64)[mine]
    width = torch.ones(3, dtype=torch.float64, requires_grad=True)
    kl = kl * width
    rate = free_bits(kl, 0.5, mean_over_processes(kl.mean(0)))
    (nll + rate).backward()
    return {
        "nll": nll.detach(), "rate": rate.detach(), "scale": scale.grad, "width": width.grad,
        "variance": likelihood.running_variance.double(),
    }  # fmt: skip


def contrast(rank: int | None) -> dict[str, torch.Tensor]:
    """CLIP's loss and its gradients on a share of eight pairs, or on all (None); open_clip's own on the same share."""
    from open_clip.loss import ClipLoss

    found = {}
    theirs = ClipLoss(gather_with_grad=True, rank=rank or 0, world_size=1 if rank is None else 2)
    mine = slice(None) if rank is None else slice(4 * rank, 4 * rank + 4)
    for name in ("own", "theirs"):
        pairs = torch.randn(2, 8, 5, generator=torch.Generator().manual_seed(1))[:, mine].clone().requires_grad_()
        scale = torch.tensor(7.0, requires_grad=True)
        image, text = torch.nn.functional.normalize(pairs, dim=-1)
        if name == "own":
            loss = clip_loss(gather_over_processes(image), gather_over_processes(text), scale)
        else:
            loss = theirs(image, text, scale)
        loss.backward()
        found |= {f"{name}_loss": loss.detach(), f"{name}_pairs": pairs.grad, f"{name}_scale": scale.grad}
    return found


@pytest.fixture(scope="module")
def two(tmp_path_factory: pytest.TempPathFactory) -> list[dict[str, torch.Tensor]]:
    folder = tmp_path_factory.mktemp("processes")
    started = [
        subprocess.Popen([sys.executable, "-c", PROCESS, str(rank), str(folder)], cwd=REPO, stderr=subprocess.PIPE)
        for rank in (0, 1)
    ]
    for process in started:
        _, error = process.communicate(timeout=120)
        assert process.returncode == 0, error.decode()
    return [torch.load(folder / f"{rank}.pt") for rank in (0, 1)]


def test_two_processes_have_the_objective_of_one(two: list[dict[str, torch.Tensor]]) -> None:
    one = objective(slice(0, 8))
    assert one["rate"].item() == pytest.approx(1 + 0.5 + 0.5)
    for name in ("nll", "rate", "scale", "width"):
        torch.testing.assert_close((two[0][name] + two[1][name]) / 2, one[name], atol=1e-6, rtol=0)
        assert two[0][name].ne(two[1][name]).any() or name == "variance", f"the halves do not differ in {name}"
    for rank in (0, 1):
        torch.testing.assert_close(two[rank]["variance"], one["variance"], atol=1e-6, rtol=0)


def test_the_mean_is_over_processes_and_element_by_element(two: list[dict[str, torch.Tensor]]) -> None:
    assert [found["x"].tolist() for found in two] == [[1.5, 5.0], [1.5, 5.0]]


def test_alone_the_mean_is_a_copy_without_gradient() -> None:
    x = torch.ones(3, requires_grad=True)
    mean = mean_over_processes(x)
    assert torch.equal(mean, x.detach()) and not mean.requires_grad
    mean.zero_()
    assert x.tolist() == [1, 1, 1]


def test_gathered_the_contrastive_loss_is_open_clips_and_that_of_one_process(two: list[dict[str, torch.Tensor]]) -> None:
    one = contrast(None)
    for rank, found in enumerate(two):
        for part in ("loss", "pairs", "scale"):
            torch.testing.assert_close(found[f"own_{part}"], found[f"theirs_{part}"], atol=1e-6, rtol=1e-6)
        for part in ("loss", "scale"):
            torch.testing.assert_close(found[f"own_{part}"], one[f"own_{part}"], atol=1e-6, rtol=1e-6)
        # Data-parallel training divides by the number of processes.
        share = one["own_pairs"][:, 4 * rank : 4 * rank + 4]
        torch.testing.assert_close(found["own_pairs"] / 2, share, atol=1e-6, rtol=1e-6)


def test_alone_what_is_gathered_is_what_was_given() -> None:
    x = torch.ones(3, requires_grad=True)
    assert gather_over_processes(x) is x
