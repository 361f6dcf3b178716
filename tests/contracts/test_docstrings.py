"""A plugin's author needs only the docstrings: they name each parameter, each field and each answer."""

from __future__ import annotations

import dataclasses
import inspect
import re
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from forgetkit import contracts
from forgetkit.registry import hookspecs
from forgetkit.registry.kinds import KIND_INFO

EXPORTS = {name: getattr(contracts, name) for name in contracts.__all__}
CLASSES = {name: part for name, part in EXPORTS.items() if inspect.isclass(part)}


def functions() -> Iterator[tuple[str, Callable[..., Any]]]:
    for name, part in EXPORTS.items():
        if inspect.isfunction(part):
            yield name, part
        if name in CLASSES:
            for method, value in vars(part).items():
                if inspect.isfunction(value) and not method.startswith("_"):
                    yield f"{name}.{method}", value


FUNCTIONS = dict(functions())


def section(docstring: str, title: str) -> set[str]:
    """The names that a section of a Google docstring explains."""
    body = re.search(rf"^{title}:\n((?:    .*\n?|\n)+)", docstring, re.MULTILINE)
    return set(re.findall(r"^    (\w+):", body[1], re.MULTILINE)) if body else set()


@pytest.mark.parametrize("name", FUNCTIONS)
def test_each_parameter_and_answer_is_explained(name: str) -> None:
    docstring = inspect.getdoc(FUNCTIONS[name]) or ""
    signature = inspect.signature(FUNCTIONS[name])
    assert section(docstring, "Args") == signature.parameters.keys() - {"self"}
    answers = re.search(r"^(Returns|Yields):\n    \S", docstring, re.MULTILINE) is not None
    assert answers == (signature.return_annotation not in ("None", None))


@pytest.mark.parametrize("name", [name for name, part in CLASSES.items() if dataclasses.is_dataclass(part)])
def test_each_field_is_explained(name: str) -> None:
    own = set(vars(CLASSES[name]).get("__annotations__", ()))
    assert section(inspect.getdoc(CLASSES[name]) or "", "Attributes") == own


@pytest.mark.parametrize("kind", KIND_INFO)
def test_each_hook_says_what_it_returns(kind: str) -> None:
    assert "\nReturns:\n    " in (inspect.getdoc(getattr(hookspecs, KIND_INFO[kind].hook)) or "")
