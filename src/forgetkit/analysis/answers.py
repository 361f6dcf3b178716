"""Answers of analyses as JSON and back, stored as ``analyses/LABEL.json`` in the directory of a run or a grid."""

from __future__ import annotations

import dataclasses
import json
import math
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pydantic import TypeAdapter, ValidationError

from forgetkit.contracts import Answer, Chart, Measure, Series, as_number
from forgetkit.errors import ComponentError, OptionError, RecordError, RunDirectoryError
from forgetkit.storage.atomic_files import own_folder, read_with_digest, write_with_digest
from forgetkit.storage.validation import error_line, parse_as

SCHEMA = 1
FOLDER = "analyses"
_WORD = re.compile(r"[a-z0-9][a-z0-9_-]*")
_LARGEST = 1e150


def answer_to_json(answer: Answer) -> dict[str, Any]:
    """Return an answer as JSON holds it; raises ``ComponentError`` if an entry breaks the contract or is not finite."""
    for what, kind in (("numbers", Mapping), ("charts", Sequence), ("details", Mapping), ("remarks", Sequence)):
        if not isinstance(getattr(answer, what), kind) or isinstance(getattr(answer, what), str):
            raise ComponentError(f"the {what} of the answer are {type(getattr(answer, what)).__name__}")
    numbers = {key: _measure(key, value) for key, value in answer.numbers.items()}
    charts = [_chart(chart) for chart in answer.charts]
    if len({chart["name"] for chart in charts}) < len(charts):
        raise ComponentError("two charts of the answer have one name")
    if not all(isinstance(remark, str) for remark in answer.remarks):
        raise ComponentError("a remark of the answer is no text")
    content = {"numbers": numbers, "charts": charts, "details": answer.details, "remarks": list(answer.remarks)}
    try:
        plain: dict[str, Any] = json.loads(json.dumps(content, allow_nan=False, default=as_number))
    except (RecursionError, TypeError, ValueError) as error:
        raise ComponentError(f"the answer cannot be written as JSON: {error}") from error
    return plain


def answer_from_json(content: Mapping[str, Any]) -> Answer:
    """Return the answer that :func:`answer_to_json` wrote; raises ``RunDirectoryError`` if it is none."""
    try:
        answer = Answer(
            numbers=parse_as(dict[str, Measure], content["numbers"]),
            charts=parse_as(tuple[Chart, ...], content["charts"]),
            details=parse_as(dict[str, Any], content["details"]),
            remarks=parse_as(tuple[str, ...], content["remarks"]),
        )
        # Names become files, and a forged answer can have a valid digest.
        written = answer_to_json(answer)
        if not _keys_in({key: content[key] for key in written}, written):
            raise ValueError("it has entries that no answer has")
        return answer
    except (ComponentError, KeyError, TypeError, ValueError) as error:
        raise RunDirectoryError("it holds no answer of an analysis") from error


def _keys_in(content: Any, written: Any) -> bool:
    """Whether each key of ``content``, as deep as it goes, is one of ``written``."""
    if isinstance(written, dict):
        return all(key in written and _keys_in(content[key], written[key]) for key in content)
    if isinstance(written, list):
        return all(map(_keys_in, content, written))
    return True


def parse_label(text: str) -> str:
    """Return a label that can name a file and a column; raises ``OptionError`` if it cannot."""
    if not _WORD.fullmatch(text):
        raise OptionError(f"--as {text}: write small letters, digits, - and _, beginning with a letter or digit")
    return text


def _measure(key: str, value: Measure | float | None) -> dict[str, Any]:
    if not isinstance(key, str) or not _WORD.fullmatch(key):
        raise ComponentError(f"the number '{key}' of the answer has a name that is no word of small letters")
    measure = value if isinstance(value, Measure) else Measure(value)
    try:
        number = None if measure.value is None else as_number(measure.value)
    except TypeError as error:
        raise ComponentError(f"the number '{key}' of the answer is {error}") from error
    if number is not None and not (math.isfinite(number) and abs(number) <= _LARGEST):
        raise ComponentError(f"the number '{key}' of the answer is {number}; None says that there is none")
    return _valid(dataclasses.replace(measure, value=number), f"the number '{key}' of the answer")


def _chart(chart: Chart) -> dict[str, Any]:
    if not isinstance(chart, Chart) or not _WORD.fullmatch(chart.name):
        raise ComponentError(f"the answer has a chart without a name of small letters: {getattr(chart, 'name', chart)}")
    chart = dataclasses.replace(chart, series=[_series(series) for series in chart.series])
    for series in chart.series:
        lengths = {len(series.x), len(series.y), *([len(series.spread)] if series.spread is not None else [])}
        if len(lengths) > 1:
            raise ComponentError(f"the series '{series.name}' of the chart '{chart.name}' has sides of unequal length")
        for value in (*series.x, *series.y, *(series.spread or ())):
            if isinstance(value, float) and not math.isfinite(value):
                raise ComponentError(f"the series '{series.name}' of the chart '{chart.name}' holds {value}")
    return _valid(chart, f"the chart '{chart.name}' of the answer")


def _series(series: Series) -> Series:
    """A series with plain numbers in place of those of an array or a tensor."""
    spread = None if series.spread is None else [_plain(value) for value in series.spread]
    return dataclasses.replace(
        series, x=[_plain(value) for value in series.x], y=[_plain(value) for value in series.y], spread=spread
    )


