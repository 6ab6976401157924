"""Runs with sharded weights, in two processes: the same as in one, to rounding, and gone on with by any number of them."""

from __future__ import annotations

import json
import os
import shutil
import signal
from pathlib import Path
from typing import Any

import pytest
import torch
from omegaconf import OmegaConf
from PIL import Image, ImageChops

import train
from optimizers import muon
from runtime.checkpoint import load_module
from runtime.sharding import check_sharding
from tests.datamodules.class_data import write_class_data
from tests.processes import in_two, rank_started
from tests.sessions import contents, left_behind, wait_for

pytestmark = pytest.mark.timeout(400)

SHARDED = ("trainer.strategy=fsdp2", "trainer.devices=2")
COMMON = (
    "trainer=cpu", "trainer.precision=32-true", "trainer.max_steps=3", "logger.wandb=null", "callbacks.progress=null", "data.batch_size=8",
    "data.num_val=8", "data.num_workers=0", "model.lr_schedule=null", "callbacks.checkpoint.every_steps=2", "callbacks.checkpoint.every_sec=null",
    "callbacks.metrics_log.every_steps=1", "callbacks.validate.every_steps=2", "callbacks.samples.every_steps=2",
)  # fmt: skip
STAGES = tuple(
    f"model.stages.{stage}.{setting}" for stage in ("base", "super_resolution")
    for setting in ("net.dim=16", "net.tokens_dim=32", "net.emb_dim=32", "num_steps=2")
)  # fmt: skip
# A large eps, and float32 below: Adam and Muon scale gradients up where they are near 0, and the rounding with them.
EPS = "+model.optimizer.eps=1e-3"
RUNS = {
    # Muon, two stages, batches that are added up, an evaluation that two processes share, a cascade of grids
    "imagen": ("model=imagen", "text_encoder=bag_of_words", "text_encoder.dim=32", *STAGES, "model.stages.super_resolution.batch_share=0.5",
               "model.stages.base.net.mid_blocks=1", "trainer.accumulate=2", EPS, "callbacks.evaluate.n=2", "callbacks.evaluate.every_steps=2"),
    # fused AdamW, activations that are computed again, a second kind of average
    "ddpm": ("model=ddpm", "conditioner=label", "data=fashion_mnist", "net.fold=4", "net.dim=32", "net.dim_mults=[1]", "net.num_res_blocks=1",
             "net.attn_resolutions=[]", "net.mid_blocks=1", "net.emb_dim=16", "model.stage.num_steps=2", "trainer.checkpoint_activations=true",
             "model.optimizer={_target_: torch.optim.AdamW, _partial_: true, lr: 1.0e-3, eps: 1.0e-3, fused: true}",
             "callbacks=power_ema", "callbacks.power_ema.every_steps=2", "callbacks.power_ema.dtype=float32"),
    # parameters that are used outside a net's forward pass, vectors gathered over the processes, retrieval
    "clip": ("model=clip", "data.image_size=32", "tower.width=32", "tower.layers=1", "tower.heads=2", "tower.embed_dim=16", EPS,
             *(f"model.net.text.{s}" for s in ("width=32", "layers=1", "heads=2", "vocab_size=600"))),
    # Adafactor, whose means are of whole rows and columns; reconstructions
    "vae": ("model=vae", "data=fashion_mnist", "codec=mlp", "codec.encoder.hidden=[64]", "codec.decoder.hidden=[64]", "model.latent_dim=4",
            "model.optimizer._target_=torch.optim.Adafactor", "~model.optimizer.adam_lr"),
}  # fmt: skip
GO_ON = ("ddpm", "clip")


def train_all(runs: list[list[str]]) -> None:
    torch.set_num_threads(1)
    muon.product_dtype = lambda device: torch.float32
    for arguments in runs:
        train.main(arguments)


def arguments(place: Path, name: str, run: str, *more: str) -> list[str]:
    data = [f"data.root={place / 'data'}"] if "data=fashion_mnist" in RUNS[name] else []
    model, *others = RUNS[name]
    return [model, *COMMON, *others, *data, f"run_dir={place / run / name}", *more]


def stopped_earlier(run: Path, copied: Path) -> Path:
    """A copy of a run as if it had been stopped at step 2 of 3."""
    shutil.copytree(run, copied)
    (copied / "checkpoints" / "step=00000003.ckpt").unlink()
    return copied


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """`one/NAME` and `two/NAME` by one process and by two; `then_two`, `then_one`: begun by the other number; `stage` of imagen."""
    place = tmp_path_factory.mktemp("sharding")
    write_class_data(place / "data", "fashion_mnist")
    later = ("trainer.max_steps=1", f"init={place / 'one' / 'imagen'}", "model.train_stages=[super_resolution]", "callbacks.evaluate=null")
    before = muon.product_dtype
    try:
        train_all([arguments(place, name, "one") for name in RUNS])
        train_all([[*arguments(place, "imagen", "stage_one"), *later]])
        begun = [stopped_earlier(place / "one" / name, place / "then_two" / name) for name in GO_ON]
        in_two(train_all, place, [
            *(arguments(place, name, "two", *SHARDED) for name in RUNS), [*arguments(place, "imagen", "stage_two", *SHARDED), *later],
            *([f"resume={run}", *SHARDED] for run in begun),
        ])  # fmt: skip
        begun = [stopped_earlier(place / "two" / name, place / "then_one" / name) for name in GO_ON]
        train_all([[f"resume={run}", "trainer.strategy=auto", "trainer.devices=1"] for run in begun])
    finally:
        muon.product_dtype = before
    return place


