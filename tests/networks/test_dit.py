"""The diffusion transformer: against diffusers, against its definition with tokens, and the paper's parameter counts."""

from __future__ import annotations

import math
from pathlib import Path

import pytest
import torch
import yaml
from torch import Tensor

from networks.dit import DiT, positions
from tests.networks.plain import draw, randomised, silu

REPO = Path(__file__).resolve().parents[2]
SMALL = dict(image_size=8, channels=3, patch_size=2, dim=16, depth=2, head_dim=8)


# ---- against diffusers ----


def from_diffusers(state: dict[str, Tensor], depth: int) -> dict[str, Tensor]:
    """Weights of diffusers' DiTTransformer2DModel under this repository's names."""
    ours = {}

    def take(name: str, *theirs: str) -> None:
        for kind in ("weight", "bias"):
            ours[f"{name}.{kind}"] = torch.cat([state[f"{t}.{kind}"] for t in theirs])

    take("stem", "pos_embed.proj")
    take("modulation", "proj_out_1")
    take("head", "proj_out_2")
    for i, layer in ((0, "linear_1"), (2, "linear_2")):
        take(f"step_embedding.mlp.{i}", f"transformer_blocks.0.norm1.emb.timestep_embedder.{layer}")
    first = ours["step_embedding.mlp.0.weight"]
    ours["step_embedding.mlp.0.weight"] = torch.cat(first.chunk(2, 1)[::-1], 1)  # they put cosines before sines
    for i in range(depth):
        block, theirs = f"blocks.{i}", f"transformer_blocks.{i}"
        take(f"{block}.modulation", f"{theirs}.norm1.linear")
        take(f"{block}.attention.to_q", f"{theirs}.attn1.to_q")
        take(f"{block}.attention.to_kv", f"{theirs}.attn1.to_k", f"{theirs}.attn1.to_v")
        take(f"{block}.attention.to_out", f"{theirs}.attn1.to_out.0")
        take(f"{block}.ff.0", f"{theirs}.ff.net.0.proj")
        take(f"{block}.ff.2", f"{theirs}.ff.net.2")
    return ours


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_the_net_is_that_of_diffusers(dtype: torch.dtype) -> None:
    """Their sinusoids and positions are float32 in every precision, so that float64 comes no closer."""
    diffusers = pytest.importorskip("diffusers")
    torch.manual_seed(0)
    other = diffusers.DiTTransformer2DModel(
        num_attention_heads=2, attention_head_dim=8, in_channels=3, out_channels=6, num_layers=2, sample_size=8,
        patch_size=2, num_embeds_ada_norm=10, norm_eps=1e-6, upcast_attention=False,
    ).eval()  # fmt: skip
    for block in other.transformer_blocks:  # each holds its own copy of the embedding; published weights are all equal
        block.norm1.emb = other.transformer_blocks[0].norm1.emb
    net = DiT(**SMALL | dict(qk_norm=False, out_channels=6)).eval()
    net.load_state_dict(from_diffusers(other.state_dict(), depth=2))
    net, other = net.to(dtype), other.to(dtype)
    x, labels, steps = draw(3, 3, 8, 8).to(dtype), torch.tensor([2, 0, 9]), torch.tensor([0, 37, 999])
    vector = other.transformer_blocks[0].norm1.emb.class_embedder.embedding_table(labels)
    with torch.no_grad():
        theirs = other(x, steps, labels).sample
        ours = net(x, 20 - steps.to(dtype) / 25, vector=vector)
    assert theirs.abs().mean() > 0.1
    assert (ours - theirs).abs().max() < 1e-5


# ---- against its definition ----


def normed(x: Tensor) -> Tensor:
    return (x - x.mean(-1, keepdim=True)) / (x.var(-1, unbiased=False, keepdim=True) + 1e-6).sqrt()


