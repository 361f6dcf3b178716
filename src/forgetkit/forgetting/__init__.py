"""Forgetting, for any ``nn.Module`` in anybody's loop. Knows nothing of streams, runs or plugins."""

from forgetkit.forgetting.acting import Acting, Place, Step, moments_of
from forgetkit.forgetting.anatomy import head_of
from forgetkit.forgetting.fresh import NOTHING_KNOWN, Memory, Past, Repeats
from forgetkit.forgetting.labels import class_probabilities, require_classes
from forgetkit.forgetting.masks import Masks, Noted, restored
from forgetkit.forgetting.passes import Passes
from forgetkit.forgetting.probe import Lazy
from forgetkit.forgetting.processes import Processes
from forgetkit.forgetting.report import LayerReport, UnlearnReport
from forgetkit.forgetting.selection import count_of, select
from forgetkit.forgetting.subject import Scoring
from forgetkit.forgetting.unlearning import Aftercare, plain, require_trained_by, score, unlearn

__all__ = [
    "NOTHING_KNOWN",
    "Acting",
    "Aftercare",
    "LayerReport",
    "Lazy",
    "Masks",
    "Memory",
    "Noted",
    "Passes",
    "Past",
    "Place",
    "Processes",
    "Repeats",
    "Scoring",
    "Step",
    "UnlearnReport",
    "class_probabilities",
    "count_of",
    "head_of",
    "moments_of",
    "plain",
    "require_classes",
    "require_trained_by",
    "restored",
    "score",
    "select",
    "unlearn",
]
