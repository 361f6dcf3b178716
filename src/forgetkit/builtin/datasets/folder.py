"""A folder of image files."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

from pydantic import Field

from forgetkit.builtin.datasets import _images
from forgetkit.contracts import Augmentation, Data, LoadContext
from forgetkit.errors import DataError


@dataclass(frozen=True)
class Folder:
    """Your own images, a folder per class: path/train/CLASS/* and path/test/CLASS/*.

    Any format and size that Pillow reads; each image is cropped to a square about its middle and
    resized with antialiasing, once: the pixels are kept in the cache until a file or an option changes.
    Inputs are ``uint8`` of shape ``(n, 3, size, size)``, or ``(n, 1, size, size)`` if grey. Classes and
    files are in the sorted order of their names. Hidden files, files that are no images by their suffix,
    and folders inside a class's folder are passed over.

    ``path``: the folder that holds ``train`` and ``test``.
    ``size``: height and width in pixels.
    ``grey``: one channel instead of three.
    ``augment``: what may be done to training images, if the run's own augment is auto.

    Source: the layout of torchvision's ``ImageFolder``.
    """

    path: Path
    size: Annotated[int, Field(ge=1)] = 32
    grey: bool = False
    augment: Augmentation = "crop-flip"

    def load(self, context: LoadContext) -> Data:
        """Both parts, as memory maps of the cached pixels.

        Raises ``DataError`` where a folder is missing, a class has no images in either part or is
        in the test part alone, an image cannot be decoded, or the cache cannot be written.
        """
        root = Path(self.path).expanduser()
        train, test = _images.part_folders(root, "train", "test")
        classes = _images.subfolders(train)
        if not classes:
            raise DataError(f"{train} holds no class folders: give the images of each class a folder there")
        strangers = sorted(set(_images.subfolders(test)) - set(classes))
        if strangers:
            raise DataError(
                f"class '{strangers[0]}' is in {test} but not in {train}: "
                "every class of the test part must have training images"
            )
        return _images.load(
            root,
            train=_images.listing((train / name, label) for label, name in enumerate(classes)),
            test=_images.listing((test / name, label) for label, name in enumerate(classes)),
            classes=classes,
            size=self.size,
            grey=self.grey,
            augment=self.augment,
            context=context,
        )
