"""What a way of forgetting promises, each looked at by itself.

The method gets the context that a run would hand it, and its changes are written as a run writes them; those with
a fault are noted and not written.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Callable, Generator, Iterable, Iterator, Mapping, Set
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import torch
from torch import Tensor, nn

from forgetkit.contracts import Change, Intervention, Writes
from forgetkit.errors import OptionError, UsageError
from forgetkit.registry.spec import check_option
from forgetkit.seeding import seeded_rng
from forgetkit.testing import comparing, networks
from forgetkit.testing.fixtures import LateRequestError, RecordedRequests, WatchedContext, proposing_stage
from forgetkit.testing.importance import require_said_previous
from forgetkit.testing.networks import NetworkFixture
from forgetkit.testing.observing import WatchingCase, require_same_memory
from forgetkit.testing.promise import Failure, NotApplicable, Promise, promise
from forgetkit.testing.writes import kind_of, require_no_less, require_no_more
from forgetkit.unlearning.selection import count_of

_DIFFERENT = (networks.plain, networks.normalised, networks.dead_units)

_KS_LIMIT = 2.7
"""Kolmogorov's statistic times the root of the count stays below it but once in a million draws."""


@dataclass(frozen=True, eq=False)
class ResetRecord:
    """What a method proposed, and the network before and after."""

    changes: tuple[Any, ...]
    """As they were proposed, with masks and values as they were then."""
    open: Mapping[str, tuple[int, ...]]
    """The shape of each parameter and buffer that may be changed."""
    scored: int
    before: comparing.Snapshot
    after: comparing.Snapshot
    optimizer_before: Mapping[str, Any]
    optimizer_after: Mapping[str, Any]
    memory: Mapping[str, Any]
    """What it had kept in a training before, where it has a part in that."""
    asked: RecordedRequests
    kept_out: str
    """The name before whose change a lent probe was still out; empty where none was."""

    @property
    def sound(self) -> tuple[Change, ...]:
        """The changes without a fault, of each name the first."""
        found: dict[str, Change] = {}
        for change in self.changes:
            if _writable(change, self.open) and change.name not in found:
                found[change.name] = change
        return tuple(found.values())

    @property
    def faults(self) -> Mapping[str, str]:
        """The promises about the form of the changes that are broken, and how."""
        found = {}
        for name, look in _LOOKS.items():
            try:
                look(self)
            except Failure as broken:
                found[name] = str(broken)
        return found


def _writable(change: Any, open_shapes: Mapping[str, tuple[int, ...]]) -> bool:
    shape = open_shapes.get(getattr(change, "name", ""))
    tensors = [getattr(change, "value", None), *([] if getattr(change, "mask", None) is None else [change.mask])]
    masks_are_bool = getattr(change, "mask", None) is None or getattr(change.mask, "dtype", None) == torch.bool
    return masks_are_bool and all(isinstance(t, Tensor) and tuple(t.shape) == shape for t in tensors)


