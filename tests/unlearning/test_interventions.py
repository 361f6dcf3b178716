"""Interventions: called at their moments, in a run and in one's own loop; components that watch the training."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import pytest
import torch
from helpers.simple_interventions import Doubles, Pull, net
from helpers.unlearning_networks import Net, refused
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

import forgetkit
from forgetkit.contracts import Change, Intervention, InterventionContext, Probe, ReinitContext
from forgetkit.errors import ComponentError, OptionError
from forgetkit.unlearning import overridden_hooks

FEW = {"dataset": "synthetic:samples=90,test=20,classes=3", "model": "convnet:width=4", "epochs": 2, "threads": 1}


def data(batches: int = 3) -> list[tuple[Tensor, Tensor]]:
    torch.manual_seed(1)
    return [(torch.randn(6, 5), torch.arange(6) % 3) for _ in range(batches)]


def trained(model: nn.Module, optimizer: torch.optim.Optimizer, attached: Any, epochs: int = 2) -> None:
    """The loop of the documentation."""
    attached.begin(*data()[0])
    for _ in range(epochs):
        for inputs, targets in data():
            with attached.step(inputs, targets) as step:
                loss = cross_entropy(model(inputs), targets) + step.loss()
                optimizer.zero_grad()
                loss.backward()
                step.before()
                optimizer.step()
        attached.after_epoch()


@dataclass(frozen=True)
class Notes(Intervention):
    """Write down where it is called."""

    calls: list = None  # type: ignore[assignment]

    def _note(self, verb: str, moment: InterventionContext) -> None:
        with_batch = moment.inputs is not None and moment.targets is not None
        self.calls.append((verb, moment.mega_batch, moment.epoch, moment.step, with_batch))

    def begin(self, moment: InterventionContext) -> None:
        self._note("begin", moment)

    def loss(self, moment: InterventionContext) -> Tensor | None:
        self._note("loss", moment)
        return None

    def before_step(self, moment: InterventionContext) -> None:
        assert all(p.grad is not None for p in moment.model.parameters())
        self._note("before", moment)

    def after_step(self, moment: InterventionContext) -> None:
        self._note("after", moment)

    def after_epoch(self, moment: InterventionContext) -> None:
        self._note("epoch", moment)


def test_the_moments_of_a_loop_of_ones_own() -> None:
    notes, model = Notes([]), net()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    attached = forgetkit.attach(model, optimizer, [notes])
    for mega_batch in (1, 2):
        notes.calls.clear()
        trained(model, optimizer, attached)
        steps = [(e, s) for e in (1, 2) for s in range(3)]
        expected = [("begin", mega_batch, 1, 0, False)]
        for epoch, step in steps:
            expected += [(verb, mega_batch, epoch, step, True) for verb in ("loss", "before", "after")]
            expected += [("epoch", mega_batch, epoch, 3, False)] if step == 2 else []
        assert notes.calls == expected


def test_when_it_acts_is_read_off_what_it_overrides() -> None:
    class Some(Intervention):
        def after_step(self, moment: InterventionContext) -> None:
            pass

    assert overridden_hooks(Notes) == ("begin", "loss", "before_step", "after_step", "after_epoch")
    assert overridden_hooks(Some) == ("after_step",)
    assert overridden_hooks(Intervention) == ()


def test_a_term_of_the_loss_is_weight_decay_by_another_name() -> None:
    one, other = net(), net()
    decayed = torch.optim.SGD(one.parameters(), lr=0.1, weight_decay=0.5)
    trained(one, decayed, forgetkit.attach(one, decayed, []))
    plain = torch.optim.SGD(other.parameters(), lr=0.1)
    trained(other, plain, forgetkit.attach(other, plain, [Pull(0.1), Pull(0.15)]))
    torch.testing.assert_close(dict(one.named_parameters()), dict(other.named_parameters()))


def test_the_optimizer_steps_by_the_changed_gradients() -> None:
    one, other = net(), net()
    long, short = torch.optim.SGD(one.parameters(), lr=0.2), torch.optim.SGD(other.parameters(), lr=0.1)
    trained(one, long, forgetkit.attach(one, long, []))
    trained(other, short, forgetkit.attach(other, short, [Doubles()]))
    torch.testing.assert_close(dict(one.named_parameters()), dict(other.named_parameters()))


@dataclass(frozen=True)
class Sees(Intervention):
    """Look at the units of the step's own forward pass, and reset one."""

    seen: list = None  # type: ignore[assignment]
    needs_activity: ClassVar[bool] = True

    def after_step(self, moment: InterventionContext) -> None:
        self.seen.append(dict(moment.activity))
        if moment.epoch == 2 and moment.step == 2:
            chosen = {"0": torch.tensor([True, False, False, False])}
            self.seen.append(moment.apply(moment.context.reset_units(chosen)))


