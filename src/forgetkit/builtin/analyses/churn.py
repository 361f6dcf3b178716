"""Predictions that flip from one mega-batch to the next."""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Annotated, Any

import torch
from pydantic import Field
from torch import Tensor

from forgetkit.builtin.analyses._answers import bars, fraction, lines
from forgetkit.builtin.analyses._cross_run import LeftOutRuns
from forgetkit.builtin.analyses._outputs import predictions, require_samples
from forgetkit.contracts import Answer, Chart, ComparedRun, Evidence, Measure, Series
from forgetkit.errors import InapplicableError

_KINDS = {
    "changed": "changed",
    "negative_flips": "right to wrong",
    "positive_flips": "wrong to right",
    "other_flips": "wrong to another wrong",
}
"""How a prediction can flip from one mega-batch to the next: its key, and its label in charts."""
_NEVER = -1
_BARS = 30
"""How many classes a chart has room for."""
_SHARE = "share of the test samples"


@dataclass(frozen=True)
class Churn:
    """How many predictions flip between the models of consecutive mega-batches, and which samples are lost for good.

    Formula: of the n test samples with labels y and predictions p_t after mega-batch t, the negative flips are
    |{p_(t-1) = y, p_t ≠ y}| / n, the positive ones |{p_(t-1) ≠ y, p_t = y}| / n; their difference is the change in
    accuracy. Forgotten for good is a sample that was right after some mega-batch and is wrong at the last, lost at its
    last flip to wrong; a forgetting event is each flip from right to wrong.

    listed: how many positions of forgotten and of never learned samples are listed at most; counts are of all.

    Cost: one forward pass over the test samples for each mega-batch.

    Source: negative flips: Yan et al., 2021; forgetting events: Toneva et al., 2019.
    """

    listed: Annotated[int, Field(ge=0)] = 100

    def analyze(self, evidence: Evidence) -> Answer:
        """Measure flips at the last mega-batch and over all; raise ``InapplicableError`` without two kept models."""
        kept = _kept_models(evidence)
        samples = require_samples(evidence, "test")
        known = _PredictionHistory(kept, samples.labels, torch.stack([_predictions(evidence, n) for n in kept]))
        remarks = [_gaps(kept)] if kept[-1] - kept[0] >= len(kept) else []
        classes = list(_classes(known, evidence.classes))
        charts = [_over_time(known), _forgotten_samples(known)]
        if len(classes) <= _BARS:
            charts.append(_by_class(classes))
        else:
            remarks.append(f"a chart has no room for {len(classes)} classes: details.classes holds them")
        forgotten = known.forgotten.nonzero().flatten().tolist()
        never = known.never_learned.nonzero().flatten().tolist()
        last_right = {at: {"last_right_after": int(known.last_right[at])} for at in forgotten}
        names = {at: evidence.classes[int(known.labels[at])] for at in (*forgotten, *never)}
        details = {
            "samples": len(samples),
            "steps": [_step(known, at) for at in range(1, len(kept))],
            "classes": classes,
            "forgotten": {
                "count": len(forgotten),
                "last_right_after": {str(n): int((known.last_right == n).sum()) for n in kept[:-1]},
                "samples": [{"position": at, "class": names[at], **last_right[at]} for at in forgotten[: self.listed]],
            },
            "never_learned": {
                "count": len(never),
                "samples": [{"position": at, "class": names[at]} for at in never[: self.listed]],
            },
        }
        return Answer(_numbers(known), charts, details, remarks)

    def compare(self, cells: Sequence[ComparedRun]) -> Answer:
        """Measure what the seed alone changes: last predictions of two runs of an arm, over all pairs."""
        arms: dict[str, list[ComparedRun]] = {}
        for cell in cells:
            arms.setdefault(", ".join(cell.arm.values()), []).append(cell)
        left_out = LeftOutRuns()
        between = {arm: found for arm, several in arms.items() if (found := list(_pairs(several, left_out)))}
        if not between:
            why = "".join(f" ({remark})" for remark in left_out.remarks[:1])
            raise InapplicableError(
                f"no arm has two finished runs with the same test samples to compare: give it more seeds{why}"
            )
        own = {arm: [flips for cell in arms[arm] if (flips := _last_flips(cell)) is not None] for arm in between}
        names = list(between)
        seeds = [_spread([pair["changed"] for pair in between[arm]]) for arm in names]
        steps = [_spread(own[arm]) for arm in names]
        chart = bars(
            "seeds",
            "Predictions that differ between two seeds at the last mega-batch, and between the last two mega-batches "
            "of a run",
            "arm",
            _SHARE,
            Series("two seeds", names, [mean for mean, _ in seeds], [spread for _, spread in seeds]),
            Series("two mega-batches", names, [mean for mean, _ in steps], [spread for _, spread in steps]),
        )
        every = [pair["changed"] for pairs in between.values() for pair in pairs]
        meaning = "test samples that two seeds of one arm predict differently at the end"
        missing = [arm for arm in arms if arm not in between]
        lone = [f"left out, since only one seed of it can be compared: {', '.join(missing)}"] if missing else []
        return Answer(
            {"between_seeds": fraction(_spread(every)[0], meaning)},
            [chart],
            {"between_seeds": between},
            [*left_out.remarks, *lone],
        )


