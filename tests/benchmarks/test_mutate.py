"""The list of faults fits the sources, and the tool tells a noticed fault from an unnoticed one, in a tiny project."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from benchmarks import mutate

REPO = Path(__file__).resolve().parents[2]
SIGN = dict(file="room/sums.py", was="a + b", becomes="a - b", why="wrong sign", tests=["tests/test_sums.py"])
UNSEEN = SIGN | dict(was="return -a", becomes="return a", why="negation dropped")
HANGS = SIGN | dict(was="return a + b", becomes="while True: pass", why="never ends")


@pytest.fixture
def project(tmp_path: Path) -> Path:
    """A project whose tests look at one of its two functions."""
    root = tmp_path / "project"
    for name in ("room", "tests", mutate.FAULTS):
        (root / name).mkdir(parents=True)
    (root / "room/sums.py").write_text("def add(a, b):\n    return a + b\n\n\ndef negative(a):\n    return -a\n")
    (root / "tests/test_sums.py").write_text(
        "from room.sums import add, negative\n\ndef test_add():\n    assert add(2, 3) == 5 and negative(0) == 0\n"
    )
    subprocess.run(["git", "init", "-q", str(root)], check=True)
    return root


def write(root: Path, *entries: dict) -> None:
    (root / mutate.FAULTS / "room.yaml").write_text(yaml.safe_dump(list(entries)))


def run(root: Path, *words: str) -> subprocess.CompletedProcess:
    """The tool in a process of its own: this one has imported tests and torch."""
    code = f"import sys, pathlib; from benchmarks import mutate; sys.exit(mutate.main(sys.argv[1:], pathlib.Path({str(root)!r}), ()))"
    env = os.environ | {"PYTHONPATH": str(REPO)}
    return subprocess.run([sys.executable, "-c", code, *words], cwd=root, env=env, capture_output=True, text=True)


def test_a_noticed_fault_counts_and_an_unnoticed_one_is_listed(project: Path, tmp_path: Path) -> None:
    write(project, SIGN, UNSEEN)
    before = (project / "room/sums.py").read_text()
    done = run(project, f"out={tmp_path / 'out.json'}", "jobs=2")
    assert done.returncode == 1, done.stderr
    assert done.stdout.splitlines() == [
        "room: 1 / 2 noticed (50.0 %)", "  unnoticed: room/sums.py: negation dropped",
    ]  # fmt: skip
    assert [(r["why"], r["result"]) for r in json.loads((tmp_path / "out.json").read_text())] == [
        ("wrong sign", "noticed"), ("negation dropped", "unnoticed"),
    ]  # fmt: skip
    assert (project / "room/sums.py").read_text() == before
    assert not list(project.rglob("__pycache__"))


def test_enough_noticed_is_exit_code_0(project: Path) -> None:
    write(project, SIGN)
    done = run(project, "room=room")
    assert (done.returncode, done.stdout) == (0, "room: 1 / 1 noticed (100.0 %)\n"), done.stderr


def test_tests_that_fail_unmutated_measure_nothing(project: Path) -> None:
    write(project, SIGN)
    (project / "tests/test_sums.py").write_text("def test_add():\n    assert False\n")
    done = run(project)
    assert done.returncode == 2 and "fail without any fault" in done.stderr and done.stdout == ""


def test_a_fault_that_hangs_is_noticed_only_where_the_list_says_so(project: Path, tmp_path: Path) -> None:
    other = {"becomes": "while 1: pass"}
    write(project, HANGS | {"hangs": True}, HANGS | other)
    run(project, "limit_sec=4", "jobs=2", f"out={tmp_path / 'out.json'}")
    assert [r["result"] for r in json.loads((tmp_path / "out.json").read_text())] == ["noticed", "error"]


@pytest.mark.parametrize(
    ("entry", "complaint"),
    [
        (SIGN | {"was": "return"}, "2 times"),
        (SIGN | {"was": "a * b"}, "0 times"),
        (SIGN | {"becomes": "a + b"}, "the same"),
        (SIGN | {"becomes": "a +"}, "does not compile"),
        (SIGN | {"file": "room/gone.py"}, "no file room/gone.py"),
        (SIGN | {"tests": ["tests/test_gone.py"]}, "no file tests/test_gone.py"),
        (SIGN | {"tests": []}, "names no tests"),
        ({"file": "room/sums.py"}, "needs the keys"),
    ],
)
def test_an_entry_that_does_not_fit_is_an_error(project: Path, entry: dict, complaint: str) -> None:
    write(project, entry)
    with pytest.raises((ValueError, FileNotFoundError), match=complaint):
        mutate.load(project)


def test_a_fault_that_stands_twice_is_an_error(project: Path) -> None:
    write(project, SIGN, SIGN | {"why": "again"})
    with pytest.raises(ValueError, match="twice"):
        mutate.load(project)


@pytest.mark.parametrize("word", ["romo=x", "jobs=0", "jobs=two", "limit_sec=-1", "room="])
def test_a_wrong_word_is_one_line(word: str, capsys: pytest.CaptureFixture) -> None:
    assert mutate.main([word]) == 2
    assert capsys.readouterr().err.count("\n") == 1


def test_every_listed_fault_still_fits_the_sources() -> None:
    faults = mutate.load(REPO)
    assert len(faults) >= 1
    assert all(f.why and len(f.why) < 100 for f in faults)
