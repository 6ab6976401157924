"""What doctor.py says of healthy and of sick data and models."""

from __future__ import annotations

import re
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from omegaconf import OmegaConf

from doctor import Finding, OneBatch, Watch, main, of_captions, of_learning, of_listening, of_time, of_values, picture, warm
from runtime.cli import guarded
from tests.toy import Toy, ToyData, ToyDataset, overrides

IMAGE = torch.linspace(-1, 1, 8 * 3 * 16).view(8, 3, 4, 4)


def verdicts(findings: Any) -> list[str]:
    return [finding.verdict for finding in findings]


@pytest.mark.parametrize(("image", "verdict", "words"), [
    (IMAGE, "ok", "values from -1.00 to 1.00, mean 0.00, deviation 0.58"),
    (IMAGE / 2 + 0.5, "FAIL", "nothing is below 0, so they seem to lie between 0 and 1"),
    (127.5 * (IMAGE + 1), "FAIL", "values from 0.00 to 255.00, .*: models take images from -1 to 1"),
    (IMAGE * 0.01, "FAIL", "next to nothing to see"),
    (IMAGE.where(IMAGE < 0.9, torch.nan), "FAIL", "models take images from -1 to 1"),
])  # fmt: skip
def test_values_that_a_model_does_not_expect(image: torch.Tensor, verdict: str, words: str) -> None:
    [first, *_] = of_values(image)
    assert first.verdict == verdict
    assert re.search(words, first.text), first.text


def test_images_that_are_the_same_or_empty() -> None:
    assert verdicts(of_values(IMAGE)) == ["ok", "ok"]
    same = IMAGE[:1].expand(8, -1, -1, -1).contiguous()
    assert [str(f) for f in of_values(same)][1] == "warning   1 of 8 images of a batch differ"
    flat = IMAGE.clone()
    flat[2:4] = 0.5
    assert [f.text for f in of_values(flat) if f.verdict == "warning"] == ["2 of 8 images have one value alone"]


def test_captions_that_are_cut_empty_or_the_same() -> None:
    good = list(of_captions(Toy(), ["a red circle", "two blue squares there"]))
    assert [str(f) for f in good] == ["ok        2 of 2 captions differ, 4 words in the median, 4 at most"]
    found = list(of_captions(Toy(), ["one two three four five six", "", ""]))
    assert verdicts(found) == ["ok", "warning", "warning"]
    assert found[1].text == "2 of 3 captions are empty"
    assert found[2].text == "1 of 3 captions are longer than the text encoder reads: prompt 'one two three four five six' has 6 words, the encoder reads 5"
    assert verdicts(of_captions(Toy(), ["x", "x"])) == ["warning"] and verdicts(of_captions(Toy(), ["x"])) == ["ok"]


def test_the_picture_shows_what_belongs_to_each_image(tmp_path: Path) -> None:
    captioned = picture({"image": IMAGE, "caption": list("abcdefgh"), "label": torch.arange(8)}, tmp_path / "a" / "batch.png")
    assert captioned == Finding("look", f"{tmp_path / 'a' / 'batch.png'}: 8 images with their captions")
    labelled = picture({"image": IMAGE, "label": torch.arange(8)}, tmp_path / "b.png")
    plain = picture({"image": IMAGE.repeat(3, 1, 1, 1)}, tmp_path / "c.png")
    assert labelled.text.endswith("8 images with their classes") and plain.text.endswith("16 images as the model gets them")
    assert (tmp_path / "b.png").read_bytes() != (tmp_path / "a" / "batch.png").read_bytes()


def test_the_one_batch_keeps_its_images_and_changes_its_noise() -> None:
    batches = OneBatch({"image": IMAGE, "seed": torch.arange(8)}, 3)
    assert len(batches) == 3 and all(batches[i]["image"] is IMAGE for i in range(3))
    seeds = torch.cat([batches[i]["seed"] for i in range(3)])
    assert len(seeds.unique()) == 24


def test_the_rate_is_full_after_a_few_steps() -> None:
    assert [warm(step, 0.5) for step in (0, 4, 9, 1000)] == [0.1, 0.5, 1.0, 1.0]


def watched(**losses: list[float]) -> Watch:
    steps = [dict(zip(losses, values)) for values in zip(*losses.values())]
    return Watch(losses=steps, step_sec=[9.0, 9.0, 0.5, 0.5], trained={"net.a": True, "net.b": True})


