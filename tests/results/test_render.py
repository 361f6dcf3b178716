"""Rendered tables, read back: by csv, json, html.parser, a Markdown parser, a reader of escaped TeX and TeX itself."""

from __future__ import annotations

import csv
import io
import json
import random
import re
import shutil
import subprocess
import unicodedata
from dataclasses import dataclass, field
from html.parser import HTMLParser

import pytest
from hypothesis import given
from hypothesis import strategies as st
from markdown_it import MarkdownIt

from forgetkit.errors import OptionError
from forgetkit.results.outcome import Outcome, Outcomes
from forgetkit.results.render import FORMATS, render
from forgetkit.results.render.formatting import format_figure, format_figures, one_line
from forgetkit.results.render.latex import escape
from forgetkit.results.table import STANDARD, Column, Table, make_table

ACCURACY = Column("accuracy", "accuracy", lambda result: result["accuracy"], True, "fraction")
ERRORS = Column("errors", "errors", lambda result: result.get("errors"), False, "count")
HOSTILE = [
    "a & b_c % $x$ #1 ~ ^",
    "<script>alert('x')</script>",
    "a|b \\| c\\",
    "two\nlines\r\n\tand \x00 \x1b[31m",
    "Grüße, naïve 学习 Σ ά ± 🙂 \u202eback",
    "**bold** _it_ `code` [link](x) ![image](y) ~~gone~~ &amp; &#60;",
    "[optional] *star \\input{x} \\end{tabular} {",
    "\"quoted\", 'single' ``tick`` --- -- x",
    "- item",
    "# head",
    "=1+1",
    "",
]
texts = st.text(max_size=12) | st.sampled_from(HOSTILE)


def as_typed(cell: str) -> str:
    """A text of a CSV without the apostrophe that keeps it from being a formula."""
    return cell[1:] if re.match(r"'[=+\-@\t\r\n]", cell) else cell


def table_of(arms: dict[tuple[str, ...], list], axes=("importance", "replay"), baseline=None, **options) -> Table:
    """Cells of accuracies, of (accuracy, errors), or of words that say what became of them."""
    cells = []
    for labels, by_seed in arms.items():
        arm = dict(zip(axes, labels, strict=True))
        for seed, found in enumerate(by_seed):
            digest = f"{'/'.join(labels)}@{seed}"
            if isinstance(found, str):
                cells.append(Outcome(arm, seed, digest, found, None, f"it {found}"))
            else:
                accuracy, errors = found if isinstance(found, tuple) else (found, None)
                cells.append(Outcome(arm, seed, digest, "completed", {"accuracy": accuracy, "errors": errors}))
    named = None if baseline is None else dict(zip(axes, baseline, strict=True))
    columns = options.pop("columns", [ACCURACY])
    return make_table(Outcomes(options.pop("title", "A title"), axes, tuple(cells), named), columns, **options)


def example() -> Table:
    """Eight seeds, one comparison significant, one not, an arm that lost a seed, one that lost all."""
    alike = [0.9 + 0.01 * (-1) ** seed for seed in range(8)]
    return table_of(
        {
            ("snip", "full"): [0.9] * 8,
            ("snip", "none"): [0.8] * 8,
            ("fisher", "full"): alike,
            ("fisher", "none"): [*alike[:7], "diverged"],
            ("random", "none"): ["failed", *["missing"] * 7],
        },
        baseline=("snip", "full"),
        title="Criteria",
    )


def cells_of(table: Table, form: str, place: int = 0) -> list[list[str]]:
    """What a reader of the format finds in the rows of the table, heads first; ``place`` 1 are the differences."""
    text = render(table, form)
    if form == "html":
        return read_html(text).tables[place]
    if form == "markdown":
        parser = MarkdownIt("commonmark").enable(["table", "strikethrough"])
        return read_html(parser.render(text)).tables[place]
    body = text.split("\\toprule\n")[place + 1].partition("\\bottomrule")[0]
    lines = [line for line in body.splitlines() if line not in ("\\midrule", "\\addlinespace")]
    return [[read_tex(cell.strip()) for cell in line.removesuffix(" \\\\").split(" & ")] for line in lines]


