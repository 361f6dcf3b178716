"""Criteria that each break exactly one promise."""

from __future__ import annotations

import random
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from forgetkit.contracts import Probe, SampleLimit


@dataclass(frozen=True)
class Good:
    """A correct criterion.

    samples: how many are scored.
    """

    samples: SampleLimit = 64

    def score(self, probe: Probe) -> Mapping[str, Tensor]:
        return {name: (g * probe.targets[name]).abs() for name, g in probe.mean_grads(self.samples).items()}


def names(probe: Probe) -> set[str]:
    return set(probe.targets)


class Runs(Good):
    """Raises."""

    def score(self, probe: Probe) -> Mapping[str, Tensor]:
        raise RuntimeError("out of order")


class Keys(Good):
    """Forgets one."""

    def score(self, probe: Probe) -> Mapping[str, Tensor]:
        scores = dict(super().score(probe))
        scores.popitem()
        return scores


class Shapes(Good):
    """A number per row."""

    def score(self, probe: Probe) -> Mapping[str, Tensor]:
        return {name: s.flatten(1).sum(1) if s.ndim > 1 else s for name, s in super().score(probe).items()}


class Floats(Good):
    """In double precision."""

    def score(self, probe: Probe) -> Mapping[str, Tensor]:
        return {name: score.double() for name, score in super().score(probe).items()}


class Finite(Good):
    """The logarithm of a square less itself."""

    def score(self, probe: Probe) -> Mapping[str, Tensor]:
        return {name: s + 0 * torch.log(s - s) for name, s in super().score(probe).items()}


class Different(Good):
    """Multiplies by zero."""

    def score(self, probe: Probe) -> Mapping[str, Tensor]:
        return {name: 0 * s for name, s in super().score(probe).items()}


class Deterministic(Good):
    """Multiplies by its number of calls."""

    def score(self, probe: Probe) -> Mapping[str, Tensor]:
        times = vars(self).get("times", 0) + 1
        object.__setattr__(self, "times", times)
        return {name: times * score for name, score in super().score(probe).items()}


class OnceOnly(Good):
    """Fails at a second call."""

    def score(self, probe: Probe) -> Mapping[str, Tensor]:
        if "called" in vars(self):
            raise RuntimeError("called before")
        object.__setattr__(self, "called", True)
        return super().score(probe)


class Entropy(Good):
    """Draws from the operating system."""

    def score(self, probe: Probe) -> Mapping[str, Tensor]:
        rng = torch.Generator()
        rng.seed()
        return {name: s * torch.rand(s.shape, generator=rng) for name, s in super().score(probe).items()}


class OwnRandomness(Good):
    """Draws from the global random state."""

    def score(self, probe: Probe) -> Mapping[str, Tensor]:
        return {name: s * torch.rand(s.shape) for name, s in super().score(probe).items()}


class LeavesSettings(Good):
    """Leaves a setting of torch changed."""

    def score(self, probe: Probe) -> Mapping[str, Tensor]:
        torch.backends.cudnn.benchmark = True
        return super().score(probe)


class Reseeds(Good):
    """Seeds the global random state of NumPy."""

    def score(self, probe: Probe) -> Mapping[str, Tensor]:
        np.random.seed(0)
        return super().score(probe)


class PythonsRandomness(Good):
    """Draws a number from Python's global random state, for nothing."""

    def score(self, probe: Probe) -> Mapping[str, Tensor]:
        random.random()
        return super().score(probe)


class SampleBudget(Good):
    """Takes all samples."""

    def score(self, probe: Probe) -> Mapping[str, Tensor]:
        return {name: (g * probe.targets[name]).abs() for name, g in probe.mean_grads().items()}


@dataclass(frozen=True)
class NeedsData:
    """Says that it needs no data."""

    needs_data = False

    def score(self, probe: Probe) -> Mapping[str, Tensor]:
        return Good().score(probe)


@dataclass(frozen=True)
class NeedsNoData:
    """Does not say that it needs no data."""

    def score(self, probe: Probe) -> Mapping[str, Tensor]:
        return {name: target.abs() for name, target in probe.targets.items()}


@dataclass(frozen=True)
class CountedSampleBudget(Good):
    """Takes a sample more than it may.

    samples: how many are looked at.
    """

    samples: int = 64  # type: ignore[assignment]

    def score(self, probe: Probe) -> Mapping[str, Tensor]:
        return Good(self.samples + 1).score(probe)


