"""Code on a page is the code of the source: without its docstring, and up to date."""

from __future__ import annotations

import pytest

from demo.excerpts import MARK, PAGE, excerpt, filled

SOURCE = '''
import math

def first(x: int) -> int:
    """One line.

    And more.
    """
    # why
    return x + 1


class Second:
    """A class."""

    def method(self) -> str:
        return "a"
'''


def test_a_function_comes_without_its_docstring_and_indentation() -> None:
    assert excerpt(SOURCE, "first") == "def first(x: int) -> int:\n    # why\n    return x + 1"
    assert excerpt(SOURCE, "Second.method") == 'def method(self) -> str:\n    return "a"'
    with pytest.raises(ValueError, match="there is no Second.other in this source"):
        excerpt(SOURCE, "Second.other")


def test_old_code_is_replaced_and_the_rest_of_the_page_stays() -> None:
    page = "Before.\n\n<!-- code: objectives/elbo.py reparameterise -->\n```python\nold\n```\n\nAfter.\n"
    new = filled(page)
    assert new.startswith("Before.\n\n<!-- code: objectives/elbo.py reparameterise -->\n```python\ndef reparameterise(")
    assert new.endswith("\n```\n\nAfter.\n") and "old" not in new and filled(new) == new


def test_the_page_says_what_the_source_says() -> None:
    text = PAGE.read_text()
    assert filled(text) == text, "run python -m demo.excerpts"
    assert len(MARK.findall(text)) >= 10
