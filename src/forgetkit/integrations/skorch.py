"""Forgetting in skorch: a callback."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

from torch import nn

from forgetkit.contracts import Importance, Intervention, OptimizerState, Reinit
from forgetkit.errors import OptionError
from forgetkit.integrations.forgetter import ForgetOptions, Forgetter, Objective
from forgetkit.integrations.requirements import require
from forgetkit.integrations.scoring_data import ScoringData

_Callback: Any = require("skorch", "skorch.callbacks").Callback
_DATA = require("skorch", "skorch.dataset")
_ARGUMENTS = (
    *("importance", "reinit", "every", "optimizer_state", "seed"),
    *("interventions", "followers", "batches", "objective"),
)


class Forget(_Callback):
    """Resets part of a net between epochs or steps, with the net's own criterion.

    A reset that is due comes right before the next step, after the validation and the checkpoint of the module that was
    trained, and never after the last step of a fit; a later ``partial_fit`` begins with it. In ``net.history`` an
    epoch with a reset has ``event_forget``, and the batch that follows the numbers as ``forget_…`` and the callback's
    position: a net that loads ``f_params``, ``f_optimizer`` and ``f_history`` resumes from them. The state of
    interventions is in pickles of the net, and in :meth:`state_dict`.

    Args:
        importance: The criterion, as for :func:`forgetkit.unlearn`.
        reinit: The reset method.
        every: ``"epoch"``, between two epochs; a number, after so many steps of the optimizer; ``"fit_end"``, once
            at the end of each fit.
        optimizer_state: What becomes of the optimizer's state. None: as ``policy`` says, or ``"zero"``.
        seed: Fixes every draw; each reset has a seed of its own, a function of this one and the reset's number.
        interventions: Components that act while the network trains, as for :func:`forgetkit.attach`.
        followers: Networks that get the same resets, such as an average of the weights, or functions that return one.
        batches: The batches to score on. None: those of the training data.
        objective: ``objective(module, batch)``, the loss. None: that of ``net.get_loss``.
        **unlearn: Further arguments of :func:`forgetkit.unlearn`: ``build``, ``protect``, ``scoring``, ``policy``, …

    Raises:
        OptionError: If an argument is out of range.

    Example:
        >>> forget = Forget(importance="snip", reinit="masked:fraction=0.2", seed=1)  # doctest: +SKIP
        >>> net = skorch.NeuralNetClassifier(MyModule, callbacks=[forget])  # doctest: +SKIP
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
        self.importance = importance
        self.reinit = reinit
        self.every = every
        self.optimizer_state = optimizer_state
        self.seed = seed
        self.interventions = interventions
        self.followers = followers
        self.batches = batches
        self.objective = objective
        self._unlearn = unlearn
        self.initialize()

    def initialize(self) -> Forget:
        """Begin anew, with the parameters that are set: skorch calls it whenever a net is initialized."""
        arguments = {name: getattr(self, name) for name in _ARGUMENTS}
        self._forgetter = Forgetter(ForgetOptions(**arguments, unlearn=self._unlearn))
        self._steps = 0
        self._stepped = True
        self._dataset: Any = None
        self._numbers: dict[str, float] = {}
        self._hooks: list[Any] = []
        return self

    def __getstate__(self) -> dict[str, Any]:
        """Pickle without the data and what listens to the optimizers."""
        return {**vars(self), "_dataset": None, "_hooks": []}

    def get_params(self, deep: bool = True) -> dict[str, Any]:
        """Return all arguments, with those of ``unlearn``: ``sklearn.clone`` makes the callback anew from them."""
        return {**{name: getattr(self, name) for name in _ARGUMENTS}, **self._unlearn}

    def set_params(self, **params: Any) -> Forget:
        """Set arguments, those of ``unlearn`` too; they hold from the next ``net.initialize()``."""
        for name, value in params.items():
            if name in _ARGUMENTS:
                setattr(self, name, value)
            else:
                self._unlearn = {**self._unlearn, name: value}
        return self

    @property
    def resets(self) -> int:
        """How many resets were made."""
        return self._forgetter.resets

    @property
    def last_report(self) -> Any:
        """The report of the last reset."""
        return self._forgetter.last_report

    def state_dict(self) -> dict[str, Any]:
        """Return the state of the callback, with that of its interventions."""
        return {**self._forgetter.state_dict(), "steps": self._steps}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Resume from a state, between ``net.initialize()`` and the next ``net.partial_fit()``."""
        self._forgetter.load_state_dict(state)
        self._steps = state["steps"]

    def on_train_begin(self, net: Any, X: Any = None, y: Any = None, **kwargs: Any) -> None:  # noqa: N803
        """Resume from the history of a net that was loaded."""
        if sum(isinstance(callback, Forget) for _, callback in net.callbacks_) > 1:
            raise OptionError("a net takes one Forget, whose state its history holds: remove the others")
        self._resume_from(net.history)
        self._remove_hooks()
        self._dataset = None
        self._hooks = [one.register_step_post_hook(self._count) for one in _optimizers(net)]
        self._begun = False

    def on_epoch_begin(self, net: Any, dataset_train: Any = None, dataset_valid: Any = None, **kwargs: Any) -> None:
        """Attach the interventions before the first epoch, and reset between two epochs."""
        self._dataset, done = dataset_train, len(net.history) - 1
        if not self._begun:
            self._begun, position = True, self._steps if isinstance(self.every, int) else done
            self._forgetter.start(_module(net), _optimizer(net), self._data_of(net)(0, 0), _loss_of(net), position)
        net.history.record("event_forget", False)
        if self._forgetter.due("epoch", done):
            self._reset(net, done)

    def on_batch_begin(self, net: Any, batch: Any = None, training: bool = False, **kwargs: Any) -> None:
        """Reset between two steps of the optimizer, and begin one of the interventions."""
        if not training:
            return
        if self._stepped and self._forgetter.due("step", self._steps):
            self._reset(net, self._steps)
        self._stepped = False
        self._forgetter.enter(batch)

    def on_grad_computed(self, net: Any, named_parameters: Any, batch: Any = None, **kwargs: Any) -> None:
        """Let interventions act on the loss and before the step."""
        self._forgetter.add_gradient_of_loss(_module(net))
        self._forgetter.before()

    def on_batch_end(self, net: Any, batch: Any = None, training: bool = False, **kwargs: Any) -> None:
        """End a step of the interventions."""
        if training:
            self._forgetter.exit(stepped=self._stepped)
            self._record(net)

    def on_epoch_end(self, net: Any, dataset_train: Any = None, dataset_valid: Any = None, **kwargs: Any) -> None:
        """End an epoch of the interventions."""
        self._forgetter.after_epoch()

    def on_train_end(self, net: Any, X: Any = None, y: Any = None, **kwargs: Any) -> None:  # noqa: N803
        """Reset after the fit, if asked to."""
        if self.every == "fit_end" and self._dataset is not None:  # of a fit of no epoch there is none
            self._reset(net, len(net.history))
        self._remove_hooks()
        self._forgetter.stop()

    def _count(self, *_: Any) -> None:
        self._steps, self._stepped = self._steps + 1, True

    def _remove_hooks(self) -> None:
        for hook in self._hooks:
            hook.remove()
        self._hooks = []

    def _data_of(self, net: Any) -> Callable[[int, int], ScoringData]:
        loader = net.get_iterator(self._dataset, training=True) if self.batches is None else self.batches
        return lambda seed, number: ScoringData(loader, seed, number)

    def _reset(self, net: Any, at: int) -> None:
        numbers = self._forgetter.reset(_module(net), _optimizer(net), self._data_of(net), _loss_of(net), at)
        self._numbers = {name.replace("/", "_"): value for name, value in numbers.items()}
        net.history.record("event_forget", True)
        if self.every == "fit_end":
            self._record(net)

    def _record(self, net: Any) -> None:
        """Record the last reset and the position in the row of a batch, where they widen no printed table."""
        for name, value in self._numbers.items():
            net.history.record_batch(name, value)
        self._numbers = {}
        net.history.record_batch("forget_state", list(self._position.values()))

    @property
    def _position(self) -> dict[str, Any]:
        return {**self._forgetter.state_dict(tensors=False), "steps": self._steps}

    def _resume_from(self, history: Any) -> None:
        """Take the state of the last batch if this callback did not make it."""
        batches = history[-1]["batches"] if len(history) else []
        found = [row["forget_state"] for row in batches if "forget_state" in row]
        saved = dict(zip(self._position, found[-1], strict=True)) if found else None
        if saved is None or (saved["resets"], saved["steps"]) == (self._forgetter.resets, self._steps):
            return
        if self.interventions:
            raise OptionError(
                "this history tells nothing of the interventions' state: resume from a pickle of the net (f_pickle), "
                "or call load_state_dict() of Forget with what its state_dict() returned"
            )
        self.load_state_dict(saved)


def _module(net: Any) -> nn.Module:
    module: nn.Module = net.module_
    return module


def _optimizers(net: Any) -> list[Any]:
    return [getattr(net, f"{name}_") for name in net._optimizers]


def _optimizer(net: Any) -> Any:
    found = _optimizers(net)
    return found[0] if len(found) == 1 else found


def _loss_of(net: Any) -> Objective:
    def objective(module: Any, batch: Any) -> Any:
        inputs, targets = _DATA.unpack_data(batch)
        return net.get_loss(net.infer(inputs), targets, X=inputs, training=True)

    return objective
