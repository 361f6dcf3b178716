"""Folders as users have them: turned, deep, transparent and bad images, files that are none, parts that are missing."""

from __future__ import annotations

import io
import json
import os
import random
import struct
import unicodedata
import zlib
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

import forgetkit
from forgetkit.builtin.datasets import _decode_pool, _formats, _listing
from forgetkit.builtin.datasets.folder import Folder
from forgetkit.builtin.datasets.restricted_imagenet import SUPERCLASSES, RestrictedImagenet
from forgetkit.contracts import LoadContext
from forgetkit.data.audit import audit_classes
from forgetkit.data.partition import MegaBatch
from forgetkit.errors import DataError

SIDE = 32
UPRIGHT = np.kron(np.random.default_rng(0).integers(0, 256, (4, 4, 3), dtype=np.uint8), np.ones((8, 8, 1), np.uint8))


def stored(orientation: int) -> np.ndarray:
    """The pixels of a file that are UPRIGHT once it is turned, by the wording of the EXIF standard."""
    row, column = {
        1: ("top", "left"),
        2: ("top", "right"),
        3: ("bottom", "right"),
        4: ("bottom", "left"),
        5: ("left", "top"),
        6: ("right", "top"),
        7: ("right", "bottom"),
        8: ("left", "bottom"),
    }[orientation]
    pixels = np.empty_like(UPRIGHT)
    for r in range(SIDE):
        for c in range(SIDE):
            at = {row: r, column: c}
            y = at["top"] if "top" in at else SIDE - 1 - at["bottom"]
            x = at["left"] if "left" in at else SIDE - 1 - at["right"]
            pixels[r, c] = UPRIGHT[y, x]
    return pixels


@pytest.fixture
def context(tmp_path):
    return LoadContext(tmp_path / "cache", lambda what, done, total: None)


@pytest.fixture
def root(tmp_path):
    """Two classes with two training images and a test image each."""
    for name in ("cat", "dog"):
        for part, number in (("train", 0), ("train", 1), ("test", 0)):
            save(tmp_path / "photos" / part / name / f"{number}.png")
    return tmp_path / "photos"


def save(path: Path, image: Image.Image | None = None, **options) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    (image or Image.fromarray(UPRIGHT)).save(path, **options)
    return path


def decoded(root: Path, context: LoadContext, file: Path, **options) -> np.ndarray:
    """The pixels of one of the training images, channels last."""
    files = sorted((root / "train").rglob("*.*"), key=lambda path: path.relative_to(root).parts)
    return Folder(root, **options).load(context).train.inputs[files.index(file)].transpose(1, 2, 0)


def refusal(component, context) -> str:
    with pytest.raises(DataError) as caught:
        component.load(context)
    assert "\n" not in str(caught.value)
    return str(caught.value)


def rows(data, part="train"):
    return data.provenance[part]["classes"]


# --- orientation ---

FORMATS = {
    "x.png": {},
    "x.webp": {"lossless": True},
    "x.tiff": {},
    "x.tif": {"compression": "tiff_lzw"},
    "x.jpg": {"quality": 95, "subsampling": 0},
    "x.mpo": {"quality": 95, "subsampling": 0, "save_all": True, "append_images": [Image.new("RGB", (9, 9))]},
    "x.avif": {"quality": 95, "subsampling": "4:4:4"},
}


@pytest.mark.parametrize("name", FORMATS)
def test_images_are_turned_upright(root, context, name):
    for orientation in range(1, 9):
        exif = Image.Exif()
        exif[0x0112] = orientation
        image = Image.fromarray(stored(orientation))
        save(root / "train" / "cat" / f"o{orientation}{name}", image, exif=exif, **FORMATS[name])
    data = Folder(root).load(context)
    errors = np.abs(data.train.inputs[2:10].transpose(0, 2, 3, 1).astype(int) - UPRIGHT).reshape(8, -1).mean(axis=1)
    assert (errors < 4).all(), errors  # a turned one is off by 60 at least
    assert data.provenance["notes"]["turned as EXIF orientation says"] == 7
    assert data.remarks == ()


