"""The table after equal computation: steps from a measured speed, rows that are kept, and a stand-in for the peer."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import pytest
import torch
from PIL import Image
from torch import Tensor, nn

from benchmarks import diffusion_table
from benchmarks.diffusion_table import INSTALL, Settings, bits, draw, main, make_row, make_rows, steps_in, table
from tests.datamodules.class_data import write_class_data

STAND_IN = {
    "denoising_diffusion_pytorch/__init__.py": """
import torch

class Unet(torch.nn.Linear):
    def __init__(self, dim, dim_mults, channels):
        super().__init__(1, 1)

class GaussianDiffusion(torch.nn.Module):
    def __init__(self, net, image_size, timesteps, sampling_timesteps):
        super().__init__()
        self.net, self.side = net, image_size
        assert timesteps == 1000

    def forward(self, image):
        assert image.shape[1:] == (1, self.side, self.side) and 0 <= image.min() and image.max() <= 1
        return self.net(image.reshape(-1, 1)).square().mean()

    def sample(self, batch_size):
        assert not self.training and not torch.is_grad_enabled()
        return torch.rand(batch_size, 1, self.side, self.side)
""",
    "ema_pytorch.py": """
class EMA:
    def __init__(self, model, beta, update_every):
        self.ema_model = model

    def update(self):
        pass
