"""The command line: the only home of typer."""

from forgetkit.cli.main import main

__all__ = ["main"]
