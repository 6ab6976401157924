"""The chaos benchmark: accidents do what they say, a difference is found, and a small campaign ends well."""

from __future__ import annotations

import errno
import io
import os
import random
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from benchmarks.chaos import files, troubles
from benchmarks.chaos.__main__ import parse
from benchmarks.chaos.campaign import Campaign, newest_step, traceback_in
from benchmarks.chaos.families import FAMILIES, Task, make_material, tasks
from benchmarks.chaos.tally import PROBLEMS, Tally

REPO = Path(__file__).resolve().parents[2]


@pytest.mark.parametrize("kind", troubles.DAMAGES)
def test_damage_always_changes_the_file(kind: str) -> None:
    good = random.Random(0).randbytes(10_000)
    for seed in range(30):
        bad = troubles.damage(good, kind, random.Random(seed))
        assert bad != good and len(bad) <= len(good)
        assert bad == troubles.damage(good, kind, random.Random(seed)), "the same seed makes the same damage"


@pytest.mark.parametrize("kind", troubles.DAMAGES)
def test_an_empty_file_can_be_damaged_too(kind: str) -> None:
    assert troubles.damage(b"", kind, random.Random(0))


def test_a_damaged_checkpoint_holds_something_else_or_cannot_be_read(tmp_path: Path) -> None:
    """Much of a small archive is padding, and a bit that falls there says nothing about who reads it."""
    whole = io.BytesIO()
    torch.save({f"weight{i}": torch.ones(3) for i in range(20)}, whole)
    flips = [troubles.damage(whole.getvalue(), "bit_flipped", random.Random(seed)) for seed in range(40)]
    assert any(troubles.same(bad, whole.getvalue()) for bad in flips)
    for seed in range(40):
        for step in (1, 2):
            (tmp_path / f"step={step:08d}.ckpt").write_bytes(whole.getvalue())
        assert troubles.damage_newest(tmp_path, random.Random(seed)) == "step=00000002.ckpt"
        assert not troubles.same((tmp_path / "step=00000002.ckpt").read_bytes(), whole.getvalue())


@pytest.mark.parametrize("share", [0.5, 0.95, 1.0])
def test_the_share_of_signals_can_be_chosen(share: float) -> None:
    weights = troubles.with_signals(troubles.ALONE, share)
    assert sum(w for kind, w in weights.items() if kind in troubles.SIGNALS) == pytest.approx(share)
    assert sum(weights.values()) == pytest.approx(1) and weights["sigkill"] == pytest.approx(2 * weights["sigkill_writing"])


def test_metrics_are_torn_after_the_checkpoint_only(tmp_path: Path) -> None:
    (tmp_path / "checkpoints").mkdir()
    (tmp_path / "checkpoints" / "step=00000006.ckpt").touch()
    path = tmp_path / "metrics.jsonl"
    kept = "".join(f'{{"step": {i}, "x": 1}}\n' for i in (3, 6))
    whole = kept + '{"step": 9, "x": 1}\n'
    ends = set()
    for seed in range(40):
        path.write_text(whole)
        assert troubles.tear_metrics(tmp_path, random.Random(seed))
        assert path.read_bytes().startswith(kept.encode())
        ends.add(path.read_bytes())
    assert len(ends) > 10


def test_writes_fail_for_a_while_and_then_work_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("write", "pwrite", "fsync", "replace"):
        monkeypatch.setattr(os, name, getattr(os, name))  # so that they are put back
    troubles.fail_writes(seed=1, share=0.2)
    file = os.open(tmp_path / "a", os.O_WRONLY | os.O_CREAT)
    errors = []
    for _ in range(100):
        try:
            os.write(file, b"x")
        except OSError as error:
            errors.append(error.errno)
    os.close(file)
    assert 10 < len(errors) < 90 and set(errors) == {errno.ENOSPC}
    assert (tmp_path / "a").stat().st_size == 100 - len(errors)


def test_every_family_has_every_variant_and_its_own_settings_once(tmp_path: Path) -> None:
    todo = tasks(list(FAMILIES))
    assert {t.family for t in todo} == set(FAMILIES) and len({t.name for t in todo}) == len(todo)
    assert ("clip", "accumulation") not in {(t.family, t.variant) for t in todo}  # CLIP refuses it
    for task in todo:
        keys = [word.partition("=")[0] for word in task.arguments(tmp_path, tmp_path)]
        assert len(keys) == len(set(keys))
    with pytest.raises(ValueError, match="families=gna: choose from"):
        tasks(["gna"])


def test_a_traceback_is_told_from_one_that_python_ignored() -> None:
    ignored = "run: x\nException ignored in: <function f>\nTraceback (most recent call last):\nKeyboardInterrupt: \nsaved\n"
    assert traceback_in(ignored) == "" == traceback_in("run: x\n")
    assert traceback_in(ignored + "Traceback (most recent\nKeyError") == "Traceback (most recent\nKeyError"


@pytest.mark.parametrize("words", [["minutes"], ["minits=3"], ["kills=many"], ["kills=-1"], ["reach=2"], ["signals=1.5"], ["troubles=0"]])
def test_misspelt_settings_are_refused(words: list[str]) -> None:
    with pytest.raises(ValueError):
        parse(words)


def test_mutations_are_many_and_repeat_with_their_seed(tmp_path: Path) -> None:
    (source, *_) = files.make_sources(tmp_path)
    data = source.read_bytes()
    first = [files.mutate(data, random.Random(i)) for i in range(50)]
    assert first == [files.mutate(data, random.Random(i)) for i in range(50)] and len(set(first)) > 45


@pytest.fixture(scope="module")
def campaign(tmp_path_factory: pytest.TempPathFactory) -> Campaign:
    work = tmp_path_factory.mktemp("chaos")
    make_material(work / "material")
    return Campaign(work, work / "material", None, Tally(), seed=0)


def test_a_disturbed_run_ends_as_the_undisturbed_one(campaign: Campaign) -> None:
    campaign.disturb(Task("points", "workers"))
    assert campaign.tally.counts["runs"] == campaign.tally.counts["equal"] == 1
    assert not campaign.tally.problems, campaign.tally.problems


def test_a_run_that_ended_otherwise_is_a_problem_and_stays_on_disk(campaign: Campaign) -> None:
    task, tally = Task("points", "workers"), campaign.tally
    reference = campaign.reference(task)
    name = next(iter(reference.contents["state_dict"]))
    reference.contents["state_dict"][name] = reference.contents["state_dict"][name] + 1
    found, equal = len(tally.problems), tally.counts["equal"]
    campaign.disturb(task)
    (problem,) = tally.problems[found:]
    assert problem["kind"] == "different" and name in problem["what"] and tally.counts["equal"] == equal
    assert newest_step(Path(problem["kept"]) / "run")
    assert dict(tally.rows())[PROBLEMS["different"]] == "1"


@pytest.mark.slow
def test_a_small_campaign_from_the_command_line(tmp_path: Path) -> None:
    words = ["minutes=3", "kills=3", "damaged=6", "fuzzed=12", "pictures=0", "families=points", f"out={tmp_path / 'c.json'}"]
    done = subprocess.run([sys.executable, "-m", "benchmarks.chaos", *words], cwd=REPO, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]
    assert "damaged image files read" in (tmp_path / "c.md").read_text()
