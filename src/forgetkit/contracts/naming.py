"""The names of components in errors: the SPEC as the user wrote it, and the source."""

from __future__ import annotations

import contextlib
import inspect
from pathlib import Path

_NAME = "_forgetkit_name"


def keep_name(component: object, written: str, plugin: str = "") -> None:
    """Give a component the name that errors use.

    The name is no field, so the component compares and prints as before. An object with slots cannot hold it; errors
    then use its class.

    Args:
        component: The component.
        written: The SPEC as the user wrote it.
        plugin: The distribution and version, or the file, of its plugin.

    Example:
        >>> keep_name(component, "gradnorm:samples=64", "gradnorm.py")
        >>> component_name(component)
        'gradnorm:samples=64 (gradnorm.py)'
    """
    with contextlib.suppress(AttributeError, TypeError):
        object.__setattr__(component, _NAME, f"{written} ({plugin})" if plugin else written)


def component_name(component: object) -> str:
    """Get the name of a component for an error.

    Args:
        component: The component.

    Returns:
        The SPEC as the user wrote it with its plugin, or the class of an object that was built in Python.

    Example:
        >>> component_name(component)
        'Component'
    """
    name = getattr(component, "__dict__", {}).get(_NAME)
    return name if isinstance(name, str) else type(component).__name__


def source_file(component: type) -> str:
    """Find the file of a class.

    Args:
        component: The class.

    Returns:
        The path, relative if it is in the current folder; empty if the class is in no file.

    Example:
        >>> source_file(int)
        ''
    """
    try:
        file = Path(inspect.getfile(component))
    except (OSError, TypeError):
        return ""
    return str(file.relative_to(Path.cwd()) if file.is_relative_to(Path.cwd()) else file)
