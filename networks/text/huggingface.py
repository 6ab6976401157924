"""Any encoder of the transformers library, by hub id or directory; T5 as in Imagen."""
from __future__ import annotations

import hashlib
import json
import os
import threading
import urllib.error
import urllib.request
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from networks.text.base import TextEncoder, masked_mean

WEIGHTS = ("*.safetensors", "pytorch_model*.bin")
PROBE_SEC = 1.5
# Widths known without reading a file, so that a config can be built on a machine without the weights.
DIMS = {"google/t5-v1_1-small": 512, "google/t5-v1_1-base": 768, "google/t5-v1_1-large": 1024,
        "google/t5-v1_1-xl": 2048, "google/t5-v1_1-xxl": 4096}


class HuggingFaceText(TextEncoder):
    """Hidden states of a pretrained transformer encoder; pooled is their unnormalised mean over real tokens.

    Args:
        model_id: hub id ("google/t5-v1_1-xl") or a directory with config, tokenizer and weights.
        layer: -1 the last hidden state, -2 the one before, ...; T5's final norm is applied to any of them.
        max_length: tokens read of a caption, special tokens included.
        dtype: precision of weights and computation; results are float32.
    Raises:
        FileNotFoundError: at first use, when the files are neither on disk nor reachable.
    Source: Saharia et al. 2022 (Imagen), section 2.1; Raffel et al. 2020 (T5).
    """

    def __init__(self, model_id: str, *, layer: int = -1, max_length: int = 128, dtype: str = "float32") -> None:
        super().__init__()
        if dtype not in ("float32", "bfloat16", "float16"):
            raise ValueError(f"dtype must be float32, bfloat16 or float16, got {dtype!r}")
        if layer >= 0:
            raise ValueError(f"layer counts from the end: -1 the last, -2 the one before; got {layer}")
        self.model_id, self.layer, self.dtype, self._max_length = model_id, layer, dtype, max_length
        self._folder: Path | None = None
        self._config: dict[str, Any] | None = None

    @property
    def id(self) -> str:
        """Hub id or directory name, with the settings that change the vectors."""
        name = Path(self.model_id).resolve().name if Path(self.model_id).is_dir() else self.model_id
        settings = [f"layer={self.layer}"] * (self.layer != -1) + [self.dtype] * (self.dtype != "float32")
        return name + (f"[{','.join(settings)}]" if settings else "")

    @property
    def revision(self) -> str:
        """Fingerprint of the config and weight files: the same for a hub snapshot and a copy of it."""
        return fingerprint(self.folder)

    @property
    def dim(self) -> int:
        """Width of a token's vector."""
        return DIMS.get(self.model_id) or int(self.config.get("d_model") or self.config["hidden_size"])

    @property
    def max_length(self) -> int:
        """The length asked for, or what the encoder's position table holds if that is less."""
        if self.model_id in DIMS:
            return self._max_length  # T5's positions are relative: no table
        positions = self.config.get("max_position_embeddings") or self._max_length
        if self.config.get("model_type") in ("roberta", "xlm-roberta", "camembert", "mpnet"):
            positions -= 2  # these count positions from pad_token_id + 1
        return min(self._max_length, positions)

    @property
    def folder(self) -> Path:
        """Where config, tokenizer and weights lie; found, or fetched, on first use."""
        if self._folder is None:
            self._folder = locate(self.model_id)
        return self._folder

    @property
    def config(self) -> dict[str, Any]:
        if self._config is None:
            self._config = json.loads((self.folder / "config.json").read_text())
        return self._config

    def _load(self) -> tuple[Any, torch.nn.Module]:
        from transformers import AutoModel, AutoTokenizer, T5EncoderModel

        is_t5 = self.config.get("model_type") in ("t5", "mt5", "umt5") and "vocab_size" in self.config
        kind = T5EncoderModel if is_t5 and self.config["model_type"] == "t5" else AutoModel
        try:
            tokenizer = AutoTokenizer.from_pretrained(self.folder, local_files_only=True)
            model = kind.from_pretrained(self.folder, local_files_only=True, dtype=getattr(torch, self.dtype))
        except (OSError, ImportError, ValueError) as error:
            raise FileNotFoundError(f"text encoder {self.id}: cannot read {self.folder}: {one_line(error)}") from error
        model = model.get_encoder() if self.config.get("is_encoder_decoder") and kind is AutoModel else model
        return tokenizer, model.eval().requires_grad_(False)

    def _tokenize(self, captions: list[str]) -> list[list[int]]:
        tokenizer, _ = self.loaded
        # verbose=False: the library's own "sequence longer than" line would repeat our warning.
        ids = tokenizer(captions, add_special_tokens=True, truncation=False, verbose=False)["input_ids"]
        return [i or [tokenizer.eos_token_id or tokenizer.unk_token_id or 0] for i in ids]

    def _forward(self, ids: Tensor, mask: Tensor) -> tuple[Tensor, Tensor]:
        _, model = self.loaded
        if self.layer == -1:
            hidden = model(input_ids=ids, attention_mask=mask).last_hidden_state
        else:
            states = model(input_ids=ids, attention_mask=mask, output_hidden_states=True).hidden_states
            if -self.layer > len(states):
                raise ValueError(f"layer={self.layer}: text encoder {self.id} has {len(states)} hidden states")
            norm = getattr(getattr(model, "encoder", model), "final_layer_norm", None)
            hidden = states[self.layer] if norm is None else norm(states[self.layer])
        hidden = hidden.float()  # (b, l, D)
        return hidden, masked_mean(hidden, mask)


def locate(model_id: str) -> Path:
    """Return the directory of a model: the path itself, the hub's cache, or a fresh download, in this order.

    Raises:
        FileNotFoundError: nowhere on disk and no network, or the hub does not have it; within 2 seconds without network.
    """
    if Path(model_id).is_dir():
        if (Path(model_id) / "config.json").is_file():
            return Path(model_id)
        raise FileNotFoundError(f"text encoder directory {model_id} has no config.json")
    if model_id.startswith((".", "/", "~")) or model_id.count("/") != 1:
        raise FileNotFoundError(f"text encoder {model_id!r} is neither a directory nor a hub id of the form owner/name")
    from huggingface_hub import snapshot_download

    try:
        folder = Path(snapshot_download(model_id, local_files_only=True))
        if (folder / "config.json").is_file() and any(list(folder.glob(w)) for w in WEIGHTS):
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


def wanted_files(model_id: str) -> list[str]:
    """Config, tokenizer and one copy of the weights (hub repositories often hold three)."""
    from huggingface_hub import HfApi

    names = HfApi().list_repo_files(model_id)
    safe = any(n.endswith(".safetensors") and "/" not in n for n in names)
    weights = [n for n in names if "/" not in n and (
        n.endswith((".safetensors", ".safetensors.index.json")) if safe else n.startswith("pytorch_model"))]
    return weights + ["*.json", "*.txt", "*.model"]


def why_no_hub() -> str | None:
    """Say why the hub cannot be asked, or None if it answers; takes at most `PROBE_SEC`, proxies respected."""
    from huggingface_hub import constants

    if constants.is_offline_mode():
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
    """Hash config, tokenizer and, of each weight file, its size, first and last megabyte."""
    digest = hashlib.blake2b(digest_size=8)
    names = sorted(p for pattern in ("config.json", "tokenizer.json", "*.model", *WEIGHTS) for p in folder.glob(pattern))
    for path in names:
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
