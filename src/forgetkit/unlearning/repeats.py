"""Values that two builds of a network have in common: a reset cannot make these fresh."""

from __future__ import annotations

from collections.abc import Callable, Collection
from dataclasses import dataclass

from torch import nn

from forgetkit.seeding import Seeds, seeded_rng
from forgetkit.unlearning.fingerprints import fingerprints
from forgetkit.unlearning.tensor_checks import is_constant


@dataclass(frozen=True)
class RepeatedValues:
    """What two builds of a network under different seeds have in common.

    Attributes:
        same: Names of the ``varied`` parameters that are equal in both builds.
        varied: Names of the parameters whose entries are not all equal; a constant 1 or 0 is meant to be constant.
        remedy: Ends the line about them.
    """

    same: tuple[str, ...]
    varied: tuple[str, ...]
    remedy: str

    @classmethod
    def of(cls, build: Callable[[], nn.Module], remedy: str) -> RepeatedValues:
        """Build the network twice; the global random state stays as it is."""
        first, second = (_fingerprints(build, Seeds(number)) for number in range(2))
        return cls(tuple(name for name in first if second.get(name) == first[name]), tuple(first), remedy)

    def line(self, names: Collection[str]) -> str | None:
        """Return a line about those of the tensors in ``names`` that are the same, or None."""
        same, varied = ([name for name in found if name in names] for found in (self.same, self.varied))
        if not same:
            return None
        shown = same[0] + (", …" if len(same) > 1 else "")
        return (
            f"{len(same)} of {len(varied)} random-looking tensors are the same in two builds of the network ({shown}): "
            f"the builder loads or fixes its weights, so a reset gives back these values each time; {self.remedy}"
        )


def _fingerprints(build: Callable[[], nn.Module], seeds: Seeds) -> dict[str, int]:
    with seeded_rng(seeds.number("build")):
        model = build()
    varied = {name: p for name, p in model.named_parameters() if not is_constant(p)}
    return dict(zip(varied, fingerprints(varied.values()), strict=True))
