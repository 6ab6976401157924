"""The speed benchmark end to end at toy size, and its fairness: equal parameters, turns in alternation."""

from __future__ import annotations

import json

import pytest

from benchmarks import speed_unet
from benchmarks.speed_unet import Settings, alternate, benchmark, our_unet, parameters, table

PEER_PARAMETERS = 4_605_187


def test_our_net_has_the_peers_parameters() -> None:
    assert parameters(our_unet(PEER_PARAMETERS, 32)) == pytest.approx(PEER_PARAMETERS, rel=0.03)


def test_a_size_out_of_reach_is_refused() -> None:
    with pytest.raises(ValueError, match="comes within 3 % of 1,000"):
        our_unet(1000, 32)


def test_turns_alternate_and_the_first_pair_is_not_counted() -> None:
    calls: list[str] = []
    times = alternate(lambda: calls.append("a"), lambda: calls.append("b"), seconds=0.0)
    assert calls == ["a", "b"] * 4
    assert [len(t) for t in times] == [3, 3]


@pytest.mark.slow
def test_benchmark_end_to_end(monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("diffusers")
    monkeypatch.setattr(speed_unet, "SAMPLE_BATCH", 1)
    monkeypatch.setattr(speed_unet, "SAMPLE_STEPS", 2)
    result = json.loads(json.dumps(benchmark(Settings(batch=1, threads=1, seconds=1e-6))))
    assert result["nets"]["diffusers"]["parameters"] == PEER_PARAMETERS
    assert all(net["gflop_per_image"] > 0 for net in result["nets"].values())
    for precision in ("float32", "bf16"):
        for measured in result["results"][precision].values():
            assert measured["ratio"] == pytest.approx(measured["sec"]["diffusers"] / measured["sec"]["ours"])
    assert len(table(result).splitlines()) == 2 + 6
