"""The npz data set: conventions, layouts, types, labels, and every refusal."""

from __future__ import annotations

import io
import os
import tempfile
import zipfile
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from forgetkit.builtin.datasets.npz import Npz
from forgetkit.contracts import LoadContext
from forgetkit.errors import DataError

CONTEXT = LoadContext(Path("nowhere"), lambda what, done, total: None)
LABELS = np.array([0, 1, 2, 0])


def images(*shape: int, dtype: type = np.uint8) -> np.ndarray:
    return (np.arange(np.prod(shape)) % 251).astype(dtype).reshape(shape)


@pytest.fixture
def save(tmp_path):
    def write(**replaced) -> Path:
        held = {
            "x_train": images(4, 5, 6, 3),
            "y_train": LABELS,
            "x_test": images(2, 5, 6, 3),
            "y_test": LABELS[:2],
        }
        held |= replaced
        np.savez(tmp_path / "data.npz", **{key: value for key, value in held.items() if value is not None})
        return tmp_path / "data.npz"

    return write


def refusal(path: Path, **options) -> str:
    with pytest.raises(DataError) as caught:
        Npz(path, **options).load(CONTEXT)
    message = str(caught.value)
    assert "\n" not in message
    assert str(path) in message
    return message


# --- what is read ---


def test_keras_convention(save):
    data = Npz(save()).load(CONTEXT)
    assert data.train.inputs.dtype == np.uint8
    assert data.train.inputs.flags.c_contiguous
    np.testing.assert_array_equal(data.train.inputs[1, 2], images(4, 5, 6, 3)[1, :, :, 2])
    assert data.test.inputs.shape == (2, 3, 5, 6)
    assert data.train.labels.dtype == np.int64
    assert data.train.labels.tolist() == [0, 1, 2, 0]
    assert data.test.labels.tolist() == [0, 1]
    assert data.classes == ("0", "1", "2")
    assert data.augment == "none"
    assert Npz(save(), augment="flip").load(CONTEXT).augment == "flip"


def test_medmnist_convention_with_its_column_of_labels(tmp_path):
    np.savez_compressed(
        tmp_path / "m.npz",
        train_images=images(4, 7, 7), train_labels=LABELS[:, None].astype(np.uint8),
        val_images=images(1, 7, 7), val_labels=np.array([[9]]),
        test_images=images(3, 7, 7), test_labels=LABELS[1:, None],
    )  # fmt: skip
    data = Npz(tmp_path / "m.npz").load(CONTEXT)
    np.testing.assert_array_equal(data.train.inputs, images(4, 7, 7)[:, None])
    assert data.test.labels.tolist() == [1, 2, 0]
    assert len(data.train) + len(data.test) == 7


@pytest.mark.slow
@given(
    canonical=st.tuples(
        st.integers(3, 5), st.sampled_from([1, 3, 4]), st.sampled_from([2, 5]), st.integers(5, 7)
    ).flatmap(
        lambda shape: st.one_of(
            arrays(np.uint8, shape),
            arrays(np.float32, shape, elements=st.floats(-5, 5, width=32)),
        )
    ),
    last=st.booleans(),
    said=st.booleans(),
)
def test_either_layout_comes_back_channels_first(canonical, last, said):
    """Saved in either layout, told or guessed, the images are the same."""
    saved = np.moveaxis(canonical, 1, -1) if last else canonical
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "x.npz"
        np.savez(path, x_train=saved, y_train=np.zeros(len(saved)), x_test=saved[:1], y_test=[0])
        data = Npz(path, layout=("nhwc" if last else "nchw") if said else "auto").load(CONTEXT)
    np.testing.assert_array_equal(data.train.inputs, canonical)
    np.testing.assert_array_equal(data.test.inputs, canonical[:1])
    assert data.train.inputs.dtype == canonical.dtype


def load(folder, **arrays):
    """A data set of features, whose test part is its training part unless it is said otherwise."""
    path = Path(folder) / "x.npz"
    y = arrays["y_train"]
    np.savez(path, **{"x_train": np.zeros((len(y), 2)), "x_test": np.zeros((len(y), 2)), "y_test": y, **arrays})
    return Npz(path).load(CONTEXT)