def test_activity_and_a_reset_in_the_middle_of_training() -> None:
    model, sees, hidden = net(), Sees([]), []
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9)
    attached = forgetkit.attach(model, optimizer, [sees])
    model[1].register_forward_hook(lambda module, inputs, outputs: hidden.append(outputs.detach()))
    trained(model, optimizer, attached)
    *seen, reset = sees.seen
    assert len(seen) == 6
    hidden = [h for h in hidden if len(h) == 6]  # two samples showed how the network is made
    for activity, outputs in zip(seen, hidden, strict=True):
        assert torch.equal(activity["0"], outputs[..., None])
    # A row of five, a bias, and the weights of three outputs.
    assert reset == 5 + 1 + 3
    assert not model[2].weight[:, 0].any()
    assert float(model[0].bias[0].detach()) == 0
    for parameter, gone in ((model[0].weight, (0, slice(None))), (model[2].weight, (slice(None), 0))):
        memory = optimizer.state[parameter]["momentum_buffer"]
        assert not memory[gone].any()
        assert memory.any()
    assert all(not module._forward_pre_hooks for module in model.modules())


def test_activity_is_empty_unless_requested() -> None:
    model, seen = net(), []

    @dataclass(frozen=True)
    class Blind(Intervention):
        """Look without having asked."""

        def after_step(self, moment: InterventionContext) -> None:
            seen.append(dict(moment.activity))

    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    trained(model, optimizer, forgetkit.attach(model, optimizer, [Blind(), Sees([])]))
    assert seen == [{}] * 6


def test_changes_at_a_moment_are_all_or_nothing() -> None:
    model = net()

    @dataclass(frozen=True)
    class Spoils(Intervention):
        """Propose something good, then something bad."""

        def after_epoch(self, moment: InterventionContext) -> None:
            bad = torch.full((3, 4), torch.nan)
            moment.apply([Change("0.weight", None, torch.zeros(4, 5)), Change("2.weight", None, bad)])

    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    with pytest.raises(ComponentError, match=r"Spoils: the value for '2\.weight' holds NaN"):
        trained(model, optimizer, forgetkit.attach(model, optimizer, [Spoils()]))
    assert model[0].weight.any()


def test_what_a_method_holds_open_is_given_back_when_it_fails() -> None:
    model = net()
    before = {name: p.detach().clone() for name, p in model.named_parameters()}

    @dataclass(frozen=True)
    class HoldsOn:
        """Yield while the model is lent."""

        def propose(self, context: ReinitContext) -> Iterable[Change]:
            with context.probe():
                yield Change("0.weight", None, torch.zeros(4, 5))
                yield Change("2.weight", None, torch.zeros(1))

    with pytest.raises(ComponentError, match=r"HoldsOn proposes a change while it uses the model: leave"):
        forgetkit.unlearn(model, data(), reinit=HoldsOn())
    assert torch.is_grad_enabled()
    assert model.training
    assert all(torch.equal(p, before[name]) for name, p in model.named_parameters())


def test_measuring_in_an_intervention_changes_nothing() -> None:
    model, found = net(), []
    begun = {name: value.clone() for name, value in model.state_dict().items()}

    @dataclass(frozen=True)
    class Looks(Intervention):
        """Look at everything."""

        def after_step(self, moment: InterventionContext) -> None:
            context = moment.context
            with context.probe() as probe:
                grads = probe.mean_grads()
            found.append((context.names("conv-linear"), dict(context.reference("initial")), grads))
            with pytest.raises(OptionError, match="needs_scores"):
                context.select(0.5)

    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    attached = forgetkit.attach(model, optimizer, [Looks()], initial=begun)
    (inputs, targets), *_ = data()
    attached.begin(inputs, targets)
    with attached.step(inputs, targets) as step:
        loss = cross_entropy(model(inputs), targets) + step.loss()
        loss.backward()
        step.before()
        optimizer.step()
    assert model.training
    ((names, reference, grads),) = found
    assert names == ("0.weight", "2.weight")
    torch.testing.assert_close(reference, begun)
    fresh = net()
    fresh.load_state_dict(model.state_dict())
    cross_entropy(fresh(inputs), targets).backward()
    torch.testing.assert_close(grads, {name: p.grad for name, p in fresh.named_parameters()})


