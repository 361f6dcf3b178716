"""Forgetting, for any ``nn.Module`` in anybody's loop. Knows nothing of streams, runs or plugins."""

from forgetkit.forgetting.anatomy import head_of
from forgetkit.forgetting.fresh import Birth
from forgetkit.forgetting.probe import Lazy
from forgetkit.forgetting.report import LayerReport, UnlearnReport
from forgetkit.forgetting.selection import count_of, select
from forgetkit.forgetting.unlearning import Aftercare, Scoring, score, unlearn

__all__ = [
    "Aftercare",
    "Birth",
    "LayerReport",
    "Lazy",
    "Scoring",
    "UnlearnReport",
    "count_of",
    "head_of",
    "score",
    "select",
    "unlearn",
]
