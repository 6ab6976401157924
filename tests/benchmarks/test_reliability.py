"""The page of what was tried and what it costs is filled in from results, and says so where there is none."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from benchmarks import reliability
from benchmarks.chaos.tally import Tally

ABOUT = {"settings": {"seed": 0}, "machine": {"cpu": "a processor", "cores": 2, "threads": 1, "load_before": None},
         "date": "today", "commit": "abc", "versions": {"torch": "2"}}  # fmt: skip


def test_tables_come_from_results(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture) -> None:
    page, results = tmp_path / reliability.PAGE, tmp_path / "results"
    page.parent.mkdir()
    results.mkdir()
    page.write_text((reliability.REPO / reliability.PAGE).read_text())
    monkeypatch.setattr(reliability, "REPO", tmp_path)
    monkeypatch.setattr(reliability, "RESULTS", results)
    before = page.read_text()
    reliability.main()
    assert page.read_text() == before and capsys.readouterr().out.count("no results/") == 3

    tally = Tally()
    tally.add("runs", 3)
    tally.add("hit_sigkill", 1234)
    tally.problem("different", "vae-plain", "weights")
    (results / "chaos.json").write_text(json.dumps({"minutes": 7.5, **tally.as_json(), **ABOUT}))
    rows = {"plain": {"counts": {"runs": 5, "equal": 0, "kills": 77}, "exit_codes": {"sigterm: 0": 9}}}
    (results / "chaos_stock.json").write_text(json.dumps({"rows": rows, **ABOUT}))
    models = {"vae": {"images_per_cpu_sec": {"with": 98.0, "without": 99.0}, "ratio": 0.99, "quartiles": [0.97, 1.01]}}
    (results / "guards.json").write_text(json.dumps({"models": models, **ABOUT}))
    reliability.main()
    text = page.read_text()
    for part in ("1,234", "runs that ended differently", "7.5 minutes", "commit abc", "| 77 ", "0 (9)", "0.990 (0.970–1.010)"):
        assert part in text, part
