"""Batches of any shape: each gives the scores that its plain pairs give, or one line."""

from __future__ import annotations

from collections import UserDict
from dataclasses import dataclass
from types import SimpleNamespace
from typing import Any, ClassVar

import pytest
import torch
from helpers.unlearning_networks import refused
from torch import Tensor, nn
from torch.nn.functional import cross_entropy, mse_loss
from torch.utils.checkpoint import checkpoint
from torch.utils.data import DataLoader, TensorDataset

import forgetkit
from forgetkit.errors import ComponentError, ForgetkitError, OptionError

CRITERIA = ["snip", "fisher", "snip:reduce=per-sample", "fisher:variant=exact", "fisher:variant=batch"]
GENERATOR = torch.Generator().manual_seed(3)
INPUTS, TARGETS = torch.randn(6, 4, generator=GENERATOR), torch.arange(6) % 3


class Classifier(nn.Module):
    """A network that computes its own loss from keywords, as those of transformers do."""

    def __init__(self, returns: Any = SimpleNamespace) -> None:
        super().__init__()
        self.body = nn.Sequential(nn.Linear(4, 5), nn.Tanh(), nn.Linear(5, 3))
        self.returns = returns

    def forward(self, x: Tensor, labels: Tensor | None = None, flag: bool = False) -> Any:
        logits = self.body(x)
        if labels is None:
            return self.returns(logits=logits)
        return self.returns(loss=cross_entropy(logits, labels), logits=logits)


def classifier(returns: Any = SimpleNamespace) -> Classifier:
    torch.manual_seed(0)
    return Classifier(returns)


def plain(**options: Any) -> dict[str, Tensor]:
    """The scores of the same network with pairs."""
    scores = forgetkit.score(classifier().body, [(INPUTS[:4], TARGETS[:4]), (INPUTS[4:], TARGETS[4:])], **options)
    return {f"body.{name}": score for name, score in scores.items()}


@dataclass
class Given:
    x: Tensor
    labels: Tensor
    flag: bool = True


KEYED = {"dict": dict, "user dict": UserDict, "dataclass": Given}


@pytest.mark.parametrize("criterion", CRITERIA)
@pytest.mark.parametrize("kind", KEYED.values(), ids=KEYED)
@pytest.mark.parametrize("returns", [SimpleNamespace, dict])
def test_a_mapping_with_labels_needs_no_wrapper(kind, criterion, returns):
    batches = [kind(x=INPUTS[part], labels=TARGETS[part]) for part in (slice(4), slice(4, 6))]
    options = {"outputs": lambda out: out["logits"]} if returns is dict else {}
    found = forgetkit.score(classifier(returns), batches, importance=criterion, **options)
    torch.testing.assert_close(found, plain(importance=criterion))


TREES = {
    "triple": (lambda x, y: (x, y, "text"), lambda model, batch: cross_entropy(model(batch[0]).logits, batch[1])),
    "nested": (
        lambda x, y: {"views": [x, x], "meta": {"y": y, "n": None}},
        lambda model, batch: cross_entropy(model(batch["views"][1]).logits, batch["meta"]["y"]),
    ),
    "lists of samples": (
        lambda x, y: (list(x), [{"label": one} for one in y]),
        lambda model, batch: cross_entropy(
            model(torch.stack(list(batch[0]))).logits, torch.stack([target["label"] for target in batch[1]])
        ),
    ),
    "pair": (lambda x, y: (x, y), lambda model, batch: cross_entropy(model(batch[0]).logits, batch[1])),
    "with its weight": (
        lambda x, y: [x, y],
        lambda model, batch: (cross_entropy(model(batch[0]).logits, batch[1]), len(batch[1])),
    ),
    "a weight that is a tensor": (
        lambda x, y: [x, y],
        lambda model, batch: (cross_entropy(model(batch[0]).logits, batch[1]), (batch[1] >= 0).sum()),
    ),
}


@pytest.mark.parametrize("criterion", CRITERIA)
@pytest.mark.parametrize(("tree", "objective"), TREES.values(), ids=TREES)
def test_an_objective_takes_batches_of_any_shape(tree, objective, criterion):
    batches = [tree(INPUTS[part], TARGETS[part]) for part in (slice(4), slice(4, 6))]
    found = forgetkit.score(classifier(), batches, objective=objective, importance=criterion)
    torch.testing.assert_close(found, plain(importance=criterion))


