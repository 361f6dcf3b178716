"""Which cells a grid has: against the product written out, and every mistake in one line."""

from __future__ import annotations

import itertools
import re
import tracemalloc
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from forgetkit.ablation import grid
from forgetkit.ablation.grid import Grid
from forgetkit.config import Plan
from forgetkit.errors import ConfigError
from forgetkit.registry import registry
from forgetkit.results import arm

OFFERS = registry.load(entry_points=False)


def plans_of(asked: Grid) -> list[Plan]:
    return [plan for _, plan in grid.plan_cells(asked.cells(), OFFERS)]


def test_the_values_of_an_axis() -> None:
    assert grid.parse_axis("importance=snip,fisher") == ("importance", ("snip", "fisher"))
    assert grid.parse_axis("importance=snip:samples=64,reduce=mean-abs,fisher:variant=batch,random")[1] == (
        "snip:samples=64,reduce=mean-abs",
        "fisher:variant=batch",
        "random",
    )
    assert grid.parse_axis("model=mlp:widths=[8,8],convnet")[1] == ("mlp:widths=[8,8]", "convnet")
    assert grid.parse_axis("mega-batches=2,4") == ("mega_batches", ("2", "4"))
    assert grid.parse_axis("reinit.masked.fraction=0.1,0.2")[0] == "reinit.masked.fraction"


@given(
    st.lists(st.sampled_from(["snip", "snip:samples=3", "buffer:size=2,rule=lure", "none"]), min_size=1, unique=True)
)
def test_values_come_back_as_they_were_joined(values: list[str]) -> None:
    assert grid.parse_axis("importance=" + ",".join(values))[1] == tuple(values)


@pytest.mark.parametrize(
    ("text", "seeds"), [("0", (0,)), ("0-4", (0, 1, 2, 3, 4)), ("3,0-1,7", (3, 0, 1, 7)), (" 2 , 4-5", (2, 4, 5))]
)
def test_seeds(text: str, seeds: tuple[int, ...]) -> None:
    assert grid.parse_seeds(text) == seeds


@pytest.mark.parametrize("text", ["", "a", "4-2", "1,1", "0-2,1", "-1", "1.5", "1,,2"])
def test_seeds_that_are_none(text: str) -> None:
    with pytest.raises(ConfigError, match="--seeds"):
        grid.parse_seeds(text)


def test_every_combination_at_every_seed_arm_by_arm() -> None:
    asked = grid.extend_grid(None, ["importance=snip,fisher,random", "replay=full,none"], "0-1", {"epochs": "2"}, None)
    expected = [
        (importance, replay, seed)
        for (importance, replay), seed in itertools.product(
            itertools.product(["snip", "fisher", "random"], ["full", "none"]), [0, 1]
        )
    ]
    assert [(c.arm["importance"], c.arm["replay"], c.seed) for c in asked.cells()] == expected
    plans = list(plans_of(asked))
    assert len({plan.digest for plan in plans}) == 12
    assert {(p.config.epochs, p.config.seed) for p in plans} == {(2, 0), (2, 1)}
    assert [p.config.replay for p in plans[:4]] == ["full", "full", "none", "none"]


FILE = """
title = "What is forgotten"
seeds = "0-2"
baseline = "warm"
[base]
epochs = 3
preset = "paper"
[axes]
replay = ["full", "none"]
[arms.warm]
method = "warm"
[arms.lure]
importance = "snip"
reinit = "masked:fraction=0.1"
[[exclude]]
arm = "warm"
replay = "none"
[[include]]
arm = "warm"
replay = "last"
"""


def test_file_with_named_arms_and_left_out_and_added_cells(tmp_path: Path) -> None:
    file = tmp_path / "question.toml"
    file.write_text(FILE)
    with pytest.raises(ConfigError, match="arm=warm means 2 arms: give a value on each axis") as caught:
        grid.read_grid(file)
    assert str(caught.value).startswith(f"{file}: baseline")
    file.write_text(FILE.replace('baseline = "warm"', 'baseline = { arm = "warm", replay = "full" }'))
    asked = grid.read_grid(file)
    arms = [tuple(arm.values()) for arm in asked.combinations()]
    assert arms == [("warm", "full"), ("lure", "full"), ("lure", "none"), ("warm", "last")]
    assert asked.reference() == {"arm": "warm", "replay": "full"}
    assert (asked.title, asked.seeds, len(asked.cells())) == ("What is forgotten", (0, 1, 2), 12)
    plans = {tuple(c.arm.values()): p for c, p in zip(asked.cells(), plans_of(asked), strict=True)}
    assert plans["lure", "none"].config.reinit.startswith("masked:fraction=0.1,")
    assert plans["warm", "last"].importance is None
    assert {plan.config.preset for plan in plans.values()} == {"paper"}


