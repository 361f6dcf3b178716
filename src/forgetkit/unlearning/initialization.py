"""Which code gives a module its initial values, read from the constructors of the modules that contain it.

A layer's ``reset_parameters`` draws from the distribution that the network started from only if nothing else writes to
the layer afterwards. torchvision's ``ResNet.__init__``, the ``_init_weights`` of transformers and the
``_reset_parameters`` of ``nn.Transformer`` do. Layer names play no part.
"""

from __future__ import annotations

import dis
import inspect
import types
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Any

from torch import Tensor, nn

RESETS = ("reset_parameters", "_reset_parameters")
"""Methods by which a module initialises its own parameters: torch's convention, and its spelling in attention."""

_INITIALISERS = ("_init_weights", "init_weights", "_initialize_weights", "initialize_weights")
_CONSTRUCTORS = ("__init__", "__new__", "__post_init__")
_INIT = frozenset(name for name in vars(nn.init) if name.endswith("_") and not name.startswith("_"))
_NO_FILL = {"masked_fill_", "tril_", "triu_", "requires_grad_", "detach_", "share_memory_", "rename_", "resize_"}
_IN_PLACE = frozenset(name for name in dir(Tensor) if name.endswith("_") and not name.endswith("__")) - _NO_FILL
_WRITES = _IN_PLACE | _INIT | {"apply", "load_state_dict"}


_DEEPEST = 20
"""Layers of decorators that are looked through."""


@dataclass(frozen=True)
class Initializer:
    """A class whose code gives values to the parameters of the modules that it contains.

    Attributes:
        cls: The class of the containing module.
        function: The function that writes, such as ``"ResNet.__init__ (kaiming_normal_)"``.
        resets: Whether every such function is the class's own ``reset_parameters``, so that calling it repeats them.
    """

    cls: type
    function: str
    resets: bool


class InitializationCode:
    """Reads the constructors of the classes of one model, each class once."""

    def __init__(self, model: nn.Module) -> None:
        self._modules = dict(model.named_modules())
        self._read: dict[type, Initializer | None] = {}

    def containers(self, path: str) -> list[tuple[str, Initializer]]:
        """The modules around the one at ``path`` whose code writes to what they contain, the outermost first."""
        parts = path.split(".") if path else []
        outer = (".".join(parts[:depth]) for depth in range(len(parts)))
        found = ((name, self._initializer(name)) for name in outer)
        return [(name, initializer) for name, initializer in found if initializer is not None]

    def own(self, path: str) -> Initializer | None:
        """What in a module's own constructor writes values besides its ``reset_parameters``, if anything."""
        initializer = self._initializer(path)
        return None if initializer is None or initializer.resets else initializer

    def _initializer(self, path: str) -> Initializer | None:
        cls = type(self._modules[path])
        if cls not in self._read:
            self._read[cls] = _read_class(cls)
        return self._read[cls]


def _read_class(cls: type) -> Initializer | None:
    if cls.__module__.startswith("torch.nn.modules") and not hasattr(cls, "_reset_parameters"):
        return None  # torch's own layers initialise themselves, by reset_parameters
    declared = [name for name in _INITIALISERS if hasattr(cls, name)]
    other = declared[0] if declared else _first_write(cls, resets=False)
    if other is not None:
        return Initializer(cls, other, resets=False)
    by_reset = _first_write(cls, resets=True)
    return None if by_reset is None else Initializer(cls, by_reset, resets=True)


def _first_write(cls: type, *, resets: bool) -> str | None:
    """The first function within reach of the constructors of ``cls`` that writes values.

    ``resets``: follow ``reset_parameters`` too.
    """
    seen: set[types.FunctionType] = set()
    waiting = list(_constructors(cls))
    while waiting:
        function = waiting.pop()
        if function in seen or (function.__name__ in RESETS and not resets):
            continue
        seen.add(function)
        if function.__module__ == nn.init.__name__:
            return function.__qualname__
        if not _is_followed(function, cls):
            continue
        for code in _nested(function.__code__):
            if (written := _write_in(code)) is not None:
                return f"{function.__qualname__} ({written})"
        waiting.extend(_references(function, cls))
    return None


