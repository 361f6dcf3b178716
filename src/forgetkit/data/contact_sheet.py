"""A data set at a glance: counts, values, origin, audit findings, and a contact sheet of samples."""

from __future__ import annotations

import io
import textwrap
import unicodedata
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFont

from forgetkit.contracts import Data, DataSplit
from forgetkit.data.audit import PartSummary, audit_classes, audit_samples, audit_summaries, class_counts, summarize
from forgetkit.data.batches import SamplePool, ScoringBatches
from forgetkit.data.partition import MegaBatch
from forgetkit.errors import DataError
from forgetkit.seeding import Seeds

ROWS = 40
"""The most classes on a sheet."""
_COLUMNS = 5
"""Samples per class in a block of the sheet."""
_TILE = 64
"""Small images are enlarged by whole factors to about this many pixels."""
_LARGEST = 128
"""Larger images are shrunk to this many pixels."""
_GAP = 4
_PAPER = "#e8e8e8"
"""Not white, so that the edges of white images show."""
_LETTERS = 22
"""Letters of a class name per line."""


def describe_data(data: Data, mega_batches: Sequence[MegaBatch]) -> dict[str, Any]:
    """Return what is known of a data set before a run, in JSON types; see `docs/usage.md` for the keys."""
    train, test = summarize(data.train), summarize(data.test)
    alike = data.train.inputs.dtype == data.test.inputs.dtype
    return {
        "classes": list(data.classes),
        "train": _part(data.train, train, len(data.classes)),
        "test": _part(data.test, test, len(data.classes)),
        "mega_batches": class_counts(data, mega_batches).tolist(),
        "augment": data.augment,
        "remarks": list(data.remarks),
        "provenance": dict(data.provenance),
        "audit": [
            *audit_classes(data, mega_batches),
            *(audit_summaries(data, train, test) if alike else audit_samples(data)),
        ],
    }


def _part(part: DataSplit, summary: PartSummary, classes: int) -> dict[str, Any]:
    mean, std = summary.spread
    return {
        "samples": len(part),
        "by_class": np.bincount(part.labels, minlength=classes).tolist(),
        "shape": list(part.inputs.shape[1:]),
        "dtype": str(part.inputs.dtype),
        "low": float(summary.low.min()),
        "high": float(summary.high.max()),
        "mean": mean,
        "std": std,
        "channel_means": summary.mean.tolist(),
        "channel_stds": summary.std.tolist(),
    }


def draw_contact_sheet(data: Data, seed: int = 0) -> bytes:
    """Draw a PNG with one row per class: training samples, the same augmented, and test samples.

    The samples are what the network gets: decoded, cut to size and, in their own block, augmented. The seed draws them;
    of more than 40 classes the first 40 are shown. If floats exceed [0, 1], black is the least training value and white
    the greatest.

    Raises:
        DataError: If the samples are not images.
    """
    if data.train.inputs.ndim != 4:
        raise DataError("the samples are features, of which there is no picture: leave --sheet out")
    shown = range(min(len(data.classes), ROWS))
    black, white = _bounds(data)
    blocks: list[tuple[str, list[list[Image.Image]]]] = [("training", [])]
    if data.augment != "none":
        blocks.append((f"training, augmented ({data.augment})", []))
    blocks.append(("test", []))
    for label in shown:
        seeds = Seeds(seed).within("sheet", label)
        drawn = _draw_samples(data.train, label, seeds.within("train"))
        shown_parts = [("none", drawn)] if data.augment == "none" else [("none", drawn), (data.augment, drawn)]
        shown_parts.append(("none", _draw_samples(data.test, label, seeds.within("test"))))
        for (_, rows), (augment, part) in zip(blocks, shown_parts, strict=True):
            rows.append(_tiles(part, augment, seeds, black, white))
    names = [_caption(data, label) for label in shown]
    buffer = io.BytesIO()
    _compose(names, blocks, data.train.inputs.shape[2:]).save(buffer, "PNG")
    return buffer.getvalue()


