"""A configuration from a stranger builds the kinds of things that our rooms define, and nothing else."""

from __future__ import annotations

import importlib
import inspect
import pkgutil
import re
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from omegaconf import OmegaConf

from runtime import build
from runtime.build import DATA, MODULE, OUTSIDE, allowed, check_targets, instantiate, instantiate_untrusted
from runtime.config import CONF, compose
from runtime.places import PLACE_WORDS, SOURCE_WORDS, SOURCES
from tests.runtime.canary import Canary, canary  # noqa: F401  (a fixture)

# Names that have no business in a stranger's file. The first ones ran a shell command, or wrote a file, once.
HOSTILE_NAMES: list[Any] = [
    "evaluation.output.write_atomically", "networks.text.open_clip.locate_checkpoint",
    "torch.nn.attention._fa3._fa3_import_module", "evaluation.metrics.card.Card.save", "evaluation.metrics.card.Card",
    "datamodules.class_files.download", "datamodules.class_files.load", "datamodules.class_files.read_pickle",
    "files.write_text", "files.write_json", "files.read_bytes", "evaluation.output.write_report",
    "evaluation.output.write_result", "evaluation.sample_store.SampleStore", "evaluation.extractors.feature_cache.FeatureCache",
    "networks.text.store.EmbeddingStore", "networks.text.store.write_at", "networks.text.hub.locate",
    "networks.text.hub.wanted_files", "evaluation.extractors.weights.find_weights", "evaluation.image_files.read_folder",
    "evaluation.extractors.inception.load_inception", "callbacks.film.write_film", "datamodules.manifest.build_manifest",
    "datamodules.check.main", "scenes.contact_sheet.main", "scenes.contact_sheet", "runtime.export.export",
    "runtime.checkpoint.start_from", "runtime.run_dir.sweep", "runtime.run_dir.point_latest", "runtime.cli.sweep",
    "runtime.checkpoint_io.read", "runtime.checkpoint_io.sha256", "runtime.build.instantiate", "runtime.places.remember",
    "runtime.checkpoint.os.system", "datamodules.decode.Image.open", "networks.text.cache.os.remove",
    "networks.text.cache.Path.unlink", "evaluation.extractors.clip_towers.logging.Logger", "diffusion.samplers.torch.load",
    "os.system", "os.popen", "posix.system", "subprocess.Popen", "subprocess.run", "shutil.rmtree", "builtins.eval",
    "builtins.exec", "builtins.open", "builtins.__import__", "importlib.import_module", "runpy.run_path", "pickle.loads",
    "pathlib.Path", "pathlib.Path.unlink", "torch.load", "torch.save", "torch.hub.load", "torch.jit.load",
    "torch.nn.Module", "torch.nn.Linear", "torch.nn.Sequential", "torch.nn.modules.module.warnings.warn",
    "torch.utils.cpp_extension.load_inline", "torch.optim.Optimizer.__init__.__globals__", "torch.optim.LBFGS",
    "torch.compile", "numpy.load", "numpy.fromfile", "hydra.utils.instantiate", "hydra.utils.call", "hydra._internal.utils._locate",
    "omegaconf.OmegaConf.load", "pytorch_lightning.Trainer", "pytorch_lightning.callbacks.ModelCheckpoint", "wandb.init",
    "transformers.AutoModel.from_pretrained", "transformers.pipeline", "open_clip.create_model", "timm.create_model",
    "planted_at_the_top", "planted_at_the_top.Net", "networks.planted_in_a_room", "networks.planted_in_a_room.Net",
    "diffusion.planted_in_a_room.Net", "tests_planted.inner.Net", "tests.planted.Net", "tests.runtime.canary.Canary",
    "benchmarks.common.main", "train.main", "sample.main", "evaluate.main", "networks", "diffusion", "networks.unet",
    "networks.unet.UNet.forward", "networks.unet.UNet.__init__", "networks.unet.UNet.__class__", "networks.unet.Tensor",
    "networks.unet.torch", "networks.unet.nn.Linear", "networks.unet.Attention", "lightning_modules.imagen.DiffusionStage",
    "lightning_modules.base.seed_everything", "lightning_modules.base.pl.LightningModule", "diffusion.samplers.Step",
    "diffusion.samplers._times", "diffusion.schedules.zero_terminal_snr", "diffusion.denoiser.full_precision",
    "rng.keyed.keyed_generators", "evaluation.extractors.base.file_sha256", "evaluation.extractors.base.Frozen",
    "evaluation.metrics.clip_score._TextImage", "callbacks.samples.captioned_grid", "optimizers.schedules.math.exp", "optimizers.muon.torch",
    "networks.text.base.TextEncoder", "networks..unet.UNet", ".networks.unet.UNet", "networks.unet.UNet.", "networks/unet.UNet",
    "networks.unet.UNet\n", " networks.unet.UNet", "networks.unet.\u0055\u0301Net", "../networks.unet.UNet", "networks.unet:UNet",
    "NETWORKS.unet.UNet", "networks.no_such_file.Net", "networks.text", "networks." + "a." * 500 + "B", "", ".", "a" * 10**5,
    None, 1, 1.5, True, [], {}, ["os.system"], {"_target_": "networks.unet.UNet"}, b"os.system",
]  # fmt: skip

