"""The presets against their sources: each rule written again in plain torch, and what a run did beside it.

No expected value here comes out of our scoring, selection, partition or replay. What we do use is the seed's random
streams, where a draw has to be repeated (crops and mirrors, the random split).
"""

from __future__ import annotations

import copy
import itertools
import json
import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy, pad

import forgetkit
from forgetkit import config, unlearning
from forgetkit.contracts import Checkpointed, Data, DataSplit, Event, Intervention, InterventionContext
from forgetkit.contracts.data import Inputs
from forgetkit.data import partition
from forgetkit.data.batches import SamplePool, ScoringBatches
from forgetkit.registry import registry
from forgetkit.seeding import Seeds
from forgetkit.training import Normalize
from forgetkit.unlearning.probe import GuardedProbe

pytestmark = pytest.mark.slow

Tensors = Mapping[str, Tensor]

RESNET18 = 11_173_962
TABLE_10 = 8_939_169
"""Entries of ResNet-18, and how many of them the paper's table 10 has in the sparse model."""


@pytest.fixture(autouse=True)
def _one_thread() -> Iterator[None]:
    """The same sums in the same order, here and there."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


# ------------------------------------------------------------------------------------------ the sources, in plain torch


def saliency(model: nn.Module, inputs: Tensor, labels: Tensor) -> dict[str, Tensor]:
    """|θ g| of every named parameter: eval mode, one batch, the mean cross-entropy."""
    model = copy.deepcopy(model).eval()
    model.zero_grad()
    cross_entropy(model(inputs), labels).backward()
    return {name: (p.detach() * p.grad).abs() for name, p in model.named_parameters()}


def released_mask(scores: Tensors, share: float = 0.2) -> tuple[dict[str, Tensor], float]:
    """What the released code drops: all at or below the int(share · N)-th smallest score of one pool."""
    pooled = torch.cat([score.flatten() for score in scores.values()])
    threshold = pooled.kthvalue(int(share * len(pooled))).values
    return {name: score <= threshold for name, score in scores.items()}, float(threshold)


def is_weight(name: str) -> bool:
    return "weight" in name.rpartition(".")[2]


def bound(value: Tensor) -> float:
    """1/√fan_in, over all dimensions but the first; 1 for a column."""
    return 1 / math.sqrt(math.prod(value.shape[1:]))


def require_uniform(drawn: Tensor, bound: float) -> None:
    """Within ±bound, with the mean and the spread of a uniform draw to five standard errors."""
    assert drawn.abs().max() <= bound
    assert abs(float(drawn.mean())) <= 5 * bound / math.sqrt(3 * len(drawn))
    if len(drawn) > 1000:
        assert float(drawn.std()) == pytest.approx(bound / math.sqrt(3), rel=5 * math.sqrt(0.2 / len(drawn)))


def require_released(before: Tensors, after: Tensors, masks: Tensors) -> None:
    """Weights under the mask are new, U(±1/√fan_in); every other bit is the old one, buffers' included."""
    for name, old in before.items():
        mask = masks[name] if name in masks and is_weight(name) else torch.zeros_like(old, dtype=torch.bool)
        assert torch.equal(old != after[name], mask), name
        if mask.any():
            require_uniform(after[name][mask], bound(old))


def joined(pieces: Iterable[Sequence[int]]) -> list[int]:
    return [number for piece in pieces for number in piece]


def reset_counts(masks: Tensors) -> dict[str, dict[str, int]]:
    """What a report says of a masked reset of weights."""
    return {name: {"size": mask.numel(), "reset": int(mask.sum())} for name, mask in masks.items() if is_weight(name)}


