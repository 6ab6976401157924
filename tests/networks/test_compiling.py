"""Compiled nets: the same outputs and gradients, the same names, and no part that falls back to Python."""

from __future__ import annotations

import copy

import pytest
import torch
from torch import nn

from networks import compiling
from networks.compiling import compile_nets
from networks.conditioners import TextConditioner
from networks.unet import UNet
from tests.networks.test_checkpointing import NETS, TOLD, images


@pytest.fixture(autouse=True)
def fresh():
    torch._dynamo.reset()
    yield
    torch._dynamo.reset()


class Whole(nn.Module):
    """A model that holds nets, one of them deeper."""

    def __init__(self) -> None:
        super().__init__()
        self.stages = nn.ModuleDict({"base": nn.ModuleDict({"net": UNet(image_size=8, dim=8, dim_mults=(1, 2), attn_resolutions=(4,), head_dim=8, tokens_dim=8)})})
        self.conditioner = TextConditioner(12, 8, 32, head_dim=8)
        self.plain = nn.Linear(2, 2)


def compiled(module: nn.Module) -> list[str]:
    return [name for name, part in module.named_modules() if part._compiled_call_impl is not None]


def test_whole_nets_are_compiled_and_names_stay(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(compiling, "BACKEND", "eager")
    whole = Whole()
    names = list(whole.state_dict())
    assert compile_nets(whole) == 2
    assert compiled(whole) == ["stages.base.net", "conditioner"]
    assert list(whole.state_dict()) == names
    assert compiled(copy.deepcopy(whole)) == [], "a copy, as of averaged weights, is a plain one"


def test_a_model_without_nets_has_none() -> None:
    assert compile_nets(nn.Sequential(nn.Linear(2, 2))) == 0


@pytest.mark.parametrize("name", NETS)
def test_no_net_falls_back_to_python(name: str) -> None:
    make, run = NETS[name]
    net = make().eval()
    expected = run(net)
    net.compile(backend="eager", fullgraph=True)
    torch.testing.assert_close(run(net), expected)


def test_captions_of_any_length_are_compiled_twice_at_most() -> None:
    net = NETS["unet"][0]().eval()
    counter = torch._dynamo.testing.CompileCounter()
    net.compile(backend=counter)
    for length in (3, 5, 6, 7, 9):
        told = {"tokens": torch.ones(2, length, 8), "token_mask": torch.ones(2, length, dtype=torch.bool)}
        images(net, **told)
    assert counter.frame_count <= 2


@pytest.mark.slow
@pytest.mark.timeout(600)  # a compiler runs
def test_compiled_code_computes_the_same() -> None:
    torch.manual_seed(0)
    net = UNet(image_size=8, dim=8, dim_mults=(1,), num_res_blocks=0, mid_blocks=1, attn_resolutions=(8,), head_dim=8, tokens_dim=8, position=True)
    for p in net.parameters():
        p.data += 0.1 * torch.randn_like(p)
    other = copy.deepcopy(net)
    whole = nn.ModuleList([other])
    assert compile_nets(whole) == 1
    found = []
    for one in (net, other):
        images(one, **TOLD).square().mean().backward()
        found.append([p.grad for p in one.parameters() if p.grad is not None])
    assert len(found[0]) == len(found[1]) > 10
    for a, b in zip(*found):
        torch.testing.assert_close(a, b, rtol=1e-3, atol=1e-5)