UNET = {"_target_": "networks.unet.UNet", "image_size": 8, "dim": 8, "dim_mults": [1], "attn_resolutions": []}
HOSTILE_NODES: dict[str, Any] = {
    "arguments that hydra takes itself": {**UNET, "_args_": [1]},
    "recursion off": {**UNET, "_recursive_": False},
    "conversion": {**UNET, "_convert_": "all"},
    "an unknown word of hydra's": {**UNET, "_mode_": 1},
    "a dunder": {**UNET, "__class__": "x"},
    "partial that is a call": {**UNET, "_partial_": {"_target_": "networks.unet.UNet"}},
    "partial that is text": {**UNET, "_partial_": "true"},
    "partial alone": {"_partial_": True, "x": 1},
    "a magic key without a target": {"_args_": [1]},
    "a target in a list": {"net": [1, [{"_target_": "os.system", "_args_": ["id"]}]]},
    "a target in an argument": {**UNET, "dim": {"_target_": "os.getcwd"}},
    "a target three deep": {"a": {"b": {"c": {"_target_": "builtins.open", "file": "x", "mode": "w"}}}},
    "a sampler that is called at once": {"_target_": "diffusion.samplers.ddim", "num_steps": 3},
    "a sampler with a denoiser": {"_target_": "diffusion.samplers.ddim", "_partial_": True, "denoise": UNET},
    "a sampler with an unknown argument": {"_target_": "diffusion.samplers.ddim", "_partial_": True, "nope": 1},
    "a checkpoint that is loaded at once": {"_target_": "runtime.checkpoint.load_module", "ckpt": "imagen-scenes"},
    "a checkpoint with a word of trust": {"_target_": "runtime.checkpoint.load_module", "_partial_": True, "trust": ["x"]},
    "a checkpoint bound": {"_target_": "runtime.checkpoint.load_module", "_partial_": True, "ckpt": "imagen-scenes"},
    "a datamodule in part": {"_target_": "datamodules.points.PointsDataModule", "_partial_": True},
    "a callback in part": {"_target_": "callbacks.samples.SampleGrid", "_partial_": True},
    "an extractor in part": {"_target_": "evaluation.extractors.lite0.EfficientNetLite0", "_partial_": True},
    "text that is resolved twice": {**UNET, "upsample": "${oc.env:HOME_SECRET}"},
    "a name that is resolved twice": {**UNET, "_target_": "${oc.env:HOME_SECRET}"},
    "too wide": {**UNET, "dim": 10**7},
    "too wide below zero": {**UNET, "dim": -(10**7)},
    "not a number": {**UNET, "dim": float("nan")},
    "without end": {**UNET, "dim": float("inf")},
    "too large an image": {**UNET, "image_size": 10**6},
    "too many workers": {"_target_": "datamodules.scenes.ScenesDataModule", "num_workers": 10**5},
    "too many steps": {"_target_": "lightning_modules.stage.DiffusionStage", "num_steps": 10**9},
    "too wide a bag of words": {"_target_": "networks.text.BagOfWords", "dim": 10**9},
    "too long a table": {"_target_": "diffusion.schedules.LinearSchedule", "num_train_steps": 10**12},
    "too many devices": {"trainer": {"devices": 10**6}},
    "a strategy of others": {"trainer": {"strategy": "deepspeed_stage_3"}},
    "an accelerator that is none": {"trainer": {"accelerator": "../x"}},
    "W&B's id as a path": {"_target_": "runtime.wandb.WandbLogger", "project": "p", "dir": ".cache", "id": "../../x"},
    "W&B with more arguments": {"_target_": "runtime.wandb.WandbLogger", "config": {"a": 1}},
    "a key that is no name": {**UNET, ("a", "b"): 1},
    "no argument that is needed": {"_target_": "networks.unet.ResBlock"},
    "an argument that is unknown": {**UNET, "nope": 1},
    "a text for a number": {**UNET, "dim": "wide"},
    "a list for a number": {**UNET, "dim": [1]},
    "itself as an argument": {**UNET, "dim_mults": UNET},
}


