"""Where images come from: map-style datasets that are pure functions of (index, sample seed), and their loaders.

`sampler` decides which samples make up batch b of a run, `base` is what every datamodule shares, and one file per
source follows: `scenes` (rendered on the fly from a grammar) and `captions` (your own folder, or COCO).
"""