MISTAKES = {
    "nothing differs": ("seeds = '0'", "needs something that differs"),
    "an unknown entry": ("axis = {}", "no entry 'axis'"),
    "an unknown option": ("[axes]\nimportanc = ['snip']", "no option is called 'importanc'; did you mean 'importance'"),
    "no list": ("[axes]\nreplay = 'full'", "replay needs a list of values"),
    "a value twice": ("[axes]\nreplay = ['full', 'full']", "replay has the value 'full' twice"),
    "an axis of arms": ("[axes]\narm = ['a']", r"arms are given in tables, \[arms.NAME\]"),
    "excluded and not there": (
        "[axes]\nreplay = ['full']\n[[exclude]]\nreplay = 'none'",
        "'none' is no value of replay",
    ),
    "an unknown axis": ("[axes]\nreplay = ['full']\n[[exclude]]\nepochs = 2", "no axis 'epochs'"),
    "all excluded": ("[axes]\nreplay = ['full']\n[[exclude]]\nreplay = 'full'", "exclude leaves no combination"),
    "included in part": (
        "[axes]\nreplay = ['full']\nepochs = [1]\n[[include]]\nreplay = 'none'",
        "needs a value on each axis: replay, epochs",
    ),
    "seeds that are none": ("seeds = [1, 1]\n[axes]\nreplay = ['full']", "seeds: 1 is given twice"),
    "no TOML": ("[axes", "Expected"),
}


@pytest.mark.parametrize("what", MISTAKES)
def test_mistakes_in_a_file(tmp_path: Path, what: str) -> None:
    content, words = MISTAKES[what]
    file = tmp_path / "g.toml"
    file.write_text(content)
    with pytest.raises(ConfigError, match=words) as caught:
        grid.read_grid(file).combinations()
    if what not in ("all excluded", "nothing differs"):
        assert str(caught.value).startswith(f"{file}: ")
    assert "\n" not in str(caught.value)


def test_a_cell_whose_options_do_not_go_together_is_named() -> None:
    asked = grid.extend_grid(None, ["importance=snip,fisher", "reinit=masked,cold"], "0", {}, None)
    with pytest.raises(ConfigError, match=r"the cell importance=snip, reinit=cold: .*ignored.*; --exclude leaves"):
        list(plans_of(asked))


def test_the_command_line_over_a_file(tmp_path: Path) -> None:
    file = tmp_path / "g.toml"
    file.write_text("seeds = '0-4'\n[base]\nepochs = 5\n[axes]\nreplay = ['full', 'none']\n")
    asked = grid.extend_grid(grid.read_grid(file), ["replay=last", "lr=0.1,0.2"], "7", {"epochs": "2"}, "lr=0.2")
    assert asked.axes == {"replay": ("last",), "lr": ("0.1", "0.2")}
    assert (asked.seeds, asked.base["epochs"], asked.reference()) == ((7,), "2", {"replay": "last", "lr": "0.2"})
    with pytest.raises(ConfigError, match="--replay and --over replay are given both"):
        grid.extend_grid(grid.read_grid(file), [], None, {"replay": "full"}, None)
    with pytest.raises(ConfigError, match="--over lr is given twice"):
        grid.extend_grid(None, ["lr=0.1", "lr=0.2"], None, {}, None)


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ("random", {"importance": "random"}),
        ("importance=random,replay=none", {"importance": "random", "replay": "none"}),
        (
            "importance=snip:samples=2,reduce=mean-abs,replay=full",
            {"importance": "snip:samples=2,reduce=mean-abs", "replay": "full"},
        ),
    ],
)
def test_the_baseline_of_a_command_line(text: str, found: dict[str, str]) -> None:
    asked = Grid("", {"importance": ("random", "snip:samples=2,reduce=mean-abs"), "replay": ("full", "none")}, (0,))
    assert arm.parse_arm("--baseline", text, asked.axes) == found
    with pytest.raises(ConfigError, match="write AXIS=VALUE, with axes importance, replay"):
        arm.parse_arm("--baseline", "nobody", asked.axes)


