"""FSDP2 and DTensor: masks and values of one process, in parts; three real processes, over gloo."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import pytest
import torch
from helpers.ranks import SIZE, Ranks
from torch import Tensor, distributed, nn
from torch.distributed.device_mesh import DeviceMesh, init_device_mesh
from torch.distributed.fsdp import FSDPModule, FullyShardedDataParallel, MixedPrecisionPolicy, fully_shard
from torch.distributed.tensor import DTensor, Partial, Shard, distribute_tensor
from torch.distributed.tensor.parallel import ColwiseParallel, RowwiseParallel, parallelize_module
from torch.nn.functional import cross_entropy

import forgetkit
from forgetkit.contracts import Probe
from forgetkit.errors import ForgetkitError

pytestmark = pytest.mark.children

NEAR = 1e-6


@pytest.fixture(scope="module")
def ranks(tmp_path_factory) -> Iterator[Ranks]:
    made = Ranks(tmp_path_factory.mktemp("ranks"))
    yield made
    made.close()


def network(width: int = 7) -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Linear(6, width), nn.BatchNorm1d(width), nn.ReLU(), nn.Linear(width, 4), nn.LayerNorm(4), nn.Linear(4, 2)
    )


def data(rank: int, batches: int = 3, size: int = 4) -> list[tuple[Tensor, Tensor]]:
    rng = torch.Generator().manual_seed(100 + rank)
    return [(torch.randn(size, 6, generator=rng), torch.randint(0, 2, (size,), generator=rng)) for _ in range(batches)]


def everything() -> list[tuple[Tensor, Tensor]]:
    return [data(rank)[at] for at in range(3) for rank in range(SIZE)]


def sharded(model: nn.Sequential, how: str) -> nn.Sequential:
    """Uneven parts, and ranks without entries: 7, 4 and 2 rows for 3 processes."""
    if how == "hsdp":
        mesh = init_device_mesh("cpu", (SIZE, 1), mesh_dim_names=("replicate", "shard"))
    else:
        mesh = init_device_mesh("cpu", (SIZE,))
    if how == "tensor parallel":
        return parallelize_module(model, mesh, {"3": RowwiseParallel(), "0": ColwiseParallel(use_local_output=True)})
    if how == "second dimension":
        for module in (model[0], model[3]):
            module.weight = nn.Parameter(distribute_tensor(module.weight.detach(), mesh, [Shard(1)]))
        return model
    policy = {"mp_policy": MixedPrecisionPolicy(param_dtype=torch.bfloat16)} if how == "mixed precision" else {}
    for module in (model[0], model[3]) if how != "root" else ():
        fully_shard(module, mesh=mesh, **policy)
    return fully_shard(model, mesh=mesh, **policy)


def whole(tensor: Tensor) -> Tensor:
    tensor = tensor.detach()
    return tensor.full_tensor() if isinstance(tensor, DTensor) else tensor


def wholes(model: nn.Module) -> dict[str, Tensor]:
    for module in model.modules():
        if isinstance(module, FSDPModule):
            module.reshard()
    return {name: whole(p) for name, p in model.named_parameters()}


def build(how: str, ties: bool) -> tuple[nn.Sequential, nn.Sequential]:
    """A network in one process and the same in parts."""
    width = 12 if how == "tensor parallel" else 7
    alone, model = network(width), network(width)
    if how == "tensor parallel":  # batch normalisation would see a part of the features
        alone[1], model[1] = nn.Identity(), nn.Identity()
    for one in (alone, model):
        with torch.no_grad():
            for at in (0, 3) if ties else ():
                one[at].weight.mul_(one[at].weight.abs() > 0.2)
    return alone, sharded(model, how)


def step(model: nn.Module, optimizer: torch.optim.Optimizer) -> None:
    inputs, targets = data(9)[0]
    cross_entropy(model.eval()(inputs), targets).backward()
    optimizer.step()
    model.train()


def compared(rank: int, how: str, importance: str | None, reinit: str) -> dict[str, Any]:
    """What differs from one process: entries, counts of the report, gradients, the optimizer's state."""
    torch.manual_seed(rank)
    alone, model = build(how, "ties" in reinit)
    adams = [torch.optim.Adam(one.parameters(), lr=0.01) for one in (alone, model)]
    runs = how != "second dimension"
    if runs:
        for one, adam in zip((alone, model), adams, strict=True):
            step(one, adam)
    with torch.no_grad():
        for p, value in zip(alone.parameters(), wholes(model).values(), strict=True):
            p.copy_(value)
    grads = {name: None if p.grad is None else whole(p.grad).clone() for name, p in model.named_parameters()}
    same_batches = how == "tensor parallel"
    needs_data = importance not in (None, "magnitude", "random") or reinit in ("llf", "rifle")
    given = [(data(0) if same_batches else everything()), (data(0) if same_batches else data(rank))]
    scores = {}
    if importance is not None:
        scores = forgetkit.score(alone, given[0] if needs_data else None, importance=importance, seed=3)
    reports = [
        forgetkit.unlearn(
            one, batches if needs_data else None, importance=importance, reinit=reinit, optimizer=adam, seed=3
        )
        for one, batches, adam in zip((alone, model), given, adams, strict=True)
    ]
    new, apart, near = wholes(model), 0, 0
    for name, p in alone.named_parameters():
        differs = new[name] != p
        apart += int(differs.sum())
        if importance is not None and reports[0].threshold is not None:
            close = (scores[name] - reports[0].threshold).abs() <= NEAR * abs(reports[0].threshold)
            near += int((differs & close).sum())
    left = [p.grad for p in model.parameters()]
    kept = all(
        (grad is None and old is None) or torch.equal(whole(grad), old)
        for grad, old in zip(left, grads.values(), strict=True)
    )
    states = [
        [whole(adam.state[p]["exp_avg"]) != 0 for p in one.parameters() if "exp_avg" in adam.state.get(p, {})]
        for one, adam in zip((alone, model), adams, strict=True)
    ]
    if runs:
        step(model, adams[1])  # and the network trains on
    first, second = reports
    return {
        "far": apart - near,
        "near": near,
        "grads": kept,
        "state": all(torch.equal(a, b) for a, b in zip(*states, strict=True)),
        "reset": first.reset == second.reset,
        "changed": abs(first.changed - second.changed) <= near,
        "cleared": first.optimizer_cleared == second.optimizer_cleared,
        "layers": {n: v.size for n, v in first.layers.items()} == {n: v.size for n, v in second.layers.items()},
        "tied": first.tied == second.tied,
    }


