"""What a record must hold to be used: whoever can write a file can write its digest too."""

from __future__ import annotations

import dataclasses
import math
import re
from collections.abc import Iterator, Mapping
from functools import cache
from typing import Any

from pydantic import TypeAdapter, ValidationError

from forgetkit.contracts import Event, MegaBatchRow, Preparing, RunEnded, Stepped
from forgetkit.errors import RunDirectoryError

PASSING = (Preparing, Stepped, RunEnded)
"""Events that only move a progress bar, or whose content has a file of its own."""
_NAMED = {"run_id": str, "digest": str, "partition": str, "config": dict, "data": dict, "versions": dict}
_SHARES = ("train_accuracy", "val_accuracy", "test_accuracy")
_NEVER_NEGATIVE = ("seconds", "samples_seen", "parameters", "forward_passes", "backward_passes", "skipped_steps")


def event_name(kind: type[Event]) -> str:
    """``MegaBatchEnded`` as ``mega_batch_ended``, as a line of events spells it."""
    return re.sub(r"(?<!^)(?=[A-Z])", "_", kind.__name__).lower()


def is_sound(event: Mapping[str, Any]) -> bool:
    """Whether an event has the fields of its kind; the kinds that a plugin adds are its author's affair."""
    kind = _recorded().get(str(event.get("event")))
    if kind is None:
        return True
    names, adapter = kind
    try:
        found = adapter.validate_python({key: value for key, value in event.items() if key in names})
        if "row" in names:
            row_from(event["row"])
    except (TypeError, ValueError):
        return False
    return all(value >= 0 for value in vars(found).values() if isinstance(value, int))


def row_from(content: Any) -> MegaBatchRow:
    """The row that was written.

    Raises:
        TypeError, ValueError: An entry is missing, unknown, of another type or no number that a row can have.
    """
    MegaBatchRow(**content)  # pydantic would ignore what is unknown
    row = TypeAdapter(MegaBatchRow).validate_python(content)
    _require_sound(row)
    return row


def require_manifest(content: Mapping[str, Any], schema: int, name: str) -> None:
    """``RunDirectoryError`` unless the manifest is of this version and has what is read from it."""
    _require_schema(content, schema, name)
    for key, kind in _NAMED.items():
        if key in content and not isinstance(content[key], kind):
            raise RunDirectoryError(f"{name} is damaged: {key} is {type(content[key]).__name__}")


def require_result(content: Mapping[str, Any], schema: int, name: str) -> None:
    """``RunDirectoryError`` unless the result is of this version and its rows are those of a run."""
    _require_schema(content, schema, name)
    try:
        rows = [row_from(row) for row in content["mega_batches"]]
        if [row.index for row in rows] != list(range(1, len(rows) + 1)) or not rows:
            raise ValueError("its mega-batches are not numbered from 1")
        if not isinstance(content["config"], dict) or content["config"].get("mega_batches") != len(rows):
            raise ValueError("its configuration has another number of mega-batches")
        for key in _NEVER_NEGATIVE:
            value = content.get(key, 0)
            if isinstance(value, bool) or not isinstance(value, int | float) or value < 0:
                raise ValueError(f"{key} is {value!r}")
    except (KeyError, TypeError, ValueError) as error:
        raise RunDirectoryError(f"{name} is damaged: {reason(error)}") from error


def reason(error: Exception) -> str:
    """What was wrong, in one line."""
    if isinstance(error, ValidationError):
        first = error.errors()[0]
        return f"{'.'.join(map(str, first['loc']))}: {first['msg']}"
    text = " ".join(str(error).split()) or type(error).__name__
    return f"there is no {text}" if isinstance(error, KeyError) else text


def _require_schema(content: Mapping[str, Any], schema: int, name: str) -> None:
    found = content.get("schema")
    if found != schema or isinstance(found, bool):
        raise RunDirectoryError(
            f"{name} has schema {found!r}, and this version of forgetkit reads {schema}: use the version that wrote it"
        )


def _require_sound(row: MegaBatchRow) -> None:
    """``ValueError`` where a number is one that no row has."""
    for key, value in _numbers(dataclasses.asdict(row)):
        if not math.isfinite(value) or (value < 0 and key != "generalization_gap"):
            raise ValueError(f"{key} is {value}")
    if any((share := getattr(row, key)) is not None and share > 1 for key in _SHARES):
        raise ValueError("an accuracy is above 1")
    if row.test_errors > row.test_samples:
        raise ValueError("there are more errors than test samples")


def _numbers(value: Any, key: str = "") -> Iterator[tuple[str, float]]:
    """The counts, shares and seconds in a row; a threshold of scores is any number."""
    if isinstance(value, Mapping):
        for name, inner in value.items():
            if name != "threshold":
                yield from _numbers(inner, str(name))
    elif isinstance(value, int | float) and not isinstance(value, bool):
        yield key, value


@cache
def _recorded() -> Mapping[str, tuple[frozenset[str], TypeAdapter[Event]]]:
    """The fields of each kind of event that the record holds, and their types, by the name that a line has."""
    kinds = [kind for kind in Event.__subclasses__() if kind.__module__ == Event.__module__ and kind not in PASSING]
    return {
        event_name(kind): (frozenset(field.name for field in dataclasses.fields(kind)), TypeAdapter(kind))
        for kind in kinds
    }
