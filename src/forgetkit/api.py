"""The public functions: runs and ablations, and unlearning in any training loop. Components are SPECs or objects."""

from __future__ import annotations

import contextlib
import logging
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from functools import cache, partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, TypeVar, get_args

import torch
from torch import Tensor, nn

from forgetkit import config, contracts, unlearning
from forgetkit.ablation.grid import grid_from_python, split_axes
from forgetkit.ablation.plan import AblationPlan
from forgetkit.ablation.runner import AblationLog, AblationView, ExecutionOptions, run_ablation
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
from forgetkit.unlearning.tensor_checks import all_finite

if TYPE_CHECKING:
    from torch.distributed import ProcessGroup
    from torch.optim import Optimizer

    Optimizers = Optimizer | Sequence[Optimizer] | Mapping[str, Optimizer]

Batches = Iterable[Any]
_Kind = TypeVar("_Kind", unlearning.Scoring, unlearning.ResetPolicy)
_log = logging.getLogger("forgetkit")
_REPEATED_REMEDY = (
    "let build= draw from the global random state, and load weights into the model with load_state_dict()"
)
Loss = Callable[[Any, Any], Tensor]
Objective = Callable[[nn.Module, Any], Tensor | tuple[Tensor, Tensor | float]]
Outputs = Callable[[Any], Tensor]


