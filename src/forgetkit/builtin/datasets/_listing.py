"""List the image files of class folders, and count the files that are passed over, with the reasons."""

from __future__ import annotations

import os
import stat
import unicodedata
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

from forgetkit.builtin.datasets import _formats
from forgetkit.builtin.datasets._decoding import reason_of
from forgetkit.errors import DataError

_OF_THE_SYSTEM = {
    *("__MACOSX", ".DS_Store", "Thumbs.db", "ehthumbs.db", "desktop.ini", "Desktop.ini"),
    *(".ipynb_checkpoints", "@eaDir", "#recycle", "$RECYCLE.BIN", "System Volume Information", "lost+found"),
}
"""Files of file managers, archivers, notebooks and network drives; they are passed over without a remark."""
_REASONS, _CLASSES = 4, 5
"""How many reasons and how many classes a remark shows; the manifest has all."""


class ImageFile(NamedTuple):
    """An image file: its path, its size in bytes, its time of change in nanoseconds."""

    path: str
    size: int
    changed: int


@dataclass(frozen=True)
class Listing:
    """The image files of one part in the order of their sample ids, and the class of each.

    ``passed_over`` counts the passed over files of each class by reason; ``name`` is the name of the part's folder.
    """

    name: str
    files: tuple[ImageFile, ...]
    labels: tuple[int, ...]
    passed_over: Mapping[int, Mapping[str, int]]


def class_folders(folder: Path) -> dict[str, list[Path]]:
    """The folders of each class by name, sorted; names that are equal in Unicode's NFC form are one class."""
    found: dict[str, list[Path]] = {}
    for entry in _entries(folder):
        if not _is_hidden(entry.name) and is_folder(entry):
            found.setdefault(unicodedata.normalize("NFC", entry.name), []).append(Path(entry.path))
    return dict(sorted(found.items()))


def stray_images(folder: Path) -> int:
    """How many image files lie directly in a folder of classes."""
    known = _formats.suffixes()
    return sum(
        _formats.suffix_of(entry.name) in known and not _is_hidden(entry.name) and not is_folder(entry)
        for entry in _entries(folder)
    )


def listing(name: str, folders: Iterable[tuple[Path, int]], *, optional: bool = False) -> Listing:
    """List the images of each (folder, label) and its sub-folders, sorted by path.

    Raises:
        DataError: If a folder is missing or cannot be read, or holds no image and is not ``optional``.
    """
    known = _formats.suffixes()
    files: list[ImageFile] = []
    labels: list[int] = []
    passed_over: dict[int, Counter[str]] = {}
    for folder, label in folders:
        if not is_folder(folder):
            raise DataError(f"class '{folder.name}' has no folder in {folder.parent}: it needs images there")
        passed = passed_over.setdefault(label, Counter())
        found = list(_walk(folder, known, passed))
        if not found and not optional:
            why = f" ({reasons(passed)})" if _shown_suffix(passed) else ""
            raise DataError(f"class '{folder.name}' has no images in {folder}{why}: add some, or remove the class")
        files += found
        labels += [label] * len(found)
    return Listing(name, tuple(files), tuple(labels), {label: dict(passed) for label, passed in passed_over.items()})


def remarks(part: Listing, counts: Mapping[int, int], classes: Sequence[str]) -> Iterator[str]:
    """A remark for each class with passed over files, up to a few; ``counts`` has the images of each class."""
    shown = {label: passed for label, passed in part.passed_over.items() if _shown_suffix(passed)}
    for label, passed in list(shown.items())[:_CLASSES]:
        images = count_noun(counts.get(label, 0), "image")
        yield f"{part.name}/{classes[label]}: {images} taken, passed over: {reasons(passed)}"
    if len(shown) > _CLASSES:
        total = sum((Counter(_shown_suffix(passed)) for passed in list(shown.values())[_CLASSES:]), Counter())
        yield (
            f"{part.name}: passed over in {len(shown) - _CLASSES} more classes: {reasons(total)}; the manifest has "
            "all of them"
        )


