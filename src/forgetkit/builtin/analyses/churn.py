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

from forgetkit.builtin.analyses._cross_run import LeftOutRuns
from forgetkit.builtin.analyses._outputs import predictions
from forgetkit.contracts import Answer, Chart, ComparedRun, Evidence, Measure, Series
from forgetkit.errors import InapplicableError

_KINDS = {
    "changed": "changed",
    "negative_flips": "right to wrong",
    "positive_flips": "wrong to right",
    "other_flips": "wrong to another wrong",
}
"""What a prediction can do from one mega-batch to the next, as it is named here and as it is shown."""
_NEVER = -1
_BARS = 30
"""Classes that a chart has room for."""


@dataclass(frozen=True)
class Churn:
    """How many predictions flip between the models of consecutive mega-batches, and which samples are lost for good.

    Formula: of the n test samples with labels y and predictions p_t after mega-batch t, the negative flips are
    |{p_(t-1) = y, p_t ≠ y}| / n, the positive ones |{p_(t-1) ≠ y, p_t = y}| / n; their difference is the change in
    accuracy. Forgotten for good is a sample that was right after some mega-batch and is wrong at the last, lost at its
    last flip to wrong; a forgetting event is each flip from right to wrong.

    listed: positions of samples that are written down at most, of each kind; the counts are of all.

    Cost: one forward pass over the test samples for each mega-batch.

    Source: negative flips: Yan et al., 2021; forgetting events: Toneva et al., 2019.
    """

    listed: Annotated[int, Field(ge=0)] = 100

    def analyze(self, evidence: Evidence) -> Answer:
        """Shares of the test samples at the last mega-batch and over all; raises where fewer than two are kept."""
        kept = _kept_share(evidence)
        samples = evidence.samples("test")
        if not len(samples):
            raise InapplicableError("there are no test samples, whose predictions could flip")
        known = _PredictionHistory(kept, samples.labels, torch.stack([_predictions(evidence, n) for n in kept]))
        remarks = [_gaps(kept)] if kept[-1] - kept[0] >= len(kept) else []
        charts = [_over_time(known), _forgotten_samples(known)]
        if len(evidence.classes) <= _BARS:
            charts.append(_by_class(known, evidence.classes))
        else:
            remarks.append(f"a chart has no room for {len(evidence.classes)} classes: details.classes has them")
        return Answer(
            numbers=_numbers(known),
            charts=charts,
            details={
                "samples": len(samples),
                "steps": [_step(known, at) for at in range(1, len(kept))],
                "classes": list(_classes(known, evidence.classes)),
                "forgotten": self._forgotten(known, evidence.classes),
                "never_learned": self._never_learned(known, evidence.classes),
            },
            remarks=remarks,
        )

    def compare(self, cells: Sequence[ComparedRun]) -> Answer:
        """What the seed alone changes: predictions of two runs of an arm at their last mega-batch, over all pairs."""
        arms: dict[str, list[ComparedRun]] = {}
        for cell in cells:
            arms.setdefault(", ".join(cell.arm.values()), []).append(cell)
        left_out = LeftOutRuns()
        between = {arm: found for arm, several in arms.items() if (found := list(_pairs(several, left_out)))}
        if not between:
            why = "".join(f" ({remark})" for remark in left_out.remarks[:1])
            raise InapplicableError(
                "no arm has two finished runs with the same test samples, whose predictions could be compared: "
                f"give it more seeds{why}"
            )
        own = {arm: [flips for cell in arms[arm] if (flips := _last_flips(cell)) is not None] for arm in between}
        names = list(between)
        seeds = [_spread([pair["changed"] for pair in between[arm]]) for arm in names]
        steps = [_spread(own[arm]) for arm in names]
        chart = Chart(
            name="seeds",
            caption="Predictions that differ between two seeds at the last mega-batch, and between the last two "
            "mega-batches of a run",
            x_label="arm",
            y_label="share of the test samples",
            series=[
                Series("two seeds", names, [mean for mean, _ in seeds], [spread for _, spread in seeds]),
                Series("two mega-batches", names, [mean for mean, _ in steps], [spread for _, spread in steps]),
            ],
            kind="bars",
            unit="fraction",
        )
        every = [pair["changed"] for pairs in between.values() for pair in pairs]
        return Answer(
            numbers={
                "between_seeds": Measure(
                    _spread(every)[0],
                    unit="fraction",
                    meaning="test samples that two seeds of one arm predict differently at the end",
                    bounds=(0, 1),
                )
            },
            charts=[chart],
            details={"between_seeds": between},
            remarks=[*left_out.remarks, *_left_out(arms, between)],
        )

    def _forgotten(self, known: _PredictionHistory, classes: Sequence[str]) -> dict[str, Any]:
        places = known.forgotten.nonzero().flatten()
        return {
            "count": len(places),
            "last_right_after": {str(n): int((known.last_right == n).sum()) for n in known.kept[:-1]},
            "samples": [
                {"position": at, "class": classes[int(known.labels[at])], "last_right_after": int(known.last_right[at])}
                for at in places[: self.listed].tolist()
            ],
        }

    def _never_learned(self, known: _PredictionHistory, classes: Sequence[str]) -> dict[str, Any]:
        places = known.never_learned.nonzero().flatten()
        return {
            "count": len(places),
            "samples": [
                {"position": at, "class": classes[int(known.labels[at])]} for at in places[: self.listed].tolist()
            ],
        }


