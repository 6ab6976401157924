"""What a caption quotes, letter by letter, so that a text encoder sees how it is written."""
from __future__ import annotations

import re

QUOTED = re.compile(r'"([^"]+)"|“([^”]+)”')


def quoted(caption: str) -> list[str]:
    """What stands between double quotes, in order."""
    return [first or second for first, second in QUOTED.findall(caption)]


def spell_quotes(caption: str) -> str:
    """The caption with what stands between double quotes spaced: the word "CAT" -> the word "C A T"; "_" stands for a space.

    A tokenizer makes one token of a common word, and its vector says little of the letters.
    Source: Liu et al. 2022 (Character-aware models improve visual text rendering), section 3.
    """
    return QUOTED.sub(lambda m: '"' + " ".join("_" if c.isspace() else c for c in m[1] or m[2]) + '"', caption)
