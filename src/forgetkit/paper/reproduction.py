"""A table of the paper from plan to comparison: its runs, the models they keep, their analyses."""

from __future__ import annotations

import shlex
from pathlib import Path

from forgetkit.ablation.plan import AblationPlan
from forgetkit.ablation.runner import AblationView
from forgetkit.analysis.run_evidence import AnalysisEnv
from forgetkit.config.machine import cache_folder
from forgetkit.errors import OptionError
from forgetkit.paper.comparison import PaperComparison, compare_with_paper
from forgetkit.paper.run_analyses import run_analyses
from forgetkit.paper.scaled_table import ScaledTable
from forgetkit.registry.registry import Registry
from forgetkit.results.outcome import Outcomes


def grid_name(scaled: ScaledTable) -> str:
    """Return the name of the grid in its folder."""
    return f"{scaled.table.name}-{scaled.scale.name}"


def models_to_keep(scaled: ScaledTable, chosen: str | None) -> str | None:
    """Return ``chosen``, or what the analyses of the table need; ``OptionError`` if they need more than was chosen."""
    order = ("none", "last", "all")
    if not scaled.queries or chosen not in (None, *order):
        return chosen
    if chosen is not None and order.index(chosen) < order.index(scaled.keep):
        raise OptionError(
            f"--keep {chosen}: {scaled.table.name} asks the runs about models that they would not keep: "
            f"leave it out, or use --keep {scaled.keep}"
        )
    return chosen or (scaled.keep if scaled.keep == "all" else None)


def plan_runs(scaled: ScaledTable, folder: Path, components: Registry) -> AblationPlan:
    """Plan the runs of the table."""
    return AblationPlan.of(scaled.grid(), folder, components, stem=grid_name(scaled))


def compare_runs(
    scaled: ScaledTable, ablation: AblationPlan, components: Registry, outcomes: Outcomes, view: AblationView
) -> PaperComparison:
    """Put the questions that have no stored answer to the finished runs, and compare them with the paper."""
    if not scaled.queries:
        return compare_with_paper(scaled, outcomes)
    overrides = {key: value for key, value in scaled.changes.items() if key == "device"}
    env = AnalysisEnv(components, cache_folder(), overrides)
    for one in run_analyses(scaled, ablation.store, ablation.grid_name(), outcomes, env):
        if one.status == "answered":
            view.say(f"{one.run}: {one.question.label} in {one.seconds:.1f} s")
        elif one.reason:
            view.warn(f"{one.run}: {one.question.label}: {one.reason}")
    view.say(f"pictures: forgetkit report {shlex.quote(str(ablation.store.path))}")
    return compare_with_paper(scaled, ablation.outcomes(outcomes.command))
