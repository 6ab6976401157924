"""The tables of tar shards: made once, made again for what has changed, and damage is told."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import pytest

from datamodules import tar_index
from datamodules.shard_files import ShardFolder
from datamodules.tar_index import ROW, Shard, TarIndex, build_tar_index
from tests.datamodules.tars import picture, samples, tar


def indexed(root: Path, folder: Path) -> TarIndex:
    files = ShardFolder(root)
    return build_tar_index(files, folder, files.listing())


def rows(index: TarIndex, shard: Shard) -> np.ndarray:
    return np.fromfile(index.table(shard), ROW)


@pytest.fixture
def shards(tmp_path: Path) -> Path:
    """Three shards of five samples, one of them in a folder of its own."""
    for i, name in enumerate(("0.tar", "1.tar", "more/2.tar")):
        tar(tmp_path / "in" / name, samples(range(5 * i, 5 * i + 5)))
    return tmp_path / "in"


@pytest.fixture
def read(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The names of the shards that are read from now on."""
    names, real = [], tar_index._read_one
    monkeypatch.setattr(tar_index, "_read_one", lambda files, name, table: names.append(Path(name).name) or real(files, name, table))
    return names


def test_rows_lead_to_the_images(shards: Path, tmp_path: Path) -> None:
    index = indexed(shards, tmp_path / "cache")
    assert [(s.name, s.num_rows) for s in index.shards] == [("0.tar", 5), ("1.tar", 5), ("more/2.tar", 5)]
    assert index.summary() == "3 shards, 15 captioned images"
    row = rows(index, index.shards[2])[3]
    content = (shards / "more/2.tar").read_bytes()
    assert content[row["image_at"] :][: row["image_bytes"]] == picture(13, "jpg") and content[row["text_at"] :][: row["text_bytes"]] == b"number 13"


def test_a_shard_is_read_once_and_again_when_it_has_changed(shards: Path, tmp_path: Path, read: list[str]) -> None:
    first = indexed(shards, tmp_path / "cache")
    assert indexed(shards, tmp_path / "cache") == first and read == ["0.tar", "1.tar", "2.tar"]
    tar(shards / "1.tar", samples(range(50, 55)))
    assert indexed(shards, tmp_path / "cache").digest() != first.digest(), "other pictures under the same names"
    tar(shards / "3.tar", samples(range(2)))
    second = indexed(shards, tmp_path / "cache")
    assert read[3:] == ["1.tar", "3.tar"] and [s.num_rows for s in second.shards] == [5, 5, 2, 5]
    assert second.digest() != first.digest()
    os.utime(shards / "0.tar", ns=(0, 0))
    assert indexed(shards, tmp_path / "cache").digest() == second.digest() and read[5:] == ["0.tar"], "a copy's times say nothing"
    os.remove(shards / "3.tar")
    assert [s.name for s in indexed(shards, tmp_path / "cache").shards] == ["0.tar", "1.tar", "more/2.tar"]


def test_a_stop_costs_one_shard(shards: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    whole, real, asked = indexed(shards, tmp_path / "whole"), tar_index._read_one, []

    def stopping(files: ShardFolder, name: str, table: Path):
        if name == "1.tar":
            raise KeyboardInterrupt
        return real(files, name, table)

    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(tar_index, "_read_one", stopping)
        indexed(shards, tmp_path / "cache")
    with open(tmp_path / "cache" / "shards.jsonl", "a") as journal:
        journal.write('[1, "1.tar", 10')  # as a kill leaves it
    monkeypatch.setattr(tar_index, "_read_one", lambda files, name, table: asked.append(Path(name).name) or real(files, name, table))
    assert indexed(shards, tmp_path / "cache").shards == whole.shards and asked == ["1.tar", "2.tar"]
    assert indexed(shards, tmp_path / "cache").shards == whole.shards


def test_a_table_that_is_lost_is_made_again(shards: Path, tmp_path: Path, read: list[str]) -> None:
    first = indexed(shards, tmp_path / "cache")
    for table in (tmp_path / "cache").glob("*.rows"):
        table.unlink()
    assert indexed(shards, tmp_path / "cache").shards == first.shards and len(read) == 6
    assert len(rows(first, first.shards[0])) == 5


def test_several_processes_find_the_same(shards: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (shards / "1.tar").write_bytes((shards / "1.tar").read_bytes()[:3000])
    alone = indexed(shards, tmp_path / "alone")
    monkeypatch.setattr(ShardFolder, "many", 3)
    monkeypatch.setattr(tar_index.os, "cpu_count", lambda: 2)
    together = indexed(shards, tmp_path / "together")
    assert together.shards == alone.shards and together.damaged == alone.damaged
    assert all((rows(together, shard) == rows(alone, shard)).all() for shard in alone.shards)


def test_damaged_shards_are_named_and_too_many_are_refused(shards: Path, tmp_path: Path, read: list[str]) -> None:
    (shards / "1.tar").write_bytes((shards / "1.tar").read_bytes()[:3000])
    index = indexed(shards, tmp_path / "cache")
    assert len(index.damaged) == 1 and index.damaged[0].startswith("1.tar: at byte ") and index.summary().endswith("; 1 damaged shards")
    index.require(1 / 3)
    with pytest.raises(ValueError, match="1 of 3 shards are damaged, more than data.max_bad_fraction=0.3; mend .* the first: 1.tar: at byte"):
        index.require(0.3)
    indexed(shards, tmp_path / "cache")
    assert read == ["0.tar", "1.tar", "2.tar", "1.tar"], "a disk may be mended"


def test_what_samples_lack_is_counted(tmp_path: Path) -> None:
    tar(tmp_path / "in" / "0.tar", [*samples(range(6)), ("a.txt", b"a"), ("b.jpg", b""), ("b.txt", b"b"), ("c.jpg", b"c"), ("d.jpg", b"d"), ("d.txt", b" "),
        ("e.jpg", b"e"), ("e.txt", b"e" * 2**20 + b"e")])  # fmt: skip
    index = indexed(tmp_path / "in", tmp_path / "cache")
    assert index.summary() == "1 shards, 6 captioned images; 2 without image; 3 without caption"
    index.require(5 / 11)
    with pytest.raises(ValueError, match=r"6 of 11 samples have an image and a caption \(2 without image, 3 without caption\), and more than data.max_bad_fraction=0.45"):
        index.require(0.45)


def test_no_sample_at_all_is_refused_at_any_limit(tmp_path: Path) -> None:
    index = indexed(tar(tmp_path / "in" / "0.tar", [("a.jpg", b"1")]).parent, tmp_path / "cache")
    with pytest.raises(ValueError, match="0 of 1 samples have an image and a caption"):
        index.require(1.0)
    assert not len(rows(index, index.shards[0]))


@pytest.mark.parametrize(("file", "message"), [("a.parquet", "python -m datamodules.shards .* OUT unpacks .parquet"), ("a.png", "a captioned folder is data=captions")])
def test_a_folder_without_tars_is_refused(file: str, message: str, tmp_path: Path) -> None:
    (tmp_path / "in").mkdir()
    (tmp_path / "in" / file).touch()
    with pytest.raises(ValueError, match=f"holds no .tar files.*{message}"):
        indexed(tmp_path / "in", tmp_path / "cache")
    with pytest.raises(FileNotFoundError):
        indexed(tmp_path / "nowhere", tmp_path / "cache")
