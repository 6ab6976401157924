"""Pictures of a run: into its directory and to the loggers."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytorch_lightning as pl
from PIL.Image import Image

from contracts import LogsPictures
from files import replacing, why_not_written


def publish(trainer: pl.Trainer, module: Any, path: Path, name: str, picture: Image) -> None:
    """Writes a PNG and sends it to the loggers under `name`; a full disk takes none, and training goes on."""
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with replacing(path) as fresh:
            picture.save(fresh, format="png")
    except OSError as error:
        print(f"warning: no {path.name}: {why_not_written(error, path.parent)}", flush=True)
    for logger in trainer.loggers:
        if isinstance(logger, LogsPictures):
            logger.log_picture(name, picture, step=module.optimizer_steps)
