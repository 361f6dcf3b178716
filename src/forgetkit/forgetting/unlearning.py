"""Forgetting, in anybody's training loop: probe, score, select, propose, apply, report."""

from __future__ import annotations

import time
import traceback
from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field, replace
from types import MappingProxyType
from typing import Any, Literal

import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy
from torch.optim import Optimizer

from forgetkit.contracts import (
    BnStats,
    Importance,
    Layer,
    Mode,
    OptimizerState,
    Origin,
    Reinit,
    Rounding,
    Scope,
    Ties,
    Which,
)
from forgetkit.errors import ComponentError, ForgetkitError, NothingMatchedError, OptionError
from forgetkit.forgetting import anatomy, selection
from forgetkit.forgetting.apply import all_or_nothing, apply, clear_all_state
from forgetkit.forgetting.fresh import NOTHING_KNOWN, Birth, Origins, can_reset
from forgetkit.forgetting.guard import untouched
from forgetkit.forgetting.probe import Batches, Checked, GuardedProbe, Loss, ReadAgain
from forgetkit.forgetting.report import UnlearnReport
from forgetkit.forgetting.statistics import require_statistics, settle
from forgetkit.seeding import Seeds, global_state


@dataclass(frozen=True)
class Scoring:
    """What is scored, and how the network is run meanwhile.

    params: which parameters are scored, and can be selected: all, weights, or conv-linear (see
        :data:`forgetkit.contracts.Scope`).
    mode: eval, or train for the statistics of each batch instead of the running ones, which are put back.
    """

    params: Scope = "all"
    mode: Mode = "eval"


@dataclass(frozen=True)
class Aftercare:
    """What is done about the traces of what was forgotten.

    optimizer_state: zero the per-entry state under the mask; keep it; or start afresh, as a new optimizer would.
    bn_stats: keep running statistics as they are, reset them, or recalibrate them on the scoring batches.
    """

    optimizer_state: OptimizerState = "zero"
    bn_stats: BnStats = "keep"


def unlearn(
    model: nn.Module,
    batches: Batches | None,
    *,
    importance: Importance | None,
    reinit: Reinit,
    optimizer: Optimizer | None = None,
    seeds: Seeds,
    loss: Loss = cross_entropy,
    birth: Birth = NOTHING_KNOWN,
    scoring: Scoring = Scoring(),
    aftercare: Aftercare = Aftercare(),
) -> UnlearnReport:
    """Make ``model`` forget, in place, and clear the optimizer's memory of what it forgot.

    ``importance`` scores the trainable parameters on ``batches``, ``reinit`` says what changes.
    Fresh values come from each layer's own ``reset_parameters`` unless ``birth`` says otherwise.

    Raises ``OptionError`` where ``reinit`` needs scores and there is no criterion (or the other way
    round), ``NothingMatchedError`` where no parameter was matched, ``ComponentError`` where a component
    breaks its contract. See Algorithm 1 of Ramkumar et al., 2023, lines 8 to 11.
    """
    began = time.perf_counter()
    model = plain(model)
    who = type(reinit).__name__
    needs_scores = bool(getattr(reinit, "needs_scores", False))
    if needs_scores and importance is None:
        raise OptionError(f"{who} resets entries by their importance: give it an importance criterion")
    if importance is not None and not needs_scores:
        raise OptionError(f"{who} looks at no scores, so the importance criterion would be ignored: leave it out")
    if optimizer is not None and not _holds_any(optimizer, model):
        raise OptionError("the optimizer holds none of the model's parameters: give the one that trains this model")
    require_statistics(model, aftercare.bn_stats)

    criterion = "examining" if importance is None else type(importance).__name__
    with untouched(model, criterion, seeds.number("lent")):
        subject = Subject.of(model, batches, loss, seeds, scoring, every_buffer=birth.build is not None)
    scores = subject.scores(importance) if importance is not None else None
    context = Context(subject, scores, Origins(model, birth, seeds), criterion)
    # A method that draws without a generator does so from its own stream.
    with all_or_nothing() as undo, global_state(seeds.number("propose")):
        keeping = optimizer if aftercare.optimizer_state == "zero" else None
        tally = apply(model, reinit.propose(context), keeping, {*subject.targets, *subject.buffers}, who, undo)
        if not tally.layers and not getattr(reinit, "changes_nothing", False):
            raise NothingMatchedError(
                f"{who} matched no parameter of {type(model).__name__}; nothing would be forgotten"
            )
        if tally.layers:
            settled = settle(model, aftercare.bn_stats, subject.batches, undo, seeds.number("statistics"))
            tally.buffers.extend(name for name in settled if name not in tally.buffers)
        if optimizer is not None and aftercare.optimizer_state == "fresh":
            tally.optimizer_cleared += clear_all_state(optimizer, model, undo)
    return UnlearnReport(
        scored=sum(p.numel() for p in subject.scored.values()) if scores is not None else 0,
        reset=sum(layer.reset for layer in tally.layers.values()),
        threshold=context.threshold,
        seconds=time.perf_counter() - began,
        layers=tally.layers,
        optimizer_cleared=tally.optimizer_cleared,
        buffers=tuple(tally.buffers),
        left_out=subject.left_out,
    )


