"""Files, folders and models that a stranger's configuration names: ours, remembered, or by the user's word."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import pytest
from omegaconf import OmegaConf

from runtime.config import CONF, REPO
from runtime.places import check_folder, check_places, known_sources, remember, trusted
from tests.runtime.canary import Canary, canary  # noqa: F401  (a fixture)

DATA = "datamodules.captions.CaptionsDataModule"
GRID = "callbacks.samples.SampleGrid"
T5 = "networks.text.HuggingFaceText"
CLIP = "evaluation.extractors.clip_towers.CLIP"

HOSTILE: dict[str, dict[str, Any]] = {
    "a folder of the system": {"_target_": DATA, "root": "/nowhere/etc"},
    "the home folder": {"_target_": DATA, "root": "~"},
    "a folder beside": {"_target_": DATA, "root": "../private"},
    "the folder from here": {"_target_": DATA, "root": "."},
    "out of the cache": {"_target_": DATA, "root": f"{REPO}/.cache/../runtime"},
    "the checkout itself": {"_target_": "datamodules.classes.ClassDataModule", "name": "mnist", "root": str(REPO)},
    "a zero byte": {"_target_": DATA, "root": "a\0b"},
    "a captions file": {"_target_": DATA, "root": f"{REPO}/.cache", "annotations": "/nowhere/etc/passwd"},
    "a cache elsewhere": {"_target_": "networks.text.CachedTextEncoder", "cache_dir": "/nowhere/tmp/x"},
    "features that are deleted": {"_target_": "evaluation.extractors.lite0.EfficientNetLite0", "cache_dir": "/nowhere/home"},
    "grids elsewhere": {"_target_": GRID, "dir": "/nowhere/tmp/x"},
    "grids in the cache": {"_target_": GRID, "dir": f"{REPO}/.cache/x"},
    "grids in the run itself": {"_target_": GRID, "dir": "RUN"},
    "grids above the run": {"_target_": GRID, "dir": "RUN/../x"},
    "checkpoints elsewhere": {"_target_": "callbacks.checkpoint.Checkpoint", "dir": f"{REPO}/runs"},
    "W&B elsewhere": {"_target_": "runtime.wandb.WandbLogger", "dir": "/nowhere/tmp/x"},
    "weights": {"_target_": "evaluation.extractors.inception.InceptionV3", "weights": "/nowhere/tmp/x.pth"},
    "a backbone": {"_target_": "evaluation.metrics.reconstruction.Lpips", "backbone": "/nowhere/tmp/x.pth"},
    "a classifier elsewhere": {"_target_": "evaluation.extractors.classifier.ClassifierFeatures", "ckpt": "/nowhere/tmp/x.ckpt"},
    "a classifier above": {"_target_": "evaluation.extractors.classifier.ClassifierFeatures", "ckpt": "../x.ckpt"},
    "a classifier at home": {"_target_": "evaluation.extractors.classifier.ClassifierFeatures", "ckpt": "~" + "/x.ckpt"},
    "a download": {"_target_": "evaluation.extractors.inception.InceptionV3", "allow_download": True},
    "a text encoder of the hub": {"_target_": T5, "model_id": "evil/remote-code"},
    "a text encoder on disk": {"_target_": T5, "model_id": "/nowhere/tmp/t5"},
    "a text encoder above": {"_target_": T5, "model_id": "../t5"},
    "a near miss": {"_target_": T5, "model_id": "google/t5-v1_1-base/../x"},
    "a CLIP of the hub": {"_target_": "networks.text.OpenCLIPText", "name": "hf-hub:evil/clip"},
    "a CLIP by its long name": {"_target_": "networks.text.open_clip.OpenCLIPText", "name": "hf-hub:evil/clip"},
    "a CLIP's file": {"_target_": "networks.text.open_clip.OpenCLIPText", "name": "ViT-B-32", "pretrained": "/nowhere/tmp/x.pt"},
    "a CLIP on disk": {"_target_": "networks.text.open_clip.OpenCLIPText", "name": "local-dir:x"},
    "an extractor of the hub": {"_target_": "evaluation.extractors.dinov2.DINOv2", "model": "hf_hub:evil/dinov2"},
    "a CLIP that judges": {"_target_": CLIP, "model": "local-dir:/nowhere/x"},
    "a place in a list": {"x": [{"_target_": DATA, "root": ["/nowhere/etc"]}]},
    "a place of a class to come": {"_target_": "datamodules.new.New", "image_folder": "/nowhere/etc"},
    "a file of a class to come": {"_target_": "networks.new.New", "table_path": "/nowhere/etc/passwd"},
    "shards of others": {"_target_": "datamodules.tar_shards.ShardsDataModule", "root": "s3://evil/pairs"},
    "a path that looks like a URL": {"_target_": DATA, "root": f"{REPO}/.cache/x://../../../private"},
    "their place on the disk": {"_target_": "datamodules.tar_shards.ShardsDataModule", "local_dir": "/nowhere/tmp"},
    "an address of a class to come": {"_target_": "datamodules.new.New", "url": "http://evil/x"},
}


@pytest.mark.parametrize("what", HOSTILE)
def test_a_place_of_others_is_refused(what: str, canary: Canary) -> None:  # noqa: F811
    run = canary.home / "run"
    node = {k: v.replace("RUN", str(run)) if isinstance(v, str) else v for k, v in HOSTILE[what].items()}
    with canary.refuses("refused"):
        check_places(node, run=run)


def test_the_message_says_what_to_type_and_then_it_passes(canary: Canary) -> None:  # noqa: F811
    for what in ("a text encoder of the hub", "a folder of the system", "a CLIP's file", "a download", "the folder from here"):
        with pytest.raises(ValueError, match="if you trust it, add \"trust='(.*)'\"") as told:
            check_places(HOSTILE[what])
        word = str(told.value).split("trust='")[1].split("'")[0]
        check_places(HOSTILE[what], trust=[word])
        with pytest.raises(ValueError, match="refused"):
            check_places(HOSTILE[what], trust=["another"])


def test_what_is_ours_passes(canary: Canary) -> None:  # noqa: F811
    run = canary.home / "run"
    check_places({"_target_": "datamodules.classes.ClassDataModule", "root": f"{REPO}/.cache/data", "annotations": None})
    check_places({"_target_": GRID, "dir": f"{run}/samples"}, run=run)
    check_places({"_target_": "runtime.wandb.WandbLogger", "dir": str(run)}, run=run)
    check_places({"ckpt": "imagen-scenes"})
    check_places({"ckpt": f"{REPO}/runs/a"})
    check_places({"_target_": CLIP, "model": "ViT-B-32", "pretrained": "laion2b_s34b_b79k", "allow_download": False})
    for path in [*(CONF / "text_encoder").glob("*.yaml"), *(CONF / "extractor").glob("*.yaml")]:
        node = OmegaConf.create({"paths": {"cache": f"{REPO}/.cache"}, "node": OmegaConf.load(path)})
        check_places(OmegaConf.to_container(node, resolve=True)["node"])
    assert "google/t5-v1_1-xxl" in known_sources(str(CONF))["model_id"]


def test_what_the_user_trained_with_is_remembered_by_argument(canary: Canary) -> None:  # noqa: F811
    """A run's own checkpoints may name its data again; another argument may not have that folder."""
    photos, run = canary.home / "photos", canary.home / "run"
    own = {"_target_": DATA, "root": "photos", "annotations": "a.csv"}, {"_target_": T5, "model_id": "/models/t5"}
    grid = {"_target_": GRID, "dir": f"{run}/samples"}
    for node in own:
        with pytest.raises(ValueError, match="refused"):
            check_places(node)
    remember({"data": own[0], "model": own[1], "grid": grid}, run)
    remember({"data": own[0]}, run)
    for node in (*own, {**own[0], "root": str(photos)}):
        check_places(node)
    for node in ({"_target_": GRID, "dir": str(photos)}, {"_target_": DATA, "root": str(photos.parent)}, {"model_id": "photos"}):
        with pytest.raises(ValueError, match="refused"):
            check_places(node)
    assert str(run) not in (canary.home / ".cache" / "trained-with.txt").read_text()