@pytest.mark.parametrize(("losses", "verdict", "words"), [
    ({"loss": [4.0, 3.0, 2.0, 1.0]}, "ok", "4 steps: loss 4 -> 1"),
    ({"loss": [4.0, 3.9, 4.1, 3.9]}, "FAIL", "does not learn a single batch; look at the learning rate, or give steps=16"),
    ({"loss": [4.0, 3.0, float("nan"), 1.0]}, "FAIL", "loss is not finite from step 3 on"),
    ({"loss": [-4.0, -4.5, -4.6, -5.0]}, "ok", "loss -4 -> -5"),
    ({"loss": [-4.0, -3.0, -3.0, -3.0]}, "FAIL", "does not learn"),
    ({"g_loss": [1.0, 2.0, 3.0, 4.0], "score": [0.0, 1.0, 2.0, 3.0]}, "loss", "g_loss 1 -> 4 (of players, whose losses say little)"),
])  # fmt: skip
def test_whether_one_batch_is_learned(losses: dict[str, list[float]], verdict: str, words: str) -> None:
    found = list(of_learning(watched(**losses)))
    assert verdicts(found) == [verdict, "ok"] and words in found[0].text
    assert found[1].text == "gradients reach all 2 trained parameters"


def test_each_net_is_judged_alone_and_terms_of_a_loss_are_not() -> None:
    falls, stays = [4.0, 2.0, 1.0, 1.0], [1.0, 1.0, 1.0, 1.0]
    found = list(of_learning(watched(loss=falls, loss_base=falls, loss_super_resolution=stays, rate_nats=[1.0, 2.0, 3.0, 4.0])))
    assert verdicts(found) == ["ok", "FAIL", "ok"] and "loss_super_resolution 1 -> 1" in found[1].text
    assert verdicts(of_learning(watched(loss=falls, rate_nats=[1.0, 2.0, 3.0, 4.0]))) == ["ok", "ok"]


def test_parameters_without_gradient_are_named() -> None:
    watch = watched(loss=[2.0, 1.0])
    watch.trained |= {f"net.c{i}": False for i in range(4)}
    assert list(of_learning(watch))[-1] == Finding("warning", "no gradient reached 4 of 6 trained parameters: net.c0, net.c1, net.c2, …")


def test_gradients_are_looked_for_in_what_is_trained() -> None:
    module = torch.nn.ParameterDict({name: torch.nn.Parameter(torch.ones(2)) for name in ("used", "zero", "unused", "left_out")})
    optimizer = torch.optim.SGD([module["used"], module["zero"], module["unused"]], lr=0.1)
    watch, trainer = Watch(), SimpleNamespace(optimizers=[optimizer])
    watch.on_train_start(trainer, module)
    (module["used"].sum() + 0 * module["zero"].sum() + module["left_out"].sum()).backward()
    watch.on_before_optimizer_step(trainer, module, optimizer)
    assert watch.trained == {"used": True, "zero": False, "unused": False}


class Told:
    """A model whose loss is a number of what belongs to an image, weighed by `ear`."""

    def __init__(self, conditioning: str, ear: float) -> None:
        self.conditioning, self.ear, self.training = conditioning, ear, True

    def eval(self) -> None:
        self.training = False

    def losses(self, batch: dict[str, Any]) -> dict[str, torch.Tensor]:
        assert not self.training
        what = [len(c) for c in batch["caption"]] if self.conditioning == "text" else batch["label"].tolist()
        return {"loss": torch.tensor(2.0 + self.ear * sum(w * i for i, w in enumerate(what)))}


@pytest.mark.parametrize("conditioning", ["text", "label"])
def test_whether_it_listens(conditioning: str) -> None:
    batch = {"caption": ["a", "bb", "ccc"], "label": torch.tensor([1, 2, 3])}
    kind = "captions" if conditioning == "text" else "classes"
    assert list(of_listening(Told(conditioning, 0.25), batch)) == [Finding("ok", f"{kind} of other images change the loss by 19 %")]
    assert list(of_listening(Told(conditioning, 0.0), batch)) == [
        Finding("warning", f"{kind} of other images change the loss by 0 %: they do not reach the model")
    ]
    same = {"caption": ["a", "a"], "label": torch.tensor([1, 1])}
    assert not list(of_listening(Told(conditioning, 0.25), same)), "nothing can be swapped"
    assert not list(of_listening(Told("none", 0.25), batch))


def test_the_time_of_a_run_and_what_holds_it_up() -> None:
    cfg = OmegaConf.create({"trainer": {"max_steps": 100, "accumulate": 2}})
    [time] = of_time(cfg, watched(loss=[2.0, 1.0]), loading=64.0, batch_size=32)
    assert time.text.startswith("0.5 s a batch of 32, 64 images/s, ") and "; 100 steps take about 0:01:40, " in time.text
    [_, slow] = of_time(cfg, watched(loss=[2.0, 1.0]), loading=63.0, batch_size=32)
    assert slow.verdict == "warning" and slow.text.startswith("loading gives 63 images/s: training will wait for it")
    cfg.trainer.max_steps = None
    assert "steps take" not in next(of_time(cfg, watched(loss=[2.0, 1.0]), 64.0, 32)).text


