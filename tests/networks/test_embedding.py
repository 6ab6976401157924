"""Sinusoids, the step of a noise level, stacked inputs: each against its definition."""

from __future__ import annotations

import math

import pytest
import torch

from networks.embedding import LinearSteps, StepEmbedding, check_tokens, plane_waves, sinusoids, stack, waves


def test_sinusoids_are_sines_then_cosines_from_1_to_1_over_period() -> None:
    out = sinusoids(torch.tensor([0.0, 3.0]).double(), 6, period=100.0)
    angles = [3.0, 3.0 / 10, 3.0 / 100]
    expected = [[0.0] * 3 + [1.0] * 3, [math.sin(a) for a in angles] + [math.cos(a) for a in angles]]
    torch.testing.assert_close(out, torch.tensor(expected).double())


def test_neighbouring_steps_stay_apart_in_half_precision() -> None:
    steps = torch.tensor([998.0, 999.0])
    assert sinusoids(steps, 8).dtype == torch.float32
    layer = StepEmbedding(8, 4).bfloat16()
    out = layer(steps)
    assert out.dtype == torch.bfloat16 and not torch.equal(out[0], out[1])


def test_a_step_embedding_is_two_layers_on_sinusoids() -> None:
    torch.manual_seed(0)
    layer, step = StepEmbedding(8, 5).double(), torch.tensor([2.0, 40.5]).double()
    first, _, second = layer.mlp
    h = sinusoids(step, 8) @ first.weight.T + first.bias
    torch.testing.assert_close(layer(step), (h / (1 + (-h).exp())) @ second.weight.T + second.bias)


@pytest.mark.parametrize("num_steps", [1000, 400])
def test_steps_come_back_from_their_log_snr(num_steps: int) -> None:
    alpha_bar, levels = 1.0, []
    for i in range(num_steps):
        alpha_bar *= 1 - (1e-4 + (0.02 - 1e-4) * i / (num_steps - 1)) * 1000 / num_steps
        levels.append(math.log(alpha_bar / (1 - alpha_bar)))
    found = LinearSteps(num_steps)(torch.tensor(levels, dtype=torch.float64))
    assert (found - torch.arange(num_steps)).abs().max() < 1e-9
    coarse = LinearSteps(num_steps)(torch.tensor(levels, dtype=torch.float32))
    assert (coarse - torch.arange(num_steps)).abs().max() < 1e-3, "what float32 leaves of a log-SNR"


def test_between_two_steps_log_alpha_bar_is_even() -> None:
    steps = LinearSteps()
    table = steps._falling[torch.device("cpu")]
    middle = 0.75 * table[500] + 0.25 * table[501]
    log_snr = middle - torch.log(-torch.expm1(middle))
    torch.testing.assert_close(steps(log_snr[None]), torch.tensor([500.25]).double())


def test_levels_beyond_the_table_are_its_ends() -> None:
    assert LinearSteps()(torch.tensor([20.0, -20.0])).tolist() == [0, 999]


def test_other_betas() -> None:
    first = torch.tensor([math.log((1 - 1e-3) / 1e-3), math.log((1 - 1e-3) * (1 - 1e-2) / (1 - (1 - 1e-3) * (1 - 1e-2)))])
    assert (LinearSteps(1000, 1e-3, 1e-3)(first[:1].double()) == 0).all()
    two = LinearSteps(2, 1e-3 / 500, 1e-2 / 500)(first.double())
    torch.testing.assert_close(two, torch.tensor([0.0, 1.0]).double())
    for wrong in ((0,), (20,), (1000, 0.0), (1000, 0.03, 0.02)):
        with pytest.raises(ValueError, match="needs 0 < beta_start"):
            LinearSteps(*wrong)


def test_stack_puts_the_condition_after_the_image() -> None:
    x, more = torch.randn(2, 3, 4, 4), torch.randn(2, 2, 4, 4)
    out = stack(x, more, 2)
    assert torch.equal(out[:, :3], x) and torch.equal(out[:, 3:], more)
    assert stack(x, None, 0) is x
    with pytest.raises(ValueError, match="cond_channels=2, and is given 0"):
        stack(x, None, 2)


def test_tokens_are_given_where_the_net_was_built_for_them() -> None:
    check_tokens(None, None)
    check_tokens(torch.zeros(1, 2, 8), 8)
    for tokens, width in ((None, 8), (torch.zeros(1, 2, 8), None), (torch.zeros(1, 2, 4), 8)):
        with pytest.raises(ValueError, match=f"tokens_dim={width}"):
            check_tokens(tokens, width)


def test_waves_are_sines_then_cosines_of_4_places_to_4_times_the_length() -> None:
    table = waves(6, 5)
    angles = [2 * math.pi * 3 / 4, 2 * math.pi * 3 / 24]
    torch.testing.assert_close(table[3], 0.5 * torch.tensor([*map(math.sin, angles), *map(math.cos, angles), 0.0]))
    assert waves(6, 4, longest=48)[3, 1] == pytest.approx(0.5 * math.sin(2 * math.pi * 3 / 48))


@pytest.mark.parametrize("dim", [16, 22, 128])
def test_waves_of_a_plane_tell_places_apart_and_sides_by_one_direction(dim: int) -> None:
    table = plane_waves(8, 8, dim)  # (dim, rows, columns)
    assert table.shape == (dim, 8, 8)
    places = table.flatten(1).T
    assert torch.pdist(places).min() > 0.15, "neighbours"
    assert torch.equal(table[: dim // 2, 3, 0], table[: dim // 2, 3, 7]) and torch.equal(table[dim // 2 :, 0, 3], table[dim // 2 :, 7, 3])
    for side in (torch.arange(8) < 4).expand(8, 8), (torch.arange(8) < 4)[:, None].expand(8, 8):
        target = side.flatten().float() * 2 - 1
        fitted = torch.linalg.lstsq(torch.cat([places, torch.ones(64, 1)], 1), target[:, None], driver="gelsd").solution
        assert ((torch.cat([places, torch.ones(64, 1)], 1) @ fitted)[:, 0] * target).min() > 0, "left and right, above and below"
