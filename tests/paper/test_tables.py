"""The tables of the paper: their figures against each other and its text, their runs, and comparisons by hand."""

from __future__ import annotations

import csv
import dataclasses
import io
import json
import re
import statistics
import string
from pathlib import Path

import pytest

from forgetkit import config
from forgetkit.ablation.grid import plan_cells
from forgetkit.errors import OptionError
from forgetkit.paper import reference, render, scaled_table
from forgetkit.paper.comparison import PaperComparison, compare_with_paper
from forgetkit.paper.reference import SCALES, Caveat, PaperNumber
from forgetkit.registry import registry
from forgetkit.results.outcome import Outcome, Outcomes
from forgetkit.results.statistics import seeds_needed

OFFERS = registry.load(entry_points=False)
TABLES = reference.table_names()
IMAGES = {
    "CIFAR100": "cifar100",
    "Restricted ImageNet": "restricted-imagenet:path=/photos",
}
METHODS = ["BL", "Random init.", "RIFLE", "LLF", "S&P", "LURE"]
SPLIT = ("figure3-left", "figure3-right")
FIGURES = ("figure2", *SPLIT, *(f"figure{n}" for n in range(4, 12)))
PICTURES = tuple(name for name in FIGURES if name not in ("figure2", "figure5"))
"""Those that no number is printed of."""
OF_METHODS = (*(f"table{n}" for n in range(1, 7)), "figure2", *SPLIT, "figure6", "figure7", "figure8")
TEST_IMAGES = {"CIFAR10": 10_000, "CIFAR100": 10_000, "Restricted ImageNet": 3_450}

every_table = pytest.mark.parametrize("name", TABLES)


def at(name: str, scale: str, **changes: str) -> scaled_table.ScaledTable:
    """A table at a scale with data for all its parts."""
    table = reference.read_table(name)
    lacking = {part.data for part in table.parts.values()} - table.scales[scale].data.keys()
    return scaled_table.scale_table(name, scale, data={key: IMAGES[key] for key in lacking}, changes=changes)


# The figures


def test_which_tables_there_are() -> None:
    assert (*FIGURES, *(f"table{n}" for n in range(1, 11))) == TABLES
    assert set(reference.table_titles()) == set(TABLES)


@every_table
def test_every_row_has_its_figures(name: str) -> None:
    table = reference.read_table(name)
    assert (sorted(METHODS) == sorted(table.arms)) == (name in OF_METHODS)
    if name in PICTURES:
        assert not table.printed
        assert any("nothing to compare with" in caveat.says for caveat in table.caveats)
        return
    assert list(table.printed) == list(table.parts)
    for part, rows in table.printed.items():
        assert set(rows) == {arm for arm in table.arms if arm not in table.ours}, part
        for row in rows.values():
            assert list(row) == [column.key for column in table.columns]


@every_table
def test_figures_can_be_what_they_say(name: str) -> None:
    """Shares are shares, and no more errors are counted than answers were given."""
    table = reference.read_table(name)
    for part, rows in table.printed.items():
        run = {**table.base, **table.parts[part].options}
        answers = TEST_IMAGES[table.parts[part].data] * run["mega_batches"]
        for row in rows.values():
            for column in table.columns:
                assert column.unit != "fraction" or 0 < row[column.key].value < 1
            if "test_accuracy" not in row:
                continue
            assert 0.3 < row["test_accuracy"].value < 1
            assert 0 < (row["test_accuracy"].std or 0.001) < 0.0102
            if "cer" in row:
                assert (1 - row["test_accuracy"].value) * 0.5 < row["cer"].value / answers < 0.75
                assert row["cer"].value == int(row["cer"].value)
                assert 0 < row["generalization_gap"].value < 0.7


def test_figures_are_those_of_the_papers_text() -> None:
    """What sections 5.1 to 5.4 say of the tables, and what tables have in common."""

    def ahead(table: str, part: str, of: str = "BL") -> float:
        rows = reference.read_table(table).printed[part]
        return round(100 * (rows["LURE"]["test_accuracy"].value - rows[of]["test_accuracy"].value), 2)

    assert ahead("table1", "CIFAR100") == 6.64
    assert ahead("table1", "Restricted ImageNet") == 4.13
    assert [ahead("table2", part) for part in reference.read_table("table2").parts] == [1.79, 9.36, 2.61]
    rows = reference.read_table("table5").printed["70"]
    lure = rows["LURE"]["test_accuracy"].value
    assert [round(100 * (lure / rows[arm]["test_accuracy"].value - 1), 1) for arm in ("BL", "LLF")] == [4.2, 2.1]
    first, seventh = (
        reference.read_table("table1").printed["CIFAR10"]["LURE"],
        reference.read_table("table7").printed["CIFAR10"]["20"],
    )
    assert (first["cer"], first["generalization_gap"]) == (seventh["cer"], seventh["generalization_gap"])
    assert [round(row["test_accuracy"].value, 4) for row in (first, seventh)] == [0.9332, 0.9432]
    sixth, eighth = (
        reference.read_table("table6").printed["ResNet18"],
        reference.read_table("table8").printed["CIFAR10"],
    )
    for here, there in (("BL", "BL"), ("LURE", "SNIP")):
        assert [f.value for f in sixth[here].values()] == [f.value for f in eighth[there].values()]
    assert reference.read_table("table9").printed["CIFAR10"]["0.2 |M|"]["test_accuracy"] == PaperNumber(0.9373)


