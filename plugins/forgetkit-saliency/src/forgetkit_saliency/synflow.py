"""SynFlow: synaptic flow."""

from __future__ import annotations

import copy
import math
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Annotated, Any, ClassVar

import torch
from pydantic import Field
from torch import Tensor, nn

from forgetkit.contracts import Probe
from forgetkit.errors import OptionError

_NORMS = (
    nn.BatchNorm1d,
    nn.BatchNorm2d,
    nn.BatchNorm3d,
    nn.SyncBatchNorm,
    nn.InstanceNorm1d,
    nn.InstanceNorm2d,
    nn.InstanceNorm3d,
    nn.GroupNorm,
    nn.LocalResponseNorm,
    nn.LayerNorm,
    nn.RMSNorm,
)


@dataclass(frozen=True)
class Synflow:
    """The fraction of the network's flow that passes through an entry; needs no data.

    Formula: s = |θ| · ∂R/∂|θ| / R, with R the sum of the outputs if every parameter is replaced by its magnitude,
    normalisation is the identity, and the first layer reads ones. Without biases, in a network of ReLUs, the
    scores of each layer that all flow passes through sum to one. An entry of a normalisation layer scores the flow
    through its channel.

    rounds: how many rounds of scoring. Before each round but the first, an equal fraction of the remaining entries, the
        lowest, is removed; s is then an entry's rank in the order of removal.
    keep: the fraction of entries that remains after the last round, one minus the fraction to reset; needs two rounds.

    Cost: one forward and one backward pass over two samples, in float64, for each round.

    Source: Tanaka et al., 2020, who take 100 rounds.
    """

    rounds: Annotated[int, Field(ge=1)] = 1
    keep: Annotated[float, Field(gt=0, lt=1)] | None = None

    needs_data: ClassVar[bool] = False

    def __post_init__(self) -> None:
        if self.rounds == 1 and self.keep is not None:
            raise OptionError(f"synflow: keep={self.keep} would be ignored in a single round: leave it out")
        if self.rounds > 1 and self.keep is None:
            raise OptionError(f"synflow: {self.rounds} rounds need the fraction that remains, such as keep=0.8")

    def score(self, probe: Probe) -> Mapping[str, Tensor]:
        """Return the fraction of the flow, or the rank in the order of removal."""
        with _positive(probe) as positive:
            if self.keep is None:
                return _flow(probe, positive)
            return _split(self._places(probe, positive, self.keep).to(torch.float32), probe.targets)

    def _places(self, probe: Probe, positive: Mapping[str, Tensor], keep: float) -> Tensor:
        """Each entry's rank, from zero: by the round of its removal, then by its flow in that round."""
        flow = _vector(_flow(probe, positive))
        goes = torch.full_like(flow, self.rounds, dtype=torch.int64)
        for number in range(1, self.rounds):
            gone = len(goes) - round(len(goes) * keep ** (number / self.rounds))
            ascending = torch.where(goes == self.rounds, flow, torch.inf).sort(stable=True).indices
            goes[ascending[: gone - int((goes < self.rounds).sum())]] = number
            left = goes == self.rounds
            thinned = {name: positive[name] * mask for name, mask in _split(left, probe.targets).items()}
            flow = torch.where(left, _vector(_flow(probe, {**positive, **thinned})), flow)
        by_flow = flow.unique(return_inverse=True)[1]
        places: Tensor = (goes * len(goes) + by_flow).unique(return_inverse=True)[1]
        return places


