"""Learning: the network, one epoch of training, evaluation. Knows only the samples at hand."""

from forgetkit.learn.best import Best
from forgetkit.learn.budget import EpochSizes, epoch_sizes
from forgetkit.learn.captured import cuda_graph
from forgetkit.learn.evaluation import accuracy
from forgetkit.learn.network import Normalize, built, measured, network
from forgetkit.learn.numerics import PrecisionTrial, arranged, memory_format, operations, threads
from forgetkit.learn.outputs import audit_outputs
from forgetkit.learn.schedule import Schedule, by_share
from forgetkit.learn.training import EpochResult, Rate, Trainer, require_finite
from forgetkit.learn.underway import Underway

__all__ = [
    "Best",
    "EpochResult",
    "EpochSizes",
    "Normalize",
    "PrecisionTrial",
    "Rate",
    "Schedule",
    "Trainer",
    "Underway",
    "accuracy",
    "arranged",
    "audit_outputs",
    "built",
    "by_share",
    "cuda_graph",
    "epoch_sizes",
    "measured",
    "memory_format",
    "network",
    "operations",
    "require_finite",
    "threads",
]