@every_table
def test_doubts_are_about_places_that_there_are_and_have_sources(name: str) -> None:
    table = reference.read_table(name)
    page = (Path(__file__).parents[2] / "docs" / "reproducibility.md").read_text(encoding="utf-8")
    assert any(caveat.whole for caveat in table.caveats)
    for caveat in table.caveats:
        assert caveat.part in (None, *table.parts)
        assert caveat.arm in (None, *table.arms)
        assert caveat.column in (None, *(column.key for column in table.columns))
        assert caveat.part is None or caveat.arm or caveat.column is None, "such a doubt would stand nowhere"
        assert caveat.says.endswith(".")
        if caveat.source.startswith("row"):
            rows = re.findall(r"\d+", caveat.source)
            assert rows
            assert all(f"\n| {row} |" in page for row in rows), caveat


def test_a_name_that_is_none() -> None:
    with pytest.raises(OptionError, match="there is no 'table12' to reproduce; did you mean 'table"):
        reference.read_table("table12")


def test_what_the_paper_says_of_its_figures() -> None:
    """The text of sections 6.1 and 6.5 and of A.7 against the cells, and the doubts against both."""
    second = {part: rows for part, rows in reference.read_table("figure2").printed.items() if part != "mean"}
    assert len(second) == 19
    said = {"BL": 68, "Random init.": 69.3, "RIFLE": 64.7, "LLF": 72, "S&P": 71, "LURE": 74}
    env = reference.read_table("figure2").printed["mean"]
    for arm, figure in said.items():
        assert 100 * env[arm]["accuracy"].value == pytest.approx(figure, abs=0.5)
        own = statistics.fmean(100 * rows[arm]["accuracy"].value for rows in second.values())
        off = arm in ("RIFLE", "Random init.")
        assert (abs(own - 100 * env[arm]["accuracy"].value) > 0.5) == off
    ahead = {part for part, rows in second.items() if max(rows, key=lambda arm: rows[arm]["accuracy"].value) == "LURE"}
    assert second.keys() - ahead == {"Gaussian noise", "shot noise", "impulse noise", "contrast"}

    fifth = reference.read_table("figure5")
    lure = [100 * rows["LURE"]["test_accuracy"].value for rows in fifth.printed.values()]
    assert (len(lure), round(min(lure), 1), round(max(lure), 1)) == (16, 91.8, 94.1)
    slowest = fifth.printed["lr 0.005 wd 0.001"]["BL"]["test_accuracy"].value
    assert round(100 * slowest) == 75

    full, sparse = (reference.read_table("table10").printed["CIFAR10"][f"{arm} model"] for arm in ("Full", "Sparse"))
    assert sparse["parameters"].value == int(0.8 * full["parameters"].value)
    assert full["test"].value - sparse["test"].value == pytest.approx(0.0031)
    for row, ratios in ((full, (0.9502, 0.7387)), (sparse, (0.9653, 0.7591))):
        found = [row[key].value / row["train"].value for key in ("test", "robust")]
        assert found == pytest.approx(ratios, abs=1e-4)
        assert [row["test_to_train"].value, row["robust_to_train"].value] == pytest.approx(ratios, abs=0.006)


GRIDS = ("figure5", "figure8")


@pytest.mark.parametrize("name", GRIDS)
def test_a_setting_of_the_grid_is_what_its_name_says(name: str) -> None:
    parts = reference.read_table(name).parts
    assert len(parts) == 16
    for part, made in parts.items():
        lr, decay = (float(text) for text in re.findall(r"[\d.]+", part))
        assert made.options == {"lr": lr, "weight_decay": decay}


# The runs


