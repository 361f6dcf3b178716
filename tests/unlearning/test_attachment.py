"""A loop of one's own with interventions: what it leaves out is refused by name, and so is a state of another loop."""

# ruff: noqa: PT012, SIM117 - the body of a step is the statement that is tried

from __future__ import annotations

import copy
import io
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, ClassVar

import pytest
import torch
from helpers.simple_interventions import Doubles, Pull, net
from helpers.unlearning_networks import refused
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

import forgetkit
from forgetkit.contracts import Intervention, InterventionContext
from forgetkit.errors import OptionError

INPUTS, TARGETS = torch.randn(6, 5, generator=torch.Generator().manual_seed(1)), torch.arange(6) % 3


@dataclass(frozen=True)
class Counts(Intervention):
    """Count steps and epochs."""

    power: Any = 1

    def after_step(self, moment: InterventionContext) -> None:
        moment.state["steps"] = moment.state.get("steps", torch.zeros(())) + 1

    def after_epoch(self, moment: InterventionContext) -> None:
        moment.state["epochs"] = moment.state.get("epochs", torch.zeros(())) + 1


class Loop:
    """A network, its optimizer and what is attached."""

    def __init__(self, *components: Any, model: nn.Module | None = None, begun: bool = True, **attach: Any) -> None:
        self.model = model or net()
        self.optimizer = torch.optim.SGD(self.model.parameters(), lr=0.1)
        self.attached = forgetkit.attach(self.model, self.optimizer, list(components), **attach)
        if begun:
            self.attached.begin(INPUTS, TARGETS)

    def backward(self, term: Tensor | float = 0.0) -> None:
        self.optimizer.zero_grad()
        (cross_entropy(self.model(INPUTS), TARGETS) + term).backward()

    def step(self) -> None:
        with self.attached.step(INPUTS, TARGETS) as step:
            self.backward(step.loss())
            step.before()
            self.optimizer.step()

    @property
    def weight(self) -> Tensor:
        return next(self.model.parameters()).detach().clone()


@pytest.mark.parametrize(
    ("components", "who"),
    [([Doubles()], "Doubles"), ([Pull(), Counts()], "Pull, Counts"), ([], "this loop")],
    ids=str,
)
def test_a_loop_without_begin_is_refused_by_name(components: list[Any], who: str) -> None:
    loop = Loop(*components, begun=False)
    for call in (loop.step, loop.attached.after_epoch):
        with refused(OptionError, match=rf"^{who} .*: call attached\.begin\(inputs, targets\) before"):
            call()
    loop.attached.begin(INPUTS, TARGETS)
    loop.step()


LEFT_OUT = {
    "before": (Doubles(), r"^Doubles acts before the optimizer steps.*call step\.before\(\) after loss\.backward\(\)"),
    "loss": (Pull(), r"^Pull adds to the loss, .*: add step\.loss\(\) to the loss before loss\.backward\(\)"),
}
OPTIMIZERS: dict[str, Callable[[Any], torch.optim.Optimizer]] = {
    "sgd": lambda p: torch.optim.SGD(p, lr=0.1),
    "foreach": lambda p: torch.optim.AdamW(p, foreach=True),
    "fused": lambda p: torch.optim.Adam(p, fused=True),
}


@pytest.mark.parametrize("made", OPTIMIZERS)
@pytest.mark.parametrize("what", LEFT_OUT)
def test_an_incomplete_step_stops_before_the_optimizer_steps(what: str, made: str) -> None:
    component, says = LEFT_OUT[what]
    model = net()
    optimizer = OPTIMIZERS[made](model.parameters())
    attached = forgetkit.attach(model, optimizer, [component])
    attached.begin(INPUTS, TARGETS)
    before = model[0].weight.detach().clone()
    with pytest.raises(OptionError, match=says), attached.step(INPUTS, TARGETS):
        cross_entropy(model(INPUTS), TARGETS).backward()
        optimizer.step()
    assert torch.equal(model[0].weight, before)
    with attached.step(INPUTS, TARGETS) as step:
        (cross_entropy(model(INPUTS), TARGETS) + step.loss()).backward()
        step.before()
        optimizer.step()
    optimizer.step()  # between steps of the loop the optimizer is the user's again


@pytest.mark.parametrize("made", OPTIMIZERS)
@pytest.mark.parametrize("what", LEFT_OUT)
def test_another_optimizer_of_the_network_is_stopped_too(what: str, made: str) -> None:
    component, says = LEFT_OUT[what]
    loop = Loop(component)
    other, foreign = (OPTIMIZERS[made](model.parameters()) for model in (loop.model, net()))
    with pytest.raises(OptionError, match=says), loop.attached.step(INPUTS, TARGETS):
        loop.backward()
        foreign.step()
        other.step()


