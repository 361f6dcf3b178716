"""The optimizer's state of reset entries is a new optimizer's; what cannot be is named. Followers are reset too."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterable
from typing import Any

import pytest
import torch
from helpers.unlearning_networks import refused
from torch import Tensor, nn, optim
from torch.distributed.checkpoint.state_dict import get_optimizer_state_dict, set_optimizer_state_dict
from torch.nn.functional import cross_entropy
from torch.optim.optimizer import register_optimizer_step_post_hook
from torch.optim.swa_utils import AveragedModel

import forgetkit
from forgetkit import ResetPolicy
from forgetkit.errors import ForgetkitError, OptionError

Make = Callable[[Iterable[Any]], Any]

TORCH: dict[str, Make] = {
    "adadelta": lambda p: optim.Adadelta(p, lr=0.1),
    "adagrad": lambda p: optim.Adagrad(p, lr=0.1),
    "adagrad-accumulator": lambda p: optim.Adagrad(p, lr=0.1, initial_accumulator_value=0.3),
    "adam": lambda p: optim.Adam(p, lr=0.01),
    "adam-amsgrad-fused": lambda p: optim.Adam(p, lr=0.01, amsgrad=True, fused=True),
    "adam-foreach": lambda p: optim.Adam(p, lr=0.01, foreach=True, weight_decay=0.1),
    "adam-tensor-lr": lambda p: optim.Adam(p, lr=torch.tensor(0.01), foreach=False),
    "adamax": lambda p: optim.Adamax(p, lr=0.01),
    "adamw": lambda p: optim.AdamW(p, lr=0.01),
    "asgd": lambda p: optim.ASGD(p, lr=0.1, t0=0),
    "asgd-decay": lambda p: optim.ASGD(p, lr=0.1, t0=0, lambd=0.5, weight_decay=0.2),
    "nadam": lambda p: optim.NAdam(p, lr=0.01),
    "radam": lambda p: optim.RAdam(p, lr=0.01),
    "rmsprop": lambda p: optim.RMSprop(p, lr=0.01),
    "rmsprop-centered": lambda p: optim.RMSprop(p, lr=0.01, centered=True, momentum=0.9),
    "rprop": lambda p: optim.Rprop(p, lr=0.02),
    "sgd-momentum": lambda p: optim.SGD(p, lr=0.1, momentum=0.9, weight_decay=0.1),
    "sgd-differentiable": lambda p: optim.SGD(p, lr=0.1, momentum=0.9, maximize=True),
}
START = {
    "adagrad-accumulator": {"sum": 0.3},
    "rprop": {"prev": 0.0, "step_size": 0.02},
    "adamax": {"exp_avg": 0.0, "exp_inf": 1e-8},
}


class Net(nn.Module):
    """A square matrix, a column and a parameter of no dimensions, in which rows and columns may be confused."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.square, self.last = nn.Linear(5, 4), nn.Linear(4, 4), nn.Linear(4, 3)
        self.scale = nn.Parameter(torch.tensor(1.5))

    def reset_parameters(self) -> None:
        nn.init.ones_(self.scale)

    def forward(self, inputs: Tensor) -> Tensor:
        return self.scale * self.last(torch.relu(self.square(torch.relu(self.first(inputs)))))


def batches(seed: int = 0) -> list[tuple[Tensor, Tensor]]:
    rng = torch.Generator().manual_seed(seed)
    return [(torch.randn(8, 5, generator=rng), torch.arange(8) % 3) for _ in range(3)]


def step(model: nn.Module, optimizer: Any, batch: tuple[Tensor, Tensor]) -> None:
    def closure() -> Tensor:
        optimizer.zero_grad()
        loss = cross_entropy(model(batch[0]), batch[1])
        loss.backward()
        return loss

    if isinstance(optimizer, optim.LBFGS):
        optimizer.step(closure)
    else:
        closure()
        optimizer.step()


