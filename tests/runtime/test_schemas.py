"""The schemas of the three commands: what each setting may be. Messages are in test_settings.py."""

from __future__ import annotations

from typing import Any

import pytest
from pydantic import ValidationError

from runtime.config import compose
from runtime.options import plain
from runtime.schemas import SCHEMAS


def validated(command: str, **changed: Any) -> None:
    SCHEMAS[command].model_validate(plain(compose(command, ["ckpt=x"])) | changed)


def test_the_commands_have_a_schema_each_and_their_defaults_fit() -> None:
    assert sorted(SCHEMAS) == ["evaluate", "sample", "train"]
    for command in ("sample", "evaluate"):
        validated(command)


@pytest.mark.parametrize("task", ["sample", "film", "inpaint", "interpolate", "invert", "variations", "edit"])
def test_every_task_is_known(task: str) -> None:
    validated("sample", task=task)


@pytest.mark.parametrize(
    ("command", "wrong"),
    [
        ("sample", {"task": "paint"}), ("sample", {"n": 0}), ("sample", {"n": 1.0}), ("sample", {"seed": -1}), ("sample", {"from": ""}),
        ("sample", {"from": 3}), ("sample", {"to": " "}), ("sample", {"label": -1}), ("sample", {"images": []}), ("sample", {"out": None}),
        ("sample", {"ema": 1}), ("evaluate", {"max_broken": 1.5}), ("evaluate", {"splits": []}), ("evaluate", {"device": "gpu"}),
    ],
)  # fmt: skip
def test_what_a_setting_may_not_be_is_refused(command: str, wrong: dict[str, Any]) -> None:
    with pytest.raises(ValidationError) as refused:
        validated(command, **wrong)
    assert {error["loc"][0] for error in refused.value.errors()} == set(wrong)


def test_words_of_python_are_settings_too() -> None:
    validated("sample", **{"from": "a red circle", "to": "a blue circle"})
