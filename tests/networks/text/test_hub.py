"""Pretrained files: disk before network, answers in one line within two seconds, and digests that tell weights apart."""

from __future__ import annotations

import io
import json
import time
import urllib.error
from pathlib import Path

import huggingface_hub
import pytest

from networks.text import hub
from networks.text.hub import fingerprint, is_complete, locate, one_line, wanted_files, weight_files, weights_digest


def model(folder: Path, **files: bytes | str) -> Path:
    """A model directory with these files; "config_json" is config.json."""
    folder.mkdir(parents=True, exist_ok=True)
    for name, content in files.items():
        stem, _, end = name.rpartition("_")
        path = folder / f"{stem}.{end}"
        path.write_bytes(content if isinstance(content, bytes) else content.encode())
    return folder


@pytest.fixture
def calls(monkeypatch: pytest.MonkeyPatch) -> list[dict]:
    """The hub's downloads, none of which finds anything."""
    made: list[dict] = []

    def snapshot_download(name: str, **settings: object) -> str:
        made.append({"name": name, **settings})
        raise FileNotFoundError("not in the cache")

    monkeypatch.setattr(huggingface_hub, "snapshot_download", snapshot_download)
    monkeypatch.setattr(hub, "why_no_hub", lambda: "no network: test")
    return made


# ---- where a model is ----


def test_a_directory_is_the_model_itself(tmp_path: Path, calls: list) -> None:
    folder = model(tmp_path / "t5", config_json="{}")
    assert locate(str(folder)) == folder and not calls
    with pytest.raises(FileNotFoundError, match="this directory has no config.json"):
        locate(str(model(tmp_path / "empty")))


@pytest.mark.parametrize("name", ["./t5", "/nowhere/t5", "~nobody/t5", "a/b/c"])
def test_what_is_written_as_a_path_is_not_asked_of_the_hub(name: str, calls: list) -> None:
    with pytest.raises(FileNotFoundError, match="no such directory, and not a hub id"):
        locate(name)
    assert not calls


def test_the_cache_comes_before_the_network(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, calls: list) -> None:
    folder = model(tmp_path, config_json="{}", model_safetensors="x")
    monkeypatch.setattr(huggingface_hub, "snapshot_download", lambda name, **settings: calls.append(settings) or str(folder))
    assert locate("owner/name") == folder
    assert calls == [{"local_files_only": True}]


def test_a_part_of_a_download_is_completed_from_the_hub(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, calls: list
) -> None:
    folder = model(tmp_path, config_json="{}")  # without weights
    monkeypatch.setattr(huggingface_hub, "snapshot_download", lambda name, **settings: calls.append(settings) or str(folder))
    monkeypatch.setattr(hub, "why_no_hub", lambda: None)
    monkeypatch.setattr(hub, "wanted_files", lambda name: [name, "*.json"])
    assert locate("owner/name") == folder
    assert calls == [{"local_files_only": True}, {"allow_patterns": ["owner/name", "*.json"]}]


def test_without_network_the_answer_is_one_line_with_what_to_do(calls: list) -> None:
    with pytest.raises(FileNotFoundError, match="no network: test.*model_id=PATH, or use text_encoder=minilm") as error:
        locate("owner/name")
    assert "\n" not in str(error.value) and len(calls) == 1


def test_what_the_hub_answers_is_the_reason(monkeypatch: pytest.MonkeyPatch, calls: list) -> None:
    monkeypatch.setattr(hub, "why_no_hub", lambda: None)

    def refuse(name: str) -> list[str]:
        raise RuntimeError("404 for owner/name\nand much more")

    monkeypatch.setattr(hub, "wanted_files", refuse)
    with pytest.raises(FileNotFoundError, match=r"\(404 for owner/name\)"):
        locate("owner/name")


# ---- which files ----


def test_a_model_is_complete_with_its_config_and_all_weights(tmp_path: Path) -> None:
    assert not is_complete(model(tmp_path / "a", config_json="{}"))
    assert not is_complete(model(tmp_path / "b", model_safetensors="x"))
    assert is_complete(model(tmp_path / "c", config_json="{}", model_safetensors="x"))
    index = json.dumps({"weight_map": {"w": "one.safetensors", "v": "two.safetensors"}})
    parts = model(tmp_path / "d", config_json="{}", one_safetensors="x")
    (parts / "model.safetensors.index.json").write_text(index)
    assert not is_complete(parts)
    model(parts, two_safetensors="x")
    assert is_complete(parts)
    (parts / "config.json").unlink()
    assert not is_complete(parts)
    (model(parts, config_json="{}") / "model.safetensors.index.json").write_text('{"weight_map": 3}')
    assert not is_complete(parts), "an index that names no files says nothing about them"


