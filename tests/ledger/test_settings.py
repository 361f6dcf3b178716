"""Runs with random settings, whole and interrupted, under watch."""

from __future__ import annotations

import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any
from unittest import mock

import numpy as np
import pytest
import torch
from helpers.watched_data import OFFERS, Watch, assert_nothing_leaked, data_of, history, run, watch_of
from hypothesis import example, given, reject, settings
from hypothesis import strategies as st

from forgetkit.errors import UnusedOptionError, UsageError
from forgetkit.system.interrupts import StopRequest

FEW = settings(max_examples=6, deadline=None, derandomize=True)
BASE = {"lr": 0.05, "batch_size": 8}


def labels_of(kind: str) -> st.SearchStrategy[str]:
    return st.sampled_from([OFFERS.label(offer) for offer in OFFERS.named(kind)])


OPTIONAL: dict[str, st.SearchStrategy[Any]] = {
    "split": st.just("contiguous"),
    "score_on": st.sampled_from(["first", "incoming", "union", "incoming", "union"]),
    "score_sampling": st.just("head"),
    "score_transform": st.just("train"),
    "val_transform": st.just("train"),
    "augment": st.sampled_from(["flip", "crop", "crop-flip"]),
    "carry": st.just("best-val"),
    "patience": st.just(1),
    "label_noise": st.sampled_from([0.3, 1.0]),
    "label_noise_val": st.just("clean"),
    "shots": st.integers(9, 12),
    "samples": st.integers(10, 40),
    "bn_stats": st.sampled_from(["reset", "recalibrate"]),
    "optimizer": st.just("adamw"),
    "interventions": labels_of("interventions").map(lambda label: [label]),
    "importance": labels_of("importance"),
    "reinit": labels_of("reinit"),
}
OPTIONS = st.fixed_dictionaries(
    {
        "mega_batches": st.integers(2, 4),
        "epochs": st.integers(1, 3),
        "val_fraction": st.sampled_from([0.0, 0.2, 0.4]),
        "replay": st.sampled_from(
            ["full", "none", "last", "buffer:size=6", "buffer:size=5,rule=lure", "buffer:size=3,rule=per-mega-batch"]
        ),
        "seed": st.integers(0, 3),
    },
    optional=OPTIONAL,
)


def acting(options: Mapping[str, Any], folder: Path, watch: Any) -> tuple[dict[str, Any], Watch]:
    """A run with these options, but for those that cannot act beside the others."""
    options = {**BASE, **options}
    for attempt in range(len(options)):
        try:
            watched = watch(options)
            run(watched, options, folder / str(attempt) / "run")
            return options, watched
        except UnusedOptionError as error:
            del options[error.option]
        except UsageError:  # contradictions, and what the data cannot give
            reject()
    raise AssertionError("every option was refused")


USUAL = {
    "mega_batches": 3,
    "epochs": 2,
    "val_fraction": 0.2,
    "replay": "buffer:size=6",
    "seed": 0,
    "importance": "snip",
}


@pytest.mark.slow
@FEW
@example(options={**USUAL, "carry": "best-val", "augment": "crop-flip"}, dtype="uint8", lazy=False, seed=0)
@example(options={**USUAL, "score_on": "incoming", "label_noise": 0.3}, dtype="uint8", lazy=True, seed=0)
@example(options={**USUAL, "score_on": "union"}, dtype="float32", lazy=False, seed=0)
@given(options=OPTIONS, dtype=st.sampled_from(["uint8", "float32"]), lazy=st.booleans(), seed=st.integers(0, 5))
def test_whatever_is_asked_for_only_what_is_open_is_seen(
    options: dict[str, Any], dtype: str, lazy: bool, seed: int
) -> None:
    data = data_of(48, 9, seed, dtype)
    with tempfile.TemporaryDirectory() as name, mock.patch("forgetkit.data.batches.MEMORY_SHARE", 0 if lazy else 0.25):
        folder = Path(name)
        options, plain = acting(options, folder / "plain", lambda asked: watch_of(data, asked))
        # Labels say which shots are drawn, and validation which epoch is carried: those have to stay.
        by_validation = {"carry", "patience", "shots"} & set(options)
        veiled = watch_of(data, options, veiled=True, spoiled=["test"] if by_validation else ["test", "val"])
        run(veiled, options, folder / "veiled")
        for watch in (plain, veiled):
            assert_nothing_leaked(watch)
            assert {one.mega_batch for one in watch.looked if one.ids} >= set(range(1, options["mega_batches"] + 1))
        (ran,) = (folder / "plain").glob("*/run")
        assert history(plain, ran) == history(veiled, folder / "veiled")


@pytest.mark.slow
@FEW
@given(
    options=OPTIONS,
    stops=st.lists(st.tuples(st.integers(1, 60), st.booleans()), min_size=1, max_size=3),
    lazy=st.booleans(),
)
def test_resumed_runs_open_nothing_more(options: dict[str, Any], stops: list[tuple[int, bool]], lazy: bool) -> None:
    """Stopped at some batch, told to or without a word, and gone on with behind the veil."""
    data = data_of(48, 9, seed=1)
    with tempfile.TemporaryDirectory() as name, mock.patch("forgetkit.data.batches.MEMORY_SHARE", 0 if lazy else 0.25):
        folder = Path(name)
        options, plain = acting(options, folder / "plain", lambda asked: watch_of(data, asked))
        options = {**options, "checkpoint_epochs": 1}
        for number, (after, told) in enumerate([*stops, (0, False)]):
            halt = StopRequest()
            watch = watch_of(data, options, veiled=True, spoiled=["test"], stop_after=after)
            watch.stop = halt.request if told else dying
            try:
                run(watch, options, folder / "run", resume=(folder / "run" / "manifest.json").exists(), stop=halt)
            except KeyboardInterrupt:
                assert number < len(stops)
            else:
                break
            finally:
                assert_nothing_leaked(watch)
        (ran,) = (folder / "plain").glob("*/run")
        kept = [
            history(one, where)[-options["mega_batches"] :] for one, where in ((plain, ran), (watch, folder / "run"))
        ]
        assert kept[0] == kept[1]


def dying() -> None:
    """As if by a signal that nobody listens for."""
    raise KeyboardInterrupt


def test_the_normalisation_knows_the_first_mega_batch_alone() -> None:
    """Mean and deviation are those of its training part, to the bit of float32, with noise and shots as well."""
    data = data_of(48, 9, seed=2)
    options = {**BASE, "mega_batches": 3, "epochs": 1, "val_fraction": 0.2, "shots": 12}
    with tempfile.TemporaryDirectory() as name:
        watch = watch_of(data, options)
        result = run(watch, options, Path(name) / "run")
        saved = torch.load(Path(result["directory"]) / "checkpoints" / "mega-batch-003.pt", weights_only=True)["model"]
    pixels = data.train.inputs[watch.cut[0].train].astype(np.float64) / 255
    assert float(saved["0.mean"]) == pytest.approx(pixels.mean(), rel=1e-6)
    assert float(saved["0.std"]) == pytest.approx(pixels.std(), rel=1e-6)
