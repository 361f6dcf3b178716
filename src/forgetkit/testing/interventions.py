"""What an intervention promises, on a training of a few steps."""

from __future__ import annotations

import io
from collections.abc import Callable, Iterable, Mapping, Set
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Any

import torch
from torch import Tensor, nn

from forgetkit.contracts import Change, Intervention, InterventionContext, Writes
from forgetkit.errors import UsageError
from forgetkit.seeding import seeded_rng
from forgetkit.system.torch_settings import restored
from forgetkit.testing import comparing, networks
from forgetkit.testing.common import KitCase
from forgetkit.testing.fixtures import SEEDS, RecordedRequests, acting_on, past_of, train
from forgetkit.testing.networks import NetworkFixture
from forgetkit.testing.promise import Failure, NotApplicable, Promise, promise
from forgetkit.testing.writes import kind_of, require_no_less, require_no_more
from forgetkit.unlearning import ModelHistory
from forgetkit.unlearning.interventions import HOOKS, InterventionRunner, overridden_hooks

Network = Callable[[], NetworkFixture]

EPOCHS = ((1, 1), (1, 2), (2, 1), (2, 2))
"""The training that an intervention is seen in: two mega-batches of two epochs."""


@dataclass(eq=False)
class HookCall:
    """What an intervention has been seen to do, over all its moments."""

    touched: set[Writes] = field(default_factory=set)
    modes_changed: set[str] = field(default_factory=set)
    looked: bool = False
    """Whether it looked at the activity of units."""
    settings: list[str] = field(default_factory=list)
    """The settings of torch and NumPy that it left changed."""
    drew: str = ""
    """The moment at which it left the global random state another than before; empty where it never did."""


@dataclass(eq=False)
class WatchedIntervention(Intervention):
    """Stands for an intervention and looks at the network before and after each of its moments."""

    inner: Intervention
    seen: HookCall
    noise: int

    @classmethod
    def of(cls, inner: Intervention, seen: HookCall, noise: int) -> WatchedIntervention:
        """One of a class of the intervention's own name, which the host tells it and draws by."""
        named: type[WatchedIntervention] = type(type(inner).__name__, (cls,), {})
        return named(inner, seen, noise)

    @property
    def needs_activity(self) -> bool:
        """As the intervention says."""
        return bool(getattr(self.inner, "needs_activity", False))

    def begin(self, moment: InterventionContext) -> None:
        """That of the intervention."""
        self._at("begin", moment)

    def loss(self, moment: InterventionContext) -> Tensor | None:
        """That of the intervention."""
        term: Tensor | None = self._at("loss", moment)
        if term is not None:
            self.seen.touched.add("loss")
        return term

    def before_step(self, moment: InterventionContext) -> None:
        """That of the intervention."""
        self._at("before_step", moment)

    def after_step(self, moment: InterventionContext) -> None:
        """That of the intervention."""
        self._at("after_step", moment)

    def after_epoch(self, moment: InterventionContext) -> None:
        """That of the intervention."""
        self._at("after_epoch", moment)

    def _at(self, verb: str, moment: InterventionContext) -> Any:
        if verb not in overridden_hooks(type(self.inner)):
            return None
        model, optimizer = moment.model, moment.optimizer
        before, kept = comparing.Snapshot.of(model), [_optimizer_of(optimizer)]

        def applied(changes: Iterable[Change]) -> int:
            self._note_optimizer(kept[0], optimizer)
            count = moment.apply(changes)
            kept[0] = _optimizer_of(optimizer)  # what the host clears under a mask does not count
            return count

        def looked() -> Mapping[str, Tensor]:
            self.seen.looked = True
            return moment.activity

        with seeded_rng(SEEDS.number(verb, moment.mega_batch, moment.epoch, moment.step, self.noise)):
            state = comparing.random_state()
            with restored(self.seen.settings):
                answer = getattr(self.inner, verb)(replace(moment, apply=applied, compute_activity=looked))
            if comparing.random_state() != state:
                self.seen.drew = verb
        after = comparing.Snapshot.of(model)
        self._note_optimizer(kept[0], optimizer)
        written = comparing.differing(before.parameters, after.parameters)
        written += comparing.differing(before.buffers, after.buffers)
        self.seen.touched.update(kind_of(model, name) for name in written)
        if comparing.differing(before.gradients, after.gradients):
            self.seen.touched.add("gradients")
        self.seen.modes_changed.update(comparing.differing(before.modes, after.modes))
        return answer

    def _note_optimizer(self, before: Any, optimizer: torch.optim.Optimizer) -> None:
        if not comparing.same_bits(before, _optimizer_of(optimizer)):
            self.seen.touched.add("optimizer")


