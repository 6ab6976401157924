"""Slow tests in turns: `pytest --slow-part=today --slow-minutes=5` runs one part of the slow tests, and only those.

There are five parts, by the date: all have run after five days of daily runs, and after five weeks of weekly ones (five
and seven have no common divisor). Parts take about equally long, by what each test was measured to take.
"""

from __future__ import annotations

import math
import time
from collections.abc import Iterable
from typing import Any

import pytest

PARTS = 5
# Processor seconds on one core, measured; what is not here counts as OTHERS.
SECONDS = {
    "tests/demo/test_notebook.py::test_every_cell_runs": 80,
    "tests/benchmarks/test_gan_mimicry.py::test_end_to_end": 18,
    "tests/benchmarks/test_gan_modes.py::test_every_loss_covers_the_ring[minimax]": 49,
    "tests/benchmarks/test_gan_modes.py::test_every_loss_covers_the_ring[non_saturating]": 56,
    "tests/benchmarks/test_gan_modes.py::test_every_loss_covers_the_ring[least_squares]": 64,
    "tests/benchmarks/test_gan_modes.py::test_every_loss_covers_the_ring[hinge]": 58,
    "tests/benchmarks/test_gan_modes.py::test_every_loss_covers_the_ring[wasserstein]": 55,
    "tests/benchmarks/test_gan_modes.py::test_every_loss_covers_the_ring[relativistic]": 61,
    "tests/benchmarks/test_ordering.py::test_every_ordering_of_the_page_holds": 90,
    "tests/evaluation/report/test_hostile_results.py::test_fuzzed_results_are_a_page_or_one_line[4000]": 60,
    "tests/benchmarks/test_diffusion_table.py::test_end_to_end": 35,
    "tests/benchmarks/test_speed_unet.py::test_benchmark_end_to_end": 30,
    "tests/benchmarks/test_chaos.py::test_a_small_campaign_from_the_command_line": 40,
    "tests/evaluation/metrics/test_processes.py::test_two_processes_equal_one_to_the_last_digit_and_find_an_image_that_both_have": 30,
    "tests/entrypoints/test_train.py::test_a_sweep_from_a_shell": 30,
    "tests/lightning_modules/test_imagen.py::test_two_colours_are_learned": 40,
    "tests/datamodules/test_workers.py::test_workers_of_a_killed_process_end[forkserver]": 25,
    "tests/test_configs.py::test_one_step_trains_and_its_checkpoint_draws[experiment=edm_cifar10]": 25,
    "tests/test_configs.py::test_one_step_trains_and_its_checkpoint_draws[experiment=iddpm_cifar10]": 20,
}
OTHERS = 5
_began = time.monotonic()


def seconds(name: str) -> float:
    return SECONDS.get(name, OTHERS)


def parts(names: Iterable[str], count: int = PARTS) -> list[list[str]]:
    """Names in `count` lists that take about equally long: the longest first, each to the list that is shortest."""
    lists: list[list[str]] = [[] for _ in range(count)]
    for name in sorted(names, key=lambda n: (-seconds(n), n)):
        min(lists, key=lambda chosen: sum(map(seconds, chosen))).append(name)
    return lists


def chosen_part(text: str, now: float) -> tuple[int, int]:
    """(number from 0, count) of `today`, or of `K/N` with K from 1. Raises pytest.UsageError for anything else."""
    if text == "today":
        return int(now // 86_400) % PARTS, PARTS
    number, _, count = text.partition("/")
    if number.isdecimal() and count.isdecimal() and 1 <= int(number) <= int(count):
        return int(number) - 1, int(count)
    raise pytest.UsageError(f"--slow-part={text}: today, or K/N with K from 1 to N")


# ---- what pytest calls ----


def pytest_addoption(parser: Any) -> None:
    what = "run one part of the slow tests in place of the quick ones: today, or K/N"
    parser.addoption("--slow-part", metavar="PART", default=None, help=what)
    what = "after so many minutes no further test of --slow-part begins"
    parser.addoption("--slow-minutes", metavar="MINUTES", type=float, default=math.inf, help=what)


def pytest_configure(config: Any) -> None:
    if config.option.slow_part:
        config.slow_part = chosen_part(config.option.slow_part, time.time())
        config.option.markexpr = "slow and not gpu"


def pytest_collection_modifyitems(config: Any, items: list[Any]) -> None:
    if not config.option.slow_part:
        return
    number, count = config.slow_part
    slow = [item for item in items if item.get_closest_marker("slow") and not item.get_closest_marker("gpu")]
    now = set(parts((item.nodeid for item in slow), count)[number])
    items[:] = [item for item in slow if item.nodeid in now]


def pytest_runtest_setup(item: Any) -> None:
    minutes = item.config.option.slow_minutes
    if item.config.option.slow_part and time.monotonic() - _began > 60 * minutes:
        pytest.skip(f"slow, and {minutes:g} minutes are over: its turn comes again")


def pytest_terminal_summary(terminalreporter: Any, config: Any) -> None:
    if not config.option.slow_part:
        return
    number, count = config.slow_part
    terminalreporter.section(f"slow tests, part {number + 1} of {count}")
    for outcome in ("passed", "failed", "skipped"):
        for report in terminalreporter.stats.get(outcome, []):
            if report.when == "call" or outcome == "skipped":
                terminalreporter.write_line(f"{outcome} after {report.duration:.0f} s: {report.nodeid}")
