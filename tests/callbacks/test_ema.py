"""The average against its formula, its life across a resume, and what it leaves alone."""

from __future__ import annotations

from types import SimpleNamespace

import pytest
import torch
from torch import nn

from callbacks.ema import EMA
from tests.sessions import assert_same
from tests.toy import overrides
from train import main

TRAINER = SimpleNamespace(accumulate_grad_batches=1, datamodule=SimpleNamespace(batch_size=32))


def module() -> nn.Module:
    net = nn.Linear(3, 2)
    net.bias.requires_grad_(False)  # stands for a frozen part
    net.batches_seen = 0
    return net


def step(ema: EMA, net: nn.Module) -> None:
    with torch.no_grad():
        net.weight.add_(torch.randn_like(net.weight))
    net.batches_seen += 1
    ema.on_train_batch_end(TRAINER, net)


def test_average_with_warm_up() -> None:
    net, ema = module(), EMA(decay=0.5)
    ema.on_train_start(TRAINER, net)
    expected = net.weight.detach().clone()
    for n in range(20):
        step(ema, net)
        decay = min(0.5, (1 + n) / (10 + n))
        expected = decay * expected + (1 - decay) * net.weight.detach()
    assert set(ema.params) == {"weight"}  # nothing that is frozen
    assert torch.allclose(ema.params["weight"], expected, atol=1e-6)


class TwoPlayers(nn.Module):
    averaged = "ours."

    def __init__(self) -> None:
        super().__init__()
        self.ours, self.theirs = nn.BatchNorm1d(2), nn.BatchNorm1d(2)
        self.batches_seen = 0


def test_statistics_are_averaged_with_their_weights_and_only_the_part_that_is_named() -> None:
    net, ema = TwoPlayers(), EMA(decay=0.1)
    ema.on_train_start(TRAINER, net)
    assert set(ema.params) == {f"ours.{name}" for name in ("weight", "bias", "running_mean", "running_var")}
    net.ours(torch.arange(8.0).view(4, 2))
    net.batches_seen += 1
    ema.on_train_batch_end(TRAINER, net)
    live = net.ours.running_mean.clone()
    assert torch.allclose(ema.params["ours.running_mean"], 0.9 * live) and live.abs().min() > 0
    with ema.applied(net):
        assert torch.allclose(net.ours.running_mean, 0.9 * live)
    assert torch.equal(net.ours.running_mean, live)


def test_half_life_in_images() -> None:
    ema = EMA(decay=None, half_life_images=320)
    ema.on_train_start(SimpleNamespace(accumulate_grad_batches=2, datamodule=SimpleNamespace(batch_size=32)), module())
    assert ema.decay**5 == pytest.approx(0.5)


def test_applied_swaps_and_gives_back_bit_for_bit() -> None:
    net, ema = module(), EMA(decay=0.9)
    ema.on_train_start(TRAINER, net)
    step(ema, net)
    own, address = net.weight.detach().clone(), net.weight.data_ptr()
    with pytest.raises(RuntimeError):
        with ema.applied(net):
            assert torch.equal(net.weight, ema.params["weight"]) and not torch.equal(net.weight, own)
            raise RuntimeError
    assert torch.equal(net.weight, own) and net.weight.data_ptr() == address


@pytest.mark.parametrize("wrong", [{"decay": 1.0}, {"decay": None}, {"decay": 0.9, "half_life_images": 10}])
def test_wrong_settings(wrong: dict) -> None:
    with pytest.raises(ValueError, match="callbacks.ema"):
        EMA(**wrong)


def test_a_longer_run_continues_the_average(tmp_path) -> None:
    fixed = ("model.lr_schedule=null", "callbacks.metrics_log.every_steps=1")  # nothing depends on the length
    main(overrides(*fixed, "trainer.max_steps=8", run=tmp_path / "whole"))
    main(overrides(*fixed, "trainer.max_steps=4", run=tmp_path / "parts"))
    main([f"resume={tmp_path / 'parts'}", "trainer.max_steps=8"])
    a, b = (torch.load(tmp_path / n / "checkpoints/step=00000008.ckpt")["ema"] for n in ("whole", "parts"))
    assert_same(a, b)
    assert a["num_updates"] == 8


def test_accumulated_batches_move_the_average_once() -> None:
    net, ema = module(), EMA(decay=0.5)
    trainer = SimpleNamespace(accumulate_grad_batches=3, datamodule=TRAINER.datamodule)
    ema.on_train_start(trainer, net)
    for batches in range(1, 8):
        net.batches_seen = batches
        ema.on_train_batch_end(trainer, net)
        assert ema.num_updates == batches // 3
