"""Files with a program in place of data: none of it runs, and one line names the problem."""

from __future__ import annotations

import contextlib
import hashlib
import io
import json
import os
import pickle
import zipfile
from pathlib import Path

import numpy as np
import pytest
import torch
from helpers.cifar_files import file_names, publish
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from forgetkit.builtin.datasets import _cifar, _images
from forgetkit.builtin.datasets.cifar10 import Cifar10
from forgetkit.builtin.datasets.folder import Folder
from forgetkit.builtin.datasets.npz import Npz
from forgetkit.contracts import LoadContext
from forgetkit.errors import DataError, ForgetkitError
from forgetkit.storage import load_state, read_json


class Deed:
    """Unpickled, it makes a folder."""

    def __init__(self, mark: Path) -> None:
        self.mark = mark

    def __reduce__(self):
        return os.mkdir, (str(self.mark),)


@pytest.fixture
def mark(tmp_path):
    """What a deed leaves behind; that it would is seen first."""
    mark = tmp_path / "done"
    pickle.loads(pickle.dumps(Deed(mark)))
    assert mark.exists()
    mark.rmdir()
    yield mark
    assert not mark.exists()


@pytest.fixture
def context(tmp_path):
    return LoadContext(tmp_path / "cache", lambda *_: None)


def one_line(refused: Exception) -> str:
    assert isinstance(refused, ForgetkitError)
    assert "\n" not in str(refused)
    return str(refused)


# CIFAR's files


def cifar(folder: Path, batch: bytes, monkeypatch) -> None:
    """A copy of the data set in which one batch is ``batch``; its digest says that this is what was published."""
    small = {"data": np.zeros((2, 3072), np.uint8), "labels": [0, 1], "label_names": ["a", "b"]}
    files = dict.fromkeys(file_names(), pickle.dumps(small, protocol=2)) | {"data_batch_3": batch}
    (folder / "cifar-10-batches-py").mkdir(parents=True, exist_ok=True)
    for name, content in files.items():
        (folder / "cifar-10-batches-py" / name).write_bytes(content)
    publish(monkeypatch, files)


@pytest.mark.parametrize("protocol", [0, 2, 4])
def test_a_batch_of_cifar_that_is_a_program(tmp_path, context, mark, monkeypatch, protocol):
    batch = pickle.dumps({"data": Deed(mark), "labels": [0]}, protocol)
    cifar(tmp_path, batch, monkeypatch)
    with pytest.raises(
        DataError, match=r"data_batch_3 holds what no published file does \(it asks for \w+\.mkdir\)"
    ) as no:
        Cifar10(tmp_path).load(context)
    one_line(no.value)


def test_it_is_not_even_looked_at_where_its_digest_is_another(tmp_path, context, mark, monkeypatch):
    cifar(tmp_path, b"", monkeypatch)
    monkeypatch.setattr(_cifar, "_CifarUnpickler", lambda *_, **__: pytest.fail("read"))
    (tmp_path / "cifar-10-batches-py" / "data_batch_3").write_bytes(pickle.dumps(Deed(mark)))
    with pytest.raises(DataError, match="data_batch_3 is missing or damaged"):
        Cifar10(tmp_path).load(context)


def test_a_batch_that_is_replaced_after_the_check_is_not_read(tmp_path, context, mark, monkeypatch):
    small = {"data": np.zeros((2, 3072), np.uint8), "labels": [0, 1]}
    cifar(tmp_path, pickle.dumps(small, protocol=2), monkeypatch)
    read = _cifar._Cifar._read

    def replace_and_read(self, file, md5):
        (tmp_path / "cifar-10-batches-py" / "data_batch_3").write_bytes(pickle.dumps(Deed(mark)))
        return read(self, file, md5)

    monkeypatch.setattr(_cifar._Cifar, "_read", replace_and_read)
    with pytest.raises(DataError, match="data_batch_3 was changed while it was read: try again"):
        Cifar10(tmp_path).load(context)


def unpickled(content: bytes):
    return _cifar._CifarUnpickler(io.BytesIO(content), encoding="latin1").load()


@pytest.mark.parametrize(
    "content",
    [
        b"cnumpy.core.multiarray\nscalar\n.",
        b"Ppersistent\n.",
        b"i__main__\neval\n(tR.",
        b"\x80\x04\x8c\x08builtins\x8c\x04eval\x93.",
        b"\x80\x04\x8c\x05numpy\x8c\x0clib.npyio.os\x93.",  # a dotted name
        b"",
    ],
)
def test_what_the_reader_does_not_know_is_refused(content):
    with pytest.raises((pickle.UnpicklingError, EOFError)):
        unpickled(content)


