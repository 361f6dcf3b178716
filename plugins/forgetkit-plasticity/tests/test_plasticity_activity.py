"""Dormancy, utility and silence, each by a loop of its own."""

from __future__ import annotations

import copy
import math
from collections import defaultdict
from itertools import pairwise
from typing import Any

import pytest
import torch
from forgetkit_plasticity import ContinualBackprop, Redo, RedoWhileTraining, SelfNormalizedResets
from plasticity_nets import Loop, Snapshot, flat, groups_of, images, mlp, silent_units, vectors
from torch import Tensor, nn
from torch.nn import functional as F

import forgetkit


def read_by_the_next(model: nn.Sequential, inputs: Tensor) -> dict[str, Tensor]:
    """What the layers of ``flat`` read, in double precision and by hand: (samples, units, positions)."""
    w = {name: value.double() for name, value in model.state_dict().items() if value.is_floating_point()}
    x = F.conv2d(inputs.double(), w["0.weight"], w["0.bias"], padding=1)
    x = (x - w["1.running_mean"][:, None, None]) / (w["1.running_var"][:, None, None] + 1e-5).sqrt()
    first = (x * w["1.weight"][:, None, None] + w["1.bias"][:, None, None]).clamp_min(0)
    second = F.conv2d(first, w["3.weight"], w["3.bias"]).clamp_min(0)
    third = (second.flatten(1) @ w["6.weight"].T + w["6.bias"]).clamp_min(0)
    return {"0": first.flatten(2), "3": second.flatten(2), "6": third[..., None]}


def dormant_by_hand(model: nn.Sequential, inputs: Tensor, tau: float) -> dict[str, list[bool]]:
    found = {}
    for name, h in read_by_the_next(model, inputs).items():
        sizes = [float(sum(abs(v) for v in h[:, unit].flatten().tolist())) for unit in range(h.shape[1])]
        mean = sum(sizes) / len(sizes)
        found[name] = [size <= tau * mean for size in sizes]
    return found


def units_reset(model: nn.Module) -> dict[str, list[bool]]:
    groups = groups_of(model, images(2)[0])
    return {group.name: silent_units(group, model.state_dict()).tolist() for group in groups}


@pytest.mark.slow
@pytest.mark.parametrize("tau", [0.0, 0.6, 1.0])
def test_redo_resets_what_is_dormant_on_all_samples_together(tau: float) -> None:
    model = flat()
    with torch.no_grad():
        model[3].bias[1] = -100.0
    batches = images(7, 2, 4)
    expected = dormant_by_hand(model.eval(), torch.cat([inputs for inputs, _ in batches]), tau)
    assert sum(expected["3"]) >= 1
    forgetkit.unlearn(model, batches, reinit=Redo(tau))
    assert units_reset(model) == expected


def test_redo_looks_at_no_more_samples_than_it_was_told() -> None:
    model, batches = flat(), images(7, 2, 4)
    expected = dormant_by_hand(model.eval(), batches[0][0][:3], 0.7)
    assert expected != dormant_by_hand(model, torch.cat([inputs for inputs, _ in batches]), 0.7)
    forgetkit.unlearn(model, batches, reinit=Redo(0.7, samples=3))
    assert units_reset(model) == expected


@pytest.mark.slow
def test_every_sample_counts_once_for_any_batches() -> None:
    few, one = images(9)[0], images(1)[0]
    batches = [few, (one[0] * 5, one[1])]
    for tau in (0.5, 0.6, 0.7, 0.8, 0.9, 1.0, 1.1, 1.2):
        model = flat()
        expected = dormant_by_hand(model.eval(), torch.cat([inputs for inputs, _ in batches]), tau)
        forgetkit.unlearn(model, batches, reinit=Redo(tau))
        assert units_reset(model) == expected


def test_activity_below_zero_is_activity() -> None:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(5, 12), nn.Tanh(), nn.Linear(12, 3))
    (batch,) = vectors(9)
    h = torch.tanh(batch[0] @ model[0].weight.detach().T + model[0].bias.detach())
    sizes = [sum(abs(v) for v in h[:, unit].tolist()) for unit in range(12)]
    expected = [size <= 0.9 * sum(sizes) / 12 for size in sizes]
    assert 0 < sum(expected) < 12
    forgetkit.unlearn(model, [batch], reinit=Redo(0.9))
    assert (model[2].weight == 0).all(0).tolist() == expected


