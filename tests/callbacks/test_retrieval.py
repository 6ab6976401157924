"""Retrieval during training: distinct pairs, the same numbers whatever the batches and processes, and a picture."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch.nn.functional import normalize

from callbacks import retrieval as file
from callbacks.retrieval import Retrieval, interleaved
from objectives.contrastive import clip_loss
from tests.callbacks.test_loss_by_level import STRATEGY, Recorder

N = 30


class Pairs(torch.nn.Module):
    """Reads the number that an image and its caption carry; one caption in three is read as another."""

    def __init__(self) -> None:
        super().__init__()
        self.batches_seen = self.optimizer_steps = 4
        self.images_seen = 80
        self.table = normalize(torch.randn(N, 8, generator=torch.Generator().manual_seed(0)), dim=-1)

    def embed_image(self, image: torch.Tensor) -> torch.Tensor:
        assert not self.training and not torch.is_grad_enabled()
        return self.table[(image[:, 0, 0, 0] * N).round().long()]

    def embed_text(self, captions: list[str]) -> torch.Tensor:
        numbers = [int(c.split()[-1]) for c in captions]
        return self.table[[n if n % 3 else (n + 1) % N for n in numbers]]

    def pair_loss(self, image: torch.Tensor, text: torch.Tensor) -> torch.Tensor:
        return clip_loss(image, text, 7.0)

    @property
    def device(self) -> str:
        return "cpu"


def batches(size: int, mine: slice = slice(None), specs: bool = False) -> list[dict[str, Any]]:
    number = torch.arange(N) // 2 * 2 if specs else torch.arange(N)
    image = (torch.arange(N) / N)[:, None, None, None].expand(N, 3, 4, 4)
    whole = {"image": image[mine], "caption": [f"number {i}" for i in range(N)][mine]}
    if specs:
        whole["spec"] = [{"number": int(i)} for i in number][mine]
    return [{k: v[i : i + size] for k, v in whole.items()} for i in range(0, len(whole["caption"]), size)]


def trainer_of(data: list[dict[str, Any]], recorder: Recorder, world: int = 1, rank: int = 0) -> SimpleNamespace:
    datamodule = SimpleNamespace(val_dataset=range(N), val_dataloader=lambda: data, num_batches=9, num_classes=None)
    return SimpleNamespace(
        datamodule=datamodule, loggers=[recorder], callbacks=[], world_size=world, global_rank=rank, is_global_zero=rank == 0,
        accumulate_grad_batches=1, strategy=STRATEGY, precision_plugin=SimpleNamespace(val_step_context=lambda: torch.no_grad()),
    )  # fmt: skip


def run(tmp_path: Path, data: list[dict[str, Any]], **settings: Any) -> Recorder:
    recorder = Recorder()
    Retrieval(str(tmp_path), every_steps=4, **settings).on_train_batch_end(trainer_of(data, recorder), Pairs())
    return recorder


def test_numbers_do_not_depend_on_the_batches_and_are_drawn(tmp_path: Path) -> None:
    (line,), (other,) = run(tmp_path / "a", batches(7)).lines, run(tmp_path / "b", batches(N)).lines
    assert line == other and line["images"] == 80 and line["step"] == 4
    # Of three images in a row one has its caption, one shares it with another caption, one has lost it and is near others.
    assert line["val/retrieval/image_to_text_r1"] == pytest.approx((1 + 0.5 + 0) / 3, abs=0.02)
    assert line["val/retrieval/chance_r1"] == pytest.approx(1 / N)
    whole, module = batches(N)[0], Pairs().eval()
    with torch.no_grad():
        wanted = clip_loss(module.embed_image(whole["image"]), module.embed_text(whole["caption"]), 7.0)
    assert line["val/loss"] == pytest.approx(wanted.item(), rel=1e-5)
    assert (tmp_path / "a" / "step=00000004.png").stat().st_size > 1000


def test_data_with_classes_is_classified_by_its_captions(tmp_path: Path) -> None:
    recorder = Recorder()
    trainer = trainer_of(batches(7), recorder)
    trainer.datamodule.num_classes = N
    Retrieval(str(tmp_path), every_steps=1).on_train_batch_end(trainer, Pairs())
    [line] = recorder.lines
    assert line["val/zero_shot_accuracy"] == pytest.approx(line["val/retrieval/image_to_text_r1"])  # a caption an image


def test_equal_scenes_count_once_and_n_limits_the_candidates(tmp_path: Path) -> None:
    (line,) = run(tmp_path, batches(7, specs=True)).lines
    assert line["val/retrieval/chance_r1"] == pytest.approx(2 / N)
    (line,) = run(tmp_path, batches(7), n=5).lines
    assert line["val/retrieval/chance_r1"] == pytest.approx(1 / 5)


def test_the_picture_reaches_loggers_that_take_pictures(tmp_path: Path) -> None:
    ((name, size, step),) = run(tmp_path, batches(7), shown=4).pictures
    assert (name, step) == ("retrieval", 4) and size[0] == 560


def test_two_processes_have_the_numbers_of_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (alone,) = run(tmp_path, batches(7)).lines
    shards = [batches(4, slice(rank, None, 2)) for rank in (0, 1)]
    callback = Retrieval(str(tmp_path), every_steps=4)
    parts = [callback.pairs(trainer_of(shard, Recorder()), Pairs()) for shard in shards]

    def gathered(into: list[Any], mine: dict[str, Any]) -> None:
        assert len(mine["caption"]) == N // 2
        into[:] = [{name: list(values) for name, values in part.items()} for part in parts]

    monkeypatch.setattr(file.dist, "all_gather_object", gathered)
    for rank in (0, 1):
        recorder = Recorder()
        callback.on_train_batch_end(trainer_of(shards[rank], recorder, 2, rank), Pairs())
        assert recorder.lines == [alone] and len(recorder.pictures) == (rank == 0)


def test_items_come_back_in_the_order_of_the_data() -> None:
    assert interleaved([[0, 3, 6], [1, 4], [2, 5]]) == list(range(7))


def test_a_full_disk_costs_the_picture_alone(tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    (tmp_path / "file").write_text("")
    assert len(run(tmp_path / "file", batches(7)).lines) == 1
    assert "warning: no step=00000004.png: " in capsys.readouterr().out


def test_others_are_left_alone_and_odd_settings_refused(tmp_path: Path) -> None:
    recorder = Recorder()
    Retrieval(str(tmp_path)).on_train_batch_end(trainer_of(batches(7), recorder), torch.nn.Linear(2, 2))
    assert not recorder.lines and not list(tmp_path.iterdir())
    for name in ("n", "shown"):
        with pytest.raises(ValueError, match=f"callbacks.retrieval.{name}=1: at least 2"):
            Retrieval("x", **{name: 1})
