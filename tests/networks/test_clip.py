"""The towers give what open_clip's give with the same weights; the text tower reads no further than the end mark."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from open_clip.model import CLIP
from torch.nn import functional as F

from networks.clip import (
    OPENAI_MEAN, OPENAI_STD, ContrastiveNet, TextTransformer, Transformer, VisionTransformer, from_open_clip, load_open_clip,
)  # fmt: skip

TEXT = {"context_length": 12, "vocab_size": 600, "width": 32, "heads": 2, "layers": 2}
VIT = {"embed_dim": 16, "vision_cfg": {"image_size": 16, "layers": 2, "width": 128, "patch_size": 4, "mlp_ratio": 2.0}, "text_cfg": TEXT}
RESNET = {"embed_dim": 16, "vision_cfg": {"image_size": 64, "layers": [1, 2, 1, 1], "width": 16, "patch_size": None}, "text_cfg": TEXT}


def peer(config: dict[str, Any], quick_gelu: bool = False) -> CLIP:
    """open_clip's model with every weight moved and every running mean taken, so that nothing is at its neutral start."""
    torch.manual_seed(0)
    model, size = CLIP(**config, quick_gelu=quick_gelu), config["vision_cfg"]["image_size"]
    with torch.no_grad():
        for p in model.parameters():
            p.add_(0.05 * torch.randn_like(p))
        for _ in range(30):
            model.train().encode_image(torch.randn(8, 3, size, size) * torch.rand(8, 1, 1, 1) * 2)
    return model.eval()


def ids() -> torch.Tensor:
    """Two captions of different length, the end mark the largest number."""
    return torch.tensor([[598, 3, 5, 599, *[0] * 8], [598, *range(20, 30), 599]])


@pytest.mark.parametrize(("config", "quick_gelu"), [(VIT, False), (VIT, True), (RESNET, False)])
def test_both_towers_equal_open_clips(config: dict[str, Any], quick_gelu: bool) -> None:
    model = peer(config, quick_gelu)
    net = from_open_clip(config, quick_gelu).eval()
    load_open_clip(net, model.state_dict())
    size = config["vision_cfg"]["image_size"]
    image = torch.stack([torch.rand(3, size, size) ** 3, torch.linspace(0, 1, size).expand(3, size, size)])
    mean, std = (torch.tensor(x)[:, None, None] for x in (OPENAI_MEAN, OPENAI_STD))
    with torch.no_grad():
        theirs = model.encode_image((image - mean) / std, normalize=True)
        torch.testing.assert_close(net.encode_image(2 * image - 1), theirs, atol=1e-6, rtol=1e-5)
        torch.testing.assert_close(net.encode_text(ids()), model.encode_text(ids(), normalize=True), atol=1e-6, rtol=1e-5)
    assert (theirs[0] - theirs[1]).abs().max() > 1e-3, "the images must not look alike to the model"
    assert net.logit_scale.equal(model.logit_scale) and net.logit_bias is None


def test_weights_that_do_not_fit_are_refused() -> None:
    state = peer(VIT).state_dict()
    for broken in ({k: v for k, v in state.items() if k != "visual.proj"}, {**state, "odd": torch.zeros(1)}):
        with pytest.raises(RuntimeError, match="visual.proj|odd"):
            load_open_clip(from_open_clip(VIT), broken)


@pytest.mark.parametrize(
    ("part", "name"), [("text_cfg", "hf_model_name"), ("vision_cfg", "timm_model_name"), ("text_cfg", "no_causal_mask")]
)
def test_other_kinds_of_tower_are_refused_by_the_name_of_what_is_odd(part: str, name: str) -> None:
    with pytest.raises(ValueError, match=name):
        from_open_clip({**VIT, part: {**VIT[part], name: "x"}})


def test_a_caption_ends_at_its_mark() -> None:
    net = from_open_clip(VIT).eval()
    with torch.no_grad():
        alone, beside = net.encode_text(ids()[:1]), net.encode_text(ids())
        torch.testing.assert_close(beside[:1], alone)
        changed = ids()
        changed[0, 5] = 77  # behind the mark
        torch.testing.assert_close(net.encode_text(changed), beside)
        changed[0, 2] = 77
        assert (net.encode_text(changed)[0] - beside[0]).abs().max() > 1e-3


