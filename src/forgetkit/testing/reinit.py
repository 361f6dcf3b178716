"""The promises of reset methods.

A method gets the context that a run would hand it. Its changes are written as a run writes them; those with a fault
are recorded and not written.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Callable, Generator, Iterable, Iterator, Mapping, Set
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor

from forgetkit.contracts import Change, Intervention, Writes
from forgetkit.errors import OptionError, UsageError
from forgetkit.registry.spec import check_option
from forgetkit.seeding import seeded_rng
from forgetkit.testing import comparing, networks, rows
from forgetkit.testing.fixtures import LateRequestError, RecordedRequests, WatchedContext, proposing_stage
from forgetkit.testing.networks import NetworkFixture
from forgetkit.testing.promise import Failure, NotApplicable, row
from forgetkit.testing.watching import NEEDS_PREVIOUS, WHILE_TRAINING, WatchingCase, needs_data
from forgetkit.testing.writes import kind_of, require_declared
from forgetkit.unlearning.selection import count_of

_KS_LIMIT = 2.7
"""Kolmogorov's statistic times the square root of the count exceeds it once in a million draws."""


@dataclass(frozen=True, eq=False)
class ResetRecord:
    """The changes that a method proposed, and the network before and after."""

    changes: tuple[Any, ...]
    """As they were proposed, with copies of masks and values."""
    shapes: Mapping[str, tuple[int, ...]]
    """The shape of each parameter and buffer that may be changed."""
    scored: int
    """The number of entries that have scores."""
    before: comparing.Snapshot
    after: comparing.Snapshot
    memory: Mapping[str, Any]
    """What the method kept from a training before, if it is an intervention too."""
    requests: RecordedRequests
    unreturned: str
    """The name whose change was yielded before a probe was returned; empty if there is none."""

    @property
    def writable(self) -> tuple[Change, ...]:
        """The changes without a fault, the first of each name."""
        found: dict[str, Change] = {}
        for change in self.changes:
            if _is_writable(change, self.shapes):
                found.setdefault(change.name, change)
        return tuple(found.values())

    @property
    def fitting(self) -> Iterator[tuple[Change, tuple[int, ...]]]:
        """The changes that are a ``Change`` to something that may be changed, each with its shape."""
        for change in self.changes:
            if isinstance(change, Change) and change.name in self.shapes:
                yield change, self.shapes[change.name]


def _is_writable(change: Any, shapes: Mapping[str, tuple[int, ...]]) -> bool:
    if not isinstance(change, Change) or change.name not in shapes:
        return False
    tensors = [change.value] if change.mask is None else [change.value, change.mask]
    fits = all(isinstance(t, Tensor) and tuple(t.shape) == shapes[change.name] for t in tensors)
    return fits and (change.mask is None or change.mask.dtype == torch.bool)


def changes(record: ResetRecord) -> None:
    """Each thing that is yielded is a `Change`."""
    for change in record.changes:
        if not isinstance(change, Change):
            raise Failure(f"it yields {type(change).__name__}, not Change(name, mask, value)")


def names(record: ResetRecord) -> None:
    """Each change is to a parameter in `context.targets` or a buffer in `context.buffers`, and to each once."""
    seen = set()
    for change in record.changes:
        if not isinstance(change, Change):
            continue
        if change.name not in record.shapes:
            raise Failure(f"it changes '{change.name}', which is neither in context.targets nor in context.buffers")
        if change.name in seen:
            raise Failure(f"it changes '{change.name}' twice")
        seen.add(change.name)


def masks(record: ResetRecord) -> None:
    """Each mask is None or a bool tensor of the parameter's shape."""
    for change, shape in record.fitting:
        mask: Any = change.mask
        if mask is not None and not (
            isinstance(mask, Tensor) and mask.dtype == torch.bool and tuple(mask.shape) == shape
        ):
            raise Failure(f"the mask for '{change.name}' is not a bool tensor of shape {shape}")


