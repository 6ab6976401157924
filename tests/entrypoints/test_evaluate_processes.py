"""evaluate.py on a trained checkpoint: several processes, several checkpoints, sweeps, costs, comparisons."""

from __future__ import annotations

import json
import socket
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from evaluate import main
from evaluation.metrics.run_evaluators import Ranks
from tests import toy
from tests.toy import CONF, overrides
from train import main as train

REPO = Path(__file__).resolve().parents[2]
TOY = [f"hydra.searchpath=[file://{CONF}]", "evaluator=toy", "n=7", "device=cpu"]


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("trained") / "run"
    train(overrides("trainer.max_steps=4", run=path))
    return path


def pixels(folder: Path) -> dict[str, bytes]:
    return {p.name: Image.open(p).tobytes() for p in sorted(folder.glob("samples/*/*.png"))}


def two_processes(*arguments: str) -> subprocess.CompletedProcess[str]:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        address = ["--master_addr=127.0.0.1", f"--master_port={free.getsockname()[1]}"]
    torchrun = [sys.executable, "-m", "torch.distributed.run", "--nproc_per_node=2", *address, "-m", "tests.judge"]
    return subprocess.run([*torchrun, *arguments], cwd=REPO, capture_output=True, text=True, timeout=100)


def test_two_processes_equal_one(trained: Path, tmp_path: Path) -> None:
    sweep = ["sweep.guidance_scale=[1,3]", "batch_size=3"]
    (one,) = main([*TOY, *sweep, f"ckpt={trained}", f"out={tmp_path / 'one'}"])
    ran = two_processes(*TOY, *sweep, f"ckpt={trained}", f"out={tmp_path / 'two'}")
    assert ran.returncode == 0, ran.stderr[-2000:]
    two = json.loads((tmp_path / "two" / "metrics.json").read_text())
    assert two["splits"] == one["splits"] and len(one["splits"]["val"]["details"]["levels"]) == 7
    assert pixels(tmp_path / "two") == pixels(tmp_path / "one")
    for a, b in zip(one["sweeps"][0]["points"], two["sweeps"][0]["points"], strict=True):
        assert a["brightness"] == b["brightness"] and a["x"] == b["x"]
    assert "2 processes" in two["cost"]["device"] and ran.stdout.count("report.html") == 1
    assert "7/7" not in ran.stderr and "4/4 images" in ran.stderr  # each drew its share


