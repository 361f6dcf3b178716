"""The data sets that read image files: what they decode, what they cache, what they refuse."""

from __future__ import annotations

import io
import itertools
import os
import subprocess
import sys
import threading
import warnings
from pathlib import Path

import numpy as np
import pytest
from PIL import Image, ImageFile

from forgetkit.builtin.datasets import _decode_pool, _decoding, _images
from forgetkit.builtin.datasets.folder import Folder
from forgetkit.builtin.datasets.restricted_imagenet import RestrictedImagenet
from forgetkit.contracts import LoadContext
from forgetkit.errors import DataError

COLOURS = {"blue": (10, 20, 250), "green": (0, 200, 7), "red": (255, 1, 2)}
CIFAR = Path(__file__).resolve().parents[4] / "shared" / "data" / "cifar10-jpeg.npz"


@pytest.fixture
def reports():
    return []


@pytest.fixture
def context(tmp_path, reports):
    return LoadContext(tmp_path / "cache", lambda what, done, total: reports.append((what, done, total)))


def save(path: Path, colour: tuple[int, ...] = (1, 2, 3), size: tuple[int, int] = (8, 8)) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", size, colour).save(path)
    return path


@pytest.fixture
def root(tmp_path):
    """Three classes of one colour each; two images of every class for training, one for testing."""
    for name, colour in COLOURS.items():
        save(tmp_path / "photos" / "train" / name / "a.png", colour, (11, 7))
        save(tmp_path / "photos" / "train" / name / "b.png", colour, (5, 90))
        save(tmp_path / "photos" / "test" / name / "c.png", colour, (1, 1))
    return tmp_path / "photos"


@pytest.fixture
def no_decoding(monkeypatch):
    """Call it, and from then on every decoding fails."""

    def forbid():
        def fail(path, target):
            raise AssertionError(f"{path} is decoded again")

        monkeypatch.setattr(_decoding, "decode", fail)

    return forbid


@pytest.fixture
def workers(monkeypatch):
    """Two processes decode from now on, however few images there are; those that were started."""
    started = []

    class Watched(_decode_pool._DecodeWorker):
        def __init__(self):
            super().__init__()
            started.append(self._process)

    monkeypatch.setenv("OMP_NUM_THREADS", "2")
    monkeypatch.setattr(os, "sched_getaffinity", lambda process: {0, 1}, raising=False)
    monkeypatch.setattr(_decode_pool, "_BYTES_PER_WORKER", 1)
    monkeypatch.setattr(_decode_pool, "_DecodeWorker", Watched)
    return started


def refusal(component, context) -> str:
    with pytest.raises(DataError) as caught:
        component.load(context)
    assert "\n" not in str(caught.value)
    return str(caught.value)


def cached(context) -> list[Path]:
    """All that stands in the cache, hidden or not."""
    folder = context.cache / "folder"
    return sorted(folder.iterdir()) if folder.exists() else []


# --- pixels, labels, order ---


def test_each_class_has_its_colour_and_its_place_in_the_alphabet(root, context):
    data = Folder(root, size=6).load(context)
    assert data.classes == ("blue", "green", "red")
    assert data.augment == "crop-flip"
    for part, per_class in ((data.train, 2), (data.test, 1)):
        assert part.inputs.dtype == np.uint8
        assert part.inputs.shape == (3 * per_class, 3, 6, 6)
        assert part.labels.dtype == np.int64
        assert part.labels.tolist() == sorted([0, 1, 2] * per_class)
        for image, label in zip(part.inputs, part.labels, strict=True):
            colour = COLOURS[data.classes[label]]
            assert {tuple(p) for p in image.reshape(3, 36).T.tolist()} == {colour}


def test_files_come_in_the_order_of_their_names(tmp_path, context):
    order = ["10.png", "2.png", "B.png", "a.png"]
    for name in reversed(order):
        save(tmp_path / "train" / "x" / name, (order.index(name), 0, 0))
        save(tmp_path / "test" / "x" / name)
    data = Folder(tmp_path, size=1).load(context)
    assert data.train.inputs[:, 0, 0, 0].tolist() == [0, 1, 2, 3]


