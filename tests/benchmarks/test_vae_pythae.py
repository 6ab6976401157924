"""The comparison with pythae at toy size: what both are given is the same, and what judges them agrees with pythae."""

from __future__ import annotations

import json
import math
import os
import subprocess
import sys
from argparse import ArgumentTypeError
from pathlib import Path

import pytest
import torch
from omegaconf import DictConfig

from benchmarks.common import peer_versions
from benchmarks.tables import describe
from benchmarks.vae_pythae import (
    INSTALL, Settings, benchmark, difference, judge, net_of, overrides, peers_optimiser, read_data, run_name, table,
    timed,
)  # fmt: skip
from networks import autoencoder
from runtime.build import instantiate
from runtime.config import compose
from tests.datamodules.class_data import write_class_data

TINY = Settings(images=60, batch=10, num_val=10, test_images=8, k=100, check_images=8, threads=1)
PEER = os.environ.get("PYTHAE_PYTHON", sys.executable)  # a Python that has pythae, if there is one


def has_peer() -> bool:
    return not subprocess.run([PEER, "-c", "import pythae"], capture_output=True).returncode


@pytest.fixture(scope="module")
def cfg(tmp_path_factory: pytest.TempPathFactory) -> DictConfig:
    root = tmp_path_factory.mktemp("data")
    write_class_data(root, "mnist", num_train=40, num_test=20)
    return compose("train", [*overrides(TINY, "mnist", "conv", root), *peers_optimiser(TINY)])


def test_both_are_given_the_same_images(cfg: DictConfig) -> None:
    train_u8, test = read_data(TINY, cfg)
    assert train_u8.shape == (30, 1, 28, 28) and train_u8.dtype == torch.uint8  # 40 less those held out
    assert len(train_u8.unique()) > 2  # grey: each trainer draws black and white anew
    assert set(test["image"].unique().tolist()) == {-1.0, 1.0}
    assert torch.equal(test["image"], read_data(TINY, cfg)[1]["image"])
    assert test["label"].tolist() == [i * 20 // 8 % 10 for i in range(8)]  # from the whole file
    with pytest.raises(ValueError, match="--test-images 21: mnist has 20"):
        read_data(Settings(num_val=10, test_images=21), cfg)


def test_peer_builds_the_same_nets(cfg: DictConfig) -> None:
    module, d = instantiate(cfg.model), cfg.model.latent_dim
    for part, sizes in (("encoder", (28, 1, 2 * d)), ("decoder", (28, 1, d))):
        name, given = json.loads(json.dumps(net_of(cfg.model[part])))
        theirs, own = getattr(autoencoder, name)(*sizes, **given), getattr(module, part)
        assert str(theirs) == str(own)
        theirs.load_state_dict(own.state_dict())


def test_equal_optimiser_is_plain_adam(cfg: DictConfig) -> None:
    adam = {"_target_": "torch.optim.Adam", "_partial_": True, "fused": True, "lr": TINY.learning_rate}
    assert cfg.model.optimizer == adam  # fused: the same rule in one kernel
    assert cfg.model.lr_schedule is None and cfg.model.clip_norm is None and cfg.callbacks.ema is None
    assert cfg.data.binarize == "dynamic"


def test_one_judge_for_both(cfg: DictConfig) -> None:
    module, test = instantiate(cfg.model).eval(), read_data(TINY, cfg)[1]
    bounds = judge(module, test, 100)
    assert bounds["nll"].shape == bounds["elbo"].shape == (8,) and (bounds["nll"] <= bounds["elbo"]).all()
    with torch.no_grad():
        for weights in module.parameters():
            weights.zero_()  # q(z | x) is the prior and every pixel a coin: log p(x) is known
    for bound in judge(module, test, 100).values():
        assert bound.tolist() == pytest.approx([784 * math.log(2)] * 8)
    mean, half = difference(bounds["nll"], bounds["nll"] + 2 + torch.tensor([1.0, -1.0] * 4, dtype=torch.float64))
    assert mean == pytest.approx(-2) and half == pytest.approx(1.96 * math.sqrt(8 / 7) / math.sqrt(8))


def test_mistakes_are_one_line(tmp_path: Path) -> None:
    assert run_name("fashion_mnist:residual") == ("fashion_mnist", "residual")
    for wrong in ("mnist", "cifar10:mlp", "mnist:unet"):
        with pytest.raises(ArgumentTypeError, match="one of conv, mlp, residual"):
            run_name(wrong)
    with pytest.raises(FileNotFoundError, match="no such Python"):
        benchmark(TINY, [("mnist", "mlp")], "no/such/python", None, tmp_path / "out")
    with pytest.raises(ModuleNotFoundError, match="has no nothing-of-this-name: python -m venv"):
        peer_versions(sys.executable, ("nothing-of-this-name",), INSTALL)
    with pytest.raises(ValueError, match=r"ended with 3: the reason \(all of it in"):
        timed([sys.executable, "-c", "print('first\\nthe reason\\n'); raise SystemExit(3)"], 1, tmp_path / "log")


@pytest.mark.slow
def test_end_to_end(tmp_path: Path) -> None:
    if not has_peer():
        pytest.skip(f"{PEER} has no pythae: {INSTALL.partition(',')[0]}, and PYTHAE_PYTHON=PEER/bin/python")
    write_class_data(tmp_path, "fashion_mnist", num_train=40, num_test=20)
    result = benchmark(TINY, [("fashion_mnist", "mlp")], PEER, tmp_path, tmp_path / "out")
    result = json.loads(json.dumps(result))
    found = result["results"]["fashion_mnist:mlp"]
    ours, peer, default = (found[name] for name in ("ours", "pythae", "ours_default"))
    assert found["epochs"] == 2 and ours["images"] == peer["images"] == default["images"] == 60
    assert ours["parameters"] == peer["parameters"] and ours["optimizer"] == peer["optimizer"] == "Adam"
    assert (ours["weights"], default["weights"]) == ("raw", "ema")
    # One model, two estimates of one bound from 100 samples each
    assert found["check"]["ours_nats"] == pytest.approx(found["check"]["pythae_nats"], abs=1)
    assert found["check"]["ours_nats"] == pytest.approx(peer["nll_nats"])
    # Same nets, loss, optimiser and epochs; the order of the images and the noise are other ones
    assert ours["nll_nats"] == pytest.approx(peer["nll_nats"], rel=0.15)
    for side in (ours, peer, default):
        assert 0 < side["train_sec"] < side["total_sec"]
    assert "2 epochs of 30 images" in table(result) and "pythae (peer)" in describe(result)
    with pytest.raises(ValueError, match="holds an earlier run"):
        benchmark(TINY, [("fashion_mnist", "mlp")], PEER, tmp_path, tmp_path / "out")
