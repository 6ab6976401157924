"""Wrong command lines: each ends with exit code 2 and one line that names what is wrong, and leaves nothing behind."""

from __future__ import annotations

import json
import os
import re
import shlex
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

import evaluate
import sample
import train
from runtime import export
from runtime.cli import guarded
from runtime.config import REPO
from tests.datamodules.class_data import small_run, write_class_data
from tests.toy import CONF, overrides

MAIN = {"train": train.main, "sample": sample.main, "evaluate": evaluate.main, "export": export.main}

# What each family's lines begin with. {…} are places that the fixture below makes.
TRAIN = "trainer=cpu logger.wandb=null paths.runs={runs}"
FAMILIES = {
    "autoencoder": f"{TRAIN} model=autoencoder data.root={{data}}",
    "vae": f"{TRAIN} model=vae data.root={{data}}",
    "gan": f"{TRAIN} model=gan data.root={{data}}",
    "imagen": f"{TRAIN} model=imagen text_encoder=bag_of_words",
    "classifier": f"{TRAIN} model=classifier data.root={{data}}",
    "clip": f"{TRAIN} model=clip",
    "glide": f"{TRAIN} model=glide",
    "points": f"{TRAIN} model=gan data=ring players=mlp",
    "scenes": f"{TRAIN} data=scenes_simple",
    "toy": f"{TRAIN} hydra.searchpath=[file://{CONF}] model=toy",
}
WHOLE, NUMBER, ABOVE, SHARE = "a whole number of at least", "a number of at least 0", "a number above 0", "a number from 0 to 1"