def test_a_group_that_is_silent_altogether_is_dormant() -> None:
    model = flat()
    with torch.no_grad():
        model[3].bias.fill_(-100.0)
    forgetkit.unlearn(model, images(5), reinit="redo:tau=0")
    assert all(units_reset(model)["3"])


def test_without_dormant_units_nothing_is_reset() -> None:
    model = flat()
    with torch.no_grad():
        model[6].bias.fill_(2.0)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    before = Snapshot.of(model, optimizer)
    report = forgetkit.unlearn(model, images(20), reinit=Redo(1e-9), optimizer=optimizer)
    assert report.reset == 0
    assert set(report.layers) == {"0.weight", "3.weight", "6.weight"}
    after = Snapshot.of(model, optimizer)
    assert all(torch.equal(before.tensors[name], value) for name, value in after.tensors.items())


def test_redo_while_training_acts_at_every_third_step() -> None:
    model = flat()
    with torch.no_grad():
        model[3].bias[1] = -100.0
    loop = Loop(model, RedoWhileTraining(every=3, tau=0.3), torch.optim.SGD(model.parameters(), lr=0.0))
    for number, batch in enumerate(images(5, 5, 5, 5, 5, 5, 5), 1):
        loop.train([batch], begin=number == 1)
        before, after = loop.before.seen[-1].tensors, loop.after.seen[-1].tensors
        changed = any(not torch.equal(value, after[name]) for name, value in before.items())
        assert changed == (number == 3) or number == 6
        if number == 3:
            was = flat()
            was.load_state_dict(before)
            inputs = batch[0]
            with torch.no_grad():  # in training mode: statistics of the batch
                x = was[0](inputs)
                was[1].running_mean.copy_(x.mean((0, 2, 3)))
                was[1].running_var.copy_(x.var((0, 2, 3), unbiased=False))
            assert units_reset(model) == dormant_by_hand(was, inputs, 0.3)
    assert int(loop.state["steps"]) == 7


UTILITIES = ["contribution", "zero-contribution", "adaptable", "adaptation", "weight"]


def worth_by_hand(utility: str, h: Tensor, mean: list[float], into: Tensor, out: Tensor) -> list[float]:
    """Of each unit, in a step: ``h`` (samples, units), weights with the units in rows and in columns."""
    found = []
    for i in range(h.shape[1]):
        column = [abs(v) for v in out[:, i].double().tolist()]
        row = [abs(v) for v in into[i].double().tolist()]
        w_out, w_in = sum(column) / len(column), sum(row) / len(row)
        values = h[:, i].double().tolist()
        size = sum(abs(v) for v in values) / len(values)
        spread = sum(abs(v - mean[i]) for v in values) / len(values)
        found.append(
            {
                "contribution": size * w_out,
                "zero-contribution": spread * w_out,
                "adaptable": spread * w_out / w_in,
                "adaptation": 1 / w_in,
                "weight": w_out,
            }[utility]
        )
    return found


@pytest.mark.parametrize("utility", UTILITIES)
def test_continual_backprop_by_a_loop(utility: Any) -> None:
    rate, maturity, decay = 0.11, 3, 0.8
    model = mlp()
    component = ContinualBackprop(rate, maturity, utility, decay, mean="drop")
    loop = Loop(model, component)
    heard: dict[str, Tensor] = {}
    for name in ("2", "4"):  # what these read
        model.get_submodule(name).register_forward_pre_hook(lambda _, x, name=name: heard.update({name: x[0].detach()}))
    ages, utilities, means = (defaultdict(lambda: [0.0] * 6) for _ in range(3))
    owed = {"0": 0.0, "2": 0.0}
    restarts = 0
    for number, batch in enumerate(vectors(*[8] * 25)):
        loop.train([batch], begin=number == 0)
        before, after = loop.before.seen[-1].tensors, loop.after.seen[-1].tensors
        for name, reader, size in (("0", "2", 6), ("2", "4", 4)):
            h = heard[reader]
            for i in range(size):
                ages[name][i] += 1
                means[name][i] = decay * means[name][i] + (1 - decay) * float(h[:, i].double().mean())
            corrected = [m / (1 - decay**a) if a else 0.0 for m, a in zip(means[name], ages[name], strict=True)]
            now = worth_by_hand(utility, h, corrected, before[f"{name}.weight"], before[f"{reader}.weight"])
            for i in range(size):
                utilities[name][i] = decay * utilities[name][i] + (1 - decay) * now[i]
            mature = [i for i in range(size) if ages[name][i] > maturity]
            owed[name] += rate * len(mature)
            due = int(owed[name])
            owed[name] -= due
            worst = sorted(mature, key=lambda i: utilities[name][i] / (1 - decay ** ages[name][i]))[:due]
            for i in worst:
                ages[name][i] = utilities[name][i] = means[name][i] = 0.0
            restarts += len(worst)
            fresh = (before[f"{name}.weight"] != after[f"{name}.weight"]).any(1)
            gone = (after[f"{reader}.weight"] == 0).all(0) & (before[f"{reader}.weight"] != 0).any(0)
            assert gone.nonzero().flatten().tolist() == sorted(worst)
            assert set(worst) <= set(fresh.nonzero().flatten().tolist())
            assert loop.state[f"age of {name}"].tolist() == ages[name][:size]
    assert restarts >= 12


