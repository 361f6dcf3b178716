"""Your own network, by the import path of a callable."""

from __future__ import annotations

import importlib
import inspect
import sys
import traceback
from collections import OrderedDict
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from inspect import Parameter
from operator import attrgetter
from pathlib import Path
from types import ModuleType

from torch import nn

from forgetkit.contracts import Inputs
from forgetkit.errors import OptionError, UsageError


@dataclass(frozen=True)
class Imported:
    """Your own network, as import:MODULE:CALLABLE.

    Python looks for modules in the current folder first. The callable receives those of the keywords ``shape`` (of
    one sample, without the batch), ``in_channels`` (``shape[0]``), ``classes`` and ``num_classes`` that its signature
    names; wrap one that takes ``**kwargs`` alone in a function. The module receives normalised inputs.

    target: MODULE:CALLABLE, a function or class that returns a ``torch.nn.Module``.
    """

    target: str

    def __post_init__(self) -> None:
        module, _, path = self.target.partition(":")
        if not all(name.isidentifier() for name in [*module.split("."), *path.split(".")]):
            raise OptionError(
                f"import: '{self.target}' is not MODULE:CALLABLE; write, say, import:package.module:make_net"
            )

    def build(self, inputs: Inputs, normalize: nn.Module) -> nn.Module:
        """Chain ``normalize`` and the module; raise ``UsageError`` if importing or calling fails."""
        with _current_folder_importable():
            make = _import_callable(*self.target.split(":"))
            try:
                network = make(**_accepted_keywords(make, inputs))
            except Exception as error:
                raise UsageError(f"import:{self.target}: calling it raised {_raised_line(error)}") from error
        if not isinstance(network, nn.Module):
            kind = type(network).__name__
            raise UsageError(f"import:{self.target} must return a torch.nn.Module, not {kind}")
        return nn.Sequential(OrderedDict(normalize=normalize, network=network))


@contextmanager
def _current_folder_importable() -> Iterator[None]:
    before = sys.path.copy()
    sys.path.insert(0, str(Path.cwd()))
    importlib.invalidate_caches()
    try:
        yield
    finally:
        sys.path[:] = before


def _import_callable(name: str, path: str) -> Callable[..., object]:
    try:
        module = importlib.import_module(name)
    except ModuleNotFoundError as error:
        if not f"{name}.".startswith(f"{error.name}."):  # the module exists, but one that it imports does not
            raise UsageError(f"import:{name}:{path}: importing {name} raised {_raised_line(error)}") from error
        where = f"neither in {Path.cwd()} nor among the installed packages"
        if name.endswith(".py"):
            where += f"; a module is named without its suffix: import:{name.removesuffix('.py')}:{path}"
        raise UsageError(f"import:{name}:{path}: there is no module '{error.name}', {where}") from error
    except (Exception, SystemExit) as error:  # a script without a main guard may exit
        raise UsageError(f"import:{name}:{path}: importing {name} raised {_raised_line(error)}") from error
    try:
        found = attrgetter(path)(module)
    except AttributeError as error:
        raise UsageError(f"import:{name}:{path}: the module {name}{_file_of(module)} has no '{path}'") from error
    if not callable(found):
        raise UsageError(f"import:{name}:{path} cannot be called: its type is {type(found).__name__}")
    return found  # type: ignore[no-any-return]


def _accepted_keywords(make: Callable[..., object], inputs: Inputs) -> Mapping[str, object]:
    """The keywords that the signature of ``make`` names."""
    available = {
        "shape": inputs.shape,
        "in_channels": inputs.shape[0],
        "classes": inputs.classes,
        "num_classes": inputs.classes,
    }
    try:
        parameters = inspect.signature(make).parameters.values()
    except ValueError:  # a callable written in C may have no signature
        return {}
    by_keyword = (Parameter.POSITIONAL_OR_KEYWORD, Parameter.KEYWORD_ONLY)
    names = {parameter.name for parameter in parameters if parameter.kind in by_keyword}
    return {name: value for name, value in available.items() if name in names}


def _raised_line(error: BaseException) -> str:
    """One line: the error and its place; a syntax error names the place itself."""
    summary = f"{type(error).__name__}: {error}".partition("\n")[0]
    frames = traceback.extract_tb(error.__traceback__)
    own = [frame for frame in frames if frame.filename != __file__ and not frame.filename.startswith("<frozen ")]
    return f"{summary} in {own[-1].filename}:{own[-1].lineno}" if own else summary


def _file_of(module: ModuleType) -> str:
    return f" ({module.__file__})" if module.__file__ else ""
