"""What tells the net the noise level, the text, a class and images, against a plain re-computation in float64."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor, nn

from networks.conditioners import (
    AugmentConditioner,
    Conditioner,
    ImageEmbeddingConditioner,
    LabelConditioner,
    LevelEmbedding,
    LowresConditioner,
    TextConditioner,
    combine,
)
from tests.networks.test_attention import normed, randomised

MASK = torch.tensor([[True, True, False, False], [True, True, True, True], [True, False, False, False]])


def text() -> Tensor:
    return 3 * torch.randn(3, 4, 12, dtype=torch.float64, generator=torch.Generator().manual_seed(0)) + 1


def test_levels_are_sines_and_cosines_of_frequencies_over_the_range() -> None:
    layer = LevelEmbedding(6, scale=20.0, num_frequencies=5)
    layer.mlp = nn.Identity()
    level = torch.tensor([-20.0, -3.7, 0.0, 11.0])
    frequencies = [0.25 * 64 ** (i / 4) for i in range(5)]  # cycles over a range of 1: 0.25 to 16, even in the logarithm
    angles = [[2 * math.pi * f * float(x) / 20 for f in frequencies] for x in level]
    expected = torch.tensor([[*map(math.sin, row), *map(math.cos, row)] for row in angles])
    torch.testing.assert_close(layer(level), expected, rtol=0, atol=1e-4)


def test_neighbouring_levels_differ_in_half_precision_too() -> None:
    layer = LevelEmbedding(6, scale=20.0)
    layer.mlp = nn.Identity()
    near = layer(torch.tensor([10.0, 10.01]))
    assert (near[0] - near[1]).abs().max() > 0.04


def test_the_embedding_is_a_perceptron_of_the_waves() -> None:
    layer = LevelEmbedding(6, scale=1.0)
    assert "frequencies" not in layer.state_dict()
    assert [type(m).__name__ for m in layer.mlp] == ["Linear", "SiLU", "Linear"] and layer(torch.rand(3)).shape == (3, 6)


@pytest.mark.parametrize("queries", [1, 3])
def test_without_layers_tokens_are_normalised_projected_and_pooled_by_attention(queries: int) -> None:
    net = randomised(TextConditioner(12, 16, 10, head_dim=8, num_queries=queries))
    told = net({"text": text(), "mask": MASK})
    context, pooled = told["tokens"], told["vector"]
    assert torch.equal(told["token_mask"], MASK) and list(told) == ["vector", "tokens", "token_mask"]
    tokens = net.project(normed(text()) * net.norm_in.weight + net.norm_in.bias)
    tokens = normed(tokens) * net.norm_out.weight + net.norm_out.bias
    torch.testing.assert_close(context, tokens)
    for b, (row, mask) in enumerate(zip(tokens, MASK)):
        real = row[mask]
        weights = [torch.softmax(logits.float(), 0).double() for logits in net.pool_logit(real).T]
        expected = net.pool_out(torch.cat([(w[:, None] * real).sum(0) for w in weights]))
        torch.testing.assert_close(pooled[b], expected, rtol=1e-5, atol=1e-6)


def test_layers_see_positions_and_real_tokens_and_normalise_first() -> None:
    net = randomised(TextConditioner(12, 16, 10, num_layers=1, head_dim=8, max_length=6))
    context = net({"text": text(), "mask": MASK})["tokens"]
    tokens = net.project(normed(text()) * net.norm_in.weight + net.norm_in.bias) + net.position[:4]
    layer = net.layers[0]

    def norm(module: nn.LayerNorm, x: Tensor) -> Tensor:
        return normed(x) * module.weight + module.bias

    for b, mask in enumerate(MASK):
        x = tokens[b, mask]
        qkv = norm(layer.norm1, x) @ layer.self_attn.in_proj_weight.T + layer.self_attn.in_proj_bias
        q, k, v = (part.unflatten(-1, (2, 8)).transpose(0, 1) for part in qkv.chunk(3, -1))
        heads = (q @ k.mT / math.sqrt(8)).softmax(-1) @ v
        x = x + layer.self_attn.out_proj(heads.transpose(0, 1).flatten(1))
        x = x + layer.linear2(nn.functional.gelu(layer.linear1(norm(layer.norm2, x))))
        torch.testing.assert_close(context[b, mask], norm(net.norm_out, x), rtol=1e-5, atol=1e-6)


def test_the_longest_caption_fits_and_a_longer_one_is_refused() -> None:
    net = randomised(TextConditioner(12, 16, 10, num_layers=1, head_dim=8, max_length=4))
    assert net({"text": text(), "mask": MASK})["tokens"].shape == (3, 4, 16)
    with pytest.raises(ValueError, match="a caption of 5 tokens is longer than the 4"):
        net({"text": torch.zeros(1, 5, 12, dtype=torch.float64), "mask": torch.ones(1, 5, dtype=torch.bool)})


def test_levels_in_double_precision_are_embedded_in_double_precision() -> None:
    layer = LevelEmbedding(6, scale=20.0)
    layer.mlp = nn.Identity()
    assert layer(torch.tensor([10.0], dtype=torch.float64)).dtype == torch.float64
    assert layer(torch.tensor([10.0], dtype=torch.bfloat16)).dtype == torch.float32


# ---- text ----

KEEP = torch.tensor([True, False, True])


def test_a_dropped_caption_is_one_token_of_zeros_whatever_its_length_was() -> None:
    net = TextConditioner(12, 16, 10, head_dim=8)
    value = net.drop({"text": text(), "mask": MASK}, KEEP)
    assert not value["text"][1].any() and torch.equal(value["text"][KEEP], text()[KEEP])
    assert value["mask"].tolist() == [MASK[0].tolist(), [True, False, False, False], MASK[2].tolist()]


def test_text_is_read_from_a_batch_and_an_empty_caption_is_dropped_there() -> None:
    net = TextConditioner(12, 16, 10, head_dim=8)
    batch = {"text_embeds": text(), "text_mask": MASK}
    value = net.from_batch(batch)
    assert value["text"] is batch["text_embeds"] and value["mask"] is MASK
    dropped, wanted = net.from_batch(batch | {"text_keep": KEEP}), net.drop(value, KEEP)
    assert all(torch.equal(dropped[key], wanted[key]) for key in wanted)
    with pytest.raises(ValueError, match="needs captions: the batch has no text_embeds"):
        net.from_batch({"image": text()})


def test_what_stands_behind_a_mask_is_never_seen() -> None:
    net = randomised(TextConditioner(12, 16, 10, num_layers=2, head_dim=8))
    told = net({"text": text(), "mask": MASK})
    changed = net({"text": torch.where(MASK[..., None], text(), 9.0), "mask": MASK})
    torch.testing.assert_close(changed["vector"], told["vector"], rtol=1e-5, atol=1e-6)
    torch.testing.assert_close(changed["tokens"][MASK], told["tokens"][MASK], rtol=1e-5, atol=1e-6)


# ---- class, low-resolution image, image embedding, augmentation ----


def test_a_class_is_a_row_of_a_table_and_no_class_the_last_one() -> None:
    net = LabelConditioner(4, 6)
    assert net.table.weight.shape == (5, 6) and 0.01 < net.table.weight.std() < 0.03
    label = torch.tensor([3, 0, 2])
    assert net.from_batch({"label": label}) == {"label": label}
    assert net.from_batch({"label": label, "label_keep": KEEP})["label"].tolist() == [3, 4, 2]
    dropped = net.drop({"label": label}, KEEP)
    assert dropped["label"].tolist() == [3, 4, 2]
    told = net(dropped)
    assert list(told) == ["vector"] and torch.equal(told["vector"], net.table.weight[[3, 4, 2]])
    with pytest.raises(ValueError, match="the batch has no label"):
        net.from_batch({"image": label})
    for number in (None, 0):
        with pytest.raises(ValueError, match="needs data with classes"):
            LabelConditioner(number, 6)


def test_a_low_resolution_image_is_channels_with_its_level_and_never_dropped() -> None:
    net = LowresConditioner(6)
    batch = {"lowres": torch.randn(3, 2, 4, 4), "aug_level": torch.tensor([0.0, 0.5, 1.0]), "label": KEEP}
    value = net.from_batch(batch)
    assert sorted(value) == ["aug_level", "lowres"] and not net.droppable and net.drop(value, KEEP) is value
    told = net(value)
    assert sorted(told) == ["channels", "vector"] and told["channels"] is batch["lowres"]
    torch.testing.assert_close(told["vector"], net.level(batch["aug_level"]))
    assert net.level.scale == 1


def test_an_image_embedding_is_a_vector_and_tokens_and_a_learned_one_in_its_absence() -> None:
    net = randomised(ImageEmbeddingConditioner(5, 6, 8, num_tokens=3))
    embeds = torch.randn(3, 5, dtype=torch.float64)
    value = net.from_batch({"image_embeds": embeds})
    told = net(value)
    torch.testing.assert_close(told["vector"], net.to_vector(5**0.5 * embeds))
    torch.testing.assert_close(told["tokens"], net.to_tokens(5**0.5 * embeds).view(3, 3, 8))
    plain = ImageEmbeddingConditioner(5, 6, scale=1.0).double()
    torch.testing.assert_close(plain({"embeds": embeds})["vector"], plain.to_vector(embeds))
    assert told["token_mask"].all() and told["token_mask"].shape == (3, 3) and told["token_mask"].dtype == torch.bool
    dropped = net.drop(value, KEEP)["embeds"]
    assert torch.equal(dropped[KEEP], embeds[KEEP]) and torch.equal(dropped[1], net.nothing)
    assert torch.equal(net.from_batch({"image_embeds": embeds, "image_keep": KEEP})["embeds"], dropped)
    assert list(ImageEmbeddingConditioner(5, 6)({"embeds": embeds.float()})) == ["vector"]
    with pytest.raises(ValueError, match="the batch has no image_embeds"):
        net.from_batch({"image": embeds})


def test_an_image_as_it_is_adds_nothing_and_an_augmented_one_its_numbers() -> None:
    net = AugmentConditioner(6, num_params=2)
    nothing = net.from_batch({"seed": [1, 2, 3]})
    assert nothing["augment"].shape == (3, 2) and not net(nothing)["vector"].any()
    given = torch.randn(3, 2)
    value = net.from_batch({"seed": [1, 2, 3], "augment": given})
    torch.testing.assert_close(net(value)["vector"], given @ net.to_vector.weight.T)
    assert net.drop(value, KEEP) is value and not net.droppable and list(net(value)) == ["vector"]


def test_what_a_request_can_hold_is_said_by_the_conditioner() -> None:
    kinds = (LabelConditioner, TextConditioner, LowresConditioner, ImageEmbeddingConditioner, AugmentConditioner)
    assert [k.reads for k in kinds] == ["label", "text", "lowres", "", ""]
    assert [k.droppable for k in kinds] == [True, True, False, True, False]
    base = Conditioner()
    for call in (lambda: base.from_batch({}), lambda: base.drop({}, KEEP), lambda: base({})):
        with pytest.raises(NotImplementedError):
            call()


# ---- several conditions ----


def test_vectors_are_summed_tokens_joined_and_channels_stacked() -> None:
    g = torch.Generator().manual_seed(0)
    vectors = torch.randn(3, 2, 6, generator=g)
    tokens = [torch.randn(2, n, 4, generator=g) for n in (3, 1)]
    masks = [torch.tensor([[True, True, False], [True, False, False]]), torch.tensor([[True], [True]])]
    channels = [torch.randn(2, c, 4, 4, generator=g) for c in (3, 1)]
    told = combine(
        [
            {"vector": vectors[0], "tokens": tokens[0], "token_mask": masks[0]},
            {"vector": vectors[1], "channels": channels[0]},
            {"vector": vectors[2], "tokens": tokens[1], "token_mask": masks[1], "channels": channels[1]},
        ]
    )
    assert sorted(told) == ["channels", "token_mask", "tokens", "vector"]
    torch.testing.assert_close(told["vector"], vectors[0] + vectors[1] + vectors[2])
    assert torch.equal(told["tokens"], torch.cat(tokens, 1)) and torch.equal(told["channels"], torch.cat(channels, 1))
    assert told["token_mask"].tolist() == [[True, True, False, True], [True, False, False, True]]


def test_tokens_without_a_mask_are_all_valid_beside_those_with_one() -> None:
    tokens, mask = torch.rand(2, 3, 4), torch.tensor([[True, False], [True, True]])
    masked, whole = {"tokens": torch.rand(2, 2, 4), "token_mask": mask}, {"tokens": tokens}
    for parts, places in (([masked, whole], slice(0, 2)), ([whole, masked], slice(3, 5))):
        told = combine(parts)
        rest = told["token_mask"].clone()
        assert told["tokens"].shape == (2, 5, 4) and torch.equal(rest[:, places], mask)
        rest[:, places] = True
        assert rest.all() and rest.shape == (2, 5)
    assert combine([whole, whole]).keys() == {"tokens"} and whole.keys() == {"tokens"}


def test_one_condition_alone_is_told_as_it_is_and_none_is_nothing() -> None:
    one = {"vector": torch.randn(2, 6), "tokens": torch.randn(2, 3, 4)}
    told = combine([one])
    assert all(told[key] is one[key] for key in one) and list(told) == list(one)
    assert combine([]) == {} and combine([{}, {}]) == {}


def test_places_of_words_are_seen_from_the_start() -> None:
    table = TextConditioner(12, 16, 10, num_layers=1, head_dim=8, max_length=20).position
    assert table.requires_grad and table.std() > 0.3 and torch.pdist(table.detach()).min() > 0.1
