"""CIFAR-10, as torchvision keeps it."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from forgetkit.builtin.datasets import _cifar
from forgetkit.contracts import Data, LoadContext


@dataclass(frozen=True)
class Cifar10:
    """CIFAR-10: 60,000 colour photographs of 32×32 pixels in 10 classes.

    Inputs are ``uint8`` of shape ``(n, 3, 32, 32)``: 50,000 for training, 10,000 for testing.

    ``path``: the folder with torchvision's ``cifar-10-batches-py``; none: the folder ``torchvision`` in the cache.
    ``download``: fetch what is missing there (163 MiB).

    Source: A. Krizhevsky, Learning Multiple Layers of Features from Tiny Images, 2009.
    """

    path: Path | None = None
    download: bool = False

    def load(self, context: LoadContext) -> Data:
        """Both parts; ``DataError`` where the files are missing, damaged or out of reach."""
        return _cifar.load("CIFAR10", self.path, self.download, context)
