"""What a run has of its terminal: printing that never ends it, and what Ctrl-C does."""

from __future__ import annotations

import signal
import sys
import threading
from typing import Any


class Patient:
    """A text stream that drops what cannot be written; all else is the stream's own."""

    def __init__(self, stream: Any) -> None:
        self.stream = stream

    def write(self, text: str) -> int:
        try:
            self.stream.write(text)
        except OSError:
            pass
        return len(text)

    def flush(self) -> None:
        try:
            self.stream.flush()
        except OSError:
            pass

    def __getattr__(self, name: str) -> Any:
        return getattr(self.stream, name)


def be_patient() -> None:
    """Wraps standard output and standard error, once, so that failed writes are dropped, also in Python's flush at exit."""
    for name in ("stdout", "stderr"):
        stream = getattr(sys, name)
        if stream is not None and not isinstance(stream, Patient):
            setattr(sys, name, Patient(stream))


def set_ctrl_c(handler: Any) -> None:
    """Sets what Ctrl-C does; nothing outside the main thread, which Python forbids, and for a handler not Python's own (None)."""
    if handler is not None and threading.current_thread() is threading.main_thread():
        signal.signal(signal.SIGINT, handler)