WORDS = ("zebra", "Ärger", "cat", "10", "9")


@given(
    labels=st.lists(st.integers(0, 4), min_size=1, max_size=30),
    kind=st.sampled_from(["i1", "u8", "f2", "f8", ">i4", "U", "S", "one-hot", "one-hot bool", "1..C", "column"]),
)
def test_labels_are_numbered_by_the_order_of_classes(labels, kind):
    """An oracle in few lines: what a sample is called stays the same, and names are sorted."""
    numbers = np.array(labels)
    saved = {
        "U": np.array(WORDS)[numbers],
        "S": np.char.encode(np.array(WORDS)[numbers], "utf-8"),
        "one-hot": np.eye(5)[numbers],
        "one-hot bool": np.eye(5, dtype=bool)[numbers],
        "1..C": numbers + 1,
        "column": numbers[:, None],
    }
    expected = [WORDS[label] if kind in "US" else str(label + (kind == "1..C")) for label in labels]
    with tempfile.TemporaryDirectory() as folder:
        data = load(folder, y_train=saved[kind] if kind in saved else numbers.astype(kind))
    assert [data.classes[label] for label in data.train.labels] == expected
    np.testing.assert_array_equal(data.test.labels, data.train.labels)
    if kind.startswith("one-hot"):
        assert data.classes == tuple("01234")
    else:
        assert list(data.classes) == sorted(set(expected), key=str if kind in "US" else int)


def test_gaps_are_remarked_on_and_names_of_one_spelling_are_one(tmp_path):
    data = load(tmp_path, y_train=np.array([3, 0, 7, 7]), y_test=np.array([0, 7]), x_test=np.zeros((2, 2)))
    assert data.classes == ("0", "3", "7")
    assert data.test.labels.tolist() == [0, 2]
    (remark,) = data.remarks
    assert "numbers from 0 to 7, with gaps" in remark
    assert not load(tmp_path, y_train=np.array([1, 2])).remarks
    composed = load(tmp_path, y_train=np.array(["caf\u00e9", "cafe\u0301", "tea"]))
    assert composed.classes == ("caf\u00e9", "tea")


# --- parts ---


def test_a_test_part_is_cut_from_training_class_by_class(save, tmp_path):
    labels = np.repeat(["a", "b", "c"], [50, 11, 1])
    x = np.arange(62.0)[:, None] * [1, 2]
    path = save(x_train=x, y_train=labels, x_test=None, y_test=None)
    said = refusal(path)
    assert "no test part" in said
    assert "test-fraction=0.1" in said
    data = Npz(path, test_fraction=0.1).load(CONTEXT)
    assert np.bincount(data.test.labels).tolist() == [5, 1]  # a class of one stays in training
    for part in (data.train, data.test):  # a sample keeps its label
        np.testing.assert_array_equal(labels[part.inputs[:, 0].astype(int)], np.array(data.classes)[part.labels])
    assert sorted([*data.train.inputs[:, 0], *data.test.inputs[:, 0]]) == list(range(62))
    assert "7 of 62" not in data.remarks[0]
    assert "6 of 62 samples are the test part" in data.remarks[0]
    again, other = (Npz(path, test_fraction=0.1, test_seed=seed).load(CONTEXT).test.inputs for seed in (0, 1))
    assert np.array_equal(again, data.test.inputs)
    assert not np.array_equal(other, again)
    assert "leave test-fraction out" in refusal(save(), test_fraction=0.1)


def test_validation_arrays_are_the_test_part_or_left_alone(save):
    val = {"x_val": images(2, 5, 6, 3), "y_val": LABELS[:2]}
    data = Npz(save(**val)).load(CONTEXT)
    assert "x_val and y_val are ignored" in data.remarks[0]
    data = Npz(save(**val, x_test=None, y_test=None)).load(CONTEXT)
    assert len(data.test) == 2
    assert "no x_test and y_test, so x_val and y_val are the test part" in data.remarks[0]


