"""A folder of cells: carried out once, taken up, told when damaged, never a wrong number."""

from __future__ import annotations

import hashlib
import itertools
import json
import os
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from forgetkit import config
from forgetkit.ablation.grid import Grid
from forgetkit.ablation.plan import AblationPlan
from forgetkit.ablation.progress import ProgressReader
from forgetkit.ablation.worker import CellResult, Task, run_cell
from forgetkit.errors import RunDirectoryError
from forgetkit.registry import registry
from forgetkit.results.cell_store import CellStore, GridManifest

TINY = {
    "dataset": "synthetic:samples=60,test=20,classes=3,size=4,channels=1",
    "model": "mlp:width=8",
    "epochs": 2,
    "mega_batches": 2,
    "threads": 1,
}

OFFERS = registry.load(entry_points=False)


def task(folder: Path, **options: object) -> Task:
    asked = {key: value for key, value in {**TINY, **options}.items() if value is not None}
    digest = config.resolve(asked, OFFERS).digest
    return Task(str(folder), digest, asked)


def result(folder: Path, digest: str) -> dict[str, object]:
    content = json.loads((CellStore(folder).directory(digest) / "result.json").read_text())
    rows = [{**row, "seconds": 0} for row in content["mega_batches"]]
    for row in rows:
        if row["unlearn"]:
            row["unlearn"] = {**row["unlearn"], "seconds": 0}
    return {"cer": content["cer"], "rows": rows}


def test_a_cell_is_carried_out_once(tmp_path: Path) -> None:
    asked, pool = task(tmp_path), CellStore(tmp_path)
    assert pool.find(asked.digest).status == "missing"
    assert run_cell(asked) == CellResult("completed")
    found = pool.find(asked.digest)
    assert (found.status, found.remark) == ("completed", "")
    before = (pool.directory(asked.digest) / "result.json").stat().st_mtime_ns
    assert run_cell(asked) == CellResult("completed")
    assert (pool.directory(asked.digest) / "result.json").stat().st_mtime_ns == before
    left = sorted(file.name for file in (pool.directory(asked.digest) / "checkpoints").iterdir())
    assert left == ["masks-001.json", "masks-001.pt", "mega-batch-002.json", "mega-batch-002.pt"]


@pytest.mark.slow
def test_what_a_cell_keeps(tmp_path: Path) -> None:
    for keep, count in (("all", 4), ("none", 0)):  # of models; masks, a bit for each entry, stay
        asked = Task(str(tmp_path / keep), task(tmp_path).digest, TINY, keep=keep)  # type: ignore[arg-type]
        run_cell(asked)
        checkpoints = CellStore(tmp_path / keep).directory(asked.digest) / "checkpoints"
        assert len(list(checkpoints.glob("mega-batch-*"))) == count
        assert len(list(checkpoints.iterdir())) == count + 2


def ablation(folder: Path, **options: object) -> AblationPlan:
    return AblationPlan.of(Grid("", {"reinit": ("cold",)}, (0,), {**TINY, **options}), folder, OFFERS)


def left(pool: CellStore, digest: str) -> list[str]:
    """The models, each with its note beside it."""
    files = sorted((pool.directory(digest) / "checkpoints").iterdir())
    files = [file for file in files if not file.name.startswith("masks-")]
    assert all(file.with_suffix(end).exists() for file in files for end in (".json", ".pt")), files
    return [file.name for file in files if file.suffix == ".pt"]


def test_a_cell_that_was_finished_before_is_tidied(tmp_path: Path) -> None:
    """By a command that asks for less; one that says nothing takes away what a killed process would have."""
    asked = ablation(tmp_path)
    (first,) = asked.tasks(asked.statuses(), keep="all")
    run_cell(first)
    asked.remove_stale(asked.statuses(), None)
    assert left(asked.store, first.digest) == ["mega-batch-001.pt", "mega-batch-002.pt"]
    for end in ("pt", "json"):
        (asked.store.directory(first.digest) / "checkpoints" / f"resume-002-0002.{end}").touch()
    asked.remove_stale(asked.statuses(), None)
    assert left(asked.store, first.digest) == ["mega-batch-002.pt"]
    asked.remove_stale(asked.statuses(), "none")
    assert left(asked.store, first.digest) == []
    assert asked.statuses()[first.digest].status == "completed"


