"""What every transport owes: whichever carried the messages, every verb and every method give the same, to the bit."""

from collections.abc import Callable, Sequence
from functools import cache
from typing import Any

import pytest
import torch
from torch import Tensor

from fedtangent.catalog import load, names
from fedtangent.federation import SERVER, Each, Fleet, Graph, Ledger, Link, Tag, Transport, Wire
from fedtangent.federation.looking import seen
from fedtangent.shard import Shard, form
from fedtangent.transports._pipes import Piped
from fedtangent.transports.memory import memory
from fedtangent.transports.threads import Ended, OutOfStep, threads
from tests import tiny_federation as federation
from tests.often import often
from tests.tiny_federation import GRAPH, LONELY, ROWS, assert_close, assert_same
from tests.transports.play import BROKEN, Played, play

NODES = range(len(ROWS))
METHODS = names("methods")
FAULTY = [name for name in METHODS if not load("methods", name)(federation.task()).traits.needs_all]
CODED = [name for name in METHODS if load("methods", name)(federation.task()).messages]
Play = Callable[[Transport], Any]


def apart(play: Play) -> list[Any]:
    """In a thread a node."""
    return threads(NODES, play)


def in_blocks(play: Play) -> list[Any]:
    """In three threads, the server's with the nodes 0 and 1, and one without a node of its own in a cohort."""
    places = {0: 0, 1: 0, 2: 1, 3: 1, 4: 1, 5: 2}
    # the nodes of a thread are those that its pipes say
    return threads(range(2), lambda transport: play(Piped("blocks", transport._pipes, places)))  # type: ignore[attr-defined]


TRANSPORTS = {"threads": apart, "blocks": in_blocks}


def verbs(fleet: Fleet, data_k: Each[Shard]) -> dict[str, Any]:
    """One value of every verb."""

    def total(data: Shard) -> Tensor:
        return torch.where(data.real[:, None], data.x, 0).sum(0)

    def product(x: Tensor, data: Shard) -> dict[str, Tensor]:
        return {"dot": x @ total(data), "x": data.x.sum(0)}

    total_k = fleet.map(total, data_k)
    half = fleet.cohort(3)
    both_k, rows_k = fleet.map(lambda x: (x, x.sum()), total_k), fleet.map(lambda data: data.real.sum(), data_k)
    mean, count = fleet.mean(both_k, rows_k).unzip(2)
    return {
        "draw": fleet.draw(lambda rng, data: torch.from_numpy(rng.normal(size=3)) * len(data.x), data_k, purpose="p"),
        "broadcast": fleet.broadcast(fleet.server({"w": torch.arange(3.0)})),
        "server": fleet.at_server(lambda x, y: x + y, fleet.server(torch.ones(2)), fleet.server(torch.ones(2))),
        "mean": mean,
        "count": count,
        "sum": fleet.sum(total_k)[0],
        "gather": fleet.gather(data_k),
        "mix": fleet.mix(total_k),
        "share": fleet.share(total_k),
        "rows": fleet.share(data_k),
        "ask": fleet.ask(product, total_k, data_k),
        "known": fleet.ask(lambda x, d: product(x[0] + x[1], d), total_k.zip(total_k), data_k),
        "ask_sum": fleet.ask_sum(product, total_k, data_k),
        "cohort": fleet.merge(half.mix(half.map(lambda x: 2 * x, total_k)), total_k),
        "cohort sum": half.sum(half.map(lambda x: x, total_k))[0],
    }


def played(transport: Transport, graph: Graph) -> tuple[Any, Ledger]:
    """All verbs, their values at the server's process, and all that was booked."""
    fleet = federation.fleet(wire=Wire(transport), graph=graph)
    found = verbs(fleet, fleet.each(federation.shards()))
    values = {name: seen(fleet, value) for name, value in found.items()}
    return values, fleet.wire.books(fleet.nodes)


@cache
def run(transport: str, what: str, **how: Any) -> Played:
    """Two rounds of a method, as they are known at the server's process."""
    if transport == "memory":
        return play(memory(), what, **how)
    found: Played = TRANSPORTS[transport](lambda transport: play(transport, what, **how))[0]
    return found


@pytest.mark.parametrize("graph", [GRAPH, LONELY], ids=["connected", "lonely"])
@pytest.mark.parametrize("transport", TRANSPORTS)
def test_every_verb_gives_what_it_gives_in_one_process(transport: str, graph: Graph) -> None:
    expected, bill = played(memory(), graph)
    found = TRANSPORTS[transport](lambda transport: played(transport, graph))
    for values, _ in found:
        assert_same(values, expected)
    assert found[0][1].state() == bill.state()


@pytest.mark.few(3)
@pytest.mark.parametrize("what", often(METHODS))
def test_convolutions_give_what_they_give_in_one_process_and_on_any_engine(what: str) -> None:
    expected = run("memory", what, convolutional=True)[:3]
    assert_same(run("threads", what, convolutional=True)[:3], expected)
    assert_close(run("memory", what, convolutional=True, engine="vectorized")[:3], expected, 1e-9)


@pytest.mark.few(5)
@pytest.mark.parametrize("what", often(CODED))
@pytest.mark.parametrize("transport", TRANSPORTS)
def test_channels_give_what_they_give_in_one_process(transport: str, what: str) -> None:
    state, aggregate, extras, bill = run("memory", what, coded=True)
    found = run(transport, what, coded=True)
    assert_same(found[:3], (state, aggregate, extras))
    assert (found[3].sent, found[3].received) == (bill.sent, bill.received)
    assert bill.sent_bytes < run("memory", what)[3].sent_bytes


