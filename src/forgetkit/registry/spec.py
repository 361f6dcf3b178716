"""Parse a SPEC such as ``snip:samples=128`` into a validated component, and format a component as a SPEC.

A SPEC is ``name`` or ``name:key=value,key=value``. A value may hold commas and colons unless ``key=`` follows a comma;
a list is JSON, ``[64,64]``. Text before the first ``key=`` is the value of the first option: ``folder:photos,size=32``
is ``folder:path=photos,size=32``. A value in double or single quotes is literal, ``folder:path="a,b=c"``; a backslash
escapes a quote or a backslash in it.
"""

from __future__ import annotations

import dataclasses
import enum
import json
import re
from collections.abc import Mapping
from functools import cached_property, lru_cache
from pathlib import Path
from types import MappingProxyType
from typing import Annotated, Any, get_args, get_origin, get_type_hints

from pydantic import ConfigDict, TypeAdapter, ValidationError
from pydantic.errors import PydanticSchemaGenerationError

from forgetkit.errors import OptionError, suggest

_OPTION_SEPARATOR = re.compile(r",(?=\s*[A-Za-z_][\w-]*\s*=)")
_KEY = re.compile(r"\s*([A-Za-z_][\w-]*)\s*=(.*)", re.DOTALL)
_QUOTED = r""""(?:\\.|[^"\\])*"|'(?:\\.|[^'\\])*'"""
_VALUE_IN_QUOTES = re.compile(_QUOTED, re.DOTALL)
_OPENING_QUOTE = re.compile(r"""(?:^|[=:,\[{])\s*["']""")
"""A quote that opens a value, or a text in a JSON list; anywhere else it is a plain character."""
_MASKED = re.compile(rf"((?:^|[=:,\[{{])\s*)({_QUOTED})", re.DOTALL)


@dataclasses.dataclass(frozen=True)
class Option:
    """An option of a component: name, annotated type, default (``MISSING``: the option is required)."""

    name: str
    type: Any
    default: Any

    @cached_property
    def adapter(self) -> TypeAdapter[Any]:
        """Validates values of the type."""
        try:
            return TypeAdapter(self.type)
        except PydanticSchemaGenerationError:  # a type that pydantic does not know (a tensor): isinstance checks it
            return TypeAdapter(self.type, config=ConfigDict(arbitrary_types_allowed=True))


@dataclasses.dataclass(frozen=True)
class Spec:
    """A parsed SPEC: ``name`` (or ``distribution/name``), the value of the ``first`` option, and named options."""

    name: str
    first: str | None
    options: Mapping[str, str]

    def __str__(self) -> str:
        """The SPEC as text, which :func:`parse_spec` parses into an equal one."""
        pieces = [f"{key.replace('_', '-')}={_quote(value)}" for key, value in self.options.items()]
        if self.first is not None:
            opens_option = _KEY.match(self.first) is not None or not self.first
            pieces.insert(0, _quote(self.first, needed=opens_option))
        return f"{self.name}:{','.join(pieces)}" if pieces else self.name


def parse_spec(text: str) -> Spec:
    """Parse a SPEC; the component need not exist.

    Raises:
        OptionError: It names no component or gives an option twice, or a quote does not close at the end of a value.
    """
    name, colon, rest = text.strip().partition(":")
    if not name:
        raise OptionError(f"'{text}' names no component; write NAME or NAME:key=value,key=value")
    if colon and not rest:
        raise OptionError(f"'{text}' ends in a colon; write NAME or NAME:key=value,key=value")
    first: str | None = None
    options: dict[str, str] = {}
    for piece in _split(rest) if colon else ():
        match = _KEY.fullmatch(piece)
        if match is None:  # the first piece; each later one has a key
            first = strip_quotes(piece)
            continue
        key = match[1].replace("-", "_")
        if key in options:
            raise OptionError(f"'{text}' gives the option '{match[1]}' twice")
        options[key] = strip_quotes(match[2])
    return Spec(name, first, options)


def mask_quoted(text: str) -> str:
    """The text with quoted parts blanked out: a comma, bracket or ``=`` in quotes is no syntax."""
    return _MASKED.sub(lambda match: match[1] + "_" * len(match[2]), text)