class NeedsPrevious(Good):
    """Reads the previous weights without declaring it."""

    def score(self, probe: Probe) -> Mapping[str, Tensor]:
        before = probe.reference("previous")
        return {name: s * (probe.targets[name] - before[name]).abs() for name, s in super().score(probe).items()}


class NeedsPreviousForNothing(Good):
    """Has the previous weights kept for nothing."""

    needs_previous = True


class LeavesParameters(Good):
    """Prunes while it looks."""

    def score(self, probe: Probe) -> Mapping[str, Tensor]:
        scores = super().score(probe)
        for target in probe.targets.values():
            target.mul_(0.5)
        return scores


class LeavesBuffers(Good):
    """Starts running statistics anew."""

    def score(self, probe: Probe) -> Mapping[str, Tensor]:
        scores = super().score(probe)
        for module in probe.module("").modules():
            if isinstance(module, nn.BatchNorm2d):
                module.reset_running_stats()
        return scores


class LeavesGradients(Good):
    """Takes gradients by hand."""

    def score(self, probe: Probe) -> Mapping[str, Tensor]:
        for parameter in probe.module("").parameters():
            if parameter.requires_grad:
                parameter.grad = torch.zeros_like(parameter)
        return super().score(probe)


class LeavesRequiresGrad(Good):
    """Freezes what it has looked at."""

    def score(self, probe: Probe) -> Mapping[str, Tensor]:
        scores = super().score(probe)
        probe.module("").requires_grad_(False)
        return scores


class LeavesModes(Good):
    """Goes into training mode when done."""

    def score(self, probe: Probe) -> Mapping[str, Tensor]:
        scores = super().score(probe)
        probe.module("").train()
        return scores


class LeavesHooks(Good):
    """Takes every hook off."""

    def score(self, probe: Probe) -> Mapping[str, Tensor]:
        for module in probe.module("").modules():
            module._forward_hooks.clear()
        return super().score(probe)


class Frozen(Good):
    """Wants a gradient of everything."""

    def score(self, probe: Probe) -> Mapping[str, Tensor]:
        if not all(parameter.requires_grad for parameter in probe.module("").parameters()):
            raise RuntimeError("a parameter does not require grad")
        return super().score(probe)


class Tied(Good):
    """Goes by every name of a parameter."""

    def score(self, probe: Probe) -> Mapping[str, Tensor]:
        scores = dict(super().score(probe))
        for name, parameter in probe.module("").named_parameters(remove_duplicate=False):
            for other in names(probe) - {name}:
                if probe.module(other.rpartition(".")[0])._parameters[other.rpartition(".")[2]] is parameter:
                    scores[name] = scores[other]
        return scores


class Unused(Good):
    """Scores what takes no part."""

    def score(self, probe: Probe) -> Mapping[str, Tensor]:
        scores = dict(super().score(probe))
        for name, parameter in probe.module("").named_parameters():
            if parameter.requires_grad and name not in scores:
                scores[name] = torch.zeros_like(parameter)
        return scores


class BatchNorm(Good):
    """Divides by the spread over the batch."""

    def score(self, probe: Probe) -> Mapping[str, Tensor]:
        scores = super().score(probe)
        for inputs, _ in probe.batches(self.samples):
            spread = torch.tensor(len(inputs) - 1.0).sqrt()
            scores = {name: score / spread for name, score in scores.items()}
        return scores


class Dropout(Good):
    """Goes into training mode and back."""

    def score(self, probe: Probe) -> Mapping[str, Tensor]:
        dropouts = [module for module in probe.module("").modules() if isinstance(module, nn.Dropout)]
        for module in dropouts:
            module.train()
        scores = super().score(probe)
        for module in dropouts:
            module.eval()
        return scores


class Scalars(Good):
    """Looks at the first dimension."""

    def score(self, probe: Probe) -> Mapping[str, Tensor]:
        return {name: score * len(score) for name, score in super().score(probe).items()}


class DeadUnits(Good):
    """Divides by the gradient's own size."""

    def score(self, probe: Probe) -> Mapping[str, Tensor]:
        found = {}
        for name, gradient in probe.mean_grads(self.samples).items():
            rows = gradient.reshape(len(gradient), -1) if gradient.ndim else gradient.view(1, 1)
            alive = (probe.targets[name] != 0).any()
            norm = rows.norm(dim=1).view(-1, *[1] * (gradient.ndim - 1)) if gradient.ndim else rows.norm()
            whole = (gradient * probe.targets[name]).abs() / norm
            found[name] = whole.nan_to_num() if bool((probe.targets[name] == 0).any() & alive) else whole
        return found


