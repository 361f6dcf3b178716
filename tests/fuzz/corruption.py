"""Files that something has happened to, and what the command that reads them makes of that.

``python tests/fuzz/corruption.py --inputs 1000 --seed 0`` damages a file of a fresh copy of small real runs, ablations
and data sets, lets the fitting command loose on it, and judges: the result is the undisturbed one, or the command ends
with one line that names the file and says what to do. It prints what became of each kind of damage, and every
violation with the number that makes it again (``--only NUMBER``); the exit status is 1 where there is one.
"""

from __future__ import annotations

import argparse
import ast
import contextlib
import hashlib
import json
import os
import random
import re
import shutil
import subprocess
import sys
import tempfile
import tomllib
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any
from unittest import mock

import numpy as np
from PIL import Image

sys.path.append(str(Path(__file__).parents[1]))
from helpers.forgeries import Forgery, forge, forgeable
from helpers.fuzz_judging import Answer, command, fault
from helpers.subprocesses import substance

from forgetkit.config import RunConfig
from forgetkit.errors import RunDirectoryError
from forgetkit.results import plots
from forgetkit.results.cell_store import CellStore
from forgetkit.storage import RunDirectory

PLUGIN = '''
"""An intervention with a state of its own, and an executor that stays in this process."""

import dataclasses, forgetkit, torch
from forgetkit.contracts import Intervention


@dataclasses.dataclass(frozen=True)
class Pull(Intervention):
    """Pull the weights towards their running mean."""

    strength: float = 0.01

    def begin(self, moment):
        for name, p in moment.model.named_parameters():
            moment.state.setdefault(name, p.detach().clone())

    @torch.no_grad()
    def after_step(self, moment):
        for name, p in moment.model.named_parameters():
            moment.state[name].lerp_(p, 0.1)
            p.lerp_(moment.state[name], self.strength)


@dataclasses.dataclass(frozen=True)
class Inline:
    """One after the other."""

    def execute(self, work, tasks):
        for place, task in enumerate(tasks):
            yield place, work(task)


@forgetkit.hookimpl
def forgetkit_interventions():
    return {"pull": Pull}


@forgetkit.hookimpl
def forgetkit_executors():
    return {"inline": Inline}
'''

EACH_EPOCH = "checkpoint_epochs = 1" if "checkpoint_epochs" in RunConfig.model_fields else "checkpoint_seconds = 0"

OPTIONS = f"""
# A run of a few milliseconds.
dataset = "npz:path=data.npz"
batch-size = 16
lr = 0.05
seed = SEED
interventions = ["pull:strength=0.02"]
{EACH_EPOCH}

["reinit.masked"]
fraction = 0.25
"""

GRID = f"""
title = "Warm or not"
seeds = "SEED"

[base]
dataset = "npz:path=data.npz"
lr = 0.05
{EACH_EPOCH}

[arms.warm]
method = "warm"

[arms.lure]
importance = "snip"
reinit = "masked:fraction=0.3"
"""

RUN = ["run", "--plugin", "pull.py", "--quiet"]
SMALL = ["--model", "mlp:width=8", "--mega-batches", "3", "--epochs", "2", "--threads", "1"]
"""On the command line, so that no damage to a file makes a long run of it."""
WITH_OPTIONS = [*RUN, "--config", "options.toml", *SMALL]
ABLATE = ["ablate", "grid.toml", "--executor", "inline", "--plugin", "pull.py", "--quiet", *SMALL]
PLAIN = [*("--model", "mlp:width=8", "--mega-batches", "2", "--epochs", "1", "--threads", "1", "--quiet")]

Judge = Callable[["Place"], Any]


@dataclass(frozen=True)
class Place:
    """The folder that commands work in, with an undisturbed copy and another's."""

    root: Path

    @property
    def here(self) -> Path:
        return self.root / "here"

    @property
    def stage(self) -> Path:
        return self.root / "stage"

    @property
    def other(self) -> Path:
        return self.root / "other"

    def fresh(self) -> None:
        """Everything as it was before anything was damaged."""
        shutil.rmtree(self.here, ignore_errors=True)
        shutil.copytree(self.stage, self.here, symlinks=True)
        os.chdir(self.here)