@dataclass
class Page(HTMLParser):
    """Rows of texts, attributes of cells, and every tag; tags must close in order."""

    tables: list[list[list[str]]] = field(default_factory=list)
    attributes: list[list[dict[str, str]]] = field(default_factory=list)
    tags: set[str] = field(default_factory=set)
    open: list[str] = field(default_factory=list)
    outside: str = ""

    def __post_init__(self) -> None:
        super().__init__()

    def handle_starttag(self, tag, attrs) -> None:
        self.tags.add(tag)
        if tag == "br":
            return
        self.open.append(tag)
        if tag == "table":
            self.tables.append([])
        if tag == "tr":
            self.tables[-1].append([])
            self.attributes.append([])
        if tag in ("td", "th"):
            self.tables[-1][-1].append("")
            self.attributes[-1].append(dict(attrs))

    def handle_endtag(self, tag) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data) -> None:
        if {"td", "th"} & set(self.open):
            self.tables[-1][-1][-1] += data
        else:
            self.outside += data


def read_html(text: str) -> Page:
    page = Page()
    page.feed(text)
    page.close()
    assert page.open == []
    return page


SYMBOLS = {
    "textbackslash": "\\",
    "textasciitilde": "~",
    "textasciicircum": "^",
    "textless": "<",
    "textgreater": ">",
    "textbar": "|",
    "textasciigrave": "`",
    "textendash": "–",
    "textemdash": "—",
    "ss": "ß",
    "ae": "æ",
    "AE": "Æ",
    "oe": "œ",
    "OE": "Œ",
    "o": "ø",
    "O": "Ø",
    "l": "ł",
    "L": "Ł",
}
MATHS = {r"\pm": "±", r"\times": "×", r"\uparrow": "↑", r"\downarrow": "↓", "-": "-", "^{*}": "*"}
COMBINING = dict(
    zip("`'^~=u.\"rHvc", map(chr, (768, 769, 770, 771, 772, 774, 775, 776, 778, 779, 780, 807)), strict=True)
)


def read_tex(source: str) -> str:
    """What TeX would set, for the commands that a table may use; anything else that TeX would act on is an error."""
    rules = [
        (r"\\ifdefined\\Umathchar (.)\\else U\+([0-9A-F]{4,6})\\fi\{\}", lambda m: unicode_or_code(m[1], m[2])),
        (r"\\symbol\{34\}", lambda m: '"'),
        (
            r"\\begin\{tabular\}\[[tb]\]\{@\{\}[lr]@\{\}\}(.*?)\\end\{tabular\}",
            lambda m: "".join(map(read_tex, m[1].split(r"\\"))),
        ),
        (r"\\textbf\{((?:[^{}]|\{[^{}]*\})*)\}", lambda m: read_tex(m[1])),
        (r"\$([^$]*)\$", lambda m: MATHS[m[1]]),
        (r"\\([`'^~=u.\"rHvc])\{([A-Za-z])\}", lambda m: unicodedata.normalize("NFC", m[2] + COMBINING[m[1]])),
        (r"\\([A-Za-z]+)\{\}", lambda m: SYMBOLS[m[1]]),
        (r"\\([{}$&#%_])", lambda m: m[1]),
        (r"\{([\[\]*]?)\}", lambda m: m[1]),
        (r"-(?!-)", lambda m: "-"),
        (r"[A-Za-z0-9 !'()+,./:;=?@]", lambda m: m[0]),
    ]
    text, place = "", 0
    while place < len(source):
        found = next(((m, said) for rule, said in rules if (m := re.compile(rule).match(source, place))), None)
        assert found is not None, f"TeX would act on {source[place:]!r}"
        text += found[1](found[0])
        place = found[0].end()
    return text


def unicode_or_code(letter: str, code: str) -> str:
    assert chr(int(code, 16)) == letter
    return letter


def nfc(text: str) -> str:
    return unicodedata.normalize("NFC", text)


