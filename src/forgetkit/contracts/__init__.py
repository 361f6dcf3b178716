"""What each offered component must do, and the small typed values handed between them.

A component is a frozen dataclass: its fields are its options, the first line of its docstring
is its summary, and it has one verb. The protocols here are structural: a plugin's class need
not inherit from anything.
"""

from forgetkit.contracts.components import (
    Analysis,
    Change,
    DatasetSource,
    Executor,
    Importance,
    Intervention,
    Layer,
    LoadContext,
    Metric,
    ModelBuilder,
    Moment,
    Observer,
    Probe,
    ProgressReport,
    Reinit,
    ReinitContext,
    Replay,
)
from forgetkit.contracts.data import Augmentation, Data, Inputs, Part, Samples
from forgetkit.contracts.events import (
    Checkpointed,
    EpochEnded,
    Event,
    MegaBatchEnded,
    MegaBatchRevealed,
    MegaBatchRow,
    Preparing,
    RunEnded,
    RunStarted,
    Stepped,
    Unlearned,
)

__all__ = [
    "Analysis",
    "Augmentation",
    "Change",
    "Checkpointed",
    "Data",
    "DatasetSource",
    "EpochEnded",
    "Event",
    "Executor",
    "Importance",
    "Inputs",
    "Intervention",
    "Layer",
    "LoadContext",
    "MegaBatchEnded",
    "MegaBatchRevealed",
    "MegaBatchRow",
    "Metric",
    "ModelBuilder",
    "Moment",
    "Observer",
    "Part",
    "Preparing",
    "Probe",
    "ProgressReport",
    "Reinit",
    "ReinitContext",
    "Replay",
    "RunEnded",
    "RunStarted",
    "Samples",
    "Stepped",
    "Unlearned",
]
