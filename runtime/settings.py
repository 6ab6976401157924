"""Checks the settings of the three commands before anything is loaded or written: each by itself, then together."""

from __future__ import annotations

import os
import typing
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from omegaconf import DictConfig, OmegaConf
from pydantic import BaseModel, ValidationError

from runtime.config import CONF
from runtime.nodes import arguments, check_nodes, check_values, expected, shown, takes, unsuited
from runtime.schemas import SCHEMAS

LAUNCHED = ("TORCHELASTIC_RUN_ID", "SLURM_NTASKS", "NODE_RANK")  # in the environment where something starts all machines
NEEDED = {
    "ckpt": "give ckpt=: a checkpoint file, a run directory such as runs/latest, or a name in zoo/",
    "model": "choose a model, for instance model=imagen",
    "data": "choose data, for instance data=scenes",
}


def check(command: str, cfg: DictConfig) -> dict[str, Any]:
    """The settings of a command, resolved and plain, once every one of them is what it may be.

    Raises: ValueError in one line, with the setting, its value as it was typed, and what is expected.
    """
    plain = OmegaConf.to_container(cfg, resolve=True)
    schema = SCHEMAS[command]
    for field in schema.model_fields:
        if plain.get(field, "???") == "???" and field in NEEDED or field in ("model", "data") and plain.get(field) is None:
            raise ValueError(NEEDED[field])
    try:
        schema.model_validate(plain)
    except ValidationError as error:
        raise ValueError(_message(schema, plain, error.errors()[0]["loc"])) from None
    usable_device(plain.get("device", "auto"))
    check_nodes({key: value for key, value in plain.items() if key not in ("hydra", "choices")})
    if command == "evaluate":
        check_judges(plain, needed=True)
    return plain


LOADER = "runtime.checkpoint.load_module"


def check_judges(plain: dict[str, Any], needed: bool = False) -> None:
    """Raises FileNotFoundError, or ValueError where it is `needed` and not given, for a trained judge that is not there.

    A judge is a node with `ckpt` that loads it through `load_module`, anywhere in `evaluator` or `callbacks`. It stands in
    a node of its own, such as `classifier`, which the messages name, since evaluators only refer to it. One that nobody has
    named, the default of conf/extractor/, may be missing: the report then says that its metrics are not computed.
    """
    from runtime.checkpoint import locate

    def judges(node: Any, where: str) -> Iterator[tuple[str, dict[str, Any]]]:
        if isinstance(node, dict):
            if isinstance(node.get("load"), dict) and node["load"].get("_target_") == LOADER and "ckpt" in node:
                yield where, node
            for key, value in node.items():
                yield from judges(value, f"{where}.{key}")
        elif isinstance(node, list):
            for i, value in enumerate(node):
                yield from judges(value, f"{where}[{i}]")

    own = [name for name, node in plain.items() if name not in ("evaluator", "callbacks") and any(judges(node, name))]
    for part in ("evaluator", "callbacks"):
        for where, node in judges(plain.get(part), part):
            name = f"{next((n for n in own if plain[n] == node), where)}.ckpt"
            default = CONF / "extractor" / f"{name.removesuffix('.ckpt')}.yaml"
            if node["ckpt"] is not None and default.exists() and node["ckpt"] == OmegaConf.load(default).get("ckpt"):
                continue
            if node["ckpt"] is not None:
                locate(node["ckpt"], name)
            elif needed:
                metric = where.split(".")[1]
                raise ValueError(f"{name}=null: {part}.{metric} needs a classifier: train one (python train.py model=classifier "
                                 f"data=…) and give {name}=RUN, or leave the metric out with {part}.{metric}=null")


def _message(schema: type[BaseModel], plain: Any, loc: tuple[int | str, ...]) -> str:
    """One line on the wrong setting at `loc`. The deeper parts of `loc` name alternatives of a type, not settings."""
    name, wanted, value = "", schema, plain
    for part in loc:
        if not (isinstance(wanted, type) and issubclass(wanted, BaseModel)):
            break
        name = f"{name}.{part}" if name else str(part)
        if not isinstance(value, dict) or part not in value:
            return f"{name} was removed: it is needed"
        if part not in wanted.model_fields:
            return f"unknown setting {name!r}: {takes(schema_name(name), str(part), wanted.model_fields)}"
        value, wanted = value[part], typing.get_type_hints(wanted, include_extras=True)[str(part)]
    if isinstance(value, dict) and len(loc) > 1 and loc[1] in value and loc[0] in ("callbacks", "logger", "evaluator"):
        return f"{name}.{loc[1]}={shown(value[loc[1]])}: give {{_target_: …}} or null"
    if isinstance(wanted, type) and issubclass(wanted, BaseModel):
        return f"{name}={shown(value)}: give a group of settings"
    return f"{name}={shown(value)}: give {expected(wanted)}"


def schema_name(name: str) -> str:
    """`trainer` of `trainer.num_nodes`."""
    return name.rpartition(".")[0] or "the command"


