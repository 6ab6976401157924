"""Drawing on from a level: the times, what is handed to the sampler, and that what a model loses below a level is seen there and above."""

from __future__ import annotations

from types import SimpleNamespace

import pytest
import torch
from torch.nn import functional as F

from benchmarks import where_lost
from benchmarks.where_lost import LEVELS, RUNGS, draw_on, main, measure, table, times_below
from diffusion.samplers import ddim
from diffusion.schedules import CosineSchedule
from lightning_modules.spaces import Pixels
from scenes.captions import caption
from scenes.render import render

SCHEDULE = CosineSchedule(shift=-2.0)


def test_times_begin_at_the_level_and_go_on_along_the_schedule() -> None:
    whole = SCHEDULE.grid(8)
    assert torch.equal(times_below(SCHEDULE, 8, None), whole)
    for level in (-6.0, 0.0, 2.0):
        times = times_below(SCHEDULE, 8, level)
        assert torch.allclose(SCHEDULE.log_snr(times[:1]), torch.tensor([level], dtype=times.dtype), atol=1e-6)
        assert torch.equal(times[1:], whole[whole < times[0]]) and (times.diff() < 0).all() and times[-1] == 0


class Model:
    """A base whose denoiser sees the picture where the noise is below `blind`, and else one of two objects at most."""

    conditioning, base = "text", "base"

    def __init__(self, blind: float) -> None:
        self.scenes = {caption(spec, seed): (spec, seed) for draw in RUNGS.values() for seed, spec in where_lost.scenes(draw, 2)}
        self.levels, self.began = [], []
        space = Pixels(32)
        stage = SimpleNamespace(schedule=SCHEDULE, space=space, num_steps=8, guided=self.guided)
        stage.sampler = lambda denoise, schedule, x, **options: ddim(self.watched(denoise), schedule, x, **options)
        self.stages, self.blind = {"base": stage}, blind

    def eval(self) -> Model:
        return self

    def request_fields(self, request):
        return {"texts": request.texts}

    def true(self, text: str) -> torch.Tensor:
        spec, seed = self.scenes[text]
        image = torch.from_numpy(render(spec, seed, 64)[0]).permute(2, 0, 1) / 127.5 - 1
        return F.interpolate(image[None], size=32, mode="area")[0]

    def watched(self, denoise):
        def first(x, t):
            self.levels.append(float(SCHEDULE.log_snr(t[0].double())))
            self.began.append(x)
            return denoise(x, t)

        return first

    def guided(self, batch):
        def denoise(x_t, t):
            true = torch.stack([self.true(text) for text in batch["texts"]])
            blind = SCHEDULE.log_snr(t) >= self.blind  # from here on it forgets whatever it had: nothing but background
            return torch.where(blind[:, None, None, None], torch.full_like(true, -0.8), true)

        return denoise


def test_the_true_picture_is_noised_to_the_level(monkeypatch: pytest.MonkeyPatch) -> None:
    model, rung = Model(99.0), where_lost.scenes(RUNGS["one group of 3"], 2)
    drawn = draw_on(model, rung, 1.0)
    assert model.levels[0] == pytest.approx(1.0, abs=1e-3) and drawn.shape == (2, 3, 64, 64) and drawn.dtype == torch.uint8
    true = torch.stack([model.true(caption(spec, seed)) for seed, spec in rung])
    alpha, sigma = torch.tensor(1.0).sigmoid().sqrt(), torch.tensor(-1.0).sigmoid().sqrt()
    eps = (model.began[0] - alpha * true) / sigma
    assert abs(eps.mean()) < 0.05 and abs(eps.std() - 1) < 0.05 and abs((eps * true).mean()) < 0.05
    again = Model(99.0)
    draw_on(again, rung[1:], 1.0)
    assert torch.equal(again.began[0][0], model.began[0][1]), "noise goes with the scene, not with its place in a batch"
    draw_on(model := Model(99.0), rung, None)
    assert abs(model.began[0].std() - 1) < 0.05 and len(model.levels) == 8


def test_what_is_lost_below_a_level_is_wrong_from_every_start_above(monkeypatch: pytest.MonkeyPatch, tmp_path, capsys: pytest.CaptureFixture) -> None:
    assert all(share == [1.0, 1.0] for share in measure(Model(99.0), 2, (None, 0.0)).values())
    assert all(share == [0.0, 0.0] for share in measure(Model(-3.0), 2, (None, 0.0)).values())
    found = {"one group of 3": [0.25, 1.0]}
    assert [cell.strip() for cell in table(found, (None, -2.0)).splitlines()[2].split("|")[1:-1]] == ["one group of 3", "25%", "100%"]
    assert "| noise | -2 " in table(found, (None, -2.0))
    monkeypatch.setattr(where_lost, "RESULTS", tmp_path)
    monkeypatch.setattr(where_lost, "load_module", lambda ckpt, trust: (Model(99.0), None, None))
    main(["--n", "2"])
    assert f"one group of 4: {' '.join(['100%'] * len(LEVELS))}" in capsys.readouterr().out and (tmp_path / "where_lost.json").is_file()
    monkeypatch.setattr(where_lost, "load_module", lambda ckpt, trust: (SimpleNamespace(conditioning="label", eval=lambda: SimpleNamespace(conditioning="label")), None, None))
    with pytest.raises(ValueError, match="no diffusion model of texts"):
        main([])