@pytest.mark.parametrize("target", HOSTILE_NAMES, ids=lambda t: repr(t)[:60])
def test_a_foreign_name_is_refused_and_nothing_is_imported(target: Any, canary: Canary) -> None:  # noqa: F811
    for node in ({"_target_": target, "_partial_": True}, {"net": [{"_target_": target, "path": str(canary.victim)}]}):
        with canary.refuses("refused"):
            instantiate_untrusted(node)


@pytest.mark.parametrize("what", HOSTILE_NODES)
def test_a_foreign_node_is_refused_in_one_line(what: str, canary: Canary) -> None:  # noqa: F811
    with canary.refuses():
        instantiate_untrusted(HOSTILE_NODES[what])


@pytest.mark.parametrize(
    ("setting", "value"),
    [
        ("num_steps", "many"), ("num_steps", 0), ("guidance_scale", "strong"), ("guidance_scale", [1, 2]),
        ("threshold_percentile", "x"), ("sampler.eta", "x"), ("sampler._partial_", False), ("guidance_rescale", {"a": 1}),
        ("schedule", {"_target_": "networks.unet.UNet", "_partial_": True}),
    ],
)  # fmt: skip
def test_what_is_used_only_while_drawing_is_checked_when_a_model_is_built(setting: str, value: Any) -> None:
    cfg = compose("train", ["model=imagen", "text_encoder=bag_of_words", "run_dir=x", "name=x"])
    OmegaConf.update(cfg, f"model.stages.base.{setting}", value, merge=False, force_add=True)
    with pytest.raises(ValueError, match=rf"stages\.base\.{setting.split('.')[0]}|at stages\.base\.{setting.split('.')[0]}"):
        instantiate_untrusted(cfg.model)


def test_the_gadget_that_ran_a_shell_command_is_refused(canary: Canary) -> None:  # noqa: F811
    """Word for word: a function of ours writes a module, then torch imports it."""
    write = {
        "_target_": "evaluation.output.write_atomically",
        "path": {"_target_": "networks.text.open_clip.locate_checkpoint", "name": "x", "pretrained": str(canary.victim)},
        "text": f"open({str(canary.fired)!r}, 'w')",
    }
    load = {"_target_": "torch.nn.attention._fa3._fa3_import_module", "module_path": "victim"}
    for node in (write, load, {"optimizer": write, "lr_schedule": load}):
        with canary.refuses("refused"):
            instantiate_untrusted({**UNET, "extra": node})


def test_a_room_that_is_not_this_checkouts_is_not_imported(canary: Canary, monkeypatch: pytest.MonkeyPatch) -> None:  # noqa: F811
    """A package of the same name that stands first on the path, or that was put in place of ours."""
    (canary.home / "networks" / "__init__.py").write_text("")
    before = {name: module for name, module in sys.modules.items() if name.split(".")[0] == "networks"}
    try:
        for name in before:
            del sys.modules[name]
        with canary.refuses("refused"):
            instantiate_untrusted({"_target_": "networks.planted_in_a_room.Net"})
        with canary.refuses("refused"):
            instantiate_untrusted(UNET)
    finally:
        sys.modules.update(before)
    monkeypatch.setattr(sys.modules["networks"], "__path__", [str(canary.home / "networks")])
    with canary.refuses("refused"):
        instantiate_untrusted({"_target_": "networks.planted_in_a_room.Net"})


