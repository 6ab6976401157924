"""The evaluate command: checkpoints, folders and finished evaluations in; cards, metrics.json and a report out."""
