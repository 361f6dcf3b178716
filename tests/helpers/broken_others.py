"""Data sets, networks, metrics, observers, analyses and executors that each break one promise, and no other."""

from __future__ import annotations

import os
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor, as_completed
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from forgetkit.builtin.executors.local import Local
from forgetkit.contracts import (
    Answer,
    Chart,
    Data,
    DataSplit,
    EpochEnded,
    Event,
    Evidence,
    Inputs,
    LoadContext,
    Measure,
    MegaBatchEnded,
    MegaBatchRevealed,
    RunEnded,
    RunStarted,
    Series,
    WorkerLost,
)
from forgetkit.errors import ForgetkitError, UsageError

# Data sets


@dataclass(frozen=True)
class Dots:
    """Twelve grey images of noise.

    seed: of the noise.
    """

    seed: int = 0

    def load(self, context: LoadContext) -> Any:
        rng = np.random.default_rng(self.seed)
        train, test = (rng.random((n, 1, 4, 4), dtype=np.float32) for n in (9, 3))
        labels = [np.arange(n, dtype=np.int64) % 3 for n in (9, 3)]
        return Data(DataSplit(train, labels[0]), DataSplit(test, labels[1]), ("a", "b", "c"), "flip")


def other_train(data: Data, **parts: Any) -> Data:
    return replace(data, train=replace(data.train, **parts))


class DataRuns(Dots):
    """Returns a pair."""

    def load(self, context: LoadContext) -> Any:
        data = super().load(context)
        return data.train, data.test


class DataParts(Dots):
    """In double precision."""

    def load(self, context: LoadContext) -> Any:
        data = super().load(context)
        return other_train(data, inputs=data.train.inputs.astype(np.float64))


class DataPartsLabels(Dots):
    """One label too few."""

    def load(self, context: LoadContext) -> Any:
        data = super().load(context)
        return other_train(data, labels=data.train.labels[1:])


class DataPartsEmpty(Dots):
    """Nothing to test on."""

    def load(self, context: LoadContext) -> Any:
        data = super().load(context)
        return replace(data, test=DataSplit(data.test.inputs[:0], data.test.labels[:0]))


class DataAlike(Dots):
    """Larger test images."""

    def load(self, context: LoadContext) -> Any:
        data = super().load(context)
        return replace(data, test=replace(data.test, inputs=np.zeros((3, 1, 5, 5), np.float32)))


class DataClasses(Dots):
    """Two classes of one name."""

    def load(self, context: LoadContext) -> Any:
        return replace(super().load(context), classes=("a", "b", "b"))


class DataLabels(Dots):
    """Counts classes from one."""

    def load(self, context: LoadContext) -> Any:
        data = super().load(context)
        return other_train(data, labels=data.train.labels + 1)


class DataFinite(Dots):
    """A missing pixel."""

    def load(self, context: LoadContext) -> Any:
        data = super().load(context)
        data.train.inputs[3, 0, 1, 1] = np.nan
        return data


class DataAugment(Dots):
    """An augmentation of its own."""

    def load(self, context: LoadContext) -> Any:
        return replace(super().load(context), augment="rotate")


class DataAugmentFeatures(Dots):
    """Features that can be mirrored."""

    def load(self, context: LoadContext) -> Any:
        data = super().load(context)
        flat = [replace(part, inputs=part.inputs.reshape(len(part), -1)) for part in (data.train, data.test)]
        return Data(flat[0], flat[1], data.classes, "flip")


class DataDeterministic(Dots):
    """Another order each time."""

    def load(self, context: LoadContext) -> Any:
        data = super().load(context)
        order = np.random.default_rng(list(os.urandom(4))).permutation(9)
        return replace(data, train=DataSplit(data.train.inputs[order], data.train.labels[order]))


class DataCache(Dots):
    """Turned round when it comes from the cache."""

    def load(self, context: LoadContext) -> Any:
        data, file = super().load(context), context.cache / "dots"
        if file.exists():
            return replace(data, train=DataSplit(data.train.inputs[::-1], data.train.labels[::-1]))
        file.touch()
        return data


class DataLeavesSettings(Dots):
    """Leaves a setting of torch changed."""

    def load(self, context: LoadContext) -> Any:
        torch.set_default_dtype(torch.float64)
        return super().load(context)


