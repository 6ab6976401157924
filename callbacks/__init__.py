"""What happens around training steps: averaging, logging, validation, sample grids, stopping and saving.

All count optimiser steps of the module (`module.optimizer_steps`), never Lightning's, and act when a step is complete.
"""
