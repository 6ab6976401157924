"""What evaluate.py does: checkpoints, folders and finished evaluations in; cards, metrics.json and a report out.

`metrics` and `extractors` judge images and captions and know no model; `report` draws the page; `pictures` draws samples.
"""
