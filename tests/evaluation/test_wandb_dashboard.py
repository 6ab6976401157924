"""The dashboard shows keys that evaluations log, is planned without network, and says in one line what is missing."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from evaluation.report import FinishedEvaluation
from evaluation.wandb_dashboard import DEFAULT, main, plan, plan_of, workspace
from evaluation.wandb_mirror import scalars
from tests.evaluation.results_on_disk import write_result


@pytest.fixture(scope="module")
def result(tmp_path_factory: pytest.TempPathFactory) -> FinishedEvaluation:
    return write_result(tmp_path_factory.mktemp("dashboard"), "alpha", wrong=0.4, n=4, splits=("iid",))


def test_the_plan_shows_what_is_logged(result: FinishedEvaluation) -> None:
    sections = plan_of([str(result.folder)])
    logged = set(scalars(result)) | {f"eval/iid/{what}" for what in ("skills", "images", "samples")} | {"eval/report"}
    logged |= {f"eval/sweep/{option}" for option in ("guidance_scale", "num_steps", "sampler")}
    keys = {key for panels in sections.values() for panel in panels for key in panel.keys}
    assert keys <= logged
    assert {"eval/iid/all_correct", "eval/iid/fd_efficientnet_lite0", "eval/report", "eval/sweep/num_steps"} <= keys
    assert "Sweeps" not in plan(DEFAULT)


def test_print_needs_nothing(
    result: FinishedEvaluation, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    for name in ("wandb", "wandb_workspaces"):
        monkeypatch.setitem(sys.modules, name, None)
    main(["me/project", str(result.folder), "--print"])
    printed = capsys.readouterr().out
    assert "Scores" in printed and "eval/iid/all_correct" in printed and "table" in printed


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["me"], "where to? Pass ENTITY/PROJECT"),
        (["me/project"], "pip install wandb-workspaces"),
        (["me/project", "nowhere"], "no evaluation in nowhere"),
    ],
)
def test_mistakes_are_answered_in_one_line(arguments, message, monkeypatch, capsys) -> None:
    monkeypatch.setitem(sys.modules, "wandb_workspaces", None)
    monkeypatch.setitem(sys.modules, "wandb_workspaces.workspaces", None)
    monkeypatch.setitem(sys.modules, "wandb_workspaces.reports.v2", None)
    with pytest.raises(SystemExit) as stop:
        main(arguments)
    printed = capsys.readouterr().err
    assert stop.value.code == 2 and message in printed and printed.count("\n") == 1


def test_the_workspace_holds_the_plan(result: FinishedEvaluation) -> None:
    pytest.importorskip("wandb_workspaces")
    sections = plan_of([str(result.folder)])
    made = workspace("me", "project", sections)
    assert [section.name for section in made.sections] == list(sections)
    assert [len(section.panels) for section in made.sections] == [len(panels) for panels in sections.values()]
    sent = made._to_model().model_dump_json()
    assert all(key in sent for panels in sections.values() for panel in panels for key in panel.keys)


def test_without_a_login_it_says_so(monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys) -> None:
    pytest.importorskip("wandb_workspaces")
    import wandb

    monkeypatch.setattr(wandb, "login", lambda prompt: False)
    with pytest.raises(SystemExit):
        main(["me/project"])
    assert "no W&B login here: run `wandb login`" in capsys.readouterr().err
