"""What a criterion may ask beside gradients: second derivatives, other places and losses, the past, what is to come."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import pytest
import torch
from helpers.unlearning_networks import Net
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

import forgetkit
from forgetkit.contracts import Probe
from forgetkit.errors import ComponentError, OptionError

INPUTS, TARGETS = torch.rand(8, 5, generator=torch.Generator().manual_seed(0)), torch.arange(8) % 3


def small(dtype: torch.dtype = torch.float64) -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(5, 4), nn.Tanh(), nn.Linear(4, 3)).to(dtype)


def asked(model: nn.Module, ask: Callable[[Probe], Any], **known: Any) -> Any:
    """What a criterion gets for a question."""
    answers = []

    @dataclass(frozen=True)
    class Asks:
        """Ask something."""

        def score(self, probe: Probe) -> Mapping[str, Tensor]:
            answers.append(ask(probe))
            return {name: target.abs() for name, target in probe.targets.items()}

    forgetkit.score(model, [(INPUTS, TARGETS)], importance=Asks(), **known)
    return answers[0]


def flat(tensors: Mapping[str, Tensor]) -> Tensor:
    return torch.cat([t.flatten() for t in tensors.values()])


def hessian(model: nn.Module, inputs: Tensor, loss: Callable[[Tensor, Tensor], Tensor] = cross_entropy) -> Tensor:
    """The whole matrix."""
    names, shapes = zip(*((n, p.shape) for n, p in model.named_parameters()), strict=True)
    sizes = [shape.numel() for shape in shapes]

    def of(vector: Tensor) -> Tensor:
        parts = [part.view(shape) for part, shape in zip(vector.split(sizes), shapes, strict=True)]
        return loss(torch.func.functional_call(model, dict(zip(names, parts, strict=True)), (inputs,)), TARGETS)

    found: Tensor = torch.autograd.functional.hessian(of, flat(dict(model.named_parameters())).detach())
    return found


def test_the_hessian_times_a_vector_is_the_whole_matrix_times_it() -> None:
    model = small()
    vector = {n: torch.randn(p.shape, dtype=p.dtype) for n, p in model.named_parameters()}
    found = asked(model, lambda probe: probe.hvp(*next(probe.batches()), vector))
    torch.testing.assert_close(flat(found), hessian(model, INPUTS.double()) @ flat(vector))
    assert not any(value.requires_grad for value in found.values())


def test_the_hessian_of_another_loss() -> None:
    def loss(outputs: Tensor, targets: Tensor) -> Tensor:
        return (outputs / 7).square().sum()

    model = small()
    vector = {n: torch.randn(p.shape, dtype=p.dtype) for n, p in model.named_parameters()}
    found = asked(model, lambda probe: probe.hvp(*next(probe.batches()), vector, loss=loss))
    torch.testing.assert_close(flat(found), hessian(model, INPUTS.double(), loss) @ flat(vector))


def test_the_hessian_of_a_loss_that_is_linear_is_zero() -> None:
    model = nn.Linear(5, 3)
    vector = {n: torch.ones_like(p) for n, p in model.named_parameters()}
    found = asked(model, lambda probe: probe.hvp(*next(probe.batches()), vector, loss=lambda out, _: out.sum()))
    assert {name: float(value.abs().max()) for name, value in found.items()} == {"weight": 0.0, "bias": 0.0}
    with pytest.raises(OptionError, match="a tensor for each of the targets"):
        asked(model, lambda probe: probe.hvp(*next(probe.batches()), {"weight": vector["weight"]}))


def test_second_derivatives_through_attention() -> None:
    def attends(net: Net, x: Tensor) -> Tensor:
        x = x[:, None, :] * torch.arange(1.0, 4)[None, :, None].to(x)
        return net.head(net.attend(x, x, x, need_weights=False)[0].mean(1))

    model = Net(attends, attend=nn.MultiheadAttention(5, 1, batch_first=True), head=nn.Linear(5, 3)).double()
    vector = {n: torch.randn(p.shape, dtype=p.dtype) for n, p in model.named_parameters()}
    found = asked(model, lambda probe: probe.hvp(*next(probe.batches()), vector))
    with torch.nn.attention.sdpa_kernel(torch.nn.attention.SDPBackend.MATH):
        torch.testing.assert_close(flat(found), hessian(model, INPUTS.double()) @ flat(vector))


def test_gradients_elsewhere_and_of_another_loss() -> None:
    model = small()
    there = {n: torch.randn(p.shape, dtype=p.dtype) for n, p in model.named_parameters()}
    found = asked(model, lambda probe: probe.grads(INPUTS.double(), TARGETS, loss=lambda o, t: o.sum(), at=there))
    moved = small()
    moved.load_state_dict(there)
    moved(INPUTS.double()).sum().backward()
    torch.testing.assert_close(found, {n: p.grad for n, p in moved.named_parameters()})
    outputs = asked(model, lambda probe: probe.outputs(INPUTS.double(), at=there))
    torch.testing.assert_close(outputs, moved(INPUTS.double()).detach())
    with pytest.raises(OptionError, match="at= holds 'nothing'"):
        asked(model, lambda probe: probe.grads(INPUTS.double(), TARGETS, at={"nothing": INPUTS}))


def test_buffers_may_be_others_too() -> None:
    model = nn.Sequential(nn.Linear(5, 3), nn.BatchNorm1d(3))
    shifted = asked(model, lambda probe: probe.outputs(INPUTS, at={"1.running_mean": torch.full((3,), 2.0)}))
    plain = asked(model, lambda probe: probe.outputs(INPUTS))
    torch.testing.assert_close(shifted, plain - 2 / (1 + 1e-5) ** 0.5)
    assert not model[1].running_mean.any()


def test_gradients_of_single_samples_of_another_loss() -> None:
    model = small()

    def norm(outputs: Tensor, targets: Tensor) -> Tensor:
        return outputs.square().sum()

    (found,) = asked(model, lambda probe: list(probe.sample_grads(INPUTS.double(), TARGETS, loss=norm)))
    for number, sample in enumerate(INPUTS.double()):
        model.zero_grad()
        model(sample[None]).square().sum().backward()
        torch.testing.assert_close(
            {n: g[number] for n, g in found.items()}, {n: p.grad for n, p in model.named_parameters()}
        )


def test_names_layers_and_modules() -> None:
    model = nn.Sequential(nn.Linear(5, 4), nn.BatchNorm1d(4), nn.ReLU(), nn.Linear(4, 3))
    names = asked(model, lambda probe: {s: probe.names(s) for s in ("all", "weights", "conv-linear", "norm")})
    assert names["conv-linear"] == ("0.weight", "3.weight")
    assert names["norm"] == ("1.weight", "1.bias")
    assert [layer.name for layer in asked(model, lambda probe: probe.layers)] == ["0", "1", "3"]
    scoring = forgetkit.Scoring(params="conv-linear")
    assert asked(model, lambda probe: probe.names("all"), scoring=scoring) == ("0.weight", "3.weight")
    assert asked(model, lambda probe: probe.module("0").out_features) == 4
    with pytest.raises(OptionError, match="has no module '9'"):
        asked(model, lambda probe: probe.module("9"))


def test_hooks_that_a_criterion_hangs_on_a_module_are_taken_off() -> None:
    model = small()

    def hang(probe: Probe) -> None:
        probe.module("1").register_forward_hook(lambda module, inputs, outputs: outputs * 0)
        assert not probe.grads(INPUTS.double(), TARGETS)["0.weight"].any()  # it acts meanwhile

    asked(model, hang)
    assert all(not module._forward_hooks for module in model.modules())


def test_writing_to_a_batch_writes_to_nobody_s_data() -> None:
    before = INPUTS.clone(), TARGETS.clone()

    def spoil(probe: Probe) -> None:
        for inputs, targets in probe.batches():
            inputs.zero_()
            targets.zero_()

    asked(small(torch.float32), spoil)
    assert torch.equal(INPUTS, before[0])
    assert torch.equal(TARGETS, before[1])


@pytest.mark.parametrize("write", [lambda w: w.add_(1), lambda w: setattr(w, "data", w.data + 1)])
def test_writing_to_a_module_that_was_lent_is_noticed(write: Callable[[Tensor], None]) -> None:
    model = small()

    def spoil(probe: Probe) -> None:
        with torch.no_grad():
            write(probe.module("0").weight)

    with pytest.raises(ComponentError, match=r"changed the parameter '0\.weight'"):
        asked(model, spoil)


def test_weights_of_the_past() -> None:
    model = small(torch.float32)
    then = {name: value.clone() for name, value in model.state_dict().items()}
    with torch.no_grad():
        for p in model.parameters():
            p.add_(1)
    for which in ("initial", "previous"):
        found = asked(model, lambda probe, w=which: dict(probe.reference(w)), **{which: then})
        torch.testing.assert_close(found, then)
        with pytest.raises(OptionError, match=f"the {which} weights are unknown: pass {which}="):
            asked(model, lambda probe, w=which: probe.reference(w))
    with pytest.raises(OptionError, match=r"hold no '0\.weight'"):
        asked(model, lambda probe: probe.reference("initial")["0.weight"], initial={})
    with pytest.raises(OptionError, match=r"the model's own '0\.weight', which has changed"):
        asked(model, lambda probe: probe.reference("initial")["0.weight"], initial=model.state_dict())
    with pytest.raises(OptionError, match="initial or previous, not 'next'"):
        asked(model, lambda probe: probe.reference("next"))


def test_a_criterion_sees_the_fresh_values_of_the_reset() -> None:
    model = small(torch.float32)
    seen: dict[str, Tensor] = {}

    @dataclass(frozen=True)
    class Foresees:
        """Look at what will be drawn."""

        needs_data: ClassVar[bool] = False

        def score(self, probe: Probe) -> Mapping[str, Tensor]:
            seen.update({name: probe.fresh(name) for name in probe.targets})
            return {name: target.abs() for name, target in probe.targets.items()}

    forgetkit.unlearn(model, importance=Foresees(), reinit="masked:fraction=1", seed=5)
    torch.testing.assert_close(dict(model.named_parameters()), seen, rtol=0, atol=0)


def test_half_precision_is_asked_in_single() -> None:
    model = small(torch.bfloat16)
    vector = {n: torch.ones(p.shape) for n, p in model.named_parameters()}
    found = asked(model, lambda probe: probe.hvp(*next(probe.batches()), vector))
    assert {value.dtype for value in found.values()} == {torch.float32}
    torch.testing.assert_close(flat(found), hessian(model.float(), INPUTS) @ flat(vector), rtol=1e-3, atol=1e-5)


def test_memory_is_empty_where_nothing_watched() -> None:
    assert asked(small(), lambda probe: dict(probe.memory)) == {}
    assert asked(small(), lambda probe: dict(probe.memory), memory=lambda component: {"a": INPUTS})["a"] is INPUTS


def test_the_seed_that_lasts(tmp_path: Path) -> None:
    drawn: list[tuple[float, float]] = []

    @dataclass(frozen=True)
    class Draws:
        """Draw twice."""

        changes_nothing: ClassVar[bool] = True

        def propose(self, context):
            both = (context.rng("a", lasting=lasts) for lasts in (False, True))
            drawn.append(tuple(torch.rand((), generator=rng).item() for rng in both))
            return ()

    few = {"dataset": "synthetic:samples=60,test=20", "model": "mlp:width=4", "mega_batches": 4, "epochs": 1}
    forgetkit.run({**few, "reinit": Draws(), "out": str(tmp_path)})
    passing, lasting = zip(*drawn, strict=True)
    assert (len(set(passing)), len(set(lasting))) == (
        4,
        1,
    )  # the one tried out, then one after each but the last


def test_the_shape_of_a_sample() -> None:
    assert asked(small(), lambda probe: probe.input_shape) == (5,)