def reasons(passed: Mapping[str, int]) -> str:
    """``3 .heic (no decoder: pip install pillow-heif), 1 .bak (no image suffix)``."""
    shown = sorted(_shown_suffix(passed).items(), key=lambda pair: (-pair[1], pair[0]))
    more = sum(count for _, count in shown[_REASONS:])
    return ", ".join([f"{count} {reason}" for reason, count in shown[:_REASONS]] + ([f"{more} others"] if more else []))


def count_noun(number: int, noun: str) -> str:
    """``1 image``, ``2 images``."""
    return f"{number} {noun}{'' if number == 1 else 's'}"


def is_folder(path: Path | os.DirEntry[str]) -> bool:
    """Whether a path is a folder; raise ``DataError`` if this user may not see it."""
    try:
        return path.is_dir()
    except OSError as error:
        raise _unreadable(path, error) from error


_SYSTEM = "files of the system"


def _shown_suffix(passed: Mapping[str, int]) -> dict[str, int]:
    return {reason: count for reason, count in passed.items() if reason != _SYSTEM}


def _is_hidden(name: str) -> bool:
    return name.startswith(".") or name in _OF_THE_SYSTEM


def _walk(folder: Path, known: frozenset[str], passed: Counter[str]) -> Iterator[ImageFile]:
    """The images in a folder and below; each real folder once, since links may form a circle."""
    read = {_identity(folder)}
    open_folders = [iter(_entries(folder))]
    while open_folders:
        entry = next(open_folders[-1], None)
        if entry is None:
            open_folders.pop()
        elif _is_plain_image(entry, known):
            yield _image_file(entry)
        elif (reason := _reason_against(entry, known)) is not None:
            passed[reason] += 1
        elif not _leads_to_folder(entry):
            yield _image_file(entry)
        elif (identity := _identity(entry)) in read:
            passed["linked folder (read already)"] += 1
        else:
            read.add(identity)
            open_folders.append(iter(_entries(entry)))


def _is_plain_image(entry: os.DirEntry[str], known: frozenset[str]) -> bool:
    """The fast test that nearly all images pass: a known suffix, no link, not hidden."""
    name = entry.name
    return name[name.rfind(".") :].lower() in known and name[0] != "." and entry.is_file(follow_symlinks=False)


def _reason_against(entry: os.DirEntry[str], known: frozenset[str]) -> str | None:
    """Why a file or a folder is passed over, or None."""
    name, suffix = entry.name, _formats.suffix_of(entry.name)
    if _is_hidden(name):
        is_wanted = suffix in known and not name.startswith("._")  # macOS keeps a file's properties in ._NAME
        return f"hidden {suffix}" if is_wanted else _SYSTEM
    if suffix in known or _leads_to_folder(entry):
        return None
    is_image = not suffix and Path(entry).is_file() and _formats.is_image(entry.path)
    return None if is_image else _formats.why_passed_over(suffix)


def _leads_to_folder(entry: os.DirEntry[str]) -> bool:
    try:
        return entry.is_dir()
    except OSError:  # such as a link to itself; decoding reports it
        return False


def _entries(folder: Path | os.DirEntry[str]) -> list[os.DirEntry[str]]:
    try:
        with os.scandir(folder) as entries:
            return sorted(entries, key=lambda entry: (unicodedata.normalize("NFC", entry.name), entry.name))
    except OSError as error:
        raise _unreadable(folder, error) from error


def _identity(folder: Path | os.DirEntry[str]) -> tuple[int, int]:
    try:
        status = Path(folder).stat()
    except OSError as error:
        raise _unreadable(folder, error) from error
    return status.st_dev, status.st_ino


def _image_file(entry: os.DirEntry[str]) -> ImageFile:
    """List a file that cannot be opened too: decoding reports all bad files together."""
    try:
        status = entry.stat()
    except OSError:
        return ImageFile(entry.path, 0, 0)
    is_file = stat.S_ISREG(status.st_mode)
    return ImageFile(entry.path, status.st_size if is_file else 0, status.st_mtime_ns)


def _unreadable(path: Path | os.DirEntry[str], error: OSError) -> DataError:
    return DataError(f"{os.fspath(path)} cannot be read ({reason_of(error)}): repair it, or let this user read it")