def values(record: ResetRecord) -> None:
    """Each value is a tensor of the parameter's shape."""
    for change, shape in record.fitting:
        value: Any = change.value
        if not isinstance(value, Tensor):
            raise Failure(f"the value for '{change.name}' is {type(value).__name__}, not a tensor")
        if tuple(value.shape) != shape:
            raise Failure(f"the value for '{change.name}' has shape {tuple(value.shape)}, not {shape}")


def finite(record: ResetRecord) -> None:
    """No value is NaN or infinite."""
    for change in record.changes:
        value = getattr(change, "value", None)
        if isinstance(value, Tensor) and value.is_floating_point() and not bool(value.isfinite().all()):
            raise Failure(f"the value for '{change.name}' holds NaN or infinity")


def gives_back(record: ResetRecord) -> None:
    """A probe from `context.probe()` is given back before the next change is yielded."""
    if record.unreturned:
        raise Failure(
            f"it yields the change to '{record.unreturned}' inside 'with context.probe()'; leave 'with' first"
        )


FORM = tuple(map(row, (changes, names, masks, values, finite, gives_back)))


@dataclass(frozen=True, eq=False)
class ReinitCase(WatchingCase):
    """A reset method under examination."""

    shuffled: bool = False
    """Whether entries are scored at random, not by their size."""

    answer: ClassVar[str] = "a change"
    generator: ClassVar[str] = "context.rng or context.fresh"
    form: ClassVar = FORM

    def perform(self, component: Any, given: NetworkFixture, seed: int) -> ResetRecord:
        """Reset a network."""
        with proposing_stage(given, component, shuffled=self.shuffled) as (context, optimizer):
            model = context.view.model
            before = comparing.Snapshot.of(model, optimizer)
            memory = copy.deepcopy(dict(context.memory))
            with seeded_rng(seed):
                proposed, unreturned = _apply_changes(component, context)
            return ResetRecord(
                changes=proposed,
                shapes=_shapes(context),
                scored=sum(tensor.numel() for tensor in context.view.scored.values()),
                before=before,
                after=comparing.Snapshot.of(model, optimizer),
                memory=memory,
                requests=context.requests,
                unreturned=unreturned,
            )

    @contextmanager
    def prepared(self) -> Iterator[Callable[[], object]]:
        """Yield a call on the plain network."""
        method = self.another()
        with proposing_stage(networks.plain(), method) as (context, _):

            def call() -> None:
                with suppress(LateRequestError):  # another promise
                    _apply_changes(method, context)

            yield call

    def outcome(self, record: ResetRecord) -> list[Any]:
        """The changes, field by field."""
        return [[getattr(change, part, None) for part in ("name", "mask", "value")] for change in record.changes]

    def written(self) -> Set[Writes]:
        """Return what is written to, on networks that differ and with scores at random."""
        found: set[Writes] = set()
        case = ReinitCase(self.component, shuffled=True)
        for network in (*_DIFFERENT, networks.dead_and_normalised, networks.scalars):
            with suppress(UsageError):
                changed = [c for c in case.sound(network).writable if c.mask is None or bool(c.mask.any())]
                found.update(kind_of(network().model, change.name) for change in changed)
        return found


_DIFFERENT = (networks.plain, networks.normalised, networks.dead_units)


def _shapes(context: WatchedContext) -> dict[str, tuple[int, ...]]:
    return {name: tuple(tensor.shape) for name, tensor in {**context.targets, **context.buffers}.items()}


