"""Generators and discriminators of every pair: shapes, ranges, classes, who sees whom, slopes, refusals."""

from __future__ import annotations

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from networks.gan import (
    NORMS,
    ConditionalBatchNorm,
    DCGANDiscriminator,
    DCGANGenerator,
    MLPDiscriminator,
    MLPGenerator,
    ProjectionHead,
)
from networks.gan_r3 import R3Discriminator, R3Generator
from networks.gan_residual import ResidualDiscriminator, ResidualGenerator
from networks.resample import UPSAMPLE_KINDS

CLASSES = 5
GENERATORS = {
    "mlp": lambda *a, **k: MLPGenerator(*a, hidden=(16, 16), **k),
    **{f"dcgan_{kind}": lambda *a, kind=kind, **k: DCGANGenerator(*a, dims=(12, 8), upsample=kind, **k)
       for kind in UPSAMPLE_KINDS},
    **{f"residual_{kind}": lambda *a, kind=kind, **k: ResidualGenerator(*a, dims=(12, 8), upsample=kind, **k)
       for kind in UPSAMPLE_KINDS},
    "r3": lambda *a, **k: R3Generator(*a, dims=(16, 16, 8), group_width=8, **k),
}  # fmt: skip
DISCRIMINATORS = {
    "mlp": lambda *a, **k: MLPDiscriminator(*a, hidden=(16, 16), **k),
    **{f"dcgan_{norm}": lambda *a, norm=norm, **k: DCGANDiscriminator(*a, dims=(8, 12), norm=norm, **k)
       for norm in NORMS},
    "dcgan_spectral": lambda *a, **k: DCGANDiscriminator(*a, dims=(8, 12), norm="none", spectral=True, **k),
    "residual": lambda *a, **k: ResidualDiscriminator(*a, dims=(8, 12), num_res_blocks=1, **k),
    "residual_plain": lambda *a, **k: ResidualDiscriminator(*a, dims=(8, 12), spectral=False, **k),
    "r3": lambda *a, **k: R3Discriminator(*a, dims=(8, 16, 16), group_width=8, embedding_dim=6, **k),
}  # fmt: skip
SMOOTH = [name for name in DISCRIMINATORS if name != "dcgan_batch"]


def awake(net: nn.Module) -> nn.Module:
    """Blocks that start as the identity and classes that start equal; here they do something."""
    with torch.no_grad():
        for p in net.parameters():
            p.add_(torch.randn_like(p), alpha=0.1)
    return net


def classes(num_classes: int | None, n: int) -> torch.Tensor | None:
    return torch.arange(n) % num_classes if num_classes else None


@pytest.mark.parametrize("num_classes", [None, CLASSES])
@pytest.mark.parametrize(("size", "channels"), [(28, 1), (32, 3), (15, 2), (1, 2)])
@pytest.mark.parametrize("name", GENERATORS)
def test_generators_give_images_of_any_size(name: str, size: int, channels: int, num_classes: int | None) -> None:
    net = awake(GENERATORS[name](size, channels, 6, num_classes=num_classes))
    image = net(10 * torch.randn(3, 6), classes(num_classes, 3))
    assert image.shape == (3, channels, size, size) and image.abs().max() <= 1 and image.std() > 0
    assert net.latent_dim == 6 and net.num_classes == num_classes


@pytest.mark.parametrize("num_classes", [None, CLASSES])
@pytest.mark.parametrize(("size", "channels"), [(28, 1), (32, 3), (15, 2), (1, 2)])
@pytest.mark.parametrize("name", DISCRIMINATORS)
def test_discriminators_take_images_of_any_size(name: str, size: int, channels: int, num_classes: int | None) -> None:
    net = awake(DISCRIMINATORS[name](size, channels, num_classes=num_classes))
    score = net(torch.randn(3, channels, size, size), classes(num_classes, 3))
    assert score.shape == (3,) and score.std() > 0 and net.num_classes == num_classes


