"""The words that options are spelled with, where more than one room uses them."""

from __future__ import annotations

from typing import Literal

Role = Literal["train", "val"]
Split = Literal["random", "contiguous"]
NoiseDraw = Literal["any", "other"]

Augmentation = Literal["none", "flip", "crop", "crop-flip"]
"""What may be done to a training image: a mirror image, a crop after padding by an eighth, both."""

ScoreOn = Literal["finished", "incoming", "first", "union"]
"""The training samples that are scored on: those of the mega-batch just learned, of the one that arrives next, of
the first, or all that is trained on next."""

Sampling = Literal["random", "head"]
Mode = Literal["eval", "train"]

Scope = Literal["all", "weights", "conv-linear"]
"""Which parameters. ``weights``: what a module calls a weight, a normalisation layer's scale included;
``conv-linear``: the matrices and kernels of modules that do not normalise."""

Which = Literal["lowest", "highest"]

Ties = Literal["random", "stable", "drop"]
"""Which of the entries that tie at the threshold: as many as are needed, drawn at random; as many, the first in
the order of parameters and entries; or all of them."""

Rounding = Literal["down", "up"]

Origin = Literal["original", "layer-default", "uniform", "rewind", "zero"]
"""Where a fresh value comes from. ``original``: the distribution that the entry's own module starts from in this
model; ``layer-default``: torch's ``reset_parameters()``; ``uniform``: U(±1/√fan_in), with a fan_in of 1 for a tensor of
one dimension; ``rewind``: the value that the entry began with; ``zero``."""

OptimizerState = Literal["zero", "keep", "fresh"]
BnStats = Literal["keep", "reset", "recalibrate"]

OptimizerName = Literal["sgd", "adamw"]
ScheduleKind = Literal["step", "cosine", "constant"]
Carry = Literal["last", "best-val"]

Keep = Literal["all", "last", "none"]
"""The models of a run that are kept, of those that were evaluated after each mega-batch."""

MOST_THREADS = 1024
"""More than any processor has; a system that is asked for a hundred thousand ends the process."""

Writes = Literal["weights", "biases", "norm", "stats", "optimizer", "loss", "gradients"]
"""What a way of forgetting or an intervention writes to. ``weights``: matrices and kernels of layers that do not
normalise; ``biases``: their other parameters; ``norm``: parameters of normalisation layers; ``stats``: buffers, running
statistics; ``optimizer``: the optimizer's state, beside what the host clears under a mask; ``loss``: a term is added;
``gradients``: what the optimizer will step by."""

Reference = Literal["initial", "previous"]
"""Weights of the past: those that the run began with, or those at the end of the mega-batch before."""
