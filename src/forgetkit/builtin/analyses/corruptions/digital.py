"""Changes of contrast and colour, compression, pixelation and elastic transforms."""

from __future__ import annotations

from io import BytesIO

import numpy as np
import torch
from PIL import Image
from scipy import ndimage
from torch import Tensor
from torch.nn import functional

from forgetkit.builtin.analyses.corruptions.draws import CorruptionDraws, Floats, Pixels, fractions, quantize

_SIZE = 32
"""The height and width for which the benchmark's parameters are made."""


def contrast(pixels: Pixels, draws: CorruptionDraws, kept: float) -> Pixels:
    """Move each channel towards its mean over the image."""
    values = fractions(pixels)
    mean = values.mean((1, 2), keepdims=True)
    return quantize((values - mean) * kept + mean)


def brightness(pixels: Pixels, draws: CorruptionDraws, added: float) -> Pixels:
    """Raise the value, in hue, saturation and value."""
    values = fractions(pixels)
    value = values.max(-1, keepdims=True)
    brighter = np.minimum(value + added, 1)
    # Hue and saturation stay if the channels keep their proportions; black becomes grey.
    return quantize(np.where(value > 0, values * (brighter / np.where(value > 0, value, 1)), brighter))


def saturate(pixels: Pixels, draws: CorruptionDraws, factor: float, added: float) -> Pixels:
    """Scale the saturation and add to it, in hue, saturation and value."""
    values = fractions(pixels)
    value = values.max(-1, keepdims=True)
    lacking = value - values  # of each channel to the largest: proportional to the saturation
    chroma = lacking.max(-1, keepdims=True)
    # The hue of a grey pixel is 0 by convention, which is red: green and blue decrease.
    lacking = np.where(chroma > 0, lacking / np.where(chroma > 0, chroma, 1), (0.0, 1.0, 1.0))
    saturation = chroma / np.where(value > 0, value, 1)
    return quantize(value - lacking * value * np.clip(saturation * factor + added, 0, 1))


def jpeg_compression(pixels: Pixels, draws: CorruptionDraws, quality: int) -> Pixels:
    """Compress as JPEG."""
    return np.stack([_encode_jpeg(image, quality) for image in pixels])


def _encode_jpeg(image: Pixels, quality: int) -> Pixels:
    file = BytesIO()
    Image.fromarray(image).save(file, "JPEG", quality=quality)
    return np.asarray(Image.open(file))


def pixelate(pixels: Pixels, draws: CorruptionDraws, scale: float) -> Pixels:
    """Shrink the image and enlarge it again, by means over boxes."""
    height, width = pixels.shape[1:3]
    small = max(int(width * scale), 1), max(int(height * scale), 1)
    box = Image.Resampling.BOX
    return np.stack(
        [np.asarray(Image.fromarray(image).resize(small, box).resize((width, height), box)) for image in pixels]
    )


def elastic_transform(
    pixels: Pixels, draws: CorruptionDraws, strength: float, smoothness: float, moved: float
) -> Pixels:
    """Apply a random affine map, by three points, and then a smooth random field of displacements."""
    height, width = pixels.shape[1:3]
    values = fractions(pixels, np.float32)
    corners = draws.uniform(-moved * _SIZE, moved * _SIZE, 3, 2)
    values = _sample_at(values, *_displace(corners, height, width), about_centres=True)
    field = draws.uniform(-1, 1, 2, height, width)
    deviation = smoothness * _SIZE
    field = strength * _SIZE * ndimage.gaussian_filter(field, (0, 0, deviation, deviation), mode="reflect", truncate=3)
    down, across = np.meshgrid(np.arange(height), np.arange(width), indexing="ij")
    return quantize(_sample_at(values, down + field[:, 1], across + field[:, 0], about_centres=False))


def _displace(offsets: Floats, height: int, width: int) -> tuple[Floats, Floats]:
    """Return the rows and columns, each ``(n, height, width)``, that each pixel comes from under an affine map.

    The map moves three points around the middle by ``offsets``, ``(n, 3, 2)``, across and down.
    """
    middle, away = np.array([width // 2, height // 2], np.float64), max(min(height, width) // 3, 1)
    start = middle + away * np.array([[1, 1], [1, -1], [-1, -1]])
    end = np.concatenate([start + offsets, np.ones((len(offsets), 3, 1))], -1)
    # Solve for the inverse, which maps the moved points to their start.
    back = np.linalg.solve(end, np.broadcast_to(start, offsets.shape))
    down, across = np.meshgrid(np.arange(height), np.arange(width), indexing="ij")
    places = np.stack([across, down, np.ones_like(down)], -1).astype(np.float64) @ back[:, None]
    return places[..., 1], places[..., 0]


def _sample_at(values: Floats, rows: Floats, columns: Floats, *, about_centres: bool) -> Floats:
    """Sample the images between their pixels by linear interpolation.

    Beyond the edge the images are mirrored, about the centres of the outermost pixels or about their outer edges.
    """
    height, width = values.shape[1:3]
    if about_centres:
        down, across = rows * (2 / max(height - 1, 1)) - 1, columns * (2 / max(width - 1, 1)) - 1
    else:
        down, across = (rows + 0.5) * (2 / height) - 1, (columns + 0.5) * (2 / width) - 1
    grid = torch.from_numpy(np.stack([across, down], -1).astype(np.float32))
    images: Tensor = torch.from_numpy(values.astype(np.float32)).permute(0, 3, 1, 2)
    with torch.no_grad():
        found = functional.grid_sample(
            images, grid, mode="bilinear", padding_mode="reflection", align_corners=about_centres
        )
    return found.permute(0, 2, 3, 1).numpy()
