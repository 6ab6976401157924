"""Distillation of a cascade: what the student learns, how it draws, its teacher's checksum, refusals; and by the scripts."""

from __future__ import annotations

import functools
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

import sample
import train
from contracts import Request
from diffusion.distillation import few_step_target
from diffusion.process import add_noise
from diffusion.samplers import ddim
from diffusion.schedules import CosineSchedule, KarrasSchedule
from lightning_modules.diffusion import Diffusion
from lightning_modules.distillation import Distillation
from rng.keyed import keyed_randn
from runtime.checkpoint import load_module
from tests.lightning_modules import test_diffusion
from tests.lightning_modules.test_glide import overrides
from tests.sessions import assert_same, contents


def make(teacher: Diffusion | None = None, sha256: str = "a" * 64, **options: Any) -> Diffusion:
    """A model of classes, told to draw in many guided steps; a student with a teacher."""
    settings = {key: options.pop(key) for key in ("num_steps", "substeps", "guidance_scale") if key in options}
    module = test_diffusion.make(**{"num_steps": 12, "threshold": "static"} | options)
    if teacher is None:
        return module
    distill = Distillation("runs/teacher", lambda ckpt: (teacher, None, {"sha256": sha256}), **{"num_steps": 3, "substeps": 2} | settings)
    return Diffusion(module.stage, distill=distill, optimizer=functools.partial(torch.optim.Adam, lr=5e-3), clip_norm=None)


def batch(n: int = 8) -> dict[str, Any]:
    return {"image": torch.rand(n, 3, 2, 2) * 2 - 1, "label": torch.arange(n) % 3, "seed": torch.arange(n) + 7}


def test_the_student_draws_in_few_steps_without_guidance() -> None:
    student, calls = make(make()), []
    student.stage.net.register_forward_hook(lambda *_: calls.append(len(_[1][0])))
    student.sample(Request(2, labels=[0, 1]), seeds=[0, 1])
    assert calls == [2, 2, 2]
    found = student.sampling_settings()
    assert found["num_steps"] == 3 and found["guidance_scale"] == 1 and found["threshold"] == "none" and "eta=0" in found["sampler"]


def test_the_loss_is_the_distance_to_the_guided_teachers_steps() -> None:
    """At every step of the student, of each sample's own class, with the guidance that is asked for."""
    teacher = make().double()
    student, data, u = make(teacher, guidance_scale=3.0, weighting="uniform").double(), batch(), torch.arange(8) / 8
    data["image"] = data["image"].double()
    found = student.distill.loss(data, u, "diffusion", student)
    schedule, stage = student.stage.schedule, student.stage
    index = torch.tensor([0, 0, 0, 1, 1, 1, 2, 2])
    t = schedule.grid(3)[index]
    x_t = add_noise(data["image"], keyed_randn(data["seed"], (3, 2, 2), "diffusion", "eps").double(), t, schedule)
    goal = few_step_target(teacher.stage.guided(data, guidance_scale=3.0), schedule, x_t, index, 3, 2)
    said = stage.denoiser(x_t, t, **stage.conditions(data))
    weight = 1 / schedule.sigma(t) ** 2  # a squared error of v is one of x_0, so weighted
    torch.testing.assert_close(found, weight * (said - goal).square().flatten(1).mean(1), rtol=1e-6, atol=1e-9)
    other = make(teacher, guidance_scale=1.0).double()
    assert (other.distill.loss(data, u, "diffusion", other) - found).abs().max() > 1e-4
    assert not any(p.requires_grad for p in teacher.parameters()) and all(p.requires_grad for p in student.parameters())


def test_a_student_that_is_its_teacher_has_nothing_to_learn_from_single_unguided_steps() -> None:
    teacher = make(threshold="none").double()
    student = make(teacher, substeps=1, guidance_scale=1.0).double()
    data = batch() | {"image": batch()["image"].double()}
    assert student.distill.loss(data, torch.rand(8), "diffusion", student).max() < 1e-12
    teacher.stage.threshold = "static"
    assert student.distill.loss(data, torch.rand(8), "diffusion", student).max() > 1e-6, "the teacher's threshold is part of what it draws"


def test_training_counts_images_and_keeps_the_teacher_out_of_the_checkpoint() -> None:
    student = make(make()).train()
    before = int(student.stage.images_trained)
    student.losses(batch())["loss"].backward()
    assert int(student.stage.images_trained) == before + 8
    assert not any("teacher" in key or "distill" in key for key in student.state_dict())
    checkpoint: dict[str, Any] = {"state_dict": student.state_dict()}
    student.on_save_checkpoint(checkpoint)
    assert checkpoint["teacher"] == "a" * 64
    again = make(make())
    again.on_load_checkpoint(checkpoint)
    again.losses(batch())
    other = make(make(), sha256="b" * 64)
    other.on_load_checkpoint(checkpoint)
    other.sample(Request(1, labels=[0]), seeds=[0])  # drawing asks for no teacher
    with pytest.raises(ValueError, match="model.distill.ckpt=runs/teacher: this run learned from another teacher so far"):
        other.losses(batch())


