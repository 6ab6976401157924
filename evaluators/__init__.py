"""Judges of images: they know uint8 images, captions and scene specs, and never a model.

Feature extractors and Fréchet distances, scene alignment, evaluation cards, the cache of samples and the report page.
Nothing here loads weights or touches the disk at import.
"""
