"""Learning-rate schedules: plain functions of the step and of the time used, so that a resumed run needs no state of theirs."""

from __future__ import annotations

import math


class WarmupDecay:
    """Rise linearly, hold, then fall to ``final`` over the last part of the run (warm-up, stable, decay).

    The run has come as far as its steps or its time say, whichever is further: one that its time will end falls, too.

    Args:
        total_steps: optimiser steps of the run; None where time alone ends it.
        warmup_steps: length of the rise.
        decay_fraction: share of the run spent falling; 0 never falls.
        final: multiplier at the end.
        shape: ``linear`` or ``cosine`` fall.

    Source: Hu et al. 2024 (MiniCPM), section 4; Goyal et al. 2017 for the warm-up.
    """

    def __init__(
        self,
        total_steps: int | None,
        warmup_steps: int = 100,
        decay_fraction: float = 0.5,
        final: float = 0.0,
        shape: str = "linear",
    ) -> None:
        if shape not in ("linear", "cosine"):
            raise ValueError(f"lr_schedule.shape={shape!r}: choose linear or cosine")
        if not 0 <= decay_fraction <= 1:
            raise ValueError(f"lr_schedule.decay_fraction={decay_fraction} is outside [0, 1]")
        self.total_steps, self.warmup_steps, self.final, self.shape = total_steps, warmup_steps, final, shape
        self.decay_fraction = decay_fraction

    def __call__(self, step: int, time_share: float = 0.0) -> float:
        """Multiplier of the learning rate for optimiser step number ``step``, counted from 0.

        Args:
            time_share: of the time that the run may take, how much is used, in [0, 1].
        """
        rise = min(1.0, (step + 1) / max(1, self.warmup_steps))
        if not self.decay_fraction:
            return rise
        to_come = 1 - time_share if self.total_steps is None else min(1 - step / self.total_steps, 1 - time_share)
        left = min(1.0, max(0.0, to_come / self.decay_fraction))
        fall = left if self.shape == "linear" else 0.5 - 0.5 * math.cos(math.pi * left)
        return rise * (self.final + (1 - self.final) * fall)
