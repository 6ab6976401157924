"""Find pretrained files: on disk first, then the network, and without network a clear answer within two seconds."""
from __future__ import annotations

import hashlib
import os
import threading
import urllib.error
import urllib.request
from collections.abc import Iterable
from pathlib import Path

from files import read_json

PROBE_SEC = 1.5


def locate(model_id: str) -> Path:
    """Return the directory of a model: the path itself, the hub's cache, or a fresh download, in this order.

    Raises:
        FileNotFoundError: not on disk, and the hub does not have it or cannot be reached (found out within 2 seconds).
    """
    folder = Path(model_id).expanduser()
    if folder.is_dir():
        if (folder / "config.json").is_file():
            return folder
        raise FileNotFoundError(f"text encoder {model_id}: this directory has no config.json: it must hold a model's "
                                f"config.json, tokenizer and weights")
    if model_id.startswith((".", "/", "~")) or model_id.count("/") > 1:
        raise FileNotFoundError(f"text encoder {model_id}: no such directory, and not a hub id of the form owner/name")
    from huggingface_hub import snapshot_download

    try:
        folder = Path(snapshot_download(model_id, local_files_only=True))
        if is_complete(folder):
            return folder
    except OSError:
        pass
    reason = why_no_hub()
    try:
        if reason is None:
            return Path(snapshot_download(model_id, allow_patterns=wanted_files(model_id)))
    except Exception as error:  # the hub's errors share no base class below Exception
        reason = one_line(error)
    raise FileNotFoundError(
        f"text encoder {model_id} is not on this machine and cannot be downloaded ({reason}): download it elsewhere "
        f"and pass its directory as text_encoder.encoder.model_id=PATH, or use text_encoder=minilm")


def is_complete(folder: Path) -> bool:
    """Say whether config and all weights are there: an interrupted download leaves a part."""
    for index in folder.glob("*.index.json"):
        weight_map = read_json(index).get("weight_map")
        names = set(weight_map.values()) if isinstance(weight_map, dict) else {""}
        if all((folder / str(name)).is_file() for name in names):
            return (folder / "config.json").is_file()
        return False
    return (folder / "config.json").is_file() and bool(weight_files(folder))


def weight_files(folder: Path) -> list[Path]:
    """The weights that will be read: safetensors where there are any."""
    return sorted(folder.glob("*.safetensors")) or sorted(folder.glob("pytorch_model*.bin"))


def wanted_files(model_id: str) -> list[str]:
    """Config, tokenizer and one copy of the weights (hub repositories often hold three)."""
    from huggingface_hub import HfApi

    names = HfApi().list_repo_files(model_id)
    safe = any(n.endswith(".safetensors") and "/" not in n for n in names)
    weights = [n for n in names if "/" not in n and (
        n.endswith((".safetensors", ".safetensors.index.json")) if safe else n.startswith("pytorch_model"))]
    return weights + ["*.json", "*.txt", "*.model"]


def why_no_hub() -> str | None:
    """Return why the hub cannot be reached, or None if it answers; takes at most `PROBE_SEC`, proxies respected."""
    from huggingface_hub import constants

    if constants.HF_HUB_OFFLINE:
        return "HF_HUB_OFFLINE is set"
    result: list[str | None] = ["no answer"]

    def ask() -> None:
        try:
            urllib.request.urlopen(constants.ENDPOINT, timeout=PROBE_SEC).close()
            result[0] = None
        except urllib.error.HTTPError:
            result[0] = None  # it answered
        except Exception as error:
            result[0] = one_line(error)

    # A thread, because looking up a name has no time limit of its own.
    thread = threading.Thread(target=ask, daemon=True)
    thread.start()
    thread.join(PROBE_SEC)
    return None if result[0] is None else f"no network: {constants.ENDPOINT}: {result[0]}"


def fingerprint(folder: Path) -> str:
    """Digest of config, tokenizer and weight files of a model directory: a hub snapshot and a copy of it agree."""
    tokenizer = sorted([*folder.glob("tokenizer.json"), *folder.glob("*.model")])
    return weights_digest([folder / "config.json", *tokenizer, *weight_files(folder)])


def weights_digest(paths: Iterable[Path]) -> str:
    """Hash of each file's name, size, first and last megabyte: whole files may be 40 GB."""
    digest = hashlib.blake2b(digest_size=8)
    for path in paths:
        size = os.path.getsize(path)
        digest.update(f"{path.name}:{size}:".encode())
        with open(path, "rb") as file:
            digest.update(file.read(1 << 20))
            file.seek(max(0, size - (1 << 20)))
            digest.update(file.read())
    return digest.hexdigest()


def one_line(error: BaseException) -> str:
    """First line of an error's text, at most 200 characters."""
    text = str(getattr(error, "reason", None) or error).strip() or type(error).__name__
    return text.splitlines()[0][:200]
