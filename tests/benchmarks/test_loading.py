"""The loading benchmark: every way reads the same pictures, and the table says what was measured."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from benchmarks import loading
from benchmarks.loading import WAYS, main, make, table


def test_every_way_has_the_same_pictures_with_the_same_captions(tmp_path: Path) -> None:
    make(tmp_path, 1200, 16)
    found = []
    for number, way in enumerate(WAYS):
        data = WAYS[way](tmp_path, tmp_path / str(number))
        data.setup()
        everything = {}
        for dataset in {id(d): d for d in (data.train_dataset, data.val_dataset, data.test_dataset)}.values():
            everything |= {item["caption"]: item["image"] for item in (dataset[i, 0] for i in range(len(dataset)))}
        found.append(everything)
    for other in found[1:]:
        assert other.keys() == found[0].keys() and len(other) == 1200
        assert all(torch.equal(image, other[caption]) for caption, image in found[0].items())


def test_a_small_run_prints_and_keeps_a_line_for_each_way(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture) -> None:
    monkeypatch.setattr(loading, "RESULTS", tmp_path)
    main(["--num-images", "600", "--side", "16", "--rounds", "2", "--batches", "2", "--place", str(tmp_path)])
    printed = capsys.readouterr().out
    assert all(way in printed for way in WAYS)
    assert [path.name for path in tmp_path.iterdir()] == ["loading.json"], "the images are removed"


def test_ratios_are_those_of_neighbours() -> None:
    lines = [
        {"way": "a", "first_start_sec": 3, "next_start_sec": 1, "warm": [100.0, 10.0, 100.0], "cold": [10.0] * 3},
        {"way": "b", "first_start_sec": 3, "next_start_sec": 1, "warm": [200.0, 20.0, 50.0], "cold": [5.0] * 3},
    ]
    row = table(lines).splitlines()[-1].split("|")
    assert [cell.strip() for cell in row[4:8]] == ["50", "2.00", "5", "0.50"]
