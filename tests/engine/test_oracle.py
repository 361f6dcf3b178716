"""The engine against a plain training loop, and against itself with the future poisoned."""

from __future__ import annotations

import shutil
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
import torch
from torch.nn.functional import cross_entropy

import forgetkit
from forgetkit.contracts import Checkpointed, Data, DataSplit, Event
from forgetkit.contracts.data import Inputs
from forgetkit.data import partition
from forgetkit.registry import registry
from forgetkit.seeding import Seeds, seeded_rng
from forgetkit.training import Normalize


def sample_data(seed: int = 0, samples: int = 160, classes: int = 4) -> Data:
    """Images that can be learned: a bright quarter says the class."""
    rng = np.random.default_rng(seed)
    labels = np.arange(samples, dtype=np.int64) % classes
    images = rng.integers(0, 120, (samples, 1, 8, 8), dtype=np.uint8)
    for image, label in zip(images, labels, strict=True):
        row, column = divmod(int(label), 2)
        image[0, row * 4 : row * 4 + 4, column * 4 : column * 4 + 4] += 100
    half = samples // 4
    return Data(DataSplit(images[half:], labels[half:]), DataSplit(images[:half], labels[:half]), tuple("abcd"))


@dataclass(frozen=True)
class Quarters:
    """The images above; what arrives after ``poison_after``, or the test part, can be spoiled."""

    poison_after: int = 99
    poison_test: bool = False
    parts: int = 4

    def load(self, context: object) -> Data:
        data = sample_data()
        train, test = data.train, data.test
        rng = np.random.default_rng(666)
        for mega_batch in partition(np.arange(len(train)), self.parts, 0.1, "random", Seeds(0)):
            if mega_batch.index > self.poison_after:
                ids = np.concatenate([mega_batch.train, mega_batch.val])
                train.inputs[ids] = rng.integers(0, 255, train.inputs[ids].shape)
                train.labels[ids] = rng.integers(0, 4, len(ids))
        if self.poison_test:
            test.inputs[:] = rng.integers(0, 255, test.inputs.shape)
        return data


@dataclass(frozen=True)
class Keep:
    """Copies every checkpoint as it is written."""

    into: Path
    root: Path

    def notify(self, event: Event) -> None:
        if isinstance(event, Checkpointed):
            (found,) = self.root.glob(f"*/checkpoints/{event.file}")
            shutil.copy(found, self.into / event.file)


OPTIONS = {"mega_batches": 4, "epochs": 3, "batch_size": 14, "threads": 1, "model": "convnet:width=4"}


LAYOUTS = {"contiguous": torch.contiguous_format, "channels-last": torch.channels_last}


@pytest.mark.slow
@pytest.mark.parametrize("memory_format", LAYOUTS)
def test_a_warm_run_is_a_plain_training_loop_to_the_bit(tmp_path: Path, memory_format: str) -> None:
    options = {**OPTIONS, "memory_format": memory_format, "method": "warm", "out": str(tmp_path), "seed": 7}
    result = forgetkit.run({**options, "dataset": Quarters()})

    data, seeds = sample_data(), Seeds(7)
    cut = partition(np.arange(len(data.train)), 4, 0.1, "random", seeds)
    saved = torch.load(Path(result["directory"]) / "checkpoints" / "mega-batch-004.pt", weights_only=True)["model"]
    inputs = Inputs((1, 8, 8), 4, (saved["normalize.mean"].item(),), (saved["normalize.std"].item(),))
    torch.set_num_threads(1)
    with seeded_rng(seeds.number("init")):
        builder = registry.load().make("models", "convnet:width=4")[1]
        model = builder.build(inputs, Normalize(inputs)).to(memory_format=LAYOUTS[memory_format])
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9, weight_decay=1e-4)
    seen = np.empty(0, dtype=np.int64)
    for t, mega_batch in enumerate(cut, 1):
        seen = np.concatenate([np.sort(seen), mega_batch.train])  # replay keeps ids in ascending order
        x, y = torch.from_numpy(data.train.inputs[seen]), torch.from_numpy(data.train.labels[seen])
        for epoch in (1, 2, 3):
            optimizer.param_groups[0]["lr"] = {1: 0.1, 2: 0.1 * 0.1, 3: 0.1 * 0.1**2}[epoch]
            model.train()
            for ids in torch.randperm(len(x), generator=seeds.torch(t, epoch, "order")).split(14):
                optimizer.zero_grad()
                cross_entropy(model(x[ids].float() / 255), y[ids]).backward()
                optimizer.step()

    first = torch.from_numpy(data.train.inputs[cut[0].train]).double() / 255
    assert inputs.mean[0] == pytest.approx(float(first.mean()), rel=1e-6)
    assert inputs.std[0] == pytest.approx(float(first.std(correction=0)), rel=1e-6)
    assert saved.keys() == model.state_dict().keys()
    for name, value in model.state_dict().items():
        assert torch.equal(saved[name], value), name


