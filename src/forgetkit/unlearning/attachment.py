"""Interventions attached to a training loop of one's own: its position, and the state for its checkpoints."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from typing import Annotated, Any

from pydantic import BaseModel, ConfigDict, Field, StrictBool, StrictInt, ValidationError
from torch import Tensor

from forgetkit.errors import OptionError
from forgetkit.registry.spec import option_to_json, options_of
from forgetkit.unlearning.interventions import InterventionRunner, StepHooks, TrainStep

_ADDRESS = re.compile(r" at 0x[0-9a-fA-F]+")
_LONGEST = 60


@dataclass(frozen=True)
class ComponentDescription:
    """An attached component: its registered name, or its module and class, and its options as text."""

    name: str
    options: Mapping[str, str]

    @classmethod
    def of(cls, name: str, component: object) -> ComponentDescription:
        """Describe a component without memory addresses, which differ from process to process."""
        values = {
            option.name.replace("_", "-"): _ADDRESS.sub("", str(option_to_json(getattr(component, option.name))))
            for option in options_of(type(component))
        }
        return cls(name, values)


class InterventionAttachment:
    """Interventions attached to a training loop: counts its mega-batches, epochs and steps.

    The loop calls :meth:`begin` before each mega-batch, trains inside :meth:`step` (a trainer with callbacks: between
    :meth:`enter` and :meth:`exit`) and calls :meth:`after_epoch` after each epoch. To resume from a checkpoint, attach
    the same components to the same network and call :meth:`load_state_dict`; in the middle of a mega-batch do not call
    :meth:`begin` again.
    """

    def __init__(self, runner: InterventionRunner, components: Sequence[ComponentDescription]) -> None:
        self._runner = runner
        self._components = tuple(components)
        self._mega_batch, self._epoch, self._step = 1, 1, 0
        self._begun = self._inside = False
        self._entered: AbstractContextManager[StepHooks] | None = None

    def begin(self, batch: Any, targets: Any = None) -> None:
        """Begin a mega-batch: call it before the first step of each.

        Args:
            batch: A batch of at least two samples, of any shape that :func:`forgetkit.unlearn` takes: they show the
                network's structure. Or the inputs of a pair, ``(n, ...)``.
            targets: The targets of the pair, ``(n,)``, if ``batch`` is its inputs.

        Raises:
            OptionError: Inside a step, or if a component acts after epochs and the loop did not call
                :meth:`after_epoch` in the last mega-batch.
        """
        self._require_outside("begin()")
        if self._epoch == 1 and self._step:
            for name in self._runner.with_hook("after_epoch"):
                raise OptionError(
                    f"{name} acts after epochs, and this mega-batch ended none: call attached.after_epoch() after each "
                    "epoch, before the next attached.begin()"
                )
        if (self._epoch, self._step) != (1, 0):
            self._mega_batch, self._epoch, self._step = self._mega_batch + 1, 1, 0
        self._runner.begin(self._position, batch if targets is None else (batch, targets))
        self._begun = True

    @contextmanager
    def step(self, batch: Any, targets: Any = None) -> Iterator[StepHooks]:
        """Wrap one training step, from its forward pass until the optimizer has stepped.

        Args:
            batch: The batch, of any shape that :func:`forgetkit.unlearn` takes, or the inputs of a pair.
            targets: The targets of the pair, if ``batch`` is its inputs.

        Yields:
            The step: add ``step.loss()`` to the loss, call ``step.before()`` between ``loss.backward()`` and
            ``optimizer.step()``, or ``step.skip()`` if the optimizer is not to step.

        Raises:
            OptionError: Before :meth:`begin`, inside another step, or if the step leaves out a component's loss term
                or its call before the optimizer's step.
        """
        self._require_outside("step()")
        self._require_begun()
        self._inside = True
        try:
            with self._runner.step(self._position, batch if targets is None else (batch, targets)) as step:
                yield step
        finally:
            self._inside = False
        self._step += 1

    def enter(self, batch: Any, targets: Any = None) -> StepHooks:
        """Begin a training step, for a trainer that calls back; :meth:`exit` ends it.

        Args:
            batch: The batch, as for :meth:`step`.
            targets: The targets, as for :meth:`step`.

        Returns:
            The step, as :meth:`step` yields it.

        Raises:
            OptionError: Before :meth:`begin`, or inside another step.
        """
        self._require_outside("enter()")
        entered = self.step(batch, targets)
        step = entered.__enter__()
        self._entered = entered
        return step

    def exit(self, error: BaseException | None = None) -> None:
        """End the step that :meth:`enter` began.

        Args:
            error: What failed in the step; hooks are taken off the network, nothing acts after the step, and the caller
                raises it again. None: the step succeeded.

        Raises:
            OptionError: Outside a step of :meth:`enter`, or if the step left out what a component needs.
        """
        entered, self._entered = self._entered, None
        if entered is None:
            raise OptionError("attached.exit() ends a step that attached.enter(batch) began, and there is none")
        if error is None:
            entered.__exit__(None, None, None)
        else:
            entered.__exit__(type(error), error, error.__traceback__)

    def after_epoch(self) -> None:
        """End an epoch: call it after the last step of each.

        Raises:
            OptionError: Before :meth:`begin`, or inside a step.
        """
        self._require_outside("after_epoch()")
        self._require_begun()
        self._runner.after_epoch(self._position)
        self._epoch, self._step = self._epoch + 1, 0

    def memory(self, component: object) -> Mapping[str, Tensor]:
        """Return what ``component`` stored while it watched; nothing if it was not attached."""
        return self._runner.memory(component)

    def state_dict(self) -> dict[str, Any]:
        """Return the loop's position and what each component stores, for a checkpoint.

        Returns:
            Numbers, text and tensors, which ``torch.load(weights_only=True)`` reads: ``position``, ``begun``, ``seed``,
            the ``components`` with name, options and state, and the dtypes and shapes of the ``network``.

        Raises:
            OptionError: Inside a step, half of which would be lost.
        """
        self._require_outside("state_dict()")
        self._runner.require_tensors()
        return {
            "position": [self._mega_batch, self._epoch, self._step],
            "begun": self._begun,
            "seed": self._runner.seeds.seed,
            "components": [
                {"name": one.name, "options": dict(one.options), "state": dict(state)}
                for one, state in zip(self._components, self._runner.states, strict=True)
            ],
            "network": self._network,
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Resume from a state, with the same components in the same order on the same network.

        Tensors are copied to the device of the model. Then continue with the next step in the middle of a mega-batch,
        or with :meth:`begin` before one. If the state is refused, nothing is loaded.

        Args:
            state: What :meth:`state_dict` returned.

        Raises:
            OptionError: Inside a step, or if the state is not valid or belongs to other components, options, another
                seed or another network.
        """
        self._require_outside("load_state_dict()")
        saved = _parse(state)
        self._require_own(saved)
        devices = {parameter.device for parameter in self._runner.model.parameters()}
        device = next(iter(devices)) if len(devices) == 1 else None
        for own, component in zip(self._runner.states, saved.components, strict=True):
            own.clear()
            for name, tensor in component.state.items():
                own[name] = tensor.detach().to(device or tensor.device, copy=True)
        self._mega_batch, self._epoch, self._step = saved.position
        self._begun = saved.begun

    def _require_own(self, saved: _SavedLoop) -> None:
        """Raise ``OptionError`` with the first difference between the saved loop and this one."""
        _require_same_components(saved.components, self._components)
        difference = _first_difference(saved.network, self._network)
        if difference is not None:
            name, was, now = difference
            raise OptionError(
                f"this state is of another network: its '{name}' is {was}, and that of the attached one {now}"
            )
        if list(saved.network) != list(self._network):
            raise OptionError("this state is of another network: its tensors are in another order")
        seed = self._runner.seeds.seed
        if saved.seed != seed:
            raise OptionError(
                f"this state is of seed {saved.seed}: attach with seed={saved.seed}, not {seed}, to continue the same "
                "draws"
            )

    @property
    def _network(self) -> dict[str, str]:
        """The dtype and shape of each parameter, and of each buffer that a checkpoint of the network holds."""
        model = self._runner.model
        saved = model.state_dict(keep_vars=True).keys()
        buffers = ((name, buffer) for name, buffer in model.named_buffers() if name in saved)
        return {
            name: f"{str(tensor.dtype).removeprefix('torch.')} {tuple(tensor.shape)}"
            for name, tensor in (*model.named_parameters(), *buffers)
        }

    @property
    def _position(self) -> TrainStep:
        return TrainStep(self._mega_batch, self._epoch, self._step)

    def _require_outside(self, call: str) -> None:
        if self._inside:
            raise OptionError(
                f"attached.{call} is called inside a step: leave the step first (attached.exit(error) after a failure)"
            )

    def _require_begun(self) -> None:
        if not self._begun:
            names = ", ".join(self._runner.names) or "this loop"
            raise OptionError(
                f"{names} cannot act before a mega-batch: call attached.begin(inputs, targets) before its first step"
            )


