"""Both towers of a pretrained CLIP, by open_clip's names, for models that draw from its space."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from networks.clip import ContrastiveNet, from_open_clip, load_open_clip
from networks.text.bpe import BPETokenizer
from networks.text.hub import one_line, weights_digest
from networks.text.open_clip import locate_checkpoint


class OpenCLIPTowers(nn.Module):
    """An open_clip model with a plain ViT or ResNet and a causal text tower; built with the first use.

    Args:
        model: open_clip's name, for instance ViT-L-14.
        pretrained: open_clip's tag, a checkpoint file, or None for random weights (the same in every process).
    Raises:
        ValueError: at first use, for an unknown name or tag, or towers of another kind.
        FileNotFoundError: at first use, when the weights are neither on disk nor reachable, or are damaged.
    Source: Radford et al. 2021; Cherti et al. 2022 (OpenCLIP)
    """

    def __init__(self, model: str = "ViT-L-14", pretrained: str | None = "openai") -> None:
        super().__init__()
        self.model, self.pretrained = model, pretrained
        self._built: ContrastiveNet | None = None
        self._checkpoint: Path | None = None
        self._tokenizer: BPETokenizer | None = None

    @property
    def name(self) -> str:
        """Model and source of the weights."""
        return f"open_clip/{self.model}/{Path(self.pretrained).name if self.pretrained else 'random'}"

    @property
    def identity(self) -> str:
        """Name and digest of the checkpoint file."""
        return f"{self.name} {weights_digest([self.checkpoint]) if self.pretrained else 'seed0'}"

    @property
    def checkpoint(self) -> Path:
        """The weights' file."""
        if self._checkpoint is None:
            try:
                self._checkpoint = locate_checkpoint(self.model, str(self.pretrained))
            except FileNotFoundError as error:
                raise FileNotFoundError(str(error).partition(": download")[0].replace("text encoder ", "the CLIP ")
                                        + ": download it elsewhere and give clip.tower.pretrained=FILE, or clip=scenes") from None  # fmt: skip
        return self._checkpoint

    @property
    def image_size(self) -> int:
        """Side of the images that it reads."""
        return self._config()["vision_cfg"]["image_size"]

    def _config(self) -> dict[str, Any]:
        import open_clip

        config = open_clip.get_model_config(self.model) if "/" not in self.model else None
        if config is None:
            raise ValueError(f"open_clip has no model {self.model!r}: see open_clip.list_models()")
        return config

    @property
    def net(self) -> ContrastiveNet:
        """The towers, frozen."""
        if self._built is None:
            import open_clip

            config = self._config()
            source = str(self.checkpoint) if self.pretrained else None
            tag = open_clip.get_pretrained_cfg(self.model, self.pretrained) if self.pretrained else None
            quick_gelu = bool(tag and tag.get("quick_gelu"))  # the file alone would not say
            level = logging.root.level
            logging.root.setLevel(logging.ERROR)
            try:
                with torch.random.fork_rng(devices=[]):
                    torch.default_generator.manual_seed(0)
                    net = from_open_clip(config, quick_gelu)
                    whole = open_clip.create_model(self.model, pretrained=source, precision="fp32", weights_only=True, force_quick_gelu=quick_gelu)
                load_open_clip(net, whole.state_dict())
            except ValueError:
                raise
            except Exception as error:  # a damaged file can raise nearly anything
                raise FileNotFoundError(f"the CLIP {self.name}: cannot load {source}: {one_line(error)}") from error
            finally:
                logging.root.setLevel(level)
            text = config["text_cfg"]
            self._tokenizer = BPETokenizer(text["vocab_size"], text.get("context_length", 77))
            self._built = net.eval().requires_grad_(False)
        return self._built

    @torch.no_grad()
    def embed_image(self, image: Tensor) -> Tensor:
        """Unit vectors (B, E), float32, of images (B, 3, S, S) in [-1, 1]."""
        return self.net.encode_image(image)

    @torch.no_grad()
    def embed_text(self, captions: Sequence[str]) -> Tensor:
        """Unit vectors (B, E), float32, of captions; what is beyond the model's length is cut off."""
        return self.net.encode_text(self._ids(captions))

    @torch.no_grad()
    def embed_tokens(self, captions: Sequence[str]) -> tuple[Tensor, Tensor, Tensor]:
        """Unit vectors (B, E), and the captions' tokens (B, L, W) with their mask (B, L) bool, True = real."""
        return self.net.encode_tokens(self._ids(captions))

    def pair_loss(self, image: Tensor, text: Tensor) -> Tensor:
        """Raises ValueError: nobody trains it here."""
        raise ValueError("a pretrained CLIP by name is read, not trained")

    def truncated(self, captions: Sequence[str]) -> list[bool]:
        """Which captions are longer than the model reads."""
        self.net
        return self._tokenizer.truncated(list(captions))

    def _ids(self, captions: Sequence[str]) -> Tensor:
        net = self.net
        return self._tokenizer(captions).to(net.logit_scale.device)