def require_paper_masks(scores: Tensors, masks: Tensors) -> None:
    """Not among the floor(0.8 · N) highest of |θ g| / Σ|θ g|, in float64.

    A score in float32 may be off by its roundings; an entry that close to the threshold may go either way.
    """
    pooled = torch.cat([score.flatten() for score in scores.values()]).double()
    pooled /= pooled.sum()
    reset = torch.cat([masks[name].flatten() for name in scores])
    keep = math.floor(0.8 * len(pooled))
    assert int(reset.sum()) == len(pooled) - keep
    threshold = pooled.kthvalue(len(pooled) - keep).values
    near = (pooled - threshold).abs() <= threshold * 2**-24
    assert torch.equal(reset[~near], pooled[~near] < threshold)
    assert int(near.sum()) < 20, "so many ties say nothing"


def require_paper_values(before: Tensors, after: Tensors, masks: Tensors) -> None:
    """Uniform within ±1/√fan_in under the mask, in normalisation layers too; nothing else moves."""
    for name, old in before.items():
        mask, new = masks.get(name), after[name]
        if mask is None:
            assert torch.equal(old, new), name
            continue
        assert torch.equal(old[~mask], new[~mask]), name
        if mask.any():
            assert torch.equal(old != new, mask), name
            require_uniform(new[mask], bound(old))


def norms_of(model: nn.Module) -> set[str]:
    layers = [(path, module) for path, module in model.named_modules() if isinstance(module, nn.BatchNorm2d)]
    return {f"{path}.{local}" for path, module in layers for local, _ in module.named_parameters()}


# ------------------------------------------------------------------------------------------------ networks of the paper


@dataclass(frozen=True)
class Subject:
    """A network that has learned a little, its optimizer, and pixels to score it on."""

    model: nn.Module
    optimizer: torch.optim.Optimizer
    images: Tensor
    labels: Tensor

    @classmethod
    def trained(cls, name: str, *, lr: float = 0.05, steps: int = 4, size: int = 32) -> Subject:
        builder = plan_of("paper", name).model
        inputs = Inputs((3, size, size), 10, (0.48, 0.5, 0.52), (0.24, 0.25, 0.26))
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(0)
            model = builder.build(inputs, Normalize(inputs)).train()
            images = torch.randint(0, 256, (150, 3, size, size), dtype=torch.uint8)
            labels = torch.randint(0, 10, (150,))
        optimizer = torch.optim.SGD(model.parameters(), lr=lr, momentum=0.9)
        for ids in torch.arange(100, 150).split(10)[:steps]:
            optimizer.zero_grad()
            cross_entropy(model(images[ids].float() / 255), labels[ids]).backward()
            optimizer.step()
        return cls(model, optimizer, images, labels)

    def copied(self) -> Subject:
        model, optimizer = copy.deepcopy((self.model, self.optimizer))
        return Subject(model, optimizer, self.images, self.labels)

    @property
    def state(self) -> dict[str, Tensor]:
        return {name: value.clone() for name, value in self.model.state_dict().items()}

    @property
    def momentum(self) -> dict[str, Tensor]:
        named = {name: self.optimizer.state[p]["momentum_buffer"] for name, p in self.model.named_parameters()}
        return {name: value.clone() for name, value in named.items()}

    def scores(self, ids: Tensor) -> dict[str, Tensor]:
        return saliency(self.model, self.images[ids].float() / 255, self.labels[ids])

    def forget(self, plan: config.Plan) -> unlearning.UnlearnReport:
        """As a run under the plan would, on samples that are not augmented."""
        chosen = plan.config
        return unlearning.unlearn(
            self.model,
            ScoringBatches(SamplePool(self.images, self.labels), Seeds(5), chosen.score_batch, chosen.score_sampling),
            importance=plan.importance,
            reinit=plan.reinit,
            optimizer=self.optimizer,
            seeds=Seeds(6),
            history=unlearning.ModelHistory(None, plan.model.initialise),
            scoring=unlearning.Scoring(chosen.score_params, chosen.score_mode),
            policy=unlearning.ResetPolicy(chosen.optimizer_state, chosen.bn_stats),
        )


