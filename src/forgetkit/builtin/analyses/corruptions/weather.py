"""Weather: fog, frost, snow, and spatter on the lens."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from forgetkit.builtin.analyses.corruptions.blur import smear
from forgetkit.builtin.analyses.corruptions.draws import CorruptionDraws, Floats, Pixels, enlarge, fractions, quantize
from forgetkit.builtin.analyses.corruptions.edges import distances, edges, equalize

_LUMA = np.array([0.299, 0.587, 0.114], np.float32)
_WATER = np.array([175, 238, 238], np.float32) / 255
_MUD = np.array([63, 42, 20], np.float32) / 255

_ICE = (
    ((78, 149, 165), 10.7, 14.3),
    ((198, 203, 212), 8.7, 18.2),
    ((198, 203, 212), 8.7, 18.2),
    ((143, 158, 171), 10.4, 26.0),
    ((102, 114, 126), 15.6, 34.6),
)
"""The benchmark's five photographs, shrunk as it shrinks them, in grey levels: the mean colour, and the deviation of
the brightness between cut-outs of 32 pixels and within one."""

_NEAR = 20.0
"""The distance from its edge, in pixels, over which a drop of water gets thicker."""

_CRYSTAL = 0.6
"""The size of crystals in pixels: neighbours then correlate as in the photographs (0.4)."""


def fog(pixels: Pixels, draws: CorruptionDraws, thickness: float, decay: float) -> Pixels:
    """Add a cloud of light, and darken the image until its brightest value is no brighter than before."""
    height, width = pixels.shape[1:3]
    values = fractions(pixels)
    brightest = values.max((1, 2, 3), keepdims=True)
    size = 1 << (max(height, width, 2) - 1).bit_length()
    clouds = plasma(draws.uniform(-1, 1, size * size - 1), size, decay)[:, :height, :width, None]
    return quantize((values + thickness * clouds) * brightest / (brightest + thickness))


def plasma(noise: Floats, size: int, decay: float) -> Floats:
    """Heights in [0, 1], ``(n, size, size)``, by the diamond-square algorithm on a torus; ``size`` is a power of two.

    A point halfway between known points is their mean plus a random number, whose range shrinks from grid to grid by
    the square of ``decay``. ``noise`` holds ``size² - 1`` numbers in [-1, 1] for each.
    """
    heights = np.zeros((len(noise), size, size))
    step, used, rough = size, 0, 100.0

    def between(total: Floats) -> Floats:
        nonlocal used
        number = total[0].size
        drawn = noise[:, used : used + number].reshape(total.shape)
        used += number
        return total / 4 + rough**2 * drawn

    while step >= 2:
        half = step // 2
        corners = heights[:, ::step, ::step]
        across = corners + np.roll(corners, -1, 1)
        heights[:, half::step, half::step] = between(across + np.roll(across, -1, 2))
        centres = heights[:, half::step, half::step]
        heights[:, ::step, half::step] = between(centres + np.roll(centres, 1, 1) + corners + np.roll(corners, -1, 2))
        heights[:, half::step, ::step] = between(centres + np.roll(centres, 1, 2) + corners + np.roll(corners, -1, 1))
        step, rough = half, rough / decay
    heights -= heights.min((1, 2), keepdims=True)
    heights /= heights.max((1, 2), keepdims=True)
    return heights


def frost(
    pixels: Pixels, draws: CorruptionDraws, kept: float, strength: float, photographs: Sequence[Pixels] = ()
) -> Pixels:
    """Add ice crystals from one of the photographs, or painted ones without photographs."""
    height, width = pixels.shape[1:3]
    ice = _cut(photographs, height, width, draws) if photographs else _paint(height, width, draws)
    return quantize(kept * fractions(pixels) + strength * ice / 255)


def _cut(photographs: Sequence[Pixels], height: int, width: int, draws: CorruptionDraws) -> Floats:
    """A cut-out of a photograph for each image; photographs must be larger than the images."""
    cuts = []
    for choice, *corner in draws.uniform(0, 1, 3):
        photograph = photographs[int(choice * len(photographs))]
        top, left = (
            int(position * (large - small))
            for position, large, small in zip(corner, photograph.shape[:2], (height, width), strict=True)
        )
        cuts.append(photograph[top : top + height, left : left + width].astype(np.float64))
    return np.stack(cuts)


def _paint(height: int, width: int, draws: CorruptionDraws) -> Floats:
    """Noise with colour, brightness and grain of one of the benchmark's photographs, for each image."""
    kinds = draws.integers(0, len(_ICE))
    colours = np.array([_ICE[kind][0] for kind in kinds], np.float64)[:, None, None]
    between, within = (np.array([_ICE[kind][side] for kind in kinds])[:, None, None, None] for side in (1, 2))
    brightness = draws.normal(1, 1, 1) * between
    grain = ndimage.gaussian_filter(draws.normal(height, width, 1), (0, _CRYSTAL, _CRYSTAL, 0), mode="nearest")
    deviation = grain.std((1, 2), keepdims=True)
    ice: Floats = (colours + brightness + within * grain / np.where(deviation > 0, deviation, 1)).clip(0, 255)
    return ice


