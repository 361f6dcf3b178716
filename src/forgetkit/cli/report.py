"""``forgetkit report``: an ablation or a run as one self-contained page."""

from __future__ import annotations

import contextlib
import errno
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from forgetkit.cli import table_options
from forgetkit.display.console import print_json, print_text
from forgetkit.errors import RecordError, RunDirectoryError, UsageError

if TYPE_CHECKING:
    from matplotlib.figure import Figure

    from forgetkit.results.outcome import Outcomes


def command(
    folder: Annotated[Path, typer.Argument(help="The folder of an ablation, or a run's directory.", metavar="DIR")],
    grid: table_options.Grid = None,
    out: Annotated[
        Path | None, typer.Option("--out", help="The page (default: report.html in DIR).", metavar="FILE")
    ] = None,
    pictures: Annotated[
        Path | None, typer.Option("--pictures", help="Write the pictures there too, as SVG and PNG.", metavar="FOLDER")
    ] = None,
    columns: table_options.Columns = None,
    order: table_options.Order = None,
    baseline: table_options.Baseline = None,
    json: Annotated[bool, typer.Option("--json", help="Print an object that says what was written.")] = False,
    quiet: Annotated[bool, typer.Option("--quiet", help="Print nothing but errors.")] = False,
) -> None:
    """Write one HTML page with the table, pictures, configurations and provenance of an ablation or a run."""
    from forgetkit.results import plots
    from forgetkit.results.folder import ResultFolder
    from forgetkit.results.report import render_page
    from forgetkit.storage import write_output

    if pictures is not None and not plots.has_matplotlib():
        raise UsageError(f"--pictures: {plots.MISSING}")
    outcomes = ResultFolder.open(folder, grid, "report takes that of an ablation or of a run").outcomes()
    table = table_options.make_requested_table(outcomes, columns, order, baseline)
    figures = plots.draw_pictures(outcomes) if plots.has_matplotlib() else None
    target = folder / "report.html" if out is None else out
    _make(target.parent)
    with _writable_output("--out"):
        write_output(target, render_page(outcomes, table, figures).encode())
    written = [] if pictures is None else _draw_files(figures or {}, pictures)
    if json:
        print_json({"report": str(target), "pictures": [str(file) for file in written], **_counts(outcomes)})
    elif not quiet:
        print_text("".join(f"{file}\n" for file in (target, *written)))
        if figures is None:
            print_text(f"without pictures: {plots.MISSING}\n")


def _draw_files(figures: dict[str, Figure], folder: Path) -> list[Path]:
    """Save each picture as SVG and PNG."""
    from forgetkit.results import plots

    _make(folder)
    files = [folder / f"{name}.{form}" for name in figures for form in ("svg", "png")]
    with _writable_output("--pictures"):
        for file in files:
            plots.save(figures[file.stem], file)
    return files


def _counts(outcomes: Outcomes) -> dict[str, Any]:
    statuses = [cell.status for cell in outcomes.cells]
    return {"title": outcomes.title, "cells": {status: statuses.count(status) for status in dict.fromkeys(statuses)}}


@contextlib.contextmanager
def _writable_output(option: str) -> Iterator[None]:
    """Turn an error of writing into a mistake in ``option``, unless the disk is full."""
    try:
        yield
    except RecordError as error:
        if isinstance(error.__cause__, OSError) and error.__cause__.errno in (errno.ENOSPC, errno.EDQUOT):
            raise
        raise RunDirectoryError(f"{error}; choose another {option}") from error


def _make(folder: Path) -> None:
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise RunDirectoryError(f"cannot make {folder}: {error.strerror}; choose another place") from error