def _apply_changes(method: Any, context: WatchedContext) -> tuple[tuple[Any, ...], str]:
    """Write each change before the next one is requested, as a run does; return them and the unreturned name."""
    tensors = comparing.tensors_of(context.view.model)
    shapes = _shapes(context)
    found, seen = [], set()
    with torch.no_grad():
        proposed = method.propose(context)
        if not isinstance(proposed, Iterable):
            raise Failure(f"propose() returned {type(proposed).__name__}, not an iterable of changes")
        with _closing(iter(proposed)) as each:
            for change in each:
                context.under_way = True
                found.append(_copy_change(change))
                if context.out:  # nothing may be written while a probe is out
                    return tuple(found), str(getattr(change, "name", "?"))
                if _is_writable(change, shapes) and change.name not in seen:
                    seen.add(change.name)
                    tensors[change.name].copy_(_written(change, tensors[change.name]))
    return tuple(found), ""


def _written(change: Change, old: Tensor) -> Tensor:
    """Return the tensor after a change."""
    value = change.value.to(old.dtype)
    return value if change.mask is None else torch.where(change.mask, value, old)


@contextmanager
def _closing(each: Iterator[Any]) -> Iterator[Iterator[Any]]:
    """Close a generator on leaving, not when it is collected: the contexts that it holds open are nested."""
    try:
        yield each
    finally:
        if isinstance(each, Generator):
            each.close()


def _copy_change(change: Any) -> Any:
    if not isinstance(change, Change):
        return change
    parts: tuple[Any, Any] = change.mask, change.value
    mask, value = (part.detach().clone() if isinstance(part, Tensor) else part for part in parts)
    return Change(change.name, mask, value)


def runs(case: ReinitCase) -> None:
    """`propose(context)` ends for a small convolutional network."""
    with suppress(LateRequestError):  # another promise
        try:
            case.observe()
        except UsageError as error:
            raise Failure(f"it refuses a small convolutional network: {error}") from error


def acts(case: ReinitCase) -> None:
    """Something is changed, unless the class says `changes_nothing = True`."""
    changed = any(record.changes for record in case.several)
    declared = bool(getattr(case.component, "changes_nothing", False))
    if declared and changed:
        raise Failure("it says changes_nothing = True and changes something")
    if not declared and not changed:
        raise Failure("it changes nothing; if that is intended, say changes_nothing = True")


def unmasked_kept(case: ReinitCase) -> None:
    """Entries outside the masks keep their bits: the method writes by its changes alone."""
    record = case.borrowed(networks.normalised)
    if record.unreturned:
        raise NotApplicable("the promise 'gives-back' is broken")
    expected = {**record.before.parameters, **record.before.buffers}
    for change in record.writable:
        expected[change.name] = _written(change, expected[change.name])
    for name in sorted(comparing.differing(expected, {**record.after.parameters, **record.after.buffers})):
        raise Failure(f"it changes entries of '{name}' outside every mask; write by yielding changes alone")


def selects_first(case: ReinitCase) -> None:
    """`context.select` is called before the first change is yielded."""
    try:
        case.observe()
    except LateRequestError as late:
        raise Failure(str(late)) from late


def exact_fraction(case: ReinitCase) -> None:
    """With scores and an option `fraction`, the masks cover exactly that fraction of the scored entries."""
    if case.option("fraction") is None or not getattr(case.component, "needs_scores", False):
        raise NotApplicable("it has no option fraction, or uses no scores")
    for fraction in (0.0, 0.29, 1.0):
        try:
            check_option(case.name, type(case.component), "fraction", fraction)
        except OptionError:
            continue  # its annotation excludes this value
        component = case.with_options(fraction=fraction)
        record = case.sound(component=component)
        wanted = count_of(fraction, record.scored, getattr(component, "round", "down"))
        count = sum(c.value.numel() if c.mask is None else int(c.mask.sum()) for c in record.writable)
        if count != wanted:
            raise Failure(f"fraction={fraction} of {record.scored} entries is {wanted}, but the masks cover {count}")


def touches(case: ReinitCase) -> None:
    """What is written to is what `touches` says, no less and no more."""
    declared = getattr(case.component, "touches", None)
    if declared is None:
        raise NotApplicable("it does not say what it touches")
    # An intervention may write the rest during training.
    require_declared(case.written(), declared, None if isinstance(case.component, Intervention) else frozenset())


