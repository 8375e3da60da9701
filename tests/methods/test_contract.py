"""What every method owes; parametrised by the folder."""

import inspect
import re
import sys
from functools import cache
from pathlib import Path
from typing import Any, get_args

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from fedtangent import trees
from fedtangent.catalog import load, names
from fedtangent.experiments import checkpoint
from fedtangent.federation import Central, Coding, Each, Exposure, Fleet, Method, Wire
from fedtangent.federation.coding import Way
from fedtangent.training.task import Task
from fedtangent.transports.memory import memory
from tests import tiny_federation as federation
from tests.often import often
from tests.tiny_federation import GRAPH, LONELY, assert_close, assert_same, graph_of, plain

METHODS = names("methods")
ENDS = ("central", "local")  # of every plot; no paper is theirs
every_method = pytest.mark.parametrize("name", METHODS)
some_methods = pytest.mark.parametrize("name", often(METHODS))


def method(name: str, **options: Any) -> Method:
    if "batch" in inspect.signature(load("methods", name)).parameters:  # of fewer rows than a node has: chance tells
        options = {"batch": 3, **options}
    return federation.method(name, **options)


@cache
def run(name: str, engine: str = "vectorized") -> federation.Run:
    return federation.run(method(name), engine=load("engines", engine)())


@every_method
def test_the_factory_takes_the_task_and_documented_keywords(name: str) -> None:
    factory = load("methods", name)
    task, *options = inspect.signature(factory).parameters.values()
    assert task.name == "task"
    assert task.default is task.empty
    assert all(option.kind is option.KEYWORD_ONLY and option.default is not option.empty for option in options)
    assert all(option.annotation is not option.empty for option in options)
    _, *sections = re.split(r"^(\w+):\n", inspect.getdoc(factory) or "", flags=re.MULTILINE)
    documented = re.findall(
        r"^    (\w+): ", dict(zip(sections[::2], sections[1::2], strict=True))["Args"], re.MULTILINE
    )
    assert documented == ["task", *(option.name for option in options)]


@every_method
@pytest.mark.parametrize("value", [np.inf, np.nan])
def test_a_step_that_is_no_number_is_refused_before_there_is_a_run(name: str, value: float) -> None:
    steps = [option for option in inspect.signature(load("methods", name)).parameters if option.endswith("lr")]
    for step in steps:
        with pytest.raises(ValueError, match=rf"^`{step}` must be positive and finite; got {value}\. .*\.$"):
            federation.method(name, **{step: value})


@every_method
def test_the_file_opens_with_its_paper_and_its_pseudo_code(name: str) -> None:
    method(name)
    text = sys.modules[f"fedtangent.methods.{name}"].__doc__ or ""
    assert re.search(r"^ *round: .*<-", text, re.MULTILINE)
    assert name in ENDS or re.search(r"\b(19|20)\d\d\b", text)  # a citation has a year


@every_method
def test_the_method_describes_itself(name: str) -> None:
    made = method(name)
    assert made.name == name
    assert made.exposure in get_args(Exposure)
    if made.node_bytes is not None:
        few, more, most = made.node_bytes(5, 2), made.node_bytes(9, 2), made.node_bytes(9, 4)
        assert 0 < few <= more <= most


class Scaled(nn.Sequential):
    """A temperature: a parameter without axes, before a layer."""

    def __init__(self) -> None:
        super().__init__(nn.Linear(federation.INPUTS, federation.OUTPUTS))
        self.scale = nn.Parameter(torch.tensor(2.0))

    def forward(self, x: Tensor) -> Tensor:
        return super().forward(self.scale * x)  # type: ignore[no-any-return]


@every_method
def test_memory_is_estimated_for_parameters_without_axes(name: str) -> None:
    made = federation.method(name, Task(Scaled().double()))
    assert made.node_bytes is None or made.node_bytes(5, 2) > 0


