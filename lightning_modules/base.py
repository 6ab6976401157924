"""What every family shares: counters, one optimiser, clipping per group, and the shape of losses() and sample()."""

from __future__ import annotations

import hashlib
import math
import random
from collections.abc import Callable, Sequence
from typing import Any, ContextManager

import pytorch_lightning as pl
import torch
from torch import Tensor, nn

from contracts import Batch, Request, model_range
from networks.checkpointing import checkpoint_blocks
from networks.compiling import compile_nets
from networks.sharding import Sharded, shard_nets, whole_nets
from optimizers.sharded import clip_gradients, total_norm


class GenerativeModule(pl.LightningModule):
    """A generator of images that the training loop, the callbacks and the scripts can drive without knowing its family.

    A subclass writes ``losses`` and ``sample``. Its training noise is keyed by ``batch["seed"]``; the global random
    state, which dropout uses, is set before every batch from (run seed, rank, batch number), so that a run can be
    stopped and resumed anywhere.

    Args:
        optimizer: partial that takes parameters or parameter groups.
        lr_schedule: (optimiser step from 0, share of trainer.max_time that is used) -> multiplier of each group's learning
            rate; None keeps it constant.
        clip_norm: largest gradient norm of each of ``clip_groups``; None only measures it.
    """

    conditioning = "none"  # what sample() reads from a request besides the number of images: "none", "label" or "text"
    averaged = ""  # callbacks.ema averages the weights whose names begin with this; "" averages all that train

    def __init__(
        self,
        optimizer: Callable[..., torch.optim.Optimizer] | None = None,
        lr_schedule: Callable[[int, float], float] | None = None,
        clip_norm: float | None = 1.0,
    ) -> None:
        super().__init__()
        check_schedules(lr_schedule=lr_schedule)
        check_optimizer(optimizer)
        self.optimizer, self.lr_schedule, self.clip_norm = optimizer, lr_schedule, clip_norm
        self.run_seed = 0  # set by the runtime before fit
        self.time_share = self.train_sec = 0.0  # set by callbacks.stop before every step, the same on all processes
        # Plain integers, saved under ckpt["counters"]: the axis of every log and the unit of every budget.
        self.batches_seen = self.optimizer_steps = self.images_seen = 0
        # Written every batch without reading values, so that logging decides when to wait for the device.
        self.last_losses: dict[str, Tensor] = {}
        self.last_grad_norms: dict[str, Tensor] = {}
        self._sharded: list[Sharded] = []

    # ---- what a family writes ----

    def losses(self, batch: Batch) -> dict[str, Tensor]:
        """Scalars by name; ``loss`` is the one to minimise, where there is one."""
        raise NotImplementedError

    def sample(self, request: Request, *, seeds: Sequence[int], **options: Any) -> Tensor:
        """Images (n, C, H, W) in [-1, 1]; image i depends on its own part of the request and on seeds[i] alone.

        A subclass names its options as keyword arguments with a type and a default of None: the scripts, sweeps and
        callbacks offer what the signature holds, and None leaves an option as the model has it.

        Raises: ValueError if the module cannot do it yet, for instance for an untrained stage.
        """
        raise NotImplementedError

    def sampling_settings(self) -> dict[str, Any]:
        """How sample() draws where no option is given, as plain values by name, for the evaluation card."""
        return {}

    def example_request(self) -> Request:
        """What the sample grids during training show."""
        return Request(16)

    def sampling_refusal(self) -> str | None:
        """Why sample() cannot be called yet, in one line; None if it can."""
        return None

    def check_prompts(self, prompts: Sequence[str]) -> None:
        """Raise ValueError for a prompt that the text encoder would cut off."""

    def checkpoint_activations(self) -> None:
        """Train with less memory, for one more forward pass of the blocks: they compute again what they need on the way back.

        Raises: ValueError for a family whose nets have no such blocks.
        """
        if not checkpoint_blocks(self):
            raise ValueError(f"trainer.checkpoint_activations=true: {type(self).__name__} has no blocks that could compute again what they need")

    def compile_nets(self) -> None:
        """Compile the nets for training. Raises: ValueError for a family that has none."""
        if not compile_nets(self):
            raise ValueError(f"trainer.compile=true: {type(self).__name__} has no nets to compile")

    def shard_nets(self) -> None:
        """Shard the parameters of the nets over all processes."""
        self._sharded = shard_nets(self)

    def whole_nets(self) -> ContextManager[None]:
        """Whole nets on every process, for forward passes of which each makes as many as it likes; all processes enter it."""
        return whole_nets(self._sharded)

    def param_groups(self) -> list[Any]:
        """What the optimiser gets: trainable parameters, or groups of them with their own settings."""
        return [p for p in self.parameters() if p.requires_grad]

    def clip_groups(self) -> dict[str, list[nn.Parameter]]:
        """Parameters whose gradients are clipped together, by the name under which their norm is logged."""
        return {"model": [p for p in self.parameters() if p.requires_grad]}

    # ---- training ----

    def transfer_batch_to_device(self, batch: Any, device: torch.device, dataloader_idx: int) -> Any:
        """Moves a batch; images become float32 in [-1, 1] there, where that costs least.

        The samples' seeds stay on the CPU: they are read there, and reading them back would wait for a GPU.
        """
        moved = super().transfer_batch_to_device(batch, device, dataloader_idx)
        if not isinstance(batch, dict):
            return moved
        if "image" in moved:
            moved["image"] = model_range(moved["image"])
        return moved | {"seed": batch["seed"]} if "seed" in batch else moved

    @property
    def world_size(self) -> int:
        """Number of processes that train together."""
        return self._trainer.world_size if self._trainer is not None else 1

    def training_step(self, batch: dict[str, Any], batch_idx: int) -> Tensor:
        seed_everything(self.run_seed, self.global_rank, self.batches_seen)
        losses = self.losses(batch)
        self.last_losses = {name: value.detach() for name, value in losses.items()}
        self.batches_seen += 1
        self.images_seen += batch["image"].shape[0] * self.world_size
        return losses["loss"]

    def validation_step(self, batch: dict[str, Any], batch_idx: int) -> dict[str, Tensor]:
        """Values of a validation batch, of any shape, each a mean over its images."""
        return self.losses(batch)

    def validation_summary(self, means: dict[str, Tensor], images: int) -> dict[str, Tensor]:
        """Scalars to log, from the means of ``validation_step``'s values over all `images` of the validation set.

        A value that is no mean over images is computed here: computed per batch, it would depend on the batch size.
        """
        return means

    def configure_optimizers(self) -> torch.optim.Optimizer:
        optimizer = self.optimizer(self.param_groups())
        for group in optimizer.param_groups:
            group["initial_lr"] = group["lr"]
        return optimizer

    def set_learning_rate(self, optimizer: torch.optim.Optimizer) -> None:
        """Set every group's learning rate as a pure function of the step and the time used, so that nothing needs restoring."""
        if self.lr_schedule is not None:
            for group in optimizer.param_groups:
                group["lr"] = group["initial_lr"] * self.lr_schedule(self.optimizer_steps, self.time_share)

    def optimizer_step(self, epoch: int, batch_idx: int, optimizer: Any, optimizer_closure: Any = None) -> None:
        # Automatic optimisation only; a family with several optimisers calls set_learning_rate and counts by itself.
        self.set_learning_rate(optimizer)
        super().optimizer_step(epoch, batch_idx, optimizer, optimizer_closure)
        self.optimizer_steps += 1

    def configure_gradient_clipping(self, optimizer: Any, *_: Any, **__: Any) -> None:
        self.last_grad_norms = {}
        for name, params in self.clip_groups().items():
            self.clip(name, params)

    def clip(self, name: str, params: Sequence[nn.Parameter]) -> None:
        """Scale the gradients of one group to a norm of at most ``clip_norm``, and note what it was."""
        params = [p for p in params if p.grad is not None]
        if params:
            norm = total_norm([p.grad for p in params])
            self.last_grad_norms[name] = norm.detach()
            if self.clip_norm is not None:
                clip_gradients(params, self.clip_norm, norm)

    # ---- checkpoints ----

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        checkpoint["counters"] = {name: getattr(self, name) for name in COUNTERS}

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        for name in COUNTERS:
            setattr(self, name, checkpoint["counters"][name])


