"""Any SPEC, option, TOML file or grid is accepted or refused in one line; no other error is raised."""

from __future__ import annotations

import dataclasses

import pytest
from helpers.fuzz_judging import command, examples, one_line, refusal
from helpers.fuzz_values import NASTY, keys, texts, toml, values
from hypothesis import example, given
from hypothesis import strategies as st

from forgetkit import config
from forgetkit.ablation import grid
from forgetkit.registry import registry
from forgetkit.registry.spec import options_of, parse_spec

pytestmark = pytest.mark.slow

FIELDS = sorted(config.RunConfig.model_fields)
PATHS = [
    *("reinit.masked.fraction", "reinit.masked", "reinit..fraction", "reinit", ".", "..", "a.b.c", "dataset.npz.path"),
    *("importance.snip.samples", "importance.fisher.variant", "model.mlp.width", "replay.buffer.size"),
    "reinit" + ".a" * 3000,
]
KINDS = [kind for kind in registry.KINDS if kind not in ("commands", "optimizer_state")]


@pytest.fixture(scope="module")
def offers():
    """All components, with installed plugins."""
    return registry.load()


def every_option(offers):
    """Yield each option of each component as a SPEC up to its value."""
    for kind in KINDS:
        for offer in offers.named(kind):
            known = options_of(offer.component)
            for option in known:
                missing = [o.name for o in known if o.default is dataclasses.MISSING and o.name != option.name]
                others = "".join(f"{name}=x," for name in missing)
                yield kind, f"{offer.distribution}/{offer.name}:{others}{option.name.replace('_', '-')}="


def made_and_spelled(offers, kind, spec):
    """Require that a SPEC and its full spelling give the same component."""
    spelled, _ = offers.make(kind, spec)
    assert offers.make(kind, spelled)[0] == spelled


def test_every_option_of_every_component_with_nasty_values(offers):
    refused = [
        refusal(lambda kind=kind, spec=spec, value=value: made_and_spelled(offers, kind, spec + value))
        for kind, spec in every_option(offers)
        for value in NASTY
    ]
    assert len(refused) > 5000
    assert len(refused) * 0.5 < sum(map(bool, refused)) < len(refused)


@examples(100)
@given(st.data())
def test_any_value_of_any_option(offers, data):
    kind, spec = data.draw(st.sampled_from(list(every_option(offers))))
    value = data.draw(texts)
    refusal(lambda: made_and_spelled(offers, kind, spec + value))


def quoted(value: str) -> str:
    return '"' + value.replace("\\", "\\\\").replace('"', '\\"') + '"'


@examples(100)
@given(texts | st.builds("{}:{}={},{}={}".format, *[texts] * 5))
def test_any_text_as_a_spec(offers, text):
    def taken_apart():
        spec = parse_spec(text)
        first = [] if spec.first is None else [quoted(spec.first)]
        pieces = ",".join([*first, *(f"{key}={quoted(value)}" for key, value in spec.options.items())])
        again = parse_spec(f"{spec.name}:{pieces}" if pieces else spec.name)
        assert (again.name, again.options) == (spec.name, spec.options)

    refusal(taken_apart)
    for kind in ("importance", "reinit", "dataset"):
        refusal(lambda kind=kind: config.resolve({kind: text}, offers))


def test_every_field_with_nasty_values(offers):
    for place, key in enumerate((*FIELDS, *PATHS)):
        for value in NASTY[place % 4 :: 4]:
            refusal(lambda key=key, value=value: config.resolve(config.parse_assignments([f"{key}={value}"]), offers))


@examples(150)
@given(st.dictionaries(st.sampled_from([*FIELDS, *PATHS]) | keys, values, min_size=1, max_size=3))
def test_any_table_as_a_configuration(offers, given):
    refusal(lambda: config.resolve(given, offers))


