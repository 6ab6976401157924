"""A configuration from a stranger's checkpoint builds our own parts and nothing else."""

from __future__ import annotations

import pytest
from omegaconf import OmegaConf

from runtime.build import instantiate, instantiate_untrusted

HOSTILE = [
    "os.system",
    "builtins.eval",
    "subprocess.Popen",
    "torch.load",
    "torch.hub.load",
    "pathlib.Path.unlink",
    "files.write_json",
    "runtime.checkpoint_io.sha256",
    "runtime.checkpoint.os.system",  # a prefix alone would let these pass
    "datamodules.decode.Image.open",
    "networks.text.cache.os.remove",
    "diffusion",
    "torch.nn.modules.module.warnings.warn",
    "torch.optim.Optimizer.__init__.__globals__",
    ["os.system"],
]


@pytest.mark.parametrize("target", HOSTILE)
def test_foreign_targets_are_refused(target: object) -> None:
    with pytest.raises(ValueError, match="refused"):
        instantiate_untrusted({"net": [{"_target_": target, "_partial_": True}]})


def test_our_own_targets_are_built() -> None:
    built = instantiate_untrusted(
        {
            "_target_": "torch.nn.Sequential",
            "_args_": [{"_target_": "torch.nn.Linear", "in_features": 2, "out_features": 1}],
        }
    )
    assert sum(p.numel() for p in built.parameters()) == 3
    for target in ("diffusion.samplers.ddim", "runtime.checkpoint.load_module"):
        assert callable(instantiate_untrusted({"_target_": target, "_partial_": True}))


def test_building_leaves_the_configuration_as_it_was() -> None:
    cfg = OmegaConf.create(
        {"place": "here", "part": {"_target_": "torch.nn.Identity", "name": "${place}/x"}, "whole": "${part}"}
    )
    before = OmegaConf.to_container(cfg, resolve=False)
    instantiate(cfg.whole)
    assert OmegaConf.to_container(cfg, resolve=False) == before
