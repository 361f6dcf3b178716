"""The network: a builder's, with the normalisation by channel inside."""

from __future__ import annotations

import copy
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.nn.modules.module import register_module_parameter_registration_hook

from forgetkit.contracts import Inputs, ModelBuilder, component_name, source_file
from forgetkit.data.batches import SamplePool
from forgetkit.errors import ComponentError, ConfigError, InsufficientMemoryError
from forgetkit.seeding import Seeds, seeded_rng
from forgetkit.storage import InitialWeights
from forgetkit.system import memory
from forgetkit.system.memory import translate_oom
from forgetkit.system.torch_settings import settings_restored
from forgetkit.unlearning.integrity import component_call, error_location, hooks_on

_OURS = ("forgetkit", "torch", "torchvision")

_SHOWN = 3
"""Names in a message."""

_MOST_TENSORS = 20_000
"""Parameters of a network, each a tensor: the row of a mega-batch names them all and would take 12 MB."""


class Normalize(nn.Module):
    """(x − mean) / std by channel. Inside the model, so that noise and attacks act on pixels in [0, 1]."""

    mean: Tensor
    std: Tensor

    def __init__(self, inputs: Inputs) -> None:
        super().__init__()
        shape = (1, -1, *([1] * (len(inputs.shape) - 1)))
        self.register_buffer("mean", torch.tensor(inputs.mean).view(shape))
        self.register_buffer("std", torch.tensor(inputs.std).view(shape))

    def forward(self, x: Tensor) -> Tensor:
        """Same shape as ``x``."""
        return (x - self.mean) / self.std


def measure_normalization(pool: SamplePool, classes: int) -> Inputs:
    """Mean and standard deviation by channel over ``pool``; a constant channel gets 1."""
    count, total, square = 0, torch.zeros(()).double(), torch.zeros(()).double()
    for inputs, _ in pool.in_order(pool.at_most(1024)):
        count += len(inputs) * inputs[0, 0].numel()
        sums, squares = _sums(inputs)
        total, square = total + sums, square + squares
    mean = total / count
    std = (square / count - mean.square()).clamp_min(0).sqrt()
    std = torch.where(std < 1e-4, torch.ones_like(std), std)
    return Inputs(tuple(pool.inputs.shape[1:]), classes, tuple(mean.tolist()), tuple(std.tolist()))


def _sums(inputs: Tensor) -> tuple[Tensor, Tensor]:
    """By channel, of the values and of their squares; the copies this takes are gone when the next piece is read."""
    by_channel = inputs.double().transpose(0, 1).flatten(1)
    return by_channel.sum(1).cpu(), by_channel.square_().sum(1).cpu()


def build_network(builder: ModelBuilder, inputs: Inputs, seeds: Seeds, init: InitialWeights | None = None) -> nn.Module:
    """Build, under the random stream ``"init"``; on the CPU, so that a device changes nothing.

    The weights in ``init``, if any, are loaded afterwards.
    """
    with seeded_rng(seeds.number("init")):
        model = build_model(builder, inputs)
    if init is not None:
        load(model, init, f"the model {type(builder).__name__}")
    return model


def copy_network(network: nn.Module, build: Callable[[], nn.Module]) -> nn.Module:
    """Copy a network that was just built, or call ``build`` again if it cannot be copied.

    A network with hooks is not copied, since a hook may refer to the modules that it was made for. Old-style weight
    normalisation is such a hook.
    """
    if not hooks_on(network) and not any(_has_hooks(parameter) for parameter in network.parameters()):
        try:
            return copy.deepcopy(network)
        except Exception:  # noqa: BLE001 - code of a module may raise anything
            pass
    return build()


def _has_hooks(parameter: nn.Parameter) -> bool:
    return any(getattr(parameter, table, None) for table in ("_backward_hooks", "_post_accumulate_grad_hooks"))


def load(model: nn.Module, init: InitialWeights, model_name: str) -> None:
    """Load ``init`` strictly: all names and shapes are those of the network.

    The file may leave out the normalisation by channel, and the name of the one module around which a builder has put
    it. Raises ``ConfigError`` with what is missing, unexpected or of another shape.
    """
    tensors, own = init.tensors(), model.state_dict()
    normalizes = {name for name, module in model.named_modules() if isinstance(module, Normalize)}
    optional = {name for name in own if name.rpartition(".")[0] in normalizes}
    children = [name for name, _ in model.named_children() if name not in normalizes]
    prefixes = ["", *(f"{name}." for name in children if len(children) == 1)]
    faults: list[Mapping[str, list[str]]] = []
    for prefix in prefixes:
        given = {prefix + name: tensor for name, tensor in tensors.items()}
        faults.append(_mismatches(given, own, optional))
        if not faults[-1]:
            model.load_state_dict({**own, **given})
            return
    fewest = min(faults, key=lambda kinds: sum(map(len, kinds.values())))
    listed = "; ".join(f"{kind} {_join_names(names)}" for kind, names in fewest.items())
    raise ConfigError(f"--init {init.path} does not fit {model_name}: {listed}")