def _plain(value: Any) -> Any:
    """A number as JSON holds it; any other value unchanged, so that the check of types names it."""
    try:
        return as_number(value)
    except TypeError:
        return value


def _valid(value: Measure | Chart, what: str) -> dict[str, Any]:
    """Return ``value`` as JSON holds it; raises ``ComponentError`` with the field whose type or word is wrong."""
    plain = dataclasses.asdict(value)
    try:
        TypeAdapter(type(value)).validate_python(plain)
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(map(str, first["loc"]))
        raise ComponentError(f"{what}: {where}: {first['msg']}") from error
    return plain


@dataclass(frozen=True)
class StoredAnswer:
    """An answer on disk, with its label, the SPEC of the analysis, and the mega-batch, if there was one."""

    label: str
    analysis: str
    summary: str
    mega_batch: int | None
    answer: Answer
    seed: int = 0
    versions: str = ""
    """The versions of forgetkit, torch and plugins, as text."""
    cells: tuple[str, ...] = ()
    """The digests of the runs, if the answer is about several."""

    @property
    def question(self) -> str:
        """What must be equal in answers that are compared."""
        seed = f" at seed {self.seed}" if self.seed else ""
        return f"{self.analysis}{seed}" + (f" by {self.versions}" if self.versions else "")


def answers_folder(folder: Path) -> Path:
    """The folder of the answers about ``folder``; raises ``RunDirectoryError`` if it is a link."""
    return own_folder(folder / FOLDER)


def store_answer(folder: Path, label: str, question: Mapping[str, Any], answer: Mapping[str, Any]) -> Path:
    """Write ``analyses/LABEL.json`` in ``folder``: the question, and the answer as :func:`answer_to_json` gave it."""
    target = answers_folder(folder)
    try:
        target.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise RecordError(f"cannot make {target}: {error.strerror}") from error
    file = target / f"{label}.json"
    write_with_digest(file, {"schema": SCHEMA, "label": label, "question": dict(question), **answer})
    return file


def stored_answers(folder: Path) -> Iterator[StoredAnswer | RunDirectoryError]:
    """Yield the answers in ``folder`` by label, and an error in place of a damaged one."""
    try:
        files = [file for file in sorted(answers_folder(folder).glob("*.json")) if not file.name.startswith(".")]
    except RunDirectoryError as error:
        yield error
        return
    for file in files:
        try:
            yield _read_stored(file)
        except RunDirectoryError as error:
            yield error


def cached_answer(folder: Path, label: str, question: Mapping[str, Any]) -> Answer | None:
    """The intact answer under ``label``, if it is to exactly this question."""
    try:
        content = read_with_digest(answers_folder(folder) / f"{label}.json")
        return answer_from_json(content) if content.get("question") == json.loads(json.dumps(question)) else None
    except RunDirectoryError:
        return None


def label_owner(folder: Path, label: str) -> str | None:
    """The SPEC of the analysis whose answer is stored under ``label``; None if there is none, or a damaged one."""
    try:
        question = read_with_digest(answers_folder(folder) / f"{label}.json").get("question")
    except RunDirectoryError:
        return None
    spec = question.get("analysis") if isinstance(question, Mapping) else None
    return spec if isinstance(spec, str) else None


def _read_stored(file: Path) -> StoredAnswer:
    content = read_with_digest(file, "forgetkit analyze makes it again")
    named = content.get("label") == file.stem and _WORD.fullmatch(file.stem)
    if content.get("schema") != SCHEMA or not named:
        raise RunDirectoryError(f"{file} is no answer of this version of forgetkit; forgetkit analyze makes it again")
    try:
        answer, question = answer_from_json(content), parse_as(_Question, content["question"])
    except (KeyError, RunDirectoryError, ValueError) as error:
        raise RunDirectoryError(f"{file} is damaged: {error_line(error)}; forgetkit analyze makes it again") from error
    return StoredAnswer(
        label=file.stem,
        analysis=question.analysis,
        summary=question.summary,
        mega_batch=question.mega_batch,
        answer=answer,
        seed=question.seed,
        versions=_versions(question.versions),
        cells=question.cells,
    )


@dataclass(frozen=True)
class _Question:
    """The types of a question on disk."""

    analysis: str
    summary: str
    seed: int
    mega_batch: int | None
    versions: Mapping[str, str | Mapping[str, str]]
    cells: tuple[str, ...] = ()


def _versions(recorded: Mapping[str, str | Mapping[str, str]]) -> str:
    """``forgetkit 0.1.0, torch 2.11.0``."""
    flat: dict[str, str] = {}
    for name, version in recorded.items():
        flat |= {name: version} if isinstance(version, str) else version
    return ", ".join(f"{name} {version}" for name, version in flat.items())


def column_title(label: str, key: str, measure: Measure) -> str:
    """The title of a number below its label: its own, or ``ece`` of ``calibration_ece``."""
    return measure.title or key.removeprefix(f"{label}_".replace("-", "_")).replace("_", " ")


def answer_columns(answers: Sequence[StoredAnswer]) -> dict[str, Measure]:
    """Each number under the key of its column: ``calibration_ece``."""
    found = {}
    for one in answers:
        for key, value in one.answer.numbers.items():
            measure = value if isinstance(value, Measure) else Measure(value)
            found[f"{one.label}_{key}".replace("-", "_")] = measure
    return found
