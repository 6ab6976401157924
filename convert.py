"""Models to and from diffusers' folders: python convert.py ckpt=RUN out=FOLDER, or from=FOLDER out=zoo/NAME data=cifar10.

The first writes what `DDPMPipeline.from_pretrained(FOLDER)` and `DDIMPipeline.from_pretrained(FOLDER)` read. The second makes
such a folder a model of this repository, to draw from, evaluate and train on. Both are for the net of `net=ddpm` on its own
table of noise levels; diffusers itself is not needed.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from omegaconf import DictConfig, OmegaConf

from files import read_json, write_json
from networks.diffusers_unet import convert_back, load_diffusers_unet, settings, unet_config
from networks.unet_ddpm import UNetDDPM
from runtime.build import instantiate, plain
from runtime.checkpoint import load_module
from runtime.cli import guarded
from runtime.config import compose
from runtime.export import WEIGHTS, portable, write_zoo
from runtime.settings import writable

PREDICTIONS = {"eps": "epsilon", "v": "v_prediction", "x_0": "sample"}
USAGE = "write: python convert.py ckpt=RUN out=FOLDER, or python convert.py from=FOLDER out=zoo/NAME data=cifar10"
# What a scheduler's configuration must say where it says anything; its betas, range and prediction are taken over.
SCHEDULER = {"beta_schedule": "linear", "trained_betas": None, "rescale_betas_zero_snr": False, "thresholding": False, "clip_sample_range": 1.0}
VARIANCES = {"fixed_small": "small", "fixed_small_log": "small", "fixed_large": "large", "fixed_large_log": "large"}


def to_diffusers(ckpt: str, out: str | Path) -> Path:
    """Writes a model of `net=ddpm` as a pipeline's folder, with its averaged weights in float32.

    A model by class keeps its table of classes as `class_embedding`; its last row stands for no class.
    Raises: ValueError, in one line, for a model that diffusers' UNet2DModel and schedulers cannot be.
    """
    from safetensors.torch import save_file

    out = Path(out)
    if (out / "model_index.json").exists():
        raise ValueError(f"out={out} holds a pipeline already: choose another name")
    module, config, _ = load_module(ckpt)
    try:
        stage, node = diffusion_stage(module), plain(config.model)["stage"]
        unet, state = unet_config(stage.net, {k: v for k, v in node["net"].items() if k != "_target_"}), convert_back(stage.net.state_dict())
        if "label" in stage.conditioners:
            table = stage.conditioners["label"].table.weight.detach()
            unet, state = unet | {"num_class_embeds": len(table)}, state | {"class_embedding.weight": table}
        scheduler = scheduler_config(stage, variance=node["sampler"].get("variance", "small"))
    except ValueError as error:
        raise ValueError(f"ckpt={ckpt}: {error}") from None
    (out / "unet").mkdir(parents=True, exist_ok=True)
    save_file({name: value.float().contiguous() for name, value in state.items()}, out / "unet" / "diffusion_pytorch_model.safetensors")
    write_json(out / "unet" / "config.json", unet)
    (out / "scheduler").mkdir(exist_ok=True)
    write_json(out / "scheduler" / "scheduler_config.json", scheduler)
    parts = {"scheduler": ["diffusers", "DDPMScheduler"], "unet": ["diffusers", "UNet2DModel"]}
    write_json(out / "model_index.json", {"_class_name": "DDPMPipeline"} | parts)
    return out


def diffusion_stage(module: Any) -> Any:
    """The one stage of a model of pixels with the net of DDPM, unconditional or by class. Raises ValueError for others."""
    stage = getattr(module, "stage", None)
    if stage is None or not stage.space.bounded or not isinstance(stage.net, UNetDDPM):
        raise ValueError(
            "only diffusion models of pixels with the net of DDPM have an equal in diffusers: "
            "python train.py model=ddpm net=ddpm schedule=linear"
        )
    if set(stage.conditioners) - {"label"}:
        raise ValueError(f"conditioners {', '.join(stage.conditioners)}: only a label has an equal in diffusers' UNet2DModel")
    return stage


def scheduler_config(stage: Any, variance: str) -> dict[str, Any]:
    """The configuration of the DDPMScheduler with the noise levels of a stage, whose steps its net must count as they are.

    Raises: ValueError for noise levels that are not a table, or not the one that the net counts by.
    """
    schedule, prediction = stage.schedule, stage.denoiser.prediction
    steps = stage.net.num_train_steps
    times = torch.arange(1, steps + 1, dtype=torch.float64) / steps
    if prediction not in PREDICTIONS or variance not in ("small", "large"):
        raise ValueError(f"prediction={prediction} with variance={variance} has no equal in diffusers' DDPMScheduler")
    alpha_bar = torch.cat([torch.ones(1, dtype=torch.float64), schedule.alpha(times) ** 2])
    counted = stage.net.step(schedule.log_snr(times))
    preserving = torch.allclose(alpha_bar[1:] + schedule.sigma(times) ** 2, torch.ones_like(times))
    if not preserving or (counted - torch.arange(steps)).abs().max() > 1e-3:
        raise ValueError(
            f"the net counts {steps} steps of another table of noise levels than {type(schedule).__name__}: "
            "diffusers hands a net the number of the step; train with schedule=linear"
        )
    betas = 1 - alpha_bar[1:] / alpha_bar[:-1]
    linear = torch.linspace(betas[0].item(), betas[-1].item(), steps, dtype=torch.float64)
    is_linear = (betas - linear).abs().max() < 1e-9
    table = dict(beta_start=round(betas[0].item(), 12), beta_end=round(betas[-1].item(), 12)) if is_linear else dict(trained_betas=betas.tolist())
    return table | dict(
        _class_name="DDPMScheduler",
        num_train_timesteps=steps,
        beta_schedule="linear",
        prediction_type=PREDICTIONS[prediction],
        clip_sample=stage.threshold == "static",
        variance_type=f"fixed_{variance}",
        timestep_spacing="trailing",  # the grid starts at pure noise, as ours does
    )


def from_diffusers(folder: str | Path, out: str | Path, data: str, more: Sequence[str] = ()) -> Path:
    """Writes a pipeline's folder, as of google/ddpm-cifar10-32, as a folder of zoo/, with its weights in float32.

    Args:
        data: a choice of `data=` with the net's image size and channels: what it is evaluated on, and trained on further.
        more: settings of the data, such as `data.image_size=256`.
    Raises: FileNotFoundError, ValueError in one line, for what is not there, damaged, or another kind of net or scheduler.
    """
    folder, out = Path(folder), Path(out)
    if (out / WEIGHTS).exists():
        raise ValueError(f"out={out} holds a model already: choose another name")
    net = load_diffusers_unet(folder)
    place = folder / "unet" if (folder / "unet").is_dir() else folder
    arguments = settings(read_json(place / "config.json"))
    config = model_config(arguments, scheduler_settings(folder), [f"data={data}", *more])
    for name in ("image_size", "channels"):
        if (has := config.data.get(name)) != arguments[name]:
            fits = f"give data that fits, or data.{name}={arguments[name]} where it can be chosen"
            raise ValueError(f"data={data} has {name}={has}, the net of {folder} {arguments[name]}: {fits}")
    module = instantiate(config.model)
    module.stage.net.load_state_dict(net.state_dict())
    module.stage.images_trained.fill_(1)  # how many it has seen is not known; 0 would say that it is not trained
    facts = {"weights": f"{folder.name} of diffusers, float32", "train_sec": None, "seed": None, "versions": {"torch": str(torch.__version__)}}
    write_zoo(out, module, module.state_dict(), portable(config), facts)
    return out


def scheduler_settings(folder: Path) -> dict[str, Any]:
    """What a pipeline's scheduler says; a folder without one has DDPM's. Raises ValueError for another kind of noise levels."""
    path = folder / "scheduler" / "scheduler_config.json"
    found = read_json(path) if path.is_file() else {}
    if not isinstance(found, dict):
        raise ValueError(f"{path}: this is no scheduler's configuration")
    for key, needed in SCHEDULER.items():
        if found.get(key, needed) != needed:
            raise ValueError(f"{path}: {key}={found[key]!r}: only schedulers with {needed!r} can be converted")
    kinds = {theirs: ours for ours, theirs in PREDICTIONS.items()}
    prediction, variance = found.get("prediction_type", "epsilon"), found.get("variance_type", "fixed_small")
    if prediction not in kinds or variance not in VARIANCES:
        raise ValueError(f"{path}: prediction_type={prediction!r} with variance_type={variance!r} cannot be converted")
    steps, start, end = numbers = [found.get(k, v) for k, v in (("num_train_timesteps", 1000), ("beta_start", 1e-4), ("beta_end", 0.02))]
    if not all(isinstance(n, (int, float)) for n in numbers) or not isinstance(steps, int) or steps < 1:
        raise ValueError(f"{path}: num_train_timesteps={steps!r}, beta_start={start!r}, beta_end={end!r}: these are no noise levels")
    return {
        "num_train_steps": steps,
        "beta_start": start,
        "beta_end": end,
        "prediction": kinds[prediction],
        "variance": VARIANCES[variance],
        "threshold": "static" if found.get("clip_sample", True) else "none",
    }


def model_config(net: dict[str, Any], scheduler: dict[str, Any], data: Sequence[str]) -> DictConfig:
    """The configuration of a run on this data whose model is this net with these noise levels."""
    steps = scheduler["num_train_steps"]
    levels = {"num_train_steps": steps} | {k: scheduler[k] * steps / 1000 for k in ("beta_start", "beta_end")}  # ours count by 1000 steps
    config = compose("train", ["model=ddpm", "net=ddpm_cifar10", "schedule=linear", "optimizer=adam", *data])
    OmegaConf.set_struct(config, False)
    config.schedule.update(levels)
    config.net.update({k: v for k, v in net.items() if k not in ("image_size", "channels")} | {
        "emb_dim": 4 * net["dim"], "num_train_steps": steps, "schedule": "${schedule}",
    })  # fmt: skip
    config.model.stage.update({"prediction": scheduler["prediction"], "threshold": scheduler["threshold"], "num_steps": steps})
    config.model.stage.times = {"_target_": "diffusion.times.GridTimes", "num_train_steps": steps}
    config.model.stage.sampler.variance = scheduler["variance"]
    return config


def main(argv: Sequence[str]) -> Path:
    """The command. Raises ValueError for missing, unknown or wrong settings."""
    given = dict(text.split("=", 1) for text in argv if "=" in text)
    more = [f"{key}={given.pop(key)}" for key in list(given) if key.startswith("data.") and "from" in given]
    if len(given) + len(more) != len(argv) or set(given) not in ({"ckpt", "out"}, {"from", "out", "data"}) or not all(map(str.strip, given.values())):
        raise ValueError(USAGE)
    writable(given["out"], "out")
    if "ckpt" in given:
        out = to_diffusers(given["ckpt"], given["out"])
        print(f'{out}: read it with diffusers.DDIMPipeline.from_pretrained("{out}")')
    else:
        out = from_diffusers(given["from"], given["out"], given["data"], more)
        print(f"{out}: draw from it with python sample.py ckpt={out} n=4 num_steps=50 sampler=ddim")
    return out


if __name__ == "__main__":
    sys.exit(guarded(lambda: main(sys.argv[1:])))
