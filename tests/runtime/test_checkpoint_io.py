"""Checkpoint files: flushed and read back before they count, never with lost weights, rotated by what is good."""

from __future__ import annotations

import errno
import os
import pickle
import stat
import threading
from pathlib import Path

import pytest
import torch

import files
from runtime import checkpoint_io
from runtime.checkpoint_io import AtomicCheckpointIO, NotWritten, checkpoints, newest_good, not_finite, size, snapshot

SMALL = {"state_dict": {"a": torch.ones(3)}}


def save(path: Path, contents: dict | None = None) -> Path:
    AtomicCheckpointIO().save_checkpoint(dict(contents or SMALL), path)
    return path


def damage(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-100])


def names(folder: Path) -> list[str]:
    return sorted(p.name for p in folder.iterdir())


def test_a_file_is_read_back_and_flushed_before_it_takes_its_place(tmp_path: Path, monkeypatch) -> None:
    events: list[str] = []

    def spy(owner, name: str, say) -> None:
        real = getattr(owner, name)
        monkeypatch.setattr(owner, name, lambda *a, **k: (events.append(say(*a)), real(*a, **k))[1])

    spy(os, "fsync", lambda f: "flush folder" if stat.S_ISDIR(os.fstat(f).st_mode) else "flush file")
    spy(os, "replace", lambda a, b: f"rename to {Path(b).name}")
    spy(checkpoint_io, "is_good", lambda path: f"read {path.name.split('-')[0]}")
    save(tmp_path / "step=1.ckpt")
    assert events == ["read step=1.ckpt.tmp", "flush file", "rename to step=1.ckpt", "flush folder"]


def test_what_does_not_read_back_replaces_nothing(tmp_path: Path, monkeypatch) -> None:
    before = save(tmp_path / "step=1.ckpt").read_bytes()
    real = checkpoint_io.write
    monkeypatch.setattr(checkpoint_io, "write", lambda contents, path: (real(contents, path), damage(path)))
    with pytest.raises(NotWritten, match="does not read back"):
        save(tmp_path / "step=1.ckpt", {"a": torch.zeros(5000)})
    assert (tmp_path / "step=1.ckpt").read_bytes() == before and names(tmp_path) == ["step=1.ckpt"]


@pytest.mark.parametrize(
    ("number", "why", "remedy"),
    [
        (errno.ENOSPC, "no space left on the disk: 0.4 MB needed, .* MB free", "free 2 MB"),
        (errno.EDQUOT, "the disk quota is used up: 0.4 MB needed", "free 2 MB"),
        (errno.EROFS, "the file system is read-only$", "put that right"),
    ],
)
def test_a_disk_that_takes_no_more_is_named(number: int, why: str, remedy: str, tmp_path: Path, monkeypatch) -> None:
    class Full:
        def __init__(self, file) -> None:
            self.file, self.left = file, 100_000

        def write(self, data) -> int:
            self.left -= memoryview(data).nbytes
            if self.left < 0:
                raise OSError(number, os.strerror(number))
            return self.file.write(data)

        def __getattr__(self, name: str):
            return getattr(self.file, name)

        def __enter__(self):
            return self

        def __exit__(self, *_) -> None:
            self.file.close()

    monkeypatch.setattr(checkpoint_io, "open", lambda *a: Full(open(*a)), raising=False)
    with pytest.raises(NotWritten, match=f"{tmp_path}: {why}") as error:
        save(tmp_path / "step=1.ckpt", {"state_dict": {"a": torch.ones(100_000)}})
    assert error.value.remedy == remedy and not names(tmp_path)
    again = pickle.loads(pickle.dumps(error.value))  # process 0 tells the others
    assert (str(again), again.remedy) == (str(error.value), remedy)


def test_a_disk_without_room_is_not_even_tried(tmp_path: Path, monkeypatch) -> None:
    monkeypatch.setattr(checkpoint_io, "free_bytes", lambda folder: 300_000)
    monkeypatch.setattr(checkpoint_io, "write", lambda *_: pytest.fail("it fills the disk of others"))
    with pytest.raises(NotWritten, match="no space left on the disk: 0.4 MB needed"):
        save(tmp_path / "step=1.ckpt", {"state_dict": {"a": torch.ones(100_000)}})


