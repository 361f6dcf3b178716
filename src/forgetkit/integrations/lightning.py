"""Forgetting in Lightning: a callback for ``lightning.pytorch`` and for ``pytorch_lightning``."""

from __future__ import annotations

import copy
import inspect
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

from torch import Tensor, nn

from forgetkit.contracts import Importance, Intervention, OptimizerState, Reinit
from forgetkit.errors import OptionError
from forgetkit.integrations.forgetter import ForgetOptions, Forgetter, Objective
from forgetkit.integrations.requirements import require
from forgetkit.integrations.scoring_data import ScoringData, require_one_loader

_Callback: Any = require("lightning", "lightning.pytorch", "pytorch_lightning").Callback


class ForgetCallback(_Callback):
    """Resets part of a ``LightningModule`` between epochs or steps, with the module's own ``training_step`` as loss.

    A reset that is due comes right before the next step, after validation and checkpoints, and never after the last
    step. It is logged by each logger of the trainer under ``forget/…``. The callback's state is part of the trainer's
    checkpoints.

    Args:
        importance: The criterion, as for :func:`forgetkit.unlearn`.
        reinit: The reset method.
        every: ``"epoch"``, between two epochs; a number, after so many steps of the optimizer; ``"fit_end"``, once
            after the fit.
        optimizer_state: What becomes of the optimizer's state. None: as ``policy`` says, or ``"zero"``.
        seed: Fixes every draw; each reset has a seed of its own, a function of this one and the reset's number.
        interventions: Components that act while the network trains, as for :func:`forgetkit.attach`.
        followers: Networks that get the same resets, such as an average of the weights, or functions that return one.
        batches: The batches to score on. None: those of the training loader.
        objective: ``objective(module, batch)``, the loss. None: what ``training_step`` returns.
        **unlearn: Further arguments of :func:`forgetkit.unlearn`: ``build``, ``protect``, ``scoring``, ``policy``, …

    Raises:
        OptionError: If an argument is out of range.

    Example:
        >>> callback = ForgetCallback(importance="snip", reinit="masked:fraction=0.2", seed=1)  # doctest: +SKIP
        >>> trainer = lightning.pytorch.Trainer(max_epochs=10, callbacks=[callback])  # doctest: +SKIP
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
        self._steps = 0
        """The optimizer's steps at the start of the batch at hand."""
        self._in_fit = True
        """Whether the checkpoint that is loaded is one to go on with."""

    @property
    def state_key(self) -> str:
        """The name of the state in a checkpoint."""
        return f"forgetkit.ForgetCallback[{self._forgetter.options.every}, {self._forgetter.options.seed}]"

    @property
    def resets(self) -> int:
        """How many resets were made."""
        return self._forgetter.resets

    @property
    def last_report(self) -> Any:
        """The report of the last reset."""
        return self._forgetter.last_report

    def state_dict(self) -> dict[str, Any]:
        """Return the state for the trainer's checkpoint."""
        return self._forgetter.state_dict()

    def load_state_dict(self, state_dict: Mapping[str, Any]) -> None:
        """Resume from a state, in a fit: a checkpoint that is only tested says nothing of this one."""
        if self._in_fit:
            self._forgetter.load_state_dict(state_dict)

    def on_load_checkpoint(self, trainer: Any, pl_module: Any, checkpoint: Mapping[str, Any]) -> None:
        """Refuse to go on with a checkpoint of another ``seed`` or ``every``: Lightning would leave its state out."""
        self._in_fit = trainer.state.fn == "fit"
        if not self._in_fit:
            return
        stored = {key for key in checkpoint.get("callbacks", {}) if str(key).startswith("forgetkit.ForgetCallback[")}
        unclaimed = stored - {callback.state_key for callback in trainer.callbacks}
        if self.state_key not in stored and unclaimed:
            raise OptionError(
                f"this checkpoint is of {', '.join(sorted(unclaimed))} (every, seed), not {self.state_key}: "
                "give the same to resume"
            )

    def on_train_start(self, trainer: Any, pl_module: Any) -> None:
        """Attach the interventions."""
        options = self._forgetter.options
        if not pl_module.automatic_optimization and options.objective is None and "loss" not in options.unlearn:
            raise OptionError(
                f"{type(pl_module).__name__} steps its optimizers in training_step, which is no loss to score by, "
                "then: give ForgetCallback an objective=lambda module, batch: loss"
            )
        position = trainer.global_step if isinstance(options.every, int) else trainer.current_epoch
        data = _data_of(trainer, pl_module, options)
        self._forgetter.start(trainer.model, _optimizers(trainer), data(0, 0), _training_step, position)

    def on_train_epoch_start(self, trainer: Any, pl_module: Any) -> None:
        """Reset between two epochs."""
        if self._forgetter.due("epoch", trainer.current_epoch):
            self._reset(trainer, pl_module, trainer.current_epoch)

    def on_train_batch_start(self, trainer: Any, pl_module: Any, batch: Any, batch_idx: int) -> None:
        """Reset between two steps of the optimizer."""
        self._steps = trainer.global_step
        if self._forgetter.due("step", self._steps):
            self._reset(trainer, pl_module, self._steps)
        self._forgetter.enter(batch)

    def on_before_optimizer_step(self, trainer: Any, pl_module: Any, optimizer: Any) -> None:
        """Let interventions act on the loss and before the step."""
        self._forgetter.add_gradient_of_loss(pl_module)
        self._forgetter.before()

    def on_train_batch_end(self, trainer: Any, pl_module: Any, outputs: Any, batch: Any, batch_idx: int) -> None:
        """End a step of the interventions."""
        self._forgetter.exit(stepped=trainer.global_step > self._steps)

    def on_train_epoch_end(self, trainer: Any, pl_module: Any) -> None:
        """End an epoch of the interventions."""
        self._forgetter.after_epoch()

    def on_train_end(self, trainer: Any, pl_module: Any) -> None:
        """Reset after the fit, if asked to."""
        if self._forgetter.options.every == "fit_end":
            self._reset(trainer, pl_module, trainer.current_epoch)
        self._forgetter.stop()

    def on_exception(self, trainer: Any, pl_module: Any, exception: BaseException) -> None:
        """Leave the step that failed."""
        self._forgetter.abort(exception)

    def _reset(self, trainer: Any, module: Any, at: int) -> None:
        data = _data_of(trainer, module, self._forgetter.options)
        with _kept_records(module):
            numbers = self._forgetter.reset(trainer.model, _optimizers(trainer), data, _training_step, at)
        for logger in trainer.loggers:
            logger.log_metrics(numbers, step=trainer.global_step)


