"""Files that appear whole or not at all."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

from forgetkit.errors import RecordError, RunDirectoryError


def write_atomically(path: Path, content: bytes) -> None:
    """Write to a temporary file beside ``path``, sync, rename."""
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        with temporary.open("wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(path)
    except OSError as error:
        temporary.unlink(missing_ok=True)
        raise RecordError(f"cannot write {path}: {error.strerror}") from error
    except BaseException:  # an interruption leaves nothing behind either
        temporary.unlink(missing_ok=True)
        raise


def write_json(path: Path, content: Any) -> None:
    """One object, as :func:`as_json` spells it."""
    write_atomically(path, as_json(content))


def as_json(content: Any) -> bytes:
    """Indented, with a newline at the end. NaN has no place in JSON and is refused."""
    return (json.dumps(content, indent=2, allow_nan=False) + "\n").encode()


def read_json(path: Path) -> dict[str, Any]:
    """The object in ``path``; ``RunDirectoryError`` where it is missing or damaged."""
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise RunDirectoryError(f"{path} cannot be read: {error.strerror}") from error
    except ValueError as error:
        raise RunDirectoryError(f"{path} is damaged: {error}") from error
    if not isinstance(content, dict):
        raise RunDirectoryError(f"{path} is damaged: it holds no object")
    return content
