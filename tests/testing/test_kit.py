"""The kit's own face: verdicts, expected failures, refusals, cases for pytest, documentation."""

from __future__ import annotations

import re
import subprocess
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import pytest
from helpers.broken_importance import Good, HigherIsKeep, Keys, Runs
from helpers.broken_others import Last, MetricEmpty
from helpers.conformance import broken_in

from forgetkit import testing
from forgetkit.errors import ForgetkitError, OptionError
from forgetkit.registry import registry
from forgetkit.testing import BrokenPromise, Promise, check, check_importance, examine, parametrize, promises

DOCUMENT = Path(__file__).parents[2] / "docs" / "conformance.md"
HEADINGS = {"datasets": "Data sets"}


@dataclass(frozen=True)
class Hopeless(Keys):
    """Much is missing.

    Cost: none.
    """

    power: int = 1

    def __reduce__(self) -> Any:
        raise TypeError("holds an open file")

    def __deepcopy__(self, memo: Any) -> Hopeless:
        return Hopeless()


def verdict_of(promise: str, *args: Any, **kwargs: Any) -> testing.Verdict:
    return next(verdict for verdict in examine(*args, **kwargs) if verdict.promise.name == promise)


def test_an_object_a_class_and_a_spec_are_the_same() -> None:
    from forgetkit.builtin.importance.magnitude import Magnitude

    assert examine("importance", "magnitude") == examine("importance", Magnitude) == examine("importance", Magnitude())


def test_a_class_that_needs_an_option_is_refused() -> None:
    from forgetkit.builtin.models.imported import Imported

    with pytest.raises(OptionError, match="Imported cannot be made without options"):
        examine("models", Imported)


def test_what_does_not_run_is_not_judged_but_for_its_form() -> None:
    verdicts = {verdict.promise.name: verdict for verdict in examine("importance", Runs)}
    assert verdicts["runs"].status == "broken"
    assert "RuntimeError: out of order" in verdicts["runs"].reason
    assert "broken_importance.py:" in verdicts["runs"].reason
    assert verdicts["keys"].status == verdicts["oracle"].status == "not applicable"
    assert verdicts["keys"].reason == "it does not run"
    assert verdicts["summary"].status == "kept"


def test_broken_promise_message_is_one_line_with_a_remedy() -> None:
    with pytest.raises(BrokenPromise) as caught:
        check_importance(Keys)
    message = str(caught.value)
    assert isinstance(caught.value, ForgetkitError)
    assert "\n" not in message
    for part in ("Keys breaks the promise 'keys' of importance", "there is no score for", "Mend it"):
        assert part in message


def test_all_that_is_broken_is_named() -> None:
    with pytest.raises(BrokenPromise, match="broken as well: described, pickles; the"):
        check_importance(Hopeless)


def test_a_sketch_inside_a_function_is_judged_by_what_it_does() -> None:
    @dataclass(frozen=True)
    class Sketch:
        """Absolute gradient."""

        samples: int = 128

        def score(self, probe: Any) -> Any:
            total = probe.zeros()
            for inputs, targets in probe.batches(self.samples):
                for name, grad in probe.grads(inputs, targets).items():
                    total[name] += grad.abs()
            return total

    statuses = {verdict.promise.name: verdict.status for verdict in check_importance(Sketch)}
    assert statuses["described"] == statuses["pickles"] == "not applicable"
    assert statuses["sample-budget"] == "kept"


def test_an_expected_failure_is_told_with_both_reasons() -> None:
    verdict = verdict_of("keys", "importance", Keys, expected_failures={"keys": "a sketch"})
    assert verdict.status == "expected"
    assert verdict.reason.startswith("a sketch (there is no score for")
    assert check_importance(Keys, expected_failures={"keys": "a sketch"})


@pytest.mark.parametrize(("promise", "state"), [("keys", "is kept"), ("oracle", "does not apply")])
def test_an_expected_failure_that_does_not_fail_is_a_failure(promise: str, state: str) -> None:
    verdicts = examine("importance", Good, expected_failures={promise: "a sketch"})
    assert broken_in(verdicts) == [promise]
    assert state in next(verdict.reason for verdict in verdicts if verdict.status == "broken")


class Declared(HigherIsKeep):
    """The wrong way round, and says so."""

    expected_failures: ClassVar[Mapping[str, str]] = {"higher-is-keep": "on purpose"}


class DeclaredInVain(Good):
    """The right way round, and says otherwise."""

    expected_failures: ClassVar[Mapping[str, str]] = {"higher-is-keep": "on purpose"}