def test_an_image_is_cropped_after_it_is_turned(root, context):
    wide = np.zeros((SIDE, 3 * SIDE, 3), np.uint8)
    wide[:, SIDE : 2 * SIDE] = stored(6)
    exif = Image.Exif()
    exif[0x0112] = 6
    file = save(root / "train" / "cat" / "wide.png", Image.fromarray(wide), exif=exif)
    assert (decoded(root, context, file) == UPRIGHT).all()


def test_orientation_in_xmp_alone(root, context):
    xmp = b"<x:xmpmeta><tiff:Orientation>6</tiff:Orientation></x:xmpmeta>"
    file = save(root / "train" / "cat" / "x.webp", Image.fromarray(stored(6)), lossless=True, xmp=xmp)
    assert (decoded(root, context, file) == UPRIGHT).all()


def test_a_broken_exif_block_fails_no_image(root, context):
    exif = Image.Exif()
    exif[0x010E] = "a description"
    good = io.BytesIO()
    Image.fromarray(UPRIGHT).save(good, "WEBP", lossless=True, exif=exif)
    block = exif.tobytes().removeprefix(b"Exif\0\0")
    start, draw = good.getvalue().index(block), random.Random(0)
    for number in range(60):
        content = bytearray(good.getvalue())
        for _ in range(draw.randint(1, 6)):
            content[draw.randrange(start, start + len(block))] = draw.randrange(256)
        (root / "train" / "cat" / f"broken{number:02}.webp").write_bytes(content)
    data = Folder(root).load(context)
    assert len(data.train) == 64
    broken = [image for image in data.train.inputs[2:62] if (image.transpose(1, 2, 0) != UPRIGHT).any()]
    assert len(broken) < 3  # a drawn byte may make an orientation
    (line,) = data.remarks
    assert "images with unreadable EXIF data or tags, taken as stored: train/cat/broken" in line


def test_heif_is_decoded_if_there_is_a_decoder(root, context):
    pillow_heif = pytest.importorskip("pillow_heif")
    file = root / "train" / "cat" / "x.heic"
    pillow_heif.from_pillow(Image.fromarray(UPRIGHT)).save(file, quality=95)
    assert np.abs(decoded(root, context, file).astype(int) - UPRIGHT).mean() < 8


# --- pixels of other kinds ---

DEEP = np.random.default_rng(1).integers(0, 65536, (SIDE, SIDE)).astype(np.uint16)


def tiff(pixels: bytes, bits: int, photometric: int = 1, kind: int = 1) -> bytes:
    """An uncompressed TIFF of one channel."""
    tags = [(256, SIDE), (257, SIDE), (258, bits), (259, 1), (262, photometric), (273, 0), (277, 1), (278, SIDE)]
    tags += [(279, len(pixels)), (339, kind)]
    start = 8 + 2 + 12 * len(tags) + 4
    held = b"".join(struct.pack("<HHII", tag, 4, 1, start if tag == 273 else value) for tag, value in tags)
    return b"II" + struct.pack("<HIH", 42, 8, len(tags)) + held + bytes(4) + pixels


def png(image: Image.Image, clear: tuple[int, ...] = ()) -> bytes:
    """A PNG in which one grey or colour is transparent."""
    held = io.BytesIO()
    image.save(held, "PNG")
    chunk = b"tRNS" + b"".join(struct.pack(">H", value) for value in clear)
    whole = struct.pack(">I", len(chunk) - 4) + chunk + struct.pack(">I", zlib.crc32(chunk))
    content = held.getvalue()
    return content[:33] + (whole if clear else b"") + content[33:]


