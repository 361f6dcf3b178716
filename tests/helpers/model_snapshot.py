"""What scoring may not change in a model."""

from __future__ import annotations

import random
from collections.abc import Iterable
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from helpers.unlearning_networks import CLASSES, images, same_bits, scrambled


class Counting(nn.Module):
    """Puts a new tensor in place of its buffer each time it is called, as moving averages are often written."""

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("calls", torch.zeros(()))
        self.register_buffer("average", torch.zeros(3))
        self.register_buffer("absent", None)

    def forward(self, inputs: Tensor) -> Tensor:
        self.calls = self.calls + 1
        self.average = 0.9 * self.average + 0.1 * inputs.detach().mean((0, 2, 3))
        return inputs + 0.1 * self.average.view(1, -1, 1, 1)


def built() -> nn.Module:
    return nn.Sequential(
        nn.Conv2d(2, 3, 3),
        nn.BatchNorm2d(3),
        nn.ReLU(inplace=True),
        Counting(),
        nn.Conv2d(3, 3, 2, bias=False),
        nn.BatchNorm2d(3, momentum=None),
        nn.Dropout(0.5),
        nn.Flatten(),
        nn.Linear(12, CLASSES),
    )


def mixed() -> nn.Module:
    """A network during training: modes, gradients, frozen parts and hooks of its own."""
    torch.manual_seed(0)
    model = scrambled(built()).train()
    model[5].eval()
    model[0].bias.requires_grad_(False)
    model[5].weight.requires_grad_(False)
    inputs, labels = images(8, seed=9)[0]
    cross_entropy(model(inputs), labels).backward()
    model[8].bias.grad = None
    model[4].register_forward_hook(lambda *_: None)
    model[4].register_forward_pre_hook(lambda *_: None)
    model[8].register_full_backward_hook(lambda *_: None)
    model.register_state_dict_post_hook(lambda *_: None)
    return model


def global_random_state() -> list[Any]:
    algorithm, keys, *rest = np.random.get_state()
    return [torch.get_rng_state().tolist(), random.getstate(), algorithm, keys.tolist(), rest]


class Snapshot:
    """Everything that scoring may not change; ``check`` says what it did."""

    def __init__(self, model: nn.Module) -> None:
        self.model = model
        self.tensors = {n: (t, t.detach().clone()) for n, t in self._state()}
        self.grads = {n: (p.grad, None if p.grad is None else p.grad.clone()) for n, p in model.named_parameters()}
        self.versions = {n: p._version for n, p in model.named_parameters()}
        self.requires_grad = {n: p.requires_grad for n, p in model.named_parameters()}
        self.modes = [module.training for module in model.modules()]
        self.attributes = [self._plain(module) for module in model.modules()]
        self.random = global_random_state()
        self.context = (torch.is_grad_enabled(), torch.is_inference_mode_enabled(), torch.is_autocast_enabled("cpu"))

    def _state(self) -> Iterable[tuple[str, Tensor]]:
        return [*self.model.named_parameters(), *self.model.named_buffers()]

    @staticmethod
    def _plain(module: nn.Module) -> dict[str, Any]:
        """The module's attributes, with a copy of its tables (hooks among them)."""
        return {key: dict(value) if isinstance(value, dict) else value for key, value in vars(module).items()}

    def check(self) -> None:
        assert global_random_state() == self.random, "global random state"
        assert [module.training for module in self.model.modules()] == self.modes, "mode"
        assert {n: p.requires_grad for n, p in self.model.named_parameters()} == self.requires_grad, "requires_grad"
        now = dict(self._state())
        assert now.keys() == self.tensors.keys()
        for name, (tensor, value) in self.tensors.items():
            assert now[name] is tensor, f"{name} is another tensor"
            assert same_bits(tensor, value), f"{name} has changed"
        for name, parameter in self.model.named_parameters():
            grad, value = self.grads[name]
            assert parameter.grad is grad, f"{name}.grad is another"
            assert grad is None or same_bits(grad, value), f"{name}.grad has changed"
            assert parameter._version == self.versions[name], f"{name} was written to"
        for module, before in zip(self.model.modules(), self.attributes, strict=True):
            after = self._plain(module)
            assert after.keys() == before.keys()
            for key, old in before.items():
                if isinstance(old, dict):
                    assert list(after[key].items()) == list(old.items()), key
                else:
                    assert after[key] is old, key
        context = (torch.is_grad_enabled(), torch.is_inference_mode_enabled(), torch.is_autocast_enabled("cpu"))
        assert context == self.context