def test_markdown_by_hand() -> None:
    assert render(example(), "markdown") == (
        "**Criteria**\n"
        "\n"
        "| importance | replay | accuracy (%) ↑ |\n"
        "| :-- | :-- | --: |\n"
        "| snip | full | **90.00 ± 0.00** |\n"
        "|  | none | 80.00 ± 0.00\\* |\n"
        "| fisher | full | **90.00 ± 1.07** |\n"
        "|  | none | **90.14 ± 1.07 (n=7)** |\n"
        "| random | none | failed, missing |\n"
        "\n"
        "Mean ± standard deviation over 8 seeds, or as many as n says.\n"
        "Bold: the best mean of its column, and what an exact paired sign-flip test, Holm-corrected over 3 comparisons,"
        " does not find worse at p \\< 0.05.\n"
        "\\* better or worse than the baseline importance=snip, replay=full by an exact paired sign-flip test, "
        "Holm-corrected over 3 comparisons, at p \\< 0.05.\n"
        "Each seed: the same difference at every seed, so there is no spread for an interval.\n"
        "\n"
        "- importance=fisher, replay=none: 7 of 8 seeds: seed 7 diverged\n"
        "- importance=random, replay=none: 0 of 8 seeds: seed 0 failed, seeds 1, 2, 3, 4, 5, 6, 7 missing\n"
        "\n"
        "**Difference to importance=snip, replay=full**\n"
        "\n"
        "| importance | replay | number | difference \\[95 % interval\\] | corrected p | verdict |\n"
        "| :-- | :-- | :-- | --: | --: | --: |\n"
        "| snip | none | accuracy (%) ↑ | -10.00 (each seed) | 0.023 | worse |\n"
        "| fisher | full | accuracy (%) ↑ | +0.00 \\[-0.89, 0.89\\] | 1 | not distinguishable |\n"
        "| fisher | none | accuracy (%) ↑ | +0.14 \\[-0.85, 1.13\\] | 1 | not distinguishable |\n"
        "| random | none | accuracy (%) ↑ | no common seed | – | too few seeds |\n"
    )


def test_latex_by_hand() -> None:
    made = table_of(
        {("a_1", "x"): [(-0.001, 3)], ("a_1", "y"): [(0.5, None)], ("b", "x"): [("missing")]},
        columns=[ACCURACY, ERRORS],
    )
    assert render(made, "latex") == "\n".join(
        [
            "% A title",
            r"% Needs \usepackage{booktabs,graphicx}.",
            r"\noindent\resizebox{\ifdim\width>\linewidth\linewidth\else\width\fi}{!}{%",
            r"\begin{tabular}{@{}llrr@{}}",
            r"\toprule",
            r"importance & replay & accuracy (\%) $\uparrow$ & errors $\downarrow$ \\",
            r"\midrule",
            r"a\_1 & x & $-$0.10 & 3 \\",
            r" & y & \textbf{50.00} & \textendash{} \\",
            r"\addlinespace",
            r"b & x & missing & missing \\",
            r"\bottomrule",
            r"\end{tabular}}",
            "",
            r"\smallskip",
            r"{\footnotesize\raggedright",
            r"One seed each.\par",
            r"Bold: the best mean of its column; too few seeds to say which others may be as good.\par",
            r"importance=b, replay=x: 0 of 1 seed: seed 0 missing\par",
            "}",
            "",
        ]
    )


@pytest.mark.parametrize("form", ["markdown", "latex", "html"])
def test_every_reader_finds_the_same_entries(form) -> None:
    found = cells_of(example(), form)
    assert found[0] == ["importance", "replay", "accuracy (%) ↑"]
    assert [one[2] for one in found[1:]] == [
        "90.00 ± 0.00",
        "80.00 ± 0.00*",
        "90.00 ± 1.07",
        "90.14 ± 1.07 (n=7)",
        "failed, missing",
    ]
    names = ["snip", "snip", "fisher", "fisher", "random"] if form == "html" else ["snip", "", "fisher", "", "random"]
    assert [one[0] for one in found[1:]] == names


def test_html_carries_the_values_to_sort_by() -> None:
    made = example()
    page = read_html(render(made, "html"))
    assert page.tags == {"table", "caption", "thead", "tbody", "tr", "th", "td", "p", "ul", "li", "strong", "sup"}
    own = page.attributes[1 : 1 + len(made.rows)]
    for row, attributes in zip(made.rows, own, strict=True):
        assert [one["data-value"] for one in attributes[:2]] == list(row.labels)
        mean = row.entries[0].summary.mean
        assert attributes[2]["data-value"] == ("" if mean is None else repr(mean))
    assert page.attributes[0][2] == {"scope": "col", "data-key": "accuracy"}
    assert [one[2].get("title") for one in own] == [
        None,
        "-10.00 (each seed), p = 0.0078, corrected 0.023: worse",
        "+0.00 [-0.89, 0.89], p = 1, corrected 1: not distinguishable",
        "+0.14 [-0.85, 1.13], p = 1, corrected 1: not distinguishable",
        "no common seed: too few seeds",
    ]
    assert "Mean ± standard deviation" in page.outside
    assert "importance=fisher, replay=none: 7 of 8 seeds: seed 7 diverged" in page.outside


