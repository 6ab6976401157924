"""Pickles and archives from strangers: looked at before torch builds anything."""

from __future__ import annotations

import builtins
import collections
import io
import os
import pickle
import struct
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from runtime.checkpoint_io import checksums_fit, is_good, read
from runtime.checkpoint_scan import check_archive, foreign_name, plain
from tests.runtime.canary import Canary, canary  # noqa: F401  (a fixture)

GOOD = {"state_dict": collections.OrderedDict(a=torch.arange(4.0)), "step": 3, "name": "x", "list": [1, 2.5, None, True]}


class Call:
    """Pickles as a call."""

    def __init__(self, function: Callable[..., Any], *args: Any) -> None:
        self.call = function, args

    def __reduce__(self) -> Any:
        return self.call


def archive(structure: bytes, *, compress: int = zipfile.ZIP_STORED, **more: bytes) -> bytes:
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w", compress) as file:
        for name, content in {"data.pkl": structure, "version": b"3\n", "byteorder": b"little", **more}.items():
            file.writestr(f"archive/{name}", content)
    return out.getvalue()


def saved(value: Any) -> bytes:
    out = io.BytesIO()
    torch.save(value, out)
    return out.getvalue()


def changed(value: Any, old: bytes, new: bytes) -> bytes:
    """What torch saves of a value, with other bytes in its structure."""
    out = io.BytesIO()
    with zipfile.ZipFile(io.BytesIO(saved(value))) as whole, zipfile.ZipFile(out, "w") as copy:
        for record in whole.namelist():
            content = whole.read(record)
            if record.endswith("data.pkl"):
                assert old in content
                content = content.replace(old, new)
            copy.writestr(record, content)
    return out.getvalue()


def calling(function: Callable[..., Any], *args: Any) -> bytes:
    return archive(pickle.dumps({"state_dict": Call(function, *args)}, protocol=2))


def endless() -> dict[str, Any]:
    value: dict[str, Any] = {}
    value["self"] = value
    return value


def laughing() -> list[Any]:
    value: list[Any] = ["ha"]
    for _ in range(60):
        value = [value, value]
    return value


def doubled(content: bytes) -> bytes:
    out = io.BytesIO(content)
    with zipfile.ZipFile(out, "a") as file:
        file.writestr("archive/data.pkl", b"other")
    return out.getvalue()


