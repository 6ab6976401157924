"""The comparison with torch-mimicry at toy size, with a stand-in for it: same images, whole minutes, one judge."""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from PIL import Image
from torch import nn

from benchmarks import gan_mimicry, peer_mimicry
from benchmarks.gan_mimicry import INSTALL, Settings, benchmark, read_images, table, train_ours, train_peer
from benchmarks.tables import describe
from runtime.config import compose
from tests.datamodules.class_data import write_class_data

TINY = Settings(minutes=0.02, n=20, threads=1)
REAL_PEER = os.environ.get("MIMICRY_PYTHON")  # a Python that has torch-mimicry, if there is one
STAND_IN = {
    "__init__.py": "import tensorflow_is_not_here\n",
    "nets/__init__.py": "",
    "nets/sngan.py": """
import torch

class SNGANGenerator32(torch.nn.Module):
    def __init__(self, ngf=256):
        super().__init__()
        self.ngf, self.ends = ngf, torch.nn.Sequential(torch.nn.Linear(128, ngf), torch.nn.Linear(ngf, 3072))

    def generate_images(self, num_images, device):
        assert self.training == torch.is_grad_enabled()
        return self.ends(torch.randn(num_images, 128)).tanh().reshape(-1, 3, 32, 32)

class SNGANDiscriminator32(torch.nn.Module):
    def __init__(self, ndf=128):
        super().__init__()
        self.ndf, self.ends = ndf, torch.nn.Sequential(torch.nn.Linear(3072, ndf), torch.nn.Linear(ndf, 1))
""",
    "training.py": """
from types import SimpleNamespace

class Trainer:
    def __init__(self, **given):
        vars(self).update(given)
        assert (self.n_dis, self.lr_decay, self.dataloader.batch_size) == (5, "linear", 64)
        self.scheduler = SimpleNamespace(num_steps=self.num_steps)

    def train(self):
        step, batches = 0, iter(self.dataloader)
        while step < self.num_steps:
            for _ in range(self.n_dis):
                try:
                    images, labels = next(batches)
                except StopIteration:
                    batches = iter(self.dataloader)
                    images, labels = next(batches)
                assert images.shape[1:] == (3, 32, 32) and len(images) == len(labels)
                self.optD.zero_grad()
                self.netD.ends(images.flatten(1)).mean().backward()
                self.optD.step()
            self.optG.zero_grad()
            self.netG.generate_images(8, device=self.device).mean().backward()
            self.optG.step()
            step += 1
            self.optG.param_groups[0]["lr"] = 2e-4 * max(0, 1 - step / self.scheduler.num_steps)
""",
}


