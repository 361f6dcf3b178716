"""The Python face: components by SPEC or as objects, in anybody's training loop."""

from __future__ import annotations

import contextlib
import logging
from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import cache, partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, TypeVar, get_args

import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy
from torch.optim import Optimizer

from forgetkit import config, contracts, unlearning
from forgetkit.ablation.grid import grid_from_python
from forgetkit.ablation.plan import AblationPlan
from forgetkit.ablation.runner import AblationLog, ExecutionOptions, run_ablation
from forgetkit.analysis.evidence import Given, ModelEvidence, model_evidence
from forgetkit.analysis.questions import Question, ask_model, ask_run, cached_answer, question_seeds
from forgetkit.analysis.run_evidence import AnalysisEnv, FinishedRun, RunEvidence
from forgetkit.config.machine import cache_folder
from forgetkit.contracts import Rounding, Ties, Which
from forgetkit.engine.context import compute_settings
from forgetkit.engine.run import run_plan
from forgetkit.errors import ConfigError, OptionError
from forgetkit.registry import registry
from forgetkit.registry.spec import validate_component
from forgetkit.results.ablation import Ablation
from forgetkit.results.run_result import RunResult
from forgetkit.seeding import Seeds
from forgetkit.storage import RunDirectory
from forgetkit.system.torch_settings import scoring_settings
from forgetkit.unlearning.attachment import ComponentDescription, InterventionAttachment
from forgetkit.unlearning.integrity import all_finite

if TYPE_CHECKING:
    from torch.distributed import ProcessGroup