def test_what_is_put_into_a_room_from_elsewhere_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    import networks.unet

    monkeypatch.setattr(networks.unet, "Linear", torch.nn.Linear, raising=False)
    monkeypatch.setattr(networks.unet, "run", exec, raising=False)
    assert allowed("networks.unet.Linear") is None and allowed("networks.unet.run") is None
    assert allowed("networks.unet.UNet") is networks.unet.UNet


def test_our_own_targets_are_built() -> None:
    net = instantiate_untrusted(UNET)
    assert net(torch.zeros(1, 3, 8, 8), torch.zeros(1)).shape == (1, 3, 8, 8)
    for target in ("diffusion.samplers.ddim", "runtime.checkpoint.load_module", "torch.optim.Adam", "optimizers.muon.Muon"):
        assert callable(instantiate_untrusted({"_target_": target, "_partial_": True}))
    kept = instantiate_untrusted({"_target_": "networks.text.CachedTextEncoder", "encoder": {"_target_": "networks.text.BagOfWords"}})
    assert kept.dim == 256


def test_what_is_built_must_be_of_the_kind_that_is_asked_for() -> None:
    data = {"_target_": "datamodules.scenes.ScenesDataModule"}
    assert instantiate_untrusted(data, kind=DATA).image_size == 64
    for node, kind in ((UNET, DATA), (data, MODULE), (None, DATA), ([data], DATA), ({}, MODULE)):
        with pytest.raises(ValueError, match="belongs: refused"):
            instantiate_untrusted(node, kind=kind)


def test_building_leaves_the_configuration_as_it_was() -> None:
    cfg = OmegaConf.create(
        {"place": "here", "part": {"_target_": "torch.nn.Identity", "name": "${place}/x"}, "whole": "${part}"}
    )
    before = OmegaConf.to_container(cfg, resolve=False)
    instantiate(cfg.whole)
    assert OmegaConf.to_container(cfg, resolve=False) == before


# ---- what can be reached at all ----

