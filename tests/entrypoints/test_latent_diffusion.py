"""Latent diffusion through the real scripts, from an autoencoder to images, and what its checkpoint says of the autoencoder."""

from __future__ import annotations

import hashlib
import os
import shutil
import signal
from pathlib import Path

import pytest
import torch

from runtime import places
from runtime.checkpoint import load_module
from runtime.export import export
from sample import main as sample
from tests.datamodules.class_data import write_class_data
from tests.sessions import assert_same, contents, overrides, run, start, wait_for
from train import main as train

pytestmark = pytest.mark.timeout(400)  # runs of several processes, on machines that others use

SMALL = (
    "data=fashion_mnist", "data.batch_size=8", "data.num_val=8", "data.num_workers=0", "trainer.max_steps=6",
    "callbacks.checkpoint.every_steps=2",
)  # fmt: skip
AUTOENCODER = ("model=autoencoder", "codec=mlp", "codec.encoder.hidden=[16]", "codec.decoder.hidden=[16]", "model.latent_dim=4")


def latent(data: Path, autoencoder: Path, path: Path, *more: str) -> list[str]:
    return overrides(
        "model=latent_diffusion", *SMALL, f"data.root={data}", f"space.ckpt={autoencoder}", "space.latent_dim=4",
        "net.dim=16", "net.depth=1", "net.emb_dim=16", "model.stage.num_steps=2", "trainer.max_steps=12", *more, run=path,
    )  # fmt: skip


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with data, two autoencoders and a model of the first one's latents."""
    folder = tmp_path_factory.mktemp("latent")
    write_class_data(folder / "data", "fashion_mnist")
    for name, seed in (("autoencoder", 0), ("another", 1)):
        train(overrides(*AUTOENCODER, *SMALL, f"data.root={folder / 'data'}", f"seed={seed}", run=folder / name))
    train(latent(folder / "data", folder / "autoencoder", folder / "run"))
    return folder


def test_it_draws_images_and_keeps_the_autoencoders_checksum_without_its_weights(trained: Path, tmp_path: Path) -> None:
    lines = sample([f"ckpt={trained / 'run'}", f"out={tmp_path}", "n=3", "device=cpu"])
    assert len(lines) == 3 and (tmp_path / "grid.png").is_file()
    (newest,) = (trained / "run" / "checkpoints").glob("step=00000012.ckpt")
    checkpoint = torch.load(newest, weights_only=True)
    judged = sorted((trained / "autoencoder" / "checkpoints").glob("step=*.ckpt"))[-1]
    assert checkpoint["frozen"] == {"diffusion": hashlib.sha256(judged.read_bytes()).hexdigest()}
    assert {name.split(".")[1] for name in checkpoint["state_dict"]} == {"diffusion"}
    assert not any("encoder" in name or "decoder" in name for name in checkpoint["state_dict"])


def test_a_stop_and_a_resume_change_nothing(trained: Path, tmp_path: Path) -> None:
    path, log = tmp_path / "run", tmp_path / "log"
    process = start(latent(trained / "data", trained / "autoencoder", path), log)
    wait_for(lambda: (path / "metrics.jsonl").exists() and (path / "metrics.jsonl").read_text().count("\n"), process)
    os.kill(process.pid, signal.SIGTERM)
    process.join(120)
    assert process.exitcode in (0, 143), log.read_text()[-2000:]
    assert run([f"resume={path}"], log, timeout=300) == 0, log.read_text()[-2000:]
    resumed, whole = contents(path), contents(trained / "run")
    for part in ("state_dict", "ema", "optimizer_states", "counters", "metrics"):
        assert_same(resumed[part], whole[part], part)


def test_another_autoencoder_in_its_place_is_refused_by_name(trained: Path, tmp_path: Path) -> None:
    place = tmp_path / "autoencoder"
    shutil.copytree(trained / "autoencoder", place, symlinks=True)
    train(latent(trained / "data", place, tmp_path / "run"))
    load_module(tmp_path / "run")
    shutil.rmtree(place)
    with pytest.raises(FileNotFoundError, match="the autoencoder of these latents is not there"):
        load_module(tmp_path / "run")
    shutil.copytree(trained / "another", place, symlinks=True)
    with pytest.raises(ValueError, match=f"trained on the latents of another model than {place}"):
        load_module(tmp_path / "run")
    log = tmp_path / "log"
    assert run([f"resume={tmp_path / 'run'}", "trainer.max_steps=14"], log) == 2
    assert "trained on the latents of another model" in log.read_text() and "Traceback" not in log.read_text()


def test_a_foreign_checkpoint_may_not_name_a_place_of_its_own_without_trust(
    trained: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(places, "_ledger", lambda: tmp_path / "nothing-trained-here.txt")
    place = trained / "autoencoder"
    with pytest.raises(ValueError, match=f"names ckpt={place}, a place outside this repository: refused"):
        load_module(trained / "run")
    assert load_module(trained / "run", trust=[str(place)])[2]["step"] == 12


def test_an_export_says_what_it_needs_beside_it(trained: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = export(str(trained / "run"), tmp_path / "latent")
    assert f"holds no weights of {trained / 'autoencoder'}" in capsys.readouterr().out
    assert load_module(out)[2]["step"] == 12


@pytest.mark.parametrize(
    ("more", "complaint"),
    [
        (["space.ckpt=null"], "latents need a trained autoencoder: give space.ckpt=RUN"),
        (["space.latent_dim=5"], "has latents of 4 numbers"),
        (["space.ckpt=nowhere"], "nowhere: no such file, run or name in zoo/"),
    ],
)
def test_mistakes_end_in_one_line(more: list[str], complaint: str, trained: Path, tmp_path: Path) -> None:
    log = tmp_path / "log"
    assert run(latent(trained / "data", trained / "autoencoder", tmp_path / "run", *more), log) == 2
    assert complaint in log.read_text() and "Traceback" not in log.read_text()
