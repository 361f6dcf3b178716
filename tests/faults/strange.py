"""A plugin of a single file for runs that are to be broken: with states, with draws of its own, slow where asked."""

from __future__ import annotations

import os
import random
import time
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import nn

import forgetkit
from forgetkit.contracts import EpochEnded, Intervention


@dataclass(frozen=True)
class Pull(Intervention):
    """Pull the weights towards their running mean, and shake them: with a state and with draws of its own."""

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


@dataclass(frozen=True)
class Lingers(Intervention):
    """In the step ``step`` of an epoch (from 0) stays for ``seconds``, and leaves a file ``here`` to say so."""

    step: int = 3
    seconds: float = 0.3
    epoch: int = 2

    def after_step(self, moment):
        if (moment.step, moment.epoch) == (self.step, self.epoch):  # it is tried out in the first epoch
            Path("here").touch()
            time.sleep(self.seconds)


@dataclass(frozen=True)
class DropNet:
    """Convolution, batch normalisation, dropout and a linear head."""

    width: int = 4

    def build(self, inputs, normalize):
        return nn.Sequential(
            normalize,
            nn.Conv2d(inputs.shape[0], self.width, 3, padding=1),
            nn.BatchNorm2d(self.width),
            nn.ReLU(),
            nn.Dropout(0.3),
            nn.Flatten(),
            nn.Linear(self.width * inputs.shape[1] * inputs.shape[2], inputs.classes),
        )


@dataclass(frozen=True)
class Draws:
    """An observer that draws from every global stream of random numbers there is."""

    def notify(self, event):
        torch.rand(3)
        np.random.rand(3)
        random.random()


@dataclass(frozen=True)
class Halts:
    """An observer that sends its own process a signal at the end of an epoch, once."""

    number: int = 15
    mega_batch: int = 1
    epoch: int = 1

    def notify(self, event):
        if isinstance(event, EpochEnded) and (event.mega_batch, event.epoch) == (self.mega_batch, self.epoch):
            os.kill(os.getpid(), self.number)


@forgetkit.hookimpl
def forgetkit_interventions():
    return {"pull": Pull, "lingers": Lingers}


@forgetkit.hookimpl
def forgetkit_models():
    return {"dropnet": DropNet}


@forgetkit.hookimpl
def forgetkit_observers():
    return {"draws": Draws, "halts": Halts}
