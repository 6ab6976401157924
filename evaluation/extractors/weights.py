"""Where weights come from: a path, else what is on disk, else a download if it is allowed. Never a substitute."""

from __future__ import annotations

import os
import threading
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import Callable
from pathlib import Path

from evaluation.metrics.base import NotComputed

PROBE_SEC = 2.0


def find_weights(
    what: str,
    weights: str | Path | None,
    cached: Callable[[], Path | None],
    download: Callable[[], Path],
    allow_download: bool,
    host: str,
    node: str = "extractor",
) -> Path:
    """The weights' file: the path given, the local cache, or a download, in this order.

    Args:
        what: names the weights in messages.
        weights: a path, or None.
        cached: looks on disk; None when there is nothing.
        download: fetches the file; called only when the host answers.
        host: URL asked first, within 2 seconds: hub clients retry for most of a minute without a network.
        node: where the configuration has `weights` and `allow_download`, for messages.
    Raises:
        NotComputed: the file is nowhere, in one line with the remedy.
    """
    remedy = f"pass {node}.weights=FILE"
    if weights is not None:
        if Path(weights).expanduser().is_file():
            return Path(weights).expanduser()
        raise NotComputed(f"no {what} weights: {weights} is not there: {remedy} or leave it empty to look in the cache")
    if (found := cached()) is not None:
        return found
    if not allow_download:
        raise NotComputed(
            f"no {what} weights in the local cache: {remedy}, or allow the download with {node}.allow_download=true"
        )
    if (reason := unreachable(host)) is None:
        try:
            return download()
        except Exception as error:  # many kinds, from several libraries
            reason = first_line(error)
    raise NotComputed(f"no {what} weights in the local cache and no download ({reason}): {remedy}")


def unreachable(url: str) -> str | None:
    """Why a host does not answer, or None if it does; takes at most `PROBE_SEC`."""
    if os.environ.get("HF_HUB_OFFLINE", "0") not in ("", "0"):
        return "HF_HUB_OFFLINE is set"
    result: list[str | None] = [f"{url} does not answer"]

    def ask() -> None:
        try:
            urllib.request.urlopen(url, timeout=PROBE_SEC).close()
            result[0] = None
        except urllib.error.HTTPError:
            result[0] = None  # it answered
        except Exception as error:
            result[0] = f"{url}: {first_line(error)}"

    # A thread, because looking up a name has no time limit of its own.
    thread = threading.Thread(target=ask, daemon=True)
    thread.start()
    thread.join(PROBE_SEC)
    return result[0]


def hub_cached(repo: str, names: tuple[str, ...]) -> Path | None:
    """The first of these files of a Hugging Face repository that was downloaded before."""
    from huggingface_hub import try_to_load_from_cache

    found = (try_to_load_from_cache(repo, name) for name in names)
    return next((Path(path) for path in found if isinstance(path, str)), None)


def hub_host() -> str:
    """The Hugging Face hub, or the mirror that is configured."""
    from huggingface_hub import constants

    return constants.ENDPOINT


def first_line(error: BaseException) -> str:
    """First line of an error's text, at most 200 characters."""
    text = str(getattr(error, "reason", None) or error).strip() or type(error).__name__
    return text.splitlines()[0][:200]