TWELVE = DEEP >> 4
PACKED = np.packbits(np.unpackbits(TWELVE.astype(">u2").view(np.uint8).reshape(SIDE, SIDE, 2), axis=2)[:, :, 4:])
SIXTEEN_BITS = {
    "x.png": (png(Image.fromarray(DEEP)), DEEP / 65535),
    "x.tiff": (tiff(DEEP.astype("<u2").tobytes(), 16), DEEP / 65535),
    "inverted.tiff": (tiff(DEEP.astype("<u2").tobytes(), 16, photometric=0), 1 - DEEP / 65535),
    "x.tif": (tiff(PACKED.tobytes(), 12), TWELVE / 4095),
    "x.pgm": (b"P5 32 32 65535\n" + DEEP.astype(">u2").tobytes(), DEEP / 65535),
    "twelve.pgm": (b"P5 32 32 4095\n" + TWELVE.astype(">u2").tobytes(), TWELVE / 4095),
    "plain.pgm": (b"P2 32 32 4095\n" + " ".join(map(str, TWELVE.ravel())).encode(), TWELVE / 4095),
}


@pytest.mark.parametrize("grey", [True, False])
def test_sixteen_bits_are_scaled(root, context, grey):
    for name, (content, _) in SIXTEEN_BITS.items():
        (root / "train" / "cat" / name).write_bytes(content)
    data = Folder(root, grey=grey).load(context)
    order = sorted(["0.png", "1.png", *SIXTEEN_BITS])
    for name, (_, share) in SIXTEEN_BITS.items():
        for channel in data.train.inputs[order.index(name)]:
            np.testing.assert_array_equal(channel, np.rint(share * 255).astype(np.uint8), err_msg=name)
    assert data.provenance["notes"] == {"16 bits a pixel scaled to 8": len(SIXTEEN_BITS)}


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (tiff(DEEP.astype("<i2").tobytes(), 16, kind=2), "signed or 32-bit integers"),
        (tiff(DEEP.astype("<u4").tobytes(), 32), "signed or 32-bit integers"),
        (tiff(DEEP.astype("<f4").tobytes(), 32, kind=3), "floats"),
    ],
)
def test_pixels_without_a_range_are_refused(root, context, content, said):
    (root / "train" / "cat" / "x.tiff").write_bytes(content)
    assert f"its pixels are {said}" in refusal(Folder(root), context)


ALPHA = np.indices((SIDE, SIDE)).sum(axis=0).astype(np.uint8) * 4
GREY = UPRIGHT[..., 0]


def with_alpha() -> Image.Image:
    image = Image.fromarray(UPRIGHT)
    image.putalpha(Image.fromarray(ALPHA))
    return image


def grey_with_alpha() -> Image.Image:
    image = Image.fromarray(GREY)
    image.putalpha(Image.fromarray(ALPHA))
    return image


def palette(alpha: bytes | int) -> Image.Image:
    image = Image.fromarray((np.indices((SIDE, SIDE)).sum(axis=0) % 3).astype(np.uint8))
    image = image.convert("P")
    image.putpalette([10, 20, 30, 40, 50, 60, 200, 100, 0])
    image.info["transparency"] = alpha
    return image


def over(pixels: np.ndarray, alpha: np.ndarray, background: tuple[int, int, int]) -> np.ndarray:
    share = (alpha / 255.0)[..., None]
    return pixels * share + np.asarray(background) * (1 - share)


THREE = np.indices((SIDE, SIDE)).sum(axis=0) % 3
COLOURS = np.array([[10, 20, 30], [40, 50, 60], [200, 100, 0]])[THREE]
GREYS = np.repeat(GREY[..., None], 3, axis=2)
TRANSPARENT = {
    "rgba.png": (with_alpha(), {}, UPRIGHT, ALPHA),
    "rgba.webp": (with_alpha(), {"lossless": True, "exact": True}, UPRIGHT, ALPHA),
    "rgba.tiff": (with_alpha(), {}, UPRIGHT, ALPHA),
    "la.png": (grey_with_alpha(), {}, GREYS, ALPHA),
    "p.png": (palette(bytes([0, 128, 255])), {}, COLOURS, np.array([0, 128, 255])[THREE]),
    "p.gif": (palette(1), {}, COLOURS, np.array([255, 0, 255])[THREE]),
}


