"""CLIP's two towers: an image and a caption each become one vector, close where they fit each other."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from networks.clip_resnet import ResNetTower
from networks.conditioners import LevelEmbedding

CLEAN_LOG_SNR = 20.0  # what a tower that is told noise levels is told of a clean image


class Block(nn.Module):
    """Attention, then a two-layer perceptron, each behind a norm; names as open_clip has them.

    Args:
        quick_gelu: x sigmoid(1.702 x) in place of GELU, as OpenAI's weights have it.
    """

    def __init__(self, width: int, heads: int, mlp_ratio: float, quick_gelu: bool) -> None:
        super().__init__()
        hidden = int(width * mlp_ratio)
        self.ln_1, self.attn = nn.LayerNorm(width), SelfAttention(width, heads)
        self.ln_2 = nn.LayerNorm(width)
        self.mlp = nn.ModuleDict({"c_fc": nn.Linear(width, hidden), "c_proj": nn.Linear(hidden, width)})
        self.quick_gelu = quick_gelu

    def forward(self, x: Tensor, causal: bool, seen: Tensor | None = None) -> Tensor:
        """(B, L, width) -> the same; `seen` as of `SelfAttention`."""
        x = x + self.attn(self.ln_1(x), causal, seen)
        hidden = self.mlp["c_fc"](self.ln_2(x))
        hidden = hidden * torch.sigmoid(1.702 * hidden) if self.quick_gelu else F.gelu(hidden)
        return x + self.mlp["c_proj"](hidden)


class SelfAttention(nn.Module):
    """Multi-head attention of a sequence on itself; parameters as those of nn.MultiheadAttention."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.in_proj_weight, self.in_proj_bias = nn.Parameter(torch.empty(3 * width, width)), nn.Parameter(torch.zeros(3 * width))
        self.out_proj = nn.Linear(width, width)

    def forward(self, x: Tensor, causal: bool, seen: Tensor | None = None) -> Tensor:
        """(B, L, width) -> the same.

        Args:
            causal: a place sees itself and what is before it.
            seen: (B, 1, L, L) bool, which place (third) sees which (last); given, `causal` is not read.
        """
        batch, length, _ = x.shape
        qkv = F.linear(x, self.in_proj_weight, self.in_proj_bias)
        q, k, v = qkv.view(batch, length, 3, self.heads, -1).permute(2, 0, 3, 1, 4)  # (B, heads, L, width / heads) each
        if seen is None:
            out = F.scaled_dot_product_attention(q, k, v, is_causal=causal)
        else:
            out = F.scaled_dot_product_attention(q, k, v, attn_mask=seen)
        return self.out_proj(out.transpose(1, 2).reshape(batch, length, -1))


def check_width(width: int, heads: int) -> None:
    """Raises ValueError for a width that does not hold so many heads."""
    if width < 1:
        raise ValueError(f"width={width}: at least 1")
    if width % heads:
        raise ValueError(f"width={width} is not a multiple of heads={heads}")


class Transformer(nn.Module):
    """A stack of blocks, initialised as CLIP's."""

    def __init__(self, width: int, layers: int, heads: int, mlp_ratio: float = 4.0, quick_gelu: bool = False) -> None:
        super().__init__()
        self.resblocks = nn.ModuleList(Block(width, heads, mlp_ratio, quick_gelu) for _ in range(layers))
        out_std = (2 * layers * width) ** -0.5
        for block in self.resblocks:
            nn.init.normal_(block.attn.in_proj_weight, std=width**-0.5)
            nn.init.normal_(block.attn.out_proj.weight, std=out_std)
            nn.init.normal_(block.mlp["c_fc"].weight, std=(2 * width) ** -0.5)
            nn.init.normal_(block.mlp["c_proj"].weight, std=out_std)

    def forward(self, x: Tensor, causal: bool = False, mask: Tensor | None = None) -> Tensor:
        """(B, L, width) -> the same.

        Args:
            mask: (B, L) bool, False for places that no other one sees; where `causal`, the first of each row is True.
        """
        seen = None
        if mask is not None:
            seen = mask[:, None, None, :].expand(-1, 1, x.shape[1], -1)  # (B, 1, L, L)
            seen = seen.tril() if causal else seen
        for block in self.resblocks:
            x = block(x, causal, seen)
        return x