def trained(make: Make, steps: int = 6) -> tuple[Net, Any]:
    torch.manual_seed(0)
    model = Net()
    optimizer = make(list(model.parameters()))
    if callable(getattr(optimizer, "train", None)):
        optimizer.train()
    for number in range(steps):
        step(model, optimizer, batches(number)[0])
    return model, optimizer


def snapshot(optimizer: Any) -> dict[Any, dict[str, Any]]:
    return {p: copy.deepcopy(dict(entry)) for p, entry in optimizer.state.items()}


def masks_of(model: nn.Module, before: dict[str, Tensor]) -> dict[str, Tensor]:
    return {name: p.detach() != before[name] for name, p in model.named_parameters()}


def forget(model: nn.Module, optimizer: Any, **options: Any) -> tuple[Any, dict[str, Tensor]]:
    before = {name: p.detach().clone() for name, p in model.named_parameters()}
    given = {"importance": "random", "reinit": "masked:fraction=0.5", "seed": 3, **options}
    report = forgetkit.unlearn(model, optimizer=optimizer, fresh="module", **given)
    return report, masks_of(model, before)


def fresh_state(make: Make, parameter: Tensor) -> dict[str, Any]:
    """The oracle: a new optimizer steps once on the parameter's values, with zero gradient and no decay."""
    twin = nn.Parameter(parameter.detach().clone())
    optimizer = make([twin])
    for group in optimizer.param_groups:
        for key in ("weight_decay", "lambd"):
            if key in group:
                group[key] = 0.0
    if callable(getattr(optimizer, "train", None)):
        optimizer.train()
    twin.grad = torch.zeros_like(twin)
    optimizer.step()
    return dict(optimizer.state[twin])


def check_masked(make: Make) -> None:
    model, optimizer = trained(make)
    old = snapshot(optimizer)
    report, masks = forget(model, optimizer)
    assert report.optimizer_cleared
    assert report.remarks == ()
    for name, parameter in model.named_parameters():
        new, mask, entry = fresh_state(make, parameter), masks[name], optimizer.state[parameter]
        assert list(entry) == list(old[parameter])
        for key, value in entry.items():
            before = old[parameter][key]
            if parameter.ndim and isinstance(value, Tensor) and value.shape == parameter.shape:
                assert torch.equal(value[mask], new[key][mask]), (name, key)
                assert torch.equal(value[~mask], before[~mask]), (name, key)
            elif key in ("step", "eta", "mu", "mu_product"):
                assert torch.equal(torch.as_tensor(value), torch.as_tensor(before)), (name, key)


@pytest.mark.parametrize("name", TORCH)
def test_reset_entries_have_a_new_optimizer_s_state(name):
    check_masked(TORCH[name])


@pytest.mark.parametrize("name", START)
def test_state_that_does_not_start_at_zero(name):
    model, optimizer = trained(TORCH[name])
    _, masks = forget(model, optimizer)
    for parameter_name, parameter in model.named_parameters():
        for key, value in START[name].items():
            found = optimizer.state[parameter][key][masks[parameter_name]]
            torch.testing.assert_close(found, torch.full_like(found, value), atol=1e-12, rtol=1e-6)


def test_an_average_of_weights_starts_at_the_fresh_ones():
    model, optimizer = trained(TORCH["asgd-decay"])
    _, masks = forget(model, optimizer)
    for name, parameter in model.named_parameters():
        found = optimizer.state[parameter]["ax"]
        assert torch.equal(found[masks[name]], parameter[masks[name]])
        assert not torch.equal(found, parameter) or bool(masks[name].all())


@pytest.mark.parametrize("policy", ["zero", "fresh", "rescaled"])
@pytest.mark.parametrize("name", [name for name in TORCH if name != "sgd-differentiable"])
def test_a_network_replaced_whole_has_a_new_optimizer(name, policy):
    """To the bit, step counts and running averages of the step size included."""
    model, optimizer = trained(TORCH[name])
    keys = {p: list(entry) for p, entry in optimizer.state.items()}
    forget(model, optimizer, importance=None, reinit="cold", policy=ResetPolicy(optimizer_state=policy))
    assert keys == {p: list(entry) for p, entry in optimizer.state.items()}
    twin = copy.deepcopy(model)
    other = TORCH[name](list(twin.parameters()))
    for number in range(2):
        step(model, optimizer, batches(number)[1])
        step(twin, other, batches(number)[1])
    for own, new in zip(model.parameters(), twin.parameters(), strict=True):
        assert torch.equal(own, new)


