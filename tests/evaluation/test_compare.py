"""Finished evaluations side by side: names, folders, and what may not be compared."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from evaluation.compare import compare


def finished(folder: Path, name: str, **protocol: Any) -> Path:
    """A metrics.json with two metrics of one protocol."""
    row = {"value": 0.5, "higher_is_better": True, "protocol": protocol, "protocol_id": str(sorted(protocol.items()))}
    data = {"schema": 2, "name": name, "splits": {"iid": {"n": 4, "metrics": {"a": row, "b": row}}}, "notes": ["own"]}
    folder.mkdir(parents=True)
    (folder / "metrics.json").write_text(json.dumps(data))
    return folder


def test_differences_of_protocol_are_named_once(tmp_path: Path) -> None:
    one = finished(tmp_path / "1", "one", images=4, resize="64")
    two = finished(tmp_path / "2", "two", images=8, resize="64")
    three = finished(tmp_path / "3", "three", images=4, resize="64")
    first, *others = compare([str(one), str(two), str(three)])
    assert first.data["notes"] == [
        "own",
        "iid: a, b of one and of two are not comparable: images 4 and 8",
        "iid: a, b of two and of three are not comparable: images 8 and 4",
    ]
    assert all(other.data["notes"] == ["own"] for other in others)
    assert json.loads((one / "metrics.json").read_text())["notes"] == ["own"]


def test_a_folder_of_evaluations_stands_for_them_all(tmp_path: Path) -> None:
    finished(tmp_path / "all" / "a", "model")
    finished(tmp_path / "all" / "b", "model")
    found = compare([str(tmp_path / "all"), str(tmp_path / "all" / "a")])
    assert [result.name for result in found] == ["model", "model (b)"]


def test_one_is_no_comparison_and_none_is_no_evaluation(tmp_path: Path) -> None:
    one = finished(tmp_path / "a", "a")
    with pytest.raises(ValueError, match="needs two evaluations or more"):
        compare([str(one), str(one)])
    with pytest.raises(FileNotFoundError, match="no evaluation in .*nowhere"):
        compare([str(one), str(tmp_path / "nowhere")])
    (one / "metrics.json").write_text('{"schema": 1}')
    with pytest.raises(ValueError, match="schema 1.*evaluate again"):
        compare([str(one), str(one)])