def _optimizer_of(optimizer: torch.optim.Optimizer) -> Any:
    """What an optimizer remembers and is set to."""
    settings = [{key: value for key, value in group.items() if key != "params"} for group in optimizer.param_groups]
    state = [
        {
            key: value.clone() if isinstance(value, Tensor) else value
            for key, value in optimizer.state.get(p, {}).items()
        }
        for group in optimizer.param_groups
        for p in group["params"]
    ]
    return settings, state


@dataclass(frozen=True, eq=False)
class TrainingRecord:
    """A training that is over."""

    before: comparing.Snapshot
    model: nn.Module
    state: Mapping[str, Any]
    seen: HookCall
    asked: RecordedRequests

    @property
    def weights(self) -> Mapping[str, Tensor]:
        """Parameters and buffers."""
        return weights_of(self.model)

    @property
    def outcome(self) -> Mapping[str, Any]:
        """The weights, and what the intervention keeps."""
        return outcome_of(self.model, self.state)


def weights_of(model: nn.Module) -> Mapping[str, Tensor]:
    """Parameters and buffers."""
    return {**dict(model.named_parameters()), **dict(model.named_buffers())}


def outcome_of(model: nn.Module, state: Mapping[str, Any]) -> Mapping[str, Any]:
    """The weights, and what an intervention keeps."""
    return {**weights_of(model), **{f"moment.state[{name!r}]": value for name, value in state.items()}}


@dataclass(frozen=True, eq=False)
class InterventionCase(KitCase):
    """An intervention under examination."""

    elsewhere: Callable[[], Set[Writes]] = frozenset
    """What it writes to outside the training, where it is a component of another kind too."""

    @cached_property
    def _kept(self) -> dict[tuple[Network, int], TrainingRecord]:
        return {}

    def trained(self, network: Network, noise: int = 0) -> TrainingRecord:
        """A training with a copy that was never used before; asked for again, the same one."""
        if (network, noise) not in self._kept:
            self._kept[network, noise] = self.anew(network, self.another(), noise)
        return self._kept[network, noise]

    def anew(self, network: Network, component: Any, noise: int = 0) -> TrainingRecord:
        """A training of its own."""
        situation, asked = network(), RecordedRequests()
        before = comparing.Snapshot.of(situation.model)
        acting, seen = self.acting(situation, past_of(situation.model, asked), component, noise)
        train(acting, situation.batches, EPOCHS, noise)
        return TrainingRecord(before, situation.model, acting.states[0], seen, asked)

    def acting(
        self, situation: NetworkFixture, past: ModelHistory, component: Any, noise: int = 0
    ) -> tuple[InterventionRunner, HookCall]:
        """``component`` at work on the network, and what it will be seen to do."""
        if not isinstance(component, Intervention):
            raise Failure(f"{type(component).__name__} is no forgetkit.contracts.Intervention; inherit from that class")
        seen = HookCall()
        return acting_on(situation, WatchedIntervention.of(component, seen, noise), past), seen

    @property
    def usual(self) -> TrainingRecord:
        """What comes of a small convolutional network, for every promise that is about that."""
        return self.borrowed(networks.plain)

    def borrowed(self, network: Network, noise: int = 0) -> TrainingRecord:
        """As :meth:`trained`, for a promise that is not about whether the intervention copes with the network."""
        try:
            return self.trained(network, noise)
        except (UsageError, NotApplicable):
            raise
        except Exception as error:
            raise NotApplicable(f"on this network {comparing.raised_error(error)}") from error

    @cached_property
    def repeats(self) -> bool:
        """Whether two copies agree."""
        once = self.usual.outcome
        return not comparing.differing(once, self.anew(networks.plain, self.another()).outcome)

    def require_repeatable(self) -> None:
        """:class:`NotApplicable` where two copies disagree anyway."""
        if not self.repeats:
            raise NotApplicable("the promise 'deterministic' is broken")


