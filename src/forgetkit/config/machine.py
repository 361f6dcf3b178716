"""The device, the number of threads and the cache folder of this machine."""

from __future__ import annotations

import os
from pathlib import Path

from forgetkit.errors import ConfigError


def default_threads() -> int:
    """The number of threads that torch uses by default."""
    import torch

    return torch.get_num_threads()


def resolve_device(name: str) -> str:
    """Resolve ``auto`` and check that the device exists; raises ``ConfigError`` if not."""
    import torch

    if name == "auto":
        if torch.cuda.is_available():
            return "cuda"
        return "mps" if torch.backends.mps.is_available() else "cpu"
    try:
        device = torch.device(name)
    except RuntimeError as error:
        raise ConfigError(f"--device {name}: not a device; use auto, cpu, cuda, cuda:N or mps") from error
    available = {"cpu": True, "cuda": torch.cuda.is_available(), "mps": torch.backends.mps.is_available()}
    if not available.get(device.type, False):
        raise ConfigError(f"--device {name}: this machine has none; use auto or cpu")
    if device.type == "cuda" and device.index is not None and device.index >= torch.cuda.device_count():
        raise ConfigError(f"--device {name}: {_device_count_message(torch.cuda.device_count())}")
    return name


def cache_folder() -> Path:
    """Return the folder of decoded data sets: ``$FORGETKIT_CACHE``, or one in the user's cache folder."""
    own = os.environ.get("FORGETKIT_CACHE")
    if own:
        return Path(own)
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "forgetkit"


def _device_count_message(count: int) -> str:
    visible = os.environ.get("CUDA_VISIBLE_DEVICES")
    if visible is None:
        return f"this machine has {count}, counted from cuda:0"
    return (
        f"CUDA_VISIBLE_DEVICES={visible} shows {count}, counted from cuda:0; a worker of --jobs is shown its own "
        "alone: use --device cuda, or --executor local:jobs=N,devices=none"
    )