def test_what_all_cells_share_need_not_act_in_each() -> None:
    """A warm start looks at no scores, so that arm goes without the option that LURE needs it for."""
    asked = grid.extend_grid(None, ["method=warm,lure"], "0,1", {"score_mode": "train", "epochs": 2}, None)
    plain = grid.extend_grid(None, ["method=warm,lure"], "0,1", {"epochs": 2}, None)
    pairs, bare = grid.plan_cells(asked.cells(), OFFERS), grid.plan_cells(plain.cells(), OFFERS)
    assert [plan.digest == other.digest for (_, plan), (_, other) in zip(pairs, bare, strict=True)] == [
        *(True, True),
        *(False, False),
    ]
    assert ["score_mode" in cell.options for cell, _ in pairs] == [False, False, True, True]
    with pytest.raises(ConfigError, match="--score-mode train would be ignored in each cell"):
        grid.plan_cells(
            grid.extend_grid(None, ["method=warm,cold"], "0", {"score_mode": "train"}, None).cells(), OFFERS
        )


def test_an_axis_that_cannot_act_is_refused() -> None:
    asked = grid.extend_grid(None, ["score_mode=train,eval"], "0", {"method": "warm"}, None)
    with pytest.raises(ConfigError, match=r"the cell score_mode=train: --score-mode train would be ignored"):
        grid.plan_cells(asked.cells(), OFFERS)


def test_combinations_left_out_on_the_command_line() -> None:
    over = ["importance=snip:samples=8,batch=4,fisher", "reinit=masked,cold"]
    left = grid.extend_grid(None, over, "0", {}, None, ["importance=snip:samples=8,batch=4,reinit=cold"])
    assert len(left.combinations()) == 3
    assert len(grid.extend_grid(None, over, "0", {}, None, ["reinit=cold"]).combinations()) == 2
    for text in ("reinit", "reinit=", "depth=3", "reinit=cold,", "x"):
        with pytest.raises(ConfigError):
            grid.extend_grid(None, over, "0", {}, None, [text])


@pytest.mark.parametrize("option", ["seed", "out", "name"])
def test_what_the_ablation_itself_decides_is_no_option_of_a_cell(option: str) -> None:
    for asked in ({"axes": {option: ("1", "2")}}, {"axes": {"epochs": ("1",)}, "base": {option: "1"}}):
        with pytest.raises(ConfigError, match=f"{option}.*--"):
            Grid("t", seeds=(0,), **asked)  # type: ignore[arg-type]
    with pytest.raises(ConfigError, match=f"{option}.*--"):
        Grid("t", {"arm": ("a",)}, (0,), arms={"a": {option: 1}})


def test_names_for_sets_of_options_on_any_axis() -> None:
    """Layered in the order of the axes: what an arm sets goes over what a part sets, which goes over the shared."""
    asked = Grid(
        "parts by arms",
        {"part": ("short", "long"), grid.ARM: ("warm", "own")},
        (0,),
        base={"epochs": 3},
        sets={"part": {"short": {"mega-batches": 2, "epochs": 4}, "long": {"mega-batches": 5, "lr": 0.2}}},
        arms={"warm": {"method": "warm"}, "own": {"method": "cold", "lr": 0.3}},
        baseline={"part": "long", grid.ARM: "warm"},
    )
    assert [tuple(cell.arm.values()) for cell in asked.cells()] == [
        ("short", "warm"),
        ("short", "own"),
        ("long", "warm"),
        ("long", "own"),
    ]
    configs = [plan.config for _, plan in grid.plan_cells(asked.cells(), OFFERS)]
    assert [(c.mega_batches, c.epochs, c.lr, c.method) for c in configs] == [
        (2, 4, 0.1, "warm"),
        (2, 4, 0.3, "cold"),
        (5, 3, 0.2, "warm"),
        (5, 3, 0.3, "cold"),
    ]
    with pytest.raises(ConfigError, match="exclude: 'medium' is no value of part; it has short, long"):
        Grid("", asked.axes, (0,), sets=asked.sets, arms=asked.arms, exclude=({"part": "medium"},))
    with pytest.raises(ConfigError, match="include: no part is called 'medium'; there are short, long"):
        Grid("", asked.axes, (0,), sets=asked.sets, arms=asked.arms, include=({"part": "medium", "arm": "warm"},))
    with pytest.raises(ConfigError, match="'keep_models' is set by the ablation for each cell: use --keep"):
        Grid("", asked.axes, (0,), {"keep_models": "none"}, sets=asked.sets, arms=asked.arms)
    with pytest.raises(ConfigError, match="'seed' is set by the ablation for each cell: use --seeds"):
        Grid("", asked.axes, (0,), sets={"part": {"short": {"seed": 1}, "long": {}}}, arms=asked.arms)


