"""States on disk: written whole or not at all, and loadable without running anybody's code."""

from __future__ import annotations

import hashlib
import io
from pathlib import Path
from typing import Any

import torch

from forgetkit.errors import RunDirectoryError
from forgetkit.record.files import write_atomically


def save_state(path: Path, state: dict[str, Any]) -> str:
    """Write tensors, numbers, strings and containers of them; return the file's SHA-256.

    Tensors are moved to the CPU, so that the file loads on a machine without the device. It is made in
    memory first: an archive written under a file's name contains that name, and two equal states would
    then differ. The file appears complete, by rename, or not at all.
    """
    buffer = io.BytesIO()
    torch.save(_on_cpu(state), buffer)
    content = buffer.getvalue()
    write_atomically(path, content)
    return hashlib.sha256(content).hexdigest()


def load_state(path: Path, sha256: str | None = None) -> dict[str, Any]:
    """Read a state back onto the CPU; ``RunDirectoryError`` where it is missing or damaged."""
    try:
        content = path.read_bytes()
    except OSError as error:
        raise RunDirectoryError(f"the checkpoint {path} cannot be read: {error.strerror}") from error
    if sha256 is not None and hashlib.sha256(content).hexdigest() != sha256:
        raise RunDirectoryError(f"the checkpoint {path} is damaged: its digest is not the recorded one")
    try:
        state = torch.load(io.BytesIO(content), map_location="cpu", weights_only=True)
    except Exception as error:  # torch.load raises whatever its parser meets
        raise RunDirectoryError(f"the checkpoint {path} is damaged or not one of forgetkit's") from error
    if not isinstance(state, dict):
        raise RunDirectoryError(f"the checkpoint {path} is not one of forgetkit's")
    return state


def _on_cpu(value: Any) -> Any:
    """The same tree with its tensors on the CPU."""
    if isinstance(value, torch.Tensor):
        return value.detach().cpu()
    if isinstance(value, dict):
        return {key: _on_cpu(item) for key, item in value.items()}
    return type(value)(map(_on_cpu, value)) if type(value) in (list, tuple) else value
