"""torchvision is imported late: it is slow to import, and fails if it does not match torch."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from forgetkit.errors import UsageError


@contextmanager
def importing_torchvision(component: str) -> Iterator[None]:
    """Turn a failed import of torchvision into a ``UsageError`` that names the component and the remedy."""
    try:
        yield
    except (ImportError, RuntimeError) as error:
        reason = str(error).partition("\n")[0]
        raise UsageError(
            f"{component} needs torchvision, which fails to import ({reason}); "
            "install torch and torchvision together, from the same index"
        ) from error