@dataclass(frozen=True, eq=False)
class ReinitCase(WatchingCase):
    """A way of forgetting under examination."""

    def forgotten(
        self, situation: NetworkFixture, *, component: Any = None, seed: int = 0, shuffled: bool = False
    ) -> ResetRecord:
        """What a copy that was never asked before does; ``seed`` is that of the global random state.

        Entries are scored by their size, or with ``shuffled`` at random.
        """
        method = component if component is not None else self.another()
        with proposing_stage(situation, method, shuffled=shuffled) as (context, optimizer):
            model, targets = context.view.model, context.targets
            before, optimizer_before = comparing.Snapshot.of(model), _state_of(optimizer, model)
            memory = copy.deepcopy(dict(context.memory))
            with seeded_rng(seed):
                changes, kept_out = _written_names(model, method, context)
            return ResetRecord(
                changes=changes,
                open={name: tuple(tensor.shape) for name, tensor in {**targets, **context.buffers}.items()},
                scored=sum(tensor.numel() for tensor in context.view.scored.values()),
                before=before,
                after=comparing.Snapshot.of(model),
                optimizer_before=optimizer_before,
                optimizer_after=_state_of(optimizer, model),
                memory=memory,
                asked=context.asked,
                kept_out=kept_out,
            )

    @cached_property
    def usual(self) -> ResetRecord:
        """What comes of a small convolutional network, for every promise that is about that."""
        return self.borrowed(networks.plain())

    @cached_property
    def several(self) -> tuple[ResetRecord, ...]:
        """What comes of networks that differ in what there is to forget."""
        return tuple(self.borrowed(network()) for network in _DIFFERENT)

    def touched(self) -> Set[Writes]:
        """What is written to, over networks that differ and with scores at random."""
        found: set[Writes] = set()
        for network in (*_DIFFERENT, networks.dead_and_normalised, networks.scalars):
            situation = network()
            with suppress(UsageError):
                changes = self.sound(situation, shuffled=True).sound
                written = [change.name for change in changes if change.mask is None or bool(change.mask.any())]
                found.update(kind_of(situation.model, name) for name in written)
        return found

    def borrowed(self, situation: NetworkFixture, **how: Any) -> ResetRecord:
        """As :meth:`forgotten`, for a promise that is not about whether the method copes with the network."""
        try:
            return self.forgotten(situation, **how)
        except (UsageError, NotApplicable):
            raise
        except Exception as error:
            raise NotApplicable(f"on this network {comparing.raised_error(error)}") from error

    def sound(self, situation: NetworkFixture, **how: Any) -> ResetRecord:
        """As :meth:`borrowed`, for a promise that is not about the form of the changes."""
        forgotten = self.borrowed(situation, **how)
        for name in (*forgotten.faults, *(["gives-back"] if forgotten.kept_out else [])):
            raise NotApplicable(f"the promise '{name}' is broken")
        return forgotten

    def copes(self, situation: NetworkFixture) -> None:
        """:class:`Failure` where the changes have a fault that they have not on the plain network."""
        usual = self.usual.faults
        for name, reason in self.forgotten(situation).faults.items():
            if name not in usual:
                raise Failure(reason)

    @cached_property
    def repeats(self) -> bool:
        """Whether two copies agree."""
        return _same(self.usual.changes, self.borrowed(networks.plain()).changes)

    def require_repeatable(self) -> None:
        """:class:`NotApplicable` where two copies disagree anyway."""
        if not self.repeats:
            raise NotApplicable("the promise 'deterministic' is broken")


def _written_names(model: nn.Module, method: Any, context: WatchedContext) -> tuple[tuple[Any, ...], str]:
    """The changes, each written before the next is asked for as a run does."""
    tensors = {**dict(model.named_parameters()), **dict(model.named_buffers())}
    shapes = {name: tuple(tensor.shape) for name, tensor in {**context.targets, **context.buffers}.items()}
    changes, kept_out, seen = [], "", set()
    with torch.no_grad():
        proposed = method.propose(context)
        if not isinstance(proposed, Iterable):
            raise Failure(f"propose() returned {type(proposed).__name__}, not changes one after the other")
        with run_reset(iter(proposed)) as each:
            for change in each:
                context.under_way = True
                changes.append(_copy_network(change))
                if context.out:  # while a probe is out nothing may be written, so this is the end
                    kept_out = str(getattr(change, "name", "?"))
                    break
                if _writable(change, shapes) and change.name not in seen:
                    seen.add(change.name)
                    old = tensors[change.name]
                    value = change.value.to(old.dtype)
                    old.copy_(value if change.mask is None else torch.where(change.mask, value, old))
    return tuple(changes), kept_out


@contextmanager
def run_reset(each: Iterator[Any]) -> Iterator[Iterator[Any]]:
    """Whatever happens, a generator is closed here and not when it is collected: what it holds open is nested."""
    try:
        yield each
    finally:
        if isinstance(each, Generator):
            each.close()


def _copy_network(change: Any) -> Any:
    if not isinstance(change, Change):
        return change
    mask: Any = change.mask.clone() if isinstance(change.mask, Tensor) else change.mask
    value: Any = change.value.detach().clone() if isinstance(change.value, Tensor) else change.value
    return Change(change.name, mask, value)


def _state_of(optimizer: torch.optim.Optimizer, model: nn.Module) -> Mapping[str, Any]:
    return {
        name: {key: value.clone() for key, value in optimizer.state[p].items() if isinstance(value, Tensor)}
        for name, p in model.named_parameters()
        if p in optimizer.state
    }


def _same(one: Iterable[Any], other: Iterable[Any]) -> bool:
    """Whether two series of changes are equal to the bit."""
    parts = [
        [(getattr(c, "name", None), getattr(c, "mask", None), getattr(c, "value", None)) for c in changes]
        for changes in (one, other)
    ]
    return comparing.same_bits(*parts)


