"""The autoregressive prior: components, buckets, the chain rule, what a draw depends on, and that it learns."""

from __future__ import annotations

import itertools
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from lightning_modules.autoregressive_prior import AutoregressivePrior
from lightning_modules.spaces import Embeddings
from networks.prior import EmbeddedCaptionConditioner
from tests.lightning_modules.stub_clip import EMBED, TOKEN, stub

DIM = 16


def make(fit: bool = True, **options: Any) -> AutoregressivePrior:
    torch.manual_seed(0)
    settings = {"components": 4, "buckets": 8, "dim": DIM, "layers": 2, "heads": 2, "fit_images": 300} | options
    prior = AutoregressivePrior(space=Embeddings(EMBED), conditioners={"caption": EmbeddedCaptionConditioner(TOKEN, EMBED, DIM)}, **settings)
    if fit:
        prior.fit(*pairs(settings["fit_images"]))
    return prior.eval()


def pairs(n: int) -> tuple[Tensor, Tensor]:
    """Unit vectors of images, spread most along the second number, and of captions."""
    g = torch.Generator().manual_seed(1)
    spread = torch.tensor([0.5, 3.0, 1.0, 0.2, 0.1, 0.01])
    return F.normalize(torch.randn(n, EMBED, generator=g) * spread + 1, dim=1), F.normalize(torch.randn(n, EMBED, generator=g), dim=1)


def batch(n: int = 5) -> dict[str, Any]:
    texts = stub()[0].texts(["a b", "c", "", "a", "a b c d"][:n])
    return {"image_embeds": pairs(300)[0][:n], "seed": torch.arange(n), **texts}


def test_components_are_those_of_largest_variance_and_say_how_much_they_keep() -> None:
    z, _ = pairs(300)
    prior = make()
    centred = (z - z.mean(0)).double()
    _, singular, directions = torch.linalg.svd(centred, full_matrices=False)
    for ours, theirs in zip(prior.basis, directions):
        assert abs(float(ours.double() @ theirs)) == pytest.approx(1, abs=1e-4)
    assert float(prior.variance_kept) == pytest.approx(float((singular[:4] ** 2).sum() / (singular**2).sum()), abs=1e-5)
    numbers = centred.float() @ prior.basis.T
    assert (numbers.std(0).diff() < 0).all()
    torch.testing.assert_close(prior.limits, torch.stack([numbers.amin(0), numbers.amax(0)]))
    again = make()
    assert all(torch.equal(a, b) for a, b in zip(prior.buffers(), again.buffers())) and prior.fitted


def test_a_vector_goes_to_buckets_and_back_up_to_their_width() -> None:
    z, _ = pairs(300)
    prior = make(components=EMBED, buckets=512)
    buckets = prior.encode(z)
    assert buckets.min() == 0 and buckets.max() == 511 and all(len(column.unique()) > 100 for column in buckets.T)
    torch.testing.assert_close(prior.decode(buckets), z, rtol=0, atol=0.02)
    width = (prior.limits[1] - prior.limits[0])[:3] / 512  # of the components that spread most
    bias = ((prior.decode(buckets) - z) @ prior.basis.T).mean(0)[:3]
    assert (bias.abs() < width / 4).all(), "a bucket stands for its middle"
    assert (make(components=EMBED, buckets=8).decode(make(components=EMBED, buckets=8).encode(z)) - z).abs().max() > 0.05
    torch.testing.assert_close(prior.decode(buckets).norm(dim=1), torch.ones(300))
    far = prior.encode(torch.cat([z[:1] + 9, z[:1] - 9]))
    assert far.min() >= 0 and far.max() <= 511, "what was never seen is at the end of the range"


def told(prior: AutoregressivePrior, given: dict[str, Any]) -> dict[str, Tensor]:
    conditioner = prior.conditioners["caption"]
    return conditioner(conditioner.from_batch(given))


def test_the_loss_is_that_of_each_component_given_those_before_it_and_the_dot_product() -> None:
    prior, given = make(cond_drop_prob=0.0), batch()
    z = given["image_embeds"]
    buckets, dot = prior.encode(z), prior.dot_bucket((z * given["text_vector"]).sum(1))
    nats = torch.zeros(5)
    for k in range(4):  # each from a call that knows no more than what is before it
        scores = prior.logits(told(prior, given), dot, buckets[:, :k])
        assert scores.shape == (5, k + 1, 8)
        nats -= scores[:, -1].log_softmax(-1).gather(1, buckets[:, k : k + 1])[:, 0] / 4
    torch.testing.assert_close(prior.loss(given, torch.zeros(5), "prior"), nats)
    scaled = prior.loss(given | {"image_embeds": 3 * z}, torch.zeros(5), "prior")
    torch.testing.assert_close(scaled, nats, msg="embeddings are made unit vectors")


def test_probabilities_of_all_sequences_add_up_to_one() -> None:
    prior, given = make(components=3, buckets=3), batch(1)
    dot, total = torch.zeros(1, dtype=torch.int64), 0.0
    for chosen in itertools.product(range(3), repeat=3):
        buckets = torch.tensor([chosen])
        scores = prior.logits(told(prior, given), dot, buckets[:, :-1]).log_softmax(-1)
        total += float(scores.detach().gather(2, buckets[..., None]).sum().exp())
    assert total == pytest.approx(1, abs=1e-5)


