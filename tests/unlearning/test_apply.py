"""What is masked gets its fresh value, what is not keeps its bits, and so does the optimizer's memory of it."""

from __future__ import annotations

import copy
import math
from collections.abc import Callable, Iterator
from typing import Any

import pytest
import torch
from helpers.unlearning_networks import (
    all_fresh,
    bits,
    changed,
    convnet,
    images,
    mlp,
    refused,
    same_bits,
    train_step,
    unlearn_with,
    values,
    vectors,
)
from torch import Tensor, nn
from torch.nn.functional import cross_entropy
from torch.optim import Optimizer

import forgetkit
from forgetkit.contracts import Change, ReinitContext
from forgetkit.errors import ComponentError
from forgetkit.seeding import Seeds
from forgetkit.unlearning.layerwise import LayerwiseFresh

BATCHES = images(6, 6)


def state_of(optimizer: Optimizer) -> dict[int, dict[str, Any]]:
    """A copy of the optimizer's state, by the parameter's identity."""
    return {id(p): copy.deepcopy(state) for p, state in optimizer.state.items()}


def prepared(dtype: torch.dtype, memory: torch.memory_format) -> nn.Module:
    """A network with a few values that arithmetic would not leave alone."""
    model = convnet(dtype=dtype).to(memory_format=memory)
    with torch.no_grad():
        model[0].weight[0] = torch.tensor([-0.0, 1e-40, -1e-41], dtype=dtype)
    return model


@pytest.mark.parametrize("memory", [torch.contiguous_format, torch.channels_last], ids=["contiguous", "channels_last"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float64], ids=str)
@pytest.mark.parametrize("importance", ["snip", "random", "magnitude"])
def test_masked_entries_are_fresh_and_the_others_keep_their_bits(importance, dtype, memory):
    model = prepared(dtype, memory)
    before, places = values(model), {n: (id(p), p.data_ptr(), p.stride()) for n, p in model.named_parameters()}
    masks = forgetkit.select(forgetkit.score(model, BATCHES, importance=importance, seed=5), fraction=0.2, seed=5)
    assert changed(model, before) == {}
    draws = LayerwiseFresh(model, None, Seeds(5))
    fresh = {name: draws.draw(name).to(dtype) for name in masks}

    report = forgetkit.unlearn(model, BATCHES, importance=importance, reinit="masked:fraction=0.2", seed=5)

    total = sum(p.numel() for p in model.parameters())
    assert report.scored == total
    assert report.reset == sum(int(mask.sum()) for mask in masks.values()) == total * 2 // 10
    for name, parameter in model.named_parameters():
        mask = masks[name]
        assert torch.equal(bits(parameter)[~mask], bits(before[name])[~mask])
        assert torch.equal(bits(parameter)[mask], bits(fresh[name])[mask])
        assert (report.layers[name].size, report.layers[name].reset) == (mask.numel(), int(mask.sum()))
        if dtype != torch.bfloat16:  # whose values are few enough for a draw to hit the old one
            assert (bits(parameter) != bits(before[name]))[mask].all()
    now = values(model)
    assert all(same_bits(now[name], before[name]) for name, _ in model.named_buffers())
    assert places == {n: (id(p), p.data_ptr(), p.stride()) for n, p in model.named_parameters()}


@pytest.mark.parametrize("fraction", [0, 0.001, 0.2, 0.29, 0.5, 1])
def test_the_number_of_reset_entries_is_exact(fraction):
    model = convnet()
    before, total = values(model), sum(p.numel() for p in model.parameters())
    report = forgetkit.unlearn(model, BATCHES, reinit=f"masked:fraction={fraction}")
    differ = changed(model, before)
    assert report.reset == sum(int(where.sum()) for where in differ.values()) == math.floor(round(fraction * total, 9))
    assert report.threshold is None if report.reset == 0 else report.threshold >= 0


