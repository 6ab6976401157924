"""A results page from a stranger runs nothing, reads nothing outside its folder, and is one line where it is broken."""

from __future__ import annotations

import base64
import copy
import hashlib
import html
import json
import math
import os
import re
import shutil
import subprocess
from collections.abc import Callable
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from evaluation.compare import compare
from evaluation.output import write_report
from evaluation.report import FinishedEvaluation, render
from tests.evaluation.results_on_disk import write_result
from tests.fuzz import fuzzed_results

CHROMIUM = next((p for name in ("chromium", "chromium-browser", "google-chrome") if (p := shutil.which(name))), None)
ATTACKS = [
    "<script>alert(1)</script>",
    "</script><script>alert(1)</script>",
    "</style><script>alert(1)</script>",
    "</title><script>alert(1)</script>",
    "</textarea><script>alert(1)</script>",
    "</pre><img src=x onerror=alert(1)>",
    "</svg><img src=x onerror=alert(1)>",
    "<svg onload=alert(1)>",
    "<svg><script>alert(1)</script></svg>",
    "<svg><animate onbegin=alert(1) attributeName=x>",
    "<math><mtext><script>alert(1)</script>",
    '"><img src=x onerror=alert(1)>',
    "'><img src=x onerror=alert(1)>",
    '" onmouseover="alert(1)',
    "' onmouseover='alert(1)",
    "` onmouseover=`alert(1)",
    '" autofocus onfocus="alert(1)',
    '" style="background:url(//x.example)',
    "<iframe src=javascript:alert(1)>",
    "<iframe srcdoc='<script>alert(1)</script>'>",
    "<a href=javascript:alert(1)>x</a>",
    "javascript:alert(1)",
    "data:text/html,<script>alert(1)</script>",
    "data:text/html;base64,PHNjcmlwdD4=",
    "<base href=//x.example>",
    "<meta http-equiv=refresh content=0;url=//x.example>",
    "<link rel=stylesheet href=//x.example>",
    "<object data=//x.example></object>",
    "<embed src=//x.example>",
    "<form action=//x.example><button>x</button></form>",
    "<td onclick=alert(1)>",
    "<th onclick=alert(1)>",
    "<details open ontoggle=alert(1)>",
    "<!--",
    "--><script>alert(1)</script>",
    "<![CDATA[<script>alert(1)</script>",
    "&lt;script&gt;alert(1)&lt;/script&gt;",
    "&#60;script&#62;alert(1)",
    "\\x3cscript\\x3ealert(1)",
    "\u003cscript\u003ealert(1)\u003c/script\u003e",
    "{{constructor.constructor('alert(1)')()}}",
    "${alert(1)}",
    "expression(alert(1))",
    "x;}body{background:url(//x.example)}",
    "<plaintext>",
    "<noscript><p title='</noscript><img src=x onerror=alert(1)>'>",
    "jaVasCript:/*-/*`/*'/*\"/**/(/* */oNcliCk=alert(1) )//</stYle/</titLe/</teXtarEa/</scRipt/--!><sVg/oNloAd=alert(1)//>",
    "\x1b]0;title\x07\x1b[2J\u202e\ud800\0",
]
OWN_WORDS = {"schema", "%", "guidance_scale", "num_steps", "sampler"}  # what the page asks about rather than shows


@pytest.fixture(scope="module")
def evaluations(tmp_path_factory: pytest.TempPathFactory) -> list[FinishedEvaluation]:
    """Two models of different protocols, with everything that a page can show."""
    root = tmp_path_factory.mktemp("evaluations")
    found = [
        write_result(root, "alpha", wrong=0.5, n=3, splits=("iid", "combo"), size=32, likelihood=True),
        write_result(root, "beta", wrong=0.6, n=3, splits=("iid", "combo"), size=32, seed=1, protocol_id="bbbb0000"),
    ]
    for result in found:
        for split in result.splits.values():
            split["details"]["likelihood"] = {"hist": {"own": [1.0, 2.0], "other": [3.0, 4.0]}, "column": "elbo"}
            split["details"]["named_confusion"] = {"labels": ["cat", "dog"], "counts": [[1, 2], [3, 4]]}
    return found


