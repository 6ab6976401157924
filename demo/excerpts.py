"""Puts the lines of code that a page of documentation names into it: python -m demo.excerpts

`<!-- code: objectives/elbo.py reparameterise -->` on a page is followed by that function's code, without its docstring. A test fails where
the page and the source have parted.
"""

from __future__ import annotations

import ast
import re
import textwrap
from pathlib import Path

from files import write_text

REPO = Path(__file__).resolve().parent.parent
PAGE = REPO / "docs" / "lecture.md"
MARK = re.compile(r"(<!-- code: (\S+) (\S+) -->\n)(?:```python\n.*?```\n)?", re.DOTALL)


def excerpt(source: str, name: str) -> str:
    """The code of a function, or of a class's method as `Class.method`, without its docstring and without indentation.

    Raises: ValueError where the source has none of that name.
    """
    body: list[ast.stmt] = ast.parse(source).body
    for part in name.split("."):
        node = next((n for n in body if isinstance(n, (ast.FunctionDef, ast.ClassDef)) and n.name == part), None)
        if node is None:
            raise ValueError(f"there is no {name} in this source")
        body = node.body
    kept = source.splitlines()[: node.end_lineno]
    if ast.get_docstring(node) is not None:
        del kept[node.body[0].lineno - 1 : node.body[0].end_lineno]
    return textwrap.dedent("\n".join(kept[node.lineno - 1 :]))


def filled(page: str) -> str:
    """The page with the code of today behind every mark. Raises: ValueError, FileNotFoundError for a mark of what is not there."""

    def code(found: re.Match[str]) -> str:
        return f"{found[1]}```python\n{excerpt((REPO / found[2]).read_text(), found[3])}\n```\n"

    return MARK.sub(code, page)


def main() -> None:
    write_text(PAGE, filled(PAGE.read_text()))
    print(PAGE)


if __name__ == "__main__":
    main()