def _changes(forgotten: ResetRecord) -> None:
    for change in forgotten.changes:
        if not isinstance(change, Change):
            raise Failure(f"it yields {type(change).__name__}, not Change(name, mask, value)")


def _names(forgotten: ResetRecord) -> None:
    seen = set()
    for change in forgotten.changes:
        name = getattr(change, "name", None)
        if not isinstance(change, Change):
            continue
        if name not in forgotten.open:
            raise Failure(f"it changes '{name}', which is neither in context.targets nor in context.buffers")
        if name in seen:
            raise Failure(f"it changes '{name}' twice")
        seen.add(name)


def _masks(forgotten: ResetRecord) -> None:
    for change in forgotten.changes:
        mask, shape = getattr(change, "mask", None), forgotten.open.get(getattr(change, "name", ""))
        if mask is None or shape is None:
            continue
        if not isinstance(mask, Tensor) or mask.dtype != torch.bool or tuple(mask.shape) != shape:
            raise Failure(f"the mask for '{change.name}' is not a bool tensor of shape {shape}")


def _values(forgotten: ResetRecord) -> None:
    for change in forgotten.changes:
        shape = forgotten.open.get(getattr(change, "name", ""))
        if isinstance(change, Change) and shape is not None:
            if not isinstance(change.value, Tensor):
                raise Failure(f"the value for '{change.name}' is {type(change.value).__name__}, not a tensor")
            if tuple(change.value.shape) != shape:
                raise Failure(f"the value for '{change.name}' has shape {tuple(change.value.shape)}, not {shape}")


def _finite(forgotten: ResetRecord) -> None:
    for change in forgotten.changes:
        value = getattr(change, "value", None)
        if isinstance(value, Tensor) and value.is_floating_point() and not bool(value.isfinite().all()):
            raise Failure(f"the value for '{change.name}' holds NaN or infinity")


_LOOKS: Mapping[str, Callable[[ResetRecord], None]] = {
    "changes": _changes,
    "names": _names,
    "masks": _masks,
    "values": _values,
    "finite": _finite,
}


def runs(case: ReinitCase) -> None:
    """`propose(context)` comes to its end for a small convolutional network."""
    try:
        case.forgotten(networks.plain())
    except UsageError as error:
        raise Failure(f"it refuses a small convolutional network: {error}") from error
    except LateRequestError:
        return


def changes(case: ReinitCase) -> None:
    """Each thing that is yielded is a `Change`."""
    _changes(case.usual)


def names(case: ReinitCase) -> None:
    """Each change is to a parameter in `context.targets` or a buffer in `context.buffers`, and to each once."""
    _names(case.usual)


def masks(case: ReinitCase) -> None:
    """Each mask is None or a bool tensor of the parameter's shape."""
    _masks(case.usual)


def values(case: ReinitCase) -> None:
    """Each value is a tensor of the parameter's shape."""
    _values(case.usual)


def finite(case: ReinitCase) -> None:
    """No value is NaN or infinite."""
    _finite(case.usual)


def acts(case: ReinitCase) -> None:
    """Something is changed; a class that says `changes_nothing = True` changes nothing."""
    changed = any(forgotten.changes for forgotten in case.several)
    said = bool(getattr(case.component, "changes_nothing", False))
    if said and changed:
        raise Failure("it says changes_nothing = True and changes something")
    if not said and not changed:
        raise Failure("it changes nothing; where that is what it is for, say changes_nothing = True")


def unmasked_kept(case: ReinitCase) -> None:
    """What is not under a mask keeps its bits: nothing is written but by changes."""
    forgotten = case.borrowed(networks.normalised())
    if forgotten.kept_out:
        raise NotApplicable("the promise 'gives-back' is broken")
    expected = {**forgotten.before.parameters, **forgotten.before.buffers}
    for change in forgotten.sound:
        old = expected[change.name]
        value = change.value.to(old.dtype)
        expected[change.name] = value if change.mask is None else torch.where(change.mask, value, old)
    after = {**forgotten.after.parameters, **forgotten.after.buffers}
    for name in sorted(comparing.differing(expected, after)):
        raise Failure(f"entries of '{name}' that no mask names are others afterwards; write by changes alone")


