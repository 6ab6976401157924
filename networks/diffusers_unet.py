"""Published DDPM checkpoints: the weights of diffusers' UNet2DModel as those of UNetDDPM.

A folder as of google/ddpm-cifar10-32 is enough; diffusers itself is not needed.
"""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from networks.unet_ddpm import UNetDDPM

# What a configuration must say, where it says anything else than these the net would differ.
REQUIRED = {
    "act_fn": "silu",
    "time_embedding_type": "positional",
    "flip_sin_to_cos": False,
    "freq_shift": 1,
    "center_input_sample": False,
    "downsample_padding": 0,
    "downsample_type": "conv",
    "upsample_type": "conv",
    "mid_block_type": "UNetMidBlock2D",
    "mid_block_scale_factor": 1,
    "norm_eps": 1e-6,
    "resnet_time_scale_shift": "default",
    "add_attention": True,
    "attn_norm_num_groups": None,
    "class_embed_type": None,
    "num_class_embeds": None,
    "time_embedding_dim": None,
}
# Their defaults, where a configuration leaves a key out; keys not named here default to what is required above.
DEFAULTS = {"flip_sin_to_cos": True, "freq_shift": 0, "downsample_padding": 1, "norm_eps": 1e-5, "attention_head_dim": 8}

RENAMED = (
    (r"^conv_in\.", "stem."),
    (r"^conv_norm_out\.", "norm."),
    (r"^conv_out\.", "head."),
    (r"^time_embedding\.linear_1\.", "step_embedding.mlp.0."),
    (r"^time_embedding\.linear_2\.", "step_embedding.mlp.2."),
    (r"^(down|up)_blocks\.(\d+)\.resnets\.(\d+)\.", r"\1.\2.blocks.\3.res."),
    (r"^(down|up)_blocks\.(\d+)\.attentions\.(\d+)\.", r"\1.\2.blocks.\3.attention."),
    (r"^down_blocks\.(\d+)\.downsamplers\.0\.", r"down.\1.shrink."),
    (r"^up_blocks\.(\d+)\.upsamplers\.0\.", r"up.\1.grow."),
    (r"^mid_block\.resnets\.(\d+)\.", r"mid.\1.res."),
    (r"^mid_block\.attentions\.0\.", "mid.0.attention."),
    (r"\.res\.norm(\d)\.", r".res.norm_\1."),
    (r"\.res\.conv(\d)\.", r".res.conv_\1."),
    (r"\.res\.time_emb_proj\.", ".res.modulation."),
    (r"\.res\.conv_shortcut\.", ".res.skip."),
    (r"\.attention\.group_norm\.", ".attention.norm."),
    # the names of 2022, which published files still carry, and those of today
    (r"\.attention\.(query|to_q)\.", ".attention.attention.to_q."),
    (r"\.attention\.(key|to_k)\.", ".attention.attention.to_k."),
    (r"\.attention\.(value|to_v)\.", ".attention.attention.to_v."),
    (r"\.attention\.(proj_attn|to_out\.0)\.", ".attention.attention.to_out."),
)


def convert(state: dict[str, Tensor]) -> dict[str, Tensor]:
    """The weights of a UNet2DModel under the names of UNetDDPM."""
    ours = {}
    for name, value in state.items():
        for pattern, new in RENAMED:
            name = re.sub(pattern, new, name)
        ours[name] = value
    for name in [n for n in ours if ".attention.to_k." in n]:
        value = name.replace(".to_k.", ".to_v.")
        if value not in ours:
            raise ValueError(f"the weights have keys of an attention and not its values: {value} is missing")
        ours[name.replace(".to_k.", ".to_kv.")] = torch.cat([ours.pop(name), ours.pop(value)])
    return ours


def settings(config: dict[str, Any]) -> dict[str, Any]:
    """Arguments of UNetDDPM for the configuration of a UNet2DModel.

    Raises: ValueError in one line, with the key, where the configuration describes another kind of net.
    """
    for key, required in REQUIRED.items():
        value = config.get(key, DEFAULTS.get(key, required))
        if value != required:
            raise ValueError(f"{key}={value!r}: only UNet2DModels with {key}={required!r} can be converted")
    needed = ("sample_size", "block_out_channels", "down_block_types", "up_block_types", "layers_per_block")
    if missing := [key for key in needed if config.get(key) is None]:
        raise ValueError(f"the configuration does not say {', '.join(missing)}")
    size, dims, down = config["sample_size"], config["block_out_channels"], config["down_block_types"]
    plain, attending = "DownBlock2D", "AttnDownBlock2D"
    mirrored = [kind.replace("Down", "Up") for kind in reversed(down)]
    if not isinstance(size, int) or set(down) - {plain, attending} or list(config["up_block_types"]) != mirrored:
        raise ValueError(
            f"sample_size={size}, down_block_types={down}, up_block_types={config['up_block_types']}: "
            f"only square images, {plain} and {attending}, and the same on the way up can be converted"
        )
    if any(d % dims[0] for d in dims):
        raise ValueError(f"block_out_channels={dims} are not multiples of the first")
    return dict(
        image_size=size,
        channels=config.get("in_channels", 3),
        out_channels=config.get("out_channels", 3),
        dim=dims[0],
        dim_mults=[d // dims[0] for d in dims],
        num_res_blocks=config["layers_per_block"],
        attn_resolutions=[size // 2**i for i, kind in enumerate(down) if kind == attending],
        head_dim=config.get("attention_head_dim", DEFAULTS["attention_head_dim"]),
        groups=config.get("norm_num_groups", 32),
        dropout=config.get("dropout", 0.0),
    )


def load_diffusers_unet(path: str | Path) -> UNetDDPM:
    """The net of a saved pipeline's folder (or its ``unet`` folder), in eval mode.

    Raises: FileNotFoundError or ValueError, in one line.
    """
    folder = Path(path) / "unet" if (Path(path) / "unet").is_dir() else Path(path)
    if not (folder / "config.json").is_file():
        raise FileNotFoundError(f"{path}: no config.json here or in unet/; give the folder of a saved pipeline or model")
    weights = next(
        (f for n in ("safetensors", "bin") if (f := folder / f"diffusion_pytorch_model.{n}").is_file()), None
    )
    if weights is None:
        raise FileNotFoundError(f"{folder}: no diffusion_pytorch_model.safetensors (or .bin) beside config.json")
    try:
        net = UNetDDPM(**settings(json.loads((folder / "config.json").read_text())))
        net.load_state_dict(convert(_read(weights)))
    except Exception as error:  # damaged files raise nearly anything
        raise ValueError(f"{folder}: {' '.join(str(error).split())[:400]}") from None
    return net.eval()


def _read(file: Path) -> dict[str, Tensor]:
    if file.suffix == ".bin":
        return torch.load(file, map_location="cpu", weights_only=True)
    from safetensors.torch import load_file

    return load_file(file)
