"""Distributions of training times: quantiles, and densities as the derivatives of the quantiles."""

from __future__ import annotations

import pytest
import torch

from diffusion.schedules import CosineSchedule, KarrasSchedule, LinearSchedule, RectifiedFlowSchedule
from diffusion.times import GridTimes, LogitNormalTimes, NormalLogSNR, Times, UniformTimes

SCHEDULES = [CosineSchedule(shift=-1.0), LinearSchedule(), KarrasSchedule(), RectifiedFlowSchedule()]
TIMES = [UniformTimes(), NormalLogSNR(), NormalLogSNR(-1.5, 1.3), LogitNormalTimes(), LogitNormalTimes(0.7, 0.4)]
U = torch.linspace(0.05, 0.95, 19, dtype=torch.float64)


def label(value: object) -> str:
    return type(value).__name__ + "".join(f"_{v}" for v in vars(value).values() if isinstance(v, float))


@pytest.mark.parametrize("schedule", SCHEDULES, ids=label)
@pytest.mark.parametrize("times", TIMES, ids=label)
def test_the_density_is_the_slope_of_the_quantiles(times: Times, schedule: object) -> None:
    step = 1e-6
    low, high = (schedule.log_snr(times.draw(U + d, schedule)) for d in (-step, step))
    found = times.density(times.draw(U, schedule), schedule)
    keep = (high - low).abs() > 1e-9  # a schedule ends where the distribution has not: all of the rest lies at its end
    assert keep.sum() > 12
    if isinstance(schedule, LinearSchedule):  # its slope is constant between the points of its table
        torch.testing.assert_close(found[keep], (2 * step / (high - low).abs())[keep], rtol=2e-2, atol=0)
    else:
        torch.testing.assert_close(found[keep], (2 * step / (high - low).abs())[keep], rtol=1e-5, atol=0)


def test_uniform_times_are_the_numbers_themselves() -> None:
    assert torch.equal(UniformTimes().draw(U, CosineSchedule()), U)


def test_grid_times_are_the_steps_of_a_table_each_as_often() -> None:
    u = (torch.arange(4000) + 0.5) / 4000
    t = GridTimes(8).draw(u, LinearSchedule())
    found, counts = t.unique(return_counts=True)
    torch.testing.assert_close(found, torch.arange(1, 9) / 8)
    assert counts.tolist() == [500] * 8
    ends = torch.tensor([0.0, 1 - 2**-24])
    assert GridTimes(1000).draw(ends, LinearSchedule()).tolist() == pytest.approx([0.001, 1.0])
    torch.testing.assert_close(GridTimes(8).density(U, CosineSchedule()), UniformTimes().density(U, CosineSchedule()))


def test_normal_log_snr_has_the_quantiles_of_the_normal_distribution() -> None:
    schedule, u = CosineSchedule(shift=-1.0), torch.tensor([0.1, 0.5, 0.9])
    expected = torch.distributions.Normal(-1.5, 2.0).icdf(u)
    torch.testing.assert_close(schedule.log_snr(NormalLogSNR(-1.5, 2.0).draw(u, schedule)), expected, rtol=1e-3, atol=1e-3)
    edm = NormalLogSNR().draw(torch.tensor([0.5, 0.8413447]), KarrasSchedule())
    log_sigma = KarrasSchedule().sigma(edm).log()
    torch.testing.assert_close(log_sigma, torch.tensor([-1.2, -1.2 - 1.2]), rtol=1e-3, atol=1e-3)


def test_noise_levels_follow_the_distribution_asked_for() -> None:
    schedule = CosineSchedule()
    log_snr = schedule.log_snr(NormalLogSNR(-1.5, 2.0).draw((torch.arange(4000) + 0.5) / 4000, schedule))
    assert log_snr.mean() == pytest.approx(-1.5, abs=0.02) and log_snr.std() == pytest.approx(2.0, abs=0.02)


def test_logit_normal_times_have_the_quantiles_of_the_normal_distribution() -> None:
    t = LogitNormalTimes(0.3, 0.8).draw(U, RectifiedFlowSchedule())
    torch.testing.assert_close(torch.logit(t), torch.distributions.Normal(0.3, 0.8).icdf(U), rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("schedule", SCHEDULES, ids=label)
@pytest.mark.parametrize("times", [*TIMES, GridTimes(1000)], ids=label)
def test_the_ends_are_times_too(times: Times, schedule: object) -> None:
    t = times.draw(torch.tensor([0.0, 1 - 2**-24]), schedule)
    assert t.isfinite().all() and t.min() >= 0 and t.max() <= 1 and t.dtype == torch.float32
    density = times.density(t, schedule)
    assert density.isfinite().all() and (density > 0).all()


def test_nonsense_is_refused() -> None:
    for make in (lambda: NormalLogSNR(0.0, 0.0), lambda: LogitNormalTimes(0.0, -1.0)):
        with pytest.raises(ValueError, match="times: std=-?[01].0 must be above 0"):
            make()
    with pytest.raises(ValueError, match="num_train_steps=0"):
        GridTimes(0)
    with pytest.raises(NotImplementedError):
        Times().draw(U, CosineSchedule())
