from __future__ import annotations

from pathlib import Path

import pytest
from hydra.utils import instantiate
from omegaconf import OmegaConf

FOLDER = Path(__file__).parents[3] / "conf/text_encoder"


@pytest.mark.parametrize("path", sorted(FOLDER.glob("*.yaml")), ids=lambda p: p.stem)
def test_every_config_builds_without_disk_or_network_and_states_its_width(path: Path, tmp_path: Path) -> None:
    config = OmegaConf.create({"paths": {"cache": str(tmp_path / "cache")}, "text_encoder": OmegaConf.load(path)})
    encoder = instantiate(config.text_encoder, _convert_="all")
    inner = getattr(encoder, "encoder", encoder)
    assert config.text_encoder.dim == encoder.dim == inner.dim
    assert inner._loaded is None and not (tmp_path / "cache").exists()
    assert encoder.id