@pytest.mark.parametrize("reinit", ["rifle", "llf", "masked", "cold"])
@pytest.mark.parametrize("name", ["adam", "adamw", "sgd-momentum", "rprop", "asgd"])
def test_checkpoints_of_torch_distributed_load(name, reinit):
    model, optimizer = trained(TORCH[name])
    importance = "random" if reinit == "masked" else None
    forget(model, optimizer, reinit=reinit, importance=importance, batches=batches())
    saved = copy.deepcopy(get_optimizer_state_dict(model, optimizer))
    twin = copy.deepcopy(model)
    other = TORCH[name](list(twin.parameters()))
    set_optimizer_state_dict(twin, other, saved)
    step(model, optimizer, batches(9)[0])
    step(twin, other, batches(9)[0])
    for own, new in zip(model.parameters(), twin.parameters(), strict=True):
        assert torch.equal(own, new)


def test_second_moments_start_at_the_mean_of_the_kept():
    for name, moments in (
        ("adam-amsgrad-fused", {"exp_avg_sq", "max_exp_avg_sq"}),
        ("rmsprop-centered", {"square_avg"}),
        ("adamax", {"exp_inf"}),
        ("adagrad-accumulator", {"sum"}),
        ("rprop", set()),
        ("sgd-momentum", set()),
    ):
        model, optimizer = trained(TORCH[name])
        old = snapshot(optimizer)
        _, masks = forget(model, optimizer, policy=ResetPolicy(optimizer_state="rescaled"))
        for parameter_name, parameter in model.named_parameters():
            mask, new = masks[parameter_name], fresh_state(TORCH[name], parameter)
            for key, value in optimizer.state[parameter].items():
                if not parameter.ndim or value.shape != parameter.shape or not mask.any():
                    continue
                if key in moments and not mask.all():
                    mean = old[parameter][key][~mask].double().mean().float().expand(int(mask.sum()))
                    torch.testing.assert_close(value[mask], mean)
                else:
                    torch.testing.assert_close(value[mask], new[key][mask])
                assert torch.equal(value[~mask], old[parameter][key][~mask])


@pytest.mark.parametrize(("policy", "low", "high"), [("zero", 3.0, 3.3), ("rescaled", 0.05, 0.3)])
def test_adam_s_first_move_beside_a_new_one(policy, low, high):
    """With a kept step count, √((1 - 0.9)² / (1 - 0.999)) = 3.16 times a new Adam's; 0.1 once rescaled."""
    model = nn.Linear(4, 50, bias=False)
    weight = model.weight
    optimizer = optim.Adam([weight], lr=1e-3)
    rng = torch.Generator().manual_seed(0)
    for _ in range(5000):
        weight.grad = torch.randn(50, 4, generator=rng).sign()
        optimizer.step()

    _, masks = forget(model, optimizer, policy=ResetPolicy(optimizer_state=policy))
    before = weight.detach().clone()
    weight.grad = torch.ones_like(weight)
    optimizer.step()
    moves = (before - weight.detach())[masks["weight"]] / 1e-3
    assert low < float(moves.mean()) < high


@pytest.mark.parametrize(
    ("make", "named"),
    [
        (lambda p: optim.LBFGS(p, max_iter=3), "LBFGS"),
        (optim.Adafactor, "row_var, col_var"),
    ],
    ids=["lbfgs", "adafactor"],
)
def test_state_that_cannot_be_cleared_is_named(make, named):
    model, optimizer = trained(make)
    for reinit, importance in (("masked", "random"), ("rifle", None)):
        report, _ = forget(model, optimizer, reinit=reinit, importance=importance, batches=batches())
        rows_are_whole = reinit == "rifle" and "row_var" in named  # of the one tensor that was replaced
        assert rows_are_whole or [line for line in report.remarks if named in line]
    report, _ = forget(model, optimizer, policy=ResetPolicy(optimizer_state="fresh"))
    assert report.remarks == ()
    twin = copy.deepcopy(model)
    other = make(list(twin.parameters()))
    step(model, optimizer, batches(4)[0])
    step(twin, other, batches(4)[0])
    for own, new in zip(model.parameters(), twin.parameters(), strict=True):
        assert torch.equal(own, new)


