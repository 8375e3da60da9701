"""What every engine owes, for every verb and every method: the answer of `sequential`, whatever its budget."""

from collections.abc import Callable
from dataclasses import replace
from functools import cache
from typing import Any

import pytest
import torch
from torch import Tensor

from fedtangent import trees
from fedtangent.catalog import load, names
from fedtangent.federation import Central, Each, Fleet, Graph, Inbox, rows
from fedtangent.shard import Shard
from fedtangent.training import solvers
from tests import tiny_federation as federation
from tests.often import often
from tests.tiny_federation import BUDGETS, GRAPH, LONELY, assert_close, assert_same, engine, plain

METHODS = names("methods")
TASK = federation.task()


def waves(name: str, memory: int) -> list[tuple[int, ...]]:
    return [wave.nodes for wave in federation.fleet(engine=engine(name, memory)).waves]


def budgets(name: str) -> list[int]:
    """Of those that give the same waves, the least: an engine knows no budget but by its waves."""
    return sorted({str(waves(name, memory)): memory for memory in reversed(BUDGETS)}.values())


ENGINES = [(name, memory) for name in names("engines") for memory in budgets(name)]
OTHERS = [(name, memory) for name, memory in ENGINES if name != "sequential"]
LARGEST = [(name, budgets(name)[-1]) for name in names("engines")]


def total(data: Shard) -> Tensor:
    return torch.where(data.real[:, None], data.x, 0).sum(0)


def average(inbox: Inbox) -> Tensor:
    kept = torch.where(inbox.real[:, None], inbox.values, 0)
    return kept.sum(0) / inbox.real.sum().clamp(min=1)


def score(w: dict[str, Tensor], data: Shard) -> dict[str, Tensor]:
    return {"loss": solvers.mean_loss(TASK, w, data), "at": TASK.predict(w, total(data)[None])[0]}


def least(inbox: Inbox, data: Shard) -> Tensor:
    losses = torch.where(inbox.real, inbox.values["loss"], torch.inf)
    return torch.cat([losses, solvers.mean_loss(TASK, TASK.w_0, data)[None]]).amin()


def double(data: Shard) -> Shard:
    return data._replace(x=2 * data.x)


def every_other(data: Shard) -> Shard:
    return data._replace(real=data.real & (torch.arange(len(data.real)) % 2 == 0))


def trained(fleet: Fleet, data_k: Each[Shard]) -> Each[dict[str, Tensor]]:
    train = solvers.sgd(TASK, lr=0.2, momentum=0.5)
    batches_k = fleet.draw(solvers.shuffled(2, 3), data_k, purpose="batches")
    return fleet.map(train, fleet.everywhere(TASK.w_0), data_k, batches_k)


VERBS: dict[str, Callable[[Fleet, Each[Shard]], Any]] = {
    "map": lambda fleet, data_k: fleet.map(total, data_k),
    "map rows": lambda fleet, data_k: fleet.map(double, data_k),
    "map some rows": lambda fleet, data_k: fleet.map(every_other, data_k),
    "map tuples": lambda fleet, data_k: list(fleet.map(lambda data: (total(data), double(data)), data_k).unzip(2)),
    "map of maps": lambda fleet, data_k: fleet.map(lambda a, b: a * b.x[0], fleet.map(total, data_k), data_k),
    "draw": lambda fleet, data_k: trained(fleet, data_k),
    "full batch": lambda fleet, data_k: fleet.map(
        solvers.sgd(TASK, lr=0.2),
        fleet.everywhere(TASK.w_0),
        data_k,
        fleet.draw(solvers.full_batch(2), data_k, purpose="batches"),
    ),
    "server": lambda fleet, data_k: fleet.map(score, fleet.broadcast(Central(TASK.w_0)), data_k),
    "mean": lambda fleet, data_k: fleet.mean(trained(fleet, data_k), fleet.map(rows, data_k)),
    "gather": lambda fleet, data_k: fleet.gather(fleet.map(every_other, data_k)),
    "mix": lambda fleet, data_k: fleet.mix(trained(fleet, data_k)),
    "share": lambda fleet, data_k: fleet.map(average, fleet.share(fleet.map(total, data_k))),
    "share rows": lambda fleet, data_k: fleet.map(
        lambda inbox: total(inbox.values), fleet.share(fleet.map(double, data_k))
    ),
    "share some rows": lambda fleet, data_k: fleet.share(fleet.map(every_other, data_k)),
    "an inbox through a map": lambda fleet, data_k: fleet.map(lambda inbox: inbox, fleet.share(data_k)),
    "ask": lambda fleet, data_k: fleet.ask(score, trained(fleet, data_k), data_k),
    "map of answers": lambda fleet, data_k: fleet.map(least, fleet.ask(score, trained(fleet, data_k), data_k), data_k),
    "cohort": lambda fleet, data_k: fleet.merge(
        fleet.cohort(4).mix(fleet.cohort(4).map(total, data_k)), fleet.map(total, data_k)
    ),
}


@cache
def verb(name: str, memory: int, what: str, graph: Graph) -> tuple[Any, Any]:
    fleet = federation.fleet(engine=engine(name, memory), graph=graph)
    found = VERBS[what](fleet, fleet.each(federation.shards()))
    opened = [plain(part) for part in found] if isinstance(found, list) else plain(found)
    return opened, (fleet.ledger.sent, fleet.ledger.received)