@pytest.mark.parametrize(
    ("background", "colour"), [("white", (255,) * 3), ("black", (0,) * 3), ("#0a80ff", (10, 128, 255))]
)
def test_transparency_shows_the_background(root, context, background, colour):
    for name, (image, options, _, _) in TRANSPARENT.items():
        save(root / "train" / "dog" / name, image, **options)
    data = Folder(root, background=background).load(context)
    order = sorted(["0.png", "1.png", *TRANSPARENT])
    for name, (_, _, pixels, alpha) in TRANSPARENT.items():
        got = data.train.inputs[2 + order.index(name)].transpose(1, 2, 0).astype(float)
        assert np.abs(got - over(pixels, alpha, colour)).max() <= 1, name
    assert data.provenance["notes"]["transparency composited on the background"] == len(TRANSPARENT)


def test_a_transparent_colour_shows_the_background(root, context):
    levels = {"grey.png": GREY, "deep.png": DEEP}
    for name, array in levels.items():
        clear = int(array[0, 0])
        (root / "train" / "cat" / name).write_bytes(png(Image.fromarray(array), (clear,)))
        got = decoded(root, context, root / "train" / "cat" / name, grey=True)[..., 0]
        assert (got[array == clear] == 255).all()
        assert got[array != clear].tolist() == np.rint(array / (257 if array is DEEP else 1))[array != clear].tolist()
    colour = tuple(int(channel) for channel in UPRIGHT[0, 0])
    (root / "train" / "cat" / "rgb.png").write_bytes(png(Image.fromarray(UPRIGHT), colour))
    got = decoded(root, context, root / "train" / "cat" / "rgb.png")
    assert (got[:8, :8] == 255).all()
    assert (got[:8, 8:] == UPRIGHT[:8, 8:]).all()


def test_the_background_is_part_of_what_is_cached(root, context):
    save(root / "train" / "cat" / "x.png", Image.new("RGBA", (SIDE, SIDE), (0, 0, 0, 0)))
    for background, value in (("white", 255), ("black", 0), ("white", 255)):
        assert decoded(root, context, root / "train" / "cat" / "x.png", background=background).max() == value


def test_of_several_frames_the_first_is_taken_and_that_is_said(root, context):
    first = Image.fromarray(UPRIGHT)
    moving = {"save_all": True, "append_images": [Image.new("RGB", (SIDE, SIDE))]}
    for name in ("a.tiff", "b.webp", "c.png"):
        save(root / "train" / "cat" / name, first, **moving, **({"lossless": True} if name == "b.webp" else {}))
    data = Folder(root).load(context)
    assert (data.train.inputs[:5].transpose(0, 2, 3, 1) == UPRIGHT).all()
    assert data.remarks == ("3 images with several frames, of which the first is taken: train/cat/a.tiff and others",)


# --- which files are taken ---


def test_sub_folders_belong_to_their_class(root, context, monkeypatch):
    monkeypatch.setattr(_formats, "_has_heif", lambda: False)
    for suffix in _formats._HEIF:
        monkeypatch.delitem(Image.EXTENSION, suffix, raising=False)
    cat = root / "train" / "cat"
    save(cat / "2019" / "summer" / "a.JPG")
    save(cat / "2020" / "b.JPEG")
    save(cat / "no-suffix", format="PNG")
    save(cat / "img.0001", format="JPEG")
    save(cat / "x.jpg.bak", format="JPEG")
    save(cat / ".hidden.jpg")
    for name in ("a.heic", "b.HEIC", "c.heif", "notes.txt", "film.mpg", "raw.nef", ".DS_Store", "Thumbs.db", "._0.png"):
        (cat / name).write_bytes(b"no image")
    (cat / "README").write_text("no image, and no suffix")
    for folder in ("__MACOSX", ".ipynb_checkpoints", "@eaDir"):
        save(cat / folder / "a.png")
        save(root / "train" / folder / "a.png")
        save(root / "test" / folder / "a.png")
    save(root / "train" / "stray.png")
    data = Folder(root).load(context)
    assert data.classes == ("cat", "dog")
    row = rows(data)["cat"]
    assert row["taken"] == 6 == Counter(data.train.labels.tolist())[0]
    assert row["passed_over"] == {
        ".heic (no decoder: pip install pillow-heif)": 2,
        ".heif (no decoder: pip install pillow-heif)": 1,
        ".bak (no image suffix)": 1,
        ".txt (no image suffix)": 1,
        ".mpg (no decoder)": 1,
        ".nef (no decoder)": 1,
        "hidden .jpg": 1,
        "without suffix (no image by its content)": 1,
        "files of the system": 6,
    }
    assert rows(data)["dog"] == {"taken": 2, "skipped": 0, "passed_over": {}}
    stray, line = data.remarks
    assert stray == "train: 1 image passed over, in no class's folder"
    (cat / "0.png").write_bytes(b"no image")
    assert any("train/cat: 5 images taken" in line for line in Folder(root, on_bad="skip").load(context).remarks)
    assert line.startswith("train/cat: 6 images taken, passed over: 2 .heic (no decoder: pip install pillow-heif), ")
    assert line.endswith(", 4 others")
    json.dumps(data.provenance)