@pytest.mark.few(5)
@pytest.mark.parametrize("what", often(FAULTY))
@pytest.mark.parametrize("transport", TRANSPORTS)
def test_absent_nodes_and_failed_links_give_what_they_give_in_one_process_and_on_any_engine(
    transport: str, what: str
) -> None:
    expected = run("memory", what, faulty=True)
    found = run(transport, what, faulty=True)
    assert_same(found[:3], expected[:3])
    assert found[3].state()["sent"] == expected[3].state()["sent"]
    assert found[3].multiply_adds == expected[3].multiply_adds
    assert_close(run("memory", what, faulty=True, engine="vectorized")[:3], expected[:3], 1e-9)


@pytest.mark.few(4)
@pytest.mark.parametrize("what", often(name for name in METHODS if name not in BROKEN))
@pytest.mark.parametrize("transport", TRANSPORTS)
def test_liars_who_collude_and_a_rule_give_what_they_give_in_one_process(transport: str, what: str) -> None:
    state, aggregate, extras, bill = run("memory", what, lied=True)
    found = run(transport, what, lied=True)
    assert_same(found[:3], (state, aggregate, extras))
    assert (found[3].sent, found[3].received) == (bill.sent, bill.received)


@pytest.mark.few(4)
@pytest.mark.parametrize("what", often(METHODS))
@pytest.mark.parametrize("transport", often(TRANSPORTS, ["threads"]))
def test_every_method_gives_what_it_gives_in_one_process(transport: str, what: str) -> None:
    state, aggregate, extras, bill = run("memory", what)
    assert_same(run(transport, what)[:3], (state, aggregate, extras))
    found = run(transport, what)[3]
    assert (found.sent, found.received, found.costs) == (bill.sent, bill.received, bill.costs)
    assert found.multiply_adds == bill.multiply_adds


@pytest.mark.few(3)
@pytest.mark.parametrize("what", often(METHODS))
def test_messages_of_one_verb_differ_in_their_numbers_and_their_rows_alone(what: str) -> None:
    """By which sites tell a message that is not due."""
    played, exchange = memory(), memory().exchange
    seen: list[set[Any]] = []

    def noted(tag: Tag, out: dict[Link, Any], links: Sequence[Link]) -> dict[Link, Any]:
        came = exchange(tag, out, links)
        seen.append({form(value) for value in came.values()})
        return came

    played.exchange = noted  # type: ignore[assignment, method-assign]
    for how in ({}, {"faulty": True}) if what in FAULTY else ({},):
        play(played, what, **how)
    assert {len(its) for its in seen} <= {0, 1}
    assert any(None not in its for its in seen if its) or what in ("central", "local")


def test_a_server_s_value_is_nowhere_else() -> None:
    found = apart(lambda transport: federation.fleet(wire=Wire(transport)).server(torch.ones(1)).is_here)
    assert found == [True] + [False] * len(ROWS)


def test_the_first_that_fails_is_told() -> None:
    def play(transport: Transport) -> None:
        fleet = federation.fleet(wire=Wire(transport))
        if transport.here(3):
            raise ZeroDivisionError("here")
        fleet.observe(fleet.everywhere(torch.ones(1)))

    with pytest.raises((ZeroDivisionError, Ended)) as caught:
        apart(play)
    assert isinstance(caught.value, ZeroDivisionError)


def step(transport: Transport, odd: Callable[[Fleet], Any]) -> None:
    fleet = federation.fleet(wire=Wire(transport))
    x_k = fleet.each([torch.tensor(float(n)) for n in ROWS])
    if transport.here(2):
        odd(fleet)
    fleet.mix(x_k)
    fleet.mean(x_k)


@pytest.mark.parametrize(
    "odd", [lambda fleet: fleet.wire.tag(), lambda fleet: fleet.mean(fleet.everywhere(torch.ones(())))]
)
def test_processes_that_are_out_of_step_are_told_and_not_waited_for(odd: Callable[[Fleet], Any]) -> None:
    with pytest.raises(OutOfStep, match="process"):
        apart(lambda transport: step(transport, odd))


def test_a_total_is_added_in_the_order_of_the_nodes() -> None:
    """1 + 2^-53 + 2^-53 is 1 and not 1 + 2^-52."""
    links = [Link(node, SERVER) for node in NODES]
    values = [torch.tensor(x, dtype=torch.float64) for x in (1.0, 2**-53, 2**-53, 0.0, 2.0, 2**-52)]

    def play(transport: Transport) -> Any:
        out = {link: (1.0, values[link.source]) for link in links if transport.here(link.source)}
        return transport.total(Tag(1), out, links).get(SERVER)

    expected = play(memory())
    assert expected == 3.0
    for spread in TRANSPORTS.values():
        assert_same(spread(play)[0], expected)


def test_several_receivers_get_partial_sums_by_way_of_others() -> None:
    """Every node adds up what all others send, so that sums cross all processes, forwards and back."""
    links = [Link(j, i) for i in NODES for j in NODES]
    values: Sequence[Tensor] = [torch.full((2,), float(n)).double() for n in ROWS]

    def play(transport: Transport) -> Any:
        out = {link: (0.1 * link.target, values[link.source]) for link in links if transport.here(link.source)}
        return transport.total(Tag(1), out, links)

    expected = play(memory())
    for spread in TRANSPORTS.values():
        found = {target: value for its in spread(play) for target, value in its.items()}
        assert_close(dict(sorted(found.items())), expected, 0.0)
