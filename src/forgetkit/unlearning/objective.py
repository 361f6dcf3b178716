"""The objective: how a network runs on a batch of any shape, and which loss that gives."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy
from torch.nn.modules.batchnorm import _BatchNorm
from torch.utils._pytree import tree_leaves

from forgetkit.errors import ComponentError, ForgetkitError, OptionError
from forgetkit.system.memory import translate_oom
from forgetkit.unlearning.batches import TreeBatch, copy_to, layout_of
from forgetkit.unlearning.integrity import first_line
from forgetkit.unlearning.loss_counts import CountedLoss, LossObserver

Loss = Callable[[Any, Any], Tensor]
Arguments = tuple[tuple[Any, ...], dict[str, Any]]
_SHOWN = "objective=lambda model, batch: ..., which returns the loss"


@dataclass(frozen=True)
class Objective:
    """The loss of a network on a batch, as a user describes it.

    A pair of (inputs, targets) runs as ``loss(model(inputs), targets)``, a mapping as ``model(**batch)``, whose own
    ``loss`` counts. ``function`` takes the place of both.

    Args:
        loss: Maps (outputs, targets) to the mean loss; of a mapping, (outputs, batch). None: cross-entropy of a pair,
            and a mapping's own loss.
        function: Maps (model, batch) to the mean loss, or to (loss, weight).
        select: Maps what the model returns to the tensor that a component sees as its outputs.
    """

    loss: Loss | None = None
    function: Callable[[nn.Module, Any], Any] | None = None
    select: Callable[[Any], Any] | None = None

    @classmethod
    def of(cls, loss: Loss | Objective | None) -> Objective:
        """Return the objective of a loss."""
        return loss if isinstance(loss, Objective) else cls(loss)

    def __post_init__(self) -> None:
        if self.loss is not None and self.function is not None:
            raise OptionError(
                "loss= and objective= are both given: objective returns the loss itself, so leave out loss="
            )
        for name, given in (("loss", self.loss), ("objective", self.function), ("outputs", self.select)):
            if given is not None and not callable(given):
                raise OptionError(f"{name}= takes a function, not {type(given).__name__}")

    def parts(self, batch: Any) -> tuple[Any, Any]:
        """Return a batch as a component gets it: inputs and targets.

        A pair of tensors is itself. Otherwise each part is a tensor or a :class:`TreeBatch`; both are the whole batch
        if it is no pair, or if the user's function takes it whole.

        Raises:
            OptionError: If the samples of the batch cannot be counted, or no loss can be computed from it.
        """
        _require_dense(batch)
        if self.function is None and _is_pair(batch):
            inputs, targets = batch
            tensors = isinstance(inputs, Tensor) and isinstance(targets, Tensor)
            if tensors and inputs.ndim and targets.ndim and len(inputs) == len(targets):
                return inputs, targets
            pair = inputs, targets
            layout = layout_of(pair)
            first: Any = inputs if _is_samples(inputs) else TreeBatch(pair, layout, 0)
            return first, targets if _is_samples(targets) else TreeBatch(pair, layout, 1)
        if self.function is None and not _keywords(batch):
            what = "a tensor alone" if isinstance(batch, Tensor) else f"{type(batch).__name__}"
            if isinstance(batch, tuple | list):
                what += f" of {len(batch)}"
            raise OptionError(
                f"batches hold something else than pairs (inputs, targets) or mappings, {what}: pass {_SHOWN}"
            )
        whole = TreeBatch(batch, layout_of(batch))
        return whole, whole

    def run(self, model: nn.Module, inputs: Any, who: str) -> Any:
        """Run the network without a loss and return what it returns: the way to show its structure and activity."""
        if isinstance(inputs, TreeBatch) and self.function is not None:
            seen: list[Any] = []
            with model.register_forward_hook(lambda _, __, outputs: seen.append(outputs)):
                self._call_function(model, inputs, who)
            if not seen:
                raise OptionError(
                    f"{who}: the objective never calls {type(model).__name__} itself, so its outputs cannot be seen"
                )
            return seen[0]
        with _model_errors(model, inputs, who):
            if not isinstance(inputs, TreeBatch):
                return model(inputs)
            keywords = _keywords(inputs.value)
            return model(**keywords) if keywords else model(inputs.value)

    def arguments(self, model: nn.Module, inputs: Any, who: str) -> Arguments:
        """Return the arguments with which the network is called on a batch."""
        seen: list[Arguments] = []
        with model.register_forward_pre_hook(lambda _, args, kwargs: seen.append((args, kwargs)), with_kwargs=True):
            self.run(model, inputs, who)
        args, kwargs = seen[0]
        return args, dict(kwargs)

    def outputs(self, raw: Any) -> Any:
        """Return the tensor among what the model returns: by ``outputs=``, itself, or its ``logits``."""
        if self.select is not None:
            return self.select(raw)
        return raw if isinstance(raw, Tensor) else getattr(raw, "logits", raw)

    def evaluate(self, model: nn.Module, inputs: Any, targets: Any, loss: Loss | None, who: str) -> CountedLoss:
        """Return the loss of a batch and what it averages over.

        Args:
            model: The network.
            inputs: The inputs, as :meth:`parts` gives them.
            targets: The targets, likewise. Other targets for a batch that is no pair mean cross-entropy with them.
            loss: A component's loss of (outputs, targets), in place of the user's.
            who: The component's name in messages.
        """
        whole = isinstance(inputs, TreeBatch) and inputs.part is None
        if whole and loss is None and isinstance(targets, Tensor):
            loss = cross_entropy
        given = targets.value if isinstance(targets, TreeBatch) else targets
        if whole and loss is None and self.function is not None:
            with LossObserver() as seen:
                value = self._call_function(model, inputs, who)
            return _counted(value, seen, len(inputs))
        if whole and loss is None and self.loss is None:
            with LossObserver() as seen:
                value = _own_loss(self.run(model, inputs, who), model, inputs)
            return _counted(value, seen, len(inputs))
        raw = self.run(model, inputs, who)
        outputs = raw if loss is None and self.loss is not None else self._tensor(raw, model)
        with LossObserver() as seen:
            try:
                value = (loss or self.loss or cross_entropy)(outputs, given)
            except ForgetkitError:
                raise
            except Exception as error:  # the user's function may raise anything
                raise OptionError(
                    f"the loss cannot take outputs {_form(outputs)} and targets {_form(given)} ({first_line(error)}): "
                    "pass a loss= that can"
                ) from error
        return _counted(value, seen, len(inputs))

    def _tensor(self, raw: Any, model: nn.Module) -> Any:
        try:
            outputs = self.outputs(raw)
        except Exception as error:  # the user's function may raise anything
            raise OptionError(
                f"outputs= fails on what {type(model).__name__} returns, {_form(raw)} ({first_line(error)}): let it "
                "take a tensor out of that"
            ) from error
        if not isinstance(outputs, Tensor):
            raise OptionError(
                f"{type(model).__name__} returns {type(raw).__name__}, not a tensor: pass outputs=, which takes the "
                f"tensor out of it, or {_SHOWN}"
            )
        return outputs

    def _call_function(self, model: nn.Module, inputs: TreeBatch, who: str) -> Any:
        if self.function is None:
            raise OptionError("there is no objective to call")
        with _model_errors(model, inputs, who, "the objective"):
            return self.function(model, inputs.value)


def _require_dense(batch: Any) -> None:
    for leaf in tree_leaves(batch):
        if isinstance(leaf, Tensor) and leaf.layout != torch.strided:
            raise OptionError(
                f"a batch holds a tensor of layout {leaf.layout}, whose samples cannot be cut: make it dense with "
                "to_dense(), or to_padded_tensor() if it is nested"
            )


@contextmanager
def _model_errors(model: nn.Module, inputs: Any, who: str, called: str | None = None) -> Iterator[None]:
    """Turn any error of a network, or of the function that calls it, into one line."""
    try:
        with translate_oom():
            yield
    except ForgetkitError:
        raise
    except Exception as error:  # a model's forward may raise anything
        tree = isinstance(inputs, TreeBatch)
        on = f"a batch {_form(inputs)}" if tree else f"inputs of shape {_form(inputs)}"
        what = f"{who}: {called or type(model).__name__} fails on {on}"
        if mixes_samples(model) and len(inputs) == 1:
            raise OptionError(
                f"{what}: in train mode batch normalisation needs two samples in each batch, and this one holds a "
                "single one: change the number of scoring samples or the batch size, or score in eval mode"
            ) from error
        mode = "train" if model.training else "eval"
        remedy = f"; if the model is called in another way, pass {_SHOWN}" if tree and called is None else ""
        kind = OptionError if tree else ComponentError
        raise kind(f"{what} in {mode} mode: {first_line(error)}{remedy}") from error


def mixes_samples(model: nn.Module) -> bool:
    """Whether batch normalisation makes a sample's outputs depend on the others in its batch."""
    return any(isinstance(module, _BatchNorm) and module.training for module in model.modules())