@pytest.mark.parametrize("name", ["fedkfac", "dfedkfac"])
def test_a_last_layer_of_zeros_trains(name: str) -> None:
    model = federation.network()
    nn.init.zeros_(model[2].weight)
    moved = federation.run(method(name, own=Task(model)), rounds=2).aggregate
    assert all(not torch.equal(part, model.state_dict()[key]) for key, part in moved.items())
    assert all(part.isfinite().all() for part in moved.values())


@pytest.mark.few(12)
@every_method
def test_names_in_the_state_say_who_holds_a_value(name: str) -> None:
    states = [run(name).state]
    for state in states:
        assert isinstance(state, tuple)
        for field, part in state._asdict().items():
            if field == "host":
                states.append(part)
            else:
                assert isinstance(part, Each if field.endswith("_k") else Central)


@every_method
def test_what_goes_on_the_record_are_numbers(name: str) -> None:
    assert all(
        isinstance(leaf, (torch.Tensor, float, int)) for extra in run(name).extras for leaf in trees.leaves(extra)
    )


LAST_LAYER = ("afl",)  # methods that fit no other
TREES = ("relaysgd",)  # methods of graphs in which nobody is alone


@every_method
def test_two_rounds_move_the_weights_and_keep_them_finite(name: str) -> None:
    task, w = federation.task(), run(name).aggregate
    assert trees.map(lambda leaf: (leaf.shape, leaf.dtype), w) == trees.map(
        lambda leaf: (leaf.shape, leaf.dtype), task.w_0
    )
    assert trees.all_finite(w)
    moved = [part for part in w if not torch.allclose(w[part], task.w_0[part])]
    assert moved == ([*w][-2:] if name in LAST_LAYER else [*w])
    assert all(trees.all_finite(part) for part in plain(run(name).state).values())


@pytest.mark.few(5)
@some_methods
@pytest.mark.parametrize("engine", names("engines"))
def test_the_engines_agree(name: str, engine: str) -> None:
    found, expected = run(name, engine), run(name, "sequential")
    assert_close(found.aggregate, expected.aggregate, 1e-10)
    assert_close(found.extras, expected.extras, 1e-10)
    assert (found.ledger.sent, found.ledger.received) == (expected.ledger.sent, expected.ledger.received)


class Noted(Coding):
    """Notes which messages go which way, and changes none."""

    def __init__(self) -> None:
        super().__init__([])
        self.seen: dict[str, set[str]] = {}

    def applies(self, message: str | None, way: Way) -> bool:
        if message is not None:
            self.seen.setdefault(message, set()).add(way)
        return message is not None


@pytest.mark.few(3)
@some_methods
def test_the_messages_that_bear_channels_are_as_declared(name: str) -> None:
    noted = Noted()
    made = method(name, **({"first_rounds": 1} if name == "tct" else {}))
    found = federation.run(made, wire=Wire(memory(), coding=noted), graph=graph_of(name) if talks(name) else None)
    assert noted.seen == {message: set(kind.ways) for message, kind in made.messages.items()}
    if name != "ntkdfl" and name != "ntkfl":  # which write the Jacobian out to code it
        assert_close(found.aggregate, federation.run(made).aggregate, 1e-12)


def talks(name: str) -> bool:
    return method(name).traits.neighbours


@every_method
def test_bytes_are_sent_where_something_is_exposed(name: str) -> None:
    assert (run(name).ledger.sent_bytes > 0) == (method(name).exposure != "none")


@pytest.mark.few(12)
@every_method
def test_who_talks_to_whom_is_as_declared(name: str) -> None:
    sent = dict(run(name).ledger.sent)
    if method(name).traits.neighbours:
        assert -1 not in sent
        assert set(sent) == set(range(len(federation.ROWS)))
    else:
        assert_same(federation.run(method(name), graph=None).aggregate, run(name, "sequential").aggregate)


@some_methods
def test_data_and_first_weights_are_left_alone(name: str) -> None:
    task, data = federation.task(), federation.shards()
    federation.run(federation.method(name, task), data)
    assert_same(data, federation.shards())
    assert_same(task.w_0, federation.task().w_0)