RIGHT = {
    "far": 0,
    "near": 0,
    "grads": True,
    "state": True,
    "reset": True,
    "changed": True,
    "cleared": True,
    "layers": True,
    "tied": True,
}


@pytest.mark.parametrize("how", ["layers", "hsdp", "tensor parallel", "second dimension"])
@pytest.mark.parametrize(
    ("importance", "reinit"),
    [
        ("magnitude", "masked:fraction=0.3,ties=random"),
        pytest.param("magnitude", "masked:fraction=0.3,ties=stable", marks=pytest.mark.long),
        pytest.param("random", "masked:fraction=0.3,which=highest", marks=pytest.mark.long),
        (None, "cold"),
        (None, "shrink-perturb:draw=gaussian"),
    ],
)
def test_without_data_to_the_bit(ranks, how, importance, reinit):
    answers = ranks(compared, range(SIZE), [how] * SIZE, [importance] * SIZE, [reinit] * SIZE)
    assert answers == [RIGHT] * SIZE


@pytest.mark.parametrize("how", ["layers", "tensor parallel"])
@pytest.mark.parametrize(
    ("importance", "reinit"),
    [
        ("snip", "masked:fraction=0.3"),
        pytest.param("snip:reduce=per-sample", "masked:fraction=0.3", marks=pytest.mark.long),
        ("fisher:variant=exact", "masked:fraction=0.3"),
        (None, "llf"),
        pytest.param(None, "rifle", marks=pytest.mark.long),
    ],
)
def test_with_data_but_for_entries_at_the_threshold(ranks, how, importance, reinit):
    answers = ranks(compared, range(SIZE), [how] * SIZE, [importance] * SIZE, [reinit] * SIZE)
    assert [{**answer, "near": 0} for answer in answers] == [RIGHT] * SIZE


