"""Recognise images by suffix or content, and find decoders."""

from __future__ import annotations

import contextlib
import importlib
import importlib.util
import re
from collections.abc import Iterable
from importlib import metadata

from PIL import Image

PROGRAMS = ("EPS",)
"""Formats that Pillow passes to another program, which executes the file."""

_NOT_DECODED = ("BUFR", "GRIB", "HDF5", "MPEG", "WMF")
"""Formats that Pillow recognises but cannot decode."""
_HEIF = (".heic", ".heics", ".heif", ".heifs", ".hif")
_KNOWN = {".jxl", ".svg", ".cr2", ".cr3", ".nef", ".arw", ".dng", ".orf", ".rw2", ".raf", ".exr", ".hdr", ".dcm"}
"""Suffixes of images that Pillow does not know."""
_SUFFIX = re.compile(r"\.[A-Za-z][^.]{0,11}$")
"""A suffix begins with a letter: a file that ends in ``.0001`` is recognised by its content."""


def suffix_of(name: str) -> str:
    """The suffix of a file's name in lower case, or an empty string."""
    start = name.rfind(".")
    return name[start:].lower() if start > 0 and _SUFFIX.match(name, start) else ""


def suffixes() -> frozenset[str]:
    """The suffixes of images that can be decoded."""
    known = Image.registered_extensions()
    decoded = {suffix for suffix, kind in known.items() if kind in Image.OPEN and kind not in _NOT_DECODED}
    return frozenset(decoded | {".mpo"} | set(_HEIF if _has_heif() else ()))


def is_image(path: str) -> bool:
    """Whether a file's content is an image that can be decoded."""
    try:
        with Image.open(path) as image:
            return image.format not in (*PROGRAMS, *_NOT_DECODED)
    except Image.DecompressionBombError:
        return True
    except Exception:  # noqa: BLE001 - arbitrary bytes may raise anything
        return False


def why_passed_over(suffix: str) -> str:
    """Why files of a suffix are passed over."""
    if not suffix:
        return "without suffix (no image by its content)"
    if suffix in _HEIF:
        return f"{suffix} (no decoder: pip install pillow-heif)"
    kind = Image.registered_extensions().get(suffix)
    return f"{suffix} ({'no decoder' if suffix in _KNOWN or kind in _NOT_DECODED else 'no image suffix'})"


def register_decoders(files: Iterable[str]) -> None:
    """Register the installed decoders that these files need with Pillow."""
    if any(file.lower().endswith(_HEIF) for file in files) and not _is_registered() and _has_heif():
        importlib.import_module("pillow_heif").register_heif_opener()


def version_of_decoders(files: Iterable[str]) -> str:
    """The version of the package beside Pillow that decodes some of these files, if any."""
    if any(file.lower().endswith(_HEIF) for file in files):
        with contextlib.suppress(metadata.PackageNotFoundError):
            return f"pillow-heif {metadata.version('pillow-heif')}"
    return ""


def _has_heif() -> bool:
    return _is_registered() or importlib.util.find_spec("pillow_heif") is not None


def _is_registered() -> bool:
    return Image.registered_extensions().get(_HEIF[0]) in Image.OPEN
