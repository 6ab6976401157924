"""The same small, offline, single-threaded world for every test."""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator

import pytest

os.environ["HF_HUB_OFFLINE"] = "1"
os.environ["WANDB_MODE"] = "offline"

import torch  # noqa: E402  (the environment must be set before anything reads it)

torch.set_num_threads(1)

from tests.slow_part import (  # noqa: E402, F401  (hooks: --slow-part)
    pytest_addoption,
    pytest_collection_modifyitems,
    pytest_configure,
    pytest_runtest_setup,
    pytest_terminal_summary,
)


@pytest.fixture(autouse=True)
def ctrl_c_as_it_was() -> Iterator[None]:
    """A command that a test runs in this process ends with Ctrl-C ignored, for no more than the process's end is left."""
    before = signal.getsignal(signal.SIGINT)
    yield
    signal.signal(signal.SIGINT, before)