@dataclass(frozen=True, eq=False)
class _PredictionHistory:
    """Predictions ``(mega-batches, samples)`` of the models that were kept, and the labels."""

    kept: tuple[int, ...]
    labels: Tensor
    predictions: Tensor

    @cached_property
    def right(self) -> Tensor:
        """bool, of the predictions' shape."""
        return self.predictions == self.labels

    @cached_property
    def flips(self) -> dict[str, Tensor]:
        """Which predictions did what, bool ``(mega-batches - 1, samples)``, by kind."""
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
        """Of a sample that is forgotten for good, the mega-batch after which it was last right; of others, -1."""
        ever = torch.where(self.right, torch.tensor(self.kept).unsqueeze(1), _NEVER).amax(0)
        return ever.where(~self.right[-1], _NEVER)

    @property
    def forgotten(self) -> Tensor:
        """Which samples are forgotten for good."""
        return self.last_right != _NEVER

    @property
    def never_learned(self) -> Tensor:
        """Which samples are wrong at every mega-batch."""
        return ~self.right.any(0)


def _kept_share(evidence: Evidence) -> tuple[int, ...]:
    """The mega-batches up to the one asked about, which is the last of them; two at least."""
    last = evidence.mega_batch
    if last is None:
        raise InapplicableError("predictions flip between the mega-batches of a run: ask the directory of one")
    kept = tuple(n for n in evidence.mega_batches if n <= last)
    if len(kept) < 2 or kept[-1] != last:
        known = ", ".join(map(str, kept))
        have = f"the model{'s' if len(kept) > 1 else ''} after {known} alone" if kept else "no model"
        raise InapplicableError(
            f"up to mega-batch {last} the run keeps {have}, and flips are between that of {last} and one before: "
            "let runs keep them all (--keep-models all, of an ablation --keep all)"
        )
    return kept


def _gaps(kept: Sequence[int]) -> str:
    return f"the models after mega-batches {', '.join(map(str, kept))} are known: a step between two may span several"


def _predictions(evidence: Evidence, mega_batch: int) -> Tensor:
    """int32 ``(samples,)``: one model at a time, of which nothing else is kept."""
    then = evidence if mega_batch == evidence.mega_batch else evidence.at(mega_batch)
    return predictions(then.outputs(then.samples("test"))).int()