def test_before_comes_before_the_optimizer_steps() -> None:
    loop = Loop(Doubles())
    with pytest.raises(OptionError, match=r"^Doubles acts before the optimizer steps"):
        with loop.attached.step(INPUTS, TARGETS) as step:
            loop.backward()
            loop.optimizer.step()
            step.before()


def test_a_closure_may_ask_within_the_optimizers_step() -> None:
    loop = Loop(Pull(), Doubles())
    optimizer = torch.optim.LBFGS(loop.model.parameters(), lr=0.1, max_iter=2)
    attached = forgetkit.attach(loop.model, optimizer, [Pull(), Doubles()])
    attached.begin(INPUTS, TARGETS)
    with attached.step(INPUTS, TARGETS) as step:

        def closure(told: bool = True) -> Tensor:
            optimizer.zero_grad()
            loss = cross_entropy(loop.model(INPUTS), TARGETS) + (step.loss() if told else 0)
            loss.backward()
            step.before()
            return loss

        optimizer.step(closure)
    with pytest.raises(OptionError, match=r"^Pull adds"):
        with attached.step(INPUTS, TARGETS) as step:
            optimizer.step(lambda: closure(told=False))


def test_a_step_that_is_skipped_or_left_hides_nothing() -> None:
    loop = Loop(Doubles(), Pull(), Counts())
    before = loop.weight
    for how in ("skip", "continue"):
        with loop.attached.step(INPUTS, TARGETS) as step:
            loop.backward()
            if how == "skip":
                step.skip()
            continue
    with pytest.raises(ZeroDivisionError), loop.attached.step(INPUTS, TARGETS):
        loop.backward()
        raise ZeroDivisionError
    assert torch.equal(loop.weight, before)
    loop.step()
    # As documented, a step that is left by ``continue`` ends with what acts after it; a skipped one does not.
    assert loop.attached.state_dict()["components"][2]["state"]["steps"] == 2


def test_hooks_that_are_not_overridden_are_not_required() -> None:
    loop = Loop(Counts())
    with loop.attached.step(INPUTS, TARGETS):
        loop.backward()
        loop.optimizer.step()
    assert loop.attached.state_dict()["components"][0]["state"]["steps"] == 1


def test_a_mega_batch_that_told_of_no_epoch_is_refused() -> None:
    loop = Loop(Counts())
    loop.step()
    with pytest.raises(OptionError, match=r"^Counts acts after epochs.*attached\.after_epoch\(\)"):
        loop.attached.begin(INPUTS, TARGETS)
    loop.attached.after_epoch()
    loop.step()
    loop.attached.begin(INPUTS, TARGETS)  # its last epoch was cut short: as the user likes
    plain = Loop(Doubles())
    plain.step()
    plain.attached.begin(INPUTS, TARGETS)
    assert plain.attached.state_dict()["position"] == [2, 1, 0]


@pytest.mark.parametrize("call", ["begin", "step", "after_epoch", "state_dict", "load_state_dict"])
def test_inside_a_step_there_is_the_step_alone(call: str) -> None:
    loop = Loop(Counts())
    kept = loop.attached.state_dict()
    given = {"begin": (INPUTS, TARGETS), "step": (INPUTS, TARGETS), "load_state_dict": (kept,)}.get(call, ())
    with pytest.raises(OptionError, match=rf"^attached\.{call}\(\) is called inside a step"):
        with loop.attached.step(INPUTS, TARGETS):
            found = getattr(loop.attached, call)(*given)
            if call == "step":
                found.__enter__()
    loop.step()


def saved(state: Any) -> Any:
    """Written to a checkpoint and read again."""
    file = io.BytesIO()
    torch.save(state, file)
    file.seek(0)
    return torch.load(file, weights_only=True)


@pytest.mark.parametrize("begun", [False, True])
def test_the_state_before_the_first_step_is_one(begun: bool) -> None:
    kept = saved(Loop(Counts(), Doubles(), begun=begun).attached.state_dict())
    loop = Loop(Counts(), Doubles())
    loop.step()
    loop.attached.load_state_dict(kept)
    assert saved(loop.attached.state_dict()) == kept
    assert kept["position"] == [1, 1, 0]
    assert [one["state"] for one in kept["components"]] == [{}, {}]
    if not begun:
        with pytest.raises(OptionError, match=r"attached\.begin"):
            loop.step()
        loop.attached.begin(INPUTS, TARGETS)
    loop.step()
    assert loop.attached.state_dict()["components"][0]["state"]["steps"] == 1


