"""The CIFAR data sets, read by torchvision from tiny files of the real layout."""

from __future__ import annotations

import pickle
import sys
import warnings
from pathlib import Path
from urllib.error import URLError

import numpy as np
import pytest
from torchvision import datasets as torchvision_datasets
from torchvision.datasets import cifar as torchvision_cifar

from forgetkit.builtin.datasets.cifar10 import Cifar10
from forgetkit.builtin.datasets.cifar100 import Cifar100
from forgetkit.contracts import LoadContext
from forgetkit.errors import DataError

TEN = tuple(f"class{i}" for i in range(10))


@pytest.fixture
def reports():
    return []


@pytest.fixture
def context(tmp_path, reports):
    return LoadContext(tmp_path / "cache", lambda what, done, total: reports.append((what, done, total)))


@pytest.fixture
def any_md5(monkeypatch):
    """The published files' checksums are all that keeps torchvision from reading smaller ones."""
    monkeypatch.setattr(torchvision_cifar, "check_integrity", lambda path, md5=None: Path(path).is_file())


def pixel(sample: int, channel: int, row: int, column: int) -> int:
    return (sample * 7 + channel * 50 + row * 3 + column) % 256


def rows(samples: range) -> np.ndarray:
    """The published layout: a row per image, its red plane first, each plane row by row."""
    return np.array(
        [[pixel(s, c, y, x) for c in range(3) for y in range(32) for x in range(32)] for s in samples],
        np.uint8,
    )


def dump(path: Path, content: dict) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(pickle.dumps(content, protocol=2))


def write_cifar10(root: Path, wrap=lambda array: array) -> None:
    folder = root / "cifar-10-batches-py"
    for batch in range(5):
        held = range(2 * batch, 2 * batch + 2)
        dump(folder / f"data_batch_{batch + 1}", {"data": wrap(rows(held)), "labels": [s % 10 for s in held]})
    dump(folder / "test_batch", {"data": wrap(rows(range(10, 13))), "labels": [9, 4, 0]})
    dump(folder / "batches.meta", {"label_names": list(TEN)})


def write_cifar100(root: Path) -> None:
    folder = root / "cifar-100-python"
    coarse = {"coarse_labels": [0, 0, 0]}
    dump(folder / "train", {"data": rows(range(3)), "fine_labels": [99, 5, 0], **coarse})
    dump(folder / "test", {"data": rows(range(3, 6)), "fine_labels": [1, 2, 98], **coarse})
    dump(
        folder / "meta",
        {"fine_label_names": [f"fine{i}" for i in range(100)], "coarse_label_names": ["c"] * 20},
    )


def check_part(part, samples: range, labels: list[int]) -> None:
    assert part.inputs.dtype == np.uint8
    assert part.inputs.shape == (len(samples), 3, 32, 32)
    assert part.inputs.flags.c_contiguous
    for position, sample in enumerate(samples):
        for c, y, x in ((0, 0, 0), (1, 2, 30), (2, 31, 5)):
            assert part.inputs[position, c, y, x] == pixel(sample, c, y, x)
    assert part.labels.dtype == np.int64
    assert part.labels.tolist() == labels


@pytest.mark.usefixtures("any_md5")
def test_cifar10_from_a_path(tmp_path, context, reports):
    write_cifar10(tmp_path / "here")
    data = Cifar10(tmp_path / "here").load(context)
    check_part(data.train, range(10), list(range(10)))
    check_part(data.test, range(10, 13), [9, 4, 0])
    assert data.classes == TEN
    assert data.augment == "crop-flip"
    assert reports == []


@pytest.mark.usefixtures("any_md5")
def test_cifar100_has_the_fine_labels_and_lives_in_the_cache_by_default(context):
    write_cifar100(context.cache / "torchvision")
    data = Cifar100().load(context)
    check_part(data.train, range(3), [99, 5, 0])
    check_part(data.test, range(3, 6), [1, 2, 98])
    assert data.classes == tuple(f"fine{i}" for i in range(100))
    assert data.augment == "crop-flip"


@pytest.mark.usefixtures("any_md5")
def test_the_home_folder_is_understood(tmp_path, context, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    write_cifar10(tmp_path / "here")
    assert len(Cifar10("~/here").load(context).train) == 10


class Old:
    """An array that warns when it is unpickled, as the published ones do under NumPy 2.4.0 to 2.4.4."""

    def __init__(self, array):
        self.array = array

    def __reduce__(self):
        return unpickle_with_warning, (self.array,)


def unpickle_with_warning(array):
    warnings.warn(
        "dtype(): align should be passed as Python or NumPy boolean but got `align=0`. Did you mean …",
        UserWarning,
        stacklevel=1,
    )
    return array


@pytest.mark.usefixtures("any_md5")
def test_numpys_warning_about_the_old_pickles_is_not_shown(tmp_path, context):
    write_cifar10(tmp_path, wrap=Old)
    with pytest.warns(UserWarning, match="align"):
        pickle.loads((tmp_path / "cifar-10-batches-py" / "test_batch").read_bytes())
    assert len(Cifar10(tmp_path).load(context).train) == 10  # warnings are errors here


@pytest.mark.parametrize(("source", "folder"), [(Cifar10, "cifar-10-batches-py"), (Cifar100, "cifar-100-python")])
def test_missing_files_say_where_and_what_to_do(tmp_path, context, source, folder):
    for component, place in (
        (source(), context.cache / "torchvision"),
        (source(tmp_path / "x"), tmp_path / "x"),
    ):
        with pytest.raises(DataError) as caught:
            component.load(context)
        message = str(caught.value)
        assert f"is not in {place} " in message
        assert folder in message
        assert "path=FOLDER" in message
        assert "download=true" in message
        assert "\n" not in message


def test_files_with_the_wrong_checksum_are_not_read(tmp_path, context):
    write_cifar10(tmp_path)
    with pytest.raises(DataError, match="unharmed"):
        Cifar10(tmp_path).load(context)


@pytest.mark.usefixtures("any_md5")
def test_download_is_done_where_asked(context, monkeypatch, reports):
    places = []

    def download(self):
        places.append(Path(self.root))
        write_cifar10(Path(self.root))

    monkeypatch.setattr(torchvision_datasets.CIFAR10, "download", download)
    data = Cifar10(download=True).load(context)
    assert len(data.train) == 10
    assert set(places) == {context.cache / "torchvision"}
    assert [done for _, done, _ in reports] == [0, 1]


@pytest.mark.parametrize(
    "error",
    [
        URLError("no route to host"),
        RuntimeError("File not found or\ncorrupted."),
        OSError(28, "No space left"),
    ],
)
def test_a_failed_download_is_one_line(context, monkeypatch, error):
    def fail(self):
        raise error

    monkeypatch.setattr(torchvision_datasets.CIFAR10, "download", fail)
    with pytest.raises(DataError) as caught:
        Cifar10(download=True).load(context)
    message = str(caught.value)
    assert "could not be downloaded" in message
    assert str(context.cache / "torchvision") in message
    assert " ".join(str(error).split()) in message
    assert "\n" not in message


def test_a_torchvision_that_cannot_be_imported(context, monkeypatch):
    monkeypatch.setitem(sys.modules, "torchvision", None)
    with pytest.raises(DataError, match=r"torchvision cannot be imported \(.*same index"):
        Cifar10().load(context)
