"""Interventions that each break one promise, and no other."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from forgetkit.contracts import Change, Intervention, InterventionContext


@dataclass(frozen=True)
class Good(Intervention):
    """A penalty on the distance from a running mean of the weights, which also draws them there.

    strength: of the penalty.
    """

    strength: float = 0.01
    touches = frozenset({"loss", "weights", "biases", "norm"})

    def loss(self, moment: InterventionContext) -> Tensor | None:
        terms = [
            (parameter - moment.state[name]).square().sum()
            for name, parameter in moment.model.named_parameters()
            if name in moment.state
        ]
        return self.strength * torch.stack(terms).sum() if terms else None

    @torch.no_grad()
    def after_step(self, moment: InterventionContext) -> None:
        for name, parameter in moment.model.named_parameters():
            if parameter.requires_grad:
                mean = moment.state.setdefault(name, parameter.detach().clone())
                mean.lerp_(parameter, 0.1)
                parameter.lerp_(mean, 0.01)


def trained(moment: InterventionContext) -> list[nn.Parameter]:
    return [parameter for parameter in moment.model.parameters() if parameter.requires_grad]


class Runs(Good):
    """Raises."""

    def begin(self, moment: InterventionContext) -> None:
        raise RuntimeError("out of order")


class NoIntervention:
    """Only looks like one."""

    def after_step(self, moment: InterventionContext) -> None:
        return None


@dataclass(frozen=True)
class Acts(Intervention):
    """Misspells its moment."""

    def after_steps(self, moment: InterventionContext) -> None:
        raise RuntimeError("never called")


class Finite(Good):
    """Divides a bias by its own zero."""

    @torch.no_grad()
    def after_epoch(self, moment: InterventionContext) -> None:
        if (moment.mega_batch, moment.epoch) == (2, 2):
            trained(moment)[-1].div_(0.0)


class StateTensors(Good):
    """Counts steps in a plain number."""

    def begin(self, moment: InterventionContext) -> None:
        moment.state["begun"] = moment.mega_batch  # type: ignore[assignment]


class Deterministic(Good):
    """Remembers from one training to the next."""

    @torch.no_grad()
    def after_epoch(self, moment: InterventionContext) -> None:
        times = vars(self).get("times", 0) + 1
        object.__setattr__(self, "times", times)
        if times > 4:
            trained(moment)[0].mul_(0.9)


class Entropy(Good):
    """Draws from the operating system."""

    @torch.no_grad()
    def after_epoch(self, moment: InterventionContext) -> None:
        rng = torch.Generator()
        rng.seed()
        weight = trained(moment)[0]
        weight.add_(torch.randn(weight.shape, generator=rng), alpha=1e-3)


class LeavesSettings(Good):
    """Leaves gradients off."""

    def after_epoch(self, moment: InterventionContext) -> None:
        super().after_epoch(moment)
        torch.set_grad_enabled(False)


class OwnRandomness(Good):
    """Draws from the global random state."""

    @torch.no_grad()
    def after_epoch(self, moment: InterventionContext) -> None:
        weight = trained(moment)[0]
        weight.add_(torch.randn(weight.shape), alpha=1e-3)


class DrawsForNothing(Good):
    """Draws from the global random state and looks away."""

    def begin(self, moment: InterventionContext) -> None:
        torch.rand(1)


class DrawsLate(Good):
    """Draws for nothing at the very end."""

    def after_epoch(self, moment: InterventionContext) -> None:
        if (moment.mega_batch, moment.epoch) == (2, 2):
            torch.rand(1)


class RemembersByChance(Good):
    """Keeps an unused number from the global random state."""

    def after_epoch(self, moment: InterventionContext) -> None:
        moment.state["chance"] = torch.rand(())


class Wavers(Good):
    """Keeps a number that cannot be drawn again."""

    def after_epoch(self, moment: InterventionContext) -> None:
        rng = torch.Generator()
        rng.seed()
        moment.state["chance"] = torch.rand((), generator=rng)


class Resumes(Good):
    """Remembers its first context outside of its state."""

    def begin(self, moment: InterventionContext) -> None:
        if moment.mega_batch == 1:
            object.__setattr__(self, "epochs", 0)

    @torch.no_grad()
    def after_epoch(self, moment: InterventionContext) -> None:
        epochs = vars(self).get("epochs", 0) + 1
        object.__setattr__(self, "epochs", epochs)
        trained(moment)[0].mul_(1 - 0.01 * epochs)


class TouchesBiases(Good):
    """Does not name biases."""

    touches = frozenset({"loss", "weights", "norm"})


class TouchesGradients(Good):
    """Clips gradients and does not say so."""

    def before_step(self, moment: InterventionContext) -> None:
        for parameter in trained(moment):
            if parameter.grad is not None:
                parameter.grad.clamp_(-0.01, 0.01)


class TouchesOptimizer(Good):
    """Forgets momentum and does not say so."""

    def after_epoch(self, moment: InterventionContext) -> None:
        moment.optimizer.state.clear()


class TouchesStatistics(Good):
    """Starts running statistics anew and does not say so."""

    def after_epoch(self, moment: InterventionContext) -> None:
        for module in moment.model.modules():
            if isinstance(module, nn.BatchNorm2d):
                module.reset_running_stats()


class TouchesLess(Good):
    """Says that it writes gradients."""

    touches = frozenset({"loss", "weights", "biases", "norm", "gradients"})


class LeavesModes(Good):
    """Leaves normalisation in eval mode."""

    def after_epoch(self, moment: InterventionContext) -> None:
        moment.model.eval()


class LeavesHooks(Good):
    """Hangs up a hook and leaves it."""

    def begin(self, moment: InterventionContext) -> None:
        moment.model.register_forward_hook(lambda module, inputs, output: None)


class NeedsActivity(Good):
    """Reads activity that was not measured."""

    def after_step(self, moment: InterventionContext) -> None:
        super().after_step(moment)
        moment.state["sum"] = sum((seen.sum() for seen in moment.activity.values()), torch.zeros(()))


class NeedsActivityForNothing(Good):
    """Has activity measured."""

    needs_activity = True


class NeedsPrevious(Good):
    """Goes back to the weights of before."""

    def begin(self, moment: InterventionContext) -> None:
        dict(moment.context.reference("previous"))


class Frozen(Good):
    """Shrinks everything."""

    @torch.no_grad()
    def after_epoch(self, moment: InterventionContext) -> None:
        for parameter in moment.model.parameters():
            parameter.mul_(0.99)


class Tied(Good):
    """Counts the parameters by name."""

    def begin(self, moment: InterventionContext) -> None:
        every = list(moment.model.named_parameters(remove_duplicate=False))
        if len(every) != len(dict(moment.model.named_parameters())):
            raise RuntimeError("one too many")


class Unused(Good):
    """Wants a gradient of everything that is trained."""

    def before_step(self, moment: InterventionContext) -> None:
        sum(float(parameter.grad.norm()) for parameter in trained(moment))


class BatchNorm(Good):
    """Takes every buffer for a mean."""

    def begin(self, moment: InterventionContext) -> None:
        for buffer in moment.model.buffers():
            buffer.mean()


class Scalars(Good):
    """Looks at the first dimension."""

    def before_step(self, moment: InterventionContext) -> None:
        for parameter in trained(moment):
            len(parameter)


class ChannelsLast(Good):
    """Flattens by a view."""

    def before_step(self, moment: InterventionContext) -> None:
        for parameter in trained(moment):
            parameter.view(-1)


class Resetting(Intervention):
    """Starts a unit anew where changes are written as the host does; used to see that its own clearing is no touch."""

    touches = frozenset({"weights", "biases"})

    def after_epoch(self, moment: InterventionContext) -> None:
        name = next(iter(moment.context.names("conv-linear")))
        value = moment.context.fresh(name)
        moment.apply([Change(name, torch.ones_like(value, dtype=torch.bool), value)])
        bias = name.replace("weight", "bias")
        moment.apply([Change(bias, None, torch.zeros_like(moment.context.targets[bias]))])


BROKEN: Mapping[str, tuple[type, ...]] = {
    "runs": (Runs,),
    "acts": (Acts,),
    "finite": (Finite,),
    "state-tensors": (StateTensors,),
    "deterministic": (Deterministic, Entropy, Wavers),
    "own-randomness": (OwnRandomness, DrawsForNothing, DrawsLate, RemembersByChance),
    "leaves-settings": (LeavesSettings,),
    "resumes": (Resumes,),
    "touches": (TouchesBiases, TouchesGradients, TouchesOptimizer, TouchesStatistics, TouchesLess),
    "leaves-modes": (LeavesModes,),
    "leaves-hooks": (LeavesHooks,),
    "needs-activity": (NeedsActivity, NeedsActivityForNothing),
    "needs-previous": (NeedsPrevious,),
    "frozen": (Frozen,),
    "tied": (Tied,),
    "unused": (Unused,),
    "batch-norm": (BatchNorm,),
    "scalars": (Scalars,),
    "channels-last": (ChannelsLast,),
}
"""By the promise that each breaks."""