""",
}


def _stand_in(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    files = dict(STAND_IN)
    for name in ("denoising_diffusion_pytorch", "ema_pytorch"):
        files[f"{name}-0.0.0.dist-info/METADATA"] = f"Metadata-Version: 2.1\nName: {name}\nVersion: 0.0.0\n"
    for name, text in files.items():
        path = tmp_path / "peer" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    monkeypatch.setenv("PYTHONPATH", str(tmp_path / "peer"))


def test_steps_come_from_two_short_trainings() -> None:
    assert steps_in(103.0, few=4.0, many=8.0, probes=(10, 50)) == 1000  # 3 s of start-up, 0.1 s a step
    with pytest.raises(ValueError, match="too few: the start of a training alone takes 3"):
        steps_in(2.0, few=4.0, many=8.0, probes=(10, 50))


class _Model(nn.Module):
    """Counts how often it draws; knows a likelihood of one nat a pixel."""

    def __init__(self) -> None:
        super().__init__()
        self.net, self.batches = nn.Linear(1, 1), 0

    def sample(self, request: object, *, seeds: list[int]) -> Tensor:
        self.batches += 1
        return torch.stack([torch.full((1, 2, 2), (seed % 256) / 127.5 - 1) for seed in seeds])

    def likelihood(self, batch: dict[str, Tensor]) -> dict[str, Tensor]:
        return {"bound_nats": torch.full((len(batch["image"]),), 4 * torch.log(torch.tensor(2.0)).item())}


class _Data:
    class test_dataset:  # noqa: N801
        @staticmethod
        def __getitems__(pairs: list[tuple[int, int]]) -> dict[str, Tensor]:
            return {"image": torch.zeros(len(pairs), 1, 2, 2)}


def test_drawing_goes_on_where_it_was_stopped(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(diffusion_table, "BATCH", 4)
    model = _Model()
    image_u8, cost = draw(model, 10, tmp_path, bf16=False)
    assert image_u8[:, 0, 0, 0].tolist() == list(range(10)) and model.batches == 3 + 1  # one counts the calls
    assert cost["sec_per_image"] > 0
    (tmp_path / "4.npz").unlink()
    again, _ = draw(model, 10, tmp_path, bf16=False)
    assert torch.equal(again, image_u8) and model.batches == 4 + 2


def test_bits_of_a_model_that_knows_them() -> None:
    assert bits(_Model(), _Data(), 60) == {"bound": pytest.approx(1.0)}
    assert bits(nn.Linear(1, 1), _Data(), 60) == {}


def test_rows_with_other_settings_and_failures_are_one_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(diffusion_table, "our_row", lambda *_: {"fd": 1.0})
    make_row("ddpm", Settings(), tmp_path, "python", [])
    assert json.loads((tmp_path / "ddpm" / "row.json").read_text()) == {"fd": 1.0}
    monkeypatch.setattr(diffusion_table, "our_row", lambda *_: pytest.fail("made again"))
    make_row("ddpm", Settings(), tmp_path, "python", [])
    with pytest.raises(ValueError, match="other settings: remove it"):
        make_row("ddpm", Settings(n=5), tmp_path, "python", [])
    with pytest.raises(ModuleNotFoundError, match="pip install denoising-diffusion-pytorch"):
        monkeypatch.setattr(diffusion_table, "peer_versions", _without_peer)
        main(["--rows", "denoising", "--dir", str(tmp_path)])


def _without_peer(*_: object) -> None:
    raise ModuleNotFoundError(INSTALL)


def test_table_shows_what_is_missing_as_a_dash() -> None:
    row = {"fd": 3.14, "cpu_sec": 1200.0, "steps": 1000, "images": 64000, "parameters": 5, "calls": 1, "cpu_sec_per_image": 0.5}
    text = table({"rows": {"real images": {"fd": 0.3}, "gan": row, "ddpm": row | {"bpd": {"bound": 3.9, "ode_density": 3.8}}}})
    lines = [[cell.strip() for cell in line.split("|")] for line in text.splitlines()]
    assert lines[2][2:5] == ["0.30", "–", "–"] and lines[3][2:8] == ["3.14", "–", "–", "20.0", "1,000", "64,000"]
    assert lines[4][3:5] == ["3.900", "3.800"]


@pytest.mark.slow
def test_end_to_end(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_class_data(tmp_path / "data", "fashion_mnist", num_train=120, num_test=60)
    _stand_in(tmp_path, monkeypatch)
    page = tmp_path / "diffusion.md"
    page.write_text("before\n<!-- diffusion_table -->\n<!-- /diffusion_table -->\nafter\n")
    monkeypatch.setattr(diffusion_table, "PAGE", page)
    monkeypatch.setattr(diffusion_table, "PICTURE", tmp_path / "table.png")
    small = ["net.dim=8", "net.head_dim=4", "net.emb_dim=8", "data.num_val=10", "data.batch_size=4", "callbacks.progress=null"]
    command = ["--cpu-minutes", "0.1", "--n", "50", "--likelihood-images", "2", "--dir", str(tmp_path / "rows")]
    command += ["--out", str(tmp_path / "table.json"), "--peer-python", sys.executable, "--jobs", "2"]
    monkeypatch.setattr(diffusion_table, "PROBES", (1, 3))

    def in_this_process(names: list[str], jobs: int, words: list[str], folder: Path) -> None:
        assert jobs == 2 and f"--dir={folder}" in words
        for name in names:
            main(["--only-row", name, *words])

    monkeypatch.setattr(diffusion_table, "make_rows", in_this_process)
    main([*command, "--rows", "flow", "denoising", "--", f"data.root={tmp_path / 'data'}", *small])
    rows = json.loads((tmp_path / "table.json").read_text())["rows"]
    assert list(rows) == ["real images", "flow", "denoising"]
    assert rows["flow"]["calls"] == 49 and rows["denoising"]["calls"] == 250
    assert rows["denoising"]["images"] == 64 * rows["denoising"]["steps"] and rows["denoising"]["cpu_sec"] >= 6
    assert "| flow " in page.read_text() and Image.open(tmp_path / "table.png").size[0] > 400


def test_a_row_that_fails_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    broken = tmp_path / "python"
    broken.write_text("#!/bin/sh\necho first; echo error: no data >&2; exit 2\n")
    broken.chmod(0o755)
    monkeypatch.setattr(diffusion_table.sys, "executable", str(broken))
    with pytest.raises(ValueError, match="row ddpm failed: error: no data"):
        make_rows(["ddpm"], 1, [], tmp_path)
