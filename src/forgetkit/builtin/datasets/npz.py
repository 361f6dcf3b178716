"""Arrays in an .npz archive."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal
from zipfile import ZIP_DEFLATED, ZIP_STORED, ZipFile

import numpy as np
from numpy.typing import NDArray
from pydantic import Field

from forgetkit.builtin.datasets._labels import class_labels, first
from forgetkit.builtin.datasets._split import stratified_split
from forgetkit.contracts import Augmentation, Data, DataSplit, LoadContext
from forgetkit.errors import DataError
from forgetkit.system import memory, safe_open

_CONVENTIONS = {
    "Keras": ("x_train", "y_train", "x_test", "y_test"),
    "MedMNIST": ("train_images", "train_labels", "test_images", "test_labels"),
}
_VALIDATION = {"Keras": ("x_val", "y_val"), "MedMNIST": ("val_images", "val_labels")}
_GROWTH = {ZIP_STORED: 1, ZIP_DEFLATED: 1032}
"""The largest ratio of unpacked to packed bytes, for the compression methods that NumPy writes."""
_CHANNELS = {1, 3, 4}
"""Lengths by which an axis of channels is recognised."""

Floats = NDArray[np.float32]
Pixels = NDArray[np.uint8]


@dataclass(frozen=True)
class Npz:
    """Your own arrays in an .npz file: images or features, with their labels.

    The arrays have the names of Keras (``x_train``, ``y_train``, ``x_test``, ``y_test``) or of MedMNIST
    (``train_images``, ``train_labels``, ``test_images``, ``test_labels``); other arrays are ignored. Pickled
    arrays are refused.

    Inputs of three axes are grey images, of four images with channels: integers from 0 to 255 become
    ``uint8``, ``uint16`` beyond that becomes ``float32`` in [0, 1], floats become ``float32`` and are not scaled, so
    scale them into [0, 1]. Inputs of two axes are features and become ``float32``. Labels are whole
    numbers or names of shape ``(n,)`` or ``(n, 1)``, or one-hot rows; the classes are the sorted numbers or names of
    the training part, or the columns.

    Without test arrays, the validation arrays (``x_val``, ``val_images``) are the test part; without these,
    ``test_fraction`` of each class is.

    ``path``: the file.
    ``layout``: where the channels of an image stand, last (nhwc) or first (nchw); auto takes the axis that is 1, 3 or 4
        long.
    ``augment``: the augmentation of training images if the run's own augment is auto.
    ``test_fraction``: the fraction of each class for testing, if there is no test part.
    ``test_seed``: the seed of that choice, independent of the run's seed.

    Source: the formats of Keras' data sets and of MedMNIST (Yang et al., 2023).
    """

    path: Path
    layout: Literal["auto", "nhwc", "nchw"] = "auto"
    augment: Augmentation = "none"
    test_fraction: Annotated[float, Field(gt=0, lt=1)] | None = None
    test_seed: int = 0

    def load(self, context: LoadContext) -> Data:
        """Load both parts; raise ``DataError`` if the file or its arrays are not as described above."""
        path = Path(self.path).expanduser()
        archive = _read(path, divided=self.test_fraction is not None)
        try:
            return self._data(archive)
        except DataError as error:
            raise DataError(f"{path}: {error}") from error

    def _data(self, archive: _ArchiveArrays) -> Data:
        arrays, remarks = archive.arrays, list(archive.remarks)
        train_x, train_y, *rest = archive.names
        for x, y in zip(archive.names[::2], archive.names[1::2], strict=True):
            _require_as_many(y, arrays[y], x, arrays[x])
        parts = _rescale_16_bit([train_x, *rest[:1]], arrays)
        inputs = [self._inputs(name, parts) for name in parts]
        provenance: dict[str, Any] = {"file": {name: _shape_text(arrays[name]) for name in archive.names}}
        if rest:
            test_x, test_y = rest
            if arrays[train_x].shape[1:] != arrays[test_x].shape[1:]:
                shapes = " and ".join(f"{name} {arrays[name].shape[1:]}" for name in (train_x, test_x))
                raise DataError(f"samples differ in shape: {shapes}")
            if inputs[0].dtype != inputs[1].dtype:
                raise DataError(f"{train_x} is {inputs[0].dtype} where {test_x} is {inputs[1].dtype}")
            train_labels, test_labels, classes, how = class_labels(train_y, arrays[train_y], test_y, arrays[test_y])
            train, test = DataSplit(inputs[0], train_labels), DataSplit(inputs[1], test_labels)
        else:
            labels, _, classes, how = class_labels(train_y, arrays[train_y], train_y, arrays[train_y])
            fraction = self.test_fraction or 0.0
            train_ids, test_ids = stratified_split(labels, fraction, self.test_seed)
            train, test = (DataSplit(inputs[0][ids], labels[ids]) for ids in (train_ids, test_ids))
            remarks.append(
                f"there are no test arrays, so {len(test_ids):,} of {len(labels):,} samples are the test part "
                f"(test-fraction={fraction:g})"
            )
        provenance["labels"] = how
        if "gaps" in how:
            remarks.append(f"{train_y} holds {how}, and the network has {len(classes)} outputs")
        if arrays[train_x].ndim == 4:
            provenance["channels"] = "first" if self._layout(train_x, arrays[train_x].shape) == "nchw" else "last"
        if parts[train_x] is not arrays[train_x]:
            provenance["scale"] = "1/65535"
            remarks.append(f"{train_x} is uint16 beyond 255, so it was scaled by 1/65535 to float32")
        if archive.ignored:
            provenance["passed_over"] = list(archive.ignored)
        return Data(train, test, classes, self.augment, tuple(remarks), provenance)

    def _inputs(self, name: str, arrays: Mapping[str, NDArray[Any]]) -> Floats | Pixels:
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


@dataclass(frozen=True, eq=False)
class _ArchiveArrays:
    """The arrays of an archive. ``names`` alternates inputs and labels, training before test."""

    names: tuple[str, ...]
    arrays: dict[str, NDArray[Any]]
    remarks: tuple[str, ...]
    ignored: tuple[str, ...]


def _read(path: Path, *, divided: bool) -> _ArchiveArrays:
    """Read an archive; ``divided``: the test part is cut from the training part."""
    try:
        file = safe_open.open_file(path)
    except OSError as error:
        reason = error.strerror or error
        raise DataError(f"{path} cannot be opened ({reason}): give an .npz file that you may read") from error
    with file:  # opened here, since NumPy does not close a file that is no archive
        try:
            archive = np.load(file, allow_pickle=False)
        except Exception as error:  # arbitrary bytes may raise anything
            raise DataError(f"{path} is no .npz file, or a damaged one: save it with numpy.savez") from error
        if not isinstance(archive, np.lib.npyio.NpzFile):
            raise DataError(f"{path} holds a single array, not an .npz archive: save it with numpy.savez")
        present = [name for name in archive.files if not name.startswith("__MACOSX/")]  # macOS adds them
        names, remarks = _choose_arrays(path, present, divided=divided)
        for name in names:
            _require_complete(path, archive, name)
        _require_room(path, archive, names)
        others = tuple(sorted(set(archive.files) - set(names)))
        return _ArchiveArrays(names, {name: _member(path, archive, name) for name in names}, remarks, others)


def _choose_arrays(path: Path, present: Sequence[str], *, divided: bool) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """The names of the arrays to take, and remarks on that choice."""
    for library, names in _CONVENTIONS.items():
        if not set(names[:2]) <= set(present):
            continue
        validation = tuple(name for name in _VALIDATION[library] if name in present)
        left = f"{' and '.join(validation)} are ignored: validation samples are cut from training (--val-fraction)"
        if set(names) <= set(present):
            if divided:
                raise DataError(f"{path} holds {names[2]} and {names[3]}: leave test-fraction out, or take them out")
            return names, (left,) if validation else ()
        if set(names[2:]) & set(present):
            break
        if divided:
            return names[:2], (left,) if validation else ()
        if len(validation) == 2:
            remark = f"there are no {names[2]} and {names[3]}, so {validation[0]} and {validation[1]} are the test part"
            return (*names[:2], *validation), (f"{remark}; validation samples are cut from training (--val-fraction)",)
        raise DataError(
            f"{path} holds {names[0]} and {names[1]} but no test part: add {names[2]} and {names[3]}, or give "
            "test-fraction=0.1 to cut one out"
        )
    expected = " or ".join(f"{', '.join(names)} ({library})" for library, names in _CONVENTIONS.items())
    found = ", ".join(sorted(present)) or "nothing"
    raise DataError(f"{path} holds {found}: it must hold {expected}")


def _member(path: Path, archive: Any, name: str) -> NDArray[Any]:
    try:
        array = archive[name]
    except Exception as error:  # damaged, pickled, or larger than memory
        raise _unreadable(path, name, error) from error
    if not isinstance(array, np.ndarray):  # a member that is no .npy file comes as bytes
        raise DataError(f"{path}: {name} is no array: save it again with numpy.savez")
    return array


def _require_room(path: Path, archive: Any, names: tuple[str, ...]) -> None:
    """Raise ``DataError`` if the arrays do not fit in memory, where all of them are held."""
    left, members = memory.available(), archive.zip.infolist()
    wanted = sum(member.file_size for member in members if member.filename.removesuffix(".npy") in names)
    if left is not None and wanted > left:
        raise DataError(
            f"{path} holds {wanted:,} bytes and {left:,} of memory are free: give more memory, save fewer or smaller "
            "samples, or give images as a folder (--dataset folder), whose pixels stay on the disk"
        )


def _unreadable(path: Path, name: str, error: Exception) -> DataError:
    reason = " ".join(str(error).split())
    objects = "objects" in reason
    remedy = "save numbers, or labels as text (.astype(str))" if objects else "save it again with numpy.savez"
    return DataError(f"{path}: {name} cannot be read ({reason}): {remedy}")


def _require_complete(path: Path, archive: Any, name: str) -> None:
    """Raise ``DataError`` if a member is smaller than its header says: NumPy allocates what the header says."""
    try:
        _refuse_claims(archive.zip, name)
    except Exception as error:  # a damaged header may raise anything
        raise _unreadable(path, name, error) from error


def _refuse_claims(archive: ZipFile, name: str) -> None:
    member = archive.getinfo(f"{name}.npy" if f"{name}.npy" in archive.namelist() else name)
    growth = _GROWTH.get(member.compress_type)
    if growth is None:
        raise ValueError("NumPy does not write this compression")
    if member.file_size > growth * member.compress_size:
        raise ValueError(f"it claims to be {member.file_size:,} bytes, made of {member.compress_size:,}")
    with archive.open(member) as file:
        if file.read(1) != b"\x93":
            return  # no array; refused later
        file.seek(0)
        headers = np.lib.format
        first = headers.read_magic(file) == (1, 0)
        shape, _, kind = (headers.read_array_header_1_0 if first else headers.read_array_header_2_0)(file)
        wanted, available = math.prod(shape) * kind.itemsize, member.file_size - file.tell()
    if kind.hasobject:
        raise ValueError("it holds Python objects, which are never loaded")
    if wanted > available:
        raise ValueError(f"its shape {shape} needs {wanted:,} bytes, and it has {available:,}")


def _pixels(name: str, array: NDArray[Any]) -> Pixels:
    if array.dtype == np.uint8:
        return array
    bad = (array < 0) | (array > 255)
    if bad.any():
        raise DataError(
            f"{first(name, array, bad)} is no pixel value: integers must lie in 0..255, or be uint16 in both parts"
        )
    return array.astype(np.uint8)


def _floats(name: str, array: NDArray[Any], kinds: str = "biuf") -> Floats:
    if array.dtype.kind not in kinds:
        raise DataError(f"{name} is {array.dtype}: save it as uint8 in 0..255 or as float32")
    with np.errstate(over="ignore"):  # overflow becomes infinite and is refused below
        values = array.astype(np.float32, copy=False)
    bad = ~np.isfinite(values)
    if bad.any():
        raise DataError(f"{first(name, array, bad)} is not finite in float32: repair or remove it")
    return values


def _rescale_16_bit(names: Sequence[str], arrays: Mapping[str, NDArray[Any]]) -> dict[str, NDArray[Any]]:
    """The inputs, scaled to floats in [0, 1] if they are 16-bit images and a value exceeds 255."""
    chosen = {name: arrays[name] for name in names}
    images = all(
        array.ndim in (3, 4) and array.size and array.dtype.kind + str(array.itemsize) == "u2"
        for array in chosen.values()
    )
    if not images or max(int(array.max()) for array in chosen.values()) <= 255:
        return chosen
    return {name: array.astype(np.float32) / np.float32(65535) for name, array in chosen.items()}


def _require_as_many(y: str, labels: NDArray[Any], x: str, inputs: NDArray[Any]) -> None:
    if inputs.ndim and labels.ndim and len(labels) != len(inputs):
        raise DataError(f"{y} has {len(labels)} labels for the {len(inputs)} samples of {x}")


def _shape_text(array: NDArray[Any]) -> str:
    return f"{'text' if array.dtype.kind in 'US' else array.dtype} {array.shape}"
