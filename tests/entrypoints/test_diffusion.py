"""Diffusion through the real scripts: killed and resumed bit for bit, two processes as one, drawn with its options."""

from __future__ import annotations

import hashlib
import json
import os
import random
import signal
import time
from pathlib import Path

import pytest
import torch
from PIL import Image

from evaluate import main as evaluate
from runtime.checkpoint import load_module
from sample import main as sample
from networks import compiling
from tests.datamodules.class_data import write_class_data
from tests.entrypoints.test_ddp import assert_close
from tests.sessions import assert_same, contents, overrides, run, start, wait_for
from train import main as train

pytestmark = pytest.mark.timeout(400)  # runs of several processes, on machines that others use

STEPS = 24
# Every step is saved, so that kills fall into all of training and saving.
COMMON = (
    "data=fashion_mnist", "data.batch_size=8", "data.num_val=8", "data.num_workers=0", f"trainer.max_steps={STEPS}",
    "callbacks.checkpoint.every_steps=1", "callbacks.ema.half_life_images=100", "callbacks.ema.decay=null",
    "callbacks.samples.every_steps=15", "callbacks.validate.every_steps=12", "model.stage.num_steps=2",
    "net.fold=4", "net.dim=32", "net.dim_mults=[1]", "net.num_res_blocks=1", "net.attn_resolutions=[]",
    "net.mid_blocks=1", "net.emb_dim=16",
)  # fmt: skip
VARIANTS = {
    "ddpm_by_class": ("model=ddpm", "conditioner=label"),
    "edm": ("model=edm", "trainer.accumulate=2"),
    "flow_by_optimal_transport": ("model=flow", "model.stage.pairing=optimal_transport"),
}


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("data")
    write_class_data(root, "fashion_mnist")
    return root


def arguments(variant: str, data: Path, path: Path, *more: str) -> list[str]:
    return overrides(*VARIANTS[variant], *COMMON, f"data.root={data}", *more, run=path)


@pytest.mark.parametrize("variant", ["ddpm_by_class", *(pytest.param(name, marks=pytest.mark.slow) for name in ("edm", "flow_by_optimal_transport"))])
def test_random_kills_change_nothing(variant: str, data: Path, tmp_path: Path) -> None:
    rng, path, log = random.Random(variant), tmp_path / "run", tmp_path / "log"
    assert run(arguments(variant, data, tmp_path / "whole"), log, timeout=300) == 0, log.read_text()
    log.unlink()
    hits = 0
    for session in range(3):
        command = [f"resume={path}"] if session else arguments(variant, data, path)
        process = start(command, log)
        wait_for(lambda: log.exists() and log.read_text().count("run: ") > session, process)
        time.sleep(rng.uniform(0.1, 0.5))
        if process.is_alive():
            os.kill(process.pid, signal.SIGKILL)
        process.join()
        hits += process.exitcode == -signal.SIGKILL
    assert run([f"resume={path}"], log, timeout=300) == 0, log.read_text()[-2000:]
    assert hits >= 1, "every session ended before it was killed: give it more steps"
    assert_same(contents(path), contents(tmp_path / "whole"))


def test_a_polite_stop_saves_and_resumes(data: Path, tmp_path: Path) -> None:
    path, log = tmp_path / "run", tmp_path / "log"
    train(arguments("edm", data, tmp_path / "whole"))
    process = start(arguments("edm", data, path, "callbacks.checkpoint.every_steps=1000"), log)
    wait_for(lambda: (path / "metrics.jsonl").exists() and (path / "metrics.jsonl").read_text().count("\n"), process)
    os.kill(process.pid, signal.SIGTERM)
    process.join(120)
    assert process.exitcode == 143, log.read_text()[-2000:]
    assert run([f"resume={path}"], log, timeout=300) == 0, log.read_text()[-2000:]
    stopped, whole = contents(path), contents(tmp_path / "whole")
    for part in ("state_dict", "ema", "optimizer_states", "counters", "metrics"):
        assert_same(stopped[part], whole[part], part)


