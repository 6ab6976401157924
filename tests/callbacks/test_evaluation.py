"""Alignment during training: when it runs, what it logs, on which weights."""

from __future__ import annotations

import json
from contextlib import nullcontext
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from PIL import Image

from callbacks import evaluation
from callbacks.ema import EMA
from callbacks.evaluation import Evaluate
from datamodules.captions import CaptionsDataModule
from datamodules.scenes import ScenesDataModule
from evaluation.metrics.prompt_set import load_prompts, sample_seed
from scenes.render import render
from tests.judge import Brightness
from tests.sessions import overrides, run


class Oracle(torch.nn.Module):
    """Right about every caption if its weight is 1; the averaged weight is 1, the live one 0."""

    conditioning = "text"

    def __init__(self, data: ScenesDataModule) -> None:
        super().__init__()
        self.weight = torch.nn.Parameter(torch.zeros(1))
        self.specs = dict(data.prompts("iid", 64))
        self.batches_seen = self.optimizer_steps = 4
        self.images_seen = 256
        self.refusal: str | None = None
        self.asked: list[tuple[str, int]] = []

    def sampling_refusal(self) -> str | None:
        return self.refusal

    def sample(self, request, *, seeds, num_steps=None):
        assert not self.training and num_steps == 3
        self.asked += list(zip(request.texts, seeds))
        images = [render(self.specs[c], s % 1000, 64)[0] for c, s in zip(request.texts, seeds)]
        image = torch.stack([torch.from_numpy(i.copy()).permute(2, 0, 1) for i in images]) / 127.5 - 1
        return image * self.weight - 0.8 * (1 - self.weight)


@pytest.fixture
def setting():
    data = ScenesDataModule(preset="scenes_simple", image_size=64)
    data.num_batches = 100
    module, ema = Oracle(data), EMA(decay=0.9)
    ema.params = {"weight": torch.ones(1)}
    lines: list[tuple[int, dict]] = []
    logger = SimpleNamespace(log_metrics=lambda line, step: lines.append((step, line)))
    trainer = SimpleNamespace(
        datamodule=data,
        callbacks=[ema],
        loggers=[logger],
        accumulate_grad_batches=1,
        global_rank=0,
        world_size=1,
        precision_plugin=SimpleNamespace(val_step_context=nullcontext),
    )
    return trainer, module, lines


def test_logs_every_skill_of_the_averaged_weights_and_restores(setting) -> None:
    trainer, module, lines = setting
    Evaluate(every_steps=4, n=10, batch_size=4, options={"num_steps": 3}).on_train_batch_end(trainer, module)
    ((step, line),) = lines
    assert step == 4 and line["images"] == 256
    assert line["eval/iid/all_correct"] == line["eval/iid/skills_mean"] == 1
    assert module.training and module.weight.item() == 0
    first = list(module.asked)
    Evaluate(every_steps=4, n=10, batch_size=3, options={"num_steps": 3}).on_train_batch_end(trainer, module)
    assert module.asked == first * 2  # the same prompts and seeds every time, whatever the batch size


def test_runs_only_when_due_and_possible(setting) -> None:
    trainer, module, lines = setting
    Evaluate(every_steps=3, n=4).on_train_batch_end(trainer, module)
    module.refusal = "stage 'base' is not trained"
    Evaluate(every_steps=4, n=4).on_train_batch_end(trainer, module)
    module.refusal, trainer.datamodule = None, SimpleNamespace(num_batches=100)
    Evaluate(every_steps=4, n=4).on_train_batch_end(trainer, module)
    assert lines == [] and module.asked == []


def test_any_evaluator_on_any_data(setting, capsys) -> None:
    trainer, module, lines = setting
    judge, failing = Brightness(["train"]), Brightness(fails="no weights")
    failing.headlines = ("other",)
    callback = Evaluate(4, n=3, splits=["word"], evaluators={"a": Brightness(), "b": failing, "c": judge, "d": None})
    module.specs = dict(trainer.datamodule.prompts("word", 3))
    callback.options = {"num_steps": 3}
    for _ in range(2):
        callback.on_train_batch_end(trainer, module)
    assert set(lines[0][1]) == {"images", "eval/word/brightness"} and lines[0] == lines[1]
    said = capsys.readouterr().out
    assert said.count("other: not computed: no weights") == 1 and "brightness: not computed: needs train" in said


