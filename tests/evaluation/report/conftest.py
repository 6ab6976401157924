"""Three evaluations with everything that a page can show, and their page; written once, never changed by a test."""

from __future__ import annotations

import pytest

from evaluation.report import FinishedEvaluation, render
from tests.evaluation.results_on_disk import write_result


@pytest.fixture(scope="session")
def results(tmp_path_factory: pytest.TempPathFactory) -> list[FinishedEvaluation]:
    root = tmp_path_factory.mktemp("results")
    return [
        write_result(root, "alpha", wrong=0.3, n=8),
        write_result(root, "beta <b>&\"'", wrong=0.6, blur=1.0, n=8, family="beta", seed=1),
        write_result(
            root, "gamma", wrong=0.5, n=8, splits=("iid",), seed=2, guided=False, prompted=False, likelihood=True
        ),
    ]


@pytest.fixture(scope="session")
def page(results: list[FinishedEvaluation]) -> str:
    return render(results)
