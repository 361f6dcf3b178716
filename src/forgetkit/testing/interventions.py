"""The promises of interventions, checked on a training of a few steps."""

from __future__ import annotations

import io
from collections.abc import Callable, Iterable, Mapping, Set
from dataclasses import dataclass, field, replace
from typing import Any, ClassVar

import torch
from torch import Tensor

from forgetkit.contracts import Change, Intervention, InterventionContext, Writes
from forgetkit.seeding import seeded_rng
from forgetkit.system.torch_settings import restored
from forgetkit.testing import comparing, networks, rows
from forgetkit.testing.case import KitCase
from forgetkit.testing.fixtures import SEEDS, RecordedRequests, history_of, runner_on, train
from forgetkit.testing.networks import NetworkFixture
from forgetkit.testing.promise import Failure, NotApplicable, row
from forgetkit.testing.writes import kind_of, require_declared
from forgetkit.unlearning import ModelHistory
from forgetkit.unlearning.interventions import HOOKS, InterventionRunner, overridden_hooks

EPOCHS = ((1, 1), (1, 2), (2, 1), (2, 2))
"""The training: two mega-batches of two epochs."""


@dataclass(eq=False)
class HookEffects:
    """What an intervention did in its hooks."""

    written: set[Writes] = field(default_factory=set)
    modes: set[str] = field(default_factory=set)
    """The modules whose mode it left changed."""
    activity: bool = False
    """Whether it read the activity of units."""
    settings: list[str] = field(default_factory=list)
    """The settings of torch and NumPy that it left changed."""
    drew: str = ""
    """The hook that changed the global random state; empty if none did."""


@dataclass(eq=False)
class WatchedIntervention(Intervention):
    """Forwards each hook to an intervention and records what that changes."""

    inner: Intervention
    effects: HookEffects
    noise: int

    @classmethod
    def of(cls, inner: Intervention, effects: HookEffects, noise: int) -> WatchedIntervention:
        """Return one of a class of the intervention's name, since the host draws and reports by that name."""
        named: type[WatchedIntervention] = type(type(inner).__name__, (cls,), {})
        return named(inner, effects, noise)

    @property
    def needs_activity(self) -> bool:
        """The flag of the intervention."""
        return bool(getattr(self.inner, "needs_activity", False))

    def begin(self, moment: InterventionContext) -> None:
        """Forward the hook."""
        self._forward("begin", moment)

    def loss(self, moment: InterventionContext) -> Tensor | None:
        """Forward the hook."""
        term: Tensor | None = self._forward("loss", moment)
        if term is not None:
            self.effects.written.add("loss")
        return term

    def before_step(self, moment: InterventionContext) -> None:
        """Forward the hook."""
        self._forward("before_step", moment)

    def after_step(self, moment: InterventionContext) -> None:
        """Forward the hook."""
        self._forward("after_step", moment)

    def after_epoch(self, moment: InterventionContext) -> None:
        """Forward the hook."""
        self._forward("after_epoch", moment)

    def _forward(self, hook: str, moment: InterventionContext) -> Any:
        if hook not in overridden_hooks(type(self.inner)):
            return None
        model, optimizer = moment.model, moment.optimizer
        before, last = comparing.Snapshot.of(model), [_optimizer_state(optimizer)]

        def apply(changes: Iterable[Change]) -> int:
            self._record_optimizer(last[0], optimizer)
            count = moment.apply(changes)
            last[0] = _optimizer_state(optimizer)  # what the host clears under a mask does not count
            return count

        def see() -> Mapping[str, Tensor]:
            self.effects.activity = True
            return moment.activity

        with seeded_rng(SEEDS.number(hook, moment.mega_batch, moment.epoch, moment.step, self.noise)):
            state = comparing.random_state()
            with restored(self.effects.settings):
                answer = getattr(self.inner, hook)(replace(moment, apply=apply, compute_activity=see))
            if comparing.random_state() != state:
                self.effects.drew = hook
        after = comparing.Snapshot.of(model)
        self._record_optimizer(last[0], optimizer)
        written = comparing.differing({**before.parameters, **before.buffers}, {**after.parameters, **after.buffers})
        self.effects.written.update(kind_of(model, name) for name in written)
        if comparing.differing(before.gradients, after.gradients):
            self.effects.written.add("gradients")
        self.effects.modes.update(comparing.differing(before.modes, after.modes))
        return answer

    def _record_optimizer(self, before: Any, optimizer: torch.optim.Optimizer) -> None:
        if not comparing.same_bits(before, _optimizer_state(optimizer)):
            self.effects.written.add("optimizer")


