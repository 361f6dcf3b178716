"""The lines of ``events.jsonl``: one object each, with a checksum of its other content as the last key."""

from __future__ import annotations

import json
import re
import zlib
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

from forgetkit.storage.atomic_files import as_object
from forgetkit.storage.validation import is_sound

_END = re.compile(rb', "crc32": "([0-9a-f]{8})"\}\s*$')


def line_of(event: Mapping[str, Any]) -> bytes:
    """Format an event as a line, with a newline at the end."""
    text = json.dumps(event).encode()
    return b'%s, "crc32": "%08x"}\n' % (text[:-1], zlib.crc32(text))


def event_in(line: bytes) -> dict[str, Any] | None:
    """Parse a line; None if it is truncated, damaged or no event."""
    end = _END.search(line)
    if end is None:
        return None
    text = line[: end.start()] + b"}"
    if zlib.crc32(text) != int(end[1], 16):
        return None
    try:
        event = as_object(text)
    except ValueError:  # a right checksum of something else
        return None
    return event if is_sound(event) else None


def events_in(lines: Iterable[bytes]) -> Iterator[dict[str, Any]]:
    """The events of the intact lines."""
    for line in lines:
        event = event_in(line)
        if event is not None:
            yield event