def test_muon_and_a_second_optimizer():
    torch.manual_seed(0)
    model = Net()
    matrices = [p for p in model.parameters() if p.ndim == 2]
    others = [p for p in model.parameters() if p.ndim != 2]
    several = [optim.Muon(matrices, lr=0.01), optim.Adam(others, lr=0.01)]
    for number in range(3):
        for optimizer in several:
            optimizer.zero_grad()
        cross_entropy(model(batches(number)[0][0]), batches()[0][1]).backward()
        for optimizer in several:
            optimizer.step()
    report, masks = forget(model, several)
    entries = {name: int(mask.sum()) for name, mask in masks.items()}
    twice = sum(entries[name] for name, p in model.named_parameters() if p.ndim != 2)
    assert report.optimizer_cleared == report.reset + twice
    assert report.remarks == ()
    for name, p in model.named_parameters():
        if p.ndim == 2:
            assert not several[0].state[p]["momentum_buffer"][masks[name]].any()
    lone, _ = forget(model, [several[0]], seed=4)
    assert any("no optimizer given holds" in line for line in lone.remarks)
    as_mapping, _ = forget(model, {"muon": several[0], "adam": several[1]}, seed=5)
    assert as_mapping.remarks == ()


def test_sparse_gradients():
    torch.manual_seed(0)
    model = nn.Sequential(nn.Embedding(6, 4, sparse=True))
    optimizer = optim.SparseAdam(model.parameters(), lr=0.1)
    for _ in range(3):
        optimizer.zero_grad()
        model(torch.tensor([0, 1, 2, 5])).square().sum().backward()
        optimizer.step()
    report, masks = forget(model, optimizer)
    assert report.optimizer_cleared == 2 * report.reset
    for value in optimizer.state[model[0].weight].values():
        assert not isinstance(value, Tensor) or not value[masks["0.weight"]].any()


@pytest.mark.parametrize(
    "wrong", [[object()], [], "adam", 3, [optim.Adam], nn.Linear(2, 2)], ids=lambda wrong: type(wrong).__name__
)
def test_other_objects_are_refused_in_one_line(wrong):
    model, _ = trained(TORCH["adam"], steps=1)
    with refused(OptionError):
        forgetkit.unlearn(model, optimizer=wrong, importance="random")


def test_an_optimizer_of_copies_is_refused():
    model, _ = trained(TORCH["adam"], steps=1)
    masters = [p.detach().clone() for p in model.parameters()]
    with refused(OptionError, "copies"):
        forgetkit.unlearn(model, optimizer=optim.Adam(masters), importance="random")


class Lookahead:
    """A wrapper as people write it: slow weights in a state of its own."""

    def __init__(self, optimizer: optim.Optimizer, k: int = 2, alpha: float = 0.5) -> None:
        self.optimizer, self.k, self.alpha, self.count = optimizer, k, alpha, 0
        self.param_groups = optimizer.param_groups
        self.state = {p: {"slow_params": p.detach().clone()} for g in self.param_groups for p in g["params"]}

    def zero_grad(self) -> None:
        self.optimizer.zero_grad()

    @torch.no_grad()
    def step(self) -> None:
        self.optimizer.step()
        self.count += 1
        if self.count % self.k == 0:
            for p, entry in self.state.items():
                entry["slow_params"].lerp_(p, self.alpha)
                p.copy_(entry["slow_params"])