@pytest.mark.parametrize("name", GENERATORS)
def test_in_eval_mode_an_image_is_drawn_alone_and_changes_nothing(name: str) -> None:
    net, z, label = awake(GENERATORS[name](13, 2, 6, num_classes=CLASSES)), torch.randn(8, 6), classes(CLASSES, 8)
    net(z, label)
    net.eval()
    before = {key: value.clone() for key, value in net.state_dict().items()}
    image = net(z, label)
    assert torch.equal(image, net(z, label))
    assert torch.allclose(image[2:3], net(z[2:3], label[2:3]), atol=1e-5)
    assert all(torch.equal(value, before[key]) for key, value in net.state_dict().items())


@pytest.mark.parametrize("name", DISCRIMINATORS)
def test_a_discriminator_says_whether_a_score_depends_on_other_images(name: str) -> None:
    net = awake(DISCRIMINATORS[name](16, 1))
    image = torch.randn(4, 1, 16, 16, requires_grad=True)
    (gradient,) = torch.autograd.grad(net(image)[0], image)
    assert gradient[0].any() and bool(gradient[1:].any()) == net.batch_norm
    assert net.batch_norm == any(isinstance(m, nn.BatchNorm2d) for m in net.modules())


@pytest.mark.parametrize("num_classes", [None, CLASSES])
@pytest.mark.parametrize(("kind", "name"), [("G", n) for n in GENERATORS] + [("D", n) for n in DISCRIMINATORS])
def test_every_part_is_used(kind: str, name: str, num_classes: int | None) -> None:
    if kind == "G":
        net, given = GENERATORS[name](16, 2, 6, num_classes=num_classes), torch.randn(10, 6)
    else:
        net, given = DISCRIMINATORS[name](16, 2, num_classes=num_classes), torch.randn(10, 2, 16, 16)
    out = awake(net)(given, classes(num_classes, 10))
    (out * torch.randn_like(out)).sum().backward()
    unused = [key for key, p in net.named_parameters() if p.grad is None or p.grad.abs().max() < 1e-6]
    assert not unused


@pytest.mark.parametrize("name", ["mlp", "dcgan_transposed", "residual_repetition", "r3"])
def test_a_generator_learns_what_each_class_looks_like(name: str) -> None:
    torch.manual_seed(0)
    net = GENERATORS[name](6, 1, 4, num_classes=CLASSES)
    target, label = torch.rand(CLASSES, 1, 6, 6) - 0.5, classes(CLASSES, 20)
    optimizer = torch.optim.Adam(net.parameters(), 1e-2)
    for _ in range(120):
        loss = F.mse_loss(net(torch.randn(20, 4), label), target[label])
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    blind = (target - target.mean(0)).square().mean()  # what the best net that ignores the class leaves
    assert loss < 0.5 * blind


@pytest.mark.parametrize("name", ["mlp", "dcgan_batch", "dcgan_spectral", "residual", "r3"])
def test_a_discriminator_learns_which_image_has_which_class(name: str) -> None:
    torch.manual_seed(0)
    net = DISCRIMINATORS[name](6, 1, num_classes=CLASSES)
    label = classes(CLASSES, 20)
    image = torch.randn(CLASSES, 1, 6, 6)[label] + 0.1 * torch.randn(20, 1, 6, 6)
    optimizer = torch.optim.Adam(net.parameters(), 1e-2)
    for _ in range(150):  # the same images with right and with wrong classes: only the pairing tells
        right, wrong = net(image, label), net(image, (label + 1) % CLASSES)
        loss = F.softplus(-right).mean() + F.softplus(wrong).mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    assert (right > 0).all() and (wrong < 0).all()


