"""The side of pythae, run by its own Python: needs torch and pythae, and the nets of this repository.

python -m benchmarks.peer_pythae JOB.json, written by benchmarks.vae_pythae. The job names a file of tensors (train_u8
(N, C, S, S), test (M, C, S, S) of zeros and ones), the nets, the settings, and where weights and numbers go.
"""

from __future__ import annotations

import json
import sys
import time
from pathlib import Path
from typing import Any

import torch
from pythae.data.datasets import DatasetOutput
from pythae.models import VAE, VAEConfig
from pythae.models.base.base_utils import ModelOutput
from pythae.models.nn import BaseDecoder, BaseEncoder
from pythae.trainers import BaseTrainer, BaseTrainerConfig
from torch import Tensor, nn
from torch.utils.data import Dataset

from networks import autoencoder


class DynamicallyBinarized(Dataset):
    """Grey values are probabilities of white, drawn anew at every access; pythae has no such data set of its own."""

    def __init__(self, image_u8: Tensor) -> None:
        self.probability = image_u8.float() / 255

    def __len__(self) -> int:
        return len(self.probability)

    def __getitem__(self, index: int) -> DatasetOutput:
        return DatasetOutput(data=torch.bernoulli(self.probability[index]))


class Encoder(BaseEncoder):
    """One of our encoders as pythae calls its own: images of zeros and ones -> mean and log-variance."""

    def __init__(self, net: nn.Module) -> None:
        super().__init__()
        self.net = net

    def forward(self, x: Tensor) -> ModelOutput:
        mean, log_var = self.net(2 * x - 1).chunk(2, dim=-1)
        return ModelOutput(embedding=mean, log_covariance=log_var)


class Decoder(BaseDecoder):
    """One of our decoders as pythae calls its own: latents -> probabilities of white."""

    def __init__(self, net: nn.Module) -> None:
        super().__init__()
        self.net = net

    def forward(self, z: Tensor) -> ModelOutput:
        return ModelOutput(reconstruction=torch.sigmoid(self.net(z)))


def build(job: dict[str, Any], shape: tuple[int, int, int]) -> VAE:
    """pythae's VAE around nets (class name, arguments) of networks/autoencoder.py, for binary images of a shape."""
    (encoder, encoder_args), (decoder, decoder_args), d = job["encoder"], job["decoder"], job["latent_dim"]
    channels, side, _ = shape
    return VAE(
        VAEConfig(input_dim=shape, latent_dim=d, reconstruction_loss="bce"),
        Encoder(getattr(autoencoder, encoder)(side, channels, 2 * d, **encoder_args)),
        Decoder(getattr(autoencoder, decoder)(side, channels, d, **decoder_args)),
    )


def train(job: dict[str, Any], image_u8: Tensor) -> tuple[VAE, dict[str, Any]]:
    """The model that pythae's trainer keeps, and facts of the training; what is not in the job is at its default."""
    settings = BaseTrainerConfig(
        output_dir=job["dir"],
        num_epochs=job["epochs"],
        per_device_train_batch_size=job["batch"],
        seed=job["seed"],
        no_cuda=True,
        learning_rate=job["learning_rate"],
    )
    model, dataset = build(job, tuple(image_u8.shape[1:])), DynamicallyBinarized(image_u8)
    trainer = BaseTrainer(model=model, train_dataset=dataset, training_config=settings)
    began = time.perf_counter()
    trainer.train()
    train_sec = time.perf_counter() - began
    return VAE.load_from_folder(str(Path(trainer.training_dir) / "final_model")), {
        "train_sec": train_sec,
        "images": job["epochs"] * len(dataset),
        "parameters": sum(p.numel() for p in model.parameters()),
        "optimizer": settings.optimizer_cls,
        "precision": "32-true",  # the trainer has no other on a CPU, nor for this likelihood
    }


def main(job_file: str) -> None:
    job = json.loads(Path(job_file).read_text())
    torch.set_num_threads(job["threads"])
    torch.manual_seed(job["seed"])
    data = torch.load(job["data"], weights_only=True)
    model, report = train(job, data["train_u8"])
    began = time.perf_counter()
    with torch.no_grad():
        # It returns the mean of log p(x), whatever its name says. With fewer samples than its batch_size it would draw
        # batch_size of them, and it drops what is left over from whole batches.
        report["get_nll_nats"] = -float(model.eval().get_nll(data["test"], n_samples=job["k"], batch_size=job["k"]))
    report["check_sec"] = time.perf_counter() - began
    weights = {"encoder": model.encoder.net.state_dict(), "decoder": model.decoder.net.state_dict()}
    torch.save({"weights": weights, "report": report}, job["out"])


if __name__ == "__main__":
    main(sys.argv[1])