def test_many_classes_with_files_passed_over_take_few_lines(root, context):
    for number in range(9):
        save(root / "train" / f"c{number}" / "a.png")
        (root / "train" / f"c{number}" / "a.txt").write_text("")
    data = Folder(root, on_bad="skip").load(context)
    assert len(data.remarks) == 6
    assert data.remarks[-1] == (
        "train: passed over in 4 more classes: 4 .txt (no image suffix); the manifest has all of them"
    )


def test_links_may_go_in_a_circle(root, context):
    cat = root / "train" / "cat"
    (cat / "deep" / "deeper").mkdir(parents=True)
    save(cat / "deep" / "a.png")
    (cat / "deep" / "deeper" / "up").symlink_to(cat)
    (cat / "again").symlink_to(cat / "deep")
    (cat / "one.png").symlink_to(cat / "0.png")
    outside = save(root.parent / "elsewhere" / "b.png").parent
    (cat / "linked").symlink_to(outside)
    data = Folder(root).load(context)
    assert rows(data)["cat"] == {"taken": 5, "skipped": 0, "passed_over": {"linked folder (read already)": 2}}


def test_names_of_classes_are_one_however_unicode_writes_them(root, context):
    composed, apart = (unicodedata.normalize(form, "é") for form in ("NFC", "NFD"))
    save(root / "train" / composed / "a.png")
    save(root / "test" / apart / "a.png")
    data = Folder(root).load(context)
    assert data.classes == ("cat", "dog", composed)
    assert data.test.labels.tolist() == [0, 1, 2]
    assert data.remarks == ()
    save(root / "train" / apart / "a.png")
    data = Folder(root).load(context)
    assert (data.classes, data.train.labels.tolist()) == (("cat", "dog", composed), [0, 0, 1, 1, 2, 2])
    assert data.remarks == ("train has 2 folders named 'é', composed in different ways (NFC, NFD): they are one class",)


# --- bad images ---


def spoil(root: Path, count: int) -> None:
    for number in range(count):
        (root / "train" / "cat" / f"bad{number:02}.jpg").write_bytes(b"" if number % 2 else b"no image")


@pytest.fixture
def workers(monkeypatch):
    """Two processes decode, however few images there are."""
    monkeypatch.setenv("OMP_NUM_THREADS", "2")
    monkeypatch.setattr(os, "sched_getaffinity", lambda process: {0, 1}, raising=False)
    monkeypatch.setattr(_decode_pool, "_BYTES_PER_WORKER", 1)


@pytest.fixture(params=["here", "workers"])
def anywhere(request):
    if request.param == "workers":
        request.getfixturevalue("workers")


@pytest.mark.slow
@pytest.mark.usefixtures("anywhere")
def test_all_bad_images_are_listed_at_once(root, context):
    spoil(root, 23)
    (root / "test" / "dog" / "gone.png").symlink_to("nowhere")
    message = refusal(Folder(root), context)
    assert message.startswith("24 images cannot be decoded: ")
    assert (
        f"{root}/train/cat/bad00.jpg (no image that Pillow knows); {root}/train/cat/bad01.jpg (the file is em"
        in message
    )
    assert "bad19.jpg" in message
    assert "bad20.jpg" not in message
    assert message.endswith("; and 4 more: replace or remove them, or leave them out with on-bad=skip")


