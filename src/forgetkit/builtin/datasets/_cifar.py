"""CIFAR-10 and CIFAR-100: read and download the files whose names and MD5 digests torchvision lists.

torchvision's own readers check each file and then open it again to unpickle it, name no damaged file, and download
without a timeout. Here the bytes that are unpickled are the bytes that were checked.
"""

from __future__ import annotations

import hashlib
import io
import pickle
import tempfile
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

import numpy as np

from forgetkit.builtin._torchvision import importing_torchvision
from forgetkit.builtin.datasets._staging import staging
from forgetkit.contracts import Data, DataSplit, LoadContext
from forgetkit.errors import DataError
from forgetkit.system import safe_open

_MAX_BYTES = 1 << 28
"""No file of either data set is as long, nor is its archive."""
_CHUNK = 1 << 20
_TIMEOUT = 60.0
"""Seconds without a byte until a download fails."""


def load_cifar(name: str, path: Path | None, download: bool, context: LoadContext) -> Data:
    """Load ``CIFAR10`` or ``CIFAR100`` from a folder, or from the cache if ``path`` is None.

    Returns:
        Both parts, ``uint8`` of shape ``(n, 3, 32, 32)``.

    Raises:
        DataError: If a file is missing or damaged, or cannot be downloaded.
        UsageError: If torchvision cannot be imported.
    """
    with importing_torchvision(name.lower()):
        from torchvision import datasets
    return _Cifar(getattr(datasets, name), Path(path or context.cache / "torchvision").expanduser()).load(
        download, context
    )


@dataclass(frozen=True)
class _Cifar:
    published: Any
    """torchvision's class, which lists the files, their digests and the address of the archive."""
    root: Path

    def load(self, download: bool, context: LoadContext) -> Data:
        meta, name = self.published.meta, self.published.__name__
        train, test = dict(self.published.train_list), dict(self.published.test_list)
        digests = train | test | {meta["filename"]: meta["md5"]}
        damaged = [file for file, md5 in digests.items() if self._content(file, md5) is None]
        if damaged and (context.offline or not download):
            hint = "; a record downloads nothing, so name the data set again with --dataset" if download else ""
            raise DataError(
                f"{name} is not in {self.root} (looked for its unharmed files in '{self.published.base_folder}'; "
                f"{damaged[0]} is missing or damaged): pass path=FOLDER with the folder that holds it, or "
                f"download=true{hint}"
            )
        if damaged:
            self._download({file: digests[file] for file in damaged}, context)
        classes = self._read(meta["filename"], meta["md5"])[meta["key"]]
        return Data(self._part(train), self._part(test), tuple(classes), augment="crop-flip")

    def _path(self, file: str) -> Path:
        return self.root / str(self.published.base_folder) / file

    def _content(self, file: str, md5: str) -> bytes | None:
        """The bytes of a file, or None if they are not those that were published."""
        try:
            with safe_open.open_file(self._path(file)) as stream:
                content = stream.read(_MAX_BYTES)
        except OSError:
            return None
        return content if _md5(content) == md5 else None

    def _read(self, file: str, md5: str) -> dict[str, Any]:
        content = self._content(file, md5)
        if content is None:
            raise DataError(f"{self._path(file)} was changed while it was read: try again")
        try:
            entries: dict[str, Any] = _CifarUnpickler(io.BytesIO(content), encoding="latin1").load()
        except Exception as error:  # arbitrary bytes may raise anything
            raise DataError(
                f"{self._path(file)} holds what no published file does ({_reason(error)}): remove the folder, and "
                "download it again with download=true"
            ) from error
        return entries

    def _part(self, digests: Mapping[str, str]) -> DataSplit:
        batches = [self._read(file, md5) for file, md5 in digests.items()]
        labels = [batch["labels"] if "labels" in batch else batch["fine_labels"] for batch in batches]
        inputs = np.concatenate([batch["data"] for batch in batches]).reshape(-1, 3, 32, 32)
        return DataSplit(inputs, np.concatenate(labels).astype(np.int64))

    def _download(self, digests: Mapping[str, str], context: LoadContext) -> None:
        """Download the archive, check it, and move the files that are needed into place; the archive is not kept."""
        from http.client import HTTPException  # late: it takes long to import

        try:
            self.root.mkdir(parents=True, exist_ok=True)
            with tempfile.TemporaryFile(dir=self.root) as archive, staging(self.root, ".fetched-") as folder:
                self._fetch(archive, context)
                (self.root / self.published.base_folder).mkdir(exist_ok=True)
                for file, content in self._members(archive, digests):
                    (folder / file).write_bytes(content)
                    (folder / file).replace(self._path(file))
        except (OSError, HTTPException) as error:
            raise DataError(
                f"{self.published.__name__} could not be downloaded into {self.root} ({_reason(error)}): "
                f"try again, or pass path=FOLDER with a folder that holds '{self.published.base_folder}'"
            ) from error

    def _fetch(self, archive: IO[bytes], context: LoadContext) -> None:
        from urllib.request import urlopen

        stage, url = f"downloading {self.published.__name__}, MiB", self.published.url
        digest, received = hashlib.md5(usedforsecurity=False), 0
        with urlopen(url, timeout=_TIMEOUT) as source:
            total = source.length or _MAX_BYTES
            context.progress(stage, 0, total >> 20)
            while received <= _MAX_BYTES and (chunk := source.read(_CHUNK)):
                received += len(chunk)
                digest.update(chunk)
                archive.write(chunk)
                context.progress(stage, min(received, total - 1) >> 20, total >> 20)
        if digest.hexdigest() != self.published.tgz_md5:
            raise OSError(f"{url} gave something else than the published archive")
        context.progress(stage, total >> 20, total >> 20)

    def _members(self, archive: IO[bytes], digests: Mapping[str, str]) -> Iterator[tuple[str, bytes]]:
        """The contents of the needed files; no name that the archive holds becomes a path."""
        import tarfile

        archive.seek(0)
        try:
            with tarfile.open(fileobj=archive) as tar:
                for file, md5 in digests.items():
                    member = tar.extractfile(f"{self.published.base_folder}/{file}")
                    content = member.read(_MAX_BYTES) if member else b""
                    if _md5(content) != md5:
                        raise OSError(f"{self.published.base_folder}/{file} in the archive is not what was published")
                    yield file, content
        except (tarfile.TarError, KeyError, EOFError) as error:
            raise OSError(f"the archive cannot be read: {error}") from error


class _CifarUnpickler(pickle.Unpickler):
    """Find NumPy's arrays and nothing else, so that no file can name a function to call."""

    def find_class(self, module: str, name: str) -> Any:
        if (module, name) == ("numpy", "dtype"):
            return _dtype
        arrays = [("numpy.core.multiarray", "_reconstruct"), ("numpy._core.multiarray", "_reconstruct")]
        if (module, name) in [*arrays, ("numpy", "ndarray"), ("_codecs", "encode")]:
            return super().find_class(module, name)
        raise pickle.UnpicklingError(f"it asks for {module}.{name}")


def _dtype(code: str, align: int = 0, copy: int = 0) -> np.dtype[Any]:
    return np.dtype(code, align=bool(align), copy=bool(copy))


def _md5(content: bytes) -> str:
    return hashlib.md5(content, usedforsecurity=False).hexdigest()


def _reason(error: Exception) -> str:
    return " ".join(str(error).split()) or type(error).__name__
