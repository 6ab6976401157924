"""Shards at a URL: the same data as in a folder, each fetched once, within a budget of disk, and every failure is told."""

from __future__ import annotations

import functools
import http.server
import os
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from types import SimpleNamespace

import fsspec
import pytest

from datamodules import shard_files
from datamodules.fetch_ahead import FetchAhead
from datamodules.shard_files import RemoteShards, ShardFolder, expanded
from datamodules.tar_shards import ShardsDataModule
from files import Unreachable
from tests.datamodules.tars import samples, tar

SHARDS, SAMPLES = 4, 20


class Handler(http.server.SimpleHTTPRequestHandler):
    """Serves a folder, notes what is fetched, and answers the first `failing` times with half of the file."""

    def do_GET(self) -> None:
        if self.path.endswith(".tar"):
            self.server.fetched.append(self.path.rpartition("/")[2])
            if self.server.failing:
                self.server.failing -= 1
                half = Path(self.translate_path(self.path)).read_bytes()[:1000]
                self.send_response(200)
                self.send_header("Content-Length", str(len(half)))
                self.end_headers()
                self.wfile.write(half)
                return
        super().do_GET()

    def log_message(self, *_: object) -> None:
        pass


@pytest.fixture
def root(tmp_path: Path) -> Path:
    for i in range(SHARDS):
        tar(tmp_path / "in" / f"c-{i:02d}.tar", samples(range(SAMPLES * i, SAMPLES * (i + 1))))
    return tmp_path / "in"


@pytest.fixture
def server(root: Path) -> Iterator[http.server.ThreadingHTTPServer]:
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), functools.partial(Handler, directory=str(root))) as server:
        server.fetched, server.failing = [], 0
        server.url = f"http://127.0.0.1:{server.server_port}"
        threading.Thread(target=server.serve_forever, args=(0.02,), daemon=True).start()
        yield server
        server.shutdown()


