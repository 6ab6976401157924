"""sample.py's tasks that start from images, with a stand-in for a model that can do them."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from omegaconf import OmegaConf
from PIL import Image

import sample
from contracts import Inpaints, Inverts, Request
from tests.toy import overrides
from train import main as train

SIZE = 8


class Halver(torch.nn.Module):
    """Its noise is half the image, so that both ways are exact; what it fills a hole with is grey by the seed."""

    conditioning = "text"
    asked: list[Any] = []

    def sampling_refusal(self) -> None:
        return None

    def check_prompts(self, prompts: Any) -> None: ...

    def sampling_settings(self) -> dict[str, Any]:
        return {"eta": 0.5, "num_steps": 50}

    def sample(self, request: Request, *, seeds: Any, num_steps: int | None = None) -> torch.Tensor:
        self.asked.append(torch.is_autocast_enabled("cpu"))
        return torch.zeros(request.n, 3, SIZE, SIZE, dtype=torch.bfloat16 if self.asked[-1] else torch.float32)

    def inpaint(self, request: Request, *, seeds: Any, num_steps: int | None = None, rounds: int | None = None) -> torch.Tensor:
        self.asked.append((request.texts, list(seeds), num_steps, rounds))
        fill = torch.tensor(seeds)[:, None, None, None] / 100
        return torch.where(request.masks, request.images, fill.expand_as(request.images))

    def invert(self, request: Request, *, num_steps: int | None = None) -> torch.Tensor:
        self.asked.append((request.texts, num_steps))
        return request.images / 2

    def draw_from(self, x_T: torch.Tensor, request: Request, **options: Any) -> torch.Tensor:
        self.asked.append((request.n, options))
        return x_T * 2


@pytest.fixture
def model(monkeypatch: pytest.MonkeyPatch) -> Halver:
    module = Halver()
    module.asked = []
    config = OmegaConf.create({"data": {"image_size": SIZE, "channels": 3}})
    info = {"path": "fake", "step": 1, "weights": "ema", "sha256": "f00d"}
    monkeypatch.setattr(sample, "load_module", lambda ckpt, **_: (module, config, info))
    return module


@pytest.fixture
def files(tmp_path: Path) -> dict[str, Path]:
    """A red and a blue image, the latter twice as large, and a mask whose left half is known."""
    found = {name: tmp_path / f"{name}.png" for name in ("red", "blue", "mask", "white")}
    Image.new("RGB", (SIZE, SIZE), (200, 40, 40)).save(found["red"])
    Image.new("RGB", (2 * SIZE, 2 * SIZE), (40, 40, 200)).save(found["blue"])
    half = np.zeros((SIZE, SIZE), np.uint8)
    half[:, : SIZE // 2] = 255
    Image.fromarray(half).save(found["mask"])
    Image.new("L", (SIZE, SIZE), 255).save(found["white"])
    return found


def pixels(path: Path) -> np.ndarray:
    return np.asarray(Image.open(path).convert("RGB"))


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def test_a_stand_in_is_what_the_protocols_say() -> None:
    assert isinstance(Halver(), Inpaints) and isinstance(Halver(), Inverts)


def test_holes_are_filled_and_known_pixels_stay(model: Halver, files, tmp_path: Path) -> None:
    out = tmp_path / "out"
    lines = sample.main(["ckpt=fake", "task=inpaint", f"image={files['red']}", f"mask={files['mask']}", "prompt=a cat",
                         "n=3", "seed=5", "num_steps=4", "+options.rounds=2", f"out={out}"])  # fmt: skip
    assert model.asked == [(["a cat"] * 3, [5, 6, 7], 4, 2)]
    assert names(out) == ["00000.png", "00001.png", "00002.png", "inpaint.png", "samples.jsonl"]
    for i in range(3):
        image = pixels(out / f"{i:05d}.png")
        assert (image[:, : SIZE // 2] == (200, 40, 40)).all()
        assert (image[:, SIZE // 2 :] == round(((5 + i) / 100 + 1) * 127.5)).all()
    expected = {"file": "00001.png", "prompt": "a cat", "seed": 6, "task": "inpaint", "num_steps": 4, "rounds": 2,
                "eta": 0.5, "checkpoint": "fake", "sha256": "f00d", "step": 1, "weights": "ema", "precision": "float32"}  # fmt: skip
    assert lines[1] == expected == json.loads((out / "samples.jsonl").read_text().splitlines()[1])


def test_samples_are_drawn_in_the_precision_that_is_asked_for_and_tasks_in_float32(model: Halver, files, tmp_path: Path) -> None:
    for asked, half in (("auto", False), ("bf16", True), ("float32", False)):
        [line] = sample.main(["ckpt=fake", "prompt=a cat", "n=1", f"precision={asked}", f"out={tmp_path / asked}"])
        assert model.asked.pop() is half and line["precision"] == ("bf16" if half else "float32")
    [line] = sample.main(["ckpt=fake", "task=invert", f"image={files['blue']}", "precision=bf16", f"out={tmp_path / 'task'}"])
    assert line["precision"] == "float32"


def test_the_way_between_two_images_begins_and_ends_with_them(model: Halver, files, tmp_path: Path) -> None:
    out = tmp_path / "out"
    sample.main(["ckpt=fake", "task=interpolate", f"images=[{files['red']},{files['blue']}]", "n=5", f"out={out}"])
    assert model.asked == [(["", ""], None), (5, {})], "no prompt draws unconditionally"
    assert names(out) == [*(f"{i:05d}.png" for i in range(5)), "interpolate.png", "samples.jsonl"]
    shades = [pixels(out / f"{i:05d}.png")[0, 0].astype(int) for i in range(5)]
    assert abs(shades[0] - (200, 40, 40)).max() <= 1 and abs(shades[4] - (40, 40, 200)).max() <= 1
    reds = [shade[0] for shade in shades]
    assert reds == sorted(reds, reverse=True) and len(set(reds)) == 5
    width, height = Image.open(out / "interpolate.png").size
    assert width > 6 * height / 2, "one row: first image, five drawn, second image"


def test_an_image_goes_to_its_noise_and_back(model: Halver, files, tmp_path: Path, capsys) -> None:
    out = tmp_path / "out"
    lines = sample.main(["ckpt=fake", "task=invert", f"image={files['blue']}", "num_steps=9", f"out={out}"])
    assert model.asked == [([""], 9), (1, {"num_steps": 9})], "each part of the task gets the options that it takes"
    assert names(out) == ["00000.png", "invert.png", "samples.jsonl"]
    assert abs(pixels(out / "00000.png").astype(int) - (40, 40, 200)).max() <= 1
    assert lines[0]["mean_error_of_255"] <= 1 and "noise_std" in capsys.readouterr().out


class Painter(Halver):
    """Draws its embedding's first two numbers as red and blue, and the noise, which is what the image has beside them, as it is."""

    def embedding_of(self, request: Request) -> torch.Tensor:
        self.asked.append(("embedding_of", request.n))
        return torch.nn.functional.normalize((request.images[:, [0, 2], 0, 0] + 1) / 2, dim=1)

    def noise_of(self, z: torch.Tensor, request: Request, *, num_steps: int | None = None) -> torch.Tensor:
        self.asked.append(("noise_of", request.texts, num_steps))
        return request.images - self.paint(z)

    def draw_embedded(
        self, z: torch.Tensor, request: Request, *, seeds: Any, x_T: torch.Tensor | None = None, eta: float | None = None,
        num_steps: int | None = None,
    ) -> torch.Tensor:  # fmt: skip
        self.asked.append(("draw_embedded", request.texts, list(seeds), eta, num_steps, x_T is not None))
        return self.paint(z) + (0 if x_T is None else x_T)

    def paint(self, z: torch.Tensor) -> torch.Tensor:
        colour = torch.stack([z[:, 0], 0 * z[:, 0], z[:, 1]], 1) / 2
        return colour[:, :, None, None].expand(-1, -1, SIZE, SIZE)

    def captions_embedded(self, captions: Any) -> torch.Tensor:
        return torch.tensor([{"red": [1.0, 0.0], "blue": [0.0, 1.0]}[c] for c in captions])


