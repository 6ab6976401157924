"""Weights & Biases as a mirror: never asks, never stops a run, works offline without an account."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from pytorch_lightning.loggers.logger import Logger
from pytorch_lightning.utilities.rank_zero import rank_zero_only


def choose_mode(wandb: Any) -> str:
    """WANDB_MODE if set; online with a key and a reachable server; else offline."""
    if mode := os.environ.get("WANDB_MODE"):
        return mode
    try:
        return "online" if wandb.login(prompt=False) else "offline"
    except Exception:
        return "offline"


class WandbLogger(Logger):
    """Sends metrics and pictures to W&B with our step as the axis; `logger.wandb=null` is a run without it.

    Args:
        id: of the run; kept in its configuration, so that a resumed run continues the same page.
        group: runs that belong together, for instance those of a sweep.
        tags, notes: to find the run by, and what its author says of it.
        job_type: train or evaluate.
        config: what the page shows as configuration.
    """

    def __init__(
        self,
        project: str,
        dir: str,
        id: str | None,
        name: str | None = None,
        group: str | None = None,
        tags: Sequence[str] | None = None,
        notes: str | None = None,
        job_type: str = "train",
        config: dict[str, Any] | None = None,
    ) -> None:
        super().__init__()
        about = {"group": group, "tags": [str(tag) for tag in tags or ()], "notes": notes, "job_type": job_type}
        self.settings = {"project": project, "dir": dir, "id": id, "name": name, "config": config, **about}
        self._run: Any = None
        self._broken = False

    def _try(self, action: Any) -> None:
        """Calls action(run); the first failure is reported and ends the mirroring."""
        if self._broken:
            return
        try:
            if self._run is None:
                self._run = self._start()
            action(self._run)
        except Exception as error:
            self._broken = True
            text = (str(error) or type(error).__name__).splitlines()[0]
            print(f"warning: W&B is off for the rest of this run: {text}", flush=True)

    def _start(self) -> Any:
        os.environ.setdefault("WANDB_SILENT", "true")
        import wandb

        Path(self.settings["dir"]).mkdir(parents=True, exist_ok=True)
        settings = wandb.Settings(console="off")
        run = wandb.init(mode=choose_mode(wandb), resume="allow", settings=settings, **self.settings)
        # W&B counts calls; every curve is drawn over our own step.
        run.define_metric("step")
        run.define_metric("*", step_metric="step")
        return run

    @rank_zero_only
    def log_metrics(self, metrics: dict[str, Any], step: int | None = None) -> None:
        self._try(lambda run: run.log({**metrics, "step": step}))

    @rank_zero_only
    def log_picture(self, key: str, picture: Any, step: int) -> None:
        """A PIL picture; never a float tensor, which W&B shows black."""

        def send(run: Any) -> None:
            import wandb

            run.log({key: wandb.Image(picture), "step": step})

        self._try(send)

    @rank_zero_only
    def log_built(self, build: Callable[[Any], dict[str, Any]], step: int) -> None:
        """Tables, pictures, charts and pages: whatever `build(wandb)` gives, by key; nothing is sent for nothing."""

        def send(run: Any) -> None:
            import wandb

            if built := build(wandb):
                run.log({**built, "step": step})

        self._try(send)

    @rank_zero_only
    def log_summary(self, values: Mapping[str, Any]) -> None:
        """What the table of runs shows: one value a name."""
        self._try(lambda run: run.summary.update(dict(values)))

    @rank_zero_only
    def finalize(self, status: str) -> None:
        if self._run is not None:
            run, self._run = self._run, None
            try:
                run.finish(exit_code=0 if status == "success" else 1)
            except Exception:
                pass
            self._broken = True

    @property
    def name(self) -> str:
        return "wandb"

    @property
    def version(self) -> str:
        return self.settings["id"]

    def log_hyperparams(self, params: dict[str, Any], *_: Any, **__: Any) -> None:
        """What the page shows as configuration; to be called before the first line."""
        self.settings["config"] = params