# (family, what is typed, what the line must say)
TRAINING = [
    # names
    ("toy", "modle=toy", "unknown setting 'modle'. Did you mean model=toy"),
    ("toy", "seeed=3", "unknown setting 'seeed'. Did you mean seed=3"),
    ("toy", "max_steps=3", "Did you mean trainer.max_steps=3"),
    ("toy", "trainer.max_step=3", "Did you mean trainer.max_steps=3"),
    ("toy", "optimizer.lr=1", "Did you mean model.optimizer.lr=1"),
    ("vae", "model.latent_dims=3", "Did you mean model.latent_dim=3"),
    ("gan", "model.latent=3", r"unknown setting 'model.latent'"),
    ("imagen", "model.stages.base.num_step=3", "Did you mean model.stages.base.num_steps=3"),
    ("imagen", "model.stages.bass.num_steps=3", "unknown setting 'model.stages.bass.num_steps'"),
    ("toy", "callbacks.emma=null", "Did you mean callbacks.ema=null"),
    ("toy", "zzz=1", r"unknown setting 'zzz'. See python train.py --help"),
    ("toy", "steps=1", "unknown setting 'steps'"),
    ("toy", "--seed=1", "without dashes, for instance seed=1"),
    ("toy", "seed", "'seed': write key=value"),
    ("toy", "seed=", r"seed=: give a whole number"),
    ("toy", "=3", "'=3'"),
    ("toy", "seed=1,2", "several values are a sweep, add -m"),
    ("toy", "'model.width={'", r"cannot read 'model.width=\{'"),
    ("toy", "resume_froce=true", "Did you mean resume_force=true"),
    # added keys that nobody reads
    ("toy", "+compile=true", r"\+compile=true: nothing reads 'compile'"),
    ("toy", "++compile=true", r"unknown setting 'compile'"),
    ("toy", "+trainer.num_nodes=2", r"\+trainer.num_nodes=2: nothing reads 'trainer.num_nodes'"),
    ("toy", "+trainer.gradient_clip_val=2", r"nothing reads 'trainer.gradient_clip_val'"),
    ("toy", "+a.b.c=2", r"nothing reads 'a.b.c'"),
    ("toy", "+paths.x=2", r"nothing reads 'paths.x'"),
    ("toy", "+model.nonsense=1", r"model.nonsense=1: Toy takes no 'nonsense'"),
    ("vae", "+model.betta=1", r"model.betta=1: VAE takes no 'betta'. Did you mean beta"),
    ("gan", "+model.optimizer.momentum=1", r"model.optimizer.momentum=1: Adam takes no 'momentum'"),
    ("gan", "+players.generator.width=1", r"generator.width=1: DCGANGenerator takes no 'width'"),
    ("imagen", "+model.stages.base.net.heads=1", r"model.stages.base.net.heads=1: UNet takes no 'heads'"),
    ("imagen", "+model.stages.base.steps=1", r"model.stages.base.steps=1: DiffusionStage takes no 'steps'"),
    ("imagen", "+model.stages.base.sampler.order=1", r"sampler.order=1: ddim takes no 'order'"),
    ("toy", "+data.worker=1", r"data.worker=1: ToyData takes no 'worker'"),
    ("toy", "+callbacks.ema.rate=1", r"callbacks.ema.rate=1: EMA takes no 'rate'"),
    ("toy", "+callbacks.mine=3", r"callbacks.mine=3|callbacks=\{"),
    ("toy", "'+callbacks.mine={{_target_: torch.nn.Identity}}'", "callbacks.mine: torch.nn.Identity is no Callback"),
    ("toy", "'+logger.mine={{_target_: callbacks.ema.EMA}}'", "logger.mine: callbacks.ema.EMA is no Logger"),
    ("imagen", "+model.stages.base.net._args_=[1]", r"net._args_=\[1\]: give arguments by their names"),
    ("imagen", "+model.stages.base.net._partial_=maybe", "net._partial_=maybe: give true or false"),
    ("imagen", "+model.stages.base.net._partial_=true", "networks.unet.UNet is called in part"),
    ("imagen", "+model.stages.base.net._recursive_=3", "net._recursive_=3: give true or false"),
    ("imagen", "+model.stages.base.net._convert_=some", "net._convert_=some: give none, partial, object or all"),
    ("toy", "+trainer.stop.soon=1", r"trainer.stop.soon=1: Stop takes no 'soon'"),
    # groups
    ("toy", "model=toi", "model=toi: there is no such model. Did you mean model=toy"),
    ("toy", "model=dalle", "model=dalle: there is no such model"),
    ("toy", "model=", "model=: there is no such model|choose a model"),
    ("toy", "model=null", "model=null: choose one of autoencoder"),
    ("toy", "model=3", "model=3: there is no such model"),
    ("toy", "'model=[toy]'", "model"),
    ("toy", "data=nope", "data=nope: there is no such data"),
    ("toy", "data=null", "data=null: choose one of"),
    ("toy", "trainer=gpus", "trainer=gpus: there is no such trainer. Did you mean trainer=gpu"),
    ("toy", "trainer=null", "trainer"),
    ("toy", "callbacks=none", "callbacks=none: there is no such callbacks"),
    ("toy", "experiment=lecture/upsamplin", "Did you mean experiment=lecture/upsampling"),
    ("imagen", "text_encoder=t5", "text_encoder=t5: there is no such text_encoder"),
    ("vae", "likelihood=normal", "likelihood=normal: there is no such likelihood"),
    ("vae", "codec=convolution", "codec=convolution: there is no such codec"),
    ("gan", "players=stylegan", "players=stylegan: there is no such players"),
    ("toy", "players=dcgan", "players=dcgan: nothing that is chosen here has players="),
    ("toy", "~model", "model"),
    ("toy", "~seed", "seed was removed"),
    ("toy", "~trainer.max_steps", "trainer.max_steps"),
    ("toy", "~nothing", "nothing"),
    # top level
    ("toy", "seed=-1", "seed=-1: give a whole number from 0 to 2"),
    ("toy", "seed=1.5", "seed=1.5: give a whole number"),
    ("toy", "seed=true", "seed=true: give a whole number"),
    ("toy", "seed=abc", "seed=abc: give a whole number"),
    ("toy", "seed=null", "seed=null: give a whole number"),
    ("toy", "seed=[1]", r"seed=\[1\]: give a whole number"),
    ("toy", "seed=9223372036854775808", "seed=9223372036854775808: give a whole number from 0 to 2"),
    ("toy", "seed=1e3", "seed=1000.0: give a whole number"),
    ("toy", "seed='{a: 1}'", "seed={a: 1}"),
    ("toy", "name=", "name=: give the name of a folder"),
    ("toy", "'name=  '", "name=.*: give the name of a folder"),
    ("toy", "name=a/b", "name=a/b: give the name of a folder"),
    ("toy", "name=..", r"name=\.\.: give the name of a folder"),
    ("toy", "'name=[a,b]'", r"name=\[a,b\]: give the name"),
    ("toy", "run_dir=", "run_dir=: give a path"),
    ("toy", "run_dir={file}", "run_dir={file}: is a file"),
    ("toy", "run_dir={file}/x", "run_dir={file}/x: cannot be made"),
    ("toy", "paths.runs={file}", "paths.runs={file}: is a file"),
    ("toy", "paths.runs=null", "paths.runs=null|paths={"),
    ("toy", "debug=3", "debug=3: give true or false"),
    ("toy", "resume_force=maybe", "resume_force=maybe: give true or false"),
    ("toy", "init=nope", "init=nope: no such file"),
    ("toy", "init=", "init=: give a path"),
    ("toy", "init={file}", "{file} is damaged or not a checkpoint"),
    ("toy", "'init=[a,b]'", r"init=\[a,b\]: give a path"),
    ("toy", "init={empty}", "init={empty}: no such file"),
    ("toy", "paths=null", "paths"),
    # trainer
    ("toy", "trainer=ddp", "torch finds no GPU on this machine"),
    ("toy", "trainer=gpu", "trainer.accelerator=gpu: torch finds no GPU on this machine"),
    ("toy", "trainer.accelerator=cuda", "trainer.accelerator=cuda: torch finds no GPU"),
    ("toy", "trainer.accelerator=mps", "trainer.accelerator=mps: torch finds no Apple GPU"),
    ("toy", "trainer.accelerator=warp", "trainer.accelerator=warp: give auto, cpu"),
    ("toy", "trainer.accelerator=null", "trainer.accelerator=null"),
    ("toy", "trainer.devices=0", "trainer.devices=0: give the number of devices"),
    ("toy", "trainer.devices=-2", "trainer.devices=-2: give the number of devices"),
    ("toy", "trainer.devices=-1", "trainer.devices=-1: on a CPU"),
    ("toy", "trainer.devices=[0,1]", r"trainer.devices=\[0,1\]: on a CPU"),
    ("toy", "trainer.devices=[]", r"trainer.devices=\[\]: give the number"),
    ("toy", "trainer.devices=two", "trainer.devices=two: give the number"),
    ("toy", "trainer.devices=1.5", "trainer.devices=1.5: give the number"),
    ("toy", "trainer.devices=true", "trainer.devices=true: give the number"),
    ("toy", "trainer.devices=null", "trainer.devices=null: give the number"),
    ("toy", "trainer.strategy=fsdpp", "trainer.strategy=fsdpp: give auto, ddp"),
    ("toy", "trainer.precision=8", "trainer.precision=8: give 32-true"),
    ("toy", "trainer.precision=fp8", "trainer.precision=fp8: give 32-true"),
    ("toy", "trainer.deterministic=maybe", "trainer.deterministic=maybe: give true or false"),
    ("toy", "trainer.max_steps=0", "trainer.max_steps=0: give a whole number"),
    ("toy", "trainer.max_steps=-5", "trainer.max_steps=-5: give a whole number"),
    ("toy", "trainer.max_steps=1.5", "trainer.max_steps=1.5: give a whole number"),
    ("toy", "trainer.max_steps=many", "trainer.max_steps=many: give a whole number"),
    ("toy", "trainer.max_steps=null", "max_steps and trainer.max_time are both null|total_steps=null"),
    ("toy", "trainer.max_time=soon", "trainer.max_time=soon: give days:hours:minutes:seconds"),
    ("toy", "trainer.max_time=00:00:00:00", "trainer.max_time=00:00:00:00: give days"),
    ("toy", "trainer.max_time=-00:00:01:00", "trainer.max_time=-00:00:01:00: give days"),
    ("toy", "trainer.max_time=10", "trainer.max_time=10: give days"),
    ("toy", "trainer.max_time=nan", "trainer.max_time=nan: give days"),
    ("toy", "trainer.accumulate=0", f"trainer.accumulate=0: give {WHOLE} 1"),
    ("toy", "trainer.accumulate=2.5", "trainer.accumulate=2.5"),
    ("toy", "trainer.stop=null", "trainer.stop=null"),
    # callbacks and loggers
    ("toy", "callbacks.ema.decay=2", f"callbacks.ema.decay=2: give {SHARE}"),
    ("toy", "callbacks.ema.decay=1", "callbacks.ema.decay=1"),
    ("toy", "callbacks.ema.decay=null", "give decay or half_life_images"),
    ("toy", "callbacks.ema.decay=abc", "callbacks.ema.decay=abc"),
    ("toy", "callbacks.ema=true", "callbacks"),
    ("vae", "callbacks.ema.half_life_images=0", f"callbacks.ema.half_life_images=0: give {ABOVE}"),
    ("vae", "callbacks.ema.half_life_images=.nan", "callbacks.ema.half_life_images=.nan"),
    ("toy", "callbacks.metrics_log.every_steps=0", f"callbacks.metrics_log.every_steps=0: give {WHOLE} 1"),
    ("toy", "callbacks.validate.every_steps=-1", f"callbacks.validate.every_steps=-1: give {WHOLE} 1"),
    ("toy", "callbacks.validate.every_steps=1.5", "callbacks.validate.every_steps=1.5"),
    ("toy", "callbacks.validate.max_batches=0", "callbacks.validate.max_batches=0"),
    ("toy", "callbacks.samples.every_steps=0", "callbacks.samples.every_steps=0"),
    ("toy", "callbacks.samples.seed=-1", "callbacks.samples.seed=-1"),
    ("toy", "callbacks.samples.conditions=one", "callbacks.samples.conditions=one"),
    ("toy", "callbacks.progress.every_sec=-1", "callbacks.progress.every_sec=-1: give a number of at least 0"),
    ("toy", "callbacks.progress.every_sec=nan", "callbacks.progress.every_sec=nan"),
    ("toy", "callbacks.checkpoint.every_sec=inf", "callbacks.checkpoint.every_sec=inf"),
    ("toy", "callbacks.checkpoint.every_steps=0", "callbacks.checkpoint.every_steps=0"),
    ("toy", "callbacks.checkpoint.keep=0", "callbacks.checkpoint.keep=0"),
    ("toy", "callbacks.nan_guard.max_in_a_row=0", "callbacks.nan_guard.max_in_a_row=0"),
    ("toy", "callbacks.ema._target_=callbacks.ema.EMAA", "there is no such class or function. Did you mean callbacks.ema.EMA"),
    ("toy", "callbacks.ema._target_=3", "callbacks.ema._target_=3"),
    ("imagen", "callbacks.evaluate.n=0", "callbacks.evaluate.n=0"),
    ("imagen", "callbacks.evaluate.splits=iid", "callbacks.evaluate.splits=iid: give a list"),
    ("toy", "+logger.wandb=true", "logger"),
    # optimisers and schedules
    ("toy", "model.optimizer.lr=abc", f"model.optimizer.lr=abc: give {ABOVE}"),
    ("toy", "model.optimizer.lr=-1", f"model.optimizer.lr=-1: give {ABOVE}"),
    ("toy", "model.optimizer.lr=nan", "model.optimizer.lr=nan"),
    ("toy", "model.optimizer.lr=inf", "model.optimizer.lr=inf"),
    ("toy", "model.optimizer.lr=null", "model.optimizer.lr=null"),
    ("toy", "+model.optimizer.betas=[0.9]", "model.optimizer"),
    ("toy", "+model.optimizer.weight_decay=-1", "model.optimizer.weight_decay=-1"),
    ("toy", "model.optimizer=null", "model.optimizer=null: training needs an optimiser"),
    ("toy", "model.optimizer=adam", "model.optimizer=adam: give what is built by"),
    ("toy", "model.optimizer._target_=torch.optim.Adamm", "Did you mean torch.optim.Adam"),
    ("toy", "model.optimizer._target_=Adam", "model.optimizer._target_=Adam"),
    ("toy", "model.optimizer._target_=nowhere.Adam", "model.optimizer._target_=nowhere.Adam: there is no such"),
    ("vae", "model.optimizer.lr=0", f"model.optimizer.lr=0: give {ABOVE}"),
    ("vae", "model.optimizer.adam_lr=-1", "model.optimizer.adam_lr=-1"),
    ("vae", "+model.optimizer.momentum=2", f"model.optimizer.momentum=2: give {SHARE}"),
    ("gan", "model.optimizer.betas=[0.5,2]", "model.optimizer"),
    ("gan", "model.optimizer.betas=0.5", "model.optimizer"),
    ("vae", "model.lr_schedule=abc", "model.lr_schedule=abc"),
    ("vae", "model.lr_schedule.decay_fraction=2", f"model.lr_schedule.decay_fraction=2: give {SHARE}"),
    ("vae", "model.lr_schedule.warmup_steps=-3", f"model.lr_schedule.warmup_steps=-3: give {WHOLE} 0"),
    ("vae", "model.lr_schedule.total_steps=0", "model.lr_schedule.total_steps=0"),
    ("vae", "+model.lr_schedule.shape=wavy", "shape='wavy': choose linear or cosine"),
    ("vae", "model.clip_norm=-1", f"model.clip_norm=-1: give {ABOVE}"),
    ("vae", "model.clip_norm=abc", "model.clip_norm=abc"),
    # data
    ("vae", "data.batch_size=0", f"data.batch_size=0: give {WHOLE} 1"),
    ("vae", "data.batch_size=2.5", "data.batch_size=2.5"),
    ("vae", "data.batch_size='\"8\"'", "data.batch_size=8"),
    ("vae", "data.num_workers=-1", f"data.num_workers=-1: give {WHOLE} 0"),
    ("vae", "data.num_val=-1", "data.num_val=-1"),
    ("vae", "data.data_seed=-1", "data.data_seed=-1"),
    ("vae", "data.image_size=0", "data.image_size=0"),
    ("vae", "data.channels=2", "channels"),
    ("vae", "data.binarize=maybe", "binarize"),
    ("vae", "data.random_flip=1", "data.random_flip=1: give true or false"),
    ("vae", "data.name=emnist", "emnist"),
    ("vae", "data.root={empty} data.root=null", "data.root=null"),
    ("imagen", "data=captions", "data.root"),
    ("imagen", "data=captions data.root=nowhere", "nowhere"),
    ("imagen", "data=captions data.root={file}", "file"),
    ("imagen", "data=captions data.root={empty}", "empty"),
    ("imagen", "data=captions data.root={empty} data.val_fraction=2", f"data.val_fraction=2: give {SHARE}"),
    ("imagen", "data.preset=sceens", "sceens"),
    ("imagen", "data.val_splits=iid", "data.val_splits=iid: give a list"),
    ("imagen", "data.val_splits=[nope]", "nope"),
    ("imagen", "data.num_images=0", "data.num_images=0"),
    ("points", "data.std=-1", f"data.std=-1: give {ABOVE}"),
    ("toy", "data.batch_size=7 trainer.devices=2", "batch_size=7"),
    ("gan", "+extractor@judge=classifier judge.ckpt=nope +callbacks.evaluate._target_=callbacks.evaluation.Evaluate "
     "'+callbacks.evaluate.evaluators={{fd: {{_target_: evaluation.metrics.frechet.FrechetDistance, extractor: ${{judge}}}}}}' "
     "+callbacks.evaluate.every_steps=1 +callbacks.evaluate.n=4", "callbacks.evaluate.evaluators.fd.extractor.ckpt=nope: no such file, run or name in zoo/"),
    # autoencoder, vae, classifier
    ("autoencoder", "model.latent_dim=0", f"model.latent_dim=0: give {WHOLE} 1"),
    ("autoencoder", "model.latent_dim=-32", "model.latent_dim=-32"),
    ("autoencoder", "model.latent_dim=many", "model.latent_dim=many"),
    ("autoencoder", "codec.encoder.dims=[32,-64]", "encoder.dims=.*-64"),
    ("autoencoder", "codec.encoder.dims=32", "encoder.dims=32: give a list"),
    ("autoencoder", "codec.encoder.dims=[]", "dims"),
    ("autoencoder", "codec.encoder.dims=[30]", "multiple"),
    ("autoencoder", "codec.encoder.num_res_blocks=-1", f"encoder.num_res_blocks=-1: give {WHOLE} 0"),
    ("autoencoder", "codec.decoder.upsample=magic", "magic"),
    ("autoencoder", "codec=mlp codec.encoder.hidden=[0]", "hidden"),
    ("autoencoder", "model.encoder=null", "model.encoder=null"),
    ("autoencoder", "model.image_size=64px", "model.image_size=64px"),
    ("vae", "model.beta=-1", f"model.beta=-1: give {NUMBER}"),
    ("vae", "model.beta=nan", "model.beta=nan"),
    ("vae", "model.importance_samples=0", "model.importance_samples=0"),
    ("vae", "model.importance_samples=5 model.beta=2", "leave model.beta at 1"),
    ("vae", "model.dreg=true", "model.dreg=true with one importance sample"),
    ("vae", "model.dreg=1", "model.dreg=1: give true or false"),
    ("vae", "model.eval_importance_samples=[]", "model.eval_importance_samples"),
    ("vae", "model.eval_importance_samples=[0]", r"model.eval_importance_samples=\[0\]"),
    ("vae", "model.eval_importance_samples=50", "model.eval_importance_samples=50: give a list"),
    ("vae", "model.free_bits_nats=-1", "model.free_bits_nats=-1"),
    ("vae", "model.kl_warmup_images=-1", "model.kl_warmup_images=-1"),
    ("vae", "model.likelihood=bernoulli", "model.likelihood=bernoulli"),
    ("clip", "model.loss=nce", "model.loss='nce': one of infonce, siglip"),
    ("clip", "model.loss=siglip", "model.loss=siglip: model.net.init_logit_bias is for siglip"),
    ("clip", "data=fashion_mnist data.root={data}", "image_size=28 is not a multiple of patch_size=8"),
    ("clip", "model.net.text.vocab_size=100", "vocab_size=100: from 514 to 49408"),
    ("clip", "model.net.visual.heads=3", "width=128 is not a multiple of heads=3"),
    ("clip", "model.net.text.heads=3", "width=128 is not a multiple of heads=3"),
    ("clip", "+model.net.visual.noise_levels=true", "model.noise and model.net.visual.noise_levels=true go together"),
    ("clip", "+model.noise=cosine", "model.noise=cosine"),
    ("glide", "model.stages.base.conditioners.text.heads=5", "tokens_dim=192 is not a multiple of heads=5"),
    ("glide", "model.stages.base.conditioners.text.vocab_size=100", "vocab_size=100: from 514 to 49408"),
    ("glide", "model.stages.base.conditioners.text.context_length=2", "context_length=2: at least 3"),
    ("glide", "model.stages.upsampler.lowres.size=16", "lowres.size=16, but the stage before it gives 32"),
    ("glide", "experiment=glide_inpaint model.stages.base.conditioners.known.nothing_prob=2", f"nothing_prob=2: give {SHARE}"),
    ("clip", "model.net.visual.width=0", "width=0: at least 1"),
    ("clip", "model.net.text.width=0", "width=0: at least 1"),
    ("clip", "model.net.visual.layers=0", "model.net.visual.layers=0"),
    ("clip", "model.max_logit_scale=0.5", "model.max_logit_scale=0.5: above 1"),
    ("clip", "trainer.accumulate=2", "trainer.accumulate is above 1, and CLIP compares"),
    ("clip", "callbacks.retrieval.n=1", "callbacks.retrieval.n=1: at least 2"),
    ("classifier", "model.net.dropout=2", f"model.net.dropout=2: give {SHARE}"),
    ("classifier", "model.net.dims=[0]", "model.net.dims"),
    ("classifier", "model.label_smoothing=-1", "model.label_smoothing=-1"),
    ("classifier", "model.num_classes=null", "num_classes"),
    ("classifier", "model.num_classes=0", "model.num_classes=0"),
    ("scenes", "model=classifier", "num_classes"),
    # gan
    ("gan", "model.loss=hing", "hing"),
    ("gan", "model.critic_steps=0", "model.critic_steps=0"),
    ("gan", "model.r1=-1", f"model.r1=-1: give {NUMBER}"),
    ("gan", "model.r1=1", "batch"),
    ("gan", "model.penalty_every=0", "model.penalty_every=0"),
    ("gan", "model.augment=color", "model.augment=color: give a list"),
    ("gan", "model.augment=[colour]", "colour"),
    ("gan", "model.conditional=yes_please", "model.conditional=yes_please: give true or false"),
    ("scenes", "model=gan model.conditional=true", "needs data with classes"),
    ("gan", "players.discriminator.norm=bach", "bach"),
    ("gan", "players.generator.dims=[256,-1]", "generator.dims"),
    ("gan", "model.discriminator_lr=-1", "model.discriminator_lr=-1"),
    ("gan", "model.latent_dim=0", "model.latent_dim=0"),
    ("gan", "model.penalty_schedule=1", "model.penalty_schedule=1"),
    ("gan", "players=r3 players.generator.group_width=0", "group_width=0"),
    # imagen
    ("imagen", "model.stages.base.num_steps=0", f"model.stages.base.num_steps=0: give {WHOLE} 1"),
    ("imagen", "model.stages.base.net.dim=-32", f"model.stages.base.net.dim=-32: give {WHOLE} 1"),
    ("imagen", "model.stages.base.net.dim=abc", "model.stages.base.net.dim=abc"),
    ("imagen", "model.stages.base.net.num_res_blocks=-1", "model.stages.base.net.num_res_blocks=-1"),
    ("imagen", "model.stages.base.net.num_res_blocks=[1]", "num_res_blocks"),
    ("imagen", "+model.stages.base.net.head_dim=0", "model.stages.base.net.head_dim=0"),
    ("imagen", "+model.stages.base.net.head_dim=7", "head_dim=7"),
    ("imagen", "+model.stages.base.net.dropout=2", f"model.stages.base.net.dropout=2: give {SHARE}"),
    ("imagen", "+model.stages.base.net.upsample=nearest", "nearest"),
    ("imagen", "model.stages.base.net.fold=0", "model.stages.base.net.fold=0"),
    ("imagen", "model.stages.base.net.dim_mults=[]", "dim_mults"),
    ("imagen", "model.stages.base.space.image_size=0", "model.stages.base.space.image_size=0"),
    ("imagen", "model.stages.base.space.image_size=33", "33"),
    ("imagen", "model.stages.base.cond_drop_prob=2", f"model.stages.base.cond_drop_prob=2: give {SHARE}"),
    ("imagen", "model.stages.base.prediction=x", "prediction"),
    ("imagen", "model.stages.base.weighting=heavy", "weighting"),
    ("imagen", "model.stages.base.threshold=high", "threshold"),
    ("imagen", "model.stages.base.threshold_percentile=99", "model.stages.base.threshold_percentile=99"),
    ("imagen", "model.stages.base.guidance_scale=nan", "model.stages.base.guidance_scale=nan"),
    ("imagen", "model.stages.base.guidance_scale=big", "model.stages.base.guidance_scale=big"),
    ("imagen", "model.stages.base.times.std=0", "times.std=0"),
    ("imagen", "model.stages.base.times.std=-1", "times.std=-1"),
    ("imagen", "model.stages.base.sampler=ddim", "model.stages.base.sampler=ddim"),
    ("imagen", "model.stages.base.sampler._target_=diffusion.samplers.dddim", "Did you mean diffusion.samplers.ddim"),
    ("imagen", "model.stages.base.net=null", "model.stages.base.net=null"),
    ("imagen", "model.stages.super_resolution.lowres.aug_level=2", f"aug_level=2: give {SHARE}"),
    ("imagen", "model.stages.super_resolution.lowres.crop_size=5", "crop_size=5"),
    ("imagen", "model.stages.super_resolution.lowres.size=16", "lowres.size=16"),
    ("imagen", "model.stages.super_resolution.batch_share=0", "batch_share=0"),
    ("imagen", "model.stages=null", "model.stages=null"),
    ("imagen", "model.train_stages=[nope]", "there is no stage 'nope'"),
    ("imagen", "model.train_stages=base", "model.train_stages=base: give a list"),
    ("imagen", "model.train_stages=[]", "train_stages"),
    ("imagen", "text_encoder=null", "text_encoder"),
    ("imagen", "text_encoder.dim=0", "dim=0"),
    ("imagen", "data=mnist", "image_size=28"),
    # resuming
    ("resume", "resume=nope", "resume=nope: no run there"),
    ("resume", "resume=", "resume=: give a path|resume="),
    ("resume", "resume={file}", "resume={file}: give the run directory, not a file in it"),
    ("resume", "resume={empty}", "resume={empty}: no run there"),
    ("resume", "resume={run}/checkpoints", "resume={run}/checkpoints: no run there"),
    ("resume", "'resume=[{run}]'", "resume="),
    ("resume", "resume={run} model=vae", "a resumed run keeps its model"),
    ("resume", "resume={run} model.widht=3", "Did you mean model.width=3"),
    ("resume", "resume={run} +model.foo=3", "model.foo"),
    ("resume", "resume={run} ~model.width", "model.width"),
    ("resume", "resume={run} seed=1", "seed=1: the run has seed=0"),
    ("resume", "resume={run} trainer.max_steps=0", "trainer.max_steps=0: give a whole number"),
    ("resume", "resume={run} trainer.max_steps=abc", "trainer.max_steps=abc"),
    ("resume", "resume={run} trainer.devices=0", "trainer.devices=0"),
    ("resume", "resume={run} trainer=gpu", "a resumed run keeps its trainer"),
    ("resume", "resume={run} trainer.accelerator=gpu", "torch finds no GPU"),
    ("resume", "resume={run} callbacks.checkpoint.every_steps=0", "callbacks.checkpoint.every_steps=0"),
    ("resume", "resume={run} resume_force=maybe", "resume_force=maybe: give true or false"),
]
SAMPLING = [
    ("", "give ckpt="),
    ("prompt=x", "give ckpt="),
    ("ckpt= prompt=x", "ckpt=: give a path"),
    ("ckpt=[] prompt=x", r"ckpt=\[\]: give a path"),
    ("'ckpt=[a,b]' prompt=x", r"ckpt=\[a,b\]: give a path"),
    ("ckpt=null prompt=x", "give ckpt=|ckpt=null"),
    ("ckpt=nope prompt=x", "ckpt=nope: no such file, run or name in zoo/"),
    ("ckpt={empty} prompt=x", "ckpt={empty}: no such file"),
    ("ckpt={file} prompt=x", "{file} is damaged or not a checkpoint"),
    ("ckpt={pickle} prompt=x", "{pickle}"),
    ("ckpt={strange} prompt=x", "{strange} is a checkpoint of something else"),
    ("ckpt={toy} prompt=", "prompt=: give a prompt"),
    ("ckpt={toy} 'prompt=   '", "prompt=.*: give a prompt"),
    ("ckpt={toy} 'prompt=[a,b]'", r"prompt=\[a,b\]: give a prompt .*prompts=FILE"),
    ("ckpt={toy}", 'this model takes prompt="…" or prompts=FILE'),
    ("ckpt={toy} prompt=x prompts=y", "give only one of prompt, prompts"),
    ("ckpt={toy} prompt=x label=3", "give only one of prompt, label"),
    ("ckpt={toy} label=3", "not label="),
    ("ckpt={toy} label=sneaker", "label=sneaker: give a class number"),
    ("ckpt={toy} label=-1", "label=-1: give a class number"),
    ("ckpt={toy} label=1.5", "label=1.5: give a class number"),
    ("ckpt={toy} prompts=nowhere.txt", "prompts=nowhere.txt: no such file"),
    ("ckpt={toy} prompts={empty}", "prompts={empty}: it is no file"),
    ("ckpt={toy} prompts={blank}", "prompts={blank}: the file holds no prompt"),
    ("ckpt={toy} prompts={binary}", "prompts={binary}: no text file"),
    ("ckpt={toy} prompts=", "prompts=: give a path"),
    ("ckpt={toy} 'prompt=a b c d e f'", "has 6 words, the encoder reads 5"),
    ("ckpt={toy} prompt=x n=0", f"n=0: give {WHOLE} 1"),
    ("ckpt={toy} prompt=x n=-3", "n=-3"),
    ("ckpt={toy} prompt=x n=1.5", "n=1.5"),
    ("ckpt={toy} prompt=x n=true", "n=true"),
    ("ckpt={toy} prompt=x n=two", "n=two"),
    ("ckpt={toy} prompt=x n=null", "n=null"),
    ("ckpt={toy} prompt=x n=", "n=: give"),
    ("ckpt={toy} prompt=x batch_size=0", "batch_size=0"),
    ("ckpt={toy} prompt=x batch_size=big", "batch_size=big"),
    ("ckpt={toy} prompt=x seed=-1", "seed=-1: give a whole number from 0 to 2"),
    ("ckpt={toy} prompt=x seed=1.5", "seed=1.5"),
    ("ckpt={toy} prompt=x seed=99999999999999999999", "seed=99999999999999999999"),
    ("ckpt={toy} prompt=x ema=maybe", "ema=maybe: give true or false"),
    ("ckpt={toy} prompt=x ema=1", "ema=1: give true or false"),
    ("ckpt={toy} prompt=x ema=null", "ema=null: give true or false"),
    ("ckpt={toy} prompt=x device=nope", "device=nope: give auto, cpu, cuda"),
    ("ckpt={toy} prompt=x device=cuda", "device=cuda: torch finds no GPU"),
    ("ckpt={toy} prompt=x device=cuda:7", "device=cuda:7: torch finds"),
    ("ckpt={toy} prompt=x device=mps", "device=mps: torch finds no Apple GPU"),
    ("ckpt={toy} prompt=x device=0", "device=0"),
    ("ckpt={toy} prompt=x device=", "device="),
    ("ckpt={toy} prompt=x out=", "out=: give a path"),
    ("ckpt={toy} prompt=x out=null", "out=null: give a path"),
    ("ckpt={toy} prompt=x out={file}", "out={file}: is a file"),
    ("ckpt={toy} prompt=x out={file}/deep", "out={file}/deep: cannot be made"),
    ("ckpt={toy} prompt=x sampler=dddim", "Did you mean sampler=ddim"),
    ("ckpt={toy} prompt=x sampler=3", "sampler=3: there is no such sampler"),
    ("ckpt={toy} prompt=x num_steps=0", "num_steps=0"),
    ("ckpt={toy} prompt=x num_steps=2.5", "num_steps=2.5"),
    ("ckpt={toy} prompt=x num_steps=few", "num_steps=few"),
    ("ckpt={toy} prompt=x guidance_scale=much", "guidance_scale=much"),
    ("ckpt={toy} prompt=x guidance_scale=nan", "guidance_scale=nan"),
    ("ckpt={toy} prompt=x guidance_scale=[1,2]", r"guidance_scale=\[1,2\]"),
    ("ckpt={toy} prompt=x guidance_scale=true", "guidance_scale=true"),
    ("ckpt={toy} prompt=x sheet=interpolation", "sheet=interpolation: this model draws from no latents"),
    ("ckpt={toy} prompt=x sheet=nope", "sheet=nope: choose one of"),
    ("ckpt={toy} promt=x", "Did you mean prompt=x"),
    ("ckpt={toy} prompt=x steps=5", "unknown setting 'steps'"),
    ("ckpt={toy} prompt=x zzz=5", "See python sample.py --help"),
    ("ckpt={toy} prompt=x +foo=5", "nothing reads 'foo'"),
    ("ckpt={toy} prompt=x options=3", "options=3"),
    ("ckpt={toy} prompt=x options.stages=[base]", "stages"),
    ("ckpt={toy} prompt=x --n=3", "without dashes"),
    ("ckpt={toy} prompt=x debug=perhaps", "debug=perhaps"),
    ("ckpt={toy}/resume.yaml prompt=x", "is damaged or not a checkpoint"),
    ("ckpt={zoo} prompt=x +options.foo=1", "options.foo=1: this model takes no 'foo'. It takes stages, guidance_scale, guidance_interval"),
    ("ckpt={zoo} prompt=x 'guidance_scale={{nope: 3}}'", "the model has no stage 'nope'; its stages are base, super_resolution"),
    ("ckpt={zoo} prompt=x 'num_steps={{nope: 3}}'", "the model has no stage 'nope'"),
    ("ckpt={zoo} prompt=x 'num_steps={{base: 0}}'", r"num_steps=\{{base: 0\}}"),
    ("ckpt={zoo} prompt=x 'guidance_scale={{base: x}}'", r"guidance_scale=\{{base: x\}}"),
    ("ckpt={zoo} prompt=x +options.num_steps=0", f"options.num_steps=0: give {WHOLE} 1"),
    ("ckpt={zoo} prompt=x +options.aug_level=2", f"options.aug_level=2: give {SHARE}"),
    ("ckpt={zoo} prompt=x +options.aug_level=much", "options.aug_level=much"),
    ("ckpt={zoo} prompt=x +options.threshold=much", "threshold"),
    ("ckpt={zoo} prompt=x +options.stages=[nope]", "there is no stage 'nope'"),
    ("ckpt={zoo} prompt=x +options.stages=base", "options.stages=base: give a list"),
    ("ckpt={zoo} prompt=x +options.stages=[super_resolution]", "starts from a low-resolution image"),
    ("ckpt={zoo} prompt=x +options.sampler=dimm", "sampler=dimm: there is no such sampler. Did you mean sampler=ddim"),
    ("ckpt={vae} prompt=x", "this model takes no prompt and no label, not prompt="),
    ("ckpt={vae} guidance_scale=3", "guidance_scale"),
    ("ckpt={vae} num_steps=3", "num_steps"),
    ("ckpt={vae} +options.mode=median", "mode='median': choose one of mean, sample"),
    ("ckpt={vae} +options.temperature=-1", "options.temperature=-1"),
    ("ckpt={vae} +options.temperature=hot", "options.temperature=hot"),
    ("ckpt={gan} prompt=x", "this model takes label= or nothing"),
    ("ckpt={gan} label=77", "label=77"),
    ("ckpt={gan} +options.truncation=-1", "truncation"),
    ("ckpt={gan} sheet=both", "sheet=both: choose one of"),
    ("ckpt={classifier}", "a classifier draws no images"),
]
EVALUATING = [
    ("", "what to evaluate"),
    ("ckpt=", "ckpt=: give a checkpoint"),
    ("ckpt=[]", r"ckpt=\[\]: give a checkpoint"),
    ("'ckpt=[a,,b]'", r"ckpt=\[a,,b\]: give a checkpoint"),
    ("ckpt=nope", "ckpt=nope: no such file, run or name"),
    ("'ckpt=[{toy},nope]'", "ckpt=nope: no such file, run or name"),
    ("'ckpt=[{toy},{toy}]' name=x", "name=x for 2 checkpoints"),
    ("ckpt={file}", "{file} is damaged or not a checkpoint"),
    ("ckpt={toy} images={empty}", "give one of ckpt=, images="),
    ("ckpt={toy} reference={empty}", "reference= goes with images="),
    ("ckpt={toy} prompts={blank}", "prompts= goes with images="),
    ("ckpt={toy} n=0", f"n=0: give {WHOLE} 1"),
    ("ckpt={toy} n=many", "n=many"),
    ("ckpt={toy} n=true", "n=true"),
    ("ckpt={toy} batch_size=0", "batch_size=0"),
    ("ckpt={toy} train_images=0", "train_images=0"),
    ("ckpt={toy} device=nope", "device=nope"),
    ("ckpt={toy} device=cuda", "device=cuda: torch finds no GPU"),
    ("ckpt={toy} seed=1.5", "seed=1.5"),
    ("ckpt={toy} seed=-1", "seed=-1"),
    ("ckpt={toy} ema=maybe", "ema=maybe"),
    ("ckpt={toy} wandb=offline", "wandb=offline: give true or false"),
    ("ckpt={toy} precision=half", "precision=half: give auto, float32 or bf16"),
    ("ckpt={toy} splits=iid", "splits=iid: give a list of splits"),
    ("ckpt={toy} splits=[]", r"splits=\[\]: give a list of splits"),
    ("ckpt={toy} splits=[nope]", "nope"),
    ("ckpt={toy} splits=[3]", r"splits=\[3\]"),
    ("ckpt={toy} out=", "out=: give a path"),
    ("ckpt={toy} out={file}", "out={file}: is a file"),
    ("ckpt={toy} name=", "name=: give text"),
    ("ckpt={toy} other_data=[nope]", "other_data=.nope.: there is no data 'nope'; there are captions, cifar10"),
    ("ckpt={toy} other_data=mnist", "other_data=mnist: give a list of data"),
    ("ckpt={toy} importance_samples=50", "importance_samples=50: give a list"),
    ("ckpt={toy} importance_samples=[0]", r"importance_samples=\[0\]: give a list"),
    ("ckpt={toy} importance_samples=[50]", "importance_samples=.*has no such bounds"),
    ("ckpt={toy} num_steps=0", "num_steps=0"),
    ("ckpt={toy} guidance_scale=nan", "guidance_scale=nan"),
    ("ckpt={toy} 'guidance_scale={{nope: 3}}'", "no stage 'nope'"),
    ("ckpt={toy} sweep.guidance_scale=3", "sweep.guidance_scale=3: give a list of numbers"),
    ("ckpt={toy} sweep.guidance_scale=[]", r"sweep.guidance_scale=\[\]: give a list"),
    ("ckpt={toy} sweep.guidance_scale=[a]", r"sweep.guidance_scale=\[a\]: give a list"),
    ("ckpt={toy} sweep.num_steps=[0]", r"sweep.num_steps=\[0\]: give a list"),
    ("ckpt={toy} sweep.num_steps=[1.5]", r"sweep.num_steps=\[1.5\]: give a list"),
    ("ckpt={toy} sweep.sampler=[dddim]", "sampler=dddim: there is no such sampler"),
    ("ckpt={toy} sweep.sampler=ddim", "sweep.sampler=ddim: give a list of samplers"),
    ("ckpt={toy} sweep.stage=base sweep.num_steps=[1]", "sweep.stage=base: the model has no such stage"),
    ("ckpt={toy} sweep=3", "sweep=3"),
    ("ckpt={toy} +sweep.seed=[1]", "sweep.seed=1: this model takes no 'seed'"),
    ("ckpt={toy} +sweep.seed=1", "sweep.seed=1: give a list of values"),
    ("ckpt={toy} sweep.steps=[1]", "unknown setting 'sweep.steps'"),
    ("ckpt={toy} evaluator=best", "evaluator=best: there is no such evaluator"),
    ("ckpt={toy} evaluator.fdd=null", "Did you mean evaluator.fd=null"),
    ("ckpt={toy} evaluator.fd=true", "evaluator"),
    ("ckpt={toy} +evaluator.mine=3", "evaluator"),
    ("ckpt={toy} extractor=vgg", "extractor"),
    ("ckpt={toy} +bogus=1", "nothing reads 'bogus'"),
    ("ckpt={toy} zzz=1", "See python evaluate.py --help"),
    ("ckpt={toy} max_broken=2", f"max_broken=2: give {SHARE}"),
    ("ckpt={toy} allow_lossy=maybe", "allow_lossy=maybe"),
    ("ckpt={classifier}", "a classifier draws no images"),
    ("ckpt={toy} n=4 splits=[val] evaluator=classifier", "classifier.ckpt=null: evaluator.fd_classifier needs a classifier: train one"),
    ("ckpt={toy} n=4 splits=[val] evaluator=classifier classifier.ckpt=nope", "classifier.ckpt=nope: no such file, run or name in zoo/"),
    ("ckpt={toy} n=4 splits=[val] evaluator=classifier classifier.ckpt={empty}", "classifier.ckpt={empty}: no such file, run or name"),
    ("ckpt={toy} evaluator=stacked", "classifier.ckpt=null: evaluator.stacked needs a classifier"),
    ("ckpt={toy} extractor=classifier", "extractor.ckpt=null: evaluator.fd_inf needs a classifier"),
    ("images={empty}", "images= needs reference="),
    ("images=nowhere reference={empty}", "nowhere"),
    ("images={empty} reference={empty}", "{empty}"),
    ("images={empty} reference=nope", "nope|{empty}"),
    ("images={file} reference={empty}", "{file}"),
    ("images= reference={empty}", "images=: give a path"),
    ("images={empty} reference={empty} prompts=nowhere.txt", "prompts=nowhere.txt: no such file"),
    ("images={empty} reference={empty} guidance_scale=2", "guidance_scale= goes with ckpt="),
    ("images={empty} reference={empty} num_steps=2", "num_steps= goes with ckpt="),
    ("compare=x", "compare=x: give a list of finished evaluations"),
    ("compare=[]", r"compare=\[\]: give a list"),
    ("'compare=[nowhere,nope]'", "nowhere"),
    ("'compare=[{empty},{empty}]'", "{empty}"),
    ("'compare=[{file},{file}]'", "{file}"),
]
EXPORTING = [
    ("", "write: python -m runtime.export"),
    ("ckpt={toy}", "write: python -m runtime.export"),
    ("ckpt=nope out={new}", "ckpt=nope: no such file"),
    ("ckpt={file} out={new}", "{file} is damaged or not a checkpoint"),
    ("ckpt={toy} out=", "out="),
    ("ckpt= out={new}", "ckpt="),
    ("ckpt={toy} out={file}", "out={file}: is a file"),
    ("ckpt={toy} out={zoo}", "holds a model already"),
    ("ckpt={toy} out={new} seed=1", "write: python -m runtime.export"),
]
LINES = [
    *(("train", f"{FAMILIES.get(family, TRAIN) if family != 'resume' else ''} {typed}", said) for family, typed, said in TRAINING),
    *(("sample", f"hydra.searchpath=[file://{CONF}] out={{new}} {typed}", said) for typed, said in SAMPLING),
    *(("evaluate", f"hydra.searchpath=[file://{CONF}] {typed}", said) for typed, said in EVALUATING),
    *(("export", typed, said) for typed, said in EXPORTING),
]  # fmt: skip


