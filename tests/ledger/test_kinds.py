"""What gives samples and what counts errors: data sets and metrics, each that is on offer."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from helpers.watched_data import OFFERS, data_of, run, spoiled, watch_of
from PIL import Image

from forgetkit.contracts import Data, LoadContext, MegaBatchResult
from forgetkit.errors import UsageError


def npz(folder: Path, data: Data) -> str:
    np.savez(
        folder / "some.npz",
        x_train=data.train.inputs, y_train=data.train.labels, x_test=data.test.inputs, y_test=data.test.labels,
    )  # fmt: skip
    return f"npz:path={folder / 'some.npz'}"


def images(folder: Path, data: Data) -> str:
    for name, part in (("train", data.train), ("test", data.test)):
        for number, (image, label) in enumerate(zip(part.inputs, part.labels, strict=True)):
            home = folder / name / data.classes[label]
            home.mkdir(parents=True, exist_ok=True)
            Image.fromarray(image[0]).save(home / f"{number:03}.png")
    return f"folder:path={folder},size=8,grey=true"


MADE: dict[str, Callable[[Path, Data], str]] = {"npz": npz, "folder": images}
"""How a data set of one's own is made for those that want one."""

ELSEWHERE = {"restricted-imagenet": "its classes are those of ImageNet's folders; it reads by the same lines as folder"}


@pytest.mark.parametrize("name", [OFFERS.label(offer) for offer in OFFERS.named("datasets")])
def test_the_test_part_has_no_say_in_the_training_part(name: str, tmp_path: Path) -> None:
    """With another test part the training part is the same to the bit; written to, one leaves the other as it is."""
    if name in ELSEWHERE:
        pytest.skip(ELSEWHERE[name])
    data, loaded = data_of(24, 9, seed=0), []
    for which, test in (("one", data.test), ("other", spoiled(data.test))):
        folder = tmp_path / which
        folder.mkdir()
        spec = MADE[name](folder, Data(data.train, test, data.classes)) if name in MADE else name
        try:
            loaded.append(OFFERS.make("datasets", spec)[1].load(LoadContext(folder / "cache", lambda *_: None)))
        except UsageError as error:
            if name not in MADE:
                pytest.skip(f"it is not here: {error}")
            raise
    one, other = loaded
    for array in ("inputs", "labels"):
        train, test = getattr(one.train, array), getattr(one.test, array)
        assert np.array_equal(train, getattr(other.train, array))
        assert not np.shares_memory(train, test)
    if name in MADE:
        assert not np.array_equal(one.test.inputs, other.test.inputs), "the other test part was never read"


def test_a_metric_knows_the_rows_alone(tmp_path: Path) -> None:
    """Given the rows that were written down, each finds the number that the run came to."""
    metrics = [OFFERS.label(offer) for offer in OFFERS.named("metrics")]
    options = {"mega_batches": 3, "epochs": 1, "lr": 0.05, "val_fraction": 0.2}
    result = run(watch_of(data_of(36, 9, seed=0), options), {**options, "metrics": metrics}, tmp_path / "run")
    rows = [MegaBatchResult(**row) for row in result["mega_batches"]]
    for name in metrics:
        assert result[name.replace("-", "_")] == OFFERS.make("metrics", name)[1].compute(rows), name
