"""The same accidents on Lightning's own recipe: ModelCheckpoint, `ckpt_path="last"`, a shuffled loader.

    python -m benchmarks.chaos.stock kills=100 [rows=plain,stateful] [minutes=10] [seed=0] [troubles=6] [reach=0.9] [out=FILE]

The task is that of `families.py`: an autoencoder with noise on the same IDX files, AdamW, as many steps, a checkpoint at
every step. Nothing of this repository acts in it: Lightning's Trainer, its ModelCheckpoint (save_last, the two newest)
and its CSVLogger, set up as their documentation says. Row "stateful" adds what the documentation advises for going on in
the middle of an epoch, torchdata's StatefulDataLoader, and puts the random states into the checkpoint. A damaged
`last.ckpt` that ends the start with an error is deleted, as its owner would do, and the newest other one taken.
"""

from __future__ import annotations

import os
import random
import shutil
import signal
import sys
import tempfile
import time
import warnings
from collections import Counter
from pathlib import Path
from typing import Any

import pytorch_lightning as pl
import torch
from pytorch_lightning.callbacks import ModelCheckpoint
from pytorch_lightning.loggers import CSVLogger
from torch import Tensor, nn
from torch.utils.data import DataLoader, Dataset

from benchmarks import sessions
from benchmarks.chaos import troubles
from benchmarks.chaos.campaign import Pace
from benchmarks.chaos.families import STEPS, make_material
from benchmarks.common import RESULTS, machine, markdown_table, provenance, require, run, write_json

ROWS = {"plain": "stock Lightning", "stateful": "with StatefulDataLoader and random states"}
ACCIDENTS = {"sigkill": 24, "sigkill_writing": 12, "sigterm": 10, "ctrl_c": 8}
SESSION_SEC = 240.0


class Images(Dataset):
    """The training images of an IDX file, each with fresh noise, as an augmentation would add."""

    def __init__(self, path: Path) -> None:
        raw = path.read_bytes()[16:]
        self.images = torch.frombuffer(bytearray(raw), dtype=torch.uint8).view(-1, 784).float() / 127.5 - 1

    def __len__(self) -> int:
        return len(self.images)

    def __getitem__(self, index: int) -> Tensor:
        return self.images[index] + 0.01 * torch.randn(784)


class Autoencoder(pl.LightningModule):
    """784 -> 16 -> 4 -> 16 -> 784 with dropout."""

    def __init__(self, keep_random_state: bool) -> None:
        super().__init__()
        self.keep_random_state = keep_random_state
        self.net = nn.Sequential(nn.Linear(784, 16), nn.SiLU(), nn.Dropout(0.1), nn.Linear(16, 4), nn.Linear(4, 16),
                                 nn.SiLU(), nn.Linear(16, 784))  # fmt: skip

    def training_step(self, batch: Tensor, batch_idx: int) -> Tensor:
        loss = (self.net(batch) - batch).square().mean()
        self.log("train/loss", loss)
        return loss

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.AdamW(self.parameters(), 1e-3)

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        if self.keep_random_state:
            checkpoint["random"] = torch.get_rng_state()

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        if "random" in checkpoint:
            self.random_state = checkpoint["random"]

    def on_train_batch_start(self, *_: Any) -> None:
        if getattr(self, "random_state", None) is not None:
            torch.set_rng_state(self.random_state)
            self.random_state = None


def train(row: str, folder: str, images: str) -> None:
    """One session, as the documentation has it."""
    warnings.simplefilter("ignore")
    stateful = row == "stateful"
    pl.seed_everything(0, verbose=False)
    kind = require("torchdata.stateful_dataloader", "torchdata").StatefulDataLoader if stateful else DataLoader
    loader = kind(Images(Path(images)), batch_size=16, shuffle=True)
    keeper = ModelCheckpoint(f"{folder}/checkpoints", save_last=True, save_top_k=2, monitor="step", mode="max",
                             every_n_train_steps=1)  # fmt: skip
    trainer = pl.Trainer(
        accelerator="cpu", max_steps=STEPS, callbacks=[keeper], logger=CSVLogger(folder, name="", version=0),
        enable_progress_bar=False, enable_model_summary=False, log_every_n_steps=3, default_root_dir=folder,
    )  # fmt: skip
    print("run: begins", flush=True)
    trainer.fit(Autoencoder(stateful), loader, ckpt_path="last")