@dataclass(frozen=True)
class Steps(Intervention):
    """How far an entry has moved in all: the sum of the steps' sizes."""

    def begin(self, moment: InterventionContext) -> None:
        for name, p in moment.model.named_parameters():
            moment.state[f"moved.{name}"] = torch.zeros_like(p)
            moment.state[f"before.{name}"] = p.detach().clone()

    def after_step(self, moment: InterventionContext) -> None:
        for name, p in moment.model.named_parameters():
            moment.state[f"moved.{name}"] += (p.detach() - moment.state[f"before.{name}"]).abs()
            moment.state[f"before.{name}"].copy_(p.detach())

    def score(self, probe: Probe) -> Mapping[str, Tensor]:
        if not probe.memory:
            raise OptionError("steps: it watches the training: attach it")
        return {name: probe.memory[f"moved.{name}"] for name in probe.targets}


def test_a_criterion_that_watches_an_attached_loop() -> None:
    model = net()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    attached = forgetkit.attach(model, optimizer, [Steps()])
    trained(model, optimizer, attached)
    scores = forgetkit.score(model, data(), importance=Steps(), memory=attached.memory)
    assert all(bool((score > 0).any()) for score in scores.values())
    torch.testing.assert_close(scores["0.weight"], attached.state_dict()["components"][0]["state"]["moved.0.weight"])
    with pytest.raises(OptionError, match="attach it"):
        forgetkit.score(model, data(), importance=Steps())


@pytest.mark.slow
def test_a_run_attaches_it_by_itself_and_resumes_to_the_bit(tmp_path: Path) -> None:
    class Stops:
        def notify(self, event: object) -> None:
            if type(event).__name__ == "EpochEnded" and (event.mega_batch, event.epoch) == (2, 1):  # type: ignore[attr-defined]
                raise KeyboardInterrupt

    options = {**FEW, "importance": Steps(), "mega_batches": 3, "out": str(tmp_path)}
    whole = forgetkit.run({**options, "name": "whole"})
    with pytest.raises(KeyboardInterrupt):
        forgetkit.run({**options, "name": "cut", "checkpoint_epochs": 1}, observers=[Stops()])
    again = forgetkit.run({"importance": Steps()}, resume=tmp_path / "cut")
    for one, other in zip(whole["mega_batches"], again["mega_batches"], strict=True):
        assert {**one, "seconds": 0, "unlearn": None} == {**other, "seconds": 0, "unlearn": None}
        if one["unlearn"]:
            assert one["unlearn"]["layers"] == other["unlearn"]["layers"]
            assert one["unlearn"]["threshold"] == other["unlearn"]["threshold"] > 0


@pytest.mark.slow
def test_previous_weights_end_the_previous_mega_batch(tmp_path: Path) -> None:
    asked: list[dict[str, Tensor]] = []

    @dataclass(frozen=True)
    class Drift:
        """How far an entry is from where it was."""

        needs_data: ClassVar[bool] = False
        needs_previous: ClassVar[bool] = True

        def score(self, probe: Probe) -> Mapping[str, Tensor]:
            asked.append({name: value.clone() for name, value in probe.reference("previous").items()})
            return {name: (value - probe.reference("previous")[name]).abs() for name, value in probe.targets.items()}

    forgetkit.run({**FEW, "importance": Drift(), "mega_batches": 4, "out": str(tmp_path), "name": "r"})
    _tried, first, second, third = asked
    began = forgetkit.run(
        {**FEW, "reinit": "cold:draw=same", "mega_batches": 2, "out": str(tmp_path), "lr": 1e-30, "name": "b"}
    )
    assert began["status"] == "completed"
    start = torch.load(tmp_path / "b" / "checkpoints" / "mega-batch-001.pt", weights_only=True)["model"]
    for name, value in first.items():
        torch.testing.assert_close(value, start[name], rtol=0, atol=1e-12)
    for number, found in ((1, second), (2, third)):
        saved = torch.load(tmp_path / "r" / "checkpoints" / f"mega-batch-{number:03}.pt", weights_only=True)["model"]
        for name, value in found.items():
            assert torch.equal(value, saved[name])


