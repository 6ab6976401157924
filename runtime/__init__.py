"""From a command line to a run: configuration, instantiation, run directories, checkpoints, loggers and exit codes.

The only room that knows hydra and wandb. No other part of the project is imported here: parts arrive by `_target_`.
"""
