"""What forgetkit wrote, with an entry taken away, doubled, renamed or of another type, and sealed again.

A digest does not prove the author. Each change is refused in one line, or is another valid input.
"""

from __future__ import annotations

import copy
import hashlib
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from corruption import ABLATE, RUN, of_run
from helpers.fuzz_judging import command, examples, one_line
from helpers.fuzz_values import texts
from hypothesis import given
from hypothesis import strategies as st

from forgetkit.storage import line_of, write_with_digest
from forgetkit.storage.atomic_files import with_digest

pytestmark = pytest.mark.slow

odd = st.one_of(
    st.sampled_from([None, True, 0, -1, 1, 10**30, 0.5, float("nan"), float("inf"), "", "none", [], {}, [[]], [None]]),
    texts.filter(lambda text: "\ud800" not in text),
    st.integers(),
    st.dictionaries(st.sampled_from(["a", "seed", "index", "train"]), st.integers(), max_size=2),
    st.lists(st.integers(), max_size=3),
)


def places(tree: Any, path: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    """Every place in a tree, by the keys that lead there."""
    if path:
        yield path
    if isinstance(tree, dict):
        for key in tree:
            yield from places(tree[key], (*path, key))
    if isinstance(tree, list):
        for number in range(len(tree)):
            yield from places(tree[number], (*path, number))


@st.composite
def another(draw, tree):
    """A tree with one or two entries changed."""
    tree = copy.deepcopy(tree)
    for _ in range(draw(st.integers(1, 2))):
        every = list(places(tree))
        if not every:
            break
        *way, last = draw(st.sampled_from(every))
        holder = tree
        for key in way:
            holder = holder[key]
        match draw(st.sampled_from(["take away", "put", "put", "double", "rename"])):
            case "take away":
                del holder[last]
            case "double" if isinstance(holder, list):
                holder.append(copy.deepcopy(holder[last]))
            case "rename" if isinstance(holder, dict):
                holder[draw(st.sampled_from(["stranger", "", "x.y", *holder]))] = holder.pop(last)
            case _:
                holder[last] = draw(odd)
    return tree


CASES = {
    "the manifest": ("runs/cut/manifest.json", [*RUN, "--resume", "runs/cut"]),
    "the note of a state": ("runs/cut/checkpoints/resume-003-0000.json", [*RUN, "--resume", "runs/cut"]),
    "a row": ("runs/cut/checkpoints/resume-row-001.json", [*RUN, "--resume", "runs/cut"]),
    "the note of a model": ("runs/cut/checkpoints/mega-batch-001.json", [*RUN, "--resume", "runs/cut"]),
    "a result": ("runs/done/result.json", ["report", "runs/done", "--quiet"]),
    "a grid, tabled": ("ablations/grids/warm-or-not.json", ["table", "ablations", "--json"]),
    "a grid, gone on with": ("ablations/grids/warm-or-not.json", ABLATE),
    "a cell's result, tabled": ("result.json", ["table", "ablations"]),
    "a cell's result, reported": ("result.json", ["report", "ablations", "--quiet"]),
    "a cell's seal": ("seal.json", ["table", "ablations"]),
    "a cell's manifest": ("manifest.json", ABLATE),
}


def unsealed(path: Path) -> dict[str, Any]:
    content = json.loads(path.read_text())
    content.pop("sha256", None)
    return content


def seal(path: Path, content: Any, *, seals: bool) -> None:
    """As forgetkit would have written it."""
    if isinstance(content, dict):
        with_seal = {**content, "sha256": hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()}
        content = with_seal if not seals else _as_sealed(content)
    path.write_text(json.dumps(content))
    cell = path.parent / "seal.json"
    if path.name == "result.json" and cell.exists():
        write_with_digest(cell, {**unsealed(cell), "result_sha256": hashlib.sha256(path.read_bytes()).hexdigest()})


def _as_sealed(content: dict[str, Any]) -> Any:
    try:
        return with_digest(content)
    except ValueError:  # NaN, which it never writes
        return content


@pytest.mark.parametrize(("file", "words"), CASES.values(), ids=CASES)
def test_whatever_a_record_says(stage, file, words):
    where = stage.place.here
    path = where / file if "/" in file else sorted(where.glob(f"ablations/cells/*/{file}"))[0]
    if not path.exists():
        pytest.skip(f"there is no {path.name}")
    whole = json.loads(path.read_text())
    whole.pop("sha256", None)

    @examples(4)
    @given(another(whole))
    def check(content):
        stage.place.fresh()
        seal(path, content, seals=True)
        answer = command(words)
        assert not answer.wrong, (answer, content)
        if answer.status:
            assert len(answer.err.splitlines()) == 1, answer

    check()


def test_a_row_of_a_record_is_never_another_in_silence(stage):
    """The row of a finished mega-batch changed and sealed again is another row: what it holds is in the result."""
    path = stage.place.here / "runs/cut/checkpoints/resume-row-001.json"
    seal(path, unsealed(path), seals=True)
    answer = command([*RUN, "--resume", "runs/cut"])
    assert one_line(answer) == ""
    assert of_run("runs/cut")(stage.place, answer) == stage.references["an interrupted run, resumed"]


@examples(6)
@given(st.data())
def test_whatever_the_events_say(stage, data):
    stage.place.fresh()
    events = stage.place.here / "runs/cut/events.jsonl"
    lines = events.read_text().splitlines()
    number = data.draw(st.integers(0, len(lines) - 1))
    event = {key: value for key, value in json.loads(lines[number]).items() if key != "crc32"}
    forged = data.draw(another(event))
    lines[number] = line_of(forged).decode().strip() if data.draw(st.booleans()) else json.dumps(forged)
    events.write_text("\n".join(lines) + "\n")
    (stage.place.here / "runs/cut/checkpoints/resume-row-001.json").unlink()  # so that they are looked at
    answer = command([*RUN, "--resume", "runs/cut"])
    assert not answer.wrong, answer
    if answer.status == 0:
        assert of_run("runs/cut")(stage.place, answer) == stage.references["an interrupted run, resumed"]