@pytest.mark.slow
@pytest.mark.parametrize("replay", ["full", "none", "buffer:size=20"])
@pytest.mark.parametrize("method", ["lure", "cold", "warm"])
def test_the_future_cannot_be_seen(tmp_path: Path, replay: str, method: str) -> None:
    files = {}
    for name, poison in (("clean", 99), ("poisoned", 2)):
        out = tmp_path / name
        kept = tmp_path / f"{name}-states"
        kept.mkdir()
        options = {**OPTIONS, "dataset": Quarters(poison_after=poison), "method": method, "replay": replay}
        result = forgetkit.run({**options, "out": str(out)}, observers=[Keep(kept, out)])
        folder = Path(result["directory"]) / "checkpoints"
        models = {i: (folder / f"mega-batch-{i:03}.pt").read_bytes() for i in (1, 2, 3, 4)}
        states = {p.name: torch.load(p, weights_only=True) for p in kept.iterdir()}
        files[name] = models, states, result

    clean, poisoned = files["clean"], files["poisoned"]
    assert clean[0][1] == poisoned[0][1]
    assert clean[0][2] == poisoned[0][2]
    assert clean[0][3] != poisoned[0][3], "the poison was never swallowed, so the test shows nothing"
    for name in ("resume-002-0000.pt", "resume-003-0000.pt"):  # after forgetting, before the next has arrived
        before, after = clean[1][name], poisoned[1][name]
        for key, value in before["model"].items():
            assert torch.equal(value, after["model"][key])
        for role in ("train", "val"):
            assert torch.equal(before["stream"][role]["ids"], after["stream"][role]["ids"])


@pytest.mark.slow
@pytest.mark.parametrize("score_on", ["incoming", "union"])
def test_scoring_on_what_arrives_sees_that_and_nothing_later(tmp_path: Path, score_on: str) -> None:
    """Mega-batches 3 and 4 are poisoned: the network forgets otherwise after mega-batch 2, and not before."""
    states, models = [], []
    for name, poison in (("clean", 99), ("poisoned", 2)):
        out, kept = tmp_path / name, tmp_path / f"{name}-states"
        kept.mkdir()
        options = {**OPTIONS, "dataset": Quarters(poison_after=poison), "method": "lure", "score_on": score_on}
        result = forgetkit.run({**options, "out": str(out)}, observers=[Keep(kept, out)])
        folder = Path(result["directory"]) / "checkpoints"
        models.append([(folder / f"mega-batch-{i:03}.pt").read_bytes() for i in (1, 2)])
        states.append([torch.load(kept / f"resume-{i:03}-0000.pt", weights_only=True)["model"] for i in (2, 3)])
    assert models[0] == models[1]
    same = [all(torch.equal(a[key], b[key]) for key in a) for a, b in zip(*states, strict=True)]
    assert same == [True, False]


@pytest.mark.slow
def test_the_test_part_moves_no_weight(tmp_path: Path) -> None:
    results, models = [], []
    for spoiled in (False, True):
        options = {**OPTIONS, "dataset": Quarters(poison_test=spoiled), "out": str(tmp_path / str(spoiled))}
        result = forgetkit.run(options)
        models.append((Path(result["directory"]) / "checkpoints" / "mega-batch-004.pt").read_bytes())
        results.append(result)
    assert models[0] == models[1]
    own = ("train_accuracy", "val_accuracy", "generalization_gap", "train_samples", "samples_seen")
    for clean, spoiled in zip(*(r["mega_batches"] for r in results), strict=True):
        assert {k: clean[k] for k in own} == {k: spoiled[k] for k in own}
    assert results[0]["cer"] != results[1]["cer"]


@pytest.mark.slow
def test_numbers_of_the_result_against_the_saved_models(tmp_path: Path) -> None:
    """Every accuracy is counted again, by hand, from the checkpoint of its mega-batch."""
    result = forgetkit.run({**OPTIONS, "dataset": Quarters(), "out": str(tmp_path), "method": "lure"})
    data = sample_data()
    cut = partition(np.arange(len(data.train)), 4, 0.1, "random", Seeds(0))
    inputs = Inputs((1, 8, 8), 4, (0.0,), (1.0,))
    model = registry.load().make("models", "convnet:width=4")[1].build(inputs, Normalize(inputs)).eval()
    for row in result["mega_batches"]:
        file = Path(result["directory"]) / "checkpoints" / f"mega-batch-{row['index']:03}.pt"
        model.load_state_dict(torch.load(file, weights_only=True)["model"])

        def right(part: DataSplit, ids: np.ndarray) -> int:
            with torch.no_grad():
                guess = model(torch.from_numpy(part.inputs[ids]).float() / 255).argmax(1).numpy()
            return int((guess == part.labels[ids]).sum())

        train = np.concatenate([m.train for m in cut[: row["index"]]])
        val = np.concatenate([m.val for m in cut[: row["index"]]])
        everything = np.arange(len(data.test))
        assert row["train_accuracy"] == right(data.train, train) / len(train)
        assert row["val_accuracy"] == right(data.train, val) / len(val)
        assert row["generalization_gap"] == row["train_accuracy"] - row["val_accuracy"]
        assert row["test_errors"] == len(everything) - right(data.test, everything)
        assert (row["train_samples"], row["val_samples"]) == (len(train), len(val))
        assert row["samples_seen"] == 3 * len(train)


@pytest.mark.slow
def test_two_methods_at_one_seed_see_the_same_first_mega_batch(tmp_path: Path) -> None:
    """Choosing a method shifts no other random stream: before the first forgetting all are one run."""
    first = set()
    for method in ("warm", "cold", "lure", "llf", "rifle", "shrink-perturb"):
        options = {**OPTIONS, "mega_batches": 2, "dataset": Quarters(parts=2), "out": str(tmp_path), "method": method}
        result = forgetkit.run({**options, "name": method})
        first.add((Path(result["directory"]) / "checkpoints" / "mega-batch-001.pt").read_bytes())
    assert len(first) == 1
