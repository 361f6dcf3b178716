"""Pickles that hold nothing but lists, texts, numbers and arrays of bytes: the form in which CIFAR was published.

To load a pickle is to run a program that its author wrote. This reader knows no function and no class of any module:
where the published files name NumPy's, it has stand-ins that keep what they are given, and any other name is refused.
"""

from __future__ import annotations

import codecs
import io
import pickle
from typing import Any

import numpy as np
from numpy.typing import NDArray

_NAMES = {
    ("numpy.core.multiarray", "_reconstruct"): "array",
    ("numpy._core.multiarray", "_reconstruct"): "array",
    ("numpy", "ndarray"): "nothing",
    ("numpy", "dtype"): "type",
    ("_codecs", "encode"): "bytes",
}
"""What the files may name: with NumPy's old and new modules, written by Python 2 and 3."""


def read_pickled_dict(content: bytes) -> dict[str, Any]:
    """The dictionary in a pickle, by text; arrays are ``uint8``. Raises what the bytes lead to, and runs nothing."""
    found = _Reader(io.BytesIO(content), encoding="bytes").load()
    if not isinstance(found, dict):
        raise pickle.UnpicklingError("it holds no dictionary")
    return {text(key): value.values() if isinstance(value, _Array) else value for key, value in found.items()}


def text(value: Any) -> str:
    """What Python 2 held as bytes and Python 3 holds as text."""
    if isinstance(value, bytes):
        return value.decode("latin1")
    if not isinstance(value, str):
        raise pickle.UnpicklingError("a name in it is no text")
    return value


class _Reader(pickle.Unpickler):
    def find_class(self, module: str, name: str) -> Any:
        known = _NAMES.get((module, name))
        if known is None:
            raise pickle.UnpicklingError(f"it asks for {module}.{name}")
        return {"array": _Array, "nothing": _NumpyArrayStub, "type": _Type, "bytes": _encode_text}[known]

    def persistent_load(self, pid: Any) -> Any:
        raise pickle.UnpicklingError("it refers to objects outside")


class _NumpyArrayStub:
    """For ``numpy.ndarray``, which is handed on and never called."""

    def __new__(cls, *_: object) -> _NumpyArrayStub:
        raise pickle.UnpicklingError("it makes an array in another way")


class _Type:
    """For ``numpy.dtype``: its code alone is looked at."""

    def __init__(self, code: object = None, *_: object) -> None:
        self.code = code

    def __setstate__(self, state: object) -> None:
        """Byte order and the like, which bytes do not have."""


class _Array:
    """For ``numpy.ndarray``: what it is to hold comes as its state."""

    def __init__(self, *_: object) -> None:
        self.state: Any = None

    def __setstate__(self, state: object) -> None:
        self.state = state

    def values(self) -> NDArray[np.uint8]:
        """The array, read-only."""
        _, shape, kind, by_column, held = self.state
        if not isinstance(kind, _Type) or kind.code not in ("u1", b"u1") or not isinstance(held, bytes):
            raise pickle.UnpicklingError("an array in it is not of bytes")
        return np.frombuffer(held, np.uint8).reshape(shape, order="F" if by_column else "C")


def _encode_text(held: object, encoding: object = "latin1", *_: object) -> bytes:
    """For ``_codecs.encode``, by which Python 3 writes bytes for Python 2."""
    if not isinstance(held, str) or encoding not in ("latin1", b"latin1"):
        raise pickle.UnpicklingError("bytes in it are written in another way")
    return codecs.latin_1_encode(held)[0]
