"""Every criterion in a run, to the end and resumed; and what it promises."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import numpy as np
import pytest
from forgetkit_saliency import forgetkit_importance

import forgetkit
from forgetkit.contracts import EpochEnded, Event
from forgetkit.testing import check_importance

pytestmark = pytest.mark.slow

SPECS = (
    *forgetkit_importance(),
    *("taylor:per=filter", "taylor:per=filter-squared", "mas:variant=batch", "hessian:form=off-minimum,probes=2"),
    *("fisher-obd:variant=sampled", "fisher-obd:variant=exact", "fisher-obd:variant=batch"),
    *("gxd:reference=init", "gxd:reference=zero", "gxd:origin=uniform", "gxd:per=unit"),
    *("wanda:compare=raw", "grasp:temperature=none"),
    *("synflow:rounds=4,keep=0.8", "path-integral:clip=0.001"),
)
FEW = {"epochs": 1, "mega_batches": 2, "threads": 1, "dataset": "synthetic:samples=60,test=20,size=8,channels=1"}


@pytest.mark.parametrize("spec", SPECS)
def test_it_keeps_what_a_criterion_promises(spec: str) -> None:
    clipped = {"different": "every entry of the kit's small networks reaches the clip"}
    check_importance(spec, expected_failures=clipped if "clip" in spec else {})


@pytest.mark.parametrize("spec", SPECS)
def test_it_runs(tmp_path: Path, spec: str) -> None:
    result = forgetkit.run({**FEW, "importance": spec, "model": "convnet:width=4", "out": str(tmp_path)})
    assert result["mega_batches"][0]["unlearn"]["reset"] == result["parameters"] * 2 // 10


class Stop:
    """Interrupts the run in the middle of the second mega-batch."""

    def notify(self, event: Event) -> None:
        if isinstance(event, EpochEnded) and (event.mega_batch, event.epoch) == (2, 2):
            raise KeyboardInterrupt


@pytest.mark.parametrize("spec", ["path-integral", "movement"])
def test_what_it_has_watched_survives_an_interruption(tmp_path: Path, spec: str) -> None:
    options = {**FEW, "importance": spec, "model": "convnet:width=4", "mega_batches": 3, "epochs": 3}
    options |= {"checkpoint_epochs": 1, "out": str(tmp_path)}
    whole = forgetkit.run({**options, "name": "whole"})
    with pytest.raises(KeyboardInterrupt):
        forgetkit.run({**options, "name": "stopped"}, observers=[Stop()])
    stopped = forgetkit.run(resume=tmp_path / "stopped")
    for one, other in zip(stopped["mega_batches"], whole["mega_batches"], strict=True):
        one_report, other_report = ({**row["unlearn"], "seconds": 0} if row["unlearn"] else {} for row in (one, other))
        assert one_report == other_report
    both = [tmp_path / name / "checkpoints" / "mega-batch-003.pt" for name in ("whole", "stopped")]
    assert both[0].read_bytes() == both[1].read_bytes()


ARCHIVE = Path(__file__).parents[4] / "shared" / "data" / "cifar10-jpeg.npz"


@pytest.fixture(scope="module")
def photographs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The first 8 training and 2 test images of each of two classes."""
    folder = tmp_path_factory.mktemp("photographs")
    archive: Mapping[str, np.ndarray] = np.load(ARCHIVE)
    for part, count in (("train", 8), ("test", 2)):
        starts = np.concatenate([[0], np.cumsum(archive[f"{part}_sizes"], dtype=np.int64)])
        blob, labels = archive[f"{part}_jpeg"], archive[f"{part}_labels"]
        for label in (0, 8):
            home = folder / part / str(archive["classes"][label])
            home.mkdir(parents=True)
            for i in np.flatnonzero(labels == label)[:count]:
                (home / f"{i}.jpg").write_bytes(blob[starts[i] : starts[i + 1]].tobytes())
    return folder


# On the deep network all but those that take the same steps as another.
DEEP = [name for name in forgetkit_importance() if name not in ("gradient", "mas", "movement", "snip-sample")]
DEEP = ["taylor:per=filter" if name == "taylor" else name for name in DEEP]
SWEEP = [
    *((spec, "convnet:width=4") for spec in SPECS),
    *((spec, "resnet18:width=8") for spec in DEEP),
    *(pytest.param(spec, "resnet18", marks=pytest.mark.long) for spec in DEEP),
]


@pytest.mark.skipif(not ARCHIVE.exists(), reason="the CIFAR-10 archive is not at hand")
@pytest.mark.parametrize(("spec", "model"), SWEEP)
def test_real_images_for_four_mega_batches(
    photographs: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, spec: str, model: str
) -> None:
    monkeypatch.setenv("FORGETKIT_CACHE", str(photographs / "cache"))
    options = {"dataset": f"folder:path={photographs},size=8", "model": model, "importance": spec, "threads": 1}
    options |= {"epochs": 1, "mega_batches": 4, "batch_size": 4, "lr": 0.01, "out": str(tmp_path), "val_fraction": 0}
    result = forgetkit.run(options)
    assert [row["unlearn"]["reset"] for row in result["mega_batches"][:3]] == [result["parameters"] * 2 // 10] * 3
