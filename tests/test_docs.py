"""The pages' own code runs, and their links lead somewhere."""

from __future__ import annotations

import functools
import importlib
import itertools
import re
import shlex
import sys
import types
from pathlib import Path

import hydra
import pytest
import torch
from omegaconf import OmegaConf

from contracts import Request
from evaluation.metrics.prompt_set import load_prompts
from evaluation.metrics.run_evaluators import measure
from runtime.build import OUTSIDE, instantiate
from runtime.checkpoint import load_module
from runtime.config import CONF, check_overrides, compose
from runtime.fit import fit
from runtime.settings import check

REPO = Path(__file__).resolve().parents[1]
PAGES = sorted([*(REPO / "docs").glob("*.md"), *(p for p in REPO.glob("*.md")), REPO / "zoo" / "README.md"])


# What a block that adds to a file may lean on besides the file's own names.
ADDITION = "from __future__ import annotations\n"


def blocks() -> dict[str, str]:
    """File name -> text of the blocks of docs/extend.md that begin with one."""
    text = (REPO / "docs/extend.md").read_text()
    return dict(re.findall(r"```(?:python|yaml)\n# (\S+\.(?:py|yaml))\n(.*?)```", text, re.DOTALL))


@pytest.fixture
def extended(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """A house with the page's files in it, for one test; returns the override that finds their configuration."""
    for name, text in blocks().items():
        if name.endswith(".yaml"):
            path = tmp_path / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(text)
            continue
        dotted = name.removesuffix(".py").replace("/", ".")
        package, _, last = dotted.rpartition(".")
        if (REPO / name).exists():  # the block is an addition to a file that is there
            module = importlib.import_module(dotted)
            space = dict(vars(module))
            exec(compile(ADDITION + text, name, "exec"), space)
            for key in re.findall(r"^(?:class|def) (\w+)", text, re.MULTILINE):
                monkeypatch.setattr(module, key, space[key], raising=False)
        else:
            module = types.ModuleType(dotted)
            monkeypatch.setitem(sys.modules, dotted, module)
            monkeypatch.setattr(importlib.import_module(package), last, module, raising=False)
            exec(compile(text, name, "exec"), vars(module))
            for key in re.findall(r"^class (\w+)", text, re.MULTILINE):  # a module without a file: by name
                monkeypatch.setitem(OUTSIDE, f"{dotted}.{key}", None)
    return f"hydra.searchpath=[file://{tmp_path / 'conf'}]"


def test_every_kind_of_addition_has_code_and_configuration() -> None:
    rooms = {name.split("/")[0] if name.endswith(".py") else name.split("/")[1] for name in blocks()}
    assert rooms >= {"lightning_modules", "datamodules", "diffusion", "evaluation"}
    assert rooms >= {"model", "data", "schedule", "sampler", "evaluator"}


def test_the_family_and_the_data_train_and_draw(extended: str, tmp_path: Path) -> None:
    small = ["trainer=cpu", "trainer.max_steps=300", "data.batch_size=8", "logger.wandb=null"]
    cfg = compose("train", [extended, "model=gaussian", *small, f"run_dir={tmp_path / 'run'}", "name=x"])
    assert cfg.choices.data == "stripes"
    metrics = fit(cfg, None)
    # every pixel is -0.5 or 0.5: log 0.5 + (1 + log 2 pi) / 2 nats, from 1.044 at the start
    assert metrics["train/nll_nats"] / (3 * 16 * 16) == pytest.approx(0.726, abs=0.03)
    module, _, _ = load_module(next((tmp_path / "run" / "checkpoints").glob("*.ckpt")))
    four = module.sample(Request(4), seeds=[1, 2, 3, 4])
    assert four.shape == (4, 3, 16, 16) and torch.equal(four[2:3], module.sample(Request(1), seeds=[3]))
    assert list((tmp_path / "run" / "samples").glob("*.png"))


def test_the_metric_measures(extended: str, tmp_path: Path) -> None:
    data = instantiate(OmegaConf.load(tmp_path / "conf/data/stripes.yaml"))
    data.setup()
    prompts = load_prompts(data, "test", 8)
    evaluators = instantiate(OmegaConf.load(tmp_path / "conf/evaluator/default.yaml"))
    own = measure(evaluators, prompts, lambda indices: prompts.real[indices])
    white = measure(evaluators, prompts, lambda indices: torch.full_like(prompts.real[indices], 255))
    assert own.metrics["colour_gap"]["value"] == 0
    assert white.metrics["colour_gap"]["value"] == pytest.approx(127.5 * 3**0.5)


def test_the_schedule_and_the_sampler_work_together(extended: str, tmp_path: Path) -> None:
    from diffusion.samplers import ddim

    schedule = instantiate(OmegaConf.load(tmp_path / "conf/schedule/log_linear.yaml"))
    sampler = instantiate(OmegaConf.load(tmp_path / "conf/sampler/euler.yaml"))
    t = torch.linspace(0, 1, 7, dtype=torch.float64)
    torch.testing.assert_close(schedule.log_snr(t), 12 - 24 * t)
    torch.testing.assert_close(schedule.t_from_log_snr(12 - 24 * t), t)

    def denoise(x: torch.Tensor, t: torch.Tensor) -> torch.Tensor:  # exact for N(0.5, 0.1²)
        alpha, sigma = schedule.alpha(t)[:, None], schedule.sigma(t)[:, None]
        return 0.5 + 0.01 * alpha / (0.01 * alpha**2 + sigma**2) * (x - 0.5 * alpha)

    x_T = torch.randn(400, 2, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    x_0 = sampler(denoise, schedule, x_T, num_steps=40)
    torch.testing.assert_close(x_0, ddim(denoise, schedule, x_T, num_steps=40), rtol=0, atol=1e-9)
    assert x_0.mean() == pytest.approx(0.5, abs=0.02) and x_0.std() == pytest.approx(0.1, abs=0.02)


COMMAND = re.compile(r"\b(train|sample|evaluate|doctor)\.py ((?:-m )?[\w.@+/]+=[^`\n]*)")


def commands(page: Path) -> set[tuple[str, tuple[str, ...]]]:
    """(script, settings) of the commands on a page; the prose after a command, and those with variables of a shell, are left out."""
    found = set()
    for script, rest in COMMAND.findall(re.sub(r"\\\n\s*", " ", page.read_text())):
        rest = rest.replace("…", "$").rstrip()
        words = shlex.split(rest[:-1] if rest.count("'") % 2 else rest, comments=True)  # the end of a command within quotes
        settings = tuple(itertools.takewhile(lambda word: "=" in word or word == "-m", words))
        if script == "doctor":  # train.py's settings, and two of its own
            script, settings = "train", tuple(word for word in settings if not word.startswith(("steps=", "out=")))
        if not any("$" in word for word in words):
            found.add((script, settings))
    return found


OFTEN = ("README.md", "docs/lecture.md")  # the other pages take half a minute


@pytest.mark.parametrize("page", [
    pytest.param(page, id=name, marks=[] if name in OFTEN else pytest.mark.slow)
    for page in PAGES if page.parent.name != "zoo" and (name := str(page.relative_to(REPO)))
])  # fmt: skip
def test_every_command_names_settings_and_choices_that_exist(page: Path) -> None:
    for script, settings in sorted(commands(page)):
        if not any(word.startswith("resume=") for word in settings) and "model=gaussian" not in settings:  # a run's own; extend.md's
            check_command(script, settings)


@functools.cache
def check_command(script: str, settings: tuple[str, ...]) -> None:
    """Raises ValueError for a command that would be refused before anything is loaded."""
    if script == "train" and "-m" not in settings:
        cfg = compose(script, settings)
        cfg.run_dir = "runs/x"
        check(script, cfg)
    else:
        with hydra.initialize_config_dir(str(CONF), version_base="1.3"):
            check_overrides(script, [word for word in settings if word != "-m"], sweep="-m" in settings)


def test_commands_are_found_with_their_settings_alone(tmp_path: Path) -> None:
    page = tmp_path / "page.md"
    page.write_text("python train.py model=vae \\\n    seed=1   # three minutes\nand `python sample.py ckpt=A prompt=\"a b\"` or train.py --help, train.py -m seed=1,2 x\npython doctor.py model=vae steps=9")
    assert commands(page) == {("train", ("model=vae", "seed=1")), ("train", ("model=vae",)), ("sample", ("ckpt=A", "prompt=a b")), ("train", ("-m", "seed=1,2"))}
    assert sum(len(commands(page)) for page in PAGES) > 100


@pytest.mark.parametrize("page", PAGES, ids=lambda p: str(p.relative_to(REPO)))
def test_links_and_named_files_exist(page: Path) -> None:
    text = re.sub(r"```.*?```", "", page.read_text(), flags=re.DOTALL)
    links = re.findall(r"\]\((?!https?://|#|mailto:)([^)#\s]+)", text)
    missing = [link for link in links if not (page.parent / link).exists()]
    assert not missing, f"links to nothing: {missing}"


def test_every_page_is_in_the_index() -> None:
    index = (REPO / "docs/README.md").read_text()
    missing = [p.name for p in (REPO / "docs").glob("*.md") if p.name != "README.md" and f"({p.name})" not in index]
    assert not missing