def test_images_are_cropped_about_their_middle(tmp_path, context):
    wide = np.zeros((10, 30, 3), np.uint8)
    wide[:, :10, 0] = wide[:, 10:20, 1] = wide[:, 20:, 2] = 255
    for part in ("train", "test"):
        path = save(tmp_path / part / "x" / "wide.png")
        Image.fromarray(wide).save(path)
        Image.fromarray(wide.transpose(1, 0, 2)).save(path.with_name("tall.png"))
    data = Folder(tmp_path, size=10).load(context)
    for image in data.train.inputs:
        assert image.reshape(3, 100).T.tolist() == [[0, 255, 0]] * 100


def test_an_image_of_the_right_size_is_left_alone(tmp_path, context):
    pixels = np.random.default_rng(0).integers(0, 256, (8, 8, 3), dtype=np.uint8)
    for part in ("train", "test"):
        Image.fromarray(pixels).save(save(tmp_path / part / "x" / "a.png"))
    (image,) = Folder(tmp_path, size=8).load(context).train.inputs
    assert all(image[c, y, x] == pixels[y, x, c] for c in range(3) for y in range(8) for x in range(8))


def test_shrinking_is_antialiased(tmp_path, context):
    checkerboard = np.uint8(np.indices((64, 64)).sum(axis=0) % 2 * 255)
    for part in ("train", "test"):
        Image.fromarray(checkerboard).save(save(tmp_path / part / "x" / "a.png"))
    pixels = Folder(tmp_path, size=8).load(context).train.inputs.astype(int)
    assert np.abs(pixels - 127).max() < 15  # any single pixel is 0 or 255


@pytest.mark.slow
@pytest.mark.skipif(not CIFAR.exists(), reason="the CIFAR archive is not beside this checkout")
def test_real_images_of_the_right_size_do_not_change(tmp_path, context):
    archive = np.load(CIFAR)
    expected = {}
    for part in ("train", "test"):
        sizes, labels = archive[f"{part}_sizes"], archive[f"{part}_labels"]
        ends = np.cumsum(sizes, dtype=np.int64)
        blob = archive[f"{part}_jpeg"]
        jpegs = {label: [] for label in range(10)}
        for i in range(0, len(labels), 50 if part == "train" else 25):
            jpegs[int(labels[i])].append(blob[ends[i] - sizes[i] : ends[i]].tobytes())
        expected[part] = []
        for label, files in jpegs.items():
            folder = tmp_path / part / str(archive["classes"][label])
            folder.mkdir(parents=True)
            for number, content in enumerate(files):
                (folder / f"{number:04d}.jpg").write_bytes(content)
                pixels = np.asarray(Image.open(io.BytesIO(content))).transpose(2, 0, 1)
                expected[part].append((str(archive["classes"][label]), pixels))
    data = Folder(tmp_path).load(context)
    for part, held in (("train", data.train), ("test", data.test)):
        wanted = sorted(expected[part], key=lambda pair: pair[0])
        assert [data.classes[label] for label in held.labels] == [name for name, _ in wanted]
        np.testing.assert_array_equal(held.inputs, np.stack([pixels for _, pixels in wanted]))


def test_grey(root, context):
    data = Folder(root, size=4, grey=True).load(context)
    assert data.train.inputs.shape == (6, 1, 4, 4)
    for image, label in zip(data.train.inputs, data.train.labels, strict=True):
        red, green, blue = COLOURS[data.classes[label]]
        luma = 0.299 * red + 0.587 * green + 0.114 * blue  # ITU-R 601
        assert np.unique(image).tolist() == [round(luma)]


@pytest.mark.parametrize(
    ("name", "image", "colour"),
    [
        ("x.PNG", Image.new("RGB", (8, 8), (4, 5, 6)), (4, 5, 6)),
        ("x.png", Image.new("L", (8, 8), 77), (77, 77, 77)),
        ("x.png", Image.new("LA", (8, 8), (77, 255)), (77, 77, 77)),
        ("x.png", Image.new("1", (8, 8), 1), (255, 255, 255)),
        ("x.png", Image.new("RGBA", (8, 8), (4, 5, 6, 255)), (4, 5, 6)),
        ("x.tiff", Image.new("CMYK", (8, 8), (0, 255, 255, 0)), (255, 0, 0)),
        ("x.bmp", Image.new("RGB", (8, 8), (4, 5, 6)), (4, 5, 6)),
        ("x.gif", Image.new("L", (8, 8), 77), (77, 77, 77)),
        ("x.webp", Image.new("RGB", (8, 8), (0, 0, 0)), (0, 0, 0)),
    ],
)
def test_other_formats_and_modes_become_rgb(tmp_path, context, name, image, colour):
    for part in ("train", "test"):
        folder = tmp_path / part / "x"
        folder.mkdir(parents=True)
        image.save(folder / name)
    data = Folder(tmp_path, size=8).load(context)
    assert data.train.inputs.shape == (1, 3, 8, 8)
    assert data.train.inputs[0, :, 4, 4].tolist() == list(colour)


