"""The zoo's Imagen computes what it computed when it came into the zoo.

The recording (tests/recorded/imagen_scenes.safetensors) was made then, with the nets, schedules, guidance, thresholds and sampler of that time, from inputs that no random generator enters. The recording
of the model before, made before the house was rebuilt, held until that model was replaced.
"""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor

from diffusion.guidance import guided
from diffusion.samplers import ddim
from diffusion.threshold import thresholded
from lightning_modules.spaces import enlarge
from runtime.checkpoint import load_module

PROMPTS = ["a small red circle left of a large blue square", "three small blue triangles"]
T = torch.tensor([0.3, 0.8])


def waves(size: int, phase: int) -> Tensor:
    """(2, 3, size, size) of about unit variance, the same on every machine."""
    i = torch.arange(2 * 3 * size * size, dtype=torch.float64)
    angle = i * 0.7548776662466927 * (1 + phase) + i**1.5 * 0.01 + phase
    return (2**0.5 * torch.sin(angle)).float().view(2, 3, size, size)


@pytest.fixture(scope="module")
def found() -> dict[str, Tensor]:
    module, _, _ = load_module("imagen-scenes")
    out, lowres = {}, None
    with torch.no_grad():
        for name, stage in module.stages.items():
            size = stage.space.image_size
            fields = module.embed(PROMPTS)
            if lowres is not None:
                fields |= {"lowres": enlarge(lowres, size), "aug_level": torch.full((2,), 0.1)}
            values = {key: c.from_batch(fields) for key, c in stage.conditioners.items()}
            cond = stage.told(values)
            uncond = stage.told({key: stage.conditioners[key].drop(v, torch.zeros(2, dtype=bool)) for key, v in values.items()})
            x, eps, x_0 = waves(size, 1), waves(size, 2), waves(size, 3).clamp(-1, 1)
            out[f"{name}_x_0_hat"] = stage.denoiser(x, T, **cond)
            denoise = thresholded(guided(stage.denoiser, cond, uncond, 2.5), "dynamic", 0.995)
            out[f"{name}_guided"] = denoise(x, T)
            out[f"{name}_loss"] = stage.denoiser.loss(x_0, T, eps, stage.weighting, **cond)
            out[f"{name}_drawn"] = lowres = ddim(denoise, stage.schedule, x, num_steps=4).clamp(-1, 1)
    return out


@pytest.mark.parametrize("stage", ["base", "super_resolution"])
@pytest.mark.parametrize("what", ["x_0_hat", "guided", "loss", "drawn"])
def test_outputs_are_as_recorded(found: dict[str, Tensor], stage: str, what: str) -> None:
    recorded = load_file(Path(__file__).parent / "recorded" / "imagen_scenes.safetensors")[f"{stage}_{what}"]
    torch.testing.assert_close(found[f"{stage}_{what}"][: len(recorded)], recorded, rtol=1e-4, atol=1e-4)