def test_shared_memory_is_counted_once() -> None:
    weight = torch.ones(1000)
    assert size({"a": weight, "b": [weight, weight[:10]], "c": torch.ones(500), "d": None}) == 6000


@pytest.mark.parametrize("bad", [float("nan"), float("inf"), -float("inf")])
@pytest.mark.parametrize("part", ["state_dict", "ema", "optimizer_states"])
def test_lost_weights_are_not_written(part: str, bad: float, tmp_path: Path) -> None:
    contents = {"state_dict": {"a": torch.ones(3)}, "ema": {"params": {"a": torch.ones(3)}},
                "optimizer_states": [{"state": {0: {"avg": torch.ones(3), "step": 1}}}]}  # fmt: skip
    wrong = {"state_dict": ("a",), "ema": ("params", "a"), "optimizer_states": (0, "state", 0, "avg")}[part]
    node = contents[part]
    for key in wrong[:-1]:
        node = node[key]
    node[wrong[-1]][1] = bad
    with pytest.raises(FloatingPointError, match=rf"^{part}\.{'.'.join(map(str, wrong))} is not finite$"):
        save(tmp_path / "step=1.ckpt", contents)
    assert not names(tmp_path)


def test_large_finite_weights_and_what_is_no_weight_pass(tmp_path: Path) -> None:
    assert not_finite({"a": torch.full((9,), 3e38), "b": torch.ones(2, dtype=torch.int64), "c": torch.zeros(0)}) is None
    save(tmp_path / "step=1.ckpt", {**SMALL, "callbacks": {"sum": torch.tensor(float("nan"))}})


def rotated(folder: Path, keep: int, junk: dict[str, bytes | None]) -> list[str]:
    """Names left after steps 1 to 4 were saved, `junk` was put beside them, and step 5 followed."""
    io = AtomicCheckpointIO()
    for step in range(1, 5):
        io.save_checkpoint(dict(SMALL), folder / f"step={step:08d}.ckpt")
    for name, content in junk.items():
        (folder / name).mkdir() if content is None else (folder / name).write_bytes(content)
    io.save_checkpoint(dict(SMALL), folder / "step=00000005.ckpt")
    io.rotate(folder / "step=00000005.ckpt", keep)
    return [name for name in names(folder) if name not in junk]


@pytest.mark.parametrize("keep", [1, 2])
def test_junk_pushes_no_good_file_out(keep: int, tmp_path: Path) -> None:
    whole = save(tmp_path / "other" / "step=1.ckpt").read_bytes()
    junk = {"step=99999999.ckpt": b"x", "step=00000007.ckpt": None, "step=x.ckpt": b"", "step=00000006.ckpt": whole,
            "step=00000008.ckpt.damaged": b""}  # fmt: skip
    left = rotated(tmp_path / "run", keep, junk)
    assert left == [f"step={step:08d}.ckpt" for step in range(6 - keep, 6)]
    assert all((tmp_path / "run" / name).exists() for name in junk)


def test_a_damaged_predecessor_does_not_count(tmp_path: Path) -> None:
    io = AtomicCheckpointIO()
    for step in (8, 9, 10, 100_000_000):  # nine digits come after eight
        io.save_checkpoint(dict(SMALL), tmp_path / f"step={step:08d}.ckpt")
        if step == 10:
            damage(tmp_path / "step=00000010.ckpt")
    io.rotate(tmp_path / "step=100000000.ckpt", keep=2)
    assert [p.name for p in checkpoints(tmp_path)] == [f"step={s:08d}.ckpt" for s in (9, 10, 100_000_000)]
    assert newest_good(tmp_path).name == "step=100000000.ckpt"


def test_files_are_verified_once(tmp_path: Path, monkeypatch) -> None:
    for step in (1, 2):
        save(tmp_path / f"step={step}.ckpt")
    checkpoint_io._VERIFIED.clear()  # as in a new process
    seen, real = [], checkpoint_io.is_good
    monkeypatch.setattr(checkpoint_io, "is_good", lambda path: (seen.append(path.name.split(".tmp")[0]), real(path))[1])
    io = AtomicCheckpointIO()
    for step in (3, 4, 5):
        io.save_checkpoint(dict(SMALL), tmp_path / f"step={step}.ckpt")
        io.rotate(tmp_path / f"step={step}.ckpt", keep=3)
    assert seen == ["step=3.ckpt", "step=2.ckpt", "step=1.ckpt", "step=4.ckpt", "step=5.ckpt"]
    assert names(tmp_path) == ["step=3.ckpt", "step=4.ckpt", "step=5.ckpt"]
    damage(tmp_path / "step=5.ckpt")  # changed since
    assert newest_good(tmp_path).name == "step=4.ckpt"


