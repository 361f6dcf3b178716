"""The CIFAR data sets, read and fetched as tiny files of the real layout."""

from __future__ import annotations

import io
import pickle
import tarfile
from http.client import IncompleteRead
from pathlib import Path
from urllib.error import URLError

import numpy as np
import pytest
from helpers.cifar_files import FOLDERS, Response, publish

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


def pixel(sample: int, channel: int, row: int, column: int) -> int:
    return (sample * 7 + channel * 50 + row * 3 + column) % 256


def rows(samples: range) -> np.ndarray:
    """The published layout: a row per image, its red plane first, each plane row by row."""
    return np.array(
        [[pixel(s, c, y, x) for c in range(3) for y in range(32) for x in range(32)] for s in samples],
        np.uint8,
    )


def small_cifar10() -> dict[str, bytes]:
    files = {
        f"data_batch_{batch + 1}": {
            "data": rows(range(2 * batch, 2 * batch + 2)),
            "labels": [s % 10 for s in range(2 * batch, 2 * batch + 2)],
        }
        for batch in range(5)
    }
    files |= {"test_batch": {"data": rows(range(10, 13)), "labels": [9, 4, 0]}}
    files |= {"batches.meta": {"label_names": list(TEN)}}
    return {name: pickle.dumps(content, protocol=2) for name, content in files.items()}


def small_cifar100() -> dict[str, bytes]:
    coarse = {"coarse_labels": [0, 0, 0]}
    fine = [f"fine{i}" for i in range(100)]
    files = {
        "train": {"data": rows(range(3)), "fine_labels": [99, 5, 0], **coarse},
        "test": {"data": rows(range(3, 6)), "fine_labels": [1, 2, 98], **coarse},
        "meta": {"fine_label_names": fine, "coarse_label_names": ["c"] * 20},
    }
    return {name: pickle.dumps(content, protocol=2) for name, content in files.items()}


def write(folder: Path, files: dict[str, bytes]) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    for name, content in files.items():
        (folder / name).write_bytes(content)


@pytest.fixture
def ten(monkeypatch):
    files = small_cifar10()
    publish(monkeypatch, files)
    return files


def check_part(part, samples: range, labels: list[int]) -> None:
    assert part.inputs.dtype == np.uint8
    assert part.inputs.shape == (len(samples), 3, 32, 32)
    assert part.inputs.flags.c_contiguous
    assert part.inputs.flags.writeable
    for position, sample in enumerate(samples):
        for c, y, x in ((0, 0, 0), (1, 2, 30), (2, 31, 5)):
            assert part.inputs[position, c, y, x] == pixel(sample, c, y, x)
    assert part.labels.dtype == np.int64
    assert part.labels.tolist() == labels


def test_cifar10_from_a_path(tmp_path, context, reports, ten):
    write(tmp_path / "here" / "cifar-10-batches-py", ten)
    data = Cifar10(tmp_path / "here").load(context)
    check_part(data.train, range(10), list(range(10)))
    check_part(data.test, range(10, 13), [9, 4, 0])
    assert data.classes == TEN
    assert data.augment == "crop-flip"
    assert reports == []


def test_cifar100_has_fine_labels_and_is_in_the_cache(context, monkeypatch):
    files = small_cifar100()
    publish(monkeypatch, files, name="CIFAR100")
    write(context.cache / "torchvision" / "cifar-100-python", files)
    data = Cifar100().load(context)
    check_part(data.train, range(3), [99, 5, 0])
    check_part(data.test, range(3, 6), [1, 2, 98])
    assert data.classes == tuple(f"fine{i}" for i in range(100))
    assert data.augment == "crop-flip"


def test_the_home_folder_is_understood(tmp_path, context, monkeypatch, ten):
    monkeypatch.setenv("HOME", str(tmp_path))
    write(tmp_path / "here" / "cifar-10-batches-py", ten)
    assert len(Cifar10("~/here").load(context).train) == 10


