"""Outcomes with hostile names and results that no run writes."""

from __future__ import annotations

from hypothesis import strategies as st

from forgetkit.results.outcome import Outcome, Outcomes

HOSTILE = '<script>alert(1)</script> & "q" \'a\' $x^2$ _u \x00\n学习 id="x" url(#x)'


values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=3),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=3), inner, max_size=3),
    max_leaves=8,
)
numbers = st.none() | st.integers() | st.floats() | st.integers(10**400, 10**401)
names = st.text(max_size=3)
layers = st.dictionaries(names, st.fixed_dictionaries({"size": st.integers(), "reset": st.integers()}), max_size=3)
rows = st.fixed_dictionaries(
    {},
    optional={
        **dict.fromkeys(("index", "test_accuracy", "test_errors", "test_samples", "samples_seen"), numbers),
        "unlearn": st.none() | st.fixed_dictionaries({}, optional={"layers": layers}),
    },
)
oddities = st.fixed_dictionaries(
    {},
    optional={
        "mega_batches": st.lists(rows, max_size=3),
        **dict.fromkeys(("test_accuracy", "cer", "samples_seen", "forward_passes", "backward_passes"), numbers),
        "config": st.dictionaries(names, values, max_size=3),
        "overrides": st.dictionaries(names, st.fixed_dictionaries({"value": values, "preset": values}), max_size=3),
        "versions": st.dictionaries(names, names | st.dictionaries(names, names, max_size=3), max_size=3),
        "preset": names,
    },
)
"""Results with the right types and any numbers; reading refuses other types."""


def made(arms: dict[str, list[dict]]) -> Outcomes:
    """Completed cells of one axis, seed by seed."""
    cells = [
        Outcome({"method": arm}, seed, f"{arm}{seed}", "completed", result)
        for arm, results in arms.items()
        for seed, result in enumerate(results)
    ]
    return Outcomes("A title", ("method",), tuple(cells))


def stream(*accuracies: float, of: int = 100) -> dict:
    found = [
        {"index": index, "test_accuracy": accuracy, "test_errors": round(of * (1 - accuracy))}
        for index, accuracy in enumerate(accuracies, 1)
    ]
    return {"mega_batches": found, "test_accuracy": accuracies[-1], "samples_seen": 10 * len(accuracies)}
