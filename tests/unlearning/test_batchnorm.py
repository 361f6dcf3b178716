"""Running statistics after a forgetting: kept, started anew, or measured again, against sums in float64."""

from __future__ import annotations

import copy
from collections.abc import Iterable, Iterator
from contextlib import nullcontext

import pytest
import torch
from helpers.unlearning_networks import (
    CLASSES,
    Batch,
    changed,
    convnet,
    images,
    mlp,
    refused,
    same_bits,
    scrambled,
    train_step,
    values,
    vectors,
)
from torch import Tensor, nn
from torch.nn.utils.parametrizations import spectral_norm

import forgetkit
from forgetkit.errors import OptionError
from forgetkit.unlearning import ResetPolicy

RESET, AGAIN = ResetPolicy(bn_stats="reset"), ResetPolicy(bn_stats="recalibrate")


def stack(seed: int = 0) -> nn.Sequential:
    """Linear layers with two batch normalisations, the second behind a nonlinearity."""
    torch.manual_seed(seed)
    layers = [nn.Linear(5, 6), nn.BatchNorm1d(6), nn.Tanh(), nn.Linear(6, 7), nn.BatchNorm1d(7), nn.Linear(7, CLASSES)]
    return scrambled(nn.Sequential(*layers), seed)


def statistics_of(outputs: list[Tensor]) -> tuple[Tensor, Tensor]:
    """The mean over batches of the mean and of the unbiased variance by channel."""
    by_channel = [batch.double().transpose(0, 1).flatten(1) for batch in outputs]
    means, variances = ([getattr(torch, name)(x, 1) for x in by_channel] for name in ("mean", "var"))
    return sum(means) / len(means), sum(variances) / len(variances)


def expected_of(model: nn.Sequential, batches: Iterable[Batch]) -> dict[str, Tensor]:
    """What the statistics of a plain stack should be: in float64, each normalisation by its own batch."""
    found = {}
    hidden = [inputs.double() for inputs, _ in batches]
    for at, module in enumerate(copy.deepcopy(model).double()):
        if isinstance(module, nn.BatchNorm1d | nn.BatchNorm2d):
            found[f"{at}.running_mean"], found[f"{at}.running_var"] = statistics_of(hidden)
            shape = (1, -1, *[1] * (hidden[0].ndim - 2))
            scale, shift = (p.detach().view(shape) for p in (module.weight, module.bias))
            bare = type(module)(module.num_features, affine=False, track_running_stats=False)
            hidden = [bare(x) * scale + shift for x in hidden]
        else:
            hidden = [module(x).detach() for x in hidden]
    return found


def check(model: nn.Module, expected: dict[str, Tensor], batches: int) -> None:
    buffers = dict(model.named_buffers())
    for name, value in expected.items():
        torch.testing.assert_close(buffers[name].double(), value, rtol=1e-4, atol=1e-5)
    for name, buffer in buffers.items():
        if name.endswith("num_batches_tracked") and name.replace("num_batches_tracked", "running_mean") in expected:
            assert int(buffer) == batches


NETWORKS = [(stack, vectors(8, 5, 3)), (convnet, images(6, 2, 4))]


@pytest.mark.parametrize(("make", "batches"), NETWORKS, ids=["features", "images"])
def test_measured_again_on_the_new_weights(make, batches):
    """Each batch counts alike, by its own mean and unbiased variance, behind others that do so too."""
    model, plain = make().eval(), make().eval()
    forgetkit.unlearn(plain, batches, reinit="masked:0.5", seed=3)
    report = forgetkit.unlearn(model, batches, reinit="masked:0.5", seed=3, policy=AGAIN)
    expected = expected_of(plain, batches)
    check(model, expected, len(batches))
    statistics = {n for n, _ in model.named_buffers()}
    assert set(report.buffers) == statistics
    assert set(changed(model, values(plain))) == statistics
    # The test can tell the old weights from the new ones, and a batch of everything from three.
    for wrong in (
        expected_of(make(), batches),
        expected_of(plain, [tuple(map(torch.cat, zip(*batches, strict=True)))]),
    ):
        with pytest.raises(AssertionError):
            check(model, wrong, len(batches))


