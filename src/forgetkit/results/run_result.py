"""The content of ``result.json`` with a table, plots and the model: what ``forgetkit.run`` returns."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from torch import nn

from forgetkit.analysis.run_evidence import AnalysisEnv, FinishedRun, RunEvidence
from forgetkit.config import OVERRIDABLE
from forgetkit.config.machine import cache_folder
from forgetkit.contracts import Unit
from forgetkit.errors import OptionError, suggest
from forgetkit.registry import registry
from forgetkit.results.ablation import notebook_html
from forgetkit.results.outcome import Outcome, Outcomes
from forgetkit.results.table import Column, Table, make_table, number
from forgetkit.seeding import Seeds
from forgetkit.storage import RunDirectory

if TYPE_CHECKING:
    from matplotlib.figure import Figure


class RunResult(dict[str, Any]):
    """The content of a run's ``result.json``: a dict that is equal to a plain one and that JSON can hold.

    Attributes:
        path: The directory of the run, absolute.
    """

    def __init__(
        self,
        content: Mapping[str, Any],
        path: str | Path,
        plugins: Sequence[Path] = (),
        objects: Mapping[str, Any] | None = None,
    ) -> None:
        """Wrap ``content``; ``objects`` are the data set and the network, if the run got objects in place of SPECs."""
        super().__init__(content)
        self.path = Path(path).absolute()
        self._plugins = tuple(file.absolute() for file in plugins)
        self._objects = {key: value for key, value in (objects or {}).items() if key in OVERRIDABLE}

    def __reduce__(self) -> tuple[Any, ...]:
        """Pickle without the objects: they may be functions that no other process can load."""
        return RunResult, (dict(self), self.path, self._plugins)

    @property
    def table(self) -> Table:
        """A row per mega-batch; ``print`` shows it, ``table.render("latex")`` formats it."""
        rows = tuple(
            Outcome({"mega-batch": str(row["index"])}, int(self["config"]["seed"]), str(row["index"]), "completed", row)
            for row in self["mega_batches"]
        )
        return make_table(Outcomes(str(self["run"]), ("mega-batch",), rows), _MEGA_BATCH)

    def plot(self, name: str = "anytime") -> Figure:
        """Draw a picture of the run.

        Args:
            name: ``anytime``, ``errors``, ``cost`` or ``layers``, as in ``forgetkit report``, or the chart of an
                analysis.

        Returns:
            A ``matplotlib.figure.Figure``, which is not registered with pyplot.

        Raises:
            UsageError: If matplotlib is missing.
            OptionError: If the run has no picture of that name.
            RunDirectoryError: If the directory of the run is missing or damaged.

        Example:
            >>> result.plot().savefig("anytime.svg")
        """
        from forgetkit.results import plots
        from forgetkit.results.report.single_run import single_run_outcomes

        figures = plots.draw_pictures(single_run_outcomes(self.path))
        if name not in figures:
            raise OptionError(f"the run in {self.path} has no picture '{name}'; {suggest(name, figures)}")
        return figures[name]

    def model(self, mega_batch: int | None = None) -> nn.Module:
        """Load a network of the run.

        Args:
            mega_batch: After which mega-batch, from 1. None: the last.

        Returns:
            A new network in eval mode, on the run's device, with the weights that were evaluated.

        Raises:
            InapplicableError: If the run did not keep that model; ``keep_models="all"`` keeps each.
            RunDirectoryError: If there is no such mega-batch, or the directory is missing or damaged.

        Example:
            >>> labels = result.model()(torch.zeros(1, 1, 8, 8)).argmax(1)
        """
        components = registry.load(files=self._plugins)
        finished = FinishedRun(RunDirectory(self.path), AnalysisEnv(components, cache_folder(), self._objects))
        return RunEvidence.of(finished, mega_batch, Seeds(0)).model

    def _repr_html_(self) -> str:
        accuracy, errors = f"{self['test_accuracy']:.2%}", f"{self['cer']:,}"
        return notebook_html(self.table, f"{self['run']}: test accuracy {accuracy}, CER {errors}, in {self.path}")


def _column(key: str, title: str, unit: Unit) -> Column:
    """A number of a mega-batch; mega-batches are no arms, so none is compared with another."""
    return Column(key, title, _entry(key), None, unit)


def _entry(key: str) -> Callable[[Mapping[str, Any]], float | None]:
    return lambda row: number(row, key)


_MEGA_BATCH = (
    _column("train_samples", "train samples", "count"),
    _column("train_accuracy", "train accuracy", "fraction"),
    _column("val_accuracy", "validation accuracy", "fraction"),
    _column("test_accuracy", "test accuracy", "fraction"),
    _column("test_errors", "test errors", "count"),
    _column("generalization_gap", "generalization gap", "fraction"),
    Column("reset", "reset", lambda row: number(row["unlearn"] or {}, "reset"), None, "count"),
    _column("seconds", "time", "seconds"),
)