@pytest.mark.parametrize("scale", SCALES)
@every_table
def test_every_run_resolves_under_the_papers_protocol(name: str, scale: str) -> None:
    chosen = at(name, scale)
    table = chosen.table
    cells = dataclasses.replace(chosen, seeds=(0,)).grid().cells()
    plans = [plan for _, plan in plan_cells(cells, OFFERS)]
    assert len(plans) == len(chosen.parts) * len(table.arms)
    assert set(chosen.parts) == set(table.scales[scale].only or table.parts)
    assert {plan.config.preset for plan in plans} == {"paper"}
    for cell, plan in zip(cells, plans, strict=True):
        if scale != "full":
            continue
        own = {option for option in plan.overrides if "." not in option}
        varied = {
            "figure3-right": {"label-noise"},
            "figure10": {"lr"},
            **{grid: {"lr", "weight-decay"} for grid in GRIDS},
        }
        assert own <= {"mega-batches", "shots", "replay"} | varied.get(name, set()), cell.arm
        assert plan.config.epochs == 50
        assert plan.config.batch_size == 64
        assert plan.config.milestones == (20, 40)


@pytest.mark.slow
def test_the_full_scale_is_the_papers_setting() -> None:
    """Against docs/reproducibility.md and the paper's appendix A.5, by hand."""
    seen = {}
    for name in TABLES:
        chosen = at(name, "full")
        assert chosen.seeds == (0, 1, 2, 3, 4)
        assert [said for said in chosen.changes_from_paper() if " from " not in said] == []
        cells = chosen.grid().cells()
        for part in chosen.parts:
            cell = next(c for c in cells if c.arm.get(chosen.table.part, part) == part)
            plan = config.resolve(cell.options, OFFERS)
            model, replay = plan.config.model.partition(":")[0], plan.config.replay.partition(",")[0]
            dataset = plan.config.dataset.partition(":")[0]
            seen[name, part] = (dataset, model, plan.config.mega_batches, replay, plan.config.shots)
    eight = ("resnet18", 8)
    imagenet = ("restricted-imagenet", "resnet50", 3)
    for name, replay in (("table1", "full"), ("table2", "buffer:size=186"), ("table3", "none")):
        assert seen[name, "CIFAR10"] == ("cifar10", *eight, replay, None)
        assert seen[name, "CIFAR100"] == ("cifar100", *eight, replay, None)
        assert seen[name, "Restricted ImageNet"] == (*imagenet, replay, None)
    for count in (25, 50, 100):
        assert seen["table4", str(count)] == ("cifar10", "resnet18", count, "full", None)
    for count in (30, 70):
        assert seen["table5", str(count)] == ("restricted-imagenet", "resnet50", count, "full", 270)
    names = {"ResNet18": "resnet18", "ResNet50": "resnet50", "Wide-ResNet50-2": "wide-resnet50-2"}
    for part, model in {**names, "VGG16-BN": "vgg16-bn"}.items():
        assert seen["table6", part] == ("cifar10", model, 4, "full", None)
    for name, count in (("table7", 8), ("table8", 4), ("table9", 4), ("figure11", 2), ("table10", 8)):
        assert seen[name, "CIFAR10"] == ("cifar10", "resnet18", count, "full", None)
    counts = {"figure3-right": 4, "figure5": 4, "figure8": 4, **dict.fromkeys(("figure2", "figure3-left"), 8)}
    counts |= dict.fromkeys(("figure4", "figure6", "figure7", "figure10"), 8)
    for (name, part), made in seen.items():
        if name in counts:
            assert made == ("cifar10", "resnet18", counts[name], "full", None), part
    replays = {part: made for (name, part), made in seen.items() if name == "figure9"}
    assert replays == {
        part: ("cifar10", "resnet18", 8, replay, None)
        for part, replay in (("buffer", "buffer:size=186"), ("none", "none"))
    }


@pytest.mark.slow
def test_arms_are_what_their_names_say() -> None:
    def arms(name: str) -> dict[str, tuple[str | None, str]]:
        chosen = at(name, "full")
        plans = {c.arm[chosen.table.arm]: config.resolve(c.options, OFFERS) for c in chosen.grid().cells()}
        return {arm: (plan.config.importance, plan.config.reinit) for arm, plan in plans.items()}

    methods = {
        arm: (importance and importance[:4], reinit.partition(":")[0])
        for arm, (importance, reinit) in arms("table1").items()
    }
    assert methods == {
        "BL": (None, "none"),
        "Random init.": (None, "cold"),
        "RIFLE": (None, "rifle"),
        "LLF": (None, "llf"),
        "S&P": (None, "shrink-perturb"),
        "LURE": ("snip", "masked"),
    }
    for arm, (_, reinit) in arms("table7").items():
        assert reinit.startswith(f"masked:fraction={int(arm) / 100:g},")
    eighth = {arm: (importance or "").partition(":")[0] for arm, (importance, _) in arms("table8").items()}
    assert eighth == {"BL": "", "FIM": "fisher", "Weight Magnitude": "magnitude", "SNIP": "snip", "random": "random"}
    assert {reinit for arm, (_, reinit) in arms("table8").items() if arm != "BL"} == {arms("table1")["LURE"][1]}
    assert [importance for importance, _ in arms("table9").values()] == [
        "snip:samples=0.2,reduce=abs-mean",
        "snip:samples=128,reduce=abs-mean",
    ]


