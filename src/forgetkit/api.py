"""The Python face: components by SPEC or as objects, in anybody's training loop."""

from __future__ import annotations

import contextlib
import logging
import os
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, TypeVar, get_args

from torch import Tensor, nn
from torch.nn.functional import cross_entropy
from torch.optim import Optimizer

from forgetkit import alma, config, contracts, forgetting, options, registry
from forgetkit.analysis import asking
from forgetkit.analysis.evidence import Evidence, Given, of_model
from forgetkit.analysis.run import Finished, Means, RunEvidence
from forgetkit.contracts import Rounding, Ties, Which
from forgetkit.errors import ConfigError, OptionError
from forgetkit.forgetting.guard import all_finite
from forgetkit.record import RunDirectory
from forgetkit.seeding import Seeds
from forgetkit.session import computing

if TYPE_CHECKING:
    from torch.distributed import ProcessGroup

Batches = Iterable[tuple[Tensor, Tensor]]
_Kind = TypeVar("_Kind", forgetting.Scoring, forgetting.Aftercare)
_log = logging.getLogger("forgetkit")
Loss = Callable[[Any, Tensor], Tensor]


def unlearn(
    model: nn.Module,
    batches: Batches | None = None,
    *,
    importance: str | contracts.Importance | None = None,
    reinit: str | contracts.Reinit = "masked",
    optimizer: Optimizer | None = None,
    seed: int = 0,
    loss: Loss = cross_entropy,
    build: Callable[[], nn.Module] | None = None,
    initial: Mapping[str, Tensor] | None = None,
    scoring: forgetting.Scoring | None = None,
    aftercare: forgetting.Aftercare | None = None,
    previous: Mapping[str, Tensor] | None = None,
    memory: forgetting.Memory | None = None,
    run_seed: int | None = None,
    group: ProcessGroup | Literal[True] | None = None,
) -> forgetting.UnlearnReport:
    """Make ``model`` forget, in place, and clear the optimizer's memory of what was reset.

    ``batches`` is any iterable of (inputs, targets); a DataLoader will do. Criteria take from it as
    many samples as their options say. Components are SPECs or objects; where ``reinit`` needs scores
    and no ``importance`` is given it is ``"snip"``. ``seed`` fixes every draw: give another one at each
    call of a loop, or the same fresh values come again. ``loss(outputs, targets)`` is a mean over the
    batch. Fresh values are drawn by each module's ``reset_parameters``; where a model initialises itself
    otherwise, ``build()`` makes a new one and its values are taken. ``initial`` holds copies of what
    ``state_dict()`` held at the start, which ``rewind`` goes back to, ``previous`` of what it held when you last
    forgot; ``memory`` is that of :func:`attach`, for components that watch the training; ``run_seed`` stays the same
    at each call, for those that draw once for a whole run. ``scoring`` says which
    parameters are scored and in which mode, ``aftercare`` what becomes of the optimizer's memory and of running
    statistics. Where something is wrong the model is as before.

    ``group``, of ``torch.distributed`` (``True``: all processes), is for a model whose parts lie in several processes,
    each a module of plain tensors of its own (no ``DTensor``, no FSDP): entries are then selected over all parts, as
    :func:`select` does, and where one process fails no part is changed. Fresh values are a function of the seed and a
    parameter's name: where names are the same in several processes so are the values drawn, unless each process gives
    a seed of its own (then entries that tie are drawn otherwise than in one process, and as many). Replicas that hold
    all parameters need no group: the same scores and seed give the same masks.

    Returns the audit. Raises a ``forgetkit.errors.ForgetkitError`` of one line where something is wrong.
    """
    with forgetting.Processes(group) as together:
        offers = registry.load()
        method = offers.make("reinit", reinit)[1]
        if importance is None and getattr(method, "needs_scores", False):
            importance = "snip"
        if scoring is not None and importance is None and not getattr(method, "needs_data", False):
            raise OptionError(f"{type(method).__name__} looks at no scores, so scoring= would be ignored: leave it out")
        if group is not None and not getattr(method, "needs_scores", False):
            raise OptionError(f"{type(method).__name__} selects nothing, so group= would be ignored: leave it out")
        scored, after = _checked(scoring, forgetting.Scoring), _checked(aftercare, forgetting.Aftercare)
        if after.optimizer_state != "zero" and optimizer is None:
            raise OptionError(f"optimizer_state={after.optimizer_state} is about an optimizer: pass optimizer=")
        return forgetting.unlearn(
            model,
            batches,
            importance=None if importance is None else offers.make("importance", importance)[1],
            reinit=method,
            optimizer=optimizer,
            seeds=Seeds(seed),
            loss=loss,
            past=_past(build, initial, previous, memory, run_seed),
            scoring=scored,
            aftercare=after,
            together=together,
        )


