"""Judges what a call of ``forgetkit.unlearn`` or ``forgetkit.score`` did to a network, without forgetkit's own code."""

from __future__ import annotations

import copy
import functools
import math
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

import forgetkit
from forgetkit.contracts import Change, ReinitContext, UnitGroup
from forgetkit.errors import ForgetkitError

BUILDS = 3
_MANY, _READABLE = 1000, 10_000_000
_SPREAD = 8
"""Standard errors by which a standard deviation or a mean may be off."""

Build = Callable[[], nn.Module]
State = dict[str, Tensor]


@dataclass(frozen=True)
class Verdict:
    """A cell of the matrix: ``right``, ``refused``, ``wrong`` or ``error``, with the reason."""

    word: str
    reason: str = ""


def inside_of(model: nn.Module) -> nn.Module:
    """Return the network inside ``DataParallel``."""
    return model.module if isinstance(model, nn.DataParallel) else model


def state_of(model: nn.Module) -> State:
    """Return copies of all parameters and buffers."""
    model = inside_of(model)
    tensors: Iterable[tuple[str, Tensor]] = (*model.named_parameters(), *model.named_buffers())
    return {name: tensor.detach().clone() for name, tensor in tensors}


@dataclass(frozen=True)
class Distribution:
    """What a tensor starts as: its values in several networks built anew."""

    builds: Tensor

    @classmethod
    def of_network(cls, build: Build) -> dict[str, Distribution]:
        """Build the network several times, each with another seed."""
        states = []
        for seed in range(BUILDS):
            torch.manual_seed(1000 + seed)
            states.append(state_of(build()))
        return {name: cls(torch.stack([state[name] for state in states])) for name in states[0]}

    def objection(self, values: Tensor, mask: Tensor) -> str | None:
        """Return why ``values`` under ``mask`` are no draw from here, or None.

        Entries that all builds share are constants: they must be equal to the bit. Of the others, the standard
        deviation and the mean must be those of the builds, within what so many entries allow.
        """
        constant = (self.builds == self.builds[0]).all(0)
        fixed, drawn = mask & constant, mask & ~constant
        if bool((values[fixed] != self.builds[0][fixed]).any()):
            return "a constant entry has another value"
        if not bool(drawn.any()):
            return None
        new, old = values[drawn].double(), self.builds[:, ~constant].double()
        if old.numel() > _MANY:  # the draws of a truncated normal may hold a far entry, as timm's do
            low, high = torch.quantile(old.flatten()[:_READABLE], torch.tensor([0.002, 0.998], dtype=old.dtype))
            new, old = new.clamp(low, high), old.clamp(low, high)
        count, spread, mean = new.numel(), float(old.std(unbiased=False)), float(old.mean())
        if abs(float(new.mean()) - mean) > _SPREAD * spread * math.sqrt(1 / count + 1 / old.numel()):
            return f"the mean is {float(new.mean()):.3g}, not {mean:.3g}"
        if float((new - mean).abs().max()) > 3 * float((old - mean).abs().max()):
            return f"an entry is {float((new - mean).abs().max()):.3g} from the mean"
        ratio = float(new.std(unbiased=False)) / spread
        bound = 1 + _SPREAD / math.sqrt(count)
        if ratio > bound or (count >= 8 and ratio < 1 / bound):
            return f"the standard deviation is {ratio:.2f} times that of a new network"
        return None


