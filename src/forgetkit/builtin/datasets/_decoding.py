"""Decode image files: one, a block of them, or block after block in a worker process.

A worker imports this module, NumPy and Pillow, but neither torch nor the rest of forgetkit.
"""

from __future__ import annotations

import errno
import os
import pickle
import re
import signal
import sys
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import BinaryIO, NamedTuple

import numpy as np
from numpy.typing import NDArray
from PIL import ExifTags, Image, ImageOps, UnidentifiedImageError

from forgetkit.builtin.datasets._formats import PROGRAMS, register_decoders
from forgetkit.errors import DataError
from forgetkit.system import safe_open

Pixels = NDArray[np.uint8]

WORKER_READY = b"\0ready to decode\0"
"""A worker sends this before its first answer; anything before it was printed by its interpreter."""

FRAMES = "several frames, of which the first is taken"
EXIF = "unreadable EXIF data or tags, taken as stored"
TURNED = "turned as EXIF orientation says"
COMPOSITED = "transparency composited on the background"
SCALED = "16 bits a pixel scaled to 8"
DARK = "16-bit greys of 4095 at most, which leaves 16 shades (scale them to 0..65535)"

_TRANSPOSE = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}
"""The transposition that turns an image upright, by its EXIF orientation."""
_HOLD_ORIENTATION = {"exif", "Raw profile type exif", "xmp", "XML:com.adobe.xmp"}
"""The entries in which Pillow keeps an orientation, besides the tags of a TIFF."""
_NOT_FRAMES = ("MPO", "PSD")
"""Formats whose further frames are previews or layers of the first."""
_TEMPORARY = (errno.ENOMEM, errno.EMFILE, errno.ENFILE, errno.EIO, errno.ESTALE, errno.ETIMEDOUT, errno.EAGAIN)
_BITS_PER_SAMPLE, _PHOTOMETRIC = 258, 262
"""Tags of TIFF."""


class DecodeFormat(NamedTuple):
    """What images are decoded to: height and width, one channel or three, the colour behind transparent pixels."""

    size: int
    grey: bool
    background: tuple[int, int, int]


class Block(NamedTuple):
    """Image files that are decoded together, and their target."""

    files: Sequence[str]
    target: DecodeFormat


class DecodeFault(NamedTuple):
    """Why an image cannot be decoded, and whether the file is at fault rather than, say, memory."""

    reason: str
    is_the_files: bool


class DecodedBlock(NamedTuple):
    """The images of a block: a row of ``pixels`` for each file, zeros for those in ``bad``.

    ``bad`` holds the faults by position in the block, ``notes`` the positions of images by note.
    """

    pixels: Pixels
    bad: dict[int, DecodeFault]
    notes: dict[str, list[int]]


def decode_block(block: Block, again: DecodedBlock | None = None) -> DecodedBlock:
    """Decode the images of a block, or those that were bad in ``again``.

    It changes the warning filters of the whole process, so one thread may run it at a time.
    """
    size, channels = block.target.size, 1 if block.target.grey else 3
    pixels = np.zeros((len(block.files), channels, size, size), np.uint8) if again is None else again.pixels
    found = DecodedBlock(pixels, {}, {} if again is None else again.notes)
    register_decoders(block.files)
    with warnings.catch_warnings(record=True) as warned:
        warnings.simplefilter("always")
        warnings.simplefilter("error", Image.DecompressionBombWarning)  # Pillow suspects an attack
        for place, path in enumerate(block.files):
            if again is not None and place not in again.bad:
                continue
            warned.clear()
            try:
                pixels[place], notes = decode(path, block.target)
            except DataError as error:
                found.bad[place] = DecodeFault(str(error), not _is_temporary(error.__cause__))
                continue
            for note in dict.fromkeys([*notes, *map(_note_of, warned)]):
                found.notes.setdefault(note, []).append(place)
    return found


def decode(path: str, target: DecodeFormat) -> tuple[Pixels, list[str]]:
    """Return the pixels of one image, ``uint8`` of shape ``(channels, size, size)``, and notes on it.

    The image is turned upright as its EXIF data says, 16 bits a pixel are scaled to 8, and transparent pixels show
    the background.

    Raises:
        DataError: If it is no image, is truncated, is so large that Pillow suspects an attack, is a program
            (PostScript), or has pixels without a fixed range (32-bit integers, floats).
    """
    notes: list[str] = []
    try:
        with safe_open.open_file(path) as file, Image.open(_filled(file)) as image:
            if image.format in PROGRAMS:
                raise ValueError(f"{image.format} is a program, which is not run")
            if _has_frames(image):
                notes.append(FRAMES)
            turned_by_pillow = getattr(image, "tag_v2", {}).get(ExifTags.Base.Orientation) in _TRANSPOSE  # TIFF
            image.load()
            if turned_by_pillow:
                notes.append(TURNED)
            whole = _to_eight_bits(_apply_orientation(image, notes), image, notes)
            opaque = _composite(whole, target.background, notes)
            fitted = ImageOps.fit(opaque.convert("L" if target.grey else "RGB"), (target.size, target.size))
    except Exception as error:  # arbitrary bytes may raise anything
        unknown = isinstance(error, UnidentifiedImageError)
        raise DataError("no image that Pillow knows" if unknown else reason_of(error)) from error
    array = np.asarray(fitted)
    return array[np.newaxis] if target.grey else array.transpose(2, 0, 1), notes