def test_a_wrapper_and_what_it_wraps():
    model, optimizer = trained(lambda p: Lookahead(optim.Adam(p, lr=0.01)), steps=5)
    slow = {p: entry["slow_params"].clone() for p, entry in optimizer.state.items()}
    report, masks = forget(model, optimizer)
    assert report.optimizer_cleared == 3 * report.reset
    for name, p in model.named_parameters():
        mask = masks[name]
        assert torch.equal(optimizer.state[p]["slow_params"][mask], p[mask])
        assert torch.equal(optimizer.state[p]["slow_params"][~mask], slow[p][~mask])
        assert not optimizer.optimizer.state[p]["exp_avg"][mask].any()


class Showing:
    """A wrapper that shows the state and groups of what it wraps, as Accelerate's and Lightning's do."""

    def __init__(self, optimizer: Any) -> None:
        self.optimizer = optimizer

    def __getattr__(self, name: str) -> Any:
        return getattr(self.optimizer, name)


@pytest.mark.parametrize("depth", [1, 2])
def test_a_wrapper_that_shows_the_state_inside(depth):
    def make(p: Iterable[Any]) -> Any:
        optimizer: Any = Lookahead(optim.Adam(p, lr=0.01)) if depth == 2 else optim.Adam(p, lr=0.01)
        return Showing(optimizer)

    model, optimizer = trained(make)
    report, _ = forget(model, optimizer)
    assert report.optimizer_cleared == (1 + depth) * report.reset
    assert report.remarks == ()


def test_wrappers_of_trainers():
    accelerate = pytest.importorskip("accelerate").Accelerator(cpu=True)
    lightning = pytest.importorskip("lightning.pytorch.core.optimizer").LightningOptimizer
    for wrap in (accelerate.prepare, lightning):
        model, optimizer = trained(lambda p: optim.Adam(p, lr=0.01))
        report, _ = forget(model, wrap(optimizer))
        assert report.optimizer_cleared == 2 * report.reset


def test_global_state_is_warned_of():
    class Global(optim.SGD):
        def step(self, closure: Any = None) -> None:
            self.state["all"]["velocity"] = torch.ones(3)

    model, optimizer = trained(lambda p: Global(p, lr=0.1))
    report, _ = forget(model, optimizer)
    assert report.optimizer_cleared == 0
    assert any("Global" in line for line in report.remarks)


def test_no_warning_where_nothing_is_stale():
    for make in (lambda p: optim.SGD(p, lr=0.1), TORCH["adam"]):
        assert forget(*trained(make, steps=0))[0].remarks == ()
        assert forget(*trained(make))[0].remarks == ()


@pytest.mark.parametrize("policy", ["zero", "fresh", "rescaled"])
@pytest.mark.parametrize("name", ["adam", "rprop", "asgd", "adam-tensor-lr"])
def test_a_failure_puts_the_state_back(name, policy, monkeypatch):
    model, optimizer = trained(TORCH[name])
    average = AveragedModel(model)
    before, state, groups = (
        copy.deepcopy(model.state_dict()),
        snapshot(optimizer),
        copy.deepcopy(optimizer.param_groups),
    )
    followed = copy.deepcopy(average.state_dict())
    monkeypatch.setattr(forgetkit.unlearning.SelectionGroup, "finish", _fail)
    with pytest.raises(ForgetkitError, match="at the end"):
        forget(model, optimizer, policy=ResetPolicy(optimizer_state=policy), followers=[average])
    for key, value in model.state_dict().items():
        assert torch.equal(value, before[key])
    for key, value in average.state_dict().items():
        assert torch.equal(value, followed[key])
    for p, entry in optimizer.state.items():
        assert list(entry) == list(state[p])
        assert all(torch.equal(torch.as_tensor(v), torch.as_tensor(state[p][k])) for k, v in entry.items())
    for group, old in zip(optimizer.param_groups, groups, strict=True):
        assert {k: v for k, v in group.items() if k != "params"} == {k: v for k, v in old.items() if k != "params"}


def _fail(*_: Any) -> None:
    raise OptionError("it fails at the end")


