"""What a criterion promises, each looked at by itself.

The criterion gets the probe that a run would hand it, without what a run puts back or stops at: here that
is what is looked for.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import torch
from torch import Tensor, nn

from forgetkit.contracts import Intervention, SampleLimit
from forgetkit.errors import UsageError
from forgetkit.seeding import seeded_rng
from forgetkit.testing import comparing, networks
from forgetkit.testing.fixtures import RecordedRequests, scoring_stage
from forgetkit.testing.networks import NetworkFixture
from forgetkit.testing.observing import WatchingCase, require_same_memory
from forgetkit.testing.promise import Failure, NotApplicable, Promise, promise

Oracle = Callable[[nn.Module, Tensor, Tensor], Mapping[str, Tensor]]
"""The scores that a criterion must give a linear network, in closed form, from the network and all its samples."""


@dataclass(frozen=True, eq=False)
class ScoreRecord:
    """What a criterion answered, and what it was asked about."""

    scores: Mapping[str, Any]
    targets: Mapping[str, Tensor]
    memory: Mapping[str, Any]
    """What it had kept in a training before, where it has a part in that."""
    asked: RecordedRequests

    @property
    def faults(self) -> Mapping[str, str]:
        """The promises about the form of the answer that are broken, and how."""
        found = {}
        for name, look in _LOOKS.items():
            try:
                look(self)
            except Failure as broken:
                found[name] = str(broken)
        return found


@dataclass(frozen=True, eq=False)
class ImportanceCase(WatchingCase):
    """A criterion under examination."""

    oracle: Oracle | None = None

    def scored(self, situation: NetworkFixture, *, component: Any = None, seed: int = 0) -> ScoreRecord:
        """What a copy that was never asked before says; ``seed`` is that of the global random state."""
        criterion = component if component is not None else self.another()
        asked = RecordedRequests()
        with scoring_stage(situation, criterion, asked) as probe, seeded_rng(seed):
            targets = {name: target.detach().clone() for name, target in probe.targets.items()}
            memory = copy.deepcopy(dict(probe.memory))
            answer = criterion.score(probe)
            if not isinstance(answer, Mapping):
                raise Failure(
                    f"score() returned {type(answer).__name__}, not a mapping from parameter names to tensors"
                )
            return ScoreRecord({name: answer[name] for name in answer}, targets, memory, asked)

    @cached_property
    def usual(self) -> ScoreRecord:
        """What comes of a small convolutional network, for every promise that is about that."""
        return self.borrowed(networks.plain())

    @cached_property
    def several(self) -> tuple[ScoreRecord, ...]:
        """What comes of networks that differ in what there is to look at."""
        return tuple(self.borrowed(network()) for network in (networks.plain, networks.normalised, networks.dead_units))

    def borrowed(self, situation: NetworkFixture, **how: Any) -> ScoreRecord:
        """As :meth:`scored`, for a promise that is not about whether the criterion copes with the network."""
        try:
            return self.scored(situation, **how)
        except (UsageError, NotApplicable):
            raise
        except Exception as error:
            raise NotApplicable(f"on this network {comparing.raised_error(error)}") from error

    def sound(self, situation: NetworkFixture, **how: Any) -> Mapping[str, Tensor]:
        """The scores, for a promise that is not about their form."""
        scored = self.borrowed(situation, **how)
        for name in scored.faults:
            raise NotApplicable(f"the promise '{name}' is broken")
        return scored.scores

    @cached_property
    def repeats(self) -> bool:
        """Whether two copies agree."""
        return not comparing.differing(self.usual.scores, self.borrowed(networks.plain()).scores)

    def require_repeatable(self) -> None:
        """:class:`NotApplicable` where two copies disagree anyway."""
        if not self.repeats:
            raise NotApplicable("the promise 'deterministic' is broken")

    def copes(self, situation: NetworkFixture) -> None:
        """:class:`Failure` where the answer has a fault that it has not on the plain network."""
        usual = self.usual.faults
        for name, reason in self.scored(situation).faults.items():
            if name not in usual:
                raise Failure(reason)


def runs(case: ImportanceCase) -> None:
    """`score(probe)` returns a mapping for a small convolutional network."""
    try:
        case.scored(networks.plain())
    except UsageError as error:
        raise Failure(f"it refuses a small convolutional network: {error}") from error


def _keys(scored: ScoreRecord) -> None:
    for name in scored.targets.keys() - scored.scores.keys():
        raise Failure(f"there is no score for '{name}'")
    for name in scored.scores.keys() - scored.targets.keys():
        raise Failure(f"there is a score for '{name}', which is none of probe.targets")


def _shapes(scored: ScoreRecord) -> None:
    for name, score in scored.scores.items():
        target = scored.targets.get(name)
        if target is not None and tuple(getattr(score, "shape", target.shape)) != tuple(target.shape):
            raise Failure(f"the score of '{name}' has shape {tuple(score.shape)}, the parameter {tuple(target.shape)}")


def _floats(scored: ScoreRecord) -> None:
    for name, score in scored.scores.items():
        if not isinstance(score, Tensor):
            raise Failure(f"the score of '{name}' is {type(score).__name__}, not a tensor")
        if score.dtype != torch.float32:
            raise Failure(f"the score of '{name}' is {score.dtype}, not torch.float32")


def _finite(scored: ScoreRecord) -> None:
    for name, score in scored.scores.items():
        if isinstance(score, Tensor) and not bool(torch.isfinite(score).all()):
            raise Failure(f"the score of '{name}' holds NaN or infinity")


_LOOKS: Mapping[str, Callable[[ScoreRecord], None]] = {
    "keys": _keys,
    "shapes": _shapes,
    "floats": _floats,
    "finite": _finite,
}


def keys(case: ImportanceCase) -> None:
    """There is a score for each name in `probe.targets` and no other."""
    _keys(case.usual)


def shapes(case: ImportanceCase) -> None:
    """Each score has the shape of its parameter."""
    _shapes(case.usual)


def floats(case: ImportanceCase) -> None:
    """Each score is a float32 tensor."""
    _floats(case.usual)


def finite(case: ImportanceCase) -> None:
    """No score is NaN or infinite."""
    _finite(case.usual)


def different(case: ImportanceCase) -> None:
    """Not all scores are equal, unless the class says `allows_ties = True`."""
    if getattr(case.component, "allows_ties", False):
        raise NotApplicable("it says allows_ties = True")
    for name in case.usual.faults:
        raise NotApplicable(f"the promise '{name}' is broken")
    values = {float(value) for score in case.usual.scores.values() for value in (score.min(), score.max())}
    if len(values) == 1:
        raise Failure(f"it scores every entry {values.pop():g}; a criterion that means it says allows_ties = True")


def deterministic(case: ImportanceCase) -> None:
    """Asked twice under one `probe.rng`, a criterion gives the same scores to the bit."""
    criterion = case.another()
    once = case.borrowed(networks.plain(), component=criterion)
    again = case.scored(networks.plain(), component=criterion)
    require_same_memory(once.memory, again.memory)
    if comparing.differing(once.scores, again.scores):
        raise Failure("asked again, it gives other scores; it must remember nothing and draw from probe.rng alone")


def own_randomness(case: ImportanceCase) -> None:
    """The global random state has no part in the scores and is left as it was."""
    case.require_repeatable()
    if _heeds_global_state(case, networks.plain):
        raise Failure("the scores change with the global random state; draw from probe.rng or probe.rng_for(name)")
    situation, criterion = networks.plain(), case.another()
    with scoring_stage(situation, criterion, RecordedRequests()) as probe, comparing.watch_random_state():
        answer = criterion.score(probe)
        for name in answer:
            answer[name]


def leaves_settings(case: ImportanceCase) -> None:
    """The process-wide settings of torch and NumPy (default dtype, grad mode, autocast …) are as they were."""
    criterion = case.another()
    with scoring_stage(networks.plain(), criterion, RecordedRequests()) as probe, comparing.watch_settings():
        answer = criterion.score(probe)
        for name in answer:
            answer[name]


def _heeds_global_state(case: ImportanceCase, network: Callable[[], NetworkFixture]) -> bool:
    one, other = (case.borrowed(network(), seed=seed).scores for seed in (1, 2))
    return bool(comparing.differing(one, other))


def sample_budget(case: ImportanceCase) -> None:
    """With `samples=k` no more than k different samples are drawn, with a share no more than that share."""
    option = next((option for option in case.options if option.name == "samples"), None)
    if option is None:
        raise NotApplicable("it has no option samples")
    situation = networks.plain()
    amounts: dict[int | float, int] = {3: 3, 0.5: situation.samples // 2}
    for samples, most in amounts.items():
        if isinstance(samples, float) and option.type != SampleLimit:
            continue  # an option of another type takes no shares
        limited = case.with_options(samples=samples)
        drawn = len(case.borrowed(situation, component=limited).asked.samples)
        if drawn > most:
            raise Failure(f"with samples={samples} it draws {drawn} of {situation.samples} samples; {most} are allowed")


def needs_data(case: ImportanceCase) -> None:
    """A class draws no samples if and only if it says `needs_data = False`."""
    said = bool(getattr(case.component, "needs_data", True))
    drawn = any(scored.asked.samples for scored in case.several)
    if drawn and not said:
        raise Failure("it draws samples; take out needs_data = False")
    if said and not drawn:
        raise Failure("it draws no samples; say needs_data = False, so that options about them are not ignored")


def needs_previous(case: ImportanceCase) -> None:
    """A class asks for the weights of the mega-batch before if and only if it says `needs_previous = True`."""
    require_said_previous(case, case.usual.asked)


def require_said_previous(case: WatchingCase, asked: RecordedRequests) -> None:
    """:class:`Failure` where the previous weights are asked for and it is not said, or the other way round."""
    said, found = bool(getattr(case.component, "needs_previous", False)), "previous" in asked.references
    if said and not found and isinstance(case.component, Intervention):
        found = "previous" in case.watching.usual.asked.references
    if said != found:
        raise Failure(
            "it says needs_previous = True and never asks reference('previous')"
            if said
            else "it asks reference('previous'); say needs_previous = True, so that the host keeps those weights"
        )


def _left_alone(case: ImportanceCase, situation: NetworkFixture) -> tuple[comparing.Snapshot, comparing.Snapshot]:
    """The network before and after scoring, as a run lends it."""
    situation.model.eval()
    before = comparing.Snapshot.of(situation.model)
    case.borrowed(situation)
    return before, comparing.Snapshot.of(situation.model)


def leaves_parameters(case: ImportanceCase) -> None:
    """Scoring writes to no parameter."""
    before, after = _left_alone(case, networks.batch_norm())
    comparing.require_same(before.parameters, after.parameters, "after scoring, the parameter")


def leaves_buffers(case: ImportanceCase) -> None:
    """Scoring writes to no buffer, running statistics above all."""
    before, after = _left_alone(case, networks.batch_norm())
    comparing.require_same(before.buffers, after.buffers, "after scoring, the buffer")


def leaves_gradients(case: ImportanceCase) -> None:
    """Scoring leaves nothing in `.grad`, and `requires_grad` as it was."""
    before, after = _left_alone(case, networks.plain())
    comparing.require_same(before.gradients, after.gradients, "after scoring, the gradient of")


def leaves_modes(case: ImportanceCase) -> None:
    """Scoring leaves each module in the mode that it was in."""
    before, after = _left_alone(case, networks.batch_norm())
    comparing.require_same(before.modes, after.modes, "after scoring, the mode of the module")


def leaves_hooks(case: ImportanceCase) -> None:
    """The hooks that the network came with are still there; the host takes off those that scoring adds."""
    situation = networks.plain()
    for module in situation.model.modules():
        module.register_forward_hook(_looks_on)
        module.register_forward_pre_hook(_looks_on)
    before, after = _left_alone(case, situation)
    for name, hooks in before.hooks.items():
        if set(hooks) - set(after.hooks.get(name, ())):
            raise Failure(f"a hook that the module '{name}' came with is gone after scoring")


def _looks_on(module: nn.Module, *seen: Any) -> None:
    """A hook of the network's owner."""