def test_a_url_is_no_folder_of_where_one_stands(canary: Canary, monkeypatch: pytest.MonkeyPatch) -> None:  # noqa: F811
    """As a path it would lie in the run, or in the cache, of whoever stands there; and it is the same from everywhere."""
    run, shards = canary.home / "run", HOSTILE["shards of others"]
    for place in (run, REPO / ".cache"):
        place.mkdir(exist_ok=True)
        monkeypatch.chdir(place)
        with pytest.raises(ValueError, match="refused; if you trust it, add \"trust='s3://evil/pairs'\""):
            check_places(shards, run=run)
        check_places(shards, trust=["s3://evil/pairs"])
    remember(shards, run)
    monkeypatch.chdir(canary.home)
    check_places(shards)
    with pytest.raises(ValueError, match="refused"):
        check_places({**shards, "root": "s3://evil/others"})


def test_a_stranger_cannot_write_a_line_of_what_is_remembered(canary: Canary) -> None:  # noqa: F811
    remember({"_target_": DATA, "root": "/a\nroot\t/nowhere/etc"})
    with pytest.raises(ValueError, match="refused"):
        check_places({"_target_": DATA, "root": "/nowhere/etc"})
    (canary.home / ".cache").mkdir(exist_ok=True)
    (canary.home / ".cache" / "trained-with.txt").write_bytes(b"\xff\x00 damaged")
    with pytest.raises(ValueError, match="refused"):
        check_places({"_target_": DATA, "root": "/nowhere/etc"})


