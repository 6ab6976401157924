"""The site: links of the pages lead somewhere on it, every page of docs/ is in its sidebar, nothing is asked of the network."""

from __future__ import annotations

import re
import shutil
import subprocess
from html.parser import HTMLParser
from pathlib import Path
from urllib.parse import unquote

import pytest

from demo.site import REPO, ROOMS, build, module_page, relinked, sections, toctree, write_sources

BROWSER = next((found for name in ("chromium", "chromium-browser", "google-chrome") if (found := shutil.which(name))), None)


def test_the_sidebar_has_the_sections_and_every_page_of_docs() -> None:
    index = "# Title\n\nSee [other.md](other.md).\n\n## One\n\n| page | for |\n|---|---|\n| [a.md](a.md) | x, see [c.md](c.md) |\n\n## Two\n\n| [b.md](b.md) | y |\n"
    assert sections(index) == [("One", ["docs/a.md"]), ("Two", ["docs/b.md"])]
    listed = [page for _, pages in sections((REPO / "docs" / "README.md").read_text()) for page in pages]
    assert sorted(listed) == sorted(f"docs/{path.name}" for path in (REPO / "docs").glob("*.md") if path.name != "README.md")
    assert toctree("One", ["docs/a.md"]) == "\n```{toctree}\n:hidden:\n:caption: One\n\n/docs/a\n```\n"


@pytest.mark.parametrize(("page", "text", "on_the_site"), [
    ("README.md", "[vae.md](docs/vae.md)", "[Autoencoders and variational autoencoders](docs/vae.md)"),
    ("docs/vae.md", "[the page](gan.md) [start](../README.md)", "[the page](gan.md) [start](../index.md)"),
    ("docs/vae.md", "[`programs/vae.py`](../programs/vae.py)", '<a href="../_modules/programs/vae.html"><code>programs/vae.py</code></a>'),
    ("README.md", "[programs](programs/), [zoo/](zoo/)", '<a href="api/programs.html">programs</a>, [zoo/](zoo/README.md)'),
    ("docs/README.md", "[play.html](play.html)", '<a href="play.html">play.html</a>'),
    ("docs/vae.md", "![Samples](images/none.png) [b](https://x.org) [c](gan.md#loss)", "![Samples](images/none.png) [b](https://x.org) [c](gan.md#loss)"),
])  # fmt: skip
def test_links_lead_to_what_the_site_has(page: str, text: str, on_the_site: str) -> None:
    assert relinked(text, page) == on_the_site


def test_a_link_to_nowhere_is_named() -> None:
    with pytest.raises(FileNotFoundError, match="docs/vae.md: the link to none.md leads nowhere"):
        relinked("[a](none.md)", "docs/vae.md")


def test_without_sphinx_one_line_says_what_to_install(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(RuntimeError, match="pip install -r requirements-docs.txt"):
        build(tmp_path / "site")


def test_nothing_else_is_overwritten(tmp_path: Path) -> None:
    mine = tmp_path / "mine.txt"
    mine.write_text("mine")
    for out in (tmp_path, mine):
        with pytest.raises(RuntimeError, match="it holds something else than a site"):
            build(out)
    assert mine.read_text() == "mine"


def test_a_room_s_page_has_all_its_modules() -> None:
    page = module_page("diffusion")
    for path in (REPO / "diffusion").rglob("*.py"):
        module = ".".join(path.relative_to(REPO).with_suffix("").parts).removesuffix(".__init__")
        assert f".. automodule:: {module}\n" in page
    assert page.count(":no-members:") == 2, "diffusion and diffusion.samplers hand on what is described in their modules"
    assert module_page("api") == "api\n===\n\n.. automodule:: api\n"
    assert {"lightning_modules", "diffusion", "programs"} <= set(ROOMS)


def test_the_pages_are_written_with_a_sidebar_and_their_pictures(tmp_path: Path) -> None:
    write_sources(tmp_path)
    start = (tmp_path / "index.md").read_text()
    assert all(f"\n/docs/{page}\n" in start for page in ("lecture", "imagen", "scale"))
    assert "\n/api/networks\n" in start and "\n/zoo/README\n" in start and "\n/README\n" not in start
    assert (tmp_path / "docs" / "images" / "zoo_grid.png").is_file() and (tmp_path / "_extra" / "docs" / "play.html").is_file()


class Addresses(HTMLParser):
    """`links` of a page, and what its browser would load by itself."""

    def __init__(self) -> None:
        super().__init__()
        self.links: list[str] = []
        self.loaded: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        named = dict(attrs)
        if tag == "a" and named.get("href"):
            self.links.append(named["href"])
        self.loaded += [named[key] for key in ("src", "href") if named.get(key) and (tag, key) != ("a", "href") and tag != "base"]


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_the_whole_site_holds_together_and_opens_without_network(tmp_path: Path) -> None:
    pytest.importorskip("sphinx")
    site = tmp_path / "site"
    build(site)
    pages = [page for page in site.rglob("*.html") if page.name != "play.html" and "reports" not in page.parts]
    assert len(pages) > 200
    for page in pages:
        addresses = Addresses()
        addresses.feed(page.read_text())
        away = [a for a in addresses.loaded if re.match(r"(https?:)?//", a)]
        assert not away, f"{page} loads {away}"
        for address in [*addresses.links, *addresses.loaded]:
            path = unquote(address.partition("#")[0].partition("?")[0])
            if path and not re.match(r"\w+:", path):
                assert (page.parent / path).exists(), f"{page}: {address} leads nowhere"
    assert "class=\"sig-name descname\"" in (site / "api" / "lightning_modules.html").read_text()
    if BROWSER:
        command = [BROWSER, "--headless", "--no-sandbox", "--disable-gpu", "--proxy-server=127.0.0.1:9", "--dump-dom"]
        seen = subprocess.run([*command, f"{site / 'docs' / 'gallery.html'}"], capture_output=True, text=True, timeout=120).stdout
        assert "Gallery" in seen and 'class="sidebar-tree"' in seen
