"""The device of a run, on fake machines."""

from __future__ import annotations

import pytest
import torch

from forgetkit.config import machine
from forgetkit.errors import ConfigError


@pytest.mark.parametrize(
    ("visible", "said"),
    [
        (None, "--device cuda:1: this machine has 1, counted from cuda:0"),
        (
            "3",
            "--device cuda:1: CUDA_VISIBLE_DEVICES=3 shows 1, counted from cuda:0; a worker of --jobs is shown its own "
            "alone: use --device cuda, or --executor local:jobs=N,devices=none",
        ),
    ],
)
def test_a_device_that_is_not_shown(monkeypatch: pytest.MonkeyPatch, visible: str | None, said: str) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 1)
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    if visible is not None:
        monkeypatch.setenv("CUDA_VISIBLE_DEVICES", visible)
    assert machine.resolve_device("cuda:0") == "cuda:0"
    with pytest.raises(ConfigError) as refused:
        machine.resolve_device("cuda:1")
    assert str(refused.value) == said
