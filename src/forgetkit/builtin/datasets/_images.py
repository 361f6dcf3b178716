"""Folders of image files as data: list them, decode them once, keep the pixels in a cache.

The cache of a folder is a directory whose name is a digest of everything that the pixels depend on. It is
filled beside its place and moved there whole, so that what stands there is always complete.
"""

from __future__ import annotations

import contextlib
import errno
import hashlib
import json
import logging
import os
import stat
import tempfile
import zlib
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import numpy as np
import PIL
from numpy.typing import NDArray
from PIL import Image

from forgetkit.builtin.datasets._decoding import Block, reason_of
from forgetkit.contracts import Augmentation, Data, LoadContext, Part
from forgetkit.errors import DataError
from forgetkit.system import regular

_log = logging.getLogger("forgetkit")

_DECODING = 2
"""To be raised whenever this module turns the same file into other pixels, or keeps them in another way."""

_BLOCK = 256
"""Images that are decoded at one go, at most."""
_BLOCK_BYTES = 1 << 20
"""Bytes of image files that are decoded at one go, about."""
_PIECE = 1 << 20
_CHECKSUMS = "checksums.json"

Shape = tuple[int, int, int, int]


class ImageFile(NamedTuple):
    """An image file as it is found: its path, its size in bytes, when it was last changed in nanoseconds."""

    path: str
    size: int
    changed: int


@dataclass(frozen=True)
class Listing:
    """The image files of one part in the order of their sample ids, and the class of each."""

    files: tuple[ImageFile, ...]
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
    return tuple(entry.name for entry in _visible(folder) if _is_folder(entry))


def listing(folders: Iterable[tuple[Path, int]]) -> Listing:
    """The images of each (folder, label), file names sorted; ``DataError`` for a folder without any."""
    suffixes = tuple(suffix for suffix, kind in Image.registered_extensions().items() if kind in Image.OPEN)
    files: list[ImageFile] = []
    labels: list[int] = []
    for folder, label in folders:
        if not _is_folder(folder):
            raise DataError(f"class '{folder.name}' has no folder in {folder.parent}: it needs images there")
        found = [
            _image_file(entry)
            for entry in _visible(folder)
            if entry.name.lower().endswith(suffixes) and not _is_folder(entry)
        ]
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
            if entry.exists():
                _log.warning("the image cache %s is damaged: its images are decoded again", entry)
            try:
                self._fill(entry, context)
            except OSError as error:
                raise DataError(
                    f"the image cache {entry.parent} cannot be written ({reason_of(error)}): "
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
        head = [_DECODING, PIL.__version__, self.size, self.grey]
        digest = hashlib.sha256(json.dumps(head).encode() + os.fsencode(self.root.resolve()))
        below = len(str(self.root / "x")) - 1
        for source in self.parts.values():
            for path, size, changed in source.files:
                digest.update(b"\0%s\0%d\0%d" % (os.fsencode(path[below:]), size, changed))
        return digest.hexdigest()

    def _read(self, entry: Path) -> dict[str, NDArray[np.uint8]] | None:
        """The arrays in ``entry``, or None where they are missing or damaged: a pixel that is another one is seen."""
        pixels: dict[str, NDArray[np.uint8]] = {}
        for part in self.parts:
            file = entry / f"{part}.npy"
            try:
                if _checksum(file) != json.loads(regular.content(entry / _CHECKSUMS))[part]:
                    return None
                array = np.load(file, mmap_mode="r", allow_pickle=False)
            except OSError as error:
                if error.errno != errno.ENOMEM:
                    return None
                raise DataError(
                    f"{file} cannot be mapped, for want of address space ({reason_of(error)}): raise the limit "
                    "(ulimit -v) by the size of that file, or limit memory by a control group or ulimit -d instead"
                ) from error
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
        from forgetkit.builtin.datasets._decoders import decoders  # once for each folder: later runs do without

        files = [file for source in self.parts.values() for file in source.files]
        done, total = 0, len(files)
        context.progress("decoding images", done, total)
        with decoders(sum(file.size for file in files)) as decoded:
            for part, source in self.parts.items():
                header = {"descr": "|u1", "fortran_order": False, "shape": self._shape(part)}
                with (directory / f"{part}.npy").open("wb") as file:
                    np.lib.format.write_array_header_1_0(file, header)
                    for pixels in decoded(self._blocks(source.files)):
                        # Written, not mapped: on a full disk a write fails, where a map kills the process.
                        file.write(pixels.tobytes())
                        done += len(pixels)
                        context.progress("decoding images", done, total)
                    file.flush()
                    os.fsync(file.fileno())  # on the disk before the directory gets its final name
        sums = {part: _checksum(directory / f"{part}.npy") for part in self.parts}
        (directory / _CHECKSUMS).write_text(json.dumps(sums))

    def _blocks(self, files: Sequence[ImageFile]) -> Iterator[Block]:
        """Files that follow each other: so few that progress is seen and a block's pixels fit the memory many times."""
        block: list[str] = []
        size = 0
        for file in files:
            block.append(file.path)
            size += file.size + self.size * self.size
            if len(block) == _BLOCK or size >= _BLOCK_BYTES:
                yield Block(block, self.size, self.grey)
                block, size = [], 0
        if block:
            yield Block(block, self.size, self.grey)


def _checksum(file: Path) -> int:
    """A CRC-32 of all bytes: several times as fast as a digest, and it is damage that is looked for, not malice."""
    checksum = 0
    with regular.opened(file) as content:
        while piece := content.read(_PIECE):
            checksum = zlib.crc32(piece, checksum)
    return checksum


def _visible(folder: Path) -> list[os.DirEntry[str]]:
    try:
        with os.scandir(folder) as entries:
            found = [entry for entry in entries if not entry.name.startswith(".")]
    except OSError as error:
        raise _unreadable(folder, error) from error
    return sorted(found, key=lambda entry: entry.name)


def _is_folder(path: Path | os.DirEntry[str]) -> bool:
    try:
        return path.is_dir()
    except OSError as error:  # it may be there, but this user may not look
        raise _unreadable(path, error) from error


def _image_file(entry: os.DirEntry[str]) -> ImageFile:
    try:
        status = entry.stat()
    except OSError as error:
        raise _unreadable(entry, error) from error
    if not stat.S_ISREG(status.st_mode):
        raise DataError(f"{entry.path} is no file but a pipe, a socket or a device: remove it")
    return ImageFile(entry.path, status.st_size, status.st_mtime_ns)


def _unreadable(path: Path | os.DirEntry[str], error: OSError) -> DataError:
    return DataError(f"{os.fspath(path)} cannot be read ({reason_of(error)}): repair it, or let this user read it")