def _flow(probe: Probe, values: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Each entry's fraction of the flow, with ``values`` in place of the network's own."""
    blank = torch.zeros(2, *probe.input_shape, dtype=torch.float64, device=probe.device)  # the hook replaces it by ones
    total = float(probe.outputs(blank, at=values).sum())
    if not 0 <= total < math.inf:
        raise OptionError(f"synflow: the flow through this network is {total}, no finite number above zero")
    slopes = probe.grads(blank, blank, loss=_sum, at=values)
    return {
        name: (values[name] * slope / (total or 1.0)).to(target)
        for (name, slope), target in zip(slopes.items(), probe.targets.values(), strict=True)
    }


def _sum(outputs: Tensor, targets: Tensor) -> Tensor:
    return outputs.sum()


@contextmanager
def _positive(probe: Probe) -> Iterator[dict[str, Tensor]]:
    """Hook the network for measuring flow; give the magnitudes of its tensors, in float64."""
    model = probe.module("")
    tensors = [*model.named_parameters(), *model.named_buffers()]
    values = {name: t.detach().abs().double() for name, t in tensors if t.is_floating_point()}
    handles = [probe.module(probe.layers[0].name).register_forward_pre_hook(_reads_ones, with_kwargs=True)]
    for path, module in model.named_modules():
        if isinstance(module, _NORMS):
            identity = _Identity(copy.deepcopy(module).double().eval())
            handles.append(module.register_forward_hook(identity, with_kwargs=True))
            own = [f"{path}.{name}" if path else name for name, _ in module.named_parameters(recurse=False)]
            values.update({name: torch.ones_like(values[name]) for name in own if name in values})
    try:
        yield values
    finally:
        for handle in handles:
            handle.remove()


def _reads_ones(
    module: nn.Module, arguments: tuple[Any, ...], named: dict[str, Any]
) -> tuple[tuple[Any, ...], dict[str, Any]]:
    if arguments:
        return (torch.ones_like(arguments[0]), *arguments[1:]), named
    first, value = next(iter(named.items()))
    return arguments, {**named, first: torch.ones_like(value)}


@dataclass(frozen=True)
class _Identity:
    """A forward hook that replaces a normalisation by its input times its scale and its shift.

    Both are ones, so that their slopes are the flow through the channel. ``copied`` is a copy of the module without
    the hook, in float64.
    """

    copied: nn.Module

    def __call__(self, module: nn.Module, arguments: tuple[Any, ...], named: dict[str, Any], output: Any) -> Tensor:
        value: Tensor = next(iter((*arguments, *named.values())))
        for factor in module.parameters(recurse=False):
            behind = value.ndim - factor.ndim - self._dim(value.shape, factor.shape)
            value = value * factor.view(*factor.shape, *[1] * behind)
        return value

    @torch.no_grad()
    def _dim(self, shape: torch.Size, own: torch.Size) -> int:
        """The dimension of a map of ``shape`` that the module's parameters scale.

        The class does not tell: a LayerNorm over channels permutes its input first. So the first entries of the
        parameters are changed: the output changes at the first position of that dimension alone.
        """
        dims = [dim for dim in range(1, len(shape) - len(own) + 1) if shape[dim : dim + len(own)] == own]
        if len(dims) > 1:
            before, after = (self._output(shape, first) for first in (1.0, 2.0))
            places = (before != after).nonzero()
            dims = [dim for dim in dims if not bool(places[:, dim : dim + len(own)].any())]
        if not dims:
            kind = type(self.copied).__name__
            raise OptionError(
                f"synflow: cannot tell what {kind} of {tuple(own)} scales in an input of "
                f"{tuple(shape)}: use another criterion"
            )
        return dims[0]

    def _output(self, shape: torch.Size, first: float) -> Tensor:
        """The module's output for an input without ties, with ``first`` in the first entry of its parameters."""
        for parameter in self.copied.parameters(recurse=False):
            parameter.fill_(1.0)
            parameter[(0,) * parameter.ndim] = first
        place = next(self.copied.parameters(recurse=False))
        value: Tensor = self.copied.forward(torch.arange(math.prod(shape)).to(place).sin().view(shape))
        return value


def _vector(tensors: Mapping[str, Tensor]) -> Tensor:
    return torch.cat([tensor.flatten() for tensor in tensors.values()])


def _split(vector: Tensor, like: Mapping[str, Tensor]) -> dict[str, Tensor]:
    parts = vector.split([tensor.numel() for tensor in like.values()])
    return {name: part.view(tensor.shape) for (name, tensor), part in zip(like.items(), parts, strict=True)}
