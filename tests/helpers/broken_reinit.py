"""Ways of forgetting that each break one promise, and no other."""

from __future__ import annotations

import gc
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import nn

from forgetkit.contracts import Change, Origin, ReinitContext


@dataclass(frozen=True)
class Good:
    """Fresh values for the least important entries.

    fraction: how many of them.
    fresh: where from.
    """

    fraction: float = 0.3
    fresh: Origin = "original"
    needs_scores = True
    touches = frozenset({"weights", "biases", "norm"})

    def propose(self, context: ReinitContext) -> Iterable[Any]:
        for name, mask in context.select(self.fraction).items():
            yield Change(name, mask, context.fresh(name, self.fresh))


def modules(context: ReinitContext) -> Iterator[nn.Module]:
    with context.probe() as probe:
        yield from list(probe.module("").modules())


class Runs(Good):
    """Raises."""

    def propose(self, context: ReinitContext) -> Iterable[Any]:
        raise RuntimeError("out of order")


class ReturnsNothing(Good):
    """Returns None."""

    def propose(self, context: ReinitContext) -> Any:
        return None


class Changes(Good):
    """Yields a pair in between."""

    def propose(self, context: ReinitContext) -> Iterable[Any]:
        yield from super().propose(context)
        yield "head", None


class Names(Good):
    """Makes a name up."""

    def propose(self, context: ReinitContext) -> Iterable[Any]:
        yield from super().propose(context)
        yield Change("head", None, torch.zeros(3))


class NamesTwice(Good):
    """Has a second thought."""

    def propose(self, context: ReinitContext) -> Iterable[Any]:
        for change in super().propose(context):
            yield change
            yield change


class Masks(Good):
    """Masks with ones and zeros."""

    def propose(self, context: ReinitContext) -> Iterable[Any]:
        return (replace(change, mask=change.mask.float()) for change in super().propose(context))


class Values(Good):
    """A single value for all."""

    def propose(self, context: ReinitContext) -> Iterable[Any]:
        return (replace(change, value=change.value.mean()) for change in super().propose(context))


class Finite(Good):
    """Marks what is not under the mask."""

    def propose(self, context: ReinitContext) -> Iterable[Any]:
        for change in super().propose(context):
            yield replace(change, value=change.value.masked_fill(~change.mask, torch.nan))


@dataclass(frozen=True)
class Acts:
    """Has nothing to say."""

    def propose(self, context: ReinitContext) -> Iterable[Any]:
        return ()


class ActsAfterAll(Good):
    """Says that it changes nothing."""

    changes_nothing = True


class UnmaskedKept(Good):
    """Shrinks what it keeps."""

    def propose(self, context: ReinitContext) -> Iterable[Any]:
        yield from super().propose(context)
        for target in context.targets.values():
            target.mul_(0.5)


class WritesStatistics(Good):
    """Sets running statistics by hand."""

    def propose(self, context: ReinitContext) -> Iterable[Any]:
        yield from super().propose(context)
        for buffer in context.buffers.values():
            buffer.zero_()


class LeavesGradients(Good):
    """Leaves gradients of zero."""

    def propose(self, context: ReinitContext) -> Iterable[Any]:
        yield from super().propose(context)
        for module in list(modules(context)):
            for parameter in module.parameters(recurse=False):
                parameter.grad = torch.zeros_like(parameter) if parameter.requires_grad else None


class LeavesModes(Good):
    """Goes on in training mode."""

    def propose(self, context: ReinitContext) -> Iterable[Any]:
        yield from super().propose(context)
        for module in list(modules(context)):
            module.train()


class LeavesOptimizer(Good):
    """Finds the optimizer, wherever it is."""

    def propose(self, context: ReinitContext) -> Iterable[Any]:
        yield from super().propose(context)
        for thing in gc.get_objects(generation=0):
            if isinstance(thing, torch.optim.Optimizer):
                thing.state.clear()


class NeedsScores(Good):
    """Does not say that it needs scores."""

    needs_scores = False


