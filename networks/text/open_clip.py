"""Text towers of CLIP models, through open_clip."""
from __future__ import annotations

import logging
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from networks.text.base import TextEncoder
from networks.text.hub import one_line, weights_digest, why_no_hub

SPECIAL = {"embed_cls", "no_causal_mask", "hf_model_name", "hf_tokenizer_name"}  # other kinds of text tower
POOLS = ("argmax", "eos", "last")


class OpenCLIPText(TextEncoder):
    """Token sequence of a CLIP text tower before pooling, and its projected text feature as pooled.

    Args:
        name: open_clip's model name with a plain causal text tower ("ViT-B-32", "ViT-L-14", "ViT-H-14", ...).
        pretrained: open_clip's tag, a checkpoint file, or None for random weights (the same in every process).
        layer: -2, the default, is the output of the last layer but one, as in Imagen and Stable Diffusion 2; -1 is
            that of the last. The final norm is applied to any. pooled always comes from the last layer, and is not
            normalised.
    Raises:
        ValueError: unknown name or tag, or a text tower of another kind.
        FileNotFoundError: at first use, when the weights are neither on disk nor reachable.
    Source: Radford et al. 2021 (CLIP), section 2.4; Cherti et al. 2022 (OpenCLIP); Saharia et al. 2022 (Imagen)
        for the penultimate layer; Stable Diffusion 2 for the final norm, which Imagen's paper does not mention.
    """

    def __init__(
        self, name: str = "ViT-B-32", pretrained: str | None = "laion2b_s34b_b79k", *, layer: int = -2
    ) -> None:
        super().__init__()
        if layer >= 0:
            raise ValueError(f"layer counts from the end: -1 the last, -2 the one before; got {layer}")
        self.name, self.pretrained, self.layer = name, pretrained, layer
        self._model_config: dict[str, Any] | None = None
        self._checkpoint: Path | None = None

    @property
    def id(self) -> str:
        """Model name and source of the weights, with the settings that change the vectors.

        The last layer has no suffix: it was the default once, and checkpoints and caches of that time name it so.
        """
        source = Path(self.pretrained).name if self.pretrained else "random"
        return f"open_clip/{self.name}/{source}" + (f"[layer={self.layer}]" if self.layer != -1 else "")

    @property
    def revision(self) -> str:
        """Digest of the checkpoint file; "seed0" for random weights."""
        return weights_digest([self.checkpoint]) if self.pretrained else "seed0"

    @property
    def dim(self) -> int:
        """Width of a token's vector."""
        return self.config["text_cfg"]["width"]

    @property
    def pooled_dim(self) -> int:
        """Width of the joint image-text space; for some towers (ResNets) not that of a token."""
        return self.config["embed_dim"]

    @property
    def max_length(self) -> int:
        """Tokens read of a caption, start and end marks included."""
        return self.config["text_cfg"].get("context_length", 77)

    @property
    def config(self) -> dict[str, Any]:
        """open_clip's own description of the model; comes with the package, no network."""
        if self._model_config is None:
            import open_clip

            config = open_clip.get_model_config(self.name) if "/" not in self.name else None
            if config is None:
                raise ValueError(f"open_clip has no model {self.name!r}: see open_clip.list_models()")
            text = config["text_cfg"]
            if any(text.get(key) for key in SPECIAL) or text.get("pool_type", "argmax") not in POOLS:
                raise ValueError(f"open_clip model {self.name!r} has no plain causal text tower: use ViT-B-32, "
                                 f"ViT-L-14, ViT-H-14 or another one without a tokenizer of its own")
            self._model_config = config
        return self._model_config

    @property
    def checkpoint(self) -> Path:
        """The weights' file: the path given, open_clip's download cache, or a fresh download, in this order."""
        if self._checkpoint is None:
            self._checkpoint = locate_checkpoint(self.name, str(self.pretrained))
        return self._checkpoint

    def _load(self) -> tuple[Any, nn.Module]:
        import open_clip

        self.config  # refuses a wrong name before anything is fetched
        source = str(self.checkpoint) if self.pretrained else None
        # A tag may ask for another activation than the config does (OpenAI's weights): the file alone would not say.
        tag = open_clip.get_pretrained_cfg(self.name, self.pretrained) if self.pretrained else None
        level = logging.root.level
        logging.root.setLevel(logging.ERROR)
        try:
            with torch.random.fork_rng(devices=[]):
                torch.default_generator.manual_seed(0)  # torch.manual_seed would reseed the GPUs too
                model = open_clip.create_model(self.name, pretrained=source, precision="fp32", weights_only=True,
                                               force_quick_gelu=bool(tag and tag.get("quick_gelu")))
        except Exception as error:  # a damaged file can raise nearly anything
            raise FileNotFoundError(f"text encoder {self.id}: cannot load {source}: {one_line(error)}") from error
        finally:
            logging.root.setLevel(level)
        tower = getattr(model, "text", model)
        if tower is model:
            del model.visual  # only the text is read
        return open_clip.get_tokenizer(self.name), tower.eval().requires_grad_(False)

    def _tokenize(self, captions: list[str]) -> list[list[int]]:
        tokenizer, _ = self.loaded
        return [[tokenizer.sot_token_id, *tokenizer.encode(c), tokenizer.eot_token_id] for c in captions]

    def _forward(self, ids: Tensor) -> tuple[Tensor, Tensor]:
        _, tower = self.loaded
        blocks, length = tower.transformer.resblocks, ids.shape[1]
        if -self.layer > len(blocks):
            raise ValueError(f"layer={self.layer}: text encoder {self.id} has {len(blocks)} layers")
        # Causal: the tokens behind the end mark, which open_clip pads to 77, change nothing before it.
        attn_mask = tower.attn_mask[:length, :length]
        x = tower.token_embedding(ids) + tower.positional_embedding[:length]  # (b, l, D)
        chosen = x
        for depth, block in enumerate(blocks):
            x = block(x, attn_mask=attn_mask)
            if depth == len(blocks) + self.layer:
                chosen = x
        last = tower.ln_final(x)
        projection = tower.text_projection
        pooled = last[:, -1]  # the end mark is the last token, (b, D)
        if projection is not None:
            pooled = projection(pooled) if isinstance(projection, nn.Module) else pooled @ projection
        return tower.ln_final(chosen), pooled