def spoilt(value: Any, change: Callable[[str], str], key: str = "") -> Any:
    """A copy of what metrics.json holds with every text that the page shows changed, names of keys among them."""
    if isinstance(value, str):
        keep = value in OWN_WORDS or key in ("samples", "real", "train_png", "section")
        return value if keep else change(value)
    if isinstance(value, list):
        return [spoilt(inner, change, key) for inner in value]
    if not isinstance(value, dict):
        return value
    named = ("facts", "sampling", "protocol", "not_computed", "hist", "labels")
    return {change(k) if key in named else k: spoilt(inner, change, k) for k, inner in value.items()}


def skeleton(page: str) -> list[Any]:
    """Everything of a page that a browser acts upon: elements, their attributes, and the values that are no text."""
    found: list[Any] = []

    class Reader(HTMLParser):
        def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
            told = {k: None if k in ("alt", "aria-label", "title") or k == "href" and v[:5] == "data:" else v for k, v in attrs}
            assert all(v is None or k != "href" or v[:1] == "#" or v[:22] == "data:application/json;" for k, v in attrs)
            found.append((tag, sorted(told.items(), key=str)))

        def handle_endtag(self, tag: str) -> None:
            found.append(tag)

        def handle_comment(self, data: str) -> None:
            found.append("comment")

        def handle_data(self, data: str) -> None:
            if self.lasttag in ("script", "style"):
                found.append(data)

    reader = Reader()
    reader.feed(page)
    reader.close()
    return found


def page_of(results: list[FinishedEvaluation], change: Callable[[str], str], tmp_path: Path) -> str:
    """The page of results that a stranger wrote: through the files, as `compare=` reads them."""
    places = []
    for i, result in enumerate(results):
        folder = tmp_path / str(i)
        shutil.copytree(result.folder, folder, dirs_exist_ok=True)
        data = spoilt(result.data, lambda text: change(f"{i} {text}"[:12]))
        (folder / "metrics.json").write_text(json.dumps(data))
        for split, entry in data["splits"].items():
            for metric in entry["metrics"]:
                card = {"metric": change(metric), "protocol": {change("x"): change(str(i))}, "split": change(split)}
                (folder / "cards").mkdir(exist_ok=True)
                (folder / "cards" / f"{split}-{metric}.json").write_text(json.dumps(card))
        places.append(str(folder))
    return write_report(tmp_path / "out", compare(places)).read_text(encoding="utf-8")


GROUPS = [" ".join(ATTACKS[i::7]) for i in range(7)]


@pytest.mark.parametrize("attack", [*GROUPS, *(pytest.param(one, marks=pytest.mark.slow) for one in ATTACKS)])
def test_no_text_becomes_an_element_or_an_attribute(evaluations: list[FinishedEvaluation], tmp_path: Path, attack: str) -> None:
    harmless = re.sub(r"[^\w ]|[\0-\x1f\ud800-\udfff]", "x", attack)
    hostile = page_of(evaluations, lambda text: text + attack, tmp_path / "hostile")
    benign = page_of(evaluations, lambda text: text + harmless, tmp_path / "benign")
    for one, other in zip(skeleton(hostile), skeleton(benign), strict=True):
        assert one == other
    if attack.isprintable():
        assert html.escape(attack) in hostile
    assert not re.search(r"[\0-\x08\x0b-\x1f\u202e]", hostile)


