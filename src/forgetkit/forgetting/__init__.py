"""Forgetting, for any ``nn.Module`` in anybody's loop. Knows nothing of streams, runs or plugins."""

from forgetkit.forgetting.anatomy import head_of
from forgetkit.forgetting.probe import Lazy
from forgetkit.forgetting.report import LayerReport, UnlearnReport
from forgetkit.forgetting.selection import count_of, lowest
from forgetkit.forgetting.unlearning import score, unlearn

__all__ = ["LayerReport", "Lazy", "UnlearnReport", "count_of", "head_of", "lowest", "score", "unlearn"]