BIG = struct.pack("<i", 2**31 - 1)
HOSTILE: dict[str, Callable[[], bytes]] = {
    "a shell command": lambda: calling(os.system, "touch fired"),
    "exec": lambda: calling(builtins.exec, "open('fired', 'w')"),
    "eval": lambda: calling(builtins.eval, "1"),
    "open": lambda: calling(builtins.open, "fired", "w"),
    "getattr": lambda: calling(builtins.getattr, 1, "real"),
    "an import": lambda: calling(__import__, "planted_at_the_top"),
    "a path": lambda: saved({"a": Path("x")}),
    "torch.load": lambda: calling(torch.load, "victim.py"),
    "a large bytearray, which torch allows": lambda: calling(bytearray, 10**12),
    "a counter, which torch allows": lambda: calling(collections.Counter, "x"),
    "a set, which torch allows": lambda: calling(set, [1]),
    "a module": lambda: saved({"a": torch.nn.Linear(1, 1)}),
    "a function of ours": lambda: calling(read, "x"),
    "numpy": lambda: saved({"a": torch.zeros(1).numpy()}),
    "a newer pickle": lambda: archive(pickle.dumps({"a": Call(os.system, "x")}, protocol=4)),
    "an older pickle": lambda: archive(pickle.dumps({"a": 1}, protocol=0)),
    "an instance": lambda: archive(b"(ios\nsystem\n."),
    "an extension": lambda: archive(b"\x80\x02\x82\x01."),
    "a new object": lambda: archive(b"\x80\x02ccollections\nOrderedDict\n)\x81."),
    "an integer of a megabyte": lambda: archive(b"\x80\x02\x8b" + struct.pack("<i", 2**20) + b"\x01" * 2**20 + b"."),
    "an integer of 200 bytes": lambda: archive(b"\x80\x02\x8a\xc8" + b"\x01" * 200 + b"."),
    "a name with other words": lambda: archive(b"\x80\x02ctorch\nFloatStorage.__class__\n."),
    "a name through a module": lambda: archive(b"\x80\x02ctorch.storage\nUntypedStorage.from_file\n."),
    "a million lists": lambda: archive(b"\x80\x02" + b"]" * 2_000_100 + b"."),
    "a structure of 9 MB": lambda: archive(b"\x80\x02" + b"]" * 9 * 2**20 + b"."),
    "no end": lambda: archive(b"\x80\x02}"),
    "no beginning": lambda: archive(b""),
    "a missing memo": lambda: archive(b"\x80\x02h\x05."),
    "nothing but noise": lambda: archive(bytes(range(256)) * 4),
    "compressed": lambda: archive(pickle.dumps({"a": 1}, protocol=2), compress=zipfile.ZIP_DEFLATED),
    "a bomb": lambda: archive(b"\x80\x02}.", compress=zipfile.ZIP_DEFLATED, **{"data/0": bytes(50_000_000)}),
    "a bomb by another packer": lambda: archive(b"\x80\x02}.", compress=zipfile.ZIP_LZMA, **{"data/0": bytes(5_000_000)}),
    "two structures": lambda: doubled(saved(GOOD)),
    "a program of torch's": lambda: archive(b"\x80\x02}.", **{"constants.pkl": b"\x80\x02)."}),
    "no structure": lambda: saved(GOOD).replace(b"data.pkl", b"data.pkx"),
    "a storage larger than its record": lambda: changed(GOOD, b"K\x04tq", b"J" + BIG + b"tq"),
    "a tensor larger than its storage": lambda: changed({"a": torch.arange(4.0)}, b"K\x04\x85", b"J" + BIG + b"\x85"),
    "an expanded tensor": lambda: saved({"a": torch.zeros(1).expand(10**9)}),
    "a tensor below zero": lambda: changed({"a": torch.zeros(4)}, b"K\x04\x85", b"J\xff\xff\xff\xff\x85"),
    "a sparse tensor": lambda: saved({"a": torch.zeros(3, 3).to_sparse()}),
    "a tensor without numbers": lambda: saved({"a": torch.zeros(3, device="meta")}),
    "a nested tensor": lambda: saved({"a": torch.nested.nested_tensor([torch.zeros(2), torch.zeros(3)])}),
    "a circle": lambda: saved(endless()),
    "one list many times": lambda: saved({"a": laughing()}),
    "bytes": lambda: saved({"a": b"x"}),
    "complex numbers": lambda: saved({"a": 1j}),
    "a key that is a pair": lambda: saved({(1, 2): 1}),
    "a list": lambda: saved([1, 2]),
    "a tensor alone": lambda: saved(torch.zeros(2)),
    "a torn file": lambda: saved(GOOD)[:-30],
    "a file of zeros": lambda: bytes(4096),
    "an empty file": lambda: b"",
    "text": lambda: b"hello",
    "the old format": lambda: pickle.dumps(GOOD, protocol=2),
}


@pytest.mark.parametrize("what", HOSTILE)
def test_a_hostile_file_is_refused_in_one_line(what: str, canary: Canary, tmp_path: Path) -> None:  # noqa: F811
    path = tmp_path / "hostile.ckpt"
    path.write_bytes(HOSTILE[what]())
    with canary.refuses("hostile.ckpt"):
        read(path)


