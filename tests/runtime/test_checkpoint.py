"""Damage is seen, checkpoints hold plain data, and modules come back from files, runs and names."""

from __future__ import annotations

import json
import random
import resource
from pathlib import Path
from typing import Any

import pytest
import torch
from omegaconf import OmegaConf

from runtime.build import instantiate
from networks.unet import UNet
from runtime.checkpoint import load_module, start_from
from runtime.checkpoint_io import AtomicCheckpointIO, is_good, newest_good
from tests.runtime.canary import Canary, canary  # noqa: F401  (a fixture)
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


def test_hostile_and_foreign_checkpoints_are_refused(trained: Path, tmp_path: Path) -> None:
    torch.save({"state_dict": {}}, tmp_path / "foreign.ckpt")
    with pytest.raises(ValueError, match="something else"):
        load_module(tmp_path / "foreign.ckpt")
    torch.save({"a": Path("x")}, tmp_path / "pickled.ckpt")
    with pytest.raises(ValueError, match="cannot be loaded as plain tensors: it holds pathlib"):
        load_module(tmp_path / "pickled.ckpt")
    (tmp_path / "text.ckpt").write_text("hello")
    with pytest.raises(ValueError, match="damaged or not a checkpoint"):
        load_module(tmp_path / "text.ckpt")


# What is put in the place of a part of a good checkpoint; a dotted key leads into it, None takes the part away.
HOSTILE: dict[str, tuple[str, Any]] = {
    "a command": ("config_source.model._target_", "os.system"),
    "a command as the optimiser": ("config_source.model.optimizer", {"_target_": "os.system", "_partial_": True}),
    "a file that is written": ("config_source.model.optimizer", {"_target_": "files.write_text", "path": "fired", "text": "x"}),
    "the environment": ("config_source.model.width", "${oc.env:HOME_SECRET}"),
    "the environment beside the model": ("config_source.name", "${oc.env:HOME_SECRET}"),
    "the environment in what is referred to": ("config_source.choices.data", "${oc.env:HOME_SECRET}"),
    "a circle": ("config_source.model.width", "${model.width}"),
    "a reference to nothing": ("config_source.model.width", "${nothing.there}"),
    "a bomb": ("config_source.bomb", {f"a{i}": [f"${{bomb.a{i + 1}}}"] * 10 for i in range(12)} | {"a12": 1}),
    "a model that is none": ("config_source.model", {"_target_": "networks.text.BagOfWords"}),
    "a datamodule for a model": ("config_source.model", {"_target_": "tests.toy.ToyData"}),
    "a function for a model": ("config_source.model", {"_target_": "diffusion.samplers.ddim", "_partial_": True}),
    "a net for a model": ("config_source.model", {"_target_": "networks.classifier.ConvClassifier", "channels": 1, "num_classes": 2}),
    "a model in part": ("config_source.model._partial_", True),
    "a list for a model": ("config_source.model", [1]),
    "a text for a model": ("config_source.model", "toy"),
    "no model": ("config_source.model", None),
    "a text for a configuration": ("config_source", "model: toy"),
    "a list for a configuration": ("config_source", [1, 2]),
    "an empty configuration": ("config_source", {}),
    "no configuration": ("config_source", None),
    "a model without end": ("config_source.model.width", 10**7),
    "a model that is somewhat large": ("config_source.model.width", 10**6),
    "a model with an unknown setting": ("config_source.model.nope", 1),
    "a text for a number": ("config_source.model.width", "wide"),
    "a setting out of range": ("config_source.model.width", 0),
    "no counters": ("counters", None),
    "counters that are a list": ("counters", [1, 2, 3]),
    "a counter below zero": ("counters.images_seen", -1),
    "a counter that is text": ("counters.images_seen", "many"),
    "more counters": ("counters.path", "/nowhere/etc/passwd"),
    "fewer counters": ("counters.images_seen", None),
    "averages that are a list": ("ema", [1]),
    "averages without weights": ("ema.params", None),
    "averages that are numbers": ("ema.params", {"net.1.weight": 1.0}),
    "averages of another shape": ("ema.params", {"net.1.weight": torch.zeros(1)}),
    "averages of unknown weights": ("ema.params", {"net.nope": torch.zeros(1)}),
    "a count of averages that is text": ("ema.num_updates", "x"),
    "no weights": ("state_dict", None),
    "weights that are a list": ("state_dict", [torch.zeros(1)]),
    "weights that are text": ("state_dict", {"net.1.weight": "x"}),
    "a weight of another shape": ("state_dict.net|1|weight", torch.zeros(2, 2)),
    "a weight of no shape": ("state_dict.net|1|bias", torch.zeros(())),
    "a weight that lacks": ("state_dict.net|1|bias", None),
    "a weight that is unknown": ("state_dict.net|9|bias", torch.zeros(1)),
    "a text encoder that is text": ("text_encoder", "x"),
    "a text encoder with more": ("text_encoder", {"id": "x", "revision": "y", "more": "z"}),
    "versions that are a list": ("versions", [1]),
    "versions of versions": ("versions", {"python": {"a": "b"}}),
    "seconds that are text": ("train_sec", "long"),
    "data that is text": ("data", "x"),
}