def locate_checkpoint(name: str, pretrained: str) -> Path:
    """Find a checkpoint by path or open_clip tag: disk first, then network.

    Raises:
        ValueError: neither a file nor a tag of this model.
        FileNotFoundError: not on disk and no network; within 2 seconds.
    """
    if Path(pretrained).is_file():
        return Path(pretrained)
    import open_clip

    source = open_clip.get_pretrained_cfg(name, pretrained)
    if not source:
        tags = ", ".join(open_clip.list_pretrained_tags_by_model(name)) or "none"
        raise ValueError(f"open_clip model {name!r}: {pretrained!r} is neither a file nor one of its tags: {tags}")
    found = on_disk(source)
    if found is not None:
        return found
    reason = why_no_hub()
    if reason is None:
        try:
            return Path(open_clip.download_pretrained(source))
        except Exception as error:  # many kinds, from several libraries
            reason = one_line(error)
    raise FileNotFoundError(
        f"text encoder open_clip/{name}/{pretrained} is not on this machine and cannot be downloaded ({reason}): "
        f"download it elsewhere and pass the file as text_encoder.encoder.pretrained=PATH, or use text_encoder=minilm")


def on_disk(source: dict[str, Any]) -> Path | None:
    """The file that open_clip has downloaded for a tag before, if any."""
    from huggingface_hub import try_to_load_from_cache

    repo, _, filename = source.get("hf_hub", "").rpartition("/")
    for candidate in [filename] if filename else ["open_clip_model.safetensors", "open_clip_pytorch_model.bin"]:
        found = try_to_load_from_cache(repo, candidate) if repo else None
        if isinstance(found, str):
            return Path(found)
    by_url = Path("~/.cache/clip").expanduser() / Path(source.get("url") or "-").name
    return by_url if by_url.is_file() else None