def score(
    model: nn.Module,
    batches: Batches | None,
    *,
    importance: Importance,
    seeds: Seeds,
    loss: Loss = cross_entropy,
    scoring: Scoring = Scoring(),
) -> dict[str, Tensor]:
    """Scores of the trainable parameters that the loss depends on; higher = keep. Changes nothing."""
    model = plain(model)
    who = type(importance).__name__
    with untouched(model, who, seeds.number("lent")):
        subject = Subject.of(model, batches, loss, seeds, scoring)
    scores = subject.scores(importance)
    with subject.lent(who):
        return {name: scores[name].clone() for name in scores}


def _holds_any(optimizer: Optimizer, model: nn.Module) -> bool:
    own = set(model.parameters())
    return any(p in own for group in optimizer.param_groups for p in group["params"])


def plain(model: nn.Module) -> nn.Module:
    """The module inside what ``torch.compile`` gives: the same parameters, and nothing to trace through."""
    inner = getattr(model, "_orig_mod", model)
    return inner if isinstance(inner, nn.Module) else model


@dataclass(frozen=True, eq=False)
class Subject:
    """A model, examined: what can be scored and reset, and in which order it executes."""

    model: nn.Module
    batches: ReadAgain | None
    loss: Loss
    seeds: Seeds
    scoring: Scoring
    targets: Mapping[str, Tensor]
    scored: Mapping[str, Tensor]
    left_out: Mapping[str, str]
    buffers: Mapping[str, Tensor]
    layers: tuple[Layer, ...] | None

    @classmethod
    def of(
        cls,
        model: nn.Module,
        batches: Batches | None,
        loss: Loss,
        seeds: Seeds,
        scoring: Scoring,
        *,
        every_buffer: bool = False,
    ) -> Subject:
        """Examine ``model``, which is lent out meanwhile (:func:`untouched`).

        With batches, two samples show what the loss depends on and in which order the modules execute; where that
        leaves a parameter out, the whole first batch is asked, since a model may route samples differently.
        ``every_buffer`` opens buffers of modules that cannot reset themselves, for models that are built anew.
        """
        trainable = {name: p for name, p in model.named_parameters() if p.requires_grad}
        left_out = {name: "frozen" for name, p in model.named_parameters() if not p.requires_grad}
        if not trainable:
            raise NothingMatchedError(f"{type(model).__name__} has no trainable parameter; there is nothing to forget")
        owners = anatomy.owners(model)
        resettable = {
            name: buffer
            for name, buffer in model.named_buffers()
            if (every_buffer or can_reset(owners[name].module)) and not anatomy.frozen(owners[name].module)
        }
        again = None if batches is None else ReadAgain(batches)
        layers = None
        if again is not None:
            probe = GuardedProbe(model, again, tuple(trainable), loss, seeds)
            sample = next(probe.batches(2), None)
            if sample is None:
                raise OptionError("there are no batches to look at: 'batches' is empty")
            with anatomy.recorded_order(model) as order:
                reached = probe.reached(*sample)
                if None in reached.values():
                    reached = probe.reached(*next(probe.batches()))
            left_out |= {name: "unused" for name, grad in reached.items() if grad is None}
            trainable = {name: p for name, p in trainable.items() if reached[name] is not None}
            layers = _open_layers(anatomy.layers_in(model, order, resettable), trainable, left_out)
        targets = {name: p.detach() for name, p in trainable.items()}
        inside = anatomy.names_in(model, scoring.params)
        scored = {name: p for name, p in targets.items() if name in inside}
        if not scored:
            raise NothingMatchedError(f"score-params={scoring.params}: {type(model).__name__} has no such parameter")
        return cls(model, again, loss, seeds, scoring, MappingProxyType(targets), scored, left_out, resettable, layers)

    def lent(self, who: str) -> AbstractContextManager[None]:
        """Meanwhile the model is ``who``'s to look at, in the mode it is to be scored in."""
        return untouched(self.model, who, self.seeds.number("lent"), training=self.scoring.mode == "train")

    def scores(self, importance: Importance) -> Checked:
        """Score, while the model is lent out."""
        who = type(importance).__name__
        probe = _Probe(self, who)
        try:
            with self.lent(who):
                scores = importance.score(probe)
        except ForgetkitError:
            raise
        except Exception as error:  # a stranger's code may raise anything
            reason = f"{type(error).__name__}: {error}".strip().splitlines()[0]
            frame = traceback.extract_tb(error.__traceback__)[-1]
            where = f"{frame.filename}:{frame.lineno}"
            raise ComponentError(f"the importance criterion {who} raised {reason} in {where}") from error
        return Checked(scores, probe.targets, who)


