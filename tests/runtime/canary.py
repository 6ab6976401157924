"""A world in which a stranger's file would be noticed: planted modules, a secret, and a folder that must not change."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from runtime import config, places

SECRET = "s3cr3t-of-this-machine"
PLANTED = ("planted_at_the_top", "networks/planted_in_a_room", "diffusion/planted_in_a_room", "tests_planted/inner")


class Canary:
    """Remembers what there was; `refuses` says that an action was refused in one line, and that nothing else happened."""

    def __init__(self, home: Path) -> None:
        self.home, self.fired = home, home / "fired"
        self.victim = home / "victim.py"

    @contextmanager
    def refuses(self, match: str | None = None) -> Iterator[None]:
        before = self.state()
        with pytest.raises((ValueError, FileNotFoundError), match=match) as caught:
            yield
        self.check(before, str(caught.value))

    @contextmanager
    def is_unharmed(self) -> Iterator[None]:
        before = self.state()
        yield
        self.check(before, "")

    def check(self, before: dict[str, bytes], message: str) -> None:
        assert "\n" not in message and len(message) < 1500 and SECRET not in message, message
        assert "weights_only" not in message and "Traceback" not in message, message
        assert not self.fired.exists() and self.state() == before
        assert not [name for name in sys.modules if "planted" in name]

    def state(self) -> dict[str, bytes]:
        return {str(p): p.read_bytes() for p in sorted(self.home.rglob("*")) if p.is_file()}


@pytest.fixture
def canary(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Canary:
    home = tmp_path / "home"
    home.mkdir()
    found = Canary(home)
    found.victim.write_text("untouched")
    for name in PLANTED:
        path = home / f"{name}.py"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(f"open({str(found.fired)!r}, 'w').write('code ran')\nfrom torch.nn import Module as Net\n")
    monkeypatch.chdir(home)
    monkeypatch.syspath_prepend(str(home))
    monkeypatch.setenv("HOME_SECRET", SECRET)
    monkeypatch.setattr(places, "_ledger", lambda: home / ".cache" / "trained-with.txt")
    assert config.REPO != home
    return found