# Every class and function that a stranger's file can have built. A new name here is a decision: read its constructor for
# files, downloads and sizes before you add it.
REACHABLE = """
callbacks.checkpoint.Checkpoint callbacks.ema.EMA callbacks.evaluation.Evaluate callbacks.loss_by_level.LossByLevel
callbacks.metrics_log.MetricsLog callbacks.nan_guard.NanGuard callbacks.power_ema.PowerEMA callbacks.progress.Progress
callbacks.retrieval.Retrieval callbacks.samples.SampleGrid callbacks.stop.Stop callbacks.validate.Validate
datamodules.base.ImageDataModule datamodules.captions.CaptionsDataModule datamodules.classes.ClassDataModule
datamodules.emoji.EmojiDataModule datamodules.folder.FolderDataModule datamodules.images.ImagesDataModule datamodules.points.PointsDataModule
datamodules.scenes.ScenesDataModule datamodules.stacked.StackedDataModule datamodules.tar_shards.ShardsDataModule diffusion.samplers.ancestral.ddim
diffusion.samplers.ancestral.ddpm diffusion.samplers.heun.edm diffusion.samplers.heun.heun
diffusion.samplers.multistep.dpmpp_2m diffusion.samplers.multistep.unipc diffusion.samplers.repaint.repaint
diffusion.schedules.CosineSchedule diffusion.schedules.KarrasSchedule diffusion.schedules.LinearSchedule
diffusion.schedules.NoiseSchedule diffusion.schedules.RectifiedFlowSchedule diffusion.schedules.ZeroTerminalSNR
diffusion.times.GridTimes diffusion.times.LogitNormalTimes diffusion.times.NormalLogSNR diffusion.times.Times
diffusion.times.UniformTimes evaluation.extractors.classifier.ClassifierFeatures
evaluation.extractors.clip_towers.CLIP evaluation.extractors.dinov2.DINOv2 evaluation.extractors.inception.InceptionV3
evaluation.extractors.lite0.EfficientNetLite0 evaluation.extractors.open_clip.OpenCLIP evaluation.extractors.trained_clip.TrainedCLIP
evaluation.metrics.alignment.SceneAlignment evaluation.metrics.checkerboard.Checkerboard
evaluation.metrics.class_accuracy.ClassAccuracy evaluation.metrics.clip_score.CLIPScore
evaluation.metrics.clip_score.RPrecision evaluation.metrics.frechet.FrechetDistance
evaluation.metrics.frechet.FrechetInfinity evaluation.metrics.inception_score.InceptionScore
evaluation.metrics.kernel_distance.CMMD evaluation.metrics.kernel_distance.KernelDistance
evaluation.metrics.likelihood.Likelihood evaluation.metrics.memorisation.Memorisation
evaluation.metrics.modes.ModeCoverage evaluation.metrics.precision_recall.PRDC evaluation.metrics.reconstruction.Lpips
evaluation.metrics.reconstruction.Reconstruction evaluation.metrics.sliced_wasserstein.SlicedWasserstein
evaluation.metrics.stacked_digits.StackedModes lightning_modules.autoencoder.Autoencoder lightning_modules.autoregressive_prior.AutoregressivePrior
lightning_modules.base.GenerativeModule lightning_modules.base.Judge lightning_modules.cascade.Cascade lightning_modules.classifier.Classifier
lightning_modules.clip.CLIP lightning_modules.dalle2.DallE2 lightning_modules.diffusion.Diffusion
lightning_modules.distillation.Distillation
lightning_modules.frozen_clip.FrozenCLIP lightning_modules.gan.GAN lightning_modules.glide.Glide
lightning_modules.imagen.Imagen lightning_modules.spaces.Embeddings lightning_modules.spaces.Latents
lightning_modules.spaces.Pixels lightning_modules.spaces.Space lightning_modules.stage.DiffusionStage
lightning_modules.super_resolution.LowResolution lightning_modules.vae.VAE networks.attention.Attention
networks.attention.TransformerBlock networks.autoencoder.ConvDecoder networks.autoencoder.ConvEncoder
networks.autoencoder.MLPDecoder networks.autoencoder.MLPEncoder networks.caption_conditioner.CaptionConditioner
networks.classifier.ConvClassifier
networks.classifier.ResidualBlock networks.clip.Block networks.clip.ContrastiveNet networks.clip.SelfAttention
networks.clip.TextTransformer networks.clip.Transformer networks.clip.VisionTransformer
networks.clip_resnet.AttentionPool networks.clip_resnet.Bottleneck networks.clip_resnet.ResNetTower
networks.conditioners.AugmentConditioner networks.conditioners.Conditioner
networks.conditioners.ImageEmbeddingConditioner networks.conditioners.LabelConditioner
networks.conditioners.LevelEmbedding networks.conditioners.LowresConditioner networks.conditioners.TextConditioner
networks.dit.DiT networks.dit.DiTBlock networks.efficient_unet.DownLevel networks.efficient_unet.EfficientUNet
networks.efficient_unet.Level networks.efficient_unet.ResBlock networks.efficient_unet.UpLevel
networks.embedding.StepEmbedding networks.gan.ConditionalBatchNorm networks.gan.DCGANDiscriminator
networks.gan.DCGANGenerator networks.gan.GrowingGenerator networks.gan.MLPDiscriminator networks.gan.MLPGenerator
networks.gan.ProjectionHead networks.gan_r3.Bottleneck networks.gan_r3.R3Discriminator networks.gan_r3.R3Generator
networks.gan_residual.DownBlock networks.gan_residual.ResidualDiscriminator networks.gan_residual.ResidualGenerator
networks.gan_residual.UpBlock networks.masked_image_conditioner.MaskedImageConditioner networks.open_clip_towers.OpenCLIPTowers
networks.prior.EmbeddedCaptionConditioner networks.prior.PriorTransformer networks.resample.Upsample networks.spelling.SpellingConditioner networks.text.bag_of_words.BagOfWords
networks.text.cache.CachedTextEncoder networks.text.huggingface.HuggingFaceText networks.text.minilm.MiniLM
networks.text.open_clip.OpenCLIPText networks.unet.Block networks.unet.ResBlock networks.unet.SpatialTransformer
networks.unet.UNet networks.unet_ddpm.AttentionBlock networks.unet_ddpm.Block networks.unet_ddpm.Grow
networks.unet_ddpm.ResBlock networks.unet_ddpm.Shrink networks.unet_ddpm.UNetDDPM networks.unet_edm.UNetEDM
networks.vector_net.VectorBlock networks.vector_net.VectorNet objectives.pixels.Bernoulli
objectives.pixels.ContinuousBernoulli objectives.pixels.DiscretizedLogistic
objectives.pixels.DiscretizedLogisticMixture objectives.pixels.Gaussian objectives.pixels.PixelLikelihood
optimizers.muon.Muon optimizers.schedules.WarmupDecay
"""
REACHABLE_OUTSIDE = """
runtime.checkpoint.load_module runtime.wandb.WandbLogger torch.optim.Adafactor torch.optim.Adagrad torch.optim.Adam
torch.optim.AdamW torch.optim.Adamax torch.optim.NAdam torch.optim.RAdam torch.optim.RMSprop torch.optim.SGD
"""


