"""Completions of option values for a shell, without importing torch or a component."""

from __future__ import annotations

import ast
import importlib.util
import typing
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from importlib import resources
from pathlib import Path
from typing import Any

from forgetkit.registry import entry_points, hookspecs

_KINDS = {
    "importance": "importance",
    "reinit": "reinit",
    "replay": "replay",
    "dataset": "datasets",
    "model": "models",
    "interventions": "interventions",
    "metrics": "metrics",
    "observers": "observers",
}

Offer = Callable[[str], list[str]]


@dataclass(frozen=True)
class _Components:
    """Completes the components of a kind, which are looked up when a shell asks."""

    kind: str

    def __call__(self, incomplete: str) -> list[str]:
        return _beginning(components(self.kind))(incomplete)


def words(environment: typing.Mapping[str, str]) -> list[str]:
    """Return the command line to complete, without the program; empty if there is none."""
    if not any(name.endswith("_COMPLETE") and name.startswith("_FORGETKIT") for name in environment):
        return []
    return (environment.get("_TYPER_COMPLETE_ARGS") or environment.get("COMP_WORDS", "")).split()[1:]


def for_option(name: str, annotation: Any) -> Offer | None:
    """Complete a field of the configuration: its choices, or the components that it may name."""
    if name == "preset":
        from forgetkit.config import presets

        return _beginning(presets.NAMES)
    if name == "method":
        from forgetkit.config import METHODS

        return _beginning(list(METHODS))
    if name in _KINDS:
        return _Components(_KINDS[name])
    choices = [word for part in (annotation, *typing.get_args(annotation)) for word in _choices(part)]
    return _beginning(choices) if choices else None


def for_components(kind: str) -> Offer:
    """Complete an argument that names a component of a kind."""
    return _Components(kind)


def kinds(incomplete: str) -> list[str]:
    """Complete a kind of components."""
    return _beginning(_kinds())(incomplete)


def any_component(incomplete: str) -> list[str]:
    """Complete a component of any kind: typer does not say which kind was named before."""
    return sorted({name for kind in _kinds() for name in components(kind) if name.startswith(incomplete)})


def _kinds() -> list[str]:
    """Return the kinds by the names of the hooks, without importing the registry, which imports torch."""
    hooks = [name.removeprefix("forgetkit_") for name in vars(hookspecs) if name.startswith("forgetkit_")]
    return sorted(kind for kind in hooks if kind != "commands")


def components(kind: str) -> list[str]:
    """Read the names of a kind's components from the source of the built-ins and of installed plugins.

    A plugin whose hook does not return a plain dictionary is left out.
    """
    found = set(_names(Path(str(resources.files("forgetkit.builtin").joinpath(kind, "__init__.py"))), kind))
    for point in entry_points.plugins():
        file = None if point.disabled or point.clash else _source(point.module)
        if file is not None:
            found.update(_names(file, kind))
    return sorted(found)


def _source(module: str) -> Path | None:
    """Return the file of a module without importing its package."""
    top, *below = module.split(".")
    try:
        spec = importlib.util.find_spec(top)
    except (ImportError, ValueError):
        return None
    if spec is None or spec.origin is None:
        return None
    file = Path(spec.origin)
    if below:
        file = file.parent.joinpath(*below).with_suffix(".py")
        return file if file.is_file() else file.with_suffix("") / "__init__.py"
    return file


def _names(file: Path, kind: str) -> Iterator[str]:
    """Yield the keys of the dictionary that the hook of a kind returns."""
    try:
        tree = ast.parse(file.read_bytes())
    except (OSError, SyntaxError, ValueError):
        return
    for function in ast.walk(tree):
        if isinstance(function, ast.FunctionDef) and function.name == f"forgetkit_{kind}":
            for node in ast.walk(function):
                for key in node.keys if isinstance(node, ast.Dict) else ():
                    if isinstance(key, ast.Constant) and isinstance(key.value, str):
                        yield key.value


def _choices(annotation: Any) -> Sequence[str]:
    return typing.get_args(annotation) if typing.get_origin(annotation) is typing.Literal else ()


def _beginning(names: Sequence[str]) -> Offer:
    def complete(incomplete: str) -> list[str]:
        return [name for name in names if name.startswith(incomplete)]

    return complete