def test_a_healthy_run_passes(tmp_path: Path, capsys: pytest.CaptureFixture, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert main([*overrides("model.dropout=0"), "steps=80", f"out={tmp_path / 'doc'}"]) == 0
    lines = [line for line in capsys.readouterr().out.splitlines() if "loading gives" not in line]  # a matter of the machine
    assert [line.split()[0] for line in lines] == ["data", "ok", "ok", "warning", "look", "model", "ok", "ok", "time"], lines
    assert lines[0] == "data      30 images for training, 7 for validation"
    assert "80 steps: loss_toy" in lines[6] and lines[7].endswith("gradients reach all 4 trained parameters")
    assert sorted(p.name for p in tmp_path.rglob("*") if p.is_file()) == ["batch.png"], "nothing else is left behind"


def test_images_that_the_loader_gives_as_bytes_are_looked_at_as_the_model_gets_them(
    tmp_path: Path, capsys: pytest.CaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    floats = ToyData.train_dataloader
    in_bytes = lambda self: ({**batch, "image": ((batch["image"] + 1) * 127.5).round().to(torch.uint8)} for batch in floats(self))  # noqa: E731
    seen = []
    for name, loader in (("floats", floats), ("bytes", in_bytes)):
        monkeypatch.setattr(ToyData, "train_dataloader", loader)
        main([*overrides("model.dropout=0"), "steps=2", f"out={tmp_path / name}"])
        seen.append([line for line in capsys.readouterr().out.splitlines() if "values from" in line])
    assert seen[0] == seen[1] and seen[0][0].startswith("ok ")
    assert (tmp_path / "floats" / "batch.png").read_bytes() == (tmp_path / "bytes" / "batch.png").read_bytes()


@pytest.mark.parametrize(("more", "words"), [
    (["model.nan_at=[2]"], "loss_toy is not finite from step 3 on: lower the learning rate"),
    (["model.optimizer.lr=0"], "does not learn a single batch"),
])  # fmt: skip
def test_a_sick_run_fails(more: list[str], words: str, tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    assert main([*overrides("model.dropout=0", *more), "steps=12", f"out={tmp_path}"]) == 1
    assert [words in line for line in capsys.readouterr().out.splitlines() if line.startswith("FAIL")] == [True]


def test_images_in_the_wrong_range_fail(tmp_path: Path, capsys: pytest.CaptureFixture, monkeypatch: pytest.MonkeyPatch) -> None:
    really = ToyDataset.__getitem__
    monkeypatch.setattr(ToyDataset, "__getitem__", lambda self, key: (item := really(self, key)) | {"image": item["image"].abs() / 1.1})
    assert main([*overrides(), "steps=12", f"out={tmp_path}"]) == 1
    assert "FAIL      values from 0.0" in capsys.readouterr().out


@pytest.mark.parametrize(("typed", "words"), [
    ("model=vae steps=1", "steps=1: give a whole number of at least 2"), ("model=vae steps=x", "steps=x: give a whole number"),
    ("model=vea", "model=vea"), ("model=imagen data=captions", "data.root is not set"), ("model=vae trainer.precision=16-mixed", "a CPU does not compute in it"),
    ("model=imagen data.batch=3", "data.batch"),
])  # fmt: skip
def test_what_is_typed_wrong_is_one_line(typed: str, words: str, tmp_path: Path, capfd: pytest.CaptureFixture, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert guarded(lambda: main(typed.split())) == 2
    found = capfd.readouterr().err
    [line] = [line for line in found.splitlines() if line.startswith("error: ")]
    assert words in line and "Traceback" not in found


def test_help_says_what_it_does(capsys: pytest.CaptureFixture) -> None:
    assert main([]) == main(["--help"]) == 0
    assert capsys.readouterr().out.count("steps=N (60) on the one batch") == 2


@pytest.mark.slow
@pytest.mark.parametrize("typed", ["model=imagen data.batch_size=8", "model=gan", "model=flow conditioner=label data.batch_size=8", "model=autoencoder", "model=clip"])
def test_every_kind_of_model_is_seen(typed: str, tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    assert main([*typed.split(), "steps=16", f"out={tmp_path}"]) == 0, capsys.readouterr().out
    lines = capsys.readouterr().out.splitlines()
    assert any("gradients reach all" in line for line in lines), lines
    assert any("of other images change the loss by" in line for line in lines) == ("imagen" in typed or "label" in typed), lines
