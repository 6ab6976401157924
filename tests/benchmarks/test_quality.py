"""The comparison on one folder: what each side is given, how it is judged, rows that are kept, the errors, the table."""

from __future__ import annotations

import importlib.util
import json
import re
import sys
from dataclasses import asdict, replace
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

import train
from benchmarks import quality
from benchmarks.caption_folder import held_out_prompts, make_folder, real_images, score_images
from benchmarks.quality import IMAGE_SIZE, PEERS, ROWS, Settings, check_peers, draw_picture, folder_of, judged, main, make_row, merged, peer_row, table, write_peer_data
from benchmarks.peer_ddpm import processor_sec
from benchmarks.tables import fill
from callbacks.stop import Stop
from datamodules.caption_sources import read_source
from runtime.config import compose

TINY = Settings(cpu_minutes=0.5, images=5, prompts=12, batch=4, peer_steps=3, seed=0)


def drawn(prompts=None) -> np.ndarray:
    return real_images(prompts or held_out_prompts(TINY.prompts), IMAGE_SIZE)


def facts(images: int = 320) -> dict[str, float]:
    return {"parameters": 2_700_000, "images": images, "steps": 10, "cpu_sec": 30.0, "sec_per_image": 0.5}


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


def test_words_are_judged_apart() -> None:
    prompts = held_out_prompts(64)
    words = [i for i, p in enumerate(prompts) if p.spec.kind == "word"]
    images = drawn(prompts)
    right = judged(prompts, images)
    assert right["all_correct"] == {**right["all_correct"], "mean": 1.0, "n": 64 - len(words)} and right["spelling"]["n"] == len(words) > 0
    images[words] = 0
    blank = judged(prompts, images)
    assert blank["all_correct"]["mean"] == 1.0 and blank["spelling"]["mean"] == 0.0
    assert "spelling" not in judged([p for p in prompts if p.spec.kind != "word"], np.delete(images, words, axis=0))