def test_the_trial_changes_nothing_else():
    """No draw, no gradient, no hook of the user's, no step of a scheduler's."""
    model, optimizer = trained(TORCH["adamw"])
    scheduler = optim.lr_scheduler.StepLR(optimizer, 1)
    calls: list[int] = []
    optimizer.register_step_pre_hook(lambda *_: calls.append(1))
    grads = [p.grad.clone() for p in model.parameters()]
    torch.manual_seed(5)
    rng, epoch = torch.get_rng_state(), scheduler.last_epoch
    forget(model, optimizer, policy=ResetPolicy(optimizer_state="rescaled"))
    assert torch.equal(torch.get_rng_state(), rng)
    assert (calls, scheduler.last_epoch) == ([], epoch)
    assert all(torch.equal(p.grad, g) for p, g in zip(model.parameters(), grads, strict=True))


# Followers.


@pytest.mark.parametrize("wrap", [copy.deepcopy, AveragedModel, lambda m: copy.deepcopy(m).to(torch.bfloat16)])
def test_a_follower_gets_the_same_values_under_the_same_masks(wrap):
    model, optimizer = trained(TORCH["adam"])
    follower = wrap(model)
    inner = getattr(follower, "module", follower)
    with torch.no_grad():
        for p in inner.parameters():
            p.add_(0.25)
    before = copy.deepcopy(inner.state_dict())
    report, masks = forget(model, optimizer, followers=[follower])
    assert report.followed == report.reset > 0
    for name, p in inner.named_parameters():
        own = dict(model.named_parameters())[name].to(p.dtype)
        assert torch.equal(p[masks[name]], own[masks[name]])
        assert torch.equal(p[~masks[name]], before[name][~masks[name]])


def test_buffers_and_tied_weights_follow():
    class Tied(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.a, self.norm, self.b = nn.Linear(4, 4), nn.BatchNorm1d(4), nn.Linear(4, 4)
            self.b.weight = self.a.weight

        def forward(self, inputs: Tensor) -> Tensor:
            return self.b(self.norm(self.a(inputs)))

    torch.manual_seed(0)
    model = Tied()
    model(torch.randn(6, 4))
    untied = copy.deepcopy(model)
    untied.b.weight = nn.Parameter(torch.zeros(4, 4))
    tied = copy.deepcopy(model)
    for policy in ("keep", "reset"):
        forgetkit.unlearn(
            model, reinit="cold", fresh="module", policy=ResetPolicy(bn_stats=policy), followers=[tied, untied]
        )
        for follower in (tied, untied):
            for name, value in model.state_dict().items():
                assert torch.equal(follower.state_dict()[name], value), name
    with refused(OptionError, "tied"):
        forgetkit.unlearn(untied, reinit="cold", fresh="module", followers=[model])


def test_networks_that_cannot_follow_are_refused():
    model, _ = trained(TORCH["adam"], steps=1)
    shared = copy.deepcopy(model)
    shared.square = model.square
    twin = copy.deepcopy(model)
    other = copy.deepcopy(model)
    other.last = nn.Linear(4, 2)
    before = copy.deepcopy(model.state_dict())
    for wrong, words in (
        ([model], "itself"),
        ([shared], "of the model"),
        ([twin, twin], "follower 1"),
        ([other], "last.weight"),
        ([nn.Linear(2, 2)], "another network"),
        ([object()], "no network"),
        (model, "list"),
    ):
        with refused(OptionError, words):
            forgetkit.unlearn(model, importance="random", fresh="module", followers=wrong)
    assert all(torch.equal(value, before[key]) for key, value in model.state_dict().items())


def test_interventions_reset_followers_too():
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(5, 6), nn.ReLU(), nn.Linear(6, 3))
    with torch.no_grad():
        model[0].bias[:3] = -100.0  # dead units
    average = AveragedModel(model)
    optimizer = optim.Adam(model.parameters(), lr=0.0)
    attached = forgetkit.attach(model, [optimizer], ["redo:every=1"], fresh="module", followers=[average])
    attached.begin(*batches()[0])
    for batch in batches():
        with attached.step(*batch) as now:
            (cross_entropy(model(batch[0]), batch[1]) + now.loss()).backward()
            now.before()
            optimizer.step()
    assert float(model[0].bias.detach().min()) > -50
    for name, p in model.named_parameters():
        assert torch.equal(p, dict(average.module.named_parameters())[name])