@pytest.mark.parametrize("make", ["link out", "link of a folder", "pipe", "link that leads nowhere", "link deep inside"])
def test_links_and_pipes_in_a_foreign_folder_are_refused(make: str, canary: Canary) -> None:  # noqa: F811
    run = canary.home / "run"
    (run / "samples" / "deep").mkdir(parents=True)
    if make == "pipe":
        os.mkfifo(run / "metrics.jsonl")
    else:
        place, target = {
            "link out": ("metrics.jsonl", canary.victim),
            "link of a folder": ("checkpoints", canary.home / "networks"),
            "link that leads nowhere": ("timing.jsonl", canary.home / "new.py"),
            "link deep inside": ("samples/deep/x.png", canary.victim),
        }[make]
        (run / place).symlink_to(target)
    with canary.refuses("refused; if it is yours"):
        check_folder(run)


def test_links_that_stay_inside_and_those_of_wandb_pass(canary: Canary) -> None:  # noqa: F811
    run = canary.home / "run"
    (run / "wandb" / "run-1" / "logs").mkdir(parents=True)
    (run / "wandb" / "latest-run").symlink_to("run-1")
    (run / "wandb" / "run-1" / "logs" / "debug-core.log").symlink_to(canary.victim)
    check_folder(run)
    (run / "wandb" / "settings").symlink_to(canary.victim)
    with pytest.raises(ValueError, match="refused"):
        check_folder(run)
    check_folder(run, trust=[str(run / "wandb" / "settings")])
    (run / "evaluation").symlink_to(canary.home / "networks")
    check_folder(run / "evaluation")
    with pytest.raises(ValueError, match="is a link"):
        check_folder(run / "evaluation", itself=True)
    check_folder(canary.home / "nothing", itself=True)


def test_trust_is_one_name_or_several() -> None:
    assert trusted(None) == () and trusted("a/b") == ("a/b",) and trusted(["a", 1]) == ("a", "1")
    assert trusted(OmegaConf.create(["x"])) == ("x",)
