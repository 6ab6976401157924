"""A cascade of diffusion stages: what each is handed in training and sampling, noted by recorders, and refusals."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from contracts import Batch, Request
from lightning_modules.cascade import Cascade
from lightning_modules.spaces import Embeddings, Pixels
from lightning_modules.stage import DiffusionStage
from lightning_modules.super_resolution import LowResolution
from networks.conditioners import AugmentConditioner, Conditioner, LabelConditioner, TextConditioner


class SeesLowres(Conditioner):
    """A low-resolution image without weights of its own."""

    reads, droppable = "lowres", False


class Stage(DiffusionStage):
    """A stage that keeps what it is given; its loss is 1, 2, 3, ... times its size and its picture shows its size."""

    def __init__(self, size: int, lowres: int | None = None, **kwargs: Any) -> None:
        below = None if lowres is None else LowResolution(lowres)
        if lowres is not None:
            kwargs["conditioners"] = kwargs.get("conditioners", {}) | {"lowres": SeesLowres()}
        super().__init__(nn.Linear(2, 2), space=Pixels(size), lowres=below, schedule=None, sampler=print, **kwargs)

    def loss(self, batch: Batch, u: Tensor, tag: str) -> Tensor:
        self.given = dict(batch=batch, u=u, tag=tag)
        return torch.arange(1.0, len(batch["image"]) + 1) * self.space.image_size

    def sample(self, batch: Batch, seeds: Any, tag: str, **options: Any) -> Tensor:
        self.given = dict(batch=batch, seeds=seeds, tag=tag, **options)
        size = self.space.image_size
        return torch.full((len(seeds), 3, size, size), size / 100)


class Told(Cascade):
    """A cascade whose stages are told one more field."""

    def fields(self, batch: Batch) -> Batch:
        return batch | {"more": 2 * batch["seed"]}

    def request_fields(self, request: Request) -> Batch:
        return {"texts": list(request.texts)}


def assembled(world_size: int = 1, rank: int = 0, share: float = 0.5, family: type[Cascade] = Told, **kwargs: Any) -> Any:
    stages = {"small": Stage(8), "middle": Stage(16, 8, batch_share=share), "large": Stage(32, 16)}
    module = family(stages, **kwargs)
    module._trainer = SimpleNamespace(world_size=world_size, global_rank=rank)
    return module


def train_batch(n: int = 8, **more: Any) -> Batch:
    return {"image": torch.rand(n, 3, 32, 32), "caption": list("abcdefgh")[:n], "seed": torch.arange(n) + 40, **more}


NAMES = ("small", "middle", "large")

# ---- training ----


def test_each_stage_gets_its_share_of_the_batch_with_every_field_and_its_name() -> None:
    module, batch = assembled(), train_batch()
    losses = module.losses(batch)
    for name, n in (("small", 8), ("middle", 4), ("large", 8)):
        given = module.stages[name].given
        assert given["tag"] == name and sorted(given["batch"]) == ["caption", "image", "more", "seed"]
        assert torch.equal(given["batch"]["image"], batch["image"][:n]) and given["batch"]["caption"] == batch["caption"][:n]
        assert torch.equal(given["batch"]["seed"], batch["seed"][:n])
        assert torch.equal(given["batch"]["more"], 2 * batch["seed"][:n]), "what the family adds is cut, too"
        assert torch.equal(given["u"], module.quantiles(n, name))
    assert {k: v.item() for k, v in losses.items()} == {
        "loss": 36 + 40 + 144, "loss_small": 36, "loss_middle": 2.5 * 16, "loss_large": 144
    }  # fmt: skip
    tiny = assembled(share=0.1)
    tiny.losses(train_batch(2))
    assert len(tiny.stages["middle"].given["batch"]["image"]) == 1


def test_of_a_single_stage_the_loss_is_reported_once() -> None:
    module = Told({"only": Stage(8)})
    assert {k: v.item() for k, v in module.losses(train_batch()).items()} == {"loss": 36}


def test_validation_is_of_every_image_at_the_quantile_it_brings() -> None:
    module = assembled().eval()
    quantile = torch.rand(8)
    losses = module.losses(train_batch(quantile=quantile))
    for name in NAMES:
        assert torch.equal(module.stages[name].given["u"], quantile), "a share of the batch is for training"
    assert losses["loss_middle"].item() == 4.5 * 16


def test_images_are_counted_over_all_ranks_in_training_only() -> None:
    module = assembled(world_size=4, train_stages=["small", "middle"])
    module.eval().losses(train_batch())
    assert [int(s.images_trained) for s in module.stages.values()] == [0, 0, 0]
    for _ in range(2):
        module.train().losses(train_batch())
    assert [int(s.images_trained) for s in module.stages.values()] == [64, 32, 0]


def test_only_stages_in_training_learn_and_each_is_clipped_alone() -> None:
    module = assembled(train_stages=["middle"])
    assert [all(p.requires_grad for p in s.parameters()) for s in module.stages.values()] == [False, True, False]
    assert not any(p.requires_grad for name in ("small", "large") for p in module.stages[name].parameters())
    assert list(module.losses(train_batch())) == ["loss", "loss_middle"]
    both = assembled(train_stages=["small", "large"]).clip_groups()
    assert list(both) == ["small", "large"] and all(len(group) == 2 for group in both.values())
    assert [id(p) for p in both["large"]] != [id(p) for p in both["small"]]
    assert list(module.clip_groups()) == ["middle"]
    assert list(assembled().stages) == list(NAMES)
    assert assembled().train_stages == list(NAMES)


@pytest.mark.parametrize("world", [1, 3, 4])
def test_noise_levels_of_all_ranks_together_are_even_and_of_this_batch_stage_and_run(world: int) -> None:
    ranks = [assembled(world_size=world, rank=rank) for rank in range(world)]
    for number in range(6):
        for module in ranks:
            module.batches_seen = number
        together = torch.cat([module.quantiles(4, "small") for module in ranks])
        assert 0 <= together.min() and together.max() < 1
        n = 4 * world
        torch.testing.assert_close(together.sort().values.diff(), torch.full((n - 1,), 1 / n))
        own = ranks[-1].quantiles(4, "small")
        torch.testing.assert_close((own - own[0]) % 1, torch.arange(4) / 4)

    def first(tag: str = "small", batch: int = 0, seed: int = 0) -> float:
        module = assembled()
        module.batches_seen, module.run_seed = batch, seed
        return module.quantiles(4, tag).min().item()

    assert len({first(), first(tag="large"), first(batch=1), first(seed=1)}) == 4 and first() == first()


def test_rank_by_rank_the_levels_are_those_of_the_whole_batch() -> None:
    """Rank r holds samples r, r + world, ...: their levels are what one process gives these samples."""
    whole = assembled().quantiles(6, "small")
    for rank in range(3):
        torch.testing.assert_close(assembled(world_size=3, rank=rank).quantiles(2, "small"), whole[rank::3])


# ---- sampling ----


def trained(**kwargs: Any) -> Any:
    module = assembled(**kwargs)
    for stage in module.stages.values():
        stage.images_trained += 1
    return module


def ask(*texts: str, **more: Any) -> Request:
    return Request(len(texts), texts=texts, **more)


def test_stages_are_drawn_in_order_each_from_the_one_below_under_its_own_name() -> None:
    module, sampler = trained(), object()
    image = module.sample(ask("a b", ""), seeds=[4, 9], sampler=sampler, threshold="static", aug_level=0.2, num_steps=6)
    assert image.shape == (2, 3, 32, 32)
    for (name, stage), below in zip(module.stages.items(), (None, 0.08, 0.16)):
        given = stage.given
        assert given["tag"] == name and given["seeds"] == [4, 9] and given["batch"] == {"texts": ["a b", ""]}
        assert given["lowres"] is None if below is None else float(given["lowres"].mean()) == pytest.approx(below)
        assert (given["sampler"], given["threshold"]) == (sampler, "static") and given["device"] == module.device
        assert given["aug_level"] == (None if below is None else 0.2), "the base stage has no low-resolution image"
        assert given["num_steps"] == 6 and given["guidance_scale"] is None


def test_numbers_for_one_stage_reach_that_stage() -> None:
    module = trained()
    module.sample(ask("a"), seeds=[0], num_steps={"middle": 3, "large": 5}, guidance_scale={"small": 2.0, "large": 0.0})
    assert [module.stages[n].given["num_steps"] for n in NAMES] == [None, 3, 5]
    assert [module.stages[n].given["guidance_scale"] for n in NAMES] == [2.0, None, 0.0]
    module.sample(ask("a"), seeds=[0], guidance_scale=7.0)
    assert [module.stages[n].given["guidance_scale"] for n in NAMES] == [7.0, None, None]
    lowres = torch.zeros(1, 3, 8, 8)
    drawn = module.sample(ask("a", images=lowres), seeds=[0], stages=["middle"], guidance_scale=3.0)
    assert drawn.shape[-1] == 16
    assert module.stages["middle"].given["guidance_scale"] == 3.0
    assert torch.equal(module.stages["middle"].given["lowres"], lowres)


def test_sampling_is_refused_for_a_stage_that_saw_no_image() -> None:
    module = trained()
    assert module.sampling_refusal() is None
    module.stages["large"].images_trained.zero_()
    assert "stage 'large' is not trained: train it with model.train_stages=[large]" in module.sampling_refusal()
    assert module.sampling_refusal(["small", "middle"]) is None
    with pytest.raises(ValueError, match="stage 'large' is not trained"):
        module.sample(ask("a"), seeds=[0])
    assert Told({"only": Stage(8)}).sampling_refusal() == "the model is not trained yet"


def test_refusals_are_one_clear_line() -> None:
    module = trained()
    for options, message in (
        (dict(stages=[]), r"stages=\[\]: name at least one of small, middle, large"),
        (dict(stages=["top"]), r"stages=\['top'\]: there is no stage 'top', only small, middle, large"),
        (dict(seeds=[0, 1]), "2 seeds for 1 images: give one seed per image"),
        (dict(stages=["middle"]), "stage 'middle' starts from a low-resolution image: give images"),
    ):
        with pytest.raises(ValueError, match=message):
            module.sample(ask("a"), **{"seeds": [0]} | options)


def test_a_cascade_begins_at_a_base_and_each_stage_at_the_one_below() -> None:
    with pytest.raises(ValueError, match="'up' starts from lowres.size=8, but the stage before it gives None"):
        Told({"up": Stage(16, 8)})
    with pytest.raises(ValueError, match="'top' starts from lowres.size=8, but the stage before it gives 16"):
        Told({"base": Stage(8), "up": Stage(16, 8), "top": Stage(32, 8)})
    with pytest.raises(ValueError, match="'second' starts from lowres.size=None, but the stage before it gives 8"):
        Told({"base": Stage(8), "second": Stage(8)})
    with pytest.raises(ValueError, match="stages is empty"):
        Told({})
    with pytest.raises(ValueError, match=r"train_stages=\[\]: name at least one of small, middle, large"):
        assembled(train_stages=[])
    with pytest.raises(ValueError, match="train_stages: there is no stage 'sr', only small, middle, large"):
        assembled(train_stages=["small", "sr"])


def test_what_draws_no_images_comes_before_what_does() -> None:
    prior = Stage(8)
    prior.space = Embeddings(4)
    module = Cascade({"prior": prior, "base": Stage(8), "up": Stage(16, 8)})
    assert module.base == "base" and Cascade({"prior": prior}).base == "prior"
    with pytest.raises(ValueError, match="stage 'prior' draws no images: it belongs before the stages that do"):
        Cascade({"base": Stage(8), "prior": prior})


def test_settings_are_by_stage_where_there_are_several() -> None:
    found = assembled().sampling_settings()
    assert found["small.num_steps"] == 50 and found["large.aug_level"] == 0.0 and "small.aug_level" not in found
    assert Told({"only": Stage(8)}).sampling_settings() == Stage(8).settings()


# ---- what the stages are told without a family of its own ----


def test_what_a_request_holds_follows_from_the_conditioners() -> None:
    label, text = LabelConditioner(4, 6), TextConditioner(4, 6, 6, head_dim=2)
    for conditioners, kind in (
        ({}, "none"), ({"augment": AugmentConditioner(6)}, "none"), ({"label": label}, "label"),
        ({"label": label, "text": text}, "text"),
    ):  # fmt: skip
        assert Cascade({"only": Stage(8, conditioners=conditioners)}).conditioning == kind
    one_of_two = {"base": Stage(8), "up": Stage(16, 8, conditioners={"label": label})}
    assert Cascade(one_of_two).conditioning == "label"


def test_classes_are_read_from_a_request() -> None:
    module = Cascade({"base": Stage(8), "up": Stage(16, 8, conditioners={"label": LabelConditioner(4, 6)})})
    fields = module.request_fields(Request(3, labels=[3, None, 0]))
    assert fields["label"].tolist() == [3, 0, 0] and fields["label_keep"].tolist() == [True, False, True]
    assert not module.request_fields(Request(2))["label_keep"].any(), "images of any class where none is asked for"
    for wrong in (4, -1):
        with pytest.raises(ValueError, match=f"label={wrong}: the model knows the classes 0 to 3"):
            module.request_fields(Request(2, labels=[0, wrong]))
    assert Cascade({"only": Stage(8)}).request_fields(Request(2)) == {}
    batch = {"image": torch.zeros(1)}
    assert module.fields(batch) is batch