def test_what_is_no_image_is_passed_over(root, context):
    (root / "train" / "red" / "notes.txt").write_text("hello")
    (root / "train" / "red" / "scan.pdf").write_text("Pillow writes this format but cannot read it")
    (root / "train" / "red" / ".hidden.png").write_text("not an image")
    (root / "train" / "red" / "no-suffix").write_text("hello")
    (root / "train" / "red" / "folder.png").mkdir()
    save(root / "train" / ".thumbnails" / "a.png")
    save(root / "test" / ".thumbnails" / "a.png")
    save(root / "train" / "stray.png")
    (root / "LICENSE").write_text("free")
    data = Folder(root).load(context)
    assert data.classes == ("blue", "green", "red")
    assert len(data.train) == 6


def test_the_home_folder_and_a_plain_string_are_understood(root, context, monkeypatch):
    monkeypatch.setenv("HOME", str(root.parent))
    assert len(Folder("~/photos").load(context).train) == 6


# --- the cache ---


def test_the_arrays_are_read_only_memory_maps_of_the_cache(root, context):
    data = Folder(root).load(context)
    (entry,) = cached(context)
    for part, name in ((data.train, "train"), (data.test, "test")):
        assert isinstance(part.inputs, np.memmap)
        assert not part.inputs.flags.writeable
        assert Path(part.inputs.filename) == entry / f"{name}.npy"
    assert sorted(path.name for path in entry.iterdir()) == ["checksums.json", "report.json", "test.npy", "train.npy"]


def test_the_second_load_decodes_nothing(root, context, no_decoding, reports):
    first = Folder(root).load(context)
    no_decoding()
    reports.clear()
    second = Folder(root, augment="none").load(context)  # which changes no pixel
    np.testing.assert_array_equal(first.train.inputs, second.train.inputs)
    np.testing.assert_array_equal(first.test.labels, second.test.labels)
    assert second.augment == "none"
    assert reports == []
    assert len(cached(context)) == 1


def change_size(root):
    return {"size": 31}


def change_grey(root):
    return {"grey": True}


def change_content(root):
    save(root / "train" / "red" / "b.png", (9, 9, 9))


def change_time(root):
    os.utime(root / "test" / "red" / "c.png", ns=(0, 12345))


def change_name(root):
    (root / "train" / "red" / "b.png").rename(root / "train" / "red" / "z.png")


def add_file(root):
    save(root / "train" / "red" / "zz.png")


def move_between_parts(root):
    (root / "train" / "red" / "b.png").rename(root / "test" / "red" / "b.png")


@pytest.mark.parametrize(
    "change",
    [change_size, change_grey, change_content, change_time, change_name, add_file, move_between_parts],
)
def test_whatever_could_change_the_pixels_makes_a_new_entry(root, context, change, no_decoding):
    Folder(root).load(context)
    changed = Folder(root, **(change(root) or {}))
    changed.load(context)
    assert len(cached(context)) == 2
    no_decoding()
    changed.load(context)


def test_folders_that_look_alike_from_outside_are_kept_apart(tmp_path, context):
    for name, colour in (("one", (1, 1, 1)), ("two", (2, 2, 2))):
        for part in ("train", "test"):
            path = save(tmp_path / name / part / "x" / "a.bmp", colour)
            os.utime(path, ns=(0, 0))
    for name, value in (("one", 1), ("two", 2)):
        assert Folder(tmp_path / name).load(context).train.inputs.max() == value


def test_progress_counts_the_images_of_both_parts(root, context, reports, monkeypatch):
    whole = Folder(root).load(LoadContext(context.cache / "other", lambda what, done, total: None))
    monkeypatch.setattr(_images, "_BLOCK", 4)
    data = Folder(root).load(context)
    assert reports == [("decoding images", done, 9) for done in (0, 4, 6, 9)]
    np.testing.assert_array_equal(data.train.inputs, whole.train.inputs)


def damage_by_truncating(entry):
    content = (entry / "train.npy").read_bytes()
    (entry / "train.npy").write_bytes(content[:-1])


