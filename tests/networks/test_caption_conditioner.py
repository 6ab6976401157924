"""Captions as a condition: tokens, padding, what is dropped, which place is the vector, against a plain re-computation."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from networks.caption_conditioner import CaptionConditioner
from networks.embedding import waves
from networks.text.bpe import BPETokenizer
from tests.networks.test_attention import randomised

CAPTIONS = ["a red circle", "two blue squares left of a green one", "", "a red circle"]


def make(**kwargs) -> CaptionConditioner:
    torch.manual_seed(0)
    settings = {"vocab_size": 600, "context_length": 30, "num_layers": 2, "heads": 2} | kwargs
    return randomised(CaptionConditioner(16, 10, **settings)).double()


def told(net: CaptionConditioner, captions: list[str]) -> dict[str, Tensor]:
    return net(net.from_batch({"caption": captions}))


def norm(layer: torch.nn.LayerNorm, x: Tensor) -> Tensor:
    return (x - x.mean(-1, keepdim=True)) / (x.var(-1, keepdim=True, correction=0) + layer.eps).sqrt() * layer.weight + layer.bias


def test_places_behind_the_end_hold_vectors_of_their_own_and_every_place_sees_every_other() -> None:
    net = make()
    found = told(net, CAPTIONS)
    assert sorted(found) == ["tokens", "vector"] and found["tokens"].shape == (4, 30, 16)
    for row, caption in enumerate(CAPTIONS):
        numbers = BPETokenizer(600, 30).tokens(caption)
        x = net.token_embedding.weight[numbers] + net.positional_embedding[: len(numbers)]
        x = torch.cat([x, net.padding_embedding[len(numbers) :]])  # without the table of places
        for block in net.transformer.resblocks:
            qkv = norm(block.ln_1, x) @ block.attn.in_proj_weight.T + block.attn.in_proj_bias
            q, k, v = (part.unflatten(-1, (2, 8)).transpose(0, 1) for part in qkv.chunk(3, -1))
            heads = (q @ k.mT / 8**0.5).softmax(-1) @ v
            x = x + block.attn.out_proj(heads.transpose(0, 1).flatten(1))
            x = x + block.mlp["c_proj"](F.gelu(block.mlp["c_fc"](norm(block.ln_2, x))))
        x = norm(net.norm_out, x)
        torch.testing.assert_close(found["tokens"][row], x, rtol=1e-9, atol=1e-9)
        torch.testing.assert_close(found["vector"][row], net.to_vector.weight @ x[-1] + net.to_vector.bias, rtol=1e-9, atol=1e-9)


def test_a_caption_is_told_alone_as_in_a_batch_and_the_order_of_words_matters() -> None:
    net = make()
    together, alone = told(net, CAPTIONS), told(net, CAPTIONS[:1])
    torch.testing.assert_close(together["vector"][:1], alone["vector"])
    torch.testing.assert_close(together["tokens"][3], alone["tokens"][0])
    a, b = told(net, ["red circle, blue square", "blue circle, red square"])["vector"]
    assert (a - b).abs().max() > 1e-3


def test_a_dropped_caption_is_the_empty_one_of_the_data() -> None:
    net = make()
    keep = torch.tensor([True, False, True, False])
    value = net.from_batch({"caption": CAPTIONS})
    dropped = net.drop(value, keep)["ids"]
    wanted = net.from_batch({"caption": [CAPTIONS[0], "", "", ""]})["ids"]
    assert torch.equal(dropped, wanted) and torch.equal(net.from_batch({"caption": ["  "]})["ids"][0], wanted[1])
    assert not torch.equal(value["ids"][1], wanted[1]), "the value itself stays"


def test_a_caption_that_fills_all_places_and_a_longer_one_are_read_to_the_last_place() -> None:
    net = make(context_length=5)
    long = net.from_batch({"caption": ["a red circle and a blue square"]})["ids"]
    assert long[0, -1] == 599
    before = told(net, ["a red circle and a blue square"])["tokens"]
    with torch.no_grad():
        net.padding_embedding.mul_(3)
    torch.testing.assert_close(told(net, ["a red circle and a blue square"])["tokens"], before)
    assert (told(net, ["a"])["tokens"] - told(make(context_length=5), ["a"])["tokens"]).abs().max() > 1e-3


def test_every_weight_learns_whatever_the_captions_are() -> None:
    """Of processes that train together each must have a gradient for every weight."""
    net = make()
    found = told(net, [""])
    (found["vector"].sum() + found["tokens"].square().sum()).backward()
    assert all(p.grad is not None for p in net.parameters())


def test_what_does_not_go_together_is_refused() -> None:
    with pytest.raises(ValueError, match="tokens_dim=16 is not a multiple of heads=3"):
        make(heads=3)
    with pytest.raises(ValueError, match="the batch has no caption"):
        make().from_batch({"text_embeds": torch.zeros(1, 2, 3)})


def test_words_places_and_fillers_start_as_large_as_what_the_layers_add() -> None:
    """Smaller ones are drowned by the first layer for the length of a short training, and the order of words is not learned."""
    torch.manual_seed(0)
    net = CaptionConditioner(64, 32, context_length=24)
    assert 0.9 < net.token_embedding.weight.std() < 1.1 and 0.9 < net.padding_embedding.std() < 1.1
    torch.testing.assert_close(net.positional_embedding, waves(24, 64, longest=128))
    tokens = [told(net, [text])["tokens"] for text in ("a red circle left of a blue square", "a blue square left of a red circle")]
    assert (tokens[0] - tokens[1]).square().mean() > 0.2 * tokens[0].square().mean()
