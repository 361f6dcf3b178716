"""A broken plugin is reported in one line with its reason and left out; the others work."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from forgetkit.errors import OptionError, UsageError
from forgetkit.registry import registry

HEAD = "from dataclasses import dataclass\nimport forgetkit\n"
CRITERION = """
@dataclass(frozen=True)
class C:
    "A criterion."
    allows_ties = True
    def score(self, probe):
        return probe.zeros()
"""
HOOK = "@forgetkit.hookimpl\ndef forgetkit_importance():\n    "
GOOD = f"{HEAD}{CRITERION}{HOOK}return {{'size': C}}"

FAULTS = {
    "no marker": (
        f"{HEAD}{CRITERION}def forgetkit_importance():\n    return {{'a': C}}",
        "forgetkit_importance lacks its marker: write @forgetkit.hookimpl above it",
    ),
    "no marker beside a hook": (
        f"{HEAD}{CRITERION}def forgetkit_reinit():\n    return {{}}\n{HOOK}return {{'a': C}}",
        "forgetkit_reinit lacks its marker: write @forgetkit.hookimpl above it",
    ),
    "no marker and misspelt": (
        f"{HEAD}def forgetkit_importanc():\n    return {{}}",
        "forgetkit_importanc lacks its marker: write @forgetkit.hookimpl above it",
    ),
    "no hook": ("x = 1", "it has no hook: a function like forgetkit_importance, under @forgetkit.hookimpl"),
    "forgets to return": (
        f"{HEAD}{HOOK}pass",
        "forgetkit_importance returned nothing; it returns a mapping from names to classes",
    ),
    "yields": (
        f"{HEAD}{HOOK}yield 'a'",
        "forgetkit_importance must return a mapping from names to classes, not generator",
    ),
    "names by number": (
        f"{HEAD}{CRITERION}{HOOK}return {{1: C}}",
        "forgetkit_importance must return a mapping from names to classes, not dict",
    ),
    "a name with a dot": (
        f"{HEAD}{CRITERION}{HOOK}return {{'a.b': C}}",
        "forgetkit_importance offers 'a.b'; a name consists of letters, digits, - and _",
    ),
    "a name with a slash": (
        f"{HEAD}{CRITERION}{HOOK}return {{'a/b': C}}",
        "forgetkit_importance offers 'a/b'; a name consists of letters, digits, - and _",
    ),
    "an object": (
        f"{HEAD}{CRITERION}{HOOK}return {{'a': C()}}",
        "forgetkit_importance offers 'a', which is not a class",
    ),
    "no dataclass": (
        f"{HEAD}class C:\n    def score(self, probe): pass\n{HOOK}return {{'a': C}}",
        "forgetkit_importance offers 'a', which is no dataclass: write @dataclass(frozen=True) above class C",
    ),
    "no verb": (
        f"{HEAD}@dataclass\nclass C:\n    def propose(self, context): pass\n{HOOK}return {{'a': C}}",
        "forgetkit_importance offers 'a', which is no importance criterion: class C has no score()",
    ),
    "no intervention": (
        f"{HEAD}@dataclass\nclass C:\n    def after_step(self, moment): pass\n"
        "@forgetkit.hookimpl\ndef forgetkit_interventions():\n    return {'a': C}",
        "forgetkit_interventions offers 'a', which is no intervention: "
        "let class C inherit forgetkit.contracts.Intervention",
    ),
    "one bad among good": (
        f"{HEAD}{CRITERION}{HOOK}return {{'a': C, 'b': int}}",
        "forgetkit_importance offers 'b', which is no dataclass: write @dataclass(frozen=True) above class int",
    ),
    "raises what no program should catch": (
        "class Odd(BaseException): pass\nraise Odd('what')",
        "Odd: what",
    ),
    "raises what cannot be told": (
        "class Mute(Exception):\n    def __str__(self): raise ValueError\nraise Mute",
        "Mute, which does not say why",
    ),
}


@pytest.mark.parametrize("fault", FAULTS)
def test_a_fault_gets_one_line_and_leaves_out_one_plugin(install, fault) -> None:
    source, reason = FAULTS[fault]
    install("a-dist", "a", source)
    install("b-dist", "b", GOOD)
    loaded = registry.load()
    assert [str(broken) for broken in loaded.broken] == [f"plugin 'a' of a-dist is left out: {reason}"]
    assert loaded.plugins == {"b-dist": "1.2"}
    assert {entry.distribution for entry in loaded.components} == {"forgetkit", "b-dist"}


@pytest.mark.parametrize("fault", FAULTS)
def test_a_fault_in_a_file_is_an_error(plugin, fault) -> None:
    source, reason = FAULTS[fault]
    path = plugin("mine", source)
    with pytest.raises(UsageError) as raised:
        registry.load(files=[path], entry_points=False)
    assert str(raised.value) == f"--plugin {path}: {reason}; repair the file, or leave it out"


def test_a_keyboard_interrupt_passes(install, plugin) -> None:
    source = "raise KeyboardInterrupt"
    with pytest.raises(KeyboardInterrupt):
        registry.load(files=[plugin("mine", source)], entry_points=False)
    install("a-dist", "a", source)
    with pytest.raises(KeyboardInterrupt):
        registry.load()


def add_entry(workdir: Path, distribution: str, entry: str, module: str) -> None:
    (info,) = (workdir / "site").glob(f"{distribution.replace('-', '_')}-*.dist-info")
    with (info / "entry_points.txt").open("a") as file:
        file.write(f"{entry} = {module}\n")


def test_a_distribution_that_offers_a_name_twice(install, workdir) -> None:
    first = install("a-dist", "a", GOOD)
    (workdir / "site" / "other_plugin.py").write_text(GOOD)
    add_entry(workdir, "a-dist", "b", "other_plugin")
    loaded = registry.load()
    assert [str(broken) for broken in loaded.broken] == [
        "plugin 'b' of a-dist is left out: it offers the importance criterion 'size', as plugin 'a' of a-dist does"
    ]
    entry = loaded.find("importance", "size")
    assert (entry.component.__module__, entry.plugin, entry.version) == (first, "a", "1.2")


def test_a_distribution_may_have_two_plugins(install, workdir) -> None:
    install("a-dist", "a", GOOD)
    (workdir / "site" / "other_plugin.py").write_text(GOOD.replace("'size'", "'other'"))
    add_entry(workdir, "a-dist", "b", "other_plugin")
    loaded = registry.load()
    assert not loaded.broken
    assert {entry.name: entry.plugin for entry in loaded.named("importance") if entry.distribution == "a-dist"} == {
        "size": "a",
        "other": "b",
    }


def test_an_entry_point_without_a_target(install, workdir) -> None:
    install("a-dist", "a", GOOD)
    add_entry(workdir, "a-dist", "b", "a_dist_plugin:nothing")
    add_entry(workdir, "a-dist", "c", "not a module")
    loaded = registry.load()
    assert [broken.plugin for broken in loaded.broken] == ["b", "c"]
    assert loaded.broken[0].reason == "AttributeError: module 'a_dist_plugin' has no attribute 'nothing'"
    assert loaded.broken[1].reason == "its entry point names no module: 'c = not a module'"
    assert loaded.plugins == {"a-dist": "1.2"}


WRAPPER = f"""{HEAD}{CRITERION}
@forgetkit.hookimpl(wrapper=True)
def forgetkit_importance():
    yield
    return [{{'wrapped': C}}]
