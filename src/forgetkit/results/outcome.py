"""The outcomes of a grid's cells."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

from forgetkit.analysis.answers import StoredAnswer, answer_columns
from forgetkit.config import NOT_RESULTS

Status = Literal["completed", "failed", "diverged", "missing"]


@dataclass(frozen=True)
class Outcome:
    """One cell: an arm at one seed.

    ``arm`` has a value per axis, as it is shown (``{"importance": "snip", "replay": "full"}``). ``result`` is the
    content of ``result.json`` if the cell is completed, else None; ``reason`` says why in one line. ``answers`` are the
    stored answers of analyses, ordered by label.
    """

    arm: Mapping[str, str]
    seed: int
    digest: str
    status: Status
    result: Mapping[str, Any] | None = None
    reason: str = ""
    answers: tuple[StoredAnswer, ...] = ()

    @property
    def numbers(self) -> Mapping[str, Any]:
        """The result, and each number of an answer under the key of its column, ``calibration_ece``."""
        return {**{key: measure.value for key, measure in answer_columns(self.answers).items()}, **(self.result or {})}

    @property
    def run(self) -> str:
        """Equal for cells that are the same run, whatever their arms are called; ``auto`` is resolved."""
        result = self.result or {}
        config, versions = result.get("config"), result.get("versions")
        if not isinstance(config, Mapping) or not isinstance(versions, Mapping):
            return self.digest
        resolved = {key: value for key, value in config.items() if key not in NOT_RESULTS}
        return json.dumps([resolved, versions.get("plugins")], sort_keys=True, default=str)


@dataclass(frozen=True)
class Outcomes:
    """The input of a table, a plot or a report.

    ``axes`` are in the order in which they are shown; ``cells`` in the order of the grid: arm by arm, seed by seed.
    ``baseline`` is the arm that others are compared with, if any, and ``command`` the command line that runs the
    cells. ``answers`` are those about all cells together.
    """

    title: str
    axes: tuple[str, ...]
    cells: tuple[Outcome, ...]
    baseline: Mapping[str, str] | None = None
    command: str = ""
    answers: tuple[StoredAnswer, ...] = ()

    def arms(self) -> tuple[Mapping[str, str], ...]:
        """Each arm once, in the order of the grid."""
        found: dict[tuple[str, ...], Mapping[str, str]] = {}
        for cell in self.cells:
            found.setdefault(self.key(cell.arm), cell.arm)
        return tuple(found.values())

    def key(self, arm: Mapping[str, str]) -> tuple[str, ...]:
        """The values of an arm, in the order of the axes."""
        return tuple(arm[axis] for axis in self.axes)

    def of(self, arm: Mapping[str, str]) -> tuple[Outcome, ...]:
        """The cells of one arm, by seed."""
        return tuple(sorted((cell for cell in self.cells if cell.arm == arm), key=lambda cell: cell.seed))
