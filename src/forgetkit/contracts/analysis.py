"""What an analysis implements, the evidence that it gets, and its answer."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Literal, Protocol, runtime_checkable

if TYPE_CHECKING:
    import torch
    from torch import Tensor, nn

    from forgetkit.contracts.literals import Scope
    from forgetkit.seeding import Seeds

DataPart = Literal["test", "train", "val"]
"""A part of the data. ``train`` and ``val`` belong to a mega-batch and include its replay buffer."""

Unit = Literal["fraction", "count", "seconds", "bytes", "number"]
"""The unit of a number; displays show a ``fraction`` in per cent."""

Better = Literal["higher", "lower"]
"""The direction in which a number is better."""

Bounds = tuple[float | None, float | None]
"""The lowest and the highest possible value; None for no limit."""


class LabelledSamples(Protocol):
    """Samples and labels in a fixed order."""

    @property
    def labels(self) -> Tensor:
        """The labels, int64 ``(n,)``, on the CPU."""
        ...

    def __len__(self) -> int: ...

    def batches(self, size: int = 256) -> Iterator[tuple[Tensor, Tensor]]:
        """Iterate over the samples in order.

        Args:
            size: Samples per batch at most.

        Yields:
            Inputs and labels on the model's device; images are float32 pixels in [0, 1]. Do not write to them.
        """
        ...


class Evidence(Protocol):
    """A trained model and samples; for a run also the models of other mega-batches, masks and the result.

    What is missing raises ``forgetkit.errors.InapplicableError`` with the reason; an analysis may let it pass.
    Everything runs in float32. Leave ``model`` as it is, and change a :meth:`copy_model`.
    """

    @property
    def model(self) -> nn.Module:
        """The model in eval mode: from inputs to logits ``(n, classes)``, normalisation included."""
        ...

    @property
    def device(self) -> torch.device:
        """The device of the model."""
        ...

    @property
    def classes(self) -> tuple[str, ...]:
        """The names of the classes."""
        ...

    @property
    def images(self) -> bool:
        """Whether samples are images, ``(n, channels, height, width)`` with pixels in [0, 1]."""
        ...

    @property
    def seeds(self) -> Seeds:
        """Named random streams: ``evidence.seeds.torch("noise", 3)`` is a CPU generator, equal for all runs."""
        ...

    def samples(self, part: DataPart = "test", count: int | None = None) -> LabelledSamples:
        """Get samples.

        Args:
            part: The part of the data.
            count: Samples at most, drawn by the seed; None for all. Of the test part, a run draws the same at each
                mega-batch.

        Returns:
            The samples.

        Raises:
            InapplicableError: This part is missing.
        """
        ...

    def outputs(self, samples: LabelledSamples | Iterable[Tensor], model: nn.Module | None = None) -> Tensor:
        """Compute logits in eval mode without gradients; buffers stay as they are.

        Args:
            samples: Samples, or batches of inputs.
            model: The model to run; None for :attr:`model`.

        Returns:
            float32 ``(n, classes)``, on the CPU.
        """
        ...

    def accuracy(self, samples: LabelledSamples, model: nn.Module | None = None) -> float:
        """Compute the share of correct predictions.

        Args:
            samples: The samples.
            model: The model to run; None for :attr:`model`.

        Returns:
            A fraction in [0, 1].

        Raises:
            InapplicableError: There are no samples, or the outputs are NaN.
        """
        ...

    def copy_model(self) -> nn.Module:
        """Copy the model, to change the copy.

        Returns:
            A copy in eval mode, on the same device.

        Raises:
            InapplicableError: The model cannot be copied.
        """
        ...

    def scores(self, importance: str, params: Scope = "all") -> Mapping[str, Tensor]:
        """Score parameters on training samples.

        Args:
            importance: The SPEC of a criterion.
            params: Which parameters.

        Returns:
            By name, a float32 tensor of the parameter's shape; higher = keep.
        """
        ...

    def masks(self) -> Mapping[int, Mapping[str, Tensor]]:
        """Get what each reset of the run wrote to.

        Returns:
            By the mega-batch that it followed and by parameter, a bool tensor on the CPU, True = the entry got a new
            value; without parameters that it proposed no change for. Each access makes new tensors.

        Raises:
            InapplicableError: The model belongs to no run.
        """
        ...

    @property
    def mega_batch(self) -> int | None:
        """The mega-batch (from 1) after which the model was saved; None without a run."""
        ...

    @property
    def mega_batches(self) -> tuple[int, ...]:
        """The mega-batches with saved models, ascending; empty without a run."""
        ...

    def at(self, mega_batch: int) -> Evidence:
        """Get the same run after another mega-batch.

        Args:
            mega_batch: One of :attr:`mega_batches`.

        Returns:
            Its evidence.

        Raises:
            InapplicableError: The model belongs to no run.
        """
        ...

    def initial(self) -> nn.Module:
        """Get the model with its initial weights.

        Returns:
            A model in eval mode.

        Raises:
            InapplicableError: The initial weights are unknown.
        """
        ...

    def history(self) -> Sequence[Mapping[str, Any]]:
        """Get the course of training up to the end of this mega-batch.

        Returns:
            The fields of :class:`EpochEnded` for each epoch, in order.

        Raises:
            InapplicableError: The model belongs to no run.
        """
        ...

    @property
    def result(self) -> Mapping[str, Any]:
        """The content of ``result.json``, with the options under ``config``; empty without a run."""
        ...


@dataclass(frozen=True)
class Measure:
    """A number of an answer.

    Attributes:
        value: The number; None if it is undefined.
        better: The better direction; None for a number that no test compares.
        unit: The unit.
        title: The heading of its column; empty for one made from its key.
        meaning: One line for the legend below a table.
        bounds: The lowest and the highest possible value.
    """

    value: float | None
    better: Better | None = None
    unit: Unit = "number"
    title: str = ""
    meaning: str = ""
    bounds: Bounds = (None, None)


@dataclass(frozen=True)
class Series:
    """A line, a group of bars or a row of a heat map.

    Attributes:
        name: The name in the legend.
        x: Numbers, or words for categories.
        y: Values, one for each ``x``; None leaves a gap.
        spread: A deviation to either side of each value.
    """

    name: str
    x: Sequence[float] | Sequence[str]
    y: Sequence[float | None]
    spread: Sequence[float | None] | None = None


@dataclass(frozen=True)
class Chart:
    """A chart as numbers; displays draw it, together with those of other runs.

    Attributes:
        name: A word, unique in the answer.
        caption: A sentence.
        x_label: The label of the x axis.
        y_label: The label of the y axis.
        series: The data.
        kind: ``lines``, ``bars``, or ``heat`` with a row for each series and a column for each ``x``.
        unit: The unit of ``y``.
        logarithmic: Whether the x axis is logarithmic.
        diagonal: Whether to draw y = x, for a chart of two fractions.
    """

    name: str
    caption: str
    x_label: str
    y_label: str
    series: Sequence[Series]
    kind: Literal["lines", "bars", "heat"] = "lines"
    unit: Unit = "number"
    logarithmic: bool = False
    diagonal: bool = False


@dataclass(frozen=True)
class Answer:
    """The result of an analysis.

    Attributes:
        numbers: By key; each is a column ``NAME_key`` of tables. A plain number is a :class:`Measure` without a
            better direction.
        charts: Charts.
        details: Any other JSON values.
        remarks: Sentences that a reader must know, such as what the answer leaves out.
    """

    numbers: Mapping[str, Measure | float | None] = field(default_factory=dict)
    charts: Sequence[Chart] = ()
    details: Mapping[str, Any] = field(default_factory=dict)
    remarks: Sequence[str] = ()


@dataclass(frozen=True, eq=False)
class ComparedRun:
    """A finished run of an ablation.

    Attributes:
        arm: The value of each axis of the grid.
        seed: The seed of the run.
        evidence: Its evidence.
        answer: The answer of this analysis for the run alone, if it has one.
    """

    arm: Mapping[str, str]
    seed: int
    evidence: Evidence
    answer: Answer | None = None


@runtime_checkable
class Analysis(Protocol):
    """A question to a trained model. With a method ``compare`` it is a :class:`MultiRunAnalysis` too.

    Example:
        ::

            @dataclass(frozen=True)
            class Confidence:
                '''Mean confidence on the test samples.'''

                def analyze(self, evidence):
                    logits = evidence.outputs(evidence.samples("test"))
                    return Answer({"mean": Measure(float(logits.softmax(1).amax(1).mean()), unit="fraction")})
    """

    def analyze(self, evidence: Evidence) -> Answer:
        """Answer the question, as a function of the evidence and its seeds alone.

        Args:
            evidence: The model and the samples. The model must stay as it is.

        Returns:
            The answer.

        Raises:
            InapplicableError: The question makes no sense for this model.
        """
        ...


@runtime_checkable
class MultiRunAnalysis(Protocol):
    """An analysis that also compares the runs of an ablation."""

    def compare(self, cells: Sequence[ComparedRun]) -> Answer:
        """Answer a question about several runs together.

        Args:
            cells: The finished runs, in the order of the ablation.

        Returns:
            One answer for all.

        Raises:
            InapplicableError: The question makes no sense for these runs.
        """
        ...
