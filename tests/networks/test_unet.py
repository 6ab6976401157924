"""The U-Net: shapes, masks, that every part is used, and the ways of growing a feature map."""

from __future__ import annotations

import pytest
import torch

from networks.attention import Attention, attend
from networks.resample import UPSAMPLE_KINDS, Upsample
from networks.unet import UNet

SMALL = dict(image_size=16, dim=16, dim_mults=(1, 2), num_res_blocks=1, attn_resolutions=(8,), head_dim=8, text_dim=12)


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
    net = waken(UNet(**SMALL | dict(fold=fold, efficient=efficient, upsample=upsample, text_layers=1, attn_resolutions=(4, 8))))
    x, log_snr, cond = inputs()
    out = net(x, log_snr, **cond)
    assert out.shape == x.shape
    out.square().sum().backward()
    unused = [n for n, p in net.named_parameters() if p.grad is None]
    assert not unused


def test_starts_at_zero_so_that_the_first_prediction_is_the_mean():
    x, log_snr, cond = inputs()
    assert not UNet(**SMALL)(x, log_snr, **cond).any()


def test_padding_tokens_change_nothing():
    net = waken(UNet(**SMALL, text_layers=2)).eval()
    x, log_snr, cond = inputs()
    out = net(x, log_snr, **cond)
    longer = torch.cat([cond["text"], torch.full((3, 4, 12), 7.0)], dim=1)
    mask = torch.cat([cond["text_mask"], torch.zeros(3, 4, dtype=torch.bool)], dim=1)
    torch.testing.assert_close(net(x, log_snr, text=longer, text_mask=mask), out, rtol=1e-4, atol=1e-5)


def test_a_token_level_and_lowres_all_matter():
    net = waken(UNet(**SMALL, lowres=True)).eval()
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
    plain = waken(UNet(**SMALL)).eval()
    torch.testing.assert_close(plain(x, log_snr, **turned), plain(x, log_snr, **cond), rtol=1e-4, atol=1e-5)
    refined = waken(UNet(**SMALL, text_layers=1)).eval()
    assert (refined(x, log_snr, **turned) - refined(x, log_snr, **cond)).abs().max() > 1e-4


def test_explicit_attention_equals_torch(monkeypatch):
    q, k, v = (torch.randn(2, 3, n, 8, dtype=torch.float64) for n in (6, 9, 9))
    mask = torch.rand(2, 1, 1, 9) > 0.3
    mask[..., 0] = True
    expected = torch.nn.functional.scaled_dot_product_attention(q, k, v, attn_mask=mask)
    torch.testing.assert_close(attend(q, k, v, mask), expected)


def test_pure_cross_attention_ignores_other_positions():
    layer = Attention(16, context_dim=12, head_dim=8, attend_self=False)
    x, context = torch.randn(1, 4, 16), torch.randn(1, 5, 12)
    out = layer(x, context)
    x_changed = torch.cat([x[:, :1], torch.randn(1, 3, 16)], dim=1)
    torch.testing.assert_close(layer(x_changed, context)[:, 0], out[:, 0])


@pytest.mark.parametrize("kind", UPSAMPLE_KINDS)
def test_upsample_doubles(kind):
    assert Upsample(6, 4, kind)(torch.randn(2, 6, 5, 7)).shape == (2, 4, 10, 14)


def test_pixel_shuffle_starts_without_checkerboard():
    out = Upsample(6, 4, "pixel_shuffle")(torch.randn(2, 6, 5, 5))
    blocks = torch.nn.functional.pixel_unshuffle(out, 2).unflatten(1, (4, 4))
    torch.testing.assert_close(blocks, blocks[:, :, :1].expand_as(blocks))


def test_errors_name_the_value():
    with pytest.raises(ValueError, match="upsample='magic'"):
        Upsample(4, 4, "magic")
    with pytest.raises(ValueError, match="image_size=18"):
        UNet(**SMALL | dict(image_size=18, fold=4))
    with pytest.raises(ValueError, match="15x16 pixels"):
        UNet(**SMALL)(torch.zeros(1, 3, 15, 16), torch.zeros(1), **{k: v[:1] for k, v in inputs()[2].items()})
