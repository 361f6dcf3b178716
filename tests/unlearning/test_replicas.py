"""Replicas see the same batches, forget the same, and fail together: three real processes, over gloo."""

from __future__ import annotations

import copy
import hashlib
import json
import os
import random
import subprocess
import sys
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import torch
from helpers.ranks import SIZE, Ranks
from torch import Tensor, distributed, nn
from torch.nn.functional import cross_entropy
from torch.nn.parallel import DistributedDataParallel
from torch.utils.data import DataLoader, TensorDataset

import forgetkit
from forgetkit.contracts import Intervention
from forgetkit.errors import ForgetkitError, OptionError

pytestmark = pytest.mark.children

Answer = tuple[str, Any]


@pytest.fixture(scope="module")
def ranks(tmp_path_factory) -> Iterator[Ranks]:
    made = Ranks(tmp_path_factory.mktemp("ranks"))
    yield made
    made.close()


def network(seed: int = 0) -> nn.Sequential:
    torch.manual_seed(seed)
    return nn.Sequential(nn.Linear(6, 8), nn.BatchNorm1d(8), nn.ReLU(), nn.Linear(8, 3))


def data(rank: int, batches: int = 3, size: int = 4) -> list[tuple[Tensor, Tensor]]:
    rng = torch.Generator().manual_seed(100 + rank)
    return [(torch.randn(size, 6, generator=rng), torch.randint(0, 3, (size,), generator=rng)) for _ in range(batches)]


def in_turn(parts: list[list[Any]]) -> list[Any]:
    """The first batch of each process, then the second of each."""
    longest = max(map(len, parts), default=0)
    return [part[at] for at in range(longest) for part in parts if at < len(part)]


def digest(model: nn.Module) -> str:
    tensors = [*model.named_parameters(), *model.named_buffers()]
    return hashlib.sha256(b"".join(t.detach().numpy().tobytes() for _, t in tensors)).hexdigest()


def state_digest(optimizer: torch.optim.Optimizer) -> str:
    values = [v for state in optimizer.state.values() for v in state.values() if isinstance(v, Tensor)]
    return hashlib.sha256(b"".join(v.detach().numpy().tobytes() for v in values)).hexdigest()


def five_forgettings(rank: int, importance: str, reinit: str) -> list[tuple[str, str, str, str]]:
    """Digests after each: of the replica, its optimizer's state, and of one process that forgot with all batches."""
    torch.manual_seed(1000 + rank)
    random.seed(rank)
    model = DistributedDataParallel(network())
    optimizer = torch.optim.Adam(model.parameters(), lr=0.01)
    inputs, targets = (torch.cat(column) for column in zip(*data(rank, 5 - rank), strict=True))
    loader = DataLoader(TensorDataset(inputs, targets), batch_size=4)
    found = []
    for seed in range(5):
        for _ in range(2):
            for batch, labels in data(10 * seed + rank):
                optimizer.zero_grad()
                cross_entropy(model(batch), labels).backward()
                optimizer.step()
        alone = copy.deepcopy(model.module)
        own = torch.optim.Adam(alone.parameters(), lr=0.01)
        own.load_state_dict(copy.deepcopy(optimizer.state_dict()))
        for buffer in alone.buffers():
            distributed.broadcast(buffer, 0)
        everything = in_turn([data(other, 5 - other) for other in range(SIZE)])
        forgetkit.unlearn(alone, everything, importance=importance, reinit=reinit, optimizer=own, seed=seed)
        forgetkit.unlearn(model, loader, importance=importance, reinit=reinit, optimizer=optimizer, seed=seed)
        found.append((digest(model.module), state_digest(optimizer), digest(alone), state_digest(own)))
    return found


@pytest.mark.parametrize(
    ("importance", "reinit"),
    [
        ("snip", "masked:fraction=0.3"),
        ("snip:samples=18,reduce=per-sample", "masked:fraction=0.3,norm=skip"),
        ("fisher:variant=sampled,samples=0.5", "masked:fraction=0.3"),
        pytest.param(None, "cold", marks=pytest.mark.long),
        (None, "llf"),
        pytest.param(None, "shrink-perturb", marks=pytest.mark.long),
    ],
)
def test_five_forgettings_with_training_between(ranks, importance, reinit):
    answers = ranks(five_forgettings, range(SIZE), [importance] * SIZE, [reinit] * SIZE)
    assert answers[0] == answers[1] == answers[2]
    assert all(found[:2] == found[2:] for found in answers[0])
    assert len({found[0] for found in answers[0]}) == 5


@dataclass(frozen=True)
class Looks:
    """A criterion of a third party: needs the whole of each batch, and draws."""

    samples: int | None = None

    def score(self, probe: Any) -> Mapping[str, Tensor]:
        total = probe.zeros()
        for inputs, targets in probe.batches(self.samples):
            outputs = probe.outputs(inputs)
            weight = float(outputs.softmax(1).max()) * float(torch.rand((), generator=probe.rng))
            for name, grad in probe.grads(inputs, targets).items():
                total[name] += weight * grad.abs()
        return total


