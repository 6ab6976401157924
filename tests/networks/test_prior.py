"""The prior's transformer: order, causality, padding, and captions dropped as a whole."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from networks.prior import EmbeddedCaptionConditioner, PriorTransformer
from tests.networks.test_attention import randomised

SIZE, DIM = 6, 16


def prior() -> PriorTransformer:
    torch.manual_seed(0)
    return randomised(PriorTransformer(size=SIZE, dim=DIM, layers=2, heads=2, tokens_dim=DIM))


def inputs(length: int = 4) -> tuple[Tensor, Tensor, Tensor]:
    g = torch.Generator().manual_seed(1)
    return tuple(torch.randn(*s, generator=g, dtype=torch.float64) for s in ((3, SIZE), (3,), (3, length, DIM)))


def test_the_sequence_is_caption_level_embedding_query_and_each_place_sees_what_is_before_it() -> None:
    net, (x, log_snr, tokens) = prior(), inputs()
    seen = []
    net.transformer.register_forward_pre_hook(lambda _, args, kwargs: seen.append((args[0], kwargs)), with_kwargs=True)
    out, inside = net(x, log_snr, tokens=tokens), []
    sequence, options = seen[0]
    assert sequence.shape == (3, 7, DIM) and torch.equal(sequence[:, :4], tokens) and options["causal"] is True
    level, stem = net.level_embedding(log_snr), net.stem(x)
    torch.testing.assert_close(sequence[:, 4], level + net.positional_embedding[0])
    torch.testing.assert_close(sequence[:, 5], stem + net.positional_embedding[1])
    torch.testing.assert_close(sequence[:, 6], (net.query + net.positional_embedding[2]).expand(3, -1))
    net.transformer.register_forward_hook(lambda _, args, result: inside.append(result))
    net(x, log_snr, tokens=tokens)
    torch.testing.assert_close(out, net.head(net.norm(inside[0][:, -1])))
    other = sequence.clone()
    other[:, 4, 0] += 3
    before, after = net.transformer(sequence, causal=True), net.transformer(other, causal=True)
    assert torch.equal(before[:, :4], after[:, :4]) and (before[:, 4:] - after[:, 4:]).abs().amax(-1).min() > 1e-3


def test_everything_that_it_is_told_matters_and_a_vector_joins_the_level() -> None:
    net, (x, log_snr, tokens) = prior(), inputs()
    out = net(x, log_snr, tokens=tokens)
    assert out.shape == (3, SIZE)
    for changed in (net(x + 1, log_snr, tokens=tokens), net(x, log_snr + 1, tokens=tokens), net(x, log_snr, tokens=tokens.flip(1)), net(x, log_snr)):
        assert (changed - out).abs().amax(1).min() > 1e-4
    vector = torch.ones(3, DIM, dtype=torch.float64)
    told = net(x, log_snr, tokens=tokens, vector=vector)
    with torch.no_grad():
        net.positional_embedding[0] += 1
    torch.testing.assert_close(net(x, log_snr, tokens=tokens), told)


def test_padding_is_not_seen_and_its_length_changes_nothing() -> None:
    net, (x, log_snr, tokens) = prior(), inputs(6)
    short = net(x, log_snr, tokens=tokens[:, :4])
    mask = torch.arange(6).expand(3, -1) < 4
    torch.testing.assert_close(net(x, log_snr, tokens=tokens, token_mask=mask), short)
    torch.testing.assert_close(net(x, log_snr, tokens=tokens + 9 * ~mask[..., None], token_mask=mask), short)
    assert (net(x, log_snr, tokens=tokens) - short).abs().max() > 1e-3
    ragged = torch.tensor([4, 2, 6])[:, None] > torch.arange(6)  # each row as alone
    together = net(x, log_snr, tokens=tokens, token_mask=ragged)
    for i, length in enumerate((4, 2, 6)):
        torch.testing.assert_close(together[i : i + 1], net(x[i : i + 1], log_snr[i : i + 1], tokens=tokens[i : i + 1, :length]))


def test_an_untrained_prior_says_zero_and_wrong_widths_are_refused() -> None:
    x, log_snr, tokens = (t.float() for t in inputs())
    assert not PriorTransformer(size=SIZE, dim=DIM, layers=1, heads=2)(x, log_snr, tokens=tokens).any()
    with pytest.raises(ValueError, match="dim=16, heads|width=16 is not a multiple of heads=3"):
        PriorTransformer(size=SIZE, dim=DIM, heads=3)
    with pytest.raises(ValueError, match="tokens_dim=8: the prior reads its conditions as tokens of its own width, dim=16"):
        PriorTransformer(size=SIZE, dim=DIM, heads=2, tokens_dim=8)


# ---- captions ----


def conditioner(**options: int) -> EmbeddedCaptionConditioner:
    return randomised(EmbeddedCaptionConditioner(5, 4, DIM, **options))


def captions() -> dict[str, Tensor]:
    g = torch.Generator().manual_seed(2)
    mask = torch.tensor([[True, True, True], [True, False, False], [True, True, False]])
    text, vector = (torch.randn(*s, generator=g, dtype=torch.float64) for s in ((3, 3, 5), (3, 4)))
    return {"text_embeds": text, "text_mask": mask, "text_vector": vector}


def test_a_caption_is_its_tokens_at_their_places_and_then_its_embedding() -> None:
    net, batch = conditioner(), captions()
    told = net(net.from_batch(batch))
    tokens = net.from_tokens(torch.nn.functional.layer_norm(batch["text_embeds"], (5,), net.norm.weight, net.norm.bias))
    torch.testing.assert_close(told["tokens"][:, :3], tokens + net.positional_embedding[:3])
    torch.testing.assert_close(told["tokens"][:, 3], net.from_vector(2 * batch["text_vector"]))
    assert torch.equal(told["token_mask"][:, :3], batch["text_mask"]) and told["token_mask"][:, 3].all()


def test_tokens_and_embedding_are_dropped_together_and_leave_nothing_of_the_caption() -> None:
    net, batch = conditioner(), captions()
    keep = torch.tensor([True, False, True])
    value = net.from_batch(batch)
    told, dropped = net(value), net(net.drop(value, keep))
    assert torch.equal(dropped["tokens"][keep], told["tokens"][keep]) and torch.equal(dropped["token_mask"][keep], told["token_mask"][keep])
    assert dropped["token_mask"][1].tolist() == [True, False, False, True]
    torch.testing.assert_close(dropped["tokens"][1, 0], net.no_token)
    torch.testing.assert_close(dropped["tokens"][1, 3], net.no_vector)
    empty = net(net.from_batch(batch | {"text_keep": keep}))
    assert all(torch.equal(empty[name], dropped[name]) for name in told)
    again = net(net.drop(net.from_batch(batch | {"text_keep": keep}), torch.tensor([True, True, False])))
    assert again["token_mask"].sum(1).tolist() == [4, 2, 2]
    for i in (1, 2):
        torch.testing.assert_close(again["tokens"][i, [0, 3]], torch.stack([net.no_token, net.no_vector]), msg="what was empty stays empty")
    assert net.reads == "text" and net.droppable


def test_what_a_prior_cannot_read_is_refused() -> None:
    with pytest.raises(ValueError, match="a prior needs captions: the batch has no text_vector"):
        conditioner().from_batch({"text_embeds": torch.zeros(1, 1, 5)})
    net = conditioner(max_length=2)
    with pytest.raises(ValueError, match="a caption of 3 tokens is longer than the 2 the prior was built for"):
        net(net.from_batch(captions()))
