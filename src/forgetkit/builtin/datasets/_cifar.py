"""What the two CIFAR data sets share: the published files, fetched where that is asked for, and read."""

from __future__ import annotations

import hashlib
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any, TypeVar

import numpy as np
from numpy.typing import NDArray

from forgetkit.builtin.datasets import _plain
from forgetkit.builtin.datasets._staging import staging
from forgetkit.contracts import Data, DataSplit, LoadContext
from forgetkit.errors import DataError
from forgetkit.system import safe_open

T = TypeVar("T")

_LONGEST = 1 << 28
"""Bytes; no file of either data set is as long."""
_PIECE = 1 << 20
_PATIENCE = 60.0
"""Seconds without a byte, after which a download is given up."""


@dataclass(frozen=True)
class PublishedCifar:
    """A data set as its author published it: an archive with a folder of files.

    The archive is known by its SHA-256. The files in it are known by their MD5, as the author and torchvision have it,
    which finds damage; that reading them is safe does not depend on it.
    """

    name: str
    folder: str
    url: str
    sha256: str
    length: int
    """Bytes of the archive."""
    files: Mapping[str, str]
    train: Sequence[str]
    test: Sequence[str]
    meta: str
    labels: str
    """The entry with the labels; that with the names of the classes is called ``names``."""
    names: str

    def load(self, path: Path | None, download: bool, context: LoadContext) -> Data:
        """Both parts, as ``uint8`` of shape ``(n, 3, 32, 32)``; the folder is in ``path``, or in the cache.

        Raises ``DataError`` where its files are missing or damaged, or cannot be downloaded.
        """
        root = Path(path or context.cache / "torchvision").expanduser()
        harmed = [name for name in self.files if self._content(root, name) is None]
        if harmed and (context.offline or not download):
            asks = "; a record downloads nothing, so name the data set again with --dataset" if download else ""
            raise DataError(
                f"{self.name} is not in {root} (looked for its unharmed files in '{self.folder}'; {harmed[0]} is "
                f"missing or damaged): pass path=FOLDER with the folder that holds it, or download=true{asks}"
            )
        if harmed:
            self._fetch(root, harmed, context)
        names = self._read(root, self.meta, lambda entries: tuple(map(_plain.text, entries[self.names])))
        return Data(self._part(root, self.train), self._part(root, self.test), names, augment="crop-flip")

    def _content(self, root: Path, name: str) -> bytes | None:
        """A file's bytes, or None where it is missing or not what was published."""
        try:
            with safe_open.open_file(root / self.folder / name) as file:
                content = file.read(_LONGEST)
        except OSError:
            return None
        return content if self._is_published(name, content) else None

    def _is_published(self, name: str, content: bytes) -> bool:
        return hashlib.md5(content, usedforsecurity=False).hexdigest() == self.files[name]

    def _read(self, root: Path, name: str, taken: Callable[[dict[str, Any]], T]) -> T:
        """What is taken from the entries of a file."""
        content = self._content(root, name)
        if content is None:
            raise DataError(f"{root / self.folder / name} was changed while it was read: try again")
        try:
            return taken(_plain.read_pickled_dict(content))
        except Exception as error:  # whatever the bytes lead to
            reason = " ".join(str(error).split()) or type(error).__name__
            raise DataError(
                f"{root / self.folder / name} holds what no published file does ({reason}): remove the folder, and "
                "fetch it anew with download=true"
            ) from error

    def _part(self, root: Path, names: Sequence[str]) -> DataSplit:
        def taken(entries: dict[str, Any]) -> tuple[NDArray[np.uint8], NDArray[np.int64]]:
            return entries["data"].reshape(-1, 3, 32, 32), np.asarray(entries[self.labels], dtype=np.int64)

        inputs, labels = zip(*(self._read(root, name, taken) for name in names), strict=True)
        return DataSplit(np.concatenate(inputs), np.concatenate(labels))

    def _fetch(self, root: Path, names: Sequence[str], context: LoadContext) -> None:
        """Download the archive into a file without a name, and take from it, once it is known to be the one."""
        from http.client import HTTPException  # which takes long to import, for whoever wants no CIFAR

        try:
            root.mkdir(parents=True, exist_ok=True)
            with (
                tempfile.TemporaryFile(dir=root) as archive,
                staging(root, ".fetched-") as fetched,
            ):
                self._download(archive, context)
                (root / self.folder).mkdir(exist_ok=True)
                for name, content in self._members(archive, names):
                    file = fetched / name
                    file.write_bytes(content)
                    file.replace(root / self.folder / name)
        except (OSError, HTTPException) as error:
            reason = " ".join(str(error).split()) or type(error).__name__
            raise DataError(
                f"{self.name} could not be downloaded into {root} ({reason}): "
                f"try again, or pass path=FOLDER with a folder that holds '{self.folder}'"
            ) from error

    def _download(self, archive: IO[bytes], context: LoadContext) -> None:
        from urllib.request import urlopen

        what, digest, done = f"downloading {self.name}, MiB", hashlib.sha256(), 0
        context.progress(what, 0, self.length >> 20)
        with urlopen(self.url, timeout=_PATIENCE) as source:
            while piece := source.read(_PIECE):
                done += len(piece)
                if done > self.length:
                    break
                digest.update(piece)
                archive.write(piece)
                context.progress(what, min(done, self.length - 1) >> 20, self.length >> 20)
        if done != self.length or digest.hexdigest() != self.sha256:
            raise OSError(f"{self.url} gave something else than the published archive")
        context.progress(what, self.length >> 20, self.length >> 20)

    def _members(self, archive: IO[bytes], names: Sequence[str]) -> Iterator[tuple[str, bytes]]:
        """Files of the archive, by the names that are looked for: no name that it holds becomes a path."""
        import tarfile

        archive.seek(0)
        try:
            with tarfile.open(fileobj=archive) as tar:
                for name in names:
                    member = tar.getmember(f"{self.folder}/{name}")
                    file = tar.extractfile(member) if member.isreg() and member.size <= _LONGEST else None
                    content = file.read() if file is not None else b""
                    if not self._is_published(name, content):
                        raise OSError(f"{self.folder}/{name} in the archive is not what was published")
                    yield name, content
        except (tarfile.TarError, KeyError, EOFError) as error:
            raise OSError(f"the archive cannot be read: {error}") from error
