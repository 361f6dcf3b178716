"""Forgetting in a loop of one's own that Hugging Face Accelerate prepared."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

from torch import nn

from forgetkit.contracts import Importance, OptimizerState, Reinit
from forgetkit.errors import OptionError
from forgetkit.integrations.forgetter import ForgetOptions, Forgetter, Objective
from forgetkit.integrations.requirements import require
from forgetkit.integrations.scoring_data import ScoringData

_OPTIMIZER = require("accelerate", "accelerate.optimizer")


class Unlearner:
    """Calls :func:`forgetkit.unlearn` on what an ``Accelerator`` prepared, and counts the resets in its checkpoints.

    Models, optimizers and loaders are unwrapped; reading a loader leaves the gradient state as it is; the report goes
    to ``accelerator.log`` under ``forget/…``. ``accelerator.save_state`` and ``load_state`` bring the number of
    resets, from which each one's seed follows.

    Args:
        accelerator: The accelerator.
        importance: The criterion, as for :func:`forgetkit.unlearn`.
        reinit: The reset method.
        optimizer_state: What becomes of the optimizer's state. None: as ``policy`` says, or ``"zero"``.
        seed: Fixes every draw; each reset has a seed of its own, a function of this one and the reset's number.
        followers: Networks that get the same resets, such as an average of the weights, or functions that return one.
        objective: ``objective(model, batch)``, the loss. None: ``loss`` of ``unlearn``, for pairs of tensors.
        **unlearn: Further arguments of :func:`forgetkit.unlearn`: ``loss``, ``build``, ``protect``, ``scoring``, …

    Raises:
        OptionError: If an argument is out of range.

    Example:
        >>> unlearner = Unlearner(accelerator, importance="snip", seed=1)  # doctest: +SKIP
        >>> unlearner.unlearn(model, optimizer, loader)  # doctest: +SKIP
    """

    def __init__(
        self,
        accelerator: Any,
        *,
        importance: str | Importance | None = None,
        reinit: str | Reinit = "masked",
        optimizer_state: OptimizerState | None = None,
        seed: int = 0,
        followers: Sequence[nn.Module | Callable[[], nn.Module]] = (),
        objective: Objective | None = None,
        **unlearn: Any,
    ) -> None:
        self._accelerator = accelerator
        self._forgetter = Forgetter(
            ForgetOptions(
                importance=importance,
                reinit=reinit,
                optimizer_state=optimizer_state,
                seed=seed,
                followers=followers,
                objective=objective,
                unlearn=unlearn,
            )
        )
        accelerator.register_for_checkpointing(self)

    @property
    def resets(self) -> int:
        """How many resets were made."""
        return self._forgetter.resets

    @property
    def last_report(self) -> Any:
        """The report of the last reset."""
        return self._forgetter.last_report

    def state_dict(self) -> dict[str, Any]:
        """Return the state for the accelerator's checkpoint."""
        return self._forgetter.state_dict()

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Resume from a state."""
        self._forgetter.load_state_dict(state)

    def unlearn(self, model: nn.Module, optimizer: Any, batches: Iterable[Any], *, step: int | None = None) -> Any:
        """Reset between two steps of the optimizer: after ``optimizer.zero_grad()``, before the next batch.

        Args:
            model: The network, prepared or not.
            optimizer: The optimizer that trains it, or several in a list.
            batches: The batches to score on, a prepared loader for example.
            step: The step for ``accelerator.log``.

        Returns:
            The report of :func:`forgetkit.unlearn`.

        Raises:
            OptionError: While gradients accumulate.
            ForgetkitError: As :func:`forgetkit.unlearn` does.
        """
        if not self._accelerator.sync_gradients:
            raise OptionError("gradients accumulate: call unlearn() after a batch at which the optimizer steps")
        optimizers = [_plain(one) for one in (optimizer if isinstance(optimizer, list | tuple) else [optimizer])]
        number = self._forgetter.resets + 1
        numbers = self._forgetter.reset(
            model,
            optimizers[0] if len(optimizers) == 1 else optimizers,
            lambda seed, number: ScoringData(batches, seed, number),
            None,
            number,
        )
        self._accelerator.log(numbers, step=step)
        return self._forgetter.last_report


def _plain(optimizer: Any) -> Any:
    """Return the optimizer inside that of accelerate."""
    return optimizer.optimizer if isinstance(optimizer, _OPTIMIZER.AcceleratedOptimizer) else optimizer
