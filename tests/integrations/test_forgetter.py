"""When resets are due, wrong arguments, extras, and data that is read without a trace."""

from __future__ import annotations

import copy
import subprocess
import sys
from dataclasses import dataclass

import pytest
import torch
from torch.nn.functional import cross_entropy
from torch.utils.data import DataLoader, Dataset, RandomSampler, TensorDataset
from torch.utils.data.distributed import DistributedSampler

from forgetkit.contracts import Change, Intervention
from forgetkit.errors import OptionError
from forgetkit.integrations.forgetter import ForgetOptions, Forgetter
from forgetkit.integrations.requirements import require
from forgetkit.integrations.scoring_data import ScoringData, require_one_loader

DATA = TensorDataset(torch.arange(12))


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"every": 0}, "every=0"),
        ({"every": True}, "every=True"),
        ({"every": "week"}, "every 'epoch', 'fit_end' or a number of steps"),
        ({"every": 1.5}, "every=1.5"),
        ({"seed": -1}, "seed=-1"),
        ({"seed": "1"}, "seed='1'"),
        ({"interventions": "redo"}, "interventions= takes a list"),
        ({"followers": torch.nn.Linear(1, 1)}, "followers= takes a list"),
        ({"unlearn": {"optimizer": None}}, "optimizer= comes from the trainer"),
        ({"unlearn": {"loss": len}, "objective": len}, "contradict"),
        ({"batches": iter([])}, "only once"),
        ({"importance": "snipp"}, "did you mean 'snip'"),
        ({"importance": "snip:sample=3"}, "did you mean 'samples'"),
        ({"reinit": "maskd"}, "did you mean 'masked'"),
        ({"importance": "snip", "reinit": "cold"}, "looks at no scores"),
        ({"reinit": "masked:fraction=2"}, "fraction"),
        ({"interventions": ["no-such-component"]}, "no-such-component"),
        ({"optimizer_state": "zeros"}, "optimizer_state='zeros' is none of zero, keep"),
        ({"unlearn": {"protekt": ["0"]}}, "did you mean 'protect'"),
    ],
)
def test_wrong_arguments_are_refused_in_one_line(given, message):
    with pytest.raises(OptionError, match=message) as caught:
        ForgetOptions(**given)
    assert "\n" not in str(caught.value)


def test_seeds_of_resets_differ():
    seeds = {ForgetOptions(seed=seed).seed_of(number) for seed in range(20) for number in range(20)}
    assert len(seeds) == 400


def test_a_reset_is_due_once_at_each_position():
    forgetter = Forgetter(ForgetOptions(every=4))
    assert [step for step in range(10) if forgetter.due("step", step)] == [4, 5, 6, 7, 8, 9]
    forgetter.load_state_dict({**forgetter.state_dict(), "position": 4})
    assert [step for step in range(10) if forgetter.due("step", step)] == [8, 9]
    assert not forgetter.due("epoch", 8)


def test_states_of_others_are_refused():
    state = Forgetter(ForgetOptions(seed=1)).state_dict()
    for options, message in ((ForgetOptions(), "seed=1"), (ForgetOptions(seed=1, every=3), "every='epoch'")):
        with pytest.raises(OptionError, match=message):
            Forgetter(options).load_state_dict(state)
    with pytest.raises(OptionError, match="no 'resets'"):
        Forgetter(ForgetOptions()).load_state_dict({})
    with pytest.raises(OptionError, match="interventions="):
        Forgetter(ForgetOptions(seed=1, interventions=["redo"])).load_state_dict(state)


def test_reading_leaves_the_loaders_generator_alone():
    generator = torch.Generator().manual_seed(5)
    loader = DataLoader(DATA, batch_size=5, shuffle=True, generator=generator)
    before = generator.get_state()
    orders = [torch.cat([x for (x,) in ScoringData(loader, seed)]).tolist() for seed in (1, 1, 2)]
    assert torch.equal(before, generator.get_state())
    assert orders[0] == orders[1] != orders[2]
    assert sorted(orders[0]) == list(range(12))


def test_a_sampler_keeps_its_epoch():
    sampler = DistributedSampler(DATA, num_replicas=2, rank=0)
    sampler.set_epoch(7)
    loader = DataLoader(DATA, batch_size=3, sampler=sampler)
    first, second = (torch.cat([x for (x,) in ScoringData(loader, number=n)]).tolist() for n in (1, 2))
    assert first != second
    assert sampler.epoch == 7


def test_no_worker_is_started():
    loader = DataLoader(DATA, batch_size=4, num_workers=1, persistent_workers=True)
    assert len(list(ScoringData(loader))) == 3
    assert loader._iterator is None


def test_limits_and_other_iterables():
    loader = DataLoader(DATA, batch_size=2, sampler=RandomSampler(DATA))
    assert len(list(ScoringData(loader, limit=2))) == 2
    assert list(ScoringData([1, 2], prepare=str)) == ["1", "2"]
    for wrong, message in ((None, "no training data"), ([loader, loader], "several loaders")):
        with pytest.raises(OptionError, match=message):
            require_one_loader(wrong, "the trainer")


def test_a_dataset_without_batches():
    class Ready(Dataset):
        def __len__(self):
            return 2

        def __getitem__(self, index):
            return torch.full((3,), index)

    assert [len(x) for x in ScoringData(DataLoader(Ready(), batch_size=None))] == [3, 3]


def test_a_missing_package_is_named_with_its_extra():
    with pytest.raises(ImportError, match=r"pip install 'forgetkit\[skorch\]'") as caught:
        require("skorch", "a_package_that_nobody_has")
    assert "\n" not in str(caught.value)


@pytest.mark.children
def test_importing_forgetkit_imports_no_trainer():
    code = (
        "import sys, forgetkit, forgetkit.integrations; forgetkit.unlearn; "
        "print([name for name in ('lightning', 'transformers', 'avalanche', 'skorch', 'accelerate') "
        "if name in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


@dataclass(frozen=True)
class Redraws(Intervention):
    """Sets the weights that it may change to zero after each step."""

    def after_step(self, moment):
        free = [name for name in ("0.weight", "2.weight") if name in moment.context.targets]
        moment.apply(Change(name, None, torch.zeros_like(moment.model.get_parameter(name))) for name in free)


def test_interventions_get_what_is_protected_and_the_followers():
    model = torch.nn.Sequential(torch.nn.Linear(4, 8), torch.nn.ReLU(), torch.nn.Linear(8, 3))
    copied = copy.deepcopy(model)
    options = {"interventions": [Redraws()], "unlearn": {"protect": ["0.weight"]}, "followers": [lambda: copied]}
    forgetter = Forgetter(ForgetOptions(**options))
    before = copied[0].weight.detach().clone()
    batches = [(torch.randn(6, 4), torch.randint(3, (6,)))]
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    forgetter.start(model, optimizer, batches, lambda module, batch: cross_entropy(module(batch[0]), batch[1]), 0)
    forgetter.enter(batches[0])
    model(batches[0][0])
    forgetter.exit()
    assert torch.equal(model[0].weight, before)
    assert bool((model[2].weight == 0).all())
    assert bool((copied[2].weight == 0).all())


def test_what_was_trained_without_forgetting_is_not_made_up_for():
    forgetter = Forgetter(ForgetOptions(every=5))
    forgetter.start(torch.nn.Linear(1, 1), None, [], None, 8)
    assert [step for step in range(8, 12) if forgetter.due("step", step)] == [10, 11]
