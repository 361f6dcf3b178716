"""The package as installed: in runs, on real images, broken off and taken up, and held to the contract."""

from __future__ import annotations

import dataclasses
import re
from pathlib import Path
from typing import Any

import forgetkit_plasticity
import numpy as np
import pytest
import torch

import forgetkit
from forgetkit.contracts import EpochEnded, Event
from forgetkit.registry import registry
from forgetkit.registry.spec import options_of
from forgetkit.testing import check_intervention, check_reinit

pytestmark = pytest.mark.slow

ARCHIVE = Path(__file__).parents[4] / "shared" / "data" / "cifar10-jpeg.npz"
DOCS = Path(__file__).parents[3] / "docs" / "plasticity.md"

REINITS = [
    "dash:chunk=32",
    "fire",
    "knowledge-evolution",
    "knowledge-evolution:mask=kels",
    "redo",
    "rewind",
    "rewind:epoch=2",
]
SILENCE = "self-normalized-resets:limit=30"
INTERVENTIONS = [
    "continual-backprop:rate=0.1,maturity=3",
    "hare-tortoise:every=1",
    "l2-init",
    "redo:every=5,tau=1",
    "selective-weight:every=5",
    SILENCE,
    "soft-rescale",
]
SMALL = {
    "dataset": "synthetic:samples=120,test=30,classes=3,size=8",
    "model": "convnet:width=4",
    "mega_batches": 2,
    "epochs": 2,
    "batch_size": 16,
    "threads": 1,
}


def test_all_are_found_through_the_entry_point() -> None:
    offers = registry.load()
    for kind, hook in (
        ("reinit", forgetkit_plasticity.forgetkit_reinit),
        ("interventions", forgetkit_plasticity.forgetkit_interventions),
    ):
        for name, component in hook().items():
            offer = offers.find(kind, name)
            assert (offer.component, offer.distribution) == (component, "forgetkit-plasticity")


@pytest.mark.parametrize("reinit", REINITS)
def test_forgetting_in_a_run(tmp_path: Path, reinit: str) -> None:
    result = forgetkit.run({**SMALL, "reinit": reinit, "out": str(tmp_path)})
    report = result["mega_batches"][0]["unlearn"]
    assert result["status"] == "completed"
    assert result["versions"]["plugins"]["forgetkit-plasticity"] == "0.1.0"
    if reinit.startswith(("dash", "fire", "rewind")):
        assert 0.9 * result["parameters"] < report["reset"] <= result["parameters"]
    else:
        assert set(report["layers"]) <= {f"features.{n}.weight" for n in (0, 4, 8)} | {"head.weight", "head.bias"}


@pytest.mark.parametrize("intervention", INTERVENTIONS)
def test_acting_in_a_run(tmp_path: Path, intervention: str) -> None:
    runs = {
        name: forgetkit.run({**SMALL, "interventions": acting, "out": str(tmp_path), "name": name})
        for name, acting in (("with", [intervention]), ("again", [intervention]), ("without", []))
    }
    weights = {
        name: torch.load(Path(result["directory"]) / "checkpoints" / "mega-batch-002.pt", weights_only=True)["model"]
        for name, result in runs.items()
    }
    assert all(torch.equal(value, weights["again"][key]) for key, value in weights["with"].items())
    acted = any(not torch.equal(value, weights["without"][key]) for key, value in weights["with"].items())
    assert acted == (intervention != SILENCE)  # here nobody has been silent for so long, and nothing is touched


def test_the_mask_of_knowledge_evolution_lasts_for_a_run(tmp_path: Path) -> None:
    """With a learning rate too small to move anything, what is kept is what the network began with."""
    options = {**SMALL, "mega_batches": 4, "epochs": 1, "lr": 1e-30, "reinit": "knowledge-evolution:split=0.5"}
    result = forgetkit.run({**options, "out": str(tmp_path)})
    folder = Path(result["directory"]) / "checkpoints"
    first, *later = (
        torch.load(folder / f"mega-batch-{number:03}.pt", weights_only=True)["model"]["head.weight"]
        for number in range(1, 5)
    )
    kept = (later[-1] - first).abs() < 1e-12
    assert int(kept.sum()) == (kept.numel() + 1) // 2
    assert not bool(((later[0] - first).abs() < 1e-12)[~kept].any())


@dataclasses.dataclass(frozen=True)
class StopsAt:
    """Breaks the run off."""

    mega_batch: int
    epoch: int

    def notify(self, event: Event) -> None:
        if isinstance(event, EpochEnded) and (event.mega_batch, event.epoch) == (self.mega_batch, self.epoch):
            raise KeyboardInterrupt


@pytest.mark.parametrize(
    "acting",
    [
        {"interventions": ["continual-backprop:rate=0.1,maturity=2,utility=random"]},
        {"interventions": ["self-normalized-resets:limit=30,refresh=1", "hare-tortoise:every=2,momentum=0.9"]},
        {
            "interventions": ["selective-weight:every=3,decay=0.9", "soft-rescale", "l2-init"],
            "reinit": "rewind:epoch=1",
        },
    ],
)
@pytest.mark.parametrize("stop", [(1, 2), (2, 1)])
def test_a_run_that_is_broken_off_ends_with_the_same_weights(
    tmp_path: Path, acting: dict[str, Any], stop: tuple[int, int]
) -> None:
    options = {**SMALL, **acting, "epochs": 3, "out": str(tmp_path), "checkpoint_epochs": 1}
    whole = forgetkit.run({**options, "name": "whole"})
    with pytest.raises(KeyboardInterrupt):
        forgetkit.run({**options, "name": "cut"}, observers=[StopsAt(*stop)])
    again = forgetkit.run(resume=tmp_path / "cut")
    assert again["test_accuracy"] == whole["test_accuracy"]
    one, other = (tmp_path / name / "checkpoints" / "mega-batch-002.pt" for name in ("whole", "cut"))
    assert one.read_bytes() == other.read_bytes()


