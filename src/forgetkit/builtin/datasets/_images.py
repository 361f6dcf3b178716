"""Image files as data: decode them once and keep the pixels in a cache.

A cache entry is a directory named by a digest of everything that the pixels depend on. It is filled under another name
and then renamed, so an entry is always complete.
"""

from __future__ import annotations

import contextlib
import errno
import hashlib
import json
import logging
import os
import zlib
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import IO, Any, Literal

import numpy as np
import PIL
from numpy.typing import NDArray

from forgetkit.builtin.datasets import _formats, _listing
from forgetkit.builtin.datasets._decoding import (
    COMPOSITED,
    SCALED,
    TURNED,
    Block,
    DecodedBlock,
    DecodeFormat,
    reason_of,
)
from forgetkit.builtin.datasets._listing import ImageFile, Listing, count_noun
from forgetkit.builtin.datasets._staging import staging
from forgetkit.contracts import Augmentation, Data, DataSplit, LoadContext
from forgetkit.errors import DataError
from forgetkit.system import safe_open

_log = logging.getLogger("forgetkit")

_DECODING = 4
"""Raise it with each change to how files become pixels, or to how the cache stores them."""

_BLOCK = 256
"""Images in a block, at most."""
_BLOCK_BYTES = 1 << 20
"""Bytes of image files in a block, about."""
_PIECE = 1 << 20
_CHECKSUMS, _REPORT = "checksums.json", "report.json"
_MOST_BAD, _MOST_NAMED = 20, 3
"""How many bad images a message lists if they stop the run, and if they are skipped."""
_DOCUMENTED = (TURNED, COMPOSITED, SCALED)
"""Notes for the manifest alone: the documentation describes these steps."""

OnBad = Literal["stop", "skip"]
Shape = tuple[int, int, int, int]


@dataclass(frozen=True)
class ImageOptions:
    """What images are decoded to, and what to do with those that cannot be decoded."""

    target: DecodeFormat
    on_bad: OnBad = "stop"


@dataclass
class _Report:
    """The findings of decoding: bad images by part and position, and notes with a count and one file.

    ``unread`` counts images that the system failed to read: they may be good, and a run must not continue without them.
    """

    bad: dict[str, dict[int, str]] = field(default_factory=dict)
    notes: dict[str, tuple[int, str]] = field(default_factory=dict)
    unread: int = 0

    @classmethod
    def from_json(cls, text: bytes) -> _Report:
        report = json.loads(text)
        bad = {part: {int(place): reason for place, reason in found.items()} for part, found in report["bad"].items()}
        return cls(bad, {note: (count, path) for note, (count, path) in report["notes"].items()})

    def add(self, part: str, start: int, block: Block, found: DecodedBlock) -> None:
        """Add the findings of a block whose first image is at ``start`` in its part."""
        self.bad.setdefault(part, {}).update({start + place: fault.reason for place, fault in found.bad.items()})
        self.unread += sum(not fault.is_the_files for fault in found.bad.values())
        for note, places in found.notes.items():
            count, path = self.notes.get(note, (0, block.files[places[0]]))
            self.notes[note] = count + len(places), path


def part_folders(root: Path, train: str, test: str) -> tuple[Path, Path]:
    """The folders of both parts inside ``root``; raise ``DataError`` if one of the three is missing."""
    if not _listing.is_folder(root):
        raise DataError(f"there is no folder {root}: give the one that holds '{train}' and '{test}'")
    for name in (train, test):
        if not _listing.is_folder(root / name):
            raise DataError(f"{root} holds no folder '{name}': the images belong in {name}/CLASS/")
    return root / train, root / test


def load(
    root: Path,
    train: Listing,
    test: Listing,
    *,
    classes: Sequence[str],
    options: ImageOptions,
    augment: Augmentation,
    context: LoadContext,
    remarks: Sequence[str] = (),
) -> Data:
    """Map both parts from the cache, and fill it first if necessary.

    ``remarks`` come before those on the images.
    """
    listings = {"train": train, "test": test}
    pixels, report = _Pixels(root, listings, options).load(context)
    parts = {name: _part(pixels[name], source, report.bad.get(name, {})) for name, source in listings.items()}
    for name, part in parts.items():
        if not len(part) or (name == "train" and len(np.unique(part.labels)) < len(classes)):
            lacking = set(range(len(classes))) - set(part.labels.tolist())
            where = root / listings[name].name
            raise DataError(f"no image of class '{classes[min(lacking)]}' in {where} can be decoded: repair them")
    return Data(
        parts["train"],
        parts["test"],
        tuple(classes),
        augment,
        remarks=(*remarks, *_remarks(root, listings, parts, classes, report)),
        provenance=_provenance(root, listings, parts, classes, report),
    )


