"""Interventions attached to a training loop of one's own: where the loop stands, and the state for its checkpoints."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from forgetkit.errors import OptionError
from forgetkit.registry.spec import option_to_json, options_of
from forgetkit.unlearning.interventions import InterventionRunner, StepHooks, TrainStep

_ADDRESS = re.compile(r" at 0x[0-9a-fA-F]+")
_LONGEST = 60


@dataclass(frozen=True)
class ComponentDescription:
    """An attached component: its name on offer, or its module and class, and its options as text."""

    name: str
    options: Mapping[str, str]

    @classmethod
    def of(cls, name: str, component: object) -> ComponentDescription:
        """Text without addresses in memory, which differ from process to process."""
        values = {
            option.name.replace("_", "-"): _ADDRESS.sub("", str(option_to_json(getattr(component, option.name))))
            for option in options_of(type(component))
        }
        return cls(name, values)


class InterventionAttachment:
    """Interventions attached to a loop: counts its mega-batches, epochs and steps.

    A loop calls :meth:`begin` before each mega-batch, trains inside :meth:`step` and calls :meth:`after_epoch` after
    each epoch. One that goes on from a checkpoint attaches the same components to the same network and calls
    :meth:`load_state_dict`; in the middle of a mega-batch it does not call :meth:`begin` again.
    """

    def __init__(self, acting: InterventionRunner, components: Sequence[ComponentDescription]) -> None:
        self._acting = acting
        self._components = tuple(components)
        self._mega_batch, self._epoch, self._step = 1, 1, 0
        self._begun = self._inside = False

    def begin(self, inputs: Tensor, targets: Tensor) -> None:
        """Begin a mega-batch: call it before the first step of each.

        Args:
            inputs: Two samples or more, ``(n, ...)``, as the model takes them: they show how the network is made.
            targets: Their targets, ``(n,)``.

        Raises:
            OptionError: Inside a step, or if a component acts after epochs and the last mega-batch told of none.
        """
        self._require_outside("begin()")
        if self._epoch == 1 and self._step:
            for who in self._acting.who_acts("after_epoch"):
                raise OptionError(
                    f"{who} acts after epochs, and this mega-batch told of none: call attached.after_epoch() after "
                    "each epoch, before the next attached.begin()"
                )
        if (self._epoch, self._step) != (1, 0):
            self._mega_batch, self._epoch, self._step = self._mega_batch + 1, 1, 0
        self._acting.begin(self._place, inputs, targets)
        self._begun = True

    @contextmanager
    def step(self, inputs: Tensor, targets: Tensor) -> Iterator[StepHooks]:
        """Stand around one training step, from its forward pass until the optimizer has stepped.

        Args:
            inputs: The batch, ``(n, ...)``.
            targets: Its targets, ``(n,)``.

        Yields:
            The step: add ``step.loss()`` to the loss, call ``step.before()`` between ``loss.backward()`` and
            ``optimizer.step()``, or ``step.skip()`` if the optimizer is not to step.

        Raises:
            OptionError: Before :meth:`begin`, inside another step, or if a component's term of the loss or its moment
                before the optimizer's step was left out of the step.
        """
        self._require_outside("step()")
        self._require_begun()
        self._inside = True
        try:
            with self._acting.step(self._place, inputs, targets) as step:
                yield step
        finally:
            self._inside = False
        self._step += 1

    def after_epoch(self) -> None:
        """End an epoch: call it after the last step of each.

        Raises:
            OptionError: Before :meth:`begin`, or inside a step.
        """
        self._require_outside("after_epoch()")
        self._require_begun()
        self._acting.after_epoch(self._place)
        self._epoch, self._step = self._epoch + 1, 0

    def memory(self, component: object) -> Mapping[str, Tensor]:
        """What ``component`` kept while it watched; nothing where it was not attached."""
        return self._acting.memory(component)

    def state_dict(self) -> dict[str, Any]:
        """Return where training stands and what each component keeps, for a checkpoint.

        Returns:
            Numbers, text and tensors, which ``torch.load(weights_only=True)`` reads: ``place``, ``begun``, ``seed``,
            the state of each of the ``components``, and whose it is: what is ``attached``, to which ``network``.

        Raises:
            OptionError: Inside a step, of which half would be lost.
        """
        self._require_outside("state_dict()")
        self._acting.require_tensors()
        return {
            "place": [self._mega_batch, self._epoch, self._step],
            "begun": self._begun,
            "seed": self._acting.seeds.seed,
            "components": [dict(state) for state in self._acting.states],
            "attached": [{"name": one.name, "options": dict(one.options)} for one in self._components],
            "network": self._network,
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on from a state: with the same components in the same order, on the same network.

        Tensors are copied, to the device of the model. The loop then goes on as it would have: with the next step in
        the middle of a mega-batch, with :meth:`begin` before one. If the state is refused, nothing is loaded.

        Args:
            state: What :meth:`state_dict` returned.

        Raises:
            OptionError: Inside a step, or if the state is of other components, options, another seed or network, or
                is no state.
        """
        self._require_outside("load_state_dict()")
        place, kept = _place_in(state), _tensors_in(state)
        self._require_own(state, kept)
        devices = {parameter.device for parameter in self._acting.model.parameters()}
        device = next(iter(devices)) if len(devices) == 1 else None
        for mine, tensors in zip(self._acting.states, kept, strict=True):
            mine.clear()
            mine.update(
                {name: tensor.detach().to(device or tensor.device, copy=True) for name, tensor in tensors.items()}
            )
        self._mega_batch, self._epoch, self._step = place
        self._begun = state["begun"]

    def _require_own(self, state: Mapping[str, Any], kept: Sequence[Mapping[str, Tensor]]) -> None:
        """``OptionError`` names the first difference between what the state belongs to and what is attached."""
        if len(kept) != len(self._components):
            raise OptionError(
                f"this state is of other components: it is of {len(kept)}, and {len(self._components)} are attached"
                f" ({', '.join(one.name for one in self._components) or 'none'})"
            )
        missing = [key for key in ("begun", "seed", "attached", "network") if key not in state]
        if missing:
            raise OptionError(
                f"this state does not say of which components and network it is (no '{missing[0]}'): an older "
                "forgetkit wrote it, or it is damaged; train anew"
            )
        if not isinstance(state["begun"], bool):
            raise OptionError(f"this is no state of an attached loop: 'begun' is {_one_line(state['begun'])}")
        _require_same_components(_descriptions_in(state), self._components)
        network = state["network"]
        if not isinstance(network, Mapping):
            raise OptionError(f"this is no state of an attached loop: 'network' is {type(network).__name__}")
        own = self._network
        for name in [*network, *own]:
            was, now = network.get(name, "missing"), own.get(name, "missing")
            if was != now:
                raise OptionError(
                    f"this state is of another network: its '{_one_line(name)}' is {_one_line(was)}, and that of the "
                    f"attached one {now}"
                )
        if list(network) != list(own):
            raise OptionError("this state is of another network: its tensors are in another order")
        if state["seed"] != self._acting.seeds.seed:
            raise OptionError(
                f"this state is of seed {_one_line(state['seed'])}: attach with seed={_one_line(state['seed'])}, not "
                f"{self._acting.seeds.seed}, to go on with the same draws"
            )

    @property
    def _network(self) -> dict[str, str]:
        """Of each parameter, and of each buffer that a checkpoint of the network holds, its dtype and shape."""
        model = self._acting.model
        saved = model.state_dict(keep_vars=True).keys()
        buffers = ((name, buffer) for name, buffer in model.named_buffers() if name in saved)
        return {
            name: f"{str(tensor.dtype).removeprefix('torch.')} {tuple(tensor.shape)}"
            for name, tensor in (*model.named_parameters(), *buffers)
        }

    @property
    def _place(self) -> TrainStep:
        return TrainStep(self._mega_batch, self._epoch, self._step)

    def _require_outside(self, call: str) -> None:
        if self._inside:
            raise OptionError(f"attached.{call} is called inside a step: leave the step first")

    def _require_begun(self) -> None:
        if not self._begun:
            who = ", ".join(self._acting.names) or "this loop"
            raise OptionError(
                f"{who} did not hear of the mega-batch: call attached.begin(inputs, targets) before its first step"
            )