def test_more_processes_than_images_are_refused(
    trained: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    @contextmanager
    def eight() -> Iterator[Ranks]:
        yield Ranks(0, 8)

    monkeypatch.setattr("evaluation.command.processes", eight)
    with pytest.raises(ValueError, match="n=7 is fewer than the 8 processes"):
        main([*TOY, f"ckpt={trained}", f"out={tmp_path}"])


def test_several_checkpoints_and_one_page(trained: Path, tmp_path: Path) -> None:
    other = trained.parent / "other"
    if not other.exists():
        train(overrides("trainer.max_steps=4", "seed=1", run=other))
    results = main([*TOY, f"ckpt=[{trained},{other}]", f"out={tmp_path}"])
    assert [result["name"] for result in results] == ["run", "other"]
    for name in ("run", "other"):
        written = {p.name for p in (tmp_path / name).iterdir()}
        assert {"metrics.json", "report.html", "cards", "real", "samples"} <= written
    a, b = (result["splits"]["val"]["metrics"]["brightness"] for result in results)
    assert a["value"] != b["value"] and a["protocol_id"] == b["protocol_id"]
    page = (tmp_path / "report.html").read_text()
    assert "run" in page and "other" in page
    assert main([f"compare=[{tmp_path / 'run'},{tmp_path / 'other'}]", f"out={tmp_path / 'both'}"])[0]["name"] == "run"
    assert (tmp_path / "both" / "report.html").is_file()


def test_what_the_schema_promises(trained: Path, tmp_path: Path) -> None:
    (result,) = main([*TOY, f"ckpt={trained}", f"out={tmp_path}", "name=mine", "guidance_scale=2"])
    assert result["schema"] == 2 and result["name"] == "mine" and result["family"] == "toy"
    split = result["splits"]["val"]
    assert split["n"] == len(split["captions"]) == len(split["seeds"]) == 7
    assert sorted(p.name for p in (tmp_path / split["samples"]).glob("*.png")) == [f"{i:05d}.png" for i in range(7)]
    assert len(list((tmp_path / split["real"]).glob("*.png"))) == 7
    row = split["metrics"]["brightness"]
    assert {"value", "real", "n", "unit", "higher_is_better", "headline", "section", "protocol"} <= set(row)
    assert len(row["protocol_id"]) == 8 and result["sampling"]["guidance_scale"] == 2
    cost = result["cost"]
    assert cost["nfe"] == 1 and cost["flops_per_image"] > 0 and cost["images_seen"] == 32 and cost["train_sec"] > 0
    assert cost["sec_per_image"] >= cost["sec_per_image_min"] > 0 and cost["parameters"] == 48 * 16 + 16 + 16 * 48 + 48


def test_sweeps_of_several_options_and_a_new_point_samples_only_itself(trained: Path, tmp_path: Path, capsys) -> None:
    common = [*TOY, f"ckpt={trained}", f"out={tmp_path}"]
    main([*common, "sweep.guidance_scale=[1,2]"])
    capsys.readouterr()
    (result,) = main([*common, "sweep.guidance_scale=[1,2,4]", "sweep.sampler=[ddim,heun]"])
    said = capsys.readouterr().err
    assert said.count("7 of 7 images are on disk already") == 3 and said.count("7/7 images") == 3
    scales, samplers = result["sweeps"]
    assert [point["x"] for point in scales["points"]] == [1, 2, 4] and scales["option"] == "guidance_scale"
    assert [point["x"] for point in samplers["points"]] == ["ddim", "heun"]
    assert all(point["nfe"] == 1 and point["sec_per_image"] > 0 for point in scales["points"])
    assert len({point["brightness"] for point in scales["points"]}) == 3


def test_precision_is_chosen_named_and_part_of_what_is_cached(trained: Path, tmp_path: Path) -> None:
    common = [*TOY, f"ckpt={trained}", f"out={tmp_path}"]
    (auto,) = main(common)  # the toy was trained in float32
    (bf16,) = main([*common, "precision=bf16"])
    assert auto["sampling"]["precision"] == "float32" and bf16["sampling"]["precision"] == "bf16"
    assert auto["splits"]["val"]["samples"] != bf16["splits"]["val"]["samples"]
    a, b = (r["splits"]["val"]["metrics"]["brightness"] for r in (auto, bf16))
    assert a["protocol_id"] == b["protocol_id"] and a["value"] == pytest.approx(b["value"], abs=2)


def test_a_module_that_reconstructs_and_knows_likelihoods(
    trained: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[Any] = []

    def likelihood(self: Any, batch: dict[str, Any]) -> dict[str, Any]:
        asked.append(batch["seed"].tolist())
        return {"nll": batch["image"].flatten(1).sum(1)}

    # A class of its own: Python remembers what a class was once seen to have.
    more_able = {"reconstruct": lambda self, batch: -batch["image"], "likelihood": likelihood, "__module__": toy.__name__}
    monkeypatch.setattr(toy, "Toy", type("Toy", (toy.Toy,), more_able))
    more = ["+evaluator.judge._target_=tests.judge.Brightness", "+evaluator.judge.needs=[likelihood]"]
    (result,) = main([*TOY, *more, f"ckpt={trained}", f"out={tmp_path}", "batch_size=4"])
    row = result["splits"]["val"]["metrics"]["brightness"]
    assert row["reconstruction"] == pytest.approx(255 - row["real"], abs=0.01)
    assert [len(seeds) for seeds in asked] == [4, 3] and len({s for seeds in asked for s in seeds}) == 7