def reachable() -> dict[str, Any]:
    """Name -> what can be built from the rooms: every name of every file is tried, also what it has imported."""
    found = {}
    for room in build.KINDS:
        package = importlib.import_module(room)
        for module_name in [room, *(m.name for m in pkgutil.walk_packages(package.__path__, f"{room}."))]:
            for name, value in list(vars(importlib.import_module(module_name)).items()):
                if callable(value) and (got := allowed(f"{module_name}.{name}")):
                    found[f"{got.__module__}.{got.__qualname__}"] = got
    return found


def test_what_can_be_reached_has_been_reviewed() -> None:
    found = reachable()
    assert sorted(found) == sorted(REACHABLE.split())
    assert sorted(n for n in OUTSIDE if not n.startswith("tests.")) == REACHABLE_OUTSIDE.split()
    for name, thing in found.items():  # a place by any other name would not be looked at
        for argument in inspect.signature(thing).parameters.values():
            words = set(argument.name.lower().split("_"))
            if re.search(r"Path|PathLike", str(argument.annotation)) or words & {"path", "dir", "root", "file", "url", "ckpt"}:
                assert words & PLACE_WORDS, f"{name}({argument.name}) is a place: name it by one of PLACE_WORDS"
    sources = {argument for names in SOURCES.values() for argument in names} | SOURCE_WORDS
    assert {"model_id", "pretrained", "name"} <= sources


def test_nothing_can_be_reached_through_other_packages() -> None:
    rooms = (*build.KINDS, "tests")
    others = {n: m for n, m in list(sys.modules.items()) if n.split(".")[0] not in rooms and m is not None}
    names = {f"{n}.{k}" for n, m in others.items() if n.split(".")[0] in ("torch", "runtime", "files", "os", "hydra") for k in vars(m)}
    assert len(names) > 10_000
    assert {name for name in names if name not in OUTSIDE and allowed(name) is not None} == set()


def nodes_of_conf() -> list[Path]:
    groups = "model data callbacks logger text_encoder clip prior codec likelihood players sampler schedule experiment trainer extractor evaluator"
    return [path for group in groups.split() for path in sorted((CONF / group).rglob("*.yaml"))]


def targets(node: Any) -> list[dict[str, Any]]:
    if isinstance(node, dict):
        return ([node] if "_target_" in node else []) + [t for v in node.values() for t in targets(v)]
    return [t for v in node for t in targets(v)] if isinstance(node, list) else []


def test_every_target_of_conf_passes() -> None:
    named = 0
    for path in nodes_of_conf():
        for node in targets(OmegaConf.to_container(OmegaConf.load(path), resolve=False)):
            assert allowed(node["_target_"]), f"{path}: {node['_target_']}"
            named += 1
    assert named > 60


@pytest.mark.parametrize("choice", ["model=gan experiment=gan/stacked", "model=imagen"])
def test_a_whole_run_of_ours_passes(choice: str, tmp_path: Path) -> None:
    cfg = compose("train", [*choice.split(), f"run_dir={tmp_path}", "name=x", "logger.wandb.id=abc"])
    check_targets({key: cfg[key] for key in ("model", "data", "trainer", "callbacks", "logger")}, run=tmp_path)
