"""What the programs of peers share: batches within a time, each image with its own text, and pictures in the order of the prompts."""

from __future__ import annotations

import json
from pathlib import Path

import torch

from benchmarks.peer_data import Data, batches, draw, read_job


def data(images: int = 6) -> Data:
    """Image i is all i and has text 5 - i, which is all 10 * (5 - i)."""
    value = torch.arange(6)
    return {
        "images_u8": value[:images, None, None, None].expand(-1, 3, 4, 4).to(torch.uint8), "text_of": 5 - value[:images],
        "embeds": 10.0 * value[:, None, None].expand(-1, 2, 3), "mask": torch.arange(2)[None] <= value[:, None] % 2, "prompt_text": torch.tensor([4, 0, 1]),
    }  # fmt: skip


def test_batches_hold_images_with_their_own_texts_and_every_image_once_a_pass() -> None:
    torch.manual_seed(0)
    found, given = [], batches(data(), 2, cpu_sec=60.0)
    for _ in range(6):
        image_u8, embeds, mask = next(given)
        assert torch.equal(embeds[:, 0, 0], 10.0 * (5 - image_u8[:, 0, 0, 0].float()))
        assert torch.equal(mask[:, 1], (5 - image_u8[:, 0, 0, 0].long()) % 2 == 1)
        found += image_u8[:, 0, 0, 0].tolist()
    assert sorted(found[:6]) == sorted(found[6:]) == list(range(6)) and found[:6] != found[6:]


def test_the_time_ends_them_after_one_batch_at_least_and_few_images_are_repeated() -> None:
    assert len(list(batches(data(), 2, cpu_sec=0.0))) == 1
    [(image_u8, _, _)] = list(batches(data(2), 5, cpu_sec=0.0))
    assert len(image_u8) == 5


def test_pictures_are_drawn_in_the_order_of_the_prompts_and_rounded() -> None:
    found = draw(data(), 2, lambda embeds, mask: (embeds[:, 0, 0] / 40)[:, None, None, None].expand(-1, 3, 4, 4))
    assert found.dtype == torch.uint8 and found[:, 0, 0, 0].tolist() == [255, 0, 64]
    assert draw(data(), 3, lambda embeds, mask: embeds.new_full((len(embeds), 3, 4, 4), 1.2)).unique().tolist() == [255]


def test_a_job_names_its_data_and_seed(tmp_path: Path) -> None:
    threads = torch.get_num_threads()
    torch.save(data(), tmp_path / "data.pt")
    (tmp_path / "job.json").write_text(json.dumps({"data": str(tmp_path / "data.pt"), "seed": 7}))
    job, found = read_job(str(tmp_path / "job.json"))
    first = torch.rand(1)
    assert job["seed"] == 7 and torch.equal(found["text_of"], data()["text_of"]) and torch.get_num_threads() == 1
    read_job(str(tmp_path / "job.json"))
    assert torch.equal(torch.rand(1), first)
    torch.set_num_threads(threads)