def test_one_tensor_for_an_autoencoder():
    torch.manual_seed(0)
    coder = nn.Sequential(nn.Linear(4, 2), nn.Tanh(), nn.Linear(2, 4))
    for criterion in ("snip", "fisher"):
        found = forgetkit.score(coder, [INPUTS], objective=lambda m, x: mse_loss(m(x), x), importance=criterion)
        pairs = forgetkit.score(coder, [(INPUTS, INPUTS)], loss=mse_loss, importance=criterion)
        torch.testing.assert_close(found, pairs)
    with refused(OptionError, match="a tensor alone: pass objective=lambda model, batch", unchanged=coder):
        forgetkit.score(coder, [INPUTS])


def test_samples_of_a_tree_are_cut():
    batches = [{"x": INPUTS, "labels": TARGETS}, {"x": INPUTS, "labels": TARGETS}]
    for samples in ("8", "0.7"):
        found = forgetkit.score(classifier(), batches, importance=f"fisher:samples={samples}")
        twice = torch.cat([INPUTS, INPUTS[:2]]), torch.cat([TARGETS, TARGETS[:2]])
        wanted = forgetkit.score(classifier().body, [twice], importance="fisher")
        torch.testing.assert_close(found, {f"body.{name}": score for name, score in wanted.items()})


def test_logits_of_pairs_and_outputs_of_tuples():
    torch.testing.assert_close(forgetkit.score(classifier(), [(INPUTS, TARGETS)]), plain())
    model = classifier(lambda **out: ("hidden", out["logits"]))
    with refused(OptionError, match="returns tuple, not a tensor: pass outputs=", unchanged=model):
        forgetkit.score(model, [(INPUTS, TARGETS)])
    found = forgetkit.score(model, [(INPUTS, TARGETS)], outputs=lambda out: out[1], importance="fisher:variant=exact")
    torch.testing.assert_close(found, plain(importance="fisher:variant=exact"))
    given = forgetkit.score(model, [(INPUTS, TARGETS)], loss=lambda out, targets: cross_entropy(out[1], targets))
    torch.testing.assert_close(given, plain())


def test_nothing_of_the_users_batch_is_written_to():
    class Writes(Classifier):
        def forward(self, x: Tensor, labels: Tensor | None = None, flag: bool = False) -> Any:
            x.mul_(1.0)
            x.add_(1)
            return super().forward(x, labels, flag)

    batch = UserDict(x=INPUTS.clone(), labels=TARGETS.clone())
    forgetkit.score(Writes(), [batch])
    assert torch.equal(batch["x"], INPUTS)


def differentiated(loss: Tensor) -> Tensor:
    loss.backward()
    return loss


REFUSED: dict[str, tuple[Any, dict[str, Any], str]] = {
    "both": ([(INPUTS, TARGETS)], {"loss": cross_entropy, "objective": max}, "loss= and objective= are both given"),
    "no function": ([(INPUTS, TARGETS)], {"objective": 3}, "objective= takes a function, not int"),
    "a dataset": (TensorDataset(INPUTS, TARGETS), {}, "a Dataset of single samples: pass a loader"),
    "a mapping": ({"x": INPUTS, "labels": TARGETS}, {}, r"batches= is dict, .* pass \[batch\]"),
    "a tensor": (INPUTS, {}, r"batches= is Tensor, .* pass \[batch\]"),
    "a number": (5, {}, "batches= is int"),
    "no labels": ([{"x": INPUTS}], {}, r"returns no loss for a batch dict \(x\): put labels"),
    "other keywords": ([{"y": INPUTS}], {}, "pass objective=lambda model, batch"),
    "a triple": ([(INPUTS, TARGETS, TARGETS)], {}, "tuple of 3: pass objective=lambda model, batch"),
    "no tensor": ([{"x": INPUTS}], {"objective": lambda model, batch: 3.0}, "is float; give a tensor"),
    "a dict of losses": ([{"x": INPUTS}], {"objective": lambda model, batch: {"a": 1}}, "return their sum"),
    "a weight below zero": (
        [(INPUTS, TARGETS)],
        {"objective": lambda model, batch: (cross_entropy(model(batch[0]).logits, batch[1]), -1)},
        "weight of a batch's loss is -1",
    ),
    "it differentiates": (
        [(INPUTS, TARGETS)],
        {"objective": lambda model, batch: differentiated(cross_entropy(model(batch[0]).logits, batch[1]))},
        "the loss of Classifier cannot be differentiated",
    ),
    "it raises": ([{"x": INPUTS}], {"objective": lambda model, batch: batch["no"]}, "the objective fails on a batch"),
    "not the model": (
        [{"x": INPUTS, "y": TARGETS}],
        {
            "objective": lambda model, batch: cross_entropy(model.body(batch["x"]), batch["y"]),
            "importance": "fisher:variant=exact",
        },
        "never calls Classifier itself",
    ),
    "unequal": ([{"x": INPUTS, "labels": TARGETS[:3]}], {}, r"batch\['x'\] holds 6 and batch\['labels'\] 3"),
}


