"""One checkpoint: its splits, what the model adds to the real images, and importance samples."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from omegaconf import OmegaConf

from evaluation.checkpoint_evaluation import batch_of, default_splits, few, prompts_of, set_importance_samples, shortest, with_model
from evaluation.drawing import seeds
from evaluation.metrics.prompt_set import PromptSet
from evaluation.metrics.run_evaluators import ALONE, Ranks
from runtime.config import REPO


class Copier:
    """Rebuilds an image exactly and says how bright it is; bounds nothing with importance samples."""

    def reconstruct(self, batch: dict[str, Any]) -> torch.Tensor:
        return batch["image"]

    def likelihood(self, batch: dict[str, Any]) -> dict[str, torch.Tensor]:
        return {"elbo_nats": batch["image"].flatten(1).mean(1)}


def prompts() -> PromptSet:
    real = torch.arange(5, dtype=torch.uint8)[:, None, None, None].expand(5, 1, 2, 2) * 50
    return PromptSet("val", ["a", "b", "c", "d", "e"], None, [4, 3, 2, 1, 0], real, None, None)


def test_a_batch_is_what_losses_would_get() -> None:
    batch = batch_of(prompts(), [3, 1], "cpu")
    assert batch["label"].tolist() == [1, 3] and batch["caption"] == ["d", "b"]
    assert torch.allclose(batch["image"][:, 0, 0, 0], torch.tensor([150, 50]) / 127.5 - 1)
    assert batch["seed"].tolist() == seeds(0, "val likelihood", [3, 1])


def test_the_model_adds_what_its_family_has() -> None:
    found = with_model(prompts(), Copier(), frozenset({"likelihood"}), 2, "cpu", ALONE)
    assert torch.equal(found.reconstruction, prompts().real)
    expected = prompts().real[:, 0, 0, 0].double() / 127.5 - 1
    torch.testing.assert_close(found.likelihood["elbo_nats"], expected, atol=1e-6, rtol=0)
    assert with_model(prompts(), Copier(), frozenset(), 2, "cpu", ALONE).likelihood is None
    plain = prompts()
    assert with_model(plain, object(), frozenset({"likelihood"}), 2, "cpu", ALONE) is plain


def test_a_process_leaves_the_rows_of_others_empty() -> None:
    found = with_model(prompts(), Copier(), frozenset({"likelihood"}), 2, "cpu", Ranks(1, 2))
    assert found.likelihood["elbo_nats"].isnan().tolist() == [True, False, True, False, True]
    assert found.reconstruction[0].max() == 0 and found.reconstruction[3].min() == 150


def test_importance_samples_are_for_a_model_that_has_them() -> None:
    module = SimpleNamespace(eval_importance_samples=(50,))
    set_importance_samples(module, [500, 5])
    assert module.eval_importance_samples == (5, 500)
    with pytest.raises(ValueError, match=r"importance_samples=\[5\]: Copier has no such bounds"):
        set_importance_samples(Copier(), [5])
    with pytest.raises(ValueError, match="whole numbers of at least 1"):
        set_importance_samples(module, [0])


def test_splits_are_those_of_the_data() -> None:
    assert default_splits(SimpleNamespace(prompts=lambda split, n: [])) == ("iid", "combo", "word")
    assert default_splits(SimpleNamespace(test_dataset=[1])) == ("test",)
    assert default_splits(SimpleNamespace(test_dataset=None)) == ("val",)


def test_a_small_split_says_what_would_hold_out_more() -> None:
    fraction = few(SimpleNamespace(test_fraction=0.02), "test", 29)
    assert fraction == "split 'test' has 29 images, and all are taken: data.test_fraction of the training holds out more"
    assert "data.num_val of" in few(SimpleNamespace(num_val=8), "val", 8)
    assert few(SimpleNamespace(), "test", 8) == "split 'test' has 8 images, and all are taken"


class Lit:
    """Images that are as bright as their number."""

    def __len__(self) -> int:
        return 8

    def __getitem__(self, key: tuple[int, int]) -> dict[str, Any]:
        return {"image": torch.full((1, 2, 2), key[0] / 10)}


def test_a_small_split_is_taken_whole_and_process_zero_says_so(capsys: pytest.CaptureFixture) -> None:
    data, module = SimpleNamespace(train_dataset=None, test_dataset=Lit(), test_fraction=0.02), SimpleNamespace(conditioning="none")
    for n, rank, said in ((None, 0, "split 'test' has 8 images"), (None, 1, ""), (8, 0, "")):
        cfg = OmegaConf.create({"n": n, "train_images": 10})
        assert len(prompts_of("test", data, module, cfg, frozenset(), Ranks(rank, 2))) == 8
        out = capsys.readouterr().out
        assert out.startswith(said) and bool(out) == bool(said)
    with pytest.raises(ValueError, match="n=8 is fewer than the 9 processes"):
        prompts_of("test", data, module, cfg, frozenset(), Ranks(0, 9))


def test_paths_in_the_checkout_are_relative() -> None:
    assert shortest(REPO / "zoo" / "a") == "zoo/a" and shortest(Path("/elsewhere/a")) == "/elsewhere/a"
