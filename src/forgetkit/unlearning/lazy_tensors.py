"""Mappings whose tensors are computed when they are read."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Mapping

from torch import Tensor


class LazyTensors(Mapping[str, Tensor]):
    """Tensors by name, each computed anew on every access."""

    def __init__(self, names: Collection[str], compute: Callable[[str], Tensor]) -> None:
        self._names, self._compute = names, compute

    def __getitem__(self, name: str) -> Tensor:
        if name not in self._names:
            raise KeyError(name)
        return self._compute(name)

    def __contains__(self, name: object) -> bool:
        return name in self._names

    def __iter__(self) -> Iterator[str]:
        return iter(self._names)

    def __len__(self) -> int:
        return len(self._names)


class LazyScores(LazyTensors):
    """Scores computed a parameter at a time, for criteria that need no data.

    Args:
        targets: The parameters to score, by name.
        compute: Maps a parameter to its scores, of the same shape.
    """

    def __init__(self, targets: Mapping[str, Tensor], compute: Callable[[Tensor], Tensor]) -> None:
        super().__init__(targets.keys(), lambda name: compute(targets[name]))
