"""Scoring leaves everything as it was, whatever the model's state and wherever it is called."""

from __future__ import annotations

import contextlib
import copy
import random
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import pytest
import torch
from helpers.model_snapshot import Snapshot, built, global_random_state, mixed
from helpers.unlearning_networks import Batch, concatenate, convnet, images, mlp, same_bits
from scipy.stats import kstest
from torch.nn.functional import cross_entropy
from torch.utils.data import DataLoader, TensorDataset

import forgetkit
from forgetkit.registry import registry
from forgetkit.seeding import Seeds, preserved_rng, seeded_rng
from forgetkit.unlearning import Scoring
from forgetkit.unlearning.probe import GuardedProbe, ReplayableBatches

CRITERIA = [
    "snip",
    "snip:samples=0.5,reduce=mean-abs",
    "snip:reduce=per-sample",
    "fisher",
    "fisher:variant=sampled",
    "fisher:variant=exact",
    "fisher:variant=batch",
    "magnitude",
    "random",
]
DRAWING = {"random", "fisher:variant=sampled"}


def as_list(batches: list[Batch]) -> Any:
    return batches


def as_shuffling_loader(batches: list[Batch]) -> Any:
    return DataLoader(TensorDataset(*concatenate(batches)), batch_size=4, shuffle=True)


def as_noisy_generator(batches: list[Batch]) -> Iterator[Batch]:
    """Augments under every global random state there is."""
    for inputs, labels in batches:
        yield inputs + 0.1 * torch.randn_like(inputs) + random.random() * 0.1 + np.random.rand() * 0.1, labels


@contextlib.contextmanager
def nowhere() -> Iterator[None]:
    yield


PLACES: dict[str, Callable[[], Any]] = {
    "plainly": nowhere,
    "under no_grad": torch.no_grad,
    "in autocast": lambda: torch.autocast("cpu", dtype=torch.bfloat16),
    "in inference mode": torch.inference_mode,
}


@pytest.mark.slow
@pytest.mark.parametrize("batching", [as_list, as_shuffling_loader, as_noisy_generator])
@pytest.mark.parametrize("place", sorted(PLACES))
@pytest.mark.parametrize("importance", CRITERIA)
def test_nothing_is_touched(importance, place, batching):
    model, batches = mixed(), images(5, 3, 1)
    expected = forgetkit.score(model, batching(batches), importance=importance, seed=3)
    assert all(score.isfinite().all() for score in expected.values())
    random.seed(5), np.random.seed(6), torch.manual_seed(7)
    given = batching(batches)
    with PLACES[place]():
        snapshot = Snapshot(model)
        scores = forgetkit.score(model, given, importance=importance, seed=3)
        snapshot.check()
    assert scores.keys() == expected.keys() == {n for n, p in model.named_parameters() if p.requires_grad}
    assert all(same_bits(score, expected[name]) for name, score in scores.items())
    assert not any(score.requires_grad or score.is_inference() for score in scores.values())


@pytest.mark.parametrize("place", sorted(PLACES))
@pytest.mark.parametrize("importance", ["snip", "snip:reduce=mean-abs", "fisher:variant=batch", "magnitude", "random"])
def test_nothing_is_touched_in_training_mode_either(importance, place):
    """Statistics move while scoring, and come back; dropout draws from the seed."""
    model, batches, scoring = mixed(), images(5, 3, 2), Scoring(mode="train")
    expected = forgetkit.score(model, batches, importance=importance, seed=3, scoring=scoring)
    random.seed(5), np.random.seed(6), torch.manual_seed(7)
    with PLACES[place]():
        snapshot = Snapshot(model)
        scores = forgetkit.score(model, batches, importance=importance, seed=3, scoring=scoring)
        snapshot.check()
    assert scores.keys() == {n for n, p in model.named_parameters() if p.requires_grad}
    assert all(same_bits(score, expected[name]) for name, score in scores.items())
    as_always = forgetkit.score(model, batches, importance=importance, seed=3)
    same = [torch.equal(score, as_always[name]) for name, score in scores.items()]
    assert all(same) if importance in ("magnitude", "random") else not any(same)


@pytest.mark.parametrize("importance", CRITERIA)
def test_another_seed(importance):
    """Gives other scores where something is drawn, and the same where nothing is."""
    model, batches = mixed(), images(5, 3, 1)
    one, two = (forgetkit.score(model, batches, importance=importance, seed=seed) for seed in (1, 2))
    equal = [torch.equal(one[name], two[name]) for name in one]
    assert not any(equal) if importance in DRAWING else all(equal)


