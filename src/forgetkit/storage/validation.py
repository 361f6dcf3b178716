"""The validation of the files of a run: a right digest does not prove that forgetkit wrote them."""

from __future__ import annotations

import dataclasses
import json
import re
import reprlib
from collections.abc import Iterator, Mapping
from functools import cache
from typing import Any, Literal, TypeVar, cast

from pydantic import TypeAdapter, ValidationError

from forgetkit.contracts import Event, LoadProgress, MegaBatchResult, RunEnded, StepProgress
from forgetkit.errors import RunDirectoryError

UNRECORDED = (LoadProgress, StepProgress, RunEnded)
"""Events that only move a progress bar, or whose content has a file of its own."""
_MANIFEST = {
    **dict.fromkeys(("run_id", "digest", "partition", "method", "preset"), str),
    **dict.fromkeys(("config", "data", "versions", "overrides", "distributions"), dict),
}
_SIGNED = ("generalization_gap", "loss", "threshold")
"""Numbers that may be negative."""
_OPEN = ("config", "overrides", "versions")
"""Content that the configuration checks."""
_T = TypeVar("_T")


@dataclasses.dataclass(frozen=True)
class _Layer:
    size: int
    reset: int


@dataclasses.dataclass(frozen=True)
class _ResetReport:
    """The fields of ``forgetkit.unlearning.UnlearnReport``."""

    scored: int
    reset: int
    threshold: float | None
    seconds: float
    forward_passes: int
    backward_passes: int
    layers: Mapping[str, _Layer]
    optimizer_cleared: int
    buffers: tuple[str, ...]
    left_out: Mapping[str, str]
    changed: int
    tied: int
    remarks: tuple[str, ...]
    repeated: str | None
    optimizer_notes: tuple[str, ...] = ()
    followed: int = 0
    sources: Mapping[str, str] = dataclasses.field(default_factory=dict)
    aliases: Mapping[str, tuple[str, ...]] = dataclasses.field(default_factory=dict)


@dataclasses.dataclass(frozen=True)
class _Override:
    value: Any
    preset: Any


@dataclasses.dataclass(frozen=True)
class _Result:
    """The fields of ``result.json``; each other one is the number of a metric."""

    schema: int
    run: str
    directory: str
    method: str
    preset: str
    overrides: Mapping[str, _Override]
    config: Mapping[str, Any]
    augment: str
    versions: Mapping[str, str | Mapping[str, str]]
    parameters: int
    noisy_labels: int
    init_sha256: str | None
    mega_batches: tuple[MegaBatchResult, ...]
    test_accuracy: float | None
    cer: float | None
    mean_anytime_error: float | None
    generalization_gap: float | None
    samples_seen: int
    skipped_steps: int
    forward_passes: int
    backward_passes: int
    seconds: float
    peak_memory_bytes: int | None
    status: Literal["completed"]


def parse_counts(kind: type[_T], content: Any) -> _T:
    """:func:`parse_as`, for fields whose numbers are counts, shares and seconds.

    Raises:
        ValueError: A field is missing, of another type, or a number out of its range.
    """
    found = parse_as(kind, content)
    for key, value in _walk_numbers(content):
        if value < 0 and key not in _SIGNED:
            raise ValueError(f"{key} is {value}")
        if value > 1 and key.endswith("accuracy"):
            raise ValueError(f"{key} is above 1")
    return found


def parse_as(kind: type[_T], content: Any) -> _T:
    """Parse content from JSON as ``kind``, without converting between text and numbers.

    Raises:
        ValueError: An entry is missing or of another type.
    """
    found: _T = _adapter(cast("Any", kind)).validate_json(json.dumps(content), strict=True)
    return found


@cache
def _adapter(kind: Any) -> TypeAdapter[Any]:
    return TypeAdapter(kind)


def event_name(kind: type[Event]) -> str:
    """``MegaBatchEnded`` as ``mega_batch_ended``, as a line of events spells it."""
    return re.sub(r"(?<!^)(?=[A-Z])", "_", kind.__name__).lower()


