"""Saved states: written whole or not at all, and loaded without running code."""

from __future__ import annotations

import hashlib
import io
import warnings
import zipfile
from pathlib import Path
from typing import Any

import torch

from forgetkit.errors import RunDirectoryError
from forgetkit.storage.atomic_files import write_atomically
from forgetkit.system import safe_open


def save_state(path: Path, state: dict[str, Any]) -> str:
    """Write tensors, numbers, strings and containers of them; return the SHA-256 of the file.

    Tensors are moved to the CPU, so that the file loads on a machine without the device. The state is serialised in
    memory first: an archive that torch writes to a file contains the file's name, so equal states would differ. The
    file appears complete, by rename, or not at all.
    """
    buffer = io.BytesIO()
    torch.save(_on_cpu(state), buffer)
    content = buffer.getbuffer()  # no copy of it
    write_atomically(path, content)
    return hashlib.sha256(content).hexdigest()


def load_state(path: Path, sha256: str | None = None) -> dict[str, Any]:
    """Read a state onto the CPU, without running code in it or taking more memory than the file is long.

    Raises:
        RunDirectoryError: The file is missing, damaged, another one than ``sha256`` says, or compressed.
    """
    try:
        content = safe_open.read_bytes(path)
    except OSError as error:
        raise RunDirectoryError(f"the checkpoint {path} cannot be read: {error.strerror}") from error
    if sha256 is not None and hashlib.sha256(content).hexdigest() != sha256:
        raise RunDirectoryError(f"the checkpoint {path} is damaged or another: its digest is not the recorded one")
    try:
        _require_flat(content)
        with warnings.catch_warnings():  # torch warns that it checks sparse tensors, which are refused below
            warnings.filterwarnings("ignore", "Validating sparse tensor invariants", UserWarning)
            state = torch.load(io.BytesIO(content), map_location="cpu", weights_only=True)
        _require_plain(state, len(content))
    except MemoryError:
        raise
    except Exception as error:  # torch.load raises whatever its parser meets
        raise RunDirectoryError(f"the checkpoint {path} is damaged or not one of forgetkit's") from error
    if not isinstance(state, dict):
        raise RunDirectoryError(f"the checkpoint {path} is not one of forgetkit's")
    return state


def _require_flat(content: bytes) -> None:
    """Refuse an archive unlike torch's own, in which nothing is compressed and no byte is used twice."""
    with zipfile.ZipFile(io.BytesIO(content)) as archive:
        entries = archive.infolist()
    if any(entry.compress_type != zipfile.ZIP_STORED for entry in entries):
        raise ValueError("an entry is compressed")
    if sum(entry.file_size for entry in entries) > len(content):
        raise ValueError("it would unfold to more than it is")


def _require_plain(value: Any, length: int) -> None:
    """Refuse tensors unlike those of :func:`save_state`, whose entries all stand in a file of ``length`` bytes."""
    if isinstance(value, torch.Tensor):
        if value.layout != torch.strided or value.is_meta or value.is_quantized:
            raise ValueError("a tensor is sparse, quantized or without values")
        if value.numel() * value.element_size() > length:
            raise ValueError("a tensor is larger than the file")
    elif isinstance(value, dict | list | tuple):
        for item in value.values() if isinstance(value, dict) else value:
            _require_plain(item, length)


def _on_cpu(value: Any) -> Any:
    """The same tree with its tensors on the CPU."""
    if isinstance(value, torch.Tensor):
        tensor = value.detach().cpu()
        expanded = tensor.numel() * tensor.element_size() > tensor.untyped_storage().nbytes()
        return tensor.clone() if expanded else tensor
    if isinstance(value, dict):
        return {key: _on_cpu(item) for key, item in value.items()}
    return type(value)(map(_on_cpu, value)) if type(value) in (list, tuple) else value