def newest_step(folder: Path) -> int:
    """The step of the newest checkpoint by its name, `epoch=0-step=3.ckpt`; 0 without any."""
    names = [p.stem.rpartition("step=")[2].partition("-")[0] for p in (folder / "checkpoints").glob("*step=*.ckpt")]
    return max((int(name) for name in names if name.isdigit()), default=0)


def contents(folder: Path) -> dict[str, Any]:
    """Weights and optimiser of the last checkpoint."""
    newest = max((folder / "checkpoints").glob("*.ckpt"), key=lambda p: torch.load(p)["global_step"])
    checkpoint = torch.load(newest, weights_only=True)
    return {key: checkpoint[key] for key in ("state_dict", "optimizer_states", "global_step")}


class Stock:
    """Disturbed runs of one row."""

    def __init__(self, row: str, work: Path, seed: int, most: int, reach: float) -> None:
        self.most, self.reach = most, reach
        self.row, self.work, self.rng = row, work / row, random.Random(seed)
        self.images = work / "material" / "data" / "FashionMNIST" / "raw" / "train-images-idx3-ubyte"
        self.counts: Counter[str] = Counter()
        self.exits: Counter[str] = Counter()
        self.work.mkdir()
        began = time.monotonic()
        code = self.plain_session(self.work / "reference")
        if code:
            raise RuntimeError(f"{row} fails undisturbed: {(self.work / 'reference' / 'log').read_text()[-800:]}")
        self.train_sec = time.monotonic() - began
        self.reference = contents(self.work / "reference")

    def start(self, folder: Path) -> Any:
        folder.mkdir(exist_ok=True)
        (folder / "log").unlink(missing_ok=True)
        return sessions.start_call(train, [self.row, str(folder), str(self.images)], folder / "log")

    def plain_session(self, folder: Path) -> int | None:
        process = self.start(folder)
        process.join(SESSION_SEC)
        return process.exitcode

    def disturb(self) -> None:
        """One run until it is done, and whether it ended as the undisturbed one."""
        folder = self.work / f"run-{self.counts['runs']}"
        self.counts["runs"] += 1
        damaged = False
        for _ in range(self.rng.randint(1, self.most)):
            code = self.accident(folder)
            if code == 0 and self.finished(folder):
                break
            if self.rng.random() < 0.25:
                damaged = self.damage(folder) or damaged
                continue
        for _ in range(4):
            if self.finished(folder) or self.resume(folder) == 0 and self.finished(folder):
                break
        try:
            sessions.assert_same(contents(folder), self.reference)
            self.counts["equal"] += 1
        except Exception as error:  # another result, or one that cannot be read
            self.counts["different"] += 1
            print(f"{folder.name} is different: {type(error).__name__}: {error}", file=sys.stderr, flush=True)
        shutil.rmtree(folder, ignore_errors=True)

    def finished(self, folder: Path) -> bool:
        return any(f"step={STEPS}" in p.name for p in (folder / "checkpoints").glob("*.ckpt"))

    def accident(self, folder: Path) -> int | None:
        kind = troubles.choose(ACCIDENTS, self.rng)
        process = self.start(folder)
        log = folder / "log"
        sessions.wait_for(lambda: log.exists() and "run: " in log.read_text(), process, SESSION_SEC)
        target = newest_step(folder) + int(self.rng.uniform(0, self.reach) * STEPS)
        while process.is_alive() and newest_step(folder) < target:
            time.sleep(0.002)
        process.join(self.rng.uniform(0, 2 * self.train_sec / STEPS))
        if kind == "sigkill_writing":
            # Lightning writes into the system's temporary folder and moves: the best moment is a new file's first bytes
            before = {p.name for p in (folder / "checkpoints").glob("*")} if (folder / "checkpoints").exists() else set()
            while process.is_alive() and {p.name for p in (folder / "checkpoints").glob("*")} <= before:
                time.sleep(0.0002)
        hit = process.is_alive() and troubles.send(process, kind)
        process.join(SESSION_SEC)
        if process.exitcode is None:
            os.kill(process.pid, signal.SIGKILL)
            process.join()
            self.counts["hung"] += 1
        if hit:
            self.counts["kills"] += 1
            self.exits[f"{kind}: {process.exitcode}"] += 1
        elif process.exitcode:
            self.failed(folder)
        return process.exitcode

    def damage(self, folder: Path) -> bool:
        """Damages the checkpoint that a resumed session would take, and sees what it does."""
        found = sorted((folder / "checkpoints").glob("last*.ckpt"))
        if not found or len(list((folder / "checkpoints").glob("*.ckpt"))) < 2:
            return False
        self.counts["damaged"] += 1
        raw = found[-1].read_bytes()
        found[-1].write_bytes(troubles.damage(raw, self.rng.choice(troubles.DAMAGES), self.rng))
        code = self.resume(folder)
        self.counts["damaged_noticed"] += bool(code)
        return True

    def resume(self, folder: Path) -> int | None:
        """A session that nobody disturbs; where it ends in an error, the file it wanted is deleted."""
        code = self.plain_session(folder)
        if code:
            self.failed(folder)
        return code

    def failed(self, folder: Path) -> None:
        """What its owner does after a start that ended in an error: delete last.ckpt and take the newest other."""
        self.counts["ended_in_error"] += 1
        for last in (folder / "checkpoints").glob("last*.ckpt"):
            last.unlink()
        rest = sorted((folder / "checkpoints").glob("*.ckpt"), key=lambda p: p.stat().st_mtime)
        if rest:
            shutil.copy(rest[-1], folder / "checkpoints" / "last.ckpt")


