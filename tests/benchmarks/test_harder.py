"""Harder scenes: each rung asks for what it says, breaks no other rule, and true drawings of it are read back."""

from __future__ import annotations

import pytest
import torch

from benchmarks import harder
from benchmarks.harder import FIRST_SEED, LADDERS, KNOWN, eligible, main, measure, read_back, scenes, table
from scenes.captions import caption
from scenes.grammar import Group, SceneSpec
from scenes.render import render
from scenes.splits import split_of


@pytest.mark.parametrize(("name", "seen", "draw"), LADDERS, ids=[name for name, _, _ in LADDERS])
def test_a_rung_asks_for_what_it_says(name: str, seen: bool, draw) -> None:
    rung = scenes(draw, 12)
    assert rung == scenes(draw, 12) and len(rung) == 12
    for seed, spec in rung:
        number = len(spec.groups) if "list" in name else spec.groups[0].count
        assert str(number) in name or "name" in name
        assert all(g.shape in KNOWN for g in spec.groups) != ("name" in name)
        assert split_of(spec) in ("train", "dev", "iid", "binding") or not seen
        image = torch.from_numpy(render(spec, seed, 64)[0]).permute(2, 0, 1)
        assert read_back([spec], image[None])[0]["all_correct"] == 1.0, caption(spec, seed)


@pytest.mark.parametrize("groups", [
    (Group(1, "large", "purple", "circle"),), (Group(4, "small", "red", "triangle"),), (Group(1, "large", "red", "square"),) * 2, (Group(6, "large", "red", "square"),),
])  # fmt: skip
def test_other_rules_are_not_broken(groups: tuple[Group, ...]) -> None:
    assert not eligible(SceneSpec("single" if len(groups) == 1 else "pair", groups), FIRST_SEED)
    assert eligible(SceneSpec("single", (Group(6, "small", "red", "square"),)), FIRST_SEED)


class Drawer:
    """Draws what it is asked for, but never more than two objects."""

    conditioning = "text"

    def __init__(self) -> None:
        self.spec_of = {caption(spec, seed): (spec, seed) for _, seen, draw in LADDERS for seed, spec in scenes(draw, 3)}

    def eval(self) -> Drawer:
        return self

    def sample(self, request, seeds):
        images = []
        for text in request.texts:
            spec, seed = self.spec_of[text]
            if sum(g.count for g in spec.groups) > 2:
                spec = SceneSpec("single", (Group(2, *(getattr(spec.groups[0], name) for name in ("size", "colour", "shape"))),))
            images.append(torch.from_numpy(render(spec, seed, 64)[0]).permute(2, 0, 1) / 127.5 - 1)
        return torch.stack(images)


def test_what_a_model_cannot_is_seen(monkeypatch: pytest.MonkeyPatch, tmp_path, capsys: pytest.CaptureFixture) -> None:
    lines, shown = measure(Drawer(), 3)
    right = {line["what"]: line["all_correct"] for line in lines}
    assert [right[f"one group of {count}"] for count in range(1, 7)] == [1, 1, 0, 0, 0, 0]
    assert right["2 objects in a list"] == 1 and right["3 objects in a list"] == 0 and right["2 objects beside 1"] == 0
    assert all(line["true_drawings"] == 1 for line in lines) and shown[0].shape == (3, 3, 64, 64)
    assert [cell.strip() for cell in table(lines).splitlines()[2].split("|")[3:5]] == ["2", "100% [44, 100]"]
    monkeypatch.setattr(harder, "RESULTS", tmp_path)
    monkeypatch.setattr(harder, "load_module", lambda ckpt: (Drawer(), None, None))
    main(["--n", "2"])
    assert "one group of 6: 0%" in capsys.readouterr().out and (tmp_path / "harder.json").is_file()