@pytest.mark.slow
@pytest.mark.parametrize("scale", ["smoke", "cpu"])
@every_table
def test_the_caption_says_every_option_that_was_changed(name: str, scale: str) -> None:
    """Against the resolved configurations of the full runs, which the caption is not made from."""
    small = at(name, scale)
    full = dataclasses.replace(at(name, "full"), parts=small.parts)
    said = "; ".join(small.changes_from_paper())
    for ours, theirs in zip(*(dataclasses.replace(s, seeds=(0,)).grid().cells() for s in (small, full)), strict=True):
        assert ours.arm == theirs.arm
        here, there = (config.resolve(cell.options, OFFERS).config.model_dump() for cell in (ours, theirs))
        for key in here:
            if here[key] == there[key] or key in ("milestones", "method"):
                continue  # milestones follow the epochs
            value = ours.options["replay.buffer.size" if key == "replay" else key]
            assert f"→ {value}" in said or f"from {value}" in said, (ours.arm, key, said)


def test_what_was_shrunk_in_words() -> None:
    chosen = scaled_table.scale_table("table2", "cpu", data={"cifar-100": "npz:path=/c100.npz"})
    assert chosen.parts == ("CIFAR10", "CIFAR100")
    assert chosen.left_out == ("Restricted ImageNet",)
    assert chosen.changes_from_paper() == (
        "CIFAR100 from npz:path=/c100.npz",
        "network resnet18 → resnet18:width=8",
        "50 → 10 epochs",
        "all → 200 training images of each class",
        "batches of 64 → 16",
        "buffer of 186 → 7",
    )
    few = scaled_table.scale_table("table5", "smoke", changes={"lr": "0.05", "device": "cpu"})
    assert few.changes_from_paper() == (
        "Restricted ImageNet → digits",
        "network resnet50 → convnet:width=8",
        "270 → 20 training images of each class",
        "50 → 2 epochs",
        "lr 0.1 → 0.05",
        "30: 30 → 3 mega-batches",
        "70: 70 → 5 mega-batches",
    )
    assert {plan.config.lr for _, plan in plan_cells(few.grid().cells(), OFFERS)} == {0.05}


def test_what_a_user_sets_rules_over_the_scale() -> None:
    chosen = scaled_table.scale_table("table8", "smoke", seeds=[3], changes={"epochs": "1", "model": "mlp:width=8"})
    configs = [plan.config for _, plan in plan_cells(chosen.grid().cells(), OFFERS)]
    assert {(c.epochs, c.model.partition(",")[0], c.seed) for c in configs} == {(1, "mlp:width=8", 3)}
    assert "network resnet18 → mlp:width=8" in chosen.changes_from_paper()


def test_what_a_user_sets_need_not_act_in_every_row() -> None:
    chosen = scaled_table.scale_table(
        "table1", "smoke", parts=["CIFAR10", "CIFAR100"], changes={"score-params": "conv-linear"}
    )
    scopes = {cell.arm["method"]: plan.config.score_params for cell, plan in plan_cells(chosen.grid().cells(), OFFERS)}
    assert (scopes["BL"], scopes["LURE"]) == ("all", "conv-linear")
    assert "score-params all → conv-linear" in chosen.changes_from_paper()


METHOD = {"method", "importance", "reinit"}
ROWS_DECIDE = {
    **dict.fromkeys(TABLES, METHOD),
    "table7": METHOD | {"reinit.masked.fraction"},
    "table8": METHOD | {"importance.snip.samples"},
    "table9": METHOD | {"importance.snip.samples"},
}
CHANGES = {
    "method": "lure",
    "importance": "magnitude",
    "reinit": "masked:fraction=0.3",
    "reinit.masked.fraction": "0.3",
    "importance.snip.samples": "3",
    "importance.snip.reduce": "mean-abs",
    "score-params": "conv-linear",
}


@every_table
@pytest.mark.parametrize("option", CHANGES)
def test_user_option_applies_to_every_row_or_is_refused(name: str, option: str) -> None:
    value = CHANGES[option]
    if option in ROWS_DECIDE[name]:
        with pytest.raises(
            OptionError, match=rf"^--set {option} would be ignored: the row '.*' of {name} is .*; leave"
        ):
            scaled_table.scale_table(name, "smoke", changes={option: value})
        return
    part = next(iter(reference.read_table(name).parts))
    chosen = scaled_table.scale_table(name, "smoke", parts=[part], seeds=[0], changes={option: value})
    kind, _, rest = option.partition(".")
    component, _, inner = rest.partition(".")
    plans = [plan for _, plan in plan_cells(chosen.grid().cells(), OFFERS)]
    if component:
        specs = [spec for plan in plans if (spec := getattr(plan.config, kind)) and config.name_of(spec) == component]
        assert specs
        assert all(f"{inner}={value}" in spec for spec in specs), specs
    else:
        assert {plan.config.score_params for plan in plans if plan.importance is not None} == {value}
    assert any(said.startswith(option) and said.endswith(f"→ {value}") for said in chosen.changes_from_paper())