@pytest.mark.parametrize("form", ["markdown", "latex", "html"])
def test_every_reader_finds_the_same_differences(form) -> None:
    """Each of two arms in each of two columns; the cost is not compared."""
    cost = Column("cost", "cost", lambda result: 1.0)
    seeds = [(0.5 + 0.001 * seed, 10) for seed in range(9)]
    arms = {("a", "x"): seeds, ("b", "x"): [(0.5125 + 0.001 * seed, 8) for seed in range(9)], ("b_", "y"): seeds[:1]}
    made = table_of(arms, columns=[ACCURACY, ERRORS, cost], baseline=("a", "x"))
    heads, *found = cells_of(made, form, 1)
    assert heads == ["importance", "replay", "number", "difference", "corrected p", "verdict"]
    assert [row[2:] for row in found] == [
        ["accuracy (%) ↑", "+1.25 (each seed)", "0.016", "better"],
        ["errors ↓", "-2 (each seed)", "0.016", "better"],
        ["accuracy (%) ↑", "+0.00", "–", "too few seeds"],
        ["errors ↓", "+0", "–", "too few seeds"],
    ]
    again = [["b", "x"], ["b_", "y"]] if form == "html" else [["", ""], ["", ""]]
    assert [row[:2] for row in found] == [["b", "x"], again[0], ["b_", "y"], again[1]]


@pytest.mark.parametrize("form", FORMATS)
@pytest.mark.parametrize("arms", [{("a", "x"): [0.5]}, {("a", "x"): ["missing"], ("b", "x"): [0.5]}])
def test_nothing_to_compare_is_no_block(form, arms) -> None:
    """The baseline alone, or one without a number."""
    assert "Difference to" not in render(table_of(arms, baseline=("a", "x")), form)
    assert "Difference to" not in render(table_of({("a", "x"): [0.5], ("b", "x"): [0.6]}), form)


def test_csv_has_every_cell_at_full_precision() -> None:
    made = table_of(
        {("a", "x"): [(0.1 + 0.2, 12), "diverged"], ("b", "x"): [(1 / 3, None)]}, columns=[ACCURACY, ERRORS]
    )
    rows = list(csv.DictReader(io.StringIO(render(made, "csv"), newline="")))
    assert [(one["importance"], one["replay"], one["seed"], one["status"], one["reason"]) for one in rows] == [
        ("a", "x", "0", "completed", ""),
        ("a", "x", "1", "diverged", "it diverged"),
        ("b", "x", "0", "completed", ""),
    ]
    assert [one["digest"] for one in rows] == ["a/x@0", "a/x@1", "b/x@0"]
    assert [one["accuracy"] for one in rows] == [repr(0.1 + 0.2), "", repr(1 / 3)]
    assert [one["errors"] for one in rows] == ["12", "", ""]


@pytest.mark.parametrize("label", ["=cmd|' /C calc'!A0", "+1+1", "-1+1", "@SUM(A1)", "\t=1", "\r=1", "\n=1", "- item"])
def test_csv_holds_no_formula(label: str) -> None:
    """Of labels, axes, reasons: what begins like one is a text to a spreadsheet."""
    made = table_of({(label, "x"): ["failed"]}, axes=(label, "replay"))
    broken = Outcomes("t", ("arm",), (Outcome({"arm": "a"}, 0, "d", "failed", None, label),))
    heads, cells = csv.reader(io.StringIO(render(made, "csv"), newline=""))
    assert (heads[0], cells[0]) == (f"'{label}", f"'{label}")
    failed = next(csv.DictReader(io.StringIO(render(make_table(broken, [ACCURACY]), "csv"), newline="")))
    assert failed["reason"] == f"'{label}"


