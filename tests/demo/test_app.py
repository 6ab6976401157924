"""The page that draws what is typed: what its fields ask of a model, and what is missing without gradio."""

from __future__ import annotations

import sys
from types import SimpleNamespace

import pytest
import torch

from api import Model
from contracts import Request
from demo import app
from demo.app import defaults, interface, main, pictures


class Draws:
    """A model that keeps what it was asked for."""

    base = "base"

    def __init__(self, conditioning: str, staged: bool) -> None:
        self.conditioning, self.asked = conditioning, []
        if staged:
            self.stages = {"base": SimpleNamespace(guidance_scale=2.5, num_steps=32), "other": SimpleNamespace(guidance_scale=1, num_steps=9)}

    def parameters(self):
        return iter([torch.zeros(3)])

    def check_prompts(self, prompts: list[str]) -> None:
        if "long" in prompts:
            raise ValueError("too long")

    def sampling_refusal(self) -> str | None:
        return None

    def sample(
        self, request: Request, *, seeds: list[int], guidance_scale: float | dict[str, float] | None = None,
        num_steps: int | dict[str, int] | None = None,
    ) -> torch.Tensor:  # fmt: skip
        self.asked.append((request.texts, request.labels, list(seeds), guidance_scale, num_steps))
        return torch.zeros(request.n, 3, 4, 4)


def test_fields_of_a_model_of_text_become_its_request() -> None:
    module = Draws("text", staged=True)
    assert len(pictures(Model(module, None, {}), "a red circle", 3.0, 5.0, 2, 8.0)) == 3
    assert module.asked == [(["a red circle"] * 3, None, [5, 6, 7], {"base": 2.0}, {"base": 8})]
    assert defaults(Model(module, None, {})) == (2.5, 32)


def test_classes_and_models_without_conditions_are_asked_in_their_way() -> None:
    by_class, plain = Draws("label", staged=False), Draws("none", staged=False)
    pictures(Model(by_class, None, {}), 7, 2, 0, None, None)
    pictures(Model(plain, None, {}), None, 2, 0, None, None)
    assert by_class.asked[0][:3] == (None, [7, 7], [0, 1]) and plain.asked[0][:3] == (None, None, [0, 1])
    assert defaults(Model(plain, None, {})) is None


def test_without_gradio_it_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "gradio", None)
    monkeypatch.setattr(app, "load", lambda ckpt: Model(Draws("text", staged=True), None, {}))
    with pytest.raises(ValueError, match="pip install -r requirements-app.txt"):
        main([])


@pytest.mark.parametrize(("kind", "staged", "fields"), [("text", True, 5), ("label", False, 3), ("none", True, 5)])
def test_the_page_draws_and_says_what_is_wrong(kind: str, staged: bool, fields: int) -> None:
    gradio = pytest.importorskip("gradio")
    module = Draws(kind, staged)
    page = interface(Model(module, None, {}), "x")
    function = next(f for f in page.fns.values() if f.api_name == "draw")
    assert len(function.inputs) == fields
    given = ["a", 2, 0, 3.0, 4] if kind == "text" else [1, 2, 0, 3.0, 4]
    assert len(function.fn(*given[:fields])) == 2
    if kind == "text":
        with pytest.raises(gradio.Error, match="too long"):
            function.fn("long", 2, 0, 3.0, 4)