def plan_of(preset: str, model: str) -> config.Plan:
    offers = registry.load(entry_points=False)
    return config.resolve({"preset": preset, "model": model, "dataset": "synthetic", "device": "cpu"}, offers)


@pytest.fixture(scope="module")
def trained() -> Iterator[dict[str, Subject]]:
    """The paper's two networks, after a few steps; not to be written to."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield {name: Subject.trained(name) for name in ("resnet18", "vgg16-bn")}
    torch.set_num_threads(threads)


@pytest.fixture
def differentiated(monkeypatch) -> list[tuple[Tensor, Tensor]]:
    """Every batch that a gradient is taken of, in order."""
    batches, grads = [], GuardedProbe.grads

    def noted(self: GuardedProbe, inputs: Tensor, targets: Tensor) -> dict[str, Tensor]:
        batches.append((inputs, targets))
        return grads(self, inputs, targets)

    monkeypatch.setattr(GuardedProbe, "grads", noted)
    return batches


@pytest.mark.parametrize("name", ["resnet18", "vgg16-bn"])
def test_lure_code_forgets_what_the_released_code_forgets(trained: dict[str, Subject], name: str) -> None:
    subject = trained[name].copied()
    before, momentum = subject.state, subject.momentum
    fresh = {key: value for key, value in before.items() if key.endswith("running_var") and bool((value == 1).all())}
    assert not fresh, "statistics that nothing has moved would hide what scoring does to them"
    masks, threshold = released_mask(subject.scores(torch.arange(100)))

    report = subject.forget(plan_of("lure-code", name))

    require_released(before, subject.state, masks)
    weights = {key: mask for key, mask in masks.items() if is_weight(key)}
    assert report.as_dict()["layers"] == reset_counts(masks)
    assert report.reset == sum(int(mask.sum()) for mask in weights.values())
    assert report.scored == sum(mask.numel() for mask in masks.values())
    assert report.threshold == threshold
    assert report.optimizer_cleared == 0
    assert not report.buffers
    for key, value in subject.momentum.items():
        assert torch.equal(value, momentum[key]), key
    selected = sum(int(mask.sum()) for mask in masks.values())
    assert selected > report.reset, "no bias or shift was at or below the threshold, so the test shows little"
    if name == "resnet18":
        assert 0 <= selected - int(0.2 * RESNET18) < 10  # more than one score may be the threshold
    else:  # dead channels: far more than a fifth score exactly zero, and all of them go
        assert threshold == 0
        assert selected > 1.01 * 0.2 * report.scored
        scales = torch.cat([subject.state[key][masks[key]] for key in norms_of(subject.model) & weights.keys()])
        assert len(scales) > 20
        assert (scales < 0).any()
        assert (scales > 0).any()
        require_uniform(scales, 1.0)


def test_lure_code_draws_scales_from_minus_one_to_one() -> None:
    """With everything at or below the threshold, so that there are hundreds of scales to look at."""
    subject = Subject.trained("convnet:width=128", size=8)
    before = subject.state
    masks, _ = released_mask(subject.scores(torch.arange(100)), 1.0)
    offers = registry.load(entry_points=False)
    options = {"preset": "lure-code", "model": "convnet:width=128", "reinit.masked.fraction": 1.0}
    subject.forget(config.resolve({**options, "device": "cpu"}, offers))
    require_released(before, subject.state, masks)
    names = [name for name in norms_of(subject.model) if is_weight(name)]
    scales = torch.cat([subject.state[name][masks[name]] for name in names])
    assert len(scales) == 128 + 256 + 256
    require_uniform(scales, 1.0)
    assert 0.4 < float((scales < 0).float().mean()) < 0.6
    assert float(scales.std()) == pytest.approx(1 / math.sqrt(3), rel=0.05)


def test_paper_forgets_what_the_text_forgets_on_resnet18(
    trained: dict[str, Subject], differentiated: list[tuple[Tensor, Tensor]]
) -> None:
    subject = trained["resnet18"].copied()
    before, momentum = subject.state, subject.momentum
    report = subject.forget(plan_of("paper", "resnet18"))
    ((inputs, labels),) = differentiated
    assert len(labels) == math.floor(0.2 * len(subject.labels)) == 30
    whole = [image.numpy().tobytes() for image in subject.images]
    ids = [whole.index(image.mul(255).round().byte().numpy().tobytes()) for image in inputs]
    assert len(set(ids)) == 30
    assert ids != sorted(ids), "the head is no random draw"
    assert torch.equal(labels, subject.labels[ids])

    # Which were reset is seen from the momentum under the mask, and from the values.
    after, cleared = subject.state, subject.momentum
    masks = {name: (after[name] != before[name]) | (cleared[name] != value) for name, value in momentum.items()}
    old = trained["resnet18"]
    require_paper_masks(old.scores(torch.tensor(ids)), masks)
    require_paper_values(before, after, masks)
    assert (report.scored, report.scored - report.reset) == (RESNET18, TABLE_10)
    assert {name: layer.reset for name, layer in report.layers.items()} == {
        name: int(mask.sum()) for name, mask in masks.items()
    }
    assert report.optimizer_cleared == report.reset
    for name, mask in masks.items():
        assert (cleared[name][mask] == 0).all(), name
        assert torch.equal(cleared[name][~mask], momentum[name][~mask]), name


# ---------------------------------------------------------------------------------------------------------- whole runs


@dataclass(frozen=True)
class Pictures:
    """Tiny pictures, a brighter quarter saying the class; ``noise`` of the labels say nothing."""

    train: int = 367
    test: int = 40
    noise: float = 0.0

    def parts(self) -> tuple[DataSplit, DataSplit]:
        rng = np.random.default_rng(3)
        total = self.train + self.test
        labels = rng.integers(0, 4, total)
        images = rng.integers(0, 160, (total, 1, 8, 8), dtype=np.uint8)
        for image, label in zip(images, labels, strict=True):
            row, column = divmod(int(label), 2)
            image[0, row * 4 : row * 4 + 4, column * 4 : column * 4 + 4] += 40
        wrong = rng.random(total) < self.noise
        labels[wrong] = rng.integers(0, 4, int(wrong.sum()))
        return DataSplit(images[: self.train], labels[: self.train]), DataSplit(
            images[self.train :], labels[self.train :]
        )

    def load(self, context: object) -> Data:
        return Data(*self.parts(), tuple("abcd"))


@dataclass(frozen=True)
class Snapshot:
    """Copies of the weights and buffers, and of each parameter's momentum where there is any."""

    weights: dict[str, Tensor]
    momentum: dict[str, Tensor]

    @classmethod
    def of(cls, moment: InterventionContext) -> Snapshot:
        states = {name: moment.optimizer.state.get(p, {}) for name, p in moment.model.named_parameters()}
        assert all(name in states or not moment.optimizer.state for name in states)
        return cls(
            {name: value.clone() for name, value in moment.model.state_dict().items()},
            {name: state["momentum_buffer"].clone() for name, state in states.items() if state},
        )