@pytest.mark.slow
@pytest.mark.usefixtures("anywhere")
def test_bad_images_are_skipped_and_counted(root, context):
    clean = Folder(root).load(context)
    spoil(root, 5)
    (root / "test" / "dog" / "0.jpg").write_bytes(b"no image")
    for _ in range(2):  # decoded, and from the cache
        data = Folder(root, on_bad="skip").load(context)
        np.testing.assert_array_equal(data.train.inputs, clean.train.inputs)
        assert data.train.labels.tolist() == clean.train.labels.tolist()
        assert data.test.labels.tolist() == clean.test.labels.tolist()
        assert rows(data)["cat"] == {"taken": 2, "skipped": 5, "passed_over": {}}
        assert data.provenance["skipped"]["test/dog/0.jpg"] == "no image that Pillow knows"
        assert len(data.provenance["skipped"]) == 6
        (line,) = data.remarks
        assert line.startswith("on-bad=skip left out 6 of 12 images: train/cat/bad00.jpg (no image that Pillow knows)")
        assert line.endswith("; and 3 more")
    refusal(Folder(root), context)


def test_a_class_of_bad_images_alone_cannot_be_skipped(root, context):
    for path in (root / "train" / "dog").iterdir():
        path.write_bytes(b"no image")
    message = refusal(Folder(root, on_bad="skip"), context)
    assert f"no image of class 'dog' in {root / 'train'} can be decoded" in message


def test_no_image_is_skipped_for_want_of_memory(root, context, monkeypatch):
    def exhausted(self):
        raise MemoryError

    monkeypatch.setattr("PIL.PngImagePlugin.PngImageFile.load", exhausted)
    assert "the system failed and not the image" in refusal(Folder(root, on_bad="skip"), context)


def test_a_damaged_report_of_what_was_skipped_is_made_again(root, context):
    spoil(root, 1)
    expected = Folder(root, on_bad="skip").load(context)
    (report,) = context.cache.glob("folder/*/report.json")
    report.write_text(report.read_text().replace('"2"', '"0"'))
    data = Folder(root, on_bad="skip").load(context)
    assert data.provenance == expected.provenance
    assert data.train.labels.tolist() == expected.train.labels.tolist()


def test_restricted_imagenet_skips_too(tmp_path, context):
    for index in range(1000):
        (tmp_path / "train" / f"n{index:04}").mkdir(parents=True)
        if any(index in members for members in SUPERCLASSES.values()):
            save(tmp_path / "train" / f"n{index:04}" / "a.png")
            save(tmp_path / "val" / f"n{index:04}" / "a.png")
    (tmp_path / "train" / "n0010" / "bad.JPEG").write_bytes(b"no image")
    assert "on-bad=skip" in refusal(RestrictedImagenet(tmp_path), context)
    data = RestrictedImagenet(tmp_path, on_bad="skip").load(context)
    assert len(data.train) == 69
    assert data.provenance["train"]["classes"]["bird"]["skipped"] == 1


# --- parts ---


@pytest.fixture
def plain(tmp_path):
    """Classes of 30 and 11 images, and one of a single image, in no part; each image has a colour of its own."""
    for name, count in (("a", 30), ("b", 11), ("c", 1)):
        for number in range(count):
            save(tmp_path / "plain" / name / f"{number}.png", Image.new("RGB", (4, 4), (ord(name), number, 0)))
    return tmp_path / "plain"


def images_of(part) -> list[tuple[int, int]]:
    return [tuple(image[:2, 0, 0].tolist()) for image in part.inputs]