@pytest.mark.slow
def test_a_class_names_its_own() -> None:
    assert verdict_of("higher-is-keep", "importance", Declared).status == "expected"
    assert broken_in(examine("importance", Declared)) == []
    assert broken_in(examine("importance", DeclaredInVain)) == ["higher-is-keep"]


def test_a_promise_that_nobody_makes_cannot_be_expected_to_fail() -> None:
    with pytest.raises(OptionError, match="importance promises no 'finte'; did you mean 'finite'"):
        examine("importance", Good, expected_failures={"finte": "a slip"})
    with pytest.raises(OptionError, match="metrics promises no 'keys'"):
        parametrize("metrics", [Last], expected_failures={"keys": "of another kind"})


@dataclass(frozen=True)
class Elsewhere(Last):
    """Wants to be examined with an option that it has not."""

    test_options: ClassVar[Mapping[str, Any]] = {"evry": 2}


def test_an_unknown_test_option_is_named() -> None:
    assert "test_options names 'evry'" in verdict_of("runs", "metrics", Elsewhere).reason


def test_kinds() -> None:
    with pytest.raises(OptionError, match="no kind 'metric' of components; did you mean 'metrics'"):
        examine("metric", Last)
    with pytest.raises(OptionError, match="for metrics leave it out"):
        examine("metrics", Last, oracle=lambda model, inputs, targets: {})
    assert [kind for kind in registry.KINDS if not promises(kind)] == ["optimizer_state", "commands"]
    assert examine("commands", object()) == ()


def test_promises_have_unique_names_and_a_sentence() -> None:
    for kind in registry.KINDS:
        names = [promise.name for promise in promises(kind)]
        assert len(names) == len(set(names))
        for promise in promises(kind):
            assert promise.kind == kind
            assert re.fullmatch(r"[a-z]+(-[a-z]+)*", promise.name)
            assert promise.text.endswith(".")


def test_one_promise_at_a_time() -> None:
    by_name = {promise.name: promise for promise in promises("importance")}
    assert check(Keys, by_name["finite"]).status == "kept"
    assert check(Runs, by_name["finite"]).status == "not applicable"
    assert check(Keys, by_name["keys"], expected_failures={"keys": "a sketch"}).status == "expected"
    with pytest.raises(BrokenPromise, match="keys"):
        check(Keys, by_name["keys"])


@parametrize("metrics", ["cer", Last, Last()])
def test_cases_for_pytest(component: Any, promise: Promise) -> None:
    assert check(component, promise).status == "kept"


@parametrize("metrics", [MetricEmpty], expected_failures={"empty": "wants a row"})
def test_expected_failures_for_pytest(component: Any, promise: Promise) -> None:
    check(component, promise)


def test_cases_have_readable_names_and_strict_marks() -> None:
    decorator = parametrize("metrics", ["cer", MetricEmpty, Last()], expected_failures={"empty": "wants a row"})
    names, cases = decorator.args
    assert tuple(names) == ("component", "promise")
    count = len(promises("metrics"))
    assert len(cases) == 3 * count
    assert [cases[at].id for at in (0, count, 2 * count)] == ["cer-runs", "MetricEmpty-runs", "Last()-runs"]
    marked = [case for case in cases if case.marks]
    assert {case.values[1].name for case in marked} == {"empty"}
    assert all(case.marks[0].kwargs["strict"] and case.marks[0].kwargs["reason"] == "wants a row" for case in marked)


def test_every_promise_is_documented_as_it_is() -> None:
    sections = dict(re.findall(r"^## (.*?)\n(.*?)(?=^## |\Z)", DOCUMENT.read_text("utf-8"), re.MULTILINE | re.DOTALL))
    common = [(p.name, p.text) for p in promises("metrics")][-6:]
    rows = {title: re.findall(r"^\| `([a-z-]+)` \| (.*) \|$", text, re.MULTILINE) for title, text in sections.items()}
    assert rows["Every kind"] == common
    for kind in registry.KINDS:
        section = HEADINGS.get(kind, kind.capitalize())
        expected = [(p.name, p.text) for p in promises(kind) if (p.name, p.text) not in common]
        assert rows.get(section, []) == [each for each in expected if not each[0].startswith("while-training-")]
        assert ("`while-training-NAME`" in sections.get(section, "")) is (kind in ("importance", "reinit"))


@pytest.mark.children
def test_testing_module_needs_no_import_and_loads_lazily() -> None:
    code = (
        "import forgetkit, sys; assert 'torch' not in sys.modules and 'pytest' not in sys.modules; "
        "assert forgetkit.testing.promises('metrics'); assert 'pytest' not in sys.modules"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


def test_every_function_is_documented() -> None:
    text = DOCUMENT.read_text("utf-8")
    for name in testing.__all__:
        assert name in text, name
        assert getattr(testing, name).__doc__