"""
INCOMPARABLE = f"""{HEAD}{CRITERION}
class Hooks:
    def __eq__(self, other):
        raise ValueError("compared")
    @forgetkit.hookimpl
    def forgetkit_importance(self):
        return {{'size': C}}
plugin = Hooks()
"""


def test_a_plugin_cannot_wrap_the_hooks_of_another(install) -> None:
    install("a-dist", "a", WRAPPER)
    install("b-dist", "b", GOOD)
    components = registry.load().named("importance")
    assert {entry.name for entry in components if not entry.is_builtin} == {"wrapped", "size"}


def test_plugin_object_that_cannot_be_compared_is_loaded(install, workdir) -> None:
    for name in ("a", "b"):
        install(f"{name}-dist", name, INCOMPARABLE)
        (file,) = (workdir / "site").glob(f"{name}_dist-*/entry_points.txt")
        file.write_text(f"[forgetkit]\n{name} = {name}_dist_plugin:plugin\n")
    loaded = registry.load()
    assert loaded.plugins.keys() == {"a-dist", "b-dist"}
    assert not loaded.broken


@pytest.mark.parametrize("name", ["forgetkit", "Forgetkit"])
def test_no_distribution_may_be_called_forgetkit(install, name) -> None:
    install(name, "pirate", GOOD.replace("'size'", "'snip'"))
    loaded = registry.load()
    assert [b.reason for b in loaded.broken] == ["its distribution calls itself forgetkit, as only the built-ins may"]
    assert loaded.find("importance", "forgetkit/snip").component.__module__.startswith("forgetkit.")


# Files


def test_two_files_of_one_stem_are_refused(plugin, workdir) -> None:
    (workdir / "other").mkdir()
    first, second = plugin("mine", GOOD), workdir / "other" / "mine.py"
    second.write_text(GOOD)
    with pytest.raises(UsageError, match=rf"^--plugin {second}: mine/NAME would mean {first} too"):
        registry.load(files=[first, second])
    with pytest.raises(UsageError, match="would mean"):
        registry.load(files=[first, first])


def test_a_file_and_a_distribution_of_one_name(plugin, install, monkeypatch) -> None:
    install("mine", "entry", GOOD)
    path = plugin("mine", GOOD)
    with pytest.raises(UsageError, match=r"give the file another name, or leave the other out with --no-plugin mine"):
        registry.load(files=[path])
    assert registry.load(files=[path], without=["mine"]).find("importance", "mine/size").version == "file"
    monkeypatch.setenv("FORGETKIT_DISABLE_PLUGINS", "mine")
    assert registry.load(files=[path]).find("importance", "mine/size").version == "file"


def test_no_file_may_be_called_forgetkit(plugin) -> None:
    with pytest.raises(UsageError, match="forgetkit/NAME is a built-in: give the file another name"):
        registry.load(files=[plugin("forgetkit", GOOD)])


# Disabled


DISABLED = {
    "1": ([], True),
    "all": ([], True),
    "": (["a-dist", "b-dist"], False),
    "0": (["a-dist", "b-dist"], False),
    "a": (["b-dist"], True),
    "a-dist": (["b-dist"], True),
    " b , nowhere ": (["a-dist"], False),
    "a,b-dist": ([], True),
    "nowhere": (["a-dist", "b-dist"], False),
}


@pytest.mark.parametrize("value", DISABLED)
def test_the_environment_disables_plugins(install, monkeypatch, value) -> None:
    in_use, is_unimported = DISABLED[value]
    module = install("a-dist", "a", GOOD)
    install("b-dist", "b", GOOD)
    monkeypatch.setenv("FORGETKIT_DISABLE_PLUGINS", value)
    loaded = registry.load()
    assert sorted(loaded.plugins) == in_use
    assert (module not in sys.modules) == is_unimported
    assert sorted(point.distribution for point in loaded.inactive) == sorted({"a-dist", "b-dist"} - set(in_use))


def test_no_plugin_may_name_a_disabled_plugin(install, monkeypatch) -> None:
    install("a-dist", "a", GOOD)
    monkeypatch.setenv("FORGETKIT_DISABLE_PLUGINS", "all")
    assert registry.load(without=["a"]).plugins == {}
    with pytest.raises(UsageError, match="no plugin 'b' is installed"):
        registry.load(without=["b"])


@pytest.mark.parametrize("how", ["environment", "option", "broken"])
def test_a_missing_component_comes_with_the_reason(install, monkeypatch, how) -> None:
    install("a-dist", "a", "import nosuchmodule" if how == "broken" else GOOD)
    install("z-dist", "z", "import nosuchthing")
    if how == "environment":
        monkeypatch.setenv("FORGETKIT_DISABLE_PLUGINS", "a")
    loaded = registry.load(without=["a"] if how == "option" else [])
    why = {
        "broken": "is left out: ModuleNotFoundError: No module named 'nosuchmodule'",
        "environment": "is disabled by FORGETKIT_DISABLE_PLUGINS",
        "option": "is disabled by --no-plugin",
    }[how]
    with pytest.raises(OptionError) as raised:
        loaded.find("importance", "size")
    assert str(raised.value).startswith("no importance criterion is called 'size'; ")
    assert f"; plugin 'a' of a-dist {why}" in str(raised.value)
    assert "; plugin 'z' of z-dist is left out: " in str(raised.value)
    with pytest.raises(OptionError) as raised:
        loaded.find("importance", "a-dist/size")
    assert str(raised.value).endswith(f"; plugin 'a' of a-dist {why}")
    assert "z-dist" not in str(raised.value)


def test_an_object_of_a_builtin_keeps_the_builtins_name(install) -> None:
    from forgetkit.builtin.importance.magnitude import Magnitude

    install("a-dist", "a", GOOD.replace("'size'", "'magnitude'"))
    loaded = registry.load()
    assert loaded.make("importance", Magnitude())[0] == "magnitude"
    (theirs,) = [entry for entry in loaded.named("importance") if entry.distribution == "a-dist"]
    assert loaded.make("importance", theirs.component())[0] == "a-dist/magnitude"
