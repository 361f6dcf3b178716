"""Overlap of masks."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Annotated

import numpy as np
from pydantic import Field

from forgetkit.builtin.analyses._answers import bars, fraction, lines
from forgetkit.builtin.analyses._cross_run import CrossRun, LeftOutRuns
from forgetkit.builtin.analyses._mask_overlap import Mask, MaskOverlap, Pair, Retained, Total, mean, spread
from forgetkit.contracts import Answer, Bounds, Chart, ComparedRun, Evidence, Series
from forgetkit.errors import InapplicableError
from forgetkit.unlearning import select

_MOST = 8
"""Series in a chart of layers; more cannot be distinguished."""

_MEANINGS: dict[str, tuple[str, Bounds]] = {
    "share": ("of the entries that one mask keeps, those that the next one keeps too", (0, 1)),
    "jaccard": ("entries that two consecutive masks keep, of those that either of them keeps", (0, 1)),
    "corrected": ("the share beyond chance: 0 for random masks, 1 if they share all that they can", (None, 1)),
}
_USE_CRITERION = "importance=snip compares masks made from each kept model instead"
_NO_CHOICE = f"its masks reset each parameter whole or not at all, and choose nothing within one; {_USE_CRITERION}"


@dataclass(frozen=True)
class Overlap:
    """Which entries the masks of consecutive mega-batches both retain, layer by layer.

    Formula: of the entries A that a mask retains, and those B that another does, share = |A ∧ B| / |A|,
    jaccard = |A ∧ B| / |A ∨ B|, corrected = (share − r) / (1 − r), r the part of the layer that the other retains:
    what share is for independent masks.

    importance: SPEC of a criterion whose lowest scores make a mask from each kept model; none: the recorded masks.
    fraction: with importance, the share of all scored entries that a mask selects.
    mega_batch: between runs, the mega-batch whose masks are compared; none: the last that all runs have.

    Cost: a pass over the masks; with importance, the criterion's for each kept model.

    Source: section 6.4, figures 4, 9 and 10 of Ramkumar et al., 2023, which give no formula: share is what the
    text says. The corrected value is Cohen's (1960) correction for chance, applied to it.
    """

    importance: str | None = None
    fraction: Annotated[float, Field(gt=0, lt=1)] = 0.2
    mega_batch: Annotated[int, Field(ge=1)] | None = None

    def analyze(self, evidence: Evidence) -> Answer:
        """Compare each mask of a run with the next one."""
        known = self._known(evidence)
        if len(known.after) == 1:
            raise InapplicableError(
                f"the run has a single mask, after mega-batch {known.after[0]}, and none to compare it with: "
                f"{self._more()}"
            )
        pairs: dict[tuple[int, int], Pair] = {}
        lone: set[str] = set()
        later = known.of(known.after[0])
        for places in pairwise(known.after):
            earlier, later = later, known.of(places[1])
            pairs[places] = dict(_layers(earlier, later))
            lone.update(earlier.keys() ^ later.keys())
        every = [shared for pair in pairs.values() for shared in pair.values()]
        if not any(shared.chosen for shared in every):
            raise InapplicableError(_NO_CHOICE)
        remarks = [*_gaps(known.after), *_lone_remark(lone), *_all_or_nothing_remark(every)]
        drawn = {f"{earlier} and {later}": [pairs[earlier, later]] for earlier, later in _some(list(pairs), remarks)}
        charts = [*_by_layer(drawn, "consecutive masks of a run"), _course(pairs)]
        totals = {places: Total(pair).summary for places, pair in pairs.items()}
        numbers = {
            key: fraction(mean([total[key] for total in totals.values()]), meaning, bounds=bounds)
            for key, (meaning, bounds) in _MEANINGS.items()
        }
        details = [
            {
                "earlier": earlier,
                "later": later,
                **totals[earlier, later],
                "layers": {name: shared.details for name, shared in pair.items()},
            }
            for (earlier, later), pair in pairs.items()
        ]
        return Answer(numbers, charts, {"importance": self.importance, "pairs": details}, remarks)

    def compare(self, cells: Sequence[ComparedRun]) -> Answer:
        """Compare runs: arms at one seed, and the seeds of an arm."""
        left_out = LeftOutRuns()
        after, runs = self._runs(cells, left_out)
        across = CrossRun.of(runs)
        if not across.pairs:
            raise InapplicableError(
                "no two runs with masks have the same seed, or the same arm: give each arm the same seeds"
            )
        layers = [shared for pair in across.pairs.values() for shared in pair.values()]
        remarks = [*left_out.remarks, *_all_or_nothing_remark(layers)]
        groups = across.grouped
        if len(groups) > _MOST:
            remarks.append(f"of {len(groups)} pairs of arms, {_MOST} are drawn by layer; the heat map holds all")
        charts = [across.heat(after), *_by_layer(dict(list(groups.items())[:_MOST]), "masks of different runs")]
        meaning = "overlap beyond chance of the masks of two"
        numbers = {
            "between_arms": fraction(mean(across.corrected(False)), f"{meaning} arms at one seed", bounds=(None, 1)),
            "between_seeds": fraction(mean(across.corrected(True)), f"{meaning} seeds of one arm", bounds=(None, 1)),
        }
        details = {"importance": self.importance, "mega_batch": after, "pairs": across.details}
        return Answer(numbers, charts, details, remarks)

    def _known(self, evidence: Evidence, *run: str | int) -> ParameterMasks:
        """The masks of a run up to the mega-batch asked about, at least one.

        ``run`` identifies the run among others that it is compared with.
        """
        if self.importance is None:
            masks = evidence.masks()
            after = _until(evidence.mega_batch, masks)
            if not after:
                up_to = f" up to mega-batch {evidence.mega_batch}" if masks else ""
                raise InapplicableError(f"the run forgot nothing{up_to}, so it has no masks; {_USE_CRITERION}")
            return ParameterMasks(after, masks.__getitem__)
        if not evidence.mega_batches:
            raise InapplicableError("masks need the models of several mega-batches: analyse the directory of a run")
        after = _until(evidence.mega_batch, evidence.mega_batches)
        if not after:
            raise InapplicableError(f"up to mega-batch {evidence.mega_batch} no model is kept: {self._more()}")
        return ParameterMasks(after, lambda at: self._scored(evidence, at, *run))

    def _scored(self, evidence: Evidence, after: int, *run: str | int) -> Mask:
        """The mask that a criterion makes from the model that was kept after a mega-batch."""
        scores = evidence.at(after).scores(str(self.importance))
        # Tied entries (those of dead units) need a draw of their own in each mask: the same draw would be an overlap.
        return select(scores, self.fraction, evidence.seeds.within("ties", after, *run)).masks

    def _runs(self, cells: Sequence[ComparedRun], left_out: LeftOutRuns) -> tuple[int, list[tuple[ComparedRun, Mask]]]:
        """The mega-batch to compare at, and the runs that have a mask after it, of the same parameters."""
        known = []
        for cell in cells:
            with left_out.catching(cell):
                run: tuple[str | int, ...] = (*map("=".join, cell.arm.items()), cell.seed)
                known.append((cell, self._known(cell.evidence, *run)))
        left_out.require(known)
        after = self.mega_batch or max(set.intersection(*(set(masks.after) for _, masks in known)), default=None)
        if after is None:
            raise InapplicableError("there is no mega-batch after which all runs have a mask: pass mega-batch=N")
        runs = []
        for cell, masks in known:
            with left_out.catching(cell):
                if after not in masks.after:
                    raise InapplicableError(f"it has no mask after mega-batch {after}")
                mask = masks.of(after)
                if not any(0 < Retained.of(entries).count < entries.numel() for entries in mask.values()):
                    raise InapplicableError(_NO_CHOICE)
                runs.append((cell, mask))
        alike = _comparable_runs(runs, left_out)
        left_out.require(alike)
        return after, alike

    def _more(self) -> str:
        if self.importance is None:
            return f"there are two after the second of three mega-batches or more; {_USE_CRITERION}"
        return "keep the model of each mega-batch (--keep-models all)"


@dataclass(frozen=True)
class ParameterMasks:
    """The mega-batches of a run after which there are masks, ascending, and the mask after each."""

    after: tuple[int, ...]
    of: Callable[[int], Mask]


def _until(last: int | None, places: Iterable[int]) -> tuple[int, ...]:
    """The mega-batches up to ``last``, ascending."""
    return tuple(sorted(place for place in places if last is None or place <= last))


def _gaps(after: Sequence[int]) -> list[str]:
    """A remark if compared masks are not those of consecutive mega-batches."""
    if all(later - earlier == 1 for earlier, later in pairwise(after)):
        return []
    return [f"the masks after mega-batches {', '.join(map(str, after))} are known: a step between two may span several"]


def _layers(earlier: Mask, later: Mask) -> Iterator[tuple[str, MaskOverlap]]:
    """What two masks share of each parameter that both hold, one at a time."""
    for name in earlier:
        if name in later:
            first, second = earlier[name], later[name]
            if first.shape != second.shape:
                raise InapplicableError(
                    f"two masks of the run have '{name}' in shapes {tuple(first.shape)} and {tuple(second.shape)}: "
                    "the network changed between them; compare runs of one network"
                )
            yield name, Retained.of(first).shared_with(Retained.of(second))


def _comparable_runs(runs: Sequence[tuple[ComparedRun, Mask]], left_out: LeftOutRuns) -> list[tuple[ComparedRun, Mask]]:
    """The runs whose masks have the most common names and shapes."""
    shapes = [tuple((name, tuple(value.shape)) for name, value in mask.items()) for _, mask in runs]
    usual = Counter(shapes).most_common(1)[0][0] if shapes else ()
    for (cell, _), shape in zip(runs, shapes, strict=True):
        if shape != usual:
            left_out.add(cell, "its masks are of other parameters than those of most runs")
    return [run for run, shape in zip(runs, shapes, strict=True) if shape == usual]


def _some(pairs: list[tuple[int, int]], remarks: list[str]) -> list[tuple[int, int]]:
    """Of many pairs, the first, the last and some between."""
    if len(pairs) <= _MOST:
        return pairs
    remarks.append(f"of {len(pairs)} pairs of masks, {_MOST} are drawn by layer; the details hold all")
    return [pairs[place] for place in np.linspace(0, len(pairs) - 1, _MOST).round().astype(int)]


def _by_layer(groups: Mapping[str, Sequence[Pair]], of: str) -> list[Chart]:
    """Charts with a series for each group: the mean of its pairs by layer."""
    layers = list(dict.fromkeys(layer for pairs in groups.values() for pair in pairs for layer in pair))

    def chart(key: str, caption: str, label: str) -> Chart:
        series = []
        for name, pairs in groups.items():
            values = [[getattr(pair[layer], key) for pair in pairs if layer in pair] for layer in layers]
            deviation: list[float | None] | None = None
            if len(pairs) > 1:
                deviation = [spread(at) for at in values]
            elif key == "corrected":
                deviation = [pairs[0][layer].deviation if layer in pairs[0] else None for layer in layers]
            series.append(Series(name, layers, [mean(at) for at in values], deviation))
        return bars(key, f"Of {of}: {caption}", "layer", label, *series)

    return [
        chart("share", "of what one retains of a layer, what the other retains too.", "shared"),
        chart(
            "corrected",
            "the same beyond chance: 0 is what random masks share, 100 is all. The deviation is over several pairs of "
            "masks, or of random masks if there is one pair.",
            "shared beyond chance",
        ),
    ]


def _course(pairs: Mapping[tuple[int, int], Pair]) -> Chart:
    """Overlap over all layers by mega-batch."""
    later = [second for _, second in pairs]
    totals = [Total(pair).summary for pair in pairs.values()]
    series = [Series(key, later, [total[key] for total in totals]) for key in _MEANINGS]
    caption = "What each mask shares with the one before it, over all layers."
    return lines("course", caption, "mega-batch", "shared", *series)


def _lone_remark(names: Iterable[str]) -> list[str]:
    found = sorted(names)
    if not found:
        return []
    more = f" and {len(found) - 3} more" if len(found) > 3 else ""
    return [f"left out, since only one of two consecutive masks has them: {', '.join(found[:3])}{more}"]


def _all_or_nothing_remark(layers: Iterable[MaskOverlap]) -> list[str]:
    found = Counter(shared.chosen for shared in layers)
    if not found[False]:
        return []
    return [
        f"in {found[False]} of {found.total()} comparisons of a layer a mask retains all or nothing of it: "
        "share and jaccard count it, the corrected value cannot"
    ]