@dataclass(frozen=True)
class Target:
    """Files to be damaged, the command that reads them, and what it should come to.

    ``outcome`` says what the command came to, from what it left on the disk and printed. ``content`` takes a file for
    what it says, so that what is damaged and says the same, or properly says something else, can be told from what
    says nothing: then it raises. ``told`` are files of which every change of content must be said; ``others`` says
    that another content is another input, not a damage.
    """

    name: str
    files: tuple[str, ...]
    words: tuple[str, ...]
    outcome: Callable[[Place, Answer], Any]
    weight: int = 1
    content: Callable[[Path], Any] = Path.read_bytes
    must_report: tuple[str, ...] = ()
    others: bool = False
    may_be_missing: bool = False
    """Without the file, or with a folder of its name, it is another input."""
    same: Callable[[Any, Any, bool], bool] = lambda found, wanted, reported: bool(found == wanted)
    """Whether an outcome is the undisturbed one; True: where the damage was said."""
    forged: float = 0.5
    """How many of its inputs are forged, where the file can be."""


def of_run(path: str) -> Callable[[Place, Answer], Any]:
    """A run's result but for times, and its models that hold: nothing reads one that does not."""

    def outcome(place: Place, answer: Answer) -> Any:
        folder = place.here / path
        return substance(json.loads((folder / "result.json").read_text())), _models(folder)

    return outcome


def _models(folder: Path) -> dict[str, str]:
    """The digest of each model that a run kept; "refused" for one that is told to be damaged when it is asked for."""
    run, found = RunDirectory(folder), {}
    for file in sorted((folder / "checkpoints").glob("mega-batch-*.pt")):
        try:
            run.model(int(file.stem.rpartition("-")[2]))
            found[file.name] = hashlib.sha256(file.read_bytes()).hexdigest()
        except RunDirectoryError:
            found[file.name] = "refused"
    return found


def runs_are_one(found: Any, wanted: Any, reported: bool) -> bool:
    """Equal results and models, but for a model that is refused by itself."""
    (result, models), (true_result, true_models) = found, wanted
    kept = {name: digest for name, digest in models.items() if digest != "refused"}
    return result == true_result and len(kept) >= len(true_models) - 1 and kept.items() <= true_models.items()


def but_for_one(found: str, wanted: str, reported: bool) -> bool:
    """The same lines, of which one cell's is told to be missing where the damage is said."""
    pairs = list(zip(found.splitlines(), wanted.splitlines(), strict=True))
    others = [(one, other) for one, other in pairs if one != other]
    return len(others) <= reported and all('"missing"' in one and '"completed"' in two for one, two in others)


def but_for_one_on_a_page(found: str, wanted: str, reported: bool) -> bool:
    """The same page, or another where the damage is said: what it holds is judged by the table."""
    return reported or found == wanted


def of_the_page(path: str) -> Callable[[Place, Answer], Any]:
    return lambda place, answer: (place.here / path).read_text()


def of_the_output(place: Place, answer: Answer) -> Any:
    return answer.out


def of_the_cells(place: Place, answer: Answer) -> Any:
    """Each cell's arm, seed and result."""
    cells = CellStore(place.here / "ablations").outcomes().cells
    return [
        (dict(cell.arm), cell.seed, cell.status, None if cell.result is None else substance(dict(cell.result)))
        for cell in cells
    ]


def npz_content(path: Path) -> Any:
    with path.open("rb") as file, np.load(file, allow_pickle=False) as archive:
        return {name: (archive[name].dtype.str, archive[name].shape, archive[name].tobytes()) for name in archive.files}


def image_content(path: Path) -> Any:
    with Image.open(path) as image:
        image.load()
        return image.mode, image.size, image.convert("RGB").tobytes()


def toml_content(path: Path) -> Any:
    return tomllib.loads(path.read_bytes().decode())


def python_content(path: Path) -> Any:
    return ast.dump(ast.parse(path.read_bytes()))


def json_content(path: Path) -> Any:
    return json.loads(path.read_bytes())


def of_arrays(place: Place, answer: Answer) -> Any:
    return npz_content(place.here / "masks.npz")


def of_the_answers(place: Place, answer: Answer) -> Any:
    """The answers as they were printed, whether they were there already or not."""
    unsaid = ("seconds", "status")  # a damaged answer is asked for again
    return [{key: one[key] for key in one if key not in unsaid} for one in json.loads(answer.out)["answers"]]


