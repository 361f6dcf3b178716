"""The docstrings of exported names have Google's sections, and these match the signature and the body."""

from __future__ import annotations

import ast
import dataclasses
import doctest
import importlib
import inspect
import re
import sys
import textwrap
from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest
import torch

from forgetkit import contracts
from forgetkit.errors import OptionError

MODULES = ("forgetkit", "forgetkit.contracts", "forgetkit.testing")

COMPONENTS = (
    *("Analysis", "DatasetSource", "Executor", "Importance", "Intervention", "Metric"),
    *("ModelBuilder", "Observer", "Reinit", "Replay"),
)
"""The contracts of components, which need an example."""

SECTION = re.compile(r"^(Args|Attributes|Returns|Yields|Raises|Example|Examples|References|Note):\s*$", re.MULTILINE)


def sections(docstring: str) -> dict[str, str]:
    parts = SECTION.split(docstring)
    return dict(zip(parts[1::2], parts[2::2], strict=True))


def entries(section: str) -> set[str]:
    """The names that begin the lines of a section at its smallest indentation."""
    return set(re.findall(r"^\*{0,2}([\w.]+)(?: \([^)]*\))?:", textwrap.dedent(section).strip("\n"), re.MULTILINE))


def raised(function: Any) -> set[str]:
    """The classes that a function's own body raises."""
    found = set()
    nodes = [*ast.parse(textwrap.dedent(inspect.getsource(function))).body[0].body]  # type: ignore[attr-defined]
    while nodes:
        node = nodes.pop()
        if isinstance(node, ast.FunctionDef | ast.Lambda | ast.ClassDef):
            continue
        if isinstance(node, ast.Raise) and node.exc is not None:
            error = node.exc.func if isinstance(node.exc, ast.Call) else node.exc
            name = ast.unparse(error).rpartition(".")[2]
            if name[0].isupper():
                found.add(name)
        nodes.extend(ast.iter_child_nodes(node))
    return found - {"NotImplementedError"}


def function_violations(function: Any, *, example: bool) -> Iterator[str]:
    found = sections(inspect.getdoc(function) or "")
    parameters = {name for name in inspect.signature(function).parameters if name not in ("self", "cls")}
    documented = entries(found.get("Args", ""))
    yield from (f"Args lacks '{name}'" for name in sorted(parameters - documented))
    yield from (f"Args names '{name}', which is no parameter" for name in sorted(documented - parameters))
    if inspect.signature(function).return_annotation not in (None, "None") and not {"Returns", "Yields"} & set(found):
        yield "Returns is missing"
    errors = {name.rpartition(".")[2] for name in entries(found.get("Raises", ""))}
    yield from (f"Raises lacks '{name}'" for name in sorted(raised(function) - errors))
    if example and not {"Example", "Examples"} & set(found):
        yield "Example is missing"


def overrides_contract(kind: type, name: str) -> bool:
    bases = [base for base in kind.__mro__[1:] if base.__module__.startswith("forgetkit.contracts")]
    return any(name in vars(base) for base in bases)


def field_names(kind: type) -> set[str]:
    """The fields of a dataclass that neither its bases nor a docstring below them explain."""
    if not dataclasses.is_dataclass(kind):
        return set()
    body = ast.parse(textwrap.dedent(inspect.getsource(kind))).body[0].body  # type: ignore[attr-defined]
    explained = {
        node.target.id
        for node, after in pairwise(body)
        if isinstance(node, ast.AnnAssign) and isinstance(node.target, ast.Name) and isinstance(after, ast.Expr)
    }
    own = {field.name for field in dataclasses.fields(kind)} & set(vars(kind).get("__annotations__", {}))
    return {name for name in own - explained if not name.startswith("_")}


def class_violations(kind: type) -> Iterator[str]:
    found = sections(inspect.cleandoc(kind.__doc__ or ""))
    documented = entries(found.get("Args", "")) | entries(found.get("Attributes", ""))
    yield from (f"Attributes lacks '{name}'" for name in sorted(field_names(kind) - documented))
    if kind.__name__ in COMPONENTS and kind.__module__.startswith("forgetkit.contracts") and "Example" not in found:
        yield "Example is missing"