def python_2(pixels: np.ndarray, labels: list[int], by_column: bool) -> bytes:
    """A batch as Python 2 and the NumPy of 2009 wrote it, opcode by opcode."""
    raw = pixels.tobytes("F" if by_column else "C")
    rows, columns = (b"M" + size.to_bytes(2, "little") for size in pixels.shape)
    made = b"cnumpy.core.multiarray\n_reconstruct\ncnumpy\nndarray\nK\x00\x85U\x01b\x87R"
    kind = b"cnumpy\ndtype\nU\x02u1K\x00K\x01\x87R(K\x03U\x01|NNNJ\xff\xff\xff\xffJ\xff\xff\xff\xffK\x00tb"
    held = b"T" + len(raw).to_bytes(4, "little") + raw
    array = made + b"(K\x01" + rows + columns + b"\x86" + kind + (b"\x88" if by_column else b"\x89") + held + b"tb"
    listed = b"](" + b"".join(b"K" + bytes([label]) for label in labels) + b"e"
    return b"\x80\x02}(U\x04data" + array + b"U\x06labels" + listed + b"U\x0bbatch_labelU\x0btraining ba" + b"u."


@pytest.mark.parametrize("by_column", [False, True])
def test_the_reader_reads_what_python_2_wrote(by_column):
    pixels = np.arange(2 * 300, dtype=np.uint16).astype(np.uint8).reshape(2, 300)
    found = unpickled(python_2(pixels, [3, 9], by_column))
    assert np.array_equal(found["data"], pixels)
    assert found["data"].dtype == np.uint8
    assert found["labels"] == [3, 9]


GOOD = python_2(np.zeros((1, 8), np.uint8), [1], by_column=False)


# NumPy itself stumbles as it frees an array whose state is damaged.
@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
@given(st.data())
def test_no_bytes_make_it_find_anything_else(data):
    """Change any bytes of a good file: the reader hands out NumPy's names alone."""
    found = []

    class Watched(_cifar._CifarUnpickler):
        def find_class(self, module, name):
            value = super().find_class(module, name)
            found.append((module, name))
            return value

    content = bytearray(GOOD)
    for _ in range(data.draw(st.integers(1, 4))):
        content[data.draw(st.integers(0, len(content) - 1))] = data.draw(st.integers(0, 255))
    with contextlib.suppress(Exception):  # the loader says so in a line, whatever it is
        Watched(io.BytesIO(content), encoding="latin1").load()
    arrays = {("numpy.core.multiarray", "_reconstruct"), ("numpy._core.multiarray", "_reconstruct")}
    assert {*found} <= arrays | {("numpy", "ndarray"), ("numpy", "dtype"), ("_codecs", "encode")}


# Checkpoints and models


def state_files(mark: Path) -> dict[str, bytes]:
    archive, old = io.BytesIO(), io.BytesIO()
    torch.save({"model": {"w": Deed(mark)}}, archive)
    torch.save({"model": {"w": Deed(mark)}}, old, _use_new_zipfile_serialization=False)
    return {"archive": archive.getvalue(), "old": old.getvalue(), "pickle": pickle.dumps({"model": Deed(mark)})}


@pytest.mark.parametrize("form", ["archive", "old", "pickle"])
def test_a_state_that_is_a_program(tmp_path, mark, form):
    """Its digest fits, for who changes a state can change its note too."""
    path = tmp_path / "resume-001-0001.pt"
    path.write_bytes(state_files(mark)[form])
    with pytest.raises(ForgetkitError, match="damaged or not one of forgetkit's") as no:
        load_state(path, hashlib.sha256(path.read_bytes()).hexdigest())
    one_line(no.value)


def test_json_is_read_as_json(tmp_path, mark):
    (tmp_path / "manifest.json").write_bytes(pickle.dumps(Deed(mark)))
    with pytest.raises(ForgetkitError, match="damaged") as no:
        read_json(tmp_path / "manifest.json")
    one_line(no.value)


# Arrays


def arrays(**changed) -> dict[str, np.ndarray]:
    inputs, labels = np.zeros((4, 5), np.float32), np.array([0, 1, 0, 1])
    return {"x_train": inputs, "y_train": labels, "x_test": inputs, "y_test": labels, **changed}