def _numbers(known: _PredictionHistory) -> dict[str, Measure]:
    share = {kind: which.double().mean(1) for kind, which in known.flips.items()}
    return {
        "negative_flips": _less(share["negative_flips"][-1], "test samples from right to wrong at the last mega-batch"),
        "negative_flips_mean": _less(share["negative_flips"].mean(), "the same, the mean over the mega-batches"),
        "positive_flips": Measure(
            float(share["positive_flips"][-1]),
            unit="fraction",
            meaning="test samples from wrong to right at the last mega-batch",
            bounds=(0, 1),
        ),
        "changed": Measure(
            float(share["changed"][-1]),
            unit="fraction",
            meaning="test samples with another prediction after the last mega-batch than before",
            bounds=(0, 1),
        ),
        "forgotten": _less(
            known.forgotten.double().mean(), "test samples that were right once and are wrong at the end"
        ),
        "never_learned": _less(known.never_learned.double().mean(), "test samples that were never right"),
        "forgetting_events": Measure(
            float(known.flips["negative_flips"].double().sum(0).mean()),
            "lower",
            meaning="flips from right to wrong of a test sample, the mean over samples",
            bounds=(0, len(known.flips["negative_flips"])),
        ),
    }


def _less(share: Tensor, meaning: str) -> Measure:
    return Measure(float(share), "lower", "fraction", meaning=meaning, bounds=(0, 1))


def _step(known: _PredictionHistory, at: int) -> dict[str, Any]:
    """Counts between two mega-batches; ``by_chance``: the negative flips of two models that err independently."""
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
    """Counts by the samples' own class: flips of the last step, and what became of them over all."""
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
    return Chart(
        name="flips",
        caption="Predictions that flipped since the mega-batch before",
        x_label="mega-batch",
        y_label="share of the test samples",
        series=[
            Series(_KINDS[kind], known.kept[1:], which.double().mean(1).tolist())
            for kind, which in known.flips.items()
            if kind != "changed"  # the sum of the others
        ],
        unit="fraction",
    )


def _forgotten_samples(known: _PredictionHistory) -> Chart:
    shares = [float((known.last_right == n).double().mean()) for n in known.kept[:-1]]
    return Chart(
        name="forgotten",
        caption="Samples that are forgotten for good, by the mega-batch after which they were last right",
        x_label="last right after mega-batch",
        y_label="share of the test samples",
        series=[Series("forgotten for good", [str(n) for n in known.kept[:-1]], shares)],
        kind="bars",
        unit="fraction",
    )


def _by_class(known: _PredictionHistory, classes: Sequence[str]) -> Chart:
    rows = list(_classes(known, classes))
    return Chart(
        name="classes",
        caption="Predictions that flipped at the last mega-batch, by class",
        x_label="class",
        y_label="share of the samples of the class",
        series=[
            Series(
                _KINDS[kind],
                list(classes),
                [row[kind] / row["samples"] if row["samples"] else None for row in rows],
            )
            for kind in ("negative_flips", "positive_flips")
        ],
        kind="bars",
        unit="fraction",
    )


def _pairs(cells: Sequence[ComparedRun], left_out: LeftOutRuns) -> Iterator[dict[str, Any]]:
    """Shares of the test samples that two runs of an arm tell apart, for each two with the same ones."""
    known = []
    for cell in cells:
        with left_out.noting(cell):
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
    """What the run's own answer says of its last step."""
    value = cell.answer.numbers.get("changed") if cell.answer is not None else None
    return value.value if isinstance(value, Measure) else value


def _spread(values: Sequence[float]) -> tuple[float | None, float | None]:
    """Mean and standard deviation, the latter of two at least."""
    if not values:
        return None, None
    found = torch.tensor(values, dtype=torch.float64)
    return float(found.mean()), float(found.std()) if len(values) > 1 else None


def _left_out(arms: Mapping[str, object], between: Mapping[str, object]) -> list[str]:
    missing = [arm for arm in arms if arm not in between]
    return [f"left out, since only one seed of it can be compared: {', '.join(missing)}"] if missing else []