def test_a_share_of_each_class_is_the_test_part(plain, context):
    data = Folder(plain, size=4, test_fraction=0.1).load(context)
    assert Counter(data.test.labels.tolist()) == {0: 3, 1: 1}
    assert Counter(data.train.labels.tolist()) == {0: 27, 1: 10, 2: 1}
    assert not set(images_of(data.train)) & set(images_of(data.test))
    assert len({*images_of(data.train), *images_of(data.test)}) == 42
    assert data.remarks == ()
    assert data.provenance["test"]["folder"] == "0.1 of ., test-seed 0"
    again = Folder(plain, size=4, test_fraction=0.1).load(LoadContext(context.cache / "new", context.progress))
    assert images_of(again.test) == images_of(data.test)
    others = [images_of(Folder(plain, size=4, test_fraction=0.1, test_seed=seed).load(context).test) for seed in (1, 2)]
    assert len({tuple(images) for images in (images_of(data.test), *others)}) == 3


def test_every_image_is_as_likely_to_be_tested_on(plain, context):
    (plain / "b").rename(plain.parent / "b")
    counts = Counter()
    for seed in range(60):
        component = Folder(plain, size=4, test_fraction=0.2, test_seed=seed)
        listing = component._divided(whole(plain), plain)[1]
        counts.update(Path(file.path).name for file in listing.files)
    assert sum(counts.values()) == 60 * 6
    assert len(counts) == 30  # each of them once at least, 12 times on average
    assert max(counts.values()) < 30


def whole(plain):
    return _listing.listing(".", [(plain / name, label) for label, name in enumerate("ac")])


def test_most_of_the_test_part_stays_when_images_are_added(plain, context):
    before = set(images_of(Folder(plain, size=4, test_fraction=0.3).load(context).test))
    for number in range(30, 33):
        save(plain / "a" / f"{number}.png", Image.new("RGB", (4, 4), (ord("a"), number, 0)))
    after = set(images_of(Folder(plain, size=4, test_fraction=0.3).load(context).test))
    assert len(before - after) <= 3


def test_the_split_does_not_depend_on_a_train_folder(plain, context):
    one = Folder(plain, size=4, test_fraction=0.2).load(context)
    (plain.parent / "whole").mkdir()
    plain.rename(plain.parent / "whole" / "train")
    other = Folder(plain.parent / "whole", size=4, test_fraction=0.2).load(context)
    assert images_of(one.test) == images_of(other.test)


@pytest.mark.parametrize("name", ["val", "valid", "validation"])
def test_validation_images_are_the_test_part_if_there_is_none(root, context, name):
    (root / "test").rename(root / name)
    data = Folder(root).load(context)
    assert len(data.test) == 2
    assert data.provenance["test"]["folder"] == name
    assert data.remarks == (
        f"there is no 'test' folder, so '{name}' is the test part; validation samples are cut from 'train' "
        "(--val-fraction)",
    )


def test_validation_images_beside_a_test_part_are_ignored(root, context):
    save(root / "val" / "cat" / "a.png")
    data = Folder(root).load(context)
    assert len(data.test) == 2
    assert data.remarks == ("the folder 'val' is ignored: validation samples are cut from 'train' (--val-fraction)",)
    (root / "test").rename(root / "elsewhere")
    data = Folder(root, test_fraction=0.5).load(context)
    assert (len(data.train), len(data.test), len(data.remarks)) == (2, 2, 1)


def test_without_a_test_part_the_way_out_is_said(root, plain, context):
    (root / "test").rename(root.parent / "elsewhere")
    assert "test-fraction=0.1" in refusal(Folder(root), context)
    assert "test-fraction=0.1" in refusal(Folder(plain), context)


def test_a_share_beside_a_test_part_would_be_ignored(root, context):
    assert "test-fraction would be ignored" in refusal(Folder(root, test_fraction=0.1), context)


@pytest.mark.parametrize(("train", "test"), [("Train", "Test"), ("training", "testing"), ("TRAIN", "val")])
def test_parts_by_other_names_are_no_classes(root, context, train, test):
    (root / "train").rename(root / train)
    (root / "test").rename(root / test)
    message = refusal(Folder(root, test_fraction=0.1), context)
    assert f"but '{train}'" in message or f"but '{test}'" in message
    assert "call the parts train, test and val" in message