def assert_equal(one: Path, two: Path) -> None:
    """Two runs are the same to rounding: weights, averages, optimiser, metrics and pictures."""
    a, b = contents(one), contents(two)
    for part in ("state_dict", "ema", "optimizer_states", "counters"):
        torch.testing.assert_close(a[part], b[part], rtol=1e-4, atol=2e-6, msg=lambda text: f"{part}: {text}")
    lines = [[json.loads(line) for line in text["metrics"].splitlines()] for text in (a, b)]
    for x, y in zip(*lines, strict=True):
        assert x == pytest.approx(y, rel=1e-4, abs=1e-5)
    assert a["pictures"].keys() == b["pictures"].keys()
    for name in (name for name in a["pictures"] if name.startswith("step=")):  # reconstructions are of the images of process 0
        pictures = [Image.open(run / "samples" / name).convert("RGB") for run in (one, two)]
        assert max(high for _, high in ImageChops.difference(*pictures).getextrema()) <= 2, name


@pytest.mark.parametrize("name", RUNS)
def test_two_processes_equal_one(name: str, place: Path) -> None:
    assert_equal(place / "one" / name, place / "two" / name)
    snapshots = [sorted((place / run / name).glob("power_ema/*.pt")) for run in ("one", "two")]
    assert len(snapshots[0]) == 2 * (name == "ddpm")
    for one, two in zip(*snapshots, strict=True):
        torch.testing.assert_close(torch.load(one), torch.load(two), rtol=0, atol=2e-6)


def test_a_stage_is_trained_by_itself_from_other_weights(place: Path) -> None:
    one, two = (place / run / "imagen" for run in ("stage_one", "stage_two"))
    assert_equal(one, two)
    averages, after = contents(place / "one" / "imagen")["ema"]["params"], contents(two)["state_dict"]
    changed = {name.split(".")[1] for name in averages if not torch.equal(averages[name], after[name])}
    assert changed == {"super_resolution"}


@pytest.mark.parametrize("name", GO_ON)
@pytest.mark.parametrize("run", ["then_two", "then_one"])
def test_any_number_of_processes_goes_on(run: str, name: str, place: Path) -> None:
    assert_equal(place / "one" / name, place / run / name)


def test_a_checkpoint_is_one_file_of_whole_tensors(place: Path) -> None:
    (one,), (two,) = ((place / run / "ddpm" / "checkpoints").glob("step=00000003.ckpt") for run in ("one", "two"))
    assert abs(one.stat().st_size - two.stat().st_size) < 20_000  # paths and settings
    module = load_module(two)[0]
    assert module.state_dict().keys() == load_module(one)[0].state_dict().keys()


def test_stopped_by_a_signal_to_one_of_them_it_is_saved(place: Path) -> None:
    run = place / "stopped"
    more = ("trainer.max_steps=100000", "callbacks.checkpoint.every_steps=1", "callbacks.samples=null", "callbacks.validate=null")
    started = rank_started([*arguments(place, "vae", "x", *SHARDED), *more, f"run_dir={run}"], place)
    wait_for(lambda: list(run.glob("checkpoints/step=*3.ckpt")), started[0])
    os.kill(started[1].pid, signal.SIGTERM)
    for process in started:
        process.join(60)
        assert not left_behind(process.pid)
    said = (place / "log0").read_text()
    assert [process.exitcode for process in started] == [143, 0] and "stopped by SIGTERM at step " in said, said[-2000:]  # process 0 tells
    newest = sorted(run.glob("checkpoints/step=*.ckpt"))[-1]
    assert f"at step {int(newest.stem.removeprefix('step='))}, saved" in said


# ---- refusals ----


class Several:
    automatic_optimization, optimizer = False, torch.optim.Adam


class Single(Several):
    automatic_optimization = True


@pytest.mark.parametrize(
    ("module", "setting", "line"),
    [
        (Several, {}, "trainer.strategy=fsdp2: Several trains several nets in turns.*: choose trainer=ddp"),
        (Single, {"compile": True}, "trainer.compile=true: sharded nets are not compiled"),
        (Single, {"precision": "16-mixed"}, "trainer.precision=16-mixed: .*choose bf16-mixed"),
        (type("Odd", (Single,), {"optimizer": torch.optim.LBFGS}), {}, "model.optimizer with trainer.strategy=fsdp2: LBFGS"),
    ],
)
def test_what_cannot_be_sharded_is_refused(module: Any, setting: dict[str, Any], line: str) -> None:
    plain = {"strategy": "fsdp2", "precision": "32-true", "compile": False}
    check_sharding(OmegaConf.create({"trainer": plain}), Single)
    with pytest.raises(ValueError, match=line) as error:
        check_sharding(OmegaConf.create({"trainer": plain | setting}), module() if module is Several else module)
    assert "\n" not in str(error.value)
    check_sharding(OmegaConf.create({"trainer": plain | setting | {"strategy": "ddp"}}), module)


def test_a_gan_is_refused_before_anything_is_there(place: Path) -> None:
    run = place / "gan"
    with pytest.raises(ValueError, match="trainer.strategy=fsdp2: GAN trains several nets"):
        train.main(["model=gan", "data=fashion_mnist", *COMMON[:2], f"data.root={place / 'data'}", f"run_dir={run}", *SHARDED])
    assert not run.exists()
