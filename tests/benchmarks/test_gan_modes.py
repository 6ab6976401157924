"""The benchmark of modes: short runs of every loss, the table and the picture; what each loss reaches, slowly."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from benchmarks import gan_modes
from objectives.adversarial import LOSSES as KNOWN

def test_every_loss_has_a_row() -> None:
    assert set(gan_modes.LOSSES) == set(KNOWN)


def test_a_short_run_gives_rows_and_films(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    few = ("wasserstein", "least_squares")
    monkeypatch.setattr(gan_modes, "LOSSES", {name: gan_modes.LOSSES[name] for name in few})
    monkeypatch.setattr(gan_modes, "PLAIN", {"least_squares": gan_modes.PLAIN["least_squares"]})
    monkeypatch.setattr(gan_modes.points, "__defaults__", (50,))
    result, film = gan_modes.benchmark("grid", 4, 3, tmp_path)
    assert result["settings"]["modes"] == 25 and list(result["rows"]) == list(film) == list(few)
    found = {loss: list(row) for loss, row in result["rows"].items()}
    assert found == {"wasserstein": ["penalised"], "least_squares": ["penalised", "plain"]}
    assert {loss: len(frames) for loss, frames in film.items()} == {"wasserstein": 4, "least_squares": 5}
    for loss in few:
        only = result["rows"][loss]["penalised"]
        assert only["modes_covered"] <= 0.08 and only["cpu_sec"] > 0  # at first all lie in the middle, where a mode is
        assert all(frame.shape == (50, 2) for frame in film[loss]) and not torch.equal(film[loss][0], film[loss][3])
    assert not torch.equal(*film["least_squares"][3:]), "the penalties reached the run"
    text = gan_modes.table(result)
    assert "| `wasserstein` " in text and "gradient_penalty=0.1, penalty_every=1`" in text and "modes of 25" in text


def test_the_picture_shows_points_inside_the_circles_of_their_modes() -> None:
    centres, std = gan_modes.mixture("ring")
    right, wrong = centres.repeat(50, 1), torch.zeros(400, 2)
    assert gan_modes.judged(right, "ring") == {"modes_covered": 1.0, "modes_quality": 1.0}
    assert gan_modes.judged(wrong, "ring") == {"modes_covered": 0.0, "modes_quality": 0.0}
    pixels = np.asarray(gan_modes.picture({"a": [right], "b": [wrong]}, centres)).astype(int)
    navy, below = (pixels == (0, 0, 128)).all(-1), len(pixels) - gan_modes.PANEL - 4
    assert navy[:below].sum() == 8 and navy[below:].sum() == 1
    orange = (pixels == (255, 165, 0)).all(-1)
    assert orange.sum() > 2 * 8 * 20


@pytest.mark.slow
@pytest.mark.timeout(900)
@pytest.mark.parametrize("loss", list(KNOWN))
def test_every_loss_covers_the_ring(loss: str, tmp_path: Path) -> None:
    checkpoints, _ = gan_modes.train(loss, gan_modes.LOSSES[loss], "ring", 4000, 0, tmp_path)
    assert gan_modes.judged(gan_modes.points(checkpoints[-1]), "ring")["modes_covered"] >= 7 / 8