def test_what_a_mac_adds_to_an_archive_is_passed_over(save):
    path = save()
    with zipfile.ZipFile(path, "a") as archive:
        archive.writestr("__MACOSX/._x_train.npy", b"\0\5\x16\7")
    assert len(Npz(path).load(CONTEXT).train) == 4
    path = save(y_test=None)
    with zipfile.ZipFile(path, "a") as archive:
        archive.writestr("__MACOSX/._y_test.npy", b"\0\5\x16\7")
    assert "MACOSX" not in refusal(path)


@pytest.mark.parametrize("kind", ["u2", ">u2"])
def test_images_of_16_bits_are_scaled_and_not_cut(save, kind):
    x = np.array([0, 65535, 256, 7] * 9).astype(kind).reshape(4, 3, 3)
    data = Npz(save(x_train=x // 300, x_test=x[:2])).load(CONTEXT)  # one part decides for both
    np.testing.assert_allclose(data.test.inputs[0, 0, 0], [0, 1, 256 / 65535], rtol=1e-6)
    assert data.train.inputs.max() == np.float32(218 / 65535)
    assert "scaled by 1/65535" in data.remarks[0]
    said = refusal(save(x_train=x.astype("i4"), x_test=x[:2]))
    assert said.endswith("integers must lie in 0..255, or be uint16 in both parts")


@pytest.mark.parametrize(("layout", "shape"), [("nhwc", (4, 3, 5)), ("nchw", (3, 5, 4))])
def test_a_layout_that_could_be_either_has_to_be_told(save, layout, shape):
    """3×5 pixels of 4 channels and 5×4 pixels of 3 channels look alike."""
    path = save(x_train=images(4, 3, 5, 4), x_test=images(2, 3, 5, 4))
    message = refusal(path)
    assert "layout=nhwc or layout=nchw" in message
    assert "x_train" in message
    data = Npz(path, layout=layout).load(CONTEXT)
    assert data.train.inputs.shape == (4, *shape)


def test_channels_that_are_not_recognised_have_to_be_told(save):
    path = save(x_train=images(4, 8, 8, 7), x_test=images(2, 8, 8, 7))
    assert "layout=nhwc or layout=nchw" in refusal(path)
    assert Npz(path, layout="nhwc").load(CONTEXT).test.inputs.shape == (2, 7, 8, 8)


@pytest.mark.parametrize("dtype", [bool, np.uint8, np.int64, np.float16, np.float64])
def test_features_become_float32(save, dtype):
    x = (np.arange(20).reshape(4, 5) % 2).astype(dtype)
    data = Npz(save(x_train=x, x_test=x[:2])).load(CONTEXT)
    assert data.train.inputs.dtype == np.float32
    np.testing.assert_array_equal(data.train.inputs, x.astype(np.float32))


@pytest.mark.parametrize("dtype", [np.int16, np.uint16, np.int64, ">i4"])
def test_other_integers_in_0_to_255_become_uint8(save, dtype):
    x = np.array([0, 255, 7, 128] * 9).astype(dtype).reshape(4, 3, 3)
    data = Npz(save(x_train=x, x_test=x[:2])).load(CONTEXT)
    assert data.train.inputs.dtype == np.uint8
    assert data.train.inputs[0, 0, 0].tolist() == [0, 255, 7]


@pytest.mark.parametrize("dtype", [np.float16, np.float64, ">f4"])
def test_float_images_become_native_float32(save, dtype):
    x = (np.arange(36) / 32).astype(dtype).reshape(4, 3, 3)
    data = Npz(save(x_train=x, x_test=x[:2])).load(CONTEXT)
    assert data.train.inputs.dtype == np.dtype("=f4")
    assert data.train.inputs[0, 0, 0].tolist() == [0, 1 / 32, 2 / 32]


def test_a_class_may_be_missing_from_the_test_part(save):
    assert Npz(save(y_test=np.array([2, 2]))).load(CONTEXT).classes == ("0", "1", "2")


def test_labels_may_be_bool(save):
    data = Npz(save(y_train=np.array([True, False, True, True]), y_test=np.array([False, True]))).load(CONTEXT)
    assert data.train.labels.tolist() == [1, 0, 1, 1]


def test_the_home_folder_and_a_plain_string_are_understood(save, monkeypatch):
    monkeypatch.setenv("HOME", str(save().parent))
    assert len(Npz("~/data.npz").load(CONTEXT).train) == 4


# --- what is refused ---


def bad_at(value, index, shape=(4, 5, 6, 3), dtype=float):
    array = np.zeros(shape, dtype)
    array[index] = value
    return array


@pytest.mark.parametrize(
    ("replaced", "parts"),
    [
        ({"y_train": None}, ["x_test, x_train, y_test", "x_train, y_train, x_test, y_test", "train_images"]),
        ({"y_train": LABELS[:3]}, ["y_train has 3 labels", "4 samples of x_train"]),
        ({"y_test": LABELS}, ["y_test has 4 labels", "2 samples of x_test"]),
        ({"x_test": images(2, 6, 5, 3)}, ["differ in shape", "x_train (5, 6, 3)", "x_test (6, 5, 3)"]),
        ({"x_test": images(2, 5, 6)}, ["differ in shape", "x_test (5, 6)"]),
        ({"x_test": images(2, 5, 6, 3) / 255}, ["x_train is uint8", "x_test is float32"]),
        ({"x_test": images(0, 5, 6, 3), "y_test": LABELS[:0]}, ["x_test is empty"]),
        ({"x_train": images(0, 5, 6, 3), "y_train": LABELS[:0]}, ["x_train is empty"]),
        ({"x_train": images(4, 0, 6, 3), "x_test": images(2, 0, 6, 3)}, ["x_train is empty"]),
        ({"x_train": images(4), "x_test": images(2)}, ["x_train has 1 axes"]),
        ({"x_train": np.float32(1), "x_test": np.float32(1)}, ["x_train has 0 axes"]),
        ({"x_train": images(4, 2, 5, 6, 3), "x_test": images(2, 2, 5, 6, 3)}, ["x_train has 5 axes"]),
        ({"x_train": images(4, 5, 6, 3, dtype=bool)}, ["x_train is bool"]),
        ({"x_train": images(4, 5, 6, 3, dtype=complex)}, ["x_train is complex128"]),
        ({"x_train": np.array([["a"] * 3] * 4), "x_test": np.array([["a"] * 3] * 2)}, ["x_train is <U1"]),
        ({"x_train": bad_at(256, (2, 1, 0, 2), dtype=int)}, ["x_train[2, 1, 0, 2] = 256", "0..255"]),
        ({"x_train": bad_at(-1, (3, 4, 5, 1), dtype=np.int8)}, ["x_train[3, 4, 5, 1] = -1", "0..255"]),
        ({"x_test": bad_at(np.nan, (1, 2, 3, 0), (2, 5, 6, 3))}, ["x_test[1, 2, 3, 0] = nan"]),
        ({"x_train": bad_at(-np.inf, (0, 4, 0, 1))}, ["x_train[0, 4, 0, 1] = -inf"]),
        ({"x_train": bad_at(1e39, (1, 0, 0, 0))}, ["x_train[1, 0, 0, 0] = 1e+39", "not finite in float32"]),
        ({"x_train": bad_at(np.nan, (2, 1), (4, 3)), "x_test": np.zeros((2, 3))}, ["x_train[2, 1] = nan"]),
        ({"y_train": np.zeros((4, 3, 2))}, ["y_train is (4, 3, 2)", "(n,), (n, 1) or one-hot"]),
        ({"y_train": np.eye(4) * 0.9}, ["y_train[0] = [0.9 0 0 0] is not one-hot", "soft labels"]),
        ({"y_train": np.array([[1, 0], [0, 1], [1, 1], [0, 0]])}, ["y_train[2] = [1 1] is not one-hot"]),
        ({"y_train": np.eye(4)[:, :3]}, ["y_train[3] = [0 0 0] is not one-hot"]),
        ({"y_train": np.eye(4), "y_test": np.eye(3)[:2]}, ["y_train has 4 columns where y_test has 3"]),
        ({"y_train": np.array(list("abca"))}, ["y_train holds names where y_test holds numbers"]),
        ({"y_train": np.array(list("abca")), "y_test": np.array(["a", "B"])}, ["y_test[1] = B", "y_train does not"]),
        ({"y_train": np.array(["a", " ", "b", "a"])}, ["y_train[1] is an empty name"]),
        ({"y_train": np.array([b"a", b"\xff", b"b", b"a"])}, ["y_train holds bytes that are no UTF-8"]),
        ({"y_train": np.arange(4).astype("M8[s]")}, ["y_train is datetime64[s]", "integers or as text"]),
        ({"y_train": np.array([0, 1, -1, -2])}, ["y_train[2] = -1", "count from 0"]),
        ({"y_train": np.array([0, 1.5, 2, 0])}, ["y_train[1] = 1.5"]),
        ({"y_train": np.array([0, 1, 2, np.nan])}, ["y_train[3] = nan"]),
        ({"y_train": np.array([0, np.inf, 1, 1], np.float16)}, ["y_train[1] = inf"]),
        ({"y_train": np.array([0, 1, 2, 2**63], np.uint64)}, ["y_train[3] = 9223372036854775808"]),
        ({"y_train": np.array([0, 1, 2**31, 1])}, ["y_train[2] = 2147483648"]),
        ({"y_test": np.array([0, 3])}, ["y_test[1] = 3", "y_train does not have"]),
        ({"y_test": np.array([[0], [-7]])}, ["y_test[1] = -7"]),
        ({"y_train": np.array([0, 1, 2, None], object)}, ["y_train cannot be read", "Python objects", "astype(str)"]),
    ],
)  # fmt: skip
def test_bad_arrays_are_refused_by_name(save, replaced, parts):
    message = refusal(save(**replaced))
    for part in parts:
        assert part in message


def test_an_archive_of_nothing(tmp_path):
    np.savez(tmp_path / "x.npz")
    assert "holds nothing" in refusal(tmp_path / "x.npz")


def test_a_missing_file_and_a_folder(tmp_path):
    assert "cannot be opened (No such file" in refusal(tmp_path / "x.npz")
    assert "cannot be opened (Is a directory" in refusal(tmp_path)


@pytest.mark.parametrize("content", [b"", b"hello, world", b"PK\x03\x04 and then nothing", b"\x80\x04K\x01."])
def test_a_file_that_is_no_archive(tmp_path, content):
    (tmp_path / "x.npz").write_bytes(content)
    assert "is no .npz file" in refusal(tmp_path / "x.npz")


def test_a_single_array(tmp_path):
    np.save(tmp_path / "x.npy", LABELS)
    assert "a single array" in refusal(tmp_path / "x.npy")


def test_a_truncated_archive(save):
    path = save()
    path.write_bytes(path.read_bytes()[:-30])
    assert "damaged" in refusal(path)


def test_a_flipped_byte(save):
    path = save()
    content = bytearray(path.read_bytes())
    start = content.index(images(4, 5, 6, 3).tobytes())
    content[start + 10] ^= 0xFF
    path.write_bytes(content)
    assert "x_train cannot be read (Bad CRC-32" in refusal(path)


def test_a_member_that_is_no_array(save):
    path = save(y_test=None)
    with zipfile.ZipFile(path, "a") as archive:
        archive.writestr("y_test", b"0, 1")
    assert "y_test is no array" in refusal(path)


def test_a_member_that_claims_to_be_larger_than_any_memory(save):
    buffer = io.BytesIO()
    np.lib.format.write_array_header_1_0(buffer, {"descr": "<i8", "fortran_order": False, "shape": (2**50,)})
    path = save(y_test=None)
    with zipfile.ZipFile(path, "a") as archive:
        archive.writestr("y_test.npy", buffer.getvalue())
    assert "y_test cannot be read" in refusal(path)


def test_a_file_that_this_user_may_not_read(save, monkeypatch):
    def refuse(*args, **kwargs):
        raise PermissionError(13, "Permission denied")

    path = save()
    monkeypatch.setattr(os, "open", refuse)
    assert "cannot be opened (Permission denied)" in refusal(path)
