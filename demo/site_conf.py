"""Settings of the site, as Sphinx reads them: demo.site copies this file beside the pages."""

from __future__ import annotations

import re
import sys
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path.cwd()))

project = "Image generators"
author = "The authors of this repository"
copyright = author  # noqa: A001 - Sphinx's name
extensions = ["myst_parser", "sphinx.ext.autodoc", "sphinx.ext.napoleon", "sphinx.ext.viewcode"]
html_theme = "furo"
html_title = project
html_extra_path = ["_extra"]
html_show_sphinx = False
html_copy_source = False
templates_path: list[str] = []
exclude_patterns = ["_extra"]
default_role = "code"
myst_heading_anchors = 4
highlight_language = "none"
autodoc_member_order = "bysource"
autodoc_inherit_docstrings = False
autodoc_preserve_defaults = True
autodoc_default_options = {"members": True, "show-inheritance": True}
napoleon_use_ivar = True
toc_object_entries = False  # thousands of names in every sidebar would take most of the time

LABEL = re.compile(r"^(\s*)(Raises|Returns|Yields|Source|Example): (?=\S)")  # a section in one line
SPECIAL = re.compile(r"(``.*?``|`[^`]*`)|(\||(?<=[ (,])\*(?=\w))")  # code stays; a bar or a star would be markup


def as_restructured_text(app: Any, what: str, name: str, thing: object, options: object, lines: list[str]) -> None:
    """Makes the house's docstrings text that Sphinx reads as it was meant: in place, line by line."""
    new: list[str] = []
    for line in lines:
        if LABEL.match(line):
            new += ["", LABEL.sub(r"\1**\2:** ", line)]
        else:
            new.append(line)
    lines[:] = [SPECIAL.sub(lambda found: found[1] or f"\\{found[2]}", line) for line in new]


def setup(app: Any) -> None:
    app.connect("autodoc-process-docstring", as_restructured_text, priority=400)  # before napoleon, at 500