OPTIMIZERS: dict[str, Callable[[list[nn.Parameter]], Optimizer]] = {
    "sgd": lambda p: torch.optim.SGD(p, lr=0.05, momentum=0.9, weight_decay=1e-4),
    "nesterov": lambda p: torch.optim.SGD(p, lr=0.05, momentum=0.9, nesterov=True, foreach=True),
    "adam": lambda p: torch.optim.Adam(p, lr=0.01, amsgrad=True),
    "adam-foreach": lambda p: torch.optim.Adam(p, lr=0.01, amsgrad=True, foreach=True),
    "adam-fused": lambda p: torch.optim.Adam(p, lr=0.01, amsgrad=True, fused=True),
    "adamw": lambda p: torch.optim.AdamW(p, lr=0.01),
    "rmsprop": lambda p: torch.optim.RMSprop(p, lr=0.01, momentum=0.9, centered=True),
    "adagrad": lambda p: torch.optim.Adagrad(p, lr=0.05),
    "adadelta": lambda p: torch.optim.Adadelta(p, lr=1.0),
    "adamax": lambda p: torch.optim.Adamax(p, lr=0.01),
    "nadam": lambda p: torch.optim.NAdam(p, lr=0.01),
    "radam": lambda p: torch.optim.RAdam(p, lr=0.01),
}
PER_ENTRY = {
    "sgd": {"momentum_buffer"},
    "adam": {"exp_avg", "exp_avg_sq", "max_exp_avg_sq"},
    "adam-fused": {"exp_avg", "exp_avg_sq", "max_exp_avg_sq"},
    "adamw": {"exp_avg", "exp_avg_sq"},
    "rmsprop": {"square_avg", "grad_avg", "momentum_buffer"},
}


def trained(name: str, memory: torch.memory_format = torch.contiguous_format) -> tuple[nn.Module, Optimizer]:
    model = convnet().to(memory_format=memory)
    optimizer = OPTIMIZERS[name](list(model.parameters()))
    for batch in images(8, 8, 8, seed=1):
        train_step(model, optimizer, batch)
    return model, optimizer


@pytest.mark.parametrize("memory", [torch.contiguous_format, torch.channels_last], ids=["contiguous", "channels_last"])
@pytest.mark.parametrize("name", sorted(OPTIMIZERS))
def test_the_optimizer_forgets_under_the_mask_alone(name, memory):
    model, optimizer = trained(name, memory)
    before, state = values(model), state_of(optimizer)
    kinds = {key for key, value in optimizer.state[model[0].weight].items() if isinstance(value, Tensor) and value.ndim}
    assert PER_ENTRY.get(name, kinds) == kinds
    report = forgetkit.unlearn(model, BATCHES, importance="random", optimizer=optimizer, seed=1)
    differ = changed(model, before)
    assert report.optimizer_cleared == report.reset * len(kinds)
    for parameter_name, parameter in model.named_parameters():
        mask = differ.get(parameter_name, torch.zeros(parameter.shape, dtype=torch.bool))
        assert optimizer.state[parameter].keys() == state[id(parameter)].keys()
        for key, value in optimizer.state[parameter].items():
            old = state[id(parameter)][key]
            if key in kinds:
                assert (value[mask].abs() <= (1.1e-8 if key == "exp_inf" else 0)).all()  # Adamax holds at least its eps
                assert torch.equal(bits(value)[~mask], bits(old)[~mask])
            else:
                assert torch.as_tensor(value == old).all()
                assert key != "step" or float(value) == 3
    assert sum(bool(optimizer.state[p][key].any()) for p in model.parameters() for key in kinds)


@pytest.mark.parametrize("name", sorted(OPTIMIZERS))
def test_a_tensor_replaced_whole_is_new_to_the_optimizer(name):
    """The next step after a cold start is the first step of an optimizer that has seen nothing."""
    model, optimizer = trained(name)
    keys = {p: list(state) for p, state in optimizer.state.items()}
    report = forgetkit.unlearn(model, BATCHES, reinit="cold", optimizer=optimizer, seed=1)
    assert {p: list(state) for p, state in optimizer.state.items()} == keys
    assert report.optimizer_cleared % report.reset == 0
    assert report.optimizer_cleared > 0
    twin = copy.deepcopy(model)
    train_step(model, optimizer, BATCHES[0])
    train_step(twin, OPTIMIZERS[name](list(twin.parameters())), BATCHES[0])
    expected = values(twin)
    assert all(torch.equal(value, expected[n]) for n, value in values(model).items())


@pytest.mark.parametrize("name", ["sgd", "adam"])
def test_what_rifle_leaves_keeps_its_state(name):
    model, optimizer = trained(name)
    state = state_of(optimizer)
    head = {id(p) for p in model[5].parameters()}
    report = forgetkit.unlearn(model, BATCHES, reinit="rifle", optimizer=optimizer)
    assert {id(p) for p in optimizer.state} == state.keys()
    for parameter, entry in optimizer.state.items():
        for key, value in entry.items():
            if id(parameter) in head:
                assert not value.any()
                continue
            assert torch.equal(torch.as_tensor(value), torch.as_tensor(state[id(parameter)][key]))
    assert report.optimizer_cleared == 16 * (1 if name == "sgd" else 3)


