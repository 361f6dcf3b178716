"""What errors call a component: as it was written, and where its code is."""

from __future__ import annotations

import contextlib
import inspect
from pathlib import Path

_NAME = "_forgetkit_name"


def keep_name(component: object, written: str, plugin: str = "") -> None:
    """Let errors call ``component`` as the user wrote it, with the distribution of its ``plugin``, or its file.

    The name is kept beside the fields of the dataclass, which compare and print as before. An object with slots has no
    room for it and goes by its class.
    """
    with contextlib.suppress(AttributeError, TypeError):
        object.__setattr__(component, _NAME, f"{written} ({plugin})" if plugin else written)


def component_name(component: object) -> str:
    """A component as it was written, or the class of an object that was given in Python."""
    name = getattr(component, "__dict__", {}).get(_NAME)
    return name if isinstance(name, str) else type(component).__name__


def source_file(component: type) -> str:
    """The file of a class, from the current folder if it is in there; empty if it is in no file."""
    try:
        file = Path(inspect.getfile(component))
    except (OSError, TypeError):
        return ""
    return str(file.relative_to(Path.cwd()) if file.is_relative_to(Path.cwd()) else file)
