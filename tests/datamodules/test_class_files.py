"""Finding and reading the files of MNIST and CIFAR, whole and damaged, with and without network."""

from __future__ import annotations

import codecs
import gzip
import os
import pickle
import socket
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from datamodules import class_files
from datamodules.class_files import FORMATS, download, load, locate, read_idx
from tests.datamodules.class_data import write_class_data, write_idx


@pytest.fixture(autouse=True)
def no_network(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(class_files, "download", lambda form, root: "no network")
    bare = {name: replace(form, system=()) for name, form in class_files.FORMATS.items()}
    monkeypatch.setattr(class_files, "FORMATS", bare)  # what this machine has installed must not matter


@pytest.mark.parametrize("name", ["mnist", "fashion_mnist", "cifar10", "cifar100"])
def test_torchvisions_layout_is_read_as_torchvision_reads_it(name: str, tmp_path: Path, monkeypatch) -> None:
    write_class_data(tmp_path, name, 30, 20)
    train, test, names = load(name, tmp_path)
    form = class_files.FORMATS[name]
    assert len(names) == form.num_classes and names[0] in ("zero", "t-shirt", "thing 0")
    from torchvision import datasets

    kind = getattr(datasets, form.torchvision)
    monkeypatch.setattr(kind, "_check_integrity", lambda self: True, raising=False)
    monkeypatch.setattr(kind, "_load_meta", lambda self: None, raising=False)
    for is_train, (images, labels) in ((True, train), (False, test)):
        theirs = kind(str(tmp_path), train=is_train)
        data = np.asarray(theirs.data)
        expected = data[:, None] if data.ndim == 3 else data.transpose(0, 3, 1, 2)
        assert np.array_equal(images, expected) and np.array_equal(labels, np.asarray(theirs.targets))
        assert images.dtype == np.uint8 and labels.dtype == np.int64


def test_gzipped_files_and_the_folder_itself_are_found(tmp_path: Path, monkeypatch) -> None:
    plain = load("mnist", write_class_data(tmp_path / "a", "mnist"))
    gzipped = load("mnist", write_class_data(tmp_path / "b", "mnist", compress=True))
    assert all(np.array_equal(x, y) for p, g in zip(plain[:2], gzipped[:2]) for x, y in zip(p, g))
    system = write_class_data(tmp_path / "system", "fashion_mnist", compress=True)
    form = replace(class_files.FORMATS["fashion_mnist"], system=(str(system),))
    monkeypatch.setitem(class_files.FORMATS, "fashion_mnist", form)
    assert locate("fashion_mnist", tmp_path / "nothing") == system
    own = write_class_data(tmp_path / "own", "fashion_mnist")
    assert locate("fashion_mnist", tmp_path / "own") == own, "the root comes before what the system has"


def test_debians_folder_is_known() -> None:
    # FORMATS was imported before the fixture replaced the module's
    assert [Path(p).name for p in FORMATS["fashion_mnist"].system] == ["fashion-mnist"]
    assert not FORMATS["mnist"].system


def test_nothing_anywhere_says_where_to_put_which_files(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError) as error:
        locate("mnist", tmp_path)
    text = str(error.value)
    assert "\n" not in text and "no network" in text and f"into {tmp_path / 'MNIST' / 'raw'}" in text
    assert "train-images-idx3-ubyte, train-labels-idx1-ubyte, t10k-images" in text and "plain or .gz" in text


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    folder = write_class_data(tmp_path, "cifar10")
    (folder / "data_batch_3").unlink()
    with pytest.raises(FileNotFoundError, match=r"cifar-10-batches-py lacks data_batch_3, and it cannot be downloaded"):
        locate("cifar10", tmp_path)


def test_what_torchvision_brings_is_used(tmp_path: Path, monkeypatch) -> None:
    def bring(form, root):
        write_class_data(root, "mnist")

    monkeypatch.setattr(class_files, "download", bring)
    assert locate("mnist", tmp_path) == tmp_path / "MNIST" / "raw"


def test_a_download_that_fails_is_one_line_soon(tmp_path: Path, monkeypatch) -> None:
    monkeypatch.undo()
    import torchvision.datasets.mnist as tv

    def refuse(*_, **__):
        raise OSError("<urlopen error [Errno -2] Name or\n service not known>" + " tried another mirror" * 20)

    monkeypatch.setattr(tv, "download_and_extract_archive", refuse)
    began = time.monotonic()
    reason = class_files.download(class_files.FORMATS["mnist"], tmp_path)
    assert "not known" in reason and "\n" not in reason and time.monotonic() - began < 5
    assert len(reason) <= 160 and reason.endswith((" tried …", " another …", " mirror …"))  # between two words


# ---- damage ----


def error_of(action) -> str:
    with pytest.raises(ValueError) as error:
        action()
    assert "\n" not in str(error.value)
    return str(error.value)


@pytest.mark.parametrize("compress", [False, True])
def test_a_truncated_idx_file_is_named(tmp_path: Path, truncate, compress: bool) -> None:
    folder = write_class_data(tmp_path, "mnist", compress=compress)
    file = folder / ("train-images-idx3-ubyte" + ".gz" * compress)
    truncate(file)
    text = error_of(lambda: load("mnist", tmp_path))
    assert str(file) in text and ("cannot be unpacked" if compress else "truncated") in text and "delete it" in text


@pytest.mark.parametrize(
    ("raw", "message"),
    [
        (b"", "begins with nothing, not 00000803"),
        (b"<html>not found</html>", "begins with 3c68746d, not 00000803"),
        (bytes((0, 0, 8, 1)) + bytes(20), "begins with 00000801"),
        (bytes((0, 0, 8, 3)) + np.array([2, 1, 1], ">u4").tobytes() + b"abc", "longer than it says"),
        (bytes((0, 0, 8, 3)) + np.array([2**31] * 3, ">u4").tobytes() + b"abc", "truncated"),
    ],
)
def test_other_damage_of_an_idx_file(tmp_path: Path, raw: bytes, message: str) -> None:
    (tmp_path / "x").write_bytes(raw)
    assert message in error_of(lambda: read_idx(tmp_path / "x", 3))


def test_images_of_another_size_are_refused(tmp_path: Path) -> None:
    folder = write_class_data(tmp_path, "mnist")
    write_idx(folder / "t10k-images-idx3-ubyte", np.zeros((20, 30, 28)))
    assert "holds images of 30 x 28 pixels, MNIST has 28 x 28" in error_of(lambda: load("mnist", tmp_path))


def test_labels_must_fit_the_images(tmp_path: Path) -> None:
    folder = write_class_data(tmp_path, "mnist")
    write_idx(folder / "t10k-labels-idx1-ubyte", np.zeros(19))
    assert "19 labels for 20 images" in error_of(lambda: load("mnist", tmp_path))
    write_idx(folder / "t10k-labels-idx1-ubyte", np.full(20, 10))
    assert "holds the label 10, MNIST has 0 to 9" in error_of(lambda: load("mnist", tmp_path))


def test_damaged_cifar_files_are_named(tmp_path: Path, truncate) -> None:
    folder = write_class_data(tmp_path, "cifar10")
    truncate(folder / "data_batch_2")
    assert "data_batch_2 is damaged" in error_of(lambda: load("cifar10", tmp_path))
    (folder / "data_batch_2").write_bytes(pickle.dumps({"data": np.zeros((4, 300), np.uint8), "labels": [0] * 4}))
    assert "images of 300 bytes, CIFAR10 has 3 x 32 x 32 = 3,072" in error_of(lambda: load("cifar10", tmp_path))
    (folder / "data_batch_2").write_bytes(pickle.dumps({"fine_labels": [0]}))
    assert "should hold `data` (bytes) and labels" in error_of(lambda: load("cifar10", tmp_path))


class Evil:
    def __reduce__(self):
        return print, ("ran a stranger's code",)


def test_a_strangers_pickle_runs_nothing(tmp_path: Path, capsys) -> None:
    folder = write_class_data(tmp_path, "cifar10")
    (folder / "data_batch_1").write_bytes(pickle.dumps({"data": Evil()}))
    assert "it wants" in error_of(lambda: load("cifar10", tmp_path)) and "stranger's" not in capsys.readouterr().out


def test_pickles_of_python_2_are_read(tmp_path: Path) -> None:
    # what Python 2 wrote: byte strings for keys, and an array as its bytes through numpy.core.multiarray
    raw = (
        b"(dp0\nS'labels'\np1\n(lp2\nI3\naI1\nasS'data'\np3\ncnumpy.core.multiarray\n_reconstruct\np4\n"
        b"(cnumpy\nndarray\np5\n(I0\ntS'b'\ntRp6\n(I1\n(I2\nI3\ntcnumpy\ndtype\np7\n(S'u1'\nI0\nI1\ntRp8\n"
        b"(I3\nS'|'\nNNNI-1\nI-1\nI0\ntbI00\nS'\\x00\\x01\\x02\\xff\\xfe\\x80'\ntbs."
    )
    (tmp_path / "old").write_bytes(raw)
    content = class_files.read_pickle(tmp_path / "old")
    assert content["labels"] == [3, 1] and content["data"].tolist() == [[0, 1, 2], [255, 254, 128]]


class Wants:
    """An object whose pickle asks for a function and its arguments."""

    def __init__(self, function, *arguments) -> None:
        self.call = function, arguments

    def __reduce__(self):
        return self.call


def opcodes(module: str, name: str, argument: str) -> bytes:
    """A pickle in protocol 0 that calls a function by its name."""
    return f"c{module}\n{name}\n(S'{argument}'\ntR.".encode()


def nested_lists() -> list:
    """31 lists that are a billion labels to whoever goes through them."""
    found: list = [0, 1]
    for _ in range(30):
        found = [found, found]
    return found


PROOF = "executed"
PICKLES = {
    "os.system": opcodes("os", "system", f"touch {PROOF}"),
    "posix.system": opcodes("posix", "system", f"touch {PROOF}"),
    "eval": opcodes("builtins", "eval", f"open(\"{PROOF}\",\"w\")"),
    "exec of Python 2": opcodes("__builtin__", "eval", f"open(\"{PROOF}\",\"w\")"),
    "getattr": opcodes("builtins", "getattr", "x"),
    "subprocess": opcodes("subprocess", "getoutput", f"touch {PROOF}"),
    "importlib": opcodes("importlib", "import_module", "antigravity"),
    "runpy": opcodes("runpy", "run_path", "x.py"),
    "numpy's own loader": opcodes("numpy", "load", "x.npy"),
    "numpy writes files": opcodes("numpy", "savetxt", PROOF),
    "numpy runs commands": opcodes("numpy.f2py", "run_main", "x"),
    "torch": opcodes("torch.hub", "load", "x"),
    "dotted name": b"\x80\x04\x8c\x05numpy\x8c\x11ndarray.__class__\x93)R.",
    "repository": opcodes("files", "write_text", PROOF),
    "codec": pickle.dumps(Wants(codecs.encode, b"x", "zlib"), protocol=2),
    "a billion labels": pickle.dumps({"data": np.zeros((2, 3072), np.uint8), "labels": nested_lists()}, protocol=2),
    "labels of other kinds": pickle.dumps({"data": np.zeros((2, 3072), np.uint8), "labels": [0.5, "1"]}, protocol=2),
    "huge label": pickle.dumps({"data": np.zeros((1, 3072), np.uint8), "labels": [10**30]}, protocol=2),
    "array of objects": pickle.dumps({"data": np.array([[print]]), "labels": [0]}, protocol=2),
    "deep": b"(" * 100_000 + b".",
    "endless memo": pickle.dumps("x", protocol=2)[:-1] + b"j\xff\xff\xff\x7f.",
    "huge string": b"\x80\x04\x8e" + b"\xff" * 7 + b"\x7f.",
}


@pytest.mark.parametrize("case", PICKLES)
def test_hostile_pickles_are_one_line_and_run_nothing(tmp_path: Path, monkeypatch, case: str) -> None:
    folder = write_class_data(tmp_path / "data", "cifar10")
    (folder / "data_batch_1").write_bytes(PICKLES[case])
    monkeypatch.chdir(tmp_path)
    with pytest.raises(ValueError, match=r"data_batch_1 (is damaged or no CIFAR file|is no CIFAR batch)") as error:
        load("cifar10", tmp_path / "data")
    assert "\n" not in str(error.value) and len(str(error.value)) < 600 and os.listdir(tmp_path) == ["data"]


@pytest.mark.parametrize("names", [["x"] * 9, ["x" * 1000] * 10, [1] * 10, "abcdefghij", {"x": 1}])
def test_hostile_class_names(tmp_path: Path, names: object) -> None:
    folder = write_class_data(tmp_path, "cifar10")
    (folder / "batches.meta").write_bytes(pickle.dumps({"label_names": names}, protocol=2))
    with pytest.raises(ValueError, match="should hold 10 class names under label_names"):
        load("cifar10", tmp_path)


def test_what_unpacks_to_gigabytes_is_not_unpacked(tmp_path: Path, monkeypatch) -> None:
    monkeypatch.setattr(class_files, "MAX_BYTES", 2**20)
    (tmp_path / "a.gz").write_bytes(gzip.compress(bytes(2**24)))
    with pytest.raises(ValueError, match="a.gz unpacks to more than 1 MiB"):
        read_idx(tmp_path / "a.gz", 1)


@pytest.mark.parametrize("shape", [(2**32 - 1,) * 3, (2**16, 2**16, 2**32 - 1), (0, 0, 0), (1, 2, 3)])
def test_lying_headers(tmp_path: Path, shape: tuple[int, ...]) -> None:
    (tmp_path / "a").write_bytes(bytes((0, 0, 8, 3)) + np.array(shape, ">u4").tobytes() + b"123")
    with pytest.raises(ValueError, match="a is (truncated|longer than it says)"):
        read_idx(tmp_path / "a", 3)


def test_a_pipe_is_no_data_set(tmp_path: Path) -> None:
    folder = write_class_data(tmp_path, "mnist")
    (folder / class_files.IDX_TEST[0]).unlink()
    os.mkfifo(folder / class_files.IDX_TEST[0])
    with pytest.raises(FileNotFoundError, match="lacks t10k-images"):
        load("mnist", tmp_path)
    with pytest.raises(ValueError, match="is not a regular file"):
        read_idx(folder / class_files.IDX_TEST[0], 3)


@pytest.mark.parametrize("fails", [False, True])
def test_a_download_has_a_time_limit_of_its_own_that_ends_with_it(fails: bool, tmp_path: Path, monkeypatch) -> None:
    during: list[float | None] = []

    def fetch(*_: object, **__: object) -> None:
        during.append(socket.getdefaulttimeout())
        if fails:
            raise OSError("no network")

    monkeypatch.setattr("torchvision.datasets.MNIST", fetch)
    socket.setdefaulttimeout(123.0)
    try:
        assert download(FORMATS["mnist"], tmp_path) == ("no network" if fails else None)
        assert during == [class_files.DOWNLOAD_TIMEOUT_SEC] and socket.getdefaulttimeout() == 123.0
    finally:
        socket.setdefaulttimeout(None)


def test_garments_come_along_and_are_not_looked_for_elsewhere(tmp_path: Path, monkeypatch) -> None:
    monkeypatch.setattr(class_files, "FORMATS", FORMATS)
    (train, labels), (test, _), names = load("garments", None)
    assert train.shape == (10_000, 1, 28, 28) and test.shape == (2_000, 1, 28, 28) and names[9] == "ankle boot"
    assert np.bincount(labels).min() > 900, "every class is there"
    monkeypatch.setitem(class_files.FORMATS, "garments", replace(FORMATS["garments"], system=(str(tmp_path),)))
    with pytest.raises(FileNotFoundError, match="lacks train-images-idx3-ubyte.*check them out again"):
        locate("garments", None)
