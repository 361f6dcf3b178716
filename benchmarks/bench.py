"""Time forgetkit beside references: ``python benchmarks/bench.py [CASE ...] [--json]``.

Both sides of a case run in one process and in turn; the figure is that of the medians. A missed target is no failure.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import re
import sys
from pathlib import Path
from typing import Any

import torch
from comparisons.cases import CASES
from comparisons.measure import Measurement, SkippedCase, measure, row

import forgetkit
from forgetkit.config.machine import resolve_device
from forgetkit.errors import ForgetkitError


def processor_name() -> str:
    """Return the maker's name of the processor, if the system tells it."""
    try:
        found = re.search(r"^model name\s*:\s*(.+)$", Path("/proc/cpuinfo").read_text("utf-8"), re.MULTILINE)
    except OSError:  # not Linux
        found = None
    return found[1] if found is not None else platform.processor() or platform.machine()


def main() -> None:
    names = [case.name for case in CASES]
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("cases", nargs="*", metavar="CASE", help=f"cases to measure (default: all): {', '.join(names)}")
    parser.add_argument("--repetitions", type=int, default=7, metavar="N", help="how often to time each side")
    parser.add_argument("--device", default="auto", help="auto, cpu, cuda or cuda:N")
    parser.add_argument("--threads", type=int, metavar="N", help="torch's threads on the CPU (default: torch's choice)")
    parser.add_argument("--json", action="store_true", help="print one object; the lines go to standard error")
    options = parser.parse_args()
    if unknown := set(options.cases).difference(names):
        parser.error(f"there is no case {min(unknown)}; choose from {', '.join(names)}")
    if options.repetitions < 1 or (options.threads is not None and options.threads < 1):
        parser.error("--repetitions and --threads take a number of at least 1")
    try:
        device = resolve_device(options.device)
    except ForgetkitError as error:
        parser.error(str(error))
    if options.threads is not None:
        torch.set_num_threads(options.threads)
    lines = sys.stderr if options.json else sys.stdout
    machine = describe_machine(device)
    print(machine_text(machine), file=lines)
    results = []
    for case in CASES:
        if not options.cases or case.name in options.cases:
            results.append(measure(case, device, options.repetitions))
            print(result_text(results[-1]), file=lines, flush=True)
    if options.json:
        print(json.dumps({"schema": 1, "machine": machine, "cases": [result.as_dict() for result in results]}))


def describe_machine(device: str) -> dict[str, Any]:
    """Processor, usable cores, torch's threads and instructions, the device, and versions."""
    return {
        "processor": processor_name(),
        "cores": len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1,
        "threads": torch.get_num_threads(),
        "instructions": torch.backends.cpu.get_cpu_capability(),
        "device": torch.cuda.get_device_name(device) if device.startswith("cuda") else device,
        "python": platform.python_version(),
        "torch": torch.__version__,
        "forgetkit": forgetkit.__version__,
    }


def machine_text(machine: dict[str, Any]) -> str:
    """One line that describes the machine."""
    device = "" if machine["device"] == "cpu" else f", {machine['device']}"
    return (
        "{processor}{at}, {cores} cores, {threads} threads, {instructions}; "
        "Python {python}, torch {torch}, forgetkit {forgetkit}"
    ).format(**machine, at=device)


def result_text(result: Measurement | SkippedCase) -> str:
    """One line with the figures of a case."""
    name, ours, reference, figure, spread, target, verdict = row(result)
    if isinstance(result, SkippedCase):
        return f"{name}: skipped: {result.reason}"
    verdict = f", target {target}: {verdict}" if target else ""
    fault = f" ({result.fault})" if result.fault else ""
    return f"{name}: {ours} against {reference}: {figure} ({spread}){verdict}{fault}"


if __name__ == "__main__":
    main()
