"""Bytes kept for the backward pass: by hand for a net of one layer, and less of them with checkpointing."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensorMode

from benchmarks import activation_memory
from benchmarks.activation_memory import kept, main, measure, table
from networks.checkpointing import checkpoint_blocks
from networks.unet import UNet


class Sine(nn.Module):
    """The sine of a convolution: the convolution keeps its input, the sine its own."""

    cond_channels, tokens_dim = 0, None

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 5, 1)

    def forward(self, x: Tensor, log_snr: Tensor) -> Tensor:
        return self.conv(x).sin()


@pytest.mark.parametrize("fake", [False, True])
def test_what_is_kept_is_counted_once_and_weights_are_not(fake: bool) -> None:
    if fake:
        with FakeTensorMode():
            found = kept(Sine(), 8, 1)
    else:
        found = kept(Sine(), 8, 1)
    assert found == 4 * (3 * 64 + 5 * 64)


def test_inputs_of_checkpointed_blocks_count() -> None:
    net = UNet(image_size=8, dim=8, dim_mults=(1,), num_res_blocks=2, attn_resolutions=(8,), head_dim=8)
    plain = kept(net, 8, 1)
    checkpoint_blocks(net)
    inputs = 4 * 64 * 8 * (1 + 1 + 1 + 2 + 2)  # two blocks down, one between, two up with their skips beside them
    assert inputs < kept(net, 8, 1) < plain


def test_every_stage_of_the_default_has_a_line(monkeypatch: pytest.MonkeyPatch, tmp_path, capsys) -> None:
    monkeypatch.setattr(activation_memory, "RESULTS", tmp_path)
    main(["--model", "imagen"])
    lines = measure("imagen", 128)
    assert [line["stage"] for line in lines] == ["base", "super_resolution"] and [line["size"] for line in lines] == [32, 32]
    assert all(0 < line["checkpointed"] < line["plain"] for line in lines)
    assert table(lines) in capsys.readouterr().out and (tmp_path / "activation_memory.json").is_file()
    with pytest.raises(ValueError, match="--model vae: it has no stages"):
        measure("vae", 1)