def test_which_row_decides_an_option() -> None:
    with pytest.raises(OptionError) as caught:
        scaled_table.scale_table("table8", "smoke", changes={"importance.forgetkit/snip.samples": "3"})
    assert str(caught.value) == (
        "--set importance.forgetkit/snip.samples would be ignored: the row 'SNIP' of table8 is "
        "importance=snip:samples=0.2, reinit=masked; leave it out, or compare with forgetkit ablate"
    )
    twice = {"replay": "buffer:size=3", "replay.buffer.size": "2"}
    with pytest.raises(
        OptionError, match=r"--set replay\.buffer\.size and --set replay=buffer:size=3 say the same twice"
    ):
        scaled_table.scale_table("table2", "smoke", changes=twice)


@pytest.mark.parametrize("spec", ["buffer:size=3", "forgetkit/buffer:size=3"])
def test_user_spec_overrides_the_options_set_by_the_scale(spec: str) -> None:
    chosen = scaled_table.scale_table("table2", "smoke", parts=["CIFAR10"], seeds=[0], changes={"replay": spec})
    assert {plan.replay.size for _, plan in plan_cells(chosen.grid().cells(), OFFERS)} == {3}  # type: ignore[attr-defined]
    said = chosen.changes_from_paper()
    assert f"replay buffer → {spec}" in said
    assert not any("buffer of" in one for one in said)


SAYS = {
    "milestones unset → 1": ("table9", {"milestones": "1"}),
    "samples unset → 50": ("table9", {"samples": "50"}),
    "metrics none → calibration": ("table9", {"metrics": "calibration"}),
    "model.convnet.width unset → 9": ("table9", {"model.convnet.width": "9"}),
    "all → 9 training images of each class": ("table9", {"shots": "9"}),
    "270 → all training images of each class": ("table5", {"shots": "none"}),
}


@pytest.mark.parametrize("says", SAYS)
def test_change_of_an_option_the_paper_leaves_open_is_described(says: str) -> None:
    name, changes = SAYS[says]
    assert says in scaled_table.scale_table(name, "smoke", changes=changes).changes_from_paper()


def test_an_option_that_is_taken_back_is_not_said() -> None:
    said = "; ".join(scaled_table.scale_table("table9", "smoke", changes={"shots": "none"}).changes_from_paper())
    assert "training images" not in said


def test_samples_stand_for_the_epochs_of_the_scale() -> None:
    chosen = scaled_table.scale_table("table9", "smoke", seeds=[0], changes={"samples": "50"})
    configs = [plan.config for _, plan in plan_cells(chosen.grid().cells(), OFFERS)]
    assert {c.samples for c in configs} == {50}
    assert not any("epochs" in one for one in chosen.changes_from_paper())
    assert any(
        "epochs" in one
        for one in scaled_table.scale_table("table9", "smoke", changes={"samples": "none"}).changes_from_paper()
    )


MISTAKES = {
    "a scale": ({"scale": "huge"}, "--scale huge"),
    "a part": ({"parts": ["MNIST"]}, "--part MNIST: .*CIFAR10"),
    "data of nothing": ({"data": {"MNIST": "digits"}}, "--data MNIST"),
    "a part without data": (
        {"scale": "full", "parts": ["restricted imagenet"]},
        r"table1 at scale full needs data: --data 'Restricted ImageNet=restricted-imagenet:path=FOLDER'",
    ),
    "data of a part that is not run": (
        {"parts": ["CIFAR10"], "data": {"CIFAR100": "digits"}},
        "--data CIFAR100 would be ignored",
    ),
}


@pytest.mark.parametrize("what", MISTAKES)
def test_mistakes_are_told_in_one_line(what: str) -> None:
    given, message = MISTAKES[what]
    with pytest.raises(OptionError, match=message) as caught:
        scaled_table.scale_table("table1", **{"scale": "cpu", **given})
    assert "\n" not in str(caught.value)


def test_a_table_without_any_data_needs_some() -> None:
    with pytest.raises(OptionError, match="table5 at scale cpu needs data: --data 'Restricted ImageNet="):
        scaled_table.scale_table("table5", "cpu")


