"""The events of a run, and the result of a mega-batch.

The engine emits events and prints nothing. Displays, the record of a run and loggers are observers of the same events.
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
    """The progress of a slow operation before training.

    Attributes:
        what: The operation.
        done: Units done so far.
        total: Units in total.
    """

    what: str
    done: int
    total: int


@dataclass(frozen=True)
class RunStarted(Event):
    """A run begins or resumes.

    Attributes:
        run: The id of the run.
        directory: The run directory.
        method: The name of the method.
        config: Every option.
        parameters: The number of trainable entries.
        mega_batches: The number of mega-batches.
        epochs: Epochs per mega-batch; None if ``--samples`` sets the length.
        samples: For each mega-batch, the training samples that all its epochs see, at most.
        done: Finished mega-batches, in a resumed run.
        done_epochs: Finished epochs of the next mega-batch.
        done_samples: Samples that these epochs have seen.
        preset: The preset.
        overrides: Options that differ from the preset: ``value`` and ``preset``.
        resume_message: Where a resumed run continues, in words; None for a new run.
        augment: The augmentation in use.
    """

    run: str
    directory: str
    method: str
    config: Mapping[str, Any]
    parameters: int
    mega_batches: int
    epochs: int | None
    samples: tuple[int, ...]
    done: int = 0
    done_epochs: int = 0
    done_samples: int = 0
    preset: str = ""
    overrides: Mapping[str, Any] = field(default_factory=dict)
    resume_message: str | None = None
    augment: str = "none"


@dataclass(frozen=True)
class OptionResolved(Event):
    """An option with the value ``auto`` is resolved.

    Attributes:
        option: The name of the option.
        value: Its value in this run.
        reason: Why.
    """

    option: str
    value: str
    reason: str


@dataclass(frozen=True)
class MegaBatchRevealed(Event):
    """A mega-batch arrives.

    Attributes:
        mega_batch: Its number, from 1.
        arrived: The samples in it.
        train_samples: Samples to train on, replay included.
        val_samples: Samples to validate on, replay included.
    """

    mega_batch: int
    arrived: int
    train_samples: int
    val_samples: int


@dataclass(frozen=True)
class StepProgress(Event):
    """The progress of an epoch; a few times a second at most.

    Attributes:
        mega_batch: The mega-batch, from 1.
        epoch: The epoch, from 1.
        done: Steps done so far.
        total: Steps of the epoch.
    """

    mega_batch: int
    epoch: int
    done: int
    total: int


@dataclass(frozen=True)
class EpochEnded(Event):
    """An epoch ends.

    Attributes:
        mega_batch: The mega-batch, from 1.
        epoch: The epoch, from 1.
        epochs: Epochs of the mega-batch.
        loss: Mean training loss over the epoch, while the weights change.
        accuracy: Mean training accuracy over the epoch, in [0, 1].
        lr: The learning rate.
        samples: Samples that the epoch has seen.
        seconds: Duration.
        val_accuracy: Validation accuracy in [0, 1]; None if the run does not compute it after each epoch.
        skipped: Steps that ``--on-nan skip`` left out; loss and accuracy exclude them.
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
    """The network forgets after a mega-batch.

    Attributes:
        mega_batch: The mega-batch, from 1.
        report: What changed, by layer.
    """

    mega_batch: int
    report: Mapping[str, Any]


@dataclass(frozen=True)
class Checkpointed(Event):
    """A checkpoint to resume from is on disk.

    Attributes:
        mega_batch: The mega-batch, from 1.
        epoch: Finished epochs of it.
        file: The name of the file.
        step: Finished steps of the next epoch.
    """

    mega_batch: int
    epoch: int
    file: str
    step: int = 0


@dataclass(frozen=True)
class MegaBatchResult:
    """The result of a finished mega-batch.

    Attributes:
        index: The mega-batch, from 1.
        train_samples: Training samples, replay included.
        val_samples: Validation samples, replay included.
        epochs: Epochs that began.
        samples_seen: Training samples that all epochs have seen.
        train_accuracy: Accuracy on the training samples, in [0, 1].
        val_accuracy: Accuracy on the validation samples; None without any.
        generalization_gap: Training less validation accuracy, in [-1, 1]; None without validation samples.
        test_accuracy: Accuracy on the test samples, in [0, 1].
        test_errors: Wrong predictions on the test samples.
        test_samples: The number of test samples.
        forward_passes: Samples that training, interventions and the reset passed forward; evaluation is not counted.
        backward_passes: Samples that they passed backward.
        seconds: Duration.
        unlearn: The report of the reset after it; None for the last mega-batch.
        carried_epoch: The epoch whose weights were evaluated and carried on.
        interventions: Entries that each intervention has reset, by its name.
        skipped_steps: Steps that ``--on-nan skip`` left out.
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
    """A mega-batch is trained, evaluated and, unless it is the last, followed by a reset.

    Attributes:
        row: Its result.
    """

    row: MegaBatchResult


@dataclass(frozen=True)
class RunEnded(Event):
    """The run is complete.

    Attributes:
        result: The content of ``result.json``.
    """

    result: Mapping[str, Any]