Batches = Iterable[tuple[Tensor, Tensor]]
_Kind = TypeVar("_Kind", unlearning.Scoring, unlearning.ResetPolicy)
_log = logging.getLogger("forgetkit")
_REPEATED_REMEDY = (
    "let build= draw from the global random state, and load weights into the model with load_state_dict()"
)
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
    scoring: unlearning.Scoring | None = None,
    policy: unlearning.ResetPolicy | None = None,
    previous: Mapping[str, Tensor] | None = None,
    memory: unlearning.Memory | None = None,
    run_seed: int | None = None,
    group: ProcessGroup | Literal[True] | None = None,
) -> unlearning.UnlearnReport:
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
    parameters are scored and in which mode, ``policy`` what becomes of the optimizer's memory and of running
    statistics. Where something is wrong the model is as before.

    ``group``, of ``torch.distributed`` (``True``: all processes), is for a model whose parts lie in several processes,
    each a module of plain tensors of its own (no ``DTensor``, no FSDP): entries are then selected over all parts, as
    :func:`select` does, and where one process fails no part is changed. Fresh values are a function of the seed and a
    parameter's name: where names are the same in several processes so are the values drawn, unless each process gives
    a seed of its own (then entries that tie are drawn otherwise than in one process, and as many). Replicas that hold
    all parameters need no group: the same scores and seed give the same masks.

    Returns the audit. Raises a ``forgetkit.errors.ForgetkitError`` of one line where something is wrong.
    """
    with unlearning.SelectionGroup(group) as processes:
        components = registry.load()
        method = components.make("reinit", reinit)[1]
        who = contracts.component_name(method)
        if importance is None and getattr(method, "needs_scores", False):
            importance = "snip"
        if scoring is not None and importance is None and not getattr(method, "needs_data", False):
            raise OptionError(f"{who} looks at no scores, so scoring= would be ignored: leave it out")
        if group is not None and not getattr(method, "needs_scores", False):
            raise OptionError(f"{who} selects nothing, so group= would be ignored: leave it out")
        scored, after = (
            _resolve_component(scoring, unlearning.Scoring),
            _resolve_component(policy, unlearning.ResetPolicy),
        )
        if after.optimizer_state != "zero" and optimizer is None:
            raise OptionError(f"optimizer_state={after.optimizer_state} is about an optimizer: pass optimizer=")
        report = unlearning.unlearn(
            model,
            batches,
            importance=None if importance is None else components.make("importance", importance)[1],
            reinit=method,
            optimizer=optimizer,
            seeds=Seeds(seed),
            loss=loss,
            past=_build_history(build, initial, previous, memory, run_seed),
            scoring=scored,
            policy=after,
            processes=processes,
        )
    for remark in (*report.remarks, report.repeated):
        if remark is not None:
            _log.warning("%s", remark)
    return report


def score(
    model: nn.Module,
    batches: Batches | None = None,
    *,
    importance: str | contracts.Importance = "snip",
    seed: int = 0,
    loss: Loss = cross_entropy,
    build: Callable[[], nn.Module] | None = None,
    initial: Mapping[str, Tensor] | None = None,
    scoring: unlearning.Scoring | None = None,
    previous: Mapping[str, Tensor] | None = None,
    memory: unlearning.Memory | None = None,
) -> dict[str, Tensor]:
    """A score per entry of each trainable parameter that the loss depends on: ``{name: tensor}``, higher = keep.

    The model, its gradients, its mode and the global random state are left as they were. The rest is as for
    :func:`unlearn`; a criterion that looks at fresh values sees those of the reset with that ``seed`` and ``build``.
    """
    criterion = registry.load().make("importance", importance)[1]
    past, scored = (
        _build_history(build, initial, previous, memory, None),
        _resolve_component(scoring, unlearning.Scoring),
    )
    return unlearning.score(
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
) -> InterventionAttachment:
    """Attach interventions to a training loop of your own.

    Call ``attached.begin(inputs, targets)`` before each mega-batch, with two samples or more, and
    ``attached.after_epoch()`` after each epoch. Around each training step::

        with attached.step(inputs, targets) as step:
            loss = criterion(model(inputs), targets) + step.loss()
            optimizer.zero_grad()
            loss.backward()
            step.before()
            optimizer.step()

    ``attached.state_dict()`` belongs into your checkpoints, and ``attached.memory`` is what :func:`unlearn` takes as
    ``memory``. A step left by ``continue`` still ends with what acts after it, unless ``step.skip()`` was called; of
    several forward passes in one step, activity is that of the first.

    Args:
        model: The network. A compiled one is seen through.
        optimizer: The optimizer that trains it.
        components: SPECs of interventions, or objects. A criterion or reinit method that watches the training is one
            too.
        seed: Fixes every draw of the components. A loop that goes on from a checkpoint keeps it.
        loss: ``loss(outputs, targets)``, a mean over the batch.
        build: Makes a new model, for models that initialise themselves otherwise than by ``reset_parameters``.
        initial: Copies of what ``state_dict()`` held at the start.
        previous: Copies of what it held when you last forgot.

    Returns:
        The interventions at work, with ``begin``, ``step``, ``after_epoch``, ``memory`` and the state.

    Raises:
        OptionError: If a component is unknown, or if the optimizer trains none of the model's parameters.
    """
    if isinstance(components, str) or not isinstance(components, Sequence):
        raise OptionError("attach takes a list of interventions: forgetkit.attach(model, optimizer, ['redo'])")
    components = registry.load()
    found = [_build_intervention(components, component) for component in components]
    past = _build_history(build, initial, previous, None, seed)
    inner = unlearning.unwrap(model)
    unlearning.require_trained_by(optimizer, inner)
    made = [component for _, component in found]
    acting = unlearning.InterventionRunner(inner, optimizer, made, Seeds(seed), past, loss)
    plain = [spec.partition(":")[0].rpartition("/")[2] for spec, _ in found]  # whichever distribution was written
    return InterventionAttachment(acting, list(map(ComponentDescription.of, plain, made)))


def _build_intervention(
    components: registry.Registry, component: str | contracts.Intervention
) -> tuple[str, contracts.Intervention]:
    """An intervention and its SPEC, by its SPEC or as an object; or a criterion or method that is one too."""
    try:
        made: tuple[str, contracts.Intervention] = components.make("interventions", component)
        return made
    except OptionError:
        for kind in ("importance", "reinit") if isinstance(component, str) else ():
            with contextlib.suppress(OptionError):
                spec, other = components.make(kind, component)
                if isinstance(other, contracts.Intervention):
                    return spec, other
        raise


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
    with scoring_settings(torch.float32), unlearning.SelectionGroup(group) as processes:
        for name, score in scores.items():
            if not isinstance(score, Tensor) or not score.is_floating_point() or not all_finite(score):
                raise OptionError(f"the score of '{name}' is not a tensor of finite floats")
        for option, word, words in (("which", which, Which), ("ties", ties, Ties), ("rounding", rounding, Rounding)):
            if word not in get_args(words):
                raise OptionError(f"{option}='{word}' is none of {', '.join(get_args(words))}")
        seeds = Seeds(seed)
        masks, _ = unlearning.select(
            scores, fraction, seeds, which=which, ties=ties, rounding=rounding, processes=processes
        )
        return masks


def run(
    options: Mapping[str, Any] | None = None,
    *,
    observers: Sequence[contracts.Observer] = (),
    plugins: Sequence[str | Path] = (),
    resume: str | Path | None = None,
) -> RunResult:
    """Train over a stream of mega-batches, as `forgetkit run` does.

    Signals are not handled: an interruption comes through at once, with a note of the directory, and what was computed
    since the last checkpoint is computed again on resume.

    Args:
        options: those of the command line, with underscores. Components are SPECs or objects.
        observers: are notified of each event of the run.
        plugins: single plugin files.
        resume: the directory of a run that goes on, whose own options hold. The result of a finished one is returned.

    Returns:
        The content of `result.json`, a dict with `table`, `plot()` and `model()`.

    Raises:
        ForgetkitError: an option, the data or the directory is wrong; one line that says what to do.

    Example:
        >>> result = forgetkit.run({"method": "lure", "epochs": 2, "mega_batches": 3})
        >>> print(result["test_accuracy"], result.table)
    """
    if not isinstance(options, Mapping | None):
        raise ConfigError(f"options are a mapping like {{'dataset': 'digits'}}, not {type(options).__name__}")
    files, components = _load_plugins(plugins)
    given = options or {}
    objects = {key: value for key, value in given.items() if value is not None and not isinstance(value, str)}
    if resume is None:
        content = run_plan(config.resolve(given, components), observers=observers, cache=cache_folder())
        return RunResult(content, content["directory"], files, objects)
    path = Path(resume)
    if RunDirectory(path).finished and not given:
        return RunResult(RunDirectory(path).result, path, files)
    directory = RunDirectory.reopen(path)
    own = config.resumed_options(directory.manifest, given, components)
    plan = config.resolve(own, components, offline="dataset" not in given)
    content = run_plan(plan, observers=observers, cache=cache_folder(), resume=directory)
    return RunResult(content, path, files, objects)


def ablate(
    grid: str | Path | Mapping[str, Any] | None = None,
    *,
    seeds: str | Iterable[int] | None = None,
    jobs: int | None = None,
    baseline: str | Mapping[str, Any] | None = None,
    options: Mapping[str, Any] | None = None,
    match: Literal["samples"] | None = None,
    out: str | Path = "ablations",
    executor: str | contracts.Executor | None = None,
    keep: contracts.Keep | None = None,
    plugins: Sequence[str | Path] = (),
    **axes: Sequence[Any],
) -> Ablation:
    """Compare components over a grid of runs, as `forgetkit ablate` does.

    Cells that are in the folder already are not run again, whether a call or the command line ran them. A cell that
    fails or diverges is logged and shows in the table; the others go on.

    Args:
        grid: a TOML file, or a mapping with the entries of one (`axes`, `arms`, `base`, …).
        seeds: of each arm: whole numbers, or text like `"0-4"`. None: those of the grid, or 0.
        jobs: cells that run at once, each in a process of its own. None: 1.
        baseline: the arm that others are compared with: a value on each axis, or text as for `--baseline`.
        options: options of all runs, with underscores.
        match: `"samples"` compares at equal numbers of training samples, not of epochs.
        out: the folder of the cells, relative to the current one.
        executor: what runs the cells, a SPEC or an object, in place of `jobs`.
        keep: models that finished cells keep. None: the last one of each new cell.
        plugins: single plugin files.
        **axes: options of a run, each with a list of values: `importance=["snip", "random"]`.

    Returns:
        The outcomes, with `table`, `to_pandas()` and `report()`.

    Raises:
        ForgetkitError: the grid, an option, the data or the folder is wrong; one line that says what to do.
        KeyboardInterrupt: the call was interrupted; the same call goes on.

    Example:
        >>> found = forgetkit.ablate(importance=["snip", "random"], seeds=range(2), options={"epochs": 2})
        >>> print(found.table)
    """
    files, components = _load_plugins(plugins)
    question = grid_from_python(grid, axes, seeds, {} if options is None else options, baseline)
    execution = ExecutionOptions.of(components, jobs=jobs, executor=executor, keep=keep, plugins=files)
    plan = AblationPlan.of(question, Path(out), components, match=match)
    return Ablation(plan.pool.path, run_ablation(plan, execution, AblationLog()))


def _load_plugins(plugins: Sequence[str | Path]) -> tuple[tuple[Path, ...], registry.Registry]:
    """The files and the components on offer; plugins that are left out are logged."""
    if isinstance(plugins, str | Path):
        raise ConfigError(f"plugins is a list of files: plugins=['{plugins}']")
    files = tuple(map(Path, plugins))
    components = registry.load(files=files)
    for broken in components.broken:
        _log.warning("%s", broken)
    return files, components


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
    components = registry.load(files=[Path(file) for file in plugins])
    shown = {"test": test, "train": train, "val": val, "classes": classes, "initial": initial, **given}
    return _evidence(subject, components, question_seeds(seed), mega_batch, shown)


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
    is asked ``again``. ``threads`` are those of torch on the CPU meanwhile: by default those of the run, and for a
    model torch's own.
    Raises ``InapplicableError`` where the question makes no sense for what it is put to.
    """
    components = registry.load(files=[Path(file) for file in plugins])
    question = Question.of(components, analysis, seed=seed, mega_batch=mega_batch)
    found = _evidence(subject, components, question.seeds, mega_batch, shown, threads)
    if not isinstance(found, RunEvidence):
        with compute_settings(threads):
            return ask_model(question, found)
    known = None if again else cached_answer(question, found.finished)
    return known or ask_run(question, found.finished)