def _constructors(cls: type) -> Iterator[types.FunctionType]:
    for owner in _classes(cls):
        yield from _functions(vars(owner).get(name) for name in _CONSTRUCTORS)
    metaclasses = inspect.getmro(type(cls))
    yield from _functions(vars(meta).get("__call__") for meta in metaclasses if meta not in (type, object))


def _classes(cls: type) -> list[type]:
    """The bases that somebody wrote for this module: all but ``nn.Module``."""
    return [base for base in cls.__mro__ if base not in (nn.Module, object)]


def _is_followed(function: types.FunctionType, cls: type) -> bool:
    """Whether a function may initialise: a method of ``cls``, or a helper that is not torch's."""
    module = function.__module__ or ""
    if module.partition(".")[0] == "torch":
        return any(function in _functions(vars(base).values()) for base in _classes(cls))
    return module.partition(".")[0] not in _ELSEWHERE


_ELSEWHERE = frozenset({"builtins", "collections", "contextlib", "copy", "functools", "inspect", "itertools", "logging",
                        "math", "numpy", "os", "re", "types", "typing", "warnings"})  # fmt: skip


def _write_in(code: types.CodeType) -> str | None:
    """The name of the operation by which this code writes to a tensor, if any."""
    for name in code.co_names:
        if name in _WRITES:
            return name
    before: dis.Instruction | None = None
    for instruction in dis.get_instructions(code):
        if instruction.opname == "STORE_ATTR":
            if instruction.argval == "data":
                return "data ="
            if "Parameter" in code.co_names and not _is_first_argument(before, code):
                return f"{instruction.argval} ="
        before = instruction
    return None


def _is_first_argument(load: dis.Instruction | None, code: types.CodeType) -> bool:
    """Whether ``load`` puts the function's first argument, ``self`` in a method, on the stack last."""
    if load is None or not load.opname.startswith("LOAD_FAST"):
        return False
    name = load.argval if isinstance(load.argval, str) else load.argval[-1]  # Python 3.13 loads two at once
    return code.co_varnames[:1] == (name,)


def _nested(code: types.CodeType) -> Iterator[types.CodeType]:
    yield code
    for constant in code.co_consts:
        if isinstance(constant, types.CodeType):
            yield from _nested(constant)


def _references(function: types.FunctionType, cls: type) -> Iterator[types.FunctionType]:
    """The functions that ``function`` names: globals, attributes of modules, methods of ``cls``, cells and defaults."""
    values: list[Any] = [*(function.__defaults__ or ()), *(function.__kwdefaults__ or {}).values()]
    for cell in function.__closure__ or ():
        try:
            values.append(cell.cell_contents)
        except ValueError:  # an empty cell: a name that is bound later
            continue
    for code in _nested(function.__code__):
        named = [function.__globals__[name] for name in code.co_names if name in function.__globals__]
        modules = [value for value in named if isinstance(value, types.ModuleType)]
        for module in modules:
            inside = [vars(module)[name] for name in code.co_names if name in vars(module)]
            modules.extend(value for value in inside if isinstance(value, types.ModuleType) and value not in modules)
            named.extend(inside)
        values.extend(named)
        values.extend(vars(base)[name] for base in _classes(cls) for name in code.co_names if name in vars(base))
    yield from _functions(values)


def _functions(values: Iterable[Any]) -> Iterator[types.FunctionType]:
    """The plain Python functions among ``values``, unwrapped, also those in containers one level deep."""
    for value in values:
        inside = value.values() if isinstance(value, dict) else value if isinstance(value, list | tuple) else [value]
        yield from (function for item in inside if (function := _plain_function(item)) is not None)


def _plain_function(value: Any) -> types.FunctionType | None:
    """The function in a method, a property, a partial or a decorator; None if there is none."""
    for _ in range(_DEEPEST):
        if isinstance(value, types.FunctionType) and not hasattr(value, "__wrapped__"):
            return value
        inner = (getattr(value, name, None) for name in ("__wrapped__", "__func__", "func", "fget"))
        value = next((found for found in inner if callable(found)), None)
    return None