def fresh_distribution(case: ReinitCase) -> None:
    """With `fresh=original` the entries under the masks follow the initial distribution of their own module."""
    if getattr(case.component, "fresh", None) != "original" or case.option("fresh") is None:
        raise NotApplicable("it has no option fresh, or another than original")
    for change in case.sound(networks.unusual).writable:
        drawn = change.value.flatten() if change.mask is None else change.value[change.mask]
        if change.value.ndim < 2:
            if bool((drawn != networks.UNUSUAL_BIAS).any()):
                raise Failure(f"'{change.name}' starts from {networks.UNUSUAL_BIAS} in its own module, but not here")
            continue
        standard = ((drawn.double() - networks.UNUSUAL_MEAN) / networks.UNUSUAL_STD).sort().values
        if len(standard) and _distance_from_normal(standard) * math.sqrt(len(standard)) > _KS_LIMIT:
            raise Failure(f"the entries of '{change.name}' do not follow the initial distribution of their module")


def _distance_from_normal(ordered: Tensor) -> float:
    """Return Kolmogorov's distance of sorted values from the standard normal distribution."""
    chance = (1 + torch.erf(ordered / math.sqrt(2))) / 2
    steps = torch.arange(len(ordered) + 1, dtype=torch.float64) / len(ordered)
    return float(torch.maximum((steps[1:] - chance).abs(), (steps[:-1] - chance).abs()).max())


def channels_last(case: ReinitCase) -> None:
    """The memory format changes no mask, and no value by more than rounding."""
    case.require_as_sound(lambda: case.observe(networks.channels_last))
    case.require_repeatable()
    pairs = zip(case.sound().writable, case.sound(networks.channels_last).writable, strict=False)
    for usual, other in pairs:
        if usual.name != other.name or not comparing.same_bits(usual.mask, other.mask):
            raise Failure(f"in channels_last the mask for '{usual.name}' differs")
        if not comparing.nearly(other.value, usual.value):
            raise Failure(f"in channels_last the values for '{usual.name}' differ")


PROMISES = (
    row(runs),
    *rows.of_usual(FORM),
    row(acts),
    row(unmasked_kept),
    rows.leaves("gradients", "The method leaves nothing in `.grad`, and `requires_grad` as it was."),
    rows.leaves("modes", "The method leaves each module in the mode that it was in.", networks.normalised),
    rows.leaves("optimizer", "The method leaves the optimizer's state as it was: the host clears it under the masks."),
    rows.declares(
        "needs_scores",
        "calls context.select()",
        "The class calls `context.select` if and only if it says `needs_scores = True`.",
        lambda case: any(record.requests.selections for record in case.several),
        purpose="the host has scores for it",
    ),
    row(selects_first),
    needs_data("The class draws samples if and only if it says `needs_data = True`.", default=False),
    NEEDS_PREVIOUS,
    row(exact_fraction),
    row(touches),
    row(fresh_distribution),
    rows.deterministic("One object, called twice under the same seeds, proposes the same changes to the bit."),
    rows.own_randomness("The global random state neither changes the proposals nor is changed."),
    rows.LEAVES_SETTINGS,
    rows.copes(networks.frozen, "A network with frozen parameters is reset, without them."),
    rows.copes(networks.tied, "A parameter that two layers share is changed at most once, under its first name."),
    rows.copes(
        networks.unused, "A network with a layer that the loss does not depend on is reset, without that layer."
    ),
    rows.copes(networks.batch_norm, "A network with batch normalisation is reset."),
    rows.copes(networks.scalars, "A network with parameters of no dimension, or of one that are no biases, is reset."),
    rows.copes(networks.dead_units, "A network in which some units never fire is reset."),
    row(channels_last),
    rows.copes(networks.half_precision, "A network with weights in bfloat16 is reset."),
    *WHILE_TRAINING,
)
