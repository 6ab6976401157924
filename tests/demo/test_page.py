"""The page to play with: what is in its sheets, that it asks nobody for anything, and that a browser draws it."""

from __future__ import annotations

import base64
import io
import json
import re
import shutil
import subprocess
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from PIL import Image

from api import Model
from contracts import Request
from demo import page
from demo.page import QUICK, film, main, plane, prompts, sheet
from evaluation.metrics.images import to_uint8
from runtime.build import instantiate
from runtime.config import compose

BROWSER = next((found for name in ("chromium", "chromium-browser", "google-chrome") if (found := shutil.which(name))), None)
COUNTS = {"images_seen": 3}


def silent(line: str) -> None:
    pass


def model_of(*overrides: str) -> Model:
    torch.manual_seed(0)
    module = instantiate(compose("train", list(overrides)).model).eval()
    for name, parameter in module.named_parameters():  # zero layers at the start would hide what is told
        if not parameter.any():
            torch.nn.init.normal_(parameter, std=0.2)
    for stage in getattr(module, "stages", {}).values():
        stage.images_trained += 1
    return Model(module, None, COUNTS)


def pictures_of(data: dict) -> np.ndarray:
    """uint8 (N, H, W, 3), in the order in which the page counts them."""
    whole = np.asarray(Image.open(io.BytesIO(base64.b64decode(data["sheet"].split(",", 1)[1]))))
    width, height, columns = data["width"], data["height"], data["columns"]
    return whole.reshape(-1, height, columns, width, 3).swapaxes(1, 2).reshape(-1, height, width, 3)


def test_a_sheet_holds_its_images_row_by_row() -> None:
    images = torch.randint(0, 256, (5, 3, 4, 6), dtype=torch.uint8)
    found = pictures_of(sheet(images, 2))
    assert np.array_equal(found[:5], images.permute(0, 2, 3, 1).numpy()) and not found[5:].any()


def test_every_prompt_guidance_steps_and_seed_lies_where_the_page_looks(monkeypatch: pytest.MonkeyPatch) -> None:
    narrow = [f"model.stages.{stage}.net.{what}" for stage in ("base", "super_resolution") for what in ("dim=16", "tokens_dim=32")]
    model = model_of("model=imagen", "text_encoder=bag_of_words", "text_encoder.dim=32", *narrow, "model.stages.super_resolution.num_steps=2")
    monkeypatch.setattr(page, "load", lambda ckpt: model)
    data = prompts("x", QUICK, silent)
    found = pictures_of(data)
    assert len(found) == 2 * 3 * 2 * 2 and data["base"] == "base"
    for prompt, scale, steps, seed in ((0, 0, 0, 0), (1, 0, 1, 0), (1, 1, 0, 1), (0, 1, 1, 1)):
        options = {"guidance_scale": {"base": QUICK.guidance[scale]}, "num_steps": {"base": QUICK.steps[steps]}}
        (expected,) = to_uint8(model.sample(QUICK.prompts[prompt], seed=seed, tensors=True, **options))
        place = ((prompt * len(data["guidance"]) + scale) * len(data["steps"]) + steps) * len(data["seeds"]) + seed
        difference = np.abs(found[place].astype(int) - expected.permute(1, 2, 0).numpy())
        assert difference.max() <= 2, "batches of another size round in another way"


def test_a_film_has_the_noise_above_the_estimates(monkeypatch: pytest.MonkeyPatch) -> None:
    model = model_of("model=flow", "model.stage.num_steps=3", "net.dim=16")
    monkeypatch.setattr(page, "load", lambda ckpt: model)
    data = film("x", QUICK, silent)
    way, estimates = model.module.film(Request(QUICK.films), seeds=[0, 1])
    found = pictures_of(data)
    assert len(found) == data["frames"] * 2 * data["n"] and data["frames"] == len(way) == 4
    for frame, kind, i in ((0, 0, 1), (1, 1, 0), (3, 0, 0), (3, 1, 1)):
        expected = to_uint8((way, estimates)[kind][frame, i][None])[0].permute(1, 2, 0)
        assert np.abs(found[(frame * 2 + kind) * data["n"] + i].astype(int) - expected.numpy()).max() <= 1
    assert film("x", replace(QUICK, frames=2), silent)["frames"] == 2


