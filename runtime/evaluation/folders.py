"""Evaluating a folder of images, whoever made them."""

from __future__ import annotations

from typing import Any


def evaluate_folder(*_: Any) -> Any:
    raise ValueError("images=: not there yet")