@pytest.mark.parametrize("reinit", ["masked:0.5", "cold", "llf:start=1", "rifle", "shrink-perturb"])
def test_with_any_way_of_forgetting(reinit):
    batches = vectors(8, 5)
    for policy in (RESET, AGAIN):
        model, plain = stack(), stack()
        kept = forgetkit.unlearn(plain, batches, reinit=reinit, seed=3)
        report = forgetkit.unlearn(model, batches, reinit=reinit, seed=3, policy=policy)
        assert report.layers == kept.layers
        statistics = {n for n, _ in model.named_buffers()}
        assert set(report.buffers) == statistics
        assert len(report.buffers) == len(statistics)
        assert set(changed(model, values(plain))) <= statistics
        if policy is AGAIN:
            check(model, expected_of(plain, batches), 2)
        else:
            fresh = {f"{at}.{n}": t for at in (1, 4) for n, t in nn.BatchNorm1d(5 + at // 2 + 1).named_buffers()}
            assert all(not dict(model.named_buffers())[n].any() for n in fresh if "var" not in n)
            assert (model[1].running_var == 1).all()
            assert (model[4].running_var == 1).all()


def test_statistics_are_kept_by_default():
    model = convnet()
    before = values(model)
    for policy in (None, ResetPolicy(), ResetPolicy(bn_stats="keep")):
        report = forgetkit.unlearn(model, images(4), policy=policy)
        assert report.buffers == ()
        assert all(same_bits(buffer, before[name]) for name, buffer in model.named_buffers())


def test_where_nothing_is_forgotten_nothing_is_measured():
    model = convnet()
    before = values(model)
    for policy in (RESET, AGAIN):
        assert forgetkit.unlearn(model, images(4), reinit="none", policy=policy).buffers == ()
    assert changed(model, before) == {}


def test_modes_and_momenta_are_put_back():
    """Of each module its own, those of what is frozen included; the measurement needs its own for a while."""
    model = stack().train()
    model[2].eval()
    model[4].eval()
    model[1].momentum, model[4].momentum = 0.37, None
    modes = [module.training for module in model.modules()]
    forgetkit.unlearn(model, vectors(8, 5), policy=AGAIN)
    assert [module.training for module in model.modules()] == modes
    assert (model[1].momentum, model[4].momentum) == (0.37, None)
    check(model, expected_of(model, vectors(8, 5)), 2)


def test_a_frozen_normalisation_keeps_its_statistics():
    for policy in (RESET, AGAIN):
        model = stack()
        model[1].requires_grad_(False)
        before = values(model)
        report = forgetkit.unlearn(model, vectors(8, 5), reinit="masked:0.5", policy=policy)
        assert set(report.buffers) == {"4.running_mean", "4.running_var", "4.num_batches_tracked"}
        assert not any(name.startswith("1.") for name in changed(model, before))
        assert "4.running_mean" in changed(model, before)
        assert model[1].momentum == 0.1


def test_one_without_parameters_is_measured():
    """It has nothing that could be frozen."""
    model = nn.Sequential(nn.Linear(5, 6), nn.BatchNorm1d(6, affine=False), nn.Linear(6, CLASSES))
    report = forgetkit.unlearn(model, vectors(8), policy=AGAIN)
    assert report.buffers == ("1.running_mean", "1.running_var", "1.num_batches_tracked")
    mean, var = statistics_of([model[0](vectors(8)[0][0]).detach()])
    torch.testing.assert_close(model[1].running_mean.double(), mean, rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(model[1].running_var.double(), var, rtol=1e-4, atol=1e-5)


class Counting(nn.Module):
    """A buffer that a forward pass in training mode writes to."""

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("passes", torch.zeros(()))

    def forward(self, inputs: Tensor) -> Tensor:
        if self.training:
            self.passes += 1
        return inputs


def test_other_buffers_are_left_alone():
    """Of spectral normalisation, of instance normalisation, of anybody."""
    model = nn.Sequential(
        spectral_norm(nn.Linear(5, 6)),
        nn.Unflatten(1, (2, 3)),
        nn.InstanceNorm1d(2, track_running_stats=True),
        Counting(),
        nn.BatchNorm1d(2),
        nn.Flatten(),
        nn.Linear(6, CLASSES),
    ).train()
    model(vectors(4)[0][0])
    before = values(model)
    report = forgetkit.unlearn(
        model, vectors(8, 8), importance="random", policy=AGAIN, build=lambda: copy.deepcopy(model)
    )
    statistics = {"4.running_mean", "4.running_var", "4.num_batches_tracked"}
    assert set(report.buffers) == statistics
    assert {name for name in changed(model, before) if name not in dict(model.named_parameters())} == statistics


class Averaging(nn.Module):
    """Puts a new tensor in the place of its buffer, as moving averages are often written."""

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("average", torch.zeros(6))

    def forward(self, inputs: Tensor) -> Tensor:
        self.average = 0.9 * self.average + 0.1 * inputs.detach().mean(0)
        return inputs - self.average


@pytest.mark.parametrize("fails", [False, True])
def test_a_buffer_that_running_replaces_is_put_back(fails):
    model = nn.Sequential(nn.Linear(5, 6), Averaging(), nn.BatchNorm1d(6), nn.Linear(6, CLASSES)).train()
    average = model[1].average
    batches = [*vectors(8), *(vectors(1) if fails else [])]
    with pytest.raises(OptionError) if fails else nullcontext():
        forgetkit.unlearn(model, batches, importance="random", policy=AGAIN)
    assert model[1].average is average
    assert not average.any()


@pytest.mark.parametrize("how", ["reset", "recalibrate"])
@pytest.mark.parametrize(
    "model",
    [
        mlp(6),
        nn.Sequential(nn.Linear(5, 6), nn.LayerNorm(6), nn.Linear(6, CLASSES)),
        nn.Sequential(nn.Linear(5, 6), nn.BatchNorm1d(6, track_running_stats=False), nn.Linear(6, CLASSES)),
        nn.Sequential(nn.Linear(5, 6), nn.BatchNorm1d(6).requires_grad_(False), nn.Linear(6, CLASSES)),
    ],
    ids=["none", "layer norm", "keeps none", "frozen"],
)
def test_refused_where_there_are_no_statistics(model, how):
    with refused(OptionError, match=f"bn-stats={how}: Sequential has no batch normalisation", unchanged=model):
        forgetkit.unlearn(model, vectors(8), policy=ResetPolicy(bn_stats=how))


def test_recalibration_needs_batches():
    model = convnet()
    with refused(OptionError, match="bn-stats=recalibrate needs data", unchanged=model):
        forgetkit.unlearn(model, reinit="cold", policy=AGAIN)
    forgetkit.unlearn(model, reinit="masked", importance="random", policy=RESET)  # which needs none
    assert (model[1].running_var == 1).all()


class BreakingError(Exception):
    """What no code here expects."""


def breaking(batches: list[Batch], after: int) -> Iterator[Batch]:
    yield from batches[:after]
    raise BreakingError


@pytest.mark.parametrize("name", ["sgd", "adam"])
@pytest.mark.parametrize("state", ["zero", "fresh"])
def test_a_measurement_that_fails_undoes_all(name, state):
    """Weights, statistics, modes, momenta and the optimizer are as before, whoever failed."""
    model = stack().train()
    model[4].momentum = 0.4
    model[2].eval()
    optimizer = {"sgd": torch.optim.SGD, "adam": torch.optim.Adam}[name](model.parameters(), lr=0.1, **(
        {"momentum": 0.9} if name == "sgd" else {}
    ))  # fmt: skip
    for batch in vectors(8, 8):
        train_step(model, optimizer, batch)
    before, memory = values(model), {p: copy.deepcopy(entry) for p, entry in optimizer.state.items()}
    modes = [module.training for module in model.modules()]
    policy = ResetPolicy(bn_stats="recalibrate", optimizer_state=state)
    for batches, error in (
        ([*vectors(8, 5), *vectors(1)], OptionError),  # of a lone sample there is no variance
        (breaking(vectors(8, 5), 2), BreakingError),
    ):
        with pytest.raises(error) as caught:
            forgetkit.unlearn(model, batches, importance="random", optimizer=optimizer, policy=policy)
        if error is OptionError:
            assert "use larger batches" in str(caught.value)
            assert "\n" not in str(caught.value)
        assert changed(model, before) == {}
        assert [module.training for module in model.modules()] == modes
        assert (model[1].momentum, model[4].momentum) == (0.1, 0.4)
        assert optimizer.state.keys() == memory.keys()
        for parameter, entry in optimizer.state.items():
            assert entry.keys() == memory[parameter].keys()
            for key, value in entry.items():
                assert torch.equal(torch.as_tensor(value), torch.as_tensor(memory[parameter][key]))


def test_a_measurement_that_fails_leaves_a_frozen_momentum():
    model = stack()
    model[1].requires_grad_(False)
    with pytest.raises(OptionError, match="larger batches"):
        forgetkit.unlearn(model, [*vectors(8), *vectors(1)], importance="random", policy=AGAIN)
    assert (model[1].momentum, model[4].momentum) == (0.1, 0.1)


def test_measuring_draws_from_the_seed():
    """Dropout is on, as in training; the caller's random state has no say and does not change."""
    results = []
    for seed, state in ((1, 0), (1, 1), (2, 0)):
        torch.manual_seed(0)
        model = nn.Sequential(nn.Linear(5, 6), nn.Dropout(0.5), nn.BatchNorm1d(6), nn.Linear(6, CLASSES)).eval()
        torch.manual_seed(state)
        before = torch.get_rng_state()
        forgetkit.unlearn(model, vectors(8, 8), reinit="rifle", seed=seed, policy=AGAIN)
        assert torch.equal(before, torch.get_rng_state())
        results.append(model[2].running_var.clone())
    assert torch.equal(results[0], results[1])
    assert not torch.equal(results[0], results[2])


def test_what_can_be_read_only_once_is_measured_on_all_of_it():
    one, two = stack(), stack()
    forgetkit.unlearn(one, vectors(8, 5, 3), importance="snip:samples=9", policy=AGAIN)
    forgetkit.unlearn(two, iter(vectors(8, 5, 3)), importance="snip:samples=9", policy=AGAIN)
    assert changed(one, values(two)) == {}
    check(one, expected_of(one, vectors(8, 5, 3)), 3)


@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16], ids=str)
def test_in_another_precision(dtype):
    """Batches in float32 will do, as they do for scoring."""
    model = stack().to(dtype)
    forgetkit.unlearn(model, vectors(8, 5), reinit="masked:0.5", policy=AGAIN)
    buffers = dict(model.named_buffers())
    tolerance = {"rtol": 1e-6, "atol": 1e-6} if dtype == torch.float64 else {"rtol": 0.05, "atol": 0.05}
    for name, value in expected_of(model, vectors(8, 5)).items():
        assert buffers[name].dtype == dtype
        torch.testing.assert_close(buffers[name].double(), value, **tolerance)


# The optimizer's memory


def trained(optimizer_of: type[torch.optim.Optimizer], **options: float) -> tuple[nn.Module, torch.optim.Optimizer]:
    model = convnet()
    optimizer = optimizer_of(model.parameters(), lr=0.05, **options)
    for batch in images(8, 8, 8, seed=1):
        train_step(model, optimizer, batch)
    return model, optimizer


@pytest.mark.parametrize(
    ("optimizer_of", "options", "entries"),
    [(torch.optim.SGD, {"momentum": 0.9}, 1), (torch.optim.AdamW, {}, 2)],
    ids=["sgd", "adamw"],
)
@pytest.mark.parametrize("reinit", ["masked", "cold", "rifle", "none"])
def test_what_becomes_of_the_optimizer_s_memory(reinit, optimizer_of, options, entries):
    """``keep`` clears nothing; ``fresh`` all of it, with whichever method, as a new optimizer would."""
    for state in ("zero", "keep", "fresh"):
        model, optimizer = trained(optimizer_of, **options)
        memory = {p: copy.deepcopy(entry) for p, entry in optimizer.state.items()}
        policy = ResetPolicy(optimizer_state=state)
        report = forgetkit.unlearn(model, images(6), reinit=reinit, optimizer=optimizer, policy=policy)
        assert report.optimizer_cleared == entries * {"zero": report.reset, "keep": 0, "fresh": 79}[state]
        if state == "fresh":
            assert not any(
                torch.as_tensor(value).any() for entry in optimizer.state.values() for value in entry.values()
            )
            twin = copy.deepcopy(model)
            other = optimizer_of(twin.parameters(), lr=0.05, **options)
            for network, its in ((model, optimizer), (twin, other)):
                train_step(network, its, images(6)[0])
            assert changed(model, values(twin)) == {}
        elif state == "keep" or reinit == "none":
            for parameter, entry in memory.items():
                assert optimizer.state[parameter].keys() == entry.keys()
                for key, value in entry.items():
                    assert torch.equal(torch.as_tensor(optimizer.state[parameter][key]), torch.as_tensor(value))


def test_kept_momentum_moves_what_is_fresh():
    """By lr times momentum times the velocity of what it was."""
    model, optimizer = trained(torch.optim.SGD, momentum=0.9)
    velocity = {name: optimizer.state[p]["momentum_buffer"].clone() for name, p in model.named_parameters()}
    forgetkit.unlearn(model, reinit="cold", optimizer=optimizer, policy=ResetPolicy(optimizer_state="keep"))
    before = values(model)
    for p in model.parameters():
        p.grad = torch.zeros_like(p)
    optimizer.step()
    for name, p in model.named_parameters():
        torch.testing.assert_close(p.detach(), before[name] - 0.05 * 0.9 * velocity[name])


def test_policy_options_are_validated():
    for policy in (ResetPolicy(bn_stats="again"), ResetPolicy(optimizer_state="new"), {"bn_stats": "reset"}):
        with refused(OptionError):
            forgetkit.unlearn(convnet(), images(4), policy=policy)