def test_the_first_checkpoint_of_a_process_is_announced(tmp_path: Path) -> None:
    calls = []
    io = AtomicCheckpointIO(lambda: calls.append(names(tmp_path)))
    for step in (1, 2):
        io.save_checkpoint(dict(SMALL), tmp_path / f"step={step}.ckpt")
    assert calls == [["step=1.ckpt"]] and io.saved == 2


def test_a_limit_on_the_size_of_files_is_told(tmp_path: Path) -> None:
    import resource

    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, hard))
    try:
        with pytest.raises(NotWritten, match="larger than files may be here: 0.4 MB needed, ulimit -f allows 0.1 MB"):
            save(tmp_path / "step=1.ckpt", {"state_dict": {"a": torch.ones(100_000)}})
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert not names(tmp_path) and files.free_bytes(tmp_path / "not" / "there") > 0


def test_lightnings_loops_are_left_out(tmp_path: Path) -> None:
    path = tmp_path / "step=00000001.ckpt"
    AtomicCheckpointIO().save_checkpoint({"loops": {"fit_loop": 1}, "state_dict": {"w": torch.ones(2)}}, path)
    assert set(torch.load(path, weights_only=True)) == {"state_dict"}


def test_a_copy_shares_memory_as_the_original_does_and_nothing_with_it() -> None:
    whole = torch.arange(12.0)
    node = {"a": whole.view(3, 4).T, "tied": [whole[2:5], (torch.ones(2, dtype=torch.bool), "text", 3)], "none": None}
    copied = snapshot(node, {})
    assert torch.equal(copied["a"], node["a"]) and copied["a"].stride() == (1, 4) and copied["tied"][1][1:] == ("text", 3) and copied["none"] is None
    assert isinstance(copied["tied"], list) and isinstance(copied["tied"][1], tuple)
    assert size(copied) == size(node) == 12 * 4 + 2
    before = copied["a"].clone()
    whole.zero_()
    assert torch.equal(copied["a"], before) and copied["tied"][0].tolist() == [2, 3, 4]
    copied["tied"][0].fill_(-1)
    assert (copied["a"] == -1).sum() == 3 and (whole == 0).all()


def test_in_the_background_the_values_of_that_moment_are_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    go, real = threading.Event(), checkpoint_io.write
    monkeypatch.setattr(checkpoint_io, "write", lambda *a: (go.wait(20), real(*a)))
    first, io = [], AtomicCheckpointIO(lambda: first.append(1))
    weights = torch.ones(3)
    io.background = True
    assert io.finish() is None
    io.save_checkpoint({"state_dict": {"a": weights}}, tmp_path / "step=1.ckpt")
    weights.zero_()
    assert io.saved == 0 and not (tmp_path / "step=1.ckpt").exists()
    with pytest.raises(RuntimeError, match="step=1.ckpt is being written"):
        io.save_checkpoint(dict(SMALL), tmp_path / "step=2.ckpt")
    go.set()
    assert io.finish() == (tmp_path / "step=1.ckpt", None) and io.saved == 1 and first == [1] and io.finish() is None
    assert checkpoint_io.read(tmp_path / "step=1.ckpt")["state_dict"]["a"].tolist() == [1, 1, 1]
    with pytest.raises(FloatingPointError, match="state_dict.a is not finite"):
        io.save_checkpoint({"state_dict": {"a": torch.tensor([torch.nan])}}, tmp_path / "step=3.ckpt")
    assert io.finish() is None


def test_what_went_wrong_in_the_background_is_told_by_finish(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    io = AtomicCheckpointIO()
    io.background = True
    io.save_checkpoint(dict(SMALL), Path("/dev/null/step=1.ckpt"))
    path, error = io.finish()
    assert path.name == "step=1.ckpt" and isinstance(error, NotWritten) and io.saved == 0
    monkeypatch.setattr(checkpoint_io, "write", lambda *_: 1 / 0)
    io.save_checkpoint(dict(SMALL), tmp_path / "step=2.ckpt")
    with pytest.raises(ZeroDivisionError):
        io.finish()
