"""The speed benchmark of distances end to end at toy size: both sides measure the same thing."""

from __future__ import annotations

import json

import pytest

from benchmarks.speed_evaluation import Settings, benchmark, scenes, table


@pytest.mark.slow
def test_benchmark_end_to_end() -> None:
    result = json.loads(json.dumps(benchmark(Settings(images=64, threads=1, turns=1))))
    own, peer = result["values"]["ours"], result["values"]["torch_fidelity"]
    assert own == result["values"]["ours_cached"]
    # torch-fidelity has float32 means; its KID here is that of the whole set, 100 times
    assert own["fd"] == pytest.approx(peer["frechet_inception_distance"], rel=1e-3)
    assert own["precision"] == pytest.approx(peer["precision"], abs=1e-6)
    assert own["recall"] == pytest.approx(peer["recall"], abs=1e-6)
    assert own["kd"] == pytest.approx(peer["kernel_inception_distance_mean"], rel=1e-3, abs=1e-6)
    assert result["ratio"] > 0 and "torch-fidelity" in table(result)


def test_every_image_is_another() -> None:
    drawn = scenes(50, 32, 0)
    assert len(drawn.flatten(1).unique(dim=0)) == 50
