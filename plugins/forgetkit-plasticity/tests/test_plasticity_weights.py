"""Methods that act on weights, each against its rule written out."""

from __future__ import annotations

import copy
import math
from collections.abc import Mapping
from itertools import pairwise
from typing import Any

import pytest
import torch
from forgetkit_plasticity import (
    Dash,
    Fire,
    HareTortoise,
    KnowledgeEvolution,
    L2Init,
    Rewind,
    SelectiveWeight,
    SoftRescale,
)
from plasticity_nets import Loop, Snapshot, flat, images, mlp, residual, vectors
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

import forgetkit
from forgetkit.errors import NoMatchError, OptionError
from forgetkit.seeding import Seeds
from forgetkit.unlearning import ModelHistory, unlearn

LAYOUTS = [torch.contiguous_format, torch.channels_last]


def values(model: nn.Module) -> dict[str, Tensor]:
    return {name: value.clone() for name, value in model.state_dict().items()}


def differing(before: Mapping[str, Tensor], after: Mapping[str, Tensor]) -> set[str]:
    return {name for name, value in after.items() if not torch.equal(value, before[name])}


# DASH


def dash_by_hand(model: nn.Module, alpha: float, floor: float, chunk: int) -> dict[str, Tensor]:
    """Kernels, rows and biases one after the other, in double precision."""
    double = copy.deepcopy(model).double().eval()
    inputs, targets = (torch.cat(parts) for parts in zip(*images(5, 4, 3), strict=True))
    mean = {name: torch.zeros_like(p) for name, p in double.named_parameters()}
    for start in range(0, len(targets), chunk):
        part = slice(start, start + chunk)
        double.zero_grad()
        cross_entropy(double(inputs[part].double()), targets[part]).backward()
        for name, p in double.named_parameters():
            mean[name] = (1 - alpha) * mean[name] - alpha * p.grad
    found = {}
    for path, module in double.named_modules():
        if isinstance(module, nn.Conv2d | nn.Linear):
            for local, p in module.named_parameters():
                name, v = f"{path}.{local}", mean[f"{path}.{local}"]
                new = p.detach().clone()
                places: list[Any] = [...]
                if local == "weight":
                    places = [(i,) for i in range(p.shape[0])]
                    if p.ndim == 4:
                        places = [(i, j) for i in range(p.shape[0]) for j in range(p.shape[1])]
                for place in places:
                    a, b = p.detach()[place].flatten(), v[place].flatten()
                    length = float(a.norm() * b.norm())
                    cosine = float(a @ b) / length if length else 0.0
                    new[place] *= min(1.0, max(floor, cosine))
                found[name] = new
    return found


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize(("alpha", "floor", "chunk"), [(0.3, 0.3, 5), (0.9, 0.05, 7), (0.5, 0.0, 100)])
def test_dash_by_a_loop(layout: Any, alpha: float, floor: float, chunk: int) -> None:
    model = flat().to(memory_format=layout)
    expected, before = dash_by_hand(model, alpha, floor, chunk), values(model)
    forgetkit.unlearn(model, images(5, 4, 3), reinit=Dash(alpha, floor, chunk))
    after = values(model)
    assert differing(before, after) == set(expected)
    for name, value in expected.items():
        torch.testing.assert_close(after[name].double(), value, rtol=1e-4, atol=1e-6)
        ratio = (after[name] / before[name]).flatten()
        assert floor - 1e-5 <= float(ratio.min()) < 0.999
        assert float(ratio.max()) <= 1 + 1e-5


def test_dash_needs_something_with_weights() -> None:
    model = nn.Sequential(nn.LayerNorm(3))
    with pytest.raises(NoMatchError, match="no convolution and no fully connected layer"):
        forgetkit.unlearn(model, [(torch.randn(4, 3), torch.arange(4) % 3)], reinit="dash")


# FIRE