@dataclass(frozen=True)
class Diary(Intervention):
    """What each mega-batch begins with and each epoch ends with."""

    begun: dict[int, Snapshot] = field(default_factory=dict)
    memory: dict[int, int] = field(default_factory=dict)
    ended: dict[tuple[int, int], Snapshot] = field(default_factory=dict)

    def begin(self, moment: InterventionContext) -> None:
        self.begun[moment.mega_batch] = Snapshot.of(moment)
        states = moment.optimizer.state.values()
        self.memory[moment.mega_batch] = sum(bool(value.any()) for state in states for value in state.values())

    def after_epoch(self, moment: InterventionContext) -> None:
        self.ended[moment.mega_batch, moment.epoch] = Snapshot.of(moment)


@dataclass(frozen=True)
class Points:
    """Keeps the checkpoint before each mega-batch, which a finished run removes."""

    folder: Path
    states: dict[int, dict[str, Any]] = field(default_factory=dict)

    def notify(self, event: Event) -> None:
        if isinstance(event, Checkpointed) and event.epoch == 0:
            (file,) = self.folder.glob(f"*/checkpoints/{event.file}")
            self.states[event.mega_batch] = torch.load(file, weights_only=True)


@dataclass(frozen=True)
class Ran:
    """A finished run, what it left behind, and what its diary says."""

    result: dict[str, Any]
    diary: Diary
    data: Pictures
    points: dict[int, dict[str, Any]]

    @property
    def rows(self) -> list[dict[str, Any]]:
        rows: list[dict[str, Any]] = self.result["mega_batches"]
        return rows

    def saved(self, index: int) -> dict[str, Tensor]:
        """The weights that were judged after a mega-batch."""
        file = Path(self.result["directory"]) / "checkpoints" / f"mega-batch-{index:03}.pt"
        weights: dict[str, Tensor] = torch.load(file, weights_only=True)["model"]
        return weights

    def model(self, index: int) -> nn.Module:
        """The network with the weights that were judged after a mega-batch."""
        inputs = Inputs((1, 8, 8), 4, (0.0,), (1.0,))
        builder = registry.load(entry_points=False).make("models", self.result["config"]["model"])[1]
        model = builder.build(inputs, Normalize(inputs))
        model.load_state_dict(self.saved(index))
        return model

    def val_accuracies(self, index: int) -> list[float]:
        """Of each epoch of a mega-batch, as ``events.jsonl`` has them."""
        lines = (Path(self.result["directory"]) / "events.jsonl").read_text().splitlines()
        ended = [event for event in map(json.loads, lines) if event.get("val_accuracy") is not None]
        return [event["val_accuracy"] for event in ended if event["mega_batch"] == index and "loss" in event]

    def right(self, weights: Tensors, part: DataSplit, ids: Any) -> int:
        """How many samples a network with those weights gets right."""
        model = self.model(1).eval()
        model.load_state_dict(dict(weights))
        with torch.no_grad():
            guess = model(torch.from_numpy(part.inputs[ids]).float() / 255).argmax(1).numpy()
        return int((guess == part.labels[ids]).sum())


