"""A round of those who are there: papers' algorithms typed literally, the ends of every schedule, and laws for all."""

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from fedtangent import trees
from fedtangent.catalog import load, names
from fedtangent.federation import SERVER, Each, Fault, Graph, Method, Missing, Presence
from fedtangent.federation.graph import GossipWeights
from fedtangent.federation.presence import There, of_all
from fedtangent.methods.dfedavg import dfedavg
from fedtangent.methods.fedavg import fedavg
from fedtangent.methods.scaffold import scaffold
from fedtangent.shard import Shard
from fedtangent.training import losses
from fedtangent.training.task import Task
from tests import tiny_federation as federation
from tests.methods.literal_server import average, each, trained, weights_0
from tests.often import often
from tests.tiny_federation import GRAPH, ROWS, absences, assert_close, assert_same, plain

K = len(ROWS)
NODES = range(K)
GONE = (Missing(nodes=[1, 5], links=[(2, 4)]), Missing(nodes=[0], links=[(1, 2), (4, 5)]), Missing(nodes=[3, 4]))
OPTIONS: dict[str, dict[str, Any]] = {  # of who would else be refused in so small a federation, or not take part
    "fedkfac": {"guard": False},
    "fedpm": {"guard": False},
    "tct": {"first_rounds": 1, "features": 40, "steps": 9},
    "ntkfl": {"participation": 1.0},
    "sumntk": {"columns": 1},
}
BUSY = [HealthCheck.too_slow]  # a machine that is busy draws slowly
FAULTY = [name for name in names("methods") if not load("methods", name)(federation.task()).traits.needs_all]


def method(name: str) -> Method:
    return federation.method(name, **OPTIONS.get(name, {}))


def kept(missing: Missing) -> tuple[list[int], list[list[int]]]:
    """Who is there, and every node's neighbours that it reaches."""
    there = [node for node in NODES if node not in missing.nodes]
    near = [
        [j for j in GRAPH.neighbours[i] if {i, j} <= {*there} and (min(i, j), max(i, j)) not in missing.links]
        for i in NODES
    ]
    return there, near


@pytest.mark.parametrize("weights", ["uniform", "metropolis"])
def test_dfedavg_typed_literally(weights: GossipWeights) -> None:
    """An absent node keeps its weights; metropolis weighs by the planned degrees, and the node takes the rest."""
    local: dict[str, Any] = {"epochs": 2, "batch": 3, "lr": 0.3, "momentum": 0.4}
    w_k = [weights_0() for _ in NODES]
    for k, missing in enumerate(GONE, 1):
        there, near = kept(missing)
        z_k = {i: trained(w_k[i], k, i, **local) for i in there}
        for i in there:
            of = {
                j: 1 / (1 + (len(near[i]) if weights == "uniform" else max(GRAPH.degree(i), GRAPH.degree(j))))
                for j in near[i]
            }
            of[i] = 1 - sum(of.values())
            w_k[i] = {name: sum(of[j] * z_k[j][name] for j in of) for name in z_k[i]}  # type: ignore[misc]
    found = federation.run(
        dfedavg(federation.task(), **local), rounds=3, gossip_weights=weights, presence=absences(*GONE)
    )
    assert_close(found.state.w_k.values, w_k)
    assert_close(found.aggregate, average(w_k))
    size = trees.payload_bytes(w_k[0])
    sent = {i: size * sum(len(kept(missing)[1][i]) for missing in GONE) for i in NODES}
    assert {i: found.ledger.sent[i] for i in NODES} == {i: found.ledger.received[i] for i in NODES} == sent


def test_fedavg_typed_literally() -> None:
    w = weights_0()
    for k, missing in enumerate(GONE, 1):
        there, _ = kept(missing)
        w = average([trained(w, k, i, epochs=2, batch=3, lr=0.3) for i in there], [ROWS[i] for i in there])
    made = fedavg(federation.task(), epochs=2, batch=3, lr=0.3)
    found = federation.run(made, rounds=3, graph=None, presence=absences(*(Missing(one.nodes) for one in GONE)))
    assert_close(found.aggregate, w, 1e-11)
    size = trees.payload_bytes(w)
    took = {i: sum(i not in missing.nodes for missing in GONE) for i in NODES}
    assert {i: found.ledger.received[i] for i in NODES} == {i: size * count for i, count in took.items()}
    assert {i: found.ledger.sent[i] for i in NODES} == {i: (size + 8) * count for i, count in took.items()}