def test_a_fused_optimizer_steps_on_as_another_does():
    """Momentum of a replaced tensor is zero and not missing, which torch's fused step could not do with."""
    weights = []
    for fused in (False, True):
        torch.manual_seed(0)
        model = convnet()
        optimizer = torch.optim.SGD(model.parameters(), 0.1, 0.9, fused=fused)
        train_step(model, optimizer, BATCHES[0])
        report = forgetkit.unlearn(model, BATCHES, reinit="rifle", optimizer=optimizer)
        assert report.optimizer_cleared == 16
        train_step(model, optimizer, BATCHES[0])
        weights.append(values(model))
    for name, value in weights[0].items():
        torch.testing.assert_close(weights[1][name], value, msg=name)


def test_leftover_momentum_does_not_move_what_is_fresh():
    """Without the clearing, the old velocity would carry a fresh weight away at a zero gradient."""
    model, optimizer = trained("sgd")
    for group in optimizer.param_groups:
        group["weight_decay"] = 0.0
    before = values(model)
    forgetkit.unlearn(model, BATCHES, importance="random", optimizer=optimizer)
    where, after = changed(model, before), values(model)
    for parameter in model.parameters():
        parameter.grad = torch.zeros_like(parameter)
    optimizer.step()
    moved = changed(model, {name: after[name] for name in where})
    for name, mask in where.items():
        assert not (moved.get(name, torch.zeros_like(mask)) & mask).any()
    assert moved


def test_an_optimizer_of_some_parameters_or_without_state():
    model = convnet()
    report = forgetkit.unlearn(model, BATCHES, optimizer=torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9))
    assert report.optimizer_cleared == 0
    optimizer = torch.optim.SGD(model[5].parameters(), lr=0.1, momentum=0.9)
    train_step(model, optimizer, BATCHES[0])
    report = forgetkit.unlearn(model, BATCHES, reinit="cold", optimizer=optimizer)
    assert report.optimizer_cleared == 16


class Scaled(nn.Module):
    """A network with a parameter of no dimensions."""

    def __init__(self) -> None:
        super().__init__()
        self.net = mlp(6)
        self.scale = nn.Parameter(torch.tensor(2.0))

    def reset_parameters(self) -> None:
        nn.init.ones_(self.scale)

    def forward(self, inputs: Tensor) -> Tensor:
        return self.scale * self.net(inputs)


def test_the_step_count_of_a_parameter_of_no_dimensions_stays():
    model, batch = Scaled(), vectors(8)[0]
    optimizer = torch.optim.Adam(model.parameters(), lr=0.01)
    train_step(model, optimizer, batch)
    forgetkit.unlearn(model, [batch], reinit="masked:fraction=1", optimizer=optimizer, fresh="module")
    assert float(model.scale.detach()) == 1.0
    assert float(optimizer.state[model.scale]["exp_avg"]) == 0.0
    assert float(optimizer.state[model.scale]["step"]) == 1.0


@pytest.mark.parametrize("reinit", ["masked", "cold", "llf", "rifle", "shrink-perturb", "none"])
@pytest.mark.parametrize("name", ["sgd", "adam"])
def test_training_continues_after_a_reset(name, reinit):
    model, optimizer = trained(name)
    forgetkit.unlearn(model, BATCHES, reinit=reinit, optimizer=optimizer, seed=3)
    assert all(p.requires_grad and p.is_leaf for p in model.parameters())
    losses = [train_step(model, optimizer, BATCHES[0]) for _ in range(25)]
    assert losses[-1] < 0.8 * losses[0]
    assert all(math.isfinite(loss) for loss in losses)


def test_autograd_notices_the_write():
    """A backward pass of before the write would be wrong, and says so."""
    model = mlp(6, 6)
    inputs, labels = vectors(4)[0]
    loss = cross_entropy(model(inputs), labels)
    unlearn_with(all_fresh, model)
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        loss.backward()


def test_each_change_is_written_before_the_next_is_asked_for():
    model = mlp(6)
    seen = []

    def propose(context: ReinitContext) -> Iterator[Change]:
        for name in context.targets:
            yield Change(name, None, torch.full_like(context.targets[name], 7.0))
            seen.append(bool((context.targets[name] == 7).all()))

    unlearn_with(propose, model)
    assert seen == [True] * 4