def _mismatches(
    given: Mapping[str, Tensor], own: Mapping[str, Tensor], optional: Collection[str]
) -> dict[str, list[str]]:
    """What keeps ``given`` from being the weights of a network that has ``own``: names, by the kind of fault."""
    missing = [name for name in own if name not in given and name not in optional]
    unexpected = [name for name in given if name not in own]
    shapes = [
        f"{name} of shape {tuple(given[name].shape)}, not {tuple(own[name].shape)}"
        for name in given
        if name in own and given[name].shape != own[name].shape
    ]
    integers = [
        f"no floating-point numbers for {name}"
        for name in given
        if name in own and own[name].is_floating_point() and not given[name].is_floating_point()
    ]
    kinds = {"missing": missing, "unexpected": unexpected, "it has": shapes + integers}
    return {kind: names for kind, names in kinds.items() if names}


def _join_names(names: Sequence[str]) -> str:
    more = f" and {len(names) - _SHOWN} more" if len(names) > _SHOWN else ""
    return ", ".join(names[:_SHOWN]) + more


def build_model(builder: ModelBuilder, inputs: Inputs) -> nn.Module:
    """The builder's network, tried on two samples, which also completes lazy layers.

    Draws from the global random state. Raises ``ConfigError`` where it does not fit the data.
    """
    model_name = component_name(builder)
    with component_call(f"the model {model_name}"), _bounded(f"--model {model_name}"):
        model = builder.build(inputs, Normalize(inputs))
    if not isinstance(model, nn.Module):
        raise ComponentError(f"{model_name} built {type(model).__name__}, not a torch.nn.Module")
    model_name = _name_with_file(model_name, model)
    was_training = model.training
    model.eval()
    try:
        with settings_restored(f"the model {model_name}"), torch.no_grad(), translate_oom():
            outputs = model(torch.zeros(2, *inputs.shape))
    except InsufficientMemoryError:
        raise
    except Exception as error:  # a plugin's forward may raise anything
        reason = (str(error).strip() or type(error).__name__).splitlines()[0]
        where = f" in {error_location(error)}" if "(" in model_name else ""  # not in our own code
        raise ConfigError(
            f"the model {model_name} cannot take samples of shape {inputs.shape}: {reason}{where}"
        ) from error
    model.train(was_training)
    if not isinstance(outputs, Tensor) or tuple(outputs.shape) != (2, inputs.classes):
        if not isinstance(outputs, Tensor):
            raise ConfigError(
                f"the model {model_name} returns {type(outputs).__name__} and no tensor of logits: let its forward() "
                f"return those alone, ({inputs.classes},) for a sample"
            )
        raise ConfigError(
            f"the model {model_name} gives outputs of shape {tuple(outputs.shape[1:])} for a sample; "
            f"{inputs.classes} classes need ({inputs.classes},)"
        )
    return model


@contextmanager
def _bounded(model_name: str) -> Iterator[None]:
    """Raise ``ConfigError`` once the parameters of a network that is built inside are larger than memory.

    Parameters are registered before values are drawn for them, and memory that holds no values takes no room.
    """
    left, count, size = memory.available(), 0, 0

    def add(module: nn.Module, name: str, parameter: nn.Parameter | None) -> None:
        nonlocal count, size
        if parameter is None or isinstance(parameter, nn.parameter.UninitializedParameter):
            return
        count, size = count + 1, size + parameter.nbytes
        if count > _MOST_TENSORS:
            raise ConfigError(
                f"{model_name} has more than {_MOST_TENSORS:,} layers with parameters: choose a smaller depth"
            )
        if left is not None and size > left:
            raise MemoryError

    handle = register_module_parameter_registration_hook(add)
    try:
        yield
    except Exception as error:
        if memory.shortage(error) is None:
            raise
        room = "" if left is None else f" ({left / 2**30:.1f} GiB left)"
        raise ConfigError(f"{model_name} does not fit into memory{room}: choose smaller options for it") from error
    finally:
        handle.remove()


def _name_with_file(model_name: str, model: nn.Module) -> str:
    """The name of a model with the file of its code, where that is not ours or torch's and the name does not say."""
    foreign = (type(part) for part in model.modules() if type(part).__module__.partition(".")[0] not in _OURS)
    file = source_file(next(foreign, nn.Module)) if "(" not in model_name else ""
    return f"{model_name} ({file})" if file and not Path(file).is_relative_to(Path(nn.__file__).parent) else model_name
