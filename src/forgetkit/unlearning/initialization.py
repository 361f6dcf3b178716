"""Which code gives a module its initial values, read from the constructors of the modules that contain it.

A layer's ``reset_parameters`` draws from the distribution that the network started from only if nothing else writes to
the layer afterwards. torchvision's ``ResNet.__init__``, the ``_init_weights`` of transformers and the
``_reset_parameters`` of ``nn.Transformer`` do. Layer names play no part. Code that no constructor reaches, such as a
script that calls ``model.apply(f)``, or a function handed in from outside, cannot be seen.
"""

from __future__ import annotations

import dis
import functools
import inspect
import sys
import types
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn.utils import parametrize

RESETS = ("reset_parameters", "_reset_parameters")
"""Methods by which a module initialises its own parameters: torch's convention, and its spelling in attention."""

_DECLARED = ("_init_weights", "init_weights", "_initialize_weights", "initialize_weights")
_CONSTRUCTORS = ("__init__", "__new__", "__post_init__")
_IMPLIED = ("__setattr__", "register_parameter", "register_buffer", "register_module", "add_module")
"""Methods that a constructor calls by setting attributes."""
_KEEP_VALUES = {"masked_fill_", "tril_", "triu_", "requires_grad_", "detach_", "share_memory_", "rename_", "resize_"}
_IN_PLACE = {
    name
    for owner in (Tensor, torch, nn.init)
    for name in dir(owner)
    if name.endswith("_") and not name.startswith("__") and name not in _KEEP_VALUES
}
_AUGMENTED = {
    *("iadd", "iand", "ifloordiv", "ilshift", "imatmul", "imod", "imul", "ior", "ipow", "irshift", "isub", "itruediv"),
    "ixor",
}
_WRITES = {
    *_IN_PLACE,
    *_AUGMENTED,
    *(f"__{name}__" for name in _AUGMENTED),
    *("apply", "_apply", "load_state_dict", "vector_to_parameters", "swap_tensors", "_parameters", "__setitem__"),
    *("copyto", "putmask"),  # of numpy, in memory that a tensor shares
}
_TENSORS = {
    *("data", "no_grad", "inference_mode", "weight", "bias", "parameters", "named_parameters"),
    *("state_dict", "detach", "numpy"),
}
"""Names in code whose ``x[i] = y`` and ``x *= y`` are taken for writes to a parameter, rather than to a list."""