def unlearn(
    model: nn.Module,
    batches: Batches | None = None,
    *,
    importance: str | contracts.Importance | None = None,
    reinit: str | contracts.Reinit = "masked",
    optimizer: Optimizers | None = None,
    seed: int = 0,
    loss: Loss | None = None,
    objective: Objective | None = None,
    outputs: Outputs | None = None,
    build: Callable[[], nn.Module] | None = None,
    fresh: Literal["auto", "module"] = "auto",
    initial: Mapping[str, Tensor] | None = None,
    scoring: unlearning.Scoring | None = None,
    policy: unlearning.ResetPolicy | None = None,
    previous: Mapping[str, Tensor] | None = None,
    memory: unlearning.Memory | None = None,
    run_seed: int | None = None,
    group: ProcessGroup | Literal[True] | None = None,
    followers: Sequence[nn.Module] | None = None,
    protect: unlearning.Protect | None = None,
) -> unlearning.UnlearnReport:
    """Reset part of ``model`` in place, and the optimizer's state of what was reset.

    If anything fails, the model and the optimizer are as before.

    In several processes all make the same call, and all of them reset or none. A ``DistributedDataParallel`` wrapper
    and a model of ``DTensor`` (``fully_shard``, tensor parallel) bring their group; for plain modules give ``group``.
    Modules of the same names, shapes and values are replicas: they get the buffers of the first process, see the
    batches of all (the first of each by rank, then the second of each; equal ones of a round once; ``samples`` counts
    over these) and end with the same bits. Other modules are parts of one network, over all of which entries are
    selected, as :func:`select` does; parts of the same names and shapes need a seed of their own in each process.

    Args:
        model: The network. A compiled one is reset in the module that it wraps.
        batches: Any iterable of batches, a ``DataLoader`` for example: pairs ``(inputs, targets)``, mappings with
            labels for a model that returns its own loss, or what ``objective`` takes. A criterion reads as many samples
            as its options say. None is enough for components that need no data.
        importance: The criterion, a SPEC or an object. None: ``"snip"`` if ``reinit`` needs scores.
        reinit: The reset method, a SPEC or an object.
        optimizer: The optimizer that trains the model, or several in a list. The state of what was reset becomes that
            of a new optimizer, in place; ``report.remarks`` names what cannot be cleared.
        seed: Fixes every draw, 0 or more. Give another one at each call of a loop, or the same fresh values come again.
        loss: ``loss(outputs, targets)``, a scalar tensor: the mean over the batch. None: cross-entropy of pairs, and
            the ``loss`` that the model returns for mappings, which it is called with as ``model(**batch)``.
        objective: ``objective(model, batch)`` in place of ``loss``: the mean loss of a batch of any shape, or
            ``(loss, weight)`` with the number that the loss averages over.
        outputs: ``outputs(returned)`` takes a tensor out of what the model returns, for components that look at
            outputs. None: the tensor itself, or its ``logits``.
        build: Makes a new model of the same architecture, whose values are the fresh ones. Initialisation outside the
            network's classes (``model.apply(f)`` in a script, a backbone made elsewhere) cannot be seen: pass a
            function that does all of it.
        fresh: ``"auto"``: without ``build``, a layer's ``reset_parameters`` draws fresh values if no constructor around
            the layer initialises it. Otherwise a model of transformers or Lightning is built from its own ``config`` or
            ``hparams``; any other model is an error. ``"module"``: ``reset_parameters`` draws them, whatever the
            constructors do.
        initial: Copies of ``state_dict()`` at the start of training, for methods that go back to it.
        scoring: Which parameters are scored, and in which mode.
        policy: What becomes of the optimizer's state and of running statistics.
        previous: Copies of ``state_dict()`` when the model was last reset.
        memory: The method ``memory`` of what :func:`attach` returns, for components that watch the training.
        run_seed: A seed that stays the same at each call, for components that draw once for a whole run.
        group: A process group of ``torch.distributed``, or True for all processes. None: the group of the wrapper or
            of the mesh; a plain model is reset in this process alone.
        followers: Networks of the same architecture, an ``AveragedModel`` for example, that get the same values under
            the same masks.
        protect: What is neither scored nor reset: names of parameters, buffers or modules, or boolean masks by the name
            of a parameter (True = protected). Entries that :mod:`torch.nn.utils.prune` has pruned are always protected.

    Returns:
        The audit: for each parameter how many entries were scored and reset, the threshold and the seconds.

    Raises:
        OptionError: If a component is unknown, or if an option would be ignored.
        ForgetkitError: If scores or fresh values cannot be computed; one line that says what to do.

    Example:
        >>> report = forgetkit.unlearn(model, batches, reinit="masked:fraction=0.2", optimizer=optimizer, seed=1)
    """
    with unlearning.find_group(model, group) as processes:
        components = registry.load()
        method = components.make("reinit", reinit)[1]
        method_name = contracts.component_name(method)
        if importance is None and getattr(method, "needs_scores", False):
            importance = "snip"
        shows = scoring == unlearning.Scoring(mode="train") and batches is not None  # a loss of this mode alone
        if scoring is not None and importance is None and not shows and not getattr(method, "needs_data", False):
            raise OptionError(f"{method_name} looks at no scores, so scoring= would be ignored: leave it out")
        scored, after = (
            _resolve_component(scoring, unlearning.Scoring),
            _resolve_component(policy, unlearning.ResetPolicy),
        )
        if after.optimizer_state != "zero" and optimizer is None:
            raise OptionError(f"optimizer_state={after.optimizer_state} is about an optimizer: pass optimizer=")
        criterion = None if importance is None else components.make("importance", importance)[1]
        how = unlearning.Objective(loss, objective, outputs)
        layout = unlearning.ProcessLayout.find(
            model,
            processes,
            seed=Seeds(seed).seed,
            options=_options_text(
                (criterion, method, scored, after), how, fresh, run_seed, build, initial, previous, optimizer, protect
            ),
            optimizers=unlearning.list_optimizers(optimizer),
            has_batches=batches is not None,
        )
        if layout.holding == "parts" and not getattr(method, "needs_scores", False):
            raise OptionError(f"{method_name} selects nothing, so group= would be ignored: leave it out")
        if layout.holding == "shards" and after.optimizer_state == "rescaled":
            raise OptionError(
                "optimizer_state=rescaled takes means over whole tensors, and the model's parameters lie in parts "
                "(DTensor): use zero, keep or fresh"
            )
        report = unlearning.unlearn(
            model,
            batches,
            importance=criterion,
            reinit=method,
            optimizer=optimizer,
            seeds=Seeds(seed),
            loss=how,
            history=_build_history(build, fresh, initial, previous, memory, run_seed),
            scoring=scored,
            policy=after,
            layout=layout,
            followers=followers,
            state_rules=_state_rules(components) if optimizer is not None else (),
            protect=protect,
        )
    _warn_if_alone(group, processes)
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
    loss: Loss | None = None,
    objective: Objective | None = None,
    outputs: Outputs | None = None,
    build: Callable[[], nn.Module] | None = None,
    fresh: Literal["auto", "module"] = "auto",
    initial: Mapping[str, Tensor] | None = None,
    scoring: unlearning.Scoring | None = None,
    previous: Mapping[str, Tensor] | None = None,
    memory: unlearning.Memory | None = None,
    protect: unlearning.Protect | None = None,
    group: ProcessGroup | Literal[True] | None = None,
) -> dict[str, Tensor]:
    """Score each entry of the trainable parameters that the loss depends on.

    The model, its gradients, its mode and the global random state are as before.

    Args:
        model: The network.
        batches: Any iterable of batches, as for :func:`unlearn`.
        importance: The criterion, a SPEC or an object.
        seed: Fixes every draw, 0 or more. A criterion that reads fresh values gets those of :func:`unlearn` with the
            same ``seed`` and ``build``.
        loss: ``loss(outputs, targets)``, as for :func:`unlearn`.
        objective: ``objective(model, batch)``, as for :func:`unlearn`.
        outputs: ``outputs(returned)``, as for :func:`unlearn`.
        build: Makes a new model, as for :func:`unlearn`.
        fresh: ``"auto"`` or ``"module"``, as for :func:`unlearn`.
        initial: Copies of ``state_dict()`` at the start of training.
        scoring: Which parameters are scored, and in which mode.
        previous: Copies of ``state_dict()`` when the model was last reset.
        memory: The method ``memory`` of what :func:`attach` returns.
        protect: What is not scored: names as for :func:`unlearn`. Under a mask, entries are scored all the same.
        group: The processes that hold replicas, or tensors in parts, as for :func:`unlearn`.

    Returns:
        ``{name: tensor}``: scores in the shape of the parameter, float32 or wider; higher means keep.

    Raises:
        OptionError: If the criterion is unknown, or if an option would be ignored.
        ForgetkitError: If scores cannot be computed; one line that says what to do.

    Example:
        >>> scores = forgetkit.score(model, batches, importance="snip:samples=128")
    """
    with unlearning.find_group(model, group) as processes:
        criterion = registry.load().make("importance", importance)[1]
        past, scored = (
            _build_history(build, fresh, initial, previous, memory, None),
            _resolve_component(scoring, unlearning.Scoring),
        )
        how = unlearning.Objective(loss, objective, outputs)
        layout = unlearning.ProcessLayout.find(
            model,
            processes,
            seed=Seeds(seed).seed,
            options=_options_text((criterion, scored), how, fresh, None, build, initial, previous, protect),
            has_batches=batches is not None,
        )
        if layout.holding == "parts":
            raise OptionError("each process scores its own part of a network, so group= would be ignored: leave it out")
        scores = unlearning.score(
            model,
            batches,
            importance=criterion,
            seeds=Seeds(seed),
            loss=how,
            history=past,
            scoring=scored,
            protect=protect,
            layout=layout,
        )
    _warn_if_alone(group, processes)
    return scores