def _bounds(data: Data) -> tuple[float, float]:
    if data.train.inputs.dtype == np.uint8:
        return 0.0, 1.0
    summary: PartSummary = summarize(data.train)
    low, high = float(summary.low.min()), float(summary.high.max())
    return (0.0, 1.0) if (low >= 0 and high <= 1) or low == high else (low, high)


def _draw_samples(part: DataSplit, label: int, seeds: Seeds) -> DataSplit:
    ids = np.flatnonzero(part.labels == label)
    chosen = np.sort(seeds.numpy("samples").choice(ids, min(_COLUMNS, len(ids)), replace=False))
    return DataSplit(part.inputs[chosen], part.labels[chosen])


def _tiles(part: DataSplit, augment: Any, seeds: Seeds, black: float, white: float) -> list[Image.Image]:
    """Draw each sample as the network gets it."""
    if not len(part):
        return []
    pool = SamplePool.of(part, torch.device("cpu"))
    (batch,) = (inputs for inputs, _ in ScoringBatches(pool, seeds, len(pool), "head", augment))
    return [_picture(sample, black, white) for sample in batch.numpy()]


def _picture(sample: NDArray[np.float32], black: float, white: float) -> Image.Image:
    """Draw three or four channels in colour, otherwise the first channel in grey."""
    scaled = np.clip((sample - black) / (white - black), 0, 1)
    pixels = np.round(255 * scaled).astype(np.uint8)
    grey = len(pixels) not in (3, 4)
    image = Image.fromarray(pixels[0]) if grey else Image.fromarray(np.ascontiguousarray(pixels[:3].transpose(1, 2, 0)))
    return image.convert("RGB").resize(_shown_size(sample.shape[1:]), _filter(sample.shape[1:]))


def _shown_size(shape: Sequence[int]) -> tuple[int, int]:
    height, width = shape
    longest = max(height, width)
    factor: float = max(1, _TILE // longest) if longest <= _LARGEST else _LARGEST / longest
    return max(1, round(width * factor)), max(1, round(height * factor))


def _filter(shape: Sequence[int]) -> Image.Resampling:
    return Image.Resampling.NEAREST if max(shape) <= _LARGEST else Image.Resampling.LANCZOS


def _caption(data: Data, label: int) -> str:
    lines = textwrap.wrap(_ascii_name(data.classes[label], label), _LETTERS)[:2]
    counts = [int((part.labels == label).sum()) for part in (data.train, data.test)]
    return "\n".join([*lines, f"{counts[0]:,} train, {counts[1]:,} test"])


def _ascii_name(name: str, label: int) -> str:
    """Reduce a name to the letters of Pillow's own font; add the class number if letters were lost."""
    bare = "".join(letter for letter in unicodedata.normalize("NFKD", name) if not unicodedata.combining(letter))
    shown = "".join(letter if letter.isascii() and letter.isprintable() else "?" for letter in bare)
    return shown if shown == name else f"{shown} (class {label + 1})"


def _compose(
    names: Sequence[str], blocks: Sequence[tuple[str, Sequence[Sequence[Image.Image]]]], shape: Sequence[int]
) -> Image.Image:
    width, height = _shown_size(shape)
    font = ImageFont.load_default(12)
    margin, head, row = 8 * _LETTERS, 24, max(height + _GAP, 48)
    block = max(_COLUMNS * (width + _GAP), 170) + 4 * _GAP
    canvas = Image.new("RGB", (margin + len(blocks) * block, head + len(names) * row), _PAPER)
    draw = ImageDraw.Draw(canvas)
    for number, (title, rows) in enumerate(blocks):
        left = margin + number * block
        draw.text((left, _GAP), title, fill="black", font=font)
        for line, tiles in enumerate(rows):
            for column, tile in enumerate(tiles):
                canvas.paste(tile, (left + column * (width + _GAP), head + line * row))
    for line, name in enumerate(names):
        draw.multiline_text((_GAP, head + line * row), name, fill="black", font=font)
    return canvas
