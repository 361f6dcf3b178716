"""CIFAR-10, in the files that torchvision lists."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from forgetkit.builtin.datasets._cifar import load_cifar
from forgetkit.contracts import Data, LoadContext


@dataclass(frozen=True)
class Cifar10:
    """CIFAR-10: 60,000 colour photographs of 32×32 pixels in 10 classes.

    Inputs are ``uint8`` of shape ``(n, 3, 32, 32)``: 50,000 for training, 10,000 for testing.

    ``path``: the folder that holds ``cifar-10-batches-py``; none: the folder ``torchvision`` in the cache.
    ``download``: download the archive (163 MiB) if a file is missing or damaged; its digest is checked first.

    Source: A. Krizhevsky, Learning Multiple Layers of Features from Tiny Images, 2009.
    """

    path: Path | None = None
    download: bool = False

    def load(self, context: LoadContext) -> Data:
        """Load both parts; raise ``DataError`` if a file is missing or damaged, or cannot be downloaded."""
        return load_cifar("CIFAR10", self.path, self.download, context)
