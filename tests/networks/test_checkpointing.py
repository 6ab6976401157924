"""Checkpointed blocks: the same gradients from fewer tensors that are kept."""

from __future__ import annotations

import copy
from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn

from networks.checkpointing import checkpoint_blocks
from networks.clip import VisionTransformer
from networks.dit import DiT
from networks.efficient_unet import EfficientUNet
from networks.prior import PriorTransformer
from networks.unet import UNet
from networks.unet_ddpm import UNetDDPM
from networks.unet_edm import UNetEDM

TOLD = {"tokens": torch.ones(2, 3, 8) * torch.arange(3.0)[:, None], "token_mask": torch.tensor([[True, True, False]]).expand(2, -1)}
LEVEL = torch.tensor([-2.0, 1.0])


def images(net: nn.Module, **told: Tensor) -> Tensor:
    return net(torch.linspace(-1, 1, 2 * 3 * 64).view(2, 3, 8, 8), LEVEL, **told)


NETS: dict[str, tuple[Callable[[], nn.Module], Callable[[nn.Module], Tensor]]] = {
    "unet": (
        lambda: UNet(image_size=8, dim=8, dim_mults=(1, 2), attn_resolutions=(4,), head_dim=8, tokens_dim=8, dropout=0.3, position=True),
        lambda net: images(net, **TOLD),
    ),
    "efficient": (
        lambda: EfficientUNet(image_size=8, dim=8, dim_mults=(1, 2), num_res_blocks=1, attn_resolutions=(4,), head_dim=8, tokens_dim=8, dropout=0.3),
        lambda net: images(net, **TOLD),
    ),
    "ddpm": (lambda: UNetDDPM(image_size=8, dim=32, dim_mults=(1, 2), num_res_blocks=1, attn_resolutions=(4,), dropout=0.3), images),
    "edm": (lambda: UNetEDM(image_size=8, dim=16, dim_mults=(1, 2), num_res_blocks=1, attn_resolutions=(4,), dropout=0.3), images),
    "dit": (lambda: DiT(image_size=8, dim=16, depth=2, head_dim=8, patch_size=2), images),
    "prior": (lambda: PriorTransformer(size=6, dim=8, layers=2, heads=2), lambda net: net(torch.ones(2, 6), LEVEL)),
    "clip": (
        lambda: VisionTransformer(4, image_size=8, patch_size=4, width=8, layers=2, heads=2),
        lambda net: net(torch.linspace(-1, 1, 2 * 3 * 64).view(2, 3, 8, 8)),
    ),
}


def gradients(net: nn.Module, run: Callable[[nn.Module], Tensor]) -> tuple[dict[str, Tensor], int]:
    """The gradients of one step, and the bytes that were kept for it."""
    kept: dict[int, int] = {}

    def pack(tensor: Tensor) -> Tensor:
        kept[tensor.untyped_storage().data_ptr()] = tensor.untyped_storage().nbytes()
        return tensor

    for block in net.modules():
        if "forward" in vars(block):  # what a checkpointed block holds for the way back
            block.register_forward_pre_hook(lambda _, args: [pack(a) for a in args if isinstance(a, Tensor)] and None)
    torch.manual_seed(3)
    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        (run(net) - 0.3).square().sum().backward()
    return {name: p.grad for name, p in net.named_parameters() if p.grad is not None}, sum(kept.values())


@pytest.mark.parametrize("name", NETS)
def test_the_gradients_are_the_same_bits_and_less_is_kept(name: str) -> None:
    build, run = NETS[name]
    torch.manual_seed(0)
    net = build().train()
    for p in net.parameters():  # gates and heads that start at zero would hide what is before them
        p.data += 0.05 * torch.randn_like(p)
    plain = copy.deepcopy(net)
    names = list(net.state_dict())
    blocks = checkpoint_blocks(net)
    assert blocks >= 2 and list(net.state_dict()) == names
    (expected, before), (found, after) = gradients(plain, run), gradients(net, run)
    assert expected.keys() == found.keys() and len(found) > 10
    assert all(torch.equal(expected[key], found[key]) for key in found)
    assert after < 0.8 * before, f"{after} of {before} bytes are kept"
    with torch.no_grad():
        torch.testing.assert_close(run(net.eval()), run(plain.eval()), atol=0, rtol=0)


def test_a_copy_computes_with_its_own_weights() -> None:
    build, run = NETS["dit"]
    net = build().eval()
    for p in net.parameters():
        p.data += 0.05
    checkpoint_blocks(net)
    other = copy.deepcopy(net)
    before = run(other)
    for p in net.parameters():
        p.data.zero_()
    assert torch.equal(run(other), before) and before.abs().max() > 0