@pytest.mark.parametrize(
    ("over", "base", "says"),
    [
        (
            ["reinit=masked:0.1,masked:0.3"],
            {"reinit.masked.fraction": 0.8},
            "--set reinit.masked.fraction=0.8 .*ignored",
        ),
        (["reinit=cold,none"], {"reinit.masked.fraction": 0.8}, "--set reinit.masked.fraction=0.8 would be ignored"),
        (["importance=snip,random"], {"importance.fisher.samples": 3}, "--set importance.fisher.samples=3 would be"),
        (["method=warm,lure"], {"importance": "fisher"}, "--importance fisher .* since each arm's method decides it"),
    ],
)
def test_what_no_cell_uses_is_refused(over: list[str], base: dict[str, object], says: str) -> None:
    with pytest.raises(ConfigError, match=says):
        grid.plan_cells(grid.extend_grid(None, over, "0", base, None).cells(), OFFERS)


def test_what_every_arm_of_a_file_sets_cannot_be_given_beside(tmp_path: Path) -> None:
    file = tmp_path / "g.toml"
    file.write_text("[base]\nepochs = 9\n[arms.a]\nepochs = 1\n[arms.b]\nmethod = 'warm'\n")
    given = grid.extend_grid(grid.read_grid(file), [], None, {"epochs": "7"}, None)
    assert [plan.config.epochs for _, plan in grid.plan_cells(given.cells(), OFFERS)] == [1, 7]
    over = grid.extend_grid(grid.read_grid(file), ["epochs=2,3"], None, {}, None)  # the line comes on top of the file
    assert {plan.config.epochs for _, plan in grid.plan_cells(over.cells(), OFFERS)} == {2, 3}
    file.write_text("[arms.a]\nepochs = 1\n[arms.b]\nepochs = 3\n")
    with pytest.raises(ConfigError, match=r"--epochs 7 would be ignored .* since each arm sets it"):
        grid.plan_cells(grid.extend_grid(grid.read_grid(file), [], None, {"epochs": "7"}, None).cells(), OFFERS)
    file.write_text("[base]\nimportance = 'fisher'\n[axes]\nimportance = ['snip', 'random']\n")
    with pytest.raises(ConfigError, match="since each arm sets it"):
        grid.plan_cells(grid.read_grid(file).cells(), OFFERS)


@pytest.mark.parametrize("option", ["threads", "device", "checkpoint_seconds", "observers"])
def test_how_a_run_is_carried_out_tells_no_arms_apart(option: str) -> None:
    for asked in ({"axes": {option: ("1", "2")}}, {"axes": {"arm": ("a",)}, "arms": {"a": {option: "1"}}}):
        with pytest.raises(ConfigError, match=f"'{option}' says how a run runs"):
            Grid("t", seeds=(0,), **asked)  # type: ignore[arg-type]
    assert Grid("t", {"epochs": ("1", "2")}, (0,), {option: "1"})


@pytest.mark.parametrize(
    "entry", ["baseline = 0", "baseline = false", "exclude = 5", "include = true", "[exclude]\na=1"]
)
def test_odd_entries_of_a_file_are_told(tmp_path: Path, entry: str) -> None:
    file = tmp_path / "g.toml"
    rest = "[axes]\nreplay = ['full', 'none']\n"
    file.write_text(f"{rest}{entry}\n" if entry.startswith("[") else f"{entry}\n{rest}")
    with pytest.raises(ConfigError, match=f"g.toml: {re.sub(r'[^a-z].*', '', entry.strip('['))}"):
        grid.read_grid(file)


