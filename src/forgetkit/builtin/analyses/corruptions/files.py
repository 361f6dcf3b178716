"""Files for corruptions: the benchmark's arrays, and photographs of frost."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from tokenize import TokenError
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image, UnidentifiedImageError
from torch import Tensor

from forgetkit.builtin.analyses.corruptions.draws import Pixels
from forgetkit.errors import DataError, InapplicableError
from forgetkit.system import safe_open

_SEVERITIES = 5
_SHRUNK = 5
"""The benchmark shrinks photographs of frost to a fifth, which bilinearly takes each fifth pixel."""
_PHOTOGRAPHS = 5
"""The benchmark draws from the first five of its six photographs."""
_SUFFIXES = {".png", ".jpg", ".jpeg"}
_MAGIC = b"\x93NUMPY"


@dataclass(frozen=True, eq=False)
class Arrays:
    """A folder of ``NAME.npy``, uint8 ``(5 n, height, width, channels)``, and ``labels.npy``, ``(5 n,)``.

    The first n images have severity 1, the same n images follow at severity 2, and so on. The arrays stay on the disk.
    """

    folder: Path
    opened: dict[str, Pixels]
    labels: Tensor

    @classmethod
    def of(cls, folder: Path, names: Iterable[str]) -> Arrays:
        """Open the arrays; raise ``DataError`` if a file is missing or is not as described."""
        if not folder.is_dir():
            raise DataError(f"there is no folder {folder}: give the one that CIFAR-10-C was unpacked to")
        labels = _labels(folder / "labels.npy")
        return cls(folder, {name: _images(folder / f"{name}.npy", len(labels)) for name in names}, labels)

    @property
    def per_severity(self) -> int:
        """The number of images at one severity."""
        return len(self.labels) // _SEVERITIES

    def images(self, corruption: str) -> Pixels:
        """All rows of an opened corruption."""
        return self.opened[corruption]

    def require_fit(self, shape: tuple[int, ...], classes: int) -> None:
        """Raise ``InapplicableError`` if the arrays do not fit a model's image shape and number of classes."""
        for name, array in self.opened.items():
            if (array.shape[3], *array.shape[1:3]) != shape:
                raise InapplicableError(
                    f"{self.folder / name}.npy holds images of {_sides(array.shape[1:])}, and the model was tested on "
                    f"{_sides((*shape[1:], shape[0]))}: give arrays made of its own data set, or none to make them"
                )
        count = int(self.labels.max()) + 1
        if count != classes:
            raise InapplicableError(
                f"{self.folder / 'labels.npy'} has {count} classes, and the model {classes}: give arrays made "
                "of its own data set, or none to make them"
            )


def _sides(shape: tuple[int, ...]) -> str:
    return " × ".join(map(str, shape))


def _labels(file: Path) -> Tensor:
    array = _array(file)
    if array.ndim != 1 or array.dtype.kind not in "iu" or not len(array) or len(array) % _SEVERITIES:
        raise DataError(
            f"{file} is {array.dtype} of shape {array.shape}: it must hold integers, a multiple of five of them"
        )
    if int(array.min()) < 0:
        raise DataError(f"{file} holds {int(array.min())}: classes count from 0")
    return torch.from_numpy(array.astype(np.int64))


def _images(file: Path, labels: int) -> Pixels:
    array = _array(file)
    if array.ndim != 4 or array.dtype != np.uint8 or array.shape[3] not in (1, 3) or 0 in array.shape:
        raise DataError(
            f"{file} is {array.dtype} of shape {array.shape}: it must hold uint8 images (n, height, width, channels)"
        )
    if len(array) != labels:
        raise DataError(f"{file} holds {len(array)} images for {labels} labels in labels.npy: unpack the archive again")
    return array


def _array(file: Path) -> NDArray[Any]:
    try:
        with safe_open.open_file(file) as stream:
            whole = stream.read(len(_MAGIC)) == _MAGIC
    except OSError as error:
        reason = error.strerror or error
        raise DataError(
            f"{file} cannot be opened ({reason}): the folder of CIFAR-10-C holds it; corruptions= chooses others"
        ) from error
    if not whole:
        raise DataError(f"{file} is no .npy file: unpack the archive again")
    try:
        array: NDArray[Any] = np.load(file, mmap_mode="r", allow_pickle=False)
    except (ValueError, OSError, EOFError, OverflowError, SyntaxError, TokenError) as error:
        raise DataError(f"{file} is damaged ({' '.join(str(error).split())}): unpack the archive again") from error
    return array


def photographs(folder: Path, shape: tuple[int, ...]) -> tuple[Pixels, ...]:
    """Read the first five images in ``folder`` by name, scaled to a fifth of their size.

    Raises ``DataError`` if there are none, or if they are too small for images of ``shape``,
    ``(channels, height, width)``.
    """
    try:
        files = sorted(file for file in folder.iterdir() if file.suffix.lower() in _SUFFIXES)[:_PHOTOGRAPHS]
    except OSError as error:
        raise DataError(f"frost={folder} cannot be read ({error.strerror}): give a folder of photographs") from error
    if not files:
        raise DataError(f"frost={folder} holds no .png or .jpg: give a folder of photographs of frost")
    return tuple(_photograph(file, shape) for file in files)


def _photograph(file: Path, shape: tuple[int, ...]) -> Pixels:
    try:
        with safe_open.open_file(file) as stream, Image.open(stream) as image:
            pixels = np.asarray(image.convert("RGB"))
    except (OSError, UnidentifiedImageError, ValueError) as error:
        raise DataError(f"{file} cannot be read as an image: repair or remove it") from error
    middle = _SHRUNK // 2
    small = pixels[middle::_SHRUNK, middle::_SHRUNK]
    if small.shape[0] < shape[1] or small.shape[1] < shape[2]:
        least = f"{_SHRUNK * shape[2]} × {_SHRUNK * shape[1]}"
        raise DataError(f"{file} is {pixels.shape[1]} × {pixels.shape[0]} pixels: give photographs of at least {least}")
    return small
