"""Damage is seen, checkpoints hold plain data, and modules come back from files, runs and names."""

from __future__ import annotations

import json
import random
import resource
from pathlib import Path

import pytest
import torch
from omegaconf import OmegaConf

import runtime.checkpoint
from runtime.checkpoint import load_module, start_from
from runtime.checkpoint_io import AtomicCheckpointIO, is_good, newest_good
from runtime.export import export
from tests.toy import overrides
from train import main


@pytest.fixture(scope="module")
def trained(tmp_path_factory) -> Path:
    path = tmp_path_factory.mktemp("trained") / "run"
    main(overrides("trainer.max_steps=6", "callbacks.checkpoint.every_steps=3", run=path))
    return path


def newest(run: Path) -> Path:
    return sorted((run / "checkpoints").glob("*.ckpt"))[-1]


def test_a_run_leaves_what_the_contract_names(trained: Path) -> None:
    names = {p.name for p in trained.iterdir()}
    assert names == {"config.yaml", "resume.yaml", "lock", "checkpoints", "samples", "metrics.jsonl", "timing.jsonl"}
    assert [p.name for p in sorted((trained / "checkpoints").iterdir())] == ["step=00000003.ckpt", "step=00000006.ckpt"]
    assert OmegaConf.load(trained / "config.yaml").model.lr_schedule.total_steps == 6


def test_a_checkpoint_holds_plain_data_only(trained: Path) -> None:
    assert torch.serialization.get_unsafe_globals_in_checkpoint(newest(trained)) == []
    ckpt = torch.load(newest(trained), weights_only=True)
    assert ckpt["counters"] == {"batches_seen": 6, "optimizer_steps": 6, "images_seen": 48}
    assert set(ckpt["versions"]) == {"python", "torch", "pytorch_lightning"}
    assert ckpt["config"]["data"]["batch_size"] == 8


def test_damage_is_always_noticed(trained: Path, tmp_path: Path) -> None:
    rng, whole, path = random.Random(0), newest(trained).read_bytes(), tmp_path / "step=1.ckpt"
    path.write_bytes(whole)
    assert is_good(path)
    state = torch.load(path, weights_only=True)["state_dict"]
    for i in range(60):
        damaged = bytearray(whole)
        if i % 3 == 0:
            del damaged[rng.randrange(len(damaged)) :]
        elif i % 3 == 1:
            damaged[rng.randrange(len(damaged))] ^= 1 << rng.randrange(8)
        else:
            place = rng.randrange(len(damaged) - 512)
            damaged[place : place + 512] = bytes(512)
        path.write_bytes(damaged)
        if is_good(path):  # a bit that nothing reads, such as padding
            again = torch.load(path, weights_only=True)["state_dict"]
            assert all(torch.equal(again[k], state[k]) for k in state)


def test_the_newest_good_one_is_found(trained: Path, tmp_path: Path, capsys) -> None:
    whole = newest(trained).read_bytes()
    (tmp_path / "step=00000002.ckpt").write_bytes(whole)
    (tmp_path / "step=00000010.ckpt").write_bytes(whole[:-100])
    assert newest_good(tmp_path).name == "step=00000002.ckpt"
    assert "step=00000010.ckpt is damaged" in capsys.readouterr().out
    assert newest_good(tmp_path / "empty") is None


def test_a_full_disk_is_an_oserror_and_leaves_the_old_file(tmp_path: Path) -> None:
    path = tmp_path / "step=1.ckpt"
    AtomicCheckpointIO().save_checkpoint({"a": torch.ones(3)}, path)
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, hard))
    try:
        with pytest.raises(OSError):
            AtomicCheckpointIO().save_checkpoint({"a": torch.ones(100_000)}, path)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert torch.load(path)["a"].shape == (3,) and [p.name for p in tmp_path.iterdir()] == ["step=1.ckpt"]


def test_a_failed_write_leaves_the_old_file_and_no_rubbish(tmp_path: Path) -> None:
    path = tmp_path / "step=1.ckpt"
    AtomicCheckpointIO().save_checkpoint({"a": torch.ones(3)}, path)
    with pytest.raises(Exception):
        AtomicCheckpointIO().save_checkpoint({"a": lambda: 0}, path)
    assert is_good(path) and [p.name for p in tmp_path.iterdir()] == ["step=1.ckpt"]


