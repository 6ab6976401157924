"""Measures checkpoints, folders of images, or compares finished measurements: cards, metrics.json and report.html.

python evaluate.py ckpt=RUN n=512 out=DIR
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from runtime.cli import EXAMPLES, GROUPS, SETTINGS, launch

EXAMPLES["evaluate"] = """
Measure a checkpoint (a file, a run directory, or a name in zoo/), a folder of images, or compare what was measured.

  python evaluate.py ckpt=runs/latest n=512 out=evaluations/latest
  python evaluate.py ckpt=runs/latest splits=[iid,combo,word] sweep.guidance_scale=[1,2,4]
  python evaluate.py ckpt=[runs/a,runs/b,imagen-scenes] out=evaluations
  python evaluate.py images=DIR reference=DIR prompts=captions.txt name=theirs
  python evaluate.py compare=[evaluations/a,evaluations/theirs] out=evaluations/both
  torchrun --nproc_per_node=2 evaluate.py ckpt=runs/latest

Writes report.html, metrics.json, one card per number, and the samples, which are not drawn again when they are there.
docs/evaluation.md says what each number means.
"""
GROUPS["evaluate"] = {"evaluator": "what to measure", "sampler": "how to draw"}
SETTINGS["evaluate"] = "batch_size=16, ema=false, device=cpu, evaluator.fd=null, wandb=true"


def main(overrides: Sequence[str]) -> list[dict[str, Any]]:
    """Evaluates as the overrides say and returns what each metrics.json holds; nothing on processes but the first."""
    from evaluation.command import run  # --help does not wait for torch
    from evaluation.wandb_mirror import mirror

    cfg, results = run(overrides)
    for result in results if cfg.wandb else ():
        mirror(result, (result.folder / "report.html").read_text(encoding="utf-8"))
    return [result.data for result in results]


if __name__ == "__main__":
    launch(main, "evaluate")
