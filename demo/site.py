"""The documentation as a site that opens without network: python -m demo.site [--out site]   (or: make docs)

The pages are those of the repository, as they are; the sidebar has the sections of docs/README.md. Pages of classes and functions are made from
their docstrings, and a link to a file leads to its source. Needs requirements-docs.txt.
"""

from __future__ import annotations

import argparse
import html
import importlib.util
import posixpath
import re
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

REPO = Path(__file__).resolve().parent.parent
PAGES = ("README.md", "CONTRIBUTING.md", "CHANGELOG.md", "NOTICE.md", "zoo/README.md", "benchmarks/README.md")
SINGLE_FILES = ("api", "contracts")  # modules outside of a room that have a page
ROOMS = ("lightning_modules", "networks", "diffusion", "objectives", "optimizers", "datamodules", "scenes", "evaluation", "callbacks", "rng", "programs")
LINK = re.compile(r"(?<!!)\[([^\]]+)\]\(([^)\s:#]+)\)")  # neither pictures, nor addresses, nor places on a page
SECTION = re.compile(r"^## (.+)$|^\| \[\S+\]\((\S+\.md)\)", re.MULTILINE)  # a heading, or a row of its table


def sections(index: str) -> list[tuple[str, list[str]]]:
    """Headings of docs/README.md, each with the pages that its links lead to, as paths from the repository's root."""
    found: list[tuple[str, list[str]]] = []
    for heading, target in SECTION.findall(index):
        if heading:
            found.append((heading, []))
        else:
            found[-1][1].append(f"docs/{target}")
    return found


def target_of(link: str, page: str) -> str:
    """What a page's link leads to, as a path from the repository's root."""
    return posixpath.normpath(posixpath.join(posixpath.dirname(page), link))


def relinked(text: str, page: str) -> str:
    """A page's text whose links to files that are no pages lead to what the site has of them.

    Args:
        page: its path from the repository's root.
    Raises: FileNotFoundError for a link to what is not there.
    """

    def link(found: re.Match[str]) -> str:
        words, target = found[1], target_of(found[2], page)
        if not (REPO / target).exists():
            raise FileNotFoundError(f"{page}: the link to {found[2]} leads nowhere")
        if (REPO / target / "README.md").is_file():
            target = f"{target}/README.md"
        if target.endswith(".md"):
            if words == posixpath.basename(target):  # a file's name, where a reader of the site has its title
                words = (REPO / target).read_text().partition("\n")[0].removeprefix("# ")
            to = posixpath.relpath("index.md" if target == "README.md" else target, posixpath.dirname(page) or ".")
            return f"[{words}]({to})"
        if target.endswith(".py"):
            target = f"_modules/{target.removesuffix('.py')}.html"
        elif (REPO / target).is_dir():
            target = f"api/{target}.html"
        away = posixpath.relpath(target, posixpath.dirname(page) or ".")
        words = re.sub(r"`([^`]*)`", r"<code>\1</code>", html.escape(words, quote=False))
        return f'<a href="{away}">{words}</a>'

    return LINK.sub(link, text)


def toctree(caption: str, pages: list[str]) -> str:
    """A part of the sidebar."""
    return "\n".join(["", "```{toctree}", ":hidden:", f":caption: {caption}", "", *(f"/{page.removesuffix('.md')}" for page in pages), "```", ""])


def write_sources(folder: Path) -> None:
    """The pages, their pictures, the settings, as Sphinx reads them, and in `_extra` what else the pages link to."""
    pages = [*PAGES, *(str(path.relative_to(REPO)) for path in sorted((REPO / "docs").glob("*.md")))]
    for page in pages:
        path = folder / ("index.md" if page == "README.md" else page)
        path.parent.mkdir(parents=True, exist_ok=True)
        text = relinked((REPO / page).read_text(), page)
        if page == "README.md":
            listed = sections((REPO / "docs" / "README.md").read_text())
            text += "".join(toctree(*part) for part in listed)
            rest = [p for p in pages if p != "README.md" and all(p not in part for _, part in listed)]
            text += toctree("Modules", [f"api/{name}" for name in (*SINGLE_FILES, *ROOMS)]) + toctree("Project", rest)
        path.write_text(text)
        for target in (target_of(link, page) for _, link in LINK.findall((REPO / page).read_text())):
            if (REPO / target).is_file() and not target.endswith((".md", ".py")):
                copy = folder / "_extra" / target
                copy.parent.mkdir(parents=True, exist_ok=True)
                shutil.copy(REPO / target, copy)
    shutil.copytree(REPO / "docs" / "images", folder / "docs" / "images")
    shutil.copy(Path(__file__).with_name("site_conf.py"), folder / "conf.py")


def module_page(name: str) -> str:
    """A room with all its modules on one page, or a single module, in reStructuredText."""
    files = sorted((REPO / name).rglob("*.py")) if (REPO / name).is_dir() else [REPO / f"{name}.py"]
    lines = [name, "=" * len(name), ""]
    for path in files:
        module = ".".join(path.relative_to(REPO).with_suffix("").parts).removesuffix(".__init__")
        if module != name:
            lines += [module, "-" * len(module), ""]
        # What a room hands on is described where it is defined.
        lines += [f".. automodule:: {module}", *(["   :no-members:"] if path.stem == "__init__" else []), ""]
    return "\n".join(lines)


def write_module_pages(folder: Path) -> None:
    """A page for every room, and for two modules beside them."""
    (folder / "api").mkdir()
    for name in (*SINGLE_FILES, *ROOMS):
        (folder / "api" / f"{name}.rst").write_text(module_page(name))


def build(out: Path) -> None:
    """Writes the site, in the place of an earlier one.

    Raises: RuntimeError if the folder holds something else, without Sphinx, and with its words if a page does not hold together.
    """
    if out.exists() and not (out / "searchindex.js").is_file() and not (out.is_dir() and not any(out.iterdir())):
        raise RuntimeError(f"--out {out}: it holds something else than a site; give an empty or a new folder")
    if any(importlib.util.find_spec(name) is None for name in ("sphinx", "furo", "myst_parser")):
        raise RuntimeError("the site is made by Sphinx: pip install -r requirements-docs.txt")
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary) / "source"
        folder.mkdir()
        write_sources(folder)
        write_module_pages(folder)
        command = [sys.executable, "-m", "sphinx", "-q", "-b", "html", "--fail-on-warning", "--keep-going"]
        done = subprocess.run([*command, str(folder), str(Path(temporary) / "html")], cwd=REPO, capture_output=True, text=True)
        if done.returncode:
            raise RuntimeError(f"the site was not built:\n{done.stderr.strip()}")
        if out.exists():
            shutil.rmtree(out)
        shutil.copytree(Path(temporary) / "html", out)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=Path("site"))
    out = parser.parse_args().out
    try:
        build(out)
    except (RuntimeError, FileNotFoundError) as error:
        raise SystemExit(str(error)) from None
    print(out / "index.html")


if __name__ == "__main__":
    main()
