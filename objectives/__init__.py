"""Losses as pure tensor mathematics: likelihoods of pixels, the terms of the ELBO and importance-weighted bounds.
Everything is in nats per image, summed over its dimensions, and imports torch only."""