def runs(case: InterventionCase) -> None:
    """A small convolutional network is trained with it for two mega-batches of two epochs."""
    try:
        case.trained(networks.plain)
    except UsageError as error:
        raise Failure(f"it refuses a small convolutional network: {error}") from error


def acts(case: InterventionCase) -> None:
    """It overrides at least one of the moments."""
    if not overridden_hooks(type(case.component)):
        raise Failure(f"it overrides none of {', '.join(HOOKS)}, so it never acts")


def finite(case: InterventionCase) -> None:
    """No parameter or buffer becomes NaN or infinite."""
    for name, value in case.usual.weights.items():
        if not bool(value.isfinite().all()):
            raise Failure(f"after a few steps at a learning rate of 0.05 '{name}' holds NaN or infinity")


def state_tensors(case: InterventionCase) -> None:
    """What it keeps in `moment.state` are tensors under names, since that is what a checkpoint can hold."""
    for name, value in case.usual.state.items():
        if not isinstance(name, str) or not isinstance(value, Tensor):
            raise Failure(f"moment.state[{name!r}] is {type(value).__name__}, not a tensor under a name")


def deterministic(case: InterventionCase) -> None:
    """Two trainings under one seed, with one object, end with the same weights and `moment.state` to the bit."""
    component = case.another()
    once, again = (case.anew(networks.plain, component).outcome for _ in range(2))
    for name in sorted(comparing.differing(once, again)):
        raise Failure(f"trained again under the same seed, {name} is another; remember nothing, draw from moment.rng")


def own_randomness(case: InterventionCase) -> None:
    """The global random state has no part in what it does and is left as it was, so that no other draw shifts."""
    case.require_repeatable()
    for name in sorted(comparing.differing(case.usual.outcome, case.borrowed(networks.plain, noise=1).outcome)):
        raise Failure(f"{name} varies with the global random state; draw from moment.rng")
    drew = case.usual.seen.drew
    if drew:
        raise Failure(f"in {drew} it draws from (or seeds) the global random state; draw from moment.rng")


def leaves_settings(case: InterventionCase) -> None:
    """The process-wide settings of torch and NumPy (default dtype, grad mode, autocast …) are as they were."""
    comparing.require_settings(list(dict.fromkeys(case.usual.seen.settings)))


def resumes(case: InterventionCase) -> None:
    """A training that a new process takes up after an epoch ends with the same weights and `moment.state`."""
    case.require_repeatable()
    whole = case.borrowed(networks.normalised).outcome
    for done in (1, 2, 3):
        situation = networks.normalised()
        past = past_of(situation.model)
        first, _ = case.acting(situation, past, case.another())
        train(first, situation.batches, EPOCHS[:done])
        saved = _through_a_file(
            {"model": situation.model.state_dict(), "optimizer": first.optimizer.state_dict(), "state": first.states[0]}
        )
        taken_up = networks.normalised()
        second, _ = case.acting(taken_up, past, case.another())
        second.model.load_state_dict(saved["model"])
        second.optimizer.load_state_dict(saved["optimizer"])
        second.states[0].update(saved["state"])
        train(second, taken_up.batches, EPOCHS[done:])
        for name in sorted(comparing.differing(whole, outcome_of(taken_up.model, second.states[0]))):
            taken = f"taken up after {done} of {len(EPOCHS)} epochs"
            raise Failure(f"{taken}, {name} is another; what is to be found again belongs in moment.state")