@pytest.mark.parametrize("layout", LAYOUTS)
def test_fire_gives_the_polar_factor_at_each_position(layout: Any) -> None:
    model = flat().to(memory_format=layout)
    before = values(model)
    forgetkit.unlearn(model, reinit=Fire(iterations=60))
    after = values(model)
    assert differing(before, after) == {"0.weight", "3.weight", "6.weight", "8.weight"}
    for name in ("0.weight", "3.weight", "6.weight", "8.weight"):
        old, new = (v[name].double().flatten(2) if v[name].ndim > 2 else v[name][..., None] for v in (before, after))
        outputs, inputs, positions = old.shape
        scale = math.sqrt(outputs / inputs) / positions
        for at in range(positions):
            u, _, vh = torch.linalg.svd(old[..., at].double(), full_matrices=False)
            torch.testing.assert_close(new[..., at].double(), scale * u @ vh, rtol=0, atol=2e-5)
            found = torch.linalg.svdvals(new[..., at].double())
            torch.testing.assert_close(found, torch.full_like(found, scale), rtol=1e-4, atol=0)


@pytest.mark.parametrize("iterations", [1, 10])
def test_fire_acts_on_singular_values_alone(iterations: int) -> None:
    model = nn.Linear(4, 7, bias=False)
    before = model.weight.detach().double().clone()
    forgetkit.unlearn(model, reinit=Fire(iterations))
    u, s, vh = torch.linalg.svd(before, full_matrices=False)
    s = s / before.norm()
    for _ in range(iterations):
        s = 1.5 * s - 0.5 * s**3
    wanted = math.sqrt(7 / 4) * u @ s.diag() @ vh
    torch.testing.assert_close(model.weight.detach().double(), wanted, rtol=1e-4, atol=1e-6)


def test_fire_leaves_zeros_and_refuses_what_has_no_matrix() -> None:
    model = nn.Linear(4, 7)
    nn.init.zeros_(model.weight)
    forgetkit.unlearn(model, reinit="fire")
    assert not model.weight.any()
    with pytest.raises(NoMatchError, match="no convolution"):
        forgetkit.unlearn(nn.LayerNorm(3), reinit="fire")


# L2 Init


def test_l2_init_is_half_the_squared_distance_from_the_beginning() -> None:
    strength = 0.3
    model = residual().double()
    begun = {name: p.detach().clone() for name, p in model.named_parameters()}
    norms = [m for m in model.modules() if isinstance(m, nn.BatchNorm2d)]
    normal = {id(p) for norm in norms for p in norm.parameters()}
    penalised = {name for name, p in model.named_parameters() if id(p) not in normal}
    assert len(penalised) == len(begun) - 12
    batches = [(inputs.double(), targets) for inputs, targets in images(6, 6)]
    loop = Loop(model, L2Init(strength)).train(batches)
    loop.train(batches)  # another mega-batch: the beginning stays where it was
    with loop.attached.step(*batches[0]) as step:
        term = step.loss()
        assert isinstance(term, Tensor)
        gradients = torch.autograd.grad(term, list(model.parameters()), allow_unused=True)

        def penalty() -> float:
            return float(torch.as_tensor(step.loss()).detach())

        wanted = sum(
            float((p.detach() - begun[n]).square().sum()) for n, p in model.named_parameters() if n in penalised
        )
        assert term.item() == pytest.approx(strength / 2 * wanted, rel=1e-12)
        for (name, p), gradient in zip(model.named_parameters(), gradients, strict=True):
            if name not in penalised:
                assert gradient is None
                continue
            torch.testing.assert_close(gradient, strength * (p - begun[name]).detach(), rtol=1e-12, atol=0)
            with torch.no_grad():
                entry, h = p.view(-1), 0.1
                entry[0] += h
                up = penalty()
                entry[0] -= 2 * h
                down = penalty()
                entry[0] += h
            assert (up - down) / (2 * h) == pytest.approx(float(gradient.view(-1)[0]), rel=1e-8)