def scored(rank: int) -> tuple[bool, bool]:
    """Whether scores lie in the parts of the parameters, and whether they are those of one process."""
    alone, model = build("layers", ties=False)
    expected, found = forgetkit.score(alone, everything()), forgetkit.score(model, data(rank))
    parameters = dict(model.named_parameters())
    placed = all(score.placements == parameters[name].placements for name, score in found.items())
    return placed, all(torch.allclose(whole(found[name]), score, atol=1e-7) for name, score in expected.items())


def test_scores(ranks):
    assert ranks(scored, range(SIZE)) == [(True, True)] * SIZE


def rewound(rank: int) -> bool:
    """Back to initial values that lie in parts, with a follower in the same parts."""
    model, follower = (build("layers", ties=False)[1] for _ in range(2))
    start = {name: value.clone() for name, value in model.state_dict().items()}
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    step(model, optimizer)
    forgetkit.unlearn(model, importance="random", reinit="masked:fraction=1,fresh=rewind", initial=start)
    forgetkit.unlearn(model, reinit="cold", seed=4, followers=[follower])
    same = all(torch.equal(a, wholes(follower)[name]) for name, a in wholes(model).items())
    forgetkit.unlearn(model, reinit="cold:draw=same", initial=start)
    return same and all(torch.equal(value, whole(start[name])) for name, value in wholes(model).items())


def test_initial_values_and_followers_in_parts(ranks):
    assert ranks(rewound, range(SIZE)) == [True] * SIZE


class Stops(nn.Module):
    """Fails if it is told to."""

    broken = False

    def forward(self, inputs: Tensor) -> Tensor:
        if self.broken:
            raise ValueError("broken\nin two lines")
        return inputs


def refusal(rank: int, how: str) -> tuple[str, bool]:
    """The message, and whether the values are as before."""
    world: Any = DeviceMesh("cpu", list(range(SIZE)))
    given: dict[str, Any] = {"importance": "snip", "batches": data(rank)}
    model: Any = network()
    if how == "FSDP1":
        model = FullyShardedDataParallel(model, device_id=torch.device("cpu"))
    elif how == "partial":
        model[5].bias = nn.Parameter(DTensor.from_local(torch.zeros(2), world, [Partial()]))
    elif how == "half":
        model = sharded(model.bfloat16(), "layers")
    elif how == "forward":
        model[2] = Stops()
        model = sharded(model, "layers")
        model[2].broken = True
    else:
        model = sharded(model, "layers")
    if how == "accumulates":
        model.set_requires_gradient_sync(False)
    if how == "second order":
        given["importance"] = "hessian"
    if how == "units":
        given = {"batches": data(rank), "reinit": "redo"}
    if how == "rescaled":
        given["policy"] = forgetkit.ResetPolicy(optimizer_state="rescaled")
        given["optimizer"] = torch.optim.Adam(model.parameters())
    if how == "seed":
        given["seed"] = rank
    if how == "one fails" and rank == 1:
        given["importance"] = "snip:samples=nothing"
    if how == "rank without data":
        given["batches"] = 3 if rank == 1 else data(rank)
    before = {} if how in ("FSDP1", "partial") else wholes(model)
    try:
        if how == "attach":
            forgetkit.attach(model, torch.optim.SGD(model.parameters(), lr=0.1), ["l2-init"])
        else:
            forgetkit.unlearn(model, **given)
        message = ""
    except ForgetkitError as error:
        message = str(error)
    same = all(torch.equal(value, before[name]) for name, value in (wholes(model) if before else {}).items())
    if how == "forward":
        model[2].broken = False
        step(model, torch.optim.SGD(model.parameters(), lr=0.1))  # the network still trains
    return message, same