def test_last_model_is_found_by_number_and_not_by_file_name(tmp_path: Path) -> None:
    pool, digest = CellStore(tmp_path), "0" * 64
    folder = pool.directory(digest) / "checkpoints"
    folder.mkdir(parents=True)
    for number, end in itertools.product((99, 999, 1000), ("pt", "json")):
        (folder / f"mega-batch-{number:03}.{end}").touch()
    pool.remove_stale(digest, "last")
    assert left(pool, digest) == ["mega-batch-1000.pt"]


def test_what_was_left_half_written_long_ago_is_taken_away(tmp_path: Path) -> None:
    asked = ablation(tmp_path)
    old, new = [], []
    for folder in (tmp_path / "cells", tmp_path / "grids"):
        folder.mkdir()
        old.append(folder / ".a.json.17.tmp")
        new += [folder / ".b.json.18.tmp", folder / "c.json"]
    for file in (*old, *new):
        file.touch()
    for file in (*old, tmp_path / "cells" / "c.json"):
        os.utime(file, (0, 0))
    asked.remove_stale(asked.statuses(), None)
    assert [file.exists() for file in old] == [False, False]
    assert all(file.exists() for file in new)


@pytest.mark.parametrize(
    ("given", "epochs"),
    [
        ({}, 1),
        ({"checkpoint_seconds": 600}, None),
        ({"checkpoint_epochs": 3}, 3),
        ({"checkpoint_epochs": "none"}, None),
    ],
)
def test_how_often_cells_leave_states_and_which_models_they_keep(tmp_path: Path, given: dict, epochs: int) -> None:
    asked = ablation(tmp_path, **given)
    for keep in ("all", "last", "none"):
        (one,) = asked.tasks(asked.statuses(), keep=keep)  # type: ignore[arg-type]
        plan = config.resolve(one.options, OFFERS)
        assert plan.digest == one.digest
        assert (plan.config.checkpoint_epochs, plan.config.keep_models) == (epochs, keep)


def test_an_unfinished_cell_is_not_tidied(tmp_path: Path) -> None:
    asked = ablation(tmp_path)
    (first,) = asked.tasks(asked.statuses(), keep="all")
    run_cell(first)
    unseal(asked.store.directory(first.digest))
    asked.remove_stale(asked.statuses(), "none")
    assert left(asked.store, first.digest) == ["mega-batch-001.pt", "mega-batch-002.pt"]


def test_a_diverged_cell_keeps_no_states_and_can_be_run_again(tmp_path: Path) -> None:
    asked = ablation(tmp_path, lr=1e6, milestones=(), epochs=6)
    (first,) = asked.tasks(asked.statuses())
    assert "epoch 3" in run_cell(first).reason
    assert left(asked.store, first.digest) == []
    (failure,) = tmp_path.glob("cells/*.failed.json")
    failure.unlink()
    assert run_cell(first).status == "diverged"