# Hare and tortoise


@pytest.mark.parametrize("layout", LAYOUTS)
def test_hare_and_tortoise(layout: Any) -> None:
    momentum = 0.9
    model = residual().to(memory_format=layout)
    loop = Loop(model, HareTortoise(momentum, every=2))
    slow = {name: value.double() for name, value in values(model).items() if value.is_floating_point()}
    for epoch in range(1, 5):
        loop.train(images(6, 6), begin=epoch in (1, 4))
        for seen in loop.before.seen[-2:]:
            for name, value in slow.items():
                slow[name] = momentum * value + (1 - momentum) * seen.tensors[name].double()
        for name, value in values(model).items():
            if name not in slow:
                assert int(value) == 1 + 2 * epoch  # the counter of batches goes on
            elif epoch % 2 == 0:
                torch.testing.assert_close(value.double(), slow[name], rtol=1e-5, atol=1e-6)
                assert torch.equal(value, loop.state["slow " + name])
                assert value.ndim < 2 or not torch.equal(value, loop.before.seen[-1].tensors[name])
            else:
                assert torch.equal(value, loop.before.seen[-1].tensors[name])
        storages = [t.untyped_storage().data_ptr() for t in (*model.state_dict().values(), *loop.state.values())]
        assert len(set(storages)) == len(storages)
    assert model.stem.weight.is_contiguous(memory_format=layout)
    kept = loop.state["slow stem.weight"].clone()
    with torch.no_grad():
        model.stem.weight.add_(1.0)
    assert torch.equal(loop.state["slow stem.weight"], kept)


def test_the_tortoise_is_not_rounded_away() -> None:
    model = nn.Linear(5, 3).bfloat16()
    loop = Loop(model, HareTortoise(0.999), torch.optim.SGD(model.parameters(), lr=1.0))
    began = model.weight.detach().float().clone()
    loop.train([(inputs.bfloat16(), targets) for inputs, targets in vectors(6)])
    assert loop.state["slow weight"].dtype == torch.float32
    torch.testing.assert_close(loop.state["slow weight"], 0.999 * began + 0.001 * model.weight.detach().float())
    assert not torch.equal(loop.state["slow weight"], began)


# Knowledge evolution


def forgotten_twice(method: KnowledgeEvolution, seed: int = 0) -> tuple[dict[str, Tensor], ...]:
    """The masks of what changed at two forgettings of one run, and the values afterwards."""
    model = flat()
    with torch.no_grad():
        for p in model[1].parameters():
            p.add_(0.5)  # not as drawn anew
    found = []
    for number in (1, 2):
        before = values(model)
        seeds = Seeds(seed)
        past = ModelHistory(seeds=seeds)
        unlearn(model, images(4), importance=None, reinit=method, seeds=seeds.within("unlearn", number), history=past)
        after = values(model)
        found += [{name: after[name] != value for name, value in before.items()}, after]
    return tuple(found)


@pytest.mark.parametrize("split", [0.3, 0.5, 0.8])
def test_wels_keeps_the_same_entries_at_every_forgetting(split: float) -> None:
    once, first, again, second = forgotten_twice(KnowledgeEvolution("wels", split))
    for name, mask in once.items():
        assert torch.equal(mask, again[name])
        kept = math.ceil(round(split * mask.numel(), 9))
        assert int(mask.sum()) == (0 if name.startswith("1.") else mask.numel() - kept), name
        assert torch.equal(first[name][~mask], second[name][~mask])
        assert bool((first[name][mask] != second[name][mask]).all())
    elsewhere = forgotten_twice(KnowledgeEvolution("wels", split), seed=1)[0]
    assert differing(once, elsewhere)
    mask = once["6.weight"]
    assert 0 < int(mask[:, :8].sum()) < mask[:, :8].numel()


