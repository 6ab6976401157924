"""The U-Net: shapes, masks, that every part is used, and the whole net against a plain re-computation in float64."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor, nn

from networks.conditioners import LowresConditioner, TextConditioner, combine
from networks.resample import UPSAMPLE_KINDS
from networks.unet import ResBlock, UNet

SMALL = dict(image_size=16, dim=16, dim_mults=(1, 2), num_res_blocks=1, attn_resolutions=(8,), head_dim=8, tokens_dim=12)


class Told(nn.Module):
    """A net with conditioners of text and, with `lowres`, of a low-resolution image, called with what they read."""

    def __init__(self, *, text_layers: int = 0, lowres: bool = False, **options) -> None:
        super().__init__()
        self.net = UNet(**options, cond_channels=3 if lowres else 0)
        emb_dim = options.get("emb_dim") or 4 * options["dim"]
        self.text = TextConditioner(12, options["tokens_dim"], emb_dim, num_layers=text_layers, head_dim=4)
        self.lowres = LowresConditioner(emb_dim) if lowres else None

    def told(self, text: Tensor, text_mask: Tensor, **lowres: Tensor) -> dict[str, Tensor]:
        parts = [self.text({"text": text, "mask": text_mask})]
        return combine(parts + ([self.lowres(lowres)] if self.lowres is not None else []))

    def forward(self, x: Tensor, log_snr: Tensor, **cond: Tensor) -> Tensor:
        return self.net(x, log_snr, **self.told(**cond))


def inputs(batch: int = 3, size: int = 16, length: int = 5):
    g = torch.Generator().manual_seed(0)
    text = torch.randn(batch, length, 12, generator=g)
    mask = torch.ones(batch, length, dtype=torch.bool)
    x = torch.randn(batch, 3, size, size, generator=g)
    return x, torch.linspace(-5, 5, batch), dict(text=text, text_mask=mask)


def waken(net: torch.nn.Module) -> torch.nn.Module:
    """Replace the zeros that branches start with, so that an untrained net depends on all of its inputs."""
    g = torch.Generator().manual_seed(1)
    for p in net.parameters():
        if p.ndim > 0 and not p.any():
            p.data = torch.randn(p.shape, generator=g) * 0.1
    return net


@pytest.mark.parametrize("efficient", [False, True])
@pytest.mark.parametrize("upsample", UPSAMPLE_KINDS)
@pytest.mark.parametrize("fold", [1, 2])
def test_every_variant_keeps_the_shape_and_uses_every_parameter(efficient, upsample, fold):
    net = waken(Told(**SMALL | dict(fold=fold, efficient=efficient, upsample=upsample, text_layers=1, attn_resolutions=(4, 8))))
    x, log_snr, cond = inputs()
    out = net(x, log_snr, **cond)
    assert out.shape == x.shape
    out.square().sum().backward()
    unused = [n for n, p in net.named_parameters() if p.grad is None]
    assert not unused


def test_starts_at_zero_so_that_the_first_prediction_is_the_mean():
    x, log_snr, cond = inputs()
    assert not Told(**SMALL)(x, log_snr, **cond).any()


def test_padding_tokens_change_nothing():
    net = waken(Told(**SMALL, text_layers=2)).eval()
    x, log_snr, cond = inputs()
    out = net(x, log_snr, **cond)
    longer = torch.cat([cond["text"], torch.full((3, 4, 12), 7.0)], dim=1)
    mask = torch.cat([cond["text_mask"], torch.zeros(3, 4, dtype=torch.bool)], dim=1)
    torch.testing.assert_close(net(x, log_snr, text=longer, text_mask=mask), out, rtol=1e-4, atol=1e-5)


def test_a_token_level_and_lowres_all_matter():
    net = waken(Told(**SMALL, lowres=True)).eval()
    x, log_snr, cond = inputs()
    cond |= dict(lowres=torch.randn(3, 3, 16, 16), aug_level=torch.full((3,), 0.3))
    out = net(x, log_snr, **cond)
    swapped = cond["text"].clone()
    swapped[0] = cond["text"][1]
    changes = {
        "text": net(x, log_snr, **cond | dict(text=swapped)),
        "lowres": net(x, log_snr, **cond | dict(lowres=-cond["lowres"])),
        "aug_level": net(x, log_snr, **cond | dict(aug_level=cond["aug_level"] + 0.5)),
        "log_snr": net(x, log_snr + 1, **cond),
    }
    for name, changed in changes.items():
        assert (changed[0] - out[0]).abs().max() > 1e-3, name
    torch.testing.assert_close(changes["text"][1:], out[1:])  # the others kept their own caption


def test_order_of_the_tokens_matters_only_with_text_layers():
    x, log_snr, cond = inputs()
    turned = cond | dict(text=cond["text"].flip(1))
    plain = waken(Told(**SMALL)).eval()
    torch.testing.assert_close(plain(x, log_snr, **turned), plain(x, log_snr, **cond), rtol=1e-4, atol=1e-5)
    refined = waken(Told(**SMALL, text_layers=1)).eval()
    assert (refined(x, log_snr, **turned) - refined(x, log_snr, **cond)).abs().max() > 1e-4


def test_errors_name_the_value():
    with pytest.raises(ValueError, match="image_size=18"):
        UNet(**SMALL | dict(image_size=18, fold=4))
    with pytest.raises(ValueError, match="15x16 pixels"):
        UNet(**SMALL)(torch.zeros(1, 3, 15, 16), torch.zeros(1))
    with pytest.raises(ValueError, match="16x15 pixels"):
        UNet(**SMALL)(torch.zeros(1, 3, 16, 15), torch.zeros(1))
    for without in (dict(attn_resolutions=()), dict(attend_self=False), dict(mid_blocks=0)):
        with pytest.raises(ValueError, match="registers=4"):
            UNet(**SMALL | without, registers=4)


# ---- against a plain re-computation ----


def randomised(module: nn.Module) -> nn.Module:
    """Every weight a random number, so that none is without effect; float64."""
    g = torch.Generator().manual_seed(2)
    for p in module.parameters():
        fan_in = p[0].numel() if p.ndim > 1 else 4
        p.data = torch.randn(p.shape, generator=g, dtype=torch.float64) / math.sqrt(fan_in)
    return module.double().eval()


def group_norm(norm: nn.GroupNorm, x: Tensor) -> Tensor:
    grouped = x.unflatten(1, (norm.num_groups, -1)).flatten(2)
    centred = grouped - grouped.mean(-1, keepdim=True)
    normed = (centred / (centred.square().mean(-1, keepdim=True) + 1e-5).sqrt()).view(x.shape)
    return normed * norm.weight[:, None, None] + norm.bias[:, None, None]


def silu(x: Tensor) -> Tensor:
    return x / (1 + (-x).exp())


def res_block(block: ResBlock, x: Tensor, emb: Tensor) -> Tensor:
    """Dhariwal & Nichol 2021: norm, SiLU, conv; norm scaled and shifted, SiLU, conv; and the input beside it."""
    h = block.conv_1(silu(group_norm(block.norm_1, x)))
    scale, shift = block.modulation(emb)[:, :, None, None].split(h.shape[1], 1)
    h = block.conv_2(silu(group_norm(block.norm_2, h) * (1 + scale) + shift))
    return h + (x if isinstance(block.skip, nn.Identity) else block.skip(x))


def by_hand(net: UNet, x: Tensor, log_snr: Tensor, told: dict[str, Tensor]) -> Tensor:
    """Down, middle, up, with each block's skip taken back in reverse order; 1/sqrt(2) on skips where efficient."""
    root = 1 / math.sqrt(2) if net.efficient else 1.0
    emb = net.level_embedding(log_snr) + told["vector"]
    if "channels" in told:
        x = torch.cat([x, told["channels"]], 1)
    emb, f = silu(emb), net.fold
    b, c, size, _ = x.shape
    x = x.view(b, c, size // f, f, size // f, f).permute(0, 1, 3, 5, 2, 4).reshape(b, c * f * f, size // f, size // f)

    held = [] if net.registers is None else [net.registers[0, i].expand(b, -1) for i in range(net.registers.shape[1])]

    def run(block: nn.Module, x: Tensor, registers: bool = False) -> Tensor:
        if block.res is not None:
            x = res_block(block.res, x, emb)
        if block.position is not None:
            x = x + block.position
        if block.attention is not None:
            tokens = torch.stack([x[:, :, i, j] for i in range(x.shape[2]) for j in range(x.shape[3])], 1)
            tokens = torch.stack([*tokens.unbind(1), *(held if registers else [])], 1)
            tokens = block.attention.block(tokens, emb, told["tokens"], told["token_mask"])
            if registers:  # as the block leaves them, for the next one
                held[:] = tokens[:, x.shape[2] * x.shape[3] :].unbind(1)
            x = tokens[:, : x.shape[2] * x.shape[3]].mT.reshape(x.shape)
        return x

    skips = [x := net.stem(x)]
    for i, level in enumerate(net.down):
        if net.efficient or i > 0:
            x = level["shrink"](x)
        for block in level["blocks"]:
            skips.append(x := run(block, x))
    for block in net.mid:
        x = run(block, x, registers=True)
    for i, level in enumerate(net.up):
        for block in level["blocks"]:
            x = run(block, torch.cat([x, root * skips.pop()], 1))
        if net.efficient or i < len(net.up) - 1:
            x = level["grow"](x)
    x = torch.cat([x, root * skips.pop()], 1)
    assert not skips
    x = net.head[2](silu(group_norm(net.head[0], x)))
    return x.view(b, -1, f, f, size // f, size // f).permute(0, 1, 4, 2, 5, 3).reshape(b, -1, size, size)


@pytest.mark.parametrize("lowres", [False, True])
@pytest.mark.parametrize(("efficient", "registers"), [(False, 0), (True, 0), (False, 3)])
def test_the_net_is_its_definition(efficient: bool, registers: int, lowres: bool) -> None:
    net = randomised(
        Told(**SMALL | dict(dim=32, fold=2, attn_resolutions=(4, 2)), efficient=efficient, lowres=lowres, position=True,
             text_layers=1, mid_blocks=2, registers=registers)
    )  # fmt: skip
    x, log_snr, cond = inputs()
    cond["text_mask"] = torch.tensor([[True] * 5, [True] * 2 + [False] * 3, [True] + [False] * 4])
    g = torch.Generator().manual_seed(3)
    if lowres:
        cond |= dict(lowres=torch.randn(x.shape, generator=g), aug_level=torch.tensor([0.0, 0.4, 1.0]))
    x, cond = x.double(), {k: v if v.dtype == torch.bool else v.double() for k, v in cond.items()}
    log_snr = torch.tensor([-19.0, 0.3, 12.0]).double()
    out = net(x, log_snr, **cond)
    torch.testing.assert_close(out, by_hand(net.net, x, log_snr, net.told(**cond)), rtol=1e-6, atol=1e-6)
    assert out.abs().mean() > 0.1


def test_embeddings_have_the_range_of_what_they_embed() -> None:
    net = UNet(**SMALL)
    assert net.level_embedding.scale == 20
    assert net.level_embedding.mlp[-1].out_features == 4 * 16
    assert UNet(**SMALL, emb_dim=24).level_embedding.mlp[-1].out_features == 24


def test_registers_start_as_large_as_places_and_differ() -> None:
    torch.manual_seed(0)
    registers = UNet(**SMALL, registers=4).registers
    assert registers.shape == (1, 4, 32) and 0.8 < registers.std() < 1.2 and UNet(**SMALL).registers is None


def blocks(net: UNet) -> list[nn.Module]:
    return [b for level in (*net.down, *net.up) for b in level["blocks"]] + list(net.mid)


def test_attention_stands_where_it_is_asked_for() -> None:
    net = UNet(**SMALL | dict(image_size=32, dim_mults=(1, 2, 2), attn_resolutions=(16,)))
    assert [b.attention is not None for level in net.down for b in level["blocks"]] == [False, True, False]
    assert [b.attention is not None for level in net.up for b in level["blocks"]] == [False, True, False]
    assert net.mid[0].attention is None and all(b.position is None for b in blocks(net))
    plain = UNet(**SMALL | dict(tokens_dim=None), attend_self=False)
    assert all(b.attention is None for b in blocks(plain)), "there is nothing to attend to"
    alone = waken(UNet(**SMALL | dict(tokens_dim=None)))
    assert any(b.attention is not None for b in blocks(alone)), "positions attend to each other"
    assert alone(torch.randn(2, 3, 16, 16), torch.zeros(2)).abs().max() > 0


def test_settings_reach_the_layers() -> None:
    net = UNet(**SMALL, dropout=0.3, attend_self=False, ff_mult=2, upsample="bilinear", mid_res=False, position=True)
    attending = [b.attention.block for b in blocks(net) if b.attention is not None]
    assert attending and all(a.attention.to_kv is None and a.ff[0].out_features == 2 * a.ff[0].in_features for a in attending)
    assert all(b.res.dropout.p == 0.3 for b in blocks(net)[:-1]) and net.mid[0].res is None
    assert net.up[0]["grow"].kind == "bilinear" and net.mid[0].position.shape[-1] == 8
    default = UNet(**SMALL)
    assert default.up[0]["grow"].kind == "repetition" and default.mid[0].res is not None
    assert all(b.res.dropout.p == 0 for b in blocks(default))


def test_dropout_is_between_the_convolutions_in_training_only() -> None:
    block = randomised(ResBlock(8, 8, 4, dropout=0.5))
    x, emb = torch.randn(1, 8, 4, 4).double(), torch.randn(1, 4).double()
    torch.testing.assert_close(block(x, emb), res_block(block, x, emb))
    assert not torch.allclose(block.train()(x, emb), res_block(block, x, emb))


def test_levels_have_their_own_widths_and_numbers_of_blocks() -> None:
    net = UNet(**SMALL | dict(dim_mults=(2, 1), num_res_blocks=(1, 3)))
    assert [len(level["blocks"]) for level in net.down] == [1, 3] and [len(level["blocks"]) for level in net.up] == [3, 1]
    assert net.stem.out_channels == 32 and net.down[1]["shrink"].out_channels == 16
    growing = UNet(**SMALL).up[0]["grow"].conv
    assert (growing.in_channels, growing.out_channels) == (32, 16), "fewer channels before the more numerous positions"
    with pytest.raises(ValueError, match="has 1 levels"):
        UNet(**SMALL | dict(num_res_blocks=(1,)))


def test_every_branch_starts_at_zero_and_groups_hold_about_16_channels() -> None:
    net = UNet(**SMALL | dict(dim=64))
    assert not any(p.any() for b in blocks(net) for p in b.res.conv_2.parameters())
    assert net.down[0]["blocks"][0].res.norm_1.num_groups == 4 and net.head[0].num_groups == 8
    assert UNet(**SMALL).down[0]["blocks"][0].res.norm_1.num_groups == 1


def test_an_efficient_net_shrinks_before_its_first_blocks() -> None:
    assert "shrink" in UNet(**SMALL, efficient=True).down[0] and "shrink" not in UNet(**SMALL).down[0]


def test_a_net_knows_vectors_tokens_and_channels() -> None:
    net = waken(UNet(**SMALL, cond_channels=2)).eval()
    g = torch.Generator().manual_seed(4)
    x, log_snr = torch.randn(2, 3, 16, 16, generator=g), torch.zeros(2)
    told = {"tokens": torch.randn(2, 3, 12, generator=g), "channels": torch.randn(2, 2, 16, 16, generator=g)}
    assert net.cond_channels == 2 and net.tokens_dim == 12 and net.stem.in_channels == 5
    out = net(x, log_snr, **told)
    torch.testing.assert_close(net(x, log_snr, **told, vector=torch.zeros(2, 64)), out)
    for change in ({"vector": torch.ones(2, 64)}, {"tokens": -told["tokens"]}, {"channels": -told["channels"]}):
        assert (net(x, log_snr, **told | change) - out).abs().max() > 1e-3, list(change)
    masked = net(x, log_snr, **told, token_mask=torch.tensor([[True, True, False]] * 2))
    two = net(x, log_snr, **told | {"tokens": told["tokens"][:, :2]})
    torch.testing.assert_close(masked, two, rtol=1e-4, atol=1e-5)


def test_the_head_has_as_many_channels_as_asked_for() -> None:
    x = torch.zeros(1, 3, 16, 16)
    assert UNet(**SMALL | dict(fold=2, tokens_dim=None), out_channels=6)(x, torch.zeros(1)).shape == (1, 6, 16, 16)
    assert UNet(**SMALL | dict(channels=1, tokens_dim=None))(x[:, :1], torch.zeros(1)).shape == (1, 1, 16, 16)


def test_positions_start_as_strong_as_what_they_stand_beside() -> None:
    # Tables of 0.02 were not learned within 70,000 images, and with them no relation between objects.
    net = UNet(**SMALL, position=True)
    tables = [b.position for b in blocks(net) if b.position is not None]
    assert tables and all(t.std() > 0.3 and t.requires_grad for t in tables)