LINES = {
    "runs": "runs",
    "equal": "… equal bit for bit in weights and optimiser",
    "kills": "kills (SIGKILL, SIGTERM, Ctrl-C)",
    "damaged": "newest checkpoints damaged between two sessions",
    "damaged_noticed": "… the next session ended in an error",
    "ended_in_error": "starts that ended in an error, and needed a hand",
}


def main() -> None:
    given = dict(word.partition("=")[::2] for word in sys.argv[1:])
    known = {"kills": "50", "minutes": "30", "rows": ",".join(ROWS), "seed": "0", "troubles": str(Pace.troubles),
             "reach": str(Pace.reach), "out": str(RESULTS / "chaos_stock.json")}  # fmt: skip
    if unknown := set(given) - set(known):
        raise ValueError(f"{unknown.pop()}: give key=value with one of {', '.join(known)}")
    known |= given
    sessions.preload("benchmarks.chaos.stock", *(["torchdata.stateful_dataloader"] * ("stateful" in known["rows"])))
    memory = Path("/dev/shm")
    work = Path(tempfile.mkdtemp(prefix="chaos-stock-", dir=memory if os.access(memory, os.W_OK) else None))
    make_material(work / "material")
    rows, result = known["rows"].split(","), {}
    for row in rows:
        if row not in ROWS:
            raise ValueError(f"rows={row}: choose from {', '.join(ROWS)}")
        end = time.monotonic() + 60 * float(known["minutes"]) / len(rows)
        stock = Stock(row, work, int(known["seed"]), int(known["troubles"]), float(known["reach"]))
        while stock.counts["kills"] < int(known["kills"]) and time.monotonic() < end:
            stock.disturb()
            print(f"{ROWS[row]}: {dict(stock.counts)}", flush=True)
        result[row] = {"counts": dict(stock.counts), "exit_codes": dict(sorted(stock.exits.items()))}
    shutil.rmtree(work)
    out = Path(known["out"])
    settings = {key: known[key] for key in ("kills", "minutes", "rows", "seed", "troubles", "reach")}
    packages = ("torch", "pytorch-lightning", "torchdata")
    write_json(out, {"settings": settings, "rows": result, "machine": machine(1), **provenance(*packages)})
    out.with_suffix(".md").write_text(table(result) + "\n")
    print(f"\n{table(result)}\n\n{out}")


def table(result: dict[str, Any]) -> str:
    """Row -> its counts and exit codes, as a table with a column each."""
    cells = [[what, *(str(found["counts"].get(name, 0)) for found in result.values())] for name, what in LINES.items()]
    cells += [["exit codes after SIGTERM", *(codes(found, "sigterm") for found in result.values())],
              ["exit codes after Ctrl-C", *(codes(found, "ctrl_c") for found in result.values())]]  # fmt: skip
    return markdown_table(["", *(ROWS[row] for row in result)], cells)


def codes(result: dict[str, Any], kind: str) -> str:
    """`0 (9 times), 1 (once)` of one kind of signal."""
    found = {k.rpartition(" ")[2]: n for k, n in result["exit_codes"].items() if k.startswith(f"{kind}:")}
    return ", ".join(f"{code} ({n})" for code, n in found.items()) or "-"


if __name__ == "__main__":
    run(main)
