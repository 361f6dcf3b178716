"""Several processes select as one that holds everything: three real ones, over gloo."""

from __future__ import annotations

import random
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import pytest
import torch
from helpers.ranks import SIZE, Ranks
from torch import Tensor, distributed, nn

import forgetkit
from forgetkit.contracts import Change
from forgetkit.errors import ComponentError, ForgetkitError, OptionError

pytestmark = pytest.mark.children

Part = dict[str, Tensor]


@pytest.fixture(scope="module")
def ranks(tmp_path_factory) -> Iterator[Ranks]:
    made = Ranks(tmp_path_factory.mktemp("ranks"))
    yield made
    made.close()


def selected(part: Part, given: Mapping[str, Any], members: Sequence[int] = range(SIZE)) -> Part | None:
    """This process's masks."""
    group = True if len(members) == SIZE else distributed.new_group(members)
    return dict(forgetkit.select(part, **given, group=group))


def exchanged(part: Part, given: Mapping[str, Any]) -> int:
    """How many bytes this process gives to the others."""
    bytes_, all_reduce = [], distributed.all_reduce

    def counting(tensor: Tensor, **rest: Any) -> None:
        bytes_.append(tensor.numel() * tensor.element_size())
        all_reduce(tensor, **rest)

    distributed.all_reduce = counting
    try:
        forgetkit.select(part, **given, group=True)
    finally:
        distributed.all_reduce = all_reduce
    return sum(bytes_)


def check(ranks: Ranks, parts: Sequence[Part], given: Mapping[str, Any]) -> None:
    """Against one process with all parts."""
    whole = {f"{rank}{name}": score for rank, part in enumerate(parts) for name, score in part.items()}
    expected = forgetkit.select(whole, **given)
    answers = ranks(selected, parts, [given] * SIZE)
    assert [answer.keys() for answer in answers] == [part.keys() for part in parts]
    for rank, answer in enumerate(answers):
        for name, mask in answer.items():
            assert torch.equal(mask, expected[f"{rank}{name}"])


def drawn_part(rng: random.Random) -> Part:
    """Some tensors, perhaps none, of any dtype; many entries tie."""
    part = {}
    for name in "abc"[: rng.randrange(4)]:
        values = torch.randint(
            -2, 3, (rng.choice([0, 1, 7, 40]), 3), generator=torch.Generator().manual_seed(rng.randrange(99))
        )
        dtype = rng.choice([torch.float32, torch.float32, torch.bfloat16, torch.float16, torch.float64])
        part[name] = (values * rng.choice([0.0, 1.0, 0.1])).to(dtype)
    return part


@pytest.mark.parametrize("seed", range(40))
def test_as_one_process(ranks, seed):
    rng = random.Random(seed)
    given = {
        "fraction": rng.choice([0, 0.01, 0.29, 0.5, 0.77, 1]),
        "which": rng.choice(["lowest", "highest"]),
        "ties": rng.choice(["random", "random", "stable", "drop"]),
        "rounding": rng.choice(["down", "up"]),
        "seed": seed,
    }
    check(ranks, [drawn_part(rng) for _ in range(SIZE)], given)


@pytest.mark.parametrize("size", [10, 100_000])
@pytest.mark.parametrize("fraction", [0.2, 1])
def test_distinct_scores_of_which_one_process_has_most(ranks, size, fraction):
    rng = torch.Generator().manual_seed(0)
    parts = [{"a": torch.randn(size, 3, generator=rng)}, {"b": torch.randn(9, generator=rng).bfloat16()}, {}]
    check(ranks, parts, {"fraction": fraction})


def test_everything_ties_and_one_holds_nothing(ranks):
    check(ranks, [{"a": torch.zeros(70_000)}, {}, {"a": torch.zeros(30_000)}], {"fraction": 0.3, "seed": 5})


def test_in_a_group_of_two_the_third_is_refused(ranks):
    parts = [{"a": torch.tensor([3.0, 1.0])}, {"a": torch.tensor([2.0, 4.0])}, {"a": torch.zeros(2)}]
    first, second, third = ranks(selected, parts, [{"fraction": 0.5}] * SIZE, [(0, 1)] * SIZE)
    assert (first["a"].tolist(), second["a"].tolist()) == ([False, True], [True, False])
    assert isinstance(third, OptionError)
    assert "not in the group" in str(third)


@pytest.mark.parametrize(("dtype", "most"), [(torch.float32, 25), (torch.float64, 50)], ids=str)
def test_selection_exchanges_a_few_kilobytes(ranks, dtype, most):
    for ties, more in ((False, 0), (True, 16.5)):
        counts = set()
        for size in (5_000, 50_000):
            scores = torch.rand(SIZE, size, dtype=dtype, generator=torch.Generator().manual_seed(0))
            parts = [{"a": score.round() if ties else score} for score in scores]
            counts.update(ranks(exchanged, parts, [{"fraction": 0.2}] * SIZE))
        assert max(counts) <= (most + more) * 1024
        assert max(counts) - min(counts) <= 16.5 * 1024  # a bracket whose bound is a tie needs no candidates