@pytest.mark.slow
def test_looking_changes_nothing(tmp_path: Path) -> None:
    """An intervention that looks at everything changes nothing: the run is that without it."""

    @dataclass(frozen=True)
    class OnlyLooks(Intervention):
        """Look at everything, and draw."""

        needs_activity: ClassVar[bool] = True

        def after_step(self, moment: InterventionContext) -> None:
            assert moment.activity.keys() == {group.name for group in moment.context.units}
            torch.rand((), generator=moment.rng)
            with moment.context.probe() as probe:
                probe.mean_grads()

    options = {**FEW, "mega_batches": 2, "out": str(tmp_path)}
    plain = forgetkit.run({**options, "name": "plain"})
    looked = forgetkit.run({**options, "name": "looked", "interventions": [OnlyLooks()]})
    for number in (1, 2):
        one, other = (
            torch.load(tmp_path / name / "checkpoints" / f"mega-batch-{number:03}.pt", weights_only=True)["model"]
            for name in ("plain", "looked")
        )
        assert all(torch.equal(one[name], other[name]) for name in one)
    assert plain["cer"] == looked["cer"]


@dataclass(frozen=True)
class LooksEverywhere(Intervention):
    """Ask for everything in each moment, and remember what came."""

    found: list = None  # type: ignore[assignment]

    def _look(self, verb: str, moment: InterventionContext) -> None:
        context = moment.context
        with context.probe() as probe:
            inputs, _ = next(probe.batches())
            probe.mean_grads()
            self.found.append((verb, inputs.clone(), probe.rng.initial_seed(), probe.fresh("inside.weight").clone()))
        assert torch.equal(self.found[-1][3], context.fresh("inside.weight"))
        assert moment.context is context

    def begin(self, moment: InterventionContext) -> None:
        self._look("begin", moment)

    def loss(self, moment: InterventionContext) -> Tensor:
        self._look("loss", moment)
        return moment.model.head.weight.square().sum() * 0

    def before_step(self, moment: InterventionContext) -> None:
        self._look("before", moment)

    def after_step(self, moment: InterventionContext) -> None:
        self._look("after", moment)

    def after_epoch(self, moment: InterventionContext) -> None:
        self._look("epoch", moment)


def normed(interventions: list[Intervention]) -> tuple[nn.Module, Any]:
    torch.manual_seed(0)
    model = Net(
        lambda net, x: net.head(torch.relu(net.norm(net.inside(x)))),
        inside=nn.Linear(5, 4), norm=nn.BatchNorm1d(4), head=nn.Linear(4, 3),
    )  # fmt: skip
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    attached = forgetkit.attach(model, optimizer, interventions)
    for _ in range(2):
        trained(model, optimizer, attached, epochs=1)
    return model, attached


def test_looking_in_every_moment_on_batch_normalisation() -> None:
    looks = LooksEverywhere([])
    watched, _ = normed([looks])
    plain, _ = normed([])
    assert all(
        torch.equal(a, b) for a, b in zip(watched.state_dict().values(), plain.state_dict().values(), strict=True)
    )
    assert len({seed for _, _, seed, _ in looks.found}) == len(looks.found) == 2 * (1 + 3 * 3 + 1)
    batches = [inputs for inputs, _ in data()]
    for verb, inputs, _, _ in looks.found:
        assert any(torch.equal(inputs, batch) for batch in batches), verb


@dataclass(frozen=True)
class Draws(Intervention):
    """Draw from the global state."""

    def after_step(self, moment: InterventionContext) -> None:
        torch.rand(3)


def test_what_an_intervention_draws_shifts_nobody() -> None:
    def drops(interventions: list[Intervention]) -> Tensor:
        torch.manual_seed(0)
        model = nn.Sequential(nn.Linear(5, 8), nn.Dropout(0.5), nn.Linear(8, 3))
        optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
        trained(model, optimizer, forgetkit.attach(model, optimizer, interventions))
        return model[0].weight.detach()

    assert torch.equal(drops([]), drops([Draws()]))


def routed(net: Net, x: Tensor) -> Tensor:
    """A sample's first feature says which of two layers it goes through."""
    goes = x[:, :1] > 0
    return torch.where(goes, net.left(x), net.right(x)) if goes.any() else net.right(x)


@dataclass(frozen=True)
class Zeroes(Intervention):
    """Set a weight to zero."""

    name: str

    def after_step(self, moment: InterventionContext) -> None:
        moment.apply([Change(self.name, None, torch.zeros(3, 5))])


def test_a_layer_that_the_first_samples_miss_is_open_too() -> None:
    model = Net(routed, left=nn.Linear(5, 3), right=nn.Linear(5, 3))
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    attached = forgetkit.attach(model, optimizer, [Zeroes("left.weight")])
    attached.begin(-torch.ones(2, 5), torch.tensor([0, 1]))
    with attached.step(torch.ones(2, 5), torch.tensor([0, 1])):
        pass
    assert not model.left.weight.any()
    model.left.weight.requires_grad_(False)
    with pytest.raises(ComponentError, match="which is frozen"), attached.step(torch.ones(2, 5), torch.tensor([0, 1])):
        pass