def is_sound(event: Mapping[str, Any]) -> bool:
    """Whether an event has the fields of its kind; events of plugins are not checked."""
    kind = _event_fields().get(str(event.get("event")))
    if kind is None:
        return True
    names = {field.name for field in dataclasses.fields(kind)}
    try:
        parse_counts(kind, {key: value for key, value in event.items() if key in names})
        if "report" in names:
            parse_counts(_ResetReport, event["report"])
        if "row" in names:
            parse_row(event["row"])
    except (TypeError, ValueError):
        return False
    return True


def parse_row(content: Any) -> MegaBatchResult:
    """Parse a row.

    Raises:
        TypeError, ValueError: An entry is missing, unknown, of another type or no number that a row can have.
    """
    MegaBatchResult(**content)  # pydantic would ignore what is unknown
    row = parse_counts(MegaBatchResult, content)
    if row.unlearn is not None:
        parse_counts(_ResetReport, row.unlearn)
    if row.test_errors > row.test_samples:
        raise ValueError("there are more errors than test samples")
    return row


def require_manifest(content: Mapping[str, Any], schema: int, name: str, remedy: str) -> None:
    """Raise ``RunDirectoryError`` unless the manifest has this schema and its entries their types."""
    _require_schema(content, schema, name)
    for key, kind in _MANIFEST.items():
        if key in content and not isinstance(content[key], kind):
            raise RunDirectoryError(f"{name} is damaged ({key} is {type(content[key]).__name__}): {remedy}")


def require_result(content: Mapping[str, Any], schema: int, name: str) -> None:
    """Raise ``RunDirectoryError`` unless the result has this schema and its rows are possible in a run."""
    _require_schema(content, schema, name)
    try:
        names = {field.name for field in dataclasses.fields(_Result)}
        result = parse_counts(_Result, {key: value for key, value in content.items() if key in names})
        rows = [parse_row(row) for row in content["mega_batches"]]
        if [row.index for row in rows] != list(range(1, len(rows) + 1)) or not rows:
            raise ValueError("its mega-batches are not numbered from 1")
        if result.config.get("mega_batches") != len(rows):
            raise ValueError("its configuration has another number of mega-batches")
        for key in ("samples_seen", "skipped_steps", "forward_passes", "backward_passes"):
            if getattr(result, key) != sum(getattr(row, key) for row in rows):
                raise ValueError(f"{key} is not the sum over its mega-batches")
        for key in content.keys() - names:
            if not isinstance(content[key], int | float | None):
                raise ValueError(f"{key} is {type(content[key]).__name__}")
    except (KeyError, TypeError, ValueError) as error:
        raise RunDirectoryError(f"{name} is damaged: {error_line(error)}") from error


def error_line(error: Exception) -> str:
    """Describe an error in one line."""
    if isinstance(error, ValidationError):
        first = error.errors()[0]
        return f"{'.'.join(map(str, first['loc']))}: {first['msg']}"
    text = " ".join(str(error).split()) or type(error).__name__
    return f"there is no {text}" if isinstance(error, KeyError) else text


def _require_schema(content: Mapping[str, Any], schema: int, name: str) -> None:
    found = content.get("schema")
    if found != schema or isinstance(found, bool):
        raise RunDirectoryError(
            f"{name} has schema {reprlib.repr(found)}, and this version of forgetkit reads {schema}: "
            "use the version that wrote it"
        )


def _walk_numbers(value: Any, key: str = "") -> Iterator[tuple[str, float]]:
    """The counts, shares and seconds in an object, each with its key."""
    if isinstance(value, Mapping):
        for name, inner in value.items():
            if name not in _OPEN:
                yield from _walk_numbers(inner, str(name))
    elif isinstance(value, int | float) and not isinstance(value, bool):
        yield key, value


@cache
def _event_fields() -> Mapping[str, type[Event]]:
    """The events that are recorded, by their name in a line."""
    kinds = [kind for kind in Event.__subclasses__() if kind.__module__ == Event.__module__ and kind not in UNRECORDED]
    return {event_name(kind): kind for kind in kinds}
