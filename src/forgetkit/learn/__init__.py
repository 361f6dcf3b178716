"""Learning: the network, one epoch of training, evaluation. Knows only the samples at hand."""

from forgetkit.learn.evaluation import accuracy
from forgetkit.learn.network import Normalize, built, measured, network
from forgetkit.learn.training import EpochResult, Trainer, lr_at

__all__ = [
    "EpochResult",
    "Normalize",
    "Trainer",
    "accuracy",
    "built",
    "lr_at",
    "measured",
    "network",
]
