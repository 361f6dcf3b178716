"""Every component on offer, built in or from an installed plugin, in a run under watch."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from helpers.watched_data import OFFERS, assert_all_was_seen, assert_nothing_leaked, data_of, history, run, watch_of

TUNED = {"buffer": ["buffer:size=7", "buffer:size=7,rule=lure", "buffer:size=4,rule=per-mega-batch"]}
"""SPECs of what does not work on so few samples as it stands, or keeps samples in more than one way."""

ACTING = [
    (kind, spec)
    for kind in ("importance", "reinit", "replay", "interventions")
    for offer in OFFERS.named(kind)
    for spec in TUNED.get(offer.name, [OFFERS.label(offer)])
]
OPTIONS = {"mega_batches": 3, "epochs": 1, "batch_size": 8, "lr": 0.05, "val_fraction": 0.2, "replay": "buffer:size=7"}
DATA = data_of(48, 9, seed=0)


@pytest.mark.slow
@pytest.mark.parametrize(("kind", "spec"), ACTING, ids=lambda text: text)
def test_nobody_sees_what_is_not_open(kind: str, spec: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Behind the veil, with other validation samples, another test part and batches that are read one by one from
    where they are: the same weights, events and numbers.
    """
    options: dict[str, Any] = {**OPTIONS, kind: [spec] if kind == "interventions" else spec}
    plain = watch_of(DATA, options)
    veiled = watch_of(DATA, options, veiled=True, spoiled=("val", "test"))
    for watch, folder in ((plain, "plain"), (veiled, "veiled")):
        if watch is veiled:
            monkeypatch.setattr("forgetkit.data.batches.MEMORY_SHARE", 0)
        run(watch, options, tmp_path / folder)
        assert_nothing_leaked(watch)
        assert_all_was_seen(watch, epochs=1)
    assert history(plain, tmp_path / "plain") == history(veiled, tmp_path / "veiled")
