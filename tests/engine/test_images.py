"""A few hundred real photographs, through the real command."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

ARCHIVE = Path(__file__).parents[3] / "shared" / "data" / "cifar10-jpeg.npz"
pytestmark = pytest.mark.skipif(not ARCHIVE.exists(), reason="the CIFAR-10 archive is not at hand")


@pytest.fixture(scope="module")
def photographs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The first 60 training and 20 test images of each of four classes."""
    folder = tmp_path_factory.mktemp("photographs")
    archive = np.load(ARCHIVE)
    for part, count in (("train", 60), ("test", 20)):
        sizes, labels = archive[f"{part}_sizes"], archive[f"{part}_labels"]
        starts = np.concatenate([[0], np.cumsum(sizes, dtype=np.int64)])
        blob = archive[f"{part}_jpeg"]
        for label in (0, 1, 6, 8):
            home = folder / part / str(archive["classes"][label])
            home.mkdir(parents=True)
            for i in np.flatnonzero(labels == label)[:count]:
                (home / f"{i}.jpg").write_bytes(blob[starts[i] : starts[i + 1]].tobytes())
    return folder


@pytest.mark.children
def test_real_images_are_learned_and_the_same_twice(photographs: Path, tmp_path: Path) -> None:
    command = [
        sys.executable,
        "-m",
        "forgetkit",
        "run",
        "--dataset",
        f"folder:path={photographs},size=16",
        "--method",
        "lure",
    ]
    command += ["--mega-batches", "2", "--epochs", "8", "--lr", "0.05", "--threads", "1", "--json"]
    results = []
    for name in ("once", "twice"):
        run = subprocess.run(
            [*command, "--out", str(tmp_path / name)],
            capture_output=True,
            text=True,
            check=True,
            env={"PATH": "/usr/bin:/bin", "HOME": str(tmp_path), "FORGETKIT_CACHE": str(tmp_path / "cache")},
        )
        results.append(json.loads(run.stdout))

    def numbers(result: object) -> object:
        if isinstance(result, dict):
            apart = ("seconds", "peak_memory_bytes", "run", "directory", "out", "sha256")
            return {k: numbers(v) for k, v in result.items() if k not in apart}
        return [numbers(v) for v in result] if isinstance(result, list) else result

    assert numbers(results[0]) == numbers(results[1])
    once, twice = (Path(r["directory"]) / "checkpoints" / "mega-batch-002.pt" for r in results)
    assert once.read_bytes() == twice.read_bytes()
    assert results[0]["test_accuracy"] > 0.4  # chance is 0.25
    assert results[0]["mega_batches"][0]["unlearn"]["reset"] == results[0]["parameters"] * 2 // 10
