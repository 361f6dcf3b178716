"""Arrays in an .npz archive."""

from __future__ import annotations

import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal
from zipfile import ZIP_DEFLATED, ZIP_STORED, ZipFile

import numpy as np
from numpy.typing import NDArray

from forgetkit.contracts import Augmentation, Data, LoadContext, Part
from forgetkit.errors import DataError
from forgetkit.system import memory, regular

_CONVENTIONS = {
    "Keras": ("x_train", "y_train", "x_test", "y_test"),
    "MedMNIST": ("train_images", "train_labels", "test_images", "test_labels"),
}
_GROWTH = {ZIP_STORED: 1, ZIP_DEFLATED: 1032}
"""Into how many bytes one can be unpacked at most, for what NumPy writes."""
_CHANNELS = {1, 3, 4}
"""How many channels tell an axis of channels from one of pixels."""

Floats = NDArray[np.float32]
Pixels = NDArray[np.uint8]


@dataclass(frozen=True)
class Npz:
    """Your own arrays in an .npz file: images or features, with their labels.

    The arrays are named as Keras names them (``x_train``, ``y_train``, ``x_test``, ``y_test``) or as
    MedMNIST does (``train_images``, ``train_labels``, ``test_images``, ``test_labels``); others are passed
    over. Nothing pickled is ever read.

    Inputs of three axes are grey images, of four images with channels: integers from 0 to 255 become
    ``uint8``, floats become ``float32`` and are otherwise taken as they are, so scale them into [0, 1].
    Inputs of two axes are features and become ``float32``. Labels are whole numbers of shape ``(n,)`` or
    ``(n, 1)``; the classes are 0 up to the largest label, and each must occur in the training part.

    ``path``: the file.
    ``layout``: where the channels of an image stand, last (nhwc) or first (nchw); auto takes the axis that is 1, 3 or 4
        long.
    ``augment``: what may be done to training images, if the run's own augment is auto.

    Source: the formats of Keras' data sets and of MedMNIST (Yang et al., 2023).
    """

    path: Path
    layout: Literal["auto", "nhwc", "nchw"] = "auto"
    augment: Augmentation = "none"

    def load(self, context: LoadContext) -> Data:
        """Both parts; ``DataError`` where the file or its arrays are not as described above."""
        path = Path(self.path).expanduser()
        names, arrays = _read(path)
        try:
            train_x, train_y, test_x, test_y = names
            if arrays[train_x].shape[1:] != arrays[test_x].shape[1:]:
                shapes = " and ".join(f"{name} {arrays[name].shape[1:]}" for name in (train_x, test_x))
                raise DataError(f"samples differ in shape: {shapes}")
            train = Part(self._inputs(train_x, arrays), _labels(train_y, arrays, train_x))
            test = Part(self._inputs(test_x, arrays), _labels(test_y, arrays, test_x))
            if train.inputs.dtype != test.inputs.dtype:
                raise DataError(f"{train_x} is {train.inputs.dtype} where {test_x} is {test.inputs.dtype}")
            classes = _classes(train_y, train.labels, test_y, test.labels)
        except DataError as error:
            raise DataError(f"{path}: {error}") from error
        return Data(train, test, classes, self.augment)

    def _inputs(self, name: str, arrays: dict[str, NDArray[Any]]) -> Floats | Pixels:
        array = arrays[name]
        if array.ndim not in (2, 3, 4):
            raise DataError(f"{name} has {array.ndim} axes: features need 2, images 3, or 4 with channels")
        if array.size == 0:
            raise DataError(f"{name} is empty: its shape is {array.shape}")
        if array.ndim == 2:
            return _floats(name, array)
        whole = array.dtype.kind in "iu"
        values: NDArray[Any] = _pixels(name, array) if whole else _floats(name, array, kinds="f")
        if array.ndim == 3:
            return values[:, np.newaxis]
        if self._layout(name, array.shape) == "nchw":
            return values
        return np.ascontiguousarray(values.transpose(0, 3, 1, 2))

    def _layout(self, name: str, shape: tuple[int, ...]) -> str:
        if self.layout != "auto":
            return self.layout
        first, last = shape[1] in _CHANNELS, shape[-1] in _CHANNELS
        if first == last:
            why = "both axis 1 and the last could be" if first else "neither axis 1 nor the last looks like"
            raise DataError(f"{name} is {shape}: {why} the channels; pass layout=nhwc or layout=nchw")
        return "nchw" if first else "nhwc"


def _read(path: Path) -> tuple[tuple[str, ...], dict[str, NDArray[Any]]]:
    """The names of the four arrays, inputs before labels and training before test, and the arrays."""
    try:
        file = regular.opened(path)
    except OSError as error:
        reason = error.strerror or error
        raise DataError(f"{path} cannot be opened ({reason}): give an .npz file that you may read") from error
    with file:  # opened here, since NumPy forgets to close what turns out to be no archive
        try:
            archive = np.load(file, allow_pickle=False)
        except Exception as error:  # whatever the bytes lead NumPy to
            raise DataError(f"{path} is no .npz file, or a damaged one: save it with numpy.savez") from error
        if not isinstance(archive, np.lib.npyio.NpzFile):
            raise DataError(f"{path} holds a single array, not an .npz archive: save it with numpy.savez")
        for names in _CONVENTIONS.values():
            if set(names) <= set(archive.files):
                for name in names:
                    _require_held(path, archive, name)
                _require_room(path, archive, names)
                return names, {name: _member(path, archive, name) for name in names}
    expected = " or ".join(f"{', '.join(names)} ({who})" for who, names in _CONVENTIONS.items())
    found = ", ".join(sorted(archive.files)) or "nothing"
    raise DataError(f"{path} holds {found}: it must hold {expected}")


