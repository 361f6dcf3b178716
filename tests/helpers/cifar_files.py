"""Small files in place of CIFAR's: torchvision's lists are changed, so that their digests are the published ones."""

from __future__ import annotations

import hashlib
import io

import pytest
from torchvision import datasets

FOLDERS = {"CIFAR10": "cifar-10-batches-py", "CIFAR100": "cifar-100-python"}


def md5(content: bytes) -> str:
    return hashlib.md5(content, usedforsecurity=False).hexdigest()


def file_names(name: str = "CIFAR10") -> list[str]:
    published = getattr(datasets, name)
    return [*dict(published.train_list), *dict(published.test_list), published.meta["filename"]]


def publish(
    monkeypatch: pytest.MonkeyPatch, files: dict[str, bytes], archive: bytes | None = None, name: str = "CIFAR10"
) -> None:
    """Make ``files`` and ``archive`` the published ones."""
    published = getattr(datasets, name)
    for part in ("train_list", "test_list"):
        monkeypatch.setattr(published, part, [[file, md5(files[file])] for file in dict(getattr(published, part))])
    monkeypatch.setattr(published, "meta", published.meta | {"md5": md5(files[published.meta["filename"]])})
    if archive is not None:
        monkeypatch.setattr(published, "tgz_md5", md5(archive))


class Response(io.BytesIO):
    """What ``urlopen`` returns."""

    def __init__(self, content: bytes) -> None:
        super().__init__(content)
        self.length = len(content)
