"""A finished evaluation on disk: where its pictures lie, and that nothing outside its folder is read."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from evaluation.report.finished_evaluation import FinishedEvaluation, picture, todays_names


def test_a_picture_is_found_whatever_its_zeros(tmp_path: Path) -> None:
    (tmp_path / "00003.png").touch()
    (tmp_path / "000004.png").touch()
    assert picture(tmp_path, 3).name == "00003.png" and picture(tmp_path, 4).name == "000004.png"
    assert picture(tmp_path, 5) is None


def test_pictures_come_from_the_folders_that_the_split_names(tmp_path: Path) -> None:
    for folder in ("samples/iid-a", "real/iid-old", "real/iid-new"):
        (tmp_path / folder).mkdir(parents=True)
        (tmp_path / folder / "00000.png").touch()
    os.utime(tmp_path / "real/iid-old", (1, 1))
    found = FinishedEvaluation({"name": "a", "splits": {"iid": {"samples": "samples/iid-a"}}}, tmp_path)
    assert found.sample("iid", 0) == tmp_path / "samples/iid-a/00000.png" and found.sample("iid", 1) is None
    assert found.real("iid", 0) == tmp_path / "real/iid-new/00000.png", "the newest, where none is named"
    found.splits["iid"]["real"] = "real/iid-old"
    assert found.real("iid", 0).parent.name == "iid-old"


@pytest.mark.parametrize("place", ["..", "../other", "a\0b"])
def test_nothing_outside_the_folder_is_read(place: str, tmp_path: Path) -> None:
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "00000.png").touch()
    (tmp_path / "00000.png").touch()
    inside = tmp_path / "evaluation"
    inside.mkdir()
    assert FinishedEvaluation({"name": "a", "splits": {"iid": {"samples": place}}}, inside).sample("iid", 0) is None


def test_a_folder_without_an_evaluation_says_what_to_run(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match="no evaluation in .*: there is no metrics.json; run evaluate.py out="):
        FinishedEvaluation.load(tmp_path)
    (tmp_path / "metrics.json").write_text('{"schema": 1}')
    with pytest.raises(ValueError, match="has schema 1, this version reads"):
        FinishedEvaluation.load(tmp_path)


def test_evaluations_from_before_are_read_under_todays_name() -> None:
    before = {"splits": {"iid": {"metrics": {"exact": {"value": 1}}, "details": {"scores": [{"count": 1.0, "exact": 1.0}]}}},
              "sweeps": [{"series": [{"x": 1, "exact": 0.5, "exact_low": 0.4, "exact_high": 0.6}]}]}  # fmt: skip
    assert todays_names(before) == {
        "splits": {"iid": {"metrics": {"all_correct": {"value": 1}}, "details": {"scores": [{"count": 1.0, "all_correct": 1.0}]}}},
        "sweeps": [{"series": [{"x": 1, "all_correct": 0.5, "all_correct_low": 0.4, "all_correct_high": 0.6}]}],
    }


def test_results_are_read_from_disk_or_refused_in_one_line(results: list[FinishedEvaluation], tmp_path: Path) -> None:
    assert FinishedEvaluation.load(results[0].folder).data == results[0].data
    assert FinishedEvaluation.load(results[0].folder / "metrics.json").name == "alpha"
    with pytest.raises(FileNotFoundError, match="no evaluation in .*run evaluate.py"):
        FinishedEvaluation.load(tmp_path)
    (tmp_path / "metrics.json").write_text('{"schema": 1}')
    with pytest.raises(ValueError, match="has schema 1, this version reads 2"):
        FinishedEvaluation.load(tmp_path)