def ran(preset: str, out: Path, data: Pictures = Pictures(), **options: Any) -> Ran:
    diary = Diary()
    base = {"model": "convnet:width=6", "mega_batches": 3, "threads": 1, "device": "cpu", "seed": 9}
    base |= {"memory_format": "contiguous"}  # as the oracles compute, to the last bit
    given = {**base, "preset": preset, "dataset": data, "interventions": [diary], "out": str(out), **options}
    points = Points(out)
    return Ran(forgetkit.run({"checkpoint_seconds": 1e6, **given}, observers=[points]), diary, data, points.states)


def contiguous(samples: int, mega_batches: int) -> tuple[list[list[int]], list[list[int]]]:
    """Natural order: validation is the last tenth; both are cut into pieces, the longer ones first."""

    def cut(ids: Sequence[int]) -> list[list[int]]:
        size, more = divmod(len(ids), mega_batches)
        stops = [number * size + min(number, more) for number in range(mega_batches + 1)]
        return [list(ids[start:stop]) for start, stop in itertools.pairwise(stops)]

    stop = samples - samples // 10
    return cut(range(stop)), cut(range(stop, samples))


def scored_first(replay: str, index: int, pieces: list[list[int]]) -> list[int]:
    """What the released loader gives once mega-batch ``index`` is done: what is kept, then what arrives, in order."""
    kept = {"full": pieces[:index], "last": pieces[index - 1 : index], "none": []}[replay]
    return joined([*kept, pieces[index]])