@pytest.mark.parametrize("importance", CRITERIA)
def test_a_criterion_draws_from_its_own_generator_alone(importance):
    model, names = convnet().eval(), ["0.weight", "5.weight"]
    criterion = registry.load().make("importance", importance)[1]
    results = []
    for state in (1, 2):
        torch.manual_seed(state)
        before = global_random_state()
        scores = criterion.score(GuardedProbe(model, ReplayableBatches(images(5, 3)), names, cross_entropy, Seeds(0)))
        results.append({name: scores[name] for name in names})
        assert global_random_state() == before
    assert all(torch.equal(results[0][name], results[1][name]) for name in names)


def test_random_is_uniform():
    """And no function of the parameters: two networks of the same names and shapes get the same numbers."""
    one, two = (forgetkit.score(mlp(300, seed=seed), importance="random", seed=4) for seed in (0, 1))
    assert all(torch.equal(one[name], two[name]) for name in one)
    numbers = torch.cat([score.flatten() for score in one.values()])
    assert kstest(numbers.numpy(), "uniform").pvalue > 1e-6
    assert numbers.unique().numel() > 0.99 * numbers.numel()


def test_a_shuffling_loader_under_another_seed():
    """The seed decides which samples are looked at, where there are more than are wanted."""
    model, loader = mixed(), as_shuffling_loader(images(20, 20))
    one, again, two = (forgetkit.score(model, loader, importance="snip:samples=8", seed=seed) for seed in (1, 1, 2))
    assert all(torch.equal(one[name], again[name]) for name in one)
    assert not any(torch.equal(one[name], two[name]) for name in one)


@pytest.mark.parametrize("reinit", ["masked", "cold", "llf", "rifle", "shrink-perturb", "none"])
def test_forgetting_writes_to_parameters_and_leaves_the_rest(reinit):
    model = mixed()
    buffers = {name: buffer.clone() for name, buffer in model.named_buffers()}
    grads = {name: (p.grad, copy.deepcopy(p.grad)) for name, p in model.named_parameters()}
    modes = [module.training for module in model.modules()]
    before = global_random_state()
    report = forgetkit.unlearn(model, as_shuffling_loader(images(5, 3)), reinit=reinit, build=built)
    assert global_random_state() == before
    assert [module.training for module in model.modules()] == modes
    for name, buffer in model.named_buffers():
        assert name in report.buffers or torch.equal(buffer, buffers[name])
    for name, parameter in model.named_parameters():
        assert parameter.grad is grads[name][0]
        assert parameter.grad is None or torch.equal(parameter.grad, grads[name][1])


def test_scoring_does_not_change_the_order_of_training_data():
    """What a loop draws next from the global state is the same with and without."""
    drawn = []
    for scoring in (False, True):
        model, loader = mixed(), as_shuffling_loader(images(8, 8))
        torch.manual_seed(0)
        if scoring:
            forgetkit.score(model, loader)
        drawn.append(torch.cat([inputs for inputs, _ in loader]))
    assert torch.equal(*drawn)


def test_the_random_state_is_put_back_after_an_error():
    def draw_and_fail() -> None:
        torch.rand(3), random.random(), np.random.rand()
        raise ZeroDivisionError

    for context in (preserved_rng(), seeded_rng(3)):
        before = global_random_state()
        with pytest.raises(ZeroDivisionError), context:
            draw_and_fail()
        assert global_random_state() == before


def test_a_stream_is_a_function_of_its_names():
    seeds = Seeds(3)
    streams = [seeds, Seeds(4), seeds.within("a"), seeds.within("a", 1), seeds.within("a1"), seeds.within("a", "1")]
    numbers = [stream.number(*names) for stream in streams for names in ((), ("a",), ("b",), ("a", 1))]
    assert seeds.within("a").number(1) == seeds.number("a", 1)
    assert len(set(numbers)) == len(numbers) - 2  # those of ("a") and ("a", 1) are named in two ways
    assert all(0 <= number < 2**63 for number in numbers)
    assert torch.equal(torch.rand(3, generator=seeds.torch("x")), torch.rand(3, generator=Seeds(3).torch("x")))
    assert (seeds.numpy("x").random(3) == Seeds(3).numpy("x").random(3)).all()
