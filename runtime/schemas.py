"""What each setting of the three commands may be: one schema for each command."""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, create_model

from runtime.nodes import Count, Finite, Seed, Share


def only(condition: Callable[[Any], Any]) -> AfterValidator:
    """Values that meet a condition."""

    def check(value: Any) -> Any:
        if not condition(value):
            raise ValueError("no")
        return value

    return AfterValidator(check)


def matching(pattern: str) -> AfterValidator:
    """Text that fits a pattern from end to end."""
    return only(lambda text: re.fullmatch(pattern, text, re.DOTALL))


Text = Annotated[str, matching(r".*\S.*"), "text"]
Place = Annotated[str, matching(r"[^\0]*[^\0\s][^\0]*"), "a path"]
Prompt = Annotated[str, matching(r".*\S.*"), "a prompt (several stand in a file, one a line: prompts=FILE)"]
Duration = Annotated[str, matching(r"(?=.*[1-9])\d+:\d\d?:\d\d?:\d\d?"), "days:hours:minutes:seconds, for instance 00:01:30:00"]
Device = Annotated[str, matching(r"auto|cpu|mps|cuda(:\d+)?"), "auto, cpu, cuda or the number of a GPU such as cuda:1"]
Devices = Annotated[int, only(lambda n: n > 0 or n == -1), "the number of devices, at least 1, or -1 for all"]
Names = Annotated[list[Text], Field(min_length=1)]
Trust = Annotated[Text | Names, "a text encoder or a folder, or a list of them"] | None
Node = Annotated[dict[str, Any], "{_target_: …}"]
Nodes = Annotated[dict[str, Node | None], "{name: {_target_: …} or null}"]


class Schema(BaseModel):
    """Strict: 1.5 is no whole number, 1 is no text, yes is no truth value. Further keys belong to configuration groups."""

    model_config = ConfigDict(strict=True, extra="allow")


class Closed(BaseModel):
    """Strict, and without further keys."""

    model_config = ConfigDict(strict=True, extra="forbid")


class Sampling(Schema):
    """What sample.py and evaluate.py share; null keeps what the checkpoint was made with."""

    out: Place | None
    seed: Seed
    batch_size: Count
    ema: bool
    debug: bool
    device: Device
    precision: Literal["auto", "float32", "bf16"]
    guidance_scale: Finite | dict[Text, Finite] | None
    num_steps: Count | dict[Text, Count] | None
    sampler: Node | None = None
    options: dict[str, Any]
    weaker: Place | None = None
    guide_clip: Place | None = None
    trust: Trust = None


class _Sample(Sampling):
    """sample.py"""

    ckpt: Place
    out: Place
    task: Literal["sample", "film", "inpaint", "interpolate", "invert", "variations", "edit"]
    image: Place | None
    images: Annotated[Names, "two images, for instance [A.png,B.png]"] | None
    mask: Place | None
    prompt: Prompt | None
    prompts: Place | None
    label: Annotated[int, Field(ge=0), "a class number, for instance label=7"] | None
    n: Count
    sheet: Text | None


class _Edited(_Sample):
    """Its settings `from` and `to`; the first is a word of Python, so that no class can be written with it."""

    to: Prompt | None


Sample = create_model("Sample", __base__=_Edited, **{"from": (Prompt | None, ...)})


class Sweep(Schema):
    """One option at a time over several values; any option of the model may be added."""

    guidance_scale: Annotated[list[Finite], Field(min_length=1), "a list of numbers, for instance [1,2,4]"] | None
    num_steps: Annotated[list[Count], Field(min_length=1), "a list of whole numbers of at least 1, for instance [8,16,32]"] | None
    sampler: Annotated[list[Text], Field(min_length=1), "a list of samplers, for instance [ddim,heun]"] | None
    stage: Text | None


class Evaluate(Sampling):
    """evaluate.py"""

    ckpt: Annotated[Place | Names, "a checkpoint, a run or a name in zoo/, or a list of them such as [runs/a,runs/b]"] | None
    images: Place | None
    compare: Annotated[Names, "a list of finished evaluations, for instance [OUT1,OUT2]"] | None
    name: Text | None
    n: Count | None
    other_data: Annotated[Names, "a list of data, for instance [mnist]"] | None
    importance_samples: Annotated[list[Count], Field(min_length=1), "a list of whole numbers of at least 1, for instance [50,500]"] | None
    likelihood_options: dict[str, Any]
    binarize: Literal["none", "dynamic", "static", "threshold"] | None
    train_images: Count
    wandb: bool
    splits: Annotated[Names, "a list of splits, for instance [iid,word]"] | None
    sweep: Sweep
    reference: Place | None
    prompts: Place | None
    allow_lossy: bool
    allow_outside: bool
    max_broken: Share
    evaluator: Nodes


class Trainer(Closed):
    """conf/trainer/"""

    accelerator: Literal["auto", "cpu", "gpu", "cuda", "mps"]
    devices: Devices | Annotated[list[int], Field(min_length=1), "a list of their numbers"] | Literal["auto"]
    num_nodes: Count = 1
    strategy: Literal["auto", "ddp", "ddp_fork", "ddp_spawn", "ddp_find_unused_parameters_true", "fsdp2"]
    precision: Literal["32-true", "bf16-mixed", "16-mixed", "bf16-true", "16-true", "64-true"] | None
    deterministic: bool | Literal["warn"]
    max_steps: Count | None
    max_time: Duration | None
    accumulate: Count
    checkpoint_activations: bool = False
    compile: bool = False
    stop: Node


class Train(Schema):
    """train.py"""

    seed: Seed
    name: Annotated[str, matching(r"(?!\.{1,2}$)[^/\0]*[^/\0\s][^/\0]*"), "the name of a folder, without slashes"] | None
    run_dir: Place | None
    init: Place | None
    trust: Trust = None
    resume: Place | None
    resume_force: bool
    debug: bool
    trainer: Trainer
    callbacks: Nodes | None
    logger: Nodes | None
    data: Node
    model: Node
    paths: dict[str, Place]


SCHEMAS: dict[str, type[Schema]] = {"train": Train, "sample": Sample, "evaluate": Evaluate}
