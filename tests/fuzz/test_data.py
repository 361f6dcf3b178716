"""Archives and image folders of any kind are data or refused in one line."""

from __future__ import annotations

import contextlib
import io
import os
import zipfile
from pathlib import Path

import numpy as np
import pytest
from helpers.fuzz_judging import command, examples, limited, one_line, refusal
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import array_shapes, arrays, scalar_dtypes
from PIL import Image

from forgetkit.builtin.datasets.folder import Folder
from forgetkit.builtin.datasets.npz import Npz
from forgetkit.contracts import LoadContext
from forgetkit.data import check_data

pytestmark = pytest.mark.slow

NAMES = ("x_train", "y_train", "x_test", "y_test")
SMALL = ["--model", "mlp:width=4", "--mega-batches", 2, "--epochs", 1, "--threads", 1, "--quiet", "--dry-run"]


def told(path: Path) -> str:
    """The message that refuses an archive, "" if it is valid data."""

    def load():
        data = Npz(path).load(LoadContext(path.parent, lambda what, done, total: None))
        check_data(data, "npz")
        with (
            path.open("rb") as file,
            np.load(file) as archive,
        ):  # an oracle that knows no layout: the same numbers, whatever their order
            scale = np.float32(65535 if data.provenance.get("scale") else 1)  # images of 16 bits
            for name, part in zip(("x_train", "x_test"), (data.train, data.test), strict=True):
                held = np.sort(archive[name].astype(np.float32) / scale, axis=None)
                assert np.array_equal(held, np.sort(part.inputs.astype(np.float32), axis=None))

    message = refusal(load)
    assert not message or str(path) in message or message.startswith("npz: ")
    return message


shapes = array_shapes(min_dims=0, max_dims=5, min_side=0, max_side=5)
named = st.sampled_from(["S3", "U3", "M8[s]", ">f8", ">i4", [("a", "i4"), ("b", "f4")]]).map(np.dtype)
objects = arrays(np.dtype("O"), shapes, elements=st.none() | st.text() | st.integers())
odd_arrays = arrays(scalar_dtypes() | named, shapes) | objects
fair_inputs = arrays(st.sampled_from(["u1", "<f4", ">f4", "<i8", ">i2", "?", "f2"]).map(np.dtype), shapes)
LABELS = st.sampled_from(["u1", "<i8", ">i4", "f8", "f2"]).map(np.dtype)
fair_kinds = st.sampled_from(["u1", "<i8", ">i4", "f8", "f2"]).map(np.dtype)
fair_labels = arrays(fair_kinds, array_shapes(max_dims=2, max_side=5))


@examples(30)
@given(
    members=st.fixed_dictionaries(
        {}, optional={name: odd_arrays | (fair_inputs if name[0] == "x" else fair_labels) for name in (*NAMES, "z")}
    ),
    fortran=st.booleans(),
    packed=st.booleans(),
)
def test_any_arrays_as_an_archive(tmp_path, members, fortran, packed):
    path = tmp_path / "odd.npz"
    held = {name: np.asfortranarray(array) if fortran else array for name, array in members.items()}
    (np.savez_compressed if packed else np.savez)(path, **held)
    with np.errstate(all="ignore"):
        told(path)


def archive(**changes):
    """The bytes of a good archive, with some members changed; a member that is bytes is written as it is."""
    rng = np.random.default_rng(0)
    members = {
        "x_train": rng.integers(0, 255, (12, 4, 4), dtype=np.uint8),
        "y_train": np.arange(12) % 3,
        "x_test": rng.integers(0, 255, (6, 4, 4), dtype=np.uint8),
        "y_test": np.arange(6) % 3,
        **changes,
    }
    content = io.BytesIO()
    with zipfile.ZipFile(content, "w") as file:
        for name, member in members.items():
            written = io.BytesIO()
            if member is not None and not isinstance(member, bytes):
                np.save(written, member)
            if member is not None:
                file.writestr(f"{name}.npy", member if isinstance(member, bytes) else written.getvalue())
    return content.getvalue()


def header(shape, kind="|u1"):
    """An array that claims a shape and has no numbers."""
    written = io.BytesIO()
    np.lib.format.write_array_header_1_0(written, {"descr": kind, "fortran_order": False, "shape": shape})
    return written.getvalue()


