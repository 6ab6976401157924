"""Cards: complete, and strict about what may be compared."""

from __future__ import annotations

import json
from dataclasses import replace

import pytest

from evaluation.metrics.card import Card, differences, versions

CARD = Card(
    metric="all_correct",
    value=0.5,
    split="iid",
    n_real=64,
    n_fake=64,
    seeds="blake2b(seed=0, split, index)",
    data="scenes",
    data_fingerprint="abc",
    protocol={"extractor": "efficientnet_lite0", "resize": "64"},
    sampling={"guidance_scale": 2.0},
    versions=versions(),
)


def test_survives_the_disk(tmp_path) -> None:
    assert Card.load(CARD.save(tmp_path)) == CARD
    assert {"torch", "python"} <= set(CARD.versions)


def test_another_schema_is_refused(tmp_path) -> None:
    path = CARD.save(tmp_path)
    path.write_text(json.dumps(json.loads(path.read_text()) | {"schema": 99}))
    with pytest.raises(ValueError, match="schema 99"):
        Card.load(path)


@pytest.mark.parametrize(
    "change", [{"n_fake": 128}, {"split": "combo"}, {"protocol": {"extractor": "efficientnet_lite0", "resize": "128"}}]
)
def test_other_measurements_do_not_share_a_column(change: dict) -> None:
    assert len(differences(CARD, replace(CARD, **change))) == 1


def test_other_models_and_samplers_do() -> None:
    assert differences(CARD, replace(CARD, value=0.1, sampling={"guidance_scale": 4.0}, model={"family": "gan"})) == []


def test_the_identity_of_a_measurement_knows_no_order_of_keys_and_no_names_of_folders() -> None:
    turned = replace(CARD, protocol=dict(reversed(CARD.protocol.items())), data="elsewhere")
    assert turned.protocol_id() == CARD.protocol_id() and differences(CARD, turned) == []
    for change in ({"n_fake": 65}, {"n_real": 65}, {"metric": "count"}, {"split": "combo"}, {"protocol": {}}):
        assert replace(CARD, **change).protocol_id() != CARD.protocol_id()
        (line,) = differences(CARD, replace(CARD, **change))
        assert line.startswith(f"{next(iter(change))}: ")