def frozen(case: ImportanceCase) -> None:
    """A network with frozen parameters is scored, without them."""
    case.copes(networks.frozen())


def tied(case: ImportanceCase) -> None:
    """A parameter that two layers share is scored once, under its first name."""
    case.copes(networks.tied())


def unused(case: ImportanceCase) -> None:
    """A network with a layer that the loss does not depend on is scored, without that layer."""
    case.copes(networks.unused())


def batch_norm(case: ImportanceCase) -> None:
    """A network with batch normalisation is scored, on a batch of one sample too."""
    case.copes(networks.batch_norm())


def dropout(case: ImportanceCase) -> None:
    """Dropout has no part in the scores: the network is in eval mode and stays in it."""
    case.copes(networks.dropout())
    case.require_repeatable()
    if _heeds_global_state(case, networks.plain):
        raise NotApplicable("the promise 'own-randomness' is broken")
    if _heeds_global_state(case, networks.dropout):
        raise Failure("dropout acts while scoring, so that the scores change with the global random state")


def scalars(case: ImportanceCase) -> None:
    """Parameters without a dimension, and with one that are no biases, are scored."""
    case.copes(networks.scalars())


def dead_units(case: ImportanceCase) -> None:
    """Units that never fire, whose gradients are all zero, get finite scores."""
    case.copes(networks.dead_units())


