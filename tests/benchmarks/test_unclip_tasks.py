"""What the command that measures unCLIP's tasks counts, with models whose pictures are known."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest
import torch

from benchmarks import unclip_tasks
from benchmarks.unclip_tasks import EDITS, changes, edited, measure, mean_cosines, pictures, similarities, table
from contracts import Request
from datamodules.base import to_model_range
from scenes.captions import caption
from scenes.grammar import COLOURS, Group, SceneSpec
from scenes.parser import parse
from scenes.render import render
from scenes.splits import split_of

HUES = list(COLOURS)


def last_stage(size: int) -> dict[str, SimpleNamespace]:
    return {"upsampler": SimpleNamespace(space=SimpleNamespace(image_size=size))}


class Repainter:
    """An embedding is the colour of what is seen; drawing gives a circle of the embedding's largest colour."""

    stages = last_stage(64)
    device = torch.device("cpu")

    def embedding_of(self, request: Request) -> torch.Tensor:
        return self._one_hot([parse(((x.permute(1, 2, 0) + 1) * 127.5).round().byte().numpy()).objects[0].colour for x in request.images])

    def captions_embedded(self, captions: list[str]) -> torch.Tensor:
        return self._one_hot([next(hue for hue in HUES if hue in text.split()) for text in captions])

    def noise_of(self, z: torch.Tensor, request: Request, *, num_steps: int) -> torch.Tensor:
        return request.images

    def draw_embedded(self, z: torch.Tensor, request: Request, *, seeds: Any, x_T: torch.Tensor, num_steps: int) -> torch.Tensor:
        specs = [SceneSpec("single", (Group(1, "large", HUES[k], "circle"),)) for k in z.argmax(1).tolist()]
        return torch.stack([to_model_range(render(spec, 0, 64)[0]) for spec in specs])

    def _one_hot(self, hues: list[str]) -> torch.Tensor:
        return torch.nn.functional.one_hot(torch.tensor([HUES.index(hue) for hue in hues]), len(HUES)).float()


class Copier(Repainter):
    """Draws the given image again whatever the embedding says."""

    def draw_embedded(self, z: torch.Tensor, request: Request, *, seeds: Any, x_T: torch.Tensor, num_steps: int) -> torch.Tensor:
        return x_T


@pytest.mark.parametrize("fact", EDITS)
def test_an_edit_changes_one_fact_of_a_scene_into_one_of_training(fact: str) -> None:
    pairs = changes(fact, 12)
    assert len(pairs) == 12
    for before, after in pairs:
        assert split_of(before) == "iid" and split_of(after) == "train"
        (a,), (b,) = before.groups, after.groups
        assert [name for name in ("count", "size", "colour", "shape") if getattr(a, name) != getattr(b, name)] == [fact]
        assert caption(before, 0) != caption(after, 0)


def test_an_edit_turns_the_embedding_and_no_turn_is_the_way_back() -> None:
    pairs = changes("colour", 10)
    given, back = edited(Repainter(), pairs, 0.0, steps=2)
    assert given.shape == back.shape == (10, 3, 64, 64)
    torch.testing.assert_close(given, edited(Copier(), pairs, 0.5, steps=2)[1])
    hue = [unclip_tasks.parse(x.permute(1, 2, 0).numpy()).objects[0].colour for x in back]
    assert hue == [before.groups[0].colour for before, _ in pairs]
    hue = [unclip_tasks.parse(x.permute(1, 2, 0).numpy()).objects[0].colour for x in edited(Repainter(), pairs, 0.5, steps=2)[1]]
    assert hue == [after.groups[0].colour for _, after in pairs]


def test_the_shares_tell_a_model_that_edits_from_one_that_copies(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(unclip_tasks, "similarities", lambda module, n: {"caption": {"own image": 0.5}})
    monkeypatch.setattr(unclip_tasks, "EDITS", {"colour": EDITS["colour"]})
    edits, copies = (measure(kind(), 4, 8, 2) for kind in (Repainter, Copier))
    assert edits["edits"]["colour"]["new"]["value"] == 1 and edits["edits"]["colour"]["old"]["value"] == 0
    assert copies["edits"]["colour"]["new"]["value"] == 0 and copies["edits"]["colour"]["old"]["value"] == 1
    assert copies["way back"]["psnr_db"] > 50 and edits["way back"]["psnr_db"] < 40
    assert copies["way back"]["drawn as told"]["value"] == copies["way back"]["given as told"]["value"] == 1
    assert edits["way back"]["drawn as told"]["value"] < 0.5  # it draws one large circle whatever there was
    assert "| colour" in table(copies) and "0 % [0, 32]" in table(copies)


def test_similarities_of_known_vectors() -> None:
    eye = torch.eye(4)
    found = mean_cosines(eye, eye, -eye)
    assert found == {"own image": 1, "own caption": -1, "another image": 0}
    found = mean_cosines(eye.roll(2, 0), eye, eye)
    assert found == {"own image": 0, "own caption": 0, "another image": 1}


def test_similarities_ask_the_prior_for_embeddings_of_scenes_that_training_lacks() -> None:
    asked: dict[str, Any] = {}

    def images(x: torch.Tensor) -> torch.Tensor:
        asked.setdefault("images", []).append(x)
        return torch.nn.functional.normalize(x.flatten(1)[:, ::97], dim=1)

    def texts(captions: list[str], device: Any) -> dict[str, torch.Tensor]:
        asked["captions"] = captions
        return {"text_vector": torch.nn.functional.normalize(torch.ones(len(captions), images(asked["images"][0]).shape[1]), dim=1)}

    def fields(text: Any, seeds: Any, *, guidance_scale: dict[str, float]) -> dict[str, torch.Tensor]:
        asked.setdefault("scales", []).append(guidance_scale["draws"])
        return {"image_embeds": text["text_vector"]}

    module = SimpleNamespace(
        stages=last_stage(32), device="cpu", priors={"diffusion": "draws"}, embedder=SimpleNamespace(images=images, texts=texts), image_fields=fields
    )
    rows = similarities(module, 6)
    assert asked["scales"] == [1.0, 2.0] and len(asked["captions"]) == 6
    assert rows["caption"] == rows["prior, guidance 1"] == rows["prior, guidance 2"] and rows["caption"]["own caption"] == pytest.approx(1)
    assert rows["image"]["own image"] == pytest.approx(1) and rows["image"]["another image"] < 0.999


def test_pictures_are_of_the_scenes() -> None:
    specs = [before for before, _ in changes("count", 5)]
    drawn = pictures(specs, 64)
    assert drawn.shape == (5, 3, 64, 64) and -1 <= drawn.min() < drawn.max() <= 1
    counted = [len(parse(((x.permute(1, 2, 0) + 1) * 127.5).round().byte().numpy()).objects) for x in drawn]
    assert counted == [spec.groups[0].count for spec in specs]
