"""Every family as small as it goes, on data that is made here: a run takes a second or two."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image

STEPS = 24
MODULES = (
    "lightning_modules.autoencoder", "lightning_modules.classifier", "lightning_modules.clip", "lightning_modules.dalle2",
    "lightning_modules.diffusion", "lightning_modules.gan", "lightning_modules.glide", "lightning_modules.imagen",
    "lightning_modules.vae", "datamodules.captions", "datamodules.classes",
    "datamodules.points", "datamodules.scenes", "callbacks.samples", "callbacks.evaluation", "callbacks.checkpoint",
    "callbacks.metrics_log", "callbacks.nan_guard", "callbacks.validate", "optimizers.schedules", "optimizers.muon",
    "networks.clip", "networks.prior", "networks.unet", "networks.text", "networks.autoencoder", "networks.gan", "networks.classifier",
)  # fmt: skip  what configurations name, for the process that all sessions are forked from

COMMON = (
    "trainer=cpu", "trainer.precision=32-true", "logger.wandb=null", "callbacks.progress=null", "data.num_workers=0",
    f"trainer.max_steps={STEPS}", "callbacks.metrics_log.every_steps=3", "callbacks.validate.every_steps=12",
    "callbacks.samples.every_steps=15", "callbacks.checkpoint.every_steps=1", "callbacks.checkpoint.every_sec=null",
    "callbacks.ema.decay=null", "callbacks.ema.half_life_images=100",
)  # fmt: skip
CLASSES = ("data=fashion_mnist", "data.batch_size=16", "data.num_val=20")
MLP = ("codec=mlp", "codec.encoder.hidden=[16]", "codec.decoder.hidden=[16]", "model.latent_dim=4")


def _net(where: str, mid_blocks: int) -> tuple[str, ...]:
    net = {"fold": 4, "dim": 32, "dim_mults": "[1]", "num_res_blocks": 1, "attn_resolutions": "[]",
           "mid_blocks": mid_blocks, "emb_dim": 16}  # fmt: skip
    return tuple(f"{where}.{key}={value}" for key, value in net.items())


def _stage(name: str, mid_blocks: int) -> tuple[str, ...]:
    where = f"model.stages.{name}"
    return (f"{where}.num_steps=2", *_net(f"{where}.net", mid_blocks))


IMAGEN = (
    "model=imagen", "text_encoder=bag_of_words", "text_encoder.dim=64", "data.batch_size=8", "data.image_size=32",
    "model.stages.base.space.image_size=16", "model.stages.super_resolution.lowres.size=16",
    "model.stages.super_resolution.lowres.crop_size=16", *_stage("base", 1), *_stage("super_resolution", 0),
    "model.stages.base.conditioners.text.num_layers=0",
    "model.example_prompts=[a red circle,two blue squares]",
)  # fmt: skip
GLIDE = (
    "model=glide", "data.batch_size=8", "data.num_val=8", "data.image_size=32", "model.stages.base.space.image_size=16",
    "model.stages.upsampler.lowres.size=16", "model.stages.upsampler.lowres.crop_size=16", *_stage("base", 1), *_stage("upsampler", 0),
    *(f"model.stages.{stage}.{key}" for stage in ("base", "upsampler") for key in (
        "net.tokens_dim=32", "conditioners.text.heads=2", "conditioners.text.num_layers=1", "conditioners.text.vocab_size=600")),
    "model.example_prompts=[a red circle,two blue squares]",
)  # fmt: skip
DALLE2 = (
    "model=dalle2", "data.batch_size=8", "data.num_val=8", "prior.net.dim=16", "prior.net.layers=1", "prior.net.heads=2", "prior.num_steps=2",
    *_stage("decoder", 1), *_stage("upsampler", 0), "model.stages.decoder.net.tokens_dim=32",
    "model.stages.decoder.conditioners.text.num_layers=0", "model.example_prompts=[a red circle,two blue squares]",
)  # fmt: skip  with the CLIP of zoo/
FAMILIES: dict[str, tuple[str, ...]] = {
    "points": ("model=gan", "data=ring", "data.batch_size=16", "data.num_images=200", "data.num_val=20", "players=mlp",
               "players.generator.hidden=[16]", "players.discriminator.hidden=[16]", "callbacks.samples=null"),
    "autoencoder": ("model=autoencoder", *CLASSES, *MLP),
    "vae": ("model=vae", *CLASSES, *MLP, "data.binarize=dynamic"),
    "gan": ("model=gan", *CLASSES, "players.generator.dims=[8,8]", "players.discriminator.dims=[8,8]",
            "model.latent_dim=4", "model.critic_steps=2", "players.discriminator.spectral=true",
            "model.augment=[color,translation]"),
    "classifier": ("model=classifier", *CLASSES, "model.net.dims=[8,16]", "callbacks.samples=null"),
    "diffusion": ("model=ddpm", "conditioner=label", *CLASSES, "model.stage.num_steps=2", *_net("net", 1)),
    "clip": ("model=clip", "data=scenes_simple", "data.image_size=32", "data.batch_size=8", "data.num_val=8", "tower.width=32",
             "tower.layers=1", "tower.heads=2", "model.net.text.width=32", "model.net.text.layers=1",
             "model.net.text.heads=2", "model.net.text.vocab_size=600", "model.damage_prob=0.5", "callbacks.retrieval.every_steps=10",
             "callbacks.samples=null"),
    "glide": (*GLIDE, "callbacks.evaluate=null"),
    "dalle2": (*DALLE2, "callbacks.evaluate=null"),
    "imagen": (*IMAGEN, "data=scenes_simple", "data.num_val=8", "callbacks.evaluate.n=2",
               "callbacks.evaluate.every_steps=20", "callbacks.checkpoint.every_steps=2"),
    "imagen_captions": (*IMAGEN, "data=captions", "data.random_flip=true", "data.val_fraction=0.2",
                        "data.max_bad_fraction=0.2", "callbacks.evaluate=null"),
}  # fmt: skip
TWO = ("trainer.devices=2", "trainer.strategy=ddp_fork", "callbacks.checkpoint.every_steps=2")
VARIANTS: dict[str, tuple[str, ...]] = {
    "plain": (),
    "accumulation": ("trainer.accumulate=3", "callbacks.checkpoint.every_steps=2"),
    "workers": ("data.num_workers=2", "callbacks.checkpoint.every_steps=3"),
    "validation": ("callbacks.validate.every_steps=4", "callbacks.checkpoint.every_steps=5",
                   "callbacks.checkpoint.keep=3"),
    "grids": ("callbacks.samples.every_steps=6", "callbacks.checkpoint.every_sec=0.05"),
    "two_processes": TWO,
}  # fmt: skip
WITHOUT_GRIDS = ("points", "classifier", "clip")
WITHOUT = {"grids": WITHOUT_GRIDS, "accumulation": ("clip",)}  # variant -> families that cannot have it


@dataclass(frozen=True)
class Task:
    """One family in one variant."""

    family: str
    variant: str

    @property
    def name(self) -> str:
        return f"{self.family}-{self.variant}"

    @property
    def processes(self) -> int:
        return 2 if self.variant == "two_processes" else 1

    def arguments(self, run_dir: Path, material: Path) -> list[str]:
        """What follows train.py on the command line."""
        where = [f"run_dir={run_dir}", f"paths.cache={material}"]
        if self.family == "imagen_captions":
            where.append(f"data.root={material / 'captions'}")
        settings = {s.partition("=")[0]: s for s in (*COMMON, *FAMILIES[self.family], *VARIANTS[self.variant])}
        if settings.get("callbacks.samples") or self.family in WITHOUT_GRIDS:
            settings = {k: v for k, v in settings.items() if not k.startswith("callbacks.samples.")}
        return [*settings.values(), *where]


def tasks(families: list[str]) -> list[Task]:
    """Every family in every variant that it has, families in turns. Raises ValueError for an unknown family."""
    for family in families:
        if family not in FAMILIES:
            raise ValueError(f"families={family}: choose from {', '.join(FAMILIES)}")
    return [Task(f, v) for v in VARIANTS for f in families if f not in WITHOUT.get(v, ())]


def make_material(folder: Path) -> None:
    """Data for all families: IDX files of bars whose place tells the class, and a folder of captioned squares."""
    rng = np.random.default_rng(0)
    raw = folder / "data" / "FashionMNIST" / "raw"
    raw.mkdir(parents=True)
    for part, count in (("train", 100), ("t10k", 20)):
        labels = np.arange(count) % 10
        images = rng.integers(0, 40, (count, 28, 28), dtype=np.uint8)
        for image, label in zip(images, labels):
            image[2 + 2 * label : 5 + 2 * label, 4:24] += 150
        for name, array in ((f"{part}-images-idx3-ubyte", images), (f"{part}-labels-idx1-ubyte", labels)):
            header = bytes((0, 0, 8, array.ndim)) + np.array(array.shape, ">u4").tobytes()
            (raw / name).write_bytes(header + array.astype(np.uint8).tobytes())
    captions = folder / "captions"
    captions.mkdir()
    lines = []
    for i, colour in enumerate(("red", "green", "blue", "white") * 8):
        image = Image.fromarray(rng.integers(0, 60, (40, 48, 3), dtype=np.uint8))
        image.paste(colour, (4 + i % 8, 6, 24 + i % 8, 26))
        image.save(captions / f"{i:02d}.png")
        lines.append(json.dumps({"file_name": f"{i:02d}.png", "text": f"a {colour} square"}))
    (captions / "metadata.jsonl").write_text("\n".join(lines) + "\n")
