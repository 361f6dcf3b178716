"""``Unlearner`` in a loop that Accelerate prepared."""

from __future__ import annotations

import copy

import pytest
import torch
from helpers.optional_packages import import_or_skip
from torch import nn
from torch.nn.functional import cross_entropy
from torch.utils.data import DataLoader, TensorDataset

from forgetkit.errors import OptionError

accelerate = import_or_skip("accelerate")
Unlearner = import_or_skip("forgetkit.integrations.accelerate").Unlearner

pytestmark = [pytest.mark.slow, pytest.mark.filterwarnings("ignore")]


def loop(folder, *, epochs=4, stop=None, resume=None, accumulate=1, **options):
    torch.manual_seed(0)
    accelerator = accelerate.Accelerator(cpu=True, gradient_accumulation_steps=accumulate)
    x = torch.randn(48, 4, generator=torch.Generator().manual_seed(0))
    model = nn.Sequential(nn.Linear(4, 8), nn.ReLU(), nn.Linear(8, 3))
    loader = DataLoader(TensorDataset(x, x[:, :3].argmax(1)), batch_size=8)
    model, optimizer, loader = accelerator.prepare(model, torch.optim.Adam(model.parameters(), 0.01), loader)
    unlearner = Unlearner(accelerator, importance="snip", reinit="masked:fraction=0.3", seed=3, **options)
    if resume:
        accelerator.load_state(resume)
    for _ in range(unlearner.resets, epochs):
        for inputs, targets in loader:
            with accelerator.accumulate(model):
                accelerator.backward(cross_entropy(model(inputs), targets))
                optimizer.step()
                optimizer.zero_grad()
        unlearner.unlearn(model, optimizer, loader)
        assert accelerator.gradient_state.active_dataloader is None
        if unlearner.resets == stop:
            accelerator.save_state(folder)
    return model, unlearner


def test_a_resumed_loop_equals_an_uninterrupted_one(tmp_path):
    whole, _ = loop(tmp_path, stop=2)
    resumed, unlearner = loop(tmp_path, resume=tmp_path)
    assert unlearner.resets == 4
    assert unlearner.last_report.changed == 20
    assert all(torch.equal(a, b) for a, b in zip(whole.parameters(), resumed.parameters(), strict=True))


def test_a_reset_within_an_accumulation_is_refused():
    accelerator = accelerate.Accelerator(cpu=True, gradient_accumulation_steps=2)
    model = nn.Linear(4, 3)
    batches = [(torch.randn(8, 4), torch.randint(3, (8,)))]
    optimizer = torch.optim.SGD(model.parameters(), 0.1)
    unlearner = Unlearner(accelerator)
    with accelerator.accumulate(model):
        pass
    with pytest.raises(OptionError, match="gradients accumulate"):
        unlearner.unlearn(model, optimizer, batches)


def test_followers_get_the_same_resets(tmp_path):
    ema = nn.Sequential(nn.Linear(4, 8), nn.ReLU(), nn.Linear(8, 3))
    before = copy.deepcopy(ema.state_dict())
    model, _ = loop(tmp_path, epochs=1, followers=[ema])
    changed = 0
    for name, p in model.named_parameters():
        mask = ema.state_dict()[name] != before[name]
        changed += int(mask.sum())
        assert torch.equal(p.detach()[mask], ema.state_dict()[name][mask])
    assert changed == 20
