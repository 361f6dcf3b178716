"""The command ``forgetkit``: its subcommands, and what it prints about an error."""

from __future__ import annotations

import errno
import io
import logging
import os
import sys
import traceback
from collections.abc import Collection, Sequence
from typing import Annotated

import typer

from forgetkit._version import __version__
from forgetkit.cli import (
    ablate,
    analyze,
    completion,
    data,
    plugins,
    presets,
    report,
    reproduce,
    run,
    show,
    table,
)
from forgetkit.cli.streams import WarningLines, prepare_streams, write_failure
from forgetkit.display.console import one_line
from forgetkit.errors import ForgetkitError
from forgetkit.system.openmp import wait_passively

INTERRUPTED = 130


def main(arguments: Sequence[str] | None = None) -> int:
    """Run a command line; return its exit status: 0 done, 1 failed, 2 the user's mistake, 130 interrupted."""
    words = list(sys.argv[1:] if arguments is None else arguments)
    debug = "--debug" in words
    words = [word for word in words if word != "--debug"] or ["--help"]
    prepare_streams()
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="replace")  # a terminal or a pipe may lack a character
    logging.basicConfig(handlers=[WarningLines()], level=logging.WARNING)
    if "torch" not in sys.modules:  # OpenMP reads the environment once, at import
        wait_passively(os.environ)
    try:
        status = application(() if completion.words(os.environ) else words)(words, standalone_mode=False)
    except (KeyboardInterrupt, typer.Abort):
        return _say("interrupted", INTERRUPTED)
    except SystemExit as leaving:  # typer and rich exit so if the reader of a pipe has left
        return leaving.code if isinstance(leaving.code, int) else 1
    except Exception as error:  # noqa: BLE001 - no traceback reaches a user who did not ask for it
        if debug:
            traceback.print_exc()
        if isinstance(error, ForgetkitError):
            return _say("; ".join([str(error), *_notes(error)]), error.exit_status)
        if hasattr(error, "format_message"):  # typer's own errors; their base class is not public
            return _say(error.format_message(), 2)
        if isinstance(error, OSError) and error.errno == errno.ENAMETOOLONG:
            return _say(f"{error.filename}: a name in it is too long for a file or folder: give a shorter one", 2)
        reason = str(error).strip().partition("\n")[0]
        return _say(f"unexpected {type(error).__name__} in {_place(error)}: {reason} (--debug shows the way there)", 1)
    status = status if isinstance(status, int) else 0
    failure = write_failure()
    return status if failure is None else _say(f"standard output could not be written: {failure}", status or 1)


def application(words: Sequence[str] = ()) -> typer.Typer:
    """Return the typer application. Plugins are loaded only if ``words`` name none of our commands."""
    app = typer.Typer(
        name="forgetkit",
        help="Train networks on data that keeps arriving, and make them forget on purpose.",
        epilog="Plugins may bring more commands: forgetkit show commands.",
        pretty_exceptions_enable=False,
        context_settings={"help_option_names": ["-h", "--help"]},
    )
    app.callback()(_options)
    command_word = next((word for word in words or completion.words(os.environ) if not word.startswith("-")), None)
    app.command("run")(run.command(with_options=command_word == "run"))
    app.command("ablate")(ablate.command(with_options=command_word == "ablate"))
    app.command("analyze")(analyze.command(with_options=command_word == "analyze"))
    app.command("table")(table.command)
    app.command("report")(report.command)
    app.command("reproduce")(reproduce.command(with_options=command_word == "reproduce"))
    app.command("show")(show.command)
    app.command("data")(data.command)
    app.add_typer(plugins.application(), name="plugins")
    app.add_typer(presets.application(), name="presets")
    own = {command.name for command in app.registered_commands} | {group.name for group in app.registered_groups}
    if command_word is not None and command_word not in own:
        _add_commands_of_plugins(app, own, command_word)
    return app


def _print_version(wanted: bool) -> None:
    if wanted:
        print(__version__)
        raise typer.Exit


def _options(
    version: Annotated[
        bool, typer.Option("--version", help="Print the version and leave.", callback=_print_version, is_eager=True)
    ] = False,
    debug: Annotated[
        bool, typer.Option("--debug", help="Show the traceback of an error (anywhere in the line).")
    ] = False,
) -> None:
    pass


def _add_commands_of_plugins(app: typer.Typer, own: Collection[str | None], command_word: str) -> None:
    from forgetkit.registry import registry

    components = registry.load()
    for broken in components.broken:
        _say(str(broken), 0)
    for entry in components.named("commands"):
        apart = f"{entry.distribution}/{entry.name}"
        if isinstance(entry.component, typer.Typer):
            app.add_typer(
                entry.component, name=apart if command_word == apart or entry.name in own else components.label(entry)
            )
        else:
            _say(f"the command '{entry.name}' of {entry.distribution} is left out: it is no typer.Typer", 0)
    if any(command_word == entry.name for entry in components.named("commands")):
        components.find("commands", command_word)  # an error if two plugins offer it


def _notes(error: Exception) -> list[str]:
    """Return the notes of an error that are for a user: one line each, not the traceback of a worker."""
    return [note for note in getattr(error, "__notes__", ()) if "\n" not in note]


def _place(error: Exception) -> str:
    """Return the file and line that raised the error."""
    frame = traceback.extract_tb(error.__traceback__)[-1]
    return f"{frame.filename}:{frame.lineno}"


def _say(message: str, status: int) -> int:
    print(f"forgetkit: {one_line(message)}", file=sys.stderr)
    return status