class DataOwnRandomness(Dots):
    """Another order for each global seed."""

    def load(self, context: LoadContext) -> Any:
        data = super().load(context)
        order = np.random.permutation(9)
        return replace(data, train=DataSplit(data.train.inputs[order], data.train.labels[order]))


DATASETS: Mapping[str, tuple[type, ...]] = {
    "runs": (DataRuns,),
    "parts": (DataParts, DataPartsLabels, DataPartsEmpty),
    "alike": (DataAlike,),
    "classes": (DataClasses,),
    "labels": (DataLabels,),
    "finite": (DataFinite,),
    "augment": (DataAugment, DataAugmentFeatures),
    "deterministic": (DataDeterministic, DataCache),
    "own-randomness": (DataOwnRandomness,),
    "leaves-settings": (DataLeavesSettings,),
}

# Networks


@dataclass(frozen=True)
class Layers:
    """Two layers and something between them.

    width: units of the hidden layer.
    """

    width: int = 40

    def build(self, inputs: Inputs, normalize: nn.Module) -> Any:
        size = int(np.prod(inputs.shape))
        hidden, head = nn.Linear(size, self.width), nn.Linear(self.width, inputs.classes)
        return nn.Sequential(normalize, nn.Flatten(), hidden, self.between(), head)

    def between(self) -> nn.Module:
        return nn.Tanh()

    def initialise(self, module: nn.Module) -> None:
        if isinstance(module, nn.Linear | nn.BatchNorm1d):
            module.reset_parameters()


class ModelRuns(Layers):
    """Raises."""

    def build(self, inputs: Inputs, normalize: nn.Module) -> Any:
        raise RuntimeError("out of order")


class ModelOutputs(Layers):
    """Always ten classes."""

    def build(self, inputs: Inputs, normalize: nn.Module) -> Any:
        return super().build(replace(inputs, classes=10), normalize)


class ModelNormalizesFirst(Layers):
    """Leaves the normalisation out."""

    def build(self, inputs: Inputs, normalize: nn.Module) -> Any:
        return super().build(inputs, nn.Identity())


class Past(nn.Module):
    def __init__(self, normalize: nn.Module, rest: nn.Module) -> None:
        super().__init__()
        self.normalize, self.rest = normalize, rest

    def forward(self, x: Tensor) -> Tensor:
        return self.rest(x + 0 * self.normalize(x))  # type: ignore[no-any-return]


class ModelNormalizesForNothing(Layers):
    """Does not use what was normalised."""

    def build(self, inputs: Inputs, normalize: nn.Module) -> Any:
        return Past(normalize, super().build(inputs, nn.Identity()))


class ModelDeterministic(Layers):
    """Draws from the operating system."""

    def build(self, inputs: Inputs, normalize: nn.Module) -> Any:
        model = super().build(inputs, normalize)
        rng = torch.Generator()
        rng.seed()
        with torch.no_grad():
            model[-1].bias.add_(torch.randn(inputs.classes, generator=rng))
        return model


class ModelFollowsSeed(Layers):
    """Seeds itself."""

    def build(self, inputs: Inputs, normalize: nn.Module) -> Any:
        torch.manual_seed(0)
        return super().build(inputs, normalize)


class ModelTrains(Layers):
    """Keeps a layer for later."""

    def build(self, inputs: Inputs, normalize: nn.Module) -> Any:
        model = super().build(inputs, normalize)
        model[1].spare = nn.Linear(3, 3)
        return model


