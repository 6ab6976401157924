"""The lecture's notebook: it says what the page says, and all of it runs."""

from __future__ import annotations

import ast
import json
import re
from pathlib import Path

import pytest

from demo.notebook import NOTEBOOK, PAGE, REPO, cells, notebook, relinked


def test_the_notebook_is_that_of_the_page() -> None:
    assert NOTEBOOK.read_text() == notebook(PAGE.read_text()), "write it again: python -m demo.notebook"


def test_it_is_a_notebook() -> None:
    import nbformat

    found = nbformat.read(NOTEBOOK, as_version=4)
    nbformat.validate(found)
    kinds = [one.cell_type for one in found.cells]
    assert kinds.count("code") >= 10 and kinds.count("markdown") >= 12


def test_text_and_code_take_turns() -> None:
    found = cells("# A\n\nText.\n\n<!-- run\nx = 1\n\ny = 2\n-->\n\nMore.\n\n## B\n\nLast.\n")
    assert [(c["cell_type"], "".join(c["source"])) for c in found] == [
        ("markdown", "# A\n\nText."), ("code", "x = 1\n\ny = 2"), ("markdown", "More."), ("markdown", "## B\n\nLast."),
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("before", "after"),
    [
        ("![a](images/a.png)", "![a](../docs/images/a.png)"),
        ("[a](vae.md) and [b](../networks/unet.py)", "[a](../docs/vae.md) and [b](../networks/unet.py)"),
        ("[a](#here), [b](https://example.org/x)", "[a](#here), [b](https://example.org/x)"),
    ],
)
def test_links_lead_where_they_led(before: str, after: str) -> None:
    assert relinked(before) == after


def test_every_link_leads_to_a_file_and_all_code_is_python() -> None:
    for one in json.loads(NOTEBOOK.read_text())["cells"]:
        text = "".join(one["source"])
        if one["cell_type"] == "code":
            ast.parse(text)
        else:
            for place in re.findall(r"\]\((?!https?://|#)([^)#]+)", text):
                assert (NOTEBOOK.parent / place).exists(), place
            assert "<!--" not in text


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_every_cell_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import nbformat
    from nbclient import NotebookClient

    found = nbformat.read(NOTEBOOK, as_version=4)
    setup = next(one for one in found.cells if one.cell_type == "code")
    setup.source += f"\nos.chdir({str(tmp_path)!r})\nos.symlink({str(REPO / 'docs')!r}, 'docs')"  # what it draws is left there
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    NotebookClient(found, timeout=600, resources={"metadata": {"path": str(REPO / "notebooks")}}).execute()
    pictures = [out for one in found.cells if one.cell_type == "code" for out in one.outputs if "image/png" in out.get("data", {})]
    assert len(pictures) >= 10