@pytest.mark.parametrize("label", ["-1", "+0.5", "-1e-3"])
def test_csv_leaves_numbers_alone(label: str) -> None:
    made = table_of({(label, "x"): [-0.5]})
    cells = list(csv.reader(io.StringIO(render(made, "csv"), newline="")))[1]
    assert (cells[0], cells[-1]) == (label, "-0.5")


def test_json_has_every_number() -> None:
    made = example()
    content = json.loads(render(made, "json"))
    assert content["baseline"] == {"importance": "snip", "replay": "full"}
    assert content["columns"] == [
        {"key": "accuracy", "title": "accuracy", "unit": "fraction", "higher_is_better": True}
    ]
    assert (content["schema"], content["title"], content["alpha"], content["confidence"]) == (1, "Criteria", 0.05, 0.95)
    for row, said in zip(made.rows, content["rows"], strict=True):
        assert tuple(said["arm"].values()) == row.labels
        assert said["note"] == row.note
        entry, numbers = row.entries[0], said["entries"]["accuracy"]
        own = entry.summary
        assert (numbers["n"], numbers["mean"], numbers["std"], numbers["best"]) == (
            own.n,
            own.mean,
            own.std,
            entry.best,
        )
        for judged, judgement in ((entry.to_baseline, numbers["to_baseline"]), (entry.to_best, numbers["to_best"])):
            if judged is None:
                assert judgement is None
                continue
            c = judged.comparison
            assert judgement == {
                "n": c.n,
                "constant": c.constant,
                "difference": c.difference,
                "low": c.low,
                "high": c.high,
                "p": c.p,
                "exact": True,
                "adjusted": judged.adjusted,
                "verdict": judged.verdict,
            }
        assert [(one["seed"], one["status"], one["reason"], one["digest"]) for one in said["cells"]] == [
            (cell.seed, cell.status, cell.reason, cell.digest) for cell in row.cells
        ]
        assert [one["values"]["accuracy"] for one in said["cells"]] == [cell.values[0] for cell in row.cells]


@pytest.mark.parametrize("form", FORMATS)
def test_rendering_does_not_depend_on_the_order_of_seeds(form) -> None:
    rng = random.Random(0)
    arm = {"arm": "a"}
    cells = [Outcome(arm, seed, str(seed), "completed", {"accuracy": rng.random()}) for seed in range(20)]
    texts = set()
    for _ in range(5):
        rng.shuffle(cells)
        texts.add(render(make_table(Outcomes("t", ("arm",), tuple(cells)), [ACCURACY]), form))
    assert len(texts) == 1


@pytest.mark.slow
@given(st.lists(st.tuples(texts, texts), min_size=1, max_size=3, unique=True), texts, texts)
def test_what_a_user_typed_is_read_back_in_every_format(arms, title, axis) -> None:
    axes = (f"{axis}?", "replay")
    made = table_of({labels: [0.5, "failed"] for labels in arms}, axes=axes, title=title, baseline=arms[0])
    rows = [row.labels for row in made.rows]

    content = json.loads(render(made, "json"))
    assert content["title"] == title
    assert [tuple(one["arm"][axis] for axis in axes) for one in content["rows"]] == rows
    lines = list(csv.reader(io.StringIO(render(made, "csv"), newline="")))
    found = [lines[0][:2], *(line[:2] for line in lines[1::2])]
    assert [[*map(as_typed, line)] for line in found] == [[*map(as_typed, line)] for line in (axes, *rows)]

    shown = [
        ["" if place < row.repeats else one_line(one) for place, one in enumerate(row.labels)] for row in made.rows
    ]
    for form in ("html", "markdown", "latex"):
        found = cells_of(made, form)
        assert nfc(found[0][0]) == nfc(one_line(axes[0]))
        expected = [[one_line(one) for one in labels] for labels in rows] if form == "html" else shown
        assert [[nfc(one) for one in cells[:2]] for cells in found[1:]] == [[nfc(x) for x in one] for one in expected]
        assert {len(cells) for cells in found} == {3}
        others = [[one_line(one) for one in row.labels] for row in made.rows if not row.baseline]
        compared = cells_of(made, form, 1)[1:] if others else []
        assert [[nfc(one) for one in cells[:2]] for cells in compared] == [[nfc(x) for x in one] for one in others]
    page = read_html(render(made, "html"))
    assert page.tags <= {"table", "caption", "thead", "tbody", "tr", "th", "td", "p", "ul", "li", "strong", "sup"}
    assert one_line(title) in page.outside
    assert [[one["data-value"] for one in cells[:2]] for cells in page.attributes[1 : 1 + len(rows)]] == [
        [one_line(one) for one in labels] for labels in rows
    ]