def test_no_command_line_asks_for_a_billion_seeds() -> None:
    with pytest.raises(ConfigError, match="more than 10,000 seeds"):
        grid.parse_seeds("0-1000000000")


TWO_SPELLINGS = {
    "a number": (["lr=0.1,0.10"], "lr=0.1 and lr=0.10"),
    "an exponent": (["lr=0.2,1e-1,0.1"], "lr=1e-1 and lr=0.1"),
    "a default": (["importance=snip,snip:samples=1024"], "importance=snip and importance=snip:samples=1024"),
    "a full name": (["importance=random,snip,forgetkit/snip"], "importance=snip and importance=forgetkit/snip"),
    "the order of options": (
        ["replay=buffer:size=9,rule=lure,buffer:rule=lure,size=9"],
        "replay=buffer:size=9,rule=lure and replay=buffer:rule=lure,size=9",
    ),
    "within two axes": (
        ["replay=full,none", "reinit=masked:fraction=0.2,masked:fraction=.20"],
        "replay=full, reinit=masked:fraction=0.2 and replay=full, reinit=masked:fraction=.20",
    ),
    "an option of a component": (["reinit.masked.fraction=0.2,0.20"], "fraction=0.2 and reinit.masked.fraction=0.20"),
    "what is measured": (["metrics=cer,test-accuracy"], "metrics=cer and metrics=test-accuracy"),
}


@pytest.mark.parametrize("what", TWO_SPELLINGS)
def test_two_spellings_of_one_arm_are_refused_by_name(what: str) -> None:
    over, named = TWO_SPELLINGS[what]
    with pytest.raises(ConfigError, match=re.escape(f"{named} are the same run")):
        grid.plan_cells(grid.extend_grid(None, over, "0-2", {}, None).cells(), OFFERS)


def test_two_names_of_one_arm_in_a_file(tmp_path: Path) -> None:
    file = tmp_path / "g.toml"
    file.write_text(
        "[arms.usual]\nmethod = 'lure'\n[arms.warm]\nmethod = 'warm'\n"
        "[arms.spelled]\nimportance = 'snip'\nreinit = 'masked'\n"
    )
    with pytest.raises(ConfigError, match="arm=usual and arm=spelled are the same run"):
        grid.plan_cells(grid.read_grid(file).cells(), OFFERS)
    included = Grid("", {"lr": ("0.1", "0.2")}, (0,), include=({"lr": "2e-1"},))
    with pytest.raises(ConfigError, match=r"lr=0\.2 and lr=2e-1 are the same run"):
        grid.plan_cells(included.cells(), OFFERS)


def test_arms_that_differ_are_none_of_that() -> None:
    over = ["importance=snip,snip:samples=1023,random", "lr=0.1,0.11"]
    assert len(grid.plan_cells(grid.extend_grid(None, over, "0-1", {}, None).cells(), OFFERS)) == 12


@pytest.mark.parametrize(
    ("text", "both"), [("0,0", "by 0 and by 0"), ("0-2,1", "by 0-2 and by 1"), ("3,03", "by 3 and by 03")]
)
def test_a_seed_given_twice_names_both(text: str, both: str) -> None:
    with pytest.raises(ConfigError, match=both):
        grid.parse_seeds(text)
    with pytest.raises(ConfigError, match="seeds: 0 is given twice"):
        Grid("", {"lr": ("0.1", "0.2")}, (0, 1, 0))


@pytest.mark.slow
@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("seeds = [" + ",".join(map(str, range(30_000))) + ']\n[axes]\nmethod = ["warm"]', "more than 10,000 seeds"),
        (
            "[axes]\n"
            + "\n".join(f"{axis} = {list(range(1, 61))}" for axis in ("epochs", "batch-size", "shots", "patience"))
            + "\nmega-batches = "
            + str(list(range(1, 61)))
            + "\nsamples = "
            + str(list(range(1, 61))),
            "a grid of 46,656,000,000 cells is beyond 100,000",
        ),
    ],
    ids=["seeds", "axes"],
)
def test_a_grid_is_counted_before_it_is_listed(tmp_path, text, said):
    file = tmp_path / "grid.toml"
    file.write_text(text)
    tracemalloc.start()
    with pytest.raises(ConfigError, match=said):
        grid.read_grid(file)
    assert tracemalloc.get_traced_memory()[1] < 1 << 28
    tracemalloc.stop()