@pytest.mark.parametrize(("samples", "mega_batches"), [(367, 3), (100, 7), (109, 4), (40, 1)])
def test_contiguous_splits_into_head_and_tail(samples: int, mega_batches: int) -> None:
    chosen = plan_of("lure-code", "convnet").config
    cut = partition(np.arange(samples), mega_batches, chosen.val_fraction, chosen.split, Seeds(1))
    train, val = contiguous(samples, mega_batches)
    assert [piece.train.tolist() for piece in cut] == train
    assert [piece.val.tolist() for piece in cut] == val
    assert joined(train + val) == list(range(samples))


@pytest.mark.parametrize(("replay", "mega_batches"), [("full", 3), ("full", 6), ("last", 3), ("none", 3), ("none", 6)])
def test_lure_code_in_a_run_masks_what_the_released_code_masks(tmp_path: Path, replay: str, mega_batches: int) -> None:
    run = ran("lure-code", tmp_path, replay=replay, mega_batches=mega_batches, epochs=2)
    train, val = contiguous(run.data.train, mega_batches)
    part = run.data.parts()[0]
    for index in range(1, mega_batches):
        row, model = run.rows[index - 1], run.model(index)
        ids = scored_first(replay, index, train)[:100]
        if replay == "full":
            assert ids == list(range(100))
        scores = saliency(model, torch.from_numpy(part.inputs[ids]).float() / 255, torch.from_numpy(part.labels[ids]))
        masks, threshold = released_mask(scores)
        assert row["unlearn"]["layers"] == reset_counts(masks)
        assert row["unlearn"]["threshold"] == threshold
        assert row["unlearn"]["scored"] == run.result["parameters"] == sum(mask.numel() for mask in masks.values())
        assert row["unlearn"]["optimizer_cleared"] == 0
        before, after = run.saved(index), run.diary.begun[index + 1]
        require_released(before, after.weights, masks)
        last = run.diary.ended[index, 2].momentum
        assert last.keys() == after.momentum.keys() == dict(model.named_parameters()).keys()
        assert all(torch.equal(value, last[name]) for name, value in after.momentum.items())
    for index in (mega_batches - 1, mega_batches):  # the states kept to resume from
        stream, kept = run.points[index]["stream"], {"full": slice(index - 1), "last": slice(index - 2, index - 1)}
        for role, pieces in (("train", train), ("val", val)):
            expected = [] if replay == "none" else joined(pieces[kept[replay]])
            assert stream[role]["ids"].tolist() == expected


def test_lure_code_scores_on_augmented_samples(tmp_path: Path) -> None:
    run = ran("lure-code", tmp_path, augment="crop-flip", mega_batches=2, epochs=2)
    part = run.data.parts()[0]
    ids = scored_first("full", 1, contiguous(run.data.train, 2)[0])
    rng = Seeds(9).within("unlearn", 1, "score").torch("augment")
    offsets = torch.randint(0, 3, (len(ids), 2), generator=rng)  # an eighth of 8 pixels is padded on each side
    mirrored = torch.rand(len(ids), generator=rng) < 0.5
    plain = torch.from_numpy(part.inputs[:100])
    cropped = [
        pad(image, (1, 1, 1, 1))[:, down : down + 8, across : across + 8]
        for image, (down, across) in zip(plain, offsets.tolist(), strict=False)
    ]
    augmented = torch.stack([image.flip(-1) if m else image for image, m in zip(cropped, mirrored, strict=False)])
    masks, unaugmented = (
        released_mask(saliency(run.model(1), images.float() / 255, torch.from_numpy(part.labels[:100])))[0]
        for images in (augmented, plain)
    )
    assert reset_counts(masks) != reset_counts(unaugmented), "nothing would be noticed"
    assert run.rows[0]["unlearn"]["layers"] == reset_counts(masks)
    require_released(run.saved(1), run.diary.begun[2].weights, masks)


