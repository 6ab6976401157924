from __future__ import annotations

import pytest

from networks.text.quotes import quoted, spell_quotes


@pytest.mark.parametrize(
    ("caption", "spelled"),
    [
        ('the word "CAT" in red', 'the word "C A T" in red'),
        ('"A" beside “NO WAY”', '"A" beside "N O _ W A Y"'),
        ('"UP" and "DOWN"', '"U P" and "D O W N"'),
        ('a 5" nail and no more', 'a 5" nail and no more'),
        ('it says "" here', 'it says "" here'),
        ("a dog's dinner", "a dog's dinner"),
    ],
)
def test_only_what_is_quoted_is_spelled(caption: str, spelled: str) -> None:
    assert spell_quotes(caption) == spelled


def test_what_is_quoted_comes_in_order() -> None:
    assert quoted('"A" beside “NO WAY”, not a 5" nail') == ["A", "NO WAY"]
    assert quoted('it says "" here') == []
