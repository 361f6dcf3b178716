"""Learning: the network, one epoch of training, evaluation. Knows only the samples at hand."""

from forgetkit.learn.best import Best
from forgetkit.learn.budget import epoch_sizes
from forgetkit.learn.evaluation import accuracy
from forgetkit.learn.network import Normalize, built, measured, network
from forgetkit.learn.schedule import Schedule, by_share
from forgetkit.learn.training import EpochResult, Rate, Trainer

__all__ = [
    "Best",
    "EpochResult",
    "Normalize",
    "Rate",
    "Schedule",
    "Trainer",
    "accuracy",
    "built",
    "by_share",
    "epoch_sizes",
    "measured",
    "network",
]