def test_scaffold_typed_literally_takes_its_share_of_all_clients() -> None:
    """The server's variate stays the mean of all clients', absent ones included."""
    x = weights_0()
    c = each(torch.zeros_like, x)
    c_i = [c] * K
    for k, missing in enumerate(GONE, 1):
        there, dy, dc = kept(missing)[0], [], []
        for i in there:

            def term(model: Any, _: Any, c: Any = c, c_i: Any = c_i[i]) -> Any:
                return sum(((c[name] - c_i[name]) * p).sum() for name, p in model.named_parameters())

            y = trained(x, k, i, term, epochs=2, batch=3, lr=0.3)
            steps = 2 * -(-ROWS[i] // 3)
            plus = each(lambda c_i, c, x, y: c_i - c + (x - y) / (steps * 0.3), c_i[i], c, x, y)  # noqa: B023
            dy.append(each(torch.sub, y, x))
            dc.append(each(torch.sub, plus, c_i[i]))
            c_i[i] = plus
        x = each(torch.add, x, average(dy))
        c = each(lambda c, dc: c + len(there) / K * dc, c, average(dc))  # noqa: B023
    made = scaffold(federation.task(), epochs=2, batch=3, lr=0.3)
    found = federation.run(made, rounds=3, graph=None, presence=absences(*(Missing(one.nodes) for one in GONE)))
    assert_close(found.aggregate, x, 1e-11)
    assert_close(found.state.c.value, average(found.state.c_k.values))
    assert_close(found.state.c_k.values, c_i, 1e-11)


@pytest.mark.parametrize("name", ["dfedkfac", "ntkdfl"])
def test_a_round_is_that_of_a_federation_of_those_present_alone(name: str) -> None:
    """Neither method draws anything, so that the nodes may be numbered anew."""
    made, data = load("methods", name)(federation.task()), federation.shards()
    state = federation.run(made, rounds=1).state
    there, near = kept(GONE[0])
    new = {node: place for place, node in enumerate(there)}
    graph = Graph([(new[i], new[j]) for i in there for j in near[i]], len(there))
    fleet = federation.fleet(len(there), round=2, graph=graph)
    part = [fleet.each([x_k.values[node] for node in there]) for x_k in state]
    alone, _ = made.round(fleet, type(state)(*part), fleet.each([data[node] for node in there]), 2)
    whole = federation.fleet(round=2)
    found, _ = federation.attended(made, whole, state, whole.each(data), 2, absences(Missing(), GONE[0]))
    for before, after, expected in zip(state, found, alone, strict=True):
        assert_close([after.values[node] for node in there], expected.values, 1e-11)
        assert_same([after.values[node] for node in GONE[0].nodes], [before.values[node] for node in GONE[0].nodes])


@pytest.mark.few(3)
@pytest.mark.parametrize("name", often(FAULTY))
def test_absent_nodes_keep_their_state_and_send_and_compute_nothing(name: str) -> None:
    made = method(name)
    graph = GRAPH if made.traits.neighbours else None
    before = federation.run(made, rounds=1, graph=graph)
    for missing in (Missing(nodes=[1, 3]), Missing(nodes=[0, 1, 4])):
        fleet = federation.fleet(round=2, graph=graph)
        state, _ = federation.attended(
            made, fleet, before.state, fleet.each(federation.shards()), 2, absences(Missing(), missing)
        )
        moved = []
        for old, new in zip(each_of(before.state), each_of(state), strict=True):
            assert new.nodes == old.nodes
            assert_same([new.values[i] for i in missing.nodes], [old.values[i] for i in missing.nodes])
            moved += [i for i in NODES if not same(old.values[i], new.values[i])]
        assert {*moved} <= {*NODES}.difference(missing.nodes)
        booked = fleet.ledger.sent | fleet.ledger.received | fleet.ledger.work
        assert not {*booked} & {*missing.nodes}
        assert {*fleet.ledger.work} >= {*NODES}.difference(missing.nodes)


def each_of(state: Any) -> list[Each[Any]]:
    parts = [part for part in state if isinstance(part, Each)]
    return parts + [own for part in state if hasattr(part, "_fields") for own in each_of(part)]


def same(one: Any, other: Any) -> bool:
    return all(torch.equal(a, b) for a, b in zip(trees.leaves(one), trees.leaves(other), strict=True))


@pytest.mark.few(8)
@pytest.mark.parametrize("name", often(FAULTY))
@pytest.mark.parametrize("missing", [Missing(nodes=[0, 1, 2, 4]), Missing(links=GRAPH.edges), Missing(nodes=[2])])
def test_few_or_lonely_nodes_go_on(name: str, missing: Missing) -> None:
    made = method(name)
    graph = GRAPH if made.traits.neighbours else None
    gone = missing if graph is not None else Missing(nodes=missing.nodes)
    if name == "sumntk" and len(gone.nodes) > 3:
        with pytest.raises(ValueError, match=r"^`nodes` must be at least 3 in a sum; got 2\. Raise participation"):
            federation.run(made, rounds=1, graph=graph, presence=absences(gone))
        return
    for engine in names("engines"):
        run = federation.run(
            made, rounds=2, graph=graph, presence=absences(gone, gone), engine=federation.engine(engine, 3)
        )
        assert all(trees.all_finite(part) for part in plain(run.state).values())
        assert trees.all_finite(run.aggregate)


@pytest.mark.few(3)
@pytest.mark.parametrize("name", often(FAULTY))
def test_with_nothing_missing_it_is_the_same_to_the_bit(name: str) -> None:
    made = method(name)
    options: dict[str, Any] = {"graph": GRAPH if made.traits.neighbours else None, "gossip_weights": "metropolis"}
    plain_run, found = federation.run(made, **options), federation.run(made, presence=absences(), **options)
    assert_same(plain(found.state), plain(plain_run.state))
    assert_same(found.extras, plain_run.extras)
    assert found.ledger.state() == plain_run.ledger.state()


def there(missing: Missing, quorum: float = 0.0, graph: Graph | None = GRAPH, server: bool = True) -> There:
    presence = Presence({"told": Fault(lambda planned, draw: missing)}, quorum)
    return presence.there(federation.fleet(graph=graph), ROWS, server)


def test_the_record_counts_nodes_and_links() -> None:
    found = there(GONE[0])
    assert found.record == {"present": 4, "links": 1, "skipped": False}
    assert found.held == 1 / 7
    assert found.fleet is not None
    assert (found.fleet.nodes, found.fleet.total, found.fleet.proportion) == ((0, 2, 3, 4), 6, 4 / 6)
    assert found.fleet.cohort(2).proportion == 2 / 6
    server = there(Missing(nodes=[0], links=[(SERVER, 4), (SERVER, 0)]), graph=None)
    assert server.record == {"present": 4, "skipped": False}
    assert server.fleet is not None
    assert server.fleet.nodes == (1, 2, 3, 5)
    assert there(Missing(), graph=None, server=False).held == 1.0


def test_nobody_there_is_no_round() -> None:
    found = there(Missing(nodes=NODES))
    assert (found.fleet, found.held) == (None, 0.0)
    assert found.record == {"present": 0, "links": 0, "skipped": True}


@pytest.mark.parametrize(("quorum", "counts"), [(0.0, True), (0.3, True), (1 / 3, True), (0.34, False), (1.0, False)])
def test_a_quorum_counts_all_nodes(quorum: float, counts: bool) -> None:
    """Two of six are there."""
    found = there(Missing(nodes=[0, 2, 3, 5]), quorum)
    assert (found.fleet is not None) == counts
    assert found.record["skipped"] == (not counts)
    assert there(Missing(), 1.0).fleet is not None


def test_what_was_observed_has_a_place_for_everybody() -> None:
    fleet = federation.fleet()
    few = replace(fleet, nodes=(1, 4)).of_here([7, 9])
    assert of_all(fleet, few).values == [None, 7, None, None, 9, None]


@pytest.mark.parametrize(
    ("found", "message"),
    [
        (
            Missing(nodes=[6]),
            "`fault` must take away nodes and links that there are; got 6 from told. Choose among the",
        ),
        (
            Missing(links=[(4, 2)]),
            "`fault` must take away nodes and links that there are; got (4, 2) from told. Choose",
        ),
        ([1, 2], "`fault` must give a Missing; got list from told. Return fedtangent.federation.Missing(nodes, links)"),
    ],
)
def test_a_fault_that_is_none_is_one_sentence(found: Any, message: str) -> None:
    with pytest.raises((ValueError, TypeError)) as caught:
        there(found)
    assert str(caught.value).startswith(message)


@st.composite
def schedules(draw: st.DrawFn) -> tuple[Graph, list[Missing]]:
    """A graph of up to six nodes, and what is missing in up to four rounds."""
    nodes = draw(st.integers(1, 6))
    pairs = [(i, j) for i in range(nodes) for j in range(i + 1, nodes)]
    edges = draw(st.lists(st.sampled_from(pairs), unique=True)) if pairs else []
    some = st.lists(st.sampled_from(range(nodes)), unique=True)
    broken = st.lists(st.sampled_from(edges), unique=True) if edges else st.just([])
    rounds = draw(st.lists(st.builds(Missing, some, broken), min_size=1, max_size=4))
    return Graph(edges, nodes), rounds


@settings(suppress_health_check=BUSY)
@given(schedules(), st.sampled_from(["uniform", "metropolis"]))
def test_rows_of_the_gossip_matrix_sum_to_one_and_metropolis_is_doubly_stochastic(
    schedule: tuple[Graph, list[Missing]], weights: GossipWeights
) -> None:
    graph, rounds = schedule
    for missing in rounds:
        gone = graph.without(*missing)
        matrix = gone.gossip(weights)
        np.testing.assert_allclose(matrix.sum(1), 1, rtol=1e-14)
        assert (matrix >= 0).all()
        for node in missing.nodes:
            assert matrix[node, node] == 1
        if weights == "metropolis":
            np.testing.assert_array_equal(matrix, matrix.T)
            planned = graph.gossip(weights)
            off = ~np.eye(graph.nodes, dtype=bool) & (matrix > 0)
            np.testing.assert_array_equal(matrix[off], planned[off])
        assert gone.without((), ()).gossip(weights).tolist() == matrix.tolist()


def linear(targets: Sequence[float]) -> tuple[Task, list[Shard]]:
    """f = w x with w_0 = 0; node k has the row x = k + 1."""
    model = nn.Linear(1, 1, bias=False).double()
    model.weight.data.zero_()
    data = [
        Shard(
            torch.tensor([[k + 1.0]]).double(),
            torch.tensor([[y]], dtype=torch.float64),
            torch.ones(1, dtype=torch.bool),
        )
        for k, y in enumerate(targets)
    ]
    return Task(model, losses.squared), data


def gossip(graph: Graph, rounds: Sequence[Missing], weights: str, y: Sequence[float]) -> list[float]:
    """A gradient step of 1/50 on (w x - y)^2 / 2, then the average with those whom a node reaches, in plain Python."""
    w = [0.0] * graph.nodes
    for nodes, broken in rounds:
        up = [i for i in range(graph.nodes) if i not in nodes]
        z = {i: w[i] - (i + 1) * (w[i] * (i + 1) - y[i]) / 50 for i in up}
        for i in up:
            near = [j for j in graph.neighbours[i] if j in up and (min(i, j), max(i, j)) not in broken]
            degrees = [len(near) if weights == "uniform" else max(graph.degree(i), graph.degree(j)) for j in near]
            share = [1 / (1 + degree) for degree in degrees]
            w[i] = (1 - sum(share)) * z[i] + sum(a * z[j] for a, j in zip(share, near, strict=True))
    return w


@settings(max_examples=200, suppress_health_check=BUSY)
@given(schedules(), st.sampled_from(["uniform", "metropolis"]), st.sampled_from(["sequential", "vectorized"]))
def test_any_schedule_gives_what_plain_python_gives(
    schedule: tuple[Graph, list[Missing]], weights: GossipWeights, engine: str
) -> None:
    graph, rounds = schedule
    y = [1.5, -2.0, 0.7, 3.1, -0.4, 2.2][: graph.nodes]
    task, data = linear(y)
    found = federation.run(
        dfedavg(task, epochs=1, batch=9, lr=0.02),
        data,
        rounds=len(rounds),
        graph=graph,
        gossip_weights=weights,
        presence=absences(*rounds),
        engine=federation.engine(engine, 6),
    )
    w: list[Tensor] = [own["weight"] for own in found.state.w_k.values]
    np.testing.assert_allclose([float(own) for own in w], gossip(graph, rounds, weights, y), rtol=1e-12, atol=1e-14)
    sent = sum(2 * len(graph.without(*missing).edges) for missing in rounds)
    assert found.ledger.sent_bytes == 8 * sent
