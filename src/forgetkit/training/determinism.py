"""Deterministic operations, or an error that names the operation that has no deterministic implementation."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager

import torch

from forgetkit.errors import ConfigError

_WORKSPACE = "CUBLAS_WORKSPACE_CONFIG"
_WORKSPACES = (":4096:8", ":16:8")
"""The two values with which cuBLAS is deterministic, the faster first."""

_LACKING = " does not have a deterministic implementation"
_CUBLAS = "it uses CuBLAS"


@contextmanager
def deterministic_only(device: torch.device) -> Iterator[None]:
    """Let torch use deterministic operations only; restore its settings on leaving.

    On CUDA the variable that cuBLAS reads as it starts stays set, so that the next run finds it.

    Raises:
        ConfigError: An operation has no deterministic implementation; the message names it.
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
    """Set the variable, which cuBLAS reads once as CUDA starts, or raise ``ConfigError``."""
    given = os.environ.get(_WORKSPACE)
    if given is None and not torch.cuda.is_initialized():
        os.environ[_WORKSPACE] = _WORKSPACES[0]
    elif given not in _WORKSPACES:
        why = "is not set, and CUDA is up already" if given is None else f"is {given}"
        raise ConfigError(f"--deterministic: {_WORKSPACE} {why}: set it to {_WORKSPACES[0]} before Python starts")


def _nondeterministic_operation(error: BaseException | None) -> str | None:
    """The operation that an error of torch, or one that it caused, says has no deterministic implementation."""
    while error is not None:
        text = str(error)
        if _LACKING in text:
            return text.partition(_LACKING)[0].split()[-1]
        if _CUBLAS in text:
            return "a product of matrices by cuBLAS"
        error = error.__cause__
    return None
