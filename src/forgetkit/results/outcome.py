"""What became of the cells of a grid."""

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

    ``arm`` has a value per axis, as it is shown (``{"importance": "snip", "replay": "full"}``). ``result`` is what
    ``result.json`` holds where the cell is completed, else None, and ``reason`` says why in one line. ``answers`` are
    those of the analyses that it was asked by, ordered by their labels.
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
        """What the result holds, and each number of an answer by the key of its column, ``calibration_ece``."""
        return {**{key: measure.value for key, measure in answer_columns(self.answers).items()}, **(self.result or {})}

    @property
    def run(self) -> str:
        """Equal for cells that are one run, whatever their arms are called; ``auto`` is what it came to."""
        result = self.result or {}
        config, versions = result.get("config"), result.get("versions")
        if not isinstance(config, Mapping) or not isinstance(versions, Mapping):
            return self.digest
        settled = {key: value for key, value in config.items() if key not in NOT_RESULTS}
        return json.dumps([settled, versions.get("plugins")], sort_keys=True, default=str)


@dataclass(frozen=True)
class Outcomes:
    """Everything that a table, a plot or a report is made from.

    ``axes`` are in the order in which they are shown; ``cells`` in the order of the grid: arm by arm, seed by seed.
    ``baseline`` is the arm that others are compared with, None where none was named, and ``command`` the line that
    carries the cells out. ``answers`` are those about all cells together.
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
            found.setdefault(tuple(cell.arm[axis] for axis in self.axes), cell.arm)
        return tuple(found.values())

    def of(self, arm: Mapping[str, str]) -> tuple[Outcome, ...]:
        """The cells of one arm, by seed."""
        return tuple(sorted((cell for cell in self.cells if cell.arm == arm), key=lambda cell: cell.seed))