@pytest.mark.parametrize(("split", "kept"), [(0.5, (2, 2, 3)), (0.3, (1, 2, 2)), (0.76, (3, 4, 4))])
def test_kels_keeps_a_slimmer_network(split: float, kept: tuple[int, int, int]) -> None:
    once, _, again, _ = forgotten_twice(KnowledgeEvolution("kels", split))
    assert not differing(once, again)
    a, b, c = kept
    slim = {
        "0.weight": (slice(a), slice(None)),
        "0.bias": (slice(a),),
        "3.weight": (slice(b), slice(a)),
        "3.bias": (slice(b),),
        "6.weight": (slice(c), slice(4 * b)),  # four positions of each channel
        "6.bias": (slice(c),),
        "8.weight": (slice(None), slice(c)),
    }
    for name, mask in once.items():
        expected = torch.zeros_like(mask)
        if name in slim:
            expected = torch.ones_like(mask)
            expected[slim[name]] = False
        assert torch.equal(mask, expected), name


@pytest.mark.slow
def test_bernoulli_keeps_entries_with_a_probability() -> None:
    model, split, n = nn.Sequential(nn.Linear(40, 50), nn.LayerNorm(50), nn.Linear(50, 30)), 0.7, 2000
    start = values(model)
    kept = []
    for seed in range(20):
        masks = []
        for draw in (0, 1):  # two forgettings of one run
            model.load_state_dict(start)
            method = KnowledgeEvolution("bernoulli", split, "conv-linear")
            forgetkit.unlearn(model, vectors(4, width=40), reinit=method, seed=draw, run_seed=seed)
            assert differing(start, values(model)) == {"0.weight", "2.weight"}  # no bias, no normalisation
            masks.append(values(model)["0.weight"] == start["0.weight"])
        assert torch.equal(*masks)
        kept.append(int(masks[0].sum()))
    deviation = math.sqrt(n * split * (1 - split))
    assert sum(kept) / 20 == pytest.approx(split * n, abs=5 * deviation / math.sqrt(20))
    spread = math.sqrt(sum((count - split * n) ** 2 for count in kept) / 20)
    assert 0.4 < spread / deviation < 1.7  # a binomial count and no exact share


def test_kels_leaves_biases_alone_where_it_is_asked_to() -> None:
    masks = {params: forgotten_twice(KnowledgeEvolution("kels", 0.5, params))[0] for params in ("all", "conv-linear")}
    for name, mask in masks["conv-linear"].items():
        assert torch.equal(mask, masks["all"][name] if name.endswith("weight") else torch.zeros_like(mask))
    assert bool(masks["all"]["3.bias"].any())


def test_what_is_redrawn_follows_torch_for_biases_too() -> None:
    model = nn.Linear(400, 300)
    forgetkit.unlearn(model, reinit=KnowledgeEvolution(split=0.01), run_seed=3)
    for p in values(model).values():
        assert 0.9 / 20 < float(p.abs().max()) <= 1 / 20
    other = nn.Linear(400, 300)
    forgetkit.unlearn(other, reinit=KnowledgeEvolution(split=0.01, fresh="zero"), run_seed=0)
    assert [int((p != 0).sum()) for p in other.parameters()] == [1200, 3]


def test_a_network_that_is_kept_whole_is_no_forgetting() -> None:
    with pytest.raises(NoMatchError, match=r"mask=kels, split=0\.8 keeps all"):
        forgetkit.unlearn(nn.Linear(5, 3), vectors(4), reinit="knowledge-evolution:mask=kels", run_seed=0)


# Rewinding


