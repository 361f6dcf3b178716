"""Overlap of what masks retain."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Annotated, Any

import numpy as np
from pydantic import Field

from forgetkit.builtin.analyses._cross_run import CrossRun, LeftOutRuns
from forgetkit.builtin.analyses._mask_overlap import Mask, MaskOverlap, Pair, Retained, Total, mean, spread
from forgetkit.contracts import Answer, Bounds, Chart, ComparedRun, Evidence, Measure, Series
from forgetkit.errors import InapplicableError
from forgetkit.unlearning import select

_MOST = 8
_MEANINGS = {
    "share": "of the entries that one mask keeps, those that the next one keeps too",
    "jaccard": "entries that two consecutive masks keep, of those that either of them keeps",
    "corrected": "the share beyond chance: 0 for random masks, 1 where they share all that they can",
}
_BOUNDS: dict[str, Bounds] = {"share": (0, 1), "jaccard": (0, 1), "corrected": (None, 1)}
"""Series in a chart of layers; more are no longer told apart."""

_ASK = "importance=snip asks about each kept model instead"

_NO_CHOICE = f"its masks reset each parameter whole or not at all, and choose nothing within one; {_ASK}"


@dataclass(frozen=True)
class Overlap:
    """Which entries the masks of consecutive mega-batches both retain, layer by layer.

    Formula: of the entries A that a mask retains, and those B that another does, share = |A ∧ B| / |A|,
    jaccard = |A ∧ B| / |A ∨ B|, corrected = (share − r) / (1 − r), r the part of the layer that the other retains:
    what share would be if the two had nothing to do with each other.

    importance: a criterion's SPEC whose lowest scores make the masks, one after each kept model; none: those recorded.
    fraction: with importance, the share of all scored entries that a mask selects.
    mega_batch: across runs, the mega-batch whose masks are compared; none: the last that all have.

    Cost: a pass over the masks; with importance, the criterion's for each kept model.

    Source: section 6.4, figures 4, 9 and 10 of Ramkumar et al., 2023, whose formula is not given: share is what the
    text says. The corrected value is Cohen's (1960) correction for chance, applied to it.
    """

    importance: str | None = None
    fraction: Annotated[float, Field(gt=0, lt=1)] = 0.2
    mega_batch: Annotated[int, Field(ge=1)] | None = None

    def analyze(self, evidence: Evidence) -> Answer:
        """Along one run: each mask and the next."""
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
        remarks = [*_gaps(known.after), *_apart(lone), *_without_chance(every)]
        drawn = {f"{earlier} and {later}": [pairs[earlier, later]] for earlier, later in _some(list(pairs), remarks)}
        charts = [*_by_layer(drawn, "consecutive masks of a run"), _course(pairs)]
        means = {
            key: mean([getattr(Total(pair), key) for pair in pairs.values()])
            for key in ("share", "jaccard", "corrected")
        }
        details = [
            {"earlier": earlier, "later": later, **Total(pair).summary, "layers": _details(pair)}
            for (earlier, later), pair in pairs.items()
        ]
        return Answer(
            numbers={
                key: Measure(value, unit="fraction", meaning=_MEANINGS[key], bounds=_BOUNDS[key])
                for key, value in means.items()
            },
            charts=charts,
            details={"importance": self.importance, "pairs": details},
            remarks=remarks,
        )

    def compare(self, cells: Sequence[ComparedRun]) -> Answer:
        """Across runs: between arms at one seed, and between the seeds of an arm."""
        left_out = LeftOutRuns()
        after, runs = self._runs(cells, left_out)
        across = CrossRun.of(runs)
        if not across.pairs:
            raise InapplicableError(
                "no two runs with masks are of one seed, or of one arm: give each arm the same seeds"
            )
        remarks = [*left_out.remarks, *_without_chance(s for pair in across.pairs.values() for s in pair.values())]
        groups = across.grouped
        if len(groups) > _MOST:
            remarks.append(f"of {len(groups)} pairs of arms, {_MOST} are drawn by layer; the heat map holds all")
        charts = [across.heat(after), *_by_layer(dict(list(groups.items())[:_MOST]), "masks of different runs")]
        return Answer(
            numbers={
                "between_arms": _chance_corrected(
                    mean(across.corrected(same_arm=False)), "overlap beyond chance of the masks of two arms at one seed"
                ),
                "between_seeds": _chance_corrected(
                    mean(across.corrected(same_arm=True)), "overlap beyond chance of the masks of two seeds of one arm"
                ),
            },
            charts=charts,
            details={"importance": self.importance, "mega_batch": after, "pairs": across.details},
            remarks=remarks,
        )

    def _known(self, evidence: Evidence, *run: str | int) -> ParameterMasks:
        """The masks of a run up to the mega-batch asked about, of which there is one at least.

        ``run``: what tells it from others that it is compared with.
        """
        if self.importance is None:
            masks = evidence.masks()
            after = _until(evidence.mega_batch, masks)
            if not after:
                up_to = f" up to mega-batch {evidence.mega_batch}" if masks else ""
                raise InapplicableError(f"nothing was forgotten in the run{up_to}, so it has no masks; {_ASK}")
            return ParameterMasks(after, masks.__getitem__)
        if not evidence.mega_batches:
            raise InapplicableError("masks are made of the models of several mega-batches: ask the directory of a run")
        after = _until(evidence.mega_batch, evidence.mega_batches)
        if not after:
            raise InapplicableError(f"up to mega-batch {evidence.mega_batch} no model is kept: {self._more()}")
        return ParameterMasks(after, lambda at: self._scored(evidence, at, *run))

    def _scored(self, evidence: Evidence, after: int, *run: str | int) -> Mask:
        """The mask that a criterion would have made of the model kept after a mega-batch."""
        scores = evidence.at(after).scores(str(self.importance))
        # Entries that tie (those of dead units) are drawn anew for each: the same draw would be an overlap.
        return select(scores, self.fraction, evidence.seeds.within("ties", after, *run)).masks

    def _runs(self, cells: Sequence[ComparedRun], left_out: LeftOutRuns) -> tuple[int, list[tuple[ComparedRun, Mask]]]:
        """The mega-batch to compare at, and the runs that have a mask after it, of the same parameters."""
        known = []
        for cell in cells:
            with left_out.noting(cell):
                run: tuple[str | int, ...] = (*map("=".join, cell.arm.items()), cell.seed)
                known.append((cell, self._known(cell.evidence, *run)))
        left_out.require(known)
        after = self.mega_batch or max(set.intersection(*(set(masks.after) for _, masks in known)), default=None)
        if after is None:
            raise InapplicableError("the runs have no mega-batch in common after which all of them have a mask")
        runs = []
        for cell, masks in known:
            with left_out.noting(cell):
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
            return f"there are two after the second of three mega-batches or more; {_ASK}"
        return "keep the model of each mega-batch (--keep-models all)"


@dataclass(frozen=True)
class ParameterMasks:
    """The mega-batches of a run after which there are masks, ascending, and the mask after each."""

    after: tuple[int, ...]
    of: Callable[[int], Mask]


def _until(last: int | None, places: Iterable[int]) -> tuple[int, ...]:
    """Of mega-batches those up to the one asked about, ascending."""
    return tuple(sorted(place for place in places if last is None or place <= last))


def _gaps(after: Sequence[int]) -> list[str]:
    """A line where masks that are compared are not those of consecutive mega-batches."""
    if all(later - earlier == 1 for earlier, later in pairwise(after)):
        return []
    return [f"the masks after mega-batches {', '.join(map(str, after))} are known: a step between two may span several"]


def _layers(earlier: Mask, later: Mask) -> Iterator[tuple[str, MaskOverlap]]:
    """What two masks share of each parameter that is in both, one at a time."""
    for name in earlier:
        if name in later:
            first, second = earlier[name], later[name]
            if first.shape != second.shape:
                raise InapplicableError(
                    f"two masks of the run have '{name}' in shapes {tuple(first.shape)} and {tuple(second.shape)}: "
                    "the network has changed between them"
                )
            yield name, Retained.of(first).shared_with(Retained.of(second))


def _comparable_runs(runs: Sequence[tuple[ComparedRun, Mask]], left_out: LeftOutRuns) -> list[tuple[ComparedRun, Mask]]:
    """The runs whose masks have the names and shapes that most have."""
    shapes = [tuple((name, tuple(value.shape)) for name, value in mask.items()) for _, mask in runs]
    usual = Counter(shapes).most_common(1)[0][0] if shapes else ()
    for (cell, _), shape in zip(runs, shapes, strict=True):
        if shape != usual:
            left_out.add(cell, "its masks are of other parameters than those of most")
    return [run for run, shape in zip(runs, shapes, strict=True) if shape == usual]


def _some(pairs: list[tuple[int, int]], remarks: list[str]) -> list[tuple[int, int]]:
    """Of many pairs the first and the last, and some between."""
    if len(pairs) <= _MOST:
        return pairs
    remarks.append(f"of {len(pairs)} pairs of masks, {_MOST} are drawn by layer; the details hold all")
    return [pairs[place] for place in np.linspace(0, len(pairs) - 1, _MOST).round().astype(int)]


def _by_layer(groups: Mapping[str, Sequence[Pair]], of: str) -> list[Chart]:
    """A line for each group, the mean of its pairs by layer."""
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
        return Chart(key, caption, "layer", label, series, kind="bars", unit="fraction")

    return [
        chart("share", f"Of {of}: of what one retains of a layer, what the other retains too.", "shared"),
        chart(
            "corrected",
            f"Of {of}: the same beyond chance, where 0 is what random masks share and 100 is all. Either way the "
            "deviation: over several pairs of masks, or of random masks where there is one.",
            "shared beyond chance",
        ),
    ]


def _course(pairs: Mapping[tuple[int, int], Pair]) -> Chart:
    """The whole network, as the run goes on."""
    later = [second for _, second in pairs]
    totals = [Total(pair) for pair in pairs.values()]
    series = [
        Series(key, later, [getattr(total, key) for total in totals]) for key in ("share", "jaccard", "corrected")
    ]
    caption = "What each mask shares with the one before it, over all layers."
    return Chart("course", caption, "mega-batch", "shared", series, unit="fraction")


def _details(pair: Pair) -> dict[str, dict[str, Any]]:
    return {
        name: {
            "entries": shared.entries,
            "retained": [shared.first, shared.second],
            "both": shared.both,
            "share": shared.share,
            "jaccard": shared.jaccard,
            "chance": shared.chance,
            "corrected": shared.corrected,
            "deviation": shared.deviation,
        }
        for name, shared in pair.items()
    }


def _apart(names: Iterable[str]) -> list[str]:
    """A line about the parameters that cannot be compared."""
    found = sorted(names)
    if not found:
        return []
    more = f" and {len(found) - 3} more" if len(found) > 3 else ""
    return [f"left out, for they are in one of two consecutive masks alone: {', '.join(found[:3])}{more}"]


def _without_chance(layers: Iterable[MaskOverlap]) -> list[str]:
    """A line about the layers that nothing is chosen in."""
    found = Counter(shared.chosen for shared in layers)
    if not found[False]:
        return []
    return [
        f"in {found[False]} of {found.total()} comparisons of a layer a mask retains all or nothing of it: "
        "share and jaccard count it, the corrected value cannot"
    ]


def _chance_corrected(value: float | None, meaning: str) -> Measure:
    return Measure(value, unit="fraction", meaning=meaning, bounds=_BOUNDS["corrected"])