def test_safetensors_come_before_pickles(tmp_path: Path) -> None:
    folder = model(tmp_path, pytorch_model_bin="x", other_bin="x")
    assert [path.name for path in weight_files(folder)] == ["pytorch_model.bin"]
    model(folder, b_safetensors="x", a_safetensors="x")
    assert [path.name for path in weight_files(folder)] == ["a.safetensors", "b.safetensors"]


@pytest.mark.parametrize(
    ("listed", "weights"),
    [
        (["model.safetensors", "pytorch_model.bin", "onnx/model.safetensors", "tf_model.h5"], ["model.safetensors"]),
        (["a.safetensors", "model.safetensors.index.json"], ["a.safetensors", "model.safetensors.index.json"]),
        (["pytorch_model.bin", "onnx/model.safetensors", "flax_model.msgpack"], ["pytorch_model.bin"]),
    ],
)
def test_one_copy_of_the_weights_is_downloaded(
    listed: list[str], weights: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(huggingface_hub.HfApi, "list_repo_files", lambda api, name: listed)
    assert wanted_files("owner/name") == [*weights, "*.json", "*.txt", "*.model"]


# ---- is there a hub ----


@pytest.fixture
def online(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", False)


@pytest.mark.parametrize(
    ("answer", "words"),
    [
        (None, None),
        (urllib.error.HTTPError("x", 403, "no", {}, None), None),  # it answered
        (urllib.error.URLError(OSError("name not known")), "name not known"),
        (ValueError("a\nb"), ": a"),
    ],
)
def test_the_hub_is_asked_once(
    answer: Exception | None, words: str | None, online: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    def urlopen(address: str, timeout: float) -> io.BytesIO:
        assert address == huggingface_hub.constants.ENDPOINT and timeout == hub.PROBE_SEC
        if answer is not None:
            raise answer
        return io.BytesIO()

    monkeypatch.setattr(hub.urllib.request, "urlopen", urlopen)
    found = hub.why_no_hub()
    assert found is None if words is None else found.startswith("no network: ") and found.endswith(words)


def test_a_hub_that_hangs_costs_two_seconds_at_most(online: None, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(hub, "PROBE_SEC", 0.1)
    monkeypatch.setattr(hub.urllib.request, "urlopen", lambda address, timeout: time.sleep(3))
    start = time.monotonic()
    assert hub.why_no_hub().endswith("no answer")
    assert time.monotonic() - start < 2


def test_offline_mode_asks_nobody(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)
    monkeypatch.setattr(hub.urllib.request, "urlopen", lambda *_, **__: pytest.fail("asked"))
    assert hub.why_no_hub() == "HF_HUB_OFFLINE is set"


# ---- digests ----


def test_a_digest_tells_files_apart_by_name_size_beginning_and_end(tmp_path: Path) -> None:
    path, data = tmp_path / "w.bin", bytearray(3 << 20)
    digests = set()

    def add() -> str:
        path.write_bytes(data)
        digests.add(digest := weights_digest([path]))
        return digest

    shorter = add()
    data.extend(bytes(1 << 20))  # equal at the beginning and the end
    assert add() != shorter
    digests.clear()
    first = add()
    assert add() == first, "the same file has the same digest"
    data[3 << 19] = 1  # the middle is not read
    assert add() == first
    data[0] = 1
    add()
    data[-1] = 1
    add()
    data.append(0)
    add()
    digests.add(weights_digest([path.rename(tmp_path / "v.bin")]))
    assert len(digests) == 5


def test_a_copy_of_a_model_has_its_fingerprint(tmp_path: Path) -> None:
    files = {"config_json": "{}", "tokenizer_json": "{}", "spiece_model": "x", "model_safetensors": "w"}
    one, two = (model(tmp_path / name, **files) for name in ("one", "two"))
    assert fingerprint(one) == fingerprint(two)
    model(two, readme_md="new")
    assert fingerprint(one) == fingerprint(two)
    for name in files:
        model(two, **{**files, name: "changed"})
        assert fingerprint(one) != fingerprint(two), name


def test_an_error_is_its_first_line() -> None:
    assert one_line(ValueError("a\nb")) == "a"
    assert one_line(KeyboardInterrupt()) == "KeyboardInterrupt"
    assert one_line(urllib.error.URLError("down")) == "down"
    assert len(one_line(ValueError("x" * 999))) == 200
