"""Sweeps: names of their runs, going on after a stop, refusals, and the table at the end."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

import train
from runtime import cli
from runtime.config import compose
from runtime.sweeps import cell, job_name, run_job, sweep, table
from tests.toy import overrides


def swept(main, argv: list[str], config_name: str = "train") -> None:
    sweep(main, config_name, argv, cli.guarded)


def test_over_several_devices_is_refused() -> None:
    with pytest.raises(ValueError, match=r"-m with trainer.devices=2: every process would run the whole sweep"):
        swept(print, ["seed=1,2", "model=vae", "trainer.devices=2"])


def test_one_folder_for_all_runs_is_refused() -> None:
    with pytest.raises(ValueError, match=r"-m with run_dir=here: every run needs a folder of its own, give name="):
        swept(print, ["seed=1,2", "model=vae", "run_dir=here"])


def test_every_combination_is_run_under_a_name_of_its_own(tmp_path: Path) -> None:
    jobs: list[list[str]] = []

    def main(argv: list[str]) -> None:
        jobs.append(sorted(argv))

    places = [f"paths.runs={tmp_path}", f"hydra.sweep.dir={tmp_path}"]
    swept(main, ["seed=1,2", "model=vae", "model.latent_dim=2,5", "name=x", *places])
    names = [[word for word in argv if word.startswith("name=")] for argv in jobs]
    assert names == [[f"name=x-seed-{seed}-latent_dim-{dim}"] for seed in (1, 2) for dim in (2, 5)]
    assert all("model=vae" in argv and f"seed={seed}" in argv for argv, seed in zip(jobs, (1, 1, 2, 2)))


def test_optimizers_are_compared_where_a_model_has_its_own(tmp_path: Path) -> None:
    jobs: list[list[str]] = []
    places = [f"paths.runs={tmp_path}", f"hydra.sweep.dir={tmp_path}"]
    swept(lambda argv: jobs.append(list(argv)) or {}, ["optimizer=adam,muon", "model=vae", "name=a", *places])
    chosen = [compose("train", job) for job in jobs]
    assert [cfg.model.optimizer._target_ for cfg in chosen] == ["torch.optim.Adam", "optimizers.muon.Muon"]
    assert [cfg.name for cfg in chosen] == ["a-optimizer-adam", "a-optimizer-muon"]


def test_its_runs_are_a_group_on_wandb() -> None:
    seen: list[list[str]] = []
    argv = ["model=vae", "seed=1"]
    run_job(lambda words: seen.append(words), argv, {"seed"}, "study 1")
    run_job(lambda words: seen.append(words), [*argv, "logger.wandb=null"], {"seed"}, "study 1")
    run_job(lambda words: seen.append(words), [*argv, "logger.wandb.group=mine"], {"seed"}, "study 1")
    assert "logger.wandb.group=study_1" in seen[0] and not any("group" in word for word in seen[1])
    assert [word for word in seen[2] if "group" in word] == ["logger.wandb.group=mine"]


def test_one_that_fails_ends_the_sweep_with_its_code(tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    started: list[int] = []

    def main(argv: list[str]) -> None:
        started.append(1)
        raise ValueError("wrong")

    with pytest.raises(SystemExit) as ended:
        swept(main, ["seed=1,2", "model=vae", f"paths.runs={tmp_path}", f"hydra.sweep.dir={tmp_path}"])
    assert ended.value.code == 2 and len(started) == 1 and capsys.readouterr().err == "error: wrong\n"


def test_a_command_without_runs_sweeps_without_names_and_table(tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    jobs: list[list[str]] = []
    swept(jobs.append, ["seed=1,2", "ckpt=imagen-scenes", f"hydra.sweep.dir={tmp_path}"], "sample")
    assert [[word for word in argv if word.startswith(("seed", "name"))] for argv in jobs] == [["seed=1"], ["seed=2"]]
    assert "sweep:" not in capsys.readouterr().out


@pytest.fixture()
def toy(tmp_path: Path) -> list[str]:
    found = [word for word in overrides(run=tmp_path / "unused") if not word.startswith(("run_dir=", "seed="))]
    return [*found, f"paths.runs={tmp_path / 'runs'}", f"hydra.sweep.dir={tmp_path}", "trainer.max_steps=2"]


def test_seeds_end_in_a_table_and_the_same_command_goes_on(toy: list[str], tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    trained: list[list[str]] = []

    def counting(argv: list[str]) -> dict:
        if len(trained) == 2:
            raise ValueError("killed")
        trained.append(argv)
        return train.main(argv)

    argv = [*toy, "name=study", "seed=1,2,3"]
    with pytest.raises(SystemExit):
        swept(counting, argv)
    assert not (tmp_path / "runs" / "sweeps").exists()
    capsys.readouterr()
    swept(train.main, argv)
    out = capsys.readouterr().out
    assert out.count("the run is finished at step 2") == 2, "two were done before the stop"
    text = (tmp_path / "runs" / "sweeps" / "study.txt").read_text()
    assert text.strip() in out
    folders = [tmp_path / "runs" / "toy" / "toy" / f"study-seed-{seed}" for seed in (1, 2, 3)]
    records = [[json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()] for folder in folders]
    losses = [next(line["train/loss"] for line in reversed(record) if "train/loss" in line) for record in records]
    (shown,) = (line for line in text.splitlines() if line.startswith("train/loss "))
    mean = float(shown.split()[1])
    assert len(losses) == 3 and mean == pytest.approx(sum(losses) / 3, rel=1e-3) and len(set(losses)) == 3
    assert text.splitlines()[1].split() == ["runs", "3"]


def test_a_name_of_other_settings_is_not_gone_on_with(toy: list[str]) -> None:
    run_job(train.main, [*toy, "seed=1"], {"seed"}, "a")
    with pytest.raises(ValueError, match=r"a-seed-1 was trained with data.batch_size=\d+, this sweep has 6: choose another name="):
        run_job(train.main, [*toy, "seed=1", "data.batch_size=6"], {"seed"}, "a")


def test_more_steps_go_on(toy: list[str]) -> None:
    run_job(train.main, [*toy, "seed=1"], {"seed"}, "a")
    longer = [word for word in toy if not word.startswith("trainer.max_steps")]
    changed, metrics = run_job(train.main, [*longer, "seed=1", "trainer.max_steps=4"], {"seed"}, "a")
    assert changed == {"seed": "1"} and metrics["step"] == 4


def test_names_are_names_of_files() -> None:
    assert job_name("a", {"model.optimizer.lr": "1e-3", "data": "scenes"}) == "a-lr-1e-3-data-scenes"
    assert "/" not in job_name("a", {"experiment": "gan/dcgan"}) and len(job_name("a", {"x": "y" * 400})) == 200


def test_the_table_has_means_over_seeds_alone() -> None:
    rows = [({"seed": str(s), "model.lr": lr}, {"val/loss": v, "step": 3, "time/x": 1.0}) for s, lr, v in
            ((0, "1", 1.0), (1, "1", 3.0), (0, "2", 5.0))]  # fmt: skip
    lines = [line.split("  ") for line in table(rows).splitlines()]
    assert [[word.strip() for word in line if word.strip()] for line in lines] == [
        ["lr=1", "lr=2"], ["runs", "2", "1"], ["val/loss", "2 ± 1.4", "5"],
    ]  # fmt: skip
    assert cell([]) == "–"
