"""Words: capital letters, none twice, every letter seen in training."""

from __future__ import annotations

from scenes.vocabulary import LETTERS, WORDS, is_held_out_word


def test_words_are_short_and_different() -> None:
    assert len(set(WORDS)) == len(WORDS) and all(1 <= len(w) <= 4 and set(w) <= set(LETTERS) for w in WORDS)


def test_one_word_in_five_is_held_out_and_no_single_letter() -> None:
    several = [word for word in WORDS if len(word) > 1]
    held_out = [word for word in several if is_held_out_word(word)]
    assert 0.1 < len(held_out) / len(several) < 0.3
    assert not any(map(is_held_out_word, LETTERS))


def test_training_has_every_letter_in_words_of_several() -> None:
    assert set("".join(word for word in WORDS if len(word) > 1 and not is_held_out_word(word))) == set(LETTERS)
