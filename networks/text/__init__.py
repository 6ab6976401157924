"""Frozen text encoders: one interface (`TextEncoder`), a cache, and the encoders, which load on first use."""
from networks.text.bag_of_words import BagOfWords
from networks.text.base import TextEmbedding, TextEncoder
from networks.text.cache import CachedTextEncoder
from networks.text.huggingface import HuggingFaceText
from networks.text.minilm import MiniLM
from networks.text.open_clip import OpenCLIPText

__all__ = ["BagOfWords", "CachedTextEncoder", "HuggingFaceText", "MiniLM", "OpenCLIPText", "TextEmbedding",
           "TextEncoder"]
