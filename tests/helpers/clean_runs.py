"""Runs that hostile settings are compared with."""

from __future__ import annotations

import functools
import tempfile
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

import forgetkit
from forgetkit.storage import RunDirectory

OPTIONS = {
    "dataset": "synthetic:samples=80,test=40,classes=4,size=4,noise=3",
    "model": "convnet:width=4",
    "mega_batches": 2,
    "epochs": 1,
    "batch_size": 16,
    "threads": 1,
    "device": "cpu",
    "importance": "random",
    "keep_models": "all",
}


def trained(precision: str = "fp32") -> tuple[list[Any], dict[str, Tensor]]:
    """Errors by mega-batch, and the weights at the end."""
    with tempfile.TemporaryDirectory() as folder:
        result = forgetkit.run({**OPTIONS, "out": folder, "precision": precision})
        weights = RunDirectory(Path(result["directory"])).model(2)
    return [row["test_errors"] for row in result["mega_batches"]], {k: v for k, v in weights.items() if v.ndim}


@functools.cache
def clean(precision: str) -> tuple[list[Any], dict[str, Tensor]]:
    return trained(precision)


def require_same(one: tuple[list[Any], dict[str, Tensor]], other: tuple[list[Any], dict[str, Tensor]]) -> None:
    assert one[0] == other[0]
    assert one[1].keys() == other[1].keys()
    assert one[1]
    for name, value in one[1].items():
        assert value.dtype == other[1][name].dtype
        assert torch.equal(value, other[1][name]), name
