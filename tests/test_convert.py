"""Models to and from diffusers' folders: there and back nothing changes, both draw the same, and what has no equal is one line."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch

import sample
from convert import main
from diffusion.samplers import ddim
from runtime.checkpoint import load_module
from tests.networks.test_diffusers_unet import other_net
from train import main as train

diffusers = pytest.importorskip("diffusers")
RUN = ["schedule=linear", "trainer.max_steps=2", "trainer.accelerator=cpu", "data.batch_size=4", "net.dim=16", "callbacks.validate=null", "callbacks.samples=null", "callbacks.loss_by_level=null"]


def trained(path: Path, *overrides: str, net: str = "ddpm") -> Path:
    train(["model=ddpm", f"net={net}", *RUN, f"run_dir={path}", *overrides])
    return path


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return trained(tmp_path_factory.mktemp("convert") / "run", "net.groups=4", "net.emb_dim=64")


def theirs(path: Path, **scheduler: Any) -> Path:
    diffusers.DDPMPipeline(other_net(), diffusers.DDPMScheduler(**scheduler)).save_pretrained(path)
    return path


def drawn_by_theirs(folder: Path, x: torch.Tensor, num_steps: int) -> torch.Tensor:
    pipeline = diffusers.DDIMPipeline.from_pretrained(folder)
    pipeline.scheduler.set_timesteps(num_steps)
    with torch.no_grad():
        for t in pipeline.scheduler.timesteps:
            x = pipeline.scheduler.step(pipeline.unet(x, t).sample, t, x, use_clipped_model_output=True).prev_sample
    return x


def drawn_by_ours(ckpt: Path, x: torch.Tensor, num_steps: int) -> torch.Tensor:
    stage = load_module(ckpt)[0].stage
    return ddim(stage.guided({"seed": torch.zeros(len(x), dtype=torch.int64)}), stage.schedule, x, num_steps=num_steps)


@pytest.mark.parametrize("prediction", ["eps", "v"])
def test_a_trained_model_draws_the_same_in_diffusers(tmp_path: Path, prediction: str) -> None:
    run = trained(tmp_path / "run", "net.groups=4", "net.emb_dim=64", f"model.stage.prediction={prediction}", "trainer.max_steps=20")
    out = main([f"ckpt={run}", f"out={tmp_path / 'out'}"])
    x = torch.randn(3, 1, 28, 28, generator=torch.Generator().manual_seed(0))
    ours, other = drawn_by_ours(run, x, 10), drawn_by_theirs(out, x, 10)
    assert other.std() > 0.2
    torch.testing.assert_close(ours, other, rtol=0, atol=5e-4)


@pytest.mark.parametrize(
    "scheduler", [dict(variance_type="fixed_large", clip_sample=True), dict(prediction_type="v_prediction", clip_sample=False)]
)
def test_their_folder_draws_the_same_here_and_comes_back_as_it_was(tmp_path: Path, scheduler: dict[str, Any]) -> None:
    folder = theirs(tmp_path / "theirs", **scheduler)
    zoo = main([f"from={folder}", f"out={tmp_path / 'zoo'}", "data=cifar10"])
    x = torch.randn(2, 3, 32, 32, generator=torch.Generator().manual_seed(1))
    torch.testing.assert_close(drawn_by_ours(zoo, x, 10), drawn_by_theirs(main([f"ckpt={zoo}", f"out={tmp_path / 'back'}"]), x, 10), rtol=0, atol=5e-4)
    before, after = (diffusers.DDPMPipeline.from_pretrained(path) for path in (folder, tmp_path / "back"))
    a, b = before.unet.state_dict(), after.unet.state_dict()
    assert a.keys() == b.keys() and all(torch.equal(a[n], b[n]) for n in a)
    same = ("num_train_timesteps", "beta_start", "beta_end", "prediction_type", "clip_sample", "variance_type")
    assert {k: before.scheduler.config[k] for k in same} == {k: after.scheduler.config[k] for k in same}
    assert after.scheduler.config.timestep_spacing == "trailing"


def test_what_came_from_diffusers_can_be_drawn_from_and_trained_on(tmp_path: Path) -> None:
    config = json.loads((theirs(tmp_path / "theirs") / "unet" / "config.json").read_text())
    assert config["sample_size"] == 32
    zoo = main([f"from={tmp_path / 'theirs'}", f"out={tmp_path / 'zoo'}", "data=cifar10"])
    lines = sample.main([f"ckpt={zoo}", "n=2", "num_steps=3", "sampler=ddim", f"out={tmp_path / 'samples'}"])
    assert len(lines) == 2 and (tmp_path / "samples" / "grid.png").exists()


@pytest.mark.parametrize("steps, start, end", [(1000, 1e-4, 0.02), (500, 2e-4, 0.03)])
def test_their_noise_levels_are_taken_over(tmp_path: Path, steps: int, start: float, end: float) -> None:
    folder = theirs(tmp_path / "theirs", num_train_timesteps=steps, beta_start=start, beta_end=end)
    stage = load_module(main([f"from={folder}", f"out={tmp_path / 'zoo'}", "data=cifar10"]))[0].stage
    times = torch.arange(1, steps + 1, dtype=torch.float64) / steps
    table = torch.linspace(start, end, steps, dtype=torch.float64)
    torch.testing.assert_close(stage.schedule.alpha(times) ** 2, torch.cumprod(1 - table, 0))
    torch.testing.assert_close(stage.net.step(stage.schedule.log_snr(times)), torch.arange(steps, dtype=torch.float64), rtol=0, atol=1e-3)


def test_classes_travel_with_the_model(tmp_path: Path) -> None:
    run = trained(tmp_path / "run", "net.groups=4", "net.emb_dim=64", "conditioner=label")
    out = main([f"ckpt={run}", f"out={tmp_path / 'out'}"])
    unet, stage = diffusers.DDPMPipeline.from_pretrained(out).unet.eval(), load_module(run)[0].stage
    x, steps, label = torch.randn(2, 1, 28, 28), torch.tensor([5, 800]), torch.tensor([3, 10])  # 10 of 10 classes is none
    vector = stage.conditioners["label"]({"label": label})["vector"]
    log_snr = stage.schedule.log_snr((steps + 1).double() / 1000)
    with torch.no_grad():
        torch.testing.assert_close(stage.net(x, log_snr, vector=vector), unet(x, steps, class_labels=label).sample, rtol=1e-3, atol=1e-4)


def test_the_default_small_net_has_an_equal(tmp_path: Path) -> None:
    out = main([f"ckpt={trained(tmp_path / 'run', 'net.dim=32')}", f"out={tmp_path / 'out'}"])
    assert diffusers.DDPMPipeline.from_pretrained(out).unet.config.norm_num_groups == 8


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (["net=unet"], "only diffusion models of pixels with the net of DDPM"),
        (["schedule=cosine", "net.groups=4", "net.emb_dim=64"], "another table of noise levels than CosineSchedule"),
        (["net.groups=4"], "emb_dim=128, which is not 4 dim"),
        (["net.emb_dim=64"], "train with net.groups=4"),
        (["net.groups=4", "net.emb_dim=64", "model.stage.prediction=flow"], "prediction=flow"),
    ],
)
def test_a_model_without_an_equal_is_refused(tmp_path: Path, overrides: list[str], message: str) -> None:
    net = "unet" if overrides == ["net=unet"] else "ddpm"
    run = trained(tmp_path / "run", *(overrides if net == "ddpm" else []), net=net)
    with pytest.raises(ValueError, match=message) as error:
        main([f"ckpt={run}", f"out={tmp_path / 'out'}"])
    assert "\n" not in str(error.value) and not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("scheduler", "message"),
    [
        (dict(beta_schedule="squaredcos_cap_v2"), "beta_schedule='squaredcos_cap_v2'"),
        (dict(trained_betas=[0.1, 0.2]), "trained_betas"),
        (dict(variance_type="learned_range"), "variance_type='learned_range'"),
        (dict(thresholding=True), "thresholding=True"),
    ],
)
def test_another_scheduler_is_refused(tmp_path: Path, scheduler: dict[str, Any], message: str) -> None:
    folder = theirs(tmp_path / "theirs", **scheduler)
    with pytest.raises(ValueError, match=message):
        main([f"from={folder}", f"out={tmp_path / 'zoo'}", "data=cifar10"])


@pytest.mark.parametrize("text", ["[]", '{"num_train_timesteps": "many"}', '{"beta_start": null}', '{"num_train_timesteps": 0}'])
def test_a_damaged_scheduler_is_answered_in_one_line(tmp_path: Path, text: str) -> None:
    folder = theirs(tmp_path / "theirs")
    (folder / "scheduler" / "scheduler_config.json").write_text(text)
    with pytest.raises(ValueError, match="scheduler_config.json: .*no (scheduler|noise levels)"):
        main([f"from={folder}", f"out={tmp_path / 'zoo'}", "data=cifar10"])


def test_data_that_does_not_fit_is_refused(tmp_path: Path) -> None:
    folder = theirs(tmp_path / "theirs")
    with pytest.raises(ValueError, match="data=mnist has image_size=28, the net of .* 32"):
        main([f"from={folder}", f"out={tmp_path / 'zoo'}", "data=mnist"])


def test_the_size_of_other_data_can_be_given(tmp_path: Path) -> None:
    settings = [f"from={theirs(tmp_path / 'theirs')}", f"out={tmp_path / 'zoo'}", "data=images"]
    with pytest.raises(ValueError, match="data=images has image_size=64, .*data.image_size=32"):
        main(settings)
    assert load_module(main([*settings, "data.image_size=32", "data.root=/pictures"]), trust=["/pictures"])[1].data.image_size == 32


def test_nothing_is_written_over(run: Path, tmp_path: Path) -> None:
    main([f"ckpt={run}", f"out={tmp_path / 'out'}"])
    with pytest.raises(ValueError, match="holds a pipeline already"):
        main([f"ckpt={run}", f"out={tmp_path / 'out'}"])


@pytest.mark.parametrize("argv", [[], ["ckpt=a"], ["from=a", "out=b"], ["ckpt=a", "out=b", "data=c"], ["ckpt=", "out=b"], ["a", "out=b"]])
def test_wrong_settings_are_answered_with_the_right_ones(argv: list[str]) -> None:
    with pytest.raises(ValueError, match="write: python convert.py ckpt=RUN out=FOLDER"):
        main(argv)