@examples(150)
@given(
    st.fixed_dictionaries(
        {},
        optional={
            **dict.fromkeys(grid._KEYS, values),
            "axes": values | st.dictionaries(st.sampled_from([*FIELDS, *PATHS]), values, max_size=3),
            "arms": values | st.dictionaries(texts, st.dictionaries(st.sampled_from(FIELDS), values), max_size=3),
            "unknown": values,
        },
    )
)
def test_any_table_as_a_grid(offers, content):
    def planned():
        asked = grid._build_grid(content, "x")
        if len(asked.seeds) < 9:
            grid.plan_cells(asked.cells()[:3], offers)

    refusal(planned)


@examples(100)
@given(texts | st.builds("{}-{}".format, st.integers(), st.integers()), texts, texts)
@example("0-99999999999999999999", "", "")
def test_any_words_as_axes_and_seeds(text, key, value):
    refusal(lambda: grid.parse_seeds(text))
    refusal(lambda: grid.parse_axis(f"{key}={value}"))
    refusal(lambda: grid.parse_axis(f"importance={value},{text}"))
    refusal(lambda: grid.extend_grid(None, [f"epochs={value}"], text, {}, key, [value]))


RAW = {
    "nothing": b"",
    "a null byte": b"\0",
    "utf-16": "seed = 1".encode("utf-16"),
    "a byte order mark": b"\xef\xbb\xbfseed = 1",
    "half a line": b"seed =",
    "lists in lists": b"a = " + b"[" * 100_000,
    "tables in tables": b"a = " + b"{a = " * 5000 + b"1" + b"}" * 5000,
    "a long key": b"reinit.masked" + b".a" * 3000 + b" = 1",
    "a long heading": b"[reinit" + b".a" * 3000 + b"]\nx = 1",
    "a key twice": b"seed = 1\nseed = 2",
    "a table twice": b"[reinit.masked]\n[reinit.masked]",
    "a key as a table": b"seed = 1\nseed.x = 2",
    "a huge number": b"seed = " + b"9" * 10_000,
    "a huge option": b"[reinit.masked]\nfraction = " + b"9" * 5000,
    "a date": b"seed = 1979-05-27",
    "many seeds": b"seeds = [" + b"1, " * 100_000 + b"]\n[axes]\nepochs = [1]",
    "a huge range": b"seeds = '0-" + b"9" * 4400 + b"'\n[axes]\nepochs = [1]",
    "no number": b"lr = nan",
    "control characters": b'seed = "\\u001b[2J\\n\\u0007"',
    "a key of control characters": b'"\\u001b[2J\\n" = 1',
    "another script": '"\u202e" = "\u202e"'.encode(),
}


@pytest.mark.parametrize("raw", RAW.values(), ids=RAW)
def test_any_bytes_as_a_file_of_options_or_a_grid(raw, workdir):
    (workdir / "odd.toml").write_bytes(raw)
    for words in (["run", "--config", "odd.toml", "--epochs", 0], ["ablate", "odd.toml", "--epochs", 0]):
        answer = command(words)  # --epochs 0 starts no run
        assert one_line(answer).startswith("forgetkit: ")
        assert answer.status == 2


@examples(60)
@given(st.binary(max_size=60) | st.lists(st.tuples(st.sampled_from(FIELDS), values), max_size=3))
def test_any_file_of_options(offers, workdir, content):
    if not isinstance(content, bytes):
        content = "".join(f"{key} = {toml(value)}\n" for key, value in content).encode()
    file = workdir / "odd.toml"
    file.write_bytes(content)
    refusal(lambda: config.resolve(config.read_toml(file), offers))
    refusal(lambda: grid.read_grid(file))
    message = refusal(lambda: config.read_toml(file))
    assert not message or message.startswith(f"--config {file}: ")


@examples(8)
@given(st.sampled_from(["--set", "--over", "--seeds", "--exclude", "--baseline", "--name", "--importance"]), texts)
def test_any_words_on_the_command_line(workdir, flag, text):
    one_line(command(["ablate", flag, text, "--epochs", 0, "--dry-run"]))
    one_line(command(["run", flag, text, "--epochs", 0, "--dry-run"]))