@pytest.mark.parametrize("num_classes", [None, 3])
@pytest.mark.parametrize("name", SMOOTH)
def test_the_gradient_of_a_slope_is_right(name: str, num_classes: int | None) -> None:
    """What R1 and the gradient penalty need of a network: derivatives by its weights of derivatives by its input."""
    torch.manual_seed(0)
    net = awake(DISCRIMINATORS[name](6, 1, num_classes=num_classes)).double().eval()
    image, label = torch.randn(4, 1, 6, 6, dtype=torch.float64, requires_grad=True), classes(num_classes, 4)
    weights = list(net.parameters())

    def slope() -> torch.Tensor:
        (gradient,) = torch.autograd.grad(net(image, label).sum(), image, create_graph=True)
        return gradient.square().sum()

    # None: what a slope does not know (biases of the last layer)
    grads = torch.autograd.grad(slope(), weights, allow_unused=True)
    direction = [torch.randn_like(w) for w in weights]
    found = sum((g * d).sum() for g, d in zip(grads, direction) if g is not None)
    step, values = 1e-6, []
    for sign in (1, -1):
        with torch.no_grad():
            torch._foreach_add_(weights, direction, alpha=sign * step)
        values.append(slope().item())
        with torch.no_grad():
            torch._foreach_add_(weights, direction, alpha=-sign * step)
    expected = (values[0] - values[1]) / (2 * step)
    assert abs(expected) > 1e-8 and found.item() == pytest.approx(expected, rel=1e-4)


@pytest.mark.parametrize("name", DISCRIMINATORS)
def test_real_and_fake_in_two_passes_have_one_backward(name: str) -> None:
    net = DISCRIMINATORS[name](8, 1)
    (net(torch.randn(4, 1, 8, 8)) - net(torch.randn(4, 1, 8, 8))).mean().backward()
    assert all(p.grad is not None and p.grad.isfinite().all() for p in net.parameters())


PAIRS = [("dcgan_transposed", "dcgan_batch"), ("residual_repetition", "residual"), ("r3", "r3")]


@pytest.mark.parametrize("pair", PAIRS)
def test_bfloat16_is_close_to_float32(pair: tuple[str, str]) -> None:
    label = classes(CLASSES, 6)
    generator = awake(GENERATORS[pair[0]](8, 1, 4, num_classes=CLASSES)).eval()
    discriminator = awake(DISCRIMINATORS[pair[1]](8, 1, num_classes=CLASSES)).eval()
    z = torch.randn(6, 4)
    expected = generator(z, label)
    with torch.autocast("cpu", torch.bfloat16):
        assert torch.allclose(generator(z, label).float(), expected, atol=0.1)
        found = discriminator(expected, label).float()
    score = discriminator(expected, label)
    assert torch.allclose(found, score, atol=0.05 * score.abs().max().item() + 0.05)


@pytest.mark.parametrize(("kind", "name"), [("G", n) for n in GENERATORS] + [("D", n) for n in DISCRIMINATORS])
def test_labels_where_they_belong_and_nowhere_else(kind: str, name: str) -> None:
    make = (lambda k: GENERATORS[name](8, 1, 4, num_classes=k)) if kind == "G" else (
        lambda k: DISCRIMINATORS[name](8, 1, num_classes=k))  # fmt: skip
    given = torch.randn(2, 4) if kind == "G" else torch.randn(2, 1, 8, 8)
    with pytest.raises(ValueError, match=r"^num_classes=5: this network needs the class of each image, and got none$"):
        make(CLASSES)(given)
    with pytest.raises(ValueError, match=r"^num_classes=None: this network knows no classes, and got labels$"):
        make(None)(given, torch.zeros(2, dtype=torch.long))


def test_conditional_batch_norm_is_a_batch_norm_per_class_over_the_whole_batch() -> None:
    net, plain = awake(ConditionalBatchNorm(4, 3)), nn.BatchNorm2d(4, affine=False)
    x, label = 3 + 2 * torch.randn(6, 4, 5, 5), torch.tensor([0, 1, 2, 0, 1, 1])
    expected = plain(x) * net.scale.weight[label][:, :, None, None] + net.shift.weight[label][:, :, None, None]
    assert torch.allclose(net(x, label), expected, atol=1e-6)
    fresh = ConditionalBatchNorm(4, 3)  # starts as the plain one
    assert torch.allclose(fresh(x, label), nn.BatchNorm2d(4)(x), atol=1e-6)
    assert torch.allclose(ConditionalBatchNorm(4)(x), fresh(x, label), atol=1e-6)