IMAGES = np.zeros((12, 4, 4))
PROGRAM = b"\x93NUMPY\x01\x00\x20\x00{'descr': print('x')}           \n"
ODD_ARCHIVES = {
    "good": (archive(), True),
    "float images": (archive(x_train=IMAGES, x_test=IMAGES[:6]), True),
    "big-endian": (archive(x_train=IMAGES.astype(">f4"), x_test=IMAGES[:6].astype(">f4")), True),
    "by columns": (archive(x_train=np.asfortranarray(IMAGES), x_test=IMAGES[:6]), True),
    "no samples": (archive(x_train=IMAGES[:0], y_train=np.arange(0)), False),
    "no pixels": (archive(x_train=IMAGES[:, :0], x_test=IMAGES[:6, :0]), False),
    "not a number": (archive(x_train=IMAGES * np.nan, x_test=IMAGES[:6]), False),
    "objects": (archive(x_train=np.array([{}, []], dtype=object)), False),
    "labels in words": (archive(y_train=np.array(["cat"] * 12)), False),
    "labels in time": (archive(y_train=np.arange(12).astype("M8[s]")), False),
    "complex labels": (archive(y_train=np.arange(12) * 1j), False),
    "labels below 0": (archive(y_train=np.arange(12) - 1), False),
    "a huge label": (archive(y_train=np.full(12, 2**63 - 1)), False),
    "records": (archive(x_train=np.zeros(12, dtype=[("a", "i4"), ("b", "f4")])), False),
    "one number": (archive(x_train=np.uint8(3)), False),
    "no labels": (archive(y_test=None), False),
    "claims 10¹² pixels": (archive(x_train=header((10**9, 32, 32))), False),
    "claims less than none": (archive(x_train=header((-1, 4, 4))), False),
    "claims too many axes": (archive(x_train=header((1,) * 70)), False),
    "a header that is a program": (archive(x_train=PROGRAM), False),
    "text": (archive(x_train=b"no array at all"), False),
    "a page of zeros": (bytes(4096), False),
    "nothing": (b"", False),
    "half of it": (archive()[:600], False),
}


@pytest.mark.parametrize(("content", "good"), ODD_ARCHIVES.values(), ids=ODD_ARCHIVES)
def test_an_odd_archive(workdir, content, good):
    (workdir / "odd.npz").write_bytes(content)
    with limited(30):
        assert bool(told(workdir / "odd.npz")) != good
    if not good:
        line = one_line(command(["run", "--dataset", "npz:path=odd.npz", *SMALL]))
        assert "odd.npz" in line


# --- folders of images ---

FORMS = ["PNG", "JPEG", "GIF", "BMP", "TIFF", "WEBP", "PPM"]

PIXELS = np.random.default_rng(1).integers(0, 255, (9, 7, 3), dtype=np.uint8)


def picture(form="PNG", mode="RGB", **options):
    """The bytes of an image."""
    content = io.BytesIO()
    image = Image.fromarray(PIXELS).convert(mode)
    if "size" in options:
        image = image.resize(options.pop("size"))
    image.save(content, form, **options)
    return content.getvalue()


def huge(sides):
    """A PNG that claims to be so large."""
    content = bytearray(picture())
    content[16:24] = sides[0].to_bytes(4, "big") + sides[1].to_bytes(4, "big")
    return bytes(content)


def sixteen_bits():
    content = io.BytesIO()
    Image.fromarray(PIXELS[..., 0].astype(np.uint16) * 257).save(content, "PNG")
    return content.getvalue()


def turned():
    exif = Image.Exif()
    exif[0x0112] = 6
    return picture("JPEG", exif=exif)