def move_parts(inputs: Any, targets: Any, device: torch.device, dtype: torch.dtype) -> tuple[Any, Any]:
    """Return copies on ``device``, with which a component cannot write to the caller's data; cast the inputs."""
    moved = copy_part(inputs, device, dtype)
    if targets is inputs:
        return moved, moved
    return moved, copy_part(targets, device, None)


def copy_part(part: Any, device: torch.device, dtype: torch.dtype | None) -> Any:
    """Return a copy of inputs or targets on ``device``, cast to ``dtype``."""
    if isinstance(part, TreeBatch):
        return dataclasses.replace(part, tree=copy_to(part.tree, device, dtype))
    return copy_to(part, device, dtype)


def _own_loss(outputs: Any, model: nn.Module, inputs: TreeBatch) -> Any:
    found = outputs.get("loss") if isinstance(outputs, Mapping) else getattr(outputs, "loss", None)
    if found is None:
        raise OptionError(
            f"{type(model).__name__} returns no loss for a batch {_form(inputs)}: put labels into the batch, or pass "
            f"{_SHOWN}"
        )
    return found


def _counted(value: Any, seen: LossObserver, samples: int) -> CountedLoss:
    weight = None
    if isinstance(value, tuple) and len(value) == 2:
        value, weight = value
    if isinstance(value, Mapping):
        raise OptionError(
            "the loss of a batch is a mapping of losses; return their sum: "
            "objective=lambda model, batch: sum(model(*batch).values())"
        )
    if not isinstance(value, Tensor):
        raise OptionError(f"the loss of a batch is {type(value).__name__}; give a tensor with one number")
    if value.ndim:
        raise OptionError(f"the loss of a batch has shape {tuple(value.shape)}; give its mean, one number")
    if weight is None:
        return seen.counted(value, samples)
    if isinstance(weight, Tensor):
        if weight.ndim:
            raise OptionError(f"the weight of a batch's loss has shape {tuple(weight.shape)}; give one number")
        return CountedLoss(value, weight.detach())
    if isinstance(weight, bool) or not isinstance(weight, int | float):
        raise OptionError(f"the weight of a batch's loss is {type(weight).__name__}; give one number")
    return CountedLoss(value, float(weight))


def _is_pair(batch: Any) -> bool:
    return isinstance(batch, tuple | list) and len(batch) == 2


def _is_samples(part: Any) -> bool:
    return isinstance(part, Tensor) and part.ndim > 0


def _keywords(value: Any) -> dict[str, Any]:
    """Return the keyword arguments that a mapping or dataclass stands for."""
    if isinstance(value, Mapping):
        return dict(value)
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        fields = ((field.name, getattr(value, field.name)) for field in dataclasses.fields(value))
        return {name: item for name, item in fields if item is not None}
    return {}


def _form(value: Any) -> str:
    """Describe a value for a message: a tensor by its shape, a batch by its keys."""
    if isinstance(value, TreeBatch):
        return _form(value.value)
    if isinstance(value, Tensor):
        return str(tuple(value.shape))
    keywords = _keywords(value)
    if keywords:
        return f"{type(value).__name__} ({', '.join(map(str, keywords))})"
    return type(value).__name__