_ELSEWHERE = sys.stdlib_module_names | {"numpy"}
_DEEPEST = 20
"""Layers of decorators, and of containers, that are looked through."""


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
        self._modules = dict(model.named_modules(remove_duplicate=False))
        self._paths: dict[nn.Module, list[str]] = {}
        for path, module in self._modules.items():
            self._paths.setdefault(module, []).append(path)
        self._read: dict[type, Initializer | None] = {}
        classes = {parametrize.type_before_parametrizations(module) for module in self._modules.values()}
        self._locals = {local for module in self._modules.values() for local in module._parameters}
        self._replaced: dict[type, frozenset[str]] = {}
        self._methods: dict[str, list[object]] = {}
        self._with_self: set[types.FunctionType] = set()
        for owner in {base for cls in classes for base in _classes(cls)}:
            plain = [value for value in vars(owner).values() if isinstance(value, types.FunctionType)]
            self._with_self.update(_functions(plain))
            for name, value in vars(owner).items():
                if name not in (*_CONSTRUCTORS, *RESETS):
                    self._methods.setdefault(name, []).append(value)

    def containers(self, path: str) -> list[tuple[str, Initializer]]:
        """The modules around the one at ``path`` whose code writes to what they contain, the outermost first."""
        every = [other.split(".") for other in self._paths[self._modules[path]] if other]
        outer = dict.fromkeys(".".join(parts[:depth]) for parts in every for depth in range(len(parts)))
        found = ((name, self._initializer(name)) for name in outer)
        return [(name, initializer) for name, initializer in found if initializer is not None]

    def own(self, path: str, local: str) -> Initializer | None:
        """What in a module's own constructor gives ``local`` a value besides its ``reset_parameters``, if anything."""
        initializer = self._initializer(path)
        if initializer is not None and not initializer.resets:
            return initializer
        cls = parametrize.type_before_parametrizations(self._modules[path])
        if cls not in self._replaced:
            self._replaced[cls] = _replaced_after_reset(cls)
        if local not in self._replaced[cls]:
            return None
        return Initializer(cls, f"{cls.__name__}.__init__ ({local} =)", resets=False)

    def _initializer(self, path: str) -> Initializer | None:
        cls = parametrize.type_before_parametrizations(self._modules[path])
        if cls not in self._read:
            self._read[cls] = self._read_class(cls)
        return self._read[cls]

    def _read_class(self, cls: type) -> Initializer | None:
        if _is_of_torch(cls) and not hasattr(cls, "_reset_parameters"):
            return None  # torch's own layers initialise themselves, by reset_parameters
        declared = [name for name in _DECLARED if hasattr(cls, name)]
        other = declared[0] if declared else self._first_write(cls, resets=False)
        if other is not None:
            return Initializer(cls, other, resets=False)
        by_reset = self._first_write(cls, resets=True)
        return None if by_reset is None else Initializer(cls, by_reset, resets=True)

    def _first_write(self, cls: type, *, resets: bool) -> str | None:
        """The first function within reach of the constructors of ``cls`` that writes values.

        ``resets``: follow the class's own ``reset_parameters`` too.
        """
        own = {function for base in _classes(cls) for function in _functions(vars(base).values())}
        own_resets = {function for base in _classes(cls) for name in RESETS for function in _attribute(base, name)}
        seen: set[types.FunctionType] = set() if resets else own_resets
        waiting = [(function, False) for function in _constructors(cls)]
        while waiting:
            function, of_tensors = waiting.pop()
            if function in seen:
                continue
            seen.add(function)
            if function.__module__ == nn.init.__name__:
                return function.__qualname__
            package = (function.__module__ or "").partition(".")[0]
            if package in _ELSEWHERE or (package == "torch" and function not in own):
                continue
            written = self._write_in(function, of_tensors=of_tensors)
            if written is not None:
                return f"{function.__qualname__} ({written})"
            values = self._references(function, cls)
            if any(value is nn.init for value in values):
                return f"{function.__qualname__} (nn.init)"
            touches = any(_TENSORS & {*code.co_names} for code in _nested(function.__code__))
            waiting.extend((called, touches) for called in _functions(values))
        return None

    def _write_in(self, function: types.FunctionType, *, of_tensors: bool) -> str | None:
        """The operation by which a function writes to a tensor, if any. Setting attributes of ``self`` is none.

        ``of_tensors``: a plain function called by code that names parameters may get one as an argument.
        """
        for code in _nested(function.__code__):
            own = code.co_varnames[:1] if function in self._with_self and code is function.__code__ else ()
            texts = {text for text in code.co_consts if isinstance(text, str)}
            named = next((name for name in code.co_names if name in _WRITES), None)
            given = of_tensors and function not in self._with_self
            written = named or min(texts & _WRITES, default=None) or _statement_in(code, own, self._locals, given)
            if written is not None:
                return written
        return None

    def _references(self, function: types.FunctionType, cls: type) -> list[object]:
        """What ``function`` names: globals, imports, cells, defaults, what is in them, and methods of the network."""
        names = {name for code in _nested(function.__code__) for name in code.co_names}
        values = [function.__globals__[name] for name in names if name in function.__globals__]
        values += [*(function.__defaults__ or ()), *(function.__kwdefaults__ or {}).values()]
        values += [*_cells(function), *_imported(function)]
        values += [vars(base)[name] for base in _classes(cls) for name in names if name in vars(base)]
        values += [value for name in names for value in self._methods.get(name, ())]
        seen = {id(value) for value in values}
        for value in values:  # grows
            for inside in _inside(value, names):
                if id(inside) not in seen:
                    seen.add(id(inside))
                    values.append(inside)
        return values