def uneven(rank: int, how: str) -> tuple[str, str]:
    """Plain replicas with group=, and batches of which some processes have none."""
    torch.manual_seed(rank)
    model, alone = network(), network()
    parts = {
        "none": [data(0), [], data(2, 1)],
        "generator": [data(other) for other in range(SIZE)],
        "equal": [data(0)] * SIZE,
        "sizes": [data(other, 2, 3 + other) for other in range(SIZE)],
    }[how]
    expected = data(0) if how == "equal" else in_turn(parts)
    batches: Any = (batch for batch in parts[rank]) if how == "generator" else parts[rank]
    for given, target, group in ((batches, model, True), (expected, alone, None)):
        forgetkit.unlearn(target, given, importance=Looks(7), reinit="masked:fraction=0.4", seed=3, group=group)
    return digest(model), digest(alone)


@pytest.mark.parametrize("how", ["none", "generator", "equal", "sizes"])
def test_any_criterion_on_uneven_batches(ranks, how):
    answers = ranks(uneven, range(SIZE), [how] * SIZE)
    assert len({found for answer in answers for found in answer}) == 1


@dataclass(frozen=True)
class Breaks:
    """Fails, or scores by itself, in one process."""

    how: str
    rank: int
    samples: int | None = None

    def score(self, probe: Any) -> Mapping[str, Tensor]:
        here = distributed.get_rank() == self.rank
        if here and self.how == "early":
            raise RuntimeError("broken\nin two lines")
        if here and self.how == "stops reading":
            return {name: target.abs() for name, target in probe.targets.items()}
        grads = probe.mean_grads()
        if here and self.how == "late":
            raise RuntimeError("broken")
        factor = -1 if here and self.how == "differs" else 1
        return {name: factor * (grad.abs() + probe.targets[name].abs()) for name, grad in grads.items()}


class BrokenLoader:
    """Breaks after one batch."""

    def __iter__(self) -> Iterator[Any]:
        yield data(0)[0]
        raise OSError("the disk is gone")


def failing(rank: int, how: str) -> tuple[bool, Any]:
    model = network()
    with torch.no_grad():
        model[1].running_mean.fill_(rank)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9)
    cross_entropy(model(data(7)[0][0]), data(7)[0][1]).backward()
    optimizer.step()
    before = copy.deepcopy(model.state_dict()), copy.deepcopy(optimizer.state_dict())
    batches: Any = BrokenLoader() if how == "loader" and rank == 1 else data(rank)
    importance: Any = "magnitude:scale=1" if how == "spec" and rank == 1 else Breaks(how, 1)
    seed = rank if how == "seed" else 0
    reinit: Any = "masked:fraction=0.2"
    if how == "option" and rank == 1:
        reinit = "masked:fraction=0.3"
    if how == "requires grad" and rank == 1:
        model[0].bias.requires_grad_(False)
    if how == "apart" and rank == 1:
        with torch.no_grad():
            model[3].weight[0, 0] += 1
        before[0]["3.weight"][0, 0] += 1
    followers = [nn.Linear(2, 2)] if how == "argument" and rank == 1 else None
    try:
        forgetkit.unlearn(
            model,
            batches,
            importance=importance,
            reinit=reinit,
            optimizer=optimizer,
            seed=seed,
            group=True,
            followers=followers,
        )
        answer: Any = None
    except ForgetkitError as error:
        answer = error
    same = all(torch.equal(value, model.state_dict()[name]) for name, value in before[0].items())
    old, new = before[1]["state"], optimizer.state_dict()["state"]
    same = same and all(torch.equal(old[key]["momentum_buffer"], new[key]["momentum_buffer"]) for key in old)
    return same, answer


@pytest.mark.parametrize(
    ("how", "reason"),
    [
        ("argument", "follower 1 is another network"),
        ("early", "broken"),
        ("late", "broken"),
        ("loader", "the disk is gone"),
        ("spec", "scale"),
        ("stops reading", "read as many batches in all of them"),
        ("differs", "process 1 of the group's 3 would end with other parameters than process 0"),
        ("seed", "replicas of one network and call this with different options"),
        ("option", "fraction=0.3"),
        ("requires grad", "requires_grad"),
        ("apart", "replicas, or give each its own seed= if they are parts"),
    ],
)
def test_all_fail_or_none(ranks, how, reason):
    answers = ranks(failing, range(SIZE), [how] * SIZE)
    assert all(same for same, _ in answers)
    errors = [error for _, error in answers]
    assert all(isinstance(error, ForgetkitError) for error in errors), errors
    assert all("\n" not in str(error) for error in errors)
    assert reason in str(errors[1])
    if how in ("early", "late", "loader", "spec"):
        assert str(errors[0]) == str(errors[2]) == "process 1 of the group's 3 failed; its own message says why"
    assert ranks(uneven, range(SIZE), ["sizes"] * SIZE)[0]  # and the group goes on


