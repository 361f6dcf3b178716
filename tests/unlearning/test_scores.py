"""Scores that tell nothing apart are refused or counted; what goes wrong while scoring is one line with a name."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from fractions import Fraction
from typing import Any, ClassVar

import pytest
import torch
from helpers.unlearning_networks import Net
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn
from torch.nn import functional as F

import forgetkit
from forgetkit import Scoring
from forgetkit.contracts import Probe
from forgetkit.errors import ComponentError, ForgetkitError, OptionError
from forgetkit.seeding import Seeds
from forgetkit.unlearning import select

TRAIN = Scoring(mode="train")


@dataclass(frozen=True)
class Constant:
    """The same for every entry."""

    value: float = 0.0

    def score(self, probe: Probe) -> Mapping[str, Tensor]:
        return {name: zeros + self.value for name, zeros in probe.zeros().items()}


class Declared(Constant):
    """A control that leaves the draw to the ties."""

    allows_ties: ClassVar[bool] = True


class Halves(Constant):
    """One for a share of the entries, more for the others."""

    def score(self, probe: Probe) -> Mapping[str, Tensor]:
        numbers = torch.arange(sum(t.numel() for t in probe.targets.values())).float()
        scores = (numbers - self.value).clamp_min(1).split([t.numel() for t in probe.targets.values()])
        return {name: part.view_as(t) for (name, t), part in zip(probe.targets.items(), scores, strict=True)}


def net(outputs: int = 3) -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(6, 8), nn.BatchNorm1d(8), nn.ReLU(), nn.Linear(8, outputs))


def batch(samples: int = 8, classes: int = 3) -> tuple[Tensor, Tensor]:
    rng = torch.Generator().manual_seed(1)
    return torch.randn(samples, 6, generator=rng), torch.randint(classes, (samples,), generator=rng)


def flat(model: nn.Module) -> Tensor:
    return torch.cat([t.flatten() for t in model.state_dict().values()])


def without_effect(outputs: Tensor, targets: Tensor) -> Tensor:
    return 0 * F.cross_entropy(outputs, targets)


NOTHING_TO_TELL: dict[str, tuple[dict[str, Any], str]] = {
    "zeros": ({"importance": Constant()}, "Constant scores all 99 entries 0"),
    "sevens": ({"importance": Constant(7.0)}, "Constant scores all 99 entries 7"),
    "a loss without effect": ({"loss": without_effect}, "snip scores all 99 entries 0"),
    "per sample": ({"loss": without_effect, "importance": "fisher"}, "fisher scores all 99 entries 0"),
    "conv-linear alone": (
        {"loss": without_effect, "scoring": Scoring(params="conv-linear")},
        "snip scores all 72 entries 0",
    ),
}


@pytest.mark.parametrize(("options", "said"), NOTHING_TO_TELL.values(), ids=NOTHING_TO_TELL)
@pytest.mark.parametrize("call", [forgetkit.unlearn, forgetkit.score])
def test_equal_scores_are_refused_by_name(options, said, call):
    model = net()
    before = flat(model)
    with pytest.raises(ComponentError) as caught:
        call(model, [batch()], **options)
    assert str(caught.value).startswith(said)
    assert "allows_ties" in str(caught.value)
    assert "\n" not in str(caught.value)
    assert torch.equal(flat(model), before)


@pytest.mark.parametrize("importance", ["snip", "fisher", "magnitude"])
def test_a_single_output_or_weights_of_zero_are_refused(importance):
    model = nn.Linear(6, 1)
    nn.init.zeros_(model.weight)
    nn.init.zeros_(model.bias)
    with pytest.raises(ComponentError, match="all 7 entries 0"):
        forgetkit.unlearn(model, [(batch()[0], torch.zeros(8, dtype=torch.int64))], importance=importance)


def test_a_class_may_declare_that_its_scores_are_equal():
    report = forgetkit.unlearn(net(), importance=Declared(), reinit="masked:0.5")
    assert report.reset == 49
    assert report.tied == 99
    assert report.remarks == ()
    assert set(forgetkit.score(net(), importance=Declared())) == {n for n, _ in net().named_parameters()}


def test_a_mapping_that_the_user_hands_over_may_be_equal():
    masks = forgetkit.select({"w": torch.zeros(10)}, fraction=0.5)
    assert int(masks["w"].sum()) == 5


@pytest.mark.parametrize(("equal", "warned"), [(49, False), (50, True), (98, True)])
def test_a_threshold_shared_by_more_than_half_is_warned_of(equal, warned, caplog):
    report = forgetkit.unlearn(net(), importance=Halves(equal - 2.0), reinit="masked:0.1")
    assert (report.threshold, report.tied) == (1.0, equal)
    said = [record.getMessage() for record in caplog.records]
    assert len(said) == warned == len(report.remarks)
    if warned:
        assert f"{equal} of 99 scored entries" in said[0]
        assert "threshold, 1," in said[0]


@given(
    values=st.lists(st.sampled_from([0.0, -0.0, 1.0, 2.0]), min_size=2, max_size=12),
    fraction=st.floats(0.1, 1),
    which=st.sampled_from(["lowest", "highest"]),
)
def test_ties_are_counted(values, fraction, which):
    scores = {"a": torch.tensor(values[:1]), "b": torch.tensor(values[1:])}
    found = select(scores, fraction, Seeds(0), which=which)
    wanted = int(Fraction(str(fraction)) * len(values))  # of the decimal number as it is written
    if wanted == 0:
        assert (found.threshold, found.tied) == (None, 0)
        return
    ordered = sorted(values, reverse=which == "highest")
    assert found.threshold == ordered[wanted - 1]
    assert (found.tied, found.entries) == (values.count(ordered[wanted - 1]), len(values))


def nan_for_some(outputs: Tensor, targets: Tensor) -> Tensor:
    return F.cross_entropy(outputs, targets) + torch.where(targets == targets.max(), torch.nan, 0.0).sum().detach()


IGNORED = torch.full((8,), -100)
LOSSES: dict[str, tuple[Any, dict[str, Any]]] = {
    "labels all ignored": ((batch()[0], IGNORED), {}),
    "all ignored, sample by sample": ((batch()[0], IGNORED), {"importance": "fisher"}),
    "NaN in the data": ((batch()[0] * torch.nan, batch()[1]), {}),
    "infinite": (batch(), {"loss": lambda outputs, targets: F.cross_entropy(outputs, targets) + torch.inf}),
    "NaN where it has no gradient": (batch(), {"loss": nan_for_some}),
    "of single samples": (batch(), {"loss": nan_for_some, "importance": "snip:reduce=per-sample"}),
}


@pytest.mark.parametrize(("samples", "options"), LOSSES.values(), ids=LOSSES)
def test_a_loss_that_is_not_finite_is_refused(samples, options):
    with pytest.raises(
        ComponentError, match=r"^(snip|fisher)\S*: the loss (is (nan|inf) on 8 scoring samples|averages over nothing)"
    ):
        forgetkit.unlearn(net(), [samples], **options)


def test_masked_classes_of_minus_infinity_are_no_fault():
    """A class that cannot come up has probability 0, and its loss of infinity counts 0 times."""
    model = nn.Linear(6, 3)
    hidden = torch.tensor([0.0, 0.0, -torch.inf])

    def loss(outputs: Tensor, targets: Tensor) -> Tensor:
        return F.cross_entropy(outputs, targets)

    hiding = Net(lambda net, x: net.inner(x) + hidden, inner=model)
    scores = forgetkit.score(hiding, [batch(classes=2)], importance="fisher:variant=exact", loss=loss)
    assert all(bool(score.isfinite().all()) for score in scores.values())


LOSSES_WITHOUT_GRADIENT = {
    "a number": (lambda outputs, targets: F.cross_entropy(outputs, targets).item(), "is float; give a tensor"),
    "accuracy": (lambda outputs, targets: (outputs.argmax(1) == targets).float().mean(), "has no gradient"),
    "detached": (lambda outputs, targets: F.cross_entropy(outputs.detach(), targets), "has no gradient"),
}


@pytest.mark.parametrize(("loss", "said"), LOSSES_WITHOUT_GRADIENT.values(), ids=LOSSES_WITHOUT_GRADIENT)
def test_a_loss_without_a_gradient_is_named(loss, said):
    with pytest.raises(ForgetkitError, match=said):
        forgetkit.unlearn(net(), [batch()], loss=loss)


class OnlyTraining(nn.Module):
    """As detection networks: its outputs in eval mode are nothing that a loss could take."""

    def __init__(self, how: str) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.inner, self.how = nn.Linear(6, 3), how

    def forward(self, x: Tensor) -> Any:
        if self.training:
            return {"logits": self.inner(x)} if self.how == "dict" else self.inner(x)
        if self.how == "raises":
            raise RuntimeError("boxes are for training")
        return [{"boxes": x}]


@pytest.mark.parametrize("how", ["raises", "list", "dict"])
@pytest.mark.parametrize("importance", ["snip", "fisher", "magnitude"])
def test_train_mode_never_runs_the_network_in_eval_mode(how, importance):
    def loss(outputs: Any, targets: Tensor) -> Tensor:
        return F.cross_entropy(outputs["logits"] if how == "dict" else outputs, targets)

    model = OnlyTraining(how).eval()
    scores = forgetkit.score(model, [batch()], importance=importance, scoring=TRAIN, loss=loss)
    plain = forgetkit.score(model.inner, [batch()], importance=importance)
    assert all(torch.equal(scores[f"inner.{name}"], score) for name, score in plain.items())
    assert not model.training
    report = forgetkit.unlearn(model, [batch()], importance=importance, scoring=TRAIN, loss=loss)
    assert report.reset == 4
    assert not model.training


def test_modes_are_those_that_were_asked_for():
    modes = []

    class Watched(nn.Sequential):
        def forward(self, x: Tensor) -> Tensor:
            modes.append(self.training)
            return super().forward(x)

    model = Watched(*net())
    for mode in ("eval", "train"):
        modes.clear()
        forgetkit.unlearn(model, [batch()], scoring=Scoring(mode=mode))
        assert set(modes) == {mode == "train"}


@pytest.mark.parametrize(
    ("batches", "importance"),
    [
        ([batch()], "snip:samples=1"),
        ([batch(1)], "snip"),
        ([batch(), batch(1)], "snip"),
        ([batch()], "snip:samples=1,reduce=mean-abs"),
        ([batch(), batch(1)], "fisher:variant=batch"),
    ],
)
def test_a_single_sample_in_train_mode_names_the_remedy(batches, importance):
    with pytest.raises(OptionError) as caught:
        forgetkit.unlearn(net(), batches, importance=importance, scoring=TRAIN)
    said = str(caught.value)
    assert "Sequential fails on inputs of shape (1, 6)" in said
    assert "needs two samples" in said
    assert "eval mode" in said
    assert "\n" not in said


@pytest.mark.parametrize("importance", ["snip", "fisher", "snip:reduce=mean-abs"])
def test_what_the_network_raises_names_component_and_shape(importance):
    wrong = (torch.randn(8, 5), batch()[1])
    with pytest.raises(ComponentError, match=r"^(snip|fisher)\S*: Sequential fails on inputs of shape \(\d, 5\)"):
        forgetkit.unlearn(net(), [batch(), wrong], importance=importance)
    with pytest.raises(ComponentError, match=r"Sequential fails on inputs of shape \(2, 5\) in eval mode: mat1"):
        forgetkit.unlearn(net(), [wrong], importance=importance)


def mse(outputs: Tensor, targets: Tensor) -> Tensor:
    return F.mse_loss(outputs.squeeze(-1), targets)


def nll(outputs: Tensor, targets: Tensor) -> Tensor:
    return (outputs[:, 0] - targets.float()).square().mean() * outputs[:, 1].exp().mean()


NUMBERS = torch.linspace(-1, 1, 8)
REGRESSIONS: dict[str, tuple[int, Tensor, Any, str]] = {
    "one output": (1, NUMBERS, mse, "two classes at least"),
    "two outputs": (2, NUMBERS, nll, "class numbers, one integer"),
    "a vector each": (3, torch.randn(8, 3), F.mse_loss, "class numbers, one integer"),
    "whole numbers as floats": (2, NUMBERS.round(), nll, "class numbers, one integer"),
    "counts": (2, torch.arange(8), nll, "7 is none of 2 classes"),
    "a column of integers": (2, torch.zeros(8, 1).long(), nll, "class numbers, one integer"),
    "one logit": (
        1,
        torch.tensor([0.0, 1.0]).repeat(4),
        lambda o, t: F.binary_cross_entropy_with_logits(o[:, 0], t),
        "two classes at least",
    ),
    "switches": (2, NUMBERS > 0, nll, "class numbers, one integer"),
}


@pytest.mark.parametrize(("outputs", "targets", "loss", "said"), REGRESSIONS.values(), ids=REGRESSIONS)
@pytest.mark.parametrize("variant", ["exact", "sampled"])
def test_fisher_asks_about_labels_of_classifications_alone(outputs, targets, loss, said, variant):
    model, batches = net(outputs), [(batch()[0], targets)]
    with pytest.raises(OptionError) as caught:
        forgetkit.unlearn(model, batches, importance=f"fisher:variant={variant}", loss=loss)
    assert said in str(caught.value)
    assert "fisher" in str(caught.value)
    assert "variant=empirical" in str(caught.value)
    assert forgetkit.unlearn(model, batches, importance="fisher", loss=loss).reset > 0


def test_a_reset_that_changes_nothing_is_seen(caplog):
    model = net()
    began = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    report = forgetkit.unlearn(model, [batch()], reinit="masked:0.5,fresh=rewind,norm=skip", initial=began)
    assert (report.changed, len(report.remarks)) == (0, 1)
    assert f"{report.reset} entries were reset, and none of them changed" in caplog.text
    none = forgetkit.unlearn(model, [batch()], reinit="masked:0", initial=began)
    assert (none.reset, none.changed, none.remarks) == (0, 0, ())


@pytest.mark.slow
@settings(max_examples=15)
@given(fraction=st.floats(0, 1), seed=st.integers(0, 9))
def test_changed_entries_are_counted(fraction, seed):
    model = net().to(memory_format=torch.preserve_format)
    before = {name: p.detach().clone() for name, p in model.named_parameters()}
    report = forgetkit.unlearn(model, [batch()], reinit=f"masked:{fraction:.3f}", seed=seed)
    differing = sum(int((p != before[name]).sum()) for name, p in model.named_parameters())
    assert report.changed == differing <= report.reset


def test_changed_entries_of_whole_layers_are_counted():
    model = net()
    constant = sum(p.numel() for name, p in model.named_parameters() if name.startswith("1."))
    report = forgetkit.unlearn(model, [batch()], reinit="cold")
    assert report.changed == report.reset - constant