@cache
def method(name: str, memory: int, what: str) -> federation.Run:
    return federation.run(federation.method(what, TASK), engine=engine(name, memory))


def padding_is_nan(monkeypatch: pytest.MonkeyPatch) -> None:
    original = trees.stack

    def stack(parts: Any) -> Any:
        ones = [trees.map(lambda leaf: torch.ones_like(leaf, dtype=torch.bool), part) for part in parts]

        def spoil(leaf: Tensor, real: Tensor) -> Tensor:
            return torch.where(real, leaf, torch.nan) if leaf.is_floating_point() else leaf

        return trees.map(spoil, original(parts), original(ones))

    monkeypatch.setattr(trees, "stack", stack)


@pytest.mark.parametrize("memory", BUDGETS)
@pytest.mark.parametrize("name", names("engines"))
def test_the_budgets_give_chunks_of_one_two_and_all(name: str, memory: int) -> None:
    assert {len(nodes) for nodes in waves(name, memory)} == {memory if name == "vectorized" else 1}


@pytest.mark.few(40)
@pytest.mark.parametrize("graph", [GRAPH, LONELY], ids=["connected", "lonely"])
@pytest.mark.parametrize("what", VERBS)
@pytest.mark.parametrize(("name", "memory"), OTHERS)
def test_every_verb_gives_what_sequential_gives(name: str, memory: int, what: str, graph: Graph) -> None:
    found, ledger = verb(name, memory, what, graph)
    expected, expected_ledger = verb("sequential", 1, what, graph)
    assert_close(found, expected)
    assert ledger == expected_ledger


@pytest.mark.few(7)
@pytest.mark.parametrize("what", often(METHODS))
@pytest.mark.parametrize(("name", "memory"), OTHERS)
def test_every_method_gives_what_sequential_gives(name: str, memory: int, what: str) -> None:
    found, expected = method(name, memory, what), method("sequential", 1, what)
    assert_close(plain(found.state), plain(expected.state), 1e-10)
    assert_close(found.aggregate, expected.aggregate, 1e-10)
    assert_close(found.extras, expected.extras, 1e-10)
    assert (found.ledger.sent, found.ledger.received) == (expected.ledger.sent, expected.ledger.received)
    if memory == 1 and not federation.method(what).traits.neighbours:  # no padding
        assert found.ledger.work == expected.ledger.work


@pytest.mark.parametrize("what", VERBS)
@pytest.mark.parametrize(("name", "memory"), LARGEST)
def test_nan_in_the_padding_of_a_verb_never_leaks(
    name: str, memory: int, what: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    expected, _ = verb(name, memory, what, GRAPH)
    padding_is_nan(monkeypatch)
    assert_same(verb.__wrapped__(name, memory, what, GRAPH)[0], expected)


@pytest.mark.few(5)
@pytest.mark.parametrize("what", often(METHODS))
@pytest.mark.parametrize(("name", "memory"), LARGEST)
def test_nan_in_the_padding_of_a_method_never_leaks(
    name: str, memory: int, what: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    expected = method(name, memory, what)
    padding_is_nan(monkeypatch)
    found = method.__wrapped__(name, memory, what)
    assert_close(found.aggregate, expected.aggregate)
    assert_close(plain(found.state), plain(expected.state))


@pytest.mark.few(8)
@pytest.mark.parametrize("what", often(METHODS))
@pytest.mark.parametrize(("name", "memory"), ENGINES)
def test_the_same_seed_gives_the_same_record(name: str, memory: int, what: str) -> None:
    first, second = method(name, memory, what), method.__wrapped__(name, memory, what)
    assert_same(first.aggregate, second.aggregate)
    assert_same(plain(first.state), plain(second.state))
    assert_same(first.extras, second.extras)


@pytest.mark.parametrize(("name", "memory"), ENGINES)
def test_nothing_depends_on_the_order_of_execution(name: str, memory: int) -> None:
    fleet = federation.fleet(engine=engine(name, memory))
    backwards = replace(fleet, nodes=fleet.nodes[::-1], node_bytes={node: node for node in fleet.nodes})
    data = federation.shards()
    draw = solvers.shuffled(2, 3)
    there = fleet.draw(draw, fleet.each(data), purpose="batches").values
    assert_same(backwards.draw(draw, backwards.each(data[::-1]), purpose="batches").values[::-1], there)
    assert_close(trained(backwards, backwards.each(data[::-1])).values[::-1], trained(fleet, fleet.each(data)).values)


@pytest.mark.parametrize("weights", ["uniform", "metropolis"])
@pytest.mark.parametrize(("name", "memory"), ENGINES)
def test_gossip_on_a_regular_graph_preserves_the_mean(name: str, memory: int, weights: str) -> None:
    graph = load("topologies", "regular")(6, federation.philox("topology", 1), degree=3)
    fleet = federation.fleet(engine=engine(name, memory), graph=graph, gossip_weights=weights)
    w_k = trained(fleet, fleet.each(federation.shards()))
    mixed_k = fleet.mix(w_k)
    assert_close(fleet.mean(mixed_k).value, fleet.mean(w_k).value)
    spread = [trees.subtract(w, fleet.mean(w_k).value) for w in mixed_k.values]
    assert max(float(trees.inner(d, d)) for d in spread) > 0