@pytest.mark.parametrize(("batches", "options", "what"), REFUSED.values(), ids=REFUSED)
def test_what_cannot_be_scored_is_one_line(batches, options, what):
    model = classifier()
    with refused((OptionError, ComponentError), match=what, unchanged=model):
        forgetkit.score(model, batches, **options)


def test_a_component_that_needs_tensors_refuses_trees():
    @dataclass(frozen=True)
    class Looks:
        def score(self, probe: Any) -> Any:
            inputs, _ = next(probe.batches())
            return {name: target * inputs.mean() for name, target in probe.targets.items()}

    with refused(ForgetkitError, match="needs batches that are pairs of tensors.*'mean' of a batch that is dict"):
        forgetkit.score(classifier(), [{"x": INPUTS, "labels": TARGETS}], importance=Looks())


class Detector(nn.Module):
    """As torchvision's: losses by name in training mode, and then it needs the targets."""

    def __init__(self) -> None:
        super().__init__()
        self.head = nn.Linear(3, 4)

    def forward(self, images: list[Tensor], targets: list[dict[str, Tensor]] | None = None) -> Any:
        boxes = [self.head(image.mean((1, 2))) for image in images]
        if not self.training:
            return [{"boxes": box} for box in boxes]
        if targets is None:
            raise ValueError("targets should not be none when in training mode")
        errors = [(box - target["boxes"]).square().sum(1).mean() for box, target in zip(boxes, targets, strict=True)]
        return {"boxes": torch.stack(errors).mean(), "size": sum(box.square().mean() for box in boxes) / len(boxes)}


def test_losses_that_exist_in_training_mode_alone():
    images = [torch.randn(3, 4 + n, 5, generator=GENERATOR) for n in range(3)]
    targets = [{"boxes": torch.randn(n + 1, 4, generator=GENERATOR)} for n in range(3)]
    train = forgetkit.Scoring(mode="train")

    def objective(model: nn.Module, batch: Any) -> Tensor:
        return torch.stack(list(model(*batch).values())).sum()

    model = Detector()
    one = forgetkit.score(model, [(images, targets)], objective=objective, scoring=train)
    split = forgetkit.score(
        model, [(images[:1], targets[:1]), (images[1:], targets[1:])], objective=objective, scoring=train
    )
    torch.testing.assert_close(one, split)
    mean = forgetkit.score(model, [(images, targets)], objective=objective, scoring=train, importance="fisher")
    grads = []
    for n in range(3):
        model.train().zero_grad()
        objective(model, (images[n : n + 1], targets[n : n + 1])).backward()
        grads.append(model.head.weight.grad.clone())
    torch.testing.assert_close(mean["head.weight"], torch.stack(grads).square().mean(0))
    with refused(OptionError, match="pass objective=lambda model, batch"):
        forgetkit.score(model, [(images, targets)], scoring=train)


class Checkpointed(nn.Module):
    def __init__(self, reentrant: bool) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.first, self.second = nn.Linear(4, 5), nn.Linear(5, 3)
        self.reentrant = reentrant

    def forward(self, x: Tensor) -> Tensor:
        hidden = self.first(x).tanh()
        if self.reentrant is None:
            return self.second(hidden)
        return checkpoint(self.second, hidden, use_reentrant=self.reentrant)


@pytest.mark.parametrize("criterion", ["snip", "fisher", "snip:reduce=per-sample"])
@pytest.mark.parametrize("reentrant", [False, True])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_checkpoints_give_the_gradients_of_none(criterion, reentrant, dtype):
    model, without = Checkpointed(reentrant).to(dtype), Checkpointed(None).to(dtype)
    model.first.weight.grad = torch.ones_like(model.first.weight)
    found = forgetkit.score(model, [(INPUTS, TARGETS)], importance=criterion)
    torch.testing.assert_close(found, forgetkit.score(without, [(INPUTS, TARGETS)], importance=criterion))
    assert torch.equal(model.first.weight.grad, torch.ones_like(model.first.weight))
    assert model.second.weight.grad is None


