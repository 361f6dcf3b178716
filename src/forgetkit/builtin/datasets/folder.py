"""A folder of image files."""

from __future__ import annotations

import hashlib
import os
import unicodedata
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

from PIL import ImageColor
from pydantic import Field

from forgetkit.builtin.datasets import _images, _listing
from forgetkit.builtin.datasets._decoding import DecodeFormat
from forgetkit.builtin.datasets._images import ImageOptions, OnBad
from forgetkit.builtin.datasets._listing import ImageFile, Listing
from forgetkit.contracts import Augmentation, Data, LoadContext
from forgetkit.errors import DataError, suggest
from forgetkit.seeding import Seeds

_VALIDATION = ("val", "valid", "validation")
_NOT_CLASSES = ("train", "training", "test", "testing", *_VALIDATION)
"""Folders with these names, in any case, hold a part and are no class."""

Folders = Mapping[str, list[Path]]


@dataclass(frozen=True)
class Folder:
    """Your own images, a folder per class: path/train/CLASS/* and path/test/CLASS/*.

    Images have any format and size that Pillow reads, and HEIF if pillow-heif is installed. Each image is turned
    upright as its EXIF orientation says, cropped to a square about its middle and resized with antialiasing, once:
    the cache keeps the pixels until a file or an option changes. Inputs are ``uint8`` of shape
    ``(n, 3, size, size)``, or ``(n, 1, size, size)`` if grey. Images in sub-folders of a class belong to the class.
    Classes and files are sorted by name.

    Without ``path/test``, ``path/val`` (or ``valid``, ``validation``) is the test part. With neither, or with the
    classes directly in ``path``, test-fraction of each class is the test part, at least one of two images. A hash of
    the names chooses them, so that new images move few of the others to another part.

    Images are recognised by suffix, or by content without one. A run reports how many other files each class has and
    why they are passed over; the manifest records it as ``provenance``.

    ``path``: the folder that holds ``train`` and ``test``, or the classes.
    ``size``: height and width in pixels.
    ``grey``: one channel instead of three.
    ``augment``: the augmentation of training images if the run's own augment is auto.
    ``background``: the colour of transparent pixels: white, black or a colour like #a0b0c0.
    ``on_bad``: for images that cannot be decoded: stop lists them all and fails, skip leaves them out.
    ``test_fraction``: the fraction of each class for testing, if there is no test part.
    ``test_seed``: the seed of that choice, independent of the run's seed.

    Source: the layout of torchvision's ``ImageFolder``.
    """

    path: Path
    size: Annotated[int, Field(ge=1)] = 32
    grey: bool = False
    augment: Augmentation = "crop-flip"
    background: Annotated[str, Field(pattern="^(white|black|#[0-9a-fA-F]{6})$"), "white, black or #rrggbb"] = "white"
    on_bad: OnBad = "stop"
    test_fraction: Annotated[float, Field(gt=0, lt=1)] | None = None
    test_seed: int = 0

    def load(self, context: LoadContext) -> Data:
        """Load both parts as memory maps of the cached pixels.

        Raises:
            DataError: If a folder is missing, there is no test part, a class has no training images, an image cannot
                be decoded (unless ``on_bad`` is skip), or the cache cannot be written.
        """
        root = Path(self.path).expanduser()
        train_folder, test_folder, remarks = self._layout(root)
        folders = _listing.class_folders(train_folder)
        if not folders:
            raise DataError(f"{train_folder} holds no class folders: give the images of each class a folder there")
        classes = tuple(folders)
        train = _listing.listing(_name(train_folder, root), _labelled_folders(folders, classes))
        remarks += _about_folders(train_folder, folders, root)
        if test_folder is not None:
            others = _listing.class_folders(test_folder)
            test = _listing.listing(_name(test_folder, root), _labelled_folders(others, classes), optional=True)
            _refuse_unknown_classes(test_folder, others, train_folder, classes)
            remarks += _about_folders(test_folder, others, root)
        else:
            train, test = self._divided(train, train_folder)
        if not test.files:
            raise DataError(
                f"{test_folder} holds no image to test on: add some"
                if test_folder is not None
                else f"{train_folder} holds a single image of each class, so none is left to test on: add some"
            )
        red, green, blue = ImageColor.getrgb(self.background)[:3]
        return _images.load(
            root,
            train,
            test,
            classes=classes,
            options=ImageOptions(DecodeFormat(self.size, self.grey, (red, green, blue)), self.on_bad),
            augment=self.augment,
            context=context,
            remarks=remarks,
        )

    def _layout(self, root: Path) -> tuple[Path, Path | None, list[str]]:
        """The folder of the training part, that of the test part if there is one, and remarks on other folders."""
        if not _listing.is_folder(root):
            raise DataError(f"there is no folder {root}: give the one that holds 'train' and 'test', or the classes")
        if not _listing.is_folder(root / "train"):
            return self._classes_alone(root), None, []
        validation = [name for name in _VALIDATION if _listing.is_folder(root / name)]
        if _listing.is_folder(root / "test"):
            if self.test_fraction is not None:
                raise DataError(f"test-fraction would be ignored, since {root} holds 'test': leave one of them out")
            return root / "train", root / "test", [_is_ignored(name) for name in validation]
        if self.test_fraction is not None:
            return root / "train", None, [_is_ignored(name) for name in validation]
        if validation:
            remark = f"there is no 'test' folder, so '{validation[0]}' is the test part; validation samples are cut "
            return root / "train", root / validation[0], [f"{remark}from 'train' (--val-fraction)"]
        raise DataError(
            f"{root} holds no folder 'test': put test images in test/CLASS/, or cut a test part from the training "
            "images with test-fraction=0.1"
        )

    def _classes_alone(self, root: Path) -> Path:
        folders = _listing.class_folders(root)
        parts = [name for name in folders if name.casefold() in _NOT_CLASSES]
        if parts:
            found = ", ".join(f"'{name}'" for name in parts)
            raise DataError(
                f"{root} holds no folder 'train' but {found}: call the parts train, test and val, with the images in "
                "train/CLASS/"
            )
        alone = next(iter(folders.values()))[0] if len(folders) == 1 else None
        if alone is not None and _listing.is_folder(alone / "train"):  # an unpacked archive
            raise DataError(f"{root} holds no folder 'train', but {alone} does: give that one as path")
        if self.test_fraction is None:
            raise DataError(
                f"{root} holds no folder 'train': the images belong in train/CLASS/ and test/CLASS/; if the folders in "
                "it are the classes, cut a test part from them with test-fraction=0.1"
            )
        return root

    def _divided(self, source: Listing, folder: Path) -> tuple[Listing, Listing]:
        """Cut the test part from each class; return the training part and the test part."""
        key = Seeds(self.test_seed).number("folder", "test").to_bytes(8, "little")

        def draw(place: int) -> bytes:
            path = unicodedata.normalize("NFC", os.path.relpath(source.files[place].path, folder))
            return hashlib.blake2b(os.fsencode(path), key=key, digest_size=16).digest()

        places: dict[int, list[int]] = {}
        for place, label in enumerate(source.labels):
            places.setdefault(label, []).append(place)
        chosen: set[int] = set()
        for members in places.values():
            count = min(max(1, round((self.test_fraction or 0) * len(members))), len(members) - 1)
            chosen.update(sorted(members, key=draw)[:count])

        name = f"{self.test_fraction} of {source.name}, test-seed {self.test_seed}"
        trained = [place for place in range(len(source.files)) if place not in chosen]
        return (
            Listing(source.name, *_taken_files(source, trained), source.passed_over),
            Listing(name, *_taken_files(source, sorted(chosen)), {}),
        )


