"""A criterion that breaks a promise is named; one that only leaves a mess is tidied up after."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from typing import Any

import pytest
import torch
from helpers.model_snapshot import Snapshot, mixed
from helpers.unlearning_networks import CLASSES, convnet, images, mlp, values, vectors
from torch import Tensor, nn

from forgetkit import unlearning
from forgetkit.builtin.reinit.masked import Masked
from forgetkit.contracts import Probe
from forgetkit.errors import ComponentError
from forgetkit.seeding import Seeds
from forgetkit.unlearning.fingerprints import fingerprint

BATCHES = images(4, 4)


class Meddling:
    """A criterion that does something to the model before it gives sound scores."""

    allows_ties = True

    def __init__(self, act: Callable[[Probe], Any]) -> None:
        self.act = act

    def score(self, probe: Probe) -> Mapping[str, Tensor]:
        self.act(probe)
        return probe.zeros()


class MeddlingLater(Mapping[str, Tensor]):
    """The same, only once a score is asked for."""

    allows_ties = True

    def __init__(self, act: Callable[[Probe], Any]) -> None:
        self.act = act

    def score(self, probe: Probe) -> Mapping[str, Tensor]:
        self.probe = probe
        return self

    def __getitem__(self, name: str) -> Tensor:
        act, self.act = self.act, lambda _: None
        act(self.probe)
        return torch.zeros_like(self.probe.targets[name])

    def __iter__(self) -> Iterator[str]:
        return iter(self.probe.targets)

    def __len__(self) -> int:
        return len(self.probe.targets)


class Answering:
    """A criterion that gives what it is told to."""

    def __init__(self, answer: Callable[[Probe], Any]) -> None:
        self.answer = answer

    def score(self, probe: Probe) -> Any:
        return self.answer(probe)


def score(model: nn.Module, criterion: Any) -> dict[str, Tensor]:
    return unlearning.score(model, BATCHES, importance=criterion, seeds=Seeds(0))


def unlearn(model: nn.Module, criterion: Any) -> Any:
    return unlearning.unlearn(model, BATCHES, importance=criterion, reinit=Masked(), seeds=Seeds(0))


def in_place(p: nn.Parameter, _: Probe) -> None:
    with torch.no_grad():
        p.mul_(2)


def through_data(p: nn.Parameter, _: Probe) -> None:
    p.data.add_(1)


def assigned_data(p: nn.Parameter, _: Probe) -> None:
    p.data = p.data + 1


def copied(p: nn.Parameter, _: Probe) -> None:
    with torch.no_grad():
        p.copy_(torch.zeros_like(p))


def one_entry(p: nn.Parameter, _: Probe) -> None:
    p.data.view(-1)[-1] += 1


def one_bit(p: nn.Parameter, _: Probe) -> None:
    p.data.view(torch.int32).view(-1)[0] ^= 1


def swapped(p: nn.Parameter, _: Probe) -> None:
    flat = p.data.view(-1)
    flat[[0, 1]] = flat[[1, 0]]


def negated(p: nn.Parameter, _: Probe) -> None:
    p.data.neg_()


def not_a_number(p: nn.Parameter, _: Probe) -> None:
    p.data.fill_(torch.nan)


def through_the_probe(_: nn.Parameter, probe: Probe) -> None:
    probe.targets["5.bias"].add_(1)


def stepped(p: nn.Parameter, probe: Probe) -> None:
    p.grad = torch.ones_like(p)
    torch.optim.SGD([p], lr=0.1).step()


WAYS = [
    in_place, through_data, assigned_data, copied, one_entry, one_bit, swapped, negated, not_a_number,
    through_the_probe, stepped,
]  # fmt: skip


@pytest.mark.parametrize("call", [score, unlearn])
@pytest.mark.parametrize("when", [Meddling, MeddlingLater])
@pytest.mark.parametrize("way", WAYS)
def test_writing_to_a_parameter_is_noticed(way, when, call):
    model = convnet()
    with torch.no_grad():
        model[5].bias.copy_(torch.tensor([1.0, -1.0, -1.0, 1.0]))  # on which two plain sums see no change of sign
    criterion = when(lambda probe: way(model[5].bias, probe))
    with pytest.raises(ComponentError) as caught:
        call(model, criterion)
    message = str(caught.value)
    assert when.__name__ in message
    assert "'5.bias'" in message
    assert "\n" not in message


def test_writing_to_a_frozen_parameter():
    model = convnet()
    model[0].weight.requires_grad_(False)
    with pytest.raises(ComponentError, match=r"Meddling.*'0\.weight'"):
        score(model, Meddling(lambda _: model[0].weight.data.add_(1)))


def test_a_broken_criterion_changes_no_parameter():
    """It is noticed before anything is forgotten."""
    model = convnet()
    before = values(model)
    with pytest.raises(ComponentError):
        unlearn(model, Answering(lambda probe: {n: t * torch.nan for n, t in probe.zeros().items()}))
    assert all(torch.equal(value, before[name]) for name, value in values(model).items())


def without(probe: Probe, name: str) -> dict[str, Tensor]:
    return {n: t for n, t in probe.zeros().items() if n != name}


def with_bias(probe: Probe, bias: Any) -> dict[str, Any]:
    return {**probe.zeros(), "5.bias": bias}


ANSWERS: dict[str, tuple[Callable[[Probe], Any], str]] = {
    "NaN": (lambda p: with_bias(p, torch.tensor([0.0, 1.0, torch.nan, 2.0])), "'5.bias'"),
    "infinity": (lambda p: with_bias(p, torch.tensor([0.0, 1.0, torch.inf, 2.0])), "'5.bias'"),
    "minus infinity": (lambda p: with_bias(p, torch.full((4,), -torch.inf)), "'5.bias'"),
    "another shape": (lambda p: with_bias(p, torch.zeros(5)), "'5.bias'"),
    "a shape that would broadcast": (lambda p: with_bias(p, torch.zeros(())), "'5.bias'"),
    "the shape by another name": (lambda p: with_bias(p, torch.zeros(4, 1)), "'5.bias'"),
    "integers": (lambda p: with_bias(p, torch.zeros(4, dtype=torch.int64)), "'5.bias'"),
    "no tensor": (lambda p: with_bias(p, [0.0] * 4), "'5.bias'"),
    "a missing key": (lambda p: without(p, "5.bias"), "'5.bias'"),
    "an extra key": (lambda p: {**p.zeros(), "5.gain": torch.zeros(4)}, "'5.gain'"),
    "a buffer's score": (lambda p: {**p.zeros(), "1.running_mean": torch.zeros(3)}, "'1.running_mean'"),
    "no key": (lambda p: {}, "'0.bias'"),
    "nothing": (lambda p: None, "NoneType"),
    "a list": (lambda p: list(p.zeros().values()), "list"),
    "a tensor": (lambda p: torch.zeros(79), "Tensor"),
    "pairs": (lambda p: iter(p.zeros().items()), "iterator"),
}


@pytest.mark.parametrize("call", [score, unlearn])
@pytest.mark.parametrize("answer", sorted(ANSWERS))
def test_an_answer_against_the_contract(answer, call):
    give, named = ANSWERS[answer]
    with pytest.raises(ComponentError) as caught:
        call(convnet(), Answering(give))
    message = str(caught.value)
    assert "Answering" in message
    assert named in message
    assert "\n" not in message


def running_statistics(model: nn.Module, _: Probe) -> None:
    model.train()
    model(BATCHES[0][0])


def buffers_replaced(model: nn.Module, _: Probe) -> None:
    model[1].running_mean = torch.full((3,), 5.0)
    model[3].register_buffer("another", torch.zeros(2))
    model[1].num_batches_tracked.add_(5)


def attributes(model: nn.Module, _: Probe) -> None:
    model[8].bias = nn.Parameter(torch.zeros(CLASSES))
    model[0].stride, model[0].cache = (2, 2), torch.zeros(3)
    del model[6].p


def modes_and_flags(model: nn.Module, _: Probe) -> None:
    model.train()
    model[6].eval()
    model.requires_grad_(False)
    model[0].bias.requires_grad_(True)


def hooks(model: nn.Module, _: Probe) -> None:
    for module in model.modules():
        module.register_forward_hook(lambda *_: None)
        module.register_forward_pre_hook(lambda *_: None, with_kwargs=True)
        module.register_full_backward_hook(lambda *_: None)
    model[4]._forward_hooks.clear()


def random_draws(_: nn.Module, probe: Probe) -> None:
    torch.manual_seed(1), torch.rand(3, generator=probe.rng)
    torch.rand(3)


def gradients(model: nn.Module, _: Probe) -> None:
    model(BATCHES[0][0]).sum().backward()
    model[8].weight.grad = torch.ones(4, 12)


def all_of_it_and_an_error(model: nn.Module, probe: Probe) -> None:
    for mess in (gradients, running_statistics, buffers_replaced, hooks, modes_and_flags, random_draws, attributes):
        mess(model, probe)
    raise ZeroDivisionError


@pytest.mark.parametrize("when", [Meddling, MeddlingLater])
@pytest.mark.parametrize(
    "mess", [running_statistics, buffers_replaced, attributes, modes_and_flags, hooks, random_draws, gradients]
)
def test_changed_state_is_restored(mess, when):
    model = mixed()
    snapshot = Snapshot(model)
    score(model, when(lambda probe: mess(model, probe)))
    snapshot.check()


@pytest.mark.parametrize("call", [score, unlearn])
@pytest.mark.parametrize("when", [Meddling, MeddlingLater])
def test_changed_state_is_restored_after_an_error(call, when):
    model = mixed()
    snapshot = Snapshot(model)
    with pytest.raises(ComponentError, match=rf"^the importance criterion {when.__name__} raised ZeroDiv") as caught:
        call(model, when(lambda probe: all_of_it_and_an_error(model, probe)))
    assert isinstance(caught.value.__cause__, ZeroDivisionError)
    snapshot.check()


def test_what_the_criterion_is_promised():
    """Eval mode, no gradients left over, gradients on, no autocast, and targets that match."""
    model = mixed()
    seen = {}

    def look(probe: Probe) -> None:
        seen["modes"] = {module.training for module in model.modules()}
        seen["grads"] = [p.grad for p in model.parameters() if p.grad is not None]
        seen["enabled"] = torch.is_grad_enabled()
        seen["autocast"] = torch.is_autocast_enabled("cpu")
        seen["targets"] = {name: (t.shape, t.dtype, t.requires_grad) for name, t in probe.targets.items()}
        seen["batches"] = [len(labels) for _, labels in probe.batches(6)]
        seen["graph"] = probe.outputs(BATCHES[0][0]).requires_grad
        seen["device"] = probe.device

    with torch.no_grad(), torch.autocast("cpu", dtype=torch.bfloat16):
        score(model, Meddling(look))
    trainable = {n: (p.shape, torch.float32, False) for n, p in model.named_parameters() if p.requires_grad}
    assert seen == {
        "modes": {False}, "grads": [], "enabled": True, "autocast": False, "targets": trainable,
        "batches": [4, 2], "graph": False, "device": torch.device("cpu"),
    }  # fmt: skip


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32, torch.float64, torch.int64], ids=str)
def test_the_fingerprint_of_any_dtype_and_layout(dtype):
    tensor = (torch.randn(2, 3, 4, 5, generator=torch.Generator().manual_seed(0)) * 3).to(dtype)
    assert fingerprint(tensor) == fingerprint(tensor.clone())
    assert fingerprint(tensor) == fingerprint(tensor.to(memory_format=torch.channels_last))
    other = tensor.clone()
    other[1, 2, 3, 4] = 1 - other[1, 2, 3, 4].to(torch.int64)
    assert fingerprint(tensor) != fingerprint(other)
    assert fingerprint(tensor[0, 0, 0, 0]) != fingerprint(other[1, 2, 3, 4]) or tensor[0, 0, 0, 0] == other[1, 2, 3, 4]


def test_a_model_that_writes_to_its_own_parameter_when_it_runs():
    class Drifting(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.net = mlp()

        def forward(self, inputs: Tensor) -> Tensor:
            self.net[0].bias.data.add_(1)
            return self.net(inputs)

    with pytest.raises(ComponentError, match=r"net\.0\.bias"):
        unlearning.score(Drifting(), vectors(3), importance=Answering(lambda p: p.zeros()), seeds=Seeds(0))