def score(
    model: nn.Module,
    batches: Batches | None = None,
    *,
    importance: str | contracts.Importance = "snip",
    seed: int = 0,
    loss: Loss = cross_entropy,
    build: Callable[[], nn.Module] | None = None,
    initial: Mapping[str, Tensor] | None = None,
    scoring: forgetting.Scoring | None = None,
    previous: Mapping[str, Tensor] | None = None,
    memory: forgetting.Memory | None = None,
) -> dict[str, Tensor]:
    """A score per entry of each trainable parameter that the loss depends on: ``{name: tensor}``, higher = keep.

    The model, its gradients, its mode and the global random state are left as they were. The rest is as for
    :func:`unlearn`; a criterion that looks at fresh values sees those of the reset with that ``seed`` and ``build``.
    """
    criterion = registry.load().make("importance", importance)[1]
    past, scored = _past(build, initial, previous, memory, None), _checked(scoring, forgetting.Scoring)
    return forgetting.score(
        model, batches, importance=criterion, seeds=Seeds(seed), loss=loss, past=past, scoring=scored
    )


def attach(
    model: nn.Module,
    optimizer: Optimizer,
    components: Sequence[str | contracts.Intervention],
    *,
    seed: int = 0,
    loss: Loss = cross_entropy,
    build: Callable[[], nn.Module] | None = None,
    initial: Mapping[str, Tensor] | None = None,
    previous: Mapping[str, Tensor] | None = None,
) -> Attached:
    """Interventions in a training loop of your own.

    ``components`` are SPECs of interventions, or objects: a criterion or reinit method that watches the training is one
    too. Around each training step::

        with attached.step(inputs, targets) as step:
            loss = criterion(model(inputs), targets) + step.loss()
            optimizer.zero_grad()
            loss.backward()
            step.before()
            optimizer.step()

    Call ``attached.begin(inputs, targets)`` with any two samples or more before each mega-batch and
    ``attached.after_epoch()`` after each epoch. ``attached.memory`` is what :func:`unlearn` takes as ``memory``;
    ``attached.state_dict()`` belongs into your checkpoints. A step left by ``continue`` still ends with what acts after
    it; of several forward passes in one step, activity is that of the first.
    """
    if isinstance(components, str) or not isinstance(components, Sequence):
        raise OptionError("attach takes a list of interventions: forgetkit.attach(model, optimizer, ['redo'])")
    offers = registry.load()
    made = [_acting(offers, component) for component in components]
    past = _past(build, initial, previous, None, seed)
    inner = forgetting.plain(model)
    forgetting.require_trained_by(optimizer, inner)
    return Attached(forgetting.Acting(inner, optimizer, made, Seeds(seed), past, loss))


def _acting(offers: registry.Registry, component: str | contracts.Intervention) -> contracts.Intervention:
    """An intervention, by its SPEC or as an object; or a criterion or method that is one too."""
    try:
        made: contracts.Intervention = offers.make("interventions", component)[1]
        return made
    except OptionError:
        for kind in ("importance", "reinit") if isinstance(component, str) else ():
            with contextlib.suppress(OptionError):
                other = offers.make(kind, component)[1]
                if isinstance(other, contracts.Intervention):
                    return other
        raise