def _member(path: Path, archive: Any, name: str) -> NDArray[Any]:
    try:
        array = archive[name]
    except Exception as error:  # damaged, pickled, larger than the memory
        raise _unreadable(path, name, error) from error
    if not isinstance(array, np.ndarray):  # a member that is no .npy file comes as bytes
        raise DataError(f"{path}: {name} is no array: save it anew with numpy.savez")
    return array


def _require_room(path: Path, archive: Any, names: tuple[str, ...]) -> None:
    """The arrays of an archive are held in memory, all of them."""
    left, members = memory.left(), archive.zip.infolist()
    wanted = sum(member.file_size for member in members if member.filename.removesuffix(".npy") in names)
    if left is not None and wanted > left:
        raise DataError(
            f"{path} holds {wanted:,} bytes where {left:,} of memory are left: give more memory, save fewer or smaller "
            "samples, or give images as a folder (--dataset folder), whose pixels stay on the disk"
        )


def _unreadable(path: Path, name: str, error: Exception) -> DataError:
    reason = " ".join(str(error).split())
    return DataError(f"{path}: {name} cannot be read ({reason}): save it anew with numpy.savez")


def _require_held(path: Path, archive: Any, name: str) -> None:
    """Memory is taken for as many numbers as a member's header says: its bytes must be able to hold them."""
    try:
        _refuse_claims(archive.zip, name)
    except Exception as error:  # a damaged header may raise anything
        raise _unreadable(path, name, error) from error


def _refuse_claims(archive: ZipFile, name: str) -> None:
    member = archive.getinfo(f"{name}.npy" if f"{name}.npy" in archive.namelist() else name)
    growth = _GROWTH.get(member.compress_type)
    if growth is None:
        raise ValueError("it is compressed in another way than NumPy does it")
    if member.file_size > growth * member.compress_size:
        raise ValueError(f"it claims to be {member.file_size:,} bytes, made of {member.compress_size:,}")
    with archive.open(member) as file:
        if file.read(1) != b"\x93":
            return  # no array, which is said below
        file.seek(0)
        headers = np.lib.format
        first = headers.read_magic(file) == (1, 0)
        shape, _, kind = (headers.read_array_header_1_0 if first else headers.read_array_header_2_0)(file)
        wanted, there = math.prod(shape) * kind.itemsize, member.file_size - file.tell()
    if wanted > there and not kind.hasobject:  # pickled objects are refused, whatever their length
        raise ValueError(f"its shape {shape} needs {wanted:,} bytes, and it has {there:,}")


def _pixels(name: str, array: NDArray[Any]) -> Pixels:
    if array.dtype == np.uint8:
        return array
    bad = (array < 0) | (array > 255)
    if bad.any():
        raise DataError(f"{_first(name, array, bad)} is no pixel value: integers must lie in 0..255")
    return array.astype(np.uint8)


def _floats(name: str, array: NDArray[Any], kinds: str = "biuf") -> Floats:
    if array.dtype.kind not in kinds:
        raise DataError(f"{name} is {array.dtype}: save it as uint8 in 0..255 or as float32")
    with np.errstate(over="ignore"):  # what overflows becomes infinite, and is found below
        values = array.astype(np.float32, copy=False)
    bad = ~np.isfinite(values)
    if bad.any():
        raise DataError(f"{_first(name, array, bad)} is not finite in float32: repair or remove it")
    return values


def _labels(name: str, arrays: dict[str, NDArray[Any]], inputs: str) -> NDArray[np.int64]:
    array, samples = arrays[name], len(arrays[inputs])
    if array.ndim == 2 and array.shape[1] == 1:
        array = array[:, 0]
    if array.ndim != 1:
        raise DataError(f"{name} is {array.shape}, not (n,) or (n, 1): give one class number per sample")
    if len(array) != samples:
        raise DataError(f"{name} has {len(array)} labels for the {samples} samples of {inputs}")
    if array.dtype.kind not in "biuf":
        raise DataError(f"{name} is {array.dtype}: save the class numbers as integers")
    values = array.astype(np.float64) if array.dtype.kind == "f" else array  # half floats end below the limit
    # No class number is larger than 32 bits hold; every comparison is false for NaN, so it is found here too.
    bad = ~((values >= 0) & (values <= np.iinfo(np.int32).max) & (values == np.floor(values)))
    if bad.any():
        raise DataError(f"{_first(name, array, bad)} is no class number: labels count from 0")
    return array.astype(np.int64)


def _classes(train_y: str, train: NDArray[np.int64], test_y: str, test: NDArray[np.int64]) -> tuple[str, ...]:
    """The names of the classes, once every one of them is known to occur in the training part."""
    seen = np.unique(train)
    gaps = np.flatnonzero(seen != np.arange(len(seen)))
    if len(gaps):
        raise DataError(f"{train_y} has no sample of class {gaps[0]} but goes up to {seen[-1]}: leave no gaps")
    unseen = test >= len(seen)
    if unseen.any():
        raise DataError(f"{_first(test_y, test, unseen)} is a class that {train_y} does not have")
    return tuple(str(label) for label in range(len(seen)))


def _first(name: str, array: NDArray[Any], where: NDArray[np.bool_]) -> str:
    """The first entry of ``array`` that ``where`` marks, as ``name[index] = value``."""
    index = np.unravel_index(int(np.argmax(where)), where.shape)
    return f"{name}[{', '.join(str(i) for i in index)}] = {array[index]}"
