"""Files that appear whole or not at all, and that tell when a byte of them is another."""

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
"""The last key of a sealed object: the digest of all its other content."""

_NO_FOLDERS = (errno.EACCES, errno.EBADF, errno.EINVAL, errno.EISDIR, errno.ENOTSUP, errno.EPERM)
"""How a file system says that it cannot sync a folder."""


def write_atomically(path: Path, content: bytes | memoryview) -> None:
    """Write to a temporary file beside ``path``, sync, rename, sync the folder. A link in its place is not followed."""
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
    except BaseException:  # an interruption leaves nothing behind either
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
    """``path``, a folder of ours; asked for at each access, since a link may take its place at any time.

    Raises:
        RunDirectoryError: It is a link: what lies behind it is not ours to write or to take away.
    """
    if path.is_symlink():
        raise RunDirectoryError(f"{path} is a link, not a folder of forgetkit's: put the folder itself in its place")
    return path


def sync_folder(folder: Path) -> None:
    """Make the names in a folder outlast a loss of power, where the system can."""
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
    """Write an object with its seal, and return it as it is read again, with the seal."""
    whole = with_digest(content)
    write_json(path, whole)
    return whole


def read_with_digest(path: Path, remedy: str = "") -> dict[str, Any]:
    """What was sealed in ``path``, less its seal; ``RunDirectoryError`` says ``remedy`` where it is not as written.

    Missing, cut short, another byte, no seal at all: all that is one to whoever wants to trust it.
    """
    try:
        return without_digest(read_json(path), str(path))
    except RunDirectoryError as error:
        raise RunDirectoryError(f"{error}; {remedy}" if remedy else str(error)) from error


def with_digest(content: Mapping[str, Any]) -> dict[str, Any]:
    """The object as JSON gives it back, with the digest of that as its last key."""
    plain = json.loads(json.dumps(content, allow_nan=False))
    return {**plain, DIGEST_KEY: _digest(plain)}


def without_digest(content: Mapping[str, Any], name: str) -> dict[str, Any]:
    """The content less its seal; ``RunDirectoryError`` where the seal is not that of the content."""
    plain = {key: value for key, value in content.items() if key != DIGEST_KEY}
    if DIGEST_KEY not in content:
        raise RunDirectoryError(f"{name} has no digest: it is damaged, or of an older forgetkit")
    if content[DIGEST_KEY] != _digest(plain):
        raise RunDirectoryError(f"{name} is damaged: not what its digest says")
    return plain


def _digest(plain: Mapping[str, Any]) -> str:
    """One spelling for equal content, whatever the order of its keys and the space between them."""
    return hashlib.sha256(json.dumps(plain, sort_keys=True).encode()).hexdigest()


def write_json(path: Path, content: Any) -> None:
    """One object, as :func:`as_json` spells it."""
    write_atomically(path, as_json(content))


def as_json(content: Any) -> bytes:
    """Indented, with a newline at the end. NaN has no place in JSON and is refused."""
    return (json.dumps(content, indent=2, allow_nan=False) + "\n").encode()


def read_json(path: Path) -> dict[str, Any]:
    """The object in ``path``; ``RunDirectoryError`` where it is missing, no file or damaged."""
    try:
        return as_object(safe_open.read_bytes(path))
    except OSError as error:
        raise RunDirectoryError(f"{path} cannot be read: {error.strerror}") from error
    except ValueError as error:
        raise RunDirectoryError(f"{path} is damaged: {error}") from error


def as_object(text: bytes) -> dict[str, Any]:
    """The object that JSON text holds.

    Raises:
        ValueError: It is no JSON, no object, nested too deeply, or holds NaN or a number beyond all floats.
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
