"""Fresh values of one layer at a time, drawn by the layer's own ``reset_parameters``."""

from __future__ import annotations

import copy
from collections.abc import Callable, Collection, Iterable, Iterator
from contextlib import contextmanager

import torch
from torch import Tensor, nn

from forgetkit.errors import ComponentError
from forgetkit.seeding import Seeds, seeded_rng
from forgetkit.system.torch_settings import scoring_settings, settings_restored
from forgetkit.unlearning.initialization import RESETS, InitializationCode
from forgetkit.unlearning.reparametrization import computed_weights, hook_results, sources_of, strip
from forgetkit.unlearning.structure import aliases, owners
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
        self._modules = dict(model.named_modules(remove_duplicate=False))
        self._owners = owners(model)
        self._computed: dict[str, str] = {
            _prefix(path) + source: path
            for path, module in self._modules.items()
            for weight in computed_weights(module)
            for source in weight.sources
        }
        self._aliases = aliases(model)
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
            paths = [path, *(other.rpartition(".")[0] for other in self._aliases.get(name, ()))]
            around = (found for at in paths for _, found in self._code.containers(at) if not found.resets)
            foreign = next(around, None) or self._code.own(path, name.removeprefix(_prefix(path)))
        if foreign is not None:
            return (
                f"no fresh value for '{name}': {foreign.function} of {foreign.cls.__name__} initialises it, so "
                f"reset_parameters() of {type(module).__name__} would draw from another distribution; {self._remedy}, "
                'or fresh="module" to draw by reset_parameters() all the same'
            )
        if self._code is not None and (other := self._tied_otherwise(name, module)) is not None:
            kinds = f"{type(module).__name__} or of {type(self._modules[other.rpartition('.')[0]]).__name__}"
            return (
                f"no fresh value for '{name}': it is '{other}' too, and whether the network began with the values of "
                f"{kinds} cannot be seen; {self._remedy}"
            )
        if not can_reset(module):
            return f"no fresh value for '{name}': {type(module).__name__} has no reset_parameters(); {self._remedy}"
        return None

    def _tied_otherwise(self, name: str, module: nn.Module) -> str | None:
        """Another name of the same tensor, in a module of another class."""
        others = (other for other in self._aliases.get(name, ()) if name not in self._computed)
        return next(
            (other for other in others if type(self._modules[other.rpartition(".")[0]]) is not type(module)), None
        )

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
                inside = [other for other in self._owners if f"{self._path(other)}.".startswith(_prefix(container))]
                self._containers[container] = self._reset(container, inside, "fresh", container)
            value = self._containers[container][name]
        else:
            # What gives one weight together, such as a norm and a direction, comes from one draw.
            value = self._reset(path, [name], "fresh", path if name in self._computed else name)[name]
        if any_nan(value):
            how = "reset_parameters()" if self._initialise is None else "the model's initialise()"
            kind = type(self._modules[path]).__name__
            raise ComponentError(f"no fresh value for '{name}': {how} of {kind} leaves it as it is; {self._remedy}")
        return value

    def _path(self, name: str) -> str:
        """The module whose ``reset_parameters`` is in charge: the owner, or the one whose weight ``name`` gives."""
        if name in self._computed:
            return self._computed[name]
        return name.removesuffix(self._owners[name].local).removesuffix(".")

    def _container(self, path: str) -> str:
        """The outermost module around whose ``reset_parameters`` initialises this one too; the module if none does."""
        containers = self._code.containers(path) if self._code is not None and self._initialise is None else []
        return containers[0][0] if containers else path

    def _reset(self, path: str, names: Collection[str], *stream: str) -> dict[str, Tensor]:
        """The values of a copy of one module that initialises itself; each of ``names`` must get one."""
        with self._copied(path, names, self._seeds.number(*stream)) as module:
            computed = strip(module)
            if self._initialise is not None:
                self._initialise(module)
            else:
                inside = module.modules() if len(names) > 1 else (module,)
                for part in reversed(list(inside)):  # from the inside out, as constructors do
                    if can_reset(part):
                        reset(part)
            values: dict[str, Tensor] = dict(module.named_parameters())
            for local, weight in computed.items():
                values.update(sources_of(local, weight, values.pop(local)))
            values.update(module.named_buffers())
        return {_prefix(path) + local: value.detach() for local, value in values.items()}

    @contextmanager
    def _copied(self, path: str, names: Iterable[str], seed: int) -> Iterator[nn.Module]:
        """A copy of a module on the CPU, with NaN for parameters: old values are not copied, nor taken for fresh."""
        original = self._modules[path]
        kind = type(original).__name__
        emptied = {name: self._tensor(name) for name in names if name not in self._computed}
        memo: dict[int, Tensor] = {id(p): _nan_like(p) for p in emptied.values() if type(p) is nn.Parameter}
        memo |= {id(tensor): tensor.detach().clone() for tensor in hook_results(original)}
        # Of a model in parts this is a twin, whose other tensors hold nothing either.
        memo |= {id(p): _nan_like(p) for p in original.parameters() if p.is_meta and id(p) not in memo}
        try:
            module = copy.deepcopy(original, memo).cpu().float()
        except Exception as error:  # a module may hold anything, and refuse in its own way
            name = next(iter(names))
            raise ComponentError(f"no fresh value for '{name}': {kind} cannot be copied; {self._remedy}") from error
        with scoring_settings(FRESH_DTYPE), settings_restored(f"the module {kind}"), seeded_rng(seed), torch.no_grad():
            for name, parameter in emptied.items():
                if isinstance(parameter, nn.Parameter) and type(parameter) is not nn.Parameter:
                    module.get_parameter(name.removeprefix(path).removeprefix(".")).fill_(torch.nan)
            yield module

    def _tensor(self, name: str) -> Tensor:
        owner = self._owners[name]
        tensor: Tensor = getattr(owner.module, owner.local)
        return tensor


def _prefix(path: str) -> str:
    return f"{path}." if path else ""


def _nan_like(parameter: Tensor) -> nn.Parameter:
    """Return NaN in the shape and memory format of ``parameter``, float32 (or complex) on the CPU."""
    dtype = parameter.dtype if parameter.is_complex() else FRESH_DTYPE
    value = torch.empty_like(parameter, dtype=dtype, device="cpu", requires_grad=False)
    (torch.view_as_real(value) if value.is_complex() else value).fill_(torch.nan)
    return nn.Parameter(value, requires_grad=parameter.requires_grad)