def test_what_runs_code_or_fills_memory_is_refused_before_torch_sees_it(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(torch, "load", lambda *a, **k: pytest.fail("torch.load was called"))
    for what in ("a shell command", "a large bytearray, which torch allows", "a bomb", "a program of torch's", "compressed"):
        (tmp_path / "x.ckpt").write_bytes(HOSTILE[what]())
        assert not is_good(tmp_path / "x.ckpt") and not checksums_fit(tmp_path / "x.ckpt")


def test_a_pipe_and_a_folder_are_one_line(canary: Canary, tmp_path: Path) -> None:  # noqa: F811
    os.mkfifo(tmp_path / "pipe")
    for path in (tmp_path / "pipe", tmp_path, tmp_path / "nothing"):
        with canary.refuses("damaged or not a checkpoint"):
            check_archive(path)


def test_a_long_list_of_records_is_refused_before_it_is_read(tmp_path: Path) -> None:
    whole = bytearray(saved(GOOD))
    place = whole.rfind(b"PK\x05\x06")
    whole[place + 12 : place + 16] = struct.pack("<I", 2**31)
    (tmp_path / "x.ckpt").write_bytes(whole)
    with pytest.raises(ValueError, match="its list of records is too long"):
        check_archive(tmp_path / "x.ckpt")


def directory(content: bytes) -> range:
    """Where the archive's list of records lies."""
    end = content.rfind(b"PK\x05\x06")
    return range(int.from_bytes(content[end + 16 : end + 20], "little"), end)


def test_a_record_marked_as_a_folder_is_damage(tmp_path: Path) -> None:
    content, path = bytearray(saved({"state_dict": {"a": torch.ones(3)}})), tmp_path / "a.ckpt"
    path.write_bytes(content)
    check_archive(path)
    content[content.rfind(b"PK\x01\x02", 0, content.rfind(b"data/0")) + 38] ^= 0x10
    path.write_bytes(content)
    with pytest.raises(ValueError, match="data/0 in it is marked as a folder"):
        check_archive(path)


def test_no_bit_of_the_list_of_records_changes_what_is_read(tmp_path: Path) -> None:
    state = {"a": torch.arange(3.0), "b": torch.ones(2)}
    content, path = saved({"state_dict": state}), tmp_path / "a.ckpt"
    accepted = 0
    for place in directory(content):
        for bit in range(8):
            path.write_bytes(content[:place] + bytes([content[place] ^ 1 << bit]) + content[place + 1 :])
            if is_good(path):
                accepted += 1
                again = torch.load(path, weights_only=True)["state_dict"]
                assert all(torch.equal(again[name], value) for name, value in state.items()), (place, bit)
    assert accepted  # bits that nothing reads, such as dates


def test_a_good_file_comes_back_in_plain_containers(tmp_path: Path) -> None:
    (tmp_path / "x.ckpt").write_bytes(saved({**GOOD, "half": torch.zeros(2, dtype=torch.bfloat16), "pair": (1, 2)}))
    found = read(tmp_path / "x.ckpt")
    assert type(found["state_dict"]) is dict and torch.equal(found["state_dict"]["a"], torch.arange(4.0))
    assert {k: found[k] for k in ("step", "name", "list", "pair")} == {k: GOOD[k] for k in ("step", "name", "list")} | {"pair": (1, 2)}
    assert is_good(tmp_path / "x.ckpt")


def test_an_ordered_dict_that_lies_about_its_items_is_read_as_it_is() -> None:
    value = collections.OrderedDict(a=1)
    value.__dict__["items"] = lambda: pytest.fail("asked")
    assert plain(value, Path("x")) == {"a": 1}


def test_names_are_compared_as_a_whole() -> None:
    for name, fine in {"torch FloatStorage": True, "torch FloatStoragex": False, "xtorch FloatStorage": False, "torch load": False,
                       "torch float32": True, "torch float32.__class__": False, "torch._utils _rebuild_tensor_v2": True}.items():  # fmt: skip
        module, attribute = name.split()
        assert (foreign_name(f"\x80\x02c{module}\n{attribute}\n.".encode("latin1"), Path("x")) is None) is fine
