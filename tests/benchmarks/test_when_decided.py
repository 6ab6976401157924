"""What is decided at which noise level: one mistake at a time, and the excess error it costs."""

from __future__ import annotations

from types import SimpleNamespace

import pytest
import torch

from benchmarks import when_decided
from benchmarks.when_decided import LEVELS, cases, errors, main, measure, table, wrong
from rng.keyed import keyed_randn
from scenes.captions import caption
from scenes.grammar import Group, SceneSpec

PAIR = SceneSpec("pair", (Group(1, "small", "red", "circle"), Group(1, "large", "blue", "square")), "left of")
SINGLE = SceneSpec("single", (Group(4, "small", "red", "circle"),))


def test_each_mistake_is_one_mistake() -> None:
    seed = next(seed for seed in range(50) if caption(PAIR, seed) == "a small red circle left of a large blue square")
    assert {name: caption(spec, seed) for name, spec in wrong(PAIR).items()} == {
        "which side": "a large blue square left of a small red circle",
        "beside or above": "a small red circle above a large blue square",
        "colour": "a small green circle left of a large blue square",
        "shape": "a small red square left of a large blue square",
        "size": "a large red circle left of a large blue square",
        "whose colour": "a small blue circle left of a large red square",
    }
    assert wrong(SINGLE)["count"].groups[0].count == 1, "four, the most, becomes one"
    assert wrong(SceneSpec("word", word="CAZ", word_colour="red"))["letters"].word == "JHG"
    same = SceneSpec("pair", (PAIR.groups[0], Group(1, "large", "red", "square")), "above")
    assert "whose colour" not in wrong(same) and "colour" in wrong(same)


def test_there_are_n_of_each_and_no_false_caption_is_the_true_one() -> None:
    found = cases(3)
    assert len(found) == 8 and all(len(rows) == 3 for rows in found.values())
    assert all(own != other for rows in found.values() for _, own, other in rows)


class Stage:
    """Predicts v exactly for captions with `good` in them, and v + 1 otherwise, below log-SNR 0; v above it."""

    conditioners: dict = {}
    denoiser = SimpleNamespace(prediction="v")

    def clean(self, batch, tag):
        return batch["image"], batch

    def told(self, values):
        return {}

    def net(self, x_t, log_snr):
        x_0, eps = self.x_0, keyed_randn(torch.arange(len(x_t)), x_t.shape[1:], "when decided")
        level = log_snr[0].double()
        alpha, sigma = level.sigmoid().sqrt().float(), (-level).sigmoid().sqrt().float()
        torch.testing.assert_close(x_t, alpha * x_0 + sigma * eps)
        off = torch.tensor([0.0 if "good" in text or level > 0 else 1.0 for text in self.texts])
        return alpha * eps - sigma * x_0 + off[:, None, None, None]


class Module:
    base = "base"
    conditioning = "text"

    def __init__(self):
        self.stages = {"base": Stage()}

    def request_fields(self, request):
        self.stages["base"].texts = request.texts
        return {}

    def eval(self):
        return self


def test_the_excess_is_that_of_the_squared_error() -> None:
    module, image = Module(), torch.rand(2, 3, 4, 4)
    module.stages["base"].x_0 = image
    assert errors(module, image, ["good", "bad"], -3.0).tolist() == pytest.approx([0.0, 1.0], abs=1e-5)
    excess = measure(module, {"count": [(image[0], "good", "bad"), (image[1], "good", "good one")]})["count"]
    assert excess == pytest.approx([0.5 if level <= 0 else 0.0 for level in LEVELS], abs=1e-5)
    module.stages["base"].denoiser = SimpleNamespace(prediction="eps")
    with pytest.raises(ValueError, match="does not predict v"):
        measure(module, {})


def test_the_table_has_a_row_for_each_mistake_and_model() -> None:
    values = [level / 1000 for level in LEVELS]
    lines = table({"a": {"count": values, "size": values}, "b": {"count": values, "size": values}}).splitlines()
    assert [line.split("|")[1].strip() for line in lines[2:]] == ["count", '"', "size", '"'] and "-6.0" in lines[2]


def test_a_real_model_is_measured_and_published(tmp_path, monkeypatch) -> None:
    monkeypatch.setattr(when_decided, "RESULTS", tmp_path)
    monkeypatch.setattr(when_decided, "PAGE", tmp_path / "imagen.md")
    monkeypatch.setattr(when_decided, "PICTURE", tmp_path / "images" / "curves.png")
    (tmp_path / "imagen.md").write_text("before\n<!-- when_decided -->\n<!-- /when_decided -->\nafter\n")
    pytest.importorskip("matplotlib")
    main(["--ckpt", "imagen-scenes", "--n", "2", "--publish"])
    text = (tmp_path / "imagen.md").read_text()
    assert "| which side" in text and "images/curves.png" in text and (tmp_path / "images" / "curves.png").exists()
    assert (tmp_path / "when_decided.json").exists()


def test_wrong_names_are_refused() -> None:
    with pytest.raises(ValueError, match="give each of 2 models a name of its own"):
        main(["--ckpt", "imagen-scenes", "imagen-scenes"])
    with pytest.raises(ValueError, match="--ckpt clip-scenes: this is no diffusion model of texts"):
        main(["--ckpt", "clip-scenes", "--n", "1"])
