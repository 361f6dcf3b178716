"""Edges, distances to edges and histogram equalisation, as OpenCV defines them."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

_LOW, _HIGH = 50, 150
_EIGHTH = 0.4142135623730951
"""The tangent of 22.5 degrees."""
_STEPS = {1: 1.0, 2: 1.4, 5: 2.1969}
"""The cost of a step, by its squared length."""


def edges(images: NDArray[np.uint8]) -> NDArray[np.bool_]:
    """Detect Canny's edges in grey images ``(n, height, width)``.

    The gradient is Sobel's, its size the sum of both absolute components. An edge pixel has the largest gradient across
    the edge, and that is above 150, or above 50 and connected to a pixel above 150.
    """
    values = images.astype(np.int64)
    down, across = (_sobel(values, axis) for axis in (1, 2))
    size = abs(down) + abs(across)
    around = np.pad(size, ((0, 0), (1, 1), (1, 1)))
    height, width = size.shape[1:]

    def beside(rows: int, columns: int) -> NDArray[np.int64]:
        return around[:, 1 + rows : 1 + rows + height, 1 + columns : 1 + columns + width]

    flat, steep = abs(down) < abs(across) * _EIGHTH, abs(down) > abs(across) * (_EIGHTH + 2)
    sideways = (size > beside(0, -1)) & (size >= beside(0, 1))
    upright = (size > beside(-1, 0)) & (size >= beside(1, 0))
    falling = (size > beside(-1, -1)) & (size > beside(1, 1))
    rising = (size > beside(-1, 1)) & (size > beside(1, -1))
    slanted = np.where((down < 0) != (across < 0), rising, falling)
    ridge = (size > _LOW) & np.where(flat, sideways, np.where(steep, upright, slanted))
    touching = np.zeros((3, 3, 3), bool)
    touching[1] = True
    connected: NDArray[np.bool_] = ndimage.binary_propagation(ridge & (size > _HIGH), touching, ridge)
    return connected


def _sobel(values: NDArray[np.int64], axis: int) -> NDArray[np.int64]:
    other = 3 - axis
    steps = ndimage.correlate1d(values, [-1, 0, 1], axis, mode="nearest")
    slopes: NDArray[np.int64] = ndimage.correlate1d(steps, [1, 2, 1], other, mode="nearest")
    return slopes


def distances(edge: NDArray[np.bool_], most: float) -> NDArray[np.float64]:
    """The distance of each pixel of ``(n, height, width)`` to the nearest edge of its image, at most ``most``.

    Paths consist of straight, diagonal and knight's moves.
    """
    height, width = edge.shape[1:]
    found = np.where(np.pad(edge, ((0, 0), (2, 2), (2, 2))), 0.0, most)
    inner = found[:, 2:-2, 2:-2]
    moves = [
        (down, right, _STEPS[down * down + right * right])
        for down in range(-2, 3)
        for right in range(-2, 3)
        if down * down + right * right in _STEPS
    ]
    while True:
        before = inner.copy()
        for down, right, far in moves:
            other = found[:, 2 + down : 2 + down + height, 2 + right : 2 + right + width]
            np.minimum(inner, other + far, out=inner)
        if np.array_equal(before, inner):
            return before


def equalize(images: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """Spread the grey levels of each image ``(n, height, width)`` over 0 to 255, about equally frequent."""
    number, pixels = len(images), images[0].size
    labels = images.reshape(number, -1) + 256 * np.arange(number)[:, None]
    counts = np.bincount(labels.ravel(), minlength=256 * number).reshape(number, 256)
    lowest = counts[np.arange(number), (counts > 0).argmax(1)][:, None]
    others = pixels - lowest
    spread = np.rint((counts.cumsum(1) - lowest) * (255 / np.where(others > 0, others, 1)))
    # A single level stays.
    spread = np.where(others > 0, spread, np.arange(256)).clip(0, 255)
    levels: NDArray[np.uint8] = spread.astype(np.uint8).ravel()[labels].reshape(images.shape)
    return levels