def test_the_projection_adds_a_product_with_the_class() -> None:
    head = ProjectionHead(2, 3)
    with torch.no_grad():
        head.linear.weight.copy_(torch.tensor([[1.0, 10.0]]))
        head.linear.bias.fill_(0.5)
        head.embedding.weight.copy_(torch.tensor([[0.0, 0.0], [2.0, 3.0], [-1.0, 4.0]]))
    features = torch.tensor([[1.0, 2.0], [1.0, 2.0], [3.0, 1.0]])
    assert head(features, torch.tensor([0, 1, 2])).tolist() == [21.5, 21.5 + 8, 13.5 + 1]


def test_a_discriminator_without_hidden_layers_is_linear() -> None:
    net = MLPDiscriminator(1, 2, hidden=())
    a, b = torch.randn(2, 7, 2, 1, 1)
    assert torch.allclose(net((a + b) / 2), (net(a) + net(b)) / 2, atol=1e-6)


def test_dcgan_starts_as_its_paper_says() -> None:
    for net in (DCGANGenerator(28, 1, 64, num_classes=10), DCGANDiscriminator(28, 1, num_classes=10)):
        for key, p in net.named_parameters():
            if p.ndim >= 2 and "scale" not in key and "shift" not in key:
                assert p.std().item() == pytest.approx(0.02, rel=0.1) and abs(p.mean()) < 0.002, key
            elif key.endswith("bias"):
                assert not p.any(), key
    assert [tuple(up.conv.weight.shape[:2]) for up in DCGANGenerator(28, 3, 8).up] == [(256, 128), (128, 64), (64, 3)]
    assert DCGANGenerator(28, 3, 8).shape == DCGANGenerator(32, 3, 8).shape == (256, 4, 4)
    assert DCGANDiscriminator(28, 1).head.linear.in_features == 256 * 4 * 4


def test_layer_norm_takes_all_of_an_image_together() -> None:
    net = DCGANDiscriminator(28, 1, norm="layer")
    assert [m.num_groups for m in net.modules() if isinstance(m, nn.GroupNorm)] == [1, 1]


def test_a_pixel_shuffle_starts_without_checkerboard() -> None:
    image = DCGANGenerator(16, 1, 4, dims=(8, 8), upsample="pixel_shuffle")(torch.randn(3, 4))
    blocks = image.unfold(2, 2, 2).unfold(3, 2, 2).flatten(4)
    assert torch.equal(blocks, blocks[..., :1].expand_as(blocks)) and image.std() > 0


def test_every_pixel_has_its_share_of_a_discriminators_gradient() -> None:
    """A kernel of 3 at stride 2 would give every other pixel twice the terms, a checkerboard in what is learned."""
    net = DCGANDiscriminator(32, 1, dims=(4,), norm="none")
    nn.init.ones_(net.down[0].weight)
    nn.init.ones_(net.head.linear.weight)
    image = torch.ones(1, 1, 32, 32, requires_grad=True)
    (gradient,) = torch.autograd.grad(net(image).sum(), image)
    inside = gradient[0, 0, 1:-1, 1:-1]
    assert torch.equal(inside, inside[:1, :1].expand_as(inside))


def test_spectral_norm_divides_by_the_largest_singular_value() -> None:
    net = DCGANDiscriminator(16, 1, dims=(8, 12), norm="none", spectral=True, num_classes=3)
    layers = [*net.down, net.head.linear, net.head.embedding]
    net(torch.randn(2, 1, 16, 16), torch.tensor([0, 1]))
    for layer in layers:
        assert torch.linalg.matrix_norm(layer.weight.flatten(1), 2).item() == pytest.approx(1, abs=0.05)
    with torch.no_grad():
        for layer in layers:
            layer.parametrizations.weight.original.mul_(100)  # the scale of a weight means nothing now
    assert torch.linalg.matrix_norm(net.down[1].weight.flatten(1), 2).item() == pytest.approx(1, abs=0.05)


