"""Sample grids and failures: the same prompts side by side, real images on top, the worst chosen by rule."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from evaluation.report import FinishedEvaluation
from evaluation.report.html_parts import models_of
from evaluation.report.sample_pictures import FAILURES, OPEN, blocks, describe, failures, lowest, reduced, samples, verdict
from tests.evaluation.report_models import changed, models, text


def test_grids_show_the_same_prompts_with_the_real_image_on_top(results: list[FinishedEvaluation], page: str) -> None:
    grid = re.search(r"<h3>iid</h3>(<div class=\"grid\">.*?)<h3>", page, re.DOTALL).group(1)
    alts = re.findall(r'alt="([^"]*)"', grid)
    caption = results[0].splits["iid"]["captions"][0].replace('"', "&quot;")
    assert alts[:3] == [
        f"real image for: {caption}",
        f"alpha, prompt: {caption}",
        f"beta &lt;b&gt;&amp;&quot;&#x27;, prompt: {caption}",
    ]
    assert len(alts) == 4 * 8 and "gamma, not asked" in re.sub(r"<[^>]+>", "", grid).replace("&nbsp;", "")
    assert "seed 1000037" in grid


def test_models_with_other_prompts_have_a_grid_of_their_own(results: list[FinishedEvaluation]) -> None:
    other = changed(results[1])
    other.data["splits"]["iid"]["captions"] = ["something else"] * 8
    models = models_of([results[0], other])
    assert [len(block.models) for block in blocks(models)] == [1, 1, 2]
    assert [block.split for block in blocks(models)] == ["iid", "iid", "combo"]


def test_models_without_prompts_join_the_grid_of_their_data(results: list[FinishedEvaluation]) -> None:
    def on(result: FinishedEvaluation, name: str) -> FinishedEvaluation:
        return changed(result, data={"name": name})

    together = blocks(models_of([on(results[2], "scenes"), on(results[0], "scenes")]))
    apart = blocks(models_of([on(results[2], "other"), on(results[0], "scenes")]))
    assert [[m.name for m in block.models] for block in together if block.split == "iid"] == [["gamma", "alpha"]]
    assert [[m.name for m in block.models] for block in apart if block.split == "iid"] == [["alpha"], ["gamma"]]


def drawn(folder: Path, n: int, size: int = 2) -> None:
    """n pictures in samples/ and as many in real/."""
    for name in ("samples", "real"):
        (folder / name).mkdir(parents=True, exist_ok=True)
        for i in range(n):
            Image.fromarray(np.full((size, size, 3), i, dtype=np.uint8)).save(folder / name / f"{i:05d}.png")


def split(n: int, **more: Any) -> dict[str, Any]:
    return {"n": n, "samples": "samples", "real": "real", **more}


def test_a_card_names_prompt_seed_and_verdict(tmp_path: Path) -> None:
    drawn(tmp_path, 2)
    details = {"wrong": [["<colour>", "count"], []]}
    entry = split(2, captions=["<p>", "q"], seeds=[7, 8], details=details)
    first, second = samples(models({"splits": {"<iid>": entry}}, folder=tmp_path)).split('<div class="card"')[1:]
    assert text("<" + first) == "real m0 ✗ &lt;colour&gt;, count &lt;p&gt; seed 7"
    assert text("<" + second) == "real m0 ✓ all right q seed 8" and "grid-row:span 3" in first
    assert re.findall('alt="([^"]*)"', first) == ["real image for: &lt;p&gt;", "m0, prompt: &lt;p&gt;"]
    assert not re.search("<p>q|<colour>|<iid>", first + second)


def test_seeds_that_differ_stand_beside_their_models(tmp_path: Path) -> None:
    drawn(tmp_path, 1)
    shown = samples(models(*({"splits": {"iid": split(1, labels=[3], seeds=[s])}} for s in (7, 8)), folder=tmp_path))
    assert "m0, seed 7" in text(shown) and "m1, seed 8" in text(shown) and "class 3" in text(shown)


def test_more_than_the_first_prompts_are_folded(tmp_path: Path) -> None:
    drawn(tmp_path, OPEN + 3)
    shown = samples(models({"splits": {"iid": split(OPEN + 3, labels=list(range(OPEN + 3)))}}, folder=tmp_path))
    opened, folded = shown.split("<details>")
    assert opened.count('class="card"') == OPEN and folded.startswith("<summary>3 more prompts of iid")
    assert samples(models({"splits": {"iid": {"n": 2}}})) == ""


def test_a_prompt_in_words() -> None:
    assert (describe(None), describe("a cat"), describe(0)) == ("no prompt", "a cat", "class 0")
    (model,) = models({"splits": {"iid": {"n": 2, "details": {"wrong": [[]]}}}})
    assert "all right" in verdict(model, "iid", 0) and verdict(model, "iid", 1) == ""


def test_failures_are_the_lowest_scores_first_whose_picture_is_there(tmp_path: Path) -> None:
    drawn(tmp_path, 12)
    scores = [{"count": 1.0, "colour": 1.0}, {"count": 0.0, "colour": 1.0}, {"count": 0.0, "colour": 0.0}]
    entries = {"<a>": split(3, details={"scores": scores}, seeds=[5, 6, 7], captions=["p", "q", "<r>"]),
               "b": split(20, details={"scores": scores[1:2] * 20})}  # fmt: skip
    found = models({"splits": entries}, folder=tmp_path)
    assert lowest(found[0]) == [("<a>", 2), ("<a>", 1), *[("b", i) for i in range(FAILURES - 2)]]
    shown = failures(found)
    assert shown.count('class="card"') == FAILURES and "&lt;r&gt; &lt;a&gt; 2, seed 7" in text(shown) and "<a>" not in shown
    assert lowest(models({"splits": {"b": split(20, details={"scores": scores[2:] * 20})}}, folder=tmp_path)[0]) == [
        ("b", i) for i in range(FAILURES)
    ]
    assert failures(models({"splits": {"a": split(1, details={"scores": scores[:1]})}}, folder=tmp_path)) == ""


def test_large_pictures_are_said_to_be_reduced(tmp_path: Path) -> None:
    drawn(tmp_path / "small", 1)
    drawn(tmp_path / "large", 1, 129)
    assert [bool(reduced(models({"splits": {"iid": split(1)}}, folder=tmp_path / f))) for f in ("small", "large")] == [False, True]