@pytest.fixture
def stand_in(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """A Python whose torch_mimicry has the names of the real one, and small nets."""
    files = {f"torch_mimicry/{name}": text for name, text in STAND_IN.items()}
    files["torch_mimicry-0.0.0.dist-info/METADATA"] = "Metadata-Version: 2.1\nName: torch_mimicry\nVersion: 0.0.0\n"
    for name, text in files.items():
        path = tmp_path / "peer" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    monkeypatch.setenv("PYTHONPATH", str(tmp_path / "peer"))
    return sys.executable


@pytest.mark.parametrize(("channels", "side"), [(1, 28), (3, 32), (1, 27)])
def test_images_come_back_as_they_went(channels: int, side: int) -> None:
    image_u8 = torch.randint(0, 256, (5, channels, side, side), dtype=torch.uint8)
    there = peer_mimicry.padded(image_u8)
    assert there.shape == (5, 3, 32, 32) and there.min() >= -1 and there.max() <= 1
    outside = torch.ones(32, 32, dtype=torch.bool)
    before = (32 - side) // 2
    outside[before : before + side, before : before + side] = False
    assert (there[..., outside] == -1).all()
    assert torch.equal(peer_mimicry.unpadded(there, channels, side), image_u8)
    with pytest.raises(ValueError, match="diverged"):
        peer_mimicry.unpadded(there / 0, channels, side)


def test_colours_are_averaged_to_grey() -> None:
    colours = torch.tensor([-1.0, 0.0, 0.4]).reshape(1, 3, 1, 1).expand(1, 3, 32, 32)
    assert peer_mimicry.unpadded(colours, 1, 28).unique().tolist() == [round((1 - 0.2) * 127.5)]


def test_width_is_the_one_with_nearest_parameters() -> None:
    for goal, width in ((1, 8), (39, 40), (45, 48), (10**6, 256)):
        assert peer_mimicry.sized(lambda w: nn.Linear(1, w, bias=False), goal).out_features == width


def test_decay_and_steps_follow_the_clock(monkeypatch: pytest.MonkeyPatch) -> None:
    now = [0.0]
    monkeypatch.setattr(peer_mimicry.time, "perf_counter", lambda: now[0])
    d, g = (torch.optim.SGD([nn.Parameter(torch.zeros(1))], 1.0) for _ in range(2))
    trainer = SimpleNamespace(optD=d, optG=g, num_steps=10**9, scheduler=SimpleNamespace(num_steps=10**9))
    counts, steps = peer_mimicry.end_in(trainer, 60), []
    for sec in (30, 10, 10, 5, 4, 2):  # a slow start
        now[0] += sec
        d.step(), d.step(), g.step()
        steps.append(trainer.num_steps)
        assert trainer.scheduler.num_steps == trainer.num_steps
    assert steps == [2, 3, 4, 5, 6, 6]  # always one more than were taken, until the time is up
    assert counts == {"steps": 12, "generator_steps": 6, "seconds": 61.0}


def test_peer_trains_its_minutes_once(tmp_path: Path, stand_in: str) -> None:
    train_u8 = torch.randint(0, 256, (100, 1, 28, 28), dtype=torch.uint8)
    drawn, report = train_peer(TINY, stand_in, "sngan_256", tmp_path, train_u8, [])
    assert drawn.shape == (20, 1, 28, 28) and drawn.dtype == torch.uint8 and len(drawn.unique()) > 2
    assert report["seconds"] >= 1.2 and report["last_lr"] == 0
    assert report["steps"] == 5 * report["generator_steps"] > 0
    assert report["images"] / report["steps"] == pytest.approx(50, abs=5)  # batches of 64 and 36
    assert (report["ngf"], report["ndf"]) == (256, 128)
    assert report["generator"] == 129 * 256 + 257 * 3072
    again, same = train_peer(TINY, "no/such/python", "sngan_256", tmp_path, train_u8, [])
    assert torch.equal(again, drawn) and same == report
    with pytest.raises(ValueError, match="other settings: remove it or choose another --dir"):
        train_peer(Settings(minutes=0.03, n=20, threads=1), stand_in, "sngan_256", tmp_path, train_u8, [])


def test_peer_gets_the_parameters_of_our_preset(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def given(command: list[str], threads: int, log: Path) -> None:
        np.save(tmp_path / "mimicry_sngan" / "draws.npy", np.zeros((1, 1, 28, 28), np.uint8))
        (tmp_path / "mimicry_sngan" / "report.json").write_text("{}")

    monkeypatch.setattr(gan_mimicry, "timed", given)
    half_a_run = tmp_path / "mimicry_sngan" / "log" / "checkpoints"
    half_a_run.mkdir(parents=True)
    train_peer(TINY, "unused", "sngan", tmp_path, torch.zeros(4, 1, 28, 28, dtype=torch.uint8), [])
    job = json.loads((tmp_path / "mimicry_sngan" / "job.json").read_text())
    assert job["net"] == "sngan" and job["parameters"] == {"generator": 725_857, "discriminator": 214_945}
    assert not half_a_run.exists()  # mimicry's trainer would have gone on from it


def test_mistakes_are_one_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(FileNotFoundError, match="no such Python"):
        benchmark(TINY, ["sngan"], [], "no/such/python", tmp_path, [])
    with pytest.raises(ModuleNotFoundError, match="has no torch-mimicry: python -m venv") as error:
        monkeypatch.setattr(gan_mimicry, "peer_versions", _without_mimicry)
        benchmark(TINY, ["sngan"], [], sys.executable, tmp_path, [])
    assert "--no-deps torch-mimicry" in str(error.value)
    write_class_data(tmp_path, "fashion_mnist", num_train=40, num_test=20)
    config = compose("train", ["experiment=gan/dcgan", "data=fashion_mnist", f"data.root={tmp_path}", "data.num_val=10"])
    train_u8, test = read_images(config, 20)
    assert train_u8.shape == (30, 1, 28, 28) and test.shape == (20, 1, 28, 28)  # those held out reach neither side
    with pytest.raises(ValueError, match="--n 21: there are 20 images"):
        read_images(config, 21)
    monkeypatch.setattr(gan_mimicry, "trained", lambda *_: "runs/dcgan")
    monkeypatch.setattr(gan_mimicry, "load_module", lambda _: (None, None, {"train_sec": 270.0}))
    with pytest.raises(ValueError, match="runs/dcgan was trained for 270 s, not 600"):
        train_ours(Settings(minutes=10), "dcgan", tmp_path, [])
    assert train_ours(Settings(minutes=4.5), "dcgan", tmp_path, []) == "runs/dcgan"


def _without_mimicry(python: str, *_: object) -> None:
    raise ModuleNotFoundError(f"{python} has no torch-mimicry: {INSTALL}")


@pytest.mark.slow
def test_end_to_end(tmp_path: Path, stand_in: str, monkeypatch: pytest.MonkeyPatch) -> None:
    write_class_data(tmp_path / "data", "fashion_mnist", num_train=60, num_test=24)
    pictures = []
    monkeypatch.setattr(Image.Image, "save", lambda self, path: pictures.append((self.size, path)))
    small = ["players.generator.dims=[16,16,8]", "players.discriminator.dims=[8,16,16]", "data.num_val=10"]
    where = [f"data.root={tmp_path / 'data'}", "data.batch_size=8", "callbacks.progress=null"]
    where += ["trainer.max_steps=1000000"]  # the time ends it: too short to tell from the speed how many steps fit
    out, settings = tmp_path / "found.json", ["--minutes", "0.05", "--n", "24", "--threads", "1"]
    sides = ["--players", "dcgan", "--peers", "sngan_256", "--peer-python", stand_in]
    folder = ["--dir", str(tmp_path / "runs"), "--out", str(out)]
    monkeypatch.setattr(sys, "argv", ["gan_mimicry", *settings, *sides, *folder, "--", *small, *where])
    gan_mimicry.main()
    result = json.loads(out.read_text())
    assert list(result["rows"]) == ["real images", "ours dcgan", "mimicry sngan_256"]
    for row in list(result["rows"].values())[1:]:
        assert row["fd"] > 0 and row["seconds"] >= 3 and row["steps"] > 0
    assert result["rows"]["ours dcgan"]["weights"] == "ema"
    (width, height), path = pictures[0]
    assert path.name == "gan_mimicry.png" and width > height
    assert "| mimicry sngan_256 | " in table(result) and "../docs/images/gan_mimicry.png" in table(result)
    assert "torch-mimicry (peer) 0.0.0" in describe(result)


@pytest.mark.slow
def test_real_peer_trains_and_draws(tmp_path: Path) -> None:
    if not REAL_PEER:
        pytest.skip(f"{INSTALL.partition(',')[0]}, and MIMICRY_PYTHON=PEER/bin/python")
    train_u8 = torch.randint(0, 256, (100, 1, 28, 28), dtype=torch.uint8)
    drawn, report = train_peer(TINY, REAL_PEER, "sngan", tmp_path, train_u8, [])
    assert drawn.shape == (20, 1, 28, 28) and len(drawn.unique()) > 2
    assert report["generator"] == pytest.approx(725_857, rel=0.1)
    assert report["discriminator"] == pytest.approx(214_945, rel=0.1)
    assert report["steps"] == 5 * report["generator_steps"] and report["last_lr"] == 0
