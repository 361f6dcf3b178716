"""The command ``forgetkit``: its subcommands, and what a user sees when something is wrong."""

from __future__ import annotations

import logging
import sys
from collections.abc import Sequence
from typing import Annotated

import typer

from forgetkit._version import __version__
from forgetkit.cli import run, show
from forgetkit.errors import ForgetkitError

INTERRUPTED = 130


def main(arguments: Sequence[str] | None = None) -> int:
    """Run a command line; return its exit status: 0 done, 1 failed, 2 the user's mistake, 130 interrupted."""
    words = list(sys.argv[1:] if arguments is None else arguments)
    debug = "--debug" in words
    logging.basicConfig(stream=sys.stderr, level=logging.WARNING, format="forgetkit: %(message)s")
    try:
        status = application(words)([word for word in words if word != "--debug"], standalone_mode=False)
    except KeyboardInterrupt:
        return _say("interrupted", INTERRUPTED)
    except BrokenPipeError:  # whoever read our output has seen enough
        sys.stderr.close()
        return 0
    except Exception as error:
        if debug:
            raise
        if isinstance(error, ForgetkitError):
            return _say(str(error), error.exit_status)
        if hasattr(error, "format_message"):  # typer's own errors; their base class is not public
            return _say(error.format_message(), 2)
        reason = str(error).strip().partition("\n")[0]
        return _say(f"this is a defect of forgetkit: {type(error).__name__}: {reason} (--debug shows where)", 1)
    return status if isinstance(status, int) else 0


def application(words: Sequence[str] = ()) -> typer.Typer:
    """The typer application. Plugins are asked for commands only where none of our own is named."""
    app = typer.Typer(
        name="forgetkit",
        help="Train networks on data that keeps arriving, and make them forget on purpose.",
        no_args_is_help=True,
        pretty_exceptions_enable=False,
        context_settings={"help_option_names": ["-h", "--help"]},
    )
    app.callback()(_options)
    own = {"run": run.command(), "show": show.command}
    for name, command in own.items():
        app.command(name)(command)
    asked = next((word for word in words if not word.startswith("-")), None)
    if asked is not None and asked not in own:
        _add_commands_of_plugins(app)
    return app


def _options(
    version: Annotated[bool, typer.Option("--version", help="Print the version and leave.")] = False,
    debug: Annotated[
        bool, typer.Option("--debug", help="Show the traceback of an error (anywhere in the line).")
    ] = False,
) -> None:
    if version:
        print(__version__)
        raise typer.Exit


def _add_commands_of_plugins(app: typer.Typer) -> None:
    from forgetkit import registry

    for offer in registry.load().named("commands"):
        app.add_typer(offer.component, name=offer.name)


def _say(message: str, status: int) -> int:
    print(f"forgetkit: {' '.join(message.split())}", file=sys.stderr)
    return status