ODD_IMAGES = {
    "truncated.jpg": (picture("JPEG")[:300], False),
    "truncated.png": (picture()[:80], False),
    "jpeg.png": (picture("JPEG"), True),
    "none.png": (b"", False),
    "text.jpg": (b"a picture of a cat", False),
    "pixel.png": (picture(size=(1, 1)), True),
    "line.png": (picture(size=(1000, 1)), True),
    "sixteen.png": (sixteen_bits(), True),
    "palette.png": (picture(mode="P"), True),
    "bits.png": (picture(mode="1"), True),
    "alpha.png": (picture(mode="RGBA"), True),
    "cmyk.jpg": (picture("JPEG", "CMYK"), True),
    "moving.gif": (picture("GIF", "P", save_all=True, append_images=[Image.new("P", (7, 9))]), True),
    "turned.jpg": (turned(), True),
    "huge.png": (huge((2**31 - 1, 2**31 - 1)), False),
    "large.png": (huge((12_000, 9_000)), False),
    "large.tiff": (picture("TIFF")[:-40], False),
    "\x1b[2Jred\n.png": (b"", False),
    "\u202egnp.png": (b"x", False),
    "'quote\".png": (b"x", False),
    "🙂" * 60 + ".png": (b"x", False),
    os.fsdecode(b"\xff\xfe.png"): (b"x", False),
}


@pytest.fixture
def photos(workdir):
    """Two classes of two images each."""
    for part in ("train", "test"):
        for name in ("cat", "dog"):
            (workdir / "photos" / part / name).mkdir(parents=True)
            for number in range(6):
                (workdir / "photos" / part / name / f"{number}.png").write_bytes(picture())
    return workdir / "photos"


def loaded(folder):
    data = Folder(folder, size=4).load(LoadContext(folder.parent / "cache", lambda what, done, total: None))
    check_data(data, "folder")
    return data


@pytest.mark.parametrize("name", ODD_IMAGES, ids=ascii)
def test_an_odd_image(photos, name):
    content, good = ODD_IMAGES[name]
    file = photos / "train" / "cat" / name
    file.write_bytes(content)
    with limited(30):
        line = one_line(command(["run", "--dataset", "folder:path=photos,size=4", *SMALL]))
    if good:
        assert line == ""
        assert len(loaded(photos).train) == 13
    else:
        assert str(photos / "train" / "cat") in line


def a_pipe(file):
    os.mkfifo(file)


def no_end(file):
    file.symlink_to("/dev/zero")


def a_loop(file):
    file.symlink_to(file.name)


def nowhere(file):
    file.symlink_to("nowhere")


def a_folder(file):
    file.mkdir()


@pytest.mark.parametrize("put", [a_pipe, no_end, a_loop, nowhere, a_folder])
@pytest.mark.parametrize("where", ["train/cat/x.png", "train/x", "test/cat/x.png"])
def test_what_is_no_image_in_a_folder(photos, put, where):
    put(photos / where)
    with limited(30):
        line = one_line(command(["run", "--dataset", "folder:path=photos,size=4", *SMALL]))
    passed_over = put is a_folder if where.endswith(".png") else put in (a_pipe, no_end, nowhere)
    assert (line == "") == passed_over, line
    assert passed_over or str(photos) in line


@pytest.mark.parametrize("put", [a_pipe, no_end, a_loop, nowhere, a_folder])
@pytest.mark.parametrize(
    "words",
    [
        ["run", "--config", "it"],
        ["ablate", "it"],
        ["run", "--plugin", "it"],
        ["run", "--dataset", "npz:path=it"],
        ["run", "--dataset", "folder:path=it"],
        ["run", "--dataset", "restricted-imagenet:path=it"],
        ["run", "--dataset", "cifar10:path=it"],
        ["run", "--resume", "it"],
        ["report", "it"],
        ["table", "it"],
    ],
    ids=" ".join,
)
def test_no_special_file_is_read(workdir, put, words):
    put(workdir / "it")
    with limited(30):
        answer = command(words)
    assert answer.status == 2
    assert "it" in one_line(answer).split("forgetkit: ", 1)[1]


@examples(30)
@given(st.binary(max_size=40), st.integers(0, 200), st.sampled_from(FORMS))
def test_any_bytes_in_an_image(tmp_path, noise, start, form):
    folder = tmp_path / "some"
    content = bytearray(picture(form))
    content[start : start + len(noise)] = noise
    for part in ("train", "test"):
        (folder / part / "x").mkdir(parents=True, exist_ok=True)
        (folder / part / "x" / "it.png").write_bytes(picture())
    (folder / "train/x/other.png").write_bytes(content)
    with contextlib.suppress(FileNotFoundError):
        os.utime(folder / "train/x/other.png", ns=(0, hash(bytes(content)) % 2**60))
    message = refusal(lambda: loaded(folder))
    assert not message or "other.png" in message