@pytest.fixture
def painter(monkeypatch: pytest.MonkeyPatch, model: Halver) -> Painter:
    module = Painter()
    module.asked = []
    monkeypatch.setattr(sample, "load_module", lambda ckpt, **_: (module, *LOADED))
    return module


LOADED = OmegaConf.create({"data": {"image_size": SIZE, "channels": 3}}), {"path": "fake", "step": 1, "weights": "ema", "sha256": "f00d"}


def test_variations_are_of_the_embedding_and_with_eta_of_the_noise_too(painter: Painter, files, tmp_path: Path, capsys) -> None:
    typed = ["ckpt=fake", "task=variations", f"image={files['red']}", "n=2", "seed=4", f"out={tmp_path / 'out'}"]
    lines = sample.main(typed)
    assert painter.asked == [("embedding_of", 1), ("draw_embedded", ["", ""], [4, 5], None, None, False)]
    assert names(tmp_path / "out") == ["00000.png", "00001.png", "samples.jsonl", "variations.png"]
    assert [line["seed"] for line in lines] == [4, 5] and "psnr_db" not in lines[0]
    painter.asked.clear()
    again = sample.main([*typed, "+options.eta=0", "num_steps=3", "prompt=red"])
    assert painter.asked[1:] == [("noise_of", ["red"], 3), ("draw_embedded", ["red", "red"], [4, 5], 0, 3, True)]
    assert abs(pixels(tmp_path / "out" / "00001.png").astype(int) - (200, 40, 40)).max() <= 1
    assert again[0]["psnr_db"] > 45 and "psnr_db" in capsys.readouterr().out
    assert "psnr_db" not in sample.main([*typed, "+options.eta=0.5"])[0]


