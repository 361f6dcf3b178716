"""A single finished run, as an ablation of one cell."""

from __future__ import annotations

from pathlib import Path

from forgetkit.errors import RunDirectoryError
from forgetkit.results.cell_store import answers_in
from forgetkit.results.outcome import Outcome, Outcomes
from forgetkit.results.render.formatting import one_line
from forgetkit.storage import RunDirectory, resume_command


def is_run(path: Path) -> bool:
    """Whether ``path`` is the directory of a run, finished or not."""
    return (path / "manifest.json").exists() or (path / "result.json").exists()


def single_run_outcomes(path: Path) -> Outcomes:
    """The run in ``path``; raises ``RunDirectoryError`` if it is not finished or its result is damaged."""
    if not (path / "result.json").exists():
        raise RunDirectoryError(f"{path} is not finished: resume it with {resume_command(path)}")
    result = RunDirectory(path).result
    seed = result["config"].get("seed")
    arm = {"method": one_line(result["method"]) or "unknown"}
    title = one_line(result["run"]) or path.resolve().name
    cell = Outcome(arm, seed if isinstance(seed, int) else 0, "", "completed", result, answers=answers_in(path))
    return Outcomes(title, ("method",), (cell,))
