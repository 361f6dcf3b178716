"""Criteria and ways of forgetting that are interventions too, and each break one promise while they watch."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from forgetkit.contracts import Change, Intervention, InterventionContext, Probe, ReinitContext
from helpers import broken_importance
from helpers import broken_interventions as broken


class Scores:
    """A sound criterion, beside."""

    def score(self, probe: Probe) -> Mapping[str, Tensor]:
        return broken_importance.Good().score(probe)


class Resets:
    """A sound way of forgetting, beside; it writes to weights alone."""

    def propose(self, context: ReinitContext) -> Iterable[Any]:
        for name in context.names("conv-linear"):
            yield Change(name, None, context.fresh(name))


def beside(kind: type, promise: str) -> type:
    """The first intervention that breaks ``promise``, as a component of another kind as well."""
    one = broken.BROKEN[promise][0]
    name = f"{one.__name__}{kind.__name__}"
    made = type(name, (kind, one), {"__doc__": one.__doc__, "__module__": __name__})
    globals()[name] = made  # where pickles look for it
    return made


@dataclass(frozen=True)
class Remembers(Intervention):
    """How large each entry was on average."""

    needs_data = False
    touches = frozenset()

    @torch.no_grad()
    def after_step(self, moment: InterventionContext) -> None:
        for name, parameter in moment.model.named_parameters():
            if parameter.requires_grad:
                moment.state.setdefault(name, parameter.abs()).lerp_(parameter.abs(), 0.1)

    def score(self, probe: Probe) -> Mapping[str, Tensor]:
        return {name: probe.memory[name].float() for name in probe.targets}


class Forgets(Remembers):
    """Counts epochs outside of its state, and acts on the count."""

    def begin(self, moment: InterventionContext) -> None:
        if moment.mega_batch == 1:
            object.__setattr__(self, "epochs", 0)

    def after_epoch(self, moment: InterventionContext) -> None:
        object.__setattr__(self, "epochs", vars(self).get("epochs", 0) + 1)
        for mean in moment.state.values():
            mean.mul_(vars(self)["epochs"])


class Wavers(Remembers):
    """Adds a number that cannot be drawn again to its state."""

    def after_epoch(self, moment: InterventionContext) -> None:
        rng = torch.Generator()
        rng.seed()
        for mean in moment.state.values():
            mean.add_(torch.rand((), generator=rng))


class Strays(Remembers):
    """Adds a number from the global random state to what it remembers."""

    def after_epoch(self, moment: InterventionContext) -> None:
        for mean in moment.state.values():
            mean.add_(torch.rand(()))


class Halves(Remembers):
    """Halves the weights, and says that it only looks."""

    @torch.no_grad()
    def after_step(self, moment: InterventionContext) -> None:
        super().after_step(moment)
        for parameter in broken.trained(moment):
            parameter.mul_(0.5)


class AllAtOnce(Halves):
    """Halves the weights, draws from the global random state and keeps a text."""

    @torch.no_grad()
    def after_step(self, moment: InterventionContext) -> None:
        super().after_step(moment)
        torch.rand(())
        moment.state["note"] = "halved"  # type: ignore[assignment]

    def score(self, probe: Probe) -> Mapping[str, Tensor]:
        return {name: probe.memory[name].float() for name in probe.targets}


class EarlyBefore(Remembers):
    """Asks for the previous weights in the training alone, and says so."""

    needs_previous = True

    def begin(self, moment: InterventionContext) -> None:
        dict(moment.context.reference("previous"))


@dataclass(frozen=True)
class Tidies(Resets, Intervention):
    """Resets weights between mega-batches, and shrinks biases and normalisation after each epoch."""

    touches = frozenset({"weights", "biases", "norm"})

    @torch.no_grad()
    def after_epoch(self, moment: InterventionContext) -> None:
        for parameter in broken.trained(moment):
            if parameter.ndim < 2:
                parameter.mul_(0.9)


class TidiesLess(Tidies):
    """Says that it writes gradients as well."""

    touches = frozenset({"weights", "biases", "norm", "gradients"})


class TidiesMore(Tidies):
    """Does not name normalisation."""

    touches = frozenset({"weights", "biases"})


class TidiesByChance(Tidies):
    """Shrinks by a number that cannot be drawn again."""

    @torch.no_grad()
    def after_epoch(self, moment: InterventionContext) -> None:
        rng = torch.Generator()
        rng.seed()
        for parameter in broken.trained(moment):
            if parameter.ndim < 2:
                parameter.mul_(1 - 0.1 * torch.rand((), generator=rng))


@dataclass(frozen=True)
class ForgetsByMemory(Resets, Remembers):
    """Restores weights from its state, with a number that cannot be drawn again."""

    touches = frozenset({"weights"})
    after_epoch = Wavers.after_epoch

    def propose(self, context: ReinitContext) -> Iterable[Any]:
        return [Change(name, None, context.memory[name]) for name in context.names("conv-linear")]


CRITERIA: Mapping[str, tuple[type, ...]] = {
    **{f"while-training-{promise}": (beside(Scores, promise),) for promise in broken.BROKEN},
    "while-training-deterministic": (Wavers,),
    "while-training-own-randomness": (Strays,),
    "while-training-resumes": (Forgets,),
    "while-training-touches": (Halves,),
}
"""By the promise that each breaks."""

METHODS: Mapping[str, tuple[type, ...]] = {
    **{f"while-training-{promise}": (beside(Resets, promise),) for promise in ("runs", "state-tensors", "resumes")},
    "while-training-touches": (TidiesLess, TidiesMore),
    "while-training-deterministic": (TidiesByChance, ForgetsByMemory),
}
"""By the promise that each breaks."""
