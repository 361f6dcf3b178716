"""The scale of fresh values beside that of a network that is known to be new."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from torch import Tensor

_FEWEST = 64
"""Below this many entries, two draws from one distribution may differ twofold by chance."""
_APART = 2.0


@dataclass(frozen=True)
class Scale:
    """The size of a tensor's entries.

    Attributes:
        std: Their standard deviation; 0 if they are all equal.
        mean_abs: The mean of their absolute values.
    """

    std: float
    mean_abs: float

    @classmethod
    def of(cls, value: Tensor) -> Scale | None:
        """Measure a tensor; None if it has too few entries to tell."""
        if value.numel() < _FEWEST or not value.is_floating_point():
            return None
        entries = value.detach().double()
        constant = bool((entries == entries.flatten()[0]).all())
        return cls(0.0 if constant else float(entries.std(correction=0)), float(entries.abs().mean()))

    def differs_from(self, other: Scale) -> bool:
        """Whether the scales are more than twofold apart, or only one of the tensors is constant."""
        own, there = (self.mean_abs, other.mean_abs) if self.std == other.std == 0 else (self.std, other.std)
        return max(own, there) > _APART * min(own, there)


def scale_remark(drawn: Mapping[str, Scale], known: Mapping[str, Scale], where: str) -> str | None:
    """Return a line if fresh values have another scale than a new network, or None."""
    apart = [name for name in known if drawn[name].differs_from(known[name])]
    if not apart:
        return None
    name = apart[0]
    return (
        f"the fresh values of {len(apart)} of {len(known)} parameters differ more than twofold in scale from {where} "
        f"('{name}': standard deviation {drawn[name].std:.3g} drawn, {known[name].std:.3g} there): if code outside the "
        "network's classes initialises it, pass build=, a function that does all of it"
    )