def attach(
    model: nn.Module,
    optimizer: Optimizers,
    components: Sequence[str | contracts.Intervention],
    *,
    seed: int = 0,
    loss: Loss | None = None,
    objective: Objective | None = None,
    outputs: Outputs | None = None,
    build: Callable[[], nn.Module] | None = None,
    fresh: Literal["auto", "module"] = "auto",
    initial: Mapping[str, Tensor] | None = None,
    previous: Mapping[str, Tensor] | None = None,
    followers: Sequence[nn.Module] | None = None,
    protect: unlearning.Protect | None = None,
    group: ProcessGroup | Literal[True] | None = None,
) -> InterventionAttachment:
    """Attach interventions to your own training loop.

    Call ``attached.begin(inputs, targets)`` before each mega-batch, with two samples or more, and
    ``attached.after_epoch()`` after each epoch; a batch of another shape is a single argument. Around each training
    step::

        with attached.step(inputs, targets) as step:
            loss = criterion(model(inputs), targets) + step.loss()
            optimizer.zero_grad()
            loss.backward()
            step.before()
            optimizer.step()

    Save ``attached.state_dict()`` in your checkpoints, and give ``attached.memory`` to :func:`unlearn` as ``memory``.
    A trainer with callbacks calls ``step = attached.enter(batch)`` and ``attached.exit()`` instead of ``with``, and
    ``attached.exit(error)`` after a failure. A step that ends by ``continue`` still runs what acts after a step, unless
    ``step.skip()`` was called. If a step has several forward passes, activity is measured in the first.

    Args:
        model: The network. Of a compiled one, the module that it wraps is used.
        optimizer: The optimizer that trains it, or several in a list; interventions see the first one.
        components: Interventions, SPECs or objects. A criterion or reset method that watches the training is one too.
        seed: Fixes every draw of the components, 0 or more. Keep it if a loop resumes from a checkpoint.
        loss: ``loss(outputs, targets)``, as for :func:`unlearn`.
        objective: ``objective(model, batch)``, as for :func:`unlearn`.
        outputs: ``outputs(returned)``, as for :func:`unlearn`.
        build: Makes a new model, as for :func:`unlearn`.
        fresh: ``"auto"`` or ``"module"``, as for :func:`unlearn`.
        initial: Copies of ``state_dict()`` at the start of training.
        previous: Copies of ``state_dict()`` when the model was last reset.
        followers: Networks that get what interventions reset, as for :func:`unlearn`.
        protect: What no component resets, as for :func:`unlearn`.
        group: The processes that hold replicas, as for :func:`unlearn`. All of them make the same calls: activity and
            batches that a component looks at are those of all, in the order of the ranks.

    Returns:
        An object with ``begin``, ``step``, ``enter``, ``exit``, ``after_epoch``, ``memory``, ``state_dict`` and
        ``load_state_dict``.

    Raises:
        OptionError: If a component is unknown, or if the optimizer trains none of the model's parameters.

    Example:
        >>> attached = forgetkit.attach(model, optimizer, ["redo"], seed=1)  # doctest: +SKIP
    """
    if isinstance(components, str) or not isinstance(components, Sequence):
        raise OptionError("attach takes a list of interventions: forgetkit.attach(model, optimizer, ['redo'])")
    known = registry.load()
    found = [_build_intervention(known, component) for component in components]
    past = _build_history(build, fresh, initial, previous, None, seed)
    unlearning.require_supported(model)
    how = unlearning.Objective(loss, objective, outputs)
    inner = unlearning.unwrap(model)
    instances = [component for _, component in found]
    with unlearning.find_group(model, group) as processes:
        several = unlearning.list_optimizers(optimizer)
        unlearning.require_trained_by(optimizer, inner)
        layout = unlearning.ProcessLayout.find(
            model,
            processes,
            seed=Seeds(seed).seed,
            options=_options_text(instances, how, fresh, None, build, initial, previous, protect),
        )
        if layout.holding in ("parts", "shards"):
            raise OptionError(
                "interventions act on a whole network, and this process holds a part of one: attach to "
                "DistributedDataParallel, or leave group= out"
            )
        runner = unlearning.InterventionRunner(
            inner,
            several[0],
            instances,
            Seeds(seed),
            past,
            how,
            optimizers=several,
            followers=unlearning.Followers.of(followers, inner),
            state_rules=_state_rules(known),
            protection=unlearning.Protection.of(inner, protect),
            layout=layout,
        )
        processes.finish()
    _warn_if_alone(group, processes)
    names = [spec.partition(":")[0].rpartition("/")[2] for spec, _ in found]  # without the distribution
    return InterventionAttachment(runner, list(map(ComponentDescription.of, names, instances)))