def _optimizers(trainer: Any) -> Any:
    return trainer.optimizers[0] if len(trainer.optimizers) == 1 else list(trainer.optimizers)


def _data_of(trainer: Any, module: Any, options: ForgetOptions) -> Callable[[int, int], ScoringData]:
    """Return what makes the batches to score on, as ``training_step`` gets them."""

    def prepare(batch: Any) -> Any:
        return trainer.strategy.batch_to_device(module.on_before_batch_transfer(batch, 0), dataloader_idx=0)

    def data(seed: int, number: int) -> ScoringData:
        if options.batches is not None:
            return ScoringData(options.batches, seed, number)
        loader = require_one_loader(trainer.train_dataloader, "the Lightning trainer")
        limit = trainer.num_training_batches
        return ScoringData(loader, seed, number, prepare, limit if isinstance(limit, int) else None)

    return data


def _training_step(module: Any, batch: Any) -> Tensor:
    """Return the loss of ``training_step``, which logs nothing meanwhile."""
    names = ("log", "log_dict")
    shadowed = {name: vars(module)[name] for name in names if name in vars(module)}
    vars(module).update(dict.fromkeys(names, _log_nothing))
    try:
        one = len(inspect.signature(module.training_step).parameters) == 1
        found = module.training_step(batch) if one else module.training_step(batch, 0)
    finally:
        for name in names:
            del vars(module)[name]
        vars(module).update(shadowed)
    loss = found.get("loss") if isinstance(found, Mapping) else found
    if not isinstance(loss, Tensor):
        raise OptionError(
            f"training_step of {type(module).__name__} returns no loss for a batch to score on: give objective="
        )
    return loss


def _log_nothing(*_: Any, **__: Any) -> None:
    pass


@contextmanager
def _kept_records(module: nn.Module) -> Iterator[None]:
    """Keep what ``training_step`` collects in metrics and lists as it is: scoring is no step of the epoch."""
    lists = [value for part in module.modules() for value in vars(part).values() if type(value) is list]
    contents = [list(value) for value in lists]
    metrics: list[Any] = [part for part in module.modules() if hasattr(part, "metric_state")]
    states = [copy.deepcopy(metric.metric_state) for metric in metrics]
    try:
        yield
    finally:
        for value, content in zip(lists, contents, strict=True):
            value[:] = content
        for metric, state in zip(metrics, states, strict=True):
            for name, value in state.items():
                setattr(metric, name, value)
