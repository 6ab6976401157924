"""Checkpoints damaged in hundreds of ways and image files mutated by the thousand: what reads them notices or survives."""

from __future__ import annotations

import contextlib
import io
import random
import shutil
import time
from pathlib import Path

import torch

from benchmarks import sessions
from benchmarks.chaos import troubles
from benchmarks.chaos.campaign import Campaign
from benchmarks.chaos.families import Task
from runtime.checkpoint_io import newest_good

FORMATS = {"png": "PNG", "jpg": "JPEG", "webp": "WEBP", "gif": "GIF", "bmp": "BMP", "tif": "TIFF"}
CHUNK = 50  # images a process; one that crashes takes no other with it


def damaged_checkpoints(campaign: Campaign, tasks: list[Task], n: int) -> None:
    """Damages the last checkpoint of undisturbed runs n times; the search for the newest good one must pass over it."""
    rng, tally = random.Random(campaign.rng.random()), campaign.tally
    folder = campaign.work / "damaged"
    for i in range(n):
        if time.monotonic() > campaign.end:
            break
        task, kind = tasks[i % len(tasks)], troubles.DAMAGES[i % len(troubles.DAMAGES)]
        campaign.reference(task)
        run = campaign.work / f"reference-{task.name}" / "run"
        before, newest = sorted((run / "checkpoints").glob("step=*.ckpt"))[-2:]
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir()
        shutil.copy(before, folder)
        good = newest.read_bytes()
        bad = troubles.damage(good, kind, rng)
        (folder / newest.name).write_bytes(bad)
        tally.add("damaged")
        with contextlib.redirect_stdout(io.StringIO()):
            found = newest_good(folder)
        if found is not None and found.name == before.name:
            tally.add("detected")
        elif found is not None and troubles.same(bad, good):
            tally.add("harmless")
        else:
            kept = campaign.work / f"undetected-{i}.ckpt"
            kept.write_bytes(bad)
            tally.problem("undetected", task.name, f"{kind} {i}", str(kept))
        tally.add("stock_detected", not loads(bad))
    shutil.rmtree(folder, ignore_errors=True)


def loads(raw: bytes) -> bool:
    """Whether torch takes the bytes for a checkpoint."""
    try:
        torch.load(io.BytesIO(raw), weights_only=True)
        return True
    except Exception:  # damage shows as one of many errors
        return False


def fuzzed_images(campaign: Campaign, n: int, seed: int) -> None:
    """Mutates pictures of six formats n times and reads them as training does, in processes that may crash."""
    folder, tally = campaign.work / "fuzzed", campaign.tally
    folder.mkdir()
    sources = make_sources(folder)
    for start in range(0, n, CHUNK):
        if time.monotonic() > campaign.end:
            break
        rng = random.Random(f"{seed}-{start}")
        paths = []
        for i in range(start, min(n, start + CHUNK)):
            source = sources[i % len(sources)]
            path = folder / f"{i:05d}{source.suffix}"
            path.write_bytes(mutate(source.read_bytes(), rng))
            paths.append(path)
        log = folder / f"{start}.log"
        process = sessions.start_call(read_images, [[str(p) for p in paths]], log)
        process.join(campaign_seconds(len(paths)))
        if process.exitcode is None:
            process.kill()
            process.join()
        told = log.read_text(errors="replace").splitlines() if log.exists() else []
        verdicts = [line.split()[0] for line in told if line.startswith(("picture ", "refused ", "crashed "))]
        tally.add("fuzzed", len(verdicts))
        tally.add("pictures", verdicts.count("picture"))
        tally.add("refused", verdicts.count("refused"))
        told_stock = run_stock(paths, folder / f"{start}-stock.log")
        tally.add("stock_ended", len(paths) - told_stock.count("picture"))
        wrong = [line for line in told if line.startswith("crashed ")]
        if process.exitcode != 0:
            what = f"the process ended with {process.exitcode} at {paths[min(len(verdicts), len(paths) - 1)].name}"
            tally.problem("crashed", "images", what, str(folder))
        for line in wrong:
            tally.problem("crashed", "images", line, str(folder))
        if not wrong and process.exitcode == 0:
            for path in (*paths, log):
                path.unlink()


def run_stock(paths: list[Path], log: Path) -> list[str]:
    """`picture` or `error` for each file, as torchvision's folder of images opens it: an error ends a training."""
    process = sessions.start_call(read_stock, [[str(p) for p in paths]], log)
    process.join(campaign_seconds(len(paths)))
    if process.exitcode is None:
        process.kill()
        process.join()
    told = [line for line in log.read_text(errors="replace").splitlines() if line in ("picture", "error")]
    log.unlink()
    return told


def campaign_seconds(images: int) -> float:
    return 30 + 2.0 * images


def make_sources(folder: Path) -> list[Path]:
    """A picture in every format."""
    import numpy as np
    from PIL import Image

    rng = np.random.default_rng(0)
    image = Image.fromarray(rng.integers(0, 255, (37, 53, 3), dtype=np.uint8).repeat(2, 0).repeat(2, 1))
    found = []
    for suffix, name in FORMATS.items():
        path = folder / f"source.{suffix}"
        image.save(path, name)
        found.append(path)
    return found


def mutate(data: bytes, rng: random.Random) -> bytes:
    """A file with one to several accidents: bytes changed, cut out, doubled or cut off; the header is hit more often."""
    raw = bytearray(data)
    for _ in range(rng.choice((1, 1, 2, 5, 20))):
        if not raw:
            break
        reach = len(raw) if rng.random() < 0.6 else min(len(raw), 64)
        i, kind = rng.randrange(reach), rng.randrange(5)
        if kind == 0:
            raw[i] ^= 1 << rng.randrange(8)
        elif kind == 1:
            raw[i] = rng.choice((0, 1, 127, 128, 255))
        elif kind == 2:
            del raw[i : i + rng.randint(1, 32)]
        elif kind == 3:
            raw[i:i] = raw[i : i + rng.randint(1, 32)]
        else:
            raw = raw[: max(1, i)] if rng.random() < 0.3 else raw[:i] + rng.randbytes(4) + raw[i + 4 :]
    return bytes(raw)


def read_images(paths: list[str]) -> None:
    """Reads each file and prints what came of it."""
    from datamodules.decode import BadImage, load_square

    for path in paths:
        try:
            image = load_square(path, 16)
            good = image.shape == (16, 16, 3) and image.dtype.name == "uint8"
            print(f"picture {path}" if good else f"crashed {path}: shape {image.shape}", flush=True)
        except BadImage as bad:
            print(f"refused {path} {bad.reason}", flush=True)
        except Exception as error:  # an error without a name of ours ends a training
            print(f"crashed {path}: {type(error).__name__}: {error}", flush=True)


def read_stock(paths: list[str]) -> None:
    """Reads each file with torchvision's own loader and prints what came of it."""
    import warnings

    from torchvision.datasets.folder import pil_loader

    warnings.simplefilter("ignore")
    for path in paths:
        try:
            pil_loader(path)
            print("picture", flush=True)
        except Exception as error:  # any of them would leave the loader; why stands below, in a line that is not counted
            print("error", flush=True)
            print(f"  {path}: {type(error).__name__}: {' '.join(str(error).split())}", flush=True)
