"""Sessions of the toy, for tests: benchmarks.sessions with the toy allowed in checkpoints."""

from __future__ import annotations

from benchmarks.sessions import assert_same, contents, left_behind, preload, run, start, start_call, wait_for
from tests.toy import overrides

preload("tests.sessions")

__all__ = ["assert_same", "contents", "left_behind", "overrides", "run", "start", "start_call",
           "wait_for"]  # fmt: skip