def _part(pixels: NDArray[np.uint8], source: Listing, bad: Mapping[int, str]) -> DataSplit:
    return DataSplit(pixels, np.delete(np.asarray(source.labels, dtype=np.int64), list(bad)))


def _remarks(
    root: Path, listings: Mapping[str, Listing], parts: Mapping[str, DataSplit], classes: Sequence[str], report: _Report
) -> Iterator[str]:
    counts = {name: Counter(part.labels.tolist()) for name, part in parts.items()}
    for name, source in listings.items():
        yield from _listing.remarks(source, counts[name], classes)
    bad = list(_bad(root, listings, report))
    if bad:
        total = sum(len(source.files) for source in listings.values())
        yield f"on-bad=skip left out {len(bad)} of {count_noun(total, 'image')}: {_join_paths(bad, _MOST_NAMED)}"
    for note, (count, path) in report.notes.items():
        if note not in _DOCUMENTED:
            yield f"{count_noun(count, 'image')} with {note}: {_below(root, path)}{' and others' if count > 1 else ''}"


def _provenance(
    root: Path, listings: Mapping[str, Listing], parts: Mapping[str, DataSplit], classes: Sequence[str], report: _Report
) -> dict[str, Any]:
    """Counts of each class by part, skipped images, and notes on images."""
    found: dict[str, Any] = {}
    for name, source in listings.items():
        listed, taken = Counter(source.labels), Counter(parts[name].labels.tolist())
        rows = {
            classes[label]: {
                "taken": taken[label],
                "skipped": listed[label] - taken[label],
                "passed_over": dict(source.passed_over.get(label, {})),
            }
            for label in range(len(classes))
        }
        found[name] = {"folder": source.name, "classes": rows}
    return found | {
        "skipped": dict(_bad(root, listings, report)),
        "notes": {note: count for note, (count, _) in report.notes.items()},
    }


def _bad(root: Path, listings: Mapping[str, Listing], report: _Report) -> Iterator[tuple[str, str]]:
    """The path of each bad image below ``root``, and the reason."""
    for name, source in listings.items():
        for place, reason in report.bad.get(name, {}).items():
            yield _below(root, source.files[place].path), reason


def _join_paths(bad: Sequence[tuple[str, str]], most: int) -> str:
    more = f"; and {len(bad) - most:,} more" if len(bad) > most else ""
    return "; ".join(f"{path} ({reason})" for path, reason in bad[:most]) + more


def _below(root: Path, path: str) -> str:
    return os.path.relpath(path, root)


