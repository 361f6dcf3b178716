"""The same bits each time, or an error that names the operation that cannot promise them."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager

import torch

from forgetkit.errors import ConfigError

_WORKSPACE = "CUBLAS_WORKSPACE_CONFIG"
_WORKSPACES = (":4096:8", ":16:8")
"""Of the two that cuBLAS is deterministic with, the faster first."""

_LACKING = " does not have a deterministic implementation"
_CUBLAS = "it uses CuBLAS"


@contextmanager
def deterministic_only(device: torch.device) -> Iterator[None]:
    """While torch takes none but operations that give the same bits each time.

    What has no such implementation ends in ``ConfigError``, with its name. torch's settings are put back afterwards;
    on CUDA the variable that cuBLAS reads as it starts is left set, so that the next run finds it.
    """
    if device.type == "cuda":
        _require_workspace()
    before = torch.are_deterministic_algorithms_enabled(), torch.is_deterministic_algorithms_warn_only_enabled()
    torch.use_deterministic_algorithms(True)
    try:
        yield
    except Exception as error:
        operation = _nondeterministic_operation(error)
        if operation is None:
            raise
        raise ConfigError(
            f"--deterministic: {operation} has no deterministic implementation on {device.type}: use a network or a "
            "component without it, another --device, or leave --deterministic out"
        ) from error
    finally:
        torch.use_deterministic_algorithms(before[0], warn_only=before[1])


def _require_workspace() -> None:
    """cuBLAS reads it once, as CUDA comes up."""
    given = os.environ.get(_WORKSPACE)
    if given is None and not torch.cuda.is_initialized():
        os.environ[_WORKSPACE] = _WORKSPACES[0]
    elif given not in _WORKSPACES:
        why = "is not set, and CUDA is up already" if given is None else f"is {given}"
        raise ConfigError(f"--deterministic: {_WORKSPACE} {why}: set it to {_WORKSPACES[0]} before Python starts")


def _nondeterministic_operation(error: BaseException | None) -> str | None:
    """The operation that torch, perhaps in the words of whoever called it, says has no deterministic implementation."""
    while error is not None:
        text = str(error)
        if _LACKING in text:
            return text.partition(_LACKING)[0].split()[-1]
        if _CUBLAS in text:
            return "a product of matrices by cuBLAS"
        error = error.__cause__
    return None
