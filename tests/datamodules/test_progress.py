"""Progress: silent where it is quick, a line now and then where it is not."""

from __future__ import annotations

import pytest

from datamodules import progress as progress_file
from datamodules.progress import Progress


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    now = [100.0]
    monkeypatch.setattr(progress_file.time, "monotonic", lambda: now[0])
    return now


def test_what_is_quick_says_nothing(clock: list[float], capsys) -> None:
    progress = Progress("read {} rows")
    for done in range(1, 100):
        clock[0] += 0.04
        progress.tell(done)
    assert capsys.readouterr() == ("", "")


def test_a_line_every_few_seconds_with_the_time_that_is_left(clock: list[float], capsys) -> None:
    progress = Progress("checked {} of 4,000 images", 4000)
    for done in (500, 1000, 2000):
        clock[0] += 4.0
        progress.tell(done)
    told = capsys.readouterr()
    assert told.err == "checked 1,000 of 4,000 images, about 24 s left\n" and not told.out


def test_no_guess_without_a_total(clock: list[float], capsys) -> None:
    progress = Progress("read {} rows")
    clock[0] += 6.0
    progress.tell(1234)
    assert capsys.readouterr().err == "read 1,234 rows\n"
