"""The stream of mega-batches: a partition fixed by the seed, a ledger of readable samples, batches on the device."""

from forgetkit.data.audit import audit_classes, audit_samples, class_counts
from forgetkit.data.batches import SamplePool, epoch_batches
from forgetkit.data.label_noise import add_label_noise, few_shots
from forgetkit.data.ledger import LazySubset, Ledger
from forgetkit.data.partition import MegaBatch, digest, partition
from forgetkit.data.stream import Stream, VisibleData, simulate_replay
from forgetkit.data.validation import check_data, content_digest, load_data

__all__ = [
    "LazySubset",
    "Ledger",
    "MegaBatch",
    "SamplePool",
    "Stream",
    "VisibleData",
    "add_label_noise",
    "audit_classes",
    "audit_samples",
    "check_data",
    "class_counts",
    "content_digest",
    "digest",
    "epoch_batches",
    "few_shots",
    "load_data",
    "partition",
    "simulate_replay",
]
