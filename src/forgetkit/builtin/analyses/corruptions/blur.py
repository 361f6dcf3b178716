"""Blur: of a lens, of frosted glass, of movement."""

from __future__ import annotations

import numpy as np
from scipy import ndimage

from forgetkit.builtin.analyses.corruptions.draws import CorruptionDraws, Floats, Pixels, enlarge, fractions, quantize

_FARTHEST = 1e-7
"""A pixel that weighs less than this cannot change a grey level."""


def gaussian_blur(pixels: Pixels, draws: CorruptionDraws, deviation: float) -> Pixels:
    """The mean of the surroundings, weighted by a normal density."""
    return quantize(_smooth(fractions(pixels), deviation))


def glass_blur(pixels: Pixels, draws: CorruptionDraws, deviation: float, times: int) -> Pixels:
    """Blurred, then each pixel replaced by a neighbour or left, once or twice, then blurred again.

    The benchmark's program means to swap neighbours and, since its rows are views, copies one over the other; as it
    goes from the last pixel to the first and looks up and left alone, each copy is of a pixel not yet overwritten.
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
    """The mean over a small disk with soft edges."""
    kernel = disk(radius, softness)[None, :, :, None]
    return quantize(ndimage.correlate(fractions(pixels), kernel, mode="mirror"))


def disk(radius: float, softness: float) -> Floats:
    """Weights ``(5, 5)`` that sum to 1: a disk of ``radius`` below 2, blurred by one pixel either way."""
    across, down = np.meshgrid(np.arange(-2, 3), np.arange(-2, 3))
    inside = (across**2 + down**2 <= radius**2).astype(np.float64)
    neighbour = np.exp(-1 / (2 * softness**2))
    soft = np.array([neighbour, 1, neighbour]) / (1 + 2 * neighbour)
    for axis in (0, 1):
        inside = ndimage.correlate1d(inside, soft, axis, mode="constant")
    weights: Floats = inside / inside.sum()
    return weights


def motion_blur(pixels: Pixels, draws: CorruptionDraws, radius: int, deviation: float) -> Pixels:
    """Smeared to one side, at an angle that differs from image to image."""
    return smear(pixels, radius, deviation, draws.uniform(-45, 45))


def smear(values: Pixels, radius: int, deviation: float, degrees: Floats) -> Pixels:
    """ImageMagick's motion blur: of the ``2 radius + 1`` pixels that begin here and lie in a direction, the mean,
    weighted by half a normal density; beyond the edge, its pixel is repeated. An angle for each image.
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
    """The mean of the image and of itself enlarged, again and again, to as much as 1.25 times."""
    factors = np.arange(1, end, 0.01)
    values = fractions(pixels, np.float32)
    return quantize((values + sum(enlarge(values, factor) for factor in factors)) / np.float32(len(factors) + 1))


def _smooth(values: Floats, deviation: float) -> Floats:
    """Normal weights up to four deviations away; beyond the edge, its pixel is repeated."""
    blurred: Floats = ndimage.gaussian_filter(values, (0, deviation, deviation, 0), mode="nearest", truncate=4)
    return blurred