def wrapped_apart(rank: int) -> str:
    model = DistributedDataParallel(network())
    with torch.no_grad():
        model.module[0].weight[0, 0] += rank
    try:
        forgetkit.unlearn(model, importance="magnitude", seed=rank)
    except ForgetkitError as error:
        return str(error)
    return ""


def test_replicas_that_have_come_apart(ranks):
    answers = ranks(wrapped_apart, range(SIZE))
    assert set(answers) == {
        "the replicas have come apart: process 1 of the group's 3 holds other parameters than process 0; load the same "
        "checkpoint in all of them"
    }


def scored(rank: int) -> tuple[bool, bool]:
    """Whether scores of a wrapped network are those of all batches, and whether its buffers stay its own."""
    model = DistributedDataParallel(network(), broadcast_buffers=False)
    with torch.no_grad():
        model.module[1].running_mean.fill_(rank)
    alone = network()
    everything = in_turn([data(other) for other in range(SIZE)])
    with torch.no_grad():
        alone[1].running_mean.fill_(0)
    expected = forgetkit.score(alone, everything)
    found = forgetkit.score(model, data(rank))
    own = bool((model.module[1].running_mean == rank).all())
    return all(torch.equal(found[name], score) for name, score in expected.items()), own


def test_scores_of_replicas(ranks):
    assert ranks(scored, range(SIZE)) == [(True, True)] * SIZE


def grouped_otherwise(rank: int) -> str:
    pair = distributed.new_group([0, 1])
    model = DistributedDataParallel(network())
    try:
        forgetkit.unlearn(model, importance="magnitude", group=pair)
    except OptionError as error:
        return str(error)
    return ""


def test_another_group_than_that_of_the_wrapper(ranks):
    answers = ranks(grouped_otherwise, range(SIZE))
    assert all("[0, 1, 2]" in answer or "not in the group" in answer for answer in answers)


@dataclass(frozen=True)
class Silencer(Intervention):
    """Reset the unit that is least active in the step's batch, and perhaps fail or differ in one process."""

    how: str = ""
    needs_activity = True

    def after_step(self, moment: Any) -> None:
        for group, activity in moment.activity.items():
            moment.state[f"samples {group}"] = torch.tensor(len(activity))
            with moment.context.probe() as probe:
                seen = sum(len(targets) for _, targets in probe.batches())
            moment.state[f"probed {group}"] = torch.tensor(seen)
            least = activity.abs().mean((0, 2)).argmin()
            if self.how == "differs" and distributed.get_rank() == 1:
                least = (least + 1) % activity.shape[1]
            mask = torch.arange(activity.shape[1]) == least
            moment.apply(moment.context.reset_units({group: mask}))
        if self.how == "fails" and distributed.get_rank() == 1:
            raise RuntimeError("broken")


def attached(rank: int, component: str, size: int) -> Any:
    """Digests after each step of training with a component, or what was raised."""
    torch.manual_seed(rank)
    components: list[Any] = [Silencer(component)] if component in ("", "fails", "differs") else [component]
    model = DistributedDataParallel(network())
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9)
    try:
        watching = forgetkit.attach(model, optimizer, components, seed=5)
        watching.begin(*data(rank)[0])
        digests = []
        for inputs, targets in data(rank, 6, size + rank):
            with watching.step(inputs, targets) as step:
                loss = cross_entropy(model(inputs), targets) + step.loss()
                optimizer.zero_grad()
                loss.backward()
                step.before()
                optimizer.step()
            for buffer in model.module.buffers():
                distributed.broadcast(buffer, 0)  # as its next forward pass does
            digests.append(digest(model.module))
        watching.after_epoch()
    except ForgetkitError as error:
        return str(error)
    (stored,) = [one["state"] for one in watching.state_dict()["components"]]
    return digests, {name: int(value.sum()) for name, value in stored.items() if "samples" in name or "probed" in name}


@pytest.mark.parametrize("component", ["", "redo:every=2,tau=0.5", "continual-backprop", "l2-init"])
def test_interventions_act_alike(ranks, component):
    answers = ranks(attached, range(SIZE), [component] * SIZE, [4] * SIZE)
    assert not isinstance(answers[0], str), answers[0]
    assert answers[0] == answers[1] == answers[2]
    assert len(set(answers[0][0])) == 6
    if not component:
        assert set(answers[0][1].values()) == {4 + 5 + 6}


@pytest.mark.parametrize(("component", "reason"), [("fails", "broken"), ("differs", "other parameters")])
def test_interventions_fail_together(ranks, component, reason):
    answers = ranks(attached, range(SIZE), [component] * SIZE, [4] * SIZE)
    assert all(isinstance(answer, str) and "\n" not in answer for answer in answers)
    assert reason in answers[1]
    assert "process 1 of the group's 3" in answers[0]


def test_under_torchrun():
    script = Path(__file__).parents[1] / "helpers" / "torchrun_replicas.py"
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "3", str(script)]
    done = subprocess.run(
        command, check=False, capture_output=True, text=True, env={**os.environ, "OMP_NUM_THREADS": "1"}
    )
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout) == [True] * 5