def test_a_caption_is_dropped_as_told_and_matters_else() -> None:
    given, other, changed = batch(), batch() | {"text_embeds": batch()["text_embeds"].flip(-1)}, []
    for prob in (0.0, 1.0):
        prior = make(cond_drop_prob=prob)
        changed.append((prior.loss(given, None, "x") - prior.loss(other, None, "x")).abs())
    assert changed[0][[0, 1, 3, 4]].min() > 1e-5 and changed[1].max() == 0 and changed[0][2] == 0


def test_a_draw_depends_on_its_caption_and_seed_only_and_is_guided() -> None:
    prior = make()
    with torch.no_grad():
        prior.head.weight.mul_(30)  # so that captions matter
    given, seeds = batch(), [3, 4, 5, 6, 7]
    drawn = prior.sample(given, seeds, "prior.0")
    assert drawn.shape == (5, EMBED)
    torch.testing.assert_close(drawn.norm(dim=1), torch.ones(5))
    alone = {name: value[1:2] for name, value in given.items()}
    torch.testing.assert_close(prior.sample(alone, [4], "prior.0")[0], drawn[1])
    assert not torch.equal(prior.sample(given, seeds, "prior.1"), drawn)
    empty = given | {"text_keep": torch.zeros(5, dtype=torch.bool)}
    torch.testing.assert_close(prior.sample(given, seeds, "prior.0", guidance_scale=0.0), prior.sample(empty, seeds, "prior.0"))
    torch.testing.assert_close(prior.sample(given, seeds, "prior.0", guidance_scale=1.0), drawn)
    assert not torch.equal(prior.sample(given, seeds, "prior.0", guidance_scale=5.0), drawn)


def test_draws_follow_the_scores_and_the_dot_products_are_of_the_top_half(monkeypatch: pytest.MonkeyPatch) -> None:
    prior, n, seen = make(components=2, buckets=4), 4000, []
    wanted = torch.tensor([[0.1, 0.2, 0.3, 0.4], [0.4, 0.0, 0.6, 0.0]])

    def logits(told: Any, dot: Tensor, known: Tensor) -> Tensor:
        seen.append(dot)
        return wanted[: known.shape[1] + 1].log().expand(n, -1, -1)

    monkeypatch.setattr(prior, "logits", logits)
    monkeypatch.setattr(prior, "decode", lambda known: known)
    given = {name: value[:1].expand(n, *value.shape[1:]) for name, value in batch().items()}
    drawn = prior.sample(given, list(range(n)), "x")
    for k in range(2):
        shares = torch.bincount(drawn[:, k], minlength=4) / n
        assert (shares - wanted[k]).abs().max() < 0.03
    upper = prior.dot_bucket(prior.dots[150:])
    shares = torch.bincount(seen[0], minlength=4) / n
    assert (shares - torch.bincount(upper, minlength=4) / 150).abs().max() < 0.03 and seen[0].min() >= upper.min()


def test_it_learns_which_embedding_goes_with_a_caption() -> None:
    prior, g = make(fit=False, fit_images=100, components=3), torch.Generator().manual_seed(5)
    clip, captions = stub()[0], ["red", "blue"] * 50
    texts = clip.texts(captions)
    centres = texts["text_vector"][:2]  # as in CLIP, an image lies near its caption, and each caption as near as the other
    z = F.normalize(centres[[0, 1] * 50] + 0.05 * torch.randn(100, EMBED, generator=g), dim=1)
    prior.fit(z, texts["text_vector"])
    optimizer = torch.optim.Adam(prior.parameters(), 3e-3)
    for step in range(100):
        loss = prior.train().loss({"image_embeds": z, "seed": torch.arange(100) + 100 * step, **texts}, None, "prior").mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    drawn = prior.eval().sample(clip.texts(captions), list(range(100)), "prior.0")
    right = (drawn @ centres.T).argmax(1) == torch.tensor([0, 1] * 50)
    assert right.float().mean() > 0.95


def test_refusals_are_one_clear_line() -> None:
    with pytest.raises(ValueError, match="does not know the components of the embeddings yet: training finds them"):
        make(fit=False).loss(batch(), None, "prior")
    with pytest.raises(ValueError, match="fit_images=300, and there are 5 embeddings"):
        make(fit=False).fit(*pairs(5))
    for options, message in (
        ({"components": 7}, "components=7: an embedding has 6 numbers"),
        ({"buckets": 1}, "buckets=1: at least 2"),
        ({"cond_drop_prob": 1.5}, r"cond_drop_prob=1.5 is outside \[0, 1\]"),
        ({"heads": 3}, "width=16 is not a multiple of heads=3"),
        ({"fit_images": 4}, "fit_images=4: more than the 4 components"),
    ):
        with pytest.raises(ValueError, match=message):
            make(fit=False, **options)
    assert make().settings() == {"sampler": "autoregressive", "components": 4, "buckets": 8, "guidance_scale": 1.0}
