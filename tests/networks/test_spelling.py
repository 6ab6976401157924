"""Letters as a condition: each at its place, nothing for a caption without quotes, and dropped as a whole."""

from __future__ import annotations

import pytest
import torch

from networks.conditioners import TextConditioner, combine
from networks.spelling import SpellingConditioner

CAT, NONE = 'the word "CAT" in red', "a red circle"


@pytest.fixture
def net() -> SpellingConditioner:
    torch.manual_seed(0)
    return SpellingConditioner(8, 6, max_letters=5)


def told(net: SpellingConditioner, *captions: str) -> dict[str, torch.Tensor]:
    return net(net.from_batch({"caption": list(captions)}))


def test_a_letter_is_told_at_its_place(net: SpellingConditioner) -> None:
    found = told(net, CAT, NONE)
    assert found["vector"].shape == (2, 8) and found["tokens"].shape == (2, 5, 6)
    assert found["token_mask"].tolist() == [[True] * 3 + [False] * 2, [False] * 5]
    assert found["vector"][0].abs().sum() > 0 and not found["vector"][1].any(), "a caption without quotes adds nothing"


def test_the_vector_is_a_perceptron_of_the_sum_of_letters_at_places(net: SpellingConditioner) -> None:
    rows = net.at_place.weight.view(5, 96, 8)
    sum_ = sum(rows[place, ord(letter) - 31] for place, letter in enumerate("CAT"))
    torch.testing.assert_close(told(net, CAT)["vector"][0], net.to_vector(sum_))


def test_order_and_both_ends_matter(net: SpellingConditioner) -> None:
    cat, tac = told(net, '"CAT"'), told(net, '"TAC"')
    assert (cat["vector"] - tac["vector"]).abs().max() > 1e-2
    torch.testing.assert_close(cat["tokens"][0, 1], tac["tokens"][0, 1])  # A is the second of three in both
    assert (cat["tokens"][0, 0] - told(net, '"CA"')["tokens"][0, 0]).abs().max() > 1e-2, "another place from the end"
    rows = net.rows
    expected = net.norm(rows["letter"].weight[ord("T") - 31] + rows["start"].weight[2] + rows["end"].weight[1])
    torch.testing.assert_close(cat["tokens"][0, 2], expected)


def test_a_caption_says_the_same_alone_and_among_others(net: SpellingConditioner) -> None:
    alone, among = told(net, CAT), told(net, NONE, 'a "LONG" one', CAT)
    torch.testing.assert_close(alone["vector"][0], among["vector"][2])
    torch.testing.assert_close(alone["tokens"][0], among["tokens"][2])


def test_several_quotes_are_one_text_and_what_is_too_long_is_left_out(net: SpellingConditioner) -> None:
    ids = lambda *captions: net.from_batch({"caption": list(captions)})["letters"]  # noqa: E731
    assert torch.equal(ids('"A" and “B”'), ids('"A B"'))
    assert torch.equal(ids('"ABCDEFG"'), ids('"ABCDE"'))
    assert ids('"é"').max() < 96, "any character has a number"


def test_what_is_dropped_is_a_caption_without_quotes(net: SpellingConditioner) -> None:
    value = net.from_batch({"caption": [CAT, CAT]})
    dropped = net(net.drop(value, torch.tensor([True, False])))
    torch.testing.assert_close(dropped["vector"][0], told(net, CAT)["vector"][0])
    assert not dropped["vector"][1].any() and dropped["token_mask"].sum(1).tolist() == [3, 0]


def test_letters_stand_beside_the_tokens_of_a_text_encoder(net: SpellingConditioner) -> None:
    text = TextConditioner(12, 6, 8, head_dim=6)
    other = text({"text": torch.randn(1, 4, 12), "mask": torch.tensor([[True, True, True, False]])})
    both = combine([other, told(net, CAT)])
    assert both["tokens"].shape == (1, 9, 6) and both["token_mask"].sum() == 6
    torch.testing.assert_close(both["vector"], other["vector"] + told(net, CAT)["vector"])


def test_without_tokens_there_is_the_vector_alone() -> None:
    assert list(told(SpellingConditioner(8), CAT)) == ["vector"]


def test_captions_are_needed(net: SpellingConditioner) -> None:
    with pytest.raises(ValueError, match="the batch has none"):
        net.from_batch({"image": torch.zeros(1)})
