"""Imported by the process that sessions are forked from: what every start would compute anew is in its memory already.

Nothing of a session becomes another one by it. Which groups and choices conf/ has is kept by `runtime.config` itself, and
YAML is kept parsed, by its text.
"""

from __future__ import annotations

import pickle
from typing import Any

import yaml

from benchmarks.chaos.families import MODULES
from runtime.config import compose

_parse = yaml.load
_parsed: dict[tuple[str, str], bytes] = {}


def load(stream: Any, Loader: Any) -> Any:
    """yaml.load, at most once for the same text."""
    text = stream if isinstance(stream, (str, bytes)) else stream.read()
    if not isinstance(text, str):
        return _parse(text, Loader=Loader)
    key = text, Loader.__qualname__  # OmegaConf makes its class anew each time
    if key not in _parsed:
        _parsed[key] = pickle.dumps(_parse(text, Loader=Loader))
    return pickle.loads(_parsed[key])


def warm() -> None:
    yaml.load = load
    for module in MODULES:
        __import__(module)
    for words in (["model=imagen"], ["model=gan"], ["model=vae"], ["model=autoencoder"], ["model=classifier"], []):
        compose("train", words)


warm()