class ChannelsLast(Good):
    """Flattens by a view."""

    def score(self, probe: Probe) -> Mapping[str, Tensor]:
        return {name: (s + 0 * probe.targets[name].view(-1).sum()) for name, s in super().score(probe).items()}


class ChannelsLastOrder(Good):
    """Goes by the order in memory."""

    def score(self, probe: Probe) -> Mapping[str, Tensor]:
        found = {}
        for name, score in super().score(probe).items():
            found[name] = torch.as_strided(score, (score.numel(),), (1,)).reshape(score.shape).contiguous()
        return found


class HalfPrecision(Good):
    """In the model's own precision."""

    def score(self, probe: Probe) -> Mapping[str, Tensor]:
        dtypes = {name: parameter.dtype for name, parameter in probe.module("").named_parameters()}
        return {name: score.to(dtypes[name]) for name, score in super().score(probe).items()}


class HigherIsKeep(Good):
    """The wrong way round."""

    def score(self, probe: Probe) -> Mapping[str, Tensor]:
        return {name: -score for name, score in super().score(probe).items()}


class Oracle(Good):
    """Twice what it should be."""

    def score(self, probe: Probe) -> Mapping[str, Tensor]:
        return {name: 2 * score for name, score in super().score(probe).items()}


class Summary(Good):
    """No full stop

    samples: how many are looked at.
    """


@dataclass
class Thawed:
    """Can be changed after it was made."""

    def score(self, probe: Probe) -> Mapping[str, Tensor]:
        return Good().score(probe)


class Undecorated:
    """An ordinary class."""

    def score(self, probe: Probe) -> Mapping[str, Tensor]:
        return Good().score(probe)


@dataclass(frozen=True)
class Described(Good):
    """Does not say what one of its options means.

    Cost: none.
    """

    power: int = 1


@dataclass(frozen=True)
class Defaults:
    """Has a default that its annotation refuses.

    samples: how many.
    """

    samples: SampleLimit = 0

    def score(self, probe: Probe) -> Mapping[str, Tensor]:
        return Good(self.samples or None).score(probe)


@dataclass(frozen=True)
class Spelling:
    """Counts its option up each time it is made.

    step: for the reader.
    """

    step: int = 1

    def __post_init__(self) -> None:
        object.__setattr__(self, "step", self.step + 1)

    def score(self, probe: Probe) -> Mapping[str, Tensor]:
        return Good().score(probe)


@dataclass(frozen=True)
class Pickles:
    """Will not travel."""

    cached: Any = field(default=None, init=False, compare=False)

    def __reduce__(self) -> Any:
        raise TypeError("holds an open file")

    def __deepcopy__(self, memo: Any) -> Pickles:
        return Pickles()

    def score(self, probe: Probe) -> Mapping[str, Tensor]:
        return Good().score(probe)


BROKEN: Mapping[str, tuple[type, ...]] = {
    "runs": (Runs,),
    "keys": (Keys,),
    "shapes": (Shapes,),
    "floats": (Floats,),
    "finite": (Finite,),
    "different": (Different,),
    "deterministic": (Deterministic, OnceOnly, Entropy),
    "own-randomness": (OwnRandomness, Reseeds, PythonsRandomness),
    "leaves-settings": (LeavesSettings,),
    "sample-budget": (SampleBudget, CountedSampleBudget),
    "needs-data": (NeedsData, NeedsNoData),
    "needs-previous": (NeedsPrevious, NeedsPreviousForNothing),
    "leaves-parameters": (LeavesParameters,),
    "leaves-buffers": (LeavesBuffers,),
    "leaves-gradients": (LeavesGradients, LeavesRequiresGrad),
    "leaves-modes": (LeavesModes,),
    "leaves-hooks": (LeavesHooks,),
    "frozen": (Frozen,),
    "tied": (Tied,),
    "unused": (Unused,),
    "batch-norm": (BatchNorm,),
    "dropout": (Dropout,),
    "scalars": (Scalars,),
    "dead-units": (DeadUnits,),
    "channels-last": (ChannelsLast, ChannelsLastOrder),
    "half-precision": (HalfPrecision,),
    "higher-is-keep": (HigherIsKeep,),
    "oracle": (Oracle,),
    "summary": (Summary,),
    "frozen-dataclass": (Thawed, Undecorated),
    "described": (Described,),
    "defaults": (Defaults,),
    "spelling": (Spelling,),
    "pickles": (Pickles,),
}
"""By the promise that each breaks."""
