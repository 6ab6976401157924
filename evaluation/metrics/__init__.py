"""Judges of images: they know uint8 images, captions and scene specs, and never a model.

Nothing here loads weights or touches the disk at import.
"""