@pytest.mark.parametrize("attack", ATTACKS[:47:5])
def test_hostile_names_of_splits_metrics_and_models(evaluations: list[FinishedEvaluation], tmp_path: Path, attack: str) -> None:
    results = []
    for name in (attack, re.sub(r"[^\w ]", "x", attack)):
        data = copy.deepcopy(evaluations[0].data) | {"name": name}
        metrics = data["splits"]["iid"]["metrics"]
        metrics[name.replace("*", "x")] = metrics["all_correct"]
        (tmp_path / "metrics.json").write_text(json.dumps(data))
        try:
            results.append(FinishedEvaluation.load(tmp_path))
        except ValueError as error:
            assert "should be a name" in str(error) and "\n" not in str(error)
            return
    one, other = (skeleton(render([result])) for result in results)
    assert one == other


def test_a_browser_runs_no_script_but_the_pages_own(evaluations: list[FinishedEvaluation]) -> None:
    """The policy is in force before anything else, and the script that it lets pass is the one that is there."""
    results = [*evaluations, FinishedEvaluation(evaluations[0].data | {"name": "third"}, evaluations[0].folder)]
    page = render(results)
    (script,) = re.findall(r"<script>(.*?)</script>", page, re.DOTALL)
    policy = re.search(r'<meta http-equiv="Content-Security-Policy" content="([^"]*)">', page)
    assert page.index("Content-Security-Policy") < page.index("<title>") < page.index("<style>")
    rules = dict(rule.strip().split(" ", 1) for rule in policy[1].split(";"))
    digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
    assert rules["default-src"] == "'none'" and rules["script-src"] == f"'sha256-{digest}'"
    assert rules["img-src"] == "data:" and rules["base-uri"] == rules["form-action"] == "'none'"


@pytest.mark.skipif(CHROMIUM is None, reason="no chromium here")
@pytest.mark.slow
def test_chromium_runs_nothing_even_where_escaping_is_forgotten(evaluations: list[FinishedEvaluation], tmp_path: Path) -> None:
    page = render(evaluations)
    attack = "<script>document.title='ran'</script><img src=x onerror=\"document.title='ran'\"><iframe src=x></iframe>"
    for name, text in (("with.html", page), ("without.html", re.sub(r"<meta http-equiv[^>]*>", "", page))):
        (tmp_path / name).write_text(text.replace("<nav>", f"{attack}<nav>"), encoding="utf-8")
        command = [CHROMIUM, "--headless", "--no-sandbox", "--disable-gpu", f"--user-data-dir={tmp_path / 'profile'}",
                   "--virtual-time-budget=4000", "--dump-dom", (tmp_path / name).as_uri()]  # fmt: skip
        dom = subprocess.run(command, capture_output=True, text=True, timeout=120).stdout
        assert ("<title>ran</title>" in dom) == (name == "without.html"), dom[:300]