def test_a_class_without_test_images_is_said_once(root, context):
    (root / "test" / "dog" / "0.png").unlink()
    for gone in (False, True):
        data = Folder(root).load(context)
        assert data.test.labels.tolist() == [0]
        everything = [MegaBatch(1, np.arange(len(data.train)), np.arange(0))]
        said = [line for line in (*data.remarks, *audit_classes(data, everything)) if "dog" in line]
        assert said == ["'dog' has no test samples: the accuracy says nothing of it; add some"]
        if not gone:
            (root / "test" / "dog").rmdir()


def test_a_single_image_of_each_class_leaves_none_to_test_on(root, context):
    for name in ("cat", "dog"):
        (root / "train" / name / "1.png").unlink()
    message = refusal(Folder(root / "train", test_fraction=0.1), context)
    assert message == f"{root / 'train'} holds a single image of each class, so none is left to test on: add some"


@pytest.mark.parametrize("fraction", [None, 0.1])
def test_the_folder_around_a_data_set_is_refused_by_name(root, context, fraction):
    (root.parent / "zip").mkdir()
    root.rename(inner := root.parent / "zip" / "photos")
    (root.parent / "zip" / "__MACOSX").mkdir()
    message = refusal(Folder(inner.parent, test_fraction=fraction), context)
    assert message == f"{inner.parent} holds no folder 'train', but {inner} does: give that one as path"


def test_split_and_order_are_equal_for_all_unicode_forms(tmp_path, context):
    held = []
    for form in ("NFC", "NFD"):
        for number, name in enumerate(["é", "ez", "ü", "uz", "ñ", "nz", "à", "az"]):
            for folder in ("ö", "p"):
                path = (
                    tmp_path / form / unicodedata.normalize(form, folder) / unicodedata.normalize(form, f"{name}.png")
                )
                path.parent.mkdir(parents=True, exist_ok=True)
                Image.new("RGB", (4, 4), (number, 100 * (folder == "p"), 0)).save(path)
        data = Folder(tmp_path / form, size=4, test_fraction=0.4).load(context)
        held.append([images_of(data.train), images_of(data.test)])
    assert held[0] == held[1]


def test_16_bits_of_which_12_are_used_are_remarked_on(root, context):
    dark = np.arange(64, dtype=np.uint16).reshape(8, 8) * 65
    for name, pixels in (("0", dark), ("1", dark + 1)):
        Image.fromarray(pixels).save(root / "train" / "cat" / f"{name}.png")
    Image.fromarray(dark * 16).save(root / "train" / "dog" / "0.png")
    data = Folder(root).load(context)
    assert data.remarks == (
        "1 image with 16-bit greys of 4095 at most, which leaves 16 shades (scale them to 0..65535): "
        f"{Path('train/cat/0.png')}",
    )


def test_a_class_of_the_test_part_alone_is_refused(root, context):
    (root / "test" / "cats").mkdir()
    assert len(Folder(root).load(context).test) == 2
    save(root / "test" / "cats" / "a.png")
    message = refusal(Folder(root), context)
    assert "class 'cats' is in" in message
    assert "did you mean 'cat'?" in message


def test_a_test_part_without_images_is_refused(root, context):
    for path in (root / "test").rglob("*.png"):
        path.unlink()
    assert f"{root / 'test'} holds no image to test on" in refusal(Folder(root), context)


def test_a_run_warns_of_remarks_and_its_manifest_has_the_counts(root, tmp_path, monkeypatch, caplog):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("FORGETKIT_CACHE", str(tmp_path / "cache"))
    (root / "train" / "cat" / "a.txt").write_text("")
    small = {"model": "mlp:width=8", "method": "warm", "mega_batches": 1, "epochs": 1, "val_fraction": 0}
    result = forgetkit.run({"dataset": f"folder:{root},size=4", **small})
    manifest = json.loads((Path(result["directory"]) / "manifest.json").read_text())
    assert manifest["provenance"]["train"]["classes"]["cat"]["passed_over"] == {".txt (no image suffix)": 1}
    assert "folder: train/cat: 2 images taken, passed over: 1 .txt (no image suffix)" in caplog.messages