@dataclass(frozen=True, eq=False)
class _PredictionHistory:
    """Predictions ``(mega-batches, samples)`` of the kept models, and the labels."""

    kept: tuple[int, ...]
    labels: Tensor
    predictions: Tensor

    @cached_property
    def right(self) -> Tensor:
        """bool, of the predictions' shape."""
        return self.predictions == self.labels

    @cached_property
    def flips(self) -> dict[str, Tensor]:
        """Which predictions flipped, bool ``(mega-batches - 1, samples)``, by kind."""
        before, after = self.right[:-1], self.right[1:]
        changed = self.predictions[:-1] != self.predictions[1:]
        return {
            "changed": changed,
            "negative_flips": before & ~after,
            "positive_flips": ~before & after,
            "other_flips": changed & ~before & ~after,
        }

    @cached_property
    def last_right(self) -> Tensor:
        """The mega-batch after which a sample was last right if it is forgotten for good, else -1."""
        ever = torch.where(self.right, torch.tensor(self.kept).unsqueeze(1), _NEVER).amax(0)
        return ever.where(~self.right[-1], _NEVER)

    @property
    def forgotten(self) -> Tensor:
        return self.last_right != _NEVER

    @property
    def never_learned(self) -> Tensor:
        return ~self.right.any(0)


def _kept_models(evidence: Evidence) -> tuple[int, ...]:
    """The mega-batches with a model, up to the one asked about, which must be among them; at least two."""
    last = evidence.mega_batch
    if last is None:
        raise InapplicableError("predictions flip between the mega-batches of a run: analyse the directory of a run")
    kept = tuple(n for n in evidence.mega_batches if n <= last)
    if len(kept) < 2 or kept[-1] != last:
        known = ", ".join(map(str, kept))
        have = f"the model{'s' if len(kept) > 1 else ''} after {known} alone" if kept else "no model"
        raise InapplicableError(
            f"up to mega-batch {last} the run keeps {have}, and flips need the model after {last} and one before: "
            "keep all models (--keep-models all, of an ablation --keep all)"
        )
    return kept


def _gaps(kept: Sequence[int]) -> str:
    return f"the models after mega-batches {', '.join(map(str, kept))} are known: a step between two may span several"


def _predictions(evidence: Evidence, mega_batch: int) -> Tensor:
    """int32 ``(samples,)``; the model is not kept."""
    then = evidence if mega_batch == evidence.mega_batch else evidence.at(mega_batch)
    return predictions(then.outputs(then.samples("test"))).int()


def _numbers(known: _PredictionHistory) -> dict[str, Measure]:
    share = {kind: which.double().mean(1) for kind, which in known.flips.items()}
    events = known.flips["negative_flips"]
    meanings = {
        "negative_flips": (share["negative_flips"][-1], "test samples from right to wrong at the last mega-batch"),
        "negative_flips_mean": (share["negative_flips"].mean(), "the same, the mean over the mega-batches"),
        "positive_flips": (share["positive_flips"][-1], "test samples from wrong to right at the last mega-batch"),
        "changed": (
            share["changed"][-1],
            "test samples with another prediction after the last mega-batch than before",
        ),
        "forgotten": (known.forgotten.double().mean(), "test samples that were right once and are wrong at the end"),
        "never_learned": (known.never_learned.double().mean(), "test samples that were never right"),
    }
    numbers = {
        key: fraction(float(value), meaning, None if key in ("positive_flips", "changed") else "lower")
        for key, (value, meaning) in meanings.items()
    }
    numbers["forgetting_events"] = Measure(
        float(events.double().sum(0).mean()),
        "lower",
        meaning="flips from right to wrong of a test sample, the mean over samples",
        bounds=(0, len(events)),
    )
    return numbers