def _taken_files(source: Listing, places: Sequence[int]) -> tuple[tuple[ImageFile, ...], tuple[int, ...]]:
    return tuple(source.files[place] for place in places), tuple(source.labels[place] for place in places)


def _labelled_folders(folders: Folders, classes: tuple[str, ...]) -> list[tuple[Path, int]]:
    return [(folder, label) for label, name in enumerate(classes) for folder in folders.get(name, ())]


def _name(part: Path, root: Path) -> str:
    return part.name if part != root else "."


def _is_ignored(name: str) -> str:
    return f"the folder '{name}' is ignored: validation samples are cut from 'train' (--val-fraction)"


def _about_folders(part: Path, folders: Folders, root: Path) -> list[str]:
    """Remarks on the folders of a part: names that Unicode writes in two ways, images in no class."""
    where = _name(part, root)
    remarks = [
        f"{where} has {len(paths)} folders named {name!r}, composed in different ways (NFC, NFD): they are one class"
        for name, paths in folders.items()
        if len(paths) > 1
    ]
    stray = _listing.stray_images(part)
    if stray:
        remarks.append(f"{where}: {_listing.count_noun(stray, 'image')} passed over, in no class's folder")
    return remarks


def _refuse_unknown_classes(test: Path, folders: Folders, train: Path, classes: tuple[str, ...]) -> None:
    """Raise ``DataError`` if the test part has images of a class without training images."""
    unknown = [name for name in folders if name not in classes]
    found = _listing.listing(test.name, [(path, 0) for name in unknown for path in folders[name]], optional=True)
    if found.files:
        name = unknown[0]
        more = f" (and {len(unknown) - 1} more)" if len(unknown) > 1 else ""
        raise DataError(
            f"class '{name}'{more} is in {test} but not in {train}: every class of the test part must have training "
            f"images; {suggest(name, classes[:20])}"
        )
