"""The page and the table: complete, escaped, and readable without the pictures."""

from __future__ import annotations

import re
from html.parser import HTMLParser

import numpy as np

from evaluators.charts import bars, line_chart, png_uri
from evaluators.report import Example, render
from evaluators.results import table

SHARE = {
    "value": 0.5,
    "low": 0.4,
    "high": 0.6,
    "n": 64,
    "real": 1.0,
    "chance": 0.1,
    "unit": "%",
    "higher_is_better": True,
}
RESULT = {
    "title": "a <model>",
    "facts": {"code": "abc"},
    "splits": {
        "iid": {
            "n": 64,
            "metrics": {"exact": SHARE, "fd_x": {"value": 512.3, "real": 488.0, "unit": "", "higher_is_better": False}},
            "details": {"count_confusion": [[0, 0, 0], [1, 3, 0], [0, 0, 2]]},
        },
        "word": {"n": 32, "metrics": {"exact": SHARE | {"n": 20}}, "details": {}},
    },
    "not_computed": {"fid": "no weights & no luck"},
    "sweep": {
        "option": "guidance_scale",
        "split": "iid",
        "n": 64,
        "metrics": {"exact": "%"},
        "points": [{"guidance_scale": 1.0, "exact": 0.2}, {"guidance_scale": 4.0, "exact": 0.5}],
    },
    "cost": {"parameters": "7"},
    "notes": ["a note"],
    "reproduce": "python evaluate.py ckpt=x",
}
PICTURE = np.zeros((8, 8, 3), dtype=np.uint8)
EXAMPLES = {"iid": [Example(PICTURE, 'a "red" circle', 3, []), Example(PICTURE, None, 4, ["colour", "count"])]}


class Balance(HTMLParser):
    """Fails on a closing tag that closes another element."""

    VOID = {"meta", "img", "line", "rect", "circle", "polyline", "br"}

    def __init__(self) -> None:
        super().__init__()
        self.open: list[str] = []

    def handle_starttag(self, tag, attrs):
        if tag not in self.VOID or tag == "circle":
            self.open.append(tag)

    def handle_startendtag(self, tag, attrs):
        pass

    def handle_endtag(self, tag):
        assert self.open.pop() == tag


def test_page_is_well_formed_and_says_everything() -> None:
    page = render(RESULT, EXAMPLES)
    checker = Balance()
    checker.feed(page)
    assert checker.open == []
    text = re.sub(r"<[^>]+>", " ", page)
    for part in (
        "a &lt;model&gt;",
        "no weights &amp; no luck",
        "512.3",
        "real images 488.0",
        "40.0% to 60.0%",
        "20 images",
        "seed 4",
    ):
        assert part in text
    assert "✓ all right" in text and "✗ colour, count" in text and "no caption" in text
    assert "<script" not in page


def test_sections_without_content_are_left_out() -> None:
    bare = RESULT | {"sweep": None, "not_computed": {}, "splits": {}, "cost": {}}
    page = render(bare, {})
    assert (
        "Scoreboard" not in page
        and "guidance" not in page
        and "not computed" not in page
        and "How to reproduce" in page
    )


def test_charts_say_their_values_to_those_who_cannot_see_them() -> None:
    chart = bars({"exact": SHARE}, 'iid: "exact" 50.0%')
    assert 'aria-label="iid: &quot;exact&quot; 50.0%"' in chart and "50.0%" in chart
    left, half, full = (
        float(re.search(r'width="([\d.]+)" height="14"', bars({"x": {"value": v}}, "")).group(1)) for v in (0, 0.5, 1)
    )
    assert left == 0 and half * 2 == full
    single = line_chart([{"w": 2.0, "fd": 10.0}], "w", "fd", "one point", percent=False)
    assert single.count("<circle") == 1 and "nan" not in single


def test_pictures_are_lossless() -> None:
    import base64
    import io

    from PIL import Image

    picture = np.arange(192, dtype=np.uint8).reshape(8, 8, 3)
    data = base64.b64decode(png_uri(picture).split(",")[1])
    assert np.array_equal(np.asarray(Image.open(io.BytesIO(data))), picture)


def test_table_has_one_line_per_metric_and_the_reasons() -> None:
    lines = table(RESULT).splitlines()
    assert lines[0].split() == ["iid", "(n=64)", "word", "(n=32)"]
    assert lines[1].split(maxsplit=1)[1].startswith("50.0% (real 100.0%, chance 10.0%)")
    assert lines[2].split() == ["fd_x", "512.3", "(real", "488.0)", "-"]
    assert lines[3] == "fid: not computed: no weights & no luck"