def channels_last(case: ImportanceCase) -> None:
    """The memory format changes no score by more than rounding."""
    case.copes(networks.channels_last())
    case.require_repeatable()
    usual, other = case.sound(networks.plain()), case.sound(networks.channels_last())
    for name, score in usual.items():
        if not comparing.nearly(other[name], score):
            raise Failure(f"in channels_last the scores of '{name}' are others")


def half_precision(case: ImportanceCase) -> None:
    """A network with weights in bfloat16 gets float32 scores, all finite."""
    case.copes(networks.half_precision())


def higher_is_keep(case: ImportanceCase) -> None:
    """A unit whose weights are all zero, so that it plainly has no part, scores no higher than half of the others."""
    scores = case.sound(networks.useless())
    dead = {"body.weight": (slice(None, networks.DEAD),), "head.weight": (slice(None), slice(None, networks.DEAD))}
    for name, where in dead.items():
        score = scores[name]
        useless = torch.zeros_like(score, dtype=torch.bool)
        useless[where] = True
        if bool(score[useless].max() > score[~useless].median()):
            raise Failure(f"an entry of '{name}' without any effect scores above half of those that have one")


def oracle(case: ImportanceCase) -> None:
    """On a linear network the scores are those of the closed form that was given."""
    if case.oracle is None:
        raise NotApplicable("no closed form was given: pass oracle=")
    situation = networks.linear()
    scores = case.sound(situation)
    inputs, targets = (torch.cat(parts) for parts in zip(*situation.batches, strict=True))
    expected = case.oracle(copy.deepcopy(situation.model), inputs, targets)
    for name, score in scores.items():
        if name not in expected:
            raise Failure(f"the closed form has nothing for '{name}'")
        if not comparing.nearly(score, expected[name].detach()):
            raise Failure(f"the scores of '{name}' are not those of the closed form")


def promises() -> tuple[Promise, ...]:
    """In the order in which they are looked at."""
    checks = (
        *(runs, keys, shapes, floats, finite, different, deterministic, own_randomness, leaves_settings),
        *(sample_budget, needs_data, needs_previous),
        *(leaves_parameters, leaves_buffers, leaves_gradients, leaves_modes, leaves_hooks),
        *(frozen, tied, unused, batch_norm, dropout, scalars, dead_units, channels_last, half_precision),
        *(higher_is_keep, oracle),
    )
    return promise("importance", *checks)