@every_table
def test_the_miniature_has_seeds_enough_for_a_verdict_or_three(name: str) -> None:
    chosen = at(name, "cpu")
    table = chosen.table
    own = [part for part in chosen.parts if table.parts[part].data in table.scales["cpu"].data]
    judged = sum(table.judges(part, column) for part in own for column in table.columns)
    comparisons = (len(table.arms) - 1) * judged
    few = {**dict.fromkeys(("table4", "table5", "table6"), 3), "figure5": 5, "figure8": 2, "figure10": 5}
    if name in few:
        assert len(chosen.seeds) == few[name]
    else:
        assert seeds_needed(comparisons) <= len(chosen.seeds)


# Comparisons


def outcomes(
    chosen: scaled_table.ScaledTable, results: dict[tuple[str, ...], list[dict[str, float] | None]]
) -> Outcomes:
    """A result per seed, None where it failed."""
    cells = []
    for labels, by_seed in results.items():
        for seed, result in enumerate(by_seed):
            arm = dict(zip(chosen.axes, labels, strict=True))
            cells.append(Outcome(arm, seed, f"{labels}{seed}", "completed" if result else "failed", result))
    return Outcomes("", chosen.axes, tuple(cells))


def result(accuracy: float, cer: float = 100, gap: float = 0.1) -> dict[str, float]:
    return {"test_accuracy": accuracy, "cer": cer, "generalization_gap": gap}


@pytest.fixture
def eighth() -> PaperComparison:
    """Table 8 at the paper's sizes over ten made-up seeds: SNIP always ahead by 0.02, FIM now ahead, now behind."""
    chosen = scaled_table.scale_table("table8", "full", seeds=range(10))
    base = [0.8 + 0.01 * seed for seed in range(10)]
    ahead = {"BL": [0.0] * 10, "FIM": [0.02, -0.02] * 5, "SNIP": [0.02] * 10, "random": [-0.02] * 10}
    rows: dict[tuple[str, ...], list[dict[str, float] | None]] = {
        (arm,): [result(b + a, cer=4000 - 1000 * a) for b, a in zip(base, by, strict=True)] for arm, by in ahead.items()
    }
    rows["Weight Magnitude",] = [result(0.9), *([None] * 9)]
    return compare_with_paper(chosen, outcomes(chosen, {(arm,): rows[arm,] for arm in chosen.table.arms}))


def test_a_comparison_by_hand(eighth: PaperComparison) -> None:
    rows = {row.arm: row for row in eighth.rows}
    accuracy = rows["SNIP"].entries[0]
    assert accuracy.printed == PaperNumber(0.9373)
    assert (accuracy.measured.n, accuracy.measured.mean) == (10, pytest.approx(0.865))
    assert accuracy.difference == pytest.approx(0.865 - 0.9373)
    assert accuracy.against is not None
    assert accuracy.against.printed == pytest.approx(0.9373 - 0.8931)
    judged = accuracy.against.measured
    assert judged.comparison.difference == pytest.approx(0.02)
    assert judged.comparison.p == 2 / 2**10
    assert judged.verdict == "better"
    assert rows["random"].entries[0].against.measured.verdict == "worse"  # type: ignore[union-attr]
    assert rows["random"].ours
    assert rows["random"].entries[0].printed is None
    assert rows["random"].entries[0].difference is None
    assert rows["FIM"].entries[0].against.measured.verdict == "not distinguishable"  # type: ignore[union-attr]
    assert rows["Weight Magnitude"].entries[0].against.measured.verdict == "too few seeds"  # type: ignore[union-attr]
    assert rows["Weight Magnitude"].note.startswith("1 of 10 seeds")
    assert rows["BL"].entries[0].against is None
    cer = rows["SNIP"].entries[1]
    assert cer.difference == pytest.approx(3980 - 4409)
    assert cer.against is not None
    assert cer.against.measured.verdict == "better"


def test_each_part_has_a_baseline_of_its_own() -> None:
    chosen = scaled_table.scale_table("table1", "smoke", parts=["CIFAR10", "CIFAR100"], seeds=[0, 1])
    rows = {
        (part, arm): [result(level + 0.1 * (arm == "LURE"))] * 2
        for part, level in (("CIFAR10", 0.5), ("CIFAR100", 0.2))
        for arm in METHODS
    }
    made = compare_with_paper(chosen, outcomes(chosen, rows))
    assert [(row.part, row.arm) for row in made.rows] == list(rows)
    for row in made.rows:
        if row.arm == "LURE":
            assert row.entries[0].against is not None
            assert row.entries[0].against.measured.comparison.difference == pytest.approx(0.1)
        assert (row.entries[0].against is None) == (row.arm == "BL")
    for sheet in render.sheets(made):
        shown = [row[0] for row in sheet.texts]
        count = len(shown) // 2
        assert shown == ["CIFAR10", *[""] * (count - 1), "CIFAR100", *[""] * (count - 1)]
        parts = list(sheet.split())
        groups = dict.fromkeys(column.group for column in sheet.columns[2:])
        assert [part.title for part in parts] == [": ".join(filter(None, (sheet.title, group))) for group in groups]
        assert all(part.texts[0][:2] == sheet.texts[0][:2] for part in parts)
        assert [sum((part.texts[place][2:] for part in parts), ()) for place in range(len(sheet.rows))] == [
            row[2:] for row in sheet.texts
        ]
        assert sum((part.heads[2:] for part in parts), ()) == tuple(h.rpartition(": ")[2] for h in sheet.heads[2:])


