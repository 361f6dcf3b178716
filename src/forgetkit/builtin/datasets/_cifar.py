"""What the two CIFAR data sets share."""

from __future__ import annotations

import warnings
from pathlib import Path
from typing import Any, Literal

import numpy as np

from forgetkit.contracts import Data, LoadContext, Part
from forgetkit.errors import DataError


def load(name: Literal["CIFAR10", "CIFAR100"], path: Path | None, download: bool, context: LoadContext) -> Data:
    """Both parts of the torchvision data set ``name``, as ``uint8`` of shape ``(n, 3, 32, 32)``.

    Raises ``DataError`` where its files are missing or damaged, or cannot be downloaded.
    """
    from http.client import HTTPException  # which takes long to import, for whoever wants no CIFAR

    root = Path(path or context.cache / "torchvision").expanduser()
    source = _torchvision_class(name)
    if download:
        context.progress(f"downloading {name} where it is missing", 0, 1)
    try:
        with warnings.catch_warnings():
            # The published files are pickles so old that NumPy 2.4.0 to 2.4.4 warn of how they spell a dtype.
            warnings.filterwarnings("ignore", message=r"dtype\(\): align should be passed")
            train, test = (source(root, train=part, download=download) for part in (True, False))
    except (RuntimeError, OSError, HTTPException) as error:
        if download:
            reason = " ".join(str(error).split())
            raise DataError(
                f"{name} could not be downloaded into {root} ({reason}): "
                f"try again, or pass path=FOLDER with a folder that holds '{source.base_folder}'"
            ) from error
        raise DataError(
            f"{name} is not in {root} (looked for its unharmed files in '{source.base_folder}'): "
            "pass path=FOLDER with the folder that holds it, or download=true"
        ) from error
    if download:
        context.progress(f"downloading {name} where it is missing", 1, 1)
    return Data(train=_part(train), test=_part(test), classes=tuple(train.classes), augment="crop-flip")


def _torchvision_class(name: str) -> Any:
    try:
        from torchvision import datasets
    except (ImportError, RuntimeError) as error:  # RuntimeError: its operators do not match this torch
        reason = " ".join(str(error).split())
        raise DataError(
            f"torchvision cannot be imported ({reason}): install torch and torchvision from the same index"
        ) from error
    return getattr(datasets, name)


def _part(source: Any) -> Part:
    return Part(
        inputs=np.ascontiguousarray(source.data.transpose(0, 3, 1, 2)),  # torchvision keeps channels last
        labels=np.asarray(source.targets, dtype=np.int64),
    )
