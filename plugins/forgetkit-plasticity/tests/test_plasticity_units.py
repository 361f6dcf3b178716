"""A unit that was reset has no effect, keeps nothing, and leaves everybody else alone."""

from __future__ import annotations

import copy
from collections.abc import Mapping, Sequence
from functools import partial
from typing import Any

import pytest
import torch
from forgetkit_plasticity import ContinualBackprop, Redo, RedoWhileTraining, SelfNormalizedResets
from plasticity_nets import Loop, Snapshot, flat, groups_of, images, residual, silenced, silent_units
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

import forgetkit
from forgetkit.contracts import Inputs, UnitGroup
from forgetkit.errors import NoMatchError
from forgetkit.registry import registry

COUPLED = ("skip", "include")


def adam(model: nn.Module) -> torch.optim.Optimizer:
    return torch.optim.AdamW(model.parameters(), lr=1e-3, amsgrad=True)


def reset_between(groups: Sequence[UnitGroup], before: Snapshot, after: Snapshot) -> dict[str, Tensor]:
    """Which units were heard before and are not any more."""
    return {g.name: silent_units(g, after.tensors) & ~silent_units(g, before.tensors) for g in groups}


def require_clean_reset(
    groups: Sequence[UnitGroup], chosen: Mapping[str, Tensor], before: Snapshot, after: Snapshot
) -> None:
    """All that belongs to the chosen units begins again, with its moments; nothing else has changed a bit."""
    inside: dict[str, Tensor] = {}
    for group in groups:
        units = chosen[group.name]
        for share in (*group.parameters, *group.stats):
            mask = share.mask(before.tensors[share.name], units)
            inside[share.name] = inside.get(share.name, torch.zeros_like(mask)) | mask
        for kind in ("bias", "outgoing"):
            for share in getattr(group, kind):
                assert not share.per_unit(after.tensors[share.name], group.size)[units].any()
        for at, share in enumerate(group.norm):  # scale, shift, scale, shift
            assert bool((share.per_unit(after.tensors[share.name], group.size)[units] == (at + 1) % 2).all())
        for at, share in enumerate(group.stats):  # mean, variance
            assert bool((share.per_unit(after.tensors[share.name], group.size)[units] == at % 2).all())
    heard_by_nobody = {share.name for group in groups for share in group.outgoing}
    for name, mask in inside.items():
        old, new = before.tensors[name], after.tensors[name]
        assert torch.equal(new[~mask], old[~mask])
        if name not in heard_by_nobody and new.ndim > 1:
            assert bool((new[mask] != old[mask]).all())
            assert bool((new[mask] != 0).all())
        for key, moment in after.moments.get(name, {}).items():
            assert not moment[mask].any()
            assert torch.equal(moment[~mask], before.moments[name][key][~mask])
            assert bool(before.moments[name][key][~mask].any())
    for name in set(before.tensors) - set(inside):
        assert torch.equal(before.tensors[name], after.tensors[name]), name


def require_no_effect(
    model: nn.Module, groups: Sequence[UnitGroup], chosen: Mapping[str, Tensor], inputs: Tensor
) -> None:
    """Whatever a reset unit computes, the outputs are the same to the bit."""
    model.eval()
    tensors = {**dict(model.named_parameters()), **dict(model.named_buffers())}
    with torch.no_grad():
        outputs = model(inputs)
        heard = {share.name: torch.zeros_like(tensors[share.name]) for group in groups for share in group.outgoing}
        for group in groups:
            for share in group.outgoing:
                heard[share.name][share.mask(tensors[share.name], chosen[group.name])] = 1
        for group in groups:
            for share in (*group.incoming, *group.bias, *group.norm, *group.stats):
                tensor = tensors[share.name]
                mask = share.mask(tensor, chosen[group.name])
                if share.name in heard:  # what reads a silent unit stays zero
                    mask = mask & (heard[share.name] == 0)
                tensor[mask] = torch.rand(int(mask.sum())) * 3 + 0.1
        assert torch.equal(model(inputs), outputs)
        for group in groups:  # and were they heard, the outputs would be others
            for share in group.outgoing:
                tensors[share.name][share.mask(tensors[share.name], chosen[group.name])] = 0.5
        assert not torch.equal(model(inputs), outputs)


INTERVENTIONS = [
    (RedoWhileTraining, {"every": 2}),
    (ContinualBackprop, {"rate": 0.25, "maturity": 1, "mean": "drop"}),
    (SelfNormalizedResets, {"limit": 1}),
]


