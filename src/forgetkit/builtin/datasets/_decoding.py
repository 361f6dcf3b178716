"""From image files to pixels: one, a block of them, or block after block in a worker process.

A worker imports this module, and with it NumPy and Pillow, but neither torch nor what else forgetkit is made of.
"""

from __future__ import annotations

import contextlib
import os
import pickle
import signal
import sys
import warnings
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageOps, UnidentifiedImageError

from forgetkit.errors import DataError

Pixels = NDArray[np.uint8]

_PROGRAMS = ("EPS",)
"""Formats that Pillow hands to another program, which carries out what the file says, whatever it is called."""

READY = b"\0ready to decode\0"
"""What a worker says before its first answer; what its interpreter printed while it started came before."""


class Block(NamedTuple):
    """Image files to be decoded at one go, and how."""

    files: Sequence[str]
    size: int
    grey: bool


def decode_block(block: Block) -> Pixels:
    """The pixels of a block, ``uint8`` of shape ``(n, channels, size, size)``; raises as :func:`decode` does.

    Warnings are filtered for the whole process meanwhile: it is for one thread of a process at a time.
    """
    with warnings.catch_warnings():  # what Pillow suspects to be an attack is refused
        warnings.simplefilter("error", Image.DecompressionBombWarning)
        return np.stack([decode(path, block.size, block.grey) for path in block.files])


def decode(path: str, size: int, grey: bool) -> Pixels:
    """The pixels of one image, ``uint8`` of shape ``(channels, size, size)``.

    Raises ``DataError``, naming the file, if it is no image, is truncated, is so large that Pillow suspects an attack,
    is a program (PostScript), or has more than eight bits per channel, which Pillow would clip in silence.
    """
    try:
        with Image.open(path) as image:
            if image.format in _PROGRAMS:
                raise ValueError(f"{image.format} is a program, which is not run")
            image.load()
            if image.mode.startswith(("I", "F")):
                raise ValueError(f"its pixels have mode {image.mode}, not 8 bits per channel")
            # Pillow wants the alpha of a palette to be made a channel before it is dropped.
            opaque = image.convert("RGBA") if "transparency" in image.info else image
            fitted = ImageOps.fit(opaque.convert("L" if grey else "RGB"), (size, size))
    except Exception as error:  # what a decoder raises depends on the bytes it meets
        unknown = isinstance(error, UnidentifiedImageError)
        reason = "no image that Pillow knows" if unknown else reason_of(error)
        raise DataError(f"{path} cannot be decoded ({reason}): replace it or remove it") from error
    array = np.asarray(fitted)
    return array[np.newaxis] if grey else array.transpose(2, 0, 1)


def reason_of(error: Exception) -> str:
    """Why, on one line; an ``OSError`` of the system without its number and file name."""
    text = error.strerror if isinstance(error, OSError) and error.strerror else str(error)
    return " ".join(text.split()) or type(error).__name__


def work() -> None:
    """What a worker does: blocks come on standard input, their pixels leave on standard output, until there are none.

    A block that it cannot decode without an error or a warning is answered with None: its owner tries again, who
    may have told Pillow of more formats, and says what is wrong in its own way.
    """
    answers = os.fdopen(os.dup(1), "wb")
    os.dup2(2, 1)  # what a decoder prints is no answer, nor is what is still to be flushed
    answers.write(READY)
    answers.flush()
    warnings.simplefilter("error", UserWarning)
    if hasattr(signal, "SIGPIPE"):
        signal.signal(signal.SIGPIPE, signal.SIG_DFL)  # with nobody left to answer to, it ends without a word
    while True:
        try:
            block, Image.MAX_IMAGE_PIXELS = pickle.load(sys.stdin.buffer)
        except EOFError:  # its owner has no more, or is gone
            return
        pixels: Pixels | None = None
        with contextlib.suppress(DataError, Warning):
            pixels = decode_block(block)
        pickle.dump(pixels, answers, pickle.HIGHEST_PROTOCOL)
        answers.flush()