# Other packages.


def test_schedule_free():
    schedulefree = pytest.importorskip("schedulefree")
    for kind in (schedulefree.AdamWScheduleFree, schedulefree.SGDScheduleFree, schedulefree.RAdamScheduleFree):
        check_masked(lambda p, kind=kind: kind(p, lr=0.01))
        model, optimizer = trained(lambda p, kind=kind: kind(p, lr=0.01))
        optimizer.eval()
        _, masks = forget(model, optimizer)
        values = {name: p.detach().clone() for name, p in model.named_parameters()}
        optimizer.train()
        for name, p in model.named_parameters():
            torch.testing.assert_close(p[masks[name]], values[name][masks[name]])
        forget(model, optimizer, policy=ResetPolicy(optimizer_state="fresh"))
        assert {group["k"] for group in optimizer.param_groups} == {0}


def test_lion():
    check_masked(lambda p: pytest.importorskip("lion_pytorch").Lion(p, lr=0.01))


def test_lookahead_and_preconditioners_of_pytorch_optimizer():
    package = pytest.importorskip("pytorch_optimizer")
    model, optimizer = trained(lambda p: package.Lookahead(optim.Adam(p, lr=0.01)))
    report, masks = forget(model, optimizer)
    assert report.optimizer_cleared == 3 * report.reset
    for name, p in model.named_parameters():
        assert torch.equal(optimizer.state[p]["slow_params"][masks[name]], p[masks[name]])
    for kind, named in ((package.Shampoo, "pre_cond_0"), (package.SOAP, "GG"), (package.CAME, "exp_avg_sq_row")):
        model, optimizer = trained(lambda p, kind=kind: kind(p, lr=0.01))
        old = snapshot(optimizer)
        report, _ = forget(model, optimizer)
        assert any(named in line for line in report.remarks), kind
        if kind is package.Shampoo:
            square = model.square.weight
            assert torch.equal(optimizer.state[square]["pre_cond_0"], old[square]["pre_cond_0"])


def test_adafactor_of_transformers():
    adafactor = pytest.importorskip("transformers.optimization").Adafactor
    report, _ = forget(*trained(adafactor))
    assert any("exp_avg_sq_row" in line for line in report.remarks)


@pytest.mark.parametrize("kind", ["Adam8bit", "AdamW8bit", "Lion8bit", "SGD8bit"])
def test_quantised_state_goes_through_its_code_book(kind):
    optimizers = pytest.importorskip("bitsandbytes").optim
    options = {"momentum": 0.9} if kind == "SGD8bit" else {}

    def make(p: Iterable[Any]) -> Any:
        return getattr(optimizers, kind)(p, lr=0.01, min_8bit_size=1, **options)

    for policy in ("zero", "rescaled"):
        model, optimizer = trained(make)
        old = snapshot(optimizer)
        report, masks = forget(model, optimizer, policy=ResetPolicy(optimizer_state=policy))
        assert report.remarks == ()
        for name, p in model.named_parameters():
            mask, entry = masks[name], optimizer.state[p]
            for number in "12"[: 1 + ("state2" in entry)]:
                values, was = _decoded(entry, number), _decoded(old[p], number)
                if not mask.all():
                    assert torch.equal(values[~mask], was[~mask])
                if policy == "rescaled" and number == "2" and mask.any() and not mask.all():
                    scale = float(entry["absmax2"].max())
                    mean = float(was[~mask].mean())
                    assert (values[mask] - mean).abs().max() <= 0.02 * scale
                else:
                    assert not values[mask].any()
        step(model, optimizer, batches(8)[0])
        assert all(bool(p.abs().max() < 10) for p in model.parameters())


