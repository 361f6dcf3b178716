"""From a SPEC to a component and back, for every component there is and for options of every type."""

from __future__ import annotations

import dataclasses
import typing
from pathlib import Path
from typing import Annotated, Literal

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st
from pydantic import BeforeValidator, Field
from pydantic.fields import FieldInfo

from forgetkit import config
from forgetkit.ablation import grid
from forgetkit.errors import ConfigError, OptionError, UsageError
from forgetkit.registry import registry
from forgetkit.registry.spec import (
    Spec,
    _quote,
    build_component,
    format_spec,
    options_of,
    parse_spec,
    strip_quotes,
    validate_component,
)
from forgetkit.results import arm

OFFERS = registry.load(entry_points=False)
COMPONENTS = [(offer.kind, offer.name) for offer in OFFERS.components]

WORD = st.text("abcXYZ019._-/", min_size=1, max_size=8)


SHARE = st.floats(0, 1, exclude_min=True, exclude_max=True)
IN_WORDS = {
    "≥ 1, or a share < 1, or none (all)": st.none() | st.integers(1) | SHARE,
    "0 ≤ share < 1, or a layer ≥ 1": st.just(0.0) | SHARE | st.integers(1),
    "names joined by +, or none (all)": st.sampled_from(["none", "fog", "snow+frost"]),
    "white, black or #rrggbb": st.sampled_from(["white", "black", "#0a1B2c"]),
    "of 1 to 5, joined by +": st.sampled_from(["1", "2+5", "1+2+3+4+5"]),
}
"""Ranges that an annotation spells in words, since no bounds of one type say them."""


def fields_of(kind):
    """The bounds of an annotated type, without what reads its spellings."""
    return [note for note in kind.__metadata__ if isinstance(note, FieldInfo)]


def values(kind):
    """Values of an annotated type, within its bounds."""
    if typing.get_origin(kind) is Annotated and typing.get_args(kind)[-1] in IN_WORDS:
        return IN_WORDS[typing.get_args(kind)[-1]]
    if typing.get_origin(kind) is Annotated and any(isinstance(n, BeforeValidator) for n in kind.__metadata__):
        return values(Annotated[(kind.__origin__, *fields)] if (fields := fields_of(kind)) else kind.__origin__)
    if typing.get_origin(kind) is Annotated and typing.get_origin(kind.__origin__) is tuple:
        return values(kind.__origin__)
    if typing.get_origin(kind) is tuple:
        return st.lists(values(typing.get_args(kind)[0]), min_size=1, max_size=3).map(lambda v: "+".join(map(str, v)))
    if typing.get_origin(kind) is Annotated:
        kind, field = typing.get_args(kind)
        bounds = {
            name: getattr(note, name)
            for note in field.metadata
            for name in ("ge", "gt", "le", "lt")
            if hasattr(note, name)
        }
        low, high = bounds.get("ge", bounds.get("gt", 0)), bounds.get("le", bounds.get("lt", 10**6))
        if kind is int:
            return st.integers(low, high)
        strict = {"exclude_min": "gt" in bounds, "exclude_max": "lt" in bounds}
        return st.floats(low, high, **strict)
    if typing.get_origin(kind) is Literal:
        return st.sampled_from(typing.get_args(kind))
    if type(None) in typing.get_args(kind):
        return st.none() | values(next(k for k in typing.get_args(kind) if k is not type(None)))
    return {int: st.integers(), bool: st.booleans(), str: WORD, Path: WORD.map(lambda w: Path("/") / w)}[kind]


@st.composite
def specs(draw):
    """A component's kind, and a SPEC of it that gives some of its options."""
    kind, name = draw(st.sampled_from(COMPONENTS))
    if name == "import":
        return kind, "import:package.module:Net.make"
    given = {}
    for option in options_of(OFFERS.find(kind, name).component):
        if option.default is dataclasses.MISSING or draw(st.booleans()):
            value = draw(values(option.type))
            given[option.name] = "none" if value is None else str(value)
    body = ",".join(f"{key.replace('_', '-')}={value}" for key, value in given.items())
    return kind, f"{name}:{body}" if body else name


@given(specs())
def test_the_spelled_out_spec_means_the_same_component(drawn):
    kind, spec = drawn
    try:
        spelled, component = OFFERS.make(kind, spec)
    except OptionError:  # options that exclude each other
        assume(False)
    assert OFFERS.make(kind, spelled) == (spelled, component)
    assert OFFERS.make(kind, component) == (spelled, component)
    assert hash(component) == hash(OFFERS.make(kind, spelled)[1])