ASKED_OF_CELLS = ("calibration", "plasticity", "churn")
ASKED = ("churn", "plasticity")

TARGETS = (
    Target(
        "an interrupted run, resumed",
        ("runs/cut/*", "runs/cut/checkpoints/*"),
        (*RUN, "--resume", "runs/cut"),
        of_run("runs/cut"),
        weight=6,
        must_report=("runs/cut/checkpoints/resume-003-0000*", "runs/cut/manifest.json"),
        same=runs_are_one,
    ),
    Target(
        "a run in the midst of an epoch",
        ("runs/midst/checkpoints/*",),
        (*RUN, "--resume", "runs/midst"),
        of_run("runs/midst"),
        weight=3,
        same=runs_are_one,
    ),
    Target(
        "masks, exported",
        ("runs/done/checkpoints/masks-*.pt",),
        ("analyze", "runs/done", "--plugin", "pull.py", "--export-masks", "masks.npz"),
        of_arrays,
        weight=2,
        forged=1,
    ),
    Target(
        "a finished run, analyzed",
        ("runs/done/*.json*", "runs/done/checkpoints/ma*-00*", "runs/done/checkpoints/mega-*"),
        ("analyze", "runs/done", *ASKED, "--again", "--no-report", "--json", "--quiet", "--plugin", "pull.py"),
        of_the_answers,
        weight=3,
        forged=1,
    ),
    Target(
        "answers, tabled",
        ("ablations/cells/*/analyses/*.json",),
        ("table", "ablations", "--format", "csv"),
        of_the_output,
        same=but_for_one_on_a_page,
        forged=1,
    ),
    Target(
        "answers, reported",
        ("ablations/cells/*/analyses/*.json", "ablations/grids/*/analyses/*.json"),
        ("report", "ablations", "--quiet", "--out", "page.html"),
        of_the_page("page.html"),
        same=but_for_one_on_a_page,
        weight=2,
        forged=1,
    ),
    Target(
        "answers, asked for again",
        ("ablations/cells/*/analyses/*.json",),
        ("analyze", "ablations", "calibration", "--no-report", "--json", "--quiet", "--plugin", "pull.py"),
        of_the_answers,
        forged=1,
    ),
    Target(
        "a finished run, reported",
        ("runs/done/*.json*", "runs/done/result.json", "runs/done/checkpoints/*"),
        ("report", "runs/done", "--quiet", "--out", "page.html"),
        of_the_page("page.html"),
        weight=2,
        must_report=("runs/done/result.json",),
    ),
    Target(
        "an ablation, tabled",
        ("ablations/grids/*", "ablations/cells/*/*.json", "ablations/cells/*.*"),
        ("table", "ablations", "--format", "csv"),
        of_the_output,
        same=but_for_one,
        weight=2,
        must_report=("ablations/grids/*.json", "ablations/cells/*/result.json", "ablations/cells/*/seal.json"),
    ),
    Target(
        "an ablation, reported",
        ("ablations/grids/*", "ablations/cells/*/*.json", "ablations/cells/*.*"),
        ("report", "ablations", "--quiet", "--out", "page.html"),
        of_the_page("page.html"),
        same=but_for_one_on_a_page,
        weight=1,
        must_report=("ablations/grids/*.json", "ablations/cells/*/result.json", "ablations/cells/*/seal.json"),
    ),
    Target(
        "an ablation, gone on with",
        ("ablations/grids/*", "ablations/cells/*/*", "ablations/cells/*/checkpoints/*", "ablations/cells/*.*"),
        tuple(ABLATE),
        of_the_cells,
        weight=6,
        must_report=("ablations/grids/*.json", "ablations/cells/*/result.json", "ablations/cells/*/seal.json"),
    ),
    Target(
        "an npz archive",
        ("data.npz",),
        ("run", "--dataset", "npz:path=data.npz", *PLAIN, "--name", "fresh"),
        of_run("runs/fresh"),
        weight=4,
        content=npz_content,
        others=True,
    ),
    Target(
        "an image folder",
        ("photos/*/*/*",),
        ("run", "--dataset", "folder:path=photos,size=8", *PLAIN, "--name", "fresh"),
        of_run("runs/fresh"),
        weight=3,
        content=image_content,
        others=True,
        may_be_missing=True,
    ),
    Target(
        "the cache of an image folder",
        ("cache/folder/*/*", "cache/folder/*"),
        ("run", "--dataset", "folder:path=photos,size=8", *PLAIN, "--name", "fresh"),
        of_run("runs/fresh"),
        weight=3,
    ),
    Target(
        "a file of options",
        ("options.toml",),
        (*WITH_OPTIONS, "--name", "fresh"),
        of_run("runs/fresh"),
        weight=3,
        content=toml_content,
        others=True,
    ),
    Target(
        "a grid",
        ("grid.toml",),
        tuple(ABLATE),
        of_the_cells,
        weight=2,
        content=toml_content,
        others=True,
    ),
    Target(
        "a plugin",
        ("pull.py",),
        (*WITH_OPTIONS, "--name", "fresh"),
        of_run("runs/fresh"),
        weight=2,
        content=python_content,
        others=True,
    ),
)


