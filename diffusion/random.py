"""The old place of `rng.keyed`, for those who still import from here."""

from rng.keyed import Generators, keyed_generators, keyed_rand, keyed_randn, randn

__all__ = ["Generators", "keyed_generators", "keyed_rand", "keyed_randn", "randn"]
