"""The code keeps to its plan: rooms, one home for each class name, and no old names."""

from __future__ import annotations

import ast
import re
import tomllib
from collections import defaultdict
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
SOURCES = [ROOT / "src" / "forgetkit", *sorted((ROOT / "plugins").glob("*/src/*"))]
DEFINITIONS = (ast.ClassDef, ast.FunctionDef, ast.AsyncFunctionDef)

OLD_NAMES = {
    "engine": "Due Heeding Throttled Session Bus computing _played_through settled Learner try_out advance _settled "
    "_require_unheard _looks_back _nothing_yet rehearse warn_where_short _anytime _losing_nothing _carry_on _standing "
    "_measured restored",
    "registry": "Installed Offer Broken one _strangers_at_work left_alone require_whole spelled checked",
    "seeding.py": "global_state global_draws go_on_drawing",
    "errors.py": "IdleOptionError DoesNotApplyError ShortOfMemoryError NothingMatchedError",
    "contracts": "Asked Labelled Moment Touch Lost Settled Preparing MegaBatchRow Comparing Share Amount lent twin",
    "unlearning": "Acting Place VERBS moments_of Tally _Line Past NOTHING_KNOWN Origins blamed put_back untouched "
    "unchanged Found Pool Noted Noting restored Processes together ReadAgain StandIns Checked Lazy Subject Standing "
    "Remembered AS_USUAL _Cut _Tied _Walk _Draft settle Aftercare plain Passes",
    "training": "Best Captured Underway made gone_wrong pause measured built judging arranged restored",
    "data": "Pool Afar Offered Revealed Excerpt offered played picked fits",
    "storage": "ResumePoint held tidy _told sealed",
    "system": "Halt heeded Stopped listening left short_of_memory_is_said",
    "config": "Workshop LOOKED_AT LEFT_OPEN SEVERAL departures",
    "ablation": "Pool Found Note Ended carry_out Follower Standing",
    "results": "Pool Found Note Told Place said asked laid Laid Look Looks Spot Shown Asked Facts Made Lost",
    "paper": "Taken Against Doubt Setting Figure Printed",
    "analysis": "Kept Held Examined Means Finished known",
    "builtin": "Shaken Made Read Nothing",
    "cli": "View LiveView PlainView Means conclude _obeyed_by_none",
    "display": "View LiveView PlainView _obeyed_by_none",
    "testing": "Situation examined_with Asked",
}


def rooms() -> set[str]:
    """The packages and modules below ``forgetkit`` that hold code."""
    found = {path.stem for path in SOURCES[0].glob("[a-z]*.py")}
    return found | {path.parent.name for path in SOURCES[0].glob("*/__init__.py")}


def layers() -> list[str]:
    content = tomllib.loads((ROOT / "pyproject.toml").read_text())
    contracts = content["tool"]["importlinter"]["contracts"]
    floors = next(contract["layers"] for contract in contracts if contract["name"].startswith("Floors"))
    return [re.sub(r"forgetkit\.", "", floor) for floor in floors]


def names_in(path: Path) -> set[str]:
    """What a file defines: classes, functions, methods and module-level names."""
    tree = ast.parse(path.read_text())
    defined = {node.name for node in ast.walk(tree) if isinstance(node, DEFINITIONS)}
    for node in tree.body:
        targets = node.targets if isinstance(node, ast.Assign) else [getattr(node, "target", None)]
        defined |= {target.id for target in targets if isinstance(target, ast.Name)}
    return defined


def test_rooms_of_folders_layers_and_page_agree():
    in_layers = {room for floor in layers() for room in floor.split(" | ")}
    page = (ROOT / "docs" / "architecture.md").read_text()
    on_page = re.findall(r"^\| (\d+) \| `(\w+)` \|", page, re.MULTILINE)
    assert in_layers == rooms()
    assert {room for _, room in on_page} == in_layers
    height = {room: len(layers()) - place for place, floor in enumerate(layers()) for room in floor.split(" | ")}
    assert {room: int(floor) for floor, room in on_page} == height


@pytest.mark.slow
def test_each_class_name_has_one_home():
    homes = defaultdict(list)
    for source in SOURCES:
        for path in source.rglob("*.py"):
            for node in ast.walk(ast.parse(path.read_text())):
                if isinstance(node, ast.ClassDef):
                    homes[node.name].append(str(path.relative_to(ROOT)))
    shared = {name: found for name, found in homes.items() if len(found) > 1}
    callbacks = shared.pop("ForgetCallback")  # of two trainers, each called as its users expect
    assert {Path(file).parent.name for file in callbacks} == {"integrations"}
    assert shared == {}


@pytest.mark.parametrize("room", OLD_NAMES)
def test_no_old_name_is_defined(room):
    path = SOURCES[0] / room
    files = [path] if path.suffix else sorted(path.rglob("*.py"))
    assert files
    old = set(OLD_NAMES[room].split())
    assert {str(file.relative_to(ROOT)): found for file in files if (found := names_in(file) & old)} == {}


def test_the_page_on_architecture_is_short():
    assert len((ROOT / "docs" / "architecture.md").read_text().split()) <= 1500