def test_lure_code_in_a_run_of_the_papers_network(tmp_path: Path) -> None:
    run = ran("lure-code", tmp_path, Pictures(train=130, test=10), model="resnet18", mega_batches=2, epochs=1)
    part = run.data.parts()[0]
    inputs = torch.from_numpy(part.inputs[:100]).float() / 255
    masks, threshold = released_mask(saliency(run.model(1), inputs, torch.from_numpy(part.labels[:100])))
    assert run.rows[0]["unlearn"]["layers"] == reset_counts(masks)
    assert run.rows[0]["unlearn"]["threshold"] == threshold
    require_released(run.saved(1), run.points[2]["model"], masks)


def earliest_best(accuracies: Sequence[float]) -> int:
    return accuracies.index(max(accuracies)) + 1


def test_lure_code_carries_the_best_epoch_on(tmp_path: Path) -> None:
    data, epochs = Pictures(noise=0.1), 12
    options = {"epochs": epochs, "lr": 0.02, "schedule": "constant", "mega_batches": 2, "batch_size": 32}
    run = ran("lure-code", tmp_path, data, name="best", **options)
    part, test = data.parts()
    train, val = contiguous(data.train, 2)
    ties = 0
    for row in run.rows:
        index = row["index"]
        accuracies = run.val_accuracies(index)
        seen = joined(val[:index])
        counted = [run.right(run.diary.ended[index, epoch].weights, part, seen) for epoch in range(1, epochs + 1)]
        assert accuracies == [right / len(seen) for right in counted]
        assert row["epochs"] == epochs
        assert row["carried_epoch"] == earliest_best(accuracies)
        ties += accuracies.count(max(accuracies)) - 1
        carried = run.diary.ended[index, row["carried_epoch"]].weights
        saved = run.saved(index)
        assert all(torch.equal(saved[name], value) for name, value in carried.items())
        ids = joined(train[:index])
        assert row["train_accuracy"] == run.right(carried, part, ids) / len(ids)
        assert row["val_accuracy"] == max(accuracies)
        assert row["test_errors"] == len(test) - run.right(carried, test, slice(None))
    assert ties, "without a tie the earliest is as good as the latest"
    early = run.rows[0]["carried_epoch"]
    assert 1 < early < epochs, "the first or last epoch would also be carried for another reason"

    # A run that ends with that epoch, by another way: the same file.
    ended = ran("lure-code", tmp_path, data, name="last", **{**options, "epochs": early, "carry": "last"})
    files = [Path(r.result["directory"]) / "checkpoints" / "mega-batch-001.pt" for r in (run, ended)]
    assert files[0].read_bytes() == files[1].read_bytes()
    # What is scored and forgotten, and then trained on, is that network too.
    images, labels = torch.from_numpy(part.inputs[:100]).float() / 255, torch.from_numpy(part.labels[:100])
    masks, _ = released_mask(saliency(run.model(1), images, labels))
    require_released(run.saved(1), run.diary.begun[2].weights, masks)