@pytest.mark.parametrize(
    ("how", "reason"),
    [
        ("FSDP1", "fully_shard"),
        ("partial", "'5.bias' is a DTensor of partial sums"),
        ("half", "MixedPrecisionPolicy"),
        ("forward", "broken"),
        ("accumulates", "set_requires_gradient_sync(True)"),
        ("second order", "which needs whole parameters"),
        ("units", "no units"),
        ("rescaled", "use zero, keep or fresh"),
        ("seed", "different options"),
        ("one fails", "process 1 of the group's 3 failed"),
        ("attach", "attach to DistributedDataParallel"),
        ("rank without data", "process 1 of the group's 3 failed"),
    ],
)
def test_what_cannot_be_done_is_refused_in_one_line(ranks, how, reason):
    answers = ranks(refusal, range(SIZE), [how] * SIZE)
    assert all(message and "\n" not in message and same for message, same in answers), answers
    assert reason in answers[0][0]


def hooked(rank: int) -> tuple[bool, bool]:
    """Whether an optimizer that steps in the backward pass stays out of it, and its hooks stay on."""
    model = sharded(network(), "layers")
    called = []
    for p in model.parameters():
        p.register_post_accumulate_grad_hook(called.append)
    forgetkit.score(model, data(rank))
    quiet = not called
    step(model, torch.optim.SGD(model.parameters(), lr=0.1))
    return quiet, bool(called)


def test_hooks_on_gradients_stay_out(ranks):
    assert ranks(hooked, range(SIZE)) == [(True, True)] * SIZE


def in_less(rank: int) -> tuple[str, ...]:
    model = network()
    model[1] = nn.Identity()  # batch normalisation does not mix bfloat16 and float32
    return forgetkit.unlearn(sharded(model, "mixed precision"), data(rank)).remarks


def test_mixed_precision_is_remarked(ranks):
    for remarks in ranks(in_less, range(SIZE)):
        assert any("scored in bfloat16" in remark for remark in remarks)


def in_a_pair(rank: int) -> bool:
    """A network in two of three processes."""
    mesh = DeviceMesh("cpu", [0, 1])
    if rank == 2:
        return True
    alone, model = network(), fully_shard(network(), mesh=mesh)
    batches = [data(one)[at] for at in range(3) for one in range(2)]
    for one, given in ((alone, batches), (model, data(rank))):
        forgetkit.unlearn(one, given, importance="snip", seed=2)
    return all(torch.equal(value, wholes(model)[name]) for name, value in alone.named_parameters())


def test_two_of_three_processes(ranks):
    assert ranks(in_a_pair, range(SIZE)) == [True] * SIZE


def goes_on(rank: int) -> bool:
    """Whether the world's group goes on."""
    total = torch.ones(1)
    distributed.all_reduce(total)
    return int(total) == SIZE


def test_the_group_goes_on(ranks):
    assert ranks(goes_on, range(SIZE)) == [True] * SIZE


@dataclass(frozen=True)
class NanInOnePart:
    """Scores one entry of one process with NaN."""

    def score(self, probe: Probe) -> dict[str, Tensor]:
        """Return scores."""
        scores = {name: target.abs() for name, target in probe.targets.items()}
        for score in scores.values():
            if isinstance(score, DTensor) and distributed.get_rank() == 1:
                score.to_local().view(-1)[0] = float("nan")
        return scores


def scored_by_nan(rank: int) -> str:
    model = network()
    fully_shard(model[0], mesh=init_device_mesh("cpu", (SIZE,)))  # what follows is whole in each process
    try:
        forgetkit.unlearn(model, everything(), importance=NanInOnePart())
    except ForgetkitError as error:
        return str(error)
    return ""


def test_a_score_refused_in_one_part_fails_in_all(ranks):
    first, second, third = ranks(scored_by_nan, range(SIZE))
    assert first == third == "process 1 of the group's 3 failed; its own message says why"
    assert "NaN" in second