def _step(known: _PredictionHistory, at: int) -> dict[str, Any]:
    """Counts between two mega-batches; ``by_chance`` is the negative flips of two models that err independently."""
    right = known.right[at - 1 : at + 1].sum(1).tolist()
    count = len(known.labels)
    return {
        "from": known.kept[at - 1],
        "to": known.kept[at],
        **{kind: int(which[at - 1].sum()) for kind, which in known.flips.items()},
        "right_before": right[0],
        "right_after": right[1],
        "by_chance": right[0] * (count - right[1]) / count,
    }


def _classes(known: _PredictionHistory, classes: Sequence[str]) -> Iterator[dict[str, Any]]:
    """Counts by class: flips of the last step, and what is forgotten or never learned over all steps."""
    for label, name in enumerate(classes):
        own = known.labels == label
        yield {
            "class": name,
            "samples": int(own.sum()),
            **{kind: int((which[-1] & own).sum()) for kind, which in known.flips.items()},
            "forgotten": int((known.forgotten & own).sum()),
            "never_learned": int((known.never_learned & own).sum()),
            "forgetting_events": int((known.flips["negative_flips"] & own).sum()),
        }


def _over_time(known: _PredictionHistory) -> Chart:
    shares = {kind: which.double().mean(1).tolist() for kind, which in known.flips.items()}
    kinds = [kind for kind in shares if kind != "changed"]  # it is the sum of the others
    series = [Series(_KINDS[kind], known.kept[1:], shares[kind]) for kind in kinds]
    return lines("flips", "Predictions that flipped since the mega-batch before", "mega-batch", _SHARE, *series)


def _forgotten_samples(known: _PredictionHistory) -> Chart:
    shares = [float((known.last_right == n).double().mean()) for n in known.kept[:-1]]
    return bars(
        "forgotten",
        "Samples that are forgotten for good, by the mega-batch after which they were last right",
        "last right after mega-batch",
        _SHARE,
        Series("forgotten for good", [str(n) for n in known.kept[:-1]], shares),
    )


def _by_class(rows: Sequence[Mapping[str, Any]]) -> Chart:
    names = [row["class"] for row in rows]
    series = [
        Series(_KINDS[kind], names, [row[kind] / row["samples"] if row["samples"] else None for row in rows])
        for kind in ("negative_flips", "positive_flips")
    ]
    caption = "Predictions that flipped at the last mega-batch, by class"
    return bars("classes", caption, "class", "share of the samples of the class", *series)


def _pairs(cells: Sequence[ComparedRun], left_out: LeftOutRuns) -> Iterator[dict[str, Any]]:
    """For each two runs with the same test samples, the share that they predict differently."""
    known = []
    for cell in cells:
        with left_out.catching(cell):
            samples = cell.evidence.samples("test")
            known.append((cell.seed, samples.labels, predictions(cell.evidence.outputs(samples)).int()))
    for (seed, labels, one), (other_seed, other_labels, other) in itertools.combinations(known, 2):
        if len(labels) and torch.equal(labels, other_labels):
            differ = one != other
            split = (one == labels) != (other == labels)
            yield {
                "seeds": [seed, other_seed],
                "changed": float(differ.double().mean()),
                "right_in_one_alone": float(split.double().mean()),
            }


def _last_flips(cell: ComparedRun) -> float | None:
    """``changed`` of the run's own answer."""
    value = cell.answer.numbers.get("changed") if cell.answer is not None else None
    return value.value if isinstance(value, Measure) else value


def _spread(values: Sequence[float]) -> tuple[float | None, float | None]:
    """Mean and standard deviation; the latter needs two values."""
    if not values:
        return None, None
    found = torch.tensor(values, dtype=torch.float64)
    return float(found.mean()), float(found.std()) if len(values) > 1 else None
