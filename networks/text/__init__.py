"""Frozen text encoders: one interface (`TextEncoder`), a cache, and the encoders themselves, which load on first use."""
from networks.text.base import TextEmbedding, TextEncoder
from networks.text.cache import CachedTextEncoder
from networks.text.huggingface import HuggingFaceText
from networks.text.minilm import MiniLM

__all__ = ["CachedTextEncoder", "HuggingFaceText", "MiniLM", "TextEmbedding", "TextEncoder"]