@dataclass(frozen=True)
class NeedsScoresForNothing:
    """Says that it needs scores."""

    needs_scores = True

    def propose(self, context: ReinitContext) -> Iterable[Any]:
        return (Change(name, None, context.fresh(name)) for name in context.targets)


class SelectsFirst(Good):
    """Asks again for each parameter."""

    def propose(self, context: ReinitContext) -> Iterable[Any]:
        for name in context.targets:
            yield Change(name, context.select(self.fraction)[name], context.fresh(name, self.fresh))


class NeedsData(Good):
    """Looks at a batch without a word."""

    def propose(self, context: ReinitContext) -> Iterable[Any]:
        with context.probe() as probe:
            next(iter(probe.batches(2)))
        return super().propose(context)


class NeedsDataForNothing(Good):
    """Says that it looks at samples."""

    needs_data = True


class NeedsPrevious(Good):
    """Goes back to the weights of before."""

    def propose(self, context: ReinitContext) -> Iterable[Any]:
        context.reference("previous")
        return super().propose(context)


class GivesBack(Good):
    """Changes what it has borrowed."""

    def propose(self, context: ReinitContext) -> Iterable[Any]:
        selected = super().propose(context)
        first = next(iter(selected))
        with context.probe():
            yield first
        yield from selected


class ExactFraction(Good):
    """Leaves the last of the selected alone."""

    def propose(self, context: ReinitContext) -> Iterable[Any]:
        for change in super().propose(context):
            chosen = change.mask.nonzero()
            if len(chosen):
                change.mask[tuple(chosen[-1])] = False
            yield change


class Touches(Good):
    """Does not name the normalisation layers."""

    touches = frozenset({"weights", "biases"})


class TouchesLess(Good):
    """Names the running statistics."""

    touches = frozenset({"weights", "biases", "norm", "stats"})


class TouchesNoLoss(Good):
    """Names a loss."""

    touches = frozenset({"weights", "biases", "norm", "loss"})


class FreshDistribution(Good):
    """Draws as torch does, whatever the module."""

    def propose(self, context: ReinitContext) -> Iterable[Any]:
        return (replace(change, value=context.fresh(change.name, "uniform")) for change in super().propose(context))


class FreshDistributionHalf(Good):
    """Draws too narrowly."""

    def propose(self, context: ReinitContext) -> Iterable[Any]:
        for change in super().propose(context):
            value = change.value
            yield replace(change, value=value.mean() + 0.5 * (value - value.mean()) if value.ndim > 1 else value)


class Deterministic(Good):
    """Counts its calls."""

    def propose(self, context: ReinitContext) -> Iterable[Any]:
        times = vars(self).get("times", 0) + 1
        object.__setattr__(self, "times", times)
        selected = list(super().propose(context))
        return selected[times - 1 :] + selected[: times - 1]


class Entropy(Good):
    """Changes what it likes, in any order."""

    def propose(self, context: ReinitContext) -> Iterable[Any]:
        rng = torch.Generator()
        rng.seed()
        selected = list(super().propose(context))
        return [selected[at] for at in torch.randperm(len(selected), generator=rng).tolist()]


class LeavesSettings(Good):
    """Leaves a setting of torch changed."""

    def propose(self, context: ReinitContext) -> Iterable[Any]:
        torch.backends.cudnn.benchmark = True
        yield from super().propose(context)


class OwnRandomness(Good):
    """Draws from the global random state."""

    def propose(self, context: ReinitContext) -> Iterable[Any]:
        for change in super().propose(context):
            noise = 1e-6 * torch.randn(change.value.shape) if change.value.ndim > 1 else 0
            yield replace(change, value=change.value + noise)


class Frozen(Good):
    """Knows no frozen layers."""

    def propose(self, context: ReinitContext) -> Iterable[Any]:
        if not all(parameter.requires_grad for module in list(modules(context)) for parameter in module.parameters()):
            raise RuntimeError("a parameter does not require grad")
        return super().propose(context)