@pytest.mark.parametrize(
    "place", ["..", "../secret", "{root}/secret", "samples/link", "a/../../secret", "samples/../../secret", "\0", "x" * 5000]
)
@pytest.mark.parametrize("entry", ["samples", "real"])
def test_pictures_outside_the_folder_are_not_read(
    evaluations: list[FinishedEvaluation], tmp_path: Path, monkeypatch, place: str, entry: str
) -> None:
    folder = tmp_path / "evaluation"
    shutil.copytree(evaluations[0].folder, folder)
    data = copy.deepcopy(evaluations[0].data) | {"sweeps": []}
    data["splits"] = {"iid": data["splits"]["iid"] | {"metrics": {}, "details": {}}}
    (tmp_path / "secret").mkdir()
    Image.new("RGB", (8, 8), "red").save(tmp_path / "secret" / "00000.png")
    (folder / "samples" / "link").symlink_to(tmp_path / "secret")
    (folder / "samples" / "iid-alpha" / "00001.png").unlink()
    (folder / "samples" / "iid-alpha" / "00001.png").symlink_to(tmp_path / "secret" / "00000.png")
    data["splits"]["iid"][entry] = place.replace("{root}", str(tmp_path))
    (folder / "metrics.json").write_text(json.dumps(data))
    opened = []
    monkeypatch.setattr("evaluation.report.embedded_images.read_bytes", lambda path, most: opened.append(path) or Path(path).read_bytes())
    page = render([FinishedEvaluation.load(folder)])
    assert all(os.path.realpath(path).startswith(f"{folder}/") for path in opened)
    assert ("no image" in page and len(set(opened)) == 2) if entry == "real" else not opened and "<img" not in page


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "is not valid JSON"), (b"null", "has schema none"), (b"[]", "has schema none"), (b"[" * 100_000, "nested too deep"),
        (b'{"schema": 2}', "it lacks name"), (b'{"schema": 2, "schema": 2}', "comes twice"), (b"\xff\xfe", "is not valid JSON"),
        (b'{"schema": [[[[[[[[2]]]]]]]]}', "has schema"), (b'{"schema": 2, "name": 1, "splits": {}}', "name should be text"),
        (b'{"schema": 2, "name": "x", "splits": []}', "splits should be an object"),
        (b'{"schema": 2, "name": "x", "splits": {"../x": {"n": 1}}}', "should be a name"),
        (b'{"schema": 2, "name": "x", "splits": {"/etc": {"n": 1}}}', "should be a name"),
        (b'{"schema": 2, "name": "x", "splits": {"a": {"n": 1.5}}}', "splits a n should be a whole number"),
        (b'{"schema": 2, "name": "x", "splits": {"a": {"n": 1, "captions": ["x", "y"]}}}', "2 captions for n=1"),
        (b'{"schema": 2, "name": "x", "splits": {"a": {"n": 1, "metrics": {"m": {"value": "1"}}}}}', "lacks higher_is_better"),
        (b'{"schema": 2, "name": "x", "splits": {}, "notes": {"a": 1}}', "notes should be a list"),
        (b'{"schema": 2, "name": "x", "splits": {}, "model": ' + b'{"a":' * 60 + b"1" + b"}" * 60 + b"}", "nested too deep"),
    ],
)  # fmt: skip
def test_what_evaluate_does_not_write_is_one_line(tmp_path: Path, content: bytes, message: str) -> None:
    (tmp_path / "metrics.json").write_bytes(content)
    with pytest.raises(ValueError, match=message) as error:
        compare([str(tmp_path)])
    assert "\n" not in str(error.value) and len(str(error.value)) < 500


def test_a_pipe_is_no_result(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "metrics.json")
    with pytest.raises(ValueError, match="is not a regular file"):
        compare([str(tmp_path)])


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf, 1e300, 10**400])
def test_numbers_that_cannot_be_drawn_are_named(evaluations: list[FinishedEvaluation], tmp_path: Path, value: float) -> None:
    data = copy.deepcopy(evaluations[0].data)
    rows = data["splits"]["iid"]["metrics"]
    rows["all_correct"]["value"], rows["count"]["low"], rows["count"]["real"] = value, value, value
    (tmp_path / "metrics.json").write_text(json.dumps(data))
    result = FinishedEvaluation.load(tmp_path)
    assert "all_correct" not in result.splits["iid"]["metrics"] and "low" not in result.splits["iid"]["metrics"]["count"]
    assert "not computed: its value is" in render([result])


@pytest.mark.parametrize("n", [150, pytest.param(4000, marks=pytest.mark.slow)])
def test_fuzzed_results_are_a_page_or_one_line(evaluations: list[FinishedEvaluation], tmp_path: Path, n: int) -> None:
    (tmp_path / "other").mkdir()
    small = copy.deepcopy(evaluations[1].data)
    for split in small["splits"].values():
        split |= {"samples": None, "real": None}
    (tmp_path / "other" / "metrics.json").write_text(json.dumps(small))
    shown = 0
    for done, data in fuzzed_results(0, n, small):
        (tmp_path / "metrics.json").write_text(json.dumps(data))
        try:
            results = compare([str(tmp_path), str(tmp_path / "other")])
        except ValueError as error:
            assert "\n" not in str(error) and len(str(error)) < 600, done
            continue
        try:
            page = render(results)
        except Exception as error:
            raise AssertionError(done) from error
        page.encode()
        shown += 1
    assert n // 10 < shown < n - n // 10
