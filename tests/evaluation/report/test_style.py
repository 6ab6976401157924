"""The page's style and its one script: every colour is there in light and dark, and sorting leaves the controls alone."""

from __future__ import annotations

import json
import re
import shutil
import subprocess

import pytest

from evaluation.report.style import SORT, STYLE
from evaluation.report.svg_charts import NUM_COLOURS, colour_class

DARK = re.search(r"@media\(prefers-color-scheme:dark\)\{(.*?)\n\}", STYLE, re.DOTALL)[1]
LIGHT = STYLE.split("@media")[0]


def variables(css: str) -> dict[str, str]:
    return dict(re.findall(r"--([a-z]+\d?):([^;}\n]+)", css))


def luminance(colour: str) -> float:
    """Relative luminance of #rgb or #rrggbb, as WCAG 2 defines it."""
    digits = colour.strip("# ")
    digits = "".join(2 * d for d in digits) if len(digits) == 3 else digits
    parts = [int(digits[i : i + 2], 16) / 255 for i in (0, 2, 4)]
    linear = [p / 12.92 if p <= 0.03928 else ((p + 0.055) / 1.055) ** 2.4 for p in parts]
    return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]


def test_light_and_dark_define_the_same_variables_and_all_that_are_used() -> None:
    used = set(re.findall(r"var\(--([a-z]+\d?)", STYLE)) - {"share"}  # each cell of a confusion says its share
    assert used <= set(variables(LIGHT)) == set(variables(DARK))


def test_every_model_colour_has_its_class_and_stands_out() -> None:
    for number in range(NUM_COLOURS):
        name = colour_class(number)
        assert f".{name}{{color:var(--{name})}}" in STYLE
    for css, readable in ((LIGHT, ("ink", "soft", "yes", "no")), (DARK, ("ink", "soft", "yes", "no"))):
        colours = variables(css)
        for names, least in ((readable, 4.5), ([f"c{i}" for i in range(NUM_COLOURS)], 3.0)):
            for name in names:
                dark, light = sorted((luminance(colours[name]), luminance(colours["paper"])))
                assert (light + 0.05) / (dark + 0.05) >= least, name


def test_the_style_is_closed_and_asks_for_nothing() -> None:
    assert STYLE.count("{") == STYLE.count("}") and not re.search(r"@import|url\(|</|http", STYLE + SORT)


@pytest.mark.skipif(shutil.which("node") is None, reason="no node here")
def test_a_click_sorts_the_models_and_leaves_the_controls() -> None:
    """The script in a table of three objects each way: first upward, then downward; a row without a number is last."""
    world = """
    const row=(name,v)=>({name,cells:[{dataset:{}},{dataset:v===null?{}:{v}}],querySelector:()=>name.startsWith("m")?{}:null});
    const rows=[row("real",null),row("m0","3"),row("m1","1"),row("m2",null),row("m3","2"),row("chance",null)];
    for(const r of rows)Object.defineProperty(r,"nextSibling",{get:()=>rows[rows.indexOf(r)+1]||null});
    const body={get rows(){return rows},insertBefore(r,at){rows.splice(rows.indexOf(r),1);
    rows.splice(at?rows.indexOf(at):rows.length,0,r)}};
    let click;const head={addEventListener:(_,f)=>{click=f}};
    globalThis.document={querySelectorAll:()=>[{tHead:{rows:[{},head]},tBodies:[body]}]};
    """
    use = """
    const h={cellIndex:1,dataset:{}},seen=[],press=c=>{click({target:{closest:()=>c}});seen.push(rows.map(r=>r.name).join(" "))};
    press({cellIndex:0,dataset:{}});press(h);press(h);console.log(JSON.stringify(seen));
    """
    done = subprocess.run(["node", "-e", world + SORT + use], capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout) == [
        "real m0 m1 m2 m3 chance", "real m1 m3 m0 m2 chance", "real m0 m3 m1 m2 chance",
    ]  # fmt: skip
