"""Any encoder of the transformers library, by hub id or directory; T5 as in Imagen."""
from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from files import read_json
from networks.text.base import TextEncoder
from networks.text.hub import fingerprint, locate, one_line
from networks.text.quotes import spell_quotes

# Widths known without reading a file, so that a config can be built on a machine without the weights.
DIMS = {"google/t5-v1_1-small": 512, "google/t5-v1_1-base": 768, "google/t5-v1_1-large": 1024,
        "google/t5-v1_1-xl": 2048, "google/t5-v1_1-xxl": 4096, "sentence-transformers/all-mpnet-base-v2": 768}
TOKENIZER_FILES = ("tokenizer.json", "*.model", "vocab.txt", "vocab.json")
# A model directory may bring Python files and pickles: neither is run.
NO_CODE = {"local_files_only": True, "trust_remote_code": False}
# Classes that skip the decoder, which is half of the weights.
ENCODER_ONLY = {"t5": "T5EncoderModel", "mt5": "MT5EncoderModel", "umt5": "UMT5EncoderModel"}


class HuggingFaceText(TextEncoder):
    """Hidden states of a pretrained transformer encoder; pooled is their unnormalised mean over real tokens.

    Args:
        model_id: hub id ("google/t5-v1_1-xl") or a directory with config, tokenizer and weights.
        layer: -1 the last hidden state, -2 the one before, ...; T5's final norm is applied to any of them.
        max_length: tokens read of a caption, special tokens included.
        dtype: precision of weights and computation; results are float32.
        spell_quotes: what a caption quotes is read letter by letter.
    Raises:
        FileNotFoundError: at first use, when the files are neither on disk nor reachable.
    Source: Saharia et al. 2022 (Imagen), section 2.1; Raffel et al. 2020 (T5).
    """

    def __init__(
        self, model_id: str, *, layer: int = -1, max_length: int = 128, dtype: str = "float32", spell_quotes: bool = False
    ) -> None:
        super().__init__()
        if dtype not in ("float32", "bfloat16", "float16"):
            raise ValueError(f"dtype must be float32, bfloat16 or float16, got {dtype!r}")
        if layer >= 0:
            raise ValueError(f"layer counts from the end: -1 the last, -2 the one before; got {layer}")
        self.model_id, self.layer, self.dtype, self._max_length = model_id, layer, dtype, max_length
        self.spell_quotes = spell_quotes
        self._folder: Path | None = None
        self._config: dict[str, Any] | None = None

    @property
    def id(self) -> str:
        """Hub id or directory name, with the settings that change the vectors."""
        path = Path(self.model_id).expanduser()
        name = path.resolve().name if path.is_dir() else self.model_id
        settings = [f"layer={self.layer}"] * (self.layer != -1) + [self.dtype] * (self.dtype != "float32")
        settings += ["quotes spelled"] * self.spell_quotes
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
        if self.model_id.startswith("google/t5-"):
            return self._max_length  # its positions are relative: no table
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
            self._config = read_json(self.folder / "config.json")
            if not isinstance(self._config, dict):
                raise ValueError(f"text encoder {self.id}: {self.folder / 'config.json'} describes no model")
        return self._config

    def _load(self) -> tuple[Any, torch.nn.Module]:
        import transformers

        self._check_tokenizer_files()
        kind = getattr(transformers, ENCODER_ONLY.get(self.config.get("model_type"), "AutoModel"))
        try:
            with silent(transformers.utils.logging):
                tokenizer = transformers.AutoTokenizer.from_pretrained(self.folder, **NO_CODE)
                dtype = getattr(torch, self.dtype)
                model = kind.from_pretrained(self.folder, **NO_CODE, weights_only=True, dtype=dtype)
        except (OSError, ImportError, ValueError) as error:
            raise FileNotFoundError(f"text encoder {self.id}: cannot read {self.folder}: {one_line(error)}") from error
        if kind is transformers.AutoModel and self.config.get("is_encoder_decoder"):
            model = model.get_encoder()
        return tokenizer, model.eval().requires_grad_(False)

    def _check_tokenizer_files(self) -> None:
        """Refuse what the library would answer with an empty vocabulary, in which every word is unknown."""
        if not any(list(self.folder.glob(name)) for name in TOKENIZER_FILES):
            raise FileNotFoundError(f"text encoder {self.id}: {self.folder} has no tokenizer: "
                                    f"it needs one of {', '.join(TOKENIZER_FILES)}")
        sentencepiece_only = not any(list(self.folder.glob(name)) for name in TOKENIZER_FILES if name != "*.model")
        if sentencepiece_only and find_spec("sentencepiece") is None:
            raise FileNotFoundError(f"text encoder {self.id}: its vocabulary is a SentencePiece file: "
                                    f"pip install sentencepiece")

    def _tokenize(self, captions: list[str]) -> list[list[int]]:
        tokenizer, _ = self.loaded
        captions = [spell_quotes(c) for c in captions] if self.spell_quotes else captions
        # verbose=False: the library's own "sequence longer than" line would repeat our warning.
        ids = tokenizer(captions, add_special_tokens=True, truncation=False, verbose=False)["input_ids"]
        return [i or [tokenizer.eos_token_id or tokenizer.unk_token_id or 0] for i in ids]

    def _forward(self, ids: Tensor) -> tuple[Tensor, Tensor]:
        _, model = self.loaded
        deeper = self.layer != -1
        result = model(input_ids=ids, attention_mask=torch.ones_like(ids), output_hidden_states=deeper)
        hidden = result.last_hidden_state
        if deeper:
            states = result.hidden_states
            if -self.layer > len(states):
                raise ValueError(f"layer={self.layer}: text encoder {self.id} has {len(states)} hidden states")
            norm = getattr(getattr(model, "encoder", model), "final_layer_norm", torch.nn.Identity())
            hidden = norm(states[self.layer])
        hidden = hidden.float()  # (b, l, D)
        return hidden, hidden.mean(1)


@contextmanager
def silent(logging: Any) -> Iterator[None]:
    """Read weights without progress bars and without the report on weights left out on purpose."""
    bars, level = logging.is_progress_bar_enabled(), logging.get_verbosity()
    logging.disable_progress_bar()
    logging.set_verbosity_error()
    try:
        yield
    finally:
        logging.set_verbosity(level)
        if bars:
            logging.enable_progress_bar()
