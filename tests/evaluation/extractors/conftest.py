"""A machine without weights and without a network."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from evaluation.extractors import weights as weights_file


@pytest.fixture
def no_network(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """An empty cache, and an address that nothing answers on."""
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    monkeypatch.setattr(torch.hub, "get_dir", lambda: str(tmp_path / "hub"))
    monkeypatch.setattr(weights_file, "hub_cached", lambda repo, names: None)
    for module in ("open_clip", "dinov2"):
        monkeypatch.setattr(f"evaluation.extractors.{module}.hub_cached", lambda repo, names: None)
