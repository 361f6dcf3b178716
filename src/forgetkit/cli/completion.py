"""What a shell is offered for the value of an option. It imports neither torch nor a component."""

from __future__ import annotations

import ast
import typing
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from importlib import resources
from typing import Any

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
    """The built-in components of a kind, looked up when a shell asks."""

    kind: str

    def __call__(self, incomplete: str) -> list[str]:
        return _beginning(built_in(self.kind))(incomplete)


def words(environment: typing.Mapping[str, str]) -> list[str]:
    """The command line that a shell asks about, without the program; empty if none does."""
    if not any(name.endswith("_COMPLETE") and name.startswith("_FORGETKIT") for name in environment):
        return []
    return (environment.get("_TYPER_COMPLETE_ARGS") or environment.get("COMP_WORDS", "")).split()[1:]


def for_option(name: str, annotation: Any) -> Offer | None:
    """The choices of a field of the configuration, or the built-in components that it may name."""
    if name == "preset":
        from forgetkit import presets

        return _beginning(presets.NAMES)
    if name == "method":
        from forgetkit.config import METHODS

        return _beginning(list(METHODS))
    if name in _KINDS:
        return _Components(_KINDS[name])
    choices = [word for part in (annotation, *typing.get_args(annotation)) for word in _choices(part)]
    return _beginning(choices) if choices else None


def built_in(kind: str) -> list[str]:
    """The names in the table that a package of built-ins offers, read from its source."""
    file = resources.files("forgetkit.builtin").joinpath(kind, "__init__.py")
    if not file.is_file():
        return []
    tables = (node for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))) if isinstance(node, ast.Dict))
    keys = [key.value for table in tables for key in table.keys if isinstance(key, ast.Constant)]
    return sorted(key for key in keys if isinstance(key, str))


def _choices(annotation: Any) -> Sequence[str]:
    return typing.get_args(annotation) if typing.get_origin(annotation) is typing.Literal else ()


def _beginning(names: Sequence[str]) -> Offer:
    def offer(incomplete: str) -> list[str]:
        return [name for name in names if name.startswith(incomplete)]

    return offer