# What may happen to a file: each takes its path, a generator and another's file of that name; False: not to this one.


def truncated(path: Path, rng: random.Random, foreign: Path) -> bool:
    content = path.read_bytes()
    path.write_bytes(content[: rng.randrange(len(content))] if content else b"")
    return bool(content)


def bits_flipped(path: Path, rng: random.Random, foreign: Path) -> bool:
    content = bytearray(path.read_bytes())
    for _ in range(rng.randint(1, 8) if content else 0):
        content[rng.randrange(len(content))] ^= 1 << rng.randrange(8)
    path.write_bytes(content)
    return bool(content)


def block_of_zeros(path: Path, rng: random.Random, foreign: Path) -> bool:
    content = bytearray(path.read_bytes())
    start = rng.randrange(len(content)) if content else 0
    end = min(len(content), start + rng.choice([1, 16, 512, 4096]))
    content[start:end] = bytes(end - start)
    path.write_bytes(content)
    return bool(content)


def deleted(path: Path, rng: random.Random, foreign: Path) -> bool:
    path.unlink()
    return True


def anothers(path: Path, rng: random.Random, foreign: Path) -> bool:
    if not foreign.is_file():
        return False
    shutil.copyfile(foreign, path)
    return True


def emptied(path: Path, rng: random.Random, foreign: Path) -> bool:
    path.write_bytes(b"")
    return True


def a_folder(path: Path, rng: random.Random, foreign: Path) -> bool:
    path.unlink()
    path.mkdir()
    return True


def a_link_to_nowhere(path: Path, rng: random.Random, foreign: Path) -> bool:
    path.unlink()
    path.symlink_to("nowhere")
    return True


def garbage_appended(path: Path, rng: random.Random, foreign: Path) -> bool:
    with path.open("ab") as file:
        file.write(rng.randbytes(rng.randint(1, 300)))
    return True


def half_a_last_line(path: Path, rng: random.Random, foreign: Path) -> bool:
    content = path.read_bytes()
    start = content.rstrip(b"\n").rfind(b"\n") + 1
    path.write_bytes(content[: rng.randint(start, max(start, len(content) - 1))])
    return bool(content)


def a_pipe(path: Path, rng: random.Random, foreign: Path) -> bool:
    path.unlink()
    os.mkfifo(path)
    return True


def without_end(path: Path, rng: random.Random, foreign: Path) -> bool:
    path.unlink()
    path.symlink_to("/dev/zero")
    return True


DAMAGES = (
    *(truncated, bits_flipped, block_of_zeros, deleted, anothers, emptied, a_folder, a_link_to_nowhere),
    *(garbage_appended, half_a_last_line, a_pipe, without_end),
)
WEIGHTS = [3, 5, 2, 1, 2, 1, 1, 1, 2, 2, 1, 1]


class _Cut(KeyboardInterrupt):
    """Where a run is stopped."""


@contextlib.contextmanager
def stopped_after(states: int) -> Iterator[None]:
    """While the run that writes so many states to resume from is stopped there."""
    append, written = RunDirectory.append, 0

    def counted(self: RunDirectory, event: Mapping[str, Any]) -> None:
        nonlocal written
        append(self, event)
        written += event["event"] == "checkpointed"
        if written == states:
            raise _Cut

    with mock.patch.object(RunDirectory, "append", counted):
        yield


