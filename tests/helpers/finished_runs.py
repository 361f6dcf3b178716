"""Fake finished runs: models by mega-batch, and their history."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from forgetkit.analysis.evidence import ModelEvidence
from forgetkit.contracts import DataPart
from forgetkit.data.batches import SamplePool
from forgetkit.seeding import Seeds

Pair = tuple[Tensor, Tensor]


class Past(ModelEvidence):
    """A run whose models are at hand; ``began`` is its first one, ``epochs`` its history."""

    def __init__(
        self,
        models: Mapping[int, nn.Module],
        test: Pair,
        *,
        classes: Sequence[str] = ("a", "b", "c"),
        standing: int | None = None,
        began: nn.Module | None = None,
        epochs: Sequence[Mapping[str, Any]] = (),
    ) -> None:
        self.models, self.test, self.began, self.epochs = models, test, began, epochs
        self.standing = max(models) if standing is None else standing
        self.asked: list[int] = []

        def pool(part: DataPart) -> SamplePool:
            return SamplePool(*test)

        initial = None if began is None else lambda: began
        super().__init__(models[self.standing].eval(), tuple(classes), Seeds(0), pool, False, initial)

    @property
    def mega_batch(self) -> int:
        return self.standing

    @property
    def mega_batches(self) -> tuple[int, ...]:
        return tuple(sorted(self.models))

    def at(self, mega_batch: int) -> Past:
        self.asked.append(mega_batch)
        return Past(
            self.models, self.test, classes=self.classes, standing=mega_batch, began=self.began, epochs=self.epochs
        )

    def history(self) -> Sequence[Mapping[str, Any]]:
        return [epoch for epoch in self.epochs if epoch["mega_batch"] <= self.standing]


class Oracle(nn.Module):
    """Says of sample number ``x`` what a table says."""

    def __init__(self, table: Sequence[int], classes: int) -> None:
        super().__init__()
        self.register_buffer("said", nn.functional.one_hot(torch.tensor(table), classes).float())

    def forward(self, x: Tensor) -> Tensor:
        return self.said[x[:, 0].long()]  # type: ignore[no-any-return, index]


def told(
    tables: Sequence[Sequence[int]], labels: Sequence[int], classes: Sequence[str] = ("a", "b", "c"), **more: Any
) -> Past:
    """A run with these predictions after mega-batch 1, 2, ..."""
    models = {n: Oracle(table, len(classes)) for n, table in enumerate(tables, 1)}
    numbers = torch.arange(len(labels)).float().unsqueeze(1)
    return Past(models, (numbers, torch.tensor(labels)), classes=classes, **more)