def test_spectral_norm_iterates_once_per_pass_in_training_and_never_in_eval_mode() -> None:
    net = DCGANDiscriminator(8, 1, dims=(8, 12), norm="none", spectral=True)
    parametrization = net.down[1].parametrizations.weight
    with torch.no_grad():
        parametrization.original.normal_()  # a new matrix, whose singular vectors are not found yet
    matrix, v = parametrization.original.detach().flatten(1), parametrization[0]._v.clone()
    net(torch.randn(2, 1, 8, 8))
    u = F.normalize(matrix @ v, dim=0)
    assert torch.allclose(parametrization[0]._u, u, atol=1e-5)
    assert torch.allclose(parametrization[0]._v, F.normalize(matrix.T @ u, dim=0), atol=1e-5)
    net.eval()
    before = {key: value.clone() for key, value in net.state_dict().items()}
    score = net(torch.ones(2, 1, 8, 8))
    assert torch.equal(score, net(torch.ones(2, 1, 8, 8)))
    assert all(torch.equal(value, before[key]) for key, value in net.state_dict().items())


def test_a_saved_spectral_norm_comes_back() -> None:
    net, other = (ResidualDiscriminator(8, 1, dims=(8,), num_classes=3) for _ in range(2))
    image, label = torch.randn(3, 1, 8, 8), torch.arange(3)
    net(image, label)
    other.load_state_dict(net.state_dict())
    assert torch.equal(net(image, label), other(image, label))  # one more iteration on both sides


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: DCGANGenerator(28, 1, 0), r"model\.latent_dim=0 must be a whole number of at least 1"),
        (lambda: MLPGenerator(28, 1, 2.5), r"model\.latent_dim=2\.5 must be a whole number of at least 1"),
        (lambda: ResidualGenerator(0, 1, 4), "image_size=0 must be a whole number of at least 1"),
        (lambda: R3Generator(28, 0, 4), "channels=0 must be a whole number of at least 1"),
        (lambda: MLPDiscriminator(1, 2, hidden=(8, 0)), r"hidden\[1\]=0 must be a whole number of at least 1"),
        (lambda: DCGANDiscriminator(28, 1, dims=()), r"dims=\[\] must name the channels of at least one resolution"),
        (lambda: ResidualDiscriminator(28, 1, dims=(8, -1)), r"dims\[1\]=-1 must be a whole number of at least 1"),
        (lambda: DCGANDiscriminator(28, 1, norm="group"), "norm='group' is not known: choose one of batch, layer"),
        (lambda: DCGANGenerator(28, 1, 4, upsample="nearest"), "upsample='nearest' is not known: choose one of rep"),
        (lambda: ResidualGenerator(28, 1, 4, upsample="nearest"), "upsample='nearest' is not known: choose one of"),
        (lambda: R3Discriminator(28, 1, dims=(8, 12)), "group_width=16 must divide 2 x dims: 24 is no multiple of it"),
        (lambda: R3Generator(28, 1, 4, num_res_blocks=0), "num_res_blocks=0 must be a whole number of at least 1"),
    ],
)
def test_what_cannot_be_is_refused_in_one_line(make, message: str) -> None:
    with pytest.raises(ValueError, match=f"^{message}") as caught:
        make()
    assert "\n" not in str(caught.value)


def test_dcgan_is_its_formula() -> None:
    generator = awake(DCGANGenerator(8, 1, 4, dims=(6, 5), num_classes=CLASSES))
    z, label = torch.randn(7, 4), classes(CLASSES, 7)
    x = generator.stem(z).view(7, 6, 2, 2)
    for norm, up in zip(generator.norms, generator.up):
        x = up(norm(x, label).clamp(min=0))
    assert torch.allclose(generator(z, label), x.tanh(), atol=1e-5) and not torch.allclose(x, x.tanh(), atol=1e-3)
    for kind in NORMS:
        net, image = awake(DCGANDiscriminator(8, 1, dims=(6, 5), norm=kind)), torch.randn(7, 1, 8, 8)
        x = image
        for down, norm in zip(net.down, net.norms):
            h = norm(down(x))
            x = torch.where(h > 0, h, 0.2 * h)
        assert torch.allclose(net(image), net.head.linear(x.flatten(1))[:, 0], atol=1e-5), kind
