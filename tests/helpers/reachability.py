"""What can be reached from an object: by public attributes alone, or by all that Python offers short of ``gc``."""

from __future__ import annotations

import types
from collections import deque
from collections.abc import Iterable, Iterator, Mapping
from itertools import islice
from typing import Any, get_origin

import numpy as np
import torch

_CLOSED = (  # numbers, words, and what draws numbers
    type,
    types.ModuleType,
    str,
    bytes,
    int,
    float,
    complex,
    bool,
    torch.dtype,
    torch.device,
    torch.Generator,
    np.random.Generator,
)
_INSIDE = ("__self__", "__func__", "__closure__", "__wrapped__", "__defaults__", "__kwdefaults__", "cell_contents")

Found = Iterator[tuple[str, Any]]


def reachable(root: Any, *, private: bool, doors: tuple[type, ...], closed: tuple[type, ...]) -> Found:
    """Each object with the path that led to it: attributes, entries, and what iterating gives; breadth first.

    ``private``: through names with an underscore, bound methods and closures as well. Neither modules, classes nor
    what is global to a function is entered: there everything is. Of ``doors`` it is told that they were found, and what
    is ``closed`` is passed by.
    """
    seen: dict[int, Any] = {}
    queue = deque([("", root)])
    while queue:
        path, one = queue.popleft()
        if id(one) in seen or one is None or get_origin(one) or isinstance(one, (*_CLOSED, *closed)):
            continue
        seen[id(one)] = one  # kept, so that no other object is given its id
        yield path, one
        if isinstance(one, doors):
            continue
        queue += [(f"{path}{step}", inner) for step, inner in _steps(one, private)]


def _steps(one: Any, private: bool) -> Iterator[tuple[str, Any]]:
    if isinstance(one, torch.Tensor):
        yield ".grad", one.grad if one.is_leaf else None
        return
    if isinstance(one, np.ndarray):
        yield ".base", one.base
        return
    if isinstance(one, Mapping):
        yield from ((f"[{key!r}]", _got(lambda key=key: one[key])) for key in _got(lambda: list(one)) or ())
    elif isinstance(one, Iterable) and not isinstance(one, Iterator | torch.nn.Module):
        yield from ((f"[{n}]", inner) for n, inner in enumerate(_got(lambda: list(islice(one, 100))) or ()))
    names = {*dir(one), *getattr(one, "__dict__", {})} if not isinstance(one, tuple | list | set | dict) else set()
    for name in sorted(names):
        if not name.startswith("_") or (private and (not name.startswith("__") or name in _INSIDE)):
            yield f".{name}", _got(lambda name=name: getattr(one, name))


def _got(ask: Any) -> Any:
    """What asking gives; None where it may not be asked."""
    try:
        return ask()
    except Exception:  # noqa: BLE001 - anything may be behind a property
        return None
