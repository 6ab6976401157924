"""EDM's U-Net against a plain re-computation in float64, and the published parameter count."""

from __future__ import annotations

import math
from pathlib import Path

import pytest
import torch
import yaml
from torch import Tensor, nn

from networks.unet_edm import UNetEDM
from tests.networks.plain import attention, draw, group_norm, randomised, res_block, silu

REPO = Path(__file__).resolve().parents[2]
SMALL = dict(image_size=16, dim=8, dim_mults=(2, 1), num_res_blocks=2, attn_resolutions=(8,), groups=2)


def by_hand(net: UNetEDM, x, log_snr, vector, tokens=None, token_mask=None, channels=None) -> Tensor:
    half = net.emb_dim // 2
    c_noise = torch.log(torch.exp(-log_snr / 2)) / 4  # ln(sigma) / 4
    angles = c_noise[:, None] * 10_000.0 ** (-torch.arange(half, dtype=torch.float64) / (half - 1))
    first, _, second, _ = net.embedding
    emb = torch.cat([angles.sin(), angles.cos()], 1) + vector
    emb = silu(silu(emb @ first.weight.T + first.bias) @ second.weight.T + second.bias)

    def run(block: nn.Module, x: Tensor) -> Tensor:
        x = res_block(block.res, x, emb)
        return x if block.attention is None else attention(block.attention, x, tokens, token_mask)

    skips = [x := net.stem(x if channels is None else torch.cat([x, channels], 1))]
    for level in net.down:
        for block in level:
            skips.append(x := run(block, x))
    x = run(net.mid[1], run(net.mid[0], x))
    for i, level in enumerate(net.up):
        if i > 0:
            x = run(level["grow"], x)
        for block in level["blocks"]:
            x = run(block, torch.cat([x, skips.pop()], 1))
    assert not skips
    return net.head(silu(group_norm(net.norm, x)))


@pytest.mark.parametrize("conditioned", [False, True])
@pytest.mark.parametrize("scale_shift", [False, True])
def test_the_net_is_its_definition(scale_shift: bool, conditioned: bool) -> None:
    more = dict(tokens_dim=12, cond_channels=2, out_channels=6, emb_dim=20, head_dim=4) if conditioned else {}
    net = randomised(UNetEDM(**SMALL | dict(scale_shift=scale_shift) | more))
    x, log_snr = draw(3, 3, 8, 12), torch.tensor([-19.0, 0.3, 12.0]).double()
    cond = dict(vector=draw(3, net.emb_dim))
    if conditioned:
        mask = torch.tensor([[True, True, False], [True, False, False], [False] * 3])
        cond |= dict(tokens=draw(3, 3, 12), token_mask=mask, channels=draw(3, 2, 8, 12, seed=5))
    out = net(x, log_snr, **cond)
    assert out.shape == (3, net.out_channels, 8, 12) and out.abs().mean() > 0.05
    torch.testing.assert_close(out, by_hand(net, x, log_snr, **cond), rtol=1e-6, atol=1e-6)


def test_every_sum_is_scaled_and_sides_change_by_means_and_repetition() -> None:
    net = UNetEDM(**SMALL)
    blocks = [b for level in net.down for b in level] + list(net.mid)
    blocks += [b for level in net.up for b in (*level["blocks"], *([level["grow"]] if "grow" in level else []))]
    assert all(math.isclose(b.res.skip_scale, 0.5**0.5) for b in blocks)
    assert all(math.isclose(b.attention.skip_scale, 0.5**0.5) for b in blocks if b.attention is not None)
    x = torch.arange(16.0).view(1, 1, 4, 4)
    halved, doubled = net.down[1][0].res.resample(x), net.up[1]["grow"].res.resample(x)
    assert halved.flatten().tolist() == [2.5, 4.5, 10.5, 12.5]
    assert torch.equal(doubled, x.repeat_interleave(2, 2).repeat_interleave(2, 3))
    assert net.mid[0].res.dropout.p == 0.13


def test_on_the_way_up_only_the_last_block_of_a_level_attends() -> None:
    net = UNetEDM(**SMALL | dict(image_size=32, attn_resolutions=(16,)))
    assert [[b.attention is not None for b in level] for level in net.down] == [[False] * 2, [False, True, True]]
    ups = [[b.attention is not None for b in level["blocks"]] for level in net.up]
    assert ups == [[False, False, True], [False] * 3]
    assert [b.attention is not None for b in net.mid] == [True, False]
    assert net.mid[0].attention.attention.head_dim == 8, "one head"


def test_starts_at_zero_and_uses_every_parameter() -> None:
    net = UNetEDM(**SMALL, tokens_dim=12, cond_channels=1)
    x, log_snr = torch.randn(2, 3, 16, 16), torch.zeros(2)
    cond = dict(vector=torch.randn(2, 8), tokens=torch.randn(2, 3, 12), channels=torch.randn(2, 1, 16, 16))
    assert not net(x, log_snr, **cond).any()
    net = randomised(net)
    net(x.double(), log_snr.double(), **{k: v.double() for k, v in cond.items()}).square().sum().backward()
    assert all(p.grad is not None and p.grad.any() for p in net.parameters())


def test_the_published_net_has_its_parameters() -> None:
    """The paper rounds to 56 million; a map of 9 augmentation numbers to the embedding, without bias, is part of it."""
    node = yaml.safe_load((REPO / "conf/net/edm_cifar10.yaml").read_text())
    assert node.pop("_target_") == "networks.unet_edm.UNetEDM"
    with torch.device("meta"):
        net = UNetEDM(**node | dict(image_size=32, channels=3))
        scaled = UNetEDM(**node | dict(image_size=32, channels=3, scale_shift=True))
    assert sum(p.numel() for p in net.parameters()) + 9 * net.emb_dim == 55_733_891
    assert sum(p.numel() for p in scaled.parameters()) > 60e6, "the reading that does not meet the figure"


def test_errors_name_the_value() -> None:
    with pytest.raises(ValueError, match="image_size=17"):
        UNetEDM(**SMALL | dict(image_size=17))
    with pytest.raises(ValueError, match="15x16 pixels"):
        UNetEDM(**SMALL)(torch.zeros(1, 3, 15, 16), torch.zeros(1))
    with pytest.raises(ValueError, match="tokens_dim=None"):
        UNetEDM(**SMALL)(torch.zeros(1, 3, 16, 16), torch.zeros(1), tokens=torch.zeros(1, 2, 4))


def test_facts_by_number() -> None:
    net = UNetEDM(**SMALL, tokens_dim=12, cond_channels=2)
    facts = (net.image_size, net.channels, net.emb_dim, net.tokens_dim, net.cond_channels, net.out_channels)
    assert facts == (16, 3, 8, 12, 2, 3)