def damage_by_emptying(entry):
    (entry / "train.npy").write_bytes(b"")


def damage_by_garbage(entry):
    (entry / "test.npy").write_bytes(b"\x93NUMPY\x01\x00\x10\x00 nothing of use ")


def damage_by_removing(entry):
    (entry / "test.npy").unlink()


def damage_by_another_shape(entry):
    np.save(entry / "train.npy", np.zeros((5, 3, 32, 32), np.uint8))


def damage_by_another_dtype(entry):
    np.save(entry / "train.npy", np.zeros((6, 3, 32, 32), np.int8))


def damage_by_a_file_in_its_place(entry):
    for path in entry.iterdir():
        path.unlink()
    entry.rmdir()
    entry.write_text("not a directory")


@pytest.mark.parametrize(
    "damage",
    [
        damage_by_truncating,
        damage_by_emptying,
        damage_by_garbage,
        damage_by_removing,
        damage_by_another_shape,
        damage_by_another_dtype,
        damage_by_a_file_in_its_place,
    ],
)
def test_a_damaged_entry_is_rebuilt(root, context, damage, no_decoding):
    expected = np.array(Folder(root).load(context).train.inputs)
    (entry,) = cached(context)
    damage(entry)
    np.testing.assert_array_equal(Folder(root).load(context).train.inputs, expected)
    assert cached(context) == [entry]
    no_decoding()
    np.testing.assert_array_equal(Folder(root).load(context).train.inputs, expected)


def test_a_failure_leaves_nothing_in_the_cache(root, context):
    (root / "test" / "red" / "c.png").write_text("not an image")  # the last of all to be decoded
    refusal(Folder(root), context)
    assert cached(context) == []


def test_an_interruption_leaves_nothing_in_the_cache(root, context):
    def interrupt(what, done, total):
        if done:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        Folder(root).load(LoadContext(context.cache, interrupt))
    assert cached(context) == []
    assert len(Folder(root).load(context).train) == 6


def test_a_full_disk_is_told_and_leaves_nothing(root, context, monkeypatch):
    def full(descriptor):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    message = refusal(Folder(root), context)
    assert "No space left on device" in message
    assert str(context.cache) in message
    assert cached(context) == []


def test_a_cache_that_cannot_be_written_is_told(root, context):
    context.cache.write_text("a file where the folder should be")
    message = refusal(Folder(root), context)
    assert f"the image cache {context.cache / 'folder'} cannot be written" in message


def test_a_filled_cache_may_be_read_only(root, context, monkeypatch):
    Folder(root).load(context)

    def refuse(*args, **kwargs):
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(Path, "mkdir", refuse)
    assert len(Folder(root).load(context).train) == 6


def test_who_comes_second_uses_what_the_first_has_written(root, context, monkeypatch):
    """While one process decodes, another one does the same and is done before."""
    quick = {}

    def slow(path, target):
        if not quick:
            quick["entry"] = None
            with monkeypatch.context() as patch:
                patch.setattr(_decoding, "decode", decode)
                quick["data"] = Folder(root).load(context)
                (quick["entry"],) = [path for path in cached(context) if not path.name.startswith(".")]
        return np.full((3, target.size, target.size), 123, np.uint8), []  # to be told from the quick one's

    decode = _decoding.decode
    monkeypatch.setattr(_decoding, "decode", slow)
    data = Folder(root).load(context)
    np.testing.assert_array_equal(data.train.inputs, quick["data"].train.inputs)
    assert 123 not in data.train.inputs
    assert cached(context) == [quick["entry"]]