class Tied(Good):
    """Goes by layers."""

    def propose(self, context: ReinitContext) -> Iterable[Any]:
        selected = {change.name: change for change in super().propose(context)}
        return [selected[name] for layer in context.layers for name in layer.parameters]


class Unused(Good):
    """Changes what takes no part."""

    def propose(self, context: ReinitContext) -> Iterable[Any]:
        yield from super().propose(context)
        with context.probe() as probe:
            whole = dict(probe.module("").named_parameters())
        for name in whole.keys() - context.targets.keys():
            if whole[name].requires_grad:
                yield Change(name, None, torch.zeros_like(whole[name]))


class BatchNorm(Good):
    """Knows no running statistics."""

    def propose(self, context: ReinitContext) -> Iterable[Any]:
        if any(isinstance(module, nn.BatchNorm2d) for module in list(modules(context))) and len(context.targets) == 8:
            raise RuntimeError("what is this")
        return super().propose(context)


class Scalars(Good):
    """Looks at the first dimension."""

    def propose(self, context: ReinitContext) -> Iterable[Any]:
        return (replace(change, value=change.value[:]) for change in super().propose(context))


class DeadUnits(Good):
    """Measures against what fires."""

    def propose(self, context: ReinitContext) -> Iterable[Any]:
        largest = max(float(target.abs().max()) for target in context.targets.values())
        for change in super().propose(context):
            yield replace(change, value=change.value * torch.tensor(1.0 if largest < 99 else torch.inf))


class ChannelsLast(Good):
    """Flattens by a view."""

    def propose(self, context: ReinitContext) -> Iterable[Any]:
        for name in context.targets:
            context.targets[name].view(-1)
        return super().propose(context)


class ChannelsLastOrder(Good):
    """Goes by the order in memory."""

    def propose(self, context: ReinitContext) -> Iterable[Any]:
        for change in super().propose(context):
            value, target = change.value, context.targets[change.name]
            order = torch.arange(value.numel(), dtype=value.dtype).as_strided(target.shape, target.stride())
            yield replace(change, value=torch.where(change.mask, value + 0 * value, order))


class HalfPrecision(Good):
    """Writes single precision into what it was given."""

    def propose(self, context: ReinitContext) -> Iterable[Any]:
        for change in super().propose(context):
            matrix = change.value.ndim == 2
            yield replace(change, value=change.value @ torch.eye(change.value.shape[1]) if matrix else change.value)


BROKEN: Mapping[str, tuple[type, ...]] = {
    "runs": (Runs, ReturnsNothing),
    "changes": (Changes,),
    "names": (Names, NamesTwice),
    "masks": (Masks,),
    "values": (Values,),
    "finite": (Finite,),
    "acts": (Acts, ActsAfterAll),
    "unmasked-kept": (UnmaskedKept, WritesStatistics),
    "leaves-gradients": (LeavesGradients,),
    "leaves-modes": (LeavesModes,),
    "leaves-optimizer": (LeavesOptimizer,),
    "needs-scores": (NeedsScores, NeedsScoresForNothing),
    "selects-first": (SelectsFirst,),
    "needs-data": (NeedsData, NeedsDataForNothing),
    "needs-previous": (NeedsPrevious,),
    "gives-back": (GivesBack,),
    "exact-fraction": (ExactFraction,),
    "touches": (Touches, TouchesLess, TouchesNoLoss),
    "fresh-distribution": (FreshDistribution, FreshDistributionHalf),
    "deterministic": (Deterministic, Entropy),
    "own-randomness": (OwnRandomness,),
    "leaves-settings": (LeavesSettings,),
    "frozen": (Frozen,),
    "tied": (Tied,),
    "unused": (Unused,),
    "batch-norm": (BatchNorm,),
    "scalars": (Scalars,),
    "dead-units": (DeadUnits,),
    "channels-last": (ChannelsLast, ChannelsLastOrder),
    "half-precision": (HalfPrecision,),
}
"""By the promise that each breaks."""
