"""Executors: ways to run many tasks."""

from collections.abc import Mapping

from forgetkit.builtin.executors.local import Local
from forgetkit.contracts import Executor
from forgetkit.registry.hookspecs import hookimpl


@hookimpl
def forgetkit_executors() -> Mapping[str, type[Executor]]:
    """Return the built-in executors."""
    return {"local": Local}
