"""Blur of a lens, of frosted glass, of motion, of zoom."""

from __future__ import annotations

import numpy as np
from scipy import ndimage

from forgetkit.builtin.analyses.corruptions.draws import CorruptionDraws, Floats, Pixels, enlarge, fractions, quantize

_FARTHEST = 1e-7
"""A pixel with a smaller weight cannot change a grey level."""


def gaussian_blur(pixels: Pixels, draws: CorruptionDraws, deviation: float) -> Pixels:
    """Blur with a normal density."""
    return quantize(_smooth(fractions(pixels), deviation))


def glass_blur(pixels: Pixels, draws: CorruptionDraws, deviation: float, times: int) -> Pixels:
    """Blur, copy neighbours over pixels once or twice, and blur again.

    The benchmark's program is meant to swap neighbours but, since its rows are views, copies one over the other. It
    goes from the last pixel to the first and looks up and left alone, so each copied pixel is not yet overwritten.
    """
    values = quantize(_smooth(fractions(pixels), deviation))
    count, height, width = values.shape[:3]
    rows, columns = np.arange(2, height), np.arange(2, width)
    images = np.arange(count)[:, None, None]
    for _ in range(times):
        down, right = np.moveaxis(draws.integers(-1, 1, len(rows), len(columns), 2), -1, 0)
        values[:, 2:, 2:] = values[images, rows[:, None] + down, columns + right]
    return quantize(_smooth(fractions(values), deviation))


def defocus_blur(pixels: Pixels, draws: CorruptionDraws, radius: float, softness: float) -> Pixels:
    """Blur with a small disk with soft edges."""
    kernel = disk(radius, softness)[None, :, :, None]
    return quantize(ndimage.correlate(fractions(pixels), kernel, mode="mirror"))


def disk(radius: float, softness: float) -> Floats:
    """Weights ``(5, 5)`` that sum to 1: a disk of ``radius`` below 2, blurred by one pixel."""
    across, down = np.meshgrid(np.arange(-2, 3), np.arange(-2, 3))
    inside = (across**2 + down**2 <= radius**2).astype(np.float64)
    neighbour = np.exp(-1 / (2 * softness**2))
    soft = np.array([neighbour, 1, neighbour]) / (1 + 2 * neighbour)
    for axis in (0, 1):
        inside = ndimage.correlate1d(inside, soft, axis, mode="constant")
    weights: Floats = inside / inside.sum()
    return weights


def motion_blur(pixels: Pixels, draws: CorruptionDraws, radius: int, deviation: float) -> Pixels:
    """Blur to one side, at a random angle per image."""
    return smear(pixels, radius, deviation, draws.uniform(-45, 45))


def smear(values: Pixels, radius: int, deviation: float, degrees: Floats) -> Pixels:
    """Apply ImageMagick's motion blur, with an angle for each image.

    Each pixel becomes the mean of the ``2 radius + 1`` pixels that start at it and lie in the direction of the angle,
    weighted by half a normal density. Beyond the edge the edge's pixel is repeated.
    """
    count, height, width = values.shape[:3]
    steps = np.arange(2 * radius + 1)
    weights = np.exp(-(steps**2) / (2 * deviation**2))
    weights /= weights.sum()
    angles = np.deg2rad(degrees)
    images = np.arange(count)[:, None, None]
    total = np.zeros(values.shape)
    for step in steps[weights > _FARTHEST]:
        down, right = (np.ceil(step * side - 0.5).astype(np.int64) for side in (np.sin(angles), np.cos(angles)))
        rows = np.clip(np.arange(height) + down[:, None], 0, height - 1)
        columns = np.clip(np.arange(width) + right[:, None], 0, width - 1)
        total += weights[step] * values[images, rows[:, :, None], columns[:, None, :]]
    return np.rint(total).astype(np.uint8)


def zoom_blur(pixels: Pixels, draws: CorruptionDraws, end: float) -> Pixels:
    """The mean of the image and of enlarged copies, by factors up to ``end``."""
    factors = np.arange(1, end, 0.01)
    values = fractions(pixels, np.float32)
    return quantize((values + sum(enlarge(values, factor) for factor in factors)) / np.float32(len(factors) + 1))


def _smooth(values: Floats, deviation: float) -> Floats:
    """Blur with a normal density up to four deviations; edge pixels are repeated beyond the edge."""
    blurred: Floats = ndimage.gaussian_filter(values, (0, deviation, deviation, 0), mode="nearest", truncate=4)
    return blurred