def check_components(
    *,
    importance: str | contracts.Importance | None = None,
    reinit: str | contracts.Reinit | None = None,
    interventions: Sequence[str | contracts.Intervention] = (),
) -> None:
    """Check components before there is a network to use them on: their names, their options and their methods.

    :func:`unlearn` and :func:`attach` check the same. A training loop that calls them late checks at its start.

    Args:
        importance: The criterion, as for :func:`unlearn`.
        reinit: The reset method, as for :func:`unlearn`.
        interventions: The components for :func:`attach`.

    Raises:
        OptionError: If a component or one of its options is unknown or out of range, or if ``reinit`` looks at no
            scores.

    Example:
        >>> forgetkit.check_components(importance="snip", reinit="masked:fraction=0.2")
    """
    components = registry.load()
    criterion = None if importance is None else components.make("importance", importance)[1]
    method = None if reinit is None else components.make("reinit", reinit)[1]
    if criterion is not None and method is not None:
        unlearning.require_consistent(criterion, method)
    for intervention in interventions:
        _build_intervention(components, intervention)


def _build_intervention(
    components: registry.Registry, component: str | contracts.Intervention
) -> tuple[str, contracts.Intervention]:
    """Return the SPEC and the object of an intervention, or of a criterion or reset method that is one too."""
    try:
        found: tuple[str, contracts.Intervention] = components.make("interventions", component)
        return found
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
    """Select the entries with the lowest or highest scores, by one threshold over all tensors.

    With ``group``, each process holds the scores of its own part of the model and calls this with the same options. It
    gets its part of the masks that one process would select if it held all parts in the order of the ranks. Processes
    exchange counts alone: about 25 kilobytes each (50 for float64) whatever the number of scores, and 16 more if ties
    are drawn. Replicas that hold all scores need no group: the same scores and seed give the same masks.

    Args:
        scores: ``{name: tensor}`` of finite floats.
        fraction: The share of all entries that is selected, from 0 to 1.
        which: ``"lowest"`` or ``"highest"`` scores.
        ties: Which entries are selected whose score is the threshold: as many as needed, drawn at ``"random"``; as
            many, the first ones (``"stable"``); or all of them (``"drop"``).
        rounding: Whether ``fraction`` times the number of entries is rounded ``"down"`` or ``"up"``.
        seed: Fixes every draw, 0 or more.
        group: A process group of ``torch.distributed``, or True for all processes.

    Returns:
        ``{name: mask}``: boolean tensors in the shape and on the device of the scores; True means reset. A mask is
        stored at one bit per entry and unpacked at each access; changing the tensor changes no mask.

    Raises:
        OptionError: If a score is not finite, or an option has no such value.
        ComponentError: In a group, if another process failed.

    Example:
        >>> masks = forgetkit.select({"weight": torch.rand(10, 10)}, fraction=0.2)
        >>> int(masks["weight"].sum())
        20
    """
    with scoring_settings(torch.float32), unlearning.SelectionGroup(group) as processes:
        for name, score in scores.items():
            if not isinstance(score, Tensor) or not score.is_floating_point() or not all_finite(score):
                raise OptionError(f"the score of '{name}' is not a tensor of finite floats")
        for option, word, words in (("which", which, Which), ("ties", ties, Ties), ("rounding", rounding, Rounding)):
            if word not in get_args(words):
                raise OptionError(f"{option}='{word}' is none of {', '.join(get_args(words))}")
        seeds = Seeds(seed)
        selection = unlearning.select(
            scores, fraction, seeds, which=which, ties=ties, rounding=rounding, processes=processes
        )
        return selection.masks


