"""Files that appear whole or not at all, with a digest that shows damage."""

from __future__ import annotations

import contextlib
import errno
import hashlib
import json
import math
import os
import reprlib
import secrets
import stat
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from forgetkit.errors import RecordError, RunDirectoryError
from forgetkit.system import safe_open

DIGEST_KEY = "sha256"
"""The last key of an object with a digest: the digest of its other content."""

_NO_FOLDERS = (errno.EACCES, errno.EBADF, errno.EINVAL, errno.EISDIR, errno.ENOTSUP, errno.EPERM)
"""Errors of file systems that cannot sync a folder."""


def write_atomically(path: Path, content: bytes | memoryview) -> None:
    """Write a temporary file beside ``path``, sync it, rename it, sync the folder. A link at ``path`` is replaced."""
    temporary = path.with_name(f".{path.name}.{secrets.token_hex(4)}.tmp")  # process ids collide between containers
    try:
        with temporary.open("xb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(path)
        sync_folder(path.parent)
    except OSError as error:
        _remove_temporary(temporary)
        raise RecordError(f"cannot write {path}: {error.strerror}") from error
    except BaseException:  # an interruption leaves no file either
        _remove_temporary(temporary)
        raise


def write_output(path: Path, content: bytes | memoryview) -> None:
    """:func:`write_atomically` for a file that a user named, or that others see.

    Raises:
        RunDirectoryError: A device, a pipe or a link has that name: it would be replaced by a file.
    """
    with contextlib.suppress(OSError):
        if not (stat.S_ISREG(mode := path.lstat().st_mode) or stat.S_ISDIR(mode)):
            raise RunDirectoryError(f"{path} is a link, a pipe or a device: name a file")
    write_atomically(path, content)


def own_folder(path: Path) -> Path:
    """Return ``path``; call this at each access, since a link may take the folder's place at any time.

    Raises:
        RunDirectoryError: It is a link, so the files behind it may not be forgetkit's.
    """
    if path.is_symlink():
        raise RunDirectoryError(f"{path} is a link, not a folder of forgetkit's: put the folder itself in its place")
    return path


def sync_folder(folder: Path) -> None:
    """Make the names in a folder survive a loss of power, if the system can."""
    if not hasattr(os, "O_DIRECTORY"):  # Windows opens no folders
        return
    try:
        descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)
    except OSError as error:
        if error.errno not in _NO_FOLDERS:
            raise


def write_with_digest(path: Path, content: Mapping[str, Any]) -> dict[str, Any]:
    """Write an object with its digest; return it as JSON reads it, digest included."""
    whole = with_digest(content)
    write_json(path, whole)
    return whole


def read_with_digest(path: Path, remedy: str = "") -> dict[str, Any]:
    """Read an object and check its digest, which is left out.

    Raises:
        RunDirectoryError: The file is missing, truncated, damaged or has no digest; the message ends with ``remedy``.
    """
    try:
        return without_digest(read_json(path), str(path))
    except RunDirectoryError as error:
        raise RunDirectoryError(f"{error}; {remedy}" if remedy else str(error)) from error


def with_digest(content: Mapping[str, Any]) -> dict[str, Any]:
    """The object as JSON reads it, with its digest as the last key."""
    plain = json.loads(json.dumps(content, allow_nan=False))
    return {**plain, DIGEST_KEY: _digest(plain)}


def without_digest(content: Mapping[str, Any], name: str) -> dict[str, Any]:
    """The content without its digest; ``RunDirectoryError`` if the digest is missing or another one."""
    plain = {key: value for key, value in content.items() if key != DIGEST_KEY}
    if DIGEST_KEY not in content:
        raise RunDirectoryError(f"{name} has no digest: it is damaged, or of an older forgetkit")
    if content[DIGEST_KEY] != _digest(plain):
        raise RunDirectoryError(f"{name} is damaged: not what its digest says")
    return plain


def _digest(plain: Mapping[str, Any]) -> str:
    """The digest of the content, which does not depend on the order of keys and on spaces."""
    return hashlib.sha256(json.dumps(plain, sort_keys=True).encode()).hexdigest()


def write_json(path: Path, content: Any) -> None:
    """Write an object in the form of :func:`as_json`."""
    write_atomically(path, as_json(content))


def as_json(content: Any) -> bytes:
    """Indented JSON with a newline at the end; NaN is refused."""
    return (json.dumps(content, indent=2, allow_nan=False) + "\n").encode()


def read_json(path: Path) -> dict[str, Any]:
    """Read an object; ``RunDirectoryError`` if the file is missing, no regular file or damaged."""
    try:
        return as_object(safe_open.read_bytes(path))
    except OSError as error:
        raise RunDirectoryError(f"{path} cannot be read: {error.strerror}") from error
    except ValueError as error:
        raise RunDirectoryError(f"{path} is damaged: {error}") from error


def as_object(text: bytes) -> dict[str, Any]:
    """Parse JSON text that holds an object.

    Raises:
        ValueError: It is no JSON, no object, nested too deeply, or holds NaN or a number too large for a float.
    """
    try:
        content = json.loads(text, parse_constant=_finite_float, parse_float=_finite_float, parse_int=_whole)
        json.dumps(content)  # what is nested almost too deeply can be read and not written
    except RecursionError as error:
        raise ValueError("it is nested too deeply") from error
    if not isinstance(content, dict):
        raise ValueError("it holds no object")
    return content


def _finite_float(text: str) -> float:
    number = float(text)
    if not math.isfinite(number):
        raise ValueError(f"it holds the number {reprlib.repr(text)}")
    return number


def _whole(text: str) -> int:
    _finite_float(text)
    return int(text)


def _remove_temporary(temporary: Path) -> None:
    with contextlib.suppress(OSError):
        temporary.unlink(missing_ok=True)