def test_paper_in_a_run(tmp_path: Path, differentiated: list[tuple[Tensor, Tensor]]) -> None:
    run = ran("paper", tmp_path, Pictures(train=375), epochs=3, seed=4)
    part = run.data.parts()[0]
    pieces = np.array_split(Seeds(4).numpy("split").permutation(run.data.train), 3)
    whole = {image.tobytes(): number for number, image in enumerate(part.inputs)}
    assert len(whole) == run.data.train
    assert len(differentiated) == 3  # the first is the try-out before a run
    for index in (1, 2):
        row, (inputs, labels) = run.rows[index - 1], differentiated[index]
        finished = pieces[index - 1][: len(pieces[index - 1]) - len(pieces[index - 1]) // 10].tolist()
        ids = [whole[image.mul(255).round().byte().numpy().tobytes()] for image in inputs]
        assert len(ids) == math.floor(0.2 * len(finished)) < 0.2 * len(finished)
        assert len(set(ids)) == len(ids)
        assert set(ids) < set(finished)
        assert set(ids) not in (set(finished[: len(ids)]), set(sorted(finished)[: len(ids)])), "a head is no draw"
        assert np.array_equal(labels.numpy(), part.labels[ids])

        before, after = run.saved(index), run.diary.begun[index + 1]
        last = run.diary.ended[index, 3]
        assert row["carried_epoch"] == row["epochs"] == 3
        assert all(torch.equal(before[name], value) for name, value in last.weights.items())
        masks = {
            name: (after.weights[name] != before[name]) | (after.momentum[name] != value)
            for name, value in last.momentum.items()
        }
        assert masks.keys() == dict(run.model(index).named_parameters()).keys()
        scores = saliency(
            run.model(index), torch.from_numpy(part.inputs[ids]).float() / 255, torch.from_numpy(part.labels[ids])
        )
        require_paper_masks(scores, masks)
        require_paper_values(before, after.weights, masks)
        counts = {name: {"size": mask.numel(), "reset": int(mask.sum())} for name, mask in masks.items()}
        assert row["unlearn"]["layers"] == counts
        assert row["unlearn"]["optimizer_cleared"] == row["unlearn"]["reset"]
        for name, mask in masks.items():
            assert (after.momentum[name][mask] == 0).all()
            assert torch.equal(after.momentum[name][~mask], last.momentum[name][~mask])
    final = run.saved(3)
    assert all(torch.equal(final[name], value) for name, value in run.diary.ended[3, 3].weights.items())


def followed(accuracies: Sequence[float], patience: int, min_delta: float) -> tuple[int, int]:
    """After which epoch a mega-batch ends, and which was the last to be better by more than ``min_delta``."""
    best, better = -math.inf, 0
    for epoch, accuracy in enumerate(accuracies, 1):
        if accuracy > best + min_delta:
            best, better = accuracy, epoch
        if epoch - better == patience:
            return epoch, better
    return len(accuracies), better


@pytest.mark.parametrize(
    ("method", "changes"),
    [("warm", {}), ("lure", {"patience": 8, "min_delta": 0.15, "lr": 0.05}), ("cold", {"patience": 2, "epochs": 40})],
    ids=["as it is", "a gain that does not count", "another patience"],
)
def test_alma_ends_a_mega_batch_by_its_patience(tmp_path: Path, method: str, changes: dict[str, Any]) -> None:
    run = ran("alma", tmp_path, Pictures(noise=0.3), model="mlp:width=8", method=method, **changes)
    rule = {"epochs": 100, "patience": 25, "min_delta": 0.001, **changes}
    heard = {row["index"]: run.val_accuracies(row["index"]) for row in run.rows}
    for row in run.rows:
        accuracies = heard[row["index"]]
        assert len(accuracies) == row["epochs"] <= rule["epochs"]
        assert (row["epochs"], row["carried_epoch"]) == followed(accuracies, rule["patience"], rule["min_delta"])
        assert row["epochs"] in (rule["epochs"], row["carried_epoch"] + rule["patience"])
        assert row["samples_seen"] == row["epochs"] * row["train_samples"]
        carried, saved = run.diary.ended[row["index"], row["carried_epoch"]].weights, run.saved(row["index"])
        assert all(torch.equal(saved[name], value) for name, value in carried.items())
    assert any(row["epochs"] < rule["epochs"] for row in run.rows), "patience never acted"
    if changes.get("min_delta"):
        assert any(followed(values, 8, 0) != followed(values, 8, 0.15) for values in heard.values()), (
            "nor did min-delta"
        )
    assert run.diary.memory == {1: 0, 2: 0, 3: 0}
    assert all(run.diary.ended[row["index"], 1].momentum for row in run.rows), "there was no memory to lose"
