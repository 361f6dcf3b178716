"""What happens in a run, as small frozen values.

The engine emits them and prints nothing. The live screen, the run's record and a plugin's
logger are observers of the same events.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any


@dataclass(frozen=True)
class Event:
    """Base of all events."""


@dataclass(frozen=True)
class LoadProgress(Event):
    """Something slow comes before the run: ``done`` of ``total`` units of ``what``."""

    what: str
    done: int
    total: int


@dataclass(frozen=True)
class RunStarted(Event):
    """A run begins, or goes on after ``done`` finished mega-batches and ``done_epochs`` of the next."""

    run: str
    directory: str
    method: str
    config: Mapping[str, Any]
    parameters: int
    mega_batches: int
    epochs: int | None
    """Epochs of each mega-batch; None where a number of samples is given out instead."""
    samples: tuple[int, ...]
    """Samples that will be seen in each mega-batch, all its epochs together; with patience, at most."""
    done: int = 0
    done_epochs: int = 0
    done_samples: int = 0
    """Samples that those epochs have seen."""
    preset: str = ""
    overrides: Mapping[str, Any] = field(default_factory=dict)
    """Options that differ from the preset's, and their two values."""
    resume_message: str | None = None
    """Where a resumed run goes on, in words; None for one that is new."""
    augment: str = "none"
    """What is done to training images: what ``auto`` has become."""


@dataclass(frozen=True)
class OptionResolved(Event):
    """An option that was left open is found to be best at ``value``, and the ``reason`` why."""

    option: str
    value: str
    reason: str


@dataclass(frozen=True)
class MegaBatchRevealed(Event):
    """Mega-batch ``mega_batch`` (from 1) has arrived; ``train_samples`` will be trained on."""

    mega_batch: int
    arrived: int
    train_samples: int
    val_samples: int


@dataclass(frozen=True)
class StepProgress(Event):
    """``done`` of ``total`` optimizer steps of an epoch are made (a few times a second at most)."""

    mega_batch: int
    epoch: int
    done: int
    total: int


@dataclass(frozen=True)
class EpochEnded(Event):
    """An epoch ended; loss and accuracy are means over it, while the weights were changing.

    ``val_accuracy`` is known where a run looks at it after each epoch; ``skipped`` steps were not made (``--on-nan
    skip``), and count neither in loss nor in accuracy.
    """

    mega_batch: int
    epoch: int
    epochs: int
    loss: float
    accuracy: float
    lr: float
    samples: int
    seconds: float
    val_accuracy: float | None = None
    skipped: int = 0


@dataclass(frozen=True)
class Unlearned(Event):
    """The network forgot after mega-batch ``mega_batch``; ``report`` is the audit."""

    mega_batch: int
    report: Mapping[str, Any]


@dataclass(frozen=True)
class Checkpointed(Event):
    """A state that the run can be continued from is on disk, after ``epoch`` epochs and ``step`` steps of the next."""

    mega_batch: int
    epoch: int
    file: str
    step: int = 0


@dataclass(frozen=True)
class MegaBatchResult:
    """What a finished mega-batch amounts to: one row of the table, one entry of the result.

    Accuracies and the gap are fractions of one, ``None`` where there were no validation samples.
    ``epochs`` were begun, of which the weights after ``carried_epoch`` are judged and carried on. ``forward_passes``
    and ``backward_passes`` count the samples that training, interventions and the forgetting after it ran through
    the network, not those that it was judged on. ``interventions`` says how many entries each of them has
    reset meanwhile, by name; 0 for one that resets none. ``skipped_steps`` were left out by ``--on-nan skip``.
    """

    index: int
    train_samples: int
    val_samples: int
    epochs: int
    samples_seen: int
    train_accuracy: float
    val_accuracy: float | None
    generalization_gap: float | None
    test_accuracy: float
    test_errors: int
    test_samples: int
    forward_passes: int
    backward_passes: int
    seconds: float
    unlearn: Mapping[str, Any] | None = field(default=None)
    carried_epoch: int | None = None
    interventions: Mapping[str, int] = field(default_factory=dict)
    skipped_steps: int = 0


@dataclass(frozen=True)
class MegaBatchEnded(Event):
    """Mega-batch learned, evaluated and (but for the last) forgotten."""

    row: MegaBatchResult


@dataclass(frozen=True)
class RunEnded(Event):
    """The run is complete; ``result`` is the content of ``result.json``."""

    result: Mapping[str, Any]
