"""Checks that every data set must pass."""

from __future__ import annotations

import hashlib
from typing import get_args

import numpy as np

from forgetkit.contracts import Augmentation, Data, DatasetSource, DataSplit, LoadContext
from forgetkit.data.slices import slices_of
from forgetkit.errors import DataError
from forgetkit.system.memory import shortage

_AT_ONCE = 1 << 24
"""Bytes of samples that are read at once."""


def load_data(source: DatasetSource, name: str, context: LoadContext) -> Data:
    """Load the data set ``name`` and check it; raise ``DataError`` if it is not valid or does not fit into memory."""
    try:
        data = source.load(context)
    except Exception as error:
        reason = shortage(error)
        if reason is None:
            raise
        raise DataError(f"the data set {name} does not fit into memory ({reason}): choose smaller options") from error
    return check_data(data, name)


def check_data(data: Data, source: str) -> Data:
    """Return ``data``; raise ``DataError`` with what is wrong and where."""
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
        for part_slice in slices_of(inputs, _AT_ONCE):
            finite = np.isfinite(inputs[part_slice])
            if not finite.all():
                bad = part_slice.start + int(np.flatnonzero(~finite.reshape(len(finite), -1).all(1))[0])
                raise DataError(f"{where}: sample {bad} holds NaN or infinity")


def content_digest(data: Data) -> str:
    """Return a SHA-256 over the samples and labels of both parts, to detect a different data set."""
    sha = hashlib.sha256()
    for part in (data.train, data.test):
        sha.update(repr((len(part), part.inputs.dtype.str, part.inputs.shape)).encode())
        sha.update(part.labels.tobytes())
        for part_slice in slices_of(part.inputs, _AT_ONCE):
            sha.update(np.ascontiguousarray(part.inputs[part_slice]).data)
    return sha.hexdigest()
