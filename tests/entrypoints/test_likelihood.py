"""A diffusion model judged by likelihood through evaluate.py, and one of latents that has none."""

from __future__ import annotations

import json
import math
from pathlib import Path

import pytest

import evaluate
import train
from tests.datamodules.class_data import small_run, write_class_data
from tests.toy import CONF

pytestmark = pytest.mark.timeout(400)  # runs of several processes, on machines that others use

TINY = ("net.dim=16", "net.head_dim=8", "net.dim_mults=[1,1]", "net.emb_dim=16", "trainer.max_steps=3", "callbacks.samples=null")
JUDGES = ("evaluator=toy", f"hydra.searchpath=[file://{CONF}]", "device=cpu", "n=3", "num_steps=2",
          "+evaluator.likelihood._target_=evaluation.metrics.likelihood.Likelihood")  # fmt: skip


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("likelihood")
    write_class_data(path / "data", "fashion_mnist", num_train=80, num_test=10)
    train.main(small_run("flow", path, "run", *TINY, "conditioner=label"))
    return path


def test_evaluate_gives_the_bound_and_the_density_with_how_and_where(place: Path) -> None:
    asked = ["+likelihood_options.num_terms=3", "+likelihood_options.ode_steps=2"]
    (result,) = evaluate.main([f"ckpt={place / 'run'}", *JUDGES, *asked, f"out={place / 'out'}"])
    split = result["splits"]["test"]
    metrics, terms = split["metrics"], split["details"]["likelihood_terms"]["bound"]
    assert metrics["bound_bpd"]["value"] == pytest.approx(metrics["bound_nats"]["value"] / 784 / math.log(2))
    assert metrics["ode_density_bpd"]["value"] == pytest.approx(7 + metrics["ode_density_nats"]["value"] / 784 / math.log(2))
    assert sum(terms["nats"]) == pytest.approx(metrics["bound_nats"]["value"]) and len(terms["log_snr"]) == 5
    card = json.loads((place / "out/cards/test-bound_bpd.json").read_text())
    assert card["protocol"]["bound_terms"] == 3 and card["protocol"]["given"] == "the true label"
    assert "terms of the bound" in (place / "out/report.html").read_text()
    assert list((place / "run/loss_by_level").glob("step=*.png")), "training drew its loss by level"
    with pytest.raises(ValueError, match="likelihood_options.terms=3: .* takes .*num_terms"):
        evaluate.main([f"ckpt={place / 'run'}", *JUDGES, "+likelihood_options.terms=3", f"out={place / 'no'}"])
