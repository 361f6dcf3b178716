"""What an analysis is shown, and what it answers."""

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
"""``train`` and ``val`` are what the mega-batch was learned and judged on, with what replay kept."""

Unit = Literal["fraction", "count", "seconds", "bytes", "number"]
"""Of a number: a ``fraction`` is shown in per cent."""

Better = Literal["higher", "lower"]

Bounds = tuple[float | None, float | None]
"""The lowest and the highest value that a number can have; None where there is no such end."""


class LabelledSamples(Protocol):
    """Samples and their labels, in an order that stays the same."""

    @property
    def labels(self) -> Tensor:
        """int64 of shape ``(n,)``, on the CPU."""
        ...

    def __len__(self) -> int: ...

    def batches(self, size: int = 256) -> Iterator[tuple[Tensor, Tensor]]:
        """Inputs and labels on the model's device; images are float32 pixels in [0, 1]. Not to be written to."""
        ...


class Evidence(Protocol):
    """A trained model and samples; of a run, the models of other mega-batches, masks and the result too.

    Anything missing raises :class:`forgetkit.errors.InapplicableError` with the reason; an analysis may let it through.
    Everything is computed in float32. The model is in eval mode: leave it as it is, and change a :meth:`copy_model`.
    """

    @property
    def model(self) -> nn.Module:
        """The model asked about, in eval mode; it maps inputs to logits ``(n, classes)``, its normalisation inside."""
        ...

    @property
    def device(self) -> torch.device:
        """Where the model lives."""
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
        """Named random streams of this question: ``evidence.seeds.torch("noise", 3)`` is a CPU generator."""
        ...

    def samples(self, part: DataPart = "test", count: int | None = None) -> LabelledSamples:
        """Return a part of the data, or ``count`` samples of it.

        The seed draws them once: for the test part they are the same at every mega-batch of a run. If the part has no
        more than ``count``, it is returned whole.
        """
        ...

    def outputs(self, samples: LabelledSamples | Iterable[Tensor], model: nn.Module | None = None) -> Tensor:
        """Logits, float32 ``(n, classes)`` on the CPU, of ``model`` or, where none is given, of the one asked about.

        ``samples`` may be batches of inputs of your own. In eval mode, without gradients; buffers stay as they are.
        """
        ...

    def accuracy(self, samples: LabelledSamples, model: nn.Module | None = None) -> float:
        """The share of right answers, in [0, 1]."""
        ...

    def copy_model(self) -> nn.Module:
        """A copy of the model in eval mode, on its device, to be changed at will."""
        ...

    def scores(self, importance: str, params: Scope = "all") -> Mapping[str, Tensor]:
        """Scores of the parameters in ``params`` by a criterion's SPEC, on training samples; higher = keep."""
        ...

    def masks(self) -> Mapping[int, Mapping[str, Tensor]]:
        """Masks of the resets, by mega-batch and parameter: True where an entry got a fresh value.

        A reset is listed under the mega-batch before it. Parameters without a change are left out. Each access makes
        new tensors, on the CPU.
        """
        ...

    @property
    def mega_batch(self) -> int | None:
        """The mega-batch (from 1) after which the model was kept; None where it is of no run."""
        ...

    @property
    def mega_batches(self) -> tuple[int, ...]:
        """Those whose models are kept, ascending; empty where the model is of no run."""
        ...

    def at(self, mega_batch: int) -> Evidence:
        """The same run as it stood after another mega-batch."""
        ...

    def initial(self) -> nn.Module:
        """The model that the run began with, in eval mode."""
        ...

    def history(self) -> Sequence[Mapping[str, Any]]:
        """One row for each epoch up to the last of this mega-batch, in order: the fields of :class:`EpochEnded`."""
        ...

    @property
    def result(self) -> Mapping[str, Any]:
        """The content of ``result.json``, with the configuration under ``config``; empty where there is no run."""
        ...


@dataclass(frozen=True)
class Measure:
    """A number, its unit, and which is better; ``better`` None: it is shown and not compared.

    ``title`` is what heads its column, where its key in words would not do. ``meaning`` says in a line what the number
    is, for the legend below a table. ``bounds`` are the lowest and the highest value there can be, None for no end.
    """

    value: float | None
    better: Better | None = None
    unit: Unit = "number"
    title: str = ""
    meaning: str = ""
    bounds: Bounds = (None, None)


@dataclass(frozen=True)
class Series:
    """Points of one name. ``x`` holds numbers, or words where places have names; None in ``y`` leaves a gap.

    ``spread`` is a deviation either way at each point.
    """

    name: str
    x: Sequence[float] | Sequence[str]
    y: Sequence[float | None]
    spread: Sequence[float | None] | None = None


@dataclass(frozen=True)
class Chart:
    """A picture as numbers: it is drawn by whoever shows it, beside those of other runs.

    ``name`` is a word, one to an answer; ``x_label`` and ``y_label`` stand at the axes, and fractions are drawn in per
    cent. ``kind`` is ``lines``, ``bars``, or ``heat`` with a row per series and a column per ``x``. ``logarithmic``:
    the x axis; ``diagonal``: a line of what would be perfect, where x and y are fractions.
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
    """What an analysis found.

    ``numbers`` become columns of tables, ``NAME_key``; a bare number is a :class:`Measure` that is not compared.
    ``details`` is whatever else JSON can hold, ``remarks`` are lines that a reader must know (what was left out, what
    stands for what).
    """

    numbers: Mapping[str, Measure | float | None] = field(default_factory=dict)
    charts: Sequence[Chart] = ()
    details: Mapping[str, Any] = field(default_factory=dict)
    remarks: Sequence[str] = ()


@dataclass(frozen=True, eq=False)
class ComparedRun:
    """A finished run of an ablation: its arm, a value per axis, its seed, its evidence and its own answer, if any."""

    arm: Mapping[str, str]
    seed: int
    evidence: Evidence
    answer: Answer | None = None


@runtime_checkable
class Analysis(Protocol):
    """A question put to a trained model; it leaves the model as it was.

    A method ``compare(cells)`` of a sequence of :class:`ComparedRun` makes one :class:`Answer` of all runs of an
    ablation.
    Where the question makes no sense, raise :class:`forgetkit.errors.InapplicableError` with the reason.
    """

    def analyze(self, evidence: Evidence) -> Answer:
        """The answer: a function of the evidence and its seeds alone."""
        ...


@runtime_checkable
class MultiRunAnalysis(Protocol):
    """An analysis that has something to say about several runs together."""

    def compare(self, cells: Sequence[ComparedRun]) -> Answer:
        """The answer about all of them, in the order of the ablation."""
        ...