def _optimizer_state(optimizer: torch.optim.Optimizer) -> Any:
    """Return a copy of the settings and the state of an optimizer."""
    settings = [{key: value for key, value in group.items() if key != "params"} for group in optimizer.param_groups]
    states = [optimizer.state.get(p, {}) for group in optimizer.param_groups for p in group["params"]]
    return settings, [
        {key: value.clone() if isinstance(value, Tensor) else value for key, value in state.items()} for state in states
    ]


@dataclass(frozen=True, eq=False)
class TrainingRecord:
    """A training with an intervention."""

    before: comparing.Snapshot
    after: comparing.Snapshot
    state: Mapping[str, Any]
    effects: HookEffects
    requests: RecordedRequests

    @property
    def weights(self) -> Mapping[str, Tensor]:
        """The final parameters and buffers."""
        return {**self.after.parameters, **self.after.buffers}


def _outcome(weights: Mapping[str, Tensor], state: Mapping[str, Any]) -> dict[str, Any]:
    return {**weights, **{f"moment.state[{name!r}]": value for name, value in state.items()}}


@dataclass(frozen=True, eq=False)
class InterventionCase(KitCase):
    """An intervention under examination."""

    written_elsewhere: Callable[[], Set[Writes]] = frozenset
    """What it writes to outside the training, if it is a component of another kind too."""

    answer: ClassVar[str] = "the final value"
    generator: ClassVar[str] = "moment.rng"

    def usual_input(self) -> NetworkFixture:
        """Return a small convolutional network."""
        return networks.plain()

    def perform(self, component: Any, given: NetworkFixture, seed: int) -> TrainingRecord:
        """Train a network."""
        requests = RecordedRequests()
        before = comparing.Snapshot.of(given.model)
        runner, effects = self.runner(given, history_of(given.model, requests), component, seed)
        train(runner, given.batches, EPOCHS, seed)
        return TrainingRecord(before, comparing.Snapshot.of(given.model), runner.states[0], effects, requests)

    def runner(
        self, fixture: NetworkFixture, history: ModelHistory, component: Any, noise: int = 0
    ) -> tuple[InterventionRunner, HookEffects]:
        """Return a runner of ``component``, and the record of what its hooks will do."""
        if not isinstance(component, Intervention):
            raise Failure(f"{type(component).__name__} is no forgetkit.contracts.Intervention; inherit from that class")
        effects = HookEffects()
        return runner_on(fixture, WatchedIntervention.of(component, effects, noise), history), effects

    def outcome(self, record: TrainingRecord) -> Mapping[str, Any]:
        """The final weights, and what the intervention keeps."""
        return _outcome(record.weights, record.state)

    def require_random_state(self) -> None:
        """Raise ``Failure`` if a hook changed the global random state."""
        hook = self.usual.effects.drew
        if hook:
            raise Failure(f"{hook} draws from (or seeds) the global random state; draw from {self.generator}")

    def require_settings(self) -> None:
        """Raise ``Failure`` if a hook changed a process-wide setting."""
        comparing.require_settings(list(dict.fromkeys(self.usual.effects.settings)))


def acts(case: InterventionCase) -> None:
    """The class overrides at least one of the hooks."""
    if not overridden_hooks(type(case.component)):
        raise Failure(f"it overrides none of {', '.join(HOOKS)}, so it never acts")


def finite(case: InterventionCase) -> None:
    """No parameter or buffer becomes NaN or infinite."""
    for name, value in case.usual.weights.items():
        if not bool(value.isfinite().all()):
            raise Failure(f"after a few steps at a learning rate of 0.05 '{name}' holds NaN or infinity")


