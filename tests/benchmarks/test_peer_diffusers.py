"""The program of diffusers' side: it trains on what the job says, reads the text, and draws at the full size."""

from __future__ import annotations

import json
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from torch.nn import functional as F

pytest.importorskip("diffusers")

from benchmarks.peer_data import batches  # noqa: E402
from benchmarks.peer_diffusers import images_for, main, told, train  # noqa: E402

JOB = {"base_size": 16, "image_size": 32, "steps": 2, "batch": 4, "lr": 1e-3, "guidance_scale": 3.0, "cpu_sec": 0.0, "seed": 0}


def data() -> dict[str, torch.Tensor]:
    g = torch.Generator().manual_seed(0)
    return {
        "images_u8": torch.randint(256, (6, 3, 32, 32), generator=g, dtype=torch.uint8), "text_of": torch.arange(6) % 3,
        "embeds": torch.randn(3, 5, 24, generator=g), "mask": torch.ones(3, 5, dtype=torch.bool), "prompt_text": torch.tensor([2, 0, 1]),
    }  # fmt: skip


def test_a_dropped_caption_is_one_token_of_zeros() -> None:
    found = told(torch.ones(2, 3, 4), torch.tensor([[True, True, False], [True, True, True]]), torch.tensor([True, False]))
    assert found["encoder_attention_mask"].tolist() == [[True, True, False], [True, False, False]]
    assert found["encoder_hidden_states"][0].eq(1).all() and found["encoder_hidden_states"][1].eq(0).all()


def test_it_trains_at_the_rate_and_the_pictures_depend_on_the_text() -> None:
    torch.manual_seed(0)
    net, facts = train(JOB, data())
    assert facts["steps"] == 1 and facts["images"] == 4 and facts["parameters"] == sum(p.numel() for p in net.parameters())
    with torch.no_grad():  # it starts with an output of nearly nothing; what it is told has to reach it
        [p.mul_(3) for p in net.parameters()]
    text, drawn = data(), []
    for rows in ([0, 0], [0, 1]):
        torch.manual_seed(1)
        drawn.append(images_for(net, JOB, text["embeds"][rows], text["mask"][rows]))
    assert drawn[0].shape == (2, 3, 32, 32)
    assert torch.allclose(drawn[0][0], drawn[1][0], atol=1e-4) and not torch.allclose(drawn[0][1], drawn[1][1], atol=1e-3)


def test_the_program_leaves_pictures_and_a_report(tmp_path: Path) -> None:
    threads = torch.get_num_threads()
    torch.save(data(), tmp_path / "data.pt")
    (tmp_path / "job.json").write_text(json.dumps(JOB | {"data": str(tmp_path / "data.pt"), "out": str(tmp_path / "out.pt")}))
    main(str(tmp_path / "job.json"))
    torch.set_num_threads(threads)
    found = torch.load(tmp_path / "out.pt", weights_only=True)
    assert found["images_u8"].shape == (3, 3, 32, 32) and found["images_u8"].dtype == torch.uint8
    assert {"steps", "images", "cpu_sec", "parameters", "sec_per_image"} <= set(found["report"])
    assert next(batches(data(), 4, 0.0))[0].shape == (4, 3, 32, 32)


def test_it_trains_on_images_between_minus_one_and_one_at_the_small_size(monkeypatch: pytest.MonkeyPatch) -> None:
    from diffusers import DDPMScheduler

    seen: list[torch.Tensor] = []
    add_noise = DDPMScheduler.add_noise
    monkeypatch.setattr(DDPMScheduler, "add_noise", lambda self, x_0, eps, t: (seen.append(x_0), add_noise(self, x_0, eps, t))[1])
    torch.manual_seed(0)
    train(JOB, data())
    small = F.interpolate(data()["images_u8"].float() / 127.5 - 1, size=16, mode="area")
    assert len(seen) == 1 and all(any(torch.allclose(image, other) for other in small) for image in seen[0])


@pytest.mark.parametrize(("scale", "level"), [(1.0, 0.5), (0.0, -0.5), (1.5, 1.0)])
def test_guidance_goes_from_no_caption_to_the_caption(scale: float, level: float) -> None:
    """A net that knows that pictures with a caption are all 0.5 and those without are all -0.5."""
    from diffusers import DDPMScheduler

    alphas = DDPMScheduler().alphas_cumprod

    def net(x, t, encoder_hidden_states, encoder_attention_mask):
        x_0 = torch.where(encoder_hidden_states.abs().sum((1, 2)) > 0, 0.5, -0.5)[:, None, None, None]
        return SimpleNamespace(sample=(x - alphas[t].sqrt() * x_0) / (1 - alphas[t]).sqrt())

    text = data()
    found = images_for(net, JOB | {"guidance_scale": scale, "steps": 20}, text["embeds"], text["mask"])
    torch.testing.assert_close(found, torch.full((3, 3, 32, 32), (level + 1) / 2), rtol=0, atol=0.02)