@pytest.fixture(scope="module")
def photographs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The first 24 training and 4 test images of each of three classes."""
    if not ARCHIVE.exists():
        pytest.skip("the CIFAR-10 archive is not at hand")
    folder = tmp_path_factory.mktemp("photographs")
    archive = np.load(ARCHIVE)
    for part, count in (("train", 24), ("test", 4)):
        sizes, labels = archive[f"{part}_sizes"], archive[f"{part}_labels"]
        starts = np.concatenate([[0], np.cumsum(sizes, dtype=np.int64)])
        blob = archive[f"{part}_jpeg"]
        for label in (0, 1, 6):
            home = folder / part / str(archive["classes"][label])
            home.mkdir(parents=True)
            for i in np.flatnonzero(labels == label)[:count]:
                (home / f"{i}.jpg").write_bytes(blob[starts[i] : starts[i + 1]].tobytes())
    return folder


RESETTING = ["continual-backprop:rate=0.05,maturity=1", "redo:every=2", "self-normalized-resets:limit=10"]
SWEEP = [
    {"reinit": "dash:chunk=8", "interventions": RESETTING},
    {"reinit": "fire:iterations=2", "interventions": ["hare-tortoise:every=1", "l2-init", "soft-rescale"]},
    {"reinit": "knowledge-evolution", "interventions": ["selective-weight:every=3"]},
    {"reinit": "redo:coupled=include"},
    {"reinit": "rewind:epoch=1"},
]


@pytest.mark.parametrize(
    "model", ["convnet:width=8", "resnet18:width=8", pytest.param("resnet18", marks=pytest.mark.long)]
)
@pytest.mark.parametrize("acting", SWEEP, ids=str)
def test_four_mega_batches_of_real_images(
    photographs: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, model: str, acting: dict[str, Any]
) -> None:
    monkeypatch.setenv("FORGETKIT_CACHE", str(photographs.parent / "cache"))
    options = {"dataset": f"folder:path={photographs},size=8", "model": model, "mega_batches": 4, "epochs": 1}
    result = forgetkit.run({**options, **acting, "batch_size": 16, "lr": 0.01, "threads": 1, "out": str(tmp_path)})
    assert result["status"] == "completed"
    assert len(result["mega_batches"]) == 4
    assert all(row["unlearn"]["layers"] for row in result["mega_batches"][:3])


# Whether a promise is one of a reinit method or of an intervention, each is given options with which it acts on
# networks of a few units in the four or twelve steps that it is looked at for.
KEPT_REINITS = [
    forgetkit_plasticity.Dash(),
    forgetkit_plasticity.Fire(),
    forgetkit_plasticity.KnowledgeEvolution(),
    forgetkit_plasticity.KnowledgeEvolution("kels", 0.5),
    forgetkit_plasticity.KnowledgeEvolution("bernoulli", 0.5, "conv-linear"),
    forgetkit_plasticity.Redo(tau=1.0),
    forgetkit_plasticity.Rewind(),
    forgetkit_plasticity.Rewind(epoch=1),
]
KEPT_INTERVENTIONS = [
    forgetkit_plasticity.ContinualBackprop(rate=0.5, maturity=1),
    forgetkit_plasticity.HareTortoise(every=1),
    forgetkit_plasticity.L2Init(),
    forgetkit_plasticity.RedoWhileTraining(every=2),
    forgetkit_plasticity.SelectiveWeight(every=2, amount=0.1),
    forgetkit_plasticity.SelectiveWeight(every=2, amount=0.1, decay=0.9),
    forgetkit_plasticity.SelectiveWeight(amount=0.1),
    forgetkit_plasticity.SelfNormalizedResets(limit=4, refresh=1),
    forgetkit_plasticity.SelfNormalizedResets(limit=4, refresh=1, streaks="batches"),
    forgetkit_plasticity.SoftRescale(),
]


@pytest.mark.parametrize("component", KEPT_REINITS, ids=str)
def test_ways_of_forgetting_keep_what_is_promised(component: Any) -> None:
    kept = {verdict.promise.name for verdict in check_reinit(component) if verdict.status == "kept"}
    assert {"runs", "changes", "acts", "touches", "deterministic", "batch-norm", "channels-last", "frozen"} <= kept


@pytest.mark.parametrize("component", KEPT_INTERVENTIONS, ids=str)
def test_interventions_keep_what_is_promised(component: Any) -> None:
    kept = {verdict.promise.name for verdict in check_intervention(component) if verdict.status == "kept"}
    assert {"runs", "acts", "touches", "deterministic", "resumes", "state-tensors", "channels-last", "frozen"} <= kept


@pytest.mark.parametrize("hook", ["forgetkit_reinit", "forgetkit_interventions"])
def test_each_is_described_and_documented(hook: str) -> None:
    text = DOCS.read_text(encoding="utf-8")
    for name, component in getattr(forgetkit_plasticity, hook)().items():
        doc = component.__doc__
        places = [doc.index(f"\n    {word}: ") for word in ("Formula", "Cost", "Source")]
        assert places == sorted(places)
        section = re.search(rf"^## `{name}`\n(.*?)(?=^## |\Z)", text, re.MULTILINE | re.DOTALL)
        assert section is not None, name
        for option in options_of(component):
            row = re.search(rf"^\| `{option.name}` \| .*? \| (.*?) \|", section[1], re.MULTILINE)
            assert row is not None, (name, option.name)
            assert row[1] == ("`none`" if option.default is None else f"`{option.default}`"), (name, option.name)
