"""Objects as bytes for other processes of one job: the same bytes for the same values, and of a view only its part."""

from __future__ import annotations

import io
import pickle
from typing import Any

import numpy as np
import torch
from torch import Tensor

from forgetkit.errors import OptionError
from forgetkit.unlearning.tensor_checks import order_in_memory


def dumps(value: Any) -> bytes:
    """Return ``value`` as bytes; tensors are detached.

    Raises:
        OptionError: If it cannot be pickled.
    """
    file = io.BytesIO()
    try:
        _Pickler(file, pickle.HIGHEST_PROTOCOL).dump(value)
    except (pickle.PicklingError, TypeError, AttributeError, RuntimeError) as error:
        reason = str(error).strip().splitlines()[0]
        raise OptionError(
            f"this cannot be sent to the other processes of the group ({reason}): give batches of tensors and plain "
            "Python values"
        ) from error
    return file.getvalue()


def loads(data: bytes) -> Any:
    """Undo :func:`dumps`; tensors are on the CPU."""
    return pickle.loads(data)  # bytes of a process of the same job


class _Pickler(pickle.Pickler):
    def reducer_override(self, value: Any) -> Any:
        """Reduce a plain tensor to its entries in memory order."""
        if type(value) is not Tensor or value.layout != torch.strided or value.is_quantized or value.is_complex():
            return NotImplemented
        order = order_in_memory(value)
        dense = value.detach().cpu().permute(order).contiguous()
        entries = dense.reshape(-1).view(torch.uint8).numpy().tobytes()
        return _rebuild, (entries, value.dtype, tuple(dense.shape), tuple(int(i) for i in np.argsort(order)))


def _rebuild(entries: bytes, dtype: torch.dtype, shape: tuple[int, ...], order: tuple[int, ...]) -> Tensor:
    flat = (
        torch.frombuffer(bytearray(entries), dtype=torch.uint8)
        if entries
        else torch.empty(0, dtype=torch.uint8, device="cpu")
    )
    return flat.view(dtype).view(shape).permute(order)