def replaced(value: dict[str, Any], key: str, new: Any) -> dict[str, Any]:
    first, dot, rest = key.partition(".")
    first = first.replace("|", ".")
    changed = replaced(dict(value[first]), rest, new) if dot else new
    return {k: v for k, v in value.items() if k != first} | ({} if changed is None else {first: changed})


@pytest.mark.parametrize("what", HOSTILE)
def test_a_hostile_part_of_a_checkpoint_is_one_line(what: str, trained: Path, canary: Canary, tmp_path: Path) -> None:  # noqa: F811
    checkpoint = torch.load(newest(trained), weights_only=True)
    torch.save(replaced(checkpoint, *HOSTILE[what]), tmp_path / "x.ckpt")
    with canary.refuses():
        load_module(tmp_path / "x.ckpt", ema=HOSTILE[what][0].startswith("ema"))


def test_a_model_larger_than_its_weights_is_refused_before_it_is_built(trained: Path, tmp_path: Path) -> None:
    checkpoint = torch.load(newest(trained), weights_only=True)
    torch.save(replaced(checkpoint, *HOSTILE["a model that is somewhat large"]), tmp_path / "x.ckpt")
    with pytest.raises(ValueError, match="larger than the weights"):
        load_module(tmp_path / "x.ckpt")


def test_a_foreign_text_encoder_needs_the_users_word(tmp_path: Path, canary: Canary) -> None:  # noqa: F811
    """The refusal says what to type; with it, the encoder is looked for."""
    model = {"_target_": "lightning_modules.imagen.Imagen", "text_encoder": {"_target_": "networks.text.HuggingFaceText", "model_id": "evil/x"}}
    net = {"_target_": "networks.unet.UNet", "image_size": 8, "dim": 8, "dim_mults": [1], "attn_resolutions": [], "tokens_dim": 8}
    model["stages"] = {"base": {
        "_target_": "lightning_modules.stage.DiffusionStage", "net": net,
        "space": {"_target_": "lightning_modules.spaces.Pixels", "image_size": 8},
        "schedule": {"_target_": "diffusion.schedules.CosineSchedule"}, "sampler": {"_target_": "diffusion.samplers.ddim", "_partial_": True},
    }}  # fmt: skip
    counters = dict.fromkeys(("batches_seen", "optimizer_steps", "images_seen"), 1)
    trusted = {**model, "text_encoder": {"_target_": "networks.text.BagOfWords", "dim": 8}}
    state = instantiate(trusted).state_dict()
    torch.save({"config_source": {"model": model}, "state_dict": state, "counters": counters}, tmp_path / "x.ckpt")
    with canary.refuses("model_id=evil/x, none of the models that conf/ names.*trust='evil/x'"):
        load_module(tmp_path / "x.ckpt")
    with canary.refuses("text encoder evil/x is not on this machine"):  # past the gate: it is looked for
        load_module(tmp_path / "x.ckpt", trust=["evil/x"])


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


def test_a_new_run_may_have_convolutions_with_more_input_channels_and_starts_as_what_it_was(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
) -> None:
    torch.manual_seed(0)
    old = UNet(image_size=8, dim=16, dim_mults=(1,), num_res_blocks=1, attn_resolutions=(), fold=2, cond_channels=1)
    torch.nn.init.normal_(old.head[-1].weight)
    new = UNet(image_size=8, dim=16, dim_mults=(1,), num_res_blocks=1, attn_resolutions=(), fold=2, cond_channels=3)
    monkeypatch.setattr("runtime.checkpoint.load_module", lambda *a, **k: (old, None, {"path": "there"}))
    start_from(new, "there")
    assert "weights, 1 of them with new input channels, which start at zero" in capsys.readouterr().out
    x, told, log_snr = torch.randn(2, 3, 8, 8), torch.randn(2, 3, 8, 8), torch.randn(2)
    found, wanted = new(x, log_snr, channels=told), old(x, log_snr, channels=told[:, :1])
    assert wanted.abs().max() > 0.1
    torch.testing.assert_close(found, wanted)
    found.square().sum().backward()
    assert new.stem.weight.grad[:, 16:].abs().max() > 0, "the new channels learn"
    with pytest.raises(ValueError, match=r"init=there: its 'stem.weight' is \(16, 16, 3, 3\), this model's is \(16, 12, 3, 3\)"):
        start_from(UNet(image_size=8, dim=16, dim_mults=(1,), num_res_blocks=1, attn_resolutions=(), fold=2), "there")
    with pytest.raises(ValueError, match="init=there: its 'level_embedding.mlp.0.weight' is .*build the same nets"):
        start_from(UNet(image_size=8, dim=16, dim_mults=(1,), num_res_blocks=1, attn_resolutions=(), fold=2, cond_channels=1, emb_dim=32), "there")
