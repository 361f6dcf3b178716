"""The observer that writes the events of a run. Its errors end the run, which would be lost without a record."""

from __future__ import annotations

import dataclasses
import time
from dataclasses import dataclass

from forgetkit.contracts import Event, RunEnded
from forgetkit.storage.run_directory import RunDirectory
from forgetkit.storage.validation import UNRECORDED, event_name


@dataclass(frozen=True)
class Recorder:
    """Appends a line for each event, except those that only move a progress bar."""

    directory: RunDirectory

    def notify(self, event: Event) -> None:
        """Append ``event`` with its name and the time of day."""
        if not isinstance(event, UNRECORDED):
            self.directory.append({"event": event_name(type(event)), "time": time.time(), **dataclasses.asdict(event)})
        elif isinstance(event, RunEnded):
            self.directory.append({"event": "run_ended", "time": time.time()})