def _through_a_file(content: dict[str, Any]) -> dict[str, Any]:
    file = io.BytesIO()
    torch.save(content, file)
    file.seek(0)
    try:
        loaded: dict[str, Any] = torch.load(file, weights_only=True)
    except Exception as error:
        raise NotApplicable("the promise 'state-tensors' is broken") from error
    return loaded


def touches(case: InterventionCase) -> None:
    """What it writes to is what `touches` says, no less and no more."""
    declared = getattr(case.component, "touches", None)
    if declared is None:
        raise NotApplicable("it does not say what it touches")
    touched: set[Writes] = set()
    for network in (networks.plain, networks.normalised, networks.dead_and_normalised):
        touched |= case.borrowed(network).seen.touched
    require_no_more(touched, declared)
    require_no_less(touched | case.elsewhere(), declared)


def leaves_modes(case: InterventionCase) -> None:
    """After each of its moments every module is in the mode that it was in."""
    changed = case.borrowed(networks.normalised).seen.modes_changed
    if changed:
        raise Failure(f"it leaves the module '{min(changed)}' in another mode, eval or train")


def leaves_hooks(case: InterventionCase) -> None:
    """After an epoch the network has the hooks that it had before."""
    usual = case.usual
    comparing.require_same(usual.before.hooks, comparing.Snapshot.of(usual.model).hooks, "the hooks of the module")


def needs_activity(case: InterventionCase) -> None:
    """A class looks at `moment.activity` if and only if it says `needs_activity = True`."""
    said = bool(getattr(case.component, "needs_activity", False))
    looked = case.usual.seen.looked
    if said and not looked:
        raise Failure(
            "it says needs_activity = True and never looks at moment.activity; where it looks too seldom to be seen, "
            "name other options in examined_with"
        )
    if looked and not said:
        raise Failure("it looks at moment.activity, which is empty; say needs_activity = True")


def needs_previous(case: InterventionCase) -> None:
    """A class that asks for the weights of the mega-batch before says `needs_previous = True`."""
    said = bool(getattr(case.component, "needs_previous", False))
    if "previous" in case.usual.asked.references and not said:
        raise Failure("it asks reference('previous'); say needs_previous = True, so that the host keeps those weights")


def frozen(case: InterventionCase) -> None:
    """A parameter that is frozen keeps its bits."""
    trained = case.trained(networks.frozen)
    before, weights = trained.before, trained.weights
    fixed = {name: value for name, value in before.parameters.items() if not before.gradients[name][0]}
    comparing.require_same(fixed, {name: weights[name].detach() for name in fixed}, "the frozen parameter")


def tied(case: InterventionCase) -> None:
    """A network in which two layers share a parameter is dealt with."""
    case.trained(networks.tied)


def unused(case: InterventionCase) -> None:
    """A network with a layer that the loss does not depend on, which gets no gradient, is dealt with."""
    case.trained(networks.unused)


def batch_norm(case: InterventionCase) -> None:
    """A network with batch normalisation is dealt with."""
    case.trained(networks.normalised)


def scalars(case: InterventionCase) -> None:
    """Parameters without a dimension, and with one that are no biases, are dealt with."""
    case.trained(networks.scalars)


def channels_last(case: InterventionCase) -> None:
    """A network in the other memory format is dealt with."""
    case.trained(networks.channels_last)


def promises() -> tuple[Promise, ...]:
    """In the order in which they are looked at."""
    return promise(
        "interventions",
        *(runs, acts, finite, state_tensors, deterministic, own_randomness, leaves_settings, resumes, touches),
        *(leaves_modes, leaves_hooks, needs_activity, needs_previous),
        *(frozen, tied, unused, batch_norm, scalars, channels_last),
    )
