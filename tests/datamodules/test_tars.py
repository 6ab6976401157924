"""Tar files: which bytes are which sample's, and no damage passes."""

from __future__ import annotations

import random
import tarfile
from pathlib import Path

import pytest

from datamodules.tars import Damaged, TarSample, captions_in, captions_of, mark, tar_samples
from tests.datamodules.tars import picture, samples, tar


def listed(path: Path) -> list[TarSample]:
    with open(path, "rb") as file:
        return list(tar_samples(file))


def test_places_hold_what_was_written(tmp_path: Path) -> None:
    long = "a-folder-with-a-long-name/" * 6 + "9"  # beyond the 100 characters of a header: a member of its own tells it
    path = tar(tmp_path / "a.tar", [*samples(range(2)), (f"{long}.PNG", picture(9)), (f"{long}.json", b'{"caption": "nine"}')])
    content, found = path.read_bytes(), listed(path)
    images = [content[at : at + count] for at, count in (sample.image for sample in found)]
    texts = [captions_in(content[at : at + count], sample.kind) for sample in found for at, count in [sample.text]]
    assert images == [picture(0, "jpg"), picture(1, "jpg"), picture(9)] and texts == ["number 0", "number 1", "nine"]


def test_parts_that_lack_are_none(tmp_path: Path) -> None:
    found = listed(tar(tmp_path / "a.tar", [("a.jpg", b"1234"), ("b.json", b"{}"), ("x/b.jpg", b"1"), ("c.txt", b"c"), ("c.cls", b"7")]))
    assert found == [
        TarSample((512, 4), None, "txt"), TarSample(None, (1536, 2), "json"), TarSample((2560, 1), None, "txt"), TarSample(None, (3584, 1), "txt")
    ]  # fmt: skip


def test_a_file_beyond_the_limit_is_left_out(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("datamodules.tars.MAX_BYTES", 4)
    found = listed(tar(tmp_path / "a.tar", [("a.jpg", b"1234"), ("b.jpg", b"12345"), ("b.txt", b"b")]))
    assert [sample.image for sample in found] == [(512, 4), None]


def test_three_hundred_damaged_tars_of_three_hundred_are_told(tmp_path: Path) -> None:
    """Cut anywhere, also between two files and within the mark of the end; a header changed; emptied; another file in its place."""
    rng, good = random.Random(0), tar(tmp_path / "good.tar", samples(range(20))).read_bytes()
    with tarfile.open(tmp_path / "good.tar") as file:
        headers = [member.offset for member in file]
    used = len(good.rstrip(b"\0")) // 512 * 512 + 512  # the data; behind it two blocks of zeros and padding
    assert len(listed(tmp_path / "good.tar")) == 20
    for i in range(300):
        data = bytearray(good)
        if i < 200:
            data = data[: rng.randrange(1, used + 400)]
        elif i < 290:
            data[rng.choice(headers) + rng.randrange(148, 154)] ^= 0x55 if i % 2 else 0x01  # in the checksum
        else:
            data = [b"", b"<html>404</html>" * 100][i % 2]
        (tmp_path / "bad.tar").write_bytes(bytes(data))
        with pytest.raises(Damaged, match="^at byte "):
            listed(tmp_path / "bad.tar")


@pytest.mark.parametrize(("content", "kind", "captions"), [
    (b" a red cat \n", "txt", "a red cat"), (b" \n", "txt", None), (b"\xff cat", "txt", "\ufffd cat"), (b'{"text": "a", "caption": "b"}', "json", "a"),
    (b'{"text": "", "caption": " b "}', "json", "b"), (b'{"captions": ["a", 3, " ", "b "]}', "json", ["a", "b"]), (b"[1]", "json", None), (b"{no", "json", None),
])  # fmt: skip
def test_captions_of_a_file(content: bytes, kind: str, captions: object) -> None:
    assert captions_in(content, kind) == captions


def test_captions_of_a_row() -> None:
    assert captions_of({"prompt": "p"}) == "p" and captions_of({"text": 3}) is None and captions_of({"captions": []}) is None


def test_a_mark_tells_shards_apart(tmp_path: Path) -> None:
    path = tmp_path / "a.tar"
    marks = set()
    for content in (b"a" * 300_000, b"a" * 300_001, b"b" + b"a" * 299_999, b"a" * 299_999 + b"b"):
        path.write_bytes(content)
        with open(path, "rb") as file:
            marks.add(mark(file))
    assert len(marks) == 4