class _Probe(GuardedProbe):
    """The probe of a subject; one without batches says so when it is asked for them."""

    def __init__(self, subject: Subject, who: str) -> None:
        batches = subject.batches or ReadAgain(())
        super().__init__(subject.model, batches, tuple(subject.scored), subject.loss, subject.seeds)
        self._without_batches = subject.batches is None
        self._who = who

    def batches(self, samples: int | float | None = None) -> Any:
        if self._without_batches:
            raise OptionError(f"{self._who} looks at data: give it batches of (inputs, targets)")
        return super().batches(samples)


@dataclass(eq=False)
class Context:
    """Implements :class:`forgetkit.contracts.ReinitContext`."""

    _subject: Subject
    _scores: Checked | None
    _origins: Origins
    _criterion: str
    threshold: float | None = field(default=None, init=False)

    @property
    def targets(self) -> Mapping[str, Tensor]:
        """The trainable parameters, detached."""
        return self._subject.targets

    @property
    def buffers(self) -> Mapping[str, Tensor]:
        """Buffers of modules that can initialise themselves."""
        return self._subject.buffers

    @property
    def layers(self) -> Sequence[Layer]:
        """The layers in order of execution."""
        if self._subject.layers is None:
            raise OptionError("the order of execution is seen on a batch: give batches of (inputs, targets)")
        return self._subject.layers

    def names(self, scope: Scope | Literal["norm"]) -> tuple[str, ...]:
        """The names in ``targets`` that are in ``scope``."""
        inside = anatomy.names_in(self._subject.model, scope)
        return tuple(name for name in self.targets if name in inside)

    def select(
        self, fraction: float, *, which: Which = "lowest", ties: Ties = "random", rounding: Rounding = "down"
    ) -> Mapping[str, Tensor]:
        """Masks over a fraction of the scored entries. Ask before the first change is yielded."""
        if self._scores is None:
            raise OptionError("a reinit method that calls select() declares needs_scores = True")
        seeds = self._subject.seeds
        with self._subject.lent(self._criterion) if self._scores.lazy else nullcontext():
            masks, self.threshold = selection.select(
                self._scores, fraction, seeds, which=which, ties=ties, rounding=rounding
            )
        return masks

    def fresh(self, name: str, origin: Origin = "original") -> Tensor:
        """A fresh value, on the device and in the dtype of what it replaces."""
        old = self._subject.targets.get(name, self._subject.buffers.get(name))
        if old is None:
            raise OptionError(f"'{name}' is neither a trainable parameter nor a buffer that can be drawn anew")
        return self._origins.draw(name, origin).to(device=old.device, dtype=old.dtype)

    def rng(self, name: str) -> torch.Generator:
        """A CPU generator that is a function of the seed and ``name``."""
        return self._subject.seeds.torch("reinit", name)


def _open_layers(
    layers: Sequence[Layer], trainable: Mapping[str, Tensor], left_out: Mapping[str, str]
) -> tuple[Layer, ...]:
    """Only what may be changed. A frozen layer keeps its place, without parameters: the head stays the head.

    One whose parameters are all unused drops out.
    """
    return tuple(
        replace(layer, parameters=tuple(name for name in layer.parameters if name in trainable))
        for layer in layers
        if not layer.parameters or any(left_out.get(name) != "unused" for name in layer.parameters)
    )
