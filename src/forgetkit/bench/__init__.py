"""How fast this machine runs forgetkit: each case beside its reference, in one process. Knows no screen."""

from forgetkit.bench.cases import CASES, choose_cases
from forgetkit.bench.machine import Machine, describe_machine, threads
from forgetkit.bench.measure import (
    BenchmarkCase,
    BenchmarkOptions,
    Measurement,
    ProgressCallback,
    Sides,
    SkippedCase,
    measure,
)
from forgetkit.bench.words import HEADINGS, row

__all__ = [
    "CASES",
    "HEADINGS",
    "BenchmarkCase",
    "BenchmarkOptions",
    "Machine",
    "Measurement",
    "ProgressCallback",
    "Sides",
    "SkippedCase",
    "choose_cases",
    "describe_machine",
    "measure",
    "row",
    "threads",
]
