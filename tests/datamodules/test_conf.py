"""Every conf/data file of this room names the arguments of its datamodule, and the scenes run as they are."""

from __future__ import annotations

import inspect
from pathlib import Path

import pytest
from hydra.utils import get_class
from omegaconf import OmegaConf

from tests.datamodules.class_data import write_class_data

CONF = Path(__file__).parents[2] / "conf" / "data"


def load(name: str) -> dict:
    conf = OmegaConf.load(CONF / f"{name}.yaml")
    if "defaults" in conf:
        conf = OmegaConf.merge(OmegaConf.load(CONF / "captions.yaml"), conf)
        del conf["defaults"]
    whole = OmegaConf.create({"paths": {"cache": ".cache"}, "data": conf})
    return OmegaConf.to_container(whole, resolve=True)["data"]


CLASSES = ["mnist", "fashion_mnist", "cifar10", "cifar100"]


@pytest.mark.parametrize("name", ["scenes", "scenes_simple", "captions", "coco", "images", "emoji", "ring", "grid", "stacked_mnist", "garments", *CLASSES])
def test_conf_names_every_argument(name: str):
    conf = load(name)
    parameters = inspect.signature(get_class(conf.pop("_target_"))).parameters
    assert set(conf) == set(parameters)


@pytest.mark.parametrize("name", ["scenes", "scenes_simple"])
def test_scenes_run_as_they_are(name: str):
    conf = load(name)
    dm = get_class(conf.pop("_target_"))(**conf)
    dm.setup()
    assert next(iter(dm.val_dataloader()))["image"].shape == (64, 3, 64, 64)


@pytest.mark.parametrize("name", ["captions", "coco", "images"])
def test_a_folder_must_be_named(name: str):
    conf = load(name)
    with pytest.raises(ValueError, match="data.root is not set: give the folder"):
        get_class(conf.pop("_target_"))(**conf)


@pytest.mark.parametrize("name", CLASSES)
def test_class_data_runs_once_its_files_are_there(name: str, tmp_path: Path):
    write_class_data(tmp_path, name, num_train=40)
    conf = {**load(name), "root": str(tmp_path), "num_val": 8}
    dm = get_class(conf.pop("_target_"))(**conf)
    dm.setup()
    assert next(iter(dm.val_dataloader()))["image"].shape == (8, dm.channels, dm.image_size, dm.image_size)


def test_garments_run_as_they_are_without_a_folder_or_network(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr("datamodules.class_files.download", None)
    conf = load("garments")
    dm = get_class(conf.pop("_target_"))(**conf)
    dm.setup()
    assert [len(part) for part in (dm.train_dataset, dm.val_dataset, dm.test_dataset)] == [9000, 1000, 2000]
    assert dm.num_classes == conf["num_classes"] and dm.class_names[0] == "t-shirt"