def violations(exported: Any) -> Iterator[str]:
    """Each as ``file:line: name: what is wrong``."""
    if not (inspect.isclass(exported) or inspect.isfunction(exported)) or not defined_here(exported):
        return
    checked: list[tuple[Any, Iterator[str]]] = []
    if inspect.isfunction(exported):
        checked.append((exported, function_violations(exported, example=True)))
    else:
        checked.append((exported, class_violations(exported)))
        for name, member in vars(exported).items():
            function = member.__func__ if isinstance(member, classmethod | staticmethod) else member
            if inspect.isfunction(function) and not name.startswith("_") and not overrides_contract(exported, name):
                checked.append((function, function_violations(function, example=False)))
    for documented, found in checked:
        file, line = inspect.getsourcefile(documented), inspect.getsourcelines(documented)[1]
        summary = [] if documented.__doc__ else ["the docstring is missing"]
        yield from (f"{file}:{line}: {documented.__qualname__}: {each}" for each in (*summary, *found))


def defined_here(exported: Any) -> bool:
    module = inspect.getmodule(exported)
    return module is not None and (module.__name__.startswith("forgetkit") or module.__name__ == __name__)


@pytest.mark.parametrize("module", MODULES)
def test_exported_names_are_documented(module: str) -> None:
    room = importlib.import_module(module)
    found = [each for name in room.__all__ for each in violations(getattr(room, name))]
    assert not found, "\n" + "\n".join(found)


MARKS = {"check_executor": pytest.mark.children, "check_intervention": pytest.mark.slow}


def examples() -> Iterator[Any]:
    for module in ("forgetkit.contracts", "forgetkit.testing"):  # those of forgetkit share a network: tests/api
        room = importlib.import_module(module)
        for name in room.__all__:
            if inspect.isclass(getattr(room, name)) or inspect.isfunction(getattr(room, name)):
                yield pytest.param(getattr(room, name), id=f"{module}.{name}", marks=MARKS.get(name, ()))


@pytest.mark.slow
@pytest.mark.parametrize("exported", list(examples()))
def test_the_examples_run(exported: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    module = ModuleType("example")  # in which a class of an example can be found again, as pickle does
    monkeypatch.setitem(sys.modules, "example", module)
    exported_contracts = {name: getattr(contracts, name) for name in contracts.__all__}
    vars(module).update({**exported_contracts, "np": np, "torch": torch, "component": Component()})
    for example in doctest.DocTestFinder(recurse=False).find(exported, exported.__name__, globs=vars(module)):
        example.globs = vars(module)
        assert doctest.DocTestRunner(verbose=False).run(example).failed == 0


class Component:
    """What the examples name."""


def test_the_components_are_contracts() -> None:
    assert set(COMPONENTS) <= set(contracts.__all__)


def undocumented(one: int, other: int) -> int:
    """Return a number.

    Args:
        one: The number.
        third: Another.
    """
    if one == other:
        raise OptionError("equal")
    return one


@dataclasses.dataclass
class Undocumented:
    """Two numbers.

    Attributes:
        one: The first.
    """

    one: int
    other: int
    third: int
    """The third."""

    def total(self) -> int:
        """Add them."""
        return self.one + self.other


def test_violations_are_found() -> None:
    assert [each.partition(": ")[2] for each in violations(undocumented)] == [
        "undocumented: Args lacks 'other'",
        "undocumented: Args names 'third', which is no parameter",
        "undocumented: Returns is missing",
        "undocumented: Raises lacks 'OptionError'",
        "undocumented: Example is missing",
    ]
    assert [each.partition(": ")[2] for each in violations(Undocumented)] == [
        "Undocumented: Attributes lacks 'other'",
        "Undocumented.total: Returns is missing",
    ]
    line = inspect.getsourcelines(undocumented)[1]
    assert next(violations(undocumented)).startswith(f"{Path(__file__)}:{line}: ")
