"""EfficientNet-Lite0: the size it looks at, and weights that are loaded by their order."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from evaluation.extractors.lite0 import EfficientNetLite0, load_by_order


def test_small_images_are_enlarged_and_the_rule_says_so() -> None:
    rule = EfficientNetLite0().resize_rule(28, 28)
    assert rule.startswith("bicubic antialias (28, 28) -> ") and int(rule.split("-> ")[1].split(",")[0]) >= 28
    assert EfficientNetLite0(64).resize_rule(28, 28) == "bicubic antialias (28, 28) -> 64, float"


def test_weights_go_by_their_order_and_shape() -> None:
    net = nn.Sequential(nn.Linear(2, 3), nn.Linear(3, 1))
    given = {f"other.{i}": torch.full_like(value, i) for i, value in enumerate(net.state_dict().values())}
    load_by_order(net, given)
    assert [float(value.flatten()[0]) for value in net.state_dict().values()] == [0, 1, 2, 3]
    with pytest.raises(ValueError, match="the weights hold 3 tensors, the network 4"):
        load_by_order(net, dict(list(given.items())[:3]))
    with pytest.raises(ValueError, match=r"other.1 \(5,\) does not fit 0.bias \(3,\)"):
        load_by_order(net, given | {"other.1": torch.zeros(5)})
