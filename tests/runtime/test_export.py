"""A folder of zoo/: what is exported comes back, and what was damaged or made up since is one line."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from omegaconf import OmegaConf
from safetensors.torch import load_file

import runtime.checkpoint
import runtime.export
from contracts import Request
from runtime.checkpoint import load_module
from runtime.checkpoint_io import sha256
from runtime.config import REPO
from runtime.export import CARD, CONFIG, WEIGHTS, card_sha256, export, needs, portable, read_card, read_zoo, sealed
from tests.runtime.canary import Canary, canary  # noqa: F401  (a fixture)
from tests.toy import overrides
from train import main


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("trained") / "run"
    main(overrides("trainer.max_steps=3", run=path))
    return path


@pytest.fixture(scope="module")
def exported(trained: Path) -> Path:
    return export(str(trained), trained.parent / "zoo" / "toy")


def edit(folder: Path, change: Callable[[dict[str, Any]], Any], *, seal: bool = True) -> None:
    """Changes the card as somebody would who can also compute checksums."""
    card = json.loads((folder / CARD).read_text())
    changed = change(card)
    card = card if changed is None else changed
    if seal and isinstance(card, dict) and "card_sha256" in card:
        card = sealed(card)
    (folder / CARD).write_text(json.dumps(card))


def with_config(folder: Path, text: str) -> None:
    (folder / CONFIG).write_text(text)
    edit(folder, lambda card: card | {"config_sha256": sha256(folder / CONFIG)})


def with_setting(folder: Path, change: Callable[[dict[str, Any]], Any]) -> None:
    config = yaml.safe_load((folder / CONFIG).read_text())
    change(config)
    with_config(folder, yaml.safe_dump(config))


def with_weights(folder: Path, content: bytes) -> None:
    (folder / WEIGHTS).write_bytes(content)
    edit(folder, lambda card: card | {"sha256": sha256(folder / WEIGHTS)})


def flip(path: Path, place: int) -> None:
    content = bytearray(path.read_bytes())
    content[place] ^= 1
    path.write_bytes(content)


def pipe(path: Path) -> None:
    path.unlink()
    os.mkfifo(path)


def header(text: bytes) -> bytes:
    return len(text).to_bytes(8, "little") + text


HOSTILE: dict[str, Callable[[Path], Any]] = {
    "a flipped bit of the weights": lambda f: flip(f / WEIGHTS, -1),
    "a flipped bit of the weights' header": lambda f: flip(f / WEIGHTS, 20),
    "a torn file of weights": lambda f: (f / WEIGHTS).write_bytes((f / WEIGHTS).read_bytes()[:-5]),
    "a flipped bit of the configuration": lambda f: flip(f / CONFIG, 40),
    "a torn configuration": lambda f: (f / CONFIG).write_text((f / CONFIG).read_text()[:300]),
    "another configuration": lambda f: (f / CONFIG).write_text((f / CONFIG).read_text().replace("width: 16", "width: 17")),
    "a torn card": lambda f: (f / CARD).write_text((f / CARD).read_text()[:100]),
    "an empty card": lambda f: (f / CARD).write_text(""),
    "a card with other facts": lambda f: edit(f, lambda c: c | {"train_sec": 1.0}, seal=False),
    "a card with another seed": lambda f: edit(f, lambda c: c | {"seed": 7}, seal=False),
    "a card with another name of a fact": lambda f: edit(f, lambda c: c.update(sede=c.pop("seed"))),
    "a card without its checksum": lambda f: edit(f, lambda c: c.pop("card_sha256") and None),
    "a card without the configuration's": lambda f: edit(f, lambda c: c.pop("config_sha256") and None),
    "a card without a fact": lambda f: edit(f, lambda c: c.pop("weights") and None),
    "a card that is a list": lambda f: edit(f, lambda c: [1]),
    "a card that is too long": lambda f: (f / CARD).write_text(" " * 2**17),
    "a card that is too deep": lambda f: (f / CARD).write_text("[" * 10_000),
    "a card that is no text": lambda f: (f / CARD).write_bytes(b"\xff\xfe\x00"),
    "a card that is a pipe": lambda f: pipe(f / CARD),
    "a configuration that is a pipe": lambda f: pipe(f / CONFIG),
    "weights that are a pipe": lambda f: pipe(f / WEIGHTS),
    "no card": lambda f: (f / CARD).unlink(),
    "no configuration": lambda f: (f / CONFIG).unlink(),
    "no counters": lambda f: edit(f, lambda c: c["module"].pop("counters") and None),
    "counters that are text": lambda f: edit(f, lambda c: c["module"].update(counters="x")),
    "a module that is a list": lambda f: edit(f, lambda c: c.update(module=[1])),
    "weights by another name": lambda f: edit(f, lambda c: c["module"].update(ema={"params": {"a": 1}})),
    "seconds that are text": lambda f: edit(f, lambda c: c.update(train_sec="long")),
    "versions that are nested": lambda f: edit(f, lambda c: c.update(versions={"a": {"b": "c"}})),
    "a checksum that is a number": lambda f: edit(f, lambda c: c.update(sha256=1)),
    "weights that are text": lambda f: with_weights(f, b"hello"),
    "weights that are a pickle": lambda f: with_weights(f, b"\x80\x02cos\nsystem\nX\x05\x00\x00\x00touchq\x00\x85R."),
    "a header without end": lambda f: with_weights(f, (2**60).to_bytes(8, "little")),
    "a header that lies": lambda f: with_weights(f, header(b'{"a":{"dtype":"F32","shape":[1000000000],"data_offsets":[0,4000000000]}}')),
    "a header that overlaps": lambda f: with_weights(f, header(b'{"a":{"dtype":"F32","shape":[1],"data_offsets":[0,4]},"b":{"dtype":"F32","shape":[1],"data_offsets":[0,4]}}') + bytes(4)),
    "weights of other names": lambda f: with_weights(f, save({"x": torch.zeros(3)})),
    "weights of other shapes": lambda f: with_weights(f, save({n: torch.zeros(2) for n in load_file(f / WEIGHTS)})),
    "a command": lambda f: with_setting(f, lambda c: c["model"].update(_target_="os.system")),
    "a gadget": lambda f: with_setting(f, lambda c: c["model"].update(optimizer={"_target_": "files.write_text", "path": "fired"})),
    "a planted module": lambda f: with_setting(f, lambda c: c["model"].update(_target_="networks.planted_in_a_room.Net")),
    "the environment": lambda f: with_setting(f, lambda c: c["model"].update(width="${oc.env:HOME_SECRET}")),
    "the folder above": lambda f: with_setting(f, lambda c: c["model"].update(width="${repo:../x}")),
    "too large a model": lambda f: with_setting(f, lambda c: c["model"].update(width=10**7)),
    "no model": lambda f: with_setting(f, lambda c: c.pop("model")),
    "YAML's objects": lambda f: with_config(f, "model: !!python/object/apply:os.system [touch fired]"),
    "YAML's bombs": lambda f: with_config(f, "a: &a [1,1]\nb: &b [*a,*a]\nmodel: {_target_: tests.toy.Toy, nan_at: *b}"),
    "YAML that is broken": lambda f: with_config(f, "model: ["),
    "YAML that is too deep": lambda f: with_config(f, "model: " + "[" * 5000),
    "YAML that is too long": lambda f: with_config(f, "model: " + "x" * 2**20),
}  # fmt: skip


def save(tensors: dict[str, torch.Tensor]) -> bytes:
    from safetensors.torch import save as to_bytes

    return to_bytes(tensors)


@pytest.mark.parametrize("what", HOSTILE)
def test_a_hostile_folder_is_refused_in_one_line(what: str, exported: Path, canary: Canary, tmp_path: Path) -> None:  # noqa: F811
    folder = tmp_path / "toy"
    shutil.copytree(exported, folder)
    HOSTILE[what](folder)
    with canary.refuses():
        load_module(folder)


def test_an_exported_model_samples_like_the_run(trained: Path, exported: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(runtime.checkpoint, "REPO", exported.parents[1])
    assert sorted(p.name for p in exported.iterdir()) == ["card.json", "config.yaml", "model.safetensors"]
    module, _, info = load_module("toy")
    original, _, _ = load_module(trained)
    a, b = (m.sample(Request(2, texts=["x", "yy"]), seeds=[1, 2]) for m in (module, original))
    assert (a - b).abs().max() < 2e-3
    assert info["images_seen"] == 24 and info["weights"] == "ema, float16"
    assert str(trained) not in (exported / "config.yaml").read_text()
    with pytest.raises(ValueError, match="holds a model already"):
        export(str(trained), exported)
    with pytest.raises(FileNotFoundError, match="zoo: toy"):
        load_module("nothing")


def test_every_changed_byte_of_a_card_or_configuration_is_noticed(exported: Path, tmp_path: Path) -> None:
    folder = tmp_path / "toy"
    shutil.copytree(exported, folder)
    card, read = read_card(folder / CARD), 0
    for name in (CARD, CONFIG):
        content = (folder / name).read_bytes()
        for place in range(0, len(content), 17):
            damaged = bytearray(content)
            damaged[place] ^= 4
            (folder / name).write_bytes(damaged)
            try:
                assert read_zoo(folder)["train_sec"] == card["train_sec"] and name == CARD
                read += 1  # white space between two facts
                assert read_card(folder / CARD) == card
            except ValueError as error:
                assert "\n" not in str(error)
        (folder / name).write_bytes(content)
    assert read < 10 and read_zoo(folder)


def test_a_folder_from_before_the_checksums_still_loads(exported: Path, tmp_path: Path, capsys) -> None:
    folder = tmp_path / "toy"
    shutil.copytree(exported, folder)
    edit(folder, lambda c: {k: v for k, v in c.items() if not k.startswith(("config_", "card_"))})
    load_module(folder)
    assert "before cards had a checksum" in capsys.readouterr().out


def test_the_zoo_of_this_repository_is_sealed() -> None:
    for card in (REPO / "zoo").glob(f"*/{CARD}"):
        facts = read_card(card)
        assert facts["card_sha256"] == card_sha256(facts) and facts["config_sha256"] == sha256(card.parent / CONFIG)


@pytest.mark.parametrize("init, kept", [("/home/me/runs/first", "first"), ("runs/clip/scenes/first", "runs/clip/scenes/first"), (None, None)])
def test_a_configuration_holds_no_places_of_the_machine(init: str | None, kept: str | None) -> None:
    config = OmegaConf.create({"run_dir": "/home/me/run", "name": "x", "logger": {}, "init": init, "model": {}})
    found = portable(config)
    assert found.init == kept and found.run_dir is None and found.name is None and found.logger is None
    assert config.init == init  # a copy


def test_a_teacher_is_not_needed_to_draw() -> None:
    space = {"_target_": "lightning_modules.spaces.Latents", "ckpt": "runs/autoencoder"}
    teacher = {"_target_": "lightning_modules.distillation.Distillation", "ckpt": "imagen-scenes"}
    config = OmegaConf.create({"model": {"_target_": "lightning_modules.imagen.Imagen", "stages": {"base": {"space": space}}, "distill": teacher}})
    assert needs(config) == ["runs/autoencoder"]


def test_a_place_that_the_user_trusts_is_handed_on(trained: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    seen = []
    monkeypatch.setattr(runtime.export, "load_module", lambda ckpt, trust: seen.append(trust) or runtime.checkpoint.load_module(ckpt))
    runtime.export.main([f"ckpt={trained}", f"out={tmp_path / 'a'}", "trust=/some/place"])
    runtime.export.main([f"ckpt={trained}", f"out={tmp_path / 'b'}"])
    assert [list(trust) for trust in seen] == [["/some/place"], []]