def test_error_counts_are_compared_only_if_they_could_be_equal() -> None:
    rows = {(arm,): [result(0.5)] for arm in reference.read_table("table8").arms}
    for scale, data, alike in (("smoke", {}, False), ("cpu", {"CIFAR10": "npz:path=/c.npz"}, True), ("cpu", {}, True)):
        chosen = scaled_table.scale_table("table8", scale, data=data, seeds=[0])
        made = compare_with_paper(chosen, outcomes(chosen, rows))
        assert all((row.entries[1].difference is not None) == (alike and not row.ours) for row in made.rows)
        assert any("no difference" in line.lower() for line in render.caption(made)) != alike
    long = scaled_table.scale_table("table4", "cpu", seeds=[0])
    assert not any(map(long.counts_alike, long.parts))


def test_doubts_stand_where_they_apply() -> None:
    chosen = scaled_table.scale_table("table1", "smoke", seeds=[0])
    rows = {(part, arm): [result(0.5)] for part in chosen.parts for arm in METHODS}
    made = compare_with_paper(chosen, outcomes(chosen, rows))

    def says(marks: str) -> str:
        return " ".join(made.lettered[letter].says for letter in marks)

    for row in made.rows:
        assert ("94.32" in says(row.entries[0].marks)) == ((row.part, row.arm) == ("CIFAR10", "LURE"))
        assert ("ResNet-18" in says(row.part_marks)) == (row.part == "Restricted ImageNet")
        assert ("never acts" in says(row.marks)) == (row.arm == "RIFLE")
    assert ["gap" in says(marks) for marks in made.column_marks] == [False, False, True]
    one = scaled_table.scale_table("table1", "smoke", parts=["CIFAR100"], seeds=[0])
    alone = compare_with_paper(one, outcomes(one, {k: v for k, v in rows.items() if k[0] == "CIFAR100"}))
    assert not any("94.32" in caveat.says for caveat in alone.lettered.values())


def test_each_doubt_has_a_letter_of_its_own() -> None:
    chosen = scaled_table.scale_table("table9", "smoke", seeds=[0])
    made_up = outcomes(chosen, {(arm,): [result(0.5)] for arm in chosen.table.arms})

    def with_caveats(count: int) -> PaperComparison:
        caveats = tuple(Caveat(f"Reason {n}.", "table 9", arm="128") for n in range(count))
        return compare_with_paper(
            dataclasses.replace(chosen, table=dataclasses.replace(chosen.table, caveats=caveats)), made_up
        )

    assert [row.marks for row in with_caveats(26).rows] == ["", string.ascii_lowercase]
    with pytest.raises(ValueError, match="zip"):
        with_caveats(27)


# As text