def _must(words: Sequence[str], status: int = 0) -> None:
    answer = command(words)
    if answer.status != status or (answer.wrong and status != 130):
        raise SystemExit(f"the stage cannot be set: {words}: {answer}")


def set_up(place: Place, seed: int) -> None:
    """Runs and data in the folder that commands work in."""
    shutil.rmtree(place.here, ignore_errors=True)
    place.here.mkdir(parents=True)
    os.chdir(place.here)
    rng = np.random.default_rng(seed)
    labels = np.arange(60) % 3
    images = rng.integers(0, 200, (60, 8, 8), dtype=np.uint8) + (18 * labels).astype(np.uint8)[:, None, None]
    split = {"x_train": images[:45], "y_train": labels[:45], "x_test": images[45:], "y_test": labels[45:]}
    np.savez_compressed("data.npz", **split)
    for part, count in (("train", 5), ("test", 2)):
        for name in ("cat", "dog"):
            folder = Path("photos", part, name)
            folder.mkdir(parents=True)
            for number in range(count):
                pixels = rng.integers(0, 255, (12, 10, 3), dtype=np.uint8)
                Image.fromarray(pixels).save(folder / f"{number}.{'png' if number % 2 else 'jpg'}")
    Path("pull.py").write_text(PLUGIN.replace("0.1)", f"0.{seed + 1})"))
    Path("options.toml").write_text(OPTIONS.replace("SEED", str(seed)))
    Path("grid.toml").write_text(GRID.replace("SEED", f"{2 * seed}-{2 * seed + 1}"))
    _must([*WITH_OPTIONS, "--name", "done"])
    with stopped_after(4):
        _must([*WITH_OPTIONS, "--name", "cut"], 130)
    with stopped_after(5):
        _must([*WITH_OPTIONS, "--name", "midst", "--carry", "best-val", "--checkpoint-seconds", "1e-9"], 130)
    with stopped_after(12):
        _must(ABLATE, 130)
    _must(["analyze", "ablations", *ASKED_OF_CELLS, "--no-report", "--quiet", "--plugin", "pull.py"])
    _must(["run", "--dataset", "folder:path=photos,size=8", *PLAIN, "--name", "seen"])


@dataclass
class Stage:
    """Undisturbed runs and data, and what each command makes of them."""

    place: Place
    references: dict[str, Any] = field(default_factory=dict)
    cells: dict[str, str] = field(default_factory=dict)
    """The place of each cell in its grid, by the name of its folder."""

    def order(self, file: Path) -> str:
        """What files are sorted by: a cell's name depends on the folder that all this is in, its place does not."""
        return re.sub(r"[0-9a-f]{16}", lambda name: self.cells.get(name[0], name[0]), str(file))

    @classmethod
    def build(cls, root: Path) -> Stage:
        """Everything twice: that which is damaged, and another's."""
        place = Place(root)
        os.environ["FORGETKIT_CACHE"] = str(place.here / "cache")
        set_up(place, 1)
        shutil.copytree(place.here, place.other, symlinks=True)
        set_up(place, 0)
        shutil.copytree(place.here, place.stage, symlinks=True)
        stage = cls(place)
        outcomes = CellStore(place.here / "ablations").outcomes()
        stage.cells.update({cell.digest[:16]: f"{number}" for number, cell in enumerate(outcomes.cells)})
        for target in TARGETS:
            place.fresh()
            answer = command(target.words)
            if answer.status != 0 or answer.wrong:
                raise SystemExit(f"{target.name}, undisturbed: {answer}")
            stage.references[target.name] = target.outcome(place, answer)
        return stage


@dataclass(frozen=True)
class Verdict:
    """What became of a damaged file, and what is wrong with that ("": nothing)."""

    number: str
    target: str
    damage: str
    file: str
    became: str
    wrong: str
    answer: Answer


REMEDY = re.compile(
    r"\b(add|allow|begin|begun|choose|copy|delete|give|go on|install|leave|make|makes|needs|put|remove|repair|replace|"
    r"restore|run|save|start|take|tries|try|use|write|did you mean|there are|should be|must|too)\b"
)
"""What to do, in the imperative or by what is wanted."""