@pytest.mark.slow
def test_random_utility_is_drawn_from_a_stream_of_its_own() -> None:
    def trained(noise: int, seed: int) -> dict[str, Tensor]:
        model = mlp()
        loop = Loop(model, ContinualBackprop(0.3, 1, "random"), seed=seed)
        torch.manual_seed(noise)
        return loop.train(vectors(*[4] * 8)).model.state_dict()

    same = [torch.equal(a, b) for a, b in zip(trained(1, 0).values(), trained(2, 0).values(), strict=True)]
    assert all(same)
    assert not torch.equal(trained(1, 0)["0.weight"], trained(1, 5)["0.weight"])


def test_the_mean_of_a_removed_unit_is_handed_on() -> None:
    """To the biases of its readers, by the weights that they read it with; one that is restarted too says nothing."""
    decay, model = 0.8, flat()
    with torch.no_grad():
        model[6].bias.fill_(2.0)
    loop = Loop(model, ContinualBackprop(0.4, 2, decay=decay))
    heard: dict[str, Tensor] = {}
    for name in ("3", "6", "8"):
        model.get_submodule(name).register_forward_pre_hook(lambda _, x, name=name: heard.update({name: x[0].detach()}))
    means: dict[str, Tensor] = {}
    for number, batch in enumerate(images(6, 6, 6), 1):
        loop.train([batch], begin=number == 1)
        for name, units in (("3", 3), ("6", 4), ("8", 5)):
            now = heard[name].double().reshape(6, units, -1).mean((0, 2))
            means[name] = decay * means.get(name, 0 * now) + (1 - decay) * now
    before, after = loop.before.seen[-1].tensors, loop.after.seen[-1].tensors
    gone = {name: (after[f"{name}.weight"] == 0).flatten(2).all(2).all(0) for name in ("3",)}
    gone["6"] = (after["6.weight"] == 0).all(0).view(4, 4).all(1)
    gone["8"] = (after["8.weight"] == 0).all(0)
    assert {name: int(units.sum()) for name, units in gone.items()} == {"3": 1, "6": 1, "8": 2}
    for name, own in (("3", "6"), ("6", "8"), ("8", None)):
        wanted = before[f"{name}.bias"].double()
        by_unit = before[f"{name}.weight"].double().reshape(len(wanted), len(gone[name]), -1).sum(2)
        for unit in gone[name].nonzero().flatten().tolist():
            wanted = wanted + by_unit[:, unit] * means[name][unit] / (1 - decay**3)
        if own is not None:
            wanted = torch.where(gone[own], 0.0, wanted)
        torch.testing.assert_close(after[f"{name}.bias"].double(), wanted)
        assert bool((after[f"{name}.bias"] != before[f"{name}.bias"]).all())


def edges(limit: int) -> list[int]:
    return sorted({0, limit} | {int(2 ** (k / 8)) for k in range(200) if int(2 ** (k / 8)) < limit})


