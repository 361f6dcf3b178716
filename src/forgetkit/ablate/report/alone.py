"""A finished run by itself, as an ablation of one cell."""

from __future__ import annotations

from pathlib import Path

from forgetkit.ablate.outcome import Outcome, Outcomes
from forgetkit.ablate.pool import answered
from forgetkit.ablate.render.words import plain
from forgetkit.errors import RunDirectoryError
from forgetkit.record import RunDirectory, resume_command


def is_run(path: Path) -> bool:
    """Whether ``path`` is the directory of a run, finished or not."""
    return (path / "manifest.json").exists() or (path / "result.json").exists()


def outcomes(path: Path) -> Outcomes:
    """The run in ``path``; ``RunDirectoryError`` where it is not finished or its result is damaged."""
    if not (path / "result.json").exists():
        raise RunDirectoryError(f"{path} is not finished: go on with {resume_command(path)}")
    result = RunDirectory(path).result
    seed = result["config"].get("seed")
    arm = {"method": plain(result["method"]) or "unknown"}
    title = plain(result["run"]) or path.resolve().name
    cell = Outcome(arm, seed if isinstance(seed, int) else 0, "", "completed", result, answers=answered(path))
    return Outcomes(title, ("method",), (cell,))
