"""Penalties of discriminators whose slope is known, their gradients for the weights, and lazy payment."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn

from objectives.penalties import gradient_penalty, lazy, r1, r2

SHAPE = (3, 4, 4)


def linear(w: Tensor) -> Callable[[Tensor], Tensor]:
    return lambda image: image.flatten(1) @ w + 5


def weights(scale: float = 1.0) -> Tensor:
    return (scale * torch.randn(48, dtype=torch.float64)).requires_grad_()


def images(n: int = 5) -> Tensor:
    return torch.randn(n, *SHAPE, dtype=torch.float64)


@pytest.mark.parametrize("penalty", [r1, r2])
def test_of_a_linear_discriminator_it_is_half_its_weights_squared_norm(penalty: Callable[..., Tensor]) -> None:
    w = weights()
    value = penalty(linear(w), images())
    torch.testing.assert_close(value, w.detach().square().sum() / 2)
    value.backward()
    torch.testing.assert_close(w.grad, w.detach())


def test_of_a_quadratic_discriminator_it_depends_on_the_images() -> None:
    """D(x) = x' A x / 2 has slope A x and r1 = E |A x|^2 / 2, with gradient A E[x x'] for A symmetric."""
    root, x = torch.randn(6, 6, dtype=torch.float64), torch.randn(9, 6, dtype=torch.float64)
    a = (root + root.T).requires_grad_()
    value = r1(lambda image: (image @ a * image).sum(1) / 2, x)
    torch.testing.assert_close(value, (x @ a).square().sum(1).mean() / 2)
    (grad,) = torch.autograd.grad(value, a)
    second_moment = x.T @ x / len(x)
    # autograd differentiates by every entry of A on its own: the symmetric part is the closed form
    torch.testing.assert_close((grad + grad.T) / 2, (a @ second_moment + second_moment @ a) / 2)


def test_gradient_penalty_of_a_linear_discriminator() -> None:
    w = weights(0.3)
    norm = w.detach().norm()
    value = gradient_penalty(linear(w), images(), images(), torch.rand(5))
    torch.testing.assert_close(value, (norm - 1) ** 2)
    value.backward()
    torch.testing.assert_close(w.grad, 2 * (norm - 1) * w.detach() / norm)


def test_gradient_penalty_is_taken_on_the_segment_between_real_and_fake() -> None:
    """D(x) = |x|^2 / 2 has slope x, so that the penalty tells where it was taken."""
    real, fake, u = images(), images(), torch.tensor([0.0, 1.0, 0.25, 0.5, 0.9], dtype=torch.float64)
    value = gradient_penalty(lambda image: image.flatten(1).square().sum(1) / 2, real, fake, u)
    points = [share * x + (1 - share) * y for share, x, y in zip(u, real, fake)]
    torch.testing.assert_close(value, torch.stack([(p.norm() - 1) ** 2 for p in points]).mean())
    assert not torch.isclose(value, gradient_penalty(lambda i: i.flatten(1).square().sum(1) / 2, fake, real, u))


def test_a_flat_discriminator_gives_no_nan() -> None:
    w = torch.zeros(48, dtype=torch.float64, requires_grad=True)
    value = gradient_penalty(linear(w), images(), images(), torch.rand(5)) + r1(linear(w), images())
    value.backward()
    assert value == 1 and torch.equal(w.grad, torch.zeros(48, dtype=torch.float64))


def net(dtype: torch.dtype = torch.float32) -> nn.Sequential:
    layers = (nn.Conv2d(3, 8, 3), nn.Softplus(), nn.Flatten(), nn.Linear(32, 1), nn.Flatten(0))
    return nn.Sequential(*layers).to(dtype)


@pytest.mark.parametrize("kind", ["r1", "gradient_penalty"])
def test_gradients_for_the_weights_of_a_net_are_those_of_finite_differences(kind: str) -> None:
    d, real, fake = net(torch.float64), images(3), images(3)
    names, u = [n for n, _ in d.named_parameters()], torch.rand(3, dtype=torch.float64)

    def value(*params: Tensor) -> Tensor:
        def scores(image: Tensor) -> Tensor:
            return torch.func.functional_call(d, dict(zip(names, params)), (image,))

        return r1(scores, real) if kind == "r1" else gradient_penalty(scores, real, fake, u)

    assert torch.autograd.gradcheck(value, [p.detach().requires_grad_() for p in d.parameters()])


def test_no_gradient_reaches_the_generator_and_the_images_stay_as_they_were() -> None:
    made, real, d = torch.zeros(2, *SHAPE, requires_grad=True), torch.randn(2, *SHAPE), net()
    value = r2(d, 2 * made) + gradient_penalty(d, real, 2 * made, torch.rand(2)) + r1(d, real)
    value.backward()
    assert made.grad is None and real.grad is None and not real.requires_grad
    assert all(p.grad is not None for p in d[0].parameters())


def test_autocast_does_not_change_them() -> None:
    d, real, fake, u = net(), torch.randn(4, *SHAPE), torch.randn(4, *SHAPE), torch.rand(4)

    def both() -> Tensor:
        return torch.stack((r1(d, real), gradient_penalty(d, real, fake, u)))

    plain = both()
    with torch.autocast("cpu", torch.bfloat16):
        assert d(real).dtype == torch.bfloat16
        mixed = both()
        half = r1(d, real.bfloat16())
    assert mixed.dtype == half.dtype == torch.float32 and torch.equal(plain, mixed)


def test_a_score_per_image_is_asked_for() -> None:
    with pytest.raises(AssertionError, match="scores"):
        r1(nn.Sequential(nn.Flatten(), nn.Linear(48, 1)), torch.randn(2, *SHAPE))


# ---- lazily ----


@pytest.mark.parametrize("every", [1, 2, 16])
def test_lazy_and_eager_agree_over_a_period(every: int) -> None:
    """The factors of a period sum to its length; over all phases the mean gradient is the eager one."""
    w, batches = weights(), [images(2) for _ in range(every)]

    def quadratic(image: Tensor) -> Tensor:
        return (image.flatten(1) * w).square().sum(1)

    paid = torch.zeros_like(w)
    for phase in range(every):
        answers = [lazy(step, every) for step in range(phase, phase + every)]
        assert sum(factor for _, factor in answers) == every and sum(due for due, _ in answers) == 1
        for (due, factor), batch in zip(answers, batches):
            if due:
                paid += factor * torch.autograd.grad(r1(quadratic, batch), w)[0] / every
    eager = sum(torch.autograd.grad(r1(quadratic, batch), w)[0] for batch in batches)
    torch.testing.assert_close(paid, eager)


def test_lazy_training_decays_weights_as_eager_training_does() -> None:
    """Gradient descent on r1 of a linear discriminator: w (1 - lr)^steps, lazily w (1 - 16 lr)^(steps / 16)."""
    norms = {}
    for every in (1, 16):
        w = torch.ones(48, dtype=torch.float64, requires_grad=True)
        for step in range(64):
            due, factor = lazy(step, every)
            if due:
                (grad,) = torch.autograd.grad(factor * r1(linear(w), images(1)), w)
                w = (w - 1e-3 * grad).detach().requires_grad_()
        norms[every] = w.norm().item()
    assert norms[1] == pytest.approx(48**0.5 * (1 - 1e-3) ** 64) and norms[16] == pytest.approx(norms[1], rel=1e-3)


def test_a_period_of_nothing_is_refused() -> None:
    assert lazy(32, 16) == (True, 16.0) and lazy(33, 16) == (False, 0.0) and lazy(33, 1) == (True, 1.0)
    with pytest.raises(ValueError, match="every 0 steps"):
        lazy(0, 0)
