"""The values of options that several rooms use."""

from __future__ import annotations

from typing import Literal

Role = Literal["train", "val"]
"""What samples are for: training or validation."""

Split = Literal["random", "contiguous"]
"""How the training set is cut into mega-batches: at random, or in its own order."""

NoiseDraw = Literal["any", "other"]
"""The classes that a noisy label is drawn from: any, or any except the true one."""

Augmentation = Literal["none", "flip", "crop", "crop-flip"]
"""Random changes of training images: mirroring, cropping after padding by an eighth, or both."""

ScoreOn = Literal["finished", "incoming", "first", "union"]
"""The training samples to score on: of the mega-batch just learned, of the next one, of the first, or all samples that
the run trains on next."""

Sampling = Literal["random", "head"]
"""How a criterion's samples are taken from the scoring samples: at random, or the first."""

Mode = Literal["eval", "train"]
"""A network's mode, or the transform of samples: without or with augmentation."""

Scope = Literal["all", "weights", "conv-linear"]
"""Which parameters. ``weights``: what a module calls a weight, scales of normalisation layers included;
``conv-linear``: matrices and kernels of modules that do not normalise."""

Which = Literal["lowest", "highest"]
"""The end of the scores that a selection takes."""

Ties = Literal["random", "stable", "drop"]
"""Which entries at the threshold a selection takes. ``random``: as many as needed, drawn at random; ``stable``: as many
as needed, in the order of parameters and entries; ``drop``: all of them."""

Rounding = Literal["down", "up"]
"""How the number of selected entries is rounded."""

Origin = Literal["original", "layer-default", "uniform", "rewind", "zero"]
"""Where a fresh value comes from. ``original``: the initial distribution of the entry in this model; ``layer-default``:
torch's ``reset_parameters()``; ``uniform``: U(±1/√fan_in), with fan_in = 1 for a tensor of one dimension; ``rewind``:
the entry's initial value; ``zero``."""

OptimizerState = Literal["zero", "keep", "fresh", "rescaled"]
"""The optimizer's state at a reset. ``zero``: for reset entries that of a new optimizer, which is zero for most;
``keep``: unchanged; ``fresh``: all of it that of a new optimizer; ``rescaled``: like ``zero``, and second moments of
reset entries start at the mean over the kept ones of their tensor."""

BnStats = Literal["keep", "reset", "recalibrate"]
"""Running statistics after a reset: unchanged, initial, or measured again on the scoring samples."""

OptimizerName = Literal["sgd", "adamw"]
"""The optimizer."""

ScheduleKind = Literal["step", "cosine", "constant"]
"""The learning rate in a mega-batch."""

Carry = Literal["last", "best-val"]
"""The epoch whose weights are evaluated and carried on: the last, or the best on validation."""

Keep = Literal["all", "last", "none"]
"""The models of a run that stay on disk, one for each mega-batch."""

MOST_THREADS = 1024
"""The largest number of threads: more than any processor has, and few enough for the system."""

Writes = Literal["weights", "biases", "norm", "stats", "optimizer", "loss", "gradients"]
"""What a reinit method or an intervention writes to. ``weights``: matrices and kernels of layers that do not normalise;
``biases``: other parameters of these layers; ``norm``: parameters of normalisation layers; ``stats``: buffers;
``optimizer``: the optimizer's state, apart from what the host clears under a mask; ``loss``: a term of the loss;
``gradients``: what is in ``.grad``."""

Reference = Literal["initial", "previous"]
"""Earlier weights: of the start of the run, or of the end of the mega-batch before."""
