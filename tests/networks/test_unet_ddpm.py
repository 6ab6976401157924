"""The U-Net of DDPM against a plain re-computation in float64, and its options; diffusers stands in test_diffusers_unet."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor, nn

from networks.unet_ddpm import AttentionBlock, Grow, ResBlock, Shrink, UNetDDPM, norm
from tests.networks.plain import attention, draw, group_norm, randomised, res_block, silu

SMALL = dict(image_size=16, dim=8, dim_mults=(1, 2), num_res_blocks=1, attn_resolutions=(8,), groups=2)


def by_hand(net: UNetDDPM, x, step, vector, tokens=None, token_mask=None, channels=None) -> Tensor:
    half = net.step_embedding.dim // 2
    angles = step[:, None] * 10_000.0 ** (-torch.arange(half, dtype=torch.float64) / (half - 1))
    emb = silu(net.step_embedding.mlp(torch.cat([angles.sin(), angles.cos()], 1)) + vector)

    def run(block: nn.Module, x: Tensor) -> Tensor:
        x = res_block(block.res, x, emb)
        return x if block.attention is None else attention(block.attention, x, tokens, token_mask)

    skips = [x := net.stem(x if channels is None else torch.cat([x, channels], 1))]
    for i, level in enumerate(net.down):
        for block in level["blocks"]:
            skips.append(x := run(block, x))
        if i < len(net.down) - 1:
            wider = torch.zeros(*x.shape[:2], x.shape[2] + 1, x.shape[3] + 1, dtype=x.dtype)
            wider[:, :, :-1, :-1] = x
            skips.append(x := nn.functional.conv2d(wider, level["shrink"].conv.weight, level["shrink"].conv.bias, 2))
    x = run(net.mid[1], run(net.mid[0], x))
    for i, level in enumerate(net.up):
        for block in level["blocks"]:
            x = run(block, torch.cat([x, skips.pop()], 1))
        if i < len(net.up) - 1:
            x = level["grow"].conv(x.repeat_interleave(2, 2).repeat_interleave(2, 3))
    assert not skips
    return net.head(silu(group_norm(net.norm, x)))


@pytest.mark.parametrize("conditioned", [False, True])
@pytest.mark.parametrize("scale_shift", [False, True])
def test_the_net_is_its_definition(scale_shift: bool, conditioned: bool) -> None:
    more = dict(tokens_dim=12, cond_channels=2, out_channels=6, emb_dim=20, head_dim=4) if conditioned else {}
    net = randomised(UNetDDPM(**SMALL | dict(num_res_blocks=2, scale_shift=scale_shift) | more))
    x, step = draw(3, 3, 8, 12), torch.tensor([0.0, 411.0, 999.0]).double()
    cond = dict(vector=draw(3, net.emb_dim))
    if conditioned:
        mask = torch.tensor([[True, True, False], [True, False, False], [False] * 3])
        cond |= dict(tokens=draw(3, 3, 12), token_mask=mask, channels=draw(3, 2, 8, 12, seed=5))
    out = net(x, levels()[step.long()], **cond)
    assert out.shape == (3, net.out_channels, 8, 12) and out.abs().mean() > 0.1
    torch.testing.assert_close(out, by_hand(net, x, step, **cond), rtol=1e-6, atol=1e-6)


def levels() -> Tensor:
    alpha_bar = torch.cumprod(1 - torch.linspace(1e-4, 0.02, 1000, dtype=torch.float64), 0)
    return torch.log(alpha_bar / (1 - alpha_bar))


def test_the_step_may_come_from_another_schedule() -> None:
    class Straight:
        def t_from_log_snr(self, log_snr: Tensor) -> Tensor:
            return torch.sigmoid(-log_snr / 2)

    net = UNetDDPM(**SMALL, schedule=Straight(), num_train_steps=500)
    at = torch.tensor([0.25, 0.5, 1e-9]).double()
    step = net.step(-2 * torch.log(at / (1 - at)))
    torch.testing.assert_close(step, torch.tensor([124.0, 249.0, 0.0]).double())
    assert net.step(torch.zeros(2)).dtype == torch.float32
    assert UNetDDPM(**SMALL, num_train_steps=500).step(torch.tensor([-20.0])).item() == 499


def test_starts_at_zero_and_uses_every_parameter() -> None:
    net = UNetDDPM(**SMALL, tokens_dim=12, cond_channels=1)
    x, log_snr = torch.randn(2, 3, 16, 16), torch.zeros(2)
    cond = dict(vector=torch.randn(2, 32), tokens=torch.randn(2, 3, 12), channels=torch.randn(2, 1, 16, 16))
    assert not net(x, log_snr, **cond).any()
    blocks = [b for level in (*net.down, *net.up) for b in level["blocks"]] + list(net.mid)
    assert not any(b.res.conv_2.weight.any() for b in blocks)
    assert not any(b.attention.attention.to_out.weight.any() for b in blocks if b.attention is not None)
    bound = math.sqrt(6 / (4 * 9 + 8 * 9))
    assert 0.9 * bound < net.stem.weight.abs().max() <= bound
    net = randomised(net)
    net(x.double(), log_snr.double(), **{k: v.double() for k, v in cond.items()}).square().sum().backward()
    assert all(p.grad is not None and p.grad.any() for p in net.parameters())


def test_attention_stands_where_it_is_asked_for() -> None:
    net = UNetDDPM(**SMALL | dict(image_size=32, dim_mults=(1, 2, 2), attn_resolutions=(16,), num_res_blocks=2))
    assert [[b.attention is not None for b in level["blocks"]] for level in net.down] == [[False] * 2, [True] * 2, [False] * 2]
    assert [[b.attention is not None for b in level["blocks"]] for level in net.up] == [[False] * 3, [True] * 3, [False] * 3]
    assert [b.attention is not None for b in net.mid] == [True, False]
    assert net.mid[0].attention.attention.head_dim == 16, "one head"


def test_dropout_is_the_papers_and_between_the_convolutions() -> None:
    assert UNetDDPM(**SMALL).mid[0].res.dropout.p == 0.1
    block = randomised(ResBlock(8, 8, emb_dim=4, dropout=0.5, groups=2))
    x, emb = draw(1, 8, 4, 4), draw(1, 4)
    torch.testing.assert_close(block(x, emb), res_block(block, x, emb))
    assert not torch.allclose(block.train()(x, emb), res_block(block, x, emb))


@pytest.mark.parametrize("scale_shift", [False, True])
def test_a_resampling_block_resamples_both_paths(scale_shift: bool) -> None:
    block = randomised(
        ResBlock(8, 8, emb_dim=4, groups=2, scale_shift=scale_shift, resample=nn.AvgPool2d(2), skip_scale=0.5)
    )
    x, emb = draw(2, 8, 4, 4), draw(2, 4)
    assert block(x, emb).shape == (2, 8, 2, 2) and isinstance(block.skip, nn.Conv2d)
    torch.testing.assert_close(block(x, emb), res_block(block, x, emb))


def test_an_attention_block_scales_its_sum() -> None:
    block = randomised(AttentionBlock(8, head_dim=4, groups=2, skip_scale=0.5))
    x = draw(2, 8, 3, 5)
    torch.testing.assert_close(block(x), attention(block, x, None, None))


def test_halving_sees_zeros_right_and_below_and_doubling_repeats() -> None:
    shrink, grow = Shrink(1).double(), Grow(1).double()
    for layer, tap in ((shrink, (2, 2)), (grow, (1, 1))):
        nn.init.zeros_(layer.conv.weight)
        nn.init.zeros_(layer.conv.bias)
        layer.conv.weight.data[0, 0][tap] = 1
    x = torch.arange(1.0, 17.0).double().view(1, 1, 4, 4)
    assert shrink(x).flatten().tolist() == [11, 0, 0, 0]
    assert torch.equal(grow(x), x.repeat_interleave(2, 2).repeat_interleave(2, 3))


def test_groups_have_4_channels_or_more_and_divide() -> None:
    assert [norm(d, 32).num_groups for d in (128, 256, 32, 80, 4, 3, 144)] == [32, 32, 8, 20, 1, 1, 24]
    assert norm(128, 8).num_groups == 8 and norm(128, 32).eps == 1e-6


def test_errors_name_the_value() -> None:
    with pytest.raises(ValueError, match="image_size=18 is not a multiple of 2\\^halvings = 4"):
        UNetDDPM(image_size=18, dim_mults=(1, 1, 1))
    with pytest.raises(ValueError, match="15x16 pixels"):
        UNetDDPM(**SMALL)(torch.zeros(1, 3, 15, 16), torch.zeros(1))
    with pytest.raises(ValueError, match="16x15 pixels"):
        UNetDDPM(**SMALL)(torch.zeros(1, 3, 16, 15), torch.zeros(1))
    with pytest.raises(ValueError, match="tokens_dim=None"):
        UNetDDPM(**SMALL)(torch.zeros(1, 3, 16, 16), torch.zeros(1), tokens=torch.zeros(1, 2, 4))


def test_facts_by_number() -> None:
    net = UNetDDPM(**SMALL, tokens_dim=12, cond_channels=2)
    facts = (net.image_size, net.channels, net.emb_dim, net.tokens_dim, net.cond_channels, net.out_channels)
    assert facts == (16, 3, 32, 12, 2, 3)
