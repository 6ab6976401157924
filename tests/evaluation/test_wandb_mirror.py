"""An offline run is read back from disk, and everything of the evaluation is in it."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from evaluation.report import FinishedEvaluation, render
from evaluation.wandb_mirror import MAX_ROWS, identity, mirror, scalars, sheet
from tests.evaluation.results_on_disk import write_result
from tests.runtime.offline import Run, read_offline


@pytest.fixture(scope="module")
def result(tmp_path_factory: pytest.TempPathFactory) -> FinishedEvaluation:
    return write_result(tmp_path_factory.mktemp("wandb"), "alpha", wrong=0.4, n=10, splits=("iid", "word"))


@pytest.fixture(scope="module")
def run(result: FinishedEvaluation, tmp_path_factory: pytest.TempPathFactory) -> Run:
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("WANDB_MODE", "offline")
        patch.setenv("WANDB_DATA_DIR", str(tmp_path_factory.mktemp("data")))  # tables are staged there, not at home
        patch.delenv("WANDB_PROJECT", raising=False)
        mirror(result, render([result]))
    return read_offline(result.folder)


def test_every_number_is_in_the_run_with_its_interval_and_controls(run: Run, result: FinishedEvaluation) -> None:
    (row,) = [row for row in run.rows if "eval/iid/all_correct" in row]
    for split, entry in result.splits.items():
        for metric, numbers in entry["metrics"].items():
            assert row[f"eval/{split}/{metric}"] == pytest.approx(numbers["value"])
            for end in {"low", "high", "real", "chance", "noise"} & set(numbers):
                assert row[f"eval/{split}/{metric}_{end}"] == pytest.approx(numbers[end])
    assert row["eval/cost/parameters"] == 6_960_000 and "eval/cost/device" not in row
    assert all(row["step"] == 0 for row in run.rows)
    assert run.project == "alpha" and run.name == "evaluate alpha" and run.config["family"] == "alpha"


def test_tables_hold_every_skill_and_every_image(run: Run, result: FinishedEvaluation) -> None:
    for split, entry in result.splits.items():
        skills = {row["metric"]: row for row in run.table(f"eval/{split}/skills")}
        assert skills.keys() == entry["metrics"].keys()
        assert skills["all_correct"]["value"] == pytest.approx(entry["metrics"]["all_correct"]["value"])
        assert skills["all_correct"]["unit"] == "%" and skills["all_correct"]["protocol_id"] == "aaaa0000"
        images = run.table(f"eval/{split}/images")
        assert [row["prompt"] for row in images] == entry["captions"] and [row["seed"] for row in images] == entry[
            "seeds"
        ]
        for row, scores, wrong in zip(images, entry["details"]["scores"], entry["details"]["wrong"]):
            assert all(row[skill] == pytest.approx(value) for skill, value in scores.items())
            assert row["wrong"] == ", ".join(wrong)
            assert row["image"]["width"] == row["real"]["width"] == 64


def test_pictures_behind_a_table_travel_with_it(run: Run, result: FinishedEvaluation) -> None:
    for split in result.splits:
        artifact = run.artifact(f"eval/{split}/images")
        for row in run.table(f"eval/{split}/images"):
            stored = np.asarray(Image.open(artifact[row["image"]["path"]]))
            assert np.array_equal(stored, np.asarray(Image.open(result.sample(split, row["index"]))))


def test_grids_curves_and_the_page_are_there(run: Run, result: FinishedEvaluation) -> None:
    for split in result.splits:
        logged = np.asarray(Image.open(run.media(f"eval/{split}/samples")))
        assert np.array_equal(logged, np.asarray(sheet(result, split)))
    for sweep in result.data["sweeps"]:
        key = f"eval/sweep/{sweep['option']}"
        rows = run.table(key)
        assert [row["x"] for row in rows] == [point["x"] for point in sweep["points"]]
        for metric in sweep["metrics"]:
            assert [row[metric] for row in rows] == pytest.approx([point[metric] for point in sweep["points"]])
            assert run.table(f"{key}/{metric}_table") == rows
            assert metric in json.dumps(run.settings[f"_wandb/visualize/{key}/{metric}"])  # the chart of that table
    assert run.media("eval/report").read_text() == render([result])


def test_keys_name_no_family(result: FinishedEvaluation, run: Run) -> None:
    """A result of another family with the same metrics logs the same keys."""
    other = FinishedEvaluation(result.data | {"family": "another", "name": "other"}, result.folder)
    assert scalars(other).keys() == scalars(result).keys()
    assert not any("alpha" in key for row in run.rows for key in row)
    assert identity(other.data) != identity(result.data) == identity(json.loads(json.dumps(result.data)))


def test_a_sheet_has_real_images_above_and_square_pixels(result: FinishedEvaluation) -> None:
    picture = sheet(result, "iid")
    assert picture.size == (8 * 132 + 4, 4 * 132 + 4)  # 10 images: two lines of samples, each under its real images
    real, fake = (np.asarray(Image.open(path)) for path in (result.real("iid", 0), result.sample("iid", 0)))
    cells = np.asarray(picture)
    assert np.array_equal(cells[4:132, 4:132], real.repeat(2, 0).repeat(2, 1))
    assert np.array_equal(cells[136:264, 4:132], fake.repeat(2, 0).repeat(2, 1))


def test_a_result_with_next_to_nothing_is_mirrored(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WANDB_MODE", "offline")
    monkeypatch.setenv("WANDB_PROJECT", "mine")
    entry = {"n": MAX_ROWS, "captions": None, "labels": None, "seeds": None, "metrics": {}, "samples": None}
    mirror(FinishedEvaluation({"name": "bare", "family": "f", "splits": {"test": entry}}, tmp_path))
    run = read_offline(tmp_path)
    assert run.project == "mine" and not any(key.startswith("eval/") for row in run.rows for key in row)
