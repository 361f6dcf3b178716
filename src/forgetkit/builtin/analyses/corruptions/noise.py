"""Noise: what a sensor and a transmission do to each value."""

from __future__ import annotations

import numpy as np

from forgetkit.builtin.analyses.corruptions.draws import CorruptionDraws, Pixels, fractions, quantize


def gaussian_noise(pixels: Pixels, draws: CorruptionDraws, deviation: float) -> Pixels:
    """Normal noise of one deviation everywhere."""
    return quantize(fractions(pixels) + draws.normal(*pixels.shape[1:], deviation=deviation))


def shot_noise(pixels: Pixels, draws: CorruptionDraws, quanta: int) -> Pixels:
    """Counted light: a Poisson number of as many quanta as white has, in the mean, times the value."""
    return quantize(draws.poisson(fractions(pixels) * quanta) / quanta)


def impulse_noise(pixels: Pixels, draws: CorruptionDraws, share: float) -> Pixels:
    """A share of the values, each channel by itself, becomes 0 or 1, either as likely."""
    drawn = draws.uniform(0, 1, *pixels.shape[1:])
    return np.where(drawn < share / 2, np.uint8(0), np.where(drawn < share, np.uint8(255), pixels))


def speckle_noise(pixels: Pixels, draws: CorruptionDraws, deviation: float) -> Pixels:
    """Normal noise that is the larger, the brighter the value."""
    values = fractions(pixels)
    return quantize(values + values * draws.normal(*pixels.shape[1:], deviation=deviation))
