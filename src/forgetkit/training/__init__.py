"""Training: the network, one epoch, evaluation. This package knows nothing of streams and runs."""

from forgetkit.training.budget import EpochSizes, epoch_sizes
from forgetkit.training.cuda_graph import cuda_graph
from forgetkit.training.early_stopping import EarlyStopping
from forgetkit.training.epoch_progress import EpochProgress, EpochResult
from forgetkit.training.evaluation import count_correct, eval_mode
from forgetkit.training.network import Normalize, build_model, build_network, copy_network, measure_normalization
from forgetkit.training.output_audit import audit_outputs
from forgetkit.training.precision import (
    bf16_failure,
    choose_memory_format,
    choose_precision,
    choose_threads,
    count_operations,
    is_worth_bf16,
    to_device,
)
from forgetkit.training.schedule import Schedule, share_milestones
from forgetkit.training.trainer import Rate, Trainer

__all__ = [
    "EarlyStopping",
    "EpochProgress",
    "EpochResult",
    "EpochSizes",
    "Normalize",
    "Rate",
    "Schedule",
    "Trainer",
    "audit_outputs",
    "bf16_failure",
    "build_model",
    "build_network",
    "choose_memory_format",
    "choose_precision",
    "choose_threads",
    "copy_network",
    "count_correct",
    "count_operations",
    "cuda_graph",
    "epoch_sizes",
    "eval_mode",
    "is_worth_bf16",
    "measure_normalization",
    "share_milestones",
    "to_device",
]