def _is_of_torch(cls: type) -> bool:
    return cls.__module__.startswith("torch.nn.")


def _classes(cls: type) -> list[type]:
    """The class and its bases, without ``nn.Module`` and ``object``."""
    return [base for base in cls.__mro__ if base not in (nn.Module, object)]


def _constructors(cls: type) -> Iterator[types.FunctionType]:
    for owner in _classes(cls):
        yield from (function for name in (*_CONSTRUCTORS, *_IMPLIED) for function in _attribute(owner, name))
    for meta in inspect.getmro(type(cls)):
        if meta not in {type, object}:
            yield from _attribute(meta, "__call__")


def _replaced_after_reset(cls: type) -> frozenset[str]:
    """The parameters that a constructor creates after ``reset_parameters`` has run, or although none runs."""
    if not any(hasattr(cls, name) for name in RESETS):
        return frozenset()
    replaced: set[str] = set()
    for owner in _classes(cls):  # from the most derived, whose own lines run last
        if _is_of_torch(owner):
            break
        for function in _attribute(owner, "__init__"):
            last_reset = -1
            created: dict[str, int] = {}
            for line in dis.get_instructions(function.__code__):
                if line.argval in RESETS:
                    last_reset = line.offset
                elif line.opname == "STORE_ATTR" and "Parameter" in function.__code__.co_names:
                    created[str(line.argval)] = line.offset
            replaced |= {name for name, offset in created.items() if offset > last_reset}
            if last_reset >= 0:
                return frozenset(replaced)
    return frozenset(replaced)


def _statement_in(code: types.CodeType, own: tuple[str, ...], local_names: set[str], given: bool) -> str | None:
    """A statement that writes to a tensor, or hands it to a function that the caller gave."""
    names = set(code.co_names)
    arguments = set(code.co_varnames[: code.co_argcount + code.co_kwonlyargcount]) - set(own)
    creates, touches = "Parameter" in names, given or bool(names & _TENSORS)
    texts = {text for text in code.co_consts if isinstance(text, str)}
    if "setattr" in names and (creates or texts & {*local_names, "data"}):
        return "setattr"
    if "__setattr__" in names and texts & {*local_names, "data"}:
        return "__setattr__"
    if any(isinstance(words, tuple) and "out" in words for words in code.co_consts):
        return "out="
    before: dis.Instruction | None = None
    loaded: dict[object, dis.Instruction] = {}
    for line in dis.get_instructions(code):
        if line.opname in _SILENT:
            continue
        name, start = str(line.argval), _start(line)
        if line.opname == "STORE_ATTR":
            if name == "data":
                return "data ="
            if (creates or name in local_names) and not _loads(before, own):
                return f"{name} ="
        elif name in {"exec", "eval"} and line.opname == "LOAD_GLOBAL":
            return f"{name}()"
        elif name == "register_parameter" and not _loads(before, own):
            return name
        elif before is not None and before.argval in RESETS and before.opname in _LOADS_METHOD and _has_arguments(line):
            return f"{before.argval}(...)"  # not what reset_parameters() does
        elif line.opname in {"STORE_SUBSCR", "STORE_SLICE"} and touches and not _is_text(before):  # a dict has texts
            return "[] ="
        elif line.opname == "BINARY_OP" and line.argrepr.endswith("=") and touches:
            return line.argrepr
        elif line.opname == "POP_TOP" and before is not None and before.opname.startswith("CALL"):
            called = loaded.get(_start(before))  # what stands where the call begins
            if called is not None and called.opname.startswith("LOAD_FAST") and called.argval in arguments:
                return f"{called.argval}()"
        if line.opname.startswith("LOAD_"):
            loaded[start] = line
        before = line
    return None


_LOADS_METHOD = {"LOAD_ATTR", "LOAD_METHOD", "LOAD_SUPER_ATTR"}


