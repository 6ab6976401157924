"""A frozen CLIP: loaded once, never trained, averaged images, captions, and refusals."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from lightning_modules.spaces import reduce
from tests.lightning_modules.stub_clip import EMBED, TOKEN, stub


def test_it_is_loaded_with_the_first_use_and_frozen() -> None:
    clip, model, asked = stub()
    assert asked == [] and not isinstance(clip, nn.Module)
    image = torch.rand(4, 3, 8, 8) * 2 - 1
    found = clip.images(image)
    torch.testing.assert_close(found, F.normalize(image.flatten(1) @ model.projection, dim=1), msg="dropout is off")
    clip.images(image)
    assert asked == ["run"] and clip.identity == "abc" and clip.name == "run"
    assert not model.training and not any(p.requires_grad for p in model.parameters()) and not found.requires_grad


def test_larger_images_are_averaged_and_smaller_ones_refused() -> None:
    clip, _, _ = stub()
    image = torch.rand(2, 3, 16, 16)
    torch.testing.assert_close(clip.images(image), clip.images(reduce(image, 8)))
    smooth = F.interpolate(image[:, :, :12, :12], (8, 8), mode="bilinear", antialias=True)
    torch.testing.assert_close(clip.images(image[:, :, :12, :12]), clip.images(smooth))
    for size in (4, 7):
        with pytest.raises(ValueError, match=f"run reads images of 8 pixels, and these have {size}: choose a larger data.image_size"):
            clip.images(torch.zeros(1, 3, size, size))


def test_captions_are_told_by_vector_tokens_and_which_are_empty() -> None:
    clip, model, _ = stub()
    with torch.autocast("cpu", dtype=torch.bfloat16):  # the stand-in asserts that it is off inside
        found = clip.texts(["a red dog", "", " "])
        clip.images(torch.zeros(1, 3, 8, 8))
    vector, tokens, mask = model.embed_tokens(["a red dog", "", " "])
    assert torch.equal(found["text_vector"], vector) and torch.equal(found["text_embeds"], tokens)
    assert torch.equal(found["text_mask"], mask) and found["text_keep"].tolist() == [True, False, False]
    assert vector.shape == (3, EMBED) and tokens.shape == (3, 4, TOKEN)


def test_long_prompts_are_refused() -> None:
    clip, _, _ = stub()
    clip.check_prompts(["short", "w " * 12])
    with pytest.raises(ValueError, match="the prompt 'w w .* is longer than the text tower of run reads"):
        clip.check_prompts(["short", "w " * 13])


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"ckpt": None}, r"needs a trained CLIP: give clip.ckpt=RUN, a run of model=clip, or clip=open_clip"),
        ({"embed_dim": 7}, "clip.embed_dim=7: run has 6"),
        ({"token_dim": 4}, "clip.token_dim=4: run has 5"),
        ({"image_size": 16}, "clip.image_size=16: run reads images of 8 pixels"),
        ({"load": lambda ckpt: (nn.Linear(1, 1), None, {"sha256": ""})}, "clip.ckpt=run: Linear is no CLIP; a run of model=clip is"),
    ],
)
def test_a_clip_that_is_none_or_of_other_sizes_is_one_clear_line(options: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        stub(**options)[0].texts(["a"])


def test_one_that_is_not_there_says_what_to_give() -> None:
    def load(ckpt: str) -> Any:
        raise FileNotFoundError(f"ckpt={ckpt}: no such file, run or name in zoo/")

    with pytest.raises(FileNotFoundError, match=r"the CLIP of this model is not there \(clip.ckpt=RUN names another\): ckpt=run: no such"):
        stub(load=load)[0].identity


def test_it_follows_the_device() -> None:
    clip, model, _ = stub()
    clip.images(torch.zeros(1, 3, 8, 8))
    assert clip.model("meta")[0].projection.device.type == "meta"


def test_a_tower_by_name_takes_the_checkpoints_place() -> None:
    model = stub()[1]
    model.name, model.identity = "open_clip/x", "def"
    clip = stub(ckpt=None, load=None, tower=model)[0]
    assert (clip.identity, clip.name) == ("def", "open_clip/x")
    torch.testing.assert_close(clip.images(torch.ones(1, 3, 8, 8)), F.normalize(torch.ones(1, 192) @ model.projection, dim=1))
