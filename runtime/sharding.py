"""strategy=fsdp2: data parallelism whose processes share out weights, gradients, optimiser state and averages."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import pytorch_lightning as pl
from omegaconf import DictConfig
from pytorch_lightning.overrides.distributed import _sync_module_states
from pytorch_lightning.strategies import DDPStrategy, StrategyRegistry
from torch import Tensor

from optimizers.sharded import average, for_checkpoint, is_sharded, load_whole_state, local, refusal, update_parts, whole_state

NAME = "fsdp2"


class ShardedStrategy(DDPStrategy):
    """DDP's processes, with the nets sharded by FSDP2 in place of DistributedDataParallel.

    Weights are sharded once they are loaded. Checkpoints hold whole tensors, gathered one at a time, so that any number of
    processes goes on from them, with or without sharding.
    """

    _common: list[Tensor]  # parameters that are whole on every process

    def configure_ddp(self) -> None:
        """Shards the module's nets; what stays whole is made the same on all processes first, as DDP does."""
        module: Any = self.lightning_module
        _sync_module_states(module)
        module.shard_nets()
        self._common = [p for p in module.parameters() if p.requires_grad and not is_sharded(p)]

    def setup_optimizers(self, trainer: pl.Trainer) -> None:
        super().setup_optimizers(trainer)
        for optimizer in self.optimizers:
            update_parts(optimizer)

    def post_backward(self, closure_loss: Tensor) -> None:
        """Averages the gradients that FSDP2 does not, in one order on all processes, which hooks would leave to autograd."""
        average(self._common)

    def lightning_module_state_dict(self) -> dict[str, Any]:
        """Whole weights on process 0, None in their place on the others."""
        return {name: for_checkpoint(local(value), value) for name, value in super().lightning_module_state_dict().items()}

    def optimizer_state(self, optimizer: Any) -> dict[str, Any]:
        return whole_state(getattr(optimizer, "_optimizer", optimizer))

    def load_optimizer_state_dict(self, checkpoint: Mapping[str, Any]) -> None:
        for optimizer, state in zip(self.optimizers, checkpoint["optimizer_states"]):
            load_whole_state(optimizer, state)


StrategyRegistry.register(NAME, ShardedStrategy, description="FSDP2 over all processes")


def check_sharding(cfg: DictConfig, module: Any) -> None:
    """Raises ValueError, in one line, for what cannot be trained with sharded weights."""
    trainer = cfg.trainer
    if trainer.strategy != NAME:
        return
    if not module.automatic_optimization:
        what = f"{type(module).__name__} trains several nets in turns, and their weights cannot be sharded"
        raise ValueError(f"trainer.strategy={NAME}: {what}: choose trainer=ddp")
    if trainer.get("compile"):
        raise ValueError("trainer.compile=true: sharded nets are not compiled: set it to false, or choose trainer=ddp")
    if str(trainer.precision).startswith("16"):
        raise ValueError(f"trainer.precision={trainer.precision}: sharded gradients are not scaled: choose bf16-mixed or 32-true")
    if (why := refusal(getattr(module.optimizer, "func", module.optimizer))) is not None:
        raise ValueError(f"model.optimizer with trainer.strategy={NAME}: {why}")
