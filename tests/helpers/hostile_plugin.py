"""A plugin for runs that tests interrupt: components with state, with random draws, and with pauses."""

from __future__ import annotations

import itertools
import os
import random
import time
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import nn

import forgetkit
from forgetkit.contracts import Intervention


@dataclass(frozen=True)
class Pull(Intervention):
    """Pull the weights towards their running mean and add noise: has state and draws."""

    strength: float = 0.01

    def begin(self, moment):
        for name, p in moment.model.named_parameters():
            moment.state.setdefault(name, p.detach().clone())
        moment.state["begun"] = moment.state.get("begun", torch.zeros(())) + 1

    def loss(self, moment):
        return self.strength * sum((p - moment.state[n]).square().sum() for n, p in moment.model.named_parameters())

    @torch.no_grad()
    def after_step(self, moment):
        for name, p in moment.model.named_parameters():
            moment.state[name].lerp_(p, 0.1 / moment.state["begun"].item())
            p.add_(torch.randn(p.shape, generator=moment.rng), alpha=1e-3)

    @torch.no_grad()
    def after_epoch(self, moment):
        for p in moment.model.parameters():
            p.add_(torch.randn(p.shape, generator=moment.rng), alpha=1e-3)


def linger():
    """Wait for a file ``go``; a file ``here-PID`` announces the pause."""
    if not Path("go").exists():
        Path(f"here-{os.getpid()}").touch()
    until = time.monotonic() + 60
    while not Path("go").exists() and time.monotonic() < until:
        time.sleep(0.005)


@dataclass(frozen=True)
class Lingers(Intervention):
    """Pauses after a step (from 0) of an epoch (from 1)."""

    step: int = 3
    epoch: int = 2

    def after_step(self, moment):
        if (moment.step, moment.epoch) == (self.step, self.epoch):  # the smoke test has epoch 1
            linger()


@dataclass(frozen=True)
class Ponders:
    """The magnitude; pauses at each scoring but the smoke test."""

    def score(self, probe):
        if next(scorings):
            linger()
        return {name: p.detach().abs() for name, p in probe.targets.items()}


scorings = itertools.count()


class Hesitant(nn.Module):
    """Pauses at an evaluation after some training."""

    def __init__(self):
        super().__init__()
        self.trained = 0

    def forward(self, inputs):
        self.trained += self.training
        if self.trained > 8 and not self.training:
            linger()
        return inputs


@dataclass(frozen=True)
class Slow:
    """A data set that never loads."""

    def load(self, context):
        linger()
        raise OSError("nothing came")


@dataclass(frozen=True)
class DropNet:
    """Convolution, batch normalisation, dropout and a linear head."""

    width: int = 4
    hesitant: bool = False

    def build(self, inputs, normalize):
        return nn.Sequential(
            normalize,
            *([Hesitant()] if self.hesitant else []),
            nn.Conv2d(inputs.shape[0], self.width, 3, padding=1),
            nn.BatchNorm2d(self.width),
            nn.ReLU(),
            nn.Dropout(0.3),
            nn.Flatten(),
            nn.Linear(self.width * inputs.shape[1] * inputs.shape[2], inputs.classes),
        )


@dataclass(frozen=True)
class Draws:
    """An observer that draws from every global random generator."""

    def notify(self, event):
        torch.rand(3)
        np.random.rand(3)
        random.random()


@forgetkit.hookimpl
def forgetkit_interventions():
    return {"pull": Pull, "lingers": Lingers}


@forgetkit.hookimpl
def forgetkit_importance():
    return {"ponders": Ponders}


@forgetkit.hookimpl
def forgetkit_models():
    return {"dropnet": DropNet}


@forgetkit.hookimpl
def forgetkit_datasets():
    return {"slow": Slow}


@forgetkit.hookimpl
def forgetkit_observers():
    return {"draws": Draws}