def _decoded(entry: dict[str, Any], number: str) -> Tensor:
    codes = entry[f"state{number}"]
    return entry[f"qmap{number}"][codes.long()] * entry[f"absmax{number}"][0]


# Rules of third parties.

RULE = """
from dataclasses import dataclass
import torch
import forgetkit

@dataclass(frozen=True)
class Ones:
    def handles(self, optimizer):
        return type(optimizer).__name__ == "Personal"

    def fresh(self, optimizer, parameter):
        return {"average": torch.full_like(parameter, 7.0), "unknown": parameter}

@forgetkit.hookimpl
def forgetkit_optimizer_state():
    return {"ones": Ones}
"""


class Personal(optim.Optimizer):
    """An optimizer that no new one shows the state of."""

    def __init__(self, params: Iterable[Any], *, secret: object) -> None:
        super().__init__(params, {})

    def step(self, closure: Any = None) -> None:
        for group in self.param_groups:
            for p in group["params"]:
                state = self.state[p]
                state["average"] = state["average"] + p.grad if state else p.grad.clone()
                state.setdefault("table", torch.ones(3))


def test_a_plugin_s_rule_is_used(tmp_path, monkeypatch):
    model, optimizer = trained(lambda p: Personal(p, secret=1))
    unhelped, _ = forget(model, optimizer)
    assert any("Personal" in line for line in unhelped.remarks)
    file = tmp_path / "rule.py"
    file.write_text(RULE)
    known = forgetkit.api.registry.load(files=(file,))
    monkeypatch.setattr(forgetkit.api.registry, "load", lambda **_: known)
    old = snapshot(optimizer)
    report, masks = forget(model, optimizer, seed=8)
    assert report.optimizer_cleared == report.reset
    assert report.remarks == ()
    for name, p in model.named_parameters():
        found = optimizer.state[p]["average"]
        assert (found[masks[name]] == 7).all()
        assert torch.equal(found[~masks[name]], old[p]["average"][~masks[name]])


def test_hooks_around_all_steps_are_not_called():
    model = nn.Linear(3, 3)
    optimizer = torch.optim.Adam(model.parameters())
    model(torch.ones(2, 3)).sum().backward()
    optimizer.step()
    called = []
    with register_optimizer_step_post_hook(lambda *_: called.append(1)):
        forgetkit.unlearn(model, reinit="cold", optimizer=optimizer)
    assert called == []


def test_an_optimizer_that_would_move_the_network_in_a_trial_is_not_tried():
    class Caches(optim.Optimizer):
        """Steps what it was made for, whatever its groups hold."""

        def __init__(self, model):
            self.trained = list(model.parameters())
            super().__init__(self.trained, {"lr": 0.1})

        def step(self, closure=None):
            for p in self.trained:
                if p.grad is not None:
                    self.state[p].setdefault("moment", torch.zeros_like(p)).add_(p.grad)
                    p.data.sub_(0.1 * p.grad)

    model = nn.Sequential(nn.Linear(4, 8), nn.ReLU(), nn.Linear(8, 3))
    optimizer = Caches(model)
    model(torch.randn(5, 4)).square().sum().backward()
    optimizer.step()
    before = {name: p.detach().clone() for name, p in model.named_parameters()}
    report = forgetkit.unlearn(model, importance="magnitude", reinit="masked:fraction=0.1", optimizer=optimizer)
    changed = sum(int((p != before[name]).sum()) for name, p in model.named_parameters())
    assert changed == report.changed
    assert any("Caches" in remark for remark in report.remarks)


def test_frozen_parameters_need_no_optimizer():
    model = nn.Sequential(nn.Linear(4, 8), nn.ReLU(), nn.Linear(8, 3))
    model[0].requires_grad_(False)
    optimizer = optim.SGD(model[2].parameters(), lr=0.1, momentum=0.9)
    policy = forgetkit.ResetPolicy(optimizer_state="fresh")
    report = forgetkit.unlearn(
        model, importance="magnitude", reinit="masked:fraction=0.5", optimizer=optimizer, policy=policy
    )
    assert report.remarks == ()