@pytest.mark.parametrize("variant", list(VARIANTS))
def test_two_processes_equal_one(variant: str, data: Path, tmp_path: Path) -> None:
    """Also where noise and images are paired over the whole batch.

    With plain gradient descent: Muon and Adam scale gradients up where they are near 0, and the rounding with them.
    """
    log, two = tmp_path / "log", ("trainer.devices=2", "trainer.strategy=ddp_fork")
    more = ("trainer.max_steps=6", "callbacks.checkpoint.every_steps=6", "callbacks.validate.every_steps=3",
            "model.optimizer={_target_: torch.optim.SGD, _partial_: true, lr: 0.1}", "model.lr_schedule=null")  # fmt: skip
    assert run(arguments(variant, data, tmp_path / "one", *more), log, timeout=300) == 0, log.read_text()
    assert run(arguments(variant, data, tmp_path / "two", *more, *two), log, timeout=300) == 0, log.read_text()
    assert_close(contents(tmp_path / "one"), contents(tmp_path / "two"))


def test_compiled_nets_train_the_same_weights_under_the_same_names(data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(compiling, "BACKEND", "eager")
    plain, again, constant = tmp_path / "plain", tmp_path / "again", "model.lr_schedule=null"
    train(arguments("ddpm_by_class", data, plain, "trainer.max_steps=4", constant))
    train(arguments("ddpm_by_class", data, again, "trainer.max_steps=3", constant, "trainer.compile=true"))
    train([f"resume={again}", "trainer.max_steps=4", "trainer.compile=false"])
    ours, theirs = contents(again)["state_dict"], contents(plain)["state_dict"]
    assert ours.keys() == theirs.keys()
    torch.testing.assert_close(ours, theirs, rtol=0, atol=2e-6)


def test_recomputed_activations_train_the_same_weights(data: Path, tmp_path: Path) -> None:
    plain, again, constant = tmp_path / "plain", tmp_path / "again", "model.lr_schedule=null"
    train(arguments("ddpm_by_class", data, plain, "trainer.max_steps=4", constant))
    train(arguments("ddpm_by_class", data, again, "trainer.max_steps=3", constant, "trainer.checkpoint_activations=true"))
    train([f"resume={again}", "trainer.max_steps=4"])
    assert_same(contents(again)["state_dict"], contents(plain)["state_dict"])
    with pytest.raises(ValueError, match="trainer.checkpoint_activations=true: VAE has no blocks"):
        train(overrides("model=vae", f"data.root={data}", "data=fashion_mnist", "trainer.checkpoint_activations=true", run=tmp_path / "vae"))
    assert not (tmp_path / "vae").exists()


@pytest.fixture(scope="module")
def trained(data: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """A few steps of an unconditional model and of one of classes."""
    found = {}
    for variant in ("edm", "ddpm_by_class"):
        found[variant] = tmp_path_factory.mktemp(variant) / "run"
        train(arguments(variant, data, found[variant], "trainer.max_steps=4"))
    return found


def drawn(run: Path, out: Path, *more: str) -> list[dict]:
    return sample([f"ckpt={run}", f"out={out}", "device=cpu", "n=2", *more])


def test_it_draws_with_its_options(trained: dict[str, Path], tmp_path: Path) -> None:
    lines = drawn(trained["edm"], tmp_path / "plain")
    assert len(lines) == 2 and (tmp_path / "plain" / "grid.png").is_file() and lines[0]["prompt"] is None
    lines = drawn(trained["edm"], tmp_path / "ddim", "num_steps=5", "sampler=ddim")
    assert [(line["num_steps"], line["sampler"]) for line in lines] == [(5, "ddim")] * 2
    by_class = trained["ddpm_by_class"]
    three = drawn(by_class, tmp_path / "three", "label=3")
    assert [line["prompt"] for line in three] == [3, 3]
    drawn(by_class, tmp_path / "guided", "label=3", "guidance_scale=2", "options.guidance_interval=[-3,4]")
    last = json.loads((tmp_path / "guided" / "samples.jsonl").read_text().splitlines()[-1])
    assert last["guidance_scale"] == 2 and last["guidance_interval"] == [-3, 4]


@pytest.mark.parametrize(
    ("variant", "override", "complaint"),
    [
        ("edm", "label=3", "label"),
        ("edm", "prompt=a shoe", "prompt"),
        ("edm", "options.guidance_interval=[4,-3]", "guidance_interval"),
        ("edm", "num_steps=0", "num_steps=0"),
        ("edm", "options.steps=3", "steps"),
        ("ddpm_by_class", "label=10", "label=10: the model knows the classes 0 to 9"),
    ],
)
def test_a_wrong_option_is_refused_by_name(
    trained: dict[str, Path], variant: str, override: str, complaint: str, tmp_path: Path
) -> None:
    with pytest.raises(ValueError) as caught:
        drawn(trained[variant], tmp_path / "out", override)
    assert complaint in str(caught.value) and "\n" not in str(caught.value) and not (tmp_path / "out").exists()


def test_the_average_is_of_the_net_and_the_images_trained_are_counted(trained: dict[str, Path]) -> None:
    (path,) = (trained["ddpm_by_class"] / "checkpoints").glob("step=00000004.ckpt")
    averaged = torch.load(path, weights_only=True)["ema"]["params"]
    module, _, info = load_module(path)
    assert info["weights"] == "ema" and int(module.stage.images_trained) == 32
    assert all(torch.equal(module.state_dict()[name], value) for name, value in averaged.items())


def test_an_earlier_checkpoint_guides_a_later_one(trained: dict[str, Path], data: Path, tmp_path: Path) -> None:
    """The images depend on it, the lines name it, and a sweep of the guidance scale draws with it."""
    run_dir = trained["edm"]
    earlier = run_dir / "checkpoints" / "step=00000003.ckpt"  # the newest two are kept
    alone = drawn(run_dir, tmp_path / "alone", "guidance_scale=3")
    guided = drawn(run_dir, tmp_path / "guided", "guidance_scale=3", f"weaker={earlier}")
    once = drawn(run_dir, tmp_path / "once", "guidance_scale=1", f"weaker={earlier}")
    assert "weaker" not in alone[0] and guided[0]["weaker"] == hashlib.sha256(earlier.read_bytes()).hexdigest()
    images = [(tmp_path / name / "00000.png").read_bytes() for name in ("alone", "guided", "once")]
    assert images[0] != images[1] and images[0] == images[2] and len(once) == 2
    with pytest.raises(ValueError, match="weaker=.*guides task=sample, task=inpaint and task=film"):
        drawn(run_dir, tmp_path / "x", "task=interpolate", "images=[a.png,b.png]", f"weaker={earlier}")
    with pytest.raises(ValueError, match="weaker=.*it is told a label, and this model is not"):
        drawn(run_dir, tmp_path / "x", f"weaker={trained['ddpm_by_class']}")
    with pytest.raises(FileNotFoundError, match="weaker=nowhere"):
        drawn(run_dir, tmp_path / "x", "weaker=nowhere")
    assert not (tmp_path / "x").exists()
    out = tmp_path / "evaluation"
    (found,) = evaluate([
        f"ckpt={run_dir}", f"out={out}", f"weaker={earlier}", "n=4", "device=cpu", "batch_size=4", "evaluator.fd=null",
        "sweep.guidance_scale=[1,2]", f"trust={data}",
    ])  # fmt: skip
    assert found["facts"]["guided by"].startswith(str(earlier))
    protocols = [json.loads(path.read_text()) for path in out.glob("samples/*/protocol.json")]
    assert len(protocols) == 3 and all(p["weaker"] == guided[0]["weaker"] for p in protocols)


def test_the_film_shows_both_ways(trained: dict[str, Path], tmp_path: Path) -> None:
    lines = drawn(trained["edm"], tmp_path / "film", "task=film", "num_steps=6")
    names = sorted(path.name for path in (tmp_path / "film").iterdir())
    assert names == ["00000.png", "00001.png", "film.gif", "film.png", "samples.jsonl"]
    with Image.open(tmp_path / "film" / "film.gif") as film:
        assert film.n_frames > 10  # ten of adding noise, and the steps of drawing
    drawn(trained["edm"], tmp_path / "plain", "num_steps=6")
    one = [(tmp_path / name / "00001.png").read_bytes() for name in ("film", "plain")]
    assert one[0] == one[1] and lines[1]["task"] == "film"
    drawn(trained["ddpm_by_class"], tmp_path / "given", "task=film", "label=2", f"image={tmp_path / 'film' / '00000.png'}")
    assert (tmp_path / "given" / "film.png").is_file()