@pytest.mark.parametrize("share", [0.0, 0.3, 1.0])
def test_rewinding_to_the_start(share: float) -> None:
    model = flat()
    initial = {name: value + 5 for name, value in values(model).items()}
    scores = forgetkit.score(model, images(6), importance="magnitude")
    masks = forgetkit.select(scores, fraction=share)
    report = forgetkit.unlearn(model, images(6), importance="magnitude", reinit=Rewind(share), initial=initial)
    for name, p in model.named_parameters():
        lowest = masks[name] if p.ndim > 1 else torch.zeros_like(masks[name])
        assert torch.equal(p, torch.where(lowest, 0.0, initial[name]))
    assert report.scored == sum(p.numel() for p in model.parameters())
    assert sum(int((p == 0).sum()) for p in model.parameters() if p.ndim > 1) == sum(
        int(mask.sum()) for name, mask in masks.items() if initial[name].ndim > 1
    )


@pytest.mark.parametrize("lowest", ["zero", "initial"])
def test_rewinding_to_an_early_epoch(lowest: Any) -> None:
    model = flat()
    initial = values(model)
    rewind = Rewind(0.4, lowest, epoch=2, params="all")
    loop = Loop(model, rewind).train(images(6, 6), epochs=2)
    early = values(model)
    loop.train(images(6, 6), epochs=2, begin=False)
    loop.train(images(6, 6), epochs=2)  # the second mega-batch
    scores = forgetkit.score(model, images(6), importance="snip")
    masks = forgetkit.select(scores, fraction=0.4)
    forgetkit.unlearn(model, images(6), importance="snip", reinit=rewind, initial=initial, memory=loop.attached.memory)
    for name, p in model.named_parameters():
        low = torch.zeros_like(p) if lowest == "zero" else initial[name]
        assert torch.equal(p, torch.where(masks[name], low, early[name]))


def test_what_rewinding_cannot_do() -> None:
    with pytest.raises(OptionError, match="whatever is selected"):
        Rewind(lowest="initial")
    with pytest.raises(OptionError, match="needs the weights of that epoch"):
        forgetkit.unlearn(flat(), images(6), reinit="rewind:epoch=2")
    with pytest.raises(OptionError, match="pass initial="):
        forgetkit.unlearn(flat(), images(6), reinit="rewind")


# Selective weight reinitialisation


def reset_entries(loop: Loop, step: int) -> dict[str, Tensor]:
    before, after = loop.before.seen[step].tensors, loop.after.seen[step].tensors
    return {name: before[name] != after[name] for name in before if before[name].is_floating_point()}


@pytest.mark.parametrize("utility", ["gradient", "magnitude"])
@pytest.mark.parametrize("decay", [0.0, 0.7])
@pytest.mark.parametrize(("choose", "amount"), [("share", 0.25), ("below-mean", 0.4)])
def test_selective_weight_by_its_rule(utility: Any, decay: float, choose: Any, amount: float) -> None:
    model = mlp()
    loop = Loop(model, SelectiveWeight(3, utility, choose, amount, decay)).train(vectors(*[8] * 7))
    running: dict[str, Tensor] = {}
    for step, seen in enumerate(loop.before.gradients):
        for name, (theta, gradient) in seen.items():
            now = (theta * gradient).abs() if utility == "gradient" else theta.abs()
            running[name] = decay * running.get(name, torch.zeros_like(now)) + (1 - decay) * now
        changed = reset_entries(loop, step)
        for name, utilities in running.items():
            mask, count = changed[name], int(changed[name].sum())
            if step % 3 != 2:
                assert count == 0
            elif choose == "below-mean":
                assert torch.equal(mask, utilities <= amount * utilities.double().mean())
            else:
                wanted = amount * utilities.numel()
                assert count in (math.floor(wanted), math.ceil(wanted))
                if 0 < count < utilities.numel():
                    assert utilities[mask].max() <= utilities[~mask].min()
            if count:  # of the whole tensor, as its authors do
                running[name] = torch.zeros_like(utilities)
    for name, moments in loop.after.seen[5].moments.items():
        assert not moments["momentum_buffer"][reset_entries(loop, 5)[name]].any()
    kept = [key for key in loop.state if key.startswith("utility")]
    assert len(kept) == (6 if decay else 0)


