"""Noise: what a sensor and a transmission do to each value."""

from __future__ import annotations

import numpy as np

from forgetkit.builtin.analyses.corruptions.draws import CorruptionDraws, Pixels, fractions, quantize


def gaussian_noise(pixels: Pixels, severity: int, draws: CorruptionDraws) -> Pixels:
    """Normal noise of one deviation everywhere."""
    deviation = (0.04, 0.06, 0.08, 0.09, 0.10)[severity - 1]
    return quantize(fractions(pixels) + draws.normal(*pixels.shape[1:], deviation=deviation))


def shot_noise(pixels: Pixels, severity: int, draws: CorruptionDraws) -> Pixels:
    """Counted light: a Poisson number of as many quanta as white has, in the mean, times the value."""
    quanta = (500, 250, 100, 75, 50)[severity - 1]
    return quantize(draws.poisson(fractions(pixels) * quanta) / quanta)


def impulse_noise(pixels: Pixels, severity: int, draws: CorruptionDraws) -> Pixels:
    """A share of the values, each channel by itself, becomes 0 or 1, either as likely."""
    share = (0.01, 0.02, 0.03, 0.05, 0.07)[severity - 1]
    drawn = draws.uniform(0, 1, *pixels.shape[1:])
    return np.where(drawn < share / 2, np.uint8(0), np.where(drawn < share, np.uint8(255), pixels))


def speckle_noise(pixels: Pixels, severity: int, draws: CorruptionDraws) -> Pixels:
    """Normal noise that is the larger, the brighter the value."""
    deviation = (0.06, 0.10, 0.12, 0.16, 0.20)[severity - 1]
    values = fractions(pixels)
    return quantize(values + values * draws.normal(*pixels.shape[1:], deviation=deviation))