@pytest.mark.parametrize("text", IN_WORDS)
def test_a_range_in_words_is_that_of_an_option(text):
    known = [option.type for offer in OFFERS.components for option in options_of(offer.component)]
    assert any(typing.get_args(kind)[-1:] == (text,) for kind in known)


@pytest.mark.parametrize(("kind", "name"), COMPONENTS)
def test_every_component_says_what_it_is(kind, name):
    offer = OFFERS.find(kind, name)
    assert offer.summary.endswith(".")
    assert offer.distribution == registry.BUILTIN
    assert offer.component.__dataclass_params__.frozen


NAMES = sorted({name for _, name in COMPONENTS})


@given(
    st.sampled_from(sorted({kind for kind, _ in COMPONENTS})),
    st.text() | st.builds("{}:{}".format, st.sampled_from(NAMES), st.text("size=,:[]{}. 019-npath", max_size=20)),
)
def test_any_text_is_a_spec_or_a_usage_error(kind, text):
    try:
        spelled, component = OFFERS.make(kind, text)
    except UsageError:
        return
    assert OFFERS.make(kind, spelled) == (spelled, component)


KEY = st.from_regex(r"[a-z]\w{0,5}", fullmatch=True)


ANYTHING = (
    st.text("ab=,:\"'\\[]{}() \n\té", max_size=12) | st.text() | st.sampled_from(['["a,b=1"]', "it's", '"a",b=c'])
)


@given(first=st.none() | ANYTHING.map(str.strip), given=st.dictionaries(KEY, ANYTHING))
def test_a_spec_is_written_and_parsed_back(first, given):
    spec = Spec("name", first, given)
    assert parse_spec(str(spec)) == spec


@given(
    first=st.none() | ANYTHING, given=st.dictionaries(KEY, ANYTHING), more=st.lists(ANYTHING, min_size=1, max_size=3)
)
def test_quoted_specs_are_values_of_an_axis(first, given, more):
    """A SPEC with any text in it, among others, comes out of ``--over`` as the same component."""
    specs = [Spec("name", first, given), *(Spec(f"n{place}", t, {}) for place, t in enumerate(more))]
    quoted = [strip_quotes(_quote(str(spec), needed=True)) for spec in specs]
    assert quoted == [str(spec) for spec in specs]
    axis, values = grid.parse_axis("dataset=" + ",".join(_quote(str(spec), needed=True) for spec in specs))
    assert (axis, list(values)) == ("dataset", quoted)
    assert [parse_spec(value) for value in values] == specs


@pytest.mark.parametrize(
    ("spec", "path"),
    [
        ('folder:path="/a,b=c",size=8', "/a,b=c"),
        ("folder:path='/a,b=c',size=8", "/a,b=c"),
        ('folder:"/a=b",size=8', "/a=b"),
        ('folder: "/a,size=9" , size=8', "/a,size=9"),
        ('folder:path="/say \\"a, b=c\\"",size=8', '/say "a, b=c"'),
        ("folder:path='/it\\'s,b=c',size=8", "/it's,b=c"),
        ("folder:path=/it's,size=8", "/it's"),
        ('folder:path="/a\\\\,b=c",size=8', "/a\\,b=c"),
        ('folder:path="/a\\b,c=d",size=8', "/a\\b,c=d"),
        ("folder:path=/a,b:c d=e,size=8", "/a,b:c d=e"),
        ('folder:path="/ends in space ",size=8', "/ends in space "),
        ("folder:path=/a,b,size=8", "/a,b"),
    ],
)
def test_a_path_in_quotes(spec, path):
    spelled, component = OFFERS.make("datasets", spec)
    assert (component.path, component.size) == (Path(path), 8)
    assert OFFERS.make("datasets", spelled) == (spelled, component)
    assert grid.parse_axis(f"dataset={spelled},digits")[1] == (spelled, "digits")  # as a record has it
    assert arm.parse_arm("--baseline", f"seed=1,dataset={spelled}", {"dataset": (spelled,), "seed": ("1",)}) == {
        "seed": "1",
        "dataset": spelled,
    }


@pytest.mark.parametrize(
    "spec", ['folder:path="/a,b', "folder:'/a", 'folder:path="/a"b', 'folder:path="/a",b', 'a:"\\"']
)
def test_a_quote_that_does_not_end_its_value_is_refused(spec):
    with pytest.raises(OptionError, match="begins with a quote and must end with it"):
        parse_spec(spec)