def snow(
    pixels: Pixels,
    draws: CorruptionDraws,
    mean: float,
    deviation: float,
    zoom: float,
    threshold: float,
    radius: int,
    length: float,
    kept: float,
) -> Pixels:
    """Add falling flakes, at a random angle per image, and the same layer rotated; bleach the image."""
    flakes = enlarge(draws.normal(*pixels.shape[1:3], 1, mean=mean, deviation=deviation), zoom)
    fallen = smear(quantize(np.where(flakes < threshold, 0, flakes)), radius, length, draws.uniform(-135, -45))
    layer = fractions(fallen, np.float32)
    values = fractions(pixels, np.float32)
    bleached = np.maximum(values, (values @ _LUMA)[..., None] * 1.5 + 0.5)
    return quantize(kept * values + (1 - kept) * bleached + layer + layer[:, ::-1, ::-1])


def spatter(
    pixels: Pixels,
    draws: CorruptionDraws,
    mean: float,
    deviation: float,
    smoothness: float,
    threshold: float,
    strength: float,
    mud: bool,
) -> Pixels:
    """Add drops of water, or stains of mud."""
    liquid = draws.normal(*pixels.shape[1:3], mean=mean, deviation=deviation)
    liquid = ndimage.gaussian_filter(liquid, (0, smoothness, smoothness), mode="nearest", truncate=4)
    values = fractions(pixels, np.float32)
    if not mud:
        # Above 255 levels, the benchmark's program wraps to 0.
        levels = (np.where(liquid < threshold, 0, liquid) * 255).astype(np.int64) % 256
        drops = _drops(levels.astype(np.uint8))
        return quantize(values + drops[..., None] * np.float32(strength) * _WATER)
    stains = ndimage.gaussian_filter((liquid > threshold).astype(np.float32), (0, strength, strength), mode="nearest")
    stains = np.where(stains < 0.8, 0, stains)[..., None]
    return quantize(values * (1 - stains) + stains * _MUD)


def _drops(liquid: NDArray[np.uint8]) -> Floats:
    """The light that drops of water add, at most 1 in each image, with lit and shaded edges."""
    near = _box_blur(distances(edges(liquid), _NEAR)).astype(np.uint8)
    lit = np.array([[-2, -1, 0], [-1, 1, 1], [0, 1, 2]])
    relief = ndimage.correlate(equalize(near).astype(np.int64), lit[None], mode="mirror").clip(0, 255)
    drops = liquid.astype(np.float32) * np.rint(_box_blur(relief)).astype(np.float32)
    most = drops.max((1, 2), keepdims=True)
    return drops / np.where(most > 0, most, 1)


def _box_blur(values: Floats | NDArray[np.int64]) -> Floats:
    """The mean of each pixel and its eight neighbours."""
    rows: Floats = ndimage.correlate1d(values.astype(np.float64), np.ones(3), 1, mode="mirror")
    sums: Floats = ndimage.correlate1d(rows, np.ones(3), 2, mode="mirror")
    return sums * (1 / 9)