def one(stage: Stage, seed: int, number: int, *, in_a_child: bool = False) -> Verdict:
    """Input ``number`` of ``seed``: damage a file, let the command loose on it, judge."""
    rng = random.Random(f"{seed}/{number}")
    target = rng.choices(TARGETS, [target.weight for target in TARGETS])[0]
    place = stage.place
    place.fresh()
    found = {file for pattern in target.files for file in place.here.glob(pattern) if file.is_file()}
    files = sorted(found, key=stage.order)
    file = rng.choice(files)
    inside = file.relative_to(place.here)
    foreign = _counterpart(place, target, inside, rng)
    forgery = forge(file, rng) if forgeable(file) and rng.random() < target.forged else None
    applied = forgery is not None
    damage = forge if applied else truncated
    while not applied:
        damage = rng.choices(DAMAGES, WEIGHTS)[0]
        applied = damage(file, rng, foreign)
    before, after, there = _content(target, place.stage / inside), _content(target, file), file.exists()
    alone = in_a_child and target.words[0] != "report"
    answer = _in_a_child(target.words) if alone else command(target.words)
    if forgery is not None:
        became, wrong = _judged_forgery(stage, target, inside, forgery, answer)
        return Verdict(
            f"{number}", target.name, f"forged: {forgery.name}", f"{inside}: {forgery.place}", became, wrong, answer
        )
    if damage is anothers and inside.parent.name == "grids":  # a whole note, of cells that are not here
        target = replace(target, others=target.words[0] != "ablate", must_report=())
    if damage is anothers and inside.name == "manifest.json":  # a whole one, of a run with other data
        target = replace(target, others=True)
    if not there:  # what is gone and not needed is not missed
        target = replace(target, must_report=())
    became, wrong = _judged(stage, target, inside, before, after, answer)
    return Verdict(f"{number}", target.name, damage.__name__.replace("_", " "), str(inside), became, wrong, answer)


def _counterpart(place: Place, target: Target, inside: Path, rng: random.Random) -> Path:
    """Another's file of that name; where folders or files go by digests, one that is as good."""
    if (place.other / inside).is_file():
        return place.other / inside
    found = sorted({file for pattern in target.files for file in place.other.glob(pattern) if file.is_file()})
    alike = [file for file in found if file.suffix == inside.suffix]
    named = [file for file in alike if file.name == inside.name]
    return rng.choice(named or alike or [place.other / "nothing"])


def _content(target: Target, path: Path) -> Any:
    """What a file says; an exception where it says nothing."""
    if target.may_be_missing and (path.is_dir() or not os.path.lexists(path)):
        return None
    if path.exists() and not path.is_file():
        return OSError("no regular file")
    try:
        if path.suffix == ".json":
            return json_content(path)
        return target.content(path)
    except Exception as error:  # noqa: BLE001 - whatever a parser meets
        return error


def _in_a_child(words: Sequence[str]) -> Answer:
    done = subprocess.run(
        [sys.executable, "-m", "forgetkit", *words], capture_output=True, text=True, timeout=300, check=False
    )
    return Answer(done.returncode, done.stdout, done.stderr, fault(done.returncode, done.stderr))


def _judged(stage: Stage, target: Target, file: Path, before: Any, after: Any, answer: Answer) -> tuple[str, str]:
    """What became of a damaged file, and what is wrong with that."""
    if answer.wrong:
        return "VIOLATION", answer.wrong
    lines = [line for line in answer.err.splitlines() if not line.startswith("to go on: ")]
    named = [line for line in lines if _names(line, file)]
    unreadable = isinstance(after, Exception)
    another = target.others and not unreadable and after != before
    if answer.status:
        if len(lines) != 1:
            return "VIOLATION", f"{len(lines)} lines"
        if not named and not another:
            return "VIOLATION", "the file is not named"
        if not REMEDY.search(lines[0]):
            return "VIOLATION", "it is not said what to do"
        return "refused", ""
    if another:
        return "another input", ""
    if len(named) < len(lines):
        return "VIOLATION", "a line that does not name the file"
    try:
        outcome = target.outcome(stage.place, answer)
    except Exception as error:  # noqa: BLE001 - there should be a whole result
        return "VIOLATION", f"no result: {error!r}"
    if not target.same(outcome, stage.references[target.name], bool(named)):
        return "VIOLATION", "another result than undisturbed"
    must = any(file.match(pattern) for pattern in target.must_report)
    if must and not named and after != before:
        return "VIOLATION", "recovered without a word"
    return ("recovered with a warning", "") if named else ("unharmed", "")