def strip_quotes(value: str) -> str:
    """The value without surrounding spaces and quotes."""
    value = value.strip()
    if not value.startswith(('"', "'")):
        return value
    if _VALUE_IN_QUOTES.fullmatch(value) is None:
        raise OptionError(f"{value} begins with a quote and must end with it: a quote inside needs a backslash")
    return re.sub(r"""\\(["'\\])""", r"\1", value[1:-1])


def _split(text: str) -> list[str]:
    """Split at each comma that ``key=`` follows."""
    commas = [match.start() for match in _OPTION_SEPARATOR.finditer(mask_quoted(text))]
    return [text[start:end] for start, end in zip([0, *(c + 1 for c in commas)], [*commas, len(text)], strict=True)]


def _quote(value: str, *, needed: bool = False) -> str:
    """The value as :func:`parse_spec` reads it: in quotes if it could be mistaken for syntax."""
    is_plain = ("," not in value and _OPENING_QUOTE.search(value) is None) or _is_list(value)
    if is_plain and value == value.strip() and not needed:
        return value
    return '"' + re.sub(r"""(["\\])""", r"\\\1", value) + '"'


def _is_list(value: str) -> bool:
    """Whether the value is a JSON list or object, whose commas and quotes need no quoting."""
    try:
        return isinstance(json.loads(value), list | dict)
    except (ValueError, RecursionError):
        return False


def options_of(component: type) -> tuple[Option, ...]:
    """The options of a component class, in the order of its fields."""
    return _options_of(component)


@lru_cache(maxsize=512)  # planning a grid calls it a thousand times; its own type accepts no class
def _options_of(component: type) -> tuple[Option, ...]:
    if not dataclasses.is_dataclass(component):
        raise OptionError(f"{component.__name__} is not a dataclass; a component's fields are its options")
    try:
        hints = get_type_hints(component, include_extras=True)
    except NameError as error:
        raise OptionError(
            f"{component.__name__}: {error}; the types of its options must be importable at run time"
        ) from error
    return tuple(
        Option(
            field.name,
            hints[field.name],
            field.default if field.default_factory is dataclasses.MISSING else field.default_factory(),
        )
        for field in dataclasses.fields(component)
        if field.init
    )


def build_component(name: str, component: type, spec: Spec, defaults: Mapping[str, Any] = MappingProxyType({})) -> Any:
    """Build the component of ``spec`` and validate each option; ``defaults`` replace the component's own.

    Raises:
        OptionError: An option is unknown, missing, given twice or out of range.
    """
    known = {option.name: option for option in options_of(component)}
    given: dict[str, Any] = dict(spec.options)
    if spec.first is not None:
        if not known:
            raise OptionError(f"{name} takes no options, so '{spec.first}' means nothing to it")
        leading = next(iter(known))
        if leading in given:
            raise OptionError(f"{name}: '{spec.first}' and '{leading}={given[leading]}' both set '{leading}'")
        given = {leading: spec.first, **given}
    given = {**defaults, **given}
    for key in given:
        if key not in known:
            raise OptionError(
                f"{name} has no option '{key}'; {suggest(key, known)}{_quotes_hint(name, key, spec, known)}"
            )
    missing = [key for key, option in known.items() if option.default is dataclasses.MISSING and key not in given]
    if missing:
        raise OptionError(f"{name} needs the option '{missing[0]}': write {name}:{missing[0]}=…")
    return _construct(name, component, {key: _check_value(name, known[key], text) for key, text in given.items()})


def _quotes_hint(name: str, key: str, spec: Spec, known: Mapping[str, Option]) -> str:
    """Suggest quotes if the unknown option may be part of a text value with a comma or ``=``."""
    leading = next(iter(known), "")
    given = [(leading, spec.first), *spec.options.items()] if spec.first is not None else list(spec.options.items())
    keys = [written for written, _ in given]
    if key not in spec.options:
        return ""
    index = keys.index(key)
    before = keys[index - 1] if index else leading
    if before not in known or not _accepts_text(known[before].type):
        return ""
    part = f"{key}={spec.options[key]}"
    value = _quote(f"{given[index - 1][1]},{part}" if index else part, needed=True)
    return (
        f"; if the {'comma' if index else '='} belongs to a value, quote it: {name}:{before.replace('_', '-')}={value}"
    )