def test_vectors_have_unit_length_and_the_start_is_the_papers() -> None:
    vit = from_open_clip(VIT)
    net = ContrastiveNet(vit.visual, vit.text)
    image = torch.rand(3, 3, 16, 16) * 2 - 1
    for vectors in (net.encode_image(image), net.encode_text(ids())):
        torch.testing.assert_close(vectors.norm(dim=1), torch.ones(len(vectors)))
    torch.testing.assert_close(net.visual(image), vit.visual(image))  # mean and deviation of 0.5 leave [-1, 1] as it is
    assert net.logit_scale.exp().item() == pytest.approx(1 / 0.07) and net.logit_bias is None
    siglip = ContrastiveNet(vit.visual, vit.text, init_logit_scale=10.0, init_logit_bias=-10.0)
    assert siglip.logit_bias.item() == -10 and siglip.logit_scale.item() == pytest.approx(math.log(10))


def test_sizes_that_do_not_divide_are_refused() -> None:
    for vision, line in (({"patch_size": 5}, "image_size=16 is not a multiple of patch_size=5"), ({"width": 100, "head_width": 30}, "width=100 is not a multiple of heads=3")):  # fmt: skip
        with pytest.raises(ValueError, match=line):
            from_open_clip({**VIT, "vision_cfg": {**VIT["vision_cfg"], **vision}})


def test_tokens_of_captions_are_those_behind_the_last_norm_and_their_end_is_the_vector() -> None:
    torch.manual_seed(0)
    net = from_open_clip(VIT).eval()
    ids = torch.zeros(3, 9, dtype=torch.int64)
    for row, length in zip(ids, (2, 7, 4)):
        row[:length] = torch.randint(1, net.text.vocab_size - 1, (length,))
        row[length - 1] = net.text.vocab_size - 1
    vector, tokens, mask = net.encode_tokens(ids)
    torch.testing.assert_close(vector, net.encode_text(ids))
    assert mask.sum(1).tolist() == [2, 7, 4] and tokens.shape[:2] == mask.shape == (3, 7) and mask[:, 0].all()
    for row, end in zip(range(3), (1, 6, 3)):
        torch.testing.assert_close(F.normalize(tokens[row, end] @ net.text.text_projection, dim=0), vector[row])
    alone = net.encode_tokens(ids[:1])
    torch.testing.assert_close(alone[1][0], tokens[0, :2])
    hidden = net.text.transformer(net.text.token_embedding(ids[1:2, :7]) + net.text.positional_embedding[:7], causal=True)
    torch.testing.assert_close(tokens[1:2], net.text.ln_final(hidden))


@pytest.mark.parametrize("causal", [False, True])
def test_a_mask_hides_places_and_an_open_one_changes_nothing(causal: bool) -> None:
    torch.manual_seed(0)
    net = Transformer(8, 2, 2).double()
    x = torch.randn(2, 5, 8, dtype=torch.float64)
    every = torch.ones(2, 5, dtype=torch.bool)
    torch.testing.assert_close(net(x, causal, every), net(x, causal))
    mask = torch.tensor([[True, True, False, True, True], [True] * 5])
    other = x.clone()
    other[0, 2, 0] += 3
    seen = [0, 1, 3, 4]
    torch.testing.assert_close(net(other, causal, mask)[:, seen], net(x, causal, mask)[:, seen])
    torch.testing.assert_close(net(x, causal, mask)[0, seen], net(x[:1, seen], causal)[0])


def test_a_tower_that_reads_noise_starts_as_one_that_does_not_and_is_told_the_level() -> None:
    towers = []
    for noise_levels in (False, True):
        torch.manual_seed(0)
        towers.append(VisionTransformer(8, 16, 8, 32, 1, 2, noise_levels=noise_levels))
    plain, told = towers
    assert not any(name.startswith("level") for name in plain.state_dict())
    image, log_snr = torch.randn(3, 3, 16, 16), torch.tensor([-4.0, 0.0, 6.0])
    torch.testing.assert_close(told(image, log_snr), plain(image))
    torch.nn.init.normal_(told.level.mlp[-1].weight)
    for row in range(3):  # only its own level decides
        torch.testing.assert_close(told(image, log_snr)[row], told(image[row : row + 1], log_snr[row : row + 1])[0])
    assert (told(image, log_snr) - told(image, log_snr.flip(0))).abs().max() > 1e-3
    torch.testing.assert_close(told(image), told(image, torch.full((3,), 20.0)))
    torch.testing.assert_close(told(image, torch.full((3,), 99.0)), told(image))
    net = ContrastiveNet(told, TextTransformer(8, 600, 16, 32, 1, 2))
    torch.testing.assert_close(net.encode_image(image, log_snr), torch.nn.functional.normalize(told(image, log_snr), dim=-1))