class Crowd(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return x - x.mean(0)


class ModelBatchIndependent(Layers):
    """Measures against the batch."""

    def between(self) -> nn.Module:
        return Crowd()


class Noise(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        torch.rand(1)
        return x.tanh()


class ModelLeavesSettings(Layers):
    """Leaves a setting of torch changed."""

    def build(self, inputs: Inputs, normalize: nn.Module) -> Any:
        torch.backends.cudnn.benchmark = True
        return super().build(inputs, normalize)


class ModelQuietEval(Layers):
    """Draws in eval mode."""

    def between(self) -> nn.Module:
        return Noise()


class Counter(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("count", torch.zeros(()))

    def forward(self, x: Tensor) -> Tensor:
        self.count += 1
        return x.tanh()


class ModelKeepsEval(Layers):
    """Counts in eval mode."""

    def between(self) -> nn.Module:
        return Counter()


class ModelInitialisesLess(Layers):
    """Draws the bias only."""

    def initialise(self, module: nn.Module) -> None:
        if isinstance(module, nn.Linear):
            nn.init.uniform_(module.bias, -0.1, 0.1)


class ModelInitialisesAnother(Layers):
    """Puts a new tensor there."""

    def initialise(self, module: nn.Module) -> None:
        super().initialise(module)
        if isinstance(module, nn.Linear):
            module.bias = nn.Parameter(module.bias.detach().clone())


class ModelInitialisesAlike(Layers):
    """Draws what it builds otherwise anew."""

    def build(self, inputs: Inputs, normalize: nn.Module) -> Any:
        model = super().build(inputs, normalize)
        nn.init.kaiming_normal_(model[2].weight)
        return model


class ModelInitialisesZero(Layers):
    """Starts from biases of zero, the first time."""

    def build(self, inputs: Inputs, normalize: nn.Module) -> Any:
        model = super().build(inputs, normalize)
        nn.init.zeros_(model[2].bias)
        return model


class ModelRefuses(Layers):
    """Is for sounds."""

    def build(self, inputs: Inputs, normalize: nn.Module) -> Any:
        raise UsageError("this network hears")


MODELS: Mapping[str, tuple[type, ...]] = {
    "runs": (ModelRuns,),
    "outputs": (ModelOutputs,),
    "normalizes-first": (ModelNormalizesFirst, ModelNormalizesForNothing),
    "deterministic": (ModelDeterministic,),
    "follows-seed": (ModelFollowsSeed,),
    "trains": (ModelTrains,),
    "batch-independent": (ModelBatchIndependent,),
    "quiet-eval": (ModelQuietEval,),
    "leaves-settings": (ModelLeavesSettings,),
    "keeps-eval": (ModelKeepsEval,),
    "initialises-one": (ModelInitialisesLess, ModelInitialisesAnother),
    "initialises-alike": (ModelInitialisesAlike, ModelInitialisesZero),
}

# Metrics


@dataclass(frozen=True)
class Last:
    """The last error."""

    def compute(self, rows: Any) -> Any:
        return rows[-1].test_errors / rows[-1].test_samples if rows else None


class MetricRuns(Last):
    """Raises."""

    def compute(self, rows: Any) -> Any:
        raise RuntimeError("out of order")


class MetricNumber(Last):
    """A text."""

    def compute(self, rows: Any) -> Any:
        return f"{super().compute(rows)}"


class MetricArray(Last):
    """An array of one number."""

    def compute(self, rows: Any) -> Any:
        return np.full(1, len(rows))


class MetricTruth(Last):
    """A truth value of NumPy's."""

    def compute(self, rows: Any) -> Any:
        return np.bool_(len(rows) >= 0)


class MetricFinite(Last):
    """NaN for what it does not know."""

    def compute(self, rows: Any) -> Any:
        return float("nan")


class MetricEmpty(Last):
    """Wants a row."""

    def compute(self, rows: Any) -> Any:
        return rows[-1].test_accuracy


class MetricSingle(Last):
    """How much was won in the last mega-batch."""

    def compute(self, rows: Any) -> Any:
        return rows[-2].test_accuracy - rows[-1].test_accuracy if rows else None


class MetricFaultless(Last):
    """Divides by errors."""

    def compute(self, rows: Any) -> Any:
        return 1 / rows[-1].test_errors if rows else None


class MetricUnvalidated(Last):
    """Wants validation samples."""

    def compute(self, rows: Any) -> Any:
        return sum(row.val_accuracy for row in rows)


class MetricDeterministic(Last):
    """Counts its calls."""

    def compute(self, rows: Any) -> Any:
        times = vars(self).get("times", 0) + 1
        object.__setattr__(self, "times", times)
        return times


class MetricLeavesSettings(Last):
    """Leaves a setting of torch changed."""

    def compute(self, rows: Any) -> Any:
        torch.set_default_dtype(torch.float64)
        return super().compute(rows)


class MetricOwnRandomness(Last):
    """Draws a number."""

    def compute(self, rows: Any) -> Any:
        return float(np.random.rand())


class MetricLeavesRows(Last):
    """Turns the rows round."""

    def compute(self, rows: Any) -> Any:
        rows.reverse()
        return 1.0


METRICS: Mapping[str, tuple[type, ...]] = {
    "runs": (MetricRuns,),
    "number": (MetricNumber, MetricArray, MetricTruth),
    "finite": (MetricFinite,),
    "empty": (MetricEmpty,),
    "single": (MetricSingle,),
    "faultless": (MetricFaultless,),
    "unvalidated": (MetricUnvalidated,),
    "deterministic": (MetricDeterministic,),
    "own-randomness": (MetricOwnRandomness,),
    "leaves-settings": (MetricLeavesSettings,),
    "leaves-rows": (MetricLeavesRows,),
}

# Observers


@dataclass(frozen=True)
class Curve:
    """Collects the test accuracies.

    points: those so far.
    """

    points: list[float] = field(default_factory=list)

    def notify(self, event: Event) -> None:
        if isinstance(event, MegaBatchEnded):
            self.points.append(event.row.test_accuracy)


class ObserverRuns(Curve):
    """Wants a validation accuracy of each epoch."""

    def notify(self, event: Event) -> None:
        if isinstance(event, EpochEnded) and event.mega_batch == 1:
            raise RuntimeError("out of order")


class ObserverUnknown(Curve):
    """Knows all events there are."""

    def notify(self, event: Event) -> None:
        if type(event).__module__ != Event.__module__:
            raise TypeError(f"what is {type(event).__name__}")


class ObserverResumed(Curve):
    """Wants to have seen the first mega-batch."""

    def notify(self, event: Event) -> None:
        if isinstance(event, RunStarted) and not event.done:
            self.points.append(0.0)
        if isinstance(event, MegaBatchEnded):
            self.points[-1] = event.row.test_accuracy


class ObserverLeavesEvents(Curve):
    """Takes the configuration out of the result."""

    def notify(self, event: Event) -> None:
        if isinstance(event, RunEnded):
            event.result.pop("config")  # type: ignore[attr-defined]


class ObserverLeavesSettings(Curve):
    """Leaves a setting of torch changed."""

    def notify(self, event: Event) -> None:
        super().notify(event)
        torch.set_grad_enabled(False)


class ObserverOwnRandomness(Curve):
    """Makes up a name for each mega-batch."""

    def notify(self, event: Event) -> None:
        if isinstance(event, MegaBatchRevealed):
            np.random.rand()


OBSERVERS: Mapping[str, tuple[type, ...]] = {
    "runs": (ObserverRuns,),
    "unknown-events": (ObserverUnknown,),
    "resumed": (ObserverResumed,),
    "leaves-events": (ObserverLeavesEvents,),
    "own-randomness": (ObserverOwnRandomness,),
    "leaves-settings": (ObserverLeavesSettings,),
}

# Analyses


@dataclass(frozen=True)
class Hits:
    """How many it gets right under a little noise.

    spread: of the noise.
    """

    spread: float = 0.1

    def analyze(self, evidence: Evidence) -> Any:
        samples, rng = evidence.samples(), evidence.seeds.torch("noise")
        noisy = (inputs + self.spread * torch.randn(inputs.shape, generator=rng) for inputs, _ in samples.batches())
        outputs = evidence.outputs(noisy)
        hits = int((outputs.argmax(-1) == samples.labels).sum())
        return Answer({"hits": Measure(hits, "higher", "count"), "mean": float(outputs.mean())}, (self.chart(hits),))

    def chart(self, hits: int) -> Chart:
        return Chart("hits", "How many.", "noise", "hits", (Series("hits", (self.spread,), (hits,)),))


class AnalysisRuns(Hits):
    """Returns a mapping."""

    def analyze(self, evidence: Evidence) -> Any:
        return super().analyze(evidence).numbers


class AnalysisJson(Hits):
    """Returns a tensor."""

    def analyze(self, evidence: Evidence) -> Any:
        return Answer(details={"labels": evidence.samples().labels})


class AnalysisJsonKeys(Hits):
    """By label."""

    def analyze(self, evidence: Evidence) -> Any:
        return Answer({0: 0.5, 1: 0.5})


class AnalysisJsonNan(Hits):
    """Holds NaN."""

    def analyze(self, evidence: Evidence) -> Any:
        return Answer({"mean": float("nan")})


class AnalysisJsonChart(Hits):
    """A chart with points that have no second side."""

    def chart(self, hits: int) -> Chart:
        return Chart("hits", "How many.", "noise", "hits", (Series("hits", (0.0, self.spread), (hits,)),))


class AnalysisParameters(Hits):
    """Prunes while it looks."""

    def analyze(self, evidence: Evidence) -> Any:
        with torch.no_grad():
            next(evidence.model.parameters()).mul_(0.5)
        return super().analyze(evidence)


class AnalysisBuffers(Hits):
    """Measures in training mode."""

    def analyze(self, evidence: Evidence) -> Any:
        norms = [module for module in evidence.model.modules() if isinstance(module, nn.BatchNorm2d)]
        for norm in norms:
            norm.train()
        with torch.no_grad():
            for inputs, _ in evidence.samples().batches():
                evidence.model(inputs)
        for norm in norms:
            norm.eval()
        return super().analyze(evidence)


class AnalysisGradients(Hits):
    """Leaves gradients."""

    def analyze(self, evidence: Evidence) -> Any:
        for inputs, _ in evidence.samples().batches():
            evidence.model(inputs).sum().backward()
        return super().analyze(evidence)


class AnalysisModes(Hits):
    """Ends in training mode."""

    def analyze(self, evidence: Evidence) -> Any:
        answer = super().analyze(evidence)
        evidence.model.train()
        return answer


class AnalysisHooks(Hits):
    """Leaves a hook."""

    def analyze(self, evidence: Evidence) -> Any:
        evidence.model.register_forward_hook(lambda module, args, output: None)
        return super().analyze(evidence)


class AnalysisDeterministic(Hits):
    """Remembers its number of calls."""

    def analyze(self, evidence: Evidence) -> Any:
        times = vars(self).get("times", 0) + 1
        object.__setattr__(self, "times", times)
        return Answer({"times": times})


class AnalysisLeavesSettings(Hits):
    """Leaves a setting of torch changed."""

    def analyze(self, evidence: Evidence) -> Any:
        torch.backends.cudnn.benchmark = True
        return super().analyze(evidence)


class AnalysisOwnRandomness(Hits):
    """Draws noise from the global random state."""

    def analyze(self, evidence: Evidence) -> Any:
        noisy = [inputs + torch.randn(inputs.shape) for inputs, _ in evidence.samples().batches()]
        return Answer({"mean": float(evidence.outputs(noisy).mean())})


ANALYSES: Mapping[str, tuple[type, ...]] = {
    "runs": (AnalysisRuns,),
    "json-values": (AnalysisJson, AnalysisJsonKeys, AnalysisJsonNan, AnalysisJsonChart),
    "leaves-parameters": (AnalysisParameters,),
    "leaves-buffers": (AnalysisBuffers,),
    "leaves-gradients": (AnalysisGradients,),
    "leaves-modes": (AnalysisModes,),
    "leaves-hooks": (AnalysisHooks,),
    "deterministic": (AnalysisDeterministic,),
    "own-randomness": (AnalysisOwnRandomness,),
    "leaves-settings": (AnalysisLeavesSettings,),
}

# Executors


@dataclass(frozen=True)
class Backwards:
    """One after the other, in this process, the last first."""

    def execute(self, work: Any, tasks: Any) -> Any:
        for position in reversed(range(len(tasks))):
            yield position, self.done(work, tasks[position])

    def done(self, work: Any, task: Any) -> Any:
        return work(task)


class ExecutorRuns(Backwards):
    """Raises."""

    def done(self, work: Any, task: Any) -> Any:
        raise RuntimeError("out of order")


class ExecutorPairs(Backwards):
    """Answers alone."""

    def execute(self, work: Any, tasks: Any) -> Any:
        return (answer for _, answer in super().execute(work, tasks))


class ExecutorPairsOfTexts(Backwards):
    """Positions as texts."""

    def execute(self, work: Any, tasks: Any) -> Any:
        return ((str(position), answer) for position, answer in super().execute(work, tasks))


class ExecutorComplete(Backwards):
    """Leaves one out."""

    def execute(self, work: Any, tasks: Any) -> Any:
        yield from super().execute(work, tasks[:-1])


class ExecutorRepeats(Backwards):
    """Yields one twice."""

    def execute(self, work: Any, tasks: Any) -> Any:
        for each in super().execute(work, tasks):
            yield each
            if each[0] == 1:
                yield each


class ExecutorAnswers(Backwards):
    """Counts as they finish."""

    def execute(self, work: Any, tasks: Any) -> Any:
        return ((count, answer) for count, (_, answer) in enumerate(super().execute(work, tasks)))


class ExecutorEmpty(Backwards):
    """Wants something to do."""

    def execute(self, work: Any, tasks: Any) -> Any:
        tasks[0]
        return super().execute(work, tasks)


class ExecutorTasks(Backwards):
    """Uses the tasks up."""

    def execute(self, work: Any, tasks: Any) -> Any:
        yield from super().execute(work, [dict(task) for task in tasks])
        for task in tasks:
            task.clear()


class ExecutorRaises(Backwards):
    """Takes an exception for an answer."""

    def done(self, work: Any, task: Any) -> Any:
        try:
            return work(task)
        except ForgetkitError as error:
            return error


class ExecutorRaisesAnother(Backwards):
    """Says that something went wrong."""

    def done(self, work: Any, task: Any) -> Any:
        try:
            return work(task)
        except ForgetkitError as error:
            raise RuntimeError("a task failed") from error


class ExecutorLost(Local):
    """Takes a lost worker for one that has nothing to say."""

    def execute(self, work: Any, tasks: Any) -> Any:
        for position, answer in super().execute(work, tasks):
            yield position, None if isinstance(answer, WorkerLost) else answer


class ExecutorLosesOthers(Local):
    """Gives up when a worker is lost."""

    def execute(self, work: Any, tasks: Any) -> Any:
        last: Any = None
        for position, answer in super().execute(work, tasks):
            last = answer if isinstance(answer, WorkerLost) else last
            yield position, last or answer


class ExecutorCloses(Backwards):
    """Threads that never stop."""

    def execute(self, work: Any, tasks: Any) -> Any:
        pool = ThreadPoolExecutor(max(len(tasks), 1))
        positions = {pool.submit(work, task): position for position, task in enumerate(tasks)}
        pool.shutdown(wait=False)
        yield from ((positions[done], done.result()) for done in as_completed(positions))


class ExecutorLeavesSettings(Backwards):
    """Leaves a setting of torch changed."""

    def execute(self, work: Any, tasks: Any) -> Any:
        torch.set_num_threads(torch.get_num_threads() + 1)
        yield from super().execute(work, tasks)


class ExecutorClosesNothing(Backwards):
    """A list, which cannot be closed."""

    def execute(self, work: Any, tasks: Any) -> Any:
        return [(position, work(task)) for position, task in enumerate(tasks) if "folder" not in task]


EXECUTORS: Mapping[str, tuple[type, ...]] = {
    "runs": (ExecutorRuns,),
    "pairs": (ExecutorPairs, ExecutorPairsOfTexts),
    "complete": (ExecutorComplete, ExecutorRepeats),
    "answers": (ExecutorAnswers,),
    "empty": (ExecutorEmpty,),
    "leaves-tasks": (ExecutorTasks,),
    "raises": (ExecutorRaises, ExecutorRaisesAnother),
    "lost": (ExecutorLost, ExecutorLosesOthers),
    "closes": (ExecutorCloses, ExecutorClosesNothing),
    "leaves-settings": (ExecutorLeavesSettings,),
}

BROKEN: Mapping[str, Mapping[str, tuple[type, ...]]] = {
    "datasets": DATASETS,
    "models": MODELS,
    "metrics": METRICS,
    "observers": OBSERVERS,
    "analyses": ANALYSES,
    "executors": EXECUTORS,
}
"""By kind, and by the promise that each breaks."""

GOOD: Mapping[str, type] = {
    "datasets": Dots,
    "models": Layers,
    "metrics": Last,
    "observers": Curve,
    "analyses": Hits,
    "executors": Local,
}
