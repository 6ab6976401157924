"""Letters beside tokens: each letter has its vector and its place, and the other encoder's tokens stay what they were."""

from __future__ import annotations

import pytest
import torch

from networks.text import BagOfWords, CachedTextEncoder, Letters

PLAIN, WORD = "a red circle", 'the word "CAT" in red'


@pytest.fixture
def letters() -> Letters:
    return Letters(BagOfWords(dim=512))


def test_the_tokens_come_first_and_then_a_letter_each(letters: Letters) -> None:
    inner, both = letters.encoder.encode([PLAIN, WORD]), letters.encode([PLAIN, WORD])
    assert inner.mask.sum(1).tolist() == [3, 5] and both.mask.sum(1).tolist() == [3, 8]
    assert both.embeds.shape == (2, 8, 512) and letters.dim == 512
    torch.testing.assert_close(both.embeds[:, :5], inner.embeds)
    assert not both.embeds[0, 3:].any() and both.embeds[1, 5:].abs().sum(1).all()
    torch.testing.assert_close(both.pooled, inner.pooled)
    assert letters.token_counts([PLAIN, WORD]) == [3, 8]
    assert letters.id == "bag_of_words_512+letters2" and letters.revision == letters.encoder.revision


def test_a_letter_is_its_kind_and_its_place_from_both_ends(letters: Letters) -> None:
    def tokens(word: str) -> torch.Tensor:
        return letters.encode([f'"{word}"']).embeds[0, 1:]

    cat = tokens("CAT")
    assert torch.equal(cat, Letters(BagOfWords(dim=512)).encode(['"CAT"']).embeds[0, 1:]), "the same everywhere"
    kind = lambda a, b: torch.nn.functional.cosine_similarity(a, b, dim=0)  # noqa: E731
    assert kind(cat[0], tokens("COT")[0]) == pytest.approx(1)  # same letter, same places
    assert kind(cat[1], tokens("COT")[1]) == pytest.approx(1 / 2, abs=0.15)  # same places
    assert kind(cat[0], tokens("CA")[0]) == pytest.approx(3 / 4, abs=0.15)  # another place from the end
    assert kind(cat[0], tokens("TAC")[2]) == pytest.approx(1 / 4, abs=0.15)  # the letter alone
    assert kind(cat[0], cat[1]) == pytest.approx(0, abs=0.15)


def test_an_average_of_the_tokens_says_which_letter_stands_where(letters: Letters) -> None:
    cat, act = (letters.encode([f'"{word}"']).embeds[0, 1:].mean(0) for word in ("CAT", "TAC"))
    assert (cat - act).abs().mean() > 0.3


def test_a_row_depends_on_its_caption_alone_and_through_the_cache(letters: Letters) -> None:
    cached = CachedTextEncoder(letters)
    for caption in (PLAIN, WORD, "", '"A" beside “NO”'):
        alone, among = letters.encode([caption]), cached.encode([WORD, PLAIN, caption])
        n = int(alone.mask.sum())
        torch.testing.assert_close(alone.embeds[0, :n], among.embeds[2, :n])
        assert int(among.mask[2].sum()) == n


def test_what_is_too_long_is_refused_or_cut(letters: Letters) -> None:
    short = Letters(BagOfWords(dim=64, max_length=6))
    with pytest.raises(ValueError, match="prompt has 8 tokens, text encoder bag_of_words_64.letters2 reads at most 6"):
        short.check_length([WORD])
    with pytest.warns(UserWarning, match="cut there"):
        cut = short.encode([WORD])
    assert cut.mask.sum() == 6
    torch.testing.assert_close(cut.embeds[0], Letters(BagOfWords(dim=64)).encode([WORD]).embeds[0, :6])


def test_both_move_to_a_device(letters: Letters) -> None:
    assert letters.to("meta") is letters and letters.device == letters.encoder.device == torch.device("meta")


def test_no_caption_gives_no_row(letters: Letters) -> None:
    assert letters.encode([]).embeds.shape[0] == 0
