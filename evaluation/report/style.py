"""How the page looks: light and dark, wide and narrow. The box around a table scrolls, the page never does."""

from __future__ import annotations

# The models' colours are Okabe and Ito's, which colour-blind eyes tell apart, with an olive added.
STYLE = """
:root{color-scheme:light dark;--ink:#1c2024;--paper:#fff;--soft:#5a636c;--line:#d9dee3;--panel:#f4f6f8;--yes:#00664c;
--no:#a84300;--heat:0,114,178}
:root{--c0:#0072b2;--c1:#d55e00;--c2:#009e73;--c3:#b3568a;--c4:#b87f00;--c5:#2f93c8;--c6:#7a7a1f}
@media(prefers-color-scheme:dark){
:root{--ink:#e6e9ec;--paper:#15181b;--soft:#a3adb6;--line:#363c43;--panel:#1f2327;--yes:#45c9a0;--no:#f59257;
--heat:70,160,220}
:root{--c0:#4aa3dc;--c1:#f0833a;--c2:#2fc498;--c3:#dc93bb;--c4:#ecb43c;--c5:#86cdf3;--c6:#b9b95a}
}
.c0{color:var(--c0)}.c1{color:var(--c1)}.c2{color:var(--c2)}.c3{color:var(--c3)}.c4{color:var(--c4)}
.c5{color:var(--c5)}.c6{color:var(--c6)}
*{box-sizing:border-box}
body{margin:0;background:var(--paper);color:var(--ink);
font:15px/1.5 system-ui,-apple-system,"Segoe UI",Roboto,"DejaVu Sans",sans-serif}
main{max-width:1272px;margin:0 auto;padding:24px 16px 64px}
h1{font-size:26px;line-height:1.25;margin:0 0 14px;overflow-wrap:anywhere}
h2{font-size:20px;margin:40px 0 10px;padding-top:14px;border-top:1px solid var(--line)}
h3{font-size:16px;margin:24px 0 8px;overflow-wrap:anywhere}
p{max-width:80ch;overflow-wrap:anywhere}
small,dt{color:var(--soft);font-size:12.5px}
a{color:var(--c0)}
nav{display:flex;flex-wrap:wrap;gap:4px 16px;margin-top:18px;font-size:13.5px}
dl{display:grid;grid-template-columns:repeat(auto-fill,minmax(min(220px,46%),1fr));gap:10px 18px;margin:0}
dl+.scroll{margin-top:14px}
dd{margin:0;overflow-wrap:anywhere}
.lights{margin:16px 0 0;font-weight:600}.lights *{margin-right:18px}.on{color:var(--yes)}.off{color:var(--no)}
.absent{background:var(--panel);border-left:4px solid var(--c1);margin:8px 0 0;padding:10px 12px 10px 30px;
overflow-wrap:anywhere}
details{margin:8px 0}summary{cursor:pointer;color:var(--soft);font-size:13.5px;padding:3px 0}
.scroll{overflow-x:auto;max-width:100%}
table{border-collapse:separate;border-spacing:0}
th,td{text-align:left;vertical-align:top;padding:6px 16px 6px 0;border-bottom:1px solid var(--line);
font-variant-numeric:tabular-nums}
thead th{vertical-align:bottom}
th small,td small{display:block;font-weight:400}
tbody th{font-weight:400;min-width:160px;max-width:260px;overflow-wrap:anywhere}
tbody th.model{font-weight:600}
.board td{white-space:nowrap}
.board thead th{min-width:80px;max-width:150px}
.board th,.board td{padding-right:14px}
.board tbody th,.facts tbody th,.verdicts tbody th{position:sticky;left:0;background:var(--paper);z-index:1}
.groups th{border-bottom:2px solid var(--ink);padding-bottom:2px}.groups td{border:0}
.groups th+th{padding-left:0}
.control,td.none{color:var(--soft)}tbody th.control{font-size:13px}
.numbers{font-size:13.5px}.long{min-width:220px;max-width:640px;overflow-wrap:anywhere}
.facts td{min-width:150px;max-width:320px;overflow-wrap:anywhere}
.sortable thead tr:last-child th:not(:first-child){cursor:pointer}
.footnotes{list-style:none;margin:8px 0;padding:0;font-size:13px;color:var(--soft);overflow-wrap:anywhere}
.key{vertical-align:-1px;margin-right:2px;overflow:visible}
.legend{list-style:none;display:flex;flex-wrap:wrap;gap:4px 18px;margin:8px 0;padding:0;font-size:13px}
.legend i{display:inline-block;width:12px;height:12px;border-radius:2px;margin-right:5px;vertical-align:-1px;
background:currentColor}
.legend i.level{width:16px;height:0;border-radius:0;background:none;border-top:3px solid var(--ink);vertical-align:4px}
.legend i.level.chance{border-top:2px dashed var(--ink)}
.legend i.level.reconstruction{border-top:2px dotted var(--soft)}
.legend i.real{background:var(--soft)}
.charts{display:grid;grid-template-columns:repeat(auto-fill,minmax(min(340px,100%),1fr));gap:22px 28px}
.beside{display:flex;flex-wrap:wrap;gap:16px 36px;align-items:flex-start}.beside>*{min-width:0;max-width:100%}
figure{margin:0;min-width:0}
figcaption{font-weight:600;margin-bottom:4px;overflow-wrap:anywhere}
svg:not(.key){display:block;max-width:100%;height:auto}
svg text{font:12px system-ui,-apple-system,"Segoe UI",Roboto,"DejaVu Sans",sans-serif;fill:var(--ink)}
svg .soft{fill:var(--soft)}svg .note{font-size:11px}
svg line.grid{stroke:var(--line)}
.whisker{stroke:var(--ink);stroke-width:1.3}
.curve{fill:none;stroke:currentColor;stroke-width:2}
.mark{fill:currentColor;stroke:var(--paper);stroke-width:.8}
.bar{fill:currentColor}.area{fill:currentColor;fill-opacity:.18;stroke:currentColor;stroke-width:1.5}
g.real{color:var(--soft)}
line.level,line.tick{stroke:var(--ink);stroke-width:2.5}
line.reconstruction{stroke:var(--soft);stroke-dasharray:1 2}
line.chance{stroke:var(--ink);stroke-width:2;stroke-dasharray:2.5 2.5}
img{display:block;max-width:100%;height:auto;image-rendering:pixelated;border-radius:3px}
div.grid{display:grid;grid-template-columns:repeat(auto-fill,128px);gap:0 18px}
.card{display:grid;grid-template-rows:subgrid;row-gap:8px;margin-bottom:22px}
.shot{min-width:0}.shot small{display:block;line-height:1.35;margin-top:3px;overflow-wrap:anywhere}
small.yes,span.yes{color:var(--yes)}small.no,span.no{color:var(--no)}
.asked{font-size:13.5px;line-height:1.35;overflow-wrap:anywhere}.asked small{display:block}
.nothing{display:block;width:128px;max-width:100%;aspect-ratio:1;background:var(--panel);color:var(--soft);
font-size:12px;padding:8px}
.who{font-weight:600;margin:14px 0 6px}
.pairs{display:grid;grid-template-columns:repeat(auto-fill,minmax(min(270px,100%),1fr));gap:16px 20px}
.pair{display:grid;grid-template-columns:repeat(2,minmax(0,128px));gap:2px 8px;align-content:start}
.both{grid-column:1/-1}
.judged{min-width:200px}.chips{display:flex;flex-wrap:wrap;gap:0 10px;font-size:13px;margin-top:4px;max-width:300px}
.chips .no{font-weight:600}
.confusion td,.confusion th{padding:4px 8px;text-align:center;min-width:30px;max-width:none}
.confusion td{background:rgba(var(--heat),calc(var(--share,0)*.6))}
.confusion .same{outline:2px solid var(--ink);outline-offset:-2px}
pre{background:var(--panel);padding:12px;white-space:pre-wrap;overflow-wrap:anywhere}
@media(max-width:640px){
th,td{padding-right:12px}
tbody th{max-width:128px;min-width:92px}
.board tbody th{max-width:108px;min-width:84px;padding-right:8px;font-size:13px}
div.grid{grid-template-columns:repeat(3,minmax(0,1fr));gap:0 10px}
.asked{font-size:12.5px}
}
"""

# Sorts the models of a scoreboard by a column when its header is clicked; the controls stay where they are.
SORT = """
for(const t of document.querySelectorAll("table.sortable"))t.tHead.rows[1].addEventListener("click",e=>{
const h=e.target.closest("th");if(!h||!h.cellIndex)return;
const up=h.dataset.up=h.dataset.up==="1"?"0":"1",rows=[...t.tBodies[0].rows].filter(r=>r.querySelector("th.model"));
const after=rows[rows.length-1].nextSibling,of=r=>{const v=parseFloat(r.cells[h.cellIndex].dataset.v);
return isNaN(v)?Infinity:up==="1"?v:-v};
rows.sort((a,b)=>of(a)-of(b)).forEach(r=>t.tBodies[0].insertBefore(r,after))});
"""