def test_an_npz_of_objects(tmp_path, context, mark):
    np.savez(tmp_path / "a.npz", **arrays(x_train=np.array([[Deed(mark)]] * 4, object)))
    with pytest.raises(
        DataError, match=r"x_train cannot be read \(it holds Python objects, which are never loaded"
    ) as no:
        Npz(tmp_path / "a.npz").load(context)
    one_line(no.value)


def member(shape, kind: str = "<f4", content: bytes = b"") -> bytes:
    """A .npy file that says what it likes."""
    file = io.BytesIO()
    np.lib.format.write_array_header_1_0(file, {"descr": kind, "fortran_order": False, "shape": shape})
    return file.getvalue() + content


@pytest.mark.parametrize("shape", [(10**12, 5), (10**30,), (2**31, 2**31)])
@pytest.mark.parametrize("compression", [zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED])
def test_an_npz_that_claims_more_than_it_holds_takes_no_memory(tmp_path, context, monkeypatch, shape, compression):
    np.savez(tmp_path / "a.npz", **{k: v for k, v in arrays().items() if k != "x_train"})
    with zipfile.ZipFile(tmp_path / "a.npz", "a", compression) as archive:
        archive.writestr("x_train.npy", member(shape, content=b"\0" * 4000))
    monkeypatch.setattr(np.lib.npyio.NpzFile, "__getitem__", lambda *_: pytest.fail("memory would be taken"))
    with pytest.raises(
        DataError, match=r"x_train cannot be read \(its shape .* needs [\d,]+ bytes, and it has 4,000\)"
    ) as no:
        Npz(tmp_path / "a.npz").load(context)
    one_line(no.value)


def test_a_directory_that_lies_about_a_member_is_not_believed(tmp_path, context, monkeypatch):
    """The member and the list of members agree on 4 TB, which so few bytes unfold to by no means."""
    np.savez(tmp_path / "a.npz", **{k: v for k, v in arrays().items() if k != "x_train"})
    shape = (10**12,)
    with zipfile.ZipFile(tmp_path / "a.npz", "a", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("x_train.npy", member(shape, content=b"\0" * 4000))
        archive.getinfo("x_train.npy").file_size = 4 * 10**12 + 128
    monkeypatch.setattr(np.lib.npyio.NpzFile, "__getitem__", lambda *_: pytest.fail("memory would be taken"))
    with pytest.raises(
        DataError, match=r"x_train cannot be read \(it claims to be 4,000,000,000,128 bytes, made of"
    ) as no:
        Npz(tmp_path / "a.npz").load(context)
    one_line(no.value)


def test_an_npz_packed_in_another_way_is_refused(tmp_path, context):
    np.savez(tmp_path / "a.npz", **{k: v for k, v in arrays().items() if k != "x_train"})
    with zipfile.ZipFile(tmp_path / "a.npz", "a", zipfile.ZIP_BZIP2) as archive:
        archive.writestr("x_train.npy", member((4, 5), content=b"\0" * 80))
    with pytest.raises(DataError, match="NumPy does not write this compression"):
        Npz(tmp_path / "a.npz").load(context)


# Images


def photos(root: Path) -> Path:
    for part in ("train", "test"):
        for label in ("a", "b"):
            (root / part / label).mkdir(parents=True)
            Image.new("L", (8, 8), 99).save(root / part / label / "1.png")
    return root


def test_a_cache_of_objects_is_decoded_again(tmp_path, context, mark):
    source = Folder(photos(tmp_path / "photos"), size=8)
    expected = np.array(source.load(context).train.inputs)
    files = {file.stem: file for file in context.cache.rglob("*.npy")}
    for file in files.values():
        np.save(file, np.array([Deed(mark)], object), allow_pickle=True)
    sums = {part: _images._checksum(file) for part, file in files.items()}
    (files["train"].parent / _images._CHECKSUMS).write_text(json.dumps(sums))
    assert np.array_equal(source.load(context).train.inputs, expected)


def test_an_image_that_is_a_program_is_not_run(tmp_path, context, monkeypatch):
    """PostScript under the name of a picture: Pillow knows it by its first bytes and would call Ghostscript."""
    from PIL import EpsImagePlugin

    monkeypatch.setattr(EpsImagePlugin, "Ghostscript", lambda *_, **__: pytest.fail("it was run"))
    root = photos(tmp_path / "photos")
    (root / "train" / "a" / "1.png").write_bytes(
        b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n%%EndComments\nquit\n"
    )
    with pytest.raises(DataError, match=r"1\.png cannot be decoded \(EPS is a program, which is not run\)") as no:
        Folder(root, size=8).load(context)
    one_line(no.value)
