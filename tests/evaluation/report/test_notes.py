"""The foot of the page: notes once each, protocols, commands, and all numbers without embedded pictures."""

from __future__ import annotations

import base64
import json
import re
from pathlib import Path
from typing import Any

from evaluation.report.finished_evaluation import FinishedEvaluation
from evaluation.report.html_parts import models_of
from evaluation.report.notes import LARGEST, notes, reproduce


def models(*results: dict[str, Any]) -> list[Any]:
    return models_of([FinishedEvaluation({"name": f"m{i}", **data}, Path(".")) for i, data in enumerate(results)])


def numbers(page: str) -> Any:
    return json.loads(base64.b64decode(re.search(r"base64,([^\"]+)", page)[1]))


def test_the_same_note_and_protocol_stand_once() -> None:
    row = {"protocol": {"metric": "fd", "images": 4}, "protocol_id": "abcd1234", "section": "quality"}
    data = {"notes": ["<one>"], "splits": {"iid": {"metrics": {"fd": row}}}}
    page = notes(models(data, data))
    assert page.count("&lt;one&gt;") == 1 and page.count("abcd1234") == 1 and "images 4" in page
    assert notes(models({"splits": {}})) == ""


def test_commands_and_numbers_come_along() -> None:
    page = reproduce(models({"reproduce": "python evaluate.py 'a<b'", "splits": {}, "picture": "data:image/png;base64,AA=="}))
    assert "a&lt;b" in page
    (data,) = numbers(page)
    assert data["name"] == "m0" and "picture" not in data


def test_verdicts_of_many_images_are_left_out() -> None:
    details = {"scores": ["x" * 100] * (LARGEST // 100), "curve": [1]}
    page = reproduce(models({"splits": {"iid": {"details": details}}}))
    assert "without the verdicts per image" in page
    assert numbers(page)[0]["splits"]["iid"]["details"] == {"curve": [1]}