def run(
    options: Mapping[str, Any] | None = None,
    *,
    observers: Sequence[contracts.Observer] = (),
    plugins: Sequence[str | Path] = (),
    resume: str | Path | None = None,
    progress: bool = False,
    **named: Any,
) -> RunResult:
    """Train over a stream of mega-batches, as ``forgetkit run`` does.

    An interrupt is raised at once, with a note that names the directory of the run; a resumed run computes again what
    came after the last checkpoint.

    Args:
        options: Options of ``forgetkit run``, with underscores. Components are SPECs or objects.
        observers: Objects whose ``notify`` gets each event of the run.
        plugins: Files that are plugins by themselves.
        resume: The directory of a run to resume, whose own options hold. If it is finished, its result is returned.
        progress: Whether to show lines and bars on standard error or below a notebook's cell.
        **named: Options too: ``method="lure", epochs=2``.

    Returns:
        The content of ``result.json``, a dict with ``table``, ``plot()`` and ``model()``.

    Raises:
        ForgetkitError: If an option, the data or the directory is wrong; one line that says what to do.

    Example:
        >>> result = forgetkit.run(method="lure", epochs=1, mega_batches=2)
        >>> accuracy, table = result["test_accuracy"], result.table
    """
    files, components = _load_plugins(plugins)
    given = _merge_options(options, named)
    objects = {key: value for key, value in given.items() if value is not None and not isinstance(value, str)}
    path, directory = None if resume is None else Path(resume), None
    if path is None:
        plan = config.resolve(given, components)
    elif RunDirectory(path).finished and not given:
        return RunResult(RunDirectory(path).result, path, files)
    else:
        directory = RunDirectory.reopen(path)
        own = config.resumed_options(directory.manifest, given, components)
        plan = config.resolve(own, components, offline="dataset" not in given)
    with _show_run(progress) as shown:
        content = run_plan(plan, observers=(*(observers or ()), *shown), cache=cache_folder(), resume=directory)
    return RunResult(content, path or content["directory"], files, objects)