@pytest.fixture(autouse=True)
def without_waiting(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    waited: list[float] = []
    monkeypatch.setattr(shard_files, "time", SimpleNamespace(time=time.time, sleep=waited.append))
    return waited


def make(where: str, tmp_path: Path, **arguments: object) -> ShardsDataModule:
    data = ShardsDataModule(where, **{"image_size": 8, "batch_size": 6, "val_fraction": 0.2, "cache_dir": str(tmp_path / "cache"), **arguments})
    data.setup()
    return data


def remote(server, tmp_path: Path, most_bytes: int = 10**9) -> RemoteShards:
    shards = RemoteShards(f"{server.url}/", tmp_path / "kept", most_bytes)
    shards.listing()
    return shards


def read(shards: RemoteShards, name: str) -> bytes:
    with os.fdopen(shards.open(name), "rb") as file:
        return file.read()


def batches(data: ShardsDataModule) -> list:
    data.num_batches, data.run_seed = 10, 3
    return [(batch["caption"], batch["seed"].tolist(), batch["image"].sum().item()) for batch in data.train_dataloader()]


@pytest.mark.parametrize("mixed", [None, 1])
def test_a_url_gives_what_the_folder_gives(mixed: int | None, root: Path, server, tmp_path: Path) -> None:
    here = make(str(root), tmp_path, mixed_shards=mixed)
    for number, url in enumerate((server.url, f"{server.url}/", f"{server.url}/c-{{00..03}}.tar")):
        there = make(url, tmp_path, mixed_shards=mixed, num_workers=2 * (number == 1))
        assert there.fingerprint() == here.fingerprint() and batches(there) == batches(here)
        assert list(there.captions()[1]) == list(here.captions()[1])
    assert sorted(server.fetched) == sorted(3 * [f"c-{i:02d}.tar" for i in range(SHARDS)]), "each once a URL, by whatever process"
    again = make(server.url, tmp_path, mixed_shards=mixed)
    assert batches(again) == batches(here) and len(server.fetched) == 3 * SHARDS, "and never again"


def test_any_file_system_will_do_at_any_depth(root: Path, tmp_path: Path) -> None:
    memory = fsspec.filesystem("memory")
    for file in root.iterdir():
        memory.pipe_file(f"/bucket/deep/{file.name}", file.read_bytes())
    shards = RemoteShards("memory://bucket", tmp_path / "kept", 10**9)
    assert list(shards.listing()) == [f"deep/c-{i:02d}.tar" for i in range(SHARDS)]
    assert read(shards, "deep/c-02.tar") == (root / "c-02.tar").read_bytes() and shards.place("deep/c-02.tar") == "/bucket/deep/c-02.tar"
    named = RemoteShards("memory://bucket/deep/c-{01..02}.tar", tmp_path / "kept", 10**9)
    assert list(named.listing()) == ["c-01.tar", "c-02.tar"] and read(named, "c-01.tar") == (root / "c-01.tar").read_bytes()


def test_a_changed_shard_is_fetched_and_read_again(root: Path, server, tmp_path: Path) -> None:
    first = make(server.url, tmp_path)
    tar(root / "c-01.tar", samples(range(500, 520)))
    os.utime(root / "c-01.tar", (10**9, 10**9))
    second = make(server.url, tmp_path)
    assert server.fetched[SHARDS:] == ["c-01.tar"] and second.fingerprint() != first.fingerprint()
    assert {"number 500", "number 519"} <= {texts[0] for texts in second.captions()[1]}


def test_the_shards_opened_longest_ago_make_room(root: Path, server, tmp_path: Path) -> None:
    size = (root / "c-00.tar").stat().st_size
    shards = remote(server, tmp_path, 2 * size + size // 2)
    for i, name in enumerate(("c-00.tar", "c-01.tar")):
        read(shards, name)
        file = shards.folder / sorted(f.name for f in shards.folder.glob("*.tar") if f.stat().st_mtime > 2000)[0]
        os.utime(file, (1000 + i, 1000 + i))
    still_open = shards.open("c-00.tar")  # now c-01 is the older one
    read(shards, "c-02.tar")
    assert sum(f.stat().st_size for f in shards.folder.iterdir()) == 2 * size
    read(shards, "c-00.tar")
    assert server.fetched == ["c-00.tar", "c-01.tar", "c-02.tar"], "c-00 was kept"
    read(shards, "c-01.tar")
    read(shards, "c-03.tar")
    with os.fdopen(still_open, "rb") as file:
        assert file.read() == (root / "c-00.tar").read_bytes(), "removed, and readable where it is open"
    assert len(list(shards.folder.glob("*.tar"))) == 2


def test_what_a_kill_left_is_removed_and_what_is_under_way_is_not(root: Path, server, tmp_path: Path) -> None:
    size = (root / "c-00.tar").stat().st_size
    shards = remote(server, tmp_path, size + size // 2)  # too little for both
    shards.folder.mkdir()
    for name, age_sec in (("old", 7200), ("new", 60)):
        file = shards.folder / f"{name}.tar.tmp-1-1"
        file.write_bytes(bytes(size))
        os.utime(file, (time.time() - age_sec,) * 2)
    read(shards, "c-00.tar")
    assert {f.name.partition(".")[0] for f in shards.folder.glob("*.tmp-*")} == {"new"}


def test_many_readers_fetch_a_shard_once(root: Path, server, tmp_path: Path) -> None:
    shards = [remote(server, tmp_path) for _ in range(6)]
    with ThreadPoolExecutor(6) as pool:
        contents = set(pool.map(lambda one: read(one, "c-00.tar"), shards))
    assert contents == {(root / "c-00.tar").read_bytes()} and server.fetched == ["c-00.tar"]


def test_half_a_shard_is_not_taken(root: Path, server, tmp_path: Path, capsys: pytest.CaptureFixture, without_waiting: list[float]) -> None:
    shards, server.failing = remote(server, tmp_path), 2
    assert read(shards, "c-00.tar") == (root / "c-00.tar").read_bytes() and len(server.fetched) == 3
    told = capsys.readouterr().err.splitlines()
    size = (root / "c-00.tar").stat().st_size
    assert told[0] == f"warning: {server.url}/c-00.tar: 1,000 bytes came of {size:,}; once more in 1 s" and without_waiting == [1.0, 5.0]
    server.failing = 6
    with pytest.raises(Unreachable, match=rf"^{server.url}/c-01.tar could not be fetched in 6 attempts: 1,000 bytes came of"):
        shards.open("c-01.tar")
    assert [f.suffix for f in shards.folder.iterdir() if f.suffix != ".lock"] == [".tar"], "nothing half is left"


@pytest.mark.filterwarnings("ignore:.*cannot be used")
def test_a_shard_that_has_gone_costs_its_samples_and_a_network_that_has_gone_the_run(root: Path, server, tmp_path: Path) -> None:
    data = make(server.url, tmp_path)
    for file in (tmp_path / "cache").rglob("fetched_shards/*/*.tar"):
        file.unlink()
    (root / "c-01.tar").unlink()
    in_it = next(i for i in range(len(data.train_dataset)) if data.train_dataset.part.find(i)[0] == 1)
    assert int(data.train_dataset[in_it, 3]["caption"].split()[1]) // SAMPLES != 1
    server.failing = 10**6
    with pytest.raises(Unreachable):
        [data.train_dataset[i, 0] for i in range(len(data.train_dataset))]


@pytest.mark.parametrize("when", ["before the index", "in training"])
def test_a_full_disk_ends_the_run_at_once(when: str, server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, without_waiting: list[float]) -> None:
    data = make(server.url, tmp_path) if when == "in training" else None
    for file in (tmp_path / "cache").rglob("fetched_shards/*/*.tar"):
        file.unlink()
    monkeypatch.setattr(shard_files, "replacing", lambda _: (_ for _ in ()).throw(OSError(28, "No space left on device")))
    with pytest.raises(Unreachable, match=r"c-0\d.tar cannot be kept: .*no space left on the disk.*; make room, or give data.local_dir=FOLDER on another disk"):
        data.train_dataset[0, 0] if data else make(server.url, tmp_path)
    assert not without_waiting, "waiting makes no room"


def test_a_folder_that_may_not_be_written_is_told(server, tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(Unreachable, match="c-00.tar cannot be kept: .*; make room, or give data.local_dir=FOLDER"):
        make(server.url, tmp_path, local_dir=str(tmp_path / "file"))


def test_the_index_does_not_take_a_network_that_has_gone_for_damage(server, tmp_path: Path) -> None:
    server.failing = 10**6
    with pytest.raises(Unreachable, match="could not be fetched"):
        make(server.url, tmp_path)


@pytest.mark.parametrize(("mixed", "budget", "line"), [
    (None, 3.5, r"data.cache_gb=\S+ is too little: all shards are mixed, which takes \S+ GB; raise it, or mix fewer with data.mixed_shards=1$"),
    (2, 3.5, r"2 shards are mixed at a time, and the next 2 follow, which takes \S+ GB; raise it, or mix fewer with data.mixed_shards=1$"),
    (1, 1.5, r"1 shards are mixed at a time, .* GB; raise it$"),
])  # fmt: skip
def test_a_budget_that_would_fetch_all_the_time_is_refused(mixed: int | None, budget: float, line: str, root: Path, server, tmp_path: Path) -> None:
    size = (root / "c-00.tar").stat().st_size
    with pytest.raises(ValueError, match=line):
        make(server.url, tmp_path, mixed_shards=mixed, cache_gb=budget * size / 1e9)
    assert not server.fetched, "before anything is fetched"


def test_a_budget_that_will_do_is_kept_by_training(root: Path, server, tmp_path: Path) -> None:
    size = (root / "c-00.tar").stat().st_size
    data = make(server.url, tmp_path, mixed_shards=1, cache_gb=2.1 * size / 1e9, local_dir=str(tmp_path / "fast"))
    assert isinstance(data.train_order(), FetchAhead) and data.train_order().names == sorted(f"c-{i:02d}.tar" for i in range(SHARDS))
    assert batches(data) == batches(make(str(root), tmp_path, mixed_shards=1))
    kept = list((tmp_path / "fast" / "fetched_shards").glob("*/*.tar"))
    assert len(kept) == 2 and not list((tmp_path / "cache").glob("fetched_shards")), "on the machine's own disk"


@pytest.mark.parametrize(("url", "kind", "line"), [
    ("http://127.0.0.1:1/x", Unreachable, r"data.root: http://127.0.0.1:1/x cannot be read: Cannot connect to host"),
    ("{server}/none", FileNotFoundError, r"there is no http://\S+/none"),
    ("{server}/c-{{02..04}}.tar", FileNotFoundError, r"there is no http://\S+/c-04.tar"),
    ("memory://empty", FileNotFoundError, "there is no /empty"),
    ("nonsense://x", ValueError, "data.root: nonsense://x: Protocol not known: nonsense"),
    ("{server}/c-{{3..1}}.tar", ValueError, r"data.root: \{3..1\} must name the first and the last number, at most 1,000,000"),
])  # fmt: skip
def test_what_is_wrong_with_a_url_is_one_line(url: str, kind: type, line: str, server, tmp_path: Path) -> None:
    with pytest.raises(kind, match=line) as told:
        make(url.format(server=server.url), tmp_path)
    assert len(str(told.value).splitlines()) == 1


def test_a_file_system_that_needs_a_package_says_so(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(shard_files, "_system", lambda _: (_ for _ in ()).throw(ImportError("Install s3fs to access S3")))
    with pytest.raises(ValueError, match="data.root: s3://x: Install s3fs to access S3"):
        make("s3://x", tmp_path)


def test_a_server_without_a_list_is_told_how(root: Path, server, tmp_path: Path) -> None:
    for file in root.iterdir():
        file.unlink()
    (root / "index.html").write_text("<a href='x.txt'>x</a>")
    (root / "x.txt").write_text("x")
    with pytest.raises(ValueError, match=r"holds no .tar files; a web server that lists none needs their names, as in …/\{00000..00099\}.tar"):
        make(server.url, tmp_path)


def test_numbers_in_braces() -> None:
    assert list(expanded("a/{8..10}/c-{000..001}.tar")) == [f"a/{n}/c-00{m}.tar" for n in (8, 9, 10) for m in (0, 1)]
    assert list(expanded("a-{08..10}.tar")) == ["a-08.tar", "a-09.tar", "a-10.tar"]
    with pytest.raises(ValueError, match="at most 1,000,000"):
        list(expanded("{0..1000000}.tar"))


def test_a_folder_lists_its_shards_with_size_and_time(root: Path) -> None:
    (root / "more").mkdir()
    (root / "c-03.tar").rename(root / "more" / "a.tar")
    (root / "notes.txt").write_text("x")
    found = ShardFolder(root).listing()
    assert list(found) == ["c-00.tar", "c-01.tar", "c-02.tar", "more/a.tar"]
    stat = (root / "more" / "a.tar").stat()
    assert found["more/a.tar"] == (stat.st_size, stat.st_mtime_ns) and ShardFolder(root).place("more/a.tar") == str(root / "more" / "a.tar")
