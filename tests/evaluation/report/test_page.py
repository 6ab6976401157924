"""The page: complete, escaped, self-contained, comparable things only, and readable on a phone."""

from __future__ import annotations

import base64
import json
import re
import shutil
import subprocess
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from evaluation.report import FinishedEvaluation, render
from evaluation.report.sample_pictures import BUDGET
from tests.evaluation.report_models import changed, section

CHROMIUM = next(
    (found for name in ("chromium", "chromium-browser", "google-chrome") if (found := shutil.which(name))), None
)


class Reader(HTMLParser):
    """Walks a page; fails on a closing tag that closes another element, collects what the tests ask for."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.open: list[tuple[str, dict]] = []
        self.tags: list[tuple[str, dict, list[tuple[str, dict]]]] = []
        self.text = ""
        self.feed(page)

    def handle_starttag(self, tag, attrs):
        self.tags.append((tag, dict(attrs), list(self.open)))
        if tag not in {"meta", "img", "br", "wbr"}:
            self.open.append((tag, dict(attrs)))

    def handle_startendtag(self, tag, attrs):
        self.tags.append((tag, dict(attrs), list(self.open)))

    def handle_endtag(self, tag):
        assert self.open.pop()[0] == tag

    def handle_data(self, data):
        if not any(tag in ("style", "script") for tag, _ in self.open):
            self.text += f" {data}"

    def all(self, tag: str) -> list[dict]:
        return [attrs for name, attrs, _ in self.tags if name == tag]


def test_the_page_is_well_formed_and_stands_alone(page: str) -> None:
    reader = Reader(page)
    assert reader.open == []
    addresses = [a[k] for _, a, _ in reader.tags for k in ("src", "href") if k in a]
    assert addresses and all(re.match(r"data:|#", address) for address in addresses)
    anchors = {a["id"] for a in reader.all("section")}
    assert {a[1:] for a in addresses if a.startswith("#")} == anchors
    assert not re.search(r"@import|url\(|<link|<iframe|https?://", page)
    assert "beta &lt;b&gt;&amp;" in page and "beta <b>" not in page


def test_everything_can_be_read_without_seeing_it(page: str) -> None:
    reader = Reader(page)
    images = reader.all("img")
    assert len(images) > 40 and all(image["alt"].strip() for image in images)
    charts = [a for a in reader.all("svg") if a.get("aria-hidden") != "true"]
    assert len(charts) > 10 and all(chart["role"] == "img" and chart["aria-label"] for chart in charts)
    for chart in re.findall(r"<figure>.*?</figure>", page, re.DOTALL):
        if "<svg viewBox" in chart and "by split" not in chart:
            assert "<details><summary>numbers</summary>" in chart
    for html in re.findall(r"<table.*?</table>", page, re.DOTALL):
        assert '<th scope="col"' in html and '<th scope="row"' in html


def test_nothing_wide_stands_outside_a_scrolling_box(page: str) -> None:
    reader = Reader(page)
    for tag, attrs, around in reader.tags:
        if tag == "table":
            assert any(a.get("class") == "scroll" for _, a in around)
        if tag == "img":
            assert int(attrs["width"]) <= 320
    style = re.search(r"<style>(.*?)</style>", page, re.DOTALL).group(1)
    for rule in ("img{", "svg:not(.key){"):
        assert "max-width:100%" in style.split(rule)[1].split("}")[0]
    assert "overflow-x:auto" in style.split("\n.scroll{")[1].split("}")[0]


def test_the_header_says_what_was_not_computed_and_where(results: list[FinishedEvaluation], page: str) -> None:
    header = re.search(r"<header>.*?</header>", page, re.DOTALL).group(0)
    reasons = section(page, "Not computed")
    assert "fid : not computed: no Inception weights here" in reasons
    assert "all_correct (gamma): not computed: needs specs" in reasons
    assert '<a class="off" href="#not-computed">▲ 2 not computed</a>' in header and 'id="not-computed"' in page


def test_sections_without_data_are_absent(results: list[FinishedEvaluation]) -> None:
    splits = {
        "iid": {"n": 4, "samples": None, "captions": None, "seeds": None, "metrics": {}, "not_computed": {"fid": "no"}}
    }
    page = render([changed(results[0], splits=splits, sweeps=[], cost={}, notes=[])])
    assert re.findall(r"<h2>(.*?)</h2>", page) == ["Not computed", "How to reproduce"]
    assert "<b>fid</b>: not computed: no" in page
    with pytest.raises(ValueError, match="at least one result"):
        render([])


def test_every_section_of_the_specification_is_there(page: str) -> None:
    assert re.findall(r"<h2>(.*?)</h2>", page) == [
        "Scoreboard", "Samples", "Quality against guidance", "Quality against network evaluations", "Alignment",
        "Distances and the number of images", "Memorisation", "Likelihood", "Cost", "Not computed", "How to read these numbers",
        "How to reproduce",
    ]  # fmt: skip
    for title, text in {
        "Alignment": ("Seen against held out", "Product of skills", "Asked and found", "Verdicts image by image"),
        "Samples": ("Failures", "lowest mean"),
        "Memorisation": ("Closest pairs", "distance: features 0.2, pixels 4"),
        "Likelihood": ("bound upper", "2.81"),
        "Cost": ("6,960,000", "Quality against time"),
        "Distances and the number of images": ("∞ (fit, R² = 0.9991)",),
        "Quality against network evaluations": ("Samplers", "dpmpp_2m"),
    }.items():
        assert all(part in section(page, title) for part in text), title


def test_no_family_is_named_in_the_code() -> None:
    texts = [path.read_text() for path in Path(render.__code__.co_filename).parent.glob("*.py")]
    assert len(texts) > 8
    for name in ("imagen", "dalle", "glide", "vqgan", "ddpm", "vae", "scenes"):
        assert not any(re.search(rf"\b{name}\b", text, re.IGNORECASE) for text in texts), name


def test_the_numbers_come_along_as_json(page: str) -> None:
    address = re.search(r'href="data:application/json;base64,([^"]+)"', page).group(1)
    data = json.loads(base64.b64decode(address))
    assert [one["name"] for one in data] == ["alpha", "beta <b>&\"'", "gamma"]
    assert data[0]["splits"]["iid"]["metrics"]["all_correct"]["n"] == 8
    assert "data:image" not in json.dumps(data)


def test_a_page_of_many_large_images_stays_small(tmp_path: Path) -> None:
    splits, noise = ("a", "b", "c"), np.random.default_rng(0).integers(0, 256, (256, 256, 3), dtype=np.uint8)
    Image.fromarray(noise).save(tmp_path / "noise.png")
    results = []
    for name in ("one", "two", "three"):
        for split in splits:
            for kind in ("samples", "real"):
                folder = tmp_path / name / kind / f"{split}-0"
                folder.mkdir(parents=True)
                for i in range(24):
                    (folder / f"{i:05d}.png").hardlink_to(tmp_path / "noise.png")
        entry = {"n": 24, "captions": None, "labels": [0] * 24, "seeds": None, "metrics": {}, "not_computed": {}}
        data = {"schema": 2, "name": name, "splits": {s: entry | {"samples": f"samples/{s}-0"} for s in splits}}
        results.append(FinishedEvaluation(data, tmp_path / name))
    page = render(results)
    assert len(page) < BUDGET + 100_000 and "shown reduced" in page and page.count("<img") >= 3 * 4 * 2


@pytest.mark.slow
@pytest.mark.skipif(CHROMIUM is None, reason="no chromium here")
@pytest.mark.parametrize("width", [400, 1400])
def test_no_browser_scrolls_the_page_sideways(page: str, tmp_path: Path, width: int) -> None:
    """The page in a frame of that width, since windows have a least width; what the frame measures is printed."""
    (tmp_path / "page.html").write_text(page.replace("<details", "<details open"), encoding="utf-8")
    measure = (
        "<script>function measure(f){const d=f.contentDocument.documentElement,b=f.contentDocument.body;"
        "const broken=[...f.contentDocument.images].filter(i=>!i.naturalWidth).length;"
        "document.title=[d.scrollWidth,d.clientWidth,b.scrollWidth,d.scrollHeight,broken].join(',')}</script>"
    )
    frame = f'<iframe src="page.html" style="width:{width}px;height:900px;border:0" onload="measure(this)"></iframe>'
    (tmp_path / "frame.html").write_text(f"<!doctype html><title>none</title>{measure}{frame}")
    options = [
        "--headless",
        "--no-sandbox",
        "--disable-gpu",
        "--allow-file-access-from-files",
        "--virtual-time-budget=8000",
    ]
    command = [
        CHROMIUM,
        *options,
        f"--user-data-dir={tmp_path / 'profile'}",
        "--dump-dom",
        (tmp_path / "frame.html").as_uri(),
    ]
    dom = subprocess.run(command, capture_output=True, text=True, timeout=90).stdout
    found = re.search(r"<title>(\d+),(\d+),(\d+),(\d+),(\d+)</title>", dom)
    assert found, dom[:300]
    scroll, client, body, height, broken = map(int, found.groups())
    assert width - 20 <= client <= width and scroll <= client and body <= client
    assert height > 3000 and broken == 0
