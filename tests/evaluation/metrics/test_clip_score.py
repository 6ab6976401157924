"""CLIP score and R-precision: definitions, torchmetrics, controls, and what happens without weights."""

from __future__ import annotations

import time
from collections.abc import Sequence
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from torch import Tensor

from evaluation.extractors.clip_towers import CLIP
from evaluation.metrics.base import NotComputed, by_metric
from evaluation.metrics.clip_score import CANDIDATES, PREFIX, CLIPScore, RPrecision, as_unit, distractors
from tests.evaluation.tiny_clip import CAPTIONS, NAME, TAG, images, install


class Oracle:
    """A CLIP model that knows: images and captions of the same number have the same embedding."""

    suffix, needs = "", frozenset()

    def __init__(self, wrong: Sequence[int] = ()) -> None:
        draw = torch.Generator().manual_seed(0)
        self.vectors = torch.nn.functional.normalize(torch.randn(300, 40, generator=draw), dim=1)
        self.wrong = set(wrong)

    def __call__(self, image_u8: Tensor) -> Tensor:
        numbers = image_u8[:, 0, 0, 0].long()
        return 3 * torch.stack([-self.vectors[n] if int(n) in self.wrong else self.vectors[n] for n in numbers])

    def text(self, captions) -> Tensor:
        return 7 * self.vectors[[int(c.removeprefix(PREFIX).split()[1]) for c in captions]]

    def truncated(self, captions) -> list[bool]:
        return [len(c) > 30 for c in captions]

    def describe(self) -> dict:
        return {"extractor": "oracle"}


def numbered(n: int) -> Tensor:
    return torch.arange(n, dtype=torch.uint8)[:, None, None, None].expand(n, 3, 4, 4).contiguous()


# ---- definitions ----


def test_a_model_of_its_own_data_has_names_and_needs_of_its_own() -> None:
    clip = Oracle()
    clip.suffix, clip.needs = "_scenes", frozenset({"specs"})
    for kind, names in ((CLIPScore, ("clip_score_scenes", "clip_score_scenes_w2.5")), (RPrecision, ("r_precision_scenes",))):
        metric = kind(clip)
        assert metric.headlines == names and metric.needs == {"captions", "specs"}
        metric.update(numbered(120), numbered(120), CAPTIONS[:120])
        values = metric.compute()
        assert set(by_metric(values)) == set(names) and all(f"{name}_real" in values for name in names)
        assert all("_scenes" in key for key in metric.details())
        assert kind(Oracle()).headlines == tuple(name.replace("_scenes", "") for name in names)



def test_both_scalings_of_a_model_that_knows() -> None:
    score = CLIPScore(Oracle(wrong=range(10)))
    score.update(numbered(40), numbered(40), CAPTIONS[:40])
    found = by_metric(score.compute())
    # 30 cosines of 1 and 10 of -1: the clamp is what tells the two apart, beside the scale
    assert found["clip_score"]["value"] == pytest.approx(100 * (30 - 10) / 40)
    assert found["clip_score_w2.5"]["value"] == pytest.approx(2.5 * 30 / 40)
    assert abs(found["clip_score"]["chance"]) < 15
    assert found["clip_score"]["low"] < 50 < found["clip_score"]["high"] and found["clip_score"]["n"] == 40
    half = 1.96 * torch.tensor([100.0] * 30 + [-100.0] * 10).std() / 40**0.5
    assert found["clip_score"]["high"] == pytest.approx(50 + float(half))


def test_real_images_are_the_control_of_a_generator() -> None:
    score, precision = CLIPScore(Oracle()), RPrecision(Oracle())
    for evaluator in (score, precision):
        evaluator.update(numbered(120), numbered(120).flip(0), CAPTIONS[:120])
    values = score.compute() | precision.compute()
    assert values["clip_score_real"] == pytest.approx(100) and abs(values["clip_score"]) < 10
    assert values["clip_score_w2.5_real"] == pytest.approx(2.5)
    assert values["r_precision_real"] == 1 and values["r_precision"] < 0.05


def test_r_precision_counts_own_captions_found_among_a_hundred() -> None:
    precision = RPrecision(Oracle(wrong=range(30)))
    precision.update(numbered(120), numbered(120), CAPTIONS[:120])
    values = precision.compute()
    assert values["r_precision"] == 90 / 120 and values["r_precision_n"] == 120
    assert values["r_precision_low"] < 0.75 < values["r_precision_high"]
    assert values["r_precision_chance"] < 0.05
    assert precision.unit == "%" and precision.protocol()["candidates"] == 100


def test_a_tie_is_no_hit() -> None:
    oracle = Oracle()
    oracle.vectors[:] = oracle.vectors[0]
    precision = RPrecision(oracle)
    precision.update(numbered(120), numbered(120), CAPTIONS[:120])
    assert precision.compute()["r_precision"] == 0


def test_distractors_are_others_all_different_and_fixed_by_the_index() -> None:
    for own in (0, 57, 149):
        drawn = distractors(3, own, 150)
        assert len(set(drawn)) == CANDIDATES - 1 and own not in drawn and set(drawn) <= set(range(150))
    assert distractors(3, 0, 150) == distractors(3, 0, 150) != distractors(4, 0, 150)
    assert sorted(distractors(0, 5, 100)) == [i for i in range(100) if i != 5]


