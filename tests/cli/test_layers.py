"""Defaults < TOML file < ``--set`` and the command line; and which options make two runs different ones."""

from __future__ import annotations

from dataclasses import dataclass

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from forgetkit import config
from forgetkit.config import RunConfig
from forgetkit.errors import ConfigError
from forgetkit.registry import registry
from forgetkit.registry.spec import parse_spec

OFFERS = registry.load(entry_points=False)

VALUES = {
    "epochs": st.integers(1, 5),
    "batch_size": st.integers(1, 99),
    "lr": st.sampled_from([0.5, 0.01, 1e-3]),
    "momentum": st.sampled_from([0.0, 0.5]),
    "seed": st.integers(0, 2**40),
    "val_fraction": st.sampled_from([0.0, 0.25]),
    "replay": st.sampled_from(["none", "last", "buffer:size=7,rule=per-mega-batch"]),
    "reinit": st.sampled_from(["masked:fraction=0.5", "masked:fraction=0.0"]),
    "augment": st.sampled_from(["none", "auto"]),
    "schedule": st.sampled_from(["cosine", "constant"]),
    "split": st.sampled_from(["contiguous", "random"]),
    "out": st.sampled_from(["here", "there"]),
}
BESIDE = ",which=lowest,ties=random,round=down,params=all,fresh=original,norm=ones"
SPELLED = {
    "masked": f"masked:fraction=0.2{BESIDE}",
    "masked:fraction=0.5": f"masked:fraction=0.5{BESIDE}",
    "masked:fraction=0.0": f"masked:fraction=0.0{BESIDE}",
    "buffer:size=7,rule=per-mega-batch": "buffer:size=7,val-size=none,rule=per-mega-batch",
}
LAYER = st.fixed_dictionaries({}, optional=VALUES)


def toml(options):
    lines = [f"{key} = {f'{value!r}' if isinstance(value, str) else value}" for key, value in options.items()]
    return "\n".join(lines)


def flags(options):
    return [word for key, value in options.items() for word in (f"--{key.replace('_', '-')}", str(value))]


