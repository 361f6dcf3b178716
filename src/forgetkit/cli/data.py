"""``forgetkit data``: the content of a data set."""

from __future__ import annotations

import contextlib
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from forgetkit.cli import completion, options
from forgetkit.cli.streams import announce
from forgetkit.display.console import Console, print_json
from forgetkit.errors import OptionError, RecordError

if TYPE_CHECKING:
    from forgetkit.contracts import Data
    from forgetkit.data import MegaBatch

_MEGA_BATCHES = 8
_VAL_FRACTION = 0.1
"""The defaults of a run."""


def command(
    spec: Annotated[
        str,
        typer.Argument(
            help="A data set, a SPEC like folder:path=photos,size=32.",
            metavar="SPEC",
            autocompletion=completion.for_components("datasets"),
        ),
    ],
    mega_batches: Annotated[
        int | None,
        typer.Option("--mega-batches", help="Number of mega-batches (default: 8, or fewer).", metavar="N", min=1),
    ] = None,
    sheet: Annotated[
        Path | None, typer.Option("--sheet", help="Write a picture of some samples of each class.", metavar="FILE.png")
    ] = None,
    plugin: options.PluginFiles = None,
    strict: options.StrictPlugins = False,
    json: options.AsJson = False,
) -> None:
    """Show what a data set holds, and what looks wrong in it.

    Counts by class, values, files that were used and ignored, what --augment auto resolves to, and the findings of the
    audit at the start of each run.
    """
    announce("data", quiet=False, as_json=json)
    with contextlib.redirect_stdout(sys.stderr) if json else contextlib.nullcontext():
        name, content = _describe(spec, mega_batches, sheet, plugin, strict=strict, as_json=json)
    if json:
        print_json({"dataset": name, **content})
        return
    from forgetkit.display.data_tables import describe

    console = Console()
    for part in describe(name, content):
        console.print(part)


def _describe(
    spec: str, wanted: int | None, sheet: Path | None, plugins: list[Path] | None, *, strict: bool, as_json: bool
) -> tuple[str, dict[str, Any]]:
    """Return the SPEC in full, and the content of the data set."""
    if sheet is not None and sheet.suffix.lower() != ".png":
        raise OptionError(f"--sheet {sheet}: must be the name of a .png file")
    from forgetkit.config import machine
    from forgetkit.contracts import LoadContext, LoadProgress
    from forgetkit.data import load_data
    from forgetkit.data.contact_sheet import describe_data
    from forgetkit.data.contact_sheet import draw_contact_sheet as picture
    from forgetkit.display.run_display import choose_run_display

    name, source = options.load_components({"plugin": plugins, "strict_plugins": strict}).make("datasets", spec)
    view = choose_run_display(quiet=False, as_json=as_json)

    def progress(what: str, done: int, total: int) -> None:
        view.notify(LoadProgress(what, done, total))

    with view.progress_context():
        data = load_data(source, name, LoadContext(machine.cache_folder(), progress))
        content = describe_data(data, _cut_stream(data, wanted))
        drawn = None if sheet is None else picture(data)
    if sheet is not None and drawn is not None:
        _write(sheet, drawn)
    return name, {**content, "sheet": None if sheet is None else str(sheet)}


def _cut_stream(data: Data, wanted: int | None) -> Sequence[MegaBatch]:
    """Cut the stream of a run with seed 0."""
    import numpy as np

    from forgetkit.data import partition
    from forgetkit.seeding import Seeds

    count = wanted or max(1, min(_MEGA_BATCHES, len(data.train) // 2))
    return partition(np.arange(len(data.train)), count, _VAL_FRACTION, "random", Seeds(0))


def _write(path: Path, content: bytes) -> None:
    from forgetkit.storage import write_output

    try:
        write_output(path, content)
    except RecordError as error:  # a mistake in the name, no lost record
        raise OptionError(f"--sheet {path}: {error}") from error
