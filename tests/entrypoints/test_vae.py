"""A VAE through the scripts: train, stop and go on, sample, evaluate; and grey data refused in one line."""

from __future__ import annotations

import json
import math
from pathlib import Path

import pytest
import torch
from torch.nn import functional as F

import evaluate
import sample
import train
from runtime.build import instantiate
from runtime.checkpoint import load_module
from tests.datamodules.class_data import small_run, write_class_data
from tests.sessions import assert_same, contents, run
from tests.toy import CONF


def overrides(tmp_path: Path, run: str, *more: str) -> list[str]:
    return small_run(
        "vae", tmp_path, run, "codec=mlp", "codec.encoder.hidden=[64]", "codec.decoder.hidden=[64]",
        "model.latent_dim=4", "model.eval_importance_samples=[5,60]", "callbacks.ema.half_life_images=200",
        "model.optimizer.lr=1e-2", *more,
    )  # fmt: skip


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("vae")
    write_class_data(path / "data", "fashion_mnist", num_train=400, num_test=400)
    return path


@pytest.fixture(scope="module")
def trained(place: Path) -> dict:
    # a threshold leaves ten kinds of image without noise
    return train.main(overrides(place, "run", "trainer.max_steps=200", "data.binarize=threshold"))


def test_it_learns_and_logs_the_bound_and_its_terms(trained: dict, place: Path) -> None:
    assert trained["step"] == 200 and trained["images"] == 4000
    for part in ("train", "val"):
        elbo, distortion, rate = (trained[f"{part}/{name}_nats"] for name in ("elbo", "distortion", "rate"))
        assert elbo == pytest.approx(distortion + rate, rel=1e-4) and trained[f"{part}/loss"] == pytest.approx(elbo)
    assert trained["val/elbo_nats"] < 0.2 * factorised(place), "independent pixels cannot tell ten kinds of image"
    assert 1 <= trained["val/active_units"] <= 4
    names = {p.name for p in (place / "run" / "samples").iterdir()}
    assert names == {"step=00000200.png", "reconstructions-step=00000200.png"}


def factorised(place: Path) -> float:
    """Nats of a test image under independent pixels of the best probabilities."""
    data = instantiate(load_module(place / "run")[1].data)
    data.setup("test")
    image = data.test_dataset.__getitems__([(i, 0) for i in range(40)])["image"]
    white = (image + 1).mean(0) / 2
    return float(F.binary_cross_entropy(white, white, reduction="sum"))


def test_a_resumed_run_is_a_run_that_never_stopped(place: Path) -> None:
    # a weight that changes and a buffer that runs
    more = ["model.kl_warmup_images=150", "likelihood=gaussian_optimal", "callbacks.samples=null"]
    train.main(overrides(place, "whole", "trainer.max_steps=8", *more))
    train.main(overrides(place, "parts", "trainer.max_steps=3", *more))
    train.main([f"resume={place / 'parts'}", "trainer.max_steps=8"])
    whole, parts = (contents(place / run) for run in ("whole", "parts"))
    for side in (whole, parts):
        side.pop("metrics"), side.pop("callbacks")  # the stop at step 3 validated and logged once more
    assert_same(whole, parts)


def test_two_processes_train_an_objective_of_the_whole_batch_as_one(place: Path, tmp_path: Path) -> None:
    more = ["likelihood=gaussian_optimal", "model.free_bits_nats=0.5", "trainer.max_steps=6", "callbacks.samples=null",
            "model.optimizer._target_=torch.optim.Adam", "~model.optimizer.adam_lr",
            "+model.optimizer.eps=1e-2"]  # Muon computes in bfloat16, and a small eps magnifies rounding
    train.main(overrides(place, "one", *more))
    log = tmp_path / "log"
    two = overrides(place, "two", *more, "trainer.devices=2", "trainer.strategy=ddp_fork")
    assert run(two, log) == 0, log.read_text()
    one, two = contents(place / "one"), contents(place / "two")
    for name, value in one["state_dict"].items():
        assert torch.allclose(value, two["state_dict"][name], atol=1e-6), name
    for x, y in zip(one["metrics"].splitlines(), two["metrics"].splitlines(), strict=True):
        x, y = json.loads(x), json.loads(y)
        assert x.keys() == y.keys() and all(x[key] == pytest.approx(y[key], rel=1e-5, abs=1e-5) for key in x)


def test_an_objective_of_the_whole_batch_is_not_accumulated(place: Path) -> None:
    with pytest.raises(ValueError, match="likelihood=gaussian_optimal .* set trainer.accumulate=1") as error:
        train.main(overrides(place, "parts of a batch", "likelihood=gaussian_optimal", "trainer.accumulate=2"))
    assert "\n" not in str(error.value) and not (place / "parts of a batch").exists()