def check_train(cfg: DictConfig) -> None:
    """`check`, and what the settings of training must be together and on this machine."""
    own = cfg.run_dir
    cfg.run_dir = cfg.paths.runs if own is None else own  # what is inside it is text; the place is chosen later
    try:
        plain = check("train", cfg)
    finally:
        cfg.run_dir = own
    from pytorch_lightning import Callback
    from pytorch_lightning.loggers import Logger

    for part, kind in (("callbacks", Callback), ("logger", Logger)):
        for name, node in (plain[part] or {}).items():
            if (wrong := unsuited(node, kind)) is not None:
                raise ValueError(f"{part}.{name}: {wrong}")
    trainer, model = plain["trainer"], plain["model"]
    if "optimizer" in model and model["optimizer"] is None:
        raise ValueError("model.optimizer=null: training needs an optimiser, for instance {_target_: torch.optim.Adam, _partial_: true, lr: 1e-3}")
    usable_trainer(trainer["accelerator"], trainer["devices"], trainer.get("num_nodes", 1))
    writable(plain["run_dir"], "paths.runs" if own is None else "run_dir")
    if plain["init"] is not None:
        from runtime.checkpoint import locate

        locate(plain["init"], "init")


def usable_trainer(accelerator: str, devices: Any, num_nodes: int = 1) -> None:
    """Raises ValueError for hardware that this machine does not have, and for machines that nothing has started."""
    import torch

    gpus = torch.cuda.device_count()
    if accelerator in ("gpu", "cuda") and not gpus:
        raise ValueError(f"trainer.accelerator={accelerator}: torch finds no GPU on this machine; use trainer=auto or trainer=cpu")
    if accelerator == "mps" and not torch.backends.mps.is_available():
        raise ValueError("trainer.accelerator=mps: torch finds no Apple GPU on this machine; use trainer=auto or trainer=cpu")
    on_gpu = accelerator in ("gpu", "cuda") or accelerator == "auto" and gpus > 0
    asked = max(devices) + 1 if isinstance(devices, list) else devices
    if on_gpu and isinstance(asked, int) and asked > gpus:
        raise ValueError(f"trainer.devices={shown(devices)}: this machine has {gpus}")
    if not on_gpu and (isinstance(devices, list) or devices == -1):
        raise ValueError(f"trainer.devices={shown(devices)}: on a CPU, give the number of processes, for instance trainer.devices=2")
    if num_nodes > 1 and not any(name in os.environ for name in LAUNCHED):
        raise ValueError(f"trainer.num_nodes={num_nodes}: start it on every machine by torchrun or srun, as docs/scale.md says; it would wait for ever")


def usable_device(device: str) -> None:
    """Raises ValueError for a device that this machine does not have."""
    if device in ("auto", "cpu"):
        return
    import torch

    gpus = torch.cuda.device_count()
    if device.startswith("cuda") and int(device.partition(":")[2] or 0) >= gpus:
        raise ValueError(f"device={device}: torch finds {gpus or 'no'} GPU{'s' * (gpus != 1 and gpus > 0)} on this machine; use device=auto or device=cpu")
    if device == "mps" and not torch.backends.mps.is_available():
        raise ValueError("device=mps: torch finds no Apple GPU on this machine; use device=auto or device=cpu")


def writable(place: str | Path, name: str) -> None:
    """Raises ValueError unless a folder is there or can be made. Nothing is made yet."""
    path = Path(place)
    there = next(p for p in (path, *path.absolute().parents) if os.path.lexists(p))
    if not there.is_dir():
        what = "is a file" if there == path else f"cannot be made: {there} is a file"
        raise ValueError(f"{name}={place}: {what}; give a folder")
    if not os.access(there, os.W_OK | os.X_OK):
        raise ValueError(f"{name}={place}: no permission to write into {there}")


def readable(place: str | Path, name: str) -> None:
    """Raises FileNotFoundError or ValueError unless a text file is there and may be read."""
    path = Path(place)
    if not path.is_file():
        raise FileNotFoundError(f"{name}={place}: no such file" if not path.exists() else f"{name}={place}: it is no file")
    if not os.access(path, os.R_OK):
        raise ValueError(f"{name}={place}: no permission to read it")


def check_options(module: Any, options: dict[str, Any], where: str = "", methods: Sequence[str] = ("sample",)) -> None:
    """Raises ValueError for options that a model does not take, and for stages that it has not.

    Args:
        where: what stands before an option's name on the command line, for instance `options.`.
        methods: what is called with the options; each is for one of them at least.
    """
    known = {name: kind for method in methods for name, kind in known_options(module, method).items()}
    stages = list(getattr(module, "stages", {}))
    for name, value in options.items():
        if name not in known:
            raise ValueError(f"{where}{name}={shown(value)}: {takes('this model', name, known)}")
        wrong = [key for key in value if key not in stages] if isinstance(value, dict) and "_target_" not in value else []
        if wrong:
            there = f"its stages are {', '.join(stages)}" if stages else "it has no stages, give one number"
            raise ValueError(f"{where}{name}={shown(value)}: the model has no stage {wrong[0]!r}; {there}")
    check_values(known, options, where)


def known_options(module: Any, method: str = "sample") -> dict[str, Any]:
    """{option: annotation} of what a model's sample(), or another task, names beside the request and the seeds.

    A task that takes any options, by `**options`, hands them on to sample() and takes what that names.
    """
    known, others = arguments(getattr(type(module), method))
    known = {name: annotation for name, annotation in known.items() if name not in ("request", "seeds", "x_T", "z", "batch")}
    return known_options(module) | known if others and method != "sample" else known


def known_data(names: list[str] | None) -> None:
    """Raises ValueError for an `other_data` that conf/data does not have."""
    there = sorted(path.stem for path in (CONF / "data").glob("*.yaml"))
    for name in names or ():
        if name not in there:
            raise ValueError(f"other_data={shown(list(names))}: there is no data {name!r}; there are {', '.join(there)}")
