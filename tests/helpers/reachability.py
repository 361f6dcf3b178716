"""Objects reachable from an object by public attributes, or by any means except ``gc``."""

from __future__ import annotations

import types
from collections import deque
from collections.abc import Iterable, Iterator, Mapping
from itertools import islice
from typing import Any, get_origin

import numpy as np
import torch

_CLOSED = (
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
    """Yield each object with its path through attributes, entries and iteration, breadth first.

    ``private`` follows names with an underscore, bound methods and closures too. Modules, classes and globals are not
    followed: they lead everywhere. Instances of ``doors`` are yielded but not entered, those of ``closed`` skipped.
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
    """The value, or None if it raises."""
    try:
        return ask()
    except Exception:  # noqa: BLE001 - anything may be behind a property
        return None
