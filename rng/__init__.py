"""Random numbers that are functions of (seed, tags), the same on every device, and hashes that are the same everywhere.

`hashing` turns keys into numbers, `splitmix` gives a few numbers for each sample of a batch at once, and `keyed` gives
each sample a torch generator of its own.
"""
