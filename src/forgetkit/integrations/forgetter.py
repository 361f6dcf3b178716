"""What all trainers share: when a reset is due, its seed, its numbers for a log, and what a checkpoint holds."""

from __future__ import annotations

import hashlib
import inspect
import random
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from typing import Any, get_args

import numpy as np
import torch
from torch import Tensor, nn

import forgetkit
from forgetkit.contracts import Importance, Intervention, OptimizerState, Reinit
from forgetkit.errors import OptionError, suggest
from forgetkit.integrations.scoring_data import ScoringData

Objective = Callable[[Any, Any], Any]
"""``objective(model, batch)``: the loss of a batch, or the loss and its weight."""

_OWN = ("optimizer", "previous", "memory", "run_seed")


@dataclass(frozen=True, kw_only=True)
class ForgetOptions:
    """The arguments of every integration.

    Args:
        importance: The criterion, as for :func:`forgetkit.unlearn`.
        reinit: The reset method.
        every: When to reset: one of the trainer's words, or after so many steps of the optimizer.
        words: The trainer's words.
        optimizer_state: What becomes of the optimizer's state. None: as ``policy`` says, or ``"zero"``.
        seed: Each reset draws from a seed of its own, a function of this one and the reset's number.
        interventions: Components that act while the network trains, as for :func:`forgetkit.attach`.
        followers: Networks that get the same resets, or functions that return one.
        batches: The batches to score on. None: those that the trainer trains on.
        objective: The loss of a batch. None: that of the trainer.
        unlearn: Further arguments of :func:`forgetkit.unlearn`.
    """

    importance: str | Importance | None = None
    reinit: str | Reinit = "masked"
    every: str | int = "epoch"
    words: tuple[str, ...] = ("epoch", "fit_end")
    optimizer_state: OptimizerState | None = None
    seed: int = 0
    interventions: Sequence[str | Intervention] = ()
    followers: Sequence[nn.Module | Callable[[], nn.Module]] = ()
    batches: Iterable[Any] | None = None
    objective: Objective | None = None
    unlearn: Mapping[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        by_step = isinstance(self.every, int) and not isinstance(self.every, bool) and self.every > 0
        if not by_step and self.every not in self.words:
            words = ", ".join(f"'{word}'" for word in self.words)
            raise OptionError(f"every={self.every!r}: a reset comes every {words} or a number of steps from 1")
        if isinstance(self.seed, bool) or not isinstance(self.seed, int) or self.seed < 0:
            raise OptionError(f"seed={self.seed!r} is not a whole number from 0")
        for name in ("interventions", "followers"):
            value = getattr(self, name)
            if isinstance(value, str) or not isinstance(value, Sequence):
                raise OptionError(f"{name}= takes a list: {name}=[…]")
        for name in _OWN:
            if name in self.unlearn:
                raise OptionError(f"{name}= comes from the trainer: leave it out")
        known = inspect.signature(forgetkit.unlearn).parameters
        for name in self.unlearn:
            if name not in known:
                raise OptionError(f"there is no argument {name}=: {suggest(name, known)}")
        if self.optimizer_state is not None and self.optimizer_state not in get_args(OptimizerState):
            words = ", ".join(get_args(OptimizerState))
            raise OptionError(f"optimizer_state={self.optimizer_state!r} is none of {words}")
        forgetkit.check_components(importance=self.importance, reinit=self.reinit, interventions=self.interventions)
        if self.objective is not None and "loss" in self.unlearn:
            raise OptionError("objective= and loss= contradict each other: give one of them")
        if isinstance(self.batches, Iterator):
            raise OptionError("batches= is read at each reset, and an iterator only once: give a list or a DataLoader")

    def seed_of(self, number: int) -> int:
        """Return the seed of the reset with this number, from 1."""
        words = repr((self.seed, "reset", number)).encode()
        return int.from_bytes(hashlib.sha256(words).digest()[:8], "little") >> 1

    def loss_of(self, objective: Objective | None) -> dict[str, Any]:
        """Return the arguments that say which loss to take: the caller's, else ``objective``."""
        chosen = self.objective or objective
        return {} if "loss" in self.unlearn or chosen is None else {"objective": chosen}

    def present_followers(self) -> list[nn.Module] | None:
        """Return the followers as they are now."""
        return [one if isinstance(one, nn.Module) else one() for one in self.followers] or None

    def reset(self, model: nn.Module, optimizer: Any, data: Iterable[Any], number: int, **given: Any) -> Any:
        """Make the reset with this number, and return its report."""
        options = {**self.unlearn, **given, "importance": self.importance, "reinit": self.reinit}
        if self.optimizer_state is not None:
            policy = options.get("policy") or forgetkit.ResetPolicy()
            options["policy"] = replace(policy, optimizer_state=self.optimizer_state)
        options["followers"] = self.present_followers()
        seed = self.seed_of(number)
        return forgetkit.unlearn(model, data, optimizer=optimizer, seed=seed, run_seed=self.seed, **options)


class Forgetter:
    """Resets and interventions in the loop of a trainer.

    A reset that is due comes right before the next step: after the evaluation and the checkpoint of the network that
    was trained, and never after the last step, where nothing would train the fresh values. So it depends on the
    position alone, and a run that resumes makes the resets of an uninterrupted one.

    Args:
        options: What to reset, and when.
    """

    def __init__(self, options: ForgetOptions) -> None:
        self.options = options
        self.resets = 0
        self.last_report: Any = None
        self._position = 0
        """The epochs or steps that were done at the last reset."""
        self._in_fit = self._restored = self._has_begun = False
        self._attached: Any = None
        self._step: Any = None
        self._stored: Mapping[str, Any] | None = None
        """The state of the interventions while none is attached."""

    def __getstate__(self) -> dict[str, Any]:
        """Pickle what a checkpoint holds; what is attached to a network is attached again."""
        stored = self._state_of_interventions()
        return {**vars(self), "_attached": None, "_step": None, "_stored": stored, "_restored": True}

    def start(self, model: nn.Module, optimizer: Any, data: ScoringData, objective: Objective, position: int) -> None:
        """Begin a fit, or resume one, ``position`` epochs or steps after the start of the first."""
        self.abort()
        resumed = self._in_fit and self._restored
        # What was done before without forgetting is not made up for.
        self._position = min(self._position, position) if self._has_begun else position
        self._has_begun = True
        if self.options.interventions:
            self._stored = self._state_of_interventions()
            options = {name: value for name, value in self.options.unlearn.items() if name in _FOR_ATTACH}
            self._attached = forgetkit.attach(
                model,
                optimizer,
                self.options.interventions,
                seed=self.options.seed,
                followers=self.options.present_followers(),
                **options,
                **self.options.loss_of(objective),
            )
            if self._stored is not None:
                self._attached.load_state_dict(self._stored)
            if not resumed:
                self.begin(data)
        self._in_fit, self._restored = True, False

    def begin(self, data: ScoringData) -> None:
        """Begin a mega-batch of the interventions."""
        if self._attached is not None:
            with _isolated_rng(self.options.seed_of(0)):
                for batch in data:
                    self._attached.begin(batch)
                    break

    def stop(self) -> None:
        """End a fit."""
        self.abort()
        self._stored, self._attached = self._state_of_interventions(), None
        self._in_fit = False

    def abort(self, error: BaseException | None = None) -> None:
        """Leave a step that an error ended."""
        if self._step is not None:
            self._step = None
            self._attached.exit(error or RuntimeError("the step did not end"))

    def due(self, unit: str, position: int) -> bool:
        """Whether a reset comes now, before the next step: ``position`` epochs or steps are done."""
        every = self.options.every
        if isinstance(every, int):
            return unit == "step" and position // every > self._position // every
        return unit == every and position > self._position

    def reset(
        self,
        model: nn.Module,
        optimizer: Any,
        data: Callable[[int, int], Iterable[Any]],
        objective: Objective | None,
        at: int,
    ) -> dict[str, float]:
        """Reset, and return the numbers for the trainer's log.

        Args:
            model: The network.
            optimizer: The optimizer that trains it, or several in a list.
            data: Makes the batches to score on from a seed and the number of the reset.
            objective: The loss that the trainer trains on. None: that of ``unlearn``.
            at: How many epochs or steps are done.
        """
        number, options = self.resets + 1, self.options
        batches = options.batches
        if batches is None:
            batches = data(options.seed_of(number), number)
        watched = {} if self._attached is None else {"memory": self._attached.memory}
        report = options.reset(model, optimizer, batches, number, **watched, **options.loss_of(objective))
        self.resets, self._position, self.last_report = number, at, report
        return numbers_of(report, number)

    def enter(self, batch: Any) -> None:
        """Begin a step of the interventions, before its forward pass."""
        if self._attached is not None:
            self.abort()
            self._step = self._attached.enter(batch)

    def loss(self) -> Tensor | float:
        """Return what the interventions add to the loss of the step."""
        term: Tensor | float = 0.0 if self._step is None else self._step.loss()
        return term

    def add_gradient_of_loss(self, model: nn.Module) -> None:
        """Add the gradient of :meth:`loss` to ``.grad``, for a trainer that calls ``backward()`` by itself."""
        term = self.loss()
        if not isinstance(term, Tensor) or not term.requires_grad:
            return
        trained = [p for p in model.parameters() if p.requires_grad]
        for p, gradient in zip(trained, torch.autograd.grad(term, trained, allow_unused=True), strict=True):
            if gradient is not None:
                p.grad = gradient.clone() if p.grad is None else p.grad + gradient

    def before(self) -> None:
        """Let the interventions act before the optimizer's step."""
        if self._step is not None:
            self._step.before()

    def exit(self, *, stepped: bool = True) -> None:
        """End a step of the interventions."""
        if self._step is not None:
            if not stepped:
                self._step.skip()
            self._step = None
            self._attached.exit()

    def after_epoch(self) -> None:
        """End an epoch of the interventions."""
        if self._attached is not None:
            self._attached.after_epoch()

    @property
    def watching(self) -> bool:
        """Whether interventions are attached."""
        return self._attached is not None

    def state_dict(self, *, tensors: bool = True) -> dict[str, Any]:
        """Return the state for a checkpoint: numbers and text and, of interventions, tensors."""
        state = {
            "resets": self.resets,
            "position": self._position,
            "in_fit": self._in_fit,
            "seed": self.options.seed,
            "every": self.options.every,
        }
        return {**state, "interventions": self._state_of_interventions()} if tensors else state

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Resume from a state.

        Raises:
            OptionError: If it is no such state, or of another ``seed`` or ``every``.
        """
        for name in ("resets", "position", "in_fit", "seed", "every"):
            if name not in state:
                raise OptionError(f"this is no state of a forgetting trainer: it has no '{name}'")
        for name in ("seed", "every"):
            now = getattr(self.options, name)
            if state[name] != now:
                raise OptionError(f"this checkpoint is of {name}={state[name]!r}, not {now!r}: give the same to resume")
        if bool(self.options.interventions) != bool(state.get("interventions", self.options.interventions)):
            which = "has" if self.options.interventions else "had"
            raise OptionError(
                f"only one of this checkpoint and this trainer {which} interventions=: give the same ones"
            )
        self.abort()
        self.resets, self._position, self._in_fit = state["resets"], state["position"], state["in_fit"]
        self._stored, self._attached = state.get("interventions"), None
        self._restored = self._has_begun = True

    def _state_of_interventions(self) -> Mapping[str, Any] | None:
        if self._attached is None:
            return self._stored
        state: Mapping[str, Any] = self._attached.state_dict()
        return state


_FOR_ATTACH = ("loss", "outputs", "build", "fresh", "initial", "protect", "group")
"""The arguments of ``unlearn`` that ``attach`` has too."""


_LOGGED = ("scored", "reset", "changed", "threshold", "optimizer_cleared", "followed", "seconds")


def numbers_of(report: Any, number: int) -> dict[str, float]:
    """Return the numbers of a report under names for a log."""
    found = {f"forget/{name}": getattr(report, name) for name in _LOGGED}
    return {"forget/number": number, **{name: value for name, value in found.items() if value is not None}}


@contextmanager
def _isolated_rng(seed: int) -> Iterator[None]:
    """Seed the global random state that loaders and datasets draw from, and restore it."""
    python, numpy_state = random.getstate(), np.random.get_state()
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(seed)
        random.seed(seed)
        np.random.seed(seed % 2**32)
        try:
            yield
        finally:
            random.setstate(python)
            np.random.set_state(numpy_state)