@pytest.mark.parametrize(
    ("spec", "remedy"),
    [
        ("folder:path=/a,b=c", 'folder:path="/a,b=c"'),
        ("folder:/a,b=c", 'folder:path="/a,b=c"'),
        ("folder:a=b", 'folder:path="a=b"'),
    ],
)
def test_unquoted_comma_or_equals_sign_error_shows_how_to_quote(spec, remedy):
    with pytest.raises(OptionError) as caught:
        OFFERS.make("datasets", spec)
    assert str(caught.value).endswith(f"belongs to a value, quote it: {remedy}")
    OFFERS.make("datasets", remedy)


def test_a_misspelt_option_after_a_number_says_nothing_of_quotes():
    with pytest.raises(OptionError) as caught:
        OFFERS.make("reinit", "masked:fraction=0.2,wich=lowest")
    assert "quote" not in str(caught.value)


def test_a_comma_in_a_path_on_an_axis_says_how_to_quote_it():
    made = grid.extend_grid(None, ["dataset=folder:path=/a,b"], "0", {}, None)
    with pytest.raises(ConfigError, match=r'needs quotes: --over dataset=NAME:path="a,b"'):
        grid.plan_cells(made.cells(), OFFERS)
    quoted = grid.extend_grid(None, ['dataset=folder:path="/a,b",digits'], "0", {}, None)
    paths = [plan.dataset.path for _, plan in grid.plan_cells(quoted.cells(), OFFERS) if hasattr(plan.dataset, "path")]
    assert paths == [Path("/a,b")]


def test_an_option_taken_out_of_a_spec_leaves_quotes_in_place():
    layers = config.merge_layers({"dataset": 'folder:path="/a,b=c",size=9'}, {"dataset.folder.size": "8"})
    assert parse_spec(layers["dataset"]).options == {"path": "/a,b=c"}


@pytest.mark.parametrize(
    ("spec", "expected"),
    [
        ("a", ("a", None, {})),
        (" a ", ("a", None, {})),
        ("dist/a:x=1", ("dist/a", None, {"x": "1"})),
        ("a:1", ("a", "1", {})),
        ("a:1,x=2", ("a", "1", {"x": "2"})),
        ("a:b:c", ("a", "b:c", {})),
        ("a:x=b:c,y=d=e", ("a", None, {"x": "b:c", "y": "d=e"})),
        ("a:x=1,2,y=3", ("a", None, {"x": "1,2", "y": "3"})),
        ("a:val-fraction=1", ("a", None, {"val_fraction": "1"})),
        ("a: x = 1 , y = 2", ("a", None, {"x": "1", "y": "2"})),
        ("a:x=", ("a", None, {"x": ""})),
    ],
)
def test_a_spec_comes_apart(spec, expected):
    parsed = parse_spec(spec)
    assert (parsed.name, parsed.first, dict(parsed.options)) == expected


@dataclasses.dataclass(frozen=True)
class Rich:
    """Options of every type that a SPEC can give."""

    number: int = 1
    maybe: int | None = None
    bounded: Annotated[int | None, Field(ge=1)] = None
    other: Annotated[int, Field(ge=1)] | None = 3
    share: float = 0.1
    flag: bool = False
    word: str = "w"
    choice: Literal["a", "b"] = "a"
    where: Path | None = None
    sizes: tuple[int, ...] = (64, 64)
    names: tuple[str, ...] = ()
    made: list[int] = dataclasses.field(default_factory=lambda: [1])


RICH = st.builds(
    Rich,
    number=st.integers(),
    maybe=st.none() | st.integers(),
    bounded=st.none() | st.integers(1),
    other=st.none() | st.integers(1),
    share=st.floats(allow_nan=False, allow_infinity=True),
    flag=st.booleans(),
    word=WORD,
    choice=st.sampled_from("ab"),
    where=st.none() | WORD.map(lambda w: Path("/") / w),
    sizes=st.lists(st.integers()).map(tuple),
    names=st.lists(WORD).map(tuple),
    made=st.lists(st.integers()),
)


@given(RICH)
def test_options_of_every_type_survive_being_spelled(component):
    spelled = format_spec("rich", component)
    again = build_component("rich", Rich, parse_spec(spelled))
    assert again == component
    assert format_spec("rich", again) == spelled
    assert validate_component("rich", component) == component