@pytest.mark.parametrize("utility", ["gradient", "magnitude"])
def test_consecutive_resets_overlap_by_chance(utility: Any) -> None:
    """A fresh entry must not inherit the utility of the weight that it replaced."""
    torch.manual_seed(0)
    model, share, rng = nn.Linear(200, 10), 0.1, torch.Generator().manual_seed(5)
    loop = Loop(model, SelectiveWeight(10, utility, "share", share, decay=0.99, params="conv-linear"))
    loop.train([(torch.randn(32, 200, generator=rng), torch.arange(32) % 10) for _ in range(60)])
    masks = [reset_entries(loop, step)["weight"] for step in range(9, 60, 10)]
    overlap = sum(int((a & b).sum()) for a, b in pairwise(masks)) / sum(int(mask.sum()) for mask in masks[1:])
    # A fresh value is uniform and those that stay are not near zero any more: 0.18 is chance. It was above 0.8.
    assert overlap == pytest.approx(0.18, abs=0.04)


@pytest.mark.slow
def test_the_share_is_true_on_average() -> None:
    torch.manual_seed(0)
    model = nn.Linear(7, 3)
    component = SelectiveWeight(1, "random", "share", 0.05)
    loop = Loop(model, component, torch.optim.SGD(model.parameters(), lr=0.0))
    steps = 300
    batch = (torch.randn(2, 7), torch.arange(2))
    loop.train([batch] * steps)
    for name, n in (("weight", 21), ("bias", 3)):
        counts = [int(reset_entries(loop, step)[name].sum()) for step in range(steps)]
        wanted = 0.05 * n
        chance = wanted % 1
        assert set(counts) == {math.floor(wanted), math.ceil(wanted)}
        assert sum(counts) / steps == pytest.approx(wanted, abs=4 * math.sqrt(chance * (1 - chance) / steps))
    places = torch.stack([reset_entries(loop, step)["weight"] for step in range(steps)]).float().mean(0)
    assert float(places.min()) > 0  # anybody's turn comes


def test_of_those_that_tie_some_at_random() -> None:
    model = nn.Sequential(nn.Linear(5, 40), nn.ReLU(), nn.Linear(40, 3))
    nn.init.constant_(model[0].bias, -100.0)  # nothing gets through: gradients of zero
    loop = Loop(model, SelectiveWeight(1, amount=0.5, params="conv-linear"))
    loop.train(vectors(6))
    changed = reset_entries(loop, 0)
    assert int(changed["0.weight"].sum()) == 100
    assert 0 < int(changed["0.weight"][:20].sum()) < 100
    assert not changed["0.bias"].any()


def test_once_per_mega_batch() -> None:
    loop = Loop(mlp(), SelectiveWeight(amount=0.2))
    for _ in range(3):
        loop.train(vectors(6, 6), epochs=2)
    acted = [any(bool(mask.any()) for mask in reset_entries(loop, step).values()) for step in range(12)]
    assert acted == [False] * 4 + ([True] + [False] * 3) * 2


def test_options_that_could_not_act_are_refused() -> None:
    with pytest.raises(OptionError, match="is no fraction"):
        forgetkit.attach(mlp(), torch.optim.SGD(mlp().parameters()), ["selective-weight:amount=1.5"])
    with pytest.raises(OptionError, match="leave decay out"):
        SelectiveWeight(utility="random", decay=0.5)
    with pytest.raises(NoMatchError, match="no such parameter"):
        Loop(nn.LayerNorm(3), SelectiveWeight(params="conv-linear")).train([(torch.randn(4, 3), torch.arange(4) % 3)])


# Soft weight rescaling