@pytest.fixture(scope="module")
def places(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Files and runs that the lines name."""
    import torch

    root = tmp_path_factory.mktemp("places")
    found = {name: root / name for name in ("runs", "data", "empty", "file", "blank", "binary", "pickle", "strange", "new")}
    found["empty"].mkdir()
    found["file"].write_text("no checkpoint\n")
    found["blank"].write_text(" \n\n")
    found["binary"].write_bytes(bytes(range(128, 256)))
    torch.save({"weights": torch.optim.Adam}, found["pickle"])
    torch.save({"state_dict": {"a": torch.zeros(1)}}, found["strange"])
    write_class_data(found["data"], "fashion_mnist", num_train=120, num_test=20)
    found |= {name: root / name for name in ("toy", "vae", "gan", "classifier")}
    train.main(overrides("trainer.max_steps=1", "callbacks.samples=null", "callbacks.validate=null", run=found["toy"]))
    found["run"] = found["toy"]
    common = ("trainer.max_steps=1", "callbacks.samples=null", "callbacks.validate=null")
    vae = ("codec=mlp", "codec.encoder.hidden=[8]", "codec.decoder.hidden=[8]", "model.latent_dim=2")
    gan = ("players=mlp", "players.generator.hidden=[8]", "players.discriminator.hidden=[8]", "model.conditional=true")
    for name, more in (("vae", vae), ("gan", gan), ("classifier", ("model.net.dims=[8]",))):
        train.main(small_run(name, root, name, *common, *more))
    return found | {"zoo": REPO / "zoo" / "imagen-scenes"}


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty folder to start the command in."""
    monkeypatch.chdir(tmp_path)
    return tmp_path


def tree(*roots: Path) -> Iterator[tuple[str, int]]:
    """Every file and folder below some places, with when it was last written."""
    for root in roots:
        for path in sorted(root.rglob("*")):
            if path.name != "lock":  # names whoever last held the run, and is not for keeping
                yield str(path), path.stat().st_mtime_ns if path.is_file() else 0


@pytest.mark.parametrize(("command", "line", "said"), LINES, ids=[f"{c} {' '.join(t.split()[-2:])}"[:60] for c, t, _ in LINES])
def test_a_wrong_line_is_answered_in_one(
    command: str, line: str, said: str, places: dict[str, Path], home: Path, capfd: pytest.CaptureFixture, monkeypatch
) -> None:
    names = {name: str(path) for name, path in places.items()}
    typed = [fill(text, names) for text in shlex.split(line)]
    monkeypatch.setattr(sys, "argv", [f"{command}.py", *typed])
    capfd.readouterr()
    before = list(tree(home, places["toy"].parent))
    code = guarded(lambda: MAIN[command](typed))
    printed = capfd.readouterr()
    errors = [text for text in printed.err.splitlines() if text.startswith("error")]
    assert "Traceback" not in printed.err, printed.err[-1500:]
    assert (code, len(errors)) == (2, 1), (code, printed.err[-500:])
    assert re.search(fill(said, {n: re.escape(p) for n, p in names.items()}), errors[0]), errors[0]
    assert len(errors[0]) < 600 and "weights_only" not in errors[0]
    assert list(tree(home, places["toy"].parent)) == before, "something was left behind"


def fill(text: str, names: dict[str, str]) -> str:
    """Text with {place} replaced, other braces left."""
    for name, path in names.items():
        text = text.replace(f"{{{name}}}", path)
    return text.replace("{{", "{").replace("}}", "}")


def test_there_are_many_lines_of_every_kind() -> None:
    assert len(LINES) >= 200 and len(set(LINES)) == len(LINES)
    assert {c for c, *_ in LINES} == set(MAIN)
    assert json.dumps(LINES) and os.environ["WANDB_MODE"] == "offline"
