"""What travels is read without trust: no environment, no circles, no explosions, no YAML beyond plain values."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import pytest
from omegaconf import OmegaConf

from runtime.config import REPO, compose
from runtime.foreign import foreign_config, read_foreign_config, settle
from tests.runtime.canary import SECRET, Canary, canary  # noqa: F401  (a fixture)

DEEP: dict[str, Any] = {}
for _ in range(100):
    DEEP = {"a": DEEP}
CIRCLE: dict[str, Any] = {"a": 1}
CIRCLE["self"] = CIRCLE
LAUGHS: list[Any] = ["ha"] * 10
for _ in range(10):
    LAUGHS = [LAUGHS] * 10

HOSTILE_VALUES: dict[str, Any] = {
    "an environment variable": {"a": "${oc.env:HOME_SECRET}"},
    "with a default": {"a": "${oc.env:NOPE,${oc.env:HOME_SECRET}}"},
    "with blanks": {"a": "${ oc.env:HOME_SECRET }"},
    "inside a text": {"a": "x ${oc.env:HOME_SECRET} y"},
    "in a list": {"a": [1, ["${oc.env:HOME_SECRET}"]]},
    "in a key": {"${oc.env:HOME_SECRET}": 1},
    "a resolver by a nested name": {"a": "${oc.${b}:HOME_SECRET}", "b": "env"},
    "a resolver by a reference": {"a": "${${b}:HOME_SECRET}", "b": "oc.env"},
    "an older resolver": {"a": "${env:HOME_SECRET}"},
    "a file": {"a": "${oc.decode:'1'}"},
    "creation": {"a": "${oc.create:{b: 1}}"},
    "deprecation": {"a": "${oc.deprecated:b}", "b": 1},
    "keys of a table": {"a": "${oc.dict.keys:b}", "b": {"c": 1}},
    "hydra": {"a": "${hydra:runtime.cwd}"},
    "selection with a nested default": {"a": "${oc.select:b,${oc.env:HOME_SECRET}}"},
    "selection with a text": {"a": "${oc.select:b,'x'}"},
    "an escape": {"a": "\\${oc.env:HOME_SECRET}"},
    "an escaped reference": {"a": "\\${b}", "b": 1},
    "two escapes": {"a": "\\\\${b}", "b": 1},
    "nested": {"a": "${${b}}", "b": "c", "c": 1},
    "brackets": {"a": "${b[0]}", "b": [1]},
    "quotes": {"a": "${'b'}", "b": 1},
    "open": {"a": "${"},
    "open and more": {"a": "${b", "b": 1},
    "nothing": {"a": "${}"},
    "a new line": {"a": "${b\n}", "b": 1},
    "the folder above": {"a": "${repo:../secret}"},
    "the folder above, later": {"a": "${repo:a/../../secret}"},
    "the root": {"a": "${repo:/etc}"},
    "a reference in a place": {"a": "${repo:${b}}", "b": "/nowhere/etc"},
    "itself": {"a": "${a}"},
    "itself in a list": {"a": ["${a}"]},
    "its own table": {"a": {"b": "${a}"}},
    "each other": {"a": "${b}", "b": "${a}"},
    "each other on the way": {"a": "${b.x}", "b": "${a.y}"},
    "relatives in a circle": {"a": {"b": "${.c}", "c": "${.b}"}},
    "lists that grow": {f"a{i}": [f"${{a{i + 1}}}"] * 10 for i in range(12)} | {"a12": 1},
    "tables that grow": {f"a{i}": {"x": f"${{a{i + 1}}}", "y": f"${{a{i + 1}}}"} for i in range(40)} | {"a40": 1},
    "texts that grow": {f"a{i}": f"${{a{i + 1}}}" * 10 for i in range(12)} | {"a12": "x"},
    "selections that grow": {f"a{i}": [f"${{oc.select:a{i + 1},null}}"] * 10 for i in range(12)} | {"a12": 1},
    "a long chain": {f"a{i}": f"${{a{i + 1}}}" for i in range(1000)} | {"a1000": 1},
    "a long chain, backwards": {f"a{i}": f"${{a{i + 1}}}" for i in reversed(range(1000))} | {"a1000": 1},
    "deep": DEEP,
    "a circle of objects": CIRCLE,
    "one list many times": {"a": LAUGHS},
    "many values": {"a": [0] * 100_000},
    "a large number": {"a": 10**4000},
    "bytes": {"a": b"x"},
    "a tuple": {"a": (1, 2)},
    "a set": {"a": {1}},
    "an object": {"a": Path("x")},
    "a key that is a number with a point": {1.5: 1},
    "a key that is nothing": {None: 1},
    "a long key": {"k" * 10**5: 1},
    "a list": [1],
    "a text": "x",
    "nothing at all": None,
}

HOSTILE_YAML: dict[str, str | bytes] = {
    "an alias": "a: &x [1]\nb: *x",
    "an anchor alone": "a: &x 1",
    "a bomb": "a: &a [x,x,x]\n" + "\n".join(f"{c}: &{c} [{','.join(['*' + p] * 9)}]" for p, c in zip("abcdefgh", "bcdefghi")),
    "an alias of itself": "a: &a [*a]",
    "a merge of an alias": "a: &a {b: 1}\nc: {<<: *a}",
    "python's objects": "a: !!python/object/apply:os.system [touch fired]",
    "python's names": "a: !!python/name:os.system",
    "a tag of its own": "a: !mine 1",
    "bytes": "a: !!binary aGk=",
    "a set": "a: !!set {b}",
    "deep lists": "a: " + "[" * 5000,
    "deep tables": "a: " + "{b: " * 5000,
    "deep by indenting": "\n".join(" " * i + f"k{i}:" for i in range(500)),
    "many values": "a: [" + "1," * 100_000 + "1]",
    "a large file": "a: " + "x" * 2**20,
    "bytes that are no text": b"\xff\xfe\x00\x01",
    "a zero byte": "a: \x00",
    "a broken list": "a: [1",
    "a broken table": "a: {b",
    "a tab": "a:\n\tb: 1",
    "the same key twice": "a: 1\na: 2",
    "two documents": "a: 1\n---\nb: 2",
    "a list": "- 1\n- 2",
    "an environment variable": "a: ${oc.env:HOME_SECRET}",
    "a broken reference": "a: ${",
    "a key that is nothing": "null: 1",
    "a key that is a list": "? [1, 2]\n: 3",
}


@pytest.mark.parametrize("what", HOSTILE_VALUES)
def test_a_hostile_configuration_is_refused(what: str, canary: Canary) -> None:  # noqa: F811
    with canary.refuses("the file"):
        foreign_config(HOSTILE_VALUES[what], "the file")


@pytest.mark.parametrize("what", HOSTILE_YAML)
def test_a_hostile_yaml_file_is_refused(what: str, canary: Canary) -> None:  # noqa: F811
    text, path = HOSTILE_YAML[what], canary.home / "x.yaml"
    path.write_bytes(text if isinstance(text, bytes) else text.encode())
    with canary.refuses("x.yaml"):
        read_foreign_config(path)


def test_a_pipe_and_a_missing_file_are_one_line(canary: Canary, tmp_path: Path) -> None:  # noqa: F811
    os.mkfifo(tmp_path / "pipe")
    with canary.refuses("not a regular file"):
        read_foreign_config(tmp_path / "pipe")
    with canary.refuses("no such file"):
        read_foreign_config(tmp_path / "nothing")


def test_our_own_references_are_followed() -> None:
    value = {
        "a": {"b": 2, "c": "${.b}", "d": {"e": "${..b}", "f": "${a.b} and ${a.c}"}, "list": [1, "${..b}"]},
        "far": "${a.d}", "through": "${far.e}", "item": "${a.list.0}",
        "maybe": "${oc.select:a.nope,3}", "null": "${oc.select:a.nope,null}", "place": "${repo:conf/model}", "root": "${repo:}",
    }  # fmt: skip
    config = foreign_config(value, "x")
    plain = OmegaConf.to_container(config, resolve=True)
    assert plain["far"] == {"e": 2, "f": "2 and 2"} and plain["through"] == 2 and plain["item"] == 1
    assert plain["a"]["list"] == [1, 2] and plain["maybe"] == 3 and plain["null"] is None
    assert plain["place"] == str(REPO / "conf/model") and plain["root"] == str(REPO)
    assert OmegaConf.to_container(config, resolve=False) == value


def test_the_longest_chain_that_passes_can_be_resolved() -> None:
    """The bound lies where OmegaConf, which calls itself at every step, still answers."""
    for value in ({f"a{i}": f"${{a{i + 1}}}" for i in range(28)} | {"a28": 1}, {f"a{i}": [f"${{a{i + 1}}}"] for i in range(14)} | {"a14": 1}):
        OmegaConf.to_container(foreign_config(value, "x"), resolve=True)


def test_everything_that_a_run_of_ours_writes_can_be_read_again(tmp_path: Path) -> None:
    for choice in ("experiment=gan/stacked", "model=imagen"):
        cfg = compose("train", [choice, f"run_dir={tmp_path}", "name=x"])
        (tmp_path / "resume.yaml").write_text(OmegaConf.to_yaml(cfg))
        assert read_foreign_config(tmp_path / "resume.yaml") == cfg


def test_what_may_not_travel_is_settled_when_a_run_starts(canary: Canary) -> None:  # noqa: F811
    cfg = OmegaConf.create({"data": {"root": "${oc.env:HOME_SECRET}/x", "same": "${.root}", "list": ["${oc.env:HOME_SECRET}"]}, "n": None})
    settle(cfg)
    assert OmegaConf.to_container(cfg) == {"data": {"root": f"{SECRET}/x", "same": "${.root}", "list": [SECRET]}, "n": None}
    foreign_config(OmegaConf.to_container(cfg), "x")
