"""What every data set must satisfy, whoever wrote the source."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from typing import Any, get_args

import numpy as np
from numpy.typing import NDArray

from forgetkit.contracts import Augmentation, Data, DatasetSource, DataSplit, LoadContext
from forgetkit.errors import DataError
from forgetkit.system.memory import shortage

_AT_ONCE = 1 << 24
"""Bytes of samples that are looked at together."""


def load_data(source: DatasetSource, name: str, context: LoadContext) -> Data:
    """Load the data set ``name`` and check it; raise ``DataError`` if it is wrong or does not fit into memory."""
    try:
        data = source.load(context)
    except Exception as error:
        reason = shortage(error)
        if reason is None:
            raise
        raise DataError(f"the data set {name} does not fit into memory ({reason}): choose smaller options") from error
    return check_data(data, name)


def check_data(data: Data, source: str) -> Data:
    """Return ``data``; raise ``DataError`` naming what is wrong with it."""
    classes = len(data.classes)
    for part, name in ((data.train, "train"), (data.test, "test")):
        _check_part(part, f"{source}: the {name} part", classes)
    if data.train.inputs.shape[1:] != data.test.inputs.shape[1:]:
        raise DataError(
            f"{source}: training samples have shape {data.train.inputs.shape[1:]}, "
            f"test samples {data.test.inputs.shape[1:]}; they must agree"
        )
    if data.augment not in get_args(Augmentation):
        raise DataError(f"{source}: the augmentation '{data.augment}' is none of {', '.join(get_args(Augmentation))}")
    if data.augment != "none" and data.train.inputs.ndim != 4:
        raise DataError(f"{source}: features cannot be augmented by {data.augment}; only images can")
    return data


def _check_part(part: DataSplit, where: str, classes: int) -> None:
    inputs, labels = part.inputs, part.labels
    if len(inputs) == 0:
        raise DataError(f"{where} has no samples")
    if inputs.dtype not in (np.uint8, np.float32) or inputs.ndim not in (2, 4):
        raise DataError(
            f"{where} is {inputs.dtype} of shape {inputs.shape}; expected uint8 or float32 of shape "
            "(n, channels, height, width) or (n, features)"
        )
    if labels.dtype != np.int64 or labels.shape != (len(inputs),):
        raise DataError(f"{where} has {labels.dtype} labels of shape {labels.shape}; expected int64 ({len(inputs)},)")
    if labels.min() < 0 or labels.max() >= classes:
        bad = int(np.flatnonzero((labels < 0) | (labels >= classes))[0])
        raise DataError(f"{where}: sample {bad} has label {labels[bad]}, out of range 0..{classes - 1}")
    if inputs.dtype == np.float32:
        for start, piece in _pieces(inputs):
            if not np.isfinite(piece).all():
                bad = start + int(np.flatnonzero(~np.isfinite(piece).reshape(len(piece), -1).all(1))[0])
                raise DataError(f"{where}: sample {bad} holds NaN or infinity")


def content_digest(data: Data) -> str:
    """A SHA-256 over the samples and labels of both parts, to notice that a data set is another one."""
    sha = hashlib.sha256()
    for part in (data.train, data.test):
        sha.update(repr((len(part), part.inputs.dtype.str, part.inputs.shape)).encode())
        sha.update(part.labels.tobytes())
        for _, piece in _pieces(part.inputs):
            sha.update(np.ascontiguousarray(piece).data)
    return sha.hexdigest()


def _pieces(inputs: NDArray[Any]) -> Iterator[tuple[int, NDArray[Any]]]:
    """Some samples at a time, and the first one's number: so few bytes that a memory map stays one."""
    step = max(1, _AT_ONCE // max(1, inputs[:1].nbytes))
    for start in range(0, len(inputs), step):
        yield start, inputs[start : start + step]
