"""Shapes are found again in soft masks, blurred ones too."""

from __future__ import annotations

import numpy as np
import pytest

from scenes.coverage import FULL, shape_coverage
from scenes.grammar import SHAPES
from scenes.matching import blur_matrix, blurred, fit_shape, soft_iou


@pytest.mark.parametrize("sigma", [0.0, 1.0, 1.4])
@pytest.mark.parametrize("shape", SHAPES)
def test_a_drawn_shape_is_found_with_its_box(shape: str, sigma: float) -> None:
    mask = shape_coverage(shape, 20.4, 19.7, 18.0, 0, 0, 40, 40) / FULL
    if sigma:
        mask = blur_matrix(40, sigma) @ mask @ blur_matrix(40, sigma).T
    fit = fit_shape(mask)
    assert fit.shape == shape and fit.iou > 0.97 and fit.margin > 0.02
    assert fit.x == pytest.approx(20.4, abs=0.1) and fit.y == pytest.approx(19.7, abs=0.1)
    assert fit.side == pytest.approx(18.0, abs=0.15)


def test_overlap_of_masks() -> None:
    left, right = np.zeros((4, 4)), np.zeros((4, 4))
    left[:, :3], right[:, 1:] = 1, 1
    assert soft_iou(left, np.stack((left, right, 1 - left))).tolist() == pytest.approx([1, 0.5, 0])


def test_blur_keeps_what_is_constant_inside_and_the_first_level_is_sharp() -> None:
    matrix = blur_matrix(31, 1.4)
    assert matrix[15].sum() == pytest.approx(1) and np.allclose(matrix, matrix.T)
    templates = np.random.default_rng(0).random((2, 9, 11))
    found = blurred(templates)
    assert found.shape == (4, 2, 9, 11) and np.array_equal(found[0], templates) and found[3].std() < found[1].std()