def resolved_defaults(name: str, component: type, defaults: Mapping[str, Any]) -> dict[str, Any]:
    """The default of each option that has one: from ``defaults``, else the component's own."""
    values = [(option, defaults.get(option.name, option.default)) for option in options_of(component)]
    return {
        option.name: _check_value(name, option, value) for option, value in values if value is not dataclasses.MISSING
    }


def option_to_json(value: Any) -> Any:
    """An option's value as JSON can hold it."""
    return value if isinstance(value, bool | int | float | str | None) else _text(value)


def check_option(name: str, component: type, key: str, value: Any) -> None:
    """Raise ``OptionError`` if the component has no such option, or the value is out of range."""
    known = {option.name: option for option in options_of(component)}
    if key not in known:
        raise OptionError(f"{name} has no option '{key}'; {suggest(key, known)}")
    _check_value(name, known[key], value)


def validate_component(name: str, component: Any) -> Any:
    """Validate a component that was built in Python as that of a SPEC."""
    options = options_of(type(component))
    values = {option.name: _check_value(name, option, getattr(component, option.name)) for option in options}
    same = all(value is getattr(component, key) or value == getattr(component, key) for key, value in values.items())
    return component if same else _construct(name, type(component), values)


def format_spec(name: str, component: Any) -> str:
    """The SPEC of a component with every option; equal components give equal text."""
    values = {option.name: _text(getattr(component, option.name)) for option in options_of(type(component))}
    return str(Spec(name, None, values))


def _check_value(name: str, option: Option, given: Any) -> Any:
    """Return the validated value.

    ``none`` means None if the type allows it. A path becomes absolute, so that a SPEC means the same in each folder.
    """
    if given == "none" and _accepts_none(option.type):
        return None
    try:
        value = _convert(option.adapter, given)
    except ValidationError as error:
        problem = error.errors()[0]
        hint = _hint(option.type) if problem["type"] == "string_pattern_mismatch" else ""
        reason = f"must be {hint}" if hint else f"{problem['msg'][0].lower()}{problem['msg'][1:]}"
        raise OptionError(f"{name}: option {option.name.replace('_', '-')}={given}: {reason}") from error
    if not isinstance(value, Path):
        return value
    if given == "":  # an unset shell variable, say; Path("") is the current folder
        raise OptionError(f"{name}: option {option.name.replace('_', '-')} is empty: give a path ('.' is this folder)")
    return _absolute_path(name, option, value)


def _absolute_path(name: str, option: Option, path: Path) -> Path:
    try:
        if "\0" not in str(path):
            return path.expanduser().absolute()
        reason = "no path holds a null character"
    except RuntimeError:
        reason = "there is no such user; write the path out"
    raise OptionError(f"{name}: option {option.name.replace('_', '-')}={path}: {reason}")


def _hint(kind: Any) -> str:
    """The text in an annotation that describes the values."""
    return next((part for part in getattr(kind, "__metadata__", ()) if isinstance(part, str)), "")


def _accepts_none(kind: Any) -> bool:
    if get_origin(kind) is Annotated:
        return _accepts_none(get_args(kind)[0])
    return type(None) in get_args(kind)


def _accepts_text(kind: Any) -> bool:
    if get_origin(kind) is Annotated:
        return _accepts_text(get_args(kind)[0])
    return kind in (str, Path) or any(part in (str, Path) for part in get_args(kind))


def _convert(adapter: TypeAdapter[Any], given: Any) -> Any:
    try:
        return adapter.validate_python(given)
    except ValidationError:
        if isinstance(given, str) and given.startswith(("[", "{")):
            return adapter.validate_json(given)
        raise


def _construct(name: str, component: type, values: Mapping[str, Any]) -> Any:
    try:
        return component(**values)
    except (TypeError, ValueError) as error:
        raise OptionError(f"{name}: {error}") from error


def _text(value: Any) -> str:
    if value is None:
        return "none"
    if isinstance(value, enum.Enum):
        return str(value.value)
    if isinstance(value, bool | list | tuple | dict):
        return json.dumps(value, default=str)
    return str(value)
