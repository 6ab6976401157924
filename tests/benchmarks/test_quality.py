"""What the quality benchmark hands to both sides and how it scores: the folder, the prompts, the errors, the tables."""

from __future__ import annotations

import importlib.util
import sys
from pathlib import Path

import pytest

from benchmarks.caption_folder import held_out_prompts, make_folder, real_images, score_images
from benchmarks.quality_imagen_pytorch import IMAGE_SIZE, Settings, benchmark, check_peer, table
from benchmarks.tables import fill
from datamodules.caption_sources import read_source


def test_folder_is_readable_kept_and_not_mixed(tmp_path: Path) -> None:
    rows = make_folder(tmp_path / "images", 5, IMAGE_SIZE)
    samples = read_source(tmp_path / "images").samples
    assert [(s.file, s.captions) for s in samples] == [(row["file_name"], (row["text"],)) for row in rows]
    before = (tmp_path / "images" / "000000.png").stat().st_mtime_ns
    assert make_folder(tmp_path / "images", 5, IMAGE_SIZE) == rows
    assert (tmp_path / "images" / "000000.png").stat().st_mtime_ns == before
    with pytest.raises(ValueError, match="holds other images than 6"):
        make_folder(tmp_path / "images", 6, IMAGE_SIZE)


def test_real_images_score_full_and_swapped_ones_do_not() -> None:
    prompts = held_out_prompts(24)
    images = real_images(prompts, IMAGE_SIZE)
    assert score_images(prompts, images)["all_correct"]["mean"] > 0.95
    assert score_images(prompts, images[::-1])["all_correct"]["mean"] < 0.2


def test_missing_peer_is_one_line() -> None:
    if importlib.util.find_spec("imagen_pytorch"):
        pytest.skip("imagen-pytorch is installed here")
    with pytest.raises(ModuleNotFoundError, match="pip install imagen-pytorch"):
        check_peer(sys.executable)
    with pytest.raises(FileNotFoundError, match="no such Python"):
        benchmark(Settings(), "no/such/python", Path("unused"))


def test_table_and_page() -> None:
    prompts = held_out_prompts(12)
    scores = score_images(prompts, real_images(prompts, IMAGE_SIZE))
    nets = {name: {"parameters": 2_000_000, "steps": 7} for name in ("base", "super_resolution")}
    result = {
        "settings": {"prompts": 12},
        "scores": {name: scores for name in ("ours", "imagen_pytorch", "real")},
        "ours": {"stages": nets, "steps": 9, "sample_sec": 6.0},
        "imagen_pytorch": {**nets, "sample_sec": 24.0},
    }
    text = table(result)
    assert "2.00+2.00" in text and "7+7" in text and "| 0.5 " in text
    page = fill("a\n<!-- x -->\nold\n<!-- /x -->\nb", "x", f"{text}\n")
    assert page == f"a\n<!-- x -->\n{text}\n<!-- /x -->\nb"
    with pytest.raises(ValueError, match="<!-- y -->"):
        fill(page, "y", "")
