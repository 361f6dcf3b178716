"""Fresh values of one layer at a time, drawn by the layer's own ``reset_parameters``."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import torch
from torch import Tensor, nn

from forgetkit.errors import ComponentError
from forgetkit.seeding import Seeds, seeded_rng
from forgetkit.system.torch_settings import scoring_settings, settings_restored
from forgetkit.unlearning.initialization import RESETS, InitializationCode
from forgetkit.unlearning.reparametrization import computed_tensors, reparametrized, reset_reparametrized
from forgetkit.unlearning.structure import owners
from forgetkit.unlearning.tensor_checks import any_nan

Initialise = Callable[[nn.Module], None]

FRESH_DTYPE = torch.float32
"""The dtype of every draw: it is the same for a network of any precision and whatever torch's default is."""

_REMEDY = "pass build=, a function that builds the network anew"


def can_reset(module: nn.Module) -> bool:
    """Whether a module can initialise itself."""
    return any(hasattr(module, name) for name in RESETS)


def reset(module: nn.Module) -> None:
    """Let a module that :func:`can_reset` initialise its own parameters."""
    next(getattr(module, name) for name in RESETS if hasattr(module, name))()


class LayerwiseFresh:
    """Initialises a copy of one module at a time, under a random stream of its own name.

    With ``initialise``, the model's builder says how a module is initialised. Without it, the module's own
    ``reset_parameters`` does, and with ``code`` only if no code around the module initialises it otherwise.
    """

    def __init__(
        self,
        model: nn.Module,
        initialise: Initialise | None,
        seeds: Seeds,
        remedy: str = _REMEDY,
        code: InitializationCode | None = None,
    ) -> None:
        self._modules = dict(model.named_modules())
        self._owners = owners(model)
        self._initialise, self._seeds, self._remedy, self._code = initialise, seeds, remedy, code
        self._containers: dict[str, dict[str, Tensor]] = {}

    def refusal(self, name: str) -> str | None:
        """Return why the layer cannot draw ``name`` from the distribution that the network started from, or None."""
        if self._initialise is not None:
            return None
        path = self._path(name)
        module = self._modules[path]
        foreign = None
        if self._code is not None:
            around = (found for _, found in self._code.containers(path) if not found.resets)
            foreign = next(around, None) or self._code.own(path)
        if foreign is not None:
            return (
                f"no fresh value for '{name}': {foreign.function} of {foreign.cls.__name__} initialises it, so "
                f"reset_parameters() of {type(module).__name__} would draw from another distribution; {self._remedy}, "
                'or fresh="module" to draw by reset_parameters() all the same'
            )
        if not can_reset(module):
            return f"no fresh value for '{name}': {type(module).__name__} has no reset_parameters(); {self._remedy}"
        return None

    def source(self, name: str) -> str:
        """Return what draws ``name``, such as ``"reset_parameters of Linear"``."""
        path = self._container(self._path(name))
        how = "initialise" if self._initialise is not None else "reset_parameters"
        return f"{how} of {type(self._modules[path]).__name__}"

    def draw(self, name: str) -> Tensor:
        """Return a fresh value on the CPU, a function of the seed and of the name alone."""
        if (reason := self.refusal(name)) is not None:
            raise ComponentError(reason)
        path = self._path(name)
        if (container := self._container(path)) != path:
            if container not in self._containers:
                self._containers[container] = self._reset_all(container)
            value = self._containers[container][name]
        else:
            value = self._reset_one(path, name)
        if any_nan(value):
            how = "reset_parameters()" if self._initialise is None else "the model's initialise()"
            kind = type(self._modules[path]).__name__
            raise ComponentError(f"no fresh value for '{name}': {how} of {kind} leaves it as it is; {self._remedy}")
        return value

    def _path(self, name: str) -> str:
        """The module whose ``reset_parameters`` is in charge: the owner, or the one that the owner parametrises."""
        owner = self._owners[name]
        path = name.removesuffix(owner.local).removesuffix(".")
        return path.partition(".parametrizations.")[0] if reparametrized(self._modules, path) else path

    def _container(self, path: str) -> str:
        """The outermost module around whose ``reset_parameters`` initialises this one too; the module if none does."""
        containers = self._code.containers(path) if self._code is not None and self._initialise is None else []
        return containers[0][0] if containers else path

    def _reset_one(self, path: str, name: str) -> Tensor:
        local = name.removeprefix(path).removeprefix(".")
        with self._copied(path, name, [name], self._seeds.number("fresh", name)) as module:
            if self._initialise is not None:
                self._initialise(module)
            else:
                reset_reparametrized(module, reset)
        return {**dict(module.named_parameters()), **dict(module.named_buffers())}[local].detach()

    def _reset_all(self, path: str) -> dict[str, Tensor]:
        """Every value of a container, reset from the inside out, as its constructor does."""
        prefix = f"{path}." if path else ""
        inside = [name for name in self._owners if name.startswith(prefix)]
        with self._copied(path, inside[0], inside, self._seeds.number("fresh", path)) as container:
            for module in reversed(list(container.modules())):
                if can_reset(module):
                    reset_reparametrized(module, reset)
        values = {**dict(container.named_parameters()), **dict(container.named_buffers())}
        return {prefix + local: value.detach() for local, value in values.items()}

    @contextmanager
    def _copied(self, path: str, name: str, emptied: list[str], seed: int) -> Iterator[nn.Module]:
        """A copy of a module on the CPU, with NaN for parameters: old values are not copied, nor taken for fresh."""
        original = self._modules[path]
        kind = type(original).__name__
        parameters = {full: self._tensor(full) for full in emptied}
        memo: dict[int, Tensor] = {id(p): _nan_like(p) for p in parameters.values() if type(p) is nn.Parameter}
        memo |= {id(tensor): tensor.detach().clone() for tensor in computed_tensors(original)}
        # Of a model in parts this is a twin, whose other tensors hold nothing either.
        memo |= {id(p): _nan_like(p) for p in original.parameters() if p.is_meta and id(p) not in memo}
        try:
            module = copy.deepcopy(original, memo).cpu().float()
        except RuntimeError as error:
            raise ComponentError(f"no fresh value for '{name}': {kind} cannot be copied; {self._remedy}") from error
        with scoring_settings(FRESH_DTYPE), settings_restored(f"the module {kind}"), seeded_rng(seed), torch.no_grad():
            for full, parameter in parameters.items():
                if isinstance(parameter, nn.Parameter) and type(parameter) is not nn.Parameter:
                    module.get_parameter(full.removeprefix(path).removeprefix(".")).fill_(torch.nan)
            yield module

    def _tensor(self, name: str) -> Tensor:
        owner = self._owners[name]
        tensor: Tensor = getattr(owner.module, owner.local)
        return tensor


def _nan_like(parameter: Tensor) -> nn.Parameter:
    """Return NaN in the shape and memory format of ``parameter``, float32 (or complex) on the CPU."""
    dtype = parameter.dtype if parameter.is_complex() else FRESH_DTYPE
    value = torch.empty_like(parameter, dtype=dtype, device="cpu", requires_grad=False)
    (torch.view_as_real(value) if value.is_complex() else value).fill_(torch.nan)
    return nn.Parameter(value, requires_grad=parameter.requires_grad)
