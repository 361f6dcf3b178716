"""The dispatcher that hands the events of a run to its observers."""

from __future__ import annotations

import logging
from collections.abc import Sequence

from forgetkit.contracts import Event, Observer, component_name
from forgetkit.storage import Recorder
from forgetkit.system.torch_settings import settings_restored

_log = logging.getLogger("forgetkit")


class EventDispatcher:
    """Hands each event to the recorder and to every observer.

    An observer that raises is detached with a warning. An error of the recorder ends the run.
    """

    def __init__(self, observers: Sequence[Observer]) -> None:
        self._observers = list(observers)
        self.recorder: Recorder | None = None

    def emit(self, event: Event) -> None:
        """Record ``event``, then notify the observers."""
        if self.recorder is not None:
            self.recorder.notify(event)
        for observer in list(self._observers):
            try:
                with settings_restored(f"the observer {component_name(observer)}"):
                    observer.notify(event)
            except Exception as error:  # noqa: BLE001 - an observer may raise anything
                self._observers.remove(observer)
                reason = f"{type(error).__name__}: {error}".partition("\n")[0]
                _log.warning("observer %s is detached: %s", component_name(observer), reason)
