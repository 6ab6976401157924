"""A line now and then while something takes long."""

from __future__ import annotations

import sys
import time

EVERY_SEC = 5.0


class Progress:
    """Tells on standard error how far something is, at most every `EVERY_SEC` seconds; what is quick stays silent.

    Args:
        what: `checked {} of 10,000 images`, with {} for the count.
        total: how many there are in all; None where nobody knows.
    """

    def __init__(self, what: str, total: int | None = None) -> None:
        self.what, self.total = what, total
        self.begin = self.last = time.monotonic()

    def tell(self, done: int) -> None:
        """Says that so many are done, where it is time to."""
        now = time.monotonic()
        if now - self.last < EVERY_SEC:
            return
        self.last = now
        left = "" if self.total is None else f", about {(now - self.begin) / done * (self.total - done):.0f} s left"
        print(self.what.replace("{}", f"{done:,}") + left, file=sys.stderr)