@pytest.mark.few(3)
@some_methods
def test_the_state_that_goes_in_is_left_alone(name: str) -> None:
    made, data = method(name), federation.shards()
    state = run(name, "sequential").state
    before = trees.map(torch.clone, plain(state))
    fleet = federation.fleet(round=3, graph=graph_of(name))
    for part in made.round(fleet, state, fleet.each(data), 3)[0]:
        plain(part)
    assert_same(plain(state), before)


@pytest.mark.few(3)
@some_methods
def test_a_round_depends_on_its_arguments_alone(name: str) -> None:
    """A third round after two is the third round of three: nothing is kept but the state."""
    made, fleet = method(name), federation.fleet(round=3, graph=graph_of(name))
    state, _ = made.round(fleet, run(name, "sequential").state, fleet.each(federation.shards()), 3)
    assert_same(plain(state), plain(federation.run(method(name), rounds=3).state))


@pytest.mark.few(3)
@some_methods
def test_a_node_with_one_row_and_a_node_without_neighbours_work(name: str) -> None:
    assert 1 in federation.ROWS
    assert len({GRAPH.degree(node) for node in range(GRAPH.nodes)}) > 2
    for engine in names("engines"):
        found = federation.run(
            method(name), engine=load("engines", engine)(), graph=graph_of(name) if name in TREES else LONELY
        )
        assert all(trees.all_finite(part) for part in plain(found.state).values())


class RowsAreThere(nn.Module):
    """Like an attention layer, it has no results of no rows."""

    def forward(self, x: Tensor) -> Tensor:
        return x.reshape(len(x), 3, -1).cumsum(2).flatten(1)


@pytest.mark.few(3)
@some_methods
def test_a_model_is_never_called_on_no_rows(name: str) -> None:
    task = Task(nn.Sequential(RowsAreThere(), *federation.network()), example=federation.shards()[0].x[:2])
    options = {"selection": "held-out"} if "selection" in inspect.signature(load("methods", name)).parameters else {}
    found = federation.run(federation.method(name, task, **options))
    assert all(trees.all_finite(part) for part in plain(found.state).values())


@pytest.mark.few(3)
@some_methods
def test_chance_hangs_on_the_seed_alone(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    drawn: list[str] = []
    rng, draw = Fleet.rng, Fleet.draw

    def spy(fleet: Fleet, purpose: str, *node: int) -> np.random.Generator:
        drawn.append(purpose)
        return rng(fleet, purpose, *node)

    def spy_of_nodes(fleet: Fleet, fn: Any, *x_k: Each[Any], purpose: str) -> Each[Any]:
        drawn.append(purpose)
        return draw(fleet, fn, *x_k, purpose=purpose)

    monkeypatch.setattr(Fleet, "rng", spy)
    monkeypatch.setattr(Fleet, "draw", spy_of_nodes)
    torch.manual_seed(len(name))
    assert_same(federation.run(method(name)).aggregate, run(name, "sequential").aggregate)
    other = federation.run(method(name), seed=federation.SEED + 1).aggregate
    differs = any(not torch.equal(value, run(name, "sequential").aggregate[part]) for part, value in other.items())
    assert differs == any(purpose != "cohort" for purpose in drawn)


@every_method
def test_a_process_finds_its_own_state_again_without_a_first_one(name: str, tmp_path: Path) -> None:
    """As a site does that was killed: nobody can be asked for what the method begins with."""
    state = run(name).state
    checkpoint.save(tmp_path, state, {"round": 3})
    brought = [load("methods", part) for part in (name, *(["fedavg"] if name == "fedpart" else []))]  # its host
    types = checkpoint.known_types(None, brought, everywhere=True)
    checkpoint.check(state, types)
    found = checkpoint.read(tmp_path)
    assert found is not None
    again = checkpoint.rebuilt(tmp_path, *found, federation.fleet(), None, types).state
    assert type(again) is type(state)
    assert checkpoint.known_types(again, []) == checkpoint.known_types(state, [])
    assert_same(plain(again), plain(state))
