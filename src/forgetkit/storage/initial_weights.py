"""The initial weights of a run, from a file of the user."""

from __future__ import annotations

import hashlib
import io
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import torch
from torch import Tensor

from forgetkit.errors import ConfigError
from forgetkit.system import safe_open

_SAVE = "save it with torch.save(model.state_dict(), FILE)"


@dataclass(frozen=True, eq=False)
class InitialWeights:
    """A file with a state dict that ``torch.save`` wrote; it is read on first use."""

    path: Path

    @cached_property
    def sha256(self) -> str:
        """The digest of the file's bytes."""
        return hashlib.sha256(self._content()).hexdigest()

    def tensors(self) -> dict[str, Tensor]:
        """The tensors by name, on the CPU; no code in the file is run.

        Raises:
            ConfigError: if the file cannot be read, holds something else, or is not the one that ``sha256`` is of.
        """
        content = self._content()
        if hashlib.sha256(content).hexdigest() != self.sha256:
            raise ConfigError(f"--init {self.path} has changed since this run read it: start a new run")
        try:
            state = torch.load(io.BytesIO(content), map_location="cpu", weights_only=True)
        except MemoryError:
            raise
        except Exception as error:  # torch.load raises whatever its parser meets
            raise ConfigError(f"--init {self.path} is no file of tensors alone: {_SAVE}") from error
        if not isinstance(state, Mapping) or not all(isinstance(value, Tensor) for value in state.values()):
            raise ConfigError(f"--init {self.path} holds something else than tensors by their names: {_SAVE}")
        for name, tensor in state.items():
            if tensor.layout != torch.strided or tensor.is_meta or tensor.is_quantized:
                raise ConfigError(f"--init {self.path}: '{name}' is sparse, quantized or without values; {_SAVE}")
            if tensor.is_floating_point() and not bool(tensor.isfinite().all()):
                raise ConfigError(f"--init {self.path}: '{name}' holds NaN or infinity; give weights that are finite")
        return dict(state)

    def _content(self) -> bytes:
        try:
            return safe_open.read_bytes(self.path)
        except OSError as error:
            raise ConfigError(f"--init {self.path} cannot be read: {error.strerror}; give a file") from error
