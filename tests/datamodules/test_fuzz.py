"""Whatever a folder of images holds is used or refused by name: what is usable and what is refused add up."""

from __future__ import annotations

import os
import warnings
from pathlib import Path

import pytest

from datamodules.caption_sources import Sample, Source, read_source
from datamodules.decode import REASONS
from datamodules.manifest import build_manifest
from evaluation.image_files import read_folder
from tests.fuzz import NAMES, fuzzed_images, fuzzed_metadata, images


@pytest.mark.parametrize("n", [1500, pytest.param(15_000, marks=pytest.mark.slow)])
def test_fuzzed_images_are_used_or_refused(tmp_path: Path, n: int) -> None:
    root = tmp_path / "images"
    root.mkdir()
    names = []
    for name, content in fuzzed_images(0, n):
        (root / name).write_bytes(content)
        names.append(name)
    source = Source("fuzz", [Sample(name, ("x",)) for name in names])
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        manifest = build_manifest(root, source, tmp_path / "cache")
        folder = read_folder(root, "images", 1.0)
    assert manifest.total == len(names) == len(set(names)) == n
    assert sorted([s.file for s in manifest.samples] + [bad.file for bad in manifest.bad]) == names
    assert {bad.reason for bad in manifest.bad} <= set(REASONS) and n // 10 < len(manifest.samples) < n - n // 10
    assert len(folder) + len(folder.broken) == len(folder.files) and set(folder.files) <= set(names)
    assert all("\n" not in line for line in folder.broken.values())


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """A folder of three images with a secret beside it, and links that lead there."""
    root = tmp_path / "images"
    (root / "c").mkdir(parents=True)
    (tmp_path / "beside").mkdir()
    for path in (*(root / name for name in NAMES), tmp_path / "outside.png", tmp_path / "beside" / "secret.png"):
        path.write_bytes(images()[0][1])
    (root / "link.png").symlink_to(tmp_path / "outside.png")
    (root / "linked").symlink_to(tmp_path / "beside")
    return root


@pytest.mark.parametrize("n", [600, pytest.param(20_000, marks=pytest.mark.slow)])
def test_fuzzed_tables_are_read_or_refused_in_one_line(root: Path, tmp_path: Path, n: int) -> None:
    inside = {os.path.realpath(root / name) for name in NAMES}
    read = refused = 0
    for name, content in fuzzed_metadata(0, n):
        path = root / name
        path.write_bytes(content)
        try:
            source = read_source(root, None if name.startswith("metadata") else str(path))
            manifest = build_manifest(root, source, tmp_path / "cache")
        except (ValueError, FileNotFoundError) as error:
            refused += 1
            assert str(path) in str(error) or str(root) in str(error)
            assert "\n" not in str(error) and len(str(error)) < 1000, content
        else:
            read += 1
            assert manifest.total == len(source.samples) + len(source.orphans) + len(source.refused)
            assert len(manifest.samples) + len(manifest.bad) == manifest.total
            assert all(os.path.realpath(root / sample.file) in inside for sample in manifest.samples), content
        finally:
            path.unlink()
    assert read + refused == n and min(read, refused) > n // 10