@given(st.text() | st.sampled_from(HOSTILE))
def test_escaped_tex_sets_the_text(text) -> None:
    assert nfc(read_tex(escape(one_line(text)))) == nfc(one_line(text))


@pytest.mark.parametrize("axis", ["- one", "+ one", "# one", "> one"])
def test_markdown_around_the_table_is_text_too(axis) -> None:
    made = table_of({("a*b*", "<i>x$1$"): [0.5, "failed"]}, title="*t* <b>", axes=(axis, "two"))
    text = render(made, "markdown")
    page = read_html(MarkdownIt("commonmark").enable("table").render(text))
    assert page.tags == {"p", "strong", "table", "thead", "tbody", "tr", "th", "td", "ul", "li"}
    assert "*t* <b>" in page.outside
    assert f"{axis}=a*b*, two=<i>x$1$: 1 of 2 seeds: seed 1 failed" in page.outside
    assert "x\\$1\\$" in text  # GitHub would set mathematics


def engines() -> list[str]:
    return [engine for engine in ("pdflatex", "xelatex", "lualatex") if shutil.which(engine)]


@pytest.mark.children
@pytest.mark.skipif(not engines(), reason="there is no TeX on this machine")
@pytest.mark.parametrize("engine", engines())
@pytest.mark.parametrize("document", ["{article}", "[varwidth]{standalone}"])
def test_tex_compiles_it(engine, document, tmp_path) -> None:
    if "standalone" in document and not has_standalone(engine):
        pytest.skip(f"this TeX has no standalone class, or not what {engine} needs for it")
    arms = {(label, str(place)): [0.5, "failed"] for place, label in enumerate([*HOSTILE, "ěščřžýáíé ßæøł"])}
    made = table_of(arms, axes=("a_b", "[*]"), title="% \\", baseline=next(iter(arms)))
    typeset(made, engine, document, tmp_path)


@pytest.mark.children
@pytest.mark.skipif(not engines(), reason="there is no TeX on this machine")
def test_tex_keeps_a_wide_table_within_the_line(tmp_path) -> None:
    long = "masked:fraction=0.2,fresh=uniform,share=layer"
    arms = {(long, long): [0.5, 0.6], (long, "x"): [0.5, 0.6]}
    made = table_of(arms, columns=[ACCURACY, *STANDARD], baseline=(long, "x"))
    assert "Overfull" not in typeset(made, engines()[0], "{article}", tmp_path)


def typeset(table, engine, document, tmp_path) -> str:
    """What TeX says."""
    (tmp_path / "table.tex").write_text(render(table, "latex"), "utf-8")
    (tmp_path / "paper.tex").write_text(
        f"\\documentclass{document}\n\\usepackage{{booktabs,graphicx}}\n\\begin{{document}}\n\\input{{table}}\n\\end{{document}}\n"
    )
    done = subprocess.run(
        [engine, "-interaction=nonstopmode", "-halt-on-error", "paper.tex"],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        errors="replace",
        check=False,
    )
    assert done.returncode == 0, done.stdout[-3000:]
    assert (tmp_path / "paper.pdf").stat().st_size > 1000
    return done.stdout


def has_standalone(engine: str) -> bool:
    needed = ["standalone.cls", *(["luatex85.sty"] if engine == "lualatex" else [])]
    found = subprocess.run(["kpsewhich", *needed], capture_output=True, text=True, check=False).stdout
    return len(found.splitlines()) == len(needed)


@pytest.mark.parametrize(
    ("value", "unit", "expected"),
    [
        (0.93317, "fraction", "93.32"),
        (-0.00001, "fraction", "0.00"),
        (9621.6, "count", "9,622"),
        (-0.2, "count", "0"),
        (12.34, "seconds", "12.3"),
        (2**30 + 2**19, "bytes", "1,024.5"),
        (0.0123456, "number", "0.01235"),
        (999.94, "number", "999.9"),
        (11173962.4, "number", "11,173,962"),
        (1e20, "number", "1e+20"),
        (-0.0, "number", "0"),
    ],
)
def test_figures(value, unit, expected) -> None:
    assert format_figure(value, unit) == expected


