"""Principal components and the probes that read facts of scenes from them."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from benchmarks.clip_probe import FACTS, embedded, measure, plot, principal, probe, recall, recalls, retrieval_table, table


def test_components_are_uncorrelated_sorted_and_keep_the_distances() -> None:
    x = torch.randn(200, 6, generator=torch.Generator().manual_seed(0)) @ torch.randn(6, 6, generator=torch.Generator().manual_seed(1))
    coordinates, variance = principal(x)
    torch.testing.assert_close(torch.cov(coordinates.T), torch.diag(variance))
    assert (variance[:-1] >= variance[1:]).all()
    exact = {"compute_mode": "donot_use_mm_for_euclid_dist"}
    torch.testing.assert_close(torch.cdist(coordinates, coordinates, **exact), torch.cdist(x.double(), x.double(), **exact))


def test_a_probe_reads_what_is_there_and_guesses_what_is_not() -> None:
    g = torch.Generator().manual_seed(0)
    values = [["red", "green", "blue"][i % 3] for i in range(600)]
    shuffled = [values[i] for i in torch.randperm(600, generator=g)]
    x = torch.randn(600, 4, generator=g, dtype=torch.float64)
    x[:, 2] += torch.tensor([{"red": -9.0, "green": 0.0, "blue": 9.0}[v] for v in shuffled])
    x[:, 3] += torch.tensor([9.0 if v == "green" else 0.0 for v in shuffled])
    right, guess = probe(x, shuffled)
    assert right > 0.99 and guess == pytest.approx(1 / 3, abs=0.05)
    assert probe(x[:, :2], shuffled)[0] == pytest.approx(1 / 3, abs=0.08)
    some = [v if v != "blue" else None for v in shuffled]
    assert probe(x[:, 3:], some)[0] > 0.99


class Painter:
    """A module whose vectors are the image's mean colour and its extent; it reads captions by their letters alone."""

    image_size = 32

    def embed_text(self, captions: list[str]) -> torch.Tensor:
        return torch.tensor([[float(c.count(letter)) for letter in "aeiour"] for c in captions])

    def embed_image(self, image: torch.Tensor) -> torch.Tensor:
        return torch.cat([image.mean((2, 3)), image.std((2, 3))], 1)


def test_the_table_and_the_picture_are_made_of_scenes(tmp_path: Path) -> None:
    embeds, specs = embedded(Painter(), 160)
    assert embeds.shape == (160, 6) and len(specs) == 160
    torch.testing.assert_close(embedded(Painter(), 160, batch=50)[0], embeds)
    rows = measure(embeds, specs)
    assert rows["components"] == [1, 2, 4] and set(rows["facts"]) == set(FACTS)
    assert rows["variance"] == sorted(rows["variance"]) and rows["variance"][-1] <= 1
    assert rows["facts"]["colour"]["accuracy"][-1] > rows["facts"]["colour"]["guess"] + 0.2  # the mean colour tells it
    assert all(f"| {fact}" in table(rows) for fact in FACTS)
    plot(rows, embeds, specs, tmp_path / "probe.png")
    assert (tmp_path / "probe.png").stat().st_size > 5000


def test_retrieval_is_of_distinct_pairs_of_a_split() -> None:
    rows = {split: recall(Painter(), split, pairs=12) for split in ("iid", "combo")}
    assert all(row["pairs"] == 12 and row["chance_r1"] == 1 / 12 for row in rows.values())
    assert rows["iid"] != rows["combo"] and recall(Painter(), "iid", pairs=12) == rows["iid"]
    assert recall(Painter(), "iid", pairs=12, tag="other") != rows["iid"]


def test_several_sets_end_in_a_mean_and_a_range() -> None:
    single = [recall(Painter(), "iid", pairs=12, tag=f"probe {i}")["text_to_image_r5"] for i in range(3)]
    found = recalls(Painter(), "iid", sets=3, pairs=12)
    assert found["pairs"] == [12, 12, 12]
    assert found["text_to_image_r5"] == {"mean": pytest.approx(sum(single) / 3), "low": min(single), "high": max(single)}
    assert min(single) < max(single)
    text = retrieval_table({"combo": found, "count": found | {"pairs": [9, 12, 12]}})
    assert "| `combo` | 12 " in text and "| `count` | 9 to 12 " in text
    assert f"{100 * sum(single) / 3:.1f} [{100 * min(single):.1f}, {100 * max(single):.1f}]" in text


def test_a_relation_is_asked_by_what_the_scene_shows() -> None:
    from scenes.grammar import Group, SceneSpec

    red, blue = Group(1, "small", "red", "circle"), Group(1, "large", "blue", "square")
    assert FACTS["relation"](SceneSpec("pair", (red, blue), "right of")) == "left of"
    assert FACTS["relation"](SceneSpec("pair", (blue, red), "left of")) == "left of"
    assert FACTS["relation"](SceneSpec("pair", (red, blue), "below")) == "above"