def by_hand(net: DiT, x: Tensor, log_snr: Tensor, vector: Tensor, tokens: Tensor, token_mask: Tensor, channels: Tensor):
    """Patch by patch, with the published order of the six modulations: shift, scale, gate, twice."""
    size, dim = net.patch_size, net.stem.out_channels
    angles = ((20 - log_snr) * 25)[:, None] * 10_000.0 ** (-torch.arange(128, dtype=torch.float64) / 127)
    emb = silu(net.step_embedding.mlp(torch.cat([angles.sin(), angles.cos()], 1)) + vector)
    x = torch.cat([x, channels], 1)
    rows, columns = x.shape[2] // size, x.shape[3] // size
    w = 10_000.0 ** (-torch.arange(dim // 4, dtype=torch.float64) / (dim // 4))
    sequence = []
    for r in range(rows):
        for c in range(columns):
            patch = x[:, :, r * size : (r + 1) * size, c * size : (c + 1) * size].flatten(1)
            place = torch.cat([(c * w).sin(), (c * w).cos(), (r * w).sin(), (r * w).cos()])
            sequence.append(patch @ net.stem.weight.flatten(1).T + net.stem.bias + place)
    h = torch.stack(sequence, 1)
    for block in net.blocks:
        shift_1, scale_1, gate_1, shift_2, scale_2, gate_2 = block.modulation(emb)[:, None].split(dim, -1)
        h = h + gate_1 * block.attention(normed(h) * (1 + scale_1) + shift_1, tokens, token_mask)
        hidden = block.ff[0](normed(h) * (1 + scale_2) + shift_2)
        hidden = 0.5 * hidden * (1 + torch.tanh(math.sqrt(2 / math.pi) * (hidden + 0.044715 * hidden**3)))
        h = h + gate_2 * block.ff[2](hidden)
    shift, scale = net.modulation(emb)[:, None].split(dim, -1)
    h = net.head(normed(h) * (1 + scale) + shift)  # a patch's rows, its columns, its channels
    out = torch.zeros(len(x), net.out_channels, rows * size, columns * size, dtype=x.dtype)
    for i in range(rows * columns):
        r, c = i // columns * size, i % columns * size
        out[:, :, r : r + size, c : c + size] = h[:, i].view(len(x), size, size, -1).permute(0, 3, 1, 2)
    return out


def conditions() -> dict[str, Tensor]:
    mask = torch.tensor([[True, True, False], [True, False, False], [False, False, False]])
    return dict(vector=draw(3, 20), tokens=draw(3, 3, 12), token_mask=mask, channels=draw(3, 2, 6, 10, seed=4))


def test_the_net_is_its_definition_on_images_of_any_shape() -> None:
    net = randomised(DiT(**SMALL, emb_dim=20, tokens_dim=12, cond_channels=2, out_channels=6))
    x, log_snr, cond = draw(3, 3, 6, 10, seed=2), torch.tensor([-20.0, 0.3, 20.0]).double(), conditions()
    out = net(x, log_snr, **cond)
    assert out.shape == (3, 6, 6, 10) and out.abs().mean() > 0.1
    torch.testing.assert_close(out, by_hand(net, x, log_snr, **cond), rtol=1e-6, atol=1e-6)


def test_queries_and_keys_are_normalised_unless_told_otherwise() -> None:
    assert all(b.attention.q_scale is not None for b in DiT(**SMALL).blocks)
    assert all(b.attention.q_scale is None for b in DiT(**SMALL, qk_norm=False).blocks)
    assert all(b.attention.to_q.bias is not None for b in DiT(**SMALL).blocks)


def test_tokens_that_are_not_valid_count_for_nothing() -> None:
    net = randomised(DiT(**SMALL, tokens_dim=12))
    x, level = draw(2, 3, 8, 8), torch.zeros(2).double()
    tokens, mask = draw(2, 4, 12), torch.tensor([[True, True, False, False], [False] * 4])
    out = net(x, level, tokens=tokens, token_mask=mask)
    louder = torch.where(mask[..., None], tokens, 50.0)
    torch.testing.assert_close(net(x, level, tokens=louder, token_mask=mask), out)
    assert (net(x, level, tokens=-tokens, token_mask=mask)[0] - out[0]).abs().max() > 1e-3


def test_starts_at_zero_with_blocks_that_do_nothing() -> None:
    torch.manual_seed(0)
    net = DiT(**SMALL).eval()
    x, level = torch.randn(2, 3, 8, 8), torch.zeros(2)
    assert not net(x, level).any()
    h, emb = torch.randn(2, 5, 16), torch.randn(2, 16)
    assert all(torch.equal(block(h, emb, None, None), h) for block in net.blocks)
    for layer in (net.stem, *(block.ff[0] for block in net.blocks), *(block.attention.to_out for block in net.blocks)):
        bound = math.sqrt(6 / (layer.weight[0].numel() + layer.weight.shape[0]))
        assert bound / 2 < layer.weight.abs().max() <= bound and not layer.bias.any()
    assert 0.01 < net.step_embedding.mlp[2].weight.std() < 0.03


def test_every_parameter_is_used() -> None:
    net = randomised(DiT(**SMALL, tokens_dim=12, cond_channels=1))
    out = net(
        draw(2, 3, 8, 8), torch.zeros(2).double(), vector=draw(2, 16), tokens=draw(2, 3, 12), channels=draw(2, 1, 8, 8)
    )
    out.square().sum().backward()
    assert all(p.grad is not None and p.grad.any() for p in net.parameters())


def test_positions_of_rows_and_columns_differ() -> None:
    table = positions(3, 5, 16, like=torch.zeros(1, dtype=torch.float64)).view(3, 5, 16)
    assert torch.equal(table[0, :, :8], table[2, :, :8]) and torch.equal(table[:, 0, 8:], table[:, 4, 8:])
    assert len({tuple(p.tolist()) for p in table.flatten(0, 1)}) == 15
    fastest = torch.tensor([math.sin(3), math.cos(3), math.sin(2), math.cos(2)], dtype=torch.float64)
    torch.testing.assert_close(table[2, 3, [0, 4, 8, 12]], fastest)


def test_errors_name_the_value() -> None:
    with pytest.raises(ValueError, match="image_size=9 is not a multiple of patch_size=2"):
        DiT(**SMALL | dict(image_size=9))
    with pytest.raises(ValueError, match="dim=18"):
        DiT(**SMALL | dict(dim=18, head_dim=9))
    net = DiT(**SMALL)
    with pytest.raises(ValueError, match="7x8 pixels"):
        net(torch.zeros(1, 3, 7, 8), torch.zeros(1))
    with pytest.raises(ValueError, match="tokens_dim=None"):
        net(torch.zeros(1, 3, 8, 8), torch.zeros(1), tokens=torch.zeros(1, 2, 4))
    with pytest.raises(ValueError, match="cond_channels=0, and is given 2"):
        net(torch.zeros(1, 3, 8, 8), torch.zeros(1), channels=torch.zeros(1, 2, 8, 8))


# ---- sizes ----


@pytest.mark.parametrize(("name", "millions"), [("s2", 33), ("b2", 130), ("l2", 458), ("xl2", 675)])
def test_published_sizes(name: str, millions: int) -> None:
    """The paper counts the table of 1000 classes and the empty one, and not the fixed positions."""
    node = yaml.safe_load((REPO / f"conf/net/dit_{name}.yaml").read_text())
    assert node.pop("_target_") == "networks.dit.DiT"
    with torch.device("meta"):
        net = DiT(**node | dict(image_size=32, channels=4, out_channels=8))
    count = sum(p.numel() for p in net.parameters()) + 1001 * net.emb_dim
    assert round(count / 1e6) == millions


def test_facts_by_number() -> None:
    net = DiT(**SMALL, tokens_dim=12, cond_channels=2)
    facts = (net.image_size, net.channels, net.emb_dim, net.tokens_dim, net.cond_channels, net.out_channels)
    assert facts == (8, 3, 16, 12, 2, 3)
