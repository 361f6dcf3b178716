"""The built-in data sets, one per file."""

from __future__ import annotations

from typing import TYPE_CHECKING

from forgetkit.registry.hookspecs import hookimpl

if TYPE_CHECKING:
    from collections.abc import Mapping

    from forgetkit.contracts import DatasetSource


@hookimpl
def forgetkit_datasets() -> Mapping[str, type[DatasetSource]]:
    """Return the built-in data sets; imported late, since a process that decodes images needs none."""
    from forgetkit.builtin.datasets.cifar10 import Cifar10
    from forgetkit.builtin.datasets.cifar100 import Cifar100
    from forgetkit.builtin.datasets.digits import Digits
    from forgetkit.builtin.datasets.folder import Folder
    from forgetkit.builtin.datasets.npz import Npz
    from forgetkit.builtin.datasets.restricted_imagenet import RestrictedImagenet
    from forgetkit.builtin.datasets.synthetic import Synthetic

    return {
        "cifar10": Cifar10,
        "cifar100": Cifar100,
        "digits": Digits,
        "folder": Folder,
        "npz": Npz,
        "restricted-imagenet": RestrictedImagenet,
        "synthetic": Synthetic,
    }
