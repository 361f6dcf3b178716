"""Unlearning for any ``nn.Module`` in any training loop. Knows nothing of streams, runs or plugins.

Read ``pipeline`` first: score, select, apply.
"""

from forgetkit.unlearning.building import lookup, unwrap
from forgetkit.unlearning.followers import Followers
from forgetkit.unlearning.fresh_values import NO_HISTORY, Memory, ModelHistory
from forgetkit.unlearning.interventions import InterventionRunner, StepHooks, TrainStep, overridden_hooks
from forgetkit.unlearning.labels import class_probabilities, require_classes
from forgetkit.unlearning.lazy_tensors import LazyScores
from forgetkit.unlearning.masks import MaskRecorder, Masks, from_state
from forgetkit.unlearning.model_view import Scoring
from forgetkit.unlearning.objective import Objective
from forgetkit.unlearning.optimizer_state import list_optimizers, require_trained_by
from forgetkit.unlearning.pass_counter import PassCounter
from forgetkit.unlearning.pipeline import ResetPolicy, require_consistent, score, unlearn
from forgetkit.unlearning.process_layout import ProcessLayout, find_group, is_alone_among_others
from forgetkit.unlearning.protection import Protect, Protection
from forgetkit.unlearning.repeats import RepeatedValues
from forgetkit.unlearning.report import LayerReport, UnlearnReport
from forgetkit.unlearning.selection import Selection, count_of, select
from forgetkit.unlearning.selection_group import SelectionGroup
from forgetkit.unlearning.support import require_supported

__all__ = [
    "NO_HISTORY",
    "Followers",
    "InterventionRunner",
    "LayerReport",
    "LazyScores",
    "MaskRecorder",
    "Masks",
    "Memory",
    "ModelHistory",
    "Objective",
    "PassCounter",
    "ProcessLayout",
    "Protect",
    "Protection",
    "RepeatedValues",
    "ResetPolicy",
    "Scoring",
    "Selection",
    "SelectionGroup",
    "StepHooks",
    "TrainStep",
    "UnlearnReport",
    "class_probabilities",
    "count_of",
    "find_group",
    "from_state",
    "head_of",
    "is_alone_among_others",
    "list_optimizers",
    "lookup",
    "overridden_hooks",
    "require_classes",
    "require_consistent",
    "require_supported",
    "require_trained_by",
    "score",
    "select",
    "unlearn",
    "unwrap",
]
