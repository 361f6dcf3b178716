"""From image files to arrays: list them, decode them once, keep the pixels in a cache.

The cache of a folder is a directory whose name is a digest of everything that the pixels depend on. It is
filled beside its place and moved there whole, so that what stands there is always complete.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import tempfile
import warnings
from collections.abc import Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np
import PIL
from numpy.typing import NDArray
from PIL import Image, ImageOps, UnidentifiedImageError

from forgetkit.contracts import Augmentation, Data, LoadContext, Part
from forgetkit.errors import DataError

_DECODING = 1
"""To be raised whenever this module turns the same file into other pixels."""

_BLOCK = 256
"""Images decoded between two reports of progress."""

Shape = tuple[int, int, int, int]


@dataclass(frozen=True)
class Listing:
    """The image files of one part in the order of their sample ids, and the class of each."""

    files: tuple[Path, ...]
    labels: tuple[int, ...]


def part_folders(root: Path, train: str, test: str) -> tuple[Path, Path]:
    """The two parts' folders inside ``root``; ``DataError`` if any of the three is missing."""
    if not _is_folder(root):
        raise DataError(f"there is no folder {root}: give the one that holds '{train}' and '{test}'")
    for name in (train, test):
        if not _is_folder(root / name):
            raise DataError(f"{root} holds no folder '{name}': the images belong in {name}/CLASS/")
    return root / train, root / test


def subfolders(folder: Path) -> tuple[str, ...]:
    """The names of the visible folders inside ``folder``, sorted."""
    return tuple(path.name for path in _visible(folder) if _is_folder(path))


def listing(folders: Iterable[tuple[Path, int]]) -> Listing:
    """The images of each (folder, label), file names sorted; ``DataError`` for a folder without any."""
    suffixes = {suffix for suffix, kind in Image.registered_extensions().items() if kind in Image.OPEN}
    files: list[Path] = []
    labels: list[int] = []
    for folder, label in folders:
        if not _is_folder(folder):
            raise DataError(f"class '{folder.name}' has no folder in {folder.parent}: it needs images there")
        files_here = (path for path in _visible(folder) if not _is_folder(path))
        found = [path for path in files_here if path.suffix.lower() in suffixes]
        if not found:
            raise DataError(f"class '{folder.name}' has no images in {folder}: add some, or remove the class")
        files += found
        labels += [label] * len(found)
    return Listing(tuple(files), tuple(labels))


def load(
    root: Path,
    *,
    train: Listing,
    test: Listing,
    classes: Sequence[str],
    size: int,
    grey: bool,
    augment: Augmentation,
    context: LoadContext,
) -> Data:
    """Both parts, their pixels mapped from the cache, which is filled first where it has to be."""
    pixels = _Pixels(root, {"train": train, "test": test}, size, grey).load(context)

    def part(name: str, source: Listing) -> Part:
        return Part(pixels[name], np.asarray(source.labels, dtype=np.int64))

    return Data(part("train", train), part("test", test), tuple(classes), augment)


def decode(path: Path, size: int, grey: bool) -> NDArray[np.uint8]:
    """The pixels of one image, ``uint8`` of shape ``(channels, size, size)``.

    Raises ``DataError``, naming the file, if it is no image, is truncated, is so large that Pillow
    suspects an attack, or has more than eight bits per channel, which Pillow would clip in silence.
    """
    try:
        with Image.open(path) as image:
            image.load()
            if image.mode.startswith(("I", "F")):
                raise ValueError(f"its pixels have mode {image.mode}, not 8 bits per channel")
            # Pillow wants the alpha of a palette to be made a channel before it is dropped.
            opaque = image.convert("RGBA") if "transparency" in image.info else image
            fitted = ImageOps.fit(opaque.convert("L" if grey else "RGB"), (size, size))
    except Exception as error:  # what a decoder raises depends on the bytes it meets
        unknown = isinstance(error, UnidentifiedImageError)
        reason = "no image that Pillow knows" if unknown else _reason(error)
        raise DataError(f"{path} cannot be decoded ({reason}): replace it or remove it") from error
    array = np.asarray(fitted)
    return array[np.newaxis] if grey else array.transpose(2, 0, 1)