def _judged_forgery(stage: Stage, target: Target, file: Path, forgery: Forgery, answer: Answer) -> tuple[str, str]:
    """What became of a forged file: what is impossible is refused, or not read; what is possible is another input."""
    if answer.wrong:
        return "VIOLATION", answer.wrong
    lines = [line for line in answer.err.splitlines() if not line.startswith("to go on: ")]
    named = [line for line in lines if _names(line, file)]
    if forgery.impossible and len(named) < len(lines):
        return "VIOLATION", "a line that does not name the file"
    if answer.status:
        if len(lines) > (len(ASKED) if target.words[0] == "analyze" else 1):  # a line for each question
            return "VIOLATION", f"{len(lines)} lines"
        return ("refused", "") if REMEDY.search(lines[0]) else ("VIOLATION", "it is not said what to do")
    try:
        outcome = target.outcome(stage.place, answer)
    except Exception as error:  # noqa: BLE001 - there should be a whole result
        return "VIOLATION", f"no result: {error!r}"
    if target.same(outcome, stage.references[target.name], bool(named)):
        return ("recovered with a warning", "") if named else ("unharmed", "")
    if forgery.impossible and not (target.words[0] in ("run", "ablate") and file.name.startswith("mega-batch")):
        return "VIOLATION", "accepted in silence, with another result"
    return "another input", ""


def _names(line: str, file: Path) -> bool:
    """Whether a line names a file or one of its folders."""
    folders = [str(folder) for folder in list(file.parents)[:-1] if str(folder) != "runs"]
    return any(name in line for name in (str(file), file.name, *folders))


def table(verdicts: Sequence[Verdict]) -> str:
    """Kind by kind, what became of them."""
    columns = ["refused", "recovered with a warning", "unharmed", "another input", "VIOLATION"]
    lines = [f"| {'what':<32} | " + " | ".join(columns) + " |", "|" + "---|" * (len(columns) + 1)]
    for by in ("target", "damage"):
        for name in sorted({getattr(verdict, by) for verdict in verdicts}):
            counted = Counter(verdict.became for verdict in verdicts if getattr(verdict, by) == name)
            lines.append(f"| {name:<32} | " + " | ".join(str(counted[column]) for column in columns) + " |")
    counted = Counter(verdict.became for verdict in verdicts)
    lines.append(f"| {'together':<32} | " + " | ".join(str(counted[column]) for column in columns) + " |")
    return "\n".join(lines)


def judged(stage: Stage, seed: int, numbers: Sequence[int], every: int = 0) -> list[Verdict]:
    """So many inputs; each ``every``-th in a real child."""
    verdicts = []
    for n in numbers:
        verdicts.append(one(stage, seed, n, in_a_child=bool(every) and n % every == every - 1))
        if verdicts[-1].wrong:
            v = verdicts[-1]
            print(f"--seed {seed} --only {v.number}: {v.target}: {v.damage}: {v.file}: {v.wrong}")
            print(f"    status {v.answer.status}: {v.answer.err.strip()[:400]!r}", flush=True)
    return verdicts


def without_pictures() -> contextlib.AbstractContextManager[Any]:
    """While pages have none: they take a second each, and read nothing more."""
    return mock.patch.object(plots, "has_matplotlib", return_value=False)


def main() -> int:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--inputs", type=int, default=1000)
    parser.add_argument("--first", type=int, default=0, help="the number of the first: to do it in parts")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--only", type=int, nargs="*")
    parser.add_argument("--every", type=int, default=50, help="each so-manyth in a real child")
    asked = parser.parse_args()
    with tempfile.TemporaryDirectory() as root, without_pictures():
        stage = Stage.build(Path(root).resolve())
        verdicts = judged(stage, asked.seed, asked.only or range(asked.first, asked.first + asked.inputs), asked.every)
        os.chdir("/")
    wrong = [verdict for verdict in verdicts if verdict.wrong]
    if asked.only:
        for v in verdicts:
            print(v)
    print(table(verdicts))
    print(f"{len(verdicts)} inputs, {len(wrong)} violations")
    return bool(wrong)


if __name__ == "__main__":
    raise SystemExit(main())