def _place_in(state: object) -> tuple[int, int, int]:
    """Mega-batch, epoch and step; ``OptionError`` where the state holds none."""
    if not isinstance(state, Mapping):
        raise OptionError(f"a state is what attached.state_dict() returned, not {type(state).__name__}")
    place = state.get("place")
    whole = isinstance(place, list | tuple) and all(type(number) is int for number in place)
    if not whole or len(place) != 3 or place[0] < 1 or place[1] < 1 or place[2] < 0:  # type: ignore[arg-type, index]
        said = f"'place' is {_one_line(place)}" if "place" in state else "it has no 'place'"
        raise OptionError(f"this is no state of an attached loop: {said}; give what attached.state_dict() returned")
    return tuple(place)  # type: ignore[arg-type]


def _tensors_in(state: Mapping[str, Any]) -> Sequence[Mapping[str, Tensor]]:
    """What each component kept; ``OptionError`` where that is no mapping from names to tensors."""
    kept = state.get("components")
    if not isinstance(kept, list | tuple):
        said = f"'components' is {type(kept).__name__}" if "components" in state else "it has no 'components'"
        raise OptionError(f"this is no state of an attached loop: {said}; give what attached.state_dict() returned")
    for number, tensors in enumerate(kept, 1):
        good = isinstance(tensors, Mapping) and all(
            isinstance(name, str) and isinstance(value, torch.Tensor) for name, value in tensors.items()
        )
        if not good:
            raise OptionError(f"this is no state of an attached loop: that of component {number} does not hold tensors")
    return kept


