"""Named random streams, derived from one seed.

A stream is derived, never carried: the generator for ``("order", 3, 7)`` is a function of the
seed and of those words alone. A checkpoint therefore holds no generator state, and whatever one
part of a run draws cannot shift what another part sees.
"""

from __future__ import annotations

import hashlib
import operator
import random
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from forgetkit.errors import OptionError

if TYPE_CHECKING:
    import numpy as np
    import torch


@dataclass(frozen=True)
class Seeds:
    """The random streams of one seed.

    ``scope`` prefixes every name, so that a part of the program can be handed streams of its own
    (``seeds.within("reinit", 3)``) without knowing where it stands.
    """

    seed: int
    scope: tuple[str | int, ...] = ()

    def __post_init__(self) -> None:
        try:  # a NumPy integer is the number it holds
            object.__setattr__(self, "seed", operator.index(self.seed))
        except TypeError as error:
            raise OptionError(f"seed={self.seed!r} is not a whole number") from error

    def within(self, *names: str | int) -> Seeds:
        """Append ``names`` to the scope."""
        return Seeds(self.seed, (*self.scope, *names))

    def number(self, *names: str | int) -> int:
        """A number in [0, 2**63) that is a function of the seed, the scope and ``names``."""
        words = repr((self.seed, *self.scope, *names)).encode()
        return int.from_bytes(hashlib.sha256(words).digest()[:8], "little") >> 1

    def torch(self, *names: str | int) -> torch.Generator:
        """A CPU generator; values are drawn there and moved, so that a device changes nothing."""
        import torch

        return torch.Generator().manual_seed(self.number(*names))

    def numpy(self, *names: str | int) -> np.random.Generator:
        """A NumPy generator."""
        import numpy as np

        return np.random.default_rng(self.number(*names))


@contextmanager
def preserved_rng() -> Iterator[None]:
    """Restore the global random state of Python, NumPy and torch on leaving."""
    import numpy as np
    import torch

    python, numpy_state = random.getstate(), np.random.get_state()
    devices = list(range(torch.cuda.device_count())) if torch.cuda.is_initialized() else []
    mps = torch.mps.get_rng_state() if torch.backends.mps.is_available() else None
    with torch.random.fork_rng(devices):
        try:
            yield
        finally:
            random.setstate(python)
            np.random.set_state(numpy_state)
            if mps is not None:
                torch.mps.set_rng_state(mps)


@contextmanager
def seeded_rng(seed: int) -> Iterator[None]:
    """Seed the global random state for code that draws from it (initialisation, dropout); restore it on leaving."""
    import numpy as np
    import torch

    with preserved_rng():
        random.seed(seed)
        np.random.seed(seed % 2**32)
        torch.default_generator.manual_seed(seed)
        # torch.manual_seed would also queue a seed for CUDA before it is initialised, which could not be undone.
        if torch.cuda.is_initialized():
            torch.cuda.manual_seed_all(seed)
        if torch.backends.mps.is_available():
            torch.mps.manual_seed(seed)
        yield


def capture_rng(device: torch.device) -> dict[str, Any]:
    """Capture the global random state of Python, NumPy and torch, in types that a checkpoint can hold.

    Of torch's generators it holds that of the CPU and of ``device``: another machine may have other devices.
    """
    import numpy as np
    import torch

    name, keys, *rest = np.random.get_state()
    return {
        "python": random.getstate(),
        "numpy": [name, torch.from_numpy(np.asarray(keys, dtype=np.int64)), *rest],
        "torch": torch.get_rng_state(),
        "device": {
            "cuda": lambda: torch.cuda.get_rng_state(device),
            "mps": torch.mps.get_rng_state,
        }.get(device.type, lambda: None)(),
    }


def restore_rng(draws: Mapping[str, Any], device: torch.device) -> None:
    """Set the global random state to what :func:`capture_rng` returned; call it within :func:`preserved_rng`.

    A device of another kind keeps its own seed.
    """
    import numpy as np
    import torch

    version, numbers, gauss = draws["python"]
    random.setstate((version, tuple(numbers), gauss))
    name, keys, position, *rest = draws["numpy"]
    if not 0 <= position <= len(keys):  # NumPy would read beyond its keys
        raise ValueError(f"the global random state of NumPy stands at {position}")
    np.random.set_state((name, keys.numpy().astype(np.uint32), position, *rest))
    torch.set_rng_state(draws["torch"])
    if draws["device"] is not None and device.type == "cuda":
        torch.cuda.set_rng_state(draws["device"], device)
    if draws["device"] is not None and device.type == "mps":
        torch.mps.set_rng_state(draws["device"])
