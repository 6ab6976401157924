"""The record is exact: rewinding drops what came after and what was torn, and a full disk costs no line."""

from __future__ import annotations

import errno
import json
import os
from pathlib import Path

import pytest

from runtime.jsonl import JsonlLogger, last_values


def test_rewind_drops_later_and_torn_lines(tmp_path: Path) -> None:
    log = JsonlLogger(tmp_path)
    for step in (1, 2, 3):
        log.log_metrics({"train/loss": 1 / step, "time/images_per_sec": 9.0}, step=step)
    log.close()
    before = (tmp_path / "metrics.jsonl").read_bytes()
    with open(tmp_path / "metrics.jsonl", "a") as file:
        file.write('{"step": 2, "train/lo')
    log.rewind(2)
    log.log_metrics({"train/loss": 1 / 3}, step=3)
    log.close()
    assert (tmp_path / "metrics.jsonl").read_bytes() == before
    assert [json.loads(l)["step"] for l in (tmp_path / "timing.jsonl").read_text().splitlines()] == [1, 2]


def test_values_that_json_does_not_know_are_null(tmp_path: Path) -> None:
    log = JsonlLogger(tmp_path)
    log.log_metrics({"train/loss": float("nan"), "val/loss": 2.0}, step=1)
    log.log_metrics({"train/loss": 1.5}, step=2)
    assert "NaN" not in (tmp_path / "metrics.jsonl").read_text()
    assert last_values(tmp_path) == {"step": 2, "train/loss": 1.5, "val/loss": 2.0}


class Disk:
    """os.pwrite and os.fsync of a disk with room for so many bytes."""

    def __init__(self, monkeypatch, room: int) -> None:
        self.room, self.sync_fails, self._pwrite, self._fsync = room, False, os.pwrite, os.fsync
        monkeypatch.setattr("os.pwrite", self.pwrite)
        monkeypatch.setattr("os.fsync", self.fsync)

    def pwrite(self, file: int, data: bytes, place: int) -> int:
        if not self.room:
            raise OSError(errno.ENOSPC, "full")
        data = data[: self.room]
        self.room -= len(data)
        return self._pwrite(file, data, place)

    def fsync(self, file: int) -> None:
        if self.sync_fails:
            raise OSError(errno.EIO, "lost")
        self._fsync(file)


def log(logger: JsonlLogger, *steps: int) -> None:
    for step in steps:
        logger.log_metrics({"train/loss": 1 / step, "val/ü": 2.0}, step=step)


def whole(folder: Path) -> bytes:
    """The record of an untroubled run of six steps."""
    logger = JsonlLogger(folder)
    log(logger, *range(1, 7))
    assert logger.close() is None
    return (folder / "metrics.jsonl").read_bytes()


def test_a_full_disk_costs_no_line(tmp_path: Path, monkeypatch, capsys) -> None:
    (tmp_path / "whole").mkdir()
    expected, disk = whole(tmp_path / "whole"), Disk(monkeypatch, 100)  # a line and a half
    logger = JsonlLogger(tmp_path)
    log(logger, 1, 2, 3)
    logger.save()
    assert (tmp_path / "metrics.jsonl").read_bytes() == expected[:100]
    assert isinstance(logger.close(), OSError)
    log(logger, 4)
    disk.room = 10**6
    log(logger, 5, 6)
    assert (tmp_path / "metrics.jsonl").read_bytes() == expected
    assert logger.close() is None and logger.unwritten() == {}
    said = capsys.readouterr().out.splitlines()
    assert len(said) == 2 and said[0].startswith("warning: metrics.jsonl waits in memory until it can be written: ")
    assert "no space left on the disk" in said[0] and said[1] == "metrics.jsonl is written again, nothing is missing"


def test_a_file_that_cannot_be_made_is_made_later(tmp_path: Path) -> None:
    (tmp_path / "whole").mkdir()
    expected = whole(tmp_path / "whole")
    logger = JsonlLogger(tmp_path / "not yet")
    log(logger, 1, 2)
    (tmp_path / "not yet").mkdir()
    log(logger, 3, 4, 5, 6)
    assert logger.close() is None and (tmp_path / "not yet" / "metrics.jsonl").read_bytes() == expected


@pytest.mark.parametrize("room", [0, 40, 100, 130])
def test_a_checkpoint_carries_what_the_disk_did_not_take(room: int, tmp_path: Path, monkeypatch) -> None:
    (tmp_path / "whole").mkdir()
    expected = whole(tmp_path / "whole")
    logger = JsonlLogger(tmp_path)
    with monkeypatch.context() as patch:
        disk = Disk(patch, 10**6)
        log(logger, 1, 2)
        logger.save()
        disk.room = room
        log(logger, 3, 4)
        logger.save()
        carried = json.loads(json.dumps(logger.unwritten()))  # plain data
        log(logger, 5)
    again = JsonlLogger(tmp_path)  # the process was killed here, and the run goes on from step 4
    again.rewind(4, carried)
    log(again, 5, 6)
    assert again.close() is None and (tmp_path / "metrics.jsonl").read_bytes() == expected


