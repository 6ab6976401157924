from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch

from networks.text import OpenCLIPText
from networks.text import open_clip as module

CAPTIONS = ["a red circle", "", "two blue squares above a large star"]


@pytest.fixture(scope="module")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> str:
    """A CLIP of three text layers, known to open_clip by name; tokens are narrower than the joint space."""
    import open_clip

    config = {"embed_dim": 24, "vision_cfg": {"image_size": 32, "layers": 1, "width": 64, "patch_size": 16},
              "text_cfg": {"context_length": 16, "vocab_size": 49408, "width": 16, "heads": 2, "layers": 3}}
    path = tmp_path_factory.mktemp("open_clip") / "tiny-clip.json"
    path.write_text(json.dumps(config))
    open_clip.add_model_config(path)
    return "tiny-clip"


@pytest.fixture(scope="module")
def checkpoint(tiny: str, tmp_path_factory: pytest.TempPathFactory) -> Path:
    import open_clip

    torch.manual_seed(7)
    path = tmp_path_factory.mktemp("weights") / "tiny.pt"
    torch.save(open_clip.create_model(tiny).state_dict(), path)
    return path


def test_local_checkpoint_equals_open_clip(tiny: str, checkpoint: Path) -> None:
    import open_clip

    encoder = OpenCLIPText(tiny, str(checkpoint), layer=-1)
    out = encoder.encode(CAPTIONS)
    model = open_clip.create_model(tiny, pretrained=str(checkpoint)).eval()
    tokens = open_clip.get_tokenizer(tiny)(CAPTIONS)
    with torch.no_grad():
        x = model.token_embedding(tokens) + model.positional_embedding
        sequence = model.ln_final(model.transformer(x, attn_mask=model.attn_mask))
        feature = model.encode_text(tokens)
    assert (encoder.dim, encoder.pooled_dim, encoder.max_length) == (16, 24, 16)
    assert out.mask.sum(1).tolist() == (tokens != 0).sum(1).tolist()  # start, words, end
    length = out.mask.shape[1]
    torch.testing.assert_close(out.embeds[out.mask], sequence[:, :length][out.mask], atol=1e-5, rtol=0)
    torch.testing.assert_close(out.pooled, feature, atol=1e-5, rtol=0)
    assert not hasattr(encoder.loaded[1], "visual") and encoder.id == "open_clip/tiny-clip/tiny.pt"


def test_penultimate_layer_changes_the_tokens_only(tiny: str, checkpoint: Path) -> None:
    last, before = OpenCLIPText(tiny, str(checkpoint), layer=-1), OpenCLIPText(tiny, str(checkpoint))
    a, b = last.encode(CAPTIONS), before.encode(CAPTIONS)
    assert torch.equal(a.pooled, b.pooled) and not torch.allclose(a.embeds, b.embeds, atol=1e-3)
    assert last.id != before.id and last.revision == before.revision
    with pytest.raises(ValueError, match="has 3 layers"):
        OpenCLIPText(tiny, str(checkpoint), layer=-4).encode(["a"])


def test_default_layer_is_open_clips_penultimate_one_with_its_final_norm(tiny: str, checkpoint: Path) -> None:
    import open_clip

    model = open_clip.create_model(tiny, pretrained=str(checkpoint)).eval()
    with torch.no_grad():  # as initialised, the final norm has weight 1 and bias 0, and a block changes little
        model.ln_final.weight.copy_(torch.linspace(0.5, 2, 16)), model.ln_final.bias.fill_(0.3)
    tokens = open_clip.get_tokenizer(tiny)(CAPTIONS)
    encoder = OpenCLIPText(tiny, str(checkpoint))
    encoder.loaded[1].ln_final.load_state_dict(model.ln_final.state_dict())
    out = encoder.encode(CAPTIONS)
    seen = []
    model.transformer.resblocks[1].register_forward_hook(  # the second of three
        lambda block, inputs, output: seen.append(output)
    )
    with torch.no_grad():
        model.encode_text(tokens)
        expected = model.ln_final(seen[0])[:, : out.mask.shape[1]]
    torch.testing.assert_close(out.embeds[out.mask], expected[out.mask], atol=1e-5, rtol=0)


def test_the_layer_is_part_of_the_identity(tiny: str, checkpoint: Path) -> None:
    ids = [OpenCLIPText(tiny, str(checkpoint), layer=layer).id for layer in (-1, -2, -3)]
    assert ids == [f"open_clip/tiny-clip/tiny.pt{suffix}" for suffix in ("", "[layer=-2]", "[layer=-3]")]
    assert OpenCLIPText(tiny, str(checkpoint)).id == ids[1]


def test_random_weights_are_the_same_every_time_and_leave_the_generator_alone(tiny: str) -> None:
    torch.manual_seed(1)
    first = OpenCLIPText(tiny, None).encode(CAPTIONS)
    after = torch.rand(1)
    torch.manual_seed(1)
    assert torch.equal(torch.rand(1), after)
    torch.manual_seed(2)
    assert torch.equal(OpenCLIPText(tiny, None).encode(CAPTIONS).embeds, first.embeds)


def test_long_caption_keeps_its_end_mark(tiny: str) -> None:
    encoder = OpenCLIPText(tiny, None)
    with pytest.warns(UserWarning, match="22 tokens, .* at most 16"):
        assert encoder.encode(["red " * 20]).mask.sum() == 16
    ids = encoder._truncate(encoder._tokenize(["red " * 20])[0])
    assert ids[0] == 49406 and ids[-1] == 49407


@pytest.mark.parametrize("name, pretrained, match", [
    ("no-such-model", None, "no model 'no-such-model'"),
    ("ViT-B-32", "no_such_tag", "neither a file nor one of its tags"),
    ("coca_ViT-B-32", None, "no plain causal"), ("ViT-B-16-SigLIP", None, "no plain causal"),
    ("roberta-ViT-B-32", None, "no plain causal")])
def test_what_cannot_be_loaded_is_refused(name: str, pretrained: str | None, match: str) -> None:
    with pytest.raises(ValueError, match=match):
        OpenCLIPText(name, pretrained).encode(["a"])


def test_no_network_is_one_line(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(module, "why_no_hub", lambda: "no network: test")
    monkeypatch.setattr(module, "on_disk", lambda source: None)
    with pytest.raises(FileNotFoundError, match="no network: test.*pretrained=PATH.*text_encoder=minilm") as error:
        OpenCLIPText("ViT-B-32").encode(["a"])
    assert "\n" not in str(error.value)


def test_damaged_checkpoint_is_one_line(tiny: str, tmp_path: Path) -> None:
    (tmp_path / "bad.pt").write_bytes(b"not a checkpoint")
    with pytest.raises(FileNotFoundError, match="cannot load") as error:
        OpenCLIPText(tiny, str(tmp_path / "bad.pt")).encode(["a"])
    assert "\n" not in str(error.value)
