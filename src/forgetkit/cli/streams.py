"""Standard streams whose readers may leave early: ``forgetkit show | head -1``."""

from __future__ import annotations

import io
import logging
import os
import sys
from typing import Any

from forgetkit.display.console import print_error


class _Stream(io.FileIO):
    """A standard stream that drops what it cannot write: its reader has left, or the disk is full."""

    failure: OSError | None = None

    def write(self, text: Any) -> int:
        """Write, and report success in any case."""
        try:
            return super().write(text)
        except OSError as error:
            if not isinstance(error, BrokenPipeError):  # the reader left early
                self.failure = error
            return memoryview(text).nbytes


def prepare_streams() -> None:
    """Give each standard stream a file, and let no failed write stop the program.

    Otherwise the next file that is opened, such as a record, would get a closed descriptor, and prints go into it.
    """
    for descriptor, name in enumerate(("stdin", "stdout", "stderr")):
        stream = getattr(sys, name)
        if stream is None:
            nowhere = os.open(os.devnull, os.O_RDWR)
            if nowhere != descriptor:
                os.dup2(nowhere, descriptor)
                os.close(nowhere)
            os.set_inheritable(descriptor, True)
            mode = "r" if name == "stdin" else "w"
            setattr(sys, name, os.fdopen(descriptor, mode, encoding="utf-8", closefd=False))
        elif name != "stdin" and stream is getattr(sys, f"__{name}__") and isinstance(stream, io.TextIOWrapper):
            stream.flush()
            buffer = io.BufferedWriter(_Stream(descriptor, "w", closefd=False))
            lines = name == "stderr" or stream.line_buffering
            setattr(sys, name, io.TextIOWrapper(buffer, stream.encoding, "replace", line_buffering=lines))


def write_failure() -> str | None:
    """Return why a write to standard output failed; None if none did."""
    raw = getattr(getattr(sys.stdout, "buffer", None), "raw", None)
    if not isinstance(raw, _Stream):
        return None
    sys.stdout.flush()
    return None if raw.failure is None else raw.failure.strerror


def announce(command: str, *, quiet: bool, as_json: bool) -> None:
    """Print a line before torch is imported, which takes seconds."""
    if not quiet and "torch" not in sys.modules:
        print(f"forgetkit {command}: loading torch", file=sys.stderr if as_json else sys.stdout, flush=True)


class WarningLines(logging.Handler):
    """Prints each warning on standard error, above bars that move."""

    def emit(self, record: logging.LogRecord) -> None:
        """Print a line."""
        print_error(f"forgetkit: {record.getMessage()}")
