"""How fast this machine runs forgetkit: each case beside its reference, in one process. Knows no screen."""

from forgetkit.bench.cases import CASES, chosen
from forgetkit.bench.machine import Machine, described, threads
from forgetkit.bench.measure import Case, Measured, Setting, Sides, Skipped, Told, measure
from forgetkit.bench.words import HEADINGS, row

__all__ = [
    "CASES",
    "HEADINGS",
    "Case",
    "Machine",
    "Measured",
    "Setting",
    "Sides",
    "Skipped",
    "Told",
    "chosen",
    "described",
    "measure",
    "row",
    "threads",
]
