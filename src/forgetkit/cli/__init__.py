"""The command line: the only home of typer and rich."""

from forgetkit.cli.main import main

__all__ = ["main"]