def test_a_way_through_embeddings_begins_and_ends_with_the_images(painter: Painter, files, tmp_path: Path) -> None:
    out = tmp_path / "out"
    lines = sample.main(["ckpt=fake", "task=interpolate", f"images=[{files['red']},{files['blue']}]", "n=3", "seed=7", f"out={out}"])
    assert painter.asked[-1] == ("draw_embedded", [""] * 3, [7, 7, 7], None, None, True)
    assert abs(pixels(out / "00000.png").astype(int) - (200, 40, 40)).max() <= 1
    assert abs(pixels(out / "00002.png").astype(int) - (40, 40, 200)).max() <= 1
    assert lines[0]["first_psnr_db"] > 45 and lines[0]["last_psnr_db"] > 45 and lines[0]["task"] == "interpolate"


def test_an_edit_goes_towards_what_its_words_differ_in(painter: Painter, files, tmp_path: Path) -> None:
    out = tmp_path / "out"
    lines = sample.main(["ckpt=fake", "task=edit", f"image={files['red']}", "n=3", "from=red", "to=blue", "seed=7", f"out={out}"])
    drawn = [pixels(out / f"{i:05d}.png")[0, 0].astype(int) for i in range(3)]
    assert abs(drawn[0] - (200, 40, 40)).max() <= 1 and lines[0]["first_psnr_db"] > 45
    assert drawn[0][2] < drawn[1][2] < drawn[2][2] and drawn[0][0] > drawn[1][0] > drawn[2][0], "bluer and less red"
    assert [line["seed"] for line in lines] == [7] * 3 and names(out)[-2:] == ["edit.png", "samples.jsonl"]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ("task=inpaint image={red}", "task=inpaint needs mask=FILE"),
        ("task=invert", "task=invert needs image=FILE"),
        ("image={red}", "image= goes with task=inpaint or task=invert or task=film or task=variations or task=edit, and means nothing to task=sample"),
        ("task=variations", "task=variations needs image=FILE"),
        ("task=edit image={red} to=x n=2", 'task=edit needs from="…", a caption'),
        ("task=edit image={red} from=x n=2", 'task=edit needs to="…", a caption'),
        ("task=edit image={red} from=x to=y", "task=edit goes from the image on its way to what it is to show: give n of at least 2, not n=1"),
        ("task=edit image={red} from=x to=y n=2", "task=edit: this model draws from no embedding of an image; model=dalle2 does"),
        ("task=variations image={red}", "task=variations: this model draws from no embedding of an image; model=dalle2 does"),
        ("from=x", "from= goes with task=edit, and means nothing to task=sample"),
        ("task=invert image={red} to=x", "to= goes with task=edit, and means nothing to task=invert"),
        ("task=invert image={red} mask={mask}", "mask= goes with task=inpaint"),
        ("task=interpolate images=[{red}] n=8", "give two images and n of at least 2, not 1 images and n=8"),
        ("task=interpolate images=[{red},{blue}]", "n of at least 2, not 2 images and n=1"),
        ("task=interpolate", "task=interpolate without images=: this model draws from no latents"),
        ("task=invert image={red} n=2", "n=2: task=invert draws one image"),
        ("task=invert image={red} sheet=truncation", "sheet=truncation goes with task=sample"),
        ("task=invert image=nowhere.png", "nowhere.png: no such file"),
        ("task=inpaint image={red} mask={white}", "nothing is left to draw; white stays, black is drawn anew"),
        ("task=invert image={red} +options.rounds=1", "options.rounds=1: this model takes no 'rounds'. It takes num_steps"),
        ("task=paint image={red}", "task=paint: give"),
        ("task=invert image={text}", "not an image that can be read"),
    ],
)
def test_what_a_task_cannot_use_is_refused(arguments: str, message: str, model: Halver, files, tmp_path: Path) -> None:
    (tmp_path / "text.png").write_text("no image")
    typed = arguments.format(**files, text=tmp_path / "text.png").split()
    with pytest.raises((ValueError, FileNotFoundError), match=message.replace("[", r"\[")):
        sample.main(["ckpt=fake", f"out={tmp_path / 'out'}", *typed])
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ("task=inpaint image={red} mask={mask}", "task=inpaint: this model cannot fill holes of an image"),
        ("task=invert image={red}", "task=invert: this model cannot go from an image to its noise"),
        ("task=interpolate images=[{red},{blue}] n=4", "task=interpolate: this model cannot go from an image"),
    ],
)
def test_a_family_without_a_task_says_so(arguments: str, message: str, files, tmp_path: Path) -> None:
    train(overrides("trainer.max_steps=1", run=tmp_path / "run"))
    with pytest.raises(ValueError, match=message):
        sample.main([f"ckpt={tmp_path / 'run'}", f"out={tmp_path / 'out'}", *arguments.format(**files).split()])
    assert not (tmp_path / "out").exists()