class VisionTransformer(nn.Module):
    """Patches and a class token through a transformer; the class token is the image's vector.

    Args:
        embed_dim: of the space shared with captions.
        image_size, patch_size: pixels; the first is a multiple of the second.
        noise_levels: whether it reads noised images and is told their level, added to the class token; zero at first.
    Source: Dosovitskiy et al. 2021 (ViT); Radford et al. 2021, section 2.4 (the norm before the transformer)
    """

    def __init__(
        self, embed_dim: int, image_size: int, patch_size: int, width: int, layers: int, heads: int,
        mlp_ratio: float = 4.0, channels: int = 3, quick_gelu: bool = False, noise_levels: bool = False,
    ) -> None:  # fmt: skip
        super().__init__()
        if image_size % patch_size:
            raise ValueError(f"image_size={image_size} is not a multiple of patch_size={patch_size}")
        check_width(width, heads)
        scale = width**-0.5
        self.conv1 = nn.Conv2d(channels, width, patch_size, stride=patch_size, bias=False)
        self.class_embedding = nn.Parameter(scale * torch.randn(width))
        self.positional_embedding = nn.Parameter(scale * torch.randn((image_size // patch_size) ** 2 + 1, width))
        self.ln_pre, self.ln_post = nn.LayerNorm(width), nn.LayerNorm(width)
        self.transformer = Transformer(width, layers, heads, mlp_ratio, quick_gelu)
        self.proj = nn.Parameter(scale * torch.randn(width, embed_dim))
        self.level = LevelEmbedding(width, scale=CLEAN_LOG_SNR) if noise_levels else None
        if self.level is not None:
            nn.init.zeros_(self.level.mlp[-1].weight)
            nn.init.zeros_(self.level.mlp[-1].bias)

    def forward(self, image: Tensor, log_snr: Tensor | None = None) -> Tensor:
        """(B, C, S, S) -> (B, embed_dim), not normalised; log_snr (B,) of noised images, None for clean ones."""
        x = self.conv1(image).flatten(2).transpose(1, 2)  # (B, patches, width)
        token = self.class_embedding.to(x).expand(len(x), 1, -1)
        if self.level is not None:
            log_snr = torch.full((len(x),), CLEAN_LOG_SNR, device=x.device) if log_snr is None else log_snr
            token = token + self.level(log_snr.clamp(-CLEAN_LOG_SNR, CLEAN_LOG_SNR)).to(x)[:, None]
        x = torch.cat([token, x], dim=1)
        x = self.transformer(self.ln_pre(x + self.positional_embedding))
        return self.ln_post(x[:, 0]) @ self.proj


class TextTransformer(nn.Module):
    """Tokens through a causal transformer; what stands at the end mark, the largest number, is the caption's vector.

    Source: Radford et al. 2021, section 2.4
    """

    def __init__(
        self, embed_dim: int, vocab_size: int, context_length: int, width: int, layers: int, heads: int,
        mlp_ratio: float = 4.0, quick_gelu: bool = False,
    ) -> None:  # fmt: skip
        super().__init__()
        check_width(width, heads)
        self.vocab_size, self.context_length = vocab_size, context_length
        self.token_embedding = nn.Embedding(vocab_size, width)
        self.positional_embedding = nn.Parameter(0.01 * torch.randn(context_length, width))
        self.transformer = Transformer(width, layers, heads, mlp_ratio, quick_gelu)
        self.ln_final = nn.LayerNorm(width)
        self.text_projection = nn.Parameter(width**-0.5 * torch.randn(width, embed_dim))
        nn.init.normal_(self.token_embedding.weight, std=0.02)

    def forward(self, ids: Tensor) -> Tensor:
        """int64 (B, L), L at most `context_length` -> (B, embed_dim), not normalised."""
        x, end = self._read(ids)
        return self.ln_final(x[torch.arange(len(x), device=x.device), end]) @ self.text_projection

    def with_tokens(self, ids: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """The caption's vector (B, embed_dim), and its tokens (B, L, width) behind the last norm with their mask (B, L) bool."""
        x, end = self._read(ids)
        x = self.ln_final(x)
        mask = torch.arange(x.shape[1], device=x.device) <= end[:, None]
        return x[torch.arange(len(x), device=x.device), end] @ self.text_projection, x, mask

    def _read(self, ids: Tensor) -> tuple[Tensor, Tensor]:
        """What the transformer gives (B, L, width) up to the longest caption's end, and where each one ends (B,)."""
        end = ids.argmax(1)
        ids = ids[:, : int(end.max()) + 1]  # nothing looks at what is behind the end
        ids, end = (numbers.to(self.token_embedding.weight.device) for numbers in (ids, end))  # from the CPU: finding the end waits for no GPU
        x = self.token_embedding(ids) + self.positional_embedding[: ids.shape[1]]
        return self.transformer(x, causal=True), end


class ContrastiveNet(nn.Module):
    """Both towers with the temperature they share.

    Args:
        visual: images (B, C, S, S) -> (B, E).
        text: token numbers (B, L) -> (B, E).
        image_mean, image_std: of images in [0, 1], what the image tower is given is normalised by; 0.5 is [-1, 1].
        init_logit_scale: inverse temperature at the start.
        init_logit_bias: of SigLIP, None for CLIP.
    Source: Radford et al. 2021; Zhai et al. 2023 (bias -10, inverse temperature 10 at the start)
    """

    def __init__(
        self, visual: nn.Module, text: nn.Module, *, image_mean: tuple[float, ...] = (0.5,), image_std: tuple[float, ...] = (0.5,),
        init_logit_scale: float = 1 / 0.07, init_logit_bias: float | None = None,
    ) -> None:  # fmt: skip
        super().__init__()
        self.visual, self.text = visual, text
        self.register_buffer("image_mean", torch.tensor(image_mean)[:, None, None], persistent=False)
        self.register_buffer("image_std", torch.tensor(image_std)[:, None, None], persistent=False)
        self.logit_scale = nn.Parameter(torch.tensor(math.log(init_logit_scale)))
        self.logit_bias = None if init_logit_bias is None else nn.Parameter(torch.tensor(float(init_logit_bias)))

    def encode_image(self, image: Tensor, log_snr: Tensor | None = None) -> Tensor:
        """(B, C, S, S) in [-1, 1] -> unit vectors (B, E), float32; log_snr (B,) of noised images, where the tower reads it."""
        told = () if log_snr is None else (log_snr,)
        return F.normalize(self.visual(((image + 1) / 2 - self.image_mean) / self.image_std, *told).float(), dim=-1)

    def encode_text(self, ids: Tensor) -> Tensor:
        """Token numbers (B, L) -> unit vectors (B, E), float32."""
        return F.normalize(self.text(ids).float(), dim=-1)

    def encode_tokens(self, ids: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Token numbers (B, L) -> unit vectors (B, E), the captions' tokens (B, L', W) and their mask (B, L') bool, float32."""
        vector, tokens, mask = self.text.with_tokens(ids)
        return F.normalize(vector.float(), dim=-1), tokens.float(), mask


OPENAI_MEAN, OPENAI_STD = (0.48145466, 0.4578275, 0.40821073), (0.26862954, 0.26130258, 0.27577711)


def from_open_clip(config: Mapping[str, Any], quick_gelu: bool = False) -> ContrastiveNet:
    """The net that an open_clip configuration describes, with random weights; `load_open_clip` fills it.

    Args:
        config: of `open_clip.get_model_config`, with a ViT or a ResNet and a plain causal text tower.
    Raises: ValueError for another kind of tower.
    """
    vision, text, embed_dim = dict(config["vision_cfg"]), dict(config["text_cfg"]), config["embed_dim"]
    known = ({"image_size", "layers", "width", "patch_size", "head_width", "mlp_ratio"},
             {"context_length", "vocab_size", "width", "heads", "layers", "mlp_ratio"})  # fmt: skip
    if odd := sorted(set(vision) - known[0] | set(text) - known[1] | set(config) - {"embed_dim", "vision_cfg", "text_cfg", "quick_gelu"}):
        raise ValueError(f"the open_clip configuration has {odd[0]}: only plain ViT, ResNet and causal text towers can be built")
    quick_gelu = quick_gelu or config.get("quick_gelu", False)
    size, width, head_width = vision["image_size"], vision["width"], vision.get("head_width", 64)
    if isinstance(vision["layers"], (list, tuple)):
        visual: nn.Module = ResNetTower(embed_dim, size, width, tuple(vision["layers"]), heads=width * 32 // head_width)
    else:
        visual = VisionTransformer(embed_dim, size, vision["patch_size"], width, vision["layers"], width // head_width,
                                   vision.get("mlp_ratio", 4.0), quick_gelu=quick_gelu)  # fmt: skip
    tower = TextTransformer(embed_dim, quick_gelu=quick_gelu, **text)
    return ContrastiveNet(visual, tower, image_mean=OPENAI_MEAN, image_std=OPENAI_STD)


def load_open_clip(net: ContrastiveNet, state: Mapping[str, Tensor]) -> None:
    """Fills a net with an open_clip state dict. Raises: RuntimeError, by torch, for missing, odd or ill-shaped weights."""
    renamed = {}
    for name, value in state.items():
        whole = name.startswith(("visual.", "text.")) or name in ("logit_scale", "logit_bias")
        if not name.endswith("attn_mask"):  # computed, not learned
            renamed[name if whole else f"text.{name}"] = value
    net.load_state_dict(renamed)
