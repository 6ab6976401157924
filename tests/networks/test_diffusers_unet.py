"""Published DDPM checkpoints: the same output as diffusers' UNet2DModel, and a plain word where a file does not fit."""

from __future__ import annotations

import json
import math
from pathlib import Path

import pytest
import torch
from torch import Tensor

from networks.diffusers_unet import convert, load_diffusers_unet, settings
from networks.unet_ddpm import UNetDDPM

diffusers = pytest.importorskip("diffusers")

# google/ddpm-cifar10-32; the quick tests make it narrower
PUBLISHED = dict(
    act_fn="silu", attention_head_dim=None, block_out_channels=[128, 256, 256, 256], center_input_sample=False,
    down_block_types=["DownBlock2D", "AttnDownBlock2D", "DownBlock2D", "DownBlock2D"], downsample_padding=0,
    flip_sin_to_cos=False, freq_shift=1, in_channels=3, layers_per_block=2, mid_block_scale_factor=1, norm_eps=1e-6,
    norm_num_groups=32, out_channels=3, sample_size=32, time_embedding_type="positional",
    up_block_types=["UpBlock2D", "UpBlock2D", "AttnUpBlock2D", "UpBlock2D"],
)  # fmt: skip
NARROW = PUBLISHED | dict(block_out_channels=[16, 32, 32, 32], norm_num_groups=4)


def other_net(config: dict = NARROW):
    """A UNet2DModel with norms and biases that are not those of a new net."""
    torch.manual_seed(0)
    net = diffusers.UNet2DModel(**config).eval()
    for name, p in net.named_parameters():
        if p.ndim == 1:
            p.data += 0.3 * torch.randn_like(p)
    return net


def level(steps: Tensor) -> Tensor:
    """log-SNR of DDPM's steps, float64, written out: beta from 1e-4 to 0.02 in 1000 steps."""
    alpha_bar, levels = 1.0, []
    for i in range(1000):
        alpha_bar *= 1 - (1e-4 + (0.02 - 1e-4) * i / 999)
        levels.append(math.log(alpha_bar / (1 - alpha_bar)))
    return torch.tensor(levels, dtype=torch.float64)[steps]


def exact_sinusoids(step: Tensor, half: int = 8) -> Tensor:
    angles = step.double()[:, None] * torch.exp(-math.log(10_000) * torch.arange(half, dtype=torch.float64) / (half - 1))
    return torch.cat([angles.sin(), angles.cos()], 1)


@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float32, 1e-4), (torch.float64, 1e-9)])
def test_the_output_is_that_of_diffusers(dtype: torch.dtype, tolerance: float) -> None:
    other = other_net()
    net = UNetDDPM(**settings(dict(other.config))).eval()
    net.load_state_dict(convert(other.state_dict()))
    net, other = net.to(dtype), other.to(dtype)
    if dtype == torch.float64:  # theirs come in float32 only
        other.time_proj.forward = exact_sinusoids
    steps = torch.tensor([0, 1, 17, 500, 999])
    x = torch.randn(5, 3, 32, 32, generator=torch.Generator().manual_seed(1)).to(dtype)
    with torch.no_grad():
        theirs, ours = other(x, steps).sample, net(x, level(steps).to(dtype))
    assert theirs.abs().mean() > 0.1
    assert (ours - theirs).abs().max() < tolerance


def test_the_published_net_has_its_parameters() -> None:
    with torch.device("meta"):
        net, other = UNetDDPM(**settings(PUBLISHED)), diffusers.UNet2DModel(**PUBLISHED)
    assert sum(p.numel() for p in net.parameters()) == sum(p.numel() for p in other.parameters()) == 35_746_307
    theirs = convert({name: value for name, value in other.state_dict().items()})
    assert {n: v.shape for n, v in theirs.items()} == {n: v.shape for n, v in net.state_dict().items()}