class Attached:
    """Interventions attached to a loop: counts its mega-batches, epochs and steps."""

    def __init__(self, acting: forgetting.Acting) -> None:
        self._acting = acting
        self._mega_batch, self._epoch, self._step = 1, 1, 0

    def begin(self, inputs: Tensor, targets: Tensor) -> None:
        """Before the first step of a mega-batch; a few samples show how the network is made."""
        if (self._epoch, self._step) != (1, 0):
            self._mega_batch, self._epoch, self._step = self._mega_batch + 1, 1, 0
        self._acting.begin(self._place, inputs, targets)

    @contextmanager
    def step(self, inputs: Tensor, targets: Tensor) -> Iterator[forgetting.Step]:
        """Around one training step, from its forward pass until the optimizer has stepped."""
        with self._acting.step(self._place, inputs, targets) as step:
            yield step
        self._step += 1

    def after_epoch(self) -> None:
        """After the last step of an epoch."""
        self._acting.after_epoch(self._place)
        self._epoch, self._step = self._epoch + 1, 0

    def memory(self, component: object) -> Mapping[str, Tensor]:
        """What ``component`` kept while it watched; nothing where it was not attached."""
        return self._acting.memory(component)

    def state_dict(self) -> dict[str, Any]:
        """Where training stands and what each component keeps, in types that load without running code."""
        self._acting.require_tensors()
        place = [self._mega_batch, self._epoch, self._step]
        return {"place": place, "components": [dict(state) for state in self._acting.states]}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on from there, with the same components in the same order."""
        if len(state["components"]) != len(self._acting.states):
            raise OptionError("this state is of other components: attach the same ones in the same order")
        self._mega_batch, self._epoch, self._step = (int(number) for number in state["place"])
        for mine, kept in zip(self._acting.states, state["components"], strict=True):
            mine.clear()
            mine.update(kept)

    @property
    def _place(self) -> forgetting.Place:
        return forgetting.Place(self._mega_batch, self._epoch, self._step)


def select(
    scores: Mapping[str, Tensor],
    *,
    fraction: float,
    which: Which = "lowest",
    ties: Ties = "random",
    rounding: Rounding = "down",
    seed: int = 0,
    group: ProcessGroup | Literal[True] | None = None,
) -> Mapping[str, Tensor]:
    """Masks over exactly ``floor(fraction * N)`` entries with the lowest scores: ``{name: bool}``, True = reset.

    One threshold over all tensors; ties at it are drawn at random, fixed by ``seed``. ``which``, ``ties`` and
    ``rounding`` are as the options ``which``, ``ties`` and ``round`` of ``masked``. The masks are kept at one bit per
    entry: each asking for one makes a new tensor, on the device of its score, and changing that changes no mask;
    ``dict(masks)`` is one to change.

    ``group``, of ``torch.distributed`` (``True``: all processes), selects over the scores of several processes, each of
    which holds its own part of the model and calls this with the same options. Each gets its part of the masks that
    one process with all parts in the order of the ranks would get. They exchange counts alone, about 25 kilobytes
    each however many scores there are (50 for float64), and 16 more where ties are drawn. Replicas that hold all
    scores need no group: the same scores and seed give the same masks.

    Raises ``OptionError`` where scores or options are refused; in a group the others fail with ``ComponentError``.
    """
    with forgetting.Processes(group) as together:
        for name, score in scores.items():
            if not isinstance(score, Tensor) or not score.is_floating_point() or not all_finite(score):
                raise OptionError(f"the score of '{name}' is not a tensor of finite floats")
        for option, word, words in (("which", which, Which), ("ties", ties, Ties), ("rounding", rounding, Rounding)):
            if word not in get_args(words):
                raise OptionError(f"{option}='{word}' is none of {', '.join(get_args(words))}")
        seeds = Seeds(seed)
        masks, _ = forgetting.select(
            scores, fraction, seeds, which=which, ties=ties, rounding=rounding, together=together
        )
        return masks


def run(
    options: Mapping[str, Any] | None = None,
    *,
    observers: Sequence[contracts.Observer] = (),
    plugins: Sequence[str | Path] = (),
    resume: str | Path | None = None,
) -> dict[str, Any]:
    """What ``forgetkit run`` does, from Python; returns the content of ``result.json``.

    ``options`` are those of the command line, with underscores. ``plugins`` are single plugin files. With
    ``resume``, the directory of a run, that run goes on, and its own options hold; a finished one's result is returned.
    No signals are listened to: an interruption comes through at once, with a note of the directory, and what was
    computed since the last state is computed again.
    """
    if not isinstance(options, Mapping | None):
        raise ConfigError(f"options are a mapping like {{'dataset': 'digits'}}, not {type(options).__name__}")
    if isinstance(plugins, str | Path):
        raise ConfigError(f"plugins is a list of files: plugins=['{plugins}']")
    offers = registry.load(files=[Path(file) for file in plugins])
    for broken in offers.broken:
        _log.warning("%s", broken)
    if resume is None:
        return alma.run(config.resolve(options or {}, offers), observers=observers, cache=cache_folder())
    if RunDirectory(Path(resume)).finished and not options:
        return RunDirectory(Path(resume)).result
    directory = RunDirectory.reopen(Path(resume))
    plan = config.resolve(config.resumed(directory.manifest, options or {}, offers), offers)
    return alma.run(plan, observers=observers, cache=cache_folder(), resume=directory)


def evidence(
    subject: str | Path | nn.Module,
    *,
    test: Given | None = None,
    train: Given | None = None,
    val: Given | None = None,
    classes: Sequence[str] | None = None,
    initial: nn.Module | Mapping[str, Tensor] | None = None,
    mega_batch: int | None = None,
    seed: int = 0,
    plugins: Sequence[str | Path] = (),
    **given: Any,
) -> contracts.Evidence:
    """What an analysis is shown: models, masks, samples and history of a finished run, or a model with tensors.

    ``subject`` is the directory of a run, as it stood after ``mega_batch`` (None: the last), or a module with
    ``test=(inputs, labels)`` and, where they are asked for, ``train`` and ``val``: two tensors, or batches of both.
    ``classes`` names the outputs, ``initial`` is the module as it began, or its ``state_dict()``. ``given`` are options
    of the run that are others here: ``dataset``, ``model``, ``device``. Raises a ``forgetkit.errors.ForgetkitError`` of
    one line.
    """
    offers = registry.load(files=[Path(file) for file in plugins])
    shown = {"test": test, "train": train, "val": val, "classes": classes, "initial": initial, **given}
    return _evidence(subject, offers, asking.seeds(seed), mega_batch, shown)


def analyze(
    subject: str | Path | nn.Module,
    analysis: str | contracts.Analysis,
    *,
    seed: int = 0,
    mega_batch: int | None = None,
    again: bool = False,
    threads: int | None = None,
    plugins: Sequence[str | Path] = (),
    **shown: Any,
) -> contracts.Answer:
    """Put a question to a finished run or to a model, which is left as it was.

    ``analysis`` is a SPEC like ``"calibration:bins=15"`` or an object; ``subject``, ``mega_batch`` and ``shown``
    (``test``, ``train``, ``val``, ``classes``, ``initial``, options of a run) are as for :func:`evidence`. Of a run the
    answer is kept as ``analyses/NAME.json`` in its directory, and the same question is answered from there, unless it
    is asked ``again``. ``threads`` are those of torch on the CPU meanwhile.
    Raises ``DoesNotApplyError`` where the question makes no sense for what it is put to.
    """
    offers = registry.load(files=[Path(file) for file in plugins])
    question = asking.Question.of(offers, analysis, seed=seed, mega_batch=mega_batch)
    found = _evidence(subject, offers, question.seeds, mega_batch, shown)
    with computing(threads):
        if not isinstance(found, RunEvidence):
            return asking.ask_model(question, found)
        known = None if again else asking.known(question, found.finished)
        return known or asking.ask_run(question, found.finished)


_OF_A_MODEL = ("test", "train", "val", "classes", "initial")


def _evidence(
    subject: str | Path | nn.Module,
    offers: registry.Registry,
    seeds: Seeds,
    mega_batch: int | None,
    shown: Mapping[str, Any],
) -> RunEvidence | Evidence:
    """Of a run or of a model; what would be ignored is refused."""
    given = {name: value for name, value in shown.items() if value is not None}
    of_model_alone = [name for name in given if name in _OF_A_MODEL]
    if not isinstance(subject, nn.Module):
        if of_model_alone:
            raise OptionError(f"{of_model_alone[0]}= is for a model by itself, a run has its own: leave it out")
        unknown = [name for name in given if name not in config.LOOKED_AT]
        if unknown:
            raise OptionError(f"{unknown[0]}= is none of {', '.join(config.LOOKED_AT)}, which may be others here")
        finished = Finished(RunDirectory(Path(subject)), Means(offers, cache_folder(), given))
        return RunEvidence.of(finished, mega_batch, seeds)
    beside = [name for name in given if name not in _OF_A_MODEL]
    if mega_batch is not None or beside:
        raise OptionError(f"{(*beside, 'mega_batch')[0]}= is for the directory of a run: leave it out for a model")
    parts = {part: given.pop(part) for part in get_args(contracts.DataPart) if part in given}
    return of_model(subject, parts, seeds, offers=offers, **given)


def _past(
    build: Callable[[], nn.Module] | None,
    initial: Mapping[str, Tensor] | None,
    previous: Mapping[str, Tensor] | None,
    memory: forgetting.Memory | None,
    run_seed: int | None,
) -> forgetting.Past:
    if memory is not None and not callable(memory):
        raise OptionError(f"memory= takes the method attached.memory, not {type(memory).__name__}")
    return forgetting.Past(
        build=build,
        initial=None if initial is None else initial.__getitem__,
        previous=None if previous is None else previous.__getitem__,
        memory=memory or forgetting.NOTHING_KNOWN.memory,
        seeds=None if run_seed is None else Seeds(run_seed),
    )


def _checked(given: _Kind | None, kind: type[_Kind]) -> _Kind:
    if given is not None and not isinstance(given, kind):
        raise OptionError(f"{kind.__name__.lower()}= takes a forgetkit.{kind.__name__}, not {type(given).__name__}")
    checked: _Kind = options.checked(kind.__name__.lower(), given if given is not None else kind())
    return checked


def cache_folder() -> Path:
    """Where decoded data sets are kept: $FORGETKIT_CACHE, or the user's cache folder."""
    own = os.environ.get("FORGETKIT_CACHE")
    if own:
        return Path(own)
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "forgetkit"
