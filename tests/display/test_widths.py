"""Tables on terminals of any width: every word stands there whole, and no column is a piece of one."""

from __future__ import annotations

import re

import pytest
from helpers import fake_outcomes
from hypothesis import given
from hypothesis import strategies as st
from rich.console import Console as Rich

from forgetkit.display import console, layout, table_view
from forgetkit.display.display import PlainDisplay
from forgetkit.display.run_display import RunDisplay
from forgetkit.results.table import make_table

WIDTHS = (40, 60, 80, 120)
TEXTS = st.text("abcde (),:|-_%", min_size=0, max_size=60)


def printed(renderable, width: int) -> str:
    terminal = Rich(width=width, markup=False, highlight=False, emoji=False)
    with terminal.capture() as captured:
        terminal.print(renderable)
    return captured.get()


def tokens(text: str) -> set[str]:
    """Runs of letters and digits: a word that was cut leaves two that stand in no whole text."""
    return set(re.findall(r"\w+", text))


def require_all_loaded(whole: str, shown: str, width: int, beside: str = "", without: str = "") -> None:
    """All words are there, and no other; ``beside`` are words that only a narrow form has, ``without`` a wide one."""
    short = {word for word in tokens(whole) - tokens(without) if len(word) < width - 6}
    assert short <= tokens(shown), short - tokens(shown)
    extra = tokens(shown) - tokens(whole) - tokens(beside)
    assert all(len(word) >= width - 6 for word in tokens(whole) if word not in tokens(shown)) or not extra, extra
    assert "…" not in shown
    assert max(map(len, shown.splitlines()), default=0) <= width


@given(st.lists(st.tuples(TEXTS, TEXTS, TEXTS), min_size=1, max_size=4), st.sampled_from(WIDTHS))
def test_every_word_of_a_table_is_whole_at_every_width(rows, width) -> None:
    heads = ("name", "what it is", "figures")
    shown = printed(layout.table(width, heads, rows, title="a title"), width)
    require_all_loaded(" ".join(" ".join(row) for row in rows), shown, width, " ".join((*heads, "a title")))


def test_table_layout_uses_columns_if_they_fit_and_else_blocks() -> None:
    heads, row = ("plugin", "distribution", "module"), ("plasticity", "forgetkit-plasticity", "forgetkit_plasticity")
    assert printed(layout.table(60, heads, [row]), 60).split() == [*heads, *["─" * 54], *row]
    assert printed(layout.table(40, heads, [row]), 40).splitlines() == [
        "plasticity",
        "  distribution: forgetkit-plasticity",
        "  module: forgetkit_plasticity",
    ]
    assert printed(layout.table(20, ("batch", "errors"), [("1", "1" * 12), ("2", "3")], right=[0, 1]), 20).split() == [
        *("batch", "errors", "─" * 19, "1", "1" * 12, "2", "3")
    ]


def of_width(monkeypatch, width: int) -> None:
    """Consoles as on a terminal of so many columns."""

    def init(self, *, stderr: bool = False) -> None:
        Rich.__init__(self, markup=False, emoji=False, highlight=False, width=width, stderr=stderr)

    monkeypatch.setattr(console.Console, "__init__", init)


COMMANDS = {
    "kinds": ("show",),
    "options": ("show", "importance", "snip"),
    "choices": ("show", "reinit", "masked"),
    "plugins": ("plugins", "list", "--load"),
    "presets": ("presets", "list"),
    "a preset": ("presets", "show", "clean"),
    "analyses": ("analyze", "--list"),
    "the paper": ("reproduce",),
}


@pytest.mark.slow
@pytest.mark.parametrize("what", COMMANDS)
def test_no_command_cuts_a_word(cli, monkeypatch, what) -> None:
    of_width(monkeypatch, 1000)
    whole = cli(*COMMANDS[what])
    assert whole.status == 0
    for width in WIDTHS:
        of_width(monkeypatch, width)
        require_all_loaded(whole.out, cli(*COMMANDS[what]).out, width, without="option")


@pytest.mark.slow
def test_a_run_and_its_plan_at_every_width(cli, monkeypatch, tiny_words) -> None:
    of_width(monkeypatch, 1000)
    made = cli(*tiny_words, "--name", "one")
    assert made.status == 0, made.err
    for width in WIDTHS:
        of_width(monkeypatch, width)
        again = cli("run", "--resume", "runs/one").out
        planned = cli(*tiny_words, "--dry-run").out
        assert "…" not in again + planned
        for name in ("batch", "samples", "train", "val", "test", "errors", "gap", "reset", "seconds"):
            assert re.search(rf"\b{name}\b", again), (width, name)
        assert re.search(r"--checkpoint-seconds\b", planned)
        assert max(map(len, (again + planned).splitlines())) <= width


@pytest.mark.parametrize("width", WIDTHS)
@pytest.mark.parametrize("axes", [fake_outcomes.THREE, fake_outcomes.MANY], ids=["three", "many"])
def test_the_table_of_an_ablation_comes_last_and_whole(capsys, monkeypatch, width, axes) -> None:
    outcomes = fake_outcomes.outcomes(axes, 2, baseline={axis: values[0] for axis, values in axes.items()})
    table = make_table(outcomes)
    of_width(monkeypatch, width)
    table_view.show_table(console.Console(), table, outcomes)
    shown = capsys.readouterr().out
    assert "…" not in shown
    assert max(map(len, shown.splitlines())) <= width
    differences, title = shown.index("Difference to"), shown.index("Which criterion")
    assert differences < title < shown.index("Mean ±")
    of_width(monkeypatch, 1000)
    table_view.show_table(console.Console(), table, outcomes)
    whole = capsys.readouterr().out
    left_out = "No room for: widen the terminal, choose --columns, or print to a pipe."
    assert not tokens(shown) - tokens(whole) - tokens(left_out)
    assert {word for label in outcomes.arms() for text in label.values() for word in tokens(text)} <= tokens(shown)


def test_stopping_message_of_a_run_fits_narrow_terminals(capfd):
    RunDisplay(PlainDisplay(console.Console(stderr=True))).say_stopping()
    said = capfd.readouterr().err
    assert said.startswith("forgetkit: stopping after this step")
    assert len(f"^C{said}") <= 60, "bars are drawn over what goes on in the next line"