def test_measuring_is_not_done_in_the_precision_of_the_run(setting) -> None:
    trainer, module, lines = setting
    trainer.precision_plugin.val_step_context = lambda: torch.autocast("cpu", dtype=torch.bfloat16)
    seen: list[bool] = []

    class Judge(Brightness):
        def update(self, *args, **kwargs) -> None:
            seen.append(torch.is_autocast_enabled("cpu"))
            super().update(*args, **kwargs)

    draw = module.sample
    module.sample = lambda *a, **k: (seen.append(torch.is_autocast_enabled("cpu")), draw(*a, **k))[1]
    Evaluate(4, n=2, options={"num_steps": 3}, evaluators={"a": Judge()}).on_train_batch_end(trainer, module)
    assert seen == [True, False]


TOY = [
    "+callbacks.evaluate._target_=callbacks.evaluation.Evaluate", "+callbacks.evaluate.every_steps=2",
    "+callbacks.evaluate.n=5", "+callbacks.evaluate.evaluators.a._target_=tests.judge.Brightness",
    "model.dropout=0", "trainer.max_steps=4",
]  # fmt: skip


def test_processes_share_the_images_and_one_writes(tmp_path: Path) -> None:
    lines = {}
    for name, more in (("one", []), ("two", ["trainer.devices=2", "trainer.strategy=ddp_fork"])):
        log = tmp_path / f"{name}.log"
        assert run(overrides(*TOY, *more, run=tmp_path / name), log) == 0, log.read_text()
        found = [json.loads(line) for line in (tmp_path / name / "metrics.jsonl").read_text().splitlines()]
        lines[name] = [line["eval/val/brightness"] for line in found if "eval/val/brightness" in line]
    assert len(lines["one"]) == 2 and lines["two"] == pytest.approx(lines["one"], abs=0.3)


def test_bad_numbers_are_refused() -> None:
    with pytest.raises(ValueError, match="n=0"):
        Evaluate(n=0)


def test_captions_without_scenes_are_left_in_peace(setting, tmp_path: Path) -> None:
    """`train.py model=imagen data=captions`: the model's yaml names a split that only scenes have."""
    for i in range(4):
        Image.new("RGB", (64, 64), (60 * i, 0, 0)).save(tmp_path / f"{i}.png")
        (tmp_path / f"{i}.txt").write_text(f"picture {i}")
    trainer, module, lines = setting
    trainer.datamodule = CaptionsDataModule(str(tmp_path), image_size=64, cache_dir=str(tmp_path / "cache"))
    trainer.datamodule.setup()
    trainer.datamodule.num_batches = 100
    Evaluate(every_steps=4, n=4, splits=["iid"]).on_train_batch_end(trainer, module)
    assert not lines and not module.asked


def asked(module: Oracle, trainer: SimpleNamespace, split: str, step: int, batch_size: int = 64) -> list[tuple[str, int]]:
    """Captions and seeds of an evaluation at a step."""
    module.specs = dict(trainer.datamodule.prompts(split, 10))
    module.asked, module.optimizer_steps = [], step
    Evaluate(1, n=5, splits=[split], batch_size=batch_size, options={"num_steps": 3}).on_train_batch_end(trainer, module)
    return module.asked


def test_prompts_and_seeds_are_the_same_at_every_step_and_others_in_every_split(setting) -> None:
    trainer, module, _ = setting
    first = asked(module, trainer, "iid", step=4)
    assert asked(module, trainer, "iid", step=8) == asked(module, trainer, "iid", step=12, batch_size=2) == first
    seeds = [seed for _, seed in first]
    assert seeds == [sample_seed(0, "iid", i) for i in range(5)], "those of evaluate.py with seed=0"
    assert not set(seeds) & {seed for _, seed in asked(module, trainer, "combo", step=4)}


def test_prompts_are_read_once(setting, monkeypatch: pytest.MonkeyPatch) -> None:
    trainer, module, lines = setting
    reads: list[str] = []
    monkeypatch.setattr(
        evaluation, "load_prompts", lambda data, split, *a: (reads.append(split), load_prompts(data, split, *a))[1]
    )
    callback = Evaluate(4, n=3, options={"num_steps": 3})
    for _ in range(3):
        callback.on_train_batch_end(trainer, module)
    assert reads == ["iid"] and len(lines) == 3


def test_a_process_draws_its_share_alone(setting, monkeypatch: pytest.MonkeyPatch) -> None:
    trainer, module, _ = setting
    trainer.world_size, trainer.global_rank = 2, 1
    monkeypatch.setattr(evaluation, "gather", lambda mine: [mine])
    Evaluate(4, n=5, options={"num_steps": 3}).on_train_batch_end(trainer, module)
    assert [seed for _, seed in module.asked] == [sample_seed(0, "iid", i) for i in (1, 3)]
