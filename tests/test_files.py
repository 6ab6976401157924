"""Files are replaced in one step, and what somebody else wrote is read within bounds."""

from __future__ import annotations

import errno
import json
import os
import stat
from pathlib import Path

import pytest

import files


def test_a_file_is_replaced_whole_or_not_at_all(tmp_path: Path) -> None:
    path = tmp_path / "a.txt"
    files.write_text(path, "old")
    with pytest.raises(RuntimeError), files.replacing(path) as fresh:
        fresh.write_text("half of the n")
        raise RuntimeError
    assert path.read_text() == "old" and os.listdir(tmp_path) == ["a.txt"]
    with files.replacing(path) as fresh:
        assert fresh.parent == tmp_path and fresh != path  # a rename across file systems is no single step
        fresh.write_text("new")
        assert path.read_text() == "old"
    assert path.read_text() == "new" and os.listdir(tmp_path) == ["a.txt"]


def test_durable_flushes_the_file_before_and_the_folder_after_the_rename(tmp_path, monkeypatch) -> None:
    events = []
    sync, replace = os.fsync, os.replace

    def kind(file: int) -> str:
        return "folder" if stat.S_ISDIR(os.fstat(file).st_mode) else "file"

    monkeypatch.setattr(os, "fsync", lambda f: (events.append(kind(f)), sync(f)))
    monkeypatch.setattr(os, "replace", lambda a, b: (events.append("replace"), replace(a, b)))
    files.write_text(tmp_path / "a", "x")
    assert events == ["replace"]
    events.clear()
    files.write_text(tmp_path / "a", "x", durable=True)
    assert events == ["file", "replace", "folder"]


@pytest.mark.parametrize("text", ["[" * 100_000, "{", "", "9" * 5000, b"\xff\xfe\x00"])
def test_broken_json_is_one_line_that_names_the_place(text, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="^a page is not valid JSON: ") as error:
        files.parse_json(text, "a page")
    assert "\n" not in str(error.value)


def test_json_reads_back(tmp_path: Path) -> None:
    files.write_json(tmp_path / "deeper" / "a.json", {"a": [1, None]})
    assert files.read_json(tmp_path / "deeper" / "a.json") == {"a": [1, None]}
    assert json.loads((tmp_path / "deeper" / "a.json").read_text()) == {"a": [1, None]}


def test_what_is_no_file_or_too_large_is_refused_at_once(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    with pytest.raises(ValueError, match="not a regular file"):
        files.read_bytes(tmp_path / "pipe", 10)
    with pytest.raises(ValueError, match="not a regular file"):
        files.read_bytes(tmp_path, 10)
    (tmp_path / "large").write_bytes(b"12345678901")
    with pytest.raises(ValueError, match="at most"):
        files.read_bytes(tmp_path / "large", 10)
    assert files.read_bytes(tmp_path / "large", 11) == b"12345678901"
    with pytest.raises(FileNotFoundError, match="no such file"):
        files.read_bytes(tmp_path / "absent", 10)


def test_a_full_disk_is_told_from_other_errors() -> None:
    assert files.disk_is_full(OSError(errno.ENOSPC, "x")) and files.disk_is_full(OSError(errno.EDQUOT, "x"))
    assert not files.disk_is_full(OSError(errno.EACCES, "x")) and not files.disk_is_full(ValueError())


def test_text_of_strangers_cannot_steer_a_terminal() -> None:
    assert files.printable("plain, é, 日本\u3000x") == "plain, é, 日本\u3000x"
    assert files.printable("a\x1b[31m\nb\u202e\x9b\udcff\x7f") == r"a\x1b[31m\nb\u202e\x9b\udcff\x7f"


def test_inside_follows_links(tmp_path: Path) -> None:
    (tmp_path / "root").mkdir()
    (tmp_path / "rootless").mkdir()
    (tmp_path / "root" / "out").symlink_to(tmp_path / "rootless")
    (tmp_path / "in").symlink_to(tmp_path / "root")
    root = tmp_path / "root"
    assert files.inside(root, root) and files.inside(root / "x", root) and files.inside(tmp_path / "in" / "x", root)
    assert not any(files.inside(p, root) for p in (tmp_path / "rootless", root / "out" / "x", root / ".." / "x", "/"))
    assert files.inside("/x", "/")


def test_a_key_given_twice_is_refused() -> None:
    with pytest.raises(ValueError, match="x is not valid JSON: the key 'a' comes twice"):
        files.parse_json('{"a": {"a": 1}, "b": 1, "a": 2}', "x")
    assert files.parse_json(b'\xef\xbb\xbf{"a": {"a": 1}}', "x") == {"a": {"a": 1}}
