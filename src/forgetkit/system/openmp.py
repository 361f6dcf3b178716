"""How the threads of torch wait for each other. It is settled before torch loads."""

from __future__ import annotations

from collections.abc import MutableMapping

_PASSIVE = {"OMP_WAIT_POLICY": "PASSIVE", "KMP_BLOCKTIME": "0"}
"""The second is how long a thread of Intel's and LLVM's OpenMP spins first."""
_CHOSEN_BY = (*_PASSIVE, "GOMP_SPINCOUNT", "KMP_LIBRARY")


def wait_passively(environment: MutableMapping[str, str]) -> None:
    """Lets a thread that waits sleep instead of spin, unless the user chose otherwise in ``environment``.

    A thread that spins keeps a core from the very thread that it waits for, if other processes want the cores too.
    """
    if not any(name in environment for name in _CHOSEN_BY):
        environment.update(_PASSIVE)