def test_markdown_by_hand(eighth: PaperComparison) -> None:
    text = render.render_comparison(eighth, "markdown")
    lines = text.splitlines()
    assert lines[0] == "**Table 8: which criterion of importance**"
    assert lines[2].startswith("| importance criterion | test accuracy (%) ↑: paper | measured | difference | CER ↓ ")
    assert lines[4].startswith("| BL (d) | 89.31 | 84.50 ± 3.03 | -4.81 | 5,657 | 4,000 ± 0 | -1,657 | 7.90 |")
    assert lines[8].startswith("| random | – | 82.50 ± 3.03 | – | – |")
    assert any(line.startswith("| SNIP (c) | +4.42 | +2.00 (each seed) | better | -1,248 |") for line in lines)
    assert "Sizes as in the paper." in lines
    assert any(line.startswith("- (a) FIM: The paper gives no formula") and "row 37" in line for line in lines)
    assert any(line.startswith("- Weight Magnitude: 1 of 10 seeds") for line in lines)
    table = [line for line in lines if line.startswith("|")]
    assert {re.sub(r"\\.", "", line).count("|") for line in table[: len(table) // 2]} == {11}


def test_markdown_escapes_a_sign_that_would_begin_a_list(eighth: PaperComparison) -> None:
    rows = tuple(dataclasses.replace(row, arm=f"- {row.arm}", note="") for row in eighth.rows)
    lines = render.render_comparison(dataclasses.replace(eighth, rows=rows), "markdown").splitlines()
    shown = [line.split(" | ")[0] for line in lines if line.startswith("| \\-")]
    assert shown[:2] == ["| \\- BL (d)", "| \\- FIM (a)"]
    assert len(shown) == 2 * len(rows) - 1, "nothing is compared with the baseline twice"


def test_csv_and_json_have_every_number(eighth: PaperComparison) -> None:
    content = json.loads(render.render_comparison(eighth, "json"))
    assert content == json.loads(json.dumps(render.content(eighth)))
    by_place = {(row["part"], row["arm"]): row for row in content["rows"]}
    lines = list(csv.DictReader(io.StringIO(render.render_comparison(eighth, "csv"))))
    assert len(lines) == 15
    for line in lines:
        entry = by_place[line["part"], line["arm"]]["entries"][line["column"]]
        expected = [entry["measured"]["mean"], entry["difference"], (entry["paper"] or {}).get("value")]
        found = [float(line[key]) if line[key] else None for key in ("measured", "difference", "paper")]
        assert found == expected
        assert (line["verdict"] or None) == (entry["against"] or {}).get("verdict")


def test_latex_escapes_what_tex_would_act_on() -> None:
    chosen = scaled_table.scale_table("table1", "smoke", parts=["CIFAR10"], seeds=[0])
    made = compare_with_paper(chosen, outcomes(chosen, {("CIFAR10", arm): [result(0.5)] for arm in METHODS}))
    text = render.render_comparison(made, "latex")
    assert r"S\&P" in text
    assert "±" not in text
    assert "%" not in re.sub(r"\\%|^%.*$", "", text, flags=re.MULTILINE)


def test_a_figure_without_figures_shows_what_was_measured() -> None:
    chosen = scaled_table.scale_table("figure11", "smoke", seeds=[0, 1])
    rows = {(arm,): [result(0.5), result(0.6)] for arm in ("BL", "Random init.", "LURE")}
    made = compare_with_paper(chosen, outcomes(chosen, rows))
    beside, against = render.sheets(made)
    assert len(beside.heads) == 4
    assert "paper" not in " ".join((*beside.heads, *against.heads))
    assert beside.texts[0] == ("BL (a)", "55.00 ± 7.07", "100 ± 0", "10.00 ± 0.00")
    assert against.texts[0] == (
        *("Random init.", "+0.00", "too few seeds"),
        *("+0", "too few seeds", "+0.00", "too few seeds"),
    )


def test_nothing_measured_yet_is_a_table_all_the_same() -> None:
    chosen = scaled_table.scale_table("table9", "smoke", seeds=[0])
    rows: dict[tuple[str, ...], list[dict[str, float] | None]] = {(arm,): [None] for arm in chosen.table.arms}
    made = compare_with_paper(chosen, outcomes(chosen, rows))
    for form in render.FORMATS:
        assert render.render_comparison(made, form).endswith("\n")
    assert "93.73" in render.render_comparison(made, "markdown")


def test_a_format_that_is_none(eighth: PaperComparison) -> None:
    with pytest.raises(OptionError, match="there is no format 'word'"):
        render.render_comparison(eighth, "word")


@pytest.mark.slow
@pytest.mark.parametrize("name", ["table1", "table8", "figure3-left"])
@pytest.mark.parametrize("scale", ["smoke", "cpu"])
def test_smoke_run_shows_no_difference_to_paper_in_any_format(name: str, scale: str) -> None:
    data = {"CIFAR10": "npz:path=/c.npz"} if scale == "cpu" else {}
    table = reference.read_table(name)
    chosen = scaled_table.scale_table(name, scale, [next(iter(table.parts))], data, seeds=[0, 1])
    rows = {(*chosen.parts[: len(chosen.axes) - 1], arm): [result(0.5), result(0.6)] for arm in table.arms}
    made = compare_with_paper(chosen, outcomes(chosen, rows))
    beside = render.sheets(made)[0]
    smoke = scale == "smoke"
    assert ("difference" in " ".join(beside.heads)) != (smoke or not table.printed)
    assert all(len(row) == len(beside.heads) for row in beside.texts)
    assert not smoke or not [entry.difference for row in made.rows for entry in row.entries if entry.difference]
    content = json.loads(render.render_comparison(made, "json"))
    assert content["comparable"] != smoke
    reason = "No differences to the paper: runs as small as these cannot be compared with it."
    for form in ("markdown", "latex"):
        assert (reason in render.render_comparison(made, form)) == smoke
    assert (reason in content["caption"]) == smoke
    if smoke:
        assert {line["difference"] for line in csv.DictReader(io.StringIO(render.render_comparison(made, "csv")))} == {
            ""
        }