def ablate(
    grid: str | Path | Mapping[str, Any] | None = None,
    *,
    over: Mapping[str, Iterable[Any]] | None = None,
    exclude: Iterable[str | Mapping[str, Any]] = (),
    seeds: int | str | Iterable[int] | None = None,
    baseline: str | Mapping[str, Any] | None = None,
    options: Mapping[str, Any] | None = None,
    match: Literal["samples"] | None = None,
    out: str | Path = "ablations",
    name: str | None = None,
    jobs: int | None = None,
    executor: str | contracts.Executor | None = None,
    keep: contracts.Keep | None = None,
    plugins: Sequence[str | Path] = (),
    no_plugin: Sequence[str] = (),
    progress: bool = False,
    **named: Any,
) -> Ablation:
    """Compare components over a grid of runs, as ``forgetkit ablate`` does.

    Cells that are finished in the folder are not run again, whether a call or the command line ran them. A cell that
    fails or diverges is logged and shows in the table; the others still run.

    Args:
        grid: A TOML file, or a mapping with the entries of one (``axes``, ``arms``, ``base``, …).
        over: Axes: options of ``forgetkit run`` with underscores, each with its values.
        exclude: Combinations to leave out: a value on some axes, or text as for ``--exclude``.
        seeds: The seeds of each arm: a whole number from 0, several, or text like ``"0-4"``. None: those of the grid,
            or 0.
        baseline: The arm that others are compared with: a value on each axis, or text as for ``--baseline``.
        options: Options of all runs, with underscores.
        match: ``"samples"`` compares at equal numbers of training samples, not of epochs.
        out: The folder of the cells, relative to the current one. Grids in one folder share them.
        name: The name of the grid in that folder. None: from its title.
        jobs: How many cells run at once, each in a process of its own. None: 1.
        executor: What runs the cells, a SPEC or an object, in place of ``jobs``.
        keep: Which models finished cells keep: ``"all"``, ``"last"`` or ``"none"``. None: the last one of new cells.
        plugins: Files that are plugins by themselves.
        no_plugin: Installed plugins to leave out.
        progress: Whether to show lines and bars on standard error or below a notebook's cell.
        **named: An option with a list of values is an axis, with a single value an option of all runs:
            ``importance=["snip", "random"], epochs=2``.

    Returns:
        The outcomes of all cells, with ``table``, ``to_pandas()`` and ``report()``.

    Raises:
        ForgetkitError: If the grid, an option, the data or the folder is wrong; one line that says what to do.
        KeyboardInterrupt: If the call is interrupted; the same call resumes.

    Example:
        >>> found = forgetkit.ablate(importance=["snip", "random"], seeds=range(2), epochs=1, mega_batches=2)
        >>> means = found.to_pandas().groupby("importance")["test_accuracy"].mean()  # doctest: +SKIP
    """
    files, components = _load_plugins(plugins, no_plugin)
    axes, shared = split_axes(named)
    axes, shared = _merge_options(over, axes, "over"), _merge_options(options, shared)
    question = grid_from_python(grid, axes, seeds, shared, baseline, exclude)
    execution = ExecutionOptions.of(
        components, jobs=jobs, executor=executor, keep=keep, plugins=files, without=tuple(no_plugin)
    )
    plan = AblationPlan.of(question, Path(out), components, name=name, match=match)
    return Ablation(plan.store.path.absolute(), run_ablation(plan, execution, _ablation_view(progress)))


