"""The lecture as a notebook that runs: python -m demo.notebook writes notebooks/lecture.ipynb from docs/lecture.md.

A page's text becomes cells of text, with its links made good. Between `<!-- run` and `-->` stands Python, which the page does not show and
the notebook runs. A test fails where the two have parted, and another one runs all cells.
"""

from __future__ import annotations

import hashlib
import json
import re
from pathlib import Path
from typing import Any

from files import write_text

REPO = Path(__file__).resolve().parent.parent
PAGE, NOTEBOOK = REPO / "docs" / "lecture.md", REPO / "notebooks" / "lecture.ipynb"
RUN = re.compile(r"<!-- run\n(.*?)-->\n", re.DOTALL)
MARK = re.compile(r"<!-- code: \S+ \S+ -->\n")
LINK = re.compile(r"\]\((?!https?://|#)([^)]+)\)")

SETUP = '''REPOSITORY = ""  # on Colab and the like: the address of this repository, which is then cloned and installed

import os
import subprocess
import sys
from pathlib import Path

here = next((p for p in (Path.cwd(), *Path.cwd().parents) if (p / "train.py").exists()), None)
if here is None and REPOSITORY:
    subprocess.run(["git", "clone", "--depth=1", REPOSITORY, "image-generators"], check=True)
    here = Path("image-generators").resolve()
    subprocess.run([sys.executable, "-m", "pip", "install", "-q", "-r", here / "requirements.txt"], check=True)
if here is None:
    raise FileNotFoundError("start this notebook inside a clone of the repository, or fill in REPOSITORY above")
os.chdir(here)
sys.path.insert(0, str(here))

import torch
from IPython.display import display
from PIL import Image

from api import load
from evaluation.metrics.images import to_uint8
from evaluation.pictures.captioned_grid import captioned_grid


def show(images, captions=None, columns=None):
    """Images (N, C, H, W) in [-1, 1] side by side."""
    display(captioned_grid(to_uint8(images.detach().clamp(-1, 1)), captions, columns or len(images)))
'''


def cells(page: str) -> list[dict[str, Any]]:
    """The cells of a page: one of text for each stretch between two pieces of code and each chapter, one of code for each piece."""
    found = []
    for i, part in enumerate(RUN.split(page)):
        if i % 2:
            found.append(cell("code", part))
        else:
            found += [cell("markdown", relinked(MARK.sub("", text))) for text in re.split(r"^(?=## )", part, flags=re.MULTILINE)]
    return [one for one in found if "".join(one["source"]).strip()]


def cell(kind: str, text: str) -> dict[str, Any]:
    """One cell. Its id comes from its text, so that the same page gives the same file."""
    text = text.strip("\n")
    more = {"outputs": [], "execution_count": None} if kind == "code" else {}
    return {"cell_type": kind, "id": hashlib.sha256(text.encode()).hexdigest()[:12], "metadata": {}, "source": text.splitlines(keepends=True)} | more


def relinked(text: str) -> str:
    """Text whose links lead from the notebook's folder to where they led from the page's."""
    return LINK.sub(lambda m: f"]({m[1]})" if m[1].startswith("../") else f"](../docs/{m[1]})", text)


def notebook(page: str) -> str:
    """The notebook's file for a page."""
    metadata = {"kernelspec": {"display_name": "Python 3", "language": "python", "name": "python3"}, "language_info": {"name": "python"}}
    head, _, rest = page.partition("\n## ")
    every = [*cells(head), cell("code", SETUP), *cells(f"## {rest}")]
    return json.dumps({"cells": every, "metadata": metadata, "nbformat": 4, "nbformat_minor": 5}, indent=1, ensure_ascii=False) + "\n"


def main() -> None:
    NOTEBOOK.parent.mkdir(exist_ok=True)
    write_text(NOTEBOOK, notebook(PAGE.read_text()))
    print(NOTEBOOK)


if __name__ == "__main__":
    main()
