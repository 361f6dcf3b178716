"""Ways to do many tasks."""

from collections.abc import Mapping

from forgetkit.builtin.executors.local import Local
from forgetkit.contracts import Executor
from forgetkit.registry.hookspecs import hookimpl


@hookimpl
def forgetkit_executors() -> Mapping[str, type[Executor]]:
    """Processes on this machine."""
    return {"local": Local}