@pytest.mark.parametrize("nested", [True, False])
@pytest.mark.parametrize("safe", [True, False])
def test_a_saved_folder_loads(tmp_path: Path, nested: bool, safe: bool) -> None:
    other = other_net()
    if nested:
        diffusers.DDPMPipeline(other, diffusers.DDPMScheduler()).save_pretrained(tmp_path, safe_serialization=safe)
    else:
        other.save_pretrained(tmp_path, safe_serialization=safe)
    net = load_diffusers_unet(tmp_path)
    assert not net.training
    x, steps = torch.randn(2, 3, 32, 32), torch.tensor([3, 700])
    with torch.no_grad():
        torch.testing.assert_close(net(x, level(steps)), other(x, steps).sample, rtol=1e-3, atol=1e-4)


def test_the_attention_names_of_2022_are_known(tmp_path: Path) -> None:
    state = other_net().state_dict()
    old = {"to_q": "query", "to_k": "key", "to_v": "value", "to_out.0": "proj_attn"}
    renamed = {}
    for name, value in state.items():
        for new, before in old.items():
            name = name.replace(f".{new}.", f".{before}.")
        renamed[name] = value
    assert renamed.keys() != state.keys()
    ours, same = convert(renamed), convert(state)
    assert ours.keys() == same.keys() and all(torch.equal(ours[n], same[n]) for n in ours)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (dict(norm_eps=1e-5), "norm_eps=1e-05"),
        (dict(flip_sin_to_cos=True), "flip_sin_to_cos=True"),
        (dict(downsample_padding=1), "downsample_padding=1"),
        (dict(num_class_embeds=10), "num_class_embeds=10"),
        (dict(resnet_time_scale_shift="scale_shift"), "resnet_time_scale_shift='scale_shift'"),
        (dict(down_block_types=["SkipDownBlock2D"] * 4), "SkipDownBlock2D"),
        (dict(up_block_types=["UpBlock2D"] * 4), "the same on the way up"),
        (dict(block_out_channels=[32, 48, 48, 48]), "48"),
        (dict(sample_size=None), "does not say sample_size"),
    ],
)
def test_another_kind_of_net_is_refused(change: dict, message: str) -> None:
    with pytest.raises(ValueError, match=message) as error:
        settings(PUBLISHED | change)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("key", ["flip_sin_to_cos", "freq_shift", "downsample_padding", "norm_eps"])
def test_a_key_left_out_means_their_default(key: str) -> None:
    with pytest.raises(ValueError, match=key):
        settings({k: v for k, v in PUBLISHED.items() if k != key})


def test_head_dim_and_attention_follow_the_configuration() -> None:
    assert settings(PUBLISHED)["head_dim"] is None and settings(PUBLISHED)["attn_resolutions"] == [16]
    assert settings(PUBLISHED | dict(attention_head_dim=8))["head_dim"] == 8
    assert settings({k: v for k, v in PUBLISHED.items() if k != "attention_head_dim"})["head_dim"] == 8


def test_what_is_wrong_with_a_folder_is_said_in_one_line(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match="no config.json"):
        load_diffusers_unet(tmp_path)
    (tmp_path / "config.json").write_text(json.dumps(NARROW))
    with pytest.raises(FileNotFoundError, match="no diffusion_pytorch_model.safetensors"):
        load_diffusers_unet(tmp_path)
    (tmp_path / "diffusion_pytorch_model.safetensors").write_bytes(b"not weights")
    with pytest.raises(ValueError) as error:
        load_diffusers_unet(tmp_path)
    assert "\n" not in str(error.value) and str(tmp_path) in str(error.value)
    (tmp_path / "config.json").write_text("{")
    with pytest.raises(ValueError) as error:
        load_diffusers_unet(tmp_path)
    assert "\n" not in str(error.value)


def test_weights_of_another_width_are_refused(tmp_path: Path) -> None:
    other_net().save_pretrained(tmp_path)
    (tmp_path / "config.json").write_text(json.dumps(NARROW | dict(layers_per_block=1)))
    with pytest.raises(ValueError, match="Unexpected key") as error:
        load_diffusers_unet(tmp_path)
    assert "\n" not in str(error.value)
    with pytest.raises(ValueError, match="to_v.weight is missing"):
        convert({"mid_block.attentions.0.to_k.weight": torch.zeros(1)})