def test_a_value_of_another_dtype_and_layout_is_converted():
    model = convnet(dtype=torch.bfloat16).to(memory_format=torch.channels_last)
    value = torch.randn(3, 2, 3, 3, dtype=torch.float64)
    mask = torch.rand(3, 3, 3, 2).permute(0, 3, 1, 2) < 0.5
    before = values(model)["0.weight"]
    report = unlearn_with(lambda _: [Change("0.weight", mask, value)], model)
    now = model[0].weight
    assert torch.equal(now[mask], value.bfloat16()[mask])
    assert torch.equal(now[~mask], before[~mask])
    assert now.is_contiguous(memory_format=torch.channels_last)
    assert report.layers["0.weight"].reset == int(mask.sum())


def test_a_buffer_may_change_too():
    model = convnet()
    mask = torch.tensor([True, False, True])
    before = values(model)["1.running_mean"]
    changes = [Change("1.running_mean", mask, torch.full((3,), 9.0)), Change("5.bias", None, torch.zeros(4))]
    report = unlearn_with(lambda _: changes, model)
    assert model[1].running_mean.tolist() == [9.0, float(before[1]), 9.0]
    assert report.buffers == ("1.running_mean",)
    assert (report.reset, set(report.layers)) == (4, {"5.bias"})


ZEROS = torch.zeros(4, 5)
BROKEN = {
    "nothing": (None, "NoneType"),
    "no changes": ([("0.weight", None, ZEROS)], "tuple"),
    "unknown name": ([Change("0.wait", None, ZEROS)], "0.wait"),
    "twice": ([Change("0.weight", None, ZEROS), Change("0.weight", None, ZEROS)], "0.weight"),
    "value's shape": ([Change("0.weight", None, torch.zeros(5, 4))], "0.weight"),
    "value that would broadcast": ([Change("0.weight", None, torch.zeros(()))], "0.weight"),
    "value is no tensor": ([Change("0.weight", None, 0.0)], "0.weight"),
    "NaN": ([Change("0.weight", None, ZEROS * torch.nan)], "0.weight"),
    "infinity": ([Change("0.weight", None, ZEROS + torch.inf)], "0.weight"),
    "mask's shape": ([Change("0.weight", torch.ones(4, dtype=torch.bool), ZEROS)], "0.weight"),
    "mask of floats": ([Change("0.weight", torch.ones(4, 5), ZEROS)], "0.weight"),
    "mask is no tensor": ([Change("0.weight", True, ZEROS)], "0.weight"),
}


@pytest.mark.parametrize("broken", sorted(BROKEN))
def test_a_broken_proposal_is_refused_in_one_line(broken):
    proposal, named = BROKEN[broken]
    model = mlp()
    with refused(ComponentError, match=named.replace(".", r"\."), unchanged=model) as caught:
        unlearn_with(lambda _: proposal, model)
    assert "Proposing" in str(caught.value)


@pytest.mark.parametrize("masked", [True, False])
@pytest.mark.parametrize("name", ["sgd", "adam", "rmsprop", "adagrad"])
def test_all_or_nothing(name, masked):
    """Where the last change fails, those before it are taken back, and the optimizer remembers."""
    model, optimizer = trained(name, torch.channels_last)
    mask = {n: torch.rand(p.shape) < 0.5 if masked else None for n, p in model.named_parameters()}

    def propose(context: ReinitContext) -> Iterator[Change]:
        yield Change("1.running_mean", None, torch.full((3,), 9.0))
        for n in context.targets:
            yield Change(n, mask[n], context.fresh(n))
        raise ZeroDivisionError

    before, state, twin = values(model), state_of(optimizer), copy.deepcopy(model)
    with pytest.raises(ComponentError, match="raised ZeroDivisionError"):
        unlearn_with(propose, model, optimizer=optimizer)
    assert changed(model, before) == {}
    assert {id(p) for p in optimizer.state} == state.keys()
    for parameter, entry in optimizer.state.items():
        assert entry.keys() == state[id(parameter)].keys()
        assert all(torch.equal(torch.as_tensor(v), torch.as_tensor(state[id(parameter)][k])) for k, v in entry.items())
    assert all(p.stride() == q.stride() for p, q in zip(model.parameters(), twin.parameters(), strict=True))


def test_what_is_frozen_or_unused_is_not_changed_by_any_method():
    model = convnet()
    model[5].bias.requires_grad_(False)
    changes = [Change("5.weight", None, torch.zeros(4, 3)), Change("5.bias", None, torch.zeros(4))]
    with refused(ComponentError, match=r"'5\.bias'.*frozen", unchanged=model):
        unlearn_with(lambda _: changes, model, BATCHES)