@pytest.mark.slow
@given(file=LAYER, assigned=LAYER, line=LAYER)
@settings(max_examples=8, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_the_higher_layer_wins(file, assigned, line, cli, workdir):
    assigned = {key: value for key, value in assigned.items() if key not in line}  # both at once is refused
    (workdir / "o.toml").write_text(toml(file))
    words = [word for key, value in assigned.items() for word in ("--set", f"{key}={value}")]
    data = ["--dataset", "synthetic:samples=60,test=20,classes=3,size=4,channels=1", "--model", "mlp:width=8"]
    said = cli("run", "--config", "o.toml", *words, *flags(line), *data, "--mega-batches", 2, "--dry-run", "--json")
    assert said.status == 0, said.err
    resolved = said.json["config"]
    expected = {**RunConfig().model_dump(), "reinit": "masked", "lr": 0.1, **file, **assigned, **line}
    for key in VALUES:
        assert resolved[key] == SPELLED.get(expected[key], expected[key]), key
    assert not (workdir / resolved["out"]).exists()


def resolved(*layers):
    return config.resolve(config.merge_layers(*layers), OFFERS)


@pytest.mark.parametrize(
    ("layers", "method"),
    [
        ([{}], "lure"),
        ([{"reinit": "rifle"}], "rifle"),
        ([{"reinit": "rifle"}, {"method": "lure"}], "lure"),
        ([{"importance": "fisher", "reinit": "masked"}, {"method": "warm"}], "warm"),
        ([{"method": "warm"}, {"reinit": "masked"}], "lure"),
        ([{"method": "lure"}, {"reinit": "cold"}], "cold"),
        ([{"method": "lure"}, {"importance": "fisher"}], "fisher+masked"),
        ([{"method": "lure", "importance": "random"}], "random+masked"),
        ([{"method": "cold"}, {"method": "llf"}], "llf"),
    ],
)
def test_a_method_overrules_what_lies_below_of_its_two_parts(layers, method):
    assert resolved(*layers).method == method


def test_it_does_so_from_the_command_line_over_a_file(tiny, workdir):
    (workdir / "o.toml").write_text("reinit = 'rifle'")
    assert tiny("--config", "o.toml", "--method", "lure", "--json").json["method"] == "lure"


def test_a_file_may_write_dashes_lists_and_single_specs(tiny, workdir):
    (workdir / "o.toml").write_text("val-fraction = 0.25\nmilestones = [1]\nmetrics = 'cer'\n")
    resolved = tiny("--config", "o.toml", "--epochs", 2, "--json").json["config"]
    assert (resolved["val_fraction"], resolved["milestones"], resolved["metrics"]) == (0.25, [1], ["cer"])


def test_an_assignment_may_give_every_option(tiny):
    assignments = ["milestones=1,3", "metrics=cer", "val_fraction=0.5", "weight-decay=0"]
    words = [word for text in assignments for word in ("--set", text)]
    resolved = tiny(*words, "--epochs", 5, "--json").json["config"]
    assert resolved["milestones"] == [1, 3]
    assert resolved["metrics"] == ["cer"]
    assert resolved["val_fraction"] == 0.5
    assert resolved["weight_decay"] == 0


@pytest.mark.parametrize(
    ("epochs", "given", "expected"),
    [(50, None, [20, 40]), (1, None, []), (2, None, [1]), (5, "none", []), (5, "3,1,3", [1, 3]), (5, "4", [4])],
)
def test_milestones(epochs, given, expected):
    options = {"epochs": epochs, **({} if given is None else {"milestones": given})}
    assert list(config.resolve(options, OFFERS).config.milestones) == expected


# Options of components: preset < table of a file < ``--set`` < the SPEC itself


@pytest.mark.parametrize(
    ("layers", "fraction", "fresh"),
    [
        ([{}], "0.2", "original"),
        ([{"preset": "paper"}], "0.2", "uniform"),
        ([{"preset": "paper", "reinit": "masked"}], "0.2", "uniform"),
        ([{"preset": "paper", "method": "lure"}], "0.2", "uniform"),
        ([{"reinit.masked": {"fraction": 0.3, "fresh": "zero"}}], "0.3", "zero"),
        ([{"preset": "paper", "reinit.masked": {"fraction": 0.3}}], "0.3", "uniform"),
        ([{"reinit.masked": {"fraction": 0.3, "fresh": "zero"}}, {"reinit.masked.fraction": "0.4"}], "0.4", "zero"),
        ([{"reinit.masked": {"fraction": 0.3, "fresh": "zero"}}, {"reinit": "masked:0.5"}], "0.5", "zero"),
        ([{"preset": "paper"}, {"reinit": "masked:fraction=0.5"}], "0.5", "uniform"),
        ([{"reinit": "masked:0.5"}, {"reinit.masked.fraction": "0.4"}], "0.5", "original"),
        ([{"preset": "paper", "reinit.masked.fresh": "rewind"}, {"method": "lure"}], "0.2", "rewind"),
    ],
    ids=str,
)
def test_options_of_a_component_come_in_layers_too(layers, fraction, fresh):
    given = parse_spec(resolved(*[config.canonical_keys(layer) for layer in layers]).config.reinit).options
    assert (given["fraction"], given["fresh"]) == (fraction, fresh)


def test_they_wait_for_the_component_that_takes_part():
    """One for another component is no mistake, and does nothing."""
    plan = resolved({"method": "rifle", "reinit.llf.start": 3, "importance.snip.samples": 7, "replay.buffer.size": 9})
    assert plan.config == resolved({"method": "rifle"}).config
    assert (plan.importance, plan.overrides) == (None, {})
    llf = resolved({"reinit.llf.start": 3, "method": "llf"})
    assert llf.method == "llf"  # what the shorthand stands for here
    assert llf.reinit.start == 3
    assert llf.overrides == {"reinit.llf.start": {"value": 3, "preset": 0.43}}


@pytest.mark.parametrize("spelling", ["replay.buffer.val-size", "replay.buffer.val_size"])
def test_dashes_and_underscores_name_the_same_component_option(spelling, cli, workdir):
    assert resolved(config.canonical_keys({spelling: "5", "replay": "buffer"})).replay.val_size == 5
    (workdir / "o.toml").write_text('replay = "buffer"\n["replay.buffer"]\nval-size = 5\nsize = 9\n')
    options = config.read_toml(workdir / "o.toml")
    assert resolved(options).replay == resolved({"replay": "buffer:size=9,val_size=5"}).replay
    (over,) = [config.parse_assignments([f"{spelling}=6"])]
    assert resolved(options, over).replay.val_size == 6
    with pytest.raises(ConfigError, match="given twice"):
        config.parse_assignments([f"{spelling}=6", "replay.buffer.val-size=7"])


def test_the_rate_of_a_preset_is_for_its_optimizer():
    rates = {
        (preset, optimizer): resolved({"preset": preset, "optimizer": optimizer}).config.lr
        for preset in ("clean", "paper", "alma")
        for optimizer in ("sgd", "adamw")
    }
    assert rates == {
        ("clean", "sgd"): 0.1,
        ("clean", "adamw"): 0.001,
        ("paper", "sgd"): 0.1,
        ("paper", "adamw"): 0.001,
        ("alma", "sgd"): 0.01,
        ("alma", "adamw"): 0.001,
    }
    assert resolved({"preset": "alma", "optimizer": "adamw"}).overrides.keys() == {"optimizer", "lr"}
    assert resolved({"preset": "alma", "lr": 0.01}).overrides == {}
    assert resolved({"preset": "alma", "optimizer": "adamw", "lr": 0.01}).overrides.keys() == {"optimizer"}


@pytest.mark.parametrize("preset", ["clean", "paper", "lure-code", "alma"])
@pytest.mark.parametrize("more", [{}, {"method": "cold"}, {"optimizer": "adamw"}, {"schedule": "cosine", "epochs": 7}])
def test_a_resolved_protocol_resolves_to_itself(preset, more):
    """Its overrides too, whether all of its options are given again or those of a run that is resumed."""
    first = resolved({"preset": preset, **more})
    manifest = {"config": first.config.model_dump(mode="json")}
    for options in (manifest["config"], config.resumed_options(manifest, {"preset": preset, **more}, OFFERS)):
        again = config.resolve(options, OFFERS)
        assert (again.config, again.digest, again.method) == (first.config, first.digest, first.method)
        assert again.overrides == first.overrides


@dataclass(frozen=True)
class Needing:
    """Resets a share that it must be told."""

    share: float

    def propose(self, context):
        return ()


STRANGER = registry.Registry(
    (*OFFERS.components, registry.ComponentEntry("reinit", "needing", Needing, "stranger")), (), {}
)


@pytest.mark.parametrize(
    "given",
    [{"reinit": "needing:share=0.5"}, {"reinit": "needing", "reinit.needing.share": 0.5}, {"reinit": Needing(0.5)}],
    ids=["in its spec", "in a table", "an object"],
)
def test_a_component_may_have_an_option_without_a_default(given):
    plan = config.resolve(given, STRANGER)
    assert plan.reinit == Needing(0.5)
    assert plan.config.reinit == "needing:share=0.5"


def test_a_preset_holds_for_a_built_in_named_in_full():
    full, short = (resolved({"preset": "paper", "reinit": name}) for name in ("forgetkit/masked", "masked"))
    assert full.reinit == short.reinit
    table = {"reinit.masked": {"fraction": 0.4}}
    assert resolved(config.canonical_keys(table), {"reinit": "forgetkit/masked"}).reinit.fraction == 0.4


OTHERS = {
    "preset": "paper",
    "method": "cold",
    "importance": "fisher",
    "reinit": "masked:fraction=0.3",
    "replay": "none",
    "score_on": "incoming",
    "score_sampling": "head",
    "score_transform": "train",
    "score_mode": "train",
    "score_params": "weights",
    "score_batch": 100,
    "optimizer_state": "keep",
    "bn_stats": "reset",
    "dataset": "synthetic",
    "model": "mlp",
    "mega_batches": 7,
    "split": "contiguous",
    "val_fraction": 0.2,
    "val_transform": "train",
    "augment": "none",
    "shots": 3,
    "label_noise": 0.3,
    "label_noise_draw": "other",
    "label_noise_val": "clean",
    "epochs": 51,
    "samples": 400,
    "batch_size": 65,
    "optimizer": "adamw",
    "lr": 0.2,
    "schedule": "cosine",
    "milestones": (3,),
    "gamma": 0.2,
    "momentum": 0.8,
    "weight_decay": 0.0,
    "carry": "best-val",
    "patience": 3,
    "min_delta": 0.01,
    "seed": 1,
    "precision": "bf16",
    "memory_format": "contiguous",
    "deterministic": True,
    "threads": 3,
    "metrics": ("cer",),
    "out": "elsewhere",
    "name": "mine",
    "checkpoint_seconds": 1.0,
    "checkpoint_epochs": 2,
    "keep_models": "last",
    "keep_masks": "none",
    "on_nan": "skip",
}


def test_there_is_another_value_for_every_option():
    # A device other than the processor is not at hand, no built-in intervenes or listens, and init names a file.
    assert OTHERS.keys() | {"device", "init", "interventions", "observers"} == RunConfig.model_fields.keys()


@pytest.mark.parametrize("key", OTHERS)
def test_digest_ignores_only_output_and_execution_options(key):
    beside = {"label_noise": 0.1} if key.startswith("label_noise_") else {"patience": 5} if key == "min_delta" else {}
    same = resolved(beside).digest == resolved({**beside, key: OTHERS[key]}).digest
    assert same == (
        key in ("out", "name", "checkpoint_seconds", "checkpoint_epochs", "keep_models", "keep_masks", "threads")
    )


def test_the_digest_is_of_what_a_preset_sets_and_not_of_its_name():
    clean = resolved({"importance": "fisher", "precision": "fp32"})
    paper = resolved({"preset": "paper", "importance": clean.config.importance, "reinit": clean.config.reinit})
    assert (clean.config.preset, paper.config.preset) == ("clean", "paper")
    assert paper.digest == clean.digest
    assert resolved({"preset": "paper"}).digest != resolved({}).digest


def test_the_digest_does_not_depend_on_how_it_was_said():
    said = {"method": "lure", "importance": "snip:samples=1024", "epochs": "50", "milestones": "40,20"}
    assert resolved(said).digest == resolved({}).digest


def test_a_resolved_configuration_resolves_to_itself():
    first = resolved({"model": "mlp:8", "dataset": "folder:photos"})
    again = config.resolve(first.config.model_dump(exclude={"method"}), OFFERS)
    assert again.config == first.config
    assert again.digest == first.digest


MANIFEST = {"config": resolved({"name": "mine"}).config.model_dump(mode="json")}


@pytest.mark.parametrize(
    "given",
    [{}, {"epochs": "50"}, {"method": "lure"}, {"importance": "snip"}, {"device": "auto"}, {"name": "mine"}],
)
def test_a_resumed_run_may_be_told_what_it_is(given):
    options = config.resumed_options(MANIFEST, given, OFFERS)
    assert config.resolve(options, OFFERS).config == resolved({"name": "mine"}).config


@pytest.mark.parametrize(
    "given", [{"epochs": "49"}, {"method": "cold"}, {"seed": 1}, {"threads": 97}, {"out": "x"}, {"name": "x"}]
)
def test_a_resumed_run_keeps_what_it_is(given):
    key = next(iter(given))
    with pytest.raises(ConfigError, match=f"--{key} {given[key]}: this run was begun with"):
        config.resumed_options(MANIFEST, given, OFFERS)


def test_a_resumed_run_may_write_checkpoints_more_often():
    options = config.resumed_options(MANIFEST, {"checkpoint_seconds": "7"}, OFFERS)
    assert config.resolve(options, OFFERS).config.checkpoint_seconds == 7


@pytest.mark.parametrize("damage", [{}, {"config": 3}, {"config": {"nosuch": 1}}, {"config": {"epochs": "x"}}])
def test_a_damaged_manifest_is_refused(damage):
    with pytest.raises(ConfigError):
        config.resolve(config.resumed_options(damage, {"epochs": 50}, OFFERS), OFFERS)