@pytest.mark.parametrize("form", ["run", "file"])
def test_load_module_gives_averaged_or_raw_weights(trained: Path, form: str) -> None:
    ckpt = torch.load(newest(trained), weights_only=True)
    source = trained if form == "run" else newest(trained)
    averaged, config, info = load_module(source)
    raw, _, raw_info = load_module(str(source), ema=False)
    assert (info["weights"], raw_info["weights"]) == ("ema", "raw")
    assert info["step"] == 6 and info["images_seen"] == 48 and len(info["sha256"]) == 64 and info["train_sec"] > 0
    assert config.data.batch_size == 8 and not averaged.training
    for name, value in averaged.named_parameters():
        assert torch.equal(value, ckpt["ema"]["params"][name]) and not torch.equal(value, raw.state_dict()[name])
    assert all(torch.equal(v, ckpt["state_dict"][k]) for k, v in raw.state_dict().items())


def test_an_exported_model_samples_like_the_run(trained: Path, tmp_path: Path, monkeypatch) -> None:
    monkeypatch.setattr(runtime.checkpoint, "REPO", tmp_path)
    out = export(str(trained), tmp_path / "zoo" / "toy")
    assert sorted(p.name for p in out.iterdir()) == ["card.json", "config.yaml", "model.safetensors"]
    module, _, info = load_module("toy")
    original, _, _ = load_module(trained)
    a, b = (m.sample(["x", "yy"], seeds=[1, 2]) for m in (module, original))
    assert (a - b).abs().max() < 2e-3
    assert info["images_seen"] == 48 and info["weights"] == "ema, float16"
    assert str(trained) not in (out / "config.yaml").read_text()
    with pytest.raises(ValueError, match="holds a model already"):
        export(str(trained), out)
    damaged = bytearray((out / "model.safetensors").read_bytes())
    damaged[-1] ^= 1
    (out / "model.safetensors").write_bytes(damaged)
    with pytest.raises(ValueError, match="damaged"):
        load_module("toy")
    with pytest.raises(FileNotFoundError, match="zoo: toy"):
        load_module("nothing")


def test_hostile_and_foreign_checkpoints_are_refused(trained: Path, tmp_path: Path) -> None:
    ckpt = torch.load(newest(trained), weights_only=True)
    ckpt["config_source"]["model"]["_target_"] = "os.system"
    torch.save(ckpt, tmp_path / "hostile.ckpt")
    with pytest.raises(ValueError, match="os.system.*refused"):
        load_module(tmp_path / "hostile.ckpt")
    torch.save({"state_dict": {}}, tmp_path / "foreign.ckpt")
    with pytest.raises(ValueError, match="something else"):
        load_module(tmp_path / "foreign.ckpt")
    torch.save({"a": Path("x")}, tmp_path / "pickled.ckpt")
    with pytest.raises(ValueError, match="cannot be loaded as plain tensors"):
        load_module(tmp_path / "pickled.ckpt")
    (tmp_path / "text.ckpt").write_text("hello")
    with pytest.raises(ValueError, match="damaged or not a checkpoint"):
        load_module(tmp_path / "text.ckpt")


def test_code_that_changed_is_named(trained: Path, tmp_path: Path) -> None:
    ckpt = torch.load(newest(trained), weights_only=True)
    ckpt["state_dict"].pop("net.1.weight"), ckpt["ema"]["params"].pop("net.1.weight")
    torch.save(ckpt, tmp_path / "old.ckpt")
    with pytest.raises(ValueError, match="does not fit the code of today: it lacks 'net.1.weight'"):
        load_module(tmp_path / "old.ckpt")


def test_metrics_lines_are_json_with_our_step(trained: Path) -> None:
    lines = [json.loads(line) for line in (trained / "metrics.jsonl").read_text().splitlines()]
    assert [line["step"] for line in lines] == [3, 6, 6]
    assert lines[-1]["images"] == 48 and "val/loss" in lines[-1]
    assert not any(key.startswith("time/") for line in lines for key in line)


def test_a_new_run_starts_from_another_runs_averaged_weights(trained: Path, capsys: pytest.CaptureFixture) -> None:
    averaged, _, _ = load_module(trained)
    module, _, _ = load_module(trained, ema=False)
    assert any(not torch.equal(a, b) for a, b in zip(module.parameters(), averaged.parameters()))
    start_from(module, trained)
    for (name, mine), theirs in zip(module.state_dict().items(), averaged.state_dict().values()):
        torch.testing.assert_close(mine, theirs, msg=name)
    assert "started from" in capsys.readouterr().out
    with pytest.raises(ValueError, match="none of its .* weights fits this model"):
        start_from(torch.nn.Linear(2, 2), trained)