def test_its_checkpoint_draws_by_seed_and_is_judged_by_evaluate(trained: dict, place: Path) -> None:
    lines = sample.main([f"ckpt={place / 'run'}", f"out={place / 'out'}", "n=3", "+options.mode=sample"])
    assert [line["seed"] for line in lines] == [0, 1, 2]
    with pytest.raises(ValueError, match="num_steps=.*: this model takes no 'num_steps'. It takes mode, temperature"):
        sample.main([f"ckpt={place / 'run'}", f"out={place / 'out'}", "num_steps=3"])
    judges = ["evaluator=toy", f"hydra.searchpath=[file://{CONF}]",
              "+evaluator.likelihood._target_=evaluation.metrics.likelihood.Likelihood"]
    (result,) = evaluate.main([f"ckpt={place / 'run'}", *judges, "n=300", "device=cpu", f"out={place / 'evaluation'}"])
    metrics = result["splits"]["test"]["metrics"]
    bounds = [metrics[name]["value"] for name in ("elbo_nats", "iwae_5_nats", "iwae_60_nats")]
    assert bounds == sorted(bounds, reverse=True) and bounds[2] < bounds[0]
    assert bounds[0] == pytest.approx(trained["val/elbo_nats"], rel=0.1), "other images of the same kind"
    assert metrics["iwae_60_bpd"]["value"] == pytest.approx(bounds[2] / 784 / math.log(2))


def test_other_data_is_less_likely_and_more_importance_samples_bind_tighter(trained: dict, place: Path) -> None:
    write_class_data(place / "data", "mnist", num_train=60, num_test=40)
    for file in (place / "data" / "MNIST" / "raw").glob("t10k-images*"):  # strangers: the same files turned to negatives
        raw = file.read_bytes()
        file.write_bytes(raw[:16] + bytes(255 - b for b in raw[16:]))
    judges = ["evaluator=toy", f"hydra.searchpath=[file://{CONF}]",
              "+evaluator.likelihood._target_=evaluation.metrics.likelihood.Likelihood"]
    common = [f"ckpt={place / 'run'}", *judges, "n=30", "device=cpu", f"out={place / 'strangers'}"]
    (result,) = evaluate.main([*common, "other_data=[mnist]", "importance_samples=[2,100]"])
    split = result["splits"]["test"]
    assert split["metrics"]["auroc_mnist"]["value"] > 0.95 and "iwae_100_nats" in split["metrics"]
    hist = split["details"]["likelihood"]["hist"]
    assert len(hist["own data"]) == len(hist["mnist"]) == 30
    assert "own data: median" in (place / "strangers" / "report.html").read_text()
    with pytest.raises(ValueError, match="whole numbers of at least 1"):
        evaluate.main([*common, "importance_samples=[0]"])


def test_its_images_are_measured_against_greys_as_those_of_others_are(trained: dict, place: Path) -> None:
    judges = ["evaluator=toy", f"hydra.searchpath=[file://{CONF}]",
              "+evaluator.likelihood._target_=evaluation.metrics.likelihood.Likelihood"]
    common = [f"ckpt={place / 'run'}", *judges, "n=30", "device=cpu"]
    (own,) = evaluate.main([*common, f"out={place / 'own'}"])
    (grey,) = evaluate.main([*common, "binarize=none", f"out={place / 'grey'}"])
    metrics = [result["splits"]["test"]["metrics"] for result in (own, grey)]
    assert metrics[0]["brightness"]["value"] == metrics[1]["brightness"]["value"], "the same images are measured"
    assert metrics[0]["brightness"]["real"] != metrics[1]["brightness"]["real"], "against others"
    assert "elbo_nats" in metrics[0] and "elbo_nats" not in metrics[1], "a likelihood is one of the data of training"
    with pytest.raises(ValueError, match="importance_samples= and binarize= go apart"):
        evaluate.main([*common, "binarize=none", "importance_samples=[2]", f"out={place / 'x'}"])
    with pytest.raises(ValueError, match="binarize=none: the data of imagen-scenes cannot be binarised"):
        evaluate.main(["ckpt=imagen-scenes", "binarize=none", f"out={place / 'x'}"])


def test_grey_data_is_refused_by_a_bernoulli_in_one_line(place: Path) -> None:
    with pytest.raises(ValueError, match=r"set data\.binarize=dynamic or choose another likelihood") as error:
        train.main(overrides(place, "grey", "data.binarize=none", "trainer.max_steps=2"))
    assert "\n" not in str(error.value)
