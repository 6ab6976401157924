"""Every model and experiment of conf/ composes, builds, and does one whole training step when made tiny."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from omegaconf import DictConfig, OmegaConf

from contracts import Request
from datamodules.class_files import FORMATS
from runtime.build import check_targets, instantiate
from runtime.checkpoint import load_module
from runtime.config import CONF, compose
from runtime.fit import fit
from runtime.settings import known_options
from tests.datamodules.class_data import write_class_data

MODELS = sorted(p.stem for p in (CONF / "model").glob("*.yaml"))
EXPERIMENTS = sorted(
    p.relative_to(CONF / "experiment").with_suffix("").as_posix() for p in (CONF / "experiment").rglob("*.yaml")
)
CHOICES = [f"model={name}" for name in MODELS] + [f"experiment={name}" for name in EXPERIMENTS]
# Too large for any test machine: built without memory, on torch's meta device.
META = {f"model={name}_paper": ["data.root=images"] for name in ("imagen", "glide", "dalle2")}
SMALL = [choice for choice in CHOICES if choice not in META]
# Nets of more than 50 M parameters: a step takes long on a CPU.
SLOW = {"experiment=edm_cifar10", "experiment=iddpm_cifar10"}

# Largest believable loss of an untrained model; 10 where it is not said.
LIMIT = {"vae": 3000}  # nats of a whole image
# What two players are trained on in place of one loss; a critic's may be below 0.
TWO_PLAYERS = {"gan": {"train/d_loss", "val/d_loss", "val/g_loss"}}

# The data and the loop made small; the nets stay what they are.
TINY = [
    "trainer=cpu",
    "trainer.precision=32-true",
    "trainer.max_steps=1",
    "data.batch_size=2",
    "data.num_val=2",
    "logger.wandb=null",
    "callbacks.progress=null",
    "callbacks.samples=null",
    "callbacks.validate.max_batches=1",
]


def configuration(choice: str, *more: str) -> DictConfig:
    return compose("train", [choice, *META.get(choice, []), *more])


def trained_autoencoder(tmp_path: Path) -> str:
    """The run of an autoencoder after a few steps, for a model of its latents."""
    run = tmp_path / "autoencoder"
    whole = ("data.batch_size=16", "trainer.max_steps=3")  # enough images to know the spread of the latents
    cfg = configuration("model=autoencoder", *TINY, *whole, f"run_dir={run}", f"paths.cache={tmp_path / 'cache'}", "name=tiny")
    train(cfg)
    return str(run)


def trained_clip(tmp_path: Path, *more: str) -> str:
    """The run of a CLIP after a step, for a model that draws from its embeddings."""
    run = tmp_path / "clip"
    train(configuration("model=clip", *TINY, f"run_dir={run}", f"paths.cache={tmp_path / 'cache'}", "name=tiny", *more))
    return str(run)


def train(cfg: DictConfig) -> dict[str, Any]:
    """A run without the evaluation that some models ask for: it draws many images."""
    OmegaConf.set_struct(cfg, False)
    cfg.callbacks.pop("evaluate", None)
    return fit(cfg, None)


@pytest.mark.parametrize("choice", CHOICES)
def test_it_composes_and_its_own_checkpoint_would_be_trusted(choice: str) -> None:
    cfg = configuration(choice, "run_dir=somewhere", "name=test")
    OmegaConf.to_container(cfg, resolve=True, throw_on_missing=True)
    nodes = ("model", "data", "trainer", "callbacks", "logger", "text_encoder")
    check_targets({key: cfg[key] for key in nodes if key in cfg}, run=Path("somewhere"), trust=["images"])


@pytest.mark.parametrize("choice", CHOICES)
def test_its_header_says_what_it_is_and_how_to_launch_it(choice: str) -> None:
    group, name = choice.split("=")
    comments = [line for line in (CONF / group / f"{name}.yaml").read_text().splitlines() if line.startswith("#")]
    assert comments[0] == "# @package _global_" and len(comments[1]) > 20
    if group == "experiment":
        launch = next(line for line in comments if line.startswith("# Launch: python train.py"))
        words = launch.removeprefix("# Launch: python train.py ").removeprefix("-m ").split()
        assert choice in words
        for word in words:  # a sweep's values one by one
            key, values = word.split("=")
            for value in values.split(","):
                compose("train", [choice, f"{key}={value}"] if word != choice else [choice])
        assert any(line.startswith("# Expect: ") for line in comments)


@pytest.mark.parametrize("choice", [pytest.param(c, marks=pytest.mark.slow) if c in SLOW else c for c in SMALL])
def test_one_step_trains_and_its_checkpoint_draws(choice: str, tmp_path: Path) -> None:
    paths = [f"run_dir={tmp_path / 'run'}", f"paths.cache={tmp_path / 'cache'}", "name=tiny"]
    cfg = configuration(choice, *TINY, *paths, "text_encoder=bag_of_words")
    if cfg.data.get("root") and cfg.data.get("name") in FORMATS:
        write_class_data(Path(cfg.data.root), cfg.data.name)
    trust = []
    if "ckpt" in cfg.get("space", {}):
        trust = [trained_autoencoder(tmp_path)]
        cfg.space.ckpt = trust[0]
    if "clip" in cfg:
        trust = [trained_clip(tmp_path)]
        cfg.clip.ckpt = trust[0]
    if cfg.model.get("train_stages"):  # an experiment that starts from a model with the other stages
        cfg.model.train_stages = None
    metrics = train(cfg)
    assert metrics["step"] == 1 and metrics["images"] == 2
    losses = {k: v for k, v in metrics.items() if k.startswith(("train/loss", "val/loss")) or k.endswith("_loss")}
    names = TWO_PLAYERS.get(cfg.choices.model)
    assert (names or {"train/loss", "val/loss"}) <= set(losses)
    least = -10 if names else 0
    assert all(least < v < LIMIT.get(cfg.choices.model, 10) for v in losses.values())
    (checkpoint,) = (tmp_path / "run" / "checkpoints").glob("step=*.ckpt")
    module, _, info = load_module(checkpoint, trust=trust)
    assert info["weights"] == "ema" and info["step"] == 1
    request = module.example_request()
    if not request.n and module.conditioning == "text":
        request = Request(1, texts=["a red circle"])
    if not request.n:  # it draws nothing, and says so
        assert module.sampling_refusal() and not (tmp_path / "run" / "samples").exists()
        return
    options = {"num_steps": 1} if "num_steps" in known_options(module) else {}
    image = module.sample(request.take([0]), seeds=[0], **options)
    shape = (1, cfg.data.get("channels", 3), cfg.data.image_size, cfg.data.image_size)
    assert image.shape == shape and image.isfinite().all()


def test_the_default_draws_as_its_page_says() -> None:
    found = instantiate(configuration("model=imagen", "text_encoder=bag_of_words").model).sampling_settings()
    assert (found["base.sampler"], found["base.num_steps"], found["base.guidance_scale"]) == ("dpmpp_2m(eta=1.0)", 16, 2.0)
    page = (CONF.parent / "docs" / "imagen.md").read_text()
    assert "| **`dpmpp_2m_sde`: second order, as much new noise** | 16 | 2 |" in page


# (stage, parameters of the preset in millions, of the paper); docs/imagen.md explains the differences.
PAPER = [("base", 2220, 2000), ("super_resolution", 738, 600), ("super_resolution_2", 704, 400)]


def test_the_papers_preset_has_the_sizes_that_its_page_states() -> None:
    cfg = configuration("model=imagen_paper")
    with torch.device("meta"):
        module = instantiate(cfg.model)
    counted = {n: sum(p.numel() for p in stage.parameters()) / 1e6 for n, stage in module.stages.items()}
    print({name: f"{millions:.1f} M" for name, millions in counted.items()})
    page = (CONF.parent / "docs" / "imagen.md").read_text()
    for name, ours, paper in PAPER:
        assert counted[name] == pytest.approx(ours, abs=0.6)
        assert f"| `{name}` | {ours} M | {paper} M |" in page
    assert [s.space.image_size for s in module.stages.values()] == [64, 256, 1024]
    assert cfg.text_encoder.dim == 4096 and cfg.data.batch_size == 2048
    base, middle, last = (stage.net for stage in module.stages.values())
    attending = [m for m in last.modules() if type(m).__name__ == "Attention"]
    assert attending and all(m.to_kv is None and m.to_context_kv is not None for m in attending)
    joined = [m for net in (base, middle) for m in net.modules() if type(m).__name__ == "Attention"]
    assert joined and all(m.to_kv is not None and m.to_context_kv is not None for m in joined)
    assert type(instantiate(cfg.model.optimizer)([torch.nn.Parameter(torch.zeros(1))])) is torch.optim.Adam


# (stage, parameters in millions of its U-Net and of its text transformer); docs/glide.md states them.
GLIDE = [("base", 304.3, 76.3), ("upsampler", 278.3, 76.9)]


def test_glides_preset_has_the_sizes_of_the_released_model_that_its_page_states() -> None:
    cfg = configuration("model=glide_paper")
    with torch.device("meta"):
        module = instantiate(cfg.model)
    page = (CONF.parent / "docs" / "glide.md").read_text()
    for name, net, text in GLIDE:
        stage = module.stages[name]
        assert sum(p.numel() for p in stage.net.parameters()) / 1e6 == pytest.approx(net, abs=0.06)
        assert sum(p.numel() for p in stage.conditioners.parameters()) / 1e6 == pytest.approx(text, abs=0.06)
        assert f"| `{name}` | {net} M | {text} M |" in page
        reader = stage.conditioners["text"]
        assert (reader.tokenizer.context_length, reader.to_vector.in_features, len(reader.transformer.resblocks)) == (128, 512, 16)
    assert [type(s.schedule).__name__ for s in module.stages.values()] == ["CosineSchedule", "LinearSchedule"]
    assert [s.space.image_size for s in module.stages.values()] == [64, 256] and cfg.data.batch_size == 2048


def test_glides_preset_trains_when_it_is_made_small(tmp_path: Path) -> None:
    """Its switches work together: learned variances, both schedules, their sampler; narrower, on scenes of 64 pixels."""
    shrink = [
        "data=scenes_simple", "trainer.accumulate=1", "data.image_size=64", "model.stages.base.space.image_size=16",
        "model.stages.base.net.attn_resolutions=[8,4]", "model.stages.upsampler.lowres.size=16",
        "model.stages.upsampler.net.attn_resolutions=[4]", "model.stages.upsampler.net.dim_mults=[1,1,2,2]",
        *(f"model.stages.{name}.{key}" for name in ("base", "upsampler") for key in (
            "net.dim=16", "net.num_res_blocks=1", "net.head_dim=16", "net.tokens_dim=32", "conditioners.text.num_layers=2",
            "conditioners.text.vocab_size=600")),
    ]  # fmt: skip
    cfg = compose("train", ["model=glide_paper", *shrink, *TINY, f"run_dir={tmp_path / 'run'}", "name=x"])
    metrics = train(cfg)
    assert {f"train/loss_{name}" for name in ("base", "upsampler")} <= set(metrics)
    module = load_module(next((tmp_path / "run" / "checkpoints").glob("*.ckpt")))[0]
    image = module.sample(Request(1, texts=["a red circle"]), seeds=[0], num_steps=2)
    assert image.shape == (1, 3, 64, 64) and image.isfinite().all()


def test_the_papers_preset_trains_when_it_is_made_small(tmp_path: Path) -> None:
    """Its switches work together: the same three stages and settings, narrower, on scenes of 64 pixels."""
    shrink = [
        "data=scenes_simple", "text_encoder=bag_of_words", "trainer.accumulate=1", "data.image_size=64",
        *(f"model.stages.{name}.{key}" for name, keys in {
            "base": ["space.image_size=16", "net.dim=16", "net.num_res_blocks=1", "net.attn_resolutions=[8,4]",
                     "net.head_dim=16"],
            "super_resolution": ["space.image_size=32", "lowres.size=16", "net.dim=16", "net.num_res_blocks=1",
                                 "net.attn_resolutions=[2]"],
            "super_resolution_2": ["space.image_size=64", "lowres.size=32", "lowres.crop_size=32", "net.dim=16",
                                   "net.num_res_blocks=1", "net.attn_resolutions=[4]"],
        }.items() for key in keys),
    ]  # fmt: skip
    adafactor = ["model.train_stages=[base]", "model.optimizer._target_=torch.optim.Adafactor"]
    for name, more in (("all", []), ("base", adafactor)):
        cfg = compose("train", ["model=imagen_paper", *shrink, *TINY, *more, f"run_dir={tmp_path / name}", "name=x"])
        metrics = train(cfg)
        trained = {key for key in metrics if key.startswith("train/loss_")}
        assert trained == {f"train/loss_{n}" for n in (cfg.model.train_stages or cfg.model.stages)}
    module = load_module(next((tmp_path / "all" / "checkpoints").glob("*.ckpt")))[0]
    assert module.sample(Request(1, texts=["a red circle"]), seeds=[0], num_steps=2).shape == (1, 3, 64, 64)


def test_the_autoregressive_prior_takes_the_place_of_the_diffusion_prior(tmp_path: Path) -> None:
    clip = trained_clip(tmp_path)
    small = ["prior=autoregressive", "prior.fit_images=80", "prior.components=6", "prior.buckets=8", f"clip.ckpt={clip}"]
    cfg = configuration("model=dalle2", *TINY, *small, f"paths.cache={tmp_path / 'cache'}", f"run_dir={tmp_path / 'run'}", "name=x")
    metrics = train(cfg)
    assert {"train/loss_prior", "val/loss_prior"} <= set(metrics) and 0 < metrics["train/loss_prior"] < 3
    module = load_module(tmp_path / "run", trust=[clip])[0]
    assert module.stages["prior"].fitted and module.priors == {"autoregressive": "prior"}
    image = module.sample(Request(1, texts=["a red circle"]), seeds=[0], num_steps=1)
    assert image.shape == (1, 3, 64, 64) and image.isfinite().all()


# (stage, parameters of the preset in millions, of the paper); docs/dalle2.md explains the differences.
UNCLIP = [("prior", 1222, 1000), ("decoder", 3433, 3500), ("upsampler", 588, 700), ("upsampler_2", 208, 300)]


def test_the_unclip_preset_has_the_sizes_that_its_page_states() -> None:
    cfg = configuration("model=dalle2_paper")
    with torch.device("meta"):
        module = instantiate(cfg.model)
    counted = {n: sum(p.numel() for p in stage.parameters()) / 1e6 for n, stage in module.stages.items()}
    page = (CONF.parent / "docs" / "dalle2.md").read_text()
    assert list(counted) == [name for name, _, _ in UNCLIP]
    for name, ours, paper in UNCLIP:
        assert counted[name] == pytest.approx(ours, abs=0.6)
        assert f"| `{name}` | {ours} M | {paper} M |" in page
    assert [s.space.image_size for s in module.stages.values()] == [None, 64, 256, 1024]
    prior = module.stages["prior"]
    assert len(prior.net.transformer.resblocks) == 24 and prior.net.stem.out_features == 2048 and prior.num_steps == 64
    assert prior.space.scale == pytest.approx(17.28) and prior.cond_drop_prob == {"caption": 0.1}
    assert module.stages["decoder"].cond_drop_prob == {"image": 0.1, "text": 0.5} and module.candidates == 2
    for name in ("upsampler", "upsampler_2"):
        stage = module.stages[name]
        assert not any(type(m).__name__ == "Attention" for m in stage.net.modules()) and list(stage.conditioners) == ["lowres"]
        assert stage.lowres.crop_size * 4 == stage.space.image_size and stage.lowres.blur_sigma == 0.6
    group = instantiate(cfg.model.optimizer)([torch.nn.Parameter(torch.zeros(1))]).param_groups[0]
    assert (group["lr"], tuple(group["betas"]), group["eps"], group["weight_decay"]) == (1.1e-4, (0.9, 0.96), 1e-6, 6e-2)


def test_the_unclip_preset_trains_when_it_is_made_small(tmp_path: Path) -> None:
    """Its switches work together: the same four stages and settings, narrower, on scenes of 64 pixels, with a CLIP trained here."""
    clip = trained_clip(tmp_path)
    shrink = [
        "data=scenes_simple", "data.image_size=64", "clip=scenes", f"clip.ckpt={clip}", f"paths.cache={tmp_path / 'cache'}",
        *(f"model.stages.{name}.{key}" for name, keys in {
            "prior": ["net.dim=16", "net.layers=2", "net.heads=2"],
            "decoder": ["space.image_size=16", "net.dim=16", "net.num_res_blocks=1", "net.attn_resolutions=[8,4]", "net.head_dim=16",
                        "net.tokens_dim=32", "net.emb_dim=32", "conditioners.text.num_layers=1", "conditioners.text.head_dim=8"],
            "upsampler": ["space.image_size=32", "lowres.size=16", "lowres.crop_size=16", "net.dim=16", "net.emb_dim=32"],
            "upsampler_2": ["space.image_size=64", "lowres.size=32", "lowres.crop_size=32", "net.dim=16", "net.emb_dim=32"],
        }.items() for key in keys),
    ]  # fmt: skip
    cfg = compose("train", ["model=dalle2_paper", *shrink, *TINY, f"run_dir={tmp_path / 'all'}", "name=x"])
    metrics = train(cfg)
    assert {key for key in metrics if key.startswith("train/loss_")} == {f"train/loss_{name}" for name, _, _ in UNCLIP}
    module = load_module(next((tmp_path / "all" / "checkpoints").glob("*.ckpt")), trust=[clip])[0]
    assert module.sample(Request(1, texts=["a red circle"]), seeds=[0], num_steps=2).shape == (1, 3, 64, 64)