def flip(path: Path) -> None:
    content = bytearray((path / "result.json").read_bytes())
    content[len(content) // 2] ^= 1
    (path / "result.json").write_bytes(content)


def cut(path: Path) -> None:
    content = (path / "result.json").read_bytes()
    (path / "result.json").write_bytes(content[: len(content) // 2])


def unseal(path: Path) -> None:
    (path / "seal.json").unlink()


def spoil(path: Path) -> None:
    (path / "manifest.json").write_text("{")
    unseal(path)


@pytest.mark.slow
@pytest.mark.parametrize("damage", [flip, cut, unseal, spoil])
def test_a_damaged_result_is_told_and_made_again(tmp_path: Path, damage: Callable[[Path], None]) -> None:
    asked, pool = task(tmp_path), CellStore(tmp_path)
    run_cell(asked)
    whole = result(tmp_path, asked.digest)
    damage(pool.directory(asked.digest))
    found = pool.find(asked.digest)
    assert (found.status, found.result) == ("missing", None)
    assert "makes it again" in found.remark
    assert run_cell(asked) == CellResult("completed")
    assert result(tmp_path, asked.digest) == whole


@pytest.mark.slow
def test_a_result_of_another_cell_does_not_count(tmp_path: Path) -> None:
    one, other, pool = task(tmp_path), task(tmp_path, seed=1), CellStore(tmp_path)
    run_cell(one)
    pool.directory(one.digest).rename(pool.directory(other.digest))
    assert "belongs to another cell" in pool.find(other.digest).remark
    assert run_cell(other) == CellResult("completed")
    assert (pool.find(other.digest).result or {})["config"]["seed"] == 1


@pytest.mark.slow
def test_failed_and_diverged_cells_are_recorded_and_retried(tmp_path: Path) -> None:
    wild, pool = task(tmp_path, lr=1e30, milestones=()), CellStore(tmp_path)
    ended = run_cell(wild)
    assert ended.status == pool.find(wild.digest).status == "diverged"
    assert "the loss is" in pool.find(wild.digest).reason
    missing = task(tmp_path, shots=500)
    assert run_cell(missing).status == pool.find(missing.digest).status == "failed"
    # The same cell with a remedy of what was outside of it: its record goes.
    asked = task(tmp_path)
    pool.fail(asked.digest, "failed", "the folder was not there")
    again = replace(asked, failed_at=pool.find(asked.digest).failed_at)
    assert run_cell(again) == CellResult("completed")
    assert not list(tmp_path.glob("cells/*" + asked.digest[:16] + "*.failed.json"))


def test_a_failure_that_is_news_is_the_answer(tmp_path: Path) -> None:
    """Two commands planned the same cells, and the other has tried this one while ours had others in hand."""
    asked, pool = task(tmp_path), CellStore(tmp_path)
    pool.fail(asked.digest, "failed", "the first reason")
    known = replace(asked, failed_at=pool.find(asked.digest).failed_at)
    pool.fail(asked.digest, "failed", "the second reason")
    assert run_cell(known) == run_cell(asked) == CellResult("failed", "the second reason")
    assert not pool.directory(asked.digest).exists()


def nudge(note: Path) -> None:
    note.write_text(note.read_text().replace('"seed": 0', '"seed": 1'))


@pytest.mark.parametrize("damage", [nudge, Path.unlink, lambda note: note.write_text("{")])
def test_a_note_that_is_damaged_makes_no_table(tmp_path: Path, damage: Callable[[Path], None]) -> None:
    pool = CellStore(tmp_path)
    pool.write_manifest(
        "g", GridManifest("A question", ("replay",), ({"arm": {"replay": "full"}, "seed": 0, "digest": "0" * 64},))
    )
    damage(tmp_path / "grids" / "g.json")
    with pytest.raises(RunDirectoryError, match=r"damaged|holds no grid"):
        pool.outcomes("g")


def file_in_place_of_a_folder(path: Path) -> None:
    shutil.rmtree(path)
    path.write_text("")


def folder_in_place_of(name: str) -> Callable[[Path], None]:
    def damage(path: Path) -> None:
        file = path / name if "{}" not in name else path.parent / name.format(path.name)
        if file.exists():
            file.unlink()
        (file / "below").mkdir(parents=True)

    return damage


@pytest.mark.slow
@pytest.mark.parametrize(
    "damage",
    [
        file_in_place_of_a_folder,
        lambda path: shutil.rmtree(path / "checkpoints"),
        *map(folder_in_place_of, ("result.json", "seal.json", "manifest.json", "events.jsonl")),
        *map(folder_in_place_of, ("{}.lock", "{}.failed.json", "checkpoints/mega-batch-001.pt")),
    ],
)
def test_what_stands_in_the_way_is_taken_away(tmp_path: Path, damage: Callable[[Path], None]) -> None:
    asked, pool = task(tmp_path, epochs=1), CellStore(tmp_path)
    run_cell(asked)
    whole = result(tmp_path, asked.digest)
    unseal(pool.directory(asked.digest))
    damage(pool.directory(asked.digest))
    assert pool.find(asked.digest).status == "missing"
    assert run_cell(asked) == CellResult("completed")
    assert result(tmp_path, asked.digest) == whole


@pytest.mark.slow
def test_what_a_killed_process_left_half_written_goes(tmp_path: Path) -> None:
    asked, pool = task(tmp_path, epochs=1), CellStore(tmp_path)
    path = pool.directory(asked.digest)
    run_cell(asked)
    unseal(path)
    for file in (path / ".result.json.7.tmp", path / "checkpoints" / ".resume-001-0001.pt.7.tmp"):
        file.write_text("half")
    run_cell(asked)
    assert not list(path.rglob("*.tmp"))


def test_unsealed_result_of_a_locked_cell_is_not_damage(tmp_path: Path) -> None:
    asked, pool = task(tmp_path, epochs=1), CellStore(tmp_path)
    run_cell(asked)
    unseal(pool.directory(asked.digest))
    with pool.lock(asked.digest):
        assert (pool.find(asked.digest).status, pool.find(asked.digest).remark) == ("missing", "")
    assert pool.find(asked.digest).remark


def test_matched_cells_are_followed_by_their_samples(tmp_path: Path) -> None:
    """Their mega-batches have no number of epochs in common."""
    asked = task(tmp_path, epochs=None, samples=100)
    follower = ProgressReader(CellStore(tmp_path), [asked.digest])
    assert run_cell(asked) == CellResult("completed")
    standing = follower.running()[asked.digest]
    assert (standing.share, standing.mega_batch) == (1.0, 2)
    assert (follower.left() or 0) < 1e-9


def test_the_outcomes_of_a_grid(tmp_path: Path) -> None:
    pool, done, never = CellStore(tmp_path), task(tmp_path), task(tmp_path, seed=1)
    run_cell(done)
    cells = [{"arm": {"replay": "full"}, "seed": s, "digest": t.digest} for s, t in ((0, done), (1, never))]
    pool.write_manifest("first", GridManifest("A question", ("replay",), tuple(cells), {"replay": "full"}))
    found = pool.outcomes()
    assert (found.title, found.axes, found.baseline) == ("A question", ("replay",), {"replay": "full"})
    assert [(c.seed, c.status, c.reason) for c in found.cells] == [(0, "completed", ""), (1, "missing", "not run yet")]
    assert found.arms() == ({"replay": "full"},)
    with pytest.raises(RunDirectoryError, match="no grid 'second'; there are first"):
        pool.outcomes("second")
    with pytest.raises(RunDirectoryError, match="holds no grid: give the folder of an ablation"):
        CellStore(tmp_path / "elsewhere").outcomes()


def noted(seeds: range, *, title: str = "A question", digit: str = "0", axis: str = "replay") -> GridManifest:
    cells = ({"arm": {axis: "full"}, "seed": seed, "digest": f"{seed:x}{digit * 63}"} for seed in seeds)
    return GridManifest(title, (axis,), tuple(cells))


def test_a_note_gives_way_to_the_same_question_alone(tmp_path: Path) -> None:
    """More seeds or fewer are the same question; another cell for the same seed, or another axis, is another."""
    pool = CellStore(tmp_path)
    assert pool.name_for(noted(range(3)), "g") == "g"
    pool.write_manifest("g", noted(range(3)))
    assert [pool.name_for(noted(range(n)), "g") for n in (1, 3, 5)] == ["g"] * 3
    others = [noted(range(3), digit="1"), noted(range(3), axis="reinit"), noted(range(2, 4))]
    assert [pool.name_for(other, "g") for other in others] == ["g-2"] * 3
    pool.write_manifest("g-2", others[0])
    assert [pool.name_for(other, "g") for other in others] == ["g-2", "g-3", "g-3"]
    assert [pool.name_available("g", note) for note in (noted(range(9)), others[0])] == [True, False]
    (tmp_path / "grids" / "g.json").write_text("{")
    assert pool.name_for(others[1], "g") == "g"


@pytest.mark.parametrize("digest", ["../../../etc/passwd", "", "0" * 63, "g" * 64])
def test_a_note_leads_nowhere_else(tmp_path: Path, digest: str) -> None:
    """Whoever made it up: its seal is right, and it is no way out of the folder."""
    pool = CellStore(tmp_path)
    pool.write_manifest(
        "g", GridManifest("A question", ("replay",), ({"arm": {"replay": "full"}, "seed": 0, "digest": digest},))
    )
    with pytest.raises(RunDirectoryError, match=r"g\.json is damaged"):
        pool.outcomes("g")


def test_a_note_of_another_version_is_told(tmp_path: Path) -> None:
    pool = CellStore(tmp_path)
    pool.write_manifest("g", noted(range(1)))
    path = tmp_path / "grids" / "g.json"
    content = json.loads(path.read_text())
    content = {key: value for key, value in {**content, "schema": 1}.items() if key not in ("command", "sha256")}
    seal = hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()
    path.write_text(json.dumps({**content, "sha256": seal}))
    with pytest.raises(RunDirectoryError, match="another version of forgetkit; forgetkit ablate makes it again"):
        pool.outcomes("g")
