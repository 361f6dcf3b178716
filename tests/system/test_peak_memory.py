"""The most memory in use on a device, as torch counts it."""

from __future__ import annotations

import pytest
import torch

from forgetkit.system import peak_memory


@pytest.mark.parametrize("device", ["cuda", "cuda:0", "cuda:1"])
def test_a_device_that_nothing_has_used_yet_is_watched(monkeypatch: pytest.MonkeyPatch, device: str) -> None:
    """As torch has it: what is asked of a device by its index fails until CUDA is initialised."""
    ready = []

    def reset(_: torch.device) -> None:
        if not ready:
            raise RuntimeError("Invalid device argument")

    monkeypatch.setattr(torch.cuda, "init", lambda: ready.append(True))
    monkeypatch.setattr(torch.cuda, "reset_peak_memory_stats", reset)
    monkeypatch.setattr(torch.cuda, "max_memory_allocated", str)
    assert peak_memory.track_peak(torch.device(device))() == device
