"""CIFAR-100, as torchvision keeps it."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from forgetkit.builtin.datasets._cifar import PublishedCifar
from forgetkit.contracts import Data, LoadContext

PUBLISHED = PublishedCifar(
    name="CIFAR100",
    folder="cifar-100-python",
    url="https://www.cs.toronto.edu/~kriz/cifar-100-python.tar.gz",
    sha256="85cd44d02ba6437773c5bbd22e183051d648de2e7d6b014e1ef29b855ba677a7",
    length=169_001_437,
    files={
        "train": "16019d7e3df5f24257cddd939b257f8d",
        "test": "f0ef6b0ae62326f3e7ffdfab6717acfc",
        "meta": "7973b15100ade9c7d40fb424638fde48",
    },
    train=["train"],
    test=["test"],
    meta="meta",
    labels="fine_labels",
    names="fine_label_names",
)


@dataclass(frozen=True)
class Cifar100:
    """CIFAR-100: 60,000 colour photographs of 32×32 pixels in 100 classes.

    Inputs are ``uint8`` of shape ``(n, 3, 32, 32)``: 50,000 for training, 10,000 for testing; the
    labels are the fine ones.

    ``path``: the folder with torchvision's ``cifar-100-python``; none: the folder ``torchvision`` in the cache.
    ``download``: fetch what is missing there (161 MiB), and take it only if it is the published archive.

    Source: A. Krizhevsky, Learning Multiple Layers of Features from Tiny Images, 2009.
    """

    path: Path | None = None
    download: bool = False

    def load(self, context: LoadContext) -> Data:
        """Both parts; ``DataError`` where the files are missing, damaged or out of reach."""
        return PUBLISHED.load(self.path, self.download, context)
