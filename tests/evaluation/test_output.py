"""From numbers to files: nothing that was measured is missing on a card, in a sweep or in metrics.json."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from evaluation.metrics.card import Card
from evaluation.metrics.run_evaluators import Numbers, measure
from evaluation.output import Subject, EvaluatedSplit, Sweep, cards, table, write_result
from tests.judge import Brightness

NUMBERS = {"low": 0.4, "high": 0.6, "real": 0.9, "chance": 0.1, "noise": 0.05, "reconstruction": 0.8}


def row(value: float, headline: bool = True, **more: float) -> dict[str, Any]:
    facts = {"unit": "%", "higher_is_better": True, "headline": headline, "section": "quality"}
    return {"value": value, "protocol": {"images": 3, "rule": "x"}, "protocol_id": "0a1b2c3d", "n": 3} | facts | more


def measured() -> Numbers:
    metrics = {"all_correct": row(0.5, **NUMBERS), "side": row(2.0, headline=False)}
    return Numbers(metrics, {"fid": "no weights"}, {"wrong": [1]})


def evaluated() -> Subject:
    return Subject(
        name="alpha", family="gan", title="gan on scenes", date="2026", commit="abc", facts={"device": "CPU"},
        data="scenes", data_fingerprint="f00d", seeds="blake2b", sampling={"num_steps": 3}, model={"sha256": "beef"},
        cost={"nfe": 4}, reproduce="python evaluate.py", notes=["a note"],
    )  # fmt: skip


@pytest.fixture
def split(make_prompts, tmp_path: Path) -> EvaluatedSplit:
    return EvaluatedSplit(make_prompts(4), tmp_path / "samples" / "iid", [1, 2, 3, 4], measured())


def test_a_card_holds_every_number_and_what_it_was_measured_on(split: EvaluatedSplit) -> None:
    exact, side, fid = cards(evaluated(), split)
    assert {name: getattr(exact, name) for name in NUMBERS} == NUMBERS
    assert (exact.metric, exact.value, exact.unit, exact.higher_is_better) == ("all_correct", 0.5, "%", True)
    assert exact.n_real == exact.n_fake == 3, "the images that could be judged, of four"
    assert exact.protocol == {"images": 3, "rule": "x"}
    assert (exact.split, exact.seeds, exact.data, exact.data_fingerprint) == ("iid", "blake2b", "scenes", "f00d")
    assert exact.sampling == {"num_steps": 3} and exact.model == {"sha256": "beef"}
    assert all(getattr(side, name) is None for name in NUMBERS)
    assert (fid.metric, fid.value, fid.not_computed, fid.n_fake) == ("fid", None, "no weights", 4)


def test_what_is_written_is_what_was_measured(split: EvaluatedSplit, tmp_path: Path) -> None:
    sweep = Sweep("num_steps", "iid", 4, "ddim")
    sweep.add(8, split.measured, {"nfe": 8, "sec_per_image": 0.5})
    result = write_result(tmp_path / "out", evaluated(), {"iid": split}, [sweep])
    data = json.loads((tmp_path / "out" / "metrics.json").read_text())
    assert data == result.data
    stored = data["splits"]["iid"]
    assert stored["metrics"] == split.measured.metrics and stored["not_computed"] == {"fid": "no weights"}
    assert stored["seeds"] == [1, 2, 3, 4] and stored["captions"] == split.prompts.captions and stored["n"] == 4
    assert (tmp_path / "out" / stored["real"] / "00003.png").is_file() and stored["samples"] == "../samples/iid"
    assert data["sweeps"] == [vars(sweep)] and data["model"] == {"sha256": "beef"} and "a note" in data["notes"]
    files = sorted((tmp_path / "out" / "cards").iterdir())
    assert [Card.load(file) for file in files] == sorted(cards(evaluated(), split), key=lambda card: card.metric)
    text = table(data)
    assert "exact: " not in text and "fid: not computed: no weights" in text
    assert "50.0% (real 90.0%, chance 10.0%)" in text


def test_a_sweep_keeps_every_value_with_its_interval() -> None:
    sweep = Sweep("guidance_scale", "iid", 4, "alpha")
    for value in (1.0, 2.0, 4.0):
        found = measured()
        found.metrics["all_correct"]["value"] = value / 10
        sweep.add(value, found, {"nfe": 8 * value, "sec_per_image": 0.5, "flops_per_image": 3})
    assert sweep.metrics == {"all_correct": "%"} and [point["x"] for point in sweep.points] == [1.0, 2.0, 4.0]
    assert sweep.points[1] == {
        "x": 2.0, "nfe": 16.0, "sec_per_image": 0.5, "all_correct": 0.2, "all_correct_low": 0.4, "all_correct_high": 0.6,
        "all_correct_real": 0.9, "side": 2.0,
    }  # fmt: skip


def test_a_real_measurement_makes_cards(make_prompts, tmp_path: Path) -> None:
    prompts = replace(make_prompts(3), reconstruction=None)
    found = measure({"b": Brightness()}, prompts, lambda i: prompts.reference[i])
    (card,) = cards(evaluated(), EvaluatedSplit(prompts, tmp_path, None, found))
    assert card.real == pytest.approx(float(prompts.real.float().mean()), rel=1e-6)
    assert card.value == pytest.approx(float(prompts.reference.float().mean()), rel=1e-6) and card.n_fake == 3


def test_a_page_that_cannot_be_put_in_place_leaves_the_old_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_result(tmp_path, evaluated(), {})
    before = (tmp_path / "metrics.json").read_bytes()

    def refuse(*_: Any) -> None:
        raise OSError("no")

    monkeypatch.setattr("os.replace", refuse)
    with pytest.raises(OSError, match="no"):
        write_result(tmp_path, replace(evaluated(), name="other"), {})
    assert (tmp_path / "metrics.json").read_bytes() == before
    assert [p.name for p in tmp_path.iterdir()] == ["metrics.json"]
