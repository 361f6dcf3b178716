"""Forgetting in the Hugging Face ``Trainer``: a callback."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from types import FrameType
from typing import Any

import torch
from torch import nn

from forgetkit.contracts import Importance, Intervention, OptimizerState, Reinit
from forgetkit.errors import OptionError
from forgetkit.integrations.forgetter import ForgetOptions, Forgetter, Objective
from forgetkit.integrations.requirements import require
from forgetkit.integrations.scoring_data import ScoringData

_TRANSFORMERS = require("transformers", "transformers")
_CALLBACKS = require("transformers", "transformers.trainer_callback")
_Callback: Any = _CALLBACKS.TrainerCallback
_ExportableState: Any = _CALLBACKS.ExportableState
_FILE = "forgetkit.pt"
"""The state of the interventions, beside ``trainer_state.json``, which holds the rest."""


class ForgetCallback(_Callback, _ExportableState):
    """Resets part of a model between epochs or steps of a ``Trainer``, with the trainer's own ``compute_loss``.

    A reset that is due comes right before the next step, after the evaluation and the checkpoint of the model that was
    trained, and never after the last step. It is logged by ``trainer.log`` under ``forget/…``. Its state is in
    ``trainer_state.json``, that of interventions in ``forgetkit.pt`` beside it.

    Args:
        importance: The criterion, as for :func:`forgetkit.unlearn`.
        reinit: The reset method.
        every: ``"epoch"``, between two epochs; a number, after so many steps of the optimizer; ``"fit_end"``, once
            after the training.
        optimizer_state: What becomes of the optimizer's state. None: as ``policy`` says, or ``"zero"``.
        seed: Fixes every draw; each reset has a seed of its own, a function of this one and the reset's number.
        interventions: Components that act while the network trains, as for :func:`forgetkit.attach`.
        followers: Networks that get the same resets, such as an average of the weights, or functions that return one.
        batches: The batches to score on. None: those of the training loader.
        objective: ``objective(model, batch)``, the loss. None: ``trainer.compute_loss``.
        **unlearn: Further arguments of :func:`forgetkit.unlearn`: ``build``, ``protect``, ``scoring``, ``policy``, …

    Raises:
        OptionError: If an argument is out of range.

    Example:
        >>> callback = ForgetCallback(importance="snip", reinit="masked:fraction=0.2", seed=1)  # doctest: +SKIP
        >>> trainer = transformers.Trainer(model, arguments, callbacks=[callback])  # doctest: +SKIP
    """

    def __init__(
        self,
        *,
        importance: str | Importance | None = None,
        reinit: str | Reinit = "masked",
        every: str | int = "epoch",
        optimizer_state: OptimizerState | None = None,
        seed: int = 0,
        interventions: Sequence[str | Intervention] = (),
        followers: Sequence[nn.Module | Callable[[], nn.Module]] = (),
        batches: Iterable[Any] | None = None,
        objective: Objective | None = None,
        **unlearn: Any,
    ) -> None:
        self._forgetter = Forgetter(
            ForgetOptions(
                importance=importance,
                reinit=reinit,
                every=every,
                optimizer_state=optimizer_state,
                seed=seed,
                interventions=interventions,
                followers=followers,
                batches=batches,
                objective=objective,
                unlearn=unlearn,
            )
        )
        self._epochs = 0
        self._hook: Any = None
        self._in_epoch = self._awaits_batch = False

    @property
    def resets(self) -> int:
        """How many resets were made."""
        return self._forgetter.resets

    @property
    def last_report(self) -> Any:
        """The report of the last reset."""
        return self._forgetter.last_report

    def state(self) -> dict[str, Any]:
        """Return what ``trainer_state.json`` holds."""
        return {"args": {}, "attributes": self._forgetter.state_dict(tensors=False)}

    def on_init_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """Refuse what would make this callback anew from JSON, which holds no networks or functions."""
        if getattr(args, "restore_callback_states_from_checkpoint", False):
            raise OptionError(
                "ForgetCallback restores itself from a checkpoint: leave restore_callback_states_from_checkpoint out"
            )

    def on_train_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """Resume from a checkpoint, and attach the interventions."""
        trainer = _trainer_of(self)
        if sum(isinstance(callback, ForgetCallback) for callback in trainer.callback_handler.callbacks) > 1:
            raise OptionError("a Trainer takes one ForgetCallback, whose state its checkpoints hold: remove the others")
        self._remove_hook()
        if state.global_step:
            self._load(trainer, state)
        by_step = isinstance(self._forgetter.options.every, int)
        self._epochs = _epochs_done(state)
        position = state.global_step if by_step else self._epochs
        data = self._data_of(kwargs["train_dataloader"])(0, 0)
        self._forgetter.start(trainer.model_wrapped, _plain(kwargs["optimizer"]), data, _loss_of(trainer), position)
        if self._forgetter.watching:
            self._hook = kwargs["model"].register_forward_pre_hook(self._see, with_kwargs=True)

    def on_epoch_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """Reset between two epochs."""
        self._epochs, self._in_epoch = max(self._epochs, _epochs_done(state)), True
        if self._forgetter.due("epoch", self._epochs):
            self._reset(kwargs, self._epochs)

    def on_step_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """Reset between two steps of the optimizer."""
        if self._forgetter.due("step", state.global_step):
            self._reset(kwargs, state.global_step)
        self._awaits_batch = self._forgetter.watching

    def on_pre_optimizer_step(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """Let interventions act on the loss and before the step."""
        self._forgetter.add_gradient_of_loss(kwargs["model"])
        self._forgetter.before()

    def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """End a step of the interventions."""
        self._forgetter.exit()
        if _epochs_done(state) > self._epochs:
            self._end_epoch()  # before the checkpoint of this step

    def on_epoch_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """End an epoch that was cut short, or whose length was not known."""
        self._end_epoch()
        if _epochs_done(state) <= self._epochs:
            self._epochs += 1

    def on_train_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """Reset after the training, if asked to."""
        self._remove_hook()
        if self._forgetter.options.every == "fit_end":
            self._reset(kwargs, _epochs_done(state))
        self._forgetter.stop()

    def on_save(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """Save the state of the interventions beside the checkpoint."""
        if self._forgetter.watching and state.is_world_process_zero:
            torch.save(self._forgetter.state_dict(), _checkpoint(_trainer_of(self), state) / _FILE)

    def _remove_hook(self) -> None:
        if self._hook is not None:
            self._hook.remove()
            self._hook = None

    def _see(self, module: nn.Module, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> None:
        """Begin a step of the interventions with the first batch that the model gets in it."""
        if self._awaits_batch:
            self._awaits_batch = False
            self._forgetter.enter(dict(kwargs) if kwargs else args)

    def _reset(self, kwargs: Mapping[str, Any], at: int) -> None:
        trainer = _trainer_of(self)
        data = self._data_of(kwargs["train_dataloader"])
        optimizer = _plain(kwargs["optimizer"])
        numbers = self._forgetter.reset(trainer.model_wrapped, optimizer, data, _loss_of(trainer), at)
        trainer.log(numbers)

    def _data_of(self, loader: Any) -> Callable[[int, int], ScoringData]:
        batches = self._forgetter.options.batches
        return lambda seed, number: ScoringData(loader if batches is None else batches, seed, number)

    def _end_epoch(self) -> None:
        if self._in_epoch:
            self._in_epoch = False
            self._forgetter.after_epoch()

    def _load(self, trainer: Any, state: Any) -> None:
        """Resume from ``trainer_state.json`` and, with interventions, from the file beside it."""
        found = state.stateful_callbacks.get(type(self).__name__)
        saved = found["attributes"] if isinstance(found, Mapping) else None
        if saved is None:
            raise OptionError("this checkpoint is of a training without ForgetCallback: begin a new training with it")
        if self._forgetter.options.interventions:
            file = (_resumed_folder(trainer) or _checkpoint(trainer, state)) / _FILE
            if not file.is_file():
                raise OptionError(f"there is no {file} with the state of the interventions: put it beside the others")
            saved = torch.load(file, weights_only=True)
        self._forgetter.load_state_dict(saved)


def _epochs_done(state: Any) -> int:
    return int((state.epoch or 0) + 1e-6)


def _checkpoint(trainer: Any, state: Any) -> Path:
    folder = trainer._get_output_dir(trial=trainer._trial)
    return Path(folder) / f"{_TRANSFORMERS.trainer_utils.PREFIX_CHECKPOINT_DIR}-{state.global_step}"


def _resumed_folder(trainer: Any) -> Path | None:
    """Return the checkpoint that ``trainer`` goes on with; it may lie outside its output folder."""
    for frame in _callers():
        given = frame.f_locals.get("resume_from_checkpoint")
        if frame.f_locals.get("self") is trainer and isinstance(given, str | Path):
            return Path(given)
    return None


def _loss_of(trainer: Any) -> Objective:
    def objective(model: Any, batch: Any) -> Any:
        return trainer.compute_loss(model, dict(batch))  # a copy, from which it may take the labels

    return objective


def _plain(optimizer: Any) -> Any:
    """Return the optimizer inside that of accelerate."""
    wrapper = require("transformers", "accelerate.optimizer").AcceleratedOptimizer
    return optimizer.optimizer if isinstance(optimizer, wrapper) else optimizer


def _trainer_of(callback: ForgetCallback) -> Any:
    """Return the trainer that calls ``callback``: transformers hands it over to no callback.

    Only the trainer knows the loss, and only it reaches all loggers, so it is found among the callers.
    """
    for frame in _callers():
        caller = frame.f_locals.get("self")
        if isinstance(caller, _TRANSFORMERS.Trainer) and callback in caller.callback_handler.callbacks:
            return caller
    raise OptionError("ForgetCallback works in a transformers.Trainer: give it as callbacks=[ForgetCallback(…)]")


def _callers() -> Iterator[FrameType]:
    frame: FrameType | None = sys._getframe(1)
    while frame is not None:
        yield frame
        frame = frame.f_back