@dataclass(eq=False)
class Subject:
    """A network under test: how it is built, what it is trained on, and how it computes its loss."""

    build: Build
    batches: Sequence[Any]
    loss: Callable[[nn.Module, Any], Tensor]
    options: Mapping[str, Any] = field(default_factory=dict)
    """Options of the calls."""
    training: bool = False

    def started(self) -> nn.Module:
        """Return a network whose floats are no longer those of the start, as after training."""
        try:
            return copy.deepcopy(self._started)
        except RuntimeError:  # a hook hangs a tensor with a graph on a module
            return self._start()

    @functools.cached_property
    def _started(self) -> nn.Module:
        return self._start()

    def _start(self) -> nn.Module:
        torch.manual_seed(0)
        model = self.build()
        rng = torch.Generator().manual_seed(1)
        with torch.no_grad():
            saved = model.state_dict(keep_vars=True)
            kept = (buffer for name, buffer in model.named_buffers() if name in saved)  # training changes no others
            for tensor in (*model.parameters(), *kept):
                if tensor.is_floating_point():
                    noise = torch.rand(tensor.shape, generator=rng).to(tensor)
                    tensor.mul_(1 + 0.1 * noise).add_(0.01 * (0.5 + noise))
        return model


def judged(call: Callable[[], Verdict]) -> Verdict:
    """Run ``call``; a one-line error of forgetkit is a refusal, any other error an error."""
    try:
        return call()
    except ForgetkitError as error:
        message = str(error)
        return Verdict("error", "more than one line") if "\n" in message else Verdict("refused", message)
    except Exception as error:  # noqa: BLE001 - that is what is counted
        return Verdict("error", f"{type(error).__name__}: {error}".splitlines()[0])


def judge_reset(
    subject: Subject, start: Mapping[str, Distribution], reinit: str, build: Build | None = None, **options: Any
) -> Verdict:
    """Reset a network and compare each entry that changed with those of networks built anew."""

    def call() -> Verdict:
        model = subject.started()
        before = state_of(model)
        torch.manual_seed(7)
        given = {**subject.options, **options, **({} if build is None else {"build": build})}
        report = forgetkit.unlearn(model, subject.batches, reinit=reinit, seed=3, **given)
        after = state_of(model)
        for name, value in after.items():
            mask = value != before[name]
            if bool(mask.any()) and name not in report.layers and name not in report.buffers:
                return Verdict("wrong", f"'{name}' changed and is not in the report")
            if name not in start or not value.is_floating_point():
                continue
            if (reason := start[name].objection(value, mask)) is not None:
                return Verdict("wrong", f"'{name}': {reason}")
        if report.reset == 0:
            return Verdict("wrong", "nothing was reset")
        return Verdict("right", ", ".join(sorted(set(getattr(report, "sources", {}).values()))))

    return judged(call)


def judge_scores(subject: Subject, importance: str) -> Verdict:
    """Score a network, and compare the scores with a plain loop over ``backward()``."""

    def call() -> Verdict:
        model = subject.started()
        options = {name: value for name, value in subject.options.items() if name not in ("policy", "group")}
        scores = forgetkit.score(model, subject.batches, importance=importance, seed=3, **options)
        expected = _expected_scores(subject, importance)
        ours = torch.cat([scores[name].flatten().double() for name in scores])
        theirs = torch.cat([expected[name].flatten().double() for name in scores])
        if set(expected) != set(scores):
            missing = min(set(expected) ^ set(scores))
            if importance != "magnitude" or missing in scores:
                return Verdict("wrong", f"'{missing}' is scored by one side only")
        cosine = float(torch.nn.functional.cosine_similarity(ours, theirs, dim=0))
        return Verdict("right") if cosine > 0.9999 else Verdict("wrong", f"cosine {cosine:.5f} with a plain loop")

    return judged(call)


def _expected_scores(subject: Subject, importance: str) -> dict[str, Tensor]:
    model = subject.started().train(subject.training)
    parameters = {name: p for name, p in inside_of(model).named_parameters() if p.requires_grad}
    if importance == "magnitude":
        return {name: p.detach().abs() for name, p in parameters.items()}
    samples = [_cut(subject.batches[0], at) for at in range(_count(subject.batches[0]))]
    parts = samples if importance == "fisher" else list(subject.batches)
    total: dict[str, Tensor] = {}
    for part in parts:
        torch.manual_seed(0)
        model.zero_grad(set_to_none=True)
        subject.loss(model, part).backward()
        for name, p in parameters.items():
            if p.grad is not None:
                grad = p.grad.detach().to_dense() if p.grad.is_sparse else p.grad.detach()
                total[name] = total.get(name, torch.zeros_like(grad)) + (grad**2 if importance == "fisher" else grad)
    if importance == "fisher":
        return total
    return {name: (grad * parameters[name].detach()).abs() for name, grad in total.items()}