class _Saved(BaseModel):
    model_config = ConfigDict(arbitrary_types_allowed=True, frozen=True)


class _SavedComponent(_Saved):
    name: str
    options: dict[str, str]
    state: dict[str, Tensor]


_From1 = Annotated[StrictInt, Field(ge=1)]


class _SavedLoop(_Saved):
    """What :meth:`InterventionAttachment.state_dict` returns."""

    position: tuple[_From1, _From1, Annotated[StrictInt, Field(ge=0)]]
    begun: StrictBool
    seed: StrictInt
    components: list[_SavedComponent]
    network: dict[str, str]


def _parse(state: object) -> _SavedLoop:
    if not isinstance(state, Mapping):
        raise OptionError(f"a state is what attached.state_dict() returned, not {type(state).__name__}")
    try:
        return _SavedLoop.model_validate(state)
    except ValidationError as error:
        first = error.errors()[0]
        key = ".".join(map(str, first["loc"]))
        what = f"it has no '{key}'" if first["type"] == "missing" else f"'{key}' is {_one_line(first['input'])}"
        raise OptionError(
            f"this is no state of an attached loop: {what}; give what attached.state_dict() returned"
        ) from None


def _require_same_components(saved: Sequence[_SavedComponent], own: Sequence[ComponentDescription]) -> None:
    """Raise ``OptionError`` with the first difference."""
    kept = [ComponentDescription(one.name, one.options) for one in saved]
    names = ", ".join(one.name for one in own) or "none"
    if len(kept) != len(own):
        raise OptionError(
            f"this state is of other components: it is of {len(kept)}, and {len(own)} are attached ({names})"
        )
    if kept != list(own) and all(kept.count(one) == own.count(one) for one in own):
        order = ", ".join(_one_line(one.name) for one in kept)
        raise OptionError(f"this state is of components in another order: attach them as {order}")
    for number, (was, now) in enumerate(zip(kept, own, strict=True), 1):
        if was.name != now.name:
            raise OptionError(
                f"this state is of other components: the component {number} of the state is {_one_line(was.name)}, and "
                f"{now.name} is attached"
            )
        difference = _first_difference(was.options, now.options)
        if difference is not None:
            key, before, after = difference
            raise OptionError(f"this state is of other options: {now.name} had {key}={before}, and {after} is attached")


def _first_difference(was: Mapping[str, str], now: Mapping[str, str]) -> tuple[str, str, str] | None:
    for key in [*was, *now]:
        if was.get(key) != now.get(key):
            return _one_line(key), _one_line(was.get(key, "missing")), _one_line(now.get(key, "missing"))
    return None


def _one_line(value: object) -> str:
    text = " ".join(str(value).split())
    return text if len(text) <= _LONGEST else f"{text[:_LONGEST]}…"