def test_the_uncertain_model_scores_by_chance(clip: CLIP) -> None:
    precision = RPrecision(clip)
    precision.update(images(130, 1), images(130), CAPTIONS)
    values = precision.compute()
    assert values["r_precision"] < 0.08 and values["r_precision_real"] < 0.08


def test_repeated_captions_are_too_few_to_choose_among() -> None:
    precision = RPrecision(Oracle())
    precision.update(numbered(120), numbered(120), [CAPTIONS[i % 10] for i in range(120)])
    with pytest.raises(NotComputed, match="these 120 images have 10: pass a larger n"):
        precision.compute()


def test_a_repeated_caption_is_never_its_own_distractor() -> None:
    precision = RPrecision(Oracle())
    twice = [i % 100 for i in range(200)]
    precision.update(numbered(100)[twice], numbered(100)[twice], [CAPTIONS[i] for i in twice])
    assert precision.compute()["r_precision"] == 1


# ---- against torchmetrics ----


def test_torchmetrics_agrees(clip: CLIP, weights: Path) -> None:
    """On the same tensors: torchmetrics scales by 100, clamps the mean at 0, and puts nothing before a caption."""
    from torchmetrics.multimodal.clip_score import CLIPScore as Theirs

    class Model(torch.nn.Module):
        config = SimpleNamespace(text_config=SimpleNamespace(max_position_embeddings=77))

        def get_image_features(self, pixel_values):
            return clip(pixel_values.to(torch.uint8))

        def get_text_features(self, texts, attention_mask):
            return clip.text([CAPTIONS[int(i)] for i in texts[:, 0]])

    def processor(text=None, images=None, **_):
        if text is not None:
            ids = torch.tensor([[CAPTIONS.index(t)] for t in text])
            return {"input_ids": ids, "attention_mask": torch.ones_like(ids)}
        return {"pixel_values": torch.stack(images).float()}

    theirs = Theirs(model_name_or_path=lambda: (Model(), processor))
    ours = CLIPScore(clip)
    for start in (0, 20):
        fake = images(20, start)
        nearest = (as_unit(clip(fake)) @ as_unit(clip.text(CAPTIONS)).T).argmax(1)  # or the mean would be about 0
        captions = [CAPTIONS[i] for i in nearest]
        theirs.update(list(fake), captions)
        ours.update(fake, fake, captions)
    value = ours.compute()["clip_score"]
    assert value > 2 and value == pytest.approx(float(theirs.compute()), rel=1e-5)


# ---- batches, processes, captions ----


@pytest.mark.parametrize("kind", [CLIPScore, RPrecision])
def test_batches_and_processes_change_nothing(clip: CLIP, kind: type) -> None:
    real, fake = images(130, 1), images(130)
    whole = kind(clip)
    whole.update(real, fake, CAPTIONS)
    ranks = [kind(clip), kind(clip)]
    for rank, evaluator in enumerate(ranks):
        mine = list(range(130))[rank::2]
        for start in range(0, len(mine), 7):
            part = mine[start : start + 7]
            evaluator.update(real[part], fake[part], [CAPTIONS[i] for i in part], indices=part)
    rows = [evaluator.rows for evaluator in ranks]
    ranks[0].sync(lambda own: rows)
    assert ranks[0].compute() == whole.compute()
    whole.reset()
    with pytest.raises(NotComputed, match="no images"):
        whole.compute()


def test_truncated_captions_are_counted(clip: CLIP) -> None:
    score = CLIPScore(clip)
    score.update(images(4), images(4), ["a red circle", "a red circle above " * 30, "word " * 75, "word " * 76])
    score.compute()
    assert score.details()["clip_score_truncated"] == {"captions": 2, "of": 4}
    assert len(score.details()["clip_score_cosines"]) == 4


def test_the_card_names_the_model(clip: CLIP) -> None:
    score = CLIPScore(clip)
    score.update(images(2), images(2), CAPTIONS[:2])
    score.compute()
    protocol = score.protocol()
    assert protocol["model"] == f"open_clip {NAME}/{TAG}" and len(protocol["extractor_sha256"]) == 64
    assert "A photo depicts" in protocol["clip_score_w2.5"] and score.section == "text"


# ---- what is missing ----


def test_without_weights_and_network_it_says_so_at_once(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    install(tmp_path, monkeypatch)
    for allow in (False, True):
        score, began = CLIPScore(CLIP(NAME, TAG, allow_download=allow)), time.monotonic()
        with pytest.raises(NotComputed, match=r"clip\.weights=FILE") as error:
            score.update(images(2), images(2), CAPTIONS[:2])
        assert "\n" not in str(error.value) and time.monotonic() - began < 5


def test_images_without_captions_are_not_judged(clip: CLIP) -> None:
    assert CLIPScore.needs == {"captions"} and RPrecision.needs == {"captions"}
    with pytest.raises(NotComputed, match="have none"):
        CLIPScore(clip).update(images(2), images(2), None)
    with pytest.raises(ValueError, match="1 captions for 2 generated and 2 real"):
        CLIPScore(clip).update(images(2), images(2), ["x"])
    with pytest.raises(ValueError, match="must be uint8"):
        CLIPScore(clip).update(images(2).float(), images(2), ["x", "y"])
