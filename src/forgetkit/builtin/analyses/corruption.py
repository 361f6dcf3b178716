"""Accuracy on corrupted images."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import fmean
from typing import TYPE_CHECKING, Annotated, Any, ClassVar

from pydantic import BeforeValidator, Field

from forgetkit.builtin.analyses._answers import bars, fraction
from forgetkit.builtin.analyses._listed import split_list
from forgetkit.contracts import Answer, Evidence, LabelledSamples, Series
from forgetkit.errors import OptionError, suggest

if TYPE_CHECKING:
    from torch import nn

    from forgetkit.builtin.analyses.corruptions.samples import Source

BENCHMARK = (
    *("gaussian_noise", "shot_noise", "impulse_noise"),
    *("defocus_blur", "glass_blur", "motion_blur", "zoom_blur"),
    *("snow", "frost", "fog", "brightness"),
    *("contrast", "elastic_transform", "pixelate", "jpeg_compression"),
)
"""The 15 corruptions that the benchmark counts."""

CORRUPTIONS = (*BENCHMARK, "speckle_noise", "gaussian_blur", "spatter", "saturate")
"""All 19, as the paper counts them: the benchmark has four more for validation."""

SEVERITIES = (1, 2, 3, 4, 5)


@dataclass(frozen=True)
class Corruption:
    """Accuracy on corrupted images, at five severities of each corruption (CIFAR-10-C).

    Formula: mca = the plain mean, over the corruptions c and the severities s, of the accuracy at (c, s): not divided
    by that of another network, as in the benchmark's own paper. mca_15 is the mean over the 15 corruptions that the
    benchmark counts, clean the accuracy on the same samples as they were, relative = mca / clean.

    samples: test samples at most, or none for all; the same at each corruption and severity.
    path: the folder of the benchmark's arrays (CIFAR-10-C or CIFAR-100-C); none makes corrupted images of the test
        samples, at the severities of the program that made those arrays.
    corruptions: which, as a list or joined by + (fog+snow); none is all 19.
    severities: which of 1 to 5, as a list or joined by +.
    frost: a folder of photographs of frost to lay over images, the first five by name; none paints it.

    Cost: one pass over the samples for each corruption and severity, and as much again to make the images.

    Source: section 6.1 and figure 2 of Ramkumar et al., 2023; the corruptions are those of Hendrycks and Dietterich,
    2019, with the parameters of make_cifar_c.py, which made CIFAR-10-C.
    """

    samples: Annotated[int, Field(ge=1)] | None = 1000
    path: Path | None = None
    corruptions: Annotated[tuple[str, ...] | None, BeforeValidator(split_list), "names joined by +, or none (all)"] = (
        None
    )
    severities: Annotated[tuple[int, ...], BeforeValidator(split_list), "of 1 to 5, joined by +"] = SEVERITIES
    frost: Path | None = None

    test_options: ClassVar[Mapping[str, Any]] = {"severities": (1, 4)}

    def __post_init__(self) -> None:
        for name in self.corruptions or ():
            if name not in CORRUPTIONS:
                raise OptionError(f"corruption: there is no corruption '{name}'; {suggest(name, CORRUPTIONS)}")
        if not set(self.severities) <= set(SEVERITIES):
            raise OptionError(f"corruption: option severities={list(self.severities)}: they are numbers from 1 to 5")
        for option, chosen in (("corruptions", self.chosen), ("severities", self.severities)):
            if not chosen or len(set(chosen)) < len(chosen):
                raise OptionError(f"corruption: option {option} names none, or one twice: name each once")

    @property
    def chosen(self) -> tuple[str, ...]:
        """The names of the corruptions to use."""
        return CORRUPTIONS if self.corruptions is None else self.corruptions

    def analyze(self, evidence: Evidence) -> Answer:
        """Measure the mean accuracies; draw a bar for each corruption."""
        source = self._source(evidence)
        accuracies = _accuracies(evidence, source, None, self.chosen, self.severities)
        means = {name: fmean(values) for name, values in accuracies.items()}
        clean = evidence.accuracy(evidence.samples("test", self.samples))
        mean = fmean(means.values())
        numbers = {"mca": fraction(mean, f"mean accuracy over {len(means)} corruptions at each severity", "higher")}
        if set(BENCHMARK) <= set(means):
            mean_15 = fmean(means[name] for name in BENCHMARK)
            numbers["mca_15"] = fraction(mean_15, "the same over the 15 corruptions of the benchmark", "higher")
        numbers["clean"] = fraction(clean, "accuracy on the same samples, not corrupted", "higher")
        numbers["relative"] = fraction(mean / clean if clean else None, "mca / clean", "higher", (0, None))
        chart = bars(
            "accuracy",
            "Accuracy on corrupted images, the mean over the severities.",
            "corruption",
            "accuracy",
            Series("accuracy", [*means, "mean"], [*means.values(), mean]),
        )
        details = {
            "severities": list(self.severities),
            "accuracy": accuracies,
            "mean": means,
            "samples": len(source.samples(self.chosen[0], self.severities[0])),
            "arrays": None if self.path is None else str(self.path),
        }
        return Answer(numbers, [chart], details, list(self._remarks(evidence)))

    def _source(self, evidence: Evidence) -> Source:
        from forgetkit.builtin.analyses.corruptions.files import Arrays
        from forgetkit.builtin.analyses.corruptions.samples import GeneratedCorruptions, StoredCorruptions

        if self.path is None:
            return GeneratedCorruptions.of(evidence, self.samples, self.frost)
        return StoredCorruptions.of(evidence, self.samples, Arrays.of(self.path, self.chosen))

    def _remarks(self, evidence: Evidence) -> Iterator[str]:
        if len(self.chosen) < len(CORRUPTIONS) or len(self.severities) < len(SEVERITIES):
            yield (
                f"the means are over {len(self.chosen)} of {len(CORRUPTIONS)} corruptions and {len(self.severities)} "
                f"of {len(SEVERITIES)} severities"
            )
        if self.path is not None:
            yield "clean accuracy is on test samples of the data set, corrupted accuracy on those of the arrays"
            return
        yield "the corrupted images were generated from the test samples, as the benchmark's program does it"
        if "frost" in self.chosen and self.frost is None:
            yield "frost was painted, like the benchmark's photographs in colour and grain; frost=FOLDER takes yours"
        channels, *sides = next(iter(evidence.samples("test", 1).batches(1)))[0].shape[1:]
        if channels == 1:
            yield "grey images were corrupted as colours and made grey again"
        if tuple(sides) != (32, 32):
            yield f"the images are {sides[0]} × {sides[1]}; the severities are those for 32 × 32 pixels"


def corrupt_samples(
    evidence: Evidence,
    *,
    samples: int | None = 1000,
    corruptions: Sequence[str] = BENCHMARK,
    severities: Sequence[int] = SEVERITIES,
) -> Iterator[tuple[str, int, LabelledSamples]]:
    """Yield the name of a corruption, a severity, and test samples corrupted so: the same samples each time.

    Raises:
        InapplicableError: If the samples are no images.
    """
    from forgetkit.builtin.analyses.corruptions.samples import GeneratedCorruptions

    source = GeneratedCorruptions.of(evidence, samples)
    for name in corruptions:
        for severity in severities:
            yield name, severity, source.samples(name, severity)


def accuracies_under_corruption(
    evidence: Evidence,
    model: nn.Module | None = None,
    *,
    samples: int | None = 1000,
    corruptions: Iterable[str] = BENCHMARK,
    severities: Sequence[int] = SEVERITIES,
) -> Mapping[str, list[float]]:
    """The accuracy at each severity by corruption, on generated images: of ``model``, or of the evidence's own.

    Raises:
        InapplicableError: If the samples are no images.
    """
    from forgetkit.builtin.analyses.corruptions.samples import GeneratedCorruptions

    return _accuracies(evidence, GeneratedCorruptions.of(evidence, samples), model, corruptions, severities)


def _accuracies(
    evidence: Evidence,
    source: Source,
    model: nn.Module | None,
    corruptions: Iterable[str],
    severities: Sequence[int],
) -> dict[str, list[float]]:
    return {
        name: [evidence.accuracy(source.samples(name, severity), model) for severity in severities]
        for name in corruptions
    }