def _descriptions_in(state: Mapping[str, Any]) -> list[ComponentDescription]:
    """Which components the state is of."""
    try:
        found = [ComponentDescription(one["name"], dict(one["options"])) for one in state["attached"]]
    except (KeyError, TypeError, ValueError) as error:
        raise OptionError("this is no state of an attached loop: 'attached' does not name its components") from error
    if len(found) != len(state["components"]):
        raise OptionError("this is no state of an attached loop: it names more or fewer components than it holds")
    return found


def _require_same_components(kept: Sequence[ComponentDescription], own: Sequence[ComponentDescription]) -> None:
    """``OptionError`` names the first that differs."""
    if list(kept) == list(own):
        return
    names = [[_one_line(one.name) for one in some] for some in (kept, own)]
    left = list(own)
    if all(one in left and (left.remove(one) or True) for one in kept):  # type: ignore[func-returns-value]
        order = ", ".join(names[0])
        raise OptionError(f"this state is of components in another order: attach them as {order}")
    for number, (was, now) in enumerate(zip(kept, own, strict=True), 1):
        if was.name != now.name:
            raise OptionError(
                f"this state is of other components: the component {number} of the state is {_one_line(was.name)}, and "
                f"{now.name} is attached"
            )
        for key in [*was.options, *now.options]:
            before, after = (_one_line(some.options.get(key, "missing")) for some in (was, now))
            if was.options.get(key) != now.options.get(key):
                raise OptionError(
                    f"this state is of other options: {now.name} had {_one_line(key)}={before}, and {after} is attached"
                )


def _one_line(value: object) -> str:
    """One line, of anything."""
    text = " ".join(str(value).split())
    return text if len(text) <= _LONGEST else f"{text[:_LONGEST]}…"