@pytest.mark.parametrize(
    ("values", "unit", "expected"),
    [
        ([0.8208, 0.017684], "number", ["0.8208", "0.0177"]),
        ([0.82, 0.31], "number", ["0.8200", "0.3100"]),
        ([9.5, 12.25], "number", ["9.50", "12.25"]),
        ([12345.6, 7.25], "number", ["12,346", "7"]),
        ([5, 1.0], "number", ["5", "1"]),
        ([0, 0.0], "number", ["0", "0"]),
        ([1.5e-6, 2e-7], "number", ["1.5e-06", "2e-07"]),
        ([-1e-9, 0.25], "number", ["0.0000", "0.2500"]),
        ([0.5, 0.00123], "fraction", ["50.00", "0.12"]),
    ],
)
def test_figures_that_belong_together_have_the_same_decimals(values, unit, expected) -> None:
    assert format_figures(values, unit) == expected


def test_a_cost_that_every_seed_shares_has_no_deviation() -> None:
    cost = Column("cost", "cost", lambda result: result["errors"], None, "count")
    made = table_of({("a", "x"): [(0.5, 1200), (0.5, 1200)], ("b", "x"): [(0.4, 1000), (0.4, 2000)]}, columns=[cost])
    assert [row[2] for row in cells_of(made, "markdown")[1:]] == ["1,200", "1,500 ± 707"]


def legend(table: Table) -> list[str]:
    return json.loads(render(table, "json"))["legend"]


def test_the_legend_says_what_the_seeds_cannot_show() -> None:
    two = table_of({("a", "x"): [0.5, 0.6], ("b", "x"): [0.4, 0.5], ("c", "x"): [0.3, 0.2]}, baseline=("b", "x"))
    assert legend(two) == [
        "Mean ± standard deviation over 2 seeds.",
        "Bold: the best mean of its column; too few seeds to say which others may be as good.",
        "* better or worse than the baseline importance=b, replay=x by an exact paired sign-flip test, "
        "Holm-corrected over 2 comparisons, at p < 0.05.",
        "Too few seeds for a star in 2 of 2 comparisons: 7 each are enough.",
    ]
    one = table_of({("a", "x"): [0.5] * 6, ("b", "x"): [0.4] * 6}, baseline=("b", "x"))
    assert legend(one)[1:] == [
        "Bold: the best mean of its column, and what an exact paired sign-flip test, Holm-corrected over 1 comparison, "
        "does not find worse at p < 0.05.",
        "* better or worse than the baseline importance=b, replay=x by an exact paired sign-flip test, "
        "Holm-corrected over 1 comparison, at p < 0.05.",
        "Each seed: the same difference at every seed, so there is no spread for an interval.",
    ]
    lost = table_of({("a", "x"): ["missing"], ("b", "x"): ["missing"]}, baseline=("b", "x"))
    assert legend(lost) == [
        "There are no numbers yet.",
        "Nothing can be compared with the baseline importance=b, replay=x.",
    ]
    many = table_of({("a", "x"): [0.5] * 50, ("b", "x"): [0.4] * 50})
    assert "a paired sign-flip test (131,071 draws where there are more than 40 seeds)" in legend(many)[1]


def test_headings_say_unit_and_direction() -> None:
    result = {column.key: 1.0 for column in STANDARD}
    made = make_table(Outcomes("", ("arm",), (Outcome({"arm": "a"}, 0, "", "completed", result),)), STANDARD)
    assert cells_of(made, "markdown")[0] == [
        "arm",
        "test accuracy (%) ↑",
        "CER ↓",
        "generalisation gap (%) ↓",
        "mean anytime error (%) ↓",
        "samples seen",
        "forward passes",
        "backward passes",
        "time (s)",
        "peak memory (MiB)",
    ]
    assert render(made, "markdown").startswith("| arm |")


def test_an_unknown_format_is_said() -> None:
    with pytest.raises(OptionError, match="no format 'markdwon'; did you mean 'markdown'"):
        render(example(), "markdwon")