@pytest.mark.parametrize(
    ("text", "hint"),
    [
        ("rich:number=1.5", "number=1.5"),
        ("rich:number=[1]", "number=[1]"),
        ("rich:sizes=64", "sizes=64"),
        ("rich:sizes=[64", "sizes=[64"),
        ("rich:sizes=[x]", "sizes=[x]"),
        ("rich:bounded=0", "bounded=0"),
        ("rich:other=0", "other=0"),
        ("rich:choice=c", "choice=c"),
        ("rich:flag=perhaps", "flag=perhaps"),
        ("rich:number=none", "number=none"),
    ],
)
def test_a_value_of_another_type_is_refused(text, hint):
    with pytest.raises(OptionError, match="rich: option ") as caught:
        build_component("rich", Rich, parse_spec(text))
    assert hint in str(caught.value)


@pytest.mark.parametrize(
    ("given", "samples"),
    [
        ("1", 1), ("1024", 1024), (" 7 ", 7), (5, 5),
        ("0.2", 0.2), ("0.999", 0.999), (".5", 0.5), ("2e-1", 0.2), ("1E-9", 1e-9), (0.25, 0.25),
        ("none", None), (None, None),
    ],
)  # fmt: skip
def test_an_amount_is_a_count_or_a_share_or_all(given, samples):
    """A whole number counts and a decimal one is a share, whichever its value: 1 is one sample."""
    snip = OFFERS.find("importance", "snip").component
    made = build_component("snip", snip, Spec("snip", None, {"samples": given}))
    assert (made.samples, type(made.samples)) == (samples, type(samples))
    spelled = format_spec("snip", made)
    assert OFFERS.make("importance", spelled) == (spelled, made)
    assert OFFERS.make("importance", snip(samples=samples))[1] == made


@pytest.mark.parametrize(
    "given", ["0", "-3", "1.0", "0.0", "1.5", "-0.2", "2.", "1e3", "nan", "inf", "true", "all", "", "1/5", "20%",
              0, -1, 1.0, 0.0, 2.5, float("nan"), True, False, [1]],
)  # fmt: skip
def test_what_is_no_amount_is_refused(given):
    snip = OFFERS.find("importance", "snip").component
    with pytest.raises(OptionError, match="a count from 1, a share between 0 and 1") as caught:
        build_component("snip", snip, Spec("snip", None, {"samples": given}))
    assert "\n" not in str(caught.value)
    with pytest.raises(OptionError):
        OFFERS.make("importance", snip(samples=given))


@pytest.mark.parametrize(
    ("given", "start"), [("1", 1), ("11", 11), ("0.0", 0.0), (".43", 0.43), ("0e1", 0.0), (3, 3), (0.0, 0.0)]
)
def test_a_start_is_a_layer_or_a_share(given, start):
    llf = OFFERS.find("reinit", "llf").component
    made = build_component("llf", llf, Spec("llf", None, {"start": given}))
    assert (made.start, type(made.start)) == (start, type(start))


@pytest.mark.parametrize("given", ["0", "-1", "1.0", "-0.1", "nan", "none", "x", 0, 1.0, True, None])
def test_what_is_no_start_is_refused(given):
    llf = OFFERS.find("reinit", "llf").component
    with pytest.raises(OptionError, match=r"the share that is kept, from 0\.0 and below 1, or the layer to begin with"):
        build_component("llf", llf, Spec("llf", None, {"start": given}))


def test_a_path_means_the_same_from_every_folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HOME", str(tmp_path / "me"))
    spelled, component = OFFERS.make("datasets", "folder:photos")
    assert component.path == tmp_path / "photos"
    monkeypatch.chdir("/")
    assert OFFERS.make("datasets", spelled)[1] == component
    assert OFFERS.make("datasets", "folder:~/photos")[1].path == tmp_path / "me" / "photos"


def test_an_object_is_checked_as_a_spec_is():
    masked = OFFERS.find("reinit", "masked").component
    with pytest.raises(OptionError, match="fraction=2"):
        OFFERS.make("reinit", masked(fraction=2))


@pytest.mark.parametrize(
    ("spec", "message"),
    [
        ("folder:path=", "folder: option path is empty: give a path ('.' is this folder)"),
        ("folder:path=x,background=red", "folder: option background=red: must be white, black or #rrggbb"),
    ],
)
def test_a_refused_option_says_what_it_may_be(spec, message):
    with pytest.raises(OptionError) as caught:
        OFFERS.make("datasets", spec)
    assert str(caught.value) == message
