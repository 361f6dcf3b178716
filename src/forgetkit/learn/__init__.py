"""Learning: the network, one epoch of training, evaluation. Knows only the samples at hand."""

from forgetkit.learn.best import Best
from forgetkit.learn.evaluation import accuracy
from forgetkit.learn.network import Normalize, built, measured, network
from forgetkit.learn.schedule import Schedule
from forgetkit.learn.training import EpochResult, Trainer

__all__ = [
    "Best",
    "EpochResult",
    "Normalize",
    "Schedule",
    "Trainer",
    "accuracy",
    "built",
    "measured",
    "network",
]
