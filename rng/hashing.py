"""Hashes that are equal on every machine, in every process and under every Python version, unlike `hash`."""

from __future__ import annotations

import hashlib
import operator


def stable_hash(*key: int | str) -> int:
    """Hash integers and strings to a number from 0 to 2^63 - 1.

    Raises: TypeError for any other kind of key, because the text of a float or an object is not stable.
    Source: RFC 7693 (BLAKE2b)
    """
    return int.from_bytes(hashlib.blake2b(_text(key), digest_size=8).digest(), "little") >> 1


def expand(key: tuple[int | str, ...], size: int) -> bytes:
    """`size` bytes, as many as you like, that depend on integers and strings.

    Raises: TypeError as `stable_hash`.
    Source: FIPS 202 (SHAKE128)
    """
    return hashlib.shake_128(_text(key)).digest(size)


def _text(key: tuple[int | str, ...]) -> bytes:
    return repr(tuple(k if isinstance(k, str) else operator.index(k) for k in key)).encode()