_OF_A_MODEL = ("test", "train", "val", "classes", "initial")


def _evidence(
    subject: str | Path | nn.Module,
    components: registry.Registry,
    seeds: Seeds,
    mega_batch: int | None,
    shown: Mapping[str, Any],
    threads: int | None = None,
) -> RunEvidence | ModelEvidence:
    """Of a run or of a model; what would be ignored is refused."""
    given = {name: value for name, value in shown.items() if value is not None}
    of_model_alone = [name for name in given if name in _OF_A_MODEL]
    if not isinstance(subject, nn.Module):
        if of_model_alone:
            raise OptionError(f"{of_model_alone[0]}= is for a model by itself, a run has its own: leave it out")
        unknown = [name for name in given if name not in config.OVERRIDABLE]
        if unknown:
            raise OptionError(f"{unknown[0]}= is none of {', '.join(config.OVERRIDABLE)}, which may be others here")
        finished = FinishedRun(
            RunDirectory(Path(subject)), AnalysisEnv(components, cache_folder(), given, threads=threads)
        )
        return RunEvidence.of(finished, mega_batch, seeds)
    beside = [name for name in given if name not in _OF_A_MODEL]
    if mega_batch is not None or beside:
        raise OptionError(f"{(*beside, 'mega_batch')[0]}= is for the directory of a run: leave it out for a model")
    parts = {part: given.pop(part) for part in get_args(contracts.DataPart) if part in given}
    return model_evidence(subject, parts, seeds, offers=components, **given)


def _build_history(
    build: Callable[[], nn.Module] | None,
    initial: Mapping[str, Tensor] | None,
    previous: Mapping[str, Tensor] | None,
    memory: unlearning.Memory | None,
    run_seed: int | None,
) -> unlearning.ModelHistory:
    if memory is not None and not callable(memory):
        raise OptionError(f"memory= takes the method attached.memory, not {type(memory).__name__}")
    return unlearning.ModelHistory(
        build=build,
        repeats=None if build is None else cache(partial(unlearning.RepeatedValues.of, build, _REPEATED_REMEDY)),
        initial=None if initial is None else initial.__getitem__,
        previous=None if previous is None else previous.__getitem__,
        memory=memory or unlearning.NO_HISTORY.memory,
        seeds=None if run_seed is None else Seeds(run_seed),
    )


def _resolve_component(given: _Kind | None, kind: type[_Kind]) -> _Kind:
    if given is not None and not isinstance(given, kind):
        raise OptionError(f"{kind.__name__.lower()}= takes a forgetkit.{kind.__name__}, not {type(given).__name__}")
    checked: _Kind = validate_component(kind.__name__.lower(), given if given is not None else kind())
    return checked
