"""CIFAR-10, as torchvision keeps it."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from forgetkit.builtin.datasets._cifar import PublishedCifar
from forgetkit.contracts import Data, LoadContext

PUBLISHED = PublishedCifar(
    name="CIFAR10",
    folder="cifar-10-batches-py",
    url="https://www.cs.toronto.edu/~kriz/cifar-10-python.tar.gz",
    sha256="6d958be074577803d12ecdefd02955f39262c83c16fe9348329d7fe0b5c001ce",
    length=170_498_071,
    files={
        "data_batch_1": "c99cafc152244af753f735de768cd75f",
        "data_batch_2": "d4bba439e000b95fd0a9bffe97cbabec",
        "data_batch_3": "54ebc095f3ab1f0389bbae665268c751",
        "data_batch_4": "634d18415352ddfa80567beed471001a",
        "data_batch_5": "482c414d41f54cd18b22e5b47cb7c3cb",
        "test_batch": "40351d587109b95175f43aff81a1287e",
        "batches.meta": "5ff9c542aee3614f3951f8cda6e48888",
    },
    train=[f"data_batch_{number}" for number in range(1, 6)],
    test=["test_batch"],
    meta="batches.meta",
    labels="labels",
    names="label_names",
)


@dataclass(frozen=True)
class Cifar10:
    """CIFAR-10: 60,000 colour photographs of 32×32 pixels in 10 classes.

    Inputs are ``uint8`` of shape ``(n, 3, 32, 32)``: 50,000 for training, 10,000 for testing.

    ``path``: the folder with torchvision's ``cifar-10-batches-py``; none: the folder ``torchvision`` in the cache.
    ``download``: fetch what is missing there (163 MiB), and take it only if it is the published archive.

    Source: A. Krizhevsky, Learning Multiple Layers of Features from Tiny Images, 2009.
    """

    path: Path | None = None
    download: bool = False

    def load(self, context: LoadContext) -> Data:
        """Both parts; ``DataError`` where the files are missing, damaged or out of reach."""
        return PUBLISHED.load(self.path, self.download, context)
