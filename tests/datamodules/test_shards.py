"""Shards to a folder: what WebDataset and Parquet hold comes out, a stop costs one shard, and no damage passes."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from datamodules.captions import CaptionsDataModule
from datamodules.shards import READERS, convert, main, shards_of, unpack
from datamodules.tars import Damaged
from tests.datamodules.tars import picture, samples, tar


def table(folder: Path) -> dict[str, object]:
    return {row["file_name"]: row["text"] for row in map(json.loads, (folder / "metadata.jsonl").read_text().splitlines())}


def test_a_webdataset_becomes_a_folder_that_trains(tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    tar(tmp_path / "in" / "00000.tar", samples(range(5)))
    tar(tmp_path / "in" / "b" / "00001.tar", [*samples(range(5, 8)), ("9.png", picture(9)), ("9.json", b'{"caption": "nine"}')])
    assert main([str(tmp_path / "in"), str(tmp_path / "out")]) == 0
    assert "9 written, 0 without caption, 0 without image; 0 damaged shards; next: python train.py" in capsys.readouterr().out
    assert table(tmp_path / "out")["00000/000003.jpg"] == "number 3" and table(tmp_path / "out")["00001/000003.png"] == "nine"
    assert (tmp_path / "out" / "00000" / "000003.jpg").read_bytes() == picture(3, "jpg"), "bytes are copied as they are"
    data = CaptionsDataModule(str(tmp_path / "out"), image_size=4, val_fraction=0.3, cache_dir=str(tmp_path / "cache"))
    data.setup()
    assert len(data.train_dataset) + len(data.val_dataset) == 9 and not data.manifest.bad


def test_what_a_sample_lacks_is_counted(tmp_path: Path) -> None:
    members = [("a.jpg", picture(1, "jpg")), ("b.txt", b"no image"), ("c.jpg", picture(2, "jpg")), ("c.txt", b"  "), ("d.gif", picture(3, "gif")), ("d.txt", b"four"),
               ("e.jpg", picture(4, "jpg")), ("e.json", b"{no json"), ("f.jpg", picture(5, "jpg")), ("f.json", b"[1]")]  # fmt: skip
    counts, damaged = convert(str(tar(tmp_path / "x.tar", members)), tmp_path / "out")
    assert counts == {"written": 1, "without caption": 4, "without image": 1} and not damaged
    assert table(tmp_path / "out") == {"00000/000000.gif": "four"}


def test_parquet_as_the_hub_has_it(tmp_path: Path) -> None:
    pa, pq = pytest.importorskip("pyarrow"), pytest.importorskip("pyarrow.parquet")
    images = [{"bytes": picture(n), "path": f"{n}.png"} for n in range(3)] + [None]
    captions = ["one", ["two", " 2 "], [], "four"]
    (tmp_path / "in").mkdir()
    pq.write_table(pa.table({"image": images[:1] + images[3:], "text": ["one", "four"]}), tmp_path / "in" / "a.parquet")
    pq.write_table(pa.table({"n": [1, 2], "picture": [picture(1), picture(2)], "caption": captions[1:3]}), tmp_path / "in" / "b.parquet")
    counts, damaged = convert(str(tmp_path / "in"), tmp_path / "out")
    assert counts == {"written": 2, "without caption": 1, "without image": 1} and not damaged
    assert table(tmp_path / "out") == {"00000/000000.png": "one", "00001/000000.png": ["two", "2"]}
    pq.write_table(pa.table({"label": [1]}), tmp_path / "c.parquet")
    with pytest.raises(ValueError, match="c.parquet has the columns label: needed are one of images as bytes and one of text, caption"):
        convert(str(tmp_path / "c.parquet"), tmp_path / "other")


def test_a_stop_costs_one_shard(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for i in range(4):
        tar(tmp_path / "in" / f"{i}.tar", samples(range(10 * i, 10 * i + 3)))
    read = READERS[".tar"]

    def stopping(path: Path):
        for number, pair in enumerate(read(path)):
            if path.name == "2.tar" and number == 1:
                raise KeyboardInterrupt
            yield pair

    monkeypatch.setitem(READERS, ".tar", stopping)
    with pytest.raises(KeyboardInterrupt):
        convert(str(tmp_path / "in"), tmp_path / "out")
    asked: list[str] = []
    monkeypatch.setitem(READERS, ".tar", lambda path: asked.append(path.name) or read(path))
    counts, _ = convert(str(tmp_path / "in"), tmp_path / "out")
    assert asked == ["2.tar", "3.tar"] and counts["written"] == 12 == len(table(tmp_path / "out"))
    convert(str(tmp_path / "in"), tmp_path / "whole")
    assert table(tmp_path / "whole") == table(tmp_path / "out")
    tar(tmp_path / "in" / "0.tar", samples(range(5)))
    with pytest.raises(ValueError, match="was made from other shards than 0.tar: choose another folder"):
        convert(str(tmp_path / "in"), tmp_path / "out")


def test_a_damaged_shard_is_named_and_the_others_are_used(tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    for i in range(3):
        tar(tmp_path / "in" / f"{i}.tar", samples(range(3)))
    (tmp_path / "in" / "1.tar").write_bytes((tmp_path / "in" / "1.tar").read_bytes()[:3000])
    assert main([str(tmp_path / "in"), str(tmp_path / "out")]) == 1
    told = capsys.readouterr()
    assert told.err.startswith("damaged: 1.tar: at byte ") and "6 written" in told.out and "1 damaged shards" in told.out
    assert sorted({name.split("/")[0] for name in table(tmp_path / "out")}) == ["00000", "00002"]
    assert not (tmp_path / "out" / "00001").exists(), "nothing of a damaged shard is left"


def test_parquet_that_is_cut_is_told(tmp_path: Path) -> None:
    pa, pq = pytest.importorskip("pyarrow"), pytest.importorskip("pyarrow.parquet")
    pq.write_table(pa.table({"image": [picture(n) for n in range(50)], "text": ["x"] * 50}), tmp_path / "a.parquet")
    whole = (tmp_path / "a.parquet").read_bytes()
    for share in (0.1, 0.5, 0.99):
        (tmp_path / "a.parquet").write_bytes(whole[: int(share * len(whole))])
        with pytest.raises(Damaged, match="at row 0: "):
            unpack(0, "a", tmp_path / "a.parquet", tmp_path / "out")


@pytest.mark.parametrize(("place", "error", "message"), [
    ("nowhere/at/all", FileNotFoundError, "there is no such folder"), ("empty", ValueError, "no .tar or .parquet files in it"),
])  # fmt: skip
def test_a_place_without_shards_is_named(place: str, error: type, message: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "empty").mkdir()
    with pytest.raises(error, match=message):
        shards_of(place)


def test_a_name_on_the_hub_is_fetched_once_and_a_failure_is_one_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture) -> None:
    asked = []
    tar(tmp_path / "snapshot" / "data" / "0.tar", samples(range(2)))

    def snapshot_download(name: str, repo_type: str, allow_patterns: list[str]) -> str:
        asked.append((name, repo_type))
        if name == "some/other":
            raise OSError("no network\nand more")
        if name == "some/silent":
            raise KeyError
        return str(tmp_path / "snapshot")

    monkeypatch.setattr("huggingface_hub.snapshot_download", snapshot_download)
    monkeypatch.chdir(tmp_path)
    assert main(["some/birds", "out"]) == 0 and asked == [("some/birds", "dataset")] and len(table(Path("out"))) == 2
    assert main(["some/other", "out2"]) == 1
    assert "error: some/other: no such folder here, and the hub does not give it: OSError: no network\n" in capsys.readouterr().err
    assert main(["some/silent", "out3"]) == 1 and "the hub does not give it: KeyError: no reason given\n" in capsys.readouterr().err