def _count(batch: Any) -> int:
    first = next(iter(batch.values())) if isinstance(batch, Mapping) else batch[0]
    return len(first)


def _cut(batch: Any, at: int) -> Any:
    if isinstance(batch, Tensor):
        return batch[at : at + 1]
    if isinstance(batch, Mapping):
        return {key: _cut(value, at) for key, value in batch.items()}
    if isinstance(batch, list):
        return batch[at : at + 1]
    return tuple(_cut(value, at) for value in batch)


@dataclass(eq=False)
class _ResetFirst:
    """A reset method that resets the first unit of each group, and remembers the groups."""

    groups: Sequence[UnitGroup] = ()

    def propose(self, context: ReinitContext) -> Iterator[Change]:
        self.groups = context.units
        yield from context.reset_units({group.name: torch.arange(group.size) == 0 for group in context.units})


def judge_units(subject: Subject, reinit: str, build: Build | None = None) -> Verdict:
    """Run ``reinit``, then reset one unit of each group: noise on all that computes it must change no output."""

    def call() -> Verdict:
        given = {**subject.options, **({} if build is None else {"build": build})}
        forgetkit.unlearn(subject.started(), subject.batches, reinit=reinit, seed=3, **given)
        model, method = subject.started(), _ResetFirst()
        forgetkit.unlearn(model, subject.batches, reinit=method, seed=3, **given)
        model.train(subject.training)
        heard = _outputs(subject, model)
        inside = inside_of(model)
        tensors = {**dict(inside.named_parameters()), **dict(inside.named_buffers())}
        silent: State = {}
        for group in method.groups:
            for part in group.outgoing:
                mask = part.mask(tensors[part.name], torch.arange(group.size) == 0)
                silent[part.name] = silent.get(part.name, torch.zeros_like(mask)) | mask
        rng = torch.Generator().manual_seed(5)
        with torch.no_grad():
            for group in method.groups:
                for part in (*group.incoming, *group.bias, *group.norm):
                    tensor = tensors[part.name]
                    mask = part.mask(tensor, torch.arange(group.size) == 0)
                    mask = mask & ~silent.get(part.name, torch.zeros_like(mask))
                    tensor.copy_(torch.where(mask, torch.rand(tensor.shape, generator=rng).to(tensor), tensor))
        if not torch.allclose(_outputs(subject, model), heard, rtol=1e-5, atol=1e-6):
            return Verdict("wrong", "a unit that was reset is heard")
        return Verdict("right", f"{len(method.groups)} groups")

    return judged(call)


def _outputs(subject: Subject, model: nn.Module) -> Tensor:
    """Each sample's loss: a function of all outputs."""
    torch.manual_seed(0)
    with torch.no_grad():
        parts = [_cut(subject.batches[0], at) for at in range(_count(subject.batches[0]))]
        return torch.stack([subject.loss(model, part).double() for part in parts])


COLUMNS = ("snip", "fisher", "magnitude", "masked", "rifle", "llf", "cold", "redo")


def judge_all(
    subject: Subject,
    start: Mapping[str, Distribution],
    build: Build | None = None,
    columns: Sequence[str] = COLUMNS,
) -> dict[str, Verdict]:
    """Return the verdict of each column."""
    found = {}
    for column in columns:
        if column in ("snip", "fisher", "magnitude"):
            found[column] = judge_scores(subject, column)
        elif column == "redo":
            found[column] = judge_units(subject, "redo:tau=9,coupled=include", build)
        else:
            options = {"importance": "magnitude"} if column == "masked" else {}
            reinit = "masked:fraction=0.3" if column == "masked" else column
            found[column] = judge_reset(subject, start, reinit, build, **options)
    return found
