"""How the threads of torch wait for each other, which is decided before torch loads."""

from __future__ import annotations

from collections.abc import MutableMapping

_PASSIVE = {"OMP_WAIT_POLICY": "PASSIVE", "KMP_BLOCKTIME": "0"}
"""The second is how long a thread of Intel's and LLVM's OpenMP spins first."""
_CHOSEN_BY = (*_PASSIVE, "GOMP_SPINCOUNT", "KMP_LIBRARY")


def wait_passively(environment: MutableMapping[str, str]) -> None:
    """Let a waiting thread sleep instead of spin, unless ``environment`` says otherwise.

    If other processes use the cores too, a spinning thread keeps a core from the thread that it waits for.
    """
    if not any(name in environment for name in _CHOSEN_BY):
        environment.update(_PASSIVE)
