"""Running evaluators: numbers with units and controls, reasons where there are none."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from threading import Barrier

import pytest
import torch

from evaluation.extractors.inception import InceptionV3
from evaluation.metrics.alignment import SceneAlignment
from evaluation.metrics.base import by_metric
from evaluation.metrics.frechet import FrechetDistance
from evaluation.metrics.run_evaluators import Numbers, Ranks, measure
from tests.judge import Brightness


def test_numbers_come_with_their_circumstances_and_reasons(make_prompts, tmp_path) -> None:
    prompts = make_prompts(20)
    evaluators = {"alignment": SceneAlignment(), "fid": FrechetDistance(InceptionV3(str(tmp_path / "none.pth")))}
    found = measure(evaluators, prompts, lambda indices: prompts.real[indices], batch_size=8)
    assert found.metrics["all_correct"]["value"] == 1 and found.metrics["all_correct"]["unit"] == "%"
    assert (
        found.metrics["all_correct"]["higher_is_better"]
        and found.metrics["all_correct"]["protocol"]["instrument"] == "scenes.parser"
    )
    assert "no Inception weights" in found.not_computed["fid"] and "fid" not in found.metrics
    assert len(found.details["wrong"]) == 20


def test_batch_size_changes_nothing(make_prompts) -> None:
    prompts = make_prompts(12)
    fake = prompts.real.roll(1, 0)
    one, many = (measure({"a": SceneAlignment()}, prompts, lambda i: fake[i], batch_size=b).metrics for b in (5, 64))
    assert one == many


def test_what_the_data_lacks_is_named(make_prompts) -> None:
    prompts = replace(make_prompts(4), specs=None)
    found = measure({"a": SceneAlignment()}, prompts, lambda indices: prompts.real[indices])
    assert (
        found.not_computed == {"all_correct": "needs specs, which this data or this model does not have"}
        and not found.metrics
    )


def test_a_real_error_is_not_swallowed(make_prompts) -> None:
    prompts = make_prompts(4)
    with pytest.raises(ValueError, match="uint8"):
        measure({"a": SceneAlignment()}, prompts, lambda indices: torch.zeros(len(indices), 3, 64, 64))


def test_by_metric_groups_suffixes_of_known_metrics_only() -> None:
    assert by_metric({"m": 1.0, "m_low": 0.5, "m_real": 2.0, "very_low": 3.0}) == {
        "m": {"value": 1.0, "low": 0.5, "real": 2.0},
        "very_low": {"value": 3.0},
    }


def judges(**needs: list[str]) -> dict[str, Brightness]:
    return {name: Brightness(wanted) for name, wanted in needs.items()}


def test_every_image_is_read_once_for_all_evaluators(make_prompts) -> None:
    prompts, reads = make_prompts(10), []

    def fake(indices: list[int]) -> torch.Tensor:
        reads.append(indices)
        return prompts.real[indices]

    two = judges(a=[], b=["captions"])
    measure(two, prompts, fake, batch_size=4)
    assert reads == [[0, 1, 2, 3], [4, 5, 6, 7], [8, 9]]
    assert two["a"].prepared == two["b"].prepared == [prompts] and [c[0] for c in two["b"].calls] == reads


def test_one_that_fails_stops_alone(make_prompts) -> None:
    prompts = make_prompts(6)
    failing = Brightness(fails="no weights")
    failing.headlines = ("other",)
    found = measure({"a": failing, "b": Brightness()}, prompts, lambda i: prompts.real[i])
    assert found.not_computed == {"other": "no weights"} and set(found.metrics) == {"brightness"}


def test_processes_put_their_rows_together_and_drop_what_failed_on_one(make_prompts) -> None:
    """Two processes as two threads that meet at every gather."""
    prompts = make_prompts(7)
    alone = measure({"a": Brightness()}, prompts, lambda i: prompts.reference[i], batch_size=3)
    meet, slots = Barrier(2, timeout=60), [None, None]

    def process(rank: int, fails: str | None):
        def gather(mine):
            slots[rank] = mine
            meet.wait()
            everything = list(slots)
            meet.wait()
            return everything

        other = Brightness(fails=fails)
        other.headlines = ("other",)
        both = {"a": Brightness(), "b": other}
        return measure(both, prompts, lambda i: prompts.reference[i], batch_size=2, ranks=Ranks(rank, 2, gather))

    with ThreadPoolExecutor(2) as threads:
        first, second = threads.map(process, (0, 1), (None, "fails on the second only"))
    assert first.metrics == alone.metrics and first.details == alone.details
    assert first.not_computed == {"other": "fails on the second only"} and second == Numbers()


def test_what_needs_a_caption_sees_only_images_that_have_one(make_prompts) -> None:
    full = make_prompts(6)
    prompts = replace(full, captions=[c if i % 2 else None for i, c in enumerate(full.captions)], paired=False)
    two = judges(a=[], b=["captions"])
    found = measure({"b": two["b"]}, prompts, lambda i: prompts.real[i], batch_size=4)
    assert [c[0] for c in two["b"].calls] == [[1, 3], [5]]
    row = found.metrics["brightness"]
    assert row["n"] == row["protocol"]["images"] == 3
    assert "real" not in row  # real images of a folder show other things than these captions say
    assert "real" in measure({"a": two["a"]}, prompts, lambda i: prompts.real[i]).metrics["brightness"]


def test_equal_contents_share_a_protocol_and_others_do_not(make_prompts) -> None:
    prompts = make_prompts(6)

    def protocol(prompts, *needs):
        return measure(judges(a=list(needs)), prompts, lambda i: prompts.real[i]).metrics["brightness"]["protocol_id"]

    same = replace(prompts, reference_split="elsewhere", captions=None)
    assert protocol(prompts, "reference") == protocol(same, "reference") != protocol(prompts)
    other = replace(prompts, reference=prompts.reference.flip(0))
    assert protocol(prompts, "reference") != protocol(other, "reference")
    assert protocol(prompts, "captions") != protocol(replace(prompts, captions=prompts.captions[::-1]), "captions")
    assert protocol(prompts) != protocol(make_prompts(5))


def test_training_sets_and_likelihoods_reach_those_who_ask(make_prompts) -> None:
    prompts = make_prompts(4)
    found = measure(judges(a=["train", "likelihood"]), prompts, lambda i: prompts.real[i])
    assert "needs likelihood and train, which this data or this model" in found.not_computed["brightness"]
    nats = {"nll": torch.arange(4.0)}
    asking = judges(a=["train", "likelihood"])
    measure(asking, replace(prompts, train=prompts.reference, likelihood=nats), lambda i: prompts.real[i], batch_size=3)
    assert [c[2]["likelihood"]["nll"].tolist() for c in asking["a"].calls] == [[0, 1, 2], [3]]


def test_a_second_split_starts_without_the_rows_of_the_first(make_prompts) -> None:
    judge, first, second = Brightness(), make_prompts(5), make_prompts(3, "combo")
    measure({"a": judge}, first, lambda i: first.real[i])
    found = measure({"a": judge}, second, lambda i: second.reference[i])
    assert judge.rows.indices == [0, 1, 2]
    assert found.metrics["brightness"]["value"] == pytest.approx(float(second.reference[:3].float().mean()), rel=1e-5)


class Several(Brightness):
    """A headline, a number beside it, and a count of its own."""

    def compute(self) -> dict[str, float]:
        return {"brightness": 0.5, "brightness_n": 2, "side": 1.0}


def test_headlines_and_counts_are_the_evaluators_own(make_prompts) -> None:
    prompts = make_prompts(4)
    found = measure({"a": Several()}, prompts, lambda i: prompts.real[i]).metrics
    assert (found["brightness"]["headline"], found["side"]["headline"]) == (True, False)
    assert (found["brightness"]["n"], found["side"]["n"]) == (2, 4)
    assert found["brightness"]["protocol"]["images"] == 4


def test_every_image_of_a_batch_stays_beside_its_own(make_prompts) -> None:
    """Where some images have no caption, references, reconstructions, labels and specs are cut with them."""
    full = make_prompts(7)
    captions = [caption if i % 3 else None for i, caption in enumerate(full.captions)]
    likelihood = {"elbo_nats": torch.arange(7.0)}
    prompts = replace(full, captions=captions, labels=list(range(7)), reconstruction=255 - full.real, likelihood=likelihood)
    judge = Brightness(["captions", "labels"])
    measure({"a": judge}, prompts, lambda i: prompts.real[i], batch_size=4)
    assert [c[0] for c in judge.calls] == [[1, 2], [4, 5]]
    for indices, captions, extra in judge.calls:
        assert captions == [full.captions[i] for i in indices] and extra["labels"] == indices
        assert extra["specs"] == [full.specs[i] for i in indices]
        assert torch.equal(extra["reference"], full.reference[indices])
        assert torch.equal(extra["reconstruction"], 255 - full.real[indices])
        assert extra["likelihood"]["elbo_nats"].tolist() == indices
