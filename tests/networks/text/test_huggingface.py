from __future__ import annotations

import shutil
import time
import urllib.error
from pathlib import Path

import pytest
import torch

from networks.text import HuggingFaceText
from networks.text import hub, huggingface

CAPTIONS = ["a red circle", "", "a blue square above a red circle"]


@pytest.fixture(scope="module")
def tiny_t5(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A T5 of random weights, decoder included as in the published files, with a tokenizer of a few words."""
    from tokenizers import Tokenizer, models, pre_tokenizers, processors
    from transformers import PreTrainedTokenizerFast, T5Config, T5Model

    folder = tmp_path_factory.mktemp("models") / "tiny-t5"
    words = ["<pad>", "</s>", "<unk>", *"a red blue circle square above".split()]
    tokenizer = Tokenizer(models.WordLevel({w: i for i, w in enumerate(words)}, unk_token="<unk>"))
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    tokenizer.post_processor = processors.TemplateProcessing(single="$A </s>", special_tokens=[("</s>", 1)])
    PreTrainedTokenizerFast(tokenizer_object=tokenizer, pad_token="<pad>", eos_token="</s>",
                            unk_token="<unk>").save_pretrained(folder)
    torch.manual_seed(0)
    config = T5Config(vocab_size=16, d_model=16, d_kv=8, d_ff=32, num_layers=3, num_heads=2, dropout_rate=0.5,
                      decoder_start_token_id=0)
    T5Model(config).save_pretrained(folder)
    return folder


def reference(folder: Path) -> tuple[torch.Tensor, tuple[torch.Tensor, ...], torch.nn.Module]:
    from transformers import T5EncoderModel

    model = T5EncoderModel.from_pretrained(folder).eval()
    ids = torch.tensor([[3, 4, 6, 1, 0, 0, 0, 0], [1] + [0] * 7, [3, 5, 7, 8, 3, 4, 6, 1]])
    with torch.no_grad():
        states = model(input_ids=ids, attention_mask=(ids != 0).long(), output_hidden_states=True).hidden_states
    return ids != 0, states, model


def test_t5_from_a_directory(tiny_t5: Path) -> None:
    encoder = HuggingFaceText(str(tiny_t5))
    out = encoder.encode(CAPTIONS)
    mask, states, _ = reference(tiny_t5)
    assert encoder.id == "tiny-t5" and encoder.dim == 16 and encoder.max_length == 128
    assert torch.equal(out.mask, mask)
    torch.testing.assert_close(out.embeds[mask], states[-1][mask], atol=1e-5, rtol=0)
    torch.testing.assert_close(out.pooled[0], out.embeds[0, :4].mean(0))
    assert type(encoder.loaded[1]).__name__ == "T5EncoderModel"  # the decoder is not in memory
    assert not encoder.loaded[1].training and not any(p.requires_grad for p in encoder.loaded[1].parameters())


def test_penultimate_layer_is_normed(tiny_t5: Path) -> None:
    encoder = HuggingFaceText(str(tiny_t5), layer=-2)
    mask, states, model = reference(tiny_t5)
    with torch.no_grad():
        expected = model.encoder.final_layer_norm(states[-2])
    torch.testing.assert_close(encoder.encode(CAPTIONS).embeds[mask], expected[mask], atol=1e-5, rtol=0)
    assert encoder.id == "tiny-t5[layer=-2]"
    with pytest.raises(ValueError, match="has 4 hidden states"):
        HuggingFaceText(str(tiny_t5), layer=-5).encode(["a"])
    with pytest.raises(ValueError, match="counts from the end"):
        HuggingFaceText(str(tiny_t5), layer=2)


def test_bfloat16_is_close_named_and_returns_float32(tiny_t5: Path) -> None:
    encoder = HuggingFaceText(str(tiny_t5), dtype="bfloat16")
    out, exact = encoder.encode(CAPTIONS), HuggingFaceText(str(tiny_t5)).encode(CAPTIONS)
    assert out.embeds.dtype == torch.float32 and encoder.id == "tiny-t5[bfloat16]"
    assert 0 < (out.embeds - exact.embeds).abs().max() < 0.1
    with pytest.raises(ValueError, match="dtype"):
        HuggingFaceText(str(tiny_t5), dtype="int8")


def test_long_caption_keeps_its_end_mark(tiny_t5: Path) -> None:
    encoder = HuggingFaceText(str(tiny_t5), max_length=4)
    assert encoder._truncate(encoder._tokenize(["a red circle above a blue square"])[0]) == [3, 4, 6, 1]


def test_revision_follows_the_content(tiny_t5: Path, tmp_path: Path) -> None:
    copy = tmp_path / "copy"
    shutil.copytree(tiny_t5, copy)
    assert HuggingFaceText(str(copy)).revision == HuggingFaceText(str(tiny_t5)).revision
    weights = bytearray((copy / "model.safetensors").read_bytes())
    weights[-3] ^= 1
    (copy / "model.safetensors").write_bytes(weights)
    assert HuggingFaceText(str(copy)).revision != HuggingFaceText(str(tiny_t5)).revision


def test_bert_family_through_auto_model(tmp_path: Path, tiny_t5: Path) -> None:
    from transformers import AutoTokenizer, BertConfig, BertModel

    BertModel(BertConfig(vocab_size=16, hidden_size=8, num_hidden_layers=1, num_attention_heads=2, intermediate_size=8,
                         max_position_embeddings=6)).save_pretrained(tmp_path)
    AutoTokenizer.from_pretrained(tiny_t5).save_pretrained(tmp_path)
    encoder = HuggingFaceText(str(tmp_path))
    assert encoder.dim == 8 and encoder.max_length == 6  # its position table ends there
    with pytest.warns(UserWarning, match="at most 6"):
        assert encoder.encode(CAPTIONS).mask.sum(1).tolist() == [4, 1, 6]


def one_line_error(encoder: HuggingFaceText) -> str:
    with pytest.raises(FileNotFoundError) as error:
        encoder.encode(["a dog"])
    assert "\n" not in str(error.value)
    return str(error.value)


def test_directories_that_cannot_be_read(tmp_path: Path, tiny_t5: Path) -> None:
    assert "no config.json" in one_line_error(HuggingFaceText(str(tmp_path)))
    assert "no such directory" in one_line_error(HuggingFaceText(str(tmp_path / "missing")))
    shutil.copytree(tiny_t5, tmp_path / "torn")
    (tmp_path / "torn/model.safetensors").unlink()
    assert "cannot read" in one_line_error(HuggingFaceText(str(tmp_path / "torn")))


def test_missing_vocabulary_is_not_an_empty_one(tiny_t5: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = tmp_path / "t5"
    shutil.copytree(tiny_t5, folder)
    (folder / "tokenizer.json").unlink()
    assert "has no tokenizer" in one_line_error(HuggingFaceText(str(folder)))
    (folder / "spiece.model").write_bytes(b"")
    monkeypatch.setattr(huggingface, "find_spec", lambda name: None)
    assert "pip install sentencepiece" in one_line_error(HuggingFaceText(str(folder)))


def test_offline_switch_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    from huggingface_hub import constants

    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    text = one_line_error(HuggingFaceText("nobody/nothing"))
    assert "nobody/nothing" in text and "HF_HUB_OFFLINE is set" in text and "text_encoder=minilm" in text


@pytest.mark.parametrize("hangs", [True, False])
def test_no_network_fails_fast_in_one_line(monkeypatch: pytest.MonkeyPatch, hangs: bool) -> None:
    from huggingface_hub import constants

    def no_answer(*args: object, **kwargs: object) -> None:
        time.sleep(30 if hangs else 0)  # a name server that never answers, or one that says no
        raise urllib.error.URLError(OSError("Name or service not known"))

    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    monkeypatch.setattr(hub.urllib.request, "urlopen", no_answer)
    start = time.perf_counter()
    text = one_line_error(HuggingFaceText("google/t5-v1_1-small"))
    assert time.perf_counter() - start < hub.PROBE_SEC + 2  # the limit of 1.5 s, and a busy machine
    assert "google/t5-v1_1-small is not on this machine" in text and constants.ENDPOINT in text
    assert "model_id=PATH" in text and ("no answer" if hangs else "Name or service not known") in text


def test_an_error_page_is_a_network(monkeypatch: pytest.MonkeyPatch) -> None:
    from huggingface_hub import constants

    def forbidden(*args: object, **kwargs: object) -> None:
        raise urllib.error.HTTPError("url", 403, "Forbidden", None, None)

    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    monkeypatch.setattr(hub.urllib.request, "urlopen", forbidden)
    assert hub.why_no_hub() is None


def test_hub_cache_is_used_without_network(tiny_t5: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from huggingface_hub import constants

    repo = tmp_path / "models--some--t5"
    (repo / "refs").mkdir(parents=True)
    (repo / "refs/main").write_text("abc123")
    shutil.copytree(tiny_t5, repo / "snapshots/abc123")
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path))
    monkeypatch.setattr(hub, "why_no_hub", lambda: pytest.fail("asked the network"))
    encoder = HuggingFaceText("some/t5")
    assert encoder.encode(["a red circle"]).mask.sum() == 4 and encoder.id == "some/t5"
    assert encoder.revision == HuggingFaceText(str(tiny_t5)).revision


def test_half_a_download_is_not_complete(tiny_t5: Path, tmp_path: Path) -> None:
    folder = tmp_path / "t5"
    shutil.copytree(tiny_t5, folder)
    assert hub.is_complete(folder)
    (folder / "model.safetensors.index.json").write_text(
        '{"weight_map": {"a": "model.safetensors", "b": "model-2.safetensors"}}')
    assert not hub.is_complete(folder)
    (folder / "model-2.safetensors").write_text("")
    assert hub.is_complete(folder)
    (folder / "config.json").unlink()
    assert not hub.is_complete(folder)


def test_layers_count_from_the_end_and_positions_as_the_model_counts_them() -> None:
    with pytest.raises(ValueError, match="layer counts from the end.*got 0"):
        HuggingFaceText("owner/name", layer=0)
    for kind, length in (("roberta", 512), ("bert", 514)):
        encoder = HuggingFaceText("owner/name", max_length=1000)
        encoder._config = {"model_type": kind, "max_position_embeddings": 514}
        assert encoder.max_length == length
