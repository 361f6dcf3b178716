"""Noise of sensors and transmission."""

from __future__ import annotations

import numpy as np

from forgetkit.builtin.analyses.corruptions.draws import CorruptionDraws, Pixels, fractions, quantize


def gaussian_noise(pixels: Pixels, draws: CorruptionDraws, deviation: float) -> Pixels:
    """Add normal noise."""
    return quantize(fractions(pixels) + draws.normal(*pixels.shape[1:], deviation=deviation))


def shot_noise(pixels: Pixels, draws: CorruptionDraws, quanta: int) -> Pixels:
    """Draw a Poisson number of light quanta, of which white has ``quanta`` on average."""
    return quantize(draws.poisson(fractions(pixels) * quanta) / quanta)


def impulse_noise(pixels: Pixels, draws: CorruptionDraws, share: float) -> Pixels:
    """Set a fraction of the values to black or white, each channel by itself."""
    drawn = draws.uniform(0, 1, *pixels.shape[1:])
    return np.where(drawn < share / 2, np.uint8(0), np.where(drawn < share, np.uint8(255), pixels))


def speckle_noise(pixels: Pixels, draws: CorruptionDraws, deviation: float) -> Pixels:
    """Add normal noise in proportion to the value."""
    values = fractions(pixels)
    return quantize(values + values * draws.normal(*pixels.shape[1:], deviation=deviation))