@dataclass(frozen=True)
class Bad(Intervention):
    """Do something wrong in a term of the loss."""

    what: object

    def loss(self, moment: InterventionContext) -> Any:
        if isinstance(self.what, str):
            moment.state["kept"] = self.what  # type: ignore[assignment]
            return None
        return self.what() if callable(self.what) else self.what


def raises() -> None:
    raise KeyError("nothing")


BAD = {
    "a vector": (torch.ones(3), r"Bad: a term of the loss is .* one number, not a tensor of shape \(3,\)"),
    "a number": (1.0, r"Bad: a term of the loss is .* one number, not float"),
    "an error": (raises, r"the intervention Bad raised KeyError: 'nothing' in .*test_interventions.py:\d+"),
    "not a number": (torch.tensor(torch.nan), "Bad: its term of the loss is nan"),
    "a text in the state": ("text", "Bad keeps 'kept' in its state, str and no tensor"),
}


@pytest.mark.parametrize("what", BAD)
def test_a_faulty_intervention_is_named_before_any_write(tmp_path: Path, what: str) -> None:
    value, words = BAD[what]
    with refused(ComponentError, match=words):
        forgetkit.run({**FEW, "interventions": [Bad(value)], "mega_batches": 2, "out": str(tmp_path)})
    assert not list(tmp_path.iterdir())


def test_one_object_in_three_places_acts_once(tmp_path: Path) -> None:
    calls: list[int] = []

    @dataclass(frozen=True)
    class Everything(Intervention):
        """Act, score and forget."""

        needs_scores: ClassVar[bool] = True
        needs_data: ClassVar[bool] = False

        def after_step(self, moment: InterventionContext) -> None:
            calls.append(moment.step)
            moment.state["steps"] = moment.state.get("steps", torch.zeros(())) + 1

        def score(self, probe: Probe) -> Mapping[str, Tensor]:
            assert int(probe.memory["steps"]) == 1  # of the try, and then of the first mega-batch
            return {name: target.abs() for name, target in probe.targets.items()}

        def propose(self, context: ReinitContext) -> Iterable[Change]:
            for name, mask in context.select(0.1).items():
                yield Change(name, mask, torch.zeros_like(context.targets[name]))

    one = Everything()
    asked = {"importance": one, "reinit": one, "interventions": [one], "mega_batches": 2, "epochs": 1}
    forgetkit.run({**FEW, **asked, "out": str(tmp_path)})
    assert len(calls) == 1 + 1 + 2  # tried once, then batches of 64 out of 40 and of 80


def test_mistakes_in_attaching_are_said() -> None:
    model = net()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    with pytest.raises(OptionError, match="takes a list of interventions"):
        forgetkit.attach(model, optimizer, "redo")  # type: ignore[arg-type]
    with pytest.raises(OptionError, match="give the optimizer that trains this model"):
        forgetkit.attach(net(), optimizer, [])
    attached = forgetkit.attach(model, optimizer, [Draws()])
    with pytest.raises(OptionError, match=r"takes the method attached\.memory"):
        forgetkit.unlearn(model, data(), memory=attached)  # type: ignore[arg-type]


def test_a_compiled_model_is_seen_through() -> None:
    seen: list[dict[str, Tensor]] = []
    model = net()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    attached = forgetkit.attach(torch.compile(model, backend="eager"), optimizer, [Sees(seen)])
    attached.begin(*data()[0])
    with attached.step(*data()[0]):
        model(data()[0][0])
    assert list(seen[0]) == ["0"]
    with pytest.raises(OptionError, match="no layer ran in this step"), attached.step(*data()[0]):
        pass


def test_a_draw_that_lasts_needs_the_seed_of_the_run() -> None:
    drawn = []

    @dataclass(frozen=True)
    class Lasts:
        """Draw once for the run."""

        changes_nothing: ClassVar[bool] = True

        def propose(self, context: ReinitContext) -> Iterable[Change]:
            drawn.append(torch.rand((), generator=context.rng("a", lasting=True)).item())
            return ()

    with pytest.raises(OptionError, match="pass run_seed="):
        forgetkit.unlearn(net(), data(), reinit=Lasts())
    for seed in range(3):
        forgetkit.unlearn(net(), data(), reinit=Lasts(), seed=seed, run_seed=7)
    forgetkit.unlearn(net(), data(), reinit=Lasts(), seed=0, run_seed=8)
    assert (len(set(drawn[:3])), len(set(drawn))) == (1, 2)
