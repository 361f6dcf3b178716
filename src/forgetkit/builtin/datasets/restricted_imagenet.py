"""ImageNet, restricted to a few well separated classes."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

from pydantic import Field

from forgetkit.builtin.datasets import _images, _listing
from forgetkit.builtin.datasets._decoding import DecodeFormat
from forgetkit.builtin.datasets._images import ImageOptions, OnBad
from forgetkit.contracts import Data, LoadContext
from forgetkit.errors import DataError

_IMAGENET_CLASSES = 1000

SUPERCLASSES = {
    "bird": range(10, 15),
    "turtle": range(33, 38),
    "lizard": range(42, 47),
    "spider": range(72, 77),
    "crab and lobster": range(118, 123),
    "dog": range(200, 205),
    "cat": range(281, 286),
    "big cat": range(286, 291),
    "beetle": range(302, 307),
    "butterfly": range(322, 327),
    "monkey": range(371, 375),
    "fish": range(393, 398),
    "fruit": range(948, 953),
    "fungus": range(992, 997),
}
"""The ImageNet class indices of each class: 69 in 14, the balanced choice of the ``robustness`` package."""


@dataclass(frozen=True)
class RestrictedImagenet:
    """Restricted ImageNet (balanced): 69 ImageNet classes grouped into 14, made small.

    The images are read from an ImageNet folder, with a folder per class in ``train`` and in ``val``;
    ``val`` is the test part. A class's ImageNet index is its position among the 1,000 sorted folder names
    of ``train``. Each image is cropped to a square about its middle and resized with antialiasing, once: the
    cache keeps the pixels. Inputs are ``uint8`` of shape ``(n, 3, size, size)``; the whole of
    ImageNet gives 89,517 for training and 3,450 for testing.

    Images are turned upright as their EXIF orientation says, which torchvision does not do.

    ``path``: the folder that holds ``train`` and ``val``.
    ``size``: height and width in pixels.
    ``on_bad``: for images that cannot be decoded: stop lists them all and fails, skip leaves them out.

    Source: the ``robustness`` package (Engstrom et al., 2019); at 32×32 pixels in Ramkumar et al., 2023, appendix A.5.
    """

    path: Path
    size: Annotated[int, Field(ge=1)] = 32
    on_bad: OnBad = "stop"

    def load(self, context: LoadContext) -> Data:
        """Load both parts as memory maps of the cached pixels.

        Raises:
            DataError: If ``train`` does not hold 1,000 folders, one of the 69 classes has no images in a part, an image
                cannot be decoded (unless ``on_bad`` is skip), or the cache cannot be written.
        """
        root = Path(self.path).expanduser()
        train, val = _images.part_folders(root, "train", "val")
        names = tuple(_listing.class_folders(train))
        if len(names) != _IMAGENET_CLASSES:
            raise DataError(
                f"{train} holds {len(names)} class folders, not {_IMAGENET_CLASSES}: "
                "the position of a folder identifies its class, so add missing class folders and remove others"
            )

        def members(part: Path) -> Iterator[tuple[Path, int]]:
            for label, indices in enumerate(SUPERCLASSES.values()):
                for index in indices:
                    yield part / names[index], label

        return _images.load(
            root,
            _listing.listing("train", members(train)),
            _listing.listing("val", members(val)),
            classes=tuple(SUPERCLASSES),
            options=ImageOptions(DecodeFormat(self.size, grey=False, background=(255, 255, 255)), self.on_bad),
            augment="crop-flip",
            context=context,
        )