def test_many_at_once_agree(root, context):
    start, results = threading.Barrier(4), []

    def load():
        start.wait()
        results.append(Folder(root).load(context))

    threads = [threading.Thread(target=load) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(results) == 4
    for data in results:
        np.testing.assert_array_equal(data.train.inputs, results[0].train.inputs)
    assert len(cached(context)) == 1


# --- refusals ---


def test_a_missing_path(tmp_path, context):
    message = refusal(Folder(tmp_path / "nowhere"), context)
    assert f"there is no folder {tmp_path / 'nowhere'}" in message
    assert "'train' and 'test'" in message


@pytest.mark.parametrize("part", ["train", "test"])
def test_a_missing_part(root, context, part):
    (root / part).rename(root / "elsewhere")
    assert f"{root} holds no folder '{part}'" in refusal(Folder(root), context)


def test_no_classes(tmp_path, context):
    save(tmp_path / "train" / "a.png")
    save(tmp_path / "test" / "a.png")
    assert f"{tmp_path / 'train'} holds no class folders" in refusal(Folder(tmp_path), context)


def test_a_class_without_training_images(root, context):
    for path in (root / "train" / "green").iterdir():
        path.rename(path.with_suffix(".txt"))
    message = refusal(Folder(root), context)
    assert f"class 'green' has no images in {root / 'train' / 'green'} (2 .txt (no image suffix))" in message


def test_a_class_that_the_training_part_lacks(root, context):
    save(root / "test" / "zebra" / "a.png")
    message = refusal(Folder(root), context)
    assert f"class 'zebra' is in {root / 'test'} but not in {root / 'train'}" in message


def encoded(kind: str, size: int = 64) -> bytes:
    noise = np.random.default_rng(0).integers(0, 256, (size, size, 3), dtype=np.uint8)
    buffer = io.BytesIO()
    Image.fromarray(noise).save(buffer, kind)
    return buffer.getvalue()


JPEG, PNG, GIF = encoded("JPEG"), encoded("PNG"), encoded("GIF")


@pytest.mark.parametrize(
    ("name", "content", "reason"),
    [
        ("bad.jpg", b"", "the file is empty"),
        ("bad.jpg", b"this is text", "no image that Pillow knows"),
        ("bad.jpg", JPEG[: len(JPEG) // 2], "truncated"),
        ("bad.jpg", JPEG[:-200], "truncated"),
        ("bad.png", PNG[: len(PNG) // 2], ""),
        ("bad.png", PNG[:40] + b"\xff\xff\xff" + PNG[43:], ""),
        ("bad.gif", GIF[: len(GIF) // 2], ""),
    ],
)
def test_a_corrupt_image_is_named(root, context, name, content, reason):
    path = root / "train" / "green" / name
    path.write_bytes(content)
    message = refusal(Folder(root), context)
    assert message.startswith(f"{path} cannot be decoded (")
    assert reason in message
    assert cached(context) == []


@pytest.mark.parametrize("error", [SyntaxError("broken\nPNG file"), MemoryError(), OSError("image file is truncated")])
def test_whatever_pillow_raises_names_the_image(root, context, monkeypatch, error):
    def fail(self):
        raise error

    monkeypatch.setattr("PIL.PngImagePlugin.PngImageFile.load", fail)
    for path in [
        *root.rglob("b.png"),
        *root.rglob("c.png"),
        *(root / "train" / "red").glob("*"),
        *(root / "train" / "green").glob("*"),
    ]:
        path.write_bytes(JPEG)
    message = refusal(Folder(root), context)
    assert message.startswith(f"{root / 'train' / 'blue' / 'a.png'} cannot be decoded (")
    assert (" ".join(str(error).split()) or "MemoryError") in message


@pytest.mark.parametrize("limit", [60, 40], ids=["a warning of Pillow's", "an error of Pillow's"])
def test_an_image_that_is_too_large_is_an_error_and_no_warning(tmp_path, context, monkeypatch, limit):
    save(tmp_path / "train" / "x" / "a.png", size=(5, 5))
    save(tmp_path / "test" / "x" / "huge.png", size=(10, 10))
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", limit)
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        message = refusal(Folder(tmp_path), context)
    assert caught == []
    assert message.startswith(f"{tmp_path / 'test' / 'x' / 'huge.png'} cannot be decoded (Image size (100 pixels)")


def test_loading_leaves_the_warning_filters_alone(root, context):
    before = list(warnings.filters)
    Folder(root).load(context)
    assert warnings.filters == before


@pytest.mark.parametrize(("mode", "said"), [("I", "signed or 32-bit integers"), ("F", "floats")])
def test_pixels_without_a_range_are_refused(root, context, mode, said):
    path = root / "train" / "red" / "deep.tiff"
    Image.new(mode, (8, 8), 200).save(path)
    message = refusal(Folder(root), context)
    assert str(path) in message
    assert f"its pixels are {said}, which have no fixed range" in message


def test_a_dangling_link_is_named(root, context):
    path = root / "train" / "red" / "gone.png"
    path.symlink_to(root / "nowhere.png")
    assert f"{path} cannot be decoded (No such file" in refusal(Folder(root), context)


def test_a_folder_that_this_user_may_not_read_is_named(root, context, monkeypatch):
    locked, is_dir, scandir = root / "train" / "green", Path.is_dir, os.scandir

    def denied(path, original):
        if path == locked:
            raise PermissionError(13, "Permission denied")
        return original(path)

    for owner, name, original in ((Path, "is_dir", is_dir), (os, "scandir", scandir)):
        with monkeypatch.context() as patch:
            patch.setattr(owner, name, lambda path, original=original: denied(path, original))
            assert f"{locked} cannot be read (Permission denied)" in refusal(Folder(root), context)


# --- decoding in processes ---


@pytest.mark.children
@pytest.mark.parametrize("block", [1, 2, 256])
def test_workers_give_the_same_pixels_in_the_same_order(root, context, workers, monkeypatch, reports, block):
    for number in range(20):
        save(root / "train" / "red" / f"c{number:02}.png", (number, 0, 0))
    alone = LoadContext(context.cache / "alone", lambda what, done, total: None)
    with monkeypatch.context() as patch:
        patch.setenv("OMP_NUM_THREADS", "1")
        expected = Folder(root).load(alone)
    assert workers == []
    monkeypatch.setattr(_images, "_BLOCK", block)
    data = Folder(root).load(context)
    assert len(workers) == 2
    for name in ("train", "test"):
        (one,), (other,) = (list((cache / "folder").glob(f"*/{name}.npy")) for cache in (context.cache, alone.cache))
        assert one.read_bytes() == other.read_bytes()
    assert data.train.labels.tolist() == expected.train.labels.tolist()
    done = [done for _, done, _ in reports]
    assert done == sorted(set(done))
    assert (done[0], done[-1], {total for _, _, total in reports}) == (0, 29, {29})


def test_a_small_folder_starts_no_process(root, context, workers, monkeypatch):
    size = sum(path.stat().st_size for path in root.rglob("*.png"))
    monkeypatch.setattr(_decode_pool, "_BYTES_PER_WORKER", size // 2 + 1)
    Folder(root).load(context)
    assert workers == []


@pytest.mark.children
def test_large_files_make_small_blocks(root, context, workers, monkeypatch, reports):
    monkeypatch.setattr(_images, "_BLOCK_BYTES", 1)
    Folder(root).load(context)
    assert [done for _, done, _ in reports] == list(range(10))


@pytest.mark.children
@pytest.mark.parametrize("limit", [None, 40], ids=["corrupt", "too large"])
def test_what_a_worker_refuses_is_reported(root, context, workers, monkeypatch, limit):
    path = root / "train" / "green" / "a.png"
    if limit is None:
        path.write_bytes(PNG[: len(PNG) // 2])
    else:
        monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", limit)
        for image in root.rglob("*.png"):
            save(image, size=(2, 2))
        save(path, size=(9, 9))
    message = refusal(Folder(root), context)
    assert message.startswith(f"{path} cannot be decoded (")
    assert cached(context) == []
    assert [worker.poll() is None for worker in workers] == [False, False]
    with monkeypatch.context() as patch:
        patch.setenv("OMP_NUM_THREADS", "1")
        assert refusal(Folder(root), context) == message
    assert len(workers) == 2


@pytest.mark.children
def test_what_pillow_was_told_here_holds_for_workers_too(root, context, workers, monkeypatch):
    monkeypatch.setattr(ImageFile, "LOAD_TRUNCATED_IMAGES", True)
    (root / "train" / "green" / "cut.jpg").write_bytes(JPEG[: len(JPEG) // 2])
    assert len(Folder(root).load(context).train) == 7
    assert len(workers) == 2


@pytest.mark.children
def test_a_worker_that_is_killed_is_told(root, context, workers, monkeypatch):
    class Killed(_decode_pool._DecodeWorker):
        def ready(self):
            assert super().ready()
            self._process.kill()
            return True

    monkeypatch.setattr(_decode_pool, "_DecodeWorker", Killed)
    message = refusal(Folder(root), context)
    first, last = root / "train" / "blue" / "a.png", root / "train" / "red" / "b.png"
    assert f"died (signal 9) at one of {first} to {last}" in message
    assert cached(context) == []
    assert all(worker.poll() is not None for worker in workers)


@pytest.mark.children
def test_a_worker_that_answers_nonsense_is_killed(root, context, workers, monkeypatch):
    talker = (
        "import os, sys, time; from forgetkit.builtin.datasets._decoding import WORKER_READY; "
        "os.write(1, WORKER_READY + b'nonsense'); time.sleep(60)"
    )
    start = subprocess.Popen
    monkeypatch.setattr(subprocess, "Popen", lambda command, **more: start([command[0], "-c", talker], **more))
    monkeypatch.setattr(_decode_pool, "_GRACE", 0.01)
    assert "died (signal 9) at one of" in refusal(Folder(root), context)
    assert len(workers) == 2
    assert all(worker.poll() == -9 for worker in workers)


@pytest.mark.children
def test_what_an_interpreter_prints_when_it_starts_is_no_answer(root, context, workers, monkeypatch, tmp_path):
    (tmp_path / "noise").mkdir()
    (tmp_path / "noise" / "sitecustomize.py").write_text(
        "print('hello' * 30_000, flush=True)"
    )  # more than a pipe holds
    monkeypatch.setenv("PYTHONPATH", str(tmp_path / "noise"))
    data = Folder(root, size=6).load(context)
    assert [tuple(image[:, 0, 0]) for image in data.test.inputs] == list(COLOURS.values())
    assert len(workers) == 2


def no_interpreter(monkeypatch):
    monkeypatch.setattr(sys, "executable", "")


def no_such_interpreter(monkeypatch):
    monkeypatch.setattr(sys, "executable", "/nowhere/python")


def an_interpreter_that_ends_at_once(monkeypatch):
    start = subprocess.Popen
    monkeypatch.setattr(subprocess, "Popen", lambda command, **more: start([command[0], "-c", ""], **more))


def memory_for_a_single_worker(monkeypatch):
    start, started = subprocess.Popen, []

    def scarce(command, **more):
        if started:
            raise OSError(12, "Cannot allocate memory")
        started.append(start(command, **more))
        return started[0]

    monkeypatch.setattr(subprocess, "Popen", scarce)


@pytest.mark.children
@pytest.mark.parametrize(
    ("lacking", "count"),
    [
        (no_interpreter, 0),
        (no_such_interpreter, 0),
        (an_interpreter_that_ends_at_once, 2),
        (memory_for_a_single_worker, 1),
    ],
)
def test_images_are_decoded_with_fewer_workers_or_none(root, context, workers, monkeypatch, lacking, count):
    with monkeypatch.context() as patch:
        lacking(patch)
        data = Folder(root, size=6).load(context)
    assert [tuple(image[:, 0, 0]) for image in data.test.inputs] == list(COLOURS.values())
    assert len(workers) == count
    assert all(worker.poll() is not None for worker in workers)


@pytest.mark.children
def test_what_workers_leave_is_decoded_in_the_callers_thread(root, context, workers, monkeypatch):
    """Filters for warnings are for all threads."""
    used, decode = set(), _decode_pool.decode_block

    def watched(block, again=None):
        used.add(threading.current_thread())
        return decode(block, again)

    monkeypatch.setattr(_decode_pool, "decode_block", watched)
    monkeypatch.setattr(_images, "_BLOCK", 1)
    monkeypatch.setattr(ImageFile, "LOAD_TRUNCATED_IMAGES", True)
    for number in range(8):
        (root / "train" / "green" / f"cut{number}.jpg").write_bytes(JPEG[: len(JPEG) // 2])
    before = list(warnings.filters)
    assert len(Folder(root).load(context).train) == 14
    assert used == {threading.current_thread()}
    assert warnings.filters == before


@pytest.mark.parametrize(
    ("asked", "here", "count"),
    [("", 3, 3), ("2", 3, 2), ("8", 3, 3), ("", 128, 16), ("64", 128, 16), ("0", 3, 3), ("4,2", 3, 3)],
)
def test_there_are_no_more_workers_than_cores_or_than_are_of_use(monkeypatch, asked, here, count):
    monkeypatch.setenv("OMP_NUM_THREADS", asked)
    monkeypatch.setattr(os, "sched_getaffinity", lambda process: set(range(here)), raising=False)
    assert _decode_pool._cores() == count


@pytest.mark.children
def test_an_interruption_ends_the_workers(root, context, workers, monkeypatch):
    def interrupt(what, done, total):
        if done:
            raise KeyboardInterrupt

    monkeypatch.setattr(_images, "_BLOCK", 1)
    with pytest.raises(KeyboardInterrupt):
        Folder(root).load(LoadContext(context.cache, interrupt))
    assert [worker.poll() is None for worker in workers] == [False, False]
    assert cached(context) == []


@pytest.mark.children
def test_a_worker_without_an_owner_leaves():
    """As where this process is killed: its end of the pipe is closed."""
    with _decode_pool._DecodeWorker() as worker:
        worker._to.close()
        assert worker._process.wait(30) == 0


@pytest.mark.children
def test_a_worker_imports_little():
    code = "import sys; import forgetkit.builtin.datasets._decoding; print(*sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    imported = {name.partition(".")[0] for name in done.stdout.split()}
    assert {"numpy", "PIL"} <= imported
    assert not imported & {"torch", "torchvision", "pydantic", "sklearn", "scipy", "typer", "rich", "http"}


# --- Restricted ImageNet ---

RANGES = (
    "bird 10 14, turtle 33 37, lizard 42 46, spider 72 76, crab and lobster 118 122, dog 200 204,"
    " cat 281 285, big cat 286 290, beetle 302 306, butterfly 322 326, monkey 371 374, fish 393 397,"
    " fruit 948 952, fungus 992 996"
)
"""The balanced ranges, inclusive, written out once more as the fact sheet has them."""

NAME_OF = {
    index: name
    for name, first, last in (entry.rsplit(" ", 2) for entry in RANGES.split(", "))
    for index in range(int(first), int(last) + 1)
}


def wnid(index: int) -> str:
    return f"n{7 * index + 1000:08d}"


@pytest.fixture
def imagenet(tmp_path):
    """An ImageNet whose images spell their class's index in red and green; val has the 69 classes alone."""
    root = tmp_path / "imagenet"
    for index in range(1000):
        (root / "train" / wnid(index)).mkdir(parents=True)
    for index in NAME_OF:
        colour = (index // 256, index % 256, 0)
        save(root / "train" / wnid(index) / "x.png", colour)
        save(root / "train" / wnid(index) / "y.png", colour)
        save(root / "val" / wnid(index) / "z.png", colour)
    return root


def test_restricted_imagenet_groups_69_classes_into_14(imagenet, context):
    data = RestrictedImagenet(imagenet, size=2).load(context)
    assert data.classes == tuple(dict.fromkeys(NAME_OF.values()))
    assert len(data.classes) == 14
    assert data.augment == "crop-flip"
    for part, per_class in ((data.train, 2), (data.test, 1)):
        assert part.inputs.shape == (69 * per_class, 3, 2, 2)
        assert part.inputs.dtype == np.uint8
        indices = [256 * int(image[0, 0, 0]) + int(image[1, 0, 0]) for image in part.inputs]
        assert indices == list(itertools.chain.from_iterable([index] * per_class for index in sorted(NAME_OF)))
        assert [data.classes[label] for label in part.labels] == [NAME_OF[index] for index in indices]


def test_restricted_imagenet_is_cached(imagenet, context, no_decoding):
    first = RestrictedImagenet(imagenet).load(context)
    assert first.train.inputs.shape == (138, 3, 32, 32)
    no_decoding()
    np.testing.assert_array_equal(RestrictedImagenet(imagenet).load(context).train.inputs, first.train.inputs)


@pytest.mark.parametrize("number", [999, 1001])
def test_restricted_imagenet_needs_all_thousand_classes(imagenet, context, number):
    if number < 1000:
        (imagenet / "train" / wnid(0)).rmdir()
    else:
        (imagenet / "train" / "n99999999").mkdir()
    assert f"{imagenet / 'train'} holds {number} class folders, not 1000" in refusal(
        RestrictedImagenet(imagenet), context
    )


def test_restricted_imagenet_names_what_is_missing(imagenet, context):
    component = RestrictedImagenet(imagenet)
    (imagenet / "val" / wnid(203) / "z.png").unlink()
    assert f"class '{wnid(203)}' has no images in {imagenet / 'val'}" in refusal(component, context)
    (imagenet / "val" / wnid(203)).rmdir()
    assert f"class '{wnid(203)}' has no folder in {imagenet / 'val'}" in refusal(component, context)
    (imagenet / "val").rename(imagenet / "validation")
    assert f"{imagenet} holds no folder 'val'" in refusal(component, context)
    assert "there is no folder" in refusal(RestrictedImagenet(imagenet / "nowhere"), context)