@dataclass(frozen=True)
class _Pixels:
    """The decoded images of both parts, in the cache."""

    root: Path
    parts: Mapping[str, Listing]
    options: ImageOptions

    def load(self, context: LoadContext) -> tuple[dict[str, NDArray[np.uint8]], _Report]:
        """A memory map per part, without the bad images, and the report of decoding."""
        entry = context.cache / "folder" / self._key()
        found = self._read(entry)
        if found is None:
            if entry.exists():
                _log.warning("the image cache %s is damaged: decoding its images again", entry)
            try:
                self._fill(entry, context)
            except OSError as error:
                raise DataError(
                    f"the image cache {entry.parent} cannot be written ({reason_of(error)}): "
                    "make room there, or let this user write to it"
                ) from error
            found = self._read(entry)
        if found is None:
            raise DataError(f"the image cache {entry} was changed while it was written: try again")
        return found

    def _shape(self, part: str, bad: int = 0) -> Shape:
        target = self.options.target
        return (len(self.parts[part].files) - bad, 1 if target.grey else 3, target.size, target.size)

    def _key(self) -> str:
        """A digest of all that the pixels depend on: the files as they are now, and the decoding."""
        decoders = _formats.version_of_decoders(file.path for source in self.parts.values() for file in source.files)
        head = [_DECODING, PIL.__version__, decoders, self.options.target, self.options.on_bad]
        digest = hashlib.sha256(json.dumps(head).encode() + os.fsencode(self.root.resolve()))
        below = len(str(self.root / "x")) - 1
        for part, source in self.parts.items():
            digest.update(b"\0\0" + part.encode())
            for path, size, changed in source.files:
                digest.update(b"\0%s\0%d\0%d" % (os.fsencode(path[below:]), size, changed))
        return digest.hexdigest()

    def _read(self, entry: Path) -> tuple[dict[str, NDArray[np.uint8]], _Report] | None:
        """The content of ``entry``, or None if it is missing or damaged; checksums cover each pixel."""
        file, pixels = entry, dict[str, NDArray[np.uint8]]()
        try:
            sums = json.loads(safe_open.read_bytes(entry / _CHECKSUMS))
            report = _Report.from_json(safe_open.read_bytes(entry / _REPORT))
            whole = _checksum(entry / _REPORT) == sums[_REPORT]
            for part in self.parts:
                file = entry / f"{part}.npy"
                whole &= _checksum(file) == sums[file.name]
                array = pixels[part] = np.load(file, mmap_mode="r", allow_pickle=False)
                whole &= array.shape == self._shape(part, len(report.bad.get(part, {}))) and array.dtype == np.uint8
        except Exception as error:  # a damaged file may raise anything, and its images can be decoded again
            if not isinstance(error, OSError) or error.errno != errno.ENOMEM:
                return None
            raise DataError(
                f"{file} cannot be mapped, since address space ran out ({reason_of(error)}): raise the limit "
                "(ulimit -v) by the size of that file, or limit memory by a control group or ulimit -d instead"
            ) from error
        return (pixels, report) if whole else None

    def _fill(self, entry: Path, context: LoadContext) -> None:
        """Decode all images into a new directory, then rename it to ``entry``."""
        entry.parent.mkdir(parents=True, exist_ok=True)
        with staging(entry.parent, ".decoding-") as place:
            fresh = place / "fresh"
            fresh.mkdir()
            self._decode_into(fresh, context)
            if self._read(entry) is None:
                with contextlib.suppress(FileNotFoundError):
                    entry.rename(place / "damaged")
            try:
                fresh.rename(entry)
            except OSError:
                if self._read(entry) is None:
                    raise
                # Another process was faster, and its pixels are the same.

    def _decode_into(self, directory: Path, context: LoadContext) -> None:
        from forgetkit.builtin.datasets._decode_pool import decoder_pool  # late: a cached folder needs no workers

        files = [file for source in self.parts.values() for file in source.files]
        done, total, report = 0, len(files), _Report()
        context.progress("decoding images", done, total)
        with decoder_pool(sum(file.size for file in files)) as decoded:
            for part, source in self.parts.items():
                with (directory / f"{part}.npy").open("wb") as file:
                    self._write_header(file, part)
                    blocks, start = list(self._blocks(source.files)), 0
                    for block, found in zip(blocks, decoded(blocks), strict=True):
                        # Written, not mapped: on a full disk a write raises, and a map kills the process.
                        file.write(np.delete(found.pixels, list(found.bad), axis=0).tobytes())
                        report.add(part, start, block, found)
                        start += len(block.files)
                        done += len(block.files)
                        if done < total:
                            context.progress("decoding images", done, total)
                    self._write_header(file, part, len(report.bad.get(part, {})))
                    file.flush()
                    os.fsync(file.fileno())  # on disk before the directory gets its final name
        self._refuse_bad(report)
        context.progress("decoding images", total, total)
        written = json.dumps(asdict(report)).encode()
        (directory / _REPORT).write_bytes(written)
        sums = {file.name: _checksum(file) for file in directory.iterdir()}
        (directory / _CHECKSUMS).write_text(json.dumps(sums))

    def _write_header(self, file: IO[bytes], part: str, bad: int = 0) -> None:
        """Write the header at the start of the file; its length does not depend on the number of images."""
        file.seek(0)
        header = {"descr": "|u1", "fortran_order": False, "shape": self._shape(part, bad)}
        np.lib.format.write_array_header_1_0(file, header)

    def _refuse_bad(self, report: _Report) -> None:
        bad = [
            (source.files[place].path, reason)
            for part, source in self.parts.items()
            for place, reason in report.bad.get(part, {}).items()
        ]
        if not bad or (self.options.on_bad == "skip" and not report.unread):
            return
        remedy = "replace or remove {}, or leave {} out with on-bad=skip"
        if report.unread:
            remedy = "the system failed and not the image, so on-bad=skip keeps them: try again, with more memory"
        if len(bad) == 1:
            raise DataError(f"{bad[0][0]} cannot be decoded ({bad[0][1]}): {remedy.format('it', 'it')}")
        raise DataError(
            f"{len(bad):,} images cannot be decoded: {_join_paths(bad, _MOST_BAD)}: {remedy.format('them', 'them')}"
        )

    def _blocks(self, files: Sequence[ImageFile]) -> Iterator[Block]:
        """Consecutive files, few enough that progress is visible and several blocks fit in memory."""
        target = self.options.target
        block: list[str] = []
        size = 0
        for file in files:
            block.append(file.path)
            size += file.size + target.size * target.size
            if len(block) == _BLOCK or size >= _BLOCK_BYTES:
                yield Block(block, target)
                block, size = [], 0
        if block:
            yield Block(block, target)


def _checksum(file: Path) -> int:
    """A CRC-32 of all bytes: several times as fast as a digest, and enough to find damage."""
    checksum = 0
    with safe_open.open_file(file) as content:
        while piece := content.read(_PIECE):
            checksum = zlib.crc32(piece, checksum)
    return checksum