@pytest.mark.parametrize(
    ("part", "given", "reason"),
    [
        ({"a": torch.tensor([1.0, torch.nan])}, {}, "the score of 'a' is not a tensor of finite floats"),
        ({"a": torch.tensor([1])}, {}, "the score of 'a' is not a tensor of finite floats"),
        ({}, {"fraction": 1.5}, "fraction=1.5 is not between"),
        ({}, {"ties": "all"}, "ties='all' is none of"),
    ],
    ids=["NaN", "integers", "fraction", "word"],
)
def test_where_one_refuses_all_fail(ranks, part, given, reason):
    parts, usual = [{"a": torch.rand(3)}, part, {}], {"fraction": 0.5}
    first, refusing, last = ranks(selected, parts, [usual, {**usual, **given}, usual])
    assert isinstance(refusing, OptionError)
    assert reason in str(refusing)
    for other in (first, last):
        assert isinstance(other, ComponentError)
        assert str(other) == "process 1 of the group's 3 failed; its own message says why"
    check(ranks, [{"a": torch.rand(3)}] * SIZE, usual)  # and the group goes on


@pytest.mark.parametrize(
    "other", [{"ties": "drop"}, {"which": "highest"}, {"fraction": 0.6}, {"rounding": "up"}], ids=str
)
def test_different_options_are_refused_by_all(ranks, other):
    parts, usual = [{"a": torch.zeros(3)}] * SIZE, {"fraction": 0.5}
    answers = ranks(selected, parts, [usual, usual, {**usual, **other}])
    assert all(isinstance(answer, ComponentError) for answer in answers)
    told = {**usual, "which": "lowest", "ties": "random", "rounding": "down"}
    for answer, given in zip(answers, [told, told, {**told, **other}], strict=True):
        words = ", ".join(f"{name}={value}" for name, value in given.items())
        assert str(answer) == f"the processes of the group select by different options, this one by {words}"
    check(ranks, parts, usual)


def network(rank: int) -> nn.Module:
    torch.manual_seed(rank)
    return nn.Sequential(nn.Linear(5, 4), nn.Linear(4, 3))


@dataclass(frozen=True)
class Failing:
    """Fails, perhaps after it has changed something."""

    at: str
    needs_scores = True

    def propose(self, context: Any) -> Iterator[Any]:
        if self.at == "never asks":
            return
        masks = context.select(0.5)
        for name, mask in masks.items():
            yield Change(name, mask, context.fresh(name))
            if self.at == "after a change":
                raise RuntimeError("broken")


def forgotten(rank: int, how: str) -> tuple[Part, Any]:
    """The parameters after forgetting half of what all processes have, and the report or what was raised."""
    model = network(rank)
    broken = how if rank == 1 else "nowhere"
    reinit = "masked:fraction=0.5" if how == "masked" else Failing(broken)
    importance = "magnitude"
    if how == "criterion" and rank == 1:
        importance = Nan()
    if how in ("all equal", "equal in each"):
        importance, reinit = Level(float(rank) if how == "equal in each" else 0.0), "masked:fraction=0.5"
    try:
        answer = forgetkit.unlearn(model, importance=importance, reinit=reinit, group=True, seed=rank)
    except ForgetkitError as error:
        answer = error
    return {name: p.detach() for name, p in model.named_parameters()}, answer


@dataclass(frozen=True)
class Nan:
    """Scores that are none."""

    def score(self, probe: Any) -> Part:
        return {name: torch.full_like(p, torch.nan) for name, p in probe.targets.items()}


@dataclass(frozen=True)
class Level:
    """The same score for every entry of this process."""

    value: float

    def score(self, probe: Any) -> Part:
        return {name: torch.full_like(p, self.value) for name, p in probe.targets.items()}


def test_scores_are_equal_where_those_of_all_processes_are(ranks):
    each = sum(p.numel() for p in network(0).parameters())
    answers = ranks(forgotten, range(SIZE), ["equal in each"] * SIZE)
    assert [report.reset for _, report in answers] == [each, 3 * each // 2 - each, 0]
    assert all((report.threshold, report.tied, report.remarks) == (1.0, each, ()) for _, report in answers)
    for rank, (after, error) in enumerate(ranks(forgotten, range(SIZE), ["all equal"] * SIZE)):
        assert f"Level scores all {3 * each} entries 0" in str(error)
        assert all(torch.equal(after[name], p) for name, p in network(rank).named_parameters())


def test_unlearning_resets_the_lowest_of_all_processes(ranks):
    answers = ranks(forgotten, range(SIZE), ["masked"] * SIZE)
    before = [dict(network(rank).named_parameters()) for rank in range(SIZE)]
    everything = torch.cat([p.detach().abs().flatten() for part in before for p in part.values()])
    threshold = float(everything.sort().values[len(everything) // 2 - 1])
    assert sum(report.reset for _, report in answers) == len(everything) // 2
    for old, (new, report) in zip(before, answers, strict=True):
        assert report.threshold == threshold
        for name, p in old.items():
            assert torch.equal(new[name] != p, p.abs() <= threshold)


@pytest.mark.parametrize("how", ["criterion", "after a change", "never asks"])
def test_where_one_fails_no_process_forgets(ranks, how):
    answers = ranks(forgotten, range(SIZE), [how] * SIZE)
    for rank, (after, error) in enumerate(answers):
        assert isinstance(error, ComponentError)
        assert "\n" not in str(error)
        for name, p in network(rank).named_parameters():
            assert torch.equal(after[name], p)
    assert "process 1 of the group's 3 failed" in str(answers[0][1])
    assert "process" not in str(answers[1][1])


def test_a_group_where_there_is_none():
    with pytest.raises(OptionError, match="init_process_group"):
        forgetkit.select({"a": torch.rand(3)}, fraction=0.5, group=True)
    with pytest.raises(OptionError, match="init_process_group"):
        forgetkit.unlearn(network(0), importance="magnitude", group=True)
