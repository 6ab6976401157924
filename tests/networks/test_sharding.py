"""Nets sharded over two processes: what is sharded, the gradients of one, and whole nets for as long as it takes."""

from __future__ import annotations

import copy
from pathlib import Path

import torch
import torch.distributed as dist
from torch import Tensor, nn

from networks.checkpointing import checkpoint_blocks
from networks.clip import ContrastiveNet, TextTransformer, VisionTransformer
from networks.conditioners import TextConditioner
from networks.sharding import called, shard_nets, whole_nets
from networks.unet import Block, UNet
from optimizers.sharded import gathered, is_sharded, local
from tests.processes import in_two


class Model(nn.Module):
    """A net and a conditioner that train, a net that does not, and a parameter of its own."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        size = dict(image_size=8, dim=16, dim_mults=(1, 2), num_res_blocks=1, attn_resolutions=(4,), head_dim=8, tokens_dim=8)
        self.net, self.frozen = UNet(**size), UNet(**size).requires_grad_(False)
        self.conditioners = nn.ModuleDict({"text": TextConditioner(8, 8, 64, head_dim=8)})
        self.gain = nn.Parameter(torch.ones(3, 1, 1))
        for p in self.net.parameters():
            if not p.any():  # what starts at zero has others' gradients at zero
                nn.init.normal_(p, std=0.1)

    def forward(self, x: Tensor) -> Tensor:
        value = {"text": x.flatten(1)[:, :32].view(-1, 4, 8), "mask": torch.ones(len(x), 4, dtype=torch.bool)}
        told = self.conditioners["text"](value)
        return self.net(self.gain * x, torch.zeros(len(x)), **told) + self.frozen(x, torch.zeros(len(x)), **told)


def images() -> Tensor:
    return torch.randn(4, 3, 8, 8, generator=torch.Generator().manual_seed(1))


def towers() -> ContrastiveNet:
    return ContrastiveNet(VisionTransformer(8, 8, 4, 16, 2, 2), TextTransformer(8, vocab_size=20, context_length=6, width=16, heads=2, layers=2))


def test_nets_are_found_by_how_they_are_called() -> None:
    model = Model()
    assert called(model) == [model.net, model.frozen]
    clip = nn.ModuleDict({"net": towers()})
    assert called(clip) == [clip["net"].visual, clip["net"].text], "the net around them is never called"


def backward(model: Model, rows: slice = slice(None)) -> None:
    model(images()[rows]).square().mean().backward()


def mean_gradient(model: Model, name: str) -> Tensor:
    grad = model.get_parameter(name).grad
    if not is_sharded(grad):
        grad = grad.clone()
        dist.all_reduce(grad)
        return grad / 2
    return gathered(local(grad), grad)


def sharded_training(again: bool) -> None:
    whole, model = Model(), Model()
    if again:
        checkpoint_blocks(model)
    rank, names = dist.get_rank(), [name for name, _ in model.named_parameters()]
    inside = sum(p.numel() for p in model.net.parameters())
    parts = shard_nets(model)
    assert [name for name, _ in model.named_parameters()] == names, "checkpoints keep their names"
    assert {name for name, p in model.named_parameters() if is_sharded(p)} == {name for name in names if name.startswith("net.")}
    held = sum(local(p).numel() for p in model.net.parameters())
    assert abs(held / inside - 0.5) < 0.05, f"{held} of {inside}"
    blocks = sum(isinstance(part, Block) for part in model.net.modules())
    assert len(parts) == blocks + 1 and parts[-1].module is model.net
    backward(whole)
    backward(model, slice(rank, None, 2))
    for name, p in whole.named_parameters():
        if p.requires_grad:
            torch.testing.assert_close(mean_gradient(model, name), p.grad, rtol=1e-4, atol=1e-6, msg=lambda text: f"{name}: {text}")
    assert all(is_sharded(p) for p in model.net.parameters()), "parts again after a step"


def computed_again() -> None:
    sharded_training(again=True)


def one_process_alone() -> None:
    whole, model = Model(), Model()
    parts, rank = shard_nets(model), dist.get_rank()
    before = [local(p).clone() for p in model.net.parameters()]
    with torch.no_grad(), whole_nets(parts):  # also before the first step
        assert not any(is_sharded(p) for p in model.net.parameters())
        for _ in range(3 * (1 - rank)):
            torch.testing.assert_close(model(images()), whole(images()), rtol=0, atol=1e-6)
        if rank == 0:
            with torch.enable_grad():  # guidance by a classifier
                x = images().requires_grad_()
                torch.autograd.grad(model(x).sum(), x)
    assert all(torch.equal(local(p), b) for p, b in zip(model.net.parameters(), before)), "bit for bit"
    backward(whole)
    backward(model, slice(rank, None, 2))
    for name, p in whole.net.named_parameters():
        torch.testing.assert_close(mean_gradient(model, f"net.{name}"), p.grad, rtol=1e-4, atol=1e-6)
    try:
        with whole_nets(parts):
            raise ValueError(rank)
    except ValueError:
        pass
    assert all(is_sharded(p) for p in model.net.parameters())
    backward(whole)
    backward(model, slice(rank, None, 2))
    name = "net.stem.weight"
    torch.testing.assert_close(mean_gradient(model, name), whole.get_parameter(name).grad, rtol=1e-4, atol=1e-6)


def towers_of_a_clip() -> None:
    model = nn.ModuleDict({"net": towers()})
    whole = copy.deepcopy(model)
    shard_nets(model)
    net, other = model["net"], whole["net"]
    assert {name for name, p in net.named_parameters() if not is_sharded(p)} == {"logit_scale"}
    ids = torch.randint(1, 20, (4, 6), generator=torch.Generator().manual_seed(2))
    vectors = net.encode_image(images()), net.encode_text(ids)
    for one, two in zip(vectors, (other.encode_image(images()), other.encode_text(ids))):
        torch.testing.assert_close(one, two, rtol=0, atol=1e-6)


def test_gradients_are_those_of_one_process(tmp_path: Path) -> None:
    in_two(sharded_training, tmp_path, False)


def test_blocks_that_compute_again_may_be_sharded(tmp_path: Path) -> None:
    in_two(computed_again, tmp_path)


def test_one_process_alone_draws_with_whole_nets(tmp_path: Path) -> None:
    in_two(one_process_alone, tmp_path)


def test_the_towers_of_a_clip_are_sharded_each(tmp_path: Path) -> None:
    in_two(towers_of_a_clip, tmp_path)