@pytest.mark.slow
@pytest.mark.parametrize("quantile", [0.7, 0.95])
def test_self_normalized_resets_by_a_loop(quantile: float) -> None:
    limit, refresh = 40, 2
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(5, 5), nn.ReLU(), nn.Linear(5, 3))
    with torch.no_grad():
        model[0].weight.copy_(torch.eye(5))
        model[0].bias.copy_(torch.tensor([0.0, -1.5, -2.2, -2.6, -100.0]))
    component = SelfNormalizedResets(quantile, limit, refresh)
    loop = Loop(model, component, torch.optim.SGD(model.parameters(), lr=0.0))
    silent, bounds = [0] * 5, [float(limit)] * 5
    streaks: list[list[float]] = [[] for _ in range(5)]
    batches = vectors(*[4, 7] * 90)
    resets, renewed = 0, set()
    for number, batch in enumerate(batches):
        was = copy.deepcopy(model)
        loop.train([batch], begin=number == 0)  # each an epoch
        for sample in was[:2](batch[0]):
            for i in range(5):
                if sample[i] > 0:
                    streaks[i].append(silent[i] if silent[i] <= limit else math.inf)
                    silent[i] = 0
                else:
                    silent[i] += 1
        due = [i for i in range(5) if silent[i] > max(bounds[i], len(batch[0]))]
        for i in due:
            silent[i] = 0
            streaks[i].append(math.inf)
        resets += len(due)
        changed = (was[0].weight != model[0].weight).any(1).nonzero().flatten().tolist()
        assert changed == due
        if (number + 1) % refresh == 0:
            for i in range(5):
                enough = [e for e in edges(limit) if sum(s <= e for s in streaks[i]) >= quantile * len(streaks[i])]
                bounds[i] = min(limit, enough[0] if enough and streaks[i] else 2 * bounds[i])
                renewed.add(bounds[i])
        assert loop.state["bound of 0"].tolist() == bounds
        assert loop.state["silent of 0"].tolist() == silent
    assert resets >= 8
    assert len(renewed) >= 4


@pytest.mark.slow
@pytest.mark.parametrize("quantile", [0.7, 0.95])
def test_streaks_of_batches_as_in_the_released_code(quantile: float) -> None:
    """Ages by whole batches, a histogram of them that is emptied, and a restart as soon as the bound is reached."""
    limit, refresh, size = 60, 6, 4
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(5, 5), nn.ReLU(), nn.Linear(5, 3))
    with torch.no_grad():
        model[0].weight.copy_(torch.eye(5))
        model[0].bias.copy_(torch.tensor([3.0, -1.2, -1.8, -2.4, -100.0]))
    component = SelfNormalizedResets(quantile, limit, refresh, streaks="batches")
    loop = Loop(model, component, torch.optim.SGD(model.parameters(), lr=0.0))
    ages, bounds = [0] * 5, [limit] * 5
    histogram = [[0] * (limit + 1) for _ in range(5)]
    at_the_bound, renewed = 0, set()
    for number, batch in enumerate(vectors(*[size] * 120)):
        was = copy.deepcopy(model)
        loop.train([batch], begin=number == 0)  # each an epoch
        fires = (was[:2](batch[0]) > 0).any(0).tolist()
        for i in range(5):
            if fires[i]:
                histogram[i][ages[i]] += 1
            ages[i] = 0 if fires[i] else ages[i] + size
        due = [i for i in range(5) if ages[i] >= bounds[i]]
        for i in due:
            at_the_bound += ages[i] == bounds[i]
            if ages[i] <= limit:
                histogram[i][ages[i]] += 1
            ages[i] = 0
        assert (was[0].weight != model[0].weight).any(1).nonzero().flatten().tolist() == due
        if (number + 1) % refresh == 0:
            for i in range(5):
                counts, total = histogram[i][1:], sum(histogram[i][1:])
                reached = [k + 1 for k in range(limit) if total and sum(counts[: k + 1]) / total >= quantile]
                wanted = reached[0] if reached else 1
                bounds[i] = max(size, min(wanted if wanted < bounds[i] else 2 * bounds[i], limit))
                renewed.add(bounds[i])
                histogram[i] = [0] * (limit + 1)
        assert loop.state["bound of 0"].clamp_min(size).tolist() == bounds
        assert loop.state["silent of 0"].tolist() == ages
    assert at_the_bound >= 4
    assert len(renewed) >= 3


def test_streaks_are_counted_within_nine_per_cent() -> None:
    from forgetkit_plasticity.self_normalized_resets import _edges

    found = _edges(20_000).tolist()
    assert found == edges(20_000)
    assert found[:12] == list(range(12))
    assert all(b / (a + 1) < 1.091 for a, b in pairwise(found))
    assert _edges(1).tolist() == [0, 1]
