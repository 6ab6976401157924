"""Cells are as dark as pairs are near, rows are images, and own pairs have a frame."""

from __future__ import annotations

import torch

from evaluation.pictures.similarity_matrix import CELL, HIGH, LOW, TOP, similarity_matrix


def test_rows_are_images_and_dark_is_near() -> None:
    images = torch.zeros(3, 3, 8, 8, dtype=torch.uint8)
    images[1, 0] = 255
    cosine = torch.tensor([[0.5, 0.1, 0.1], [0.9, 0.5, 0.1], [-0.3, 0.1, 0.5]])
    picture = similarity_matrix(images, ["one", "two", "three"], cosine)

    def colour(row: int, column: int) -> tuple[int, ...]:
        return picture.getpixel((CELL * (column + 1) + 5, TOP + CELL * row + 5))

    assert colour(1, 0) == HIGH and colour(2, 0) == LOW and colour(0, 1) != colour(0, 0)
    assert picture.getpixel((CELL // 2, TOP + CELL + CELL // 2)) == (255, 0, 0)
    corner = [picture.getpixel((CELL * (j + 1) + 1, TOP + 1)) for j in range(2)]
    assert corner[0] == (0, 0, 0) != corner[1]


def test_one_shade_where_all_are_as_near() -> None:
    picture = similarity_matrix(torch.zeros(2, 1, 4, 4, dtype=torch.uint8), ["a", "b"], torch.ones(2, 2))
    assert picture.getpixel((CELL * 2 + 5, TOP + 5)) == LOW