@pytest.mark.parametrize(
    ("teacher", "line"),
    [
        (lambda: make(classes=None), "with the stages|is told"),
        (lambda: make(trained=False), "not trained yet"),
        (lambda: make(schedule=CosineSchedule(shift=-1.0)), "its stage 'diffusion' has other noise levels: give this run the schedule"),
    ],
)
def test_a_teacher_that_does_not_fit_is_one_line(teacher: Any, line: str) -> None:
    made = teacher()
    if "stages" in line:
        made = torch.nn.Linear(1, 1)
    with pytest.raises(ValueError, match=f"model.distill.ckpt=runs/teacher: .*({line})"):
        make(made).losses(batch())


def test_a_teacher_with_another_text_encoder_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    """What a checkpoint of the teacher would say of its frozen parts is compared as when a checkpoint is loaded."""
    teacher = make()
    student = make(teacher)
    monkeypatch.setattr(teacher, "on_save_checkpoint", lambda checkpoint: checkpoint.update(text_encoder={"id": "t5", "revision": "1"}))

    def check(checkpoint: dict[str, Any]) -> None:
        raise ValueError(f"the checkpoint was trained with text encoder {checkpoint['text_encoder']['id']}")

    monkeypatch.setattr(student, "check_identity", check)
    with pytest.raises(ValueError, match="model.distill.ckpt=runs/teacher: the checkpoint was trained with text encoder t5"):
        student.losses(batch())


def test_settings_that_do_not_fit_are_one_line() -> None:
    with pytest.raises(ValueError, match="needs a trained model to learn from: give init=RUN"):
        Distillation(None, print)
    with pytest.raises(ValueError, match="distill.substeps=0: give a whole number of at least 1"):
        Distillation("x", print, substeps=0)
    with pytest.raises(ValueError, match="distill.num_steps: no stage 'base' trains here, only diffusion"):
        make(make(), num_steps={"base": 4})
    with pytest.raises(ValueError, match="distill.num_steps: give a number for the stage 'diffusion'"):
        make(make(), num_steps={})
    with pytest.raises(ValueError, match="3 steps are no part of 6 on the grid of KarrasSchedule: distil a model with an even grid"):
        make(make(), schedule=KarrasSchedule())
    missing = make(make())
    missing.distill.load = lambda ckpt: (_ for _ in ()).throw(FileNotFoundError("no such run"))
    with pytest.raises(FileNotFoundError, match=r"the teacher is not there \(model.distill.ckpt=RUN names another\): no such run"):
        missing.losses(batch())


def test_by_the_scripts_a_run_is_distilled_resumed_and_drawn_without_its_teacher(tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    train.main(overrides(tmp_path / "teacher", "trainer.max_steps=2"))
    student = (f"init={tmp_path / 'teacher'}", "distill=few_steps", "model.distill.num_steps={base: 2, upsampler: 1}", "model.distill.substeps=2")
    train.main(overrides(tmp_path / "whole", *student, "trainer.max_steps=4"))
    train.main(overrides(tmp_path / "parts", *student, "trainer.max_steps=2"))
    train.main([f"resume={tmp_path / 'parts'}", "trainer.max_steps=4"])
    whole, parts = (contents(tmp_path / run) for run in ("whole", "parts"))
    for side in (whole, parts):
        side.pop("metrics"), side.pop("callbacks"), side.pop("pictures", None)  # the stop at step 2 measured once more
    assert_same(whole, parts)
    (tmp_path / "teacher").rename(tmp_path / "gone")
    sample.main([f"ckpt={tmp_path / 'whole'}", f"out={tmp_path / 'out'}", "prompt=a red circle", "n=1", "device=cpu"])
    found = load_module(tmp_path / "whole")[0].sampling_settings()
    assert found["base.num_steps"] == 2 and found["upsampler.num_steps"] == 1 and found["base.guidance_scale"] == 1


@pytest.mark.slow
def test_two_steps_of_the_student_come_nearer_to_the_teachers_pictures_than_two_of_its_own() -> None:
    torch.manual_seed(0)
    colours = torch.tensor([[0.8, -0.8, -0.8], [-0.8, 0.8, -0.8], [-0.8, -0.8, 0.8]])

    def data(step: int) -> dict[str, Any]:
        seed = torch.arange(64) + 64 * step
        label = seed % 3
        level = 0.4 * torch.randn(64, 1, generator=torch.Generator().manual_seed(step))
        return {"image": (colours[label] + level)[:, :, None, None].expand(-1, -1, 2, 2), "label": label, "seed": seed}

    def fit(module: Diffusion, steps: int) -> None:
        optimizer = torch.optim.Adam(module.parameters(), lr=3e-3)
        for step in range(steps):
            loss = module.train().losses(data(step))["loss"]
            optimizer.zero_grad(), loss.backward(), optimizer.step()
            module.batches_seen += 1
        module.eval()

    teacher = test_diffusion.make(num_steps=32, guidance_scale=1.0)
    fit(teacher, 1500)
    student = make(teacher, num_steps=2, substeps=16, guidance_scale=1.0)
    student.load_state_dict(teacher.state_dict())
    fit(student, 600)
    request, seeds = Request(96, labels=[i % 3 for i in range(96)]), list(range(96))
    goal = teacher.sample(request, seeds=seeds)

    def far(drawn: Tensor) -> float:
        return float((drawn - goal).square().mean())

    few = far(teacher.sample(request, seeds=seeds, num_steps=2, sampler=functools.partial(ddim, eta=0.0)))
    assert far(student.sample(request, seeds=seeds)) < 0.5 * few