def _has_arguments(line: dis.Instruction) -> bool:
    """Whether the instruction after a method is loaded puts an argument on the stack, rather than calls it."""
    return line.opname.startswith("LOAD_")


_SILENT = {"CACHE", "PRECALL", "PUSH_NULL", "NOP", "EXTENDED_ARG", "RESUME"}


def _is_text(line: dis.Instruction | None) -> bool:
    return line is not None and line.opname == "LOAD_CONST" and isinstance(line.argval, str)


def _start(line: dis.Instruction) -> object:
    """Where in its file an instruction's expression begins; no two begin at the same place if that is unknown."""
    place = line.positions
    return line.offset if place is None or place.lineno is None else (place.lineno, place.col_offset)


def _loads(line: dis.Instruction | None, names: tuple[str, ...]) -> bool:
    """Whether an instruction puts one of the local ``names`` on the stack last."""
    if line is None or not line.opname.startswith("LOAD_FAST"):
        return False
    return (line.argval if isinstance(line.argval, str) else line.argval[-1]) in names  # Python 3.13 loads two at once


def _nested(code: types.CodeType) -> Iterator[types.CodeType]:
    yield code
    for constant in code.co_consts:
        if isinstance(constant, types.CodeType):
            yield from _nested(constant)


def _cells(function: types.FunctionType) -> Iterator[object]:
    for cell in function.__closure__ or ():
        try:
            yield cell.cell_contents
        except ValueError:  # an empty cell: a name that is bound later
            continue


def _imported(function: types.FunctionType) -> Iterator[object]:
    """The modules that a function imports when it runs; what it takes from them is found by name."""
    for code in _nested(function.__code__):
        for line in dis.get_instructions(code):
            if line.opname == "IMPORT_NAME":
                package = function.__globals__.get("__package__") or ""
                yield from (
                    sys.modules[name] for name in (line.argval, f"{package}.{line.argval}") if name in sys.modules
                )


def _inside(value: object, names: set[str]) -> Iterator[object]:
    """What code that names ``names`` may take from a module, class or object."""
    if isinstance(value, types.ModuleType):
        yield from (vars(value)[name] for name in names if name in vars(value))
        return
    cls = value if isinstance(value, type) else type(value)
    if cls.__module__.partition(".")[0] in {*_ELSEWHERE, "torch"}:
        return
    # A module's own constructor is read by itself.
    wanted = names - {*_CONSTRUCTORS} if issubclass(cls, nn.Module) else {*names, *_CONSTRUCTORS, "__call__"}
    for base in cls.__mro__:
        yield from (vars(base)[name] for name in wanted if name in vars(base))
    if not isinstance(value, type):
        own = getattr(value, "__dict__", {})
        yield from (own[name] for name in names if name in own)


def _attribute(owner: type, name: str) -> Iterator[types.FunctionType]:
    yield from _functions([vars(owner).get(name)])


def _functions(values: Iterable[object], depth: int = _DEEPEST) -> Iterator[types.FunctionType]:
    """The Python functions among ``values``, in containers, and on all layers of methods, partials and decorators."""
    for value in values if depth else ():
        if isinstance(value, types.FunctionType):
            yield value
        if isinstance(value, Mapping):
            yield from _functions(value.values(), depth - 1)
        elif isinstance(value, list | tuple | set | frozenset):
            yield from _functions(value, depth - 1)
        elif isinstance(value, _WRAPPERS):
            yield from _functions([getattr(value, part, None) for part in _PARTS], depth - 1)
        if "__wrapped__" in getattr(value, "__dict__", ()):
            yield from _functions([value.__dict__["__wrapped__"]], depth - 1)


_WRAPPERS = (types.MethodType, staticmethod, classmethod, property, functools.partial, functools.partialmethod,
             functools.cached_property)  # fmt: skip
_PARTS = ("__wrapped__", "__func__", "func", "fget", "fset", "args", "keywords")
