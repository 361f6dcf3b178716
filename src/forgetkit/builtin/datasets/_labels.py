"""Turn saved labels into class numbers: numbers with or without gaps, names, one-hot rows."""

from __future__ import annotations

import unicodedata
from typing import Any

import numpy as np
from numpy.typing import NDArray

from forgetkit.errors import DataError

_LARGEST = np.iinfo(np.int32).max
"""The largest class number."""

Labels = NDArray[np.int64]


def class_labels(
    train_name: str, train: NDArray[Any], test_name: str, test: NDArray[Any]
) -> tuple[Labels, Labels, tuple[str, ...], str]:
    """Map the labels of both parts to ``0 .. classes - 1``.

    The classes are the sorted numbers or names of the training part, or the columns of one-hot rows.

    Args:
        train_name: name of the array of training labels.
        train: of shape ``(n,)``, ``(n, 1)`` or, one-hot, ``(n, classes)``.
        test_name: name of the array of test labels.
        test: likewise.

    Returns:
        Training and test labels, the names of the classes, and a description of the mapping.

    Raises:
        DataError: if an entry is no class, or the test part has a class that the training part lacks.
    """
    (train, columns), (test, others) = _read(train_name, train), _read(test_name, test)
    if (train.dtype.kind == "U") != (test.dtype.kind == "U"):
        raise DataError(f"{train_name} holds {_kind(train)} where {test_name} holds {_kind(test)}: save both alike")
    if columns is not None and others is not None and columns != others:
        raise DataError(f"{train_name} has {columns} columns where {test_name} has {others}: save both alike")
    classes = np.arange(columns) if columns is not None else np.unique(train)
    unseen = ~np.isin(test, classes)
    if unseen.any():
        raise DataError(f"{first(test_name, test, unseen)} is a class that {train_name} does not have")
    names = tuple(str(label) for label in classes)
    return np.searchsorted(classes, train), np.searchsorted(classes, test), names, _words(columns, classes)


def _words(columns: int | None, classes: NDArray[Any]) -> str:
    if columns is not None:
        return f"one-hot rows of {columns} columns"
    if classes.dtype.kind == "U":
        return "names"
    if np.array_equal(classes, np.arange(len(classes))):
        return "numbers from 0"
    gaps = "" if classes[-1] - classes[0] == len(classes) - 1 else ", with gaps"
    return f"numbers from {classes[0]} to {classes[-1]}{gaps}: each that occurs is a class"


def _read(name: str, array: NDArray[Any]) -> tuple[NDArray[Any], int | None]:
    """Class numbers as ``int64`` or class names as text, and the number of columns if they are one-hot."""
    if array.ndim == 2 and array.shape[1] == 1:
        array = array[:, 0]
    if array.ndim == 2 and array.shape[1] > 1 and array.dtype.kind in "biuf":
        return _one_hot(name, array), array.shape[1]
    if array.ndim != 1:
        raise DataError(
            f"{name} is {array.shape}, not (n,), (n, 1) or one-hot (n, classes): give one class number or name per "
            "sample"
        )
    if array.dtype.kind in "US":
        return _names(name, array), None
    if array.dtype.kind not in "biuf":
        raise DataError(f"{name} is {array.dtype}: save the classes as integers or as text")
    values = array.astype(np.float64) if array.dtype.kind == "f" else array  # half precision ends below the limit
    # Comparisons are false for NaN, so this refuses NaN too.
    bad = ~((values >= 0) & (values <= _LARGEST) & (values == np.floor(values)))
    if bad.any():
        raise DataError(
            f"{first(name, array, bad)} is no class number: labels count from 0; remove samples without a label"
        )
    return array.astype(np.int64), None


def _one_hot(name: str, array: NDArray[Any]) -> Labels:
    good = ((array == 0) | (array == 1)).all(axis=1) & ((array == 1).sum(axis=1) == 1)
    if not good.all():
        row = int(np.argmin(good))
        shown = " ".join(f"{value:g}" for value in array[row, :8].tolist()) + (" …" if array.shape[1] > 8 else "")
        raise DataError(
            f"{name}[{row}] = [{shown}] is not one-hot (a single 1, otherwise 0): give one class number or name per "
            "sample; soft labels and several classes at once are not supported"
        )
    return np.asarray(array.argmax(axis=1), dtype=np.int64)


def _names(name: str, array: NDArray[Any]) -> NDArray[np.str_]:
    """Text in Unicode's NFC form."""
    if array.dtype.kind == "S":
        try:
            array = np.char.decode(array, "utf-8")
        except UnicodeDecodeError as error:
            raise DataError(f"{name} holds bytes that are no UTF-8: save the classes as text or as integers") from error
    plain = [unicodedata.normalize("NFC", str(label)) for label in array]
    bad = np.array([not label.strip() for label in plain], dtype=bool)
    if bad.any():
        raise DataError(f"{name}[{int(np.argmax(bad))}] is an empty name: remove samples without a label")
    return np.array(plain, dtype=np.str_)


def _kind(array: NDArray[Any]) -> str:
    return "names" if array.dtype.kind == "U" else "numbers"


def first(name: str, array: NDArray[Any], where: NDArray[np.bool_]) -> str:
    """The first entry of ``array`` that ``where`` marks, as ``name[index] = value``."""
    index = np.unravel_index(int(np.argmax(where)), where.shape)
    return f"{name}[{', '.join(str(i) for i in index)}] = {array[index]}"
