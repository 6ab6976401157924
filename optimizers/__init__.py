"""Optimisers and learning-rate schedules that torch does not have. Imports torch only."""