def test_a_space_of_two_dimensions_is_shown_whole_with_y_upwards(monkeypatch: pytest.MonkeyPatch) -> None:
    model = model_of("model=vae", "model.latent_dim=2", "codec=mlp")
    monkeypatch.setattr(page, "load", lambda ckpt: model)
    data = plane("x", QUICK, silent)
    found, low = pictures_of(data), torch.special.ndtri(torch.tensor(1 / 6))
    for row, column, z in ((0, 0, (low, -low)), (1, 1, (0.0, 0.0)), (2, 0, (low, low)), (0, 2, (-low, -low))):
        expected = to_uint8(model.module.generate(torch.tensor([z])))[0].permute(1, 2, 0)
        assert np.abs(found[row * data["places"] + column].astype(int) - expected.detach().numpy()).max() <= 1
    assert data["what"] == "all of its two latent dimensions"


def test_the_plane_of_many_dimensions_lies_where_latents_lie(monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[torch.Tensor] = []

    class Latents(SimpleNamespace):
        conditioning = "none"

        def latents(self, seeds):
            return torch.stack([torch.arange(8.0) + 1, torch.ones(8)])

        def generate(self, z, label=None):
            seen.append(z)
            return torch.zeros(len(z), 1, 2, 2)

        def parameters(self):
            return iter(())

    monkeypatch.setattr(page, "load", lambda ckpt: Model(Latents(), None, COUNTS))
    data = plane("x", replace(QUICK, places=5), silent)  # odd: one place is the centre
    z = torch.cat(seen)
    assert z.shape == (25, 8) and torch.allclose(z.norm(dim=1), torch.tensor(8.0).sqrt(), atol=1e-5)
    assert torch.linalg.matrix_rank(z) == 2 and "a plane through its 8 latent dimensions" == data["what"]


@pytest.mark.parametrize(("flag", "line"), [
    ("--text", "this model draws from no prompt"), ("--film", "does not draw in steps"), ("--latents", None),
])  # fmt: skip
def test_a_model_of_another_kind_is_refused_by_name(flag: str, line: str | None, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    kind = "model=flow" if flag == "--latents" else "model=vae"
    monkeypatch.setattr(page, "load", lambda ckpt: model_of(kind))
    given = {"--text": "", "--film": None, "--latents": None} | {flag: "wrong"}
    words = [word for key, value in given.items() for word in ([key] if value is None else [key, value])]
    with pytest.raises(ValueError, match=f"{flag} wrong: .*{line or 'draws from no latents'}"):
        main([*words, "--quick", "--out", str(tmp_path / "a.html")])
    assert not (tmp_path / "a.html").exists()


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("page") / "play.html"
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(page, "Settings", lambda: QUICK)
        main(["--quick", "--out", str(out), "--film", "imagen-scenes"])
    return out


def test_the_page_asks_nobody_for_anything(made: Path) -> None:
    text = made.read_text()
    assert not re.findall(r"https?://|//[a-z]+\.|@import|<link|src=\"(?!data:)", text)
    data = json.loads(text.split("const DATA = ", 1)[1].split(";\n", 1)[0])
    assert data["text"]["ckpt"] == "imagen-scenes" and [p["ckpt"] for p in data["planes"]] == ["vae-garments", "gan-garments"]


@pytest.mark.skipif(BROWSER is None, reason="no Chromium here")
def test_a_browser_draws_it(made: Path) -> None:
    command = [BROWSER, "--headless", "--no-sandbox", "--disable-gpu", "--virtual-time-budget=4000", "--dump-dom", made.as_uri()]
    dom = subprocess.run(command, capture_output=True, text=True, timeout=120, check=True).stdout
    assert len(re.findall(r"<canvas[^>]*width=\"64\"", dom)) == QUICK.seeds, "the pictures of the first choice are painted"
    chosen = (2 * len(QUICK.steps) + 1) * QUICK.seeds  # the first prompt, the third guidance scale, the second number of steps
    painted = {width: re.findall(rf'<canvas[^>]*width="{width}"[^>]*data-picture="(\d+)"', dom) for width in (64, 28)}
    assert painted[64] == [str(chosen + seed) for seed in range(QUICK.seeds)]
    assert painted[28] == [str(QUICK.places**2 // 2)] * 2, "the middle of both planes"
    assert dom.count('type="radio"') == len(QUICK.prompts) + len(QUICK.guidance) + len(QUICK.steps)
    assert 'prompt="two red circles" n=2 seed=0 guidance_scale=3' in dom and dom.count('class="dot" style="left: 50%; top: 50%;"') == 2
