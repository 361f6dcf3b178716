"""What a run would hand a component, without what a run puts back afterwards or stops at."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import cross_entropy

from forgetkit.forgetting import Past, Scoring
from forgetkit.forgetting.subject import Subject, SubjectProbe
from forgetkit.seeding import Seeds
from forgetkit.testing.networks import Situation

SEEDS = Seeds(20230101).within("conformance")


class WatchedProbe(SubjectProbe):
    """A probe that takes note of which samples are drawn."""

    def __init__(self, subject: Subject, who: str, memory: Mapping[str, Tensor]) -> None:
        super().__init__(subject, who, memory)
        self._drawn: set[bytes] = set()

    @property
    def drawn(self) -> int:
        """How many different samples have been drawn."""
        return len(self._drawn)

    def batches(self, samples: int | float | None = None) -> Iterator[tuple[Tensor, Tensor]]:
        """Those of the subject."""
        for inputs, targets in super().batches(samples):
            self._drawn.update(sample.contiguous().numpy().tobytes() for sample in inputs)
            yield inputs, targets


def subject_of(situation: Situation) -> Subject:
    """The network, examined, in eval mode; its weights were twice as large once, and a little smaller a while ago."""
    model = situation.model.eval()
    tensors = {**dict(model.named_parameters()), **dict(model.named_buffers())}
    initial, previous = (
        {name: (t.detach() * factor).to(t.dtype) for name, t in tensors.items()} for factor in (2.0, 0.9)
    )
    past = Past(initial=initial.__getitem__, previous=previous.__getitem__)
    return Subject.of(model, situation.batches, cross_entropy, SEEDS, Scoring(), past)


@contextmanager
def scoring_stage(situation: Situation, criterion: Any) -> Iterator[WatchedProbe]:
    """The probe that ``criterion`` would get; what it leaves behind stays."""
    with torch.inference_mode(False), torch.enable_grad():
        yield WatchedProbe(subject_of(situation), type(criterion).__name__, {})
