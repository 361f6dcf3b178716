"""Learning: the network, one epoch of training, evaluation. Knows only the samples at hand."""

from forgetkit.training.budget import EpochSizes, epoch_sizes
from forgetkit.training.cuda_graph import cuda_graph
from forgetkit.training.early_stopping import EarlyStopping
from forgetkit.training.epoch_progress import EpochProgress
from forgetkit.training.evaluation import count_correct
from forgetkit.training.network import Normalize, build_model, build_network, measure_normalization
from forgetkit.training.output_audit import audit_outputs
from forgetkit.training.precision import (
    PrecisionTrial,
    choose_memory_format,
    choose_threads,
    count_operations,
    to_device,
)
from forgetkit.training.schedule import Schedule, share_milestones
from forgetkit.training.trainer import EpochResult, Rate, Trainer, require_finite

__all__ = [
    "EarlyStopping",
    "EpochProgress",
    "EpochResult",
    "EpochSizes",
    "Normalize",
    "PrecisionTrial",
    "Rate",
    "Schedule",
    "Trainer",
    "audit_outputs",
    "build_model",
    "build_network",
    "choose_memory_format",
    "choose_threads",
    "count_correct",
    "count_operations",
    "cuda_graph",
    "epoch_sizes",
    "measure_normalization",
    "require_finite",
    "share_milestones",
    "to_device",
]
