"""Captioned procedural scenes: a grammar of objects and words, a renderer, and a parser that reads pictures back.

The spec is the ground truth: captions and pictures are two renderings of it, and `scoring` compares a spec with what
the parser read from a picture, without ever looking at the caption. Imports numpy and Pillow only, never torch.
"""
