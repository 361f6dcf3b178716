"""Run every installed component: four mega-batches of a folder of images, on each network.

    python benchmarks/components.py folder:path=photos --models convnet,resnet18 --json components.json

Prints a line for each; ends with status 1 if one fails. It shows that all of them run, not which is best.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import forgetkit
from forgetkit.errors import ForgetkitError
from forgetkit.registry import registry

KINDS = {"importance": "importance", "reinit": "reinit", "interventions": "interventions"}


def plugin_components() -> list[tuple[str, str, str]]:
    """The kind, name and distribution of each component that is not built in."""
    components = registry.load()
    return [
        (kind, entry.name, entry.distribution)
        for kind in KINDS
        for entry in components.named(kind)
        if entry.distribution != registry.BUILTIN
    ]


def options_of(kind: str, name: str) -> dict[str, Any]:
    """The options of a run with the component; an intervention runs with a warm start."""
    if kind == "interventions":
        return {"interventions": (name,), "method": "warm"}
    return {kind: name}


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("dataset", help="a SPEC of a data set of images")
    parser.add_argument("--models", default="convnet,resnet18")
    parser.add_argument("--epochs", type=int, default=1)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--json", type=Path)
    args = parser.parse_args()
    rows, failed = [], 0
    for model in args.models.split(","):
        for kind, name, distribution in plugin_components():
            shared = {"dataset": args.dataset, "model": model, "mega_batches": 4, "epochs": args.epochs}
            began = time.perf_counter()
            with tempfile.TemporaryDirectory() as folder:
                options = {**shared, **options_of(kind, name), "threads": args.threads, "out": folder}
                try:
                    result = forgetkit.run(options)
                    forgot = [row["unlearn"]["reset"] for row in result["mega_batches"] if row["unlearn"]]
                    said = f"test {result['test_accuracy']:.1%}, reset {forgot}"
                except ForgetkitError as error:
                    failed, said = failed + 1, f"FAILED: {error}"
            seconds = time.perf_counter() - began
            print(f"{model:10} {kind:13} {distribution}/{name:24} {seconds:6.1f} s  {said}", flush=True)
            rows.append({"model": model, "kind": kind, "name": name, "seconds": round(seconds, 1), "said": said})
    print(f"{len(rows)} runs, {failed} failed")
    if args.json is not None:
        args.json.write_text(json.dumps({"dataset": args.dataset, "rows": rows}, indent=2) + "\n")
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