def leaves_gradients(case: ReinitCase) -> None:
    """Nothing is left in `.grad`, and `requires_grad` is as it was."""
    forgotten = case.usual
    comparing.require_same(forgotten.before.gradients, forgotten.after.gradients, "afterwards, the gradient of")


def leaves_modes(case: ReinitCase) -> None:
    """Each module is in the mode that it was in."""
    forgotten = case.borrowed(networks.normalised())
    comparing.require_same(forgotten.before.modes, forgotten.after.modes, "afterwards, the mode of the module")


def leaves_optimizer(case: ReinitCase) -> None:
    """The optimizer's state is as it was: the host clears it under the masks."""
    forgotten = case.usual
    what = "afterwards, the optimizer's state of"
    comparing.require_same(forgotten.optimizer_before, forgotten.optimizer_after, what)


def needs_scores(case: ReinitCase) -> None:
    """A class asks `context.select` if and only if it says `needs_scores = True`."""
    said = bool(getattr(case.component, "needs_scores", False))
    asked = sum(forgotten.asked.selections for forgotten in case.several)
    if said and not asked:
        raise Failure("it says needs_scores = True and never asks select(), so that a criterion would be ignored")
    if asked and not said:
        raise Failure("it asks select(); say needs_scores = True, so that the host has scores for it")


def selects_first(case: ReinitCase) -> None:
    """`context.select` is asked before the first change is yielded."""
    try:
        case.forgotten(networks.plain())
    except LateRequestError as late:
        raise Failure(str(late)) from late


def needs_data(case: ReinitCase) -> None:
    """A class draws samples if and only if it says `needs_data = True`."""
    said = bool(getattr(case.component, "needs_data", False))
    drawn = any(forgotten.asked.samples for forgotten in case.several)
    if said and not drawn:
        raise Failure("it says needs_data = True and draws no samples")
    if drawn and not said:
        raise Failure("it draws samples; say needs_data = True, so that options about them act")


def needs_previous(case: ReinitCase) -> None:
    """A class asks for the weights of the mega-batch before if and only if it says `needs_previous = True`."""
    require_said_previous(case, case.usual.asked)


def gives_back(case: ReinitCase) -> None:
    """A probe from `context.probe()` is given back before the next change is yielded."""
    forgotten = case.usual
    if forgotten.kept_out:
        raise Failure(f"the change to '{forgotten.kept_out}' is yielded while a probe is out: leave 'with' first")


def exact_fraction(case: ReinitCase) -> None:
    """With scores and an option `fraction`, exactly that share of the scored entries is under the masks."""
    option = next((option for option in case.options if option.name == "fraction"), None)
    if option is None or not getattr(case.component, "needs_scores", False):
        raise NotApplicable("it has no option fraction, or looks at no scores")
    for fraction in (0.0, 0.29, 1.0):
        try:
            check_option(case.name, type(case.component), "fraction", fraction)
        except OptionError:
            continue  # nobody can give it that
        component = case.with_options(fraction=fraction)
        forgotten = case.sound(networks.plain(), component=component)
        wanted = count_of(fraction, forgotten.scored, getattr(component, "round", "down"))
        count = sum(
            change.value.numel() if change.mask is None else int(change.mask.sum()) for change in forgotten.sound
        )
        if count != wanted:
            raise Failure(
                f"fraction={fraction} of {forgotten.scored} entries is {wanted}, and {count} are under the masks"
            )


def touches(case: ReinitCase) -> None:
    """What is written to is what `touches` says, no less and no more."""
    declared = getattr(case.component, "touches", None)
    if declared is None:
        raise NotApplicable("it does not say what it touches")
    touched = case.touched()
    require_no_more(touched, declared)
    if not isinstance(case.component, Intervention):  # the rest may be touched in the training
        require_no_less(touched, declared)


def fresh_distribution(case: ReinitCase) -> None:
    """With `fresh=original` the entries under the masks follow the distribution that their own module starts from."""
    if getattr(case.component, "fresh", None) != "original" or "fresh" not in {o.name for o in case.options}:
        raise NotApplicable("it has no option fresh, or another than original")
    for change in case.sound(networks.unusual()).sound:
        drawn = change.value.flatten() if change.mask is None else change.value[change.mask]
        if change.value.ndim < 2:
            if bool((drawn != networks.UNUSUAL_BIAS).any()):
                raise Failure(
                    f"'{change.name}' starts from {networks.UNUSUAL_BIAS} in its own module, and does not here"
                )
            continue
        standard = ((drawn.double() - networks.UNUSUAL_MEAN) / networks.UNUSUAL_STD).sort().values
        if len(standard) and _distance_from_normal(standard) * math.sqrt(len(standard)) > _KS_LIMIT:
            raise Failure(f"the entries of '{change.name}' do not follow the distribution that its module starts from")