def _merge_options(
    options: Mapping[str, Any] | None, named: Mapping[str, Any], what: str = "options"
) -> dict[str, Any]:
    if not isinstance(options, Mapping | None):
        raise ConfigError(f"{what}= takes a mapping like {{'dataset': 'digits'}}, not {type(options).__name__}")
    given = options or {}
    if twice := given.keys() & named.keys():
        raise ConfigError(f"{min(twice)} is given twice, by itself and in {what}: leave one out")
    return {**given, **named}


@contextlib.contextmanager
def _show_run(progress: bool) -> Iterator[Sequence[contracts.Observer]]:
    if not progress:
        yield ()
        return
    from forgetkit.display.run_display import choose_run_display

    display = choose_run_display(quiet=False, as_json=True)
    with display.progress_context():
        yield (display,)


def _ablation_view(progress: bool) -> AblationView:
    if not progress:
        return AblationLog()
    from forgetkit.display.cell_display import choose_cell_display

    return choose_cell_display(quiet=False, as_json=True, warn=AblationLog().warn)


def _load_plugins(
    plugins: Sequence[str | Path], without: Sequence[str] = ()
) -> tuple[tuple[Path, ...], registry.Registry]:
    """Return the files and all components; plugins that are left out are logged."""
    for option, given in (("plugins", plugins), ("no_plugin", without)):
        if isinstance(given, str | Path):
            raise ConfigError(f"{option} is a list: {option}=['{given}']")
    files = tuple(map(Path, plugins))
    components = registry.load(without=without, files=files)
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
    """Gather what an analysis gets: models, masks, samples and history of a run, or a model with tensors.

    Args:
        subject: The directory of a finished run, or a module.
        test: For a module: ``(inputs, labels)``, two tensors, or an iterable of such batches.
        train: For a module: the training part, likewise.
        val: For a module: the validation part, likewise.
        classes: For a module: names of its outputs.
        initial: For a module: the module before training, or its ``state_dict()``.
        mega_batch: For a run: after which mega-batch, from 1. None: the last.
        seed: Fixes every draw, 0 or more.
        plugins: Files that are plugins by themselves.
        **given: For a run: options that differ here, of ``dataset``, ``model`` and ``device``.

    Returns:
        The evidence, which loads models and samples at their first use.

    Raises:
        OptionError: If an option would be ignored.
        ForgetkitError: If the run is unfinished or damaged; one line that says what to do.

    Example:
        >>> shown = forgetkit.evidence(model, test=(torch.rand(8, 1, 8, 8), torch.arange(8)))
    """
    components = _load_plugins(plugins)[1]
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
    """Analyze a finished run or a model, and leave it as it was.

    The answer about a run is stored as ``analyses/NAME.json`` in its directory.

    Args:
        subject: The directory of a finished run, or a module.
        analysis: A SPEC like ``"calibration:bins=15"``, or an object.
        seed: Fixes every draw of the analysis, 0 or more.
        mega_batch: For a run: after which mega-batch, from 1. None: the last.
        again: Whether to compute an answer that is stored.
        threads: Threads of torch on the CPU. None: those of the run, or for a model torch's own.
        plugins: Files that are plugins by themselves.
        **shown: ``test``, ``train``, ``val``, ``classes``, ``initial`` and options of a run, as for :func:`evidence`.

    Returns:
        Numbers, charts and remarks.

    Raises:
        InapplicableError: If the analysis does not apply to the run or model.
        OptionError: If an option would be ignored.
        ForgetkitError: If the run is unfinished or damaged; one line that says what to do.

    Example:
        >>> answer = forgetkit.analyze(model, "calibration", test=(torch.rand(64, 1, 8, 8), torch.arange(64) % 10))
        >>> error = answer.numbers["ece"]
    """
    components = _load_plugins(plugins)[1]
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
    return model_evidence(subject, parts, seeds, components=components, **given)


