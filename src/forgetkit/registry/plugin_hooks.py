"""Collect the components of one plugin from its hooks, and check the hooks and the classes."""

from __future__ import annotations

import dataclasses
import inspect
import re
from collections.abc import Mapping
from types import ModuleType
from typing import Any

import pluggy

from forgetkit import contracts
from forgetkit.errors import ComponentError, suggest
from forgetkit.registry import hookspecs
from forgetkit.registry.kinds import KIND_INFO, Kind

Component = tuple[str, str, Any]
"""A kind, a name and a component class."""

_HOOKS = tuple(kind.hook for kind in KIND_INFO.values())


def new_manager() -> pluggy.PluginManager:
    """A plugin manager that knows the hooks of forgetkit."""
    manager = pluggy.PluginManager(hookspecs.PROJECT)
    manager.add_hookspecs(hookspecs)
    return manager


def collect_components(manager: pluggy.PluginManager, plugin: object) -> list[Component]:
    """Call the hooks of ``plugin``.

    The plugin is registered during this call only, so that it cannot wrap or break the hooks of another plugin. Its
    hooks are registered under a module of our own: pluggy compares plugins, and a foreign object may fail at that.

    Raises:
        ComponentError: A hook is unknown, has parameters, lacks its marker or returns no mapping from names to
            component classes, or the plugin has no hook.
    """
    hooks = ModuleType("hooks")
    vars(hooks).update(_marked_functions(manager, plugin))
    try:
        manager.register(hooks, hooks.__name__)
        manager.check_pending()
        return [
            (kind.name, name, component)
            for kind in KIND_INFO.values()
            for name, component in _call_hook(kind, getattr(manager.hook, kind.hook)).items()
        ]
    except pluggy.PluginValidationError as error:
        raise ComponentError(_validation_reason(error)) from error
    finally:
        manager.unregister(name=hooks.__name__)


def _marked_functions(manager: pluggy.PluginManager, plugin: object) -> dict[str, Any]:
    """The functions under ``hookimpl``. pluggy ignores a hook without this marker; here it is an error."""
    marked = {
        name: getattr(plugin, name) for name in dir(plugin) if manager.parse_hookimpl_opts(plugin, name) is not None
    }
    for name in dir(plugin):
        is_hook = name in _HOOKS or (not marked and name.startswith("forgetkit_"))
        if is_hook and name not in marked and inspect.isroutine(getattr(plugin, name)):
            raise ComponentError(f"{name} lacks its marker: write @forgetkit.hookimpl above it")
    if not marked:
        raise ComponentError("it has no hook: a function like forgetkit_importance, under @forgetkit.hookimpl")
    return marked


def _validation_reason(error: pluggy.PluginValidationError) -> str:
    """What pluggy finds wrong with a hook, in one line with the remedy."""
    text = str(error)
    hook = re.search(r"hook '(\w+)'", text)
    if hook is not None and hook[1] not in _HOOKS:
        return f"no hook is called '{hook[1]}'; {suggest(hook[1], _HOOKS)}"
    if hook is not None and "Argument" in text:
        return f"a hook takes no parameters: write def {hook[1]}():"
    return " ".join(text.split())


def _call_hook(kind: Kind, hook: pluggy.HookCaller) -> dict[str, Any]:
    answers = hook()
    if hook.get_hookimpls() and not answers:  # pluggy drops the answer None
        raise ComponentError(f"{kind.hook} returned nothing; it returns a mapping from names to classes")
    return {name: component for answer in answers for name, component in _validate_answer(kind, answer).items()}


def _validate_answer(kind: Kind, answer: object) -> dict[str, Any]:
    if not isinstance(answer, Mapping) or not all(isinstance(name, str) for name in answer):
        raise ComponentError(f"{kind.hook} must return a mapping from names to classes, not {type(answer).__name__}")
    components = dict(answer)
    for name, component in components.items():
        if not re.fullmatch(r"\w[\w-]*", name):  # a dot, a slash and a colon have a meaning in a SPEC
            raise ComponentError(f"{kind.hook} offers '{name}'; a name consists of letters, digits, - and _")
        if kind.contract is not None:
            fault = _class_fault(kind, component)
            if fault:
                raise ComponentError(f"{kind.hook} offers '{name}', which {fault}")
    return components


def _class_fault(kind: Kind, component: Any) -> str:
    """What is wrong with a component class; empty if nothing is."""
    if not isinstance(component, type):
        return "is not a class"
    if not dataclasses.is_dataclass(component):
        return f"is no dataclass: write @dataclass(frozen=True) above class {component.__name__}"
    if kind.name == "interventions":
        if not issubclass(component, contracts.Intervention):
            return f"is no intervention: let class {component.__name__} inherit forgetkit.contracts.Intervention"
        acts = any(getattr(component, method) is not getattr(contracts.Intervention, method) for method in kind.methods)
        return "" if acts else f"never acts: class {component.__name__} has none of {', '.join(kind.methods)}"
    missing = [method for method in kind.methods if not callable(getattr(component, method, None))]
    return f"is no {kind.label}: class {component.__name__} has no {missing[0]}()" if missing else ""