def _distance_from_normal(ordered: Tensor) -> float:
    """Kolmogorov's: the largest distance between the share of the entries below a value and its chance."""
    chance = (1 + torch.erf(ordered / math.sqrt(2))) / 2
    count = len(ordered)
    steps = torch.arange(count + 1, dtype=torch.float64) / count
    return float(torch.maximum((steps[1:] - chance).abs(), (steps[:-1] - chance).abs()).max())


def deterministic(case: ReinitCase) -> None:
    """Asked twice for the same network under the same seeds, a method proposes the same to the bit."""
    method = case.another()
    once = case.borrowed(networks.plain(), component=method)
    again = case.forgotten(networks.plain(), component=method)
    require_same_memory(once.memory, again.memory)
    if not _same(once.changes, again.changes):
        raise Failure("asked again, it proposes other changes; it must remember nothing and draw from context.rng")


def own_randomness(case: ReinitCase) -> None:
    """The global random state has no part in the changes and is left as it was."""
    case.require_repeatable()
    one, other = (case.borrowed(networks.plain(), seed=seed).changes for seed in (1, 2))
    if not _same(one, other):
        raise Failure("the changes vary with the global random state; draw from context.rng or context.fresh")
    situation, method = networks.plain(), case.another()
    with proposing_stage(situation, method) as (context, _), comparing.watch_random_state():
        _written_names(context.view.model, method, context)


def leaves_settings(case: ReinitCase) -> None:
    """The process-wide settings of torch and NumPy (default dtype, grad mode, autocast …) are as they were."""
    method = case.another()
    with (
        proposing_stage(networks.plain(), method) as (context, _),
        comparing.watch_settings(),
        suppress(LateRequestError),  # that is another promise
    ):
        _written_names(context.view.model, method, context)


def frozen(case: ReinitCase) -> None:
    """A network with frozen parameters is dealt with, and those are left alone."""
    case.copes(networks.frozen())


def tied(case: ReinitCase) -> None:
    """A parameter that two layers share is changed once at most, under its first name."""
    case.copes(networks.tied())


def unused(case: ReinitCase) -> None:
    """A network with a layer that the loss does not depend on is dealt with, and that layer left alone."""
    case.copes(networks.unused())


def batch_norm(case: ReinitCase) -> None:
    """A network with batch normalisation is dealt with."""
    case.copes(networks.batch_norm())


def scalars(case: ReinitCase) -> None:
    """Parameters without a dimension, and with one that are no biases, are dealt with."""
    case.copes(networks.scalars())


def dead_units(case: ReinitCase) -> None:
    """A network in which some units never fire is dealt with."""
    case.copes(networks.dead_units())


def channels_last(case: ReinitCase) -> None:
    """The memory format changes no mask, and no value by more than rounding."""
    case.copes(networks.channels_last())
    case.require_repeatable()
    pairs = zip(case.sound(networks.plain()).sound, case.sound(networks.channels_last()).sound, strict=False)
    for usual, other in pairs:
        if usual.name != other.name or not comparing.same_bits(usual.mask, other.mask):
            raise Failure(f"in channels_last something else than in '{usual.name}' is changed")
        if not comparing.nearly(other.value, usual.value):
            raise Failure(f"in channels_last the values for '{usual.name}' are others")


def half_precision(case: ReinitCase) -> None:
    """A network with weights in bfloat16 is dealt with."""
    case.copes(networks.half_precision())


def promises() -> tuple[Promise, ...]:
    """In the order in which they are looked at."""
    return promise(
        "reinit",
        *(runs, changes, names, masks, values, finite, acts, unmasked_kept),
        *(leaves_gradients, leaves_modes, leaves_optimizer),
        *(needs_scores, selects_first, needs_data, needs_previous, gives_back),
        *(exact_fraction, touches, fresh_distribution, deterministic, own_randomness, leaves_settings),
        *(frozen, tied, unused, batch_norm, scalars, dead_units, channels_last, half_precision),
    )