class Judge(GenerativeModule):
    """A module that draws no images but judges those of others; trained and stored like every family."""

    refusal = "this model draws no images"

    def sampling_refusal(self) -> str:
        """Why there are no samples."""
        return self.refusal

    def sample(self, request: Request, *, seeds: Sequence[int], **options: Any) -> Tensor:
        """Raises ValueError."""
        raise ValueError(self.refusal)

    def example_request(self) -> Request:
        """No images in the grids during training."""
        return Request(0)


COUNTERS = ("batches_seen", "optimizer_steps", "images_seen")


def check_schedules(**schedules: Any) -> None:
    """Raises ValueError, naming the setting, for a schedule that is not a function of the step."""
    for name, schedule in schedules.items():
        if schedule is not None and not callable(schedule):
            known = "{_target_: optimizers.schedules.WarmupDecay, total_steps: 1000}"
            raise ValueError(f"model.{name}={schedule!r}: give null or a schedule, for instance {known}")


def check_optimizer(optimizer: Callable[..., torch.optim.Optimizer] | None) -> None:
    """Raises ValueError, before training starts, for an optimiser that cannot be built with its settings."""
    if optimizer is None:
        return
    try:
        optimizer([nn.Parameter(torch.zeros(1))])
    except (ValueError, TypeError, IndexError, RuntimeError) as error:  # each optimiser has its own way to refuse
        raise ValueError(f"model.optimizer: {str(error).splitlines()[0]}") from None


def matrices_and_rest(module: nn.Module) -> list[dict[str, Any]]:
    """Two groups for an optimiser: matrices, and what neither decays nor is orthogonalised (gains, biases, tables of vectors).

    Tables are what `nn.Embedding` holds, and parameters whose names end in `_embedding`.
    """
    tables = {id(m.weight) for m in module.modules() if isinstance(m, nn.Embedding)}
    named = [(name, p) for name, p in module.named_parameters() if p.requires_grad]
    plain = [p for name, p in named if p.ndim < 2 or id(p) in tables or name.endswith("_embedding")]
    chosen = {id(p) for p in plain}
    matrices = [p for _, p in named if id(p) not in chosen]
    return [{"params": matrices}, {"params": plain, "weight_decay": 0.0, "min_side": math.inf}]


def seed_everything(*key: int) -> None:
    """Set Python's and torch's global random state from a hash of integers."""
    value = int.from_bytes(hashlib.blake2b(repr(key).encode(), digest_size=8).digest(), "little") >> 1
    random.seed(value)
    # On a CPU the one generator is enough: torch.manual_seed takes a millisecond to note seeds for devices not started.
    other_device = torch.cuda.is_initialized() or torch.backends.mps.is_available()
    (torch.manual_seed if other_device else torch.default_generator.manual_seed)(value)