@pytest.mark.parametrize("strength", [0.0, 0.1, 1.0])
def test_soft_rescaling_brings_norms_back_and_decides_the_same(strength: float) -> None:
    model = mlp()
    begun = {name: float(value.double().norm()) for name, value in values(model).items() if value.ndim > 1}
    loop = Loop(model, SoftRescale(strength), torch.optim.SGD(model.parameters(), lr=0.5))
    loop.train(vectors(8, 8, 8))
    inputs = vectors(10)[0][0].double()
    for before, after in zip(loop.before.seen, loop.after.seen, strict=True):
        factor = 1.0
        for name, begin in begun.items():
            old, new = (float(seen.tensors[name].double().norm()) for seen in (before, after))
            assert new == pytest.approx(strength * begin + (1 - strength) * old, rel=1e-5)
            assert abs(old - begin) > 1e-5
            factor *= new / old
        outputs = []
        for seen in (before, after):  # without normalisation, all outputs are multiplied by one number
            network = mlp().double()
            network.load_state_dict({name: value.double() for name, value in seen.tensors.items()})
            outputs.append(network(inputs).detach())
        torch.testing.assert_close(outputs[1], factor * outputs[0], rtol=1e-5, atol=1e-6)
        assert (strength == 0) == (abs(factor - 1) < 1e-9)


def test_biases_are_rescaled_since_the_last_normalisation() -> None:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(5, 4), nn.LayerNorm(4), nn.Linear(4, 4), nn.ReLU(), nn.Linear(4, 3))
    loop = Loop(model, SoftRescale(0.3), torch.optim.SGD(model.parameters(), lr=0.5)).train(vectors(8))
    before, after = loop.before.seen[0].tensors, loop.after.seen[0].tensors
    c = {n: float(after[f"{n}.weight"].norm() / before[f"{n}.weight"].norm()) for n in "024"}
    for name, factor in (("0", c["0"]), ("2", c["2"]), ("4", c["2"] * c["4"])):
        torch.testing.assert_close(after[f"{name}.bias"], factor * before[f"{name}.bias"])
    assert torch.equal(after["1.weight"], before["1.weight"])
    assert torch.equal(after["1.bias"], before["1.bias"])


def test_layers_of_zeros_and_shared_weights_are_dealt_with_once() -> None:
    first = nn.Linear(5, 5)
    again = nn.Linear(5, 5)
    again.weight = first.weight
    zeros = nn.Linear(5, 3)
    nn.init.zeros_(zeros.weight)
    model = nn.Sequential(first, nn.ReLU(), again, zeros)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.0)
    loop = Loop(model, SoftRescale(0.5), optimizer)
    loop.attached.begin(*vectors(4)[0])
    with torch.no_grad():
        first.weight.mul_(3.0)
    norm, biases = float(first.weight.detach().norm()), (first.bias.detach().clone(), again.bias.detach().clone())
    loop.train(vectors(4), begin=False)
    assert float(first.weight.detach().norm()) == pytest.approx((0.5 + 0.5 / 3) * norm, rel=1e-5)
    torch.testing.assert_close(first.bias.detach(), 2 / 3 * biases[0])
    torch.testing.assert_close(again.bias.detach(), 2 / 3 * biases[1])
    assert not zeros.weight.any()


def test_what_is_frozen_stays() -> None:
    components = [HareTortoise(0.5, 1), SoftRescale(0.5), SelectiveWeight(1, amount=0.5), L2Init(0.1)]
    for component in components:
        model = flat()
        fixed = [*model[0].parameters(), *model[1].parameters()]
        for p in fixed:
            p.requires_grad_(False)
        optimizer = torch.optim.SGD([p for p in model.parameters() if p.requires_grad], lr=0.1)
        before = Snapshot.of(model, optimizer).tensors
        loop = Loop(model, component, optimizer)
        loop.train(images(6, 6))
        last = loop.before.seen[-1].tensors  # statistics move with the batches, frozen or not
        for name, value in values(model).items():
            if name.startswith(("0.", "1.")):
                assert torch.equal(value, last[name])
            if name in ("0.weight", "0.bias", "1.weight", "1.bias"):
                assert torch.equal(value, before[name])