def test_what_was_loaded_is_a_copy() -> None:
    loop = Loop(Counts())
    loop.step()
    kept = copy.deepcopy(loop.attached.state_dict())
    steps = kept["components"][0]["state"]["steps"].requires_grad_()
    loop.attached.load_state_dict(kept)
    mine = loop.attached.memory(Counts())["steps"]
    mine.add_(5)
    assert (steps.item(), mine.item(), mine.requires_grad) == (1, 6, False)


def test_a_state_goes_to_the_device_of_the_model() -> None:
    model = net()
    loop = Loop(Counts(), model=model)
    loop.step()
    kept = loop.attached.state_dict()
    model.to("meta")
    loop.attached.load_state_dict(kept)
    assert loop.attached.memory(Counts())["steps"].device.type == "meta"


def tanh() -> float:
    return 0.0


def counting() -> nn.Module:
    """A network with a buffer that its checkpoints hold, and one that they do not."""
    model = net()
    model.register_buffer("steps", torch.tensor(0))
    model.register_buffer("cache", torch.zeros(0), persistent=False)
    return model


def test_a_buffer_that_no_checkpoint_holds_is_no_other_network() -> None:
    kept = saved(Loop(model=counting()).attached.state_dict())
    model = counting()
    model.cache = torch.zeros(7)
    Loop(model=model).attached.load_state_dict(kept)


OTHER_LOOPS = {
    "another component": (lambda: Loop(Counts(), Pull()), r"component 2 .*\.Doubles, and .*\.Pull is attached"),
    "another number": (lambda: Loop(Counts()), r"^this state is of other components: it is of 2, and 1 are attached"),
    "none": (Loop, r"^this state is of other components: it is of 2, and 0 are attached \(none\)"),
    "another order": (lambda: Loop(Doubles(3.0), Counts()), r"another order: attach them as .*Counts, .*Doubles"),
    "another option": (lambda: Loop(Counts(), Doubles(4.0)), r"other options: .*Doubles had times=3\.0, and 4\.0 is"),
    "another network": (
        lambda: Loop(Counts(), Doubles(3.0), model=net(7)),
        r"another network: its '0\.weight' is float32 \(4, 5\), and that of the attached one float32 \(7, 5\)",
    ),
    "another dtype": (
        lambda: Loop(Counts(), Doubles(3.0), model=net().double(), begun=False),
        r"another network: its '0\.weight' is float32 \(4, 5\), and that of the attached one float64",
    ),
    "a larger network": (
        lambda: Loop(Counts(), Doubles(3.0), model=nn.Sequential(*net(), nn.Linear(3, 3))),
        r"another network: its '3\.weight' is missing",
    ),
    "a smaller network": (
        lambda: Loop(Counts(), Doubles(3.0), model=nn.Linear(5, 3)),
        r"another network: its '0\.weight' is float32 \(4, 5\), and that of the attached one missing",
    ),
    "other buffers": (
        lambda: Loop(Counts(), Doubles(3.0), model=counting()),
        r"another network: its 'steps' is missing, and that of the attached one int64 \(\)",
    ),
    "another seed": (lambda: Loop(Counts(), Doubles(3.0), seed=3), r"of seed 0: attach with seed=0, not 3"),
}


@pytest.mark.parametrize("other", OTHER_LOOPS)
def test_a_state_of_another_loop_loads_nothing(other: str) -> None:
    source = Loop(Counts(), Doubles(3.0))
    source.step()
    make, says = OTHER_LOOPS[other]
    loop = make()
    before = saved(loop.attached.state_dict())
    with refused(OptionError, match=says):
        loop.attached.load_state_dict(saved(source.attached.state_dict()))
    assert saved(loop.attached.state_dict()) == before


def without(key: str) -> Callable[[dict[str, Any]], Any]:
    return lambda state: {k: v for k, v in state.items() if k != key}


def with_(**entries: Any) -> Callable[[dict[str, Any]], Any]:
    return lambda state: {**state, **entries}


def with_first(**entries: Any) -> Callable[[dict[str, Any]], Any]:
    return lambda state: {**state, "components": [{**state["components"][0], **entries}, state["components"][1]]}