@pytest.mark.slow
@pytest.mark.parametrize("coupled", COUPLED)
@pytest.mark.parametrize(("component", "options"), INTERVENTIONS)
@pytest.mark.parametrize("channels_last", [False, True])
def test_interventions_on_a_residual_network(
    component: Any, options: dict[str, Any], coupled: str, channels_last: bool
) -> None:
    model = silenced(residual())
    if channels_last:
        model = model.to(memory_format=torch.channels_last)
    loop = Loop(model, component(**options, coupled=coupled), adam(model))
    every = groups_of(model, images(2)[0])
    open_ones = tuple(g for g in every if coupled == "include" or not g.coupled)
    assert len(every) == 5
    assert len(open_ones) == (5 if coupled == "include" else 3)
    loop.attached.begin(*images(2)[0])
    for _ in range(20):
        loop.train(images(6), begin=False)
        before, after = loop.before.seen[-1], loop.after.seen[-1]
        chosen = reset_between(open_ones, before, after)
        if all(bool(units.any()) for units in chosen.values()):
            break
    else:
        pytest.fail("never was a unit reset in each group")
    assert all(bool(units[0]) for units in chosen.values())
    assert not any(bool(units.all()) for units in chosen.values())
    require_clean_reset(open_ones, chosen, before, after)
    require_no_effect(copy.deepcopy(model), open_ones, chosen, images(6)[0][0])


@pytest.mark.slow
@pytest.mark.parametrize("coupled", COUPLED)
def test_redo_on_a_residual_network(coupled: Any) -> None:
    model = silenced(residual())
    optimizer = adam(model)
    cross_entropy(model(images(6)[0][0]), images(6)[0][1]).backward()
    optimizer.step()
    before = Snapshot.of(model, optimizer)
    forgetkit.unlearn(model, images(6, 3), reinit=Redo(tau=0.01, coupled=coupled), optimizer=optimizer)
    after = Snapshot.of(model, optimizer)
    groups = groups_of(model, images(2)[0], coupled=coupled == "include")
    chosen = reset_between(groups, before, after)
    assert all(units.tolist() == [True] + [False] * (len(units) - 1) for units in chosen.values())
    require_clean_reset(groups, chosen, before, after)
    require_no_effect(model, groups, chosen, images(6)[0][0])


@pytest.mark.slow
def test_redo_on_resnet18() -> None:
    torch.manual_seed(0)
    builder = registry.load().make("models", "resnet18")[1]
    build = partial(builder.build, Inputs((3, 8, 8), 3, (0.0,) * 3, (1.0,) * 3), nn.Identity())
    model, inputs, targets = build(), torch.rand(4, 3, 8, 8), torch.arange(4) % 3
    report = forgetkit.unlearn(model, [(inputs, targets)], reinit=Redo(tau=0.5, coupled="include"), build=build)
    groups = groups_of(model, (inputs, targets))
    chosen = {group.name: silent_units(group, model.state_dict()) for group in groups}
    assert 0 < report.reset < sum(p.numel() for p in model.parameters())
    assert any(group.coupled and bool(chosen[group.name].any()) for group in groups)
    require_no_effect(model, groups, chosen, inputs)


@pytest.mark.parametrize("coupled", COUPLED)
def test_only_the_coupled_ones_or_none(coupled: Any) -> None:
    class Stream(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.stem, self.more, self.head = nn.Linear(5, 4), nn.Linear(4, 4), nn.Linear(4, 3)

        def forward(self, x: Tensor) -> Tensor:
            x = self.stem(x)
            return self.head(x + self.more(x))

    batch = (torch.randn(4, 5), torch.arange(4) % 3)
    if coupled == "include":
        assert forgetkit.unlearn(Stream(), [batch], reinit=Redo(tau=9.0, coupled="include")).reset == 4 * 5 * 2 + 4 + 12
        return
    with pytest.raises(NoMatchError, match="write coupled=include"):
        forgetkit.unlearn(Stream(), [batch], reinit="redo")
    for component in (RedoWhileTraining(), ContinualBackprop(), SelfNormalizedResets()):
        with pytest.raises(NoMatchError, match="write coupled=include"):
            Loop(Stream(), component).attached.begin(*batch)
        with pytest.raises(NoMatchError, match="it needs hidden layers"):
            Loop(nn.Linear(5, 3), component).attached.begin(*batch)


def test_a_frozen_layer_takes_its_units_out() -> None:
    model = flat()
    model[3].weight.requires_grad_(False)
    before = {name: value.clone() for name, value in model.state_dict().items()}
    forgetkit.unlearn(model, images(5), reinit=Redo(tau=9.0))
    changed = {name for name, value in model.state_dict().items() if not torch.equal(value, before[name])}
    assert changed == {"6.weight", "6.bias", "8.weight"}
