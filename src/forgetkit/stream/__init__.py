"""The stream: a partition fixed by the seed, a ledger of who may see what, and batches on the device."""

from forgetkit.stream.audit import audit_classes, audit_samples, class_counts
from forgetkit.stream.batches import Pool, epoch_batches
from forgetkit.stream.check import check_data, content_digest, load_data
from forgetkit.stream.ledger import Excerpt, Ledger
from forgetkit.stream.partition import MegaBatch, digest, partition
from forgetkit.stream.samples import few_shots, noisy
from forgetkit.stream.stream import Revealed, Stream, played

__all__ = [
    "Excerpt",
    "Ledger",
    "MegaBatch",
    "Pool",
    "Revealed",
    "Stream",
    "audit_classes",
    "audit_samples",
    "check_data",
    "class_counts",
    "content_digest",
    "digest",
    "epoch_batches",
    "few_shots",
    "load_data",
    "noisy",
    "partition",
    "played",
]