NO_STATES: dict[str, tuple[Callable[[dict[str, Any]], Any], str]] = {
    "nothing": (lambda state: None, "not NoneType"),
    "empty": (lambda state: {}, "it has no 'position'"),
    "of an optimizer": (lambda state: {"state": {}, "param_groups": []}, "it has no 'position'"),
    "the network's": (lambda state: net().state_dict(), "it has no 'position'"),
    "a position of text": (with_(position="abc"), "'position' is abc"),
    "a position of two": (with_(position=[1, 1]), r"it has no 'position\.2'"),
    "a position before the first": (with_(position=[0, 1, 0]), r"'position\.0' is 0"),
    "a position of floats": (with_(position=[1.5, 1, 0]), r"'position\.0' is 1\.5"),
    "states of numbers": (with_first(state={"a": 1}), r"'components\.0\.state\.a' is 1"),
    "components as a mapping": (with_(components={"a": 1}), r"'components' is \{"),
    "no network": (without("network"), "it has no 'network'"),
    "a network of text": (with_(network="mlp"), "'network' is mlp"),
    "no names": (with_(components=[{}, {}]), r"it has no 'components\.0\.name'"),
    "begun by a word": (with_(begun="yes"), "'begun' is yes"),
    "seed of text": (with_(seed="a\nb" * 99), "'seed' is a b"),
}


@pytest.mark.parametrize("what", NO_STATES)
def test_an_invalid_state_is_refused_in_one_line(what: str) -> None:
    loop = Loop(Counts(), Doubles())
    loop.step()
    change, says = NO_STATES[what]
    before = saved(loop.attached.state_dict())
    with refused(OptionError, match=says) as caught:
        loop.attached.load_state_dict(change(saved(before)))
    assert len(str(caught.value)) < 300
    assert saved(loop.attached.state_dict()) == before


def test_an_option_is_known_again_in_another_process() -> None:
    """A function's text holds its address, which is another one there."""
    kept = Loop(Counts(tanh)).attached.state_dict()
    again: dict[str, Any] = {}
    exec("def tanh():\n    return 0.0", again)  # the same function at another address
    assert str(again["tanh"]) != str(tanh)
    Loop(Counts(again["tanh"])).attached.load_state_dict(kept)
    with pytest.raises(OptionError, match="other options"):
        Loop(Counts(print)).attached.load_state_dict(kept)


def test_the_distribution_need_not_be_written(install: Any) -> None:
    install(
        "slow-dist",
        "slow",
        "from dataclasses import dataclass\nimport forgetkit\nfrom forgetkit.contracts import Intervention\n"
        "@dataclass(frozen=True)\nclass Slow(Intervention):\n    'Slow down.'\n    by: float = 0.5\n"
        "    def before_step(self, moment):\n        raise KeyError('no')\n"
        "@forgetkit.hookimpl\ndef forgetkit_interventions():\n    return {'slow': Slow}\n",
    )
    kept = Loop("slow-dist/slow:by=0.25").attached.state_dict()
    Loop("slow:by=0.25").attached.load_state_dict(kept)
    with pytest.raises(OptionError, match=r"slow had by=0\.25, and 0\.5 is attached"):
        Loop("slow").attached.load_state_dict(kept)
    loop = Loop("slow:by=0.125")
    with (
        pytest.raises(OptionError, match=r"^slow:by=0\.125 \(slow-dist 1\.2\) acts before"),
        loop.attached.step(INPUTS, TARGETS),
    ):
        loop.backward()
        loop.optimizer.step()


def test_a_resumed_loop_goes_on_with_what_was_counted() -> None:
    @dataclass(frozen=True)
    class Shakes(Intervention):
        """Move each weight by a draw, and more from step to step."""

        touches: ClassVar[frozenset[str]] = frozenset({"weights", "biases"})

        def after_step(self, moment: InterventionContext) -> None:
            moment.state["steps"] = moment.state.get("steps", torch.zeros(())) + 1
            with torch.no_grad():
                for p in moment.model.parameters():
                    p.add_(0.01 * moment.state["steps"] * torch.randn(p.shape, generator=moment.rng))

    def weights(cut: tuple[int, int] | None) -> Tensor:
        """Two mega-batches of three steps; cut before a step, where the loop is built anew from its checkpoint."""
        loop = Loop(Shakes(), begun=False)
        for mega_batch in range(2):
            for number in range(3):
                if (mega_batch, number) == cut:
                    kept = saved([loop.model.state_dict(), loop.attached.state_dict()])
                    loop = Loop(Shakes(), begun=False)
                    loop.model.load_state_dict(kept[0])
                    loop.attached.load_state_dict(kept[1])
                if not number:
                    loop.attached.begin(INPUTS, TARGETS)
                loop.step()
            loop.attached.after_epoch()
        return loop.weight

    whole = weights(None)
    for cut in [(0, 0), (0, 2), (1, 0), (1, 1)]:
        assert torch.equal(weights(cut), whole)