def _filled(file: BinaryIO) -> BinaryIO:
    if not os.fstat(file.fileno()).st_size:
        raise ValueError("the file is empty")
    return file


def _has_frames(image: Image.Image) -> bool:
    try:
        return image.format not in _NOT_FRAMES and bool(getattr(image, "is_animated", False))
    except Exception:  # noqa: BLE001 - damage behind the first frame does not matter
        return False


def _apply_orientation(image: Image.Image, notes: list[str]) -> Image.Image:
    """The upright image. Pillow's ``exif_transpose`` also rewrites the EXIF data, which fails if they are damaged."""
    if not (_HOLD_ORIENTATION & image.info.keys() or hasattr(image, "tag_v2")):
        return image
    try:
        orientation = image.getexif().get(ExifTags.Base.Orientation)
    except Exception:  # noqa: BLE001 - damaged EXIF data change no pixel
        notes.append(EXIF)
        return image
    method = _TRANSPOSE.get(orientation) if isinstance(orientation, int) else None
    if method is None:
        return image
    notes.append(TURNED)
    turned = image.transpose(method)
    turned.info = image.info
    return turned


def _to_eight_bits(image: Image.Image, source: Image.Image, notes: list[str]) -> Image.Image:
    """Scale 16-bit greys to 8 bits; return any other image as it is. ``source`` is the opened file."""
    is_wide = image.mode == "I" and source.format in ("PNG", "PPM")  # older versions of Pillow hold 16 bits so
    if not (image.mode.startswith("I;16") or is_wide):
        if image.mode.startswith(("I", "F")):
            kind = "signed or 32-bit integers" if image.mode.startswith("I") else "floats"
            raise ValueError(f"its pixels are {kind}, which have no fixed range: save 8 or 16 bits a channel")
        return image
    tags = getattr(source, "tag_v2", {})
    bits = tags.get(_BITS_PER_SAMPLE, (16,))
    white = (1 << (bits[0] if isinstance(bits, tuple) else bits)) - 1
    deep = np.asarray(image).astype(np.int64)
    scaled = ((deep.clip(0, white) * 510 + white) // (2 * white)).astype(np.uint8)
    if tags.get(_PHOTOMETRIC) == 0:  # white is zero
        scaled = 255 - scaled
    notes.append(SCALED)
    if white == 65535 and 0 < deep.max() < 4096:  # from a camera with 12 bits
        notes.append(DARK)
    grey = Image.fromarray(scaled)
    if isinstance(clear := image.info.get("transparency"), int):
        grey.putalpha(Image.fromarray(np.where(deep == clear, 0, 255).astype(np.uint8)))
    return grey


def _composite(image: Image.Image, background: tuple[int, int, int], notes: list[str]) -> Image.Image:
    """Composite an image with alpha on the background; return any other as it is."""
    clear = image.info.get("transparency")
    if clear is None and image.mode not in ("RGBA", "LA", "PA", "RGBa", "La"):
        return image
    if image.mode == "RGB" and isinstance(clear, tuple) and max(clear) > 255:  # 16 bits; pixels hold the upper 8
        image.info["transparency"] = tuple(channel >> 8 for channel in clear)
    layer = (image.convert("LA") if image.mode == "La" else image).convert("RGBA")
    if layer.getchannel("A").getextrema() == (255, 255):
        return layer.convert("RGB")
    notes.append(COMPOSITED)
    return Image.alpha_composite(Image.new("RGBA", layer.size, (*background, 255)), layer).convert("RGB")


def _is_temporary(error: BaseException | None) -> bool:
    """Whether the next try may succeed."""
    return isinstance(error, MemoryError) or (isinstance(error, OSError) and error.errno in _TEMPORARY)


def _note_of(warning: warnings.WarningMessage) -> str:
    text = " ".join(str(warning.message).split())
    is_of_tags = Path(warning.filename).stem == "TiffImagePlugin"  # it reads EXIF data too
    return EXIF if is_of_tags or "exif" in text.lower() else f"a warning of Pillow ({re.sub('[0-9]+', '…', text)})"


def reason_of(error: Exception) -> str:
    """The reason on one line, without the number and file name of an ``OSError``."""
    text = error.strerror if isinstance(error, OSError) and error.strerror else str(error)
    return " ".join(text.split()) or type(error).__name__


def work() -> None:
    """Run a worker: read blocks from standard input and write their images to standard output, until the end.

    The parent decodes bad images again, since its Pillow may know more formats.
    """
    answers = os.fdopen(os.dup(1), "wb")
    os.dup2(2, 1)  # decoders may print: keep that out of the answers
    answers.write(WORKER_READY)
    answers.flush()
    if hasattr(signal, "SIGPIPE"):
        signal.signal(signal.SIGPIPE, signal.SIG_DFL)  # without a parent, end silently
    while True:
        try:
            block, Image.MAX_IMAGE_PIXELS = pickle.load(sys.stdin.buffer)
        except EOFError:  # the parent has no more blocks, or has ended
            return
        pickle.dump(decode_block(block), answers, pickle.HIGHEST_PROTOCOL)
        answers.flush()
