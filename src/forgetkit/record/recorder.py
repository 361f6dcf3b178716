"""The observer that writes the record. It alone may stop a run: a run that cannot be recorded is lost."""

from __future__ import annotations

import dataclasses
import re
import time
from dataclasses import dataclass

from forgetkit.contracts import Event, Preparing, RunEnded, Stepped
from forgetkit.record.directory import RunDirectory

_PASSING = (Preparing, Stepped, RunEnded)


@dataclass(frozen=True)
class Recorder:
    """Appends a line per event, but for those that only move a progress bar."""

    directory: RunDirectory

    def notify(self, event: Event) -> None:
        """Append ``event`` with its name and the time of day."""
        if not isinstance(event, _PASSING):
            name = re.sub(r"(?<!^)(?=[A-Z])", "_", type(event).__name__).lower()
            self.directory.append({"event": name, "time": time.time(), **dataclasses.asdict(event)})
        elif isinstance(event, RunEnded):
            self.directory.append({"event": "run_ended", "time": time.time()})