def _state_rules(components: registry.Registry) -> list[contracts.OptimizerStateRule]:
    kind = "optimizer_state"
    return [components.make(kind, entry.name)[1] for entry in components.named(kind)]


def _build_history(
    build: Callable[[], nn.Module] | None,
    fresh: str,
    initial: Mapping[str, Tensor] | None,
    previous: Mapping[str, Tensor] | None,
    memory: unlearning.Memory | None,
    run_seed: int | None,
) -> unlearning.ModelHistory:
    if memory is not None and not callable(memory):
        raise OptionError(f"memory= takes the method attached.memory, not {type(memory).__name__}")
    if fresh not in ("auto", "module"):
        raise OptionError(f"fresh={fresh!r}: fresh values come by 'auto' or from each 'module'")
    if fresh == "module" and build is not None:
        raise OptionError("fresh='module' and build= contradict each other: give one of them")
    return unlearning.ModelHistory(
        build=build,
        trust_modules=fresh == "module",
        repeats=None if build is None else cache(partial(unlearning.RepeatedValues.of, build, _REPEATED_REMEDY)),
        initial=unlearning.lookup(initial, "initial"),
        previous=unlearning.lookup(previous, "previous"),
        memory=memory or unlearning.NO_HISTORY.memory,
        seeds=None if run_seed is None else Seeds(run_seed),
        compare_scales=True,
    )


def _options_text(
    components: Iterable[object],
    objective: unlearning.Objective,
    fresh: str,
    run_seed: int | None,
    *given: object,
) -> str:
    """Describe a call in words that are the same in all processes that make the same call."""
    described = [ComponentDescription.of(type(one).__name__, one) for one in components if one is not None]
    words = [f"{one.name}({', '.join(f'{key}={value}' for key, value in one.options.items())})" for one in described]
    functions = (objective.loss, objective.function, objective.select)
    words += [getattr(one, "__qualname__", type(one).__name__) for one in functions if one is not None]
    words += [f"fresh={fresh}", f"run_seed={run_seed}"]
    return ", ".join([*words, *(type(one).__name__ for one in given if one is not None)])


def _warn_if_alone(group: object, processes: unlearning.SelectionGroup) -> None:
    if unlearning.is_alone_among_others(group, processes):
        _log.warning(
            "this process acted alone, and torch.distributed has others: if they hold replicas of this model, pass the "
            "DistributedDataParallel wrapper or group=True in all of them, or they come apart"
        )


def _resolve_component(given: _Kind | None, kind: type[_Kind]) -> _Kind:
    if given is not None and not isinstance(given, kind):
        raise OptionError(f"{kind.__name__.lower()}= takes a forgetkit.{kind.__name__}, not {type(given).__name__}")
    checked: _Kind = validate_component(kind.__name__.lower(), given if given is not None else kind())
    return checked
