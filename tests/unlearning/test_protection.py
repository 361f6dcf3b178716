"""What is protected or pruned is neither scored, selected nor reset, whatever the method proposes."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import pytest
import torch
from helpers.unlearning_networks import changed, convnet, images, mlp, refused, values, vectors
from torch import nn
from torch.nn.utils import prune

import forgetkit
from forgetkit.contracts import Change, Intervention, ReinitContext
from forgetkit.errors import ComponentError, NoMatchError, OptionError

PAIRS = [(torch.randn(12, 4), torch.arange(12) % 3)]
REINITS = ["masked:fraction=1", "cold", "llf:start=0.0", "rifle", "shrink-perturb"]


@dataclass(frozen=True)
class Zeros:
    """A method of a third party that sets everything to zero."""

    def propose(self, context: ReinitContext) -> Iterable[Change]:
        return (Change(name, None, torch.zeros_like(value)) for name, value in context.targets.items())


def trained_mlp() -> nn.Sequential:
    torch.manual_seed(0)
    return mlp(6)


@pytest.mark.parametrize("reinit", [*REINITS, Zeros()])
def test_a_protected_module_keeps_its_bits(reinit):
    model = trained_mlp()
    before, name = values(model), "0" if reinit == "rifle" else "2"
    report = forgetkit.unlearn(model, vectors(4), reinit=reinit, protect=[name])
    differ = changed(model, before)
    assert differ
    assert not any(other.startswith(f"{name}.") for other in differ)
    assert report.left_out == {f"{name}.weight": "protected", f"{name}.bias": "protected"}


@pytest.mark.parametrize("reinit", [*REINITS, Zeros()])
def test_a_protected_entry_keeps_its_bits(reinit):
    model = trained_mlp()
    mask = torch.rand(model[2].weight.shape, generator=torch.Generator().manual_seed(1)) < 0.5
    optimizer = torch.optim.Adam(model.parameters())
    model(vectors(4)[0][0]).sum().backward()
    optimizer.step()
    before, moments = values(model), optimizer.state[model[2].weight]["exp_avg"]
    old = moments.clone()
    report = forgetkit.unlearn(model, vectors(4), reinit=reinit, protect={"2.weight": mask}, optimizer=optimizer)
    differ = changed(model, before)["2.weight"]
    assert torch.equal(differ, ~mask)
    assert report.layers["2.weight"].reset == int((~mask).sum())
    assert torch.equal(moments, torch.where(mask, old, 0))


def test_the_fraction_is_of_the_entries_that_may_be_selected():
    model = trained_mlp()
    size = model[0].weight.numel()
    mask = torch.arange(size).view(model[0].weight.shape) % 2 == 0
    protected, free = int(mask.sum()), sum(p.numel() for p in model.parameters())
    report = forgetkit.unlearn(model, importance="random", reinit="masked:fraction=0.5", protect={"0.weight": mask})
    assert report.scored == free - protected
    assert report.reset == (free - protected) // 2


def test_selection_over_the_open_entries_is_that_over_these_scores_alone():
    model = trained_mlp()
    scores = forgetkit.score(model, vectors(4))
    mask = torch.rand(scores["0.weight"].shape, generator=torch.Generator().manual_seed(2)) < 0.4
    alone = {name: score[~mask] if name == "0.weight" else score for name, score in scores.items()}
    expected = forgetkit.select(alone, fraction=0.3)
    before = values(model)
    forgetkit.unlearn(model, vectors(4), reinit="masked:fraction=0.3", protect={"0.weight": mask})
    differ = changed(model, before)
    assert torch.equal(differ["0.weight"][~mask], expected["0.weight"])
    assert torch.equal(differ["2.weight"], expected["2.weight"])


@pytest.mark.parametrize("reinit", [*REINITS, "masked:fraction=0.5", Zeros()])
def test_pruned_entries_stay_pruned_and_unwritten(reinit):
    model = trained_mlp()
    prune.l1_unstructured(model[2], "weight", amount=0.5)
    prune.l1_unstructured(model[2], "weight", amount=0.2)  # a container of two methods
    before, kept = values(model), model[2].weight_mask.bool()
    report = forgetkit.unlearn(model, vectors(4), reinit=reinit)
    differ = changed(model, before)["2.weight_orig"]
    assert differ.any()
    assert not differ[~kept].any()
    assert report.layers["2.weight_orig"].reset <= int(kept.sum())
    assert "2.weight_mask" not in report.buffers
    model(vectors(2)[0][0])
    assert not model[2].weight[~kept].any()


def test_scores_leave_protected_names_out():
    model = trained_mlp()
    assert set(forgetkit.score(model, vectors(4), protect=["0", "2.bias"])) == {"2.weight"}


def test_statistics_of_a_protected_layer_stay():
    model = convnet().train()
    model(images(8)[0][0])
    before = values(model)
    policy = forgetkit.ResetPolicy(bn_stats="reset")
    report = forgetkit.unlearn(model, images(6), policy=policy, protect=["1"])
    assert not [name for name in (*report.buffers, *changed(model, before)) if name.startswith("1.")]


@dataclass(frozen=True)
class ZeroEach(forgetkit.contracts.Intervention):
    """Sets every trained parameter to zero after each step."""

    def after_step(self, moment: forgetkit.contracts.InterventionContext) -> None:
        moment.apply(Change(name, None, torch.zeros_like(p)) for name, p in moment.context.targets.items())


def test_an_attached_component_changes_no_protected_entry():
    model = trained_mlp()
    mask = torch.zeros_like(model[2].weight, dtype=torch.bool)
    mask[0] = True
    optimizer = torch.optim.SGD(model.parameters(), lr=0.0)
    attached = forgetkit.attach(model, optimizer, [ZeroEach()], protect={"2.weight": mask})
    inputs, targets = vectors(4)[0]
    attached.begin(inputs, targets)
    before = values(model)
    with attached.step(inputs, targets):
        model(inputs)
    assert torch.equal(model[2].weight[0], before["2.weight"][0])
    assert not model[2].weight[1:].any()
    assert not model[0].weight.any()


@pytest.mark.parametrize(
    ("protect", "message"),
    [
        (["3"], "no parameter, buffer or module called '3'"),
        (["0.wieght"], "called '0.wieght'"),
        ({"0": torch.ones(3, dtype=torch.bool)}, "no parameter or buffer called '0'"),
        ({"0.weight": torch.ones(3, dtype=torch.bool)}, "not a bool tensor of shape"),
        ({"0.weight": torch.ones(6, 5)}, "not a bool tensor of shape"),
        ("0.weight", "takes a list of names"),
        (3, "takes a list of names"),
        ([nn.Parameter(torch.ones(2, 2))], "takes names, not Parameter: those that"),
        ([["0.weight"]], "takes names, not list"),
    ],
)
def test_what_fits_nothing_is_refused(protect, message):
    model = trained_mlp()
    with refused(OptionError, match=message, unchanged=model):
        forgetkit.unlearn(model, vectors(4), protect=protect)


@pytest.mark.parametrize("whole", [True, False])
def test_protecting_everything_is_refused(whole):
    model = trained_mlp()
    masks = {name: torch.ones_like(p, dtype=torch.bool) for name, p in model.named_parameters()}
    with refused(NoMatchError, match="protect", unchanged=model):
        forgetkit.unlearn(model, vectors(4), protect=[""] if whole else masks)


def test_a_third_party_that_insists_is_refused():
    @dataclass(frozen=True)
    class Insists:
        def propose(self, context: ReinitContext) -> Iterable[Change]:
            yield Change("2.weight", None, torch.zeros(4, 6))

    model = trained_mlp()
    with refused(ComponentError, match="'2.weight', which is frozen, protected or unused", unchanged=model):
        forgetkit.unlearn(model, vectors(4), reinit=Insists(), protect=["2.weight"])


def test_a_pruned_and_frozen_layer_is_left_alone():
    model = nn.Sequential(nn.Linear(4, 8), nn.ReLU(), nn.Linear(8, 3))
    prune.l1_unstructured(model[0], "weight", 0.5)
    model[0].requires_grad_(False)
    report = forgetkit.unlearn(model, PAIRS, reinit="masked:fraction=0.5")
    assert set(report.layers) <= {"2.weight", "2.bias"}


def test_a_mask_of_what_is_not_scored_counts_in_no_selection():
    model = nn.Sequential(nn.Linear(4, 8), nn.ReLU(), nn.Linear(8, 3))
    masks = {"0.bias": torch.ones(8, dtype=torch.bool)}
    scoring = forgetkit.Scoring(params="weights")
    report = forgetkit.unlearn(model, PAIRS, reinit="masked:fraction=0.5", protect=masks, scoring=scoring)
    assert report.scored == 4 * 8 + 8 * 3


def test_statistics_under_a_mask_stay():
    model = nn.Sequential(nn.Linear(4, 8), nn.BatchNorm1d(8), nn.ReLU(), nn.Linear(8, 3))
    model[1].running_mean.fill_(3.0)
    policy = forgetkit.ResetPolicy(bn_stats="reset")
    masks = {"1.running_mean": torch.arange(8) < 4}
    forgetkit.unlearn(model, PAIRS, reinit="masked:fraction=0.5", policy=policy, protect=masks)
    assert bool((model[1].running_mean == 3.0).all())


def test_vectors_of_a_spectral_norm_stay_if_they_are_protected():
    model = nn.Sequential(nn.utils.spectral_norm(nn.Linear(4, 8)), nn.ReLU(), nn.Linear(8, 3))
    before = {name: buffer.clone() for name, buffer in model.named_buffers()}
    forgetkit.unlearn(model, PAIRS, reinit="masked:fraction=0.5", protect=list(before))
    assert all(torch.equal(buffer, before[name]) for name, buffer in model.named_buffers())


def test_everything_that_a_method_would_reset_is_protected():
    model = nn.Sequential(nn.Linear(4, 8), nn.ReLU(), nn.Linear(8, 3))
    masks = {name: torch.ones_like(p, dtype=torch.bool) for name, p in model[2].named_parameters(prefix="2")}
    with pytest.raises(NoMatchError, match="every entry that rifle would reset is protected"):
        forgetkit.unlearn(model, PAIRS, reinit="rifle", protect=masks)


@dataclass(frozen=True)
class FirstUnits:
    """Resets the first two units of each group."""

    def propose(self, context):
        yield from context.reset_units({group.name: torch.arange(group.size) < 2 for group in context.units})


def test_a_unit_with_a_protected_entry_stays_whole():
    model = nn.Sequential(nn.Linear(4, 8), nn.ReLU(), nn.Linear(8, 3))
    mask = torch.zeros(8, 4, dtype=torch.bool)
    mask[0, 2] = True
    before = {name: p.detach().clone() for name, p in model.named_parameters()}
    forgetkit.unlearn(model, PAIRS, reinit=FirstUnits(), protect={"0.weight": mask})
    after = dict(model.named_parameters())
    assert torch.equal(after["0.weight"][0], before["0.weight"][0])
    assert torch.equal(after["2.weight"][:, 0], before["2.weight"][:, 0])
    assert bool((after["2.weight"][:, 1] == 0).all())


@dataclass(frozen=True)
class Zeroes(Intervention):
    """Sets a weight to zero after each step."""

    name: str

    def after_step(self, moment):
        weight = moment.model.get_parameter(self.name)
        moment.apply([Change(self.name, None, torch.zeros_like(weight))])


def test_a_network_that_is_pruned_after_it_was_attached_is_attached_again():
    model = nn.Sequential(nn.Linear(4, 8), nn.ReLU(), nn.Linear(8, 3))
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    attached = forgetkit.attach(model, optimizer, [Zeroes("0.weight_orig")], protect=["0.weight"])
    prune.l1_unstructured(model[0], "weight", 0.5)
    attached.begin(*PAIRS[0])
    with pytest.raises(OptionError, match="attach it again"), attached.step(*PAIRS[0]):
        model(PAIRS[0][0])
    assert bool((model[0].weight_orig != 0).any())