@pytest.mark.parametrize(("source", "folder"), [(Cifar10, FOLDERS["CIFAR10"]), (Cifar100, FOLDERS["CIFAR100"])])
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


def test_files_with_the_wrong_checksum_are_not_read(tmp_path, context, ten):
    write(tmp_path / "cifar-10-batches-py", ten | {"data_batch_3": ten["data_batch_3"] + b"."})
    with pytest.raises(DataError, match=r"unharmed.*; data_batch_3 is missing or damaged"):
        Cifar10(tmp_path).load(context)


def archive(files: dict[str, bytes], folder: str = "cifar-10-batches-py") -> bytes:
    written = io.BytesIO()
    with tarfile.open(fileobj=written, mode="w:gz") as tar:
        for name, content in files.items():
            member = tarfile.TarInfo(f"{folder}/{name}")
            member.size = len(content)
            tar.addfile(member, io.BytesIO(content))
    return written.getvalue()


@pytest.fixture
def offered(monkeypatch, ten):
    """Makes bytes the archive on the net; whether they are the published one too, the digest says."""

    def offer(content: bytes, *, sent: bytes | None = None) -> list[str]:
        asked = []
        publish(monkeypatch, ten, content)

        def urlopen(url, timeout):
            asked.append(url)
            return Response(content if sent is None else sent)

        monkeypatch.setattr("urllib.request.urlopen", urlopen)
        return asked

    return offer


def test_download_is_done_where_asked_and_missing(context, reports, offered, ten):
    asked = offered(archive(ten))
    data = Cifar10(download=True).load(context)
    check_part(data.train, range(10), list(range(10)))
    assert asked == ["https://www.cs.toronto.edu/~kriz/cifar-10-python.tar.gz"]
    assert [(done, total) for _, done, total in reports] == [(0, 0)] * len(reports)
    folder = context.cache / "torchvision" / "cifar-10-batches-py"
    assert {path.name for path in folder.iterdir()} == set(ten)
    assert list(folder.parent.iterdir()) == [folder]  # the archive is not kept
    Cifar10(download=True).load(context)
    assert len(asked) == 1


def test_only_what_is_damaged_is_put_in_place_again(context, offered, ten):
    folder = context.cache / "torchvision" / "cifar-10-batches-py"
    write(folder, ten | {"test_batch": b"half"})
    before = (folder / "data_batch_1").stat().st_mtime_ns
    offered(archive(ten))
    check_part(Cifar10(download=True).load(context).test, range(10, 13), [9, 4, 0])
    assert (folder / "data_batch_1").stat().st_mtime_ns == before


@pytest.mark.parametrize(
    "change", [lambda good: good[:-20], lambda good: good + b"more", lambda good: b"\0" * len(good)]
)
def test_what_is_not_the_published_archive_is_not_opened(context, offered, ten, change, monkeypatch):
    good = archive(ten)
    offered(good, sent=change(good))
    monkeypatch.setattr(tarfile, "open", lambda *_, **__: pytest.fail("it was opened"))
    with pytest.raises(DataError, match="gave something else than the published archive"):
        Cifar10(download=True).load(context)
    assert list((context.cache / "torchvision").iterdir()) == []


@pytest.mark.parametrize(
    "error",
    [URLError("no route to host"), IncompleteRead(b"", 5), OSError(28, "No space left"), TimeoutError("timed\nout")],
)
def test_a_failed_download_is_one_line(context, monkeypatch, error):
    def fail(url, timeout):
        raise error

    monkeypatch.setattr("urllib.request.urlopen", fail)
    with pytest.raises(DataError) as caught:
        Cifar10(download=True).load(context)
    message = str(caught.value)
    assert "could not be downloaded" in message
    assert str(context.cache / "torchvision") in message
    assert " ".join(str(error).split()) in message
    assert "\n" not in message