def state_tensors(case: InterventionCase) -> None:
    """The values in `moment.state` are tensors and their keys strings, since a checkpoint holds nothing else."""
    for name, value in case.usual.state.items():
        if not isinstance(name, str) or not isinstance(value, Tensor):
            raise Failure(f"moment.state[{name!r}] is {type(value).__name__}, not a tensor under a string key")


def resumes(case: InterventionCase) -> None:
    """A training resumed by a new process after an epoch ends with the same weights and `moment.state`."""
    case.require_repeatable()
    whole = case.outcome(case.borrowed(networks.normalised))
    for done in (1, 2, 3):
        fixture, resumed = networks.normalised(), networks.normalised()
        history = history_of(fixture.model)
        first, _ = case.runner(fixture, history, case.another())
        train(first, fixture.batches, EPOCHS[:done])
        saved = _through_a_file(
            {"model": fixture.model.state_dict(), "optimizer": first.optimizer.state_dict(), "state": first.states[0]}
        )
        second, _ = case.runner(resumed, history, case.another())
        second.model.load_state_dict(saved["model"])
        second.optimizer.load_state_dict(saved["optimizer"])
        second.states[0].update(saved["state"])
        train(second, resumed.batches, EPOCHS[done:])
        for name in sorted(comparing.differing(whole, _outcome(comparing.tensors_of(resumed.model), second.states[0]))):
            raise Failure(
                f"resumed after {done} of {len(EPOCHS)} epochs, the final value of '{name}' differs; keep in "
                "moment.state what the next epoch needs"
            )


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
    """What is written to is what `touches` says, no less and no more."""
    declared = getattr(case.component, "touches", None)
    if declared is None:
        raise NotApplicable("it does not say what it touches")
    records = [case.usual, *(case.borrowed(network) for network in (networks.normalised, networks.dead_and_normalised))]
    written: set[Writes] = set().union(*(record.effects.written for record in records))
    require_declared(written, declared, case.written_elsewhere())


def leaves_modes(case: InterventionCase) -> None:
    """After each hook every module is in the mode that it was in."""
    changed = case.borrowed(networks.normalised).effects.modes
    if changed:
        raise Failure(f"it leaves the module '{min(changed)}' in another mode, eval or train")


def needs_previous(case: InterventionCase) -> None:
    """A class that asks for the weights of the previous mega-batch says `needs_previous = True`."""
    if "previous" in case.usual.requests.references and not getattr(case.component, "needs_previous", False):
        raise Failure("it asks reference('previous'); say needs_previous = True, so that the host keeps those weights")


def frozen(case: InterventionCase) -> None:
    """A frozen parameter keeps its bits."""
    record = case.observe(networks.frozen)
    fixed = {name: value for name, value in record.before.parameters.items() if not record.before.gradients[name][0]}
    comparing.require_same(fixed, {name: record.weights[name] for name in fixed}, "the frozen parameter")


PROMISES = (
    rows.runs(
        "A small convolutional network is trained with it for two mega-batches of two epochs.",
        "a small convolutional network",
    ),
    row(acts),
    row(finite),
    row(state_tensors),
    rows.deterministic("Two trainings with one object under one seed end with the same weights and `moment.state`."),
    rows.own_randomness("The global random state neither changes the training nor is changed by a hook."),
    rows.LEAVES_SETTINGS,
    row(resumes),
    row(touches),
    row(leaves_modes),
    rows.leaves("hooks", "After an epoch the network has the torch hooks that it had before."),
    rows.declares(
        "needs_activity",
        "reads moment.activity",
        "The class reads `moment.activity` if and only if it says `needs_activity = True`.",
        lambda case: case.usual.effects.activity,
        purpose="the host measures it",
    ),
    row(needs_previous),
    row(frozen),
    rows.copes(networks.tied, "A network in which two layers share a parameter is trained."),
    rows.copes(
        networks.unused, "A network with a layer that the loss does not depend on, without gradient, is trained."
    ),
    rows.copes(networks.normalised, "A network with batch normalisation is trained.", "batch-norm"),
    rows.copes(
        networks.scalars, "A network with parameters of no dimension, or of one that are no biases, is trained."
    ),
    rows.copes(networks.channels_last, "A network in the channels_last memory format is trained."),
)
