"""UNetDDPM and diffusers' UNet2DModel are one net: the configuration and the weights of each as those of the other.

Files are enough, such as google/ddpm-cifar10-32; diffusers itself is not needed.
"""

from __future__ import annotations

import inspect
import json
import re
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

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

# Their name of a part and ours; # is a number, the same in both.
PARTS = (
    ("conv_in", "stem"),
    ("conv_norm_out", "norm"),
    ("conv_out", "head"),
    ("time_embedding.linear_1", "step_embedding.mlp.0"),
    ("time_embedding.linear_2", "step_embedding.mlp.2"),
    *(
        (f"{side}_blocks.#.{theirs}", f"{side}.#.{ours}")
        for side, resampler, resampled in (("down", "downsamplers.0.conv", "shrink.conv"), ("up", "upsamplers.0.conv", "grow.conv"))
        for theirs, ours in (("resnets.#", "blocks.#.res"), ("attentions.#", "blocks.#.attention"), (resampler, resampled))
    ),
    ("mid_block.resnets.#", "mid.#.res"),
    ("mid_block.attentions.0", "mid.0.attention"),
)
LAYERS = {
    "res": {"norm1": "norm_1", "norm2": "norm_2", "conv1": "conv_1", "conv2": "conv_2", "time_emb_proj": "modulation", "conv_shortcut": "skip"},
    "attention": {"group_norm": "norm"} | {name: f"attention.{name}" for name in ("to_q", "to_k", "to_v")} | {"to_out.0": "attention.to_out"},
}
# The names of 2022, which published files still carry, and those of today.
OLD = {"query": "to_q", "key": "to_k", "value": "to_v", "proj_attn": "to_out.0"}


def _rules() -> list[tuple[str, str]]:
    """Their name and ours of every layer."""
    found = []
    for theirs, ours in PARTS:
        layers = LAYERS.get(ours.rpartition(".")[2])
        found += [(theirs, ours)] if layers is None else [(f"{theirs}.{a}", f"{ours}.{b}") for a, b in layers.items()]
    return found


def _renamed(name: str, rules: list[tuple[str, str]]) -> str:
    """A weight's name by the first rule whose first half is the name of its layer, or as it was."""
    layer, _, weight = name.rpartition(".")
    for before, after in rules:
        if match := re.fullmatch(re.escape(before).replace(r"\#", r"(\d+)"), layer):
            numbers = iter(match.groups())
            return f"{re.sub('#', lambda _: next(numbers), after)}.{weight}"
    return name


def convert(state: dict[str, Tensor]) -> dict[str, Tensor]:
    """The weights of a UNet2DModel under the names of UNetDDPM."""
    rules, ours = _rules(), {}
    for name, value in state.items():
        layer, _, weight = name.rpartition(".")
        head, _, last = layer.rpartition(".")
        ours[_renamed(f"{head}.{OLD[last]}.{weight}" if last in OLD else name, rules)] = value
    for name in [n for n in ours if ".attention.to_k." in n]:
        value = name.replace(".to_k.", ".to_v.")
        if value not in ours:
            raise ValueError(f"the weights have keys of an attention and not its values: {value} is missing")
        ours[name.replace(".to_k.", ".to_kv.")] = torch.cat([ours.pop(name), ours.pop(value)])
    return ours


def convert_back(state: dict[str, Tensor]) -> dict[str, Tensor]:
    """The weights of a UNetDDPM under the names of UNet2DModel."""
    rules, theirs = [(ours, theirs) for theirs, ours in _rules()], {}
    for name, value in state.items():
        halves = {name: value}
        if ".to_kv." in name:
            halves = {name.replace(".to_kv.", f".to_{half}."): part for half, part in zip("kv", value.chunk(2))}
        theirs |= {_renamed(half, rules): part.contiguous() for half, part in halves.items()}
    return theirs


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


def unet_config(net: UNetDDPM, given: dict[str, Any]) -> dict[str, Any]:
    """The configuration of a UNet2DModel that is this net; `given` are the arguments that the net was built with.

    Raises: ValueError in one line where UNet2DModel has no such net.
    """
    built = {name: p.default for name, p in inspect.signature(UNetDDPM).parameters.items()} | given
    groups = {m.num_groups for m in net.modules() if isinstance(m, nn.GroupNorm)}
    refusals = (
        (built["scale_shift"], "scale_shift=true"),
        (net.emb_dim != 4 * built["dim"], f"emb_dim={net.emb_dim}, which is not 4 dim"),
        (net.tokens_dim or net.cond_channels, "tokens or further channels"),
        (net.out_channels != net.channels, f"out_channels={net.out_channels}"),
        (len(groups) > 1, f"norms of {', '.join(map(str, sorted(groups)))} groups: train with net.groups={min(groups)}"),
    )
    if reason := next((text for refused, text in refusals if refused), None):
        raise ValueError(f"a net with {reason} has no equal in diffusers' UNet2DModel")
    sizes = [net.image_size // 2**i for i in range(len(built["dim_mults"]))]
    down = ["AttnDownBlock2D" if size in built["attn_resolutions"] else "DownBlock2D" for size in sizes]
    return REQUIRED | dict(
        _class_name="UNet2DModel",
        sample_size=net.image_size,
        in_channels=net.channels,
        out_channels=net.out_channels,
        block_out_channels=[built["dim"] * m for m in built["dim_mults"]],
        layers_per_block=built["num_res_blocks"],
        down_block_types=down,
        up_block_types=[kind.replace("Down", "Up") for kind in reversed(down)],
        attention_head_dim=built["head_dim"],
        norm_num_groups=groups.pop(),
        dropout=built["dropout"],
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
