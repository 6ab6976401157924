"""Every image is either usable or refused by name, and an unchanged file is judged once."""

from __future__ import annotations

import json
import os
from collections import Counter
from pathlib import Path

import pytest

from datamodules import manifest as manifest_file
from datamodules import progress
from datamodules.caption_sources import Sample, Source, read_source
from datamodules.decode import BadImage
from datamodules.manifest import Manifest, build_manifest, manifest_folder
from tests.datamodules.test_decode import ODD


def build(root: Path) -> Manifest:
    return build_manifest(root, read_source(root), root.parent / "cache")


@pytest.fixture
def judged(monkeypatch) -> list[str]:
    """The names of the files that are decoded from now on."""
    names: list[str] = []
    verify = manifest_file.verify
    monkeypatch.setattr(manifest_file, "verify", lambda path: (names.append(Path(path).name), verify(path))[1])
    return names


def test_usable_and_refused_add_up(tmp_path: Path):
    for name, (content, _) in ODD.items():
        (tmp_path / name).write_bytes(content)
    samples = [Sample(name, ("x",)) for name in [*ODD, "gone.png"]] + [Sample("grey.png", ())]
    manifest = build_manifest(tmp_path, Source("test", samples, ["image_id 9"]), tmp_path / "cache")
    refused = [expected for _, expected in ODD.values() if isinstance(expected, str)]
    assert len(ODD) >= 30
    assert Counter(bad.reason for bad in manifest.bad) == Counter([*refused, "missing", "missing", "without caption"])
    assert len(manifest.samples) + len(manifest.bad) == manifest.total == len(samples) + 1
    assert len(manifest.samples) == len(manifest.sizes) == len(ODD) - len(refused)


def test_summary_names_reasons_and_the_list(folder: Path, truncate):
    truncate(folder / "003.png")
    truncate(folder / "005.png")
    (folder / "004.png").unlink()
    manifest = build(folder)
    expected = f"21 of 24 images usable; 2 truncated, 1 missing; list: {manifest.bad_list}"
    assert manifest.summary() == expected
    listed = [json.loads(line) for line in manifest.bad_list.read_text().splitlines()]
    assert [(bad["file"], bad["reason"]) for bad in listed] == [
        ("003.png", "truncated"), ("004.png", "missing"), ("005.png", "truncated"),
    ]  # fmt: skip


def test_a_whole_folder_has_a_short_summary(folder: Path):
    assert build(folder).summary() == "24 of 24 images usable"


def test_too_much_damage_is_fatal_in_one_line(folder: Path, truncate):
    truncate(folder / "003.png")
    manifest = build(folder)
    manifest.require(0.05)
    message = r"1 of 24 images cannot be used \(1 truncated\), more than data.max_bad_fraction=0.01"
    with pytest.raises(ValueError, match=message) as error:
        manifest.require(0.01)
    assert "\n" not in str(error.value) and str(manifest.bad_list) in str(error.value)


def test_nothing_usable_is_fatal_at_any_limit(tmp_path: Path):
    (tmp_path / "a.png").write_bytes(b"no")
    with pytest.raises(ValueError, match="1 of 1 images cannot be used"):
        build_manifest(tmp_path, Source("test", [Sample("a.png", ("x",))]), tmp_path / "cache").require(1.0)


def test_a_wrong_root_is_recognised(folder: Path, tmp_path: Path):
    with pytest.raises(ValueError, match="none of the 24 captioned images is under data.root=.*looked for .*000.png"):
        build_manifest(tmp_path, read_source(folder), tmp_path / "cache")


def test_only_changed_files_are_judged_again(folder: Path, truncate, judged: list[str]):
    first = build(folder)
    assert len(judged) == 24
    judged.clear()
    assert build(folder).samples == first.samples and judged == []
    truncate(folder / "007.png")
    os.utime(folder / "008.png", ns=(1, 1))
    second = build(folder)
    assert sorted(judged) == ["007.png", "008.png"]
    assert [bad.file for bad in second.bad] == ["007.png"]


def test_what_could_not_be_read_is_tried_again(folder: Path, monkeypatch, judged: list[str]):
    def refuse(path):
        raise BadImage("unreadable", "Permission denied")

    with monkeypatch.context() as patch:
        patch.setattr(manifest_file, "verify", refuse)
        assert Counter(bad.reason for bad in build(folder).bad) == {"unreadable": 24}
    assert not build(folder).bad and len(judged) == 24


@pytest.mark.parametrize("damage", ["", "not json\n", '{"version": -1}\n', '{"version": 1}\n["000.png", 1]\n'])
def test_damaged_verdicts_are_made_anew(folder: Path, judged: list[str], damage: str):
    first = build(folder)
    (folder.parent / "cache" / "verdicts.jsonl").write_text(damage)
    assert build(folder).samples == first.samples and len(judged) == 48


def test_digest_follows_the_content_not_the_place(folder: Path, tmp_path: Path, truncate):
    first = build(folder).digest()
    moved = folder.rename(tmp_path / "moved")
    os.utime(moved / "000.png", ns=(1, 1))
    assert build(moved).digest() == first
    text = (moved / "metadata.jsonl").read_text()
    (moved / "metadata.jsonl").write_text(text.replace("picture 3", "photo 3"))
    changed = build(moved).digest()
    truncate(moved / "009.png")
    assert len({first, changed, build(moved).digest()}) == 3


def test_every_folder_and_captions_file_has_its_own_place(tmp_path: Path):
    places = {manifest_folder(tmp_path, tmp_path / name, notes) for name in "ab" for notes in (None, "x.json")}
    assert len(places) == 4 and all(tmp_path in place.parents for place in places)


def test_progress_is_shown_for_long_scans(folder: Path, monkeypatch, capsys):
    monkeypatch.setattr(progress, "EVERY_SEC", -1.0)
    build(folder)
    assert "checked 12 of 24 new images" in capsys.readouterr().err