@dataclass(frozen=True)
class _Pixels:
    """The decoded images of both parts, in the cache."""

    root: Path
    parts: Mapping[str, Listing]
    size: int
    grey: bool

    def load(self, context: LoadContext) -> dict[str, NDArray[np.uint8]]:
        """A memory map per part, of the shape that :meth:`_shape` gives."""
        entry = context.cache / "folder" / self._key()
        pixels = self._read(entry)
        if pixels is None:
            try:
                self._fill(entry, context)
            except OSError as error:
                raise DataError(
                    f"the image cache {entry.parent} cannot be written ({_reason(error)}): "
                    "make room there, or let this user write to it"
                ) from error
            pixels = self._read(entry)
        if pixels is None:
            raise DataError(f"the image cache {entry} was changed while it was written: try again")
        return pixels

    def _shape(self, part: str) -> Shape:
        return (len(self.parts[part].files), 1 if self.grey else 3, self.size, self.size)

    def _key(self) -> str:
        """A digest of all that the pixels depend on: the files as they are now, and how they are decoded."""
        root = self.root.resolve()
        head = [_DECODING, PIL.__version__, self.size, self.grey]
        digest = hashlib.sha256(json.dumps(head).encode() + os.fsencode(root))
        for source in self.parts.values():
            for path in source.files:
                try:
                    status = path.stat()
                except OSError as error:
                    raise _unreadable(path, error) from error
                name = os.fsencode(path.relative_to(self.root))
                digest.update(b"\0%s\0%d\0%d" % (name, status.st_size, status.st_mtime_ns))
        return digest.hexdigest()

    def _read(self, entry: Path) -> dict[str, NDArray[np.uint8]] | None:
        """The arrays in ``entry``, or None where they are missing or damaged."""
        pixels: dict[str, NDArray[np.uint8]] = {}
        for part in self.parts:
            try:
                array = np.load(entry / f"{part}.npy", mmap_mode="r", allow_pickle=False)
            except Exception:  # noqa: BLE001 - whatever a damaged file raises, the images can be decoded again
                return None
            if array.shape != self._shape(part) or array.dtype != np.uint8:
                return None
            pixels[part] = array
        return pixels

    def _fill(self, entry: Path, context: LoadContext) -> None:
        """Decode every image beside ``entry``, then move the finished directory there."""
        entry.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(prefix=f".{entry.name[:8]}-", dir=entry.parent) as staging:
            fresh = Path(staging) / "fresh"
            fresh.mkdir()
            self._decode_into(fresh, context)
            if self._read(entry) is None:
                with contextlib.suppress(FileNotFoundError):
                    entry.rename(Path(staging) / "damaged")
            try:
                fresh.rename(entry)
            except OSError:
                if self._read(entry) is None:
                    raise
                # Another process was quicker, and its pixels are the same.

    def _decode_into(self, directory: Path, context: LoadContext) -> None:
        pixels_of = partial(decode, size=self.size, grey=self.grey)
        done, total = 0, sum(len(source.files) for source in self.parts.values())
        # Pillow decodes outside Python's lock, so threads help. What it suspects to be an attack is refused.
        with warnings.catch_warnings(), ThreadPoolExecutor(os.cpu_count() or 1) as pool:
            warnings.simplefilter("error", Image.DecompressionBombWarning)
            for part, source in self.parts.items():
                header = {"descr": "|u1", "fortran_order": False, "shape": self._shape(part)}
                with (directory / f"{part}.npy").open("wb") as file:
                    np.lib.format.write_array_header_1_0(file, header)
                    for block in _blocks(source.files):
                        context.progress("decoding images", done, total)
                        # Written, not mapped: on a full disk a write fails, where a map kills the process.
                        file.write(np.stack(list(pool.map(pixels_of, block))).tobytes())
                        done += len(block)
                    file.flush()
                    os.fsync(file.fileno())  # on the disk before the directory gets its final name
        context.progress("decoding images", done, total)


def _blocks(files: Sequence[Path]) -> Iterator[Sequence[Path]]:
    return (files[start : start + _BLOCK] for start in range(0, len(files), _BLOCK))


def _visible(folder: Path) -> list[Path]:
    try:
        found = [path for path in folder.iterdir() if not path.name.startswith(".")]
    except OSError as error:
        raise _unreadable(folder, error) from error
    return sorted(found, key=lambda path: path.name)  # by name, since Windows sorts paths without their case


def _is_folder(path: Path) -> bool:
    try:
        return path.is_dir()
    except OSError as error:  # it may be there, but this user may not look
        raise _unreadable(path, error) from error


def _unreadable(path: Path, error: OSError) -> DataError:
    return DataError(f"{path} cannot be read ({_reason(error)}): repair it, or let this user read it")


def _reason(error: Exception) -> str:
    """Why, on one line; an ``OSError`` of the system without its number and file name."""
    text = error.strerror if isinstance(error, OSError) and error.strerror else str(error)
    return " ".join(text.split()) or type(error).__name__