def test_peers_get_the_images_with_their_own_captions_embedded(tmp_path: Path) -> None:
    rows, prompts = make_folder(tmp_path / "images", 5, IMAGE_SIZE), held_out_prompts(3)
    write_peer_data(rows, prompts, tmp_path / "images", tmp_path / "data.pt")
    data = torch.load(tmp_path / "data.pt", weights_only=True)
    captions = sorted({row["text"] for row in rows} | {p.caption for p in prompts})
    assert [captions[i] for i in data["text_of"]] == [row["text"] for row in rows]
    assert [captions[i] for i in data["prompt_text"]] == [p.caption for p in prompts]
    assert data["images_u8"].shape == (5, 3, IMAGE_SIZE, IMAGE_SIZE) and data["embeds"].shape[:2] == data["mask"].shape == (len(captions), data["mask"].shape[1])
    encoder = quality.instantiate(quality.compose("train", ["model=imagen"]).text_encoder)
    own = encoder.encode([rows[2]["text"]])
    length = int(own.mask.sum())
    torch.testing.assert_close(data["embeds"][data["text_of"][2], :length], own.embeds[0, :length], rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("name", PEERS)
def test_a_peer_is_run_with_the_settings_of_its_row(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    image_u8, asked = torch.from_numpy(drawn()).permute(0, 3, 1, 2), []

    def ran(command, **options) -> None:
        asked.append((command, options))
        torch.save({"images_u8": image_u8, "report": facts()}, json.loads(Path(command[-1]).read_text())["out"])

    monkeypatch.setattr(quality.subprocess, "run", ran)
    found, report = peer_row(name, TINY, tmp_path, tmp_path / "data.pt", "PEER/bin/python")
    [(command, options)] = asked
    job = json.loads(Path(command[-1]).read_text())
    assert np.array_equal(found, drawn()) and report == facts()
    assert command[:3] == ["PEER/bin/python", "-m", f"benchmarks.{PEERS[name][0]}"] and options["env"]["OMP_NUM_THREADS"] == "1"
    assert (job["lr"], job["cpu_sec"], job["steps"], job["batch"], job["base_size"], job["image_size"]) == (PEERS[name][1], 30.0, 3, 4, 32, 64)
    asked_for = re.findall(r'job\["(\w+)"\]', "".join(Path(quality.__file__).with_name(f"{part}.py").read_text() for part in (PEERS[name][0], "peer_data")))
    assert set(asked_for) <= set(job) and {"lr", "cpu_sec", "batch"} <= set(asked_for)


@pytest.mark.parametrize(("minutes", "limit"), [(0.001, "00:00:00:01"), (30.0, "00:00:30:00"), (125.5, "00:02:05:30")])
def test_ours_trains_until_the_processor_seconds_are_used(minutes: float, limit: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    typed: list[str] = []
    monkeypatch.setattr(train, "main", typed.extend)
    monkeypatch.setattr(quality, "load_module", lambda path: (None, None, {"train_sec": 61.5, "path": path}))
    monkeypatch.setattr(Stop, "clock", Stop.clock)  # put back at the end
    (tmp_path / "run" / "old").mkdir(parents=True)
    assert quality.train_ours(replace(TINY, cpu_minutes=minutes, seed=4), tmp_path, ["data=captions", "trainer.max_steps=5"]) == 61.5
    cfg = compose("train", typed)
    assert (cfg.trainer.max_time, cfg.trainer.max_steps, cfg.seed, cfg.run_dir) == (limit, None, 4, str(tmp_path / "run"))
    assert Stop.clock is processor_sec and not (tmp_path / "run").exists(), "the clock of the peers; nothing of a training that did not end"
    check = Stop(limit)
    assert check.max_sec == max(1, round(60 * minutes))


def test_a_row_is_made_once_and_of_one_kind(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    threads, made = torch.get_num_threads(), []
    monkeypatch.setattr(quality, "our_row", lambda s, out, images, overrides: (made.append((images, overrides)), (drawn(), facts()))[1])
    monkeypatch.setattr(quality, "peer_row", lambda name, s, out, data, python: (made.append((name, data, python)), (drawn(), facts(64)))[1])
    for _ in range(2):
        make_row("ours", TINY, tmp_path, "python", ["seed=3"])
        make_row("diffusers", TINY, tmp_path, "python", ["seed=3"])
    torch.set_num_threads(threads)
    assert made == [(tmp_path / "images", ["seed=3"]), ("diffusers", tmp_path / "data-12.pt", "python")]
    assert (folder_of(TINY, tmp_path) / "ours" / "drawn.png").exists()
    with pytest.raises(ValueError, match="ours holds a row with other settings"):
        make_row("ours", TINY, tmp_path, "python", [])
    with pytest.raises(ValueError, match="diffusers holds a row with other settings"):
        make_row("diffusers", replace(TINY, batch=8), tmp_path, "python", ["seed=3"])
    longer = replace(TINY, cpu_minutes=2.0)
    make_row("diffusers", longer, tmp_path, "python", [])
    make_row("diffusers", replace(TINY, cpu_minutes=3.0, batch=8), tmp_path, "python", [])
    torch.set_num_threads(threads)
    lengths = merged(TINY, tmp_path)
    assert {minutes: list(rows) for minutes, rows in lengths.items()} == {"0.5": ["ours", "diffusers"], "2": ["diffusers"]}
    assert lengths["0.5"]["ours"]["scores"]["all_correct"]["mean"] == 1.0
    draw_picture(tmp_path, {"2": {}, "0.5": lengths["0.5"]}, held_out_prompts(TINY.prompts), tmp_path / "picture.png", columns=4)
    assert Image.open(tmp_path / "picture.png").size == (4 + 4 * 132, 4 + 3 * 150)


@pytest.mark.parametrize("name", ["ours", "diffusers_fast"])
def test_a_row_in_a_process_of_its_own_is_given_every_setting(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What the parent writes on the child's command line comes back as the same settings."""
    rows, asked = [], []
    monkeypatch.setattr(quality, "make_rows", lambda names, jobs, words, folder, benchmark: rows.append((names, jobs, words, folder, benchmark)))
    monkeypatch.setattr(quality, "check_peers", lambda rows, python: {})
    monkeypatch.setattr(quality, "make_row", lambda *given: asked.append(given))
    flags = ["--images=5", "--prompts=12", "--batch=4", "--peer-steps=3", f"--rows={name}", "--peer-python=P", f"--dir={tmp_path}", "--jobs=2"]
    main(["--cpu-minutes", "0.5", "2", *flags, f"--out={tmp_path / 'found.json'}", "--", "seed=3"])
    assert [(names, jobs, folder, benchmark) for names, jobs, _, folder, benchmark in rows] == [
        ([name], 2, folder_of(s, tmp_path), "quality") for s in (TINY, replace(TINY, cpu_minutes=2.0))
    ]
    for _, _, words, _, _ in rows:
        main(["--only-row", name, *words])
    assert asked == [(name, s, tmp_path, "P", ["seed=3"]) for s in (TINY, replace(TINY, cpu_minutes=2.0))]
    assert json.loads((tmp_path / "found.json").read_text())["lengths"] == {}


def test_missing_peers_are_one_line() -> None:
    assert check_peers(["ours"], "no/such/python") == {}
    with pytest.raises(FileNotFoundError, match="no such Python"):
        check_peers(ROWS, "no/such/python")
    if importlib.util.find_spec("imagen_pytorch"):
        pytest.skip("imagen-pytorch is installed here")
    with pytest.raises(ModuleNotFoundError, match="pip install imagen-pytorch diffusers"):
        check_peers(["imagen_pytorch"], sys.executable)


def test_table_and_page() -> None:
    scores = judged(held_out_prompts(64), drawn(held_out_prompts(64)))
    worse = scores | {"all_correct": {"mean": 0.5, "low": 0.4, "high": 0.6, "n": 58}, "count": {"mean": 0.75, "low": 0.6, "high": 0.9, "n": 58}}
    lengths = {"30": {"ours": facts() | {"scores": worse}, "imagen_pytorch_fast": facts(96_000) | {"scores": scores}}}
    text = table({"lengths": lengths, "real": scores})
    ours, peer, real = [[cell.strip() for cell in line.split("|")[1:-1]] for line in text.splitlines()[2:]]
    assert ours[:7] == ["30", "ours: `model=imagen`", "2.7 M", "320", "0.50", "50 [40, 60]", "75"] and ours[-1] == "100"
    assert peer[1:4] == ["imagen-pytorch, learning rate 1e-3", "2.7 M", "96,000"] and real[:3] == ["", "real images", ""]
    page = fill("a\n<!-- x -->\nold\n<!-- /x -->\nb", "x", f"{text}\n")
    assert page == f"a\n<!-- x -->\n{text}\n<!-- /x -->\nb"
    with pytest.raises(ValueError, match="<!-- y -->"):
        fill(page, "y", "")
    assert set(asdict(TINY)) == {"cpu_minutes", "images", "prompts", "batch", "peer_steps", "seed"}