def test_carried_lines_wait_if_the_disk_is_still_full(tmp_path: Path, monkeypatch) -> None:
    (tmp_path / "whole").mkdir()
    expected = whole(tmp_path / "whole")
    carried = {"metrics.jsonl": {"start": 0, "text": "".join(expected.decode().splitlines(keepends=True)[:4])}}
    logger = JsonlLogger(tmp_path)
    disk = Disk(monkeypatch, 0)
    logger.rewind(4, carried)
    logger.save()
    assert logger.unwritten() == carried
    disk.room = 10**6
    log(logger, 5, 6)
    assert logger.close() is None and (tmp_path / "metrics.jsonl").read_bytes() == expected


def test_a_failed_flush_writes_everything_since_the_last_one_again(tmp_path: Path, monkeypatch) -> None:
    (tmp_path / "whole").mkdir()
    expected, disk = whole(tmp_path / "whole"), Disk(monkeypatch, 10**6)
    logger = JsonlLogger(tmp_path)
    log(logger, 1, 2)
    logger.save()
    log(logger, 3, 4)
    disk.sync_fails = True
    logger.save()
    assert logger.unwritten()["metrics.jsonl"]["text"].count("\n") == 2
    place = (tmp_path / "metrics.jsonl").read_bytes().index(b'{"step": 3')
    (tmp_path / "metrics.jsonl").write_bytes(expected[:place] + bytes(20))  # what a failed flush may leave
    disk.sync_fails = False
    log(logger, 5, 6)
    assert logger.close() is None and (tmp_path / "metrics.jsonl").read_bytes() == expected


def test_save_flushes_every_file(tmp_path: Path, monkeypatch) -> None:
    flushed, real = [], os.fsync
    monkeypatch.setattr("os.fsync", lambda f: (flushed.append(f), real(f)))
    logger = JsonlLogger(tmp_path)
    logger.log_metrics({"a": 1.0, "time/b": 2.0}, step=1)
    logger.save()
    assert len(set(flushed)) == 2
    logger.save()
    assert len(flushed) == 2  # nothing new


def test_lines_that_are_none_of_ours_are_named_and_dropped(tmp_path: Path, capsys) -> None:
    logger = JsonlLogger(tmp_path)
    log(logger, 1, 2)
    logger.close()
    path = tmp_path / "metrics.jsonl"
    first, second = path.read_bytes().splitlines(keepends=True)
    path.write_bytes(first + b"[1]\nnull\n" + b"[" * 100_000 + b"\n\xff\n{}\n" + second)
    assert last_values(tmp_path)["step"] == 2
    logger.rewind(2)
    assert path.read_bytes() == first + second
    assert "metrics.jsonl: line 2 is damaged and left out" in capsys.readouterr().out


def test_a_whole_record_is_read_without_a_word_and_a_line_without_its_end_is_torn(tmp_path: Path, capsys) -> None:
    logger = JsonlLogger(tmp_path)
    log(logger, 1, 2)
    logger.close()
    before = (tmp_path / "metrics.jsonl").read_bytes()
    assert last_values(tmp_path)["step"] == 2
    with open(tmp_path / "metrics.jsonl", "a") as file:
        file.write('{"step": 2, "train/loss": 7.0}')  # JSON, but a part of the line may be missing
    JsonlLogger(tmp_path).rewind(2)
    assert (tmp_path / "metrics.jsonl").read_bytes() == before and capsys.readouterr().out == ""


@pytest.mark.parametrize(
    ("was", "becomes", "number"),
    [
        (b'{"step": 2,', b'{"stfp": 2,', 2),  # JSON, and no line of ours
        (b'{"step": 2,', b'{"step": 2', 2),
        (b'{"step": 2,', b'{"step": 9,', 2),  # as if it came after the checkpoint
        (b'\n{"step": 3,', b'{"step": 3,', 2),  # two in one line
    ],
)
def test_a_line_damaged_before_the_checkpoint_is_named(
    was: bytes, becomes: bytes, number: int, tmp_path: Path, capsys
) -> None:
    logger = JsonlLogger(tmp_path)
    log(logger, 1, 2, 3, 4, 5)
    logger.close()
    path = tmp_path / "metrics.jsonl"
    path.write_bytes(path.read_bytes().replace(was, becomes))
    logger.rewind(4)
    assert f"warning: {path}: line {number} is damaged and left out" in capsys.readouterr().out
    log(logger, 5)
    assert logger.close() is None
    steps = [json.loads(line)["step"] for line in path.read_bytes().splitlines()]
    assert steps == ([1, 4, 5] if was.startswith(b"\n") else [1, 3, 4, 5])


def test_a_record_that_ends_within_a_line_before_the_checkpoint_is_named(tmp_path: Path, capsys) -> None:
    logger = JsonlLogger(tmp_path)
    log(logger, 1, 2, 3)
    logger.close()
    path = tmp_path / "metrics.jsonl"
    whole = path.read_bytes()
    path.write_bytes(whole[:-10])
    logger.rewind(3)
    assert f"warning: {path}: line 3 is damaged and left out" in capsys.readouterr().out
    path.write_bytes(whole[:-10])
    logger.rewind(2)  # after the checkpoint a kill leaves this
    assert capsys.readouterr().out == "" and path.read_bytes().count(b"\n") == 2