def test_a_second_derivative_of_a_reentrant_checkpoint():
    @dataclass(frozen=True)
    class Curvature:
        def score(self, probe: Any) -> Any:
            return probe.hvp(*next(probe.batches()), probe.targets)

    with refused(OptionError, match="use_reentrant=False"):
        forgetkit.score(Checkpointed(True), [(INPUTS, TARGETS)], importance=Curvature())
    forgetkit.score(Checkpointed(False), [(INPUTS, TARGETS)], importance=Curvature())


def test_inference_tensors():
    with torch.inference_mode():
        inputs, model = INPUTS.clone(), nn.Linear(4, 3)
    wanted = forgetkit.score(classifier(), [{"x": INPUTS, "labels": TARGETS}], importance="fisher")
    found = forgetkit.score(classifier(), [{"x": inputs, "labels": TARGETS}], importance="fisher")
    torch.testing.assert_close(found, wanted)
    with refused(OptionError, match="inference_mode"):
        forgetkit.score(model, [(INPUTS, TARGETS)])
    with refused(OptionError, match="'batches' is empty"):
        forgetkit.score(classifier(), DataLoader(TensorDataset(INPUTS[:0], TARGETS[:0])))


def test_running_statistics_are_measured_on_trees():
    class Normalised(Classifier):
        def __init__(self) -> None:
            super().__init__()
            self.body.insert(1, nn.BatchNorm1d(5))

    found = []
    for batches in ([{"x": INPUTS, "labels": TARGETS}], [(INPUTS, TARGETS)]):
        torch.manual_seed(0)
        model = Normalised()
        policy = forgetkit.ResetPolicy(bn_stats="recalibrate")
        forgetkit.unlearn(
            model, batches, reinit="masked:fraction=0.2", policy=policy, fresh="module", importance="snip"
        )
        found.append(model.state_dict())
    torch.testing.assert_close(*found)


@dataclass(frozen=True)
class Structure:
    """What a component learns of the units of a network."""

    found: ClassVar[list[Any]] = []

    def score(self, probe: Any) -> dict[str, Tensor]:
        inputs, _ = next(probe.batches())
        (activity,) = probe.unit_activity(inputs).values()
        groups = [(group.name, group.size) for group in probe.units]
        self.found.append((groups, list(probe.layer_inputs(inputs)), [layer.name for layer in probe.layers], activity))
        return dict(probe.targets)


SHOWN: dict[str, tuple[Any, dict[str, Any]]] = {
    "mapping": ({"x": INPUTS, "labels": TARGETS}, {}),
    "pair of a mapping": (({"x": INPUTS}, TARGETS), {}),
    "objective": (
        (INPUTS, TARGETS, 1),
        {"objective": lambda model, batch: cross_entropy(model(flag=False, x=batch[0])["logits"], batch[1])},
    ),
}


@pytest.mark.parametrize(("batch", "options"), SHOWN.values(), ids=SHOWN)
def test_units_and_activity_of_trees(batch, options):
    Structure.found.clear()
    take = {"outputs": lambda out: out["logits"]}
    forgetkit.score(classifier(dict), [(INPUTS, TARGETS)], importance=Structure(), **take)
    forgetkit.score(classifier(dict), [batch], importance=Structure(), **options, **take)
    (*plain, activity), (*found, same) = Structure.found
    assert found == plain
    assert len(found[0]) == 1
    torch.testing.assert_close(same, activity)


def test_the_error_of_a_network_stays_its_own():
    with refused(ComponentError, match="Sequential fails on inputs of shape"):
        forgetkit.score(nn.Sequential(nn.Linear(3, 2)), [(INPUTS, TARGETS)])


def test_outputs_that_fail_are_refused_in_one_line() -> None:
    model = nn.Linear(4, 3)
    with refused(OptionError, match="outputs= fails on what Linear returns", unchanged=model):
        forgetkit.score(model, [(INPUTS, TARGETS)], importance="mas", outputs=lambda raw: raw["logits"])


@pytest.mark.parametrize("inputs", [INPUTS.to_sparse(), torch.nested.nested_tensor(list(INPUTS), layout=torch.jagged)])
def test_tensors_without_strides_are_refused(inputs: Tensor) -> None:
    model = nn.Linear(4, 3)
    for batch in ((inputs, TARGETS), {"x": inputs, "y": TARGETS}):
        with refused(OptionError, match="make it dense", unchanged=model):
            forgetkit.score(model, [batch], objective=lambda model, batch: model(INPUTS).sum())
