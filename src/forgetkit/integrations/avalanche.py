"""Forgetting in Avalanche: a plugin for its strategies."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import Any

from torch import nn

from forgetkit.contracts import Importance, Intervention, OptimizerState, Reinit
from forgetkit.integrations.forgetter import ForgetOptions, Forgetter, Objective
from forgetkit.integrations.requirements import require
from forgetkit.integrations.scoring_data import ScoringData

_Plugin: Any = require("avalanche", "avalanche.core").SupervisedPlugin
_MetricValue: Any = require("avalanche", "avalanche.evaluation.metric_results").MetricValue


class ForgetPlugin(_Plugin, supports_distributed=True):  # type: ignore[call-arg]
    """Resets part of the model between experiences, epochs or iterations of a strategy, with the strategy's own loss.

    A reset that is due comes right before the next iteration, after the evaluation of the model that was trained: with
    ``"experience"``, at the start of each experience but the first, on the samples that the strategy trains on next.
    It is published as metrics under ``forget/…`` to the strategy's loggers. The plugin is saved with the strategy by
    ``save_checkpoint``.

    Args:
        importance: The criterion, as for :func:`forgetkit.unlearn`.
        reinit: The reset method.
        every: ``"experience"``, between two experiences; ``"epoch"``, between two epochs of an experience; a number,
            after so many iterations; ``"fit_end"``, once at the end of each call of ``strategy.train``.
        optimizer_state: What becomes of the optimizer's state. None: as ``policy`` says, or ``"zero"``.
        seed: Fixes every draw; each reset has a seed of its own, a function of this one and the reset's number.
        interventions: Components that act while the network trains, as for :func:`forgetkit.attach`. Each experience is
            a mega-batch.
        followers: Networks that get the same resets, such as an average of the weights, or functions that return one.
        batches: The batches to score on. None: those of the strategy's data loader.
        objective: ``objective(model, batch)``, the loss. None: that of ``strategy.criterion``.
        **unlearn: Further arguments of :func:`forgetkit.unlearn`: ``build``, ``protect``, ``scoring``, ``policy``, …

    Raises:
        OptionError: If an argument is out of range.

    Example:
        >>> plugin = ForgetPlugin(importance="snip", reinit="masked:fraction=0.2", seed=1)  # doctest: +SKIP
        >>> strategy = Naive(model=model, optimizer=optimizer, plugins=[plugin])  # doctest: +SKIP
    """

    def __init__(
        self,
        *,
        importance: str | Importance | None = None,
        reinit: str | Reinit = "masked",
        every: str | int = "experience",
        optimizer_state: OptimizerState | None = None,
        seed: int = 0,
        interventions: Sequence[str | Intervention] = (),
        followers: Sequence[nn.Module | Callable[[], nn.Module]] = (),
        batches: Iterable[Any] | None = None,
        objective: Objective | None = None,
        **unlearn: Any,
    ) -> None:
        super().__init__()
        self._forgetter = Forgetter(
            ForgetOptions(
                importance=importance,
                reinit=reinit,
                every=every,
                words=("experience", "epoch", "fit_end"),
                optimizer_state=optimizer_state,
                seed=seed,
                interventions=interventions,
                followers=followers,
                batches=batches,
                objective=objective,
                unlearn=unlearn,
            )
        )
        self._experiences = self._epochs = 0

    @property
    def resets(self) -> int:
        """How many resets were made."""
        return self._forgetter.resets

    @property
    def last_report(self) -> Any:
        """The report of the last reset."""
        return self._forgetter.last_report

    def before_training_exp(self, strategy: Any, *args: Any, **kwargs: Any) -> None:
        """Attach the interventions, and reset between two experiences."""
        word = self._forgetter.options.every
        done = {"experience": self._experiences, "epoch": 0}.get(str(word), strategy.clock.train_iterations)
        self._epochs = 0
        data = self._data_of(strategy)(0, 0)
        self._forgetter.start(strategy.model, strategy.optimizer, data, _loss_of(strategy), done)
        if self._forgetter.due("experience", self._experiences):
            self._reset(strategy, self._experiences)

    def before_training_epoch(self, strategy: Any, *args: Any, **kwargs: Any) -> None:
        """Reset between two epochs."""
        if self._forgetter.due("epoch", self._epochs):
            self._reset(strategy, self._epochs)

    def before_training_iteration(self, strategy: Any, *args: Any, **kwargs: Any) -> None:
        """Reset between two iterations, and begin one of the interventions."""
        if self._forgetter.due("step", strategy.clock.train_iterations):
            self._reset(strategy, strategy.clock.train_iterations)
        self._forgetter.enter(tuple(strategy.mbatch))

    def before_backward(self, strategy: Any, *args: Any, **kwargs: Any) -> None:
        """Add what the interventions add to the loss."""
        strategy.loss = strategy.loss + self._forgetter.loss()

    def before_update(self, strategy: Any, *args: Any, **kwargs: Any) -> None:
        """Let interventions act before the step of the optimizer."""
        self._forgetter.before()

    def after_training_iteration(self, strategy: Any, *args: Any, **kwargs: Any) -> None:
        """End an iteration of the interventions."""
        self._forgetter.exit()

    def after_training_epoch(self, strategy: Any, *args: Any, **kwargs: Any) -> None:
        """End an epoch of the interventions."""
        self._epochs += 1
        self._forgetter.after_epoch()

    def after_training_exp(self, strategy: Any, *args: Any, **kwargs: Any) -> None:
        """End a mega-batch of the interventions."""
        self._experiences += 1
        self._forgetter.stop()

    def after_training(self, strategy: Any, *args: Any, **kwargs: Any) -> None:
        """Reset after the training, if asked to."""
        if self._forgetter.options.every == "fit_end":
            self._reset(strategy, self._experiences)

    def _data_of(self, strategy: Any) -> Callable[[int, int], ScoringData]:
        batches = self._forgetter.options.batches
        return lambda seed, number: ScoringData(strategy.dataloader if batches is None else batches, seed, number)

    def _reset(self, strategy: Any, at: int) -> None:
        data = self._data_of(strategy)
        numbers = self._forgetter.reset(strategy.model, strategy.optimizer, data, _loss_of(strategy), at)
        for name, value in numbers.items():
            found = _MetricValue(self, name, value, strategy.clock.train_iterations)
            strategy.evaluator.publish_metric_value(found)


def _loss_of(strategy: Any) -> Objective:
    """Return the strategy's own forward pass and criterion for a batch beside the one in training."""

    def objective(model: Any, batch: Any) -> Any:
        kept = strategy.model, strategy.mbatch, strategy.mb_output
        strategy.model, strategy.mbatch = model, list(batch)
        try:
            strategy.mb_output = strategy.forward()
            return strategy.criterion()
        finally:
            strategy.model, strategy.mbatch, strategy.mb_output = kept

    return objective
