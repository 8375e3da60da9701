from typing import Any

import numpy as np
import pytest
import torch

from fedtangent.experiments.setup import setup
from fedtangent.federation import Graph
from fedtangent.methods.dpsgd import dpsgd
from fedtangent.methods.epidemic import epidemic
from tests import tiny_federation as federation
from tests.experiments import tiny
from tests.methods.literal_gossip import K, stepped
from tests.methods.literal_server import ENGINES, P, Weights, average, each, weights_0
from tests.tiny_federation import ROWS, assert_close, assert_same


def drawn(k: int, **options: Any) -> Graph:
    """The graph of a round."""
    graph = epidemic(federation.task(), **options).graph
    assert graph is not None
    return graph(K, np.random.default_rng(k))


def transcript(rounds: int, graphs: list[Graph], epochs: int, batch: int, lr: float) -> list[Weights]:
    """Algorithm 1 of de Vos et al. 2023: models are pushed along the round's arrows, and averaged where they arrive."""
    x = [weights_0() for _ in ROWS]
    for t in range(1, rounds + 1):
        half = [stepped(x[i], t, i, epochs, batch, lambda x, g: each(lambda x, g: x - lr * g, x, g)) for i in range(K)]
        inbox = [[half[i]] for i in range(K)]
        for i, j in graphs[t - 1].edges:
            inbox[j].append(half[i])
        x = [average(models) for models in inbox]
    return x


@pytest.mark.parametrize("engine", ENGINES)
@pytest.mark.parametrize("epochs", [0, 2])
def test_is_the_papers_algorithm(epochs: int, engine: str) -> None:
    options: dict[str, Any] = {"epochs": epochs, "batch": 3, "lr": 0.3}
    made = epidemic(federation.task(), sample=2, **options)
    graphs = [drawn(k, sample=2) for k in (1, 2, 3)]
    start = federation.fleet(engine=federation.engine(engine, 3), round=0, graph=graphs[0])
    data_k = start.each(federation.shards())
    state = made.init(start, data_k)
    for k, graph in enumerate(graphs, 1):
        fleet = federation.fleet(engine=start.engine, wire=start.wire, round=k, graph=graph)
        state, _ = made.round(fleet, state, data_k, k)
    assert_close(state.w_k.values, transcript(3, graphs, **options))
    assert {node: start.ledger.sent[node] for node in range(K)} == dict.fromkeys(range(K), 3 * 2 * P)
    heard = [sum(j == node for graph in graphs for _, j in graph.edges) for node in range(K)]
    assert [start.ledger.received[node] for node in range(K)] == [count * P for count in heard]
    assert len(set(heard)) > 1


def test_every_node_sends_to_s_others_and_hears_as_many_as_it_happens() -> None:
    graphs = [drawn(k, sample=2) for k in range(200)]
    for graph in graphs:
        assert [len(graph.receivers(node)) for node in range(K)] == [2] * K
    assert {len(graph.neighbours[0]) for graph in graphs} > {1, 2, 3}
    arrows = np.zeros((K, K))
    for graph in graphs:
        for i, j in graph.edges:
            arrows[i, j] += 1
    np.testing.assert_allclose(arrows, 200 * 2 / (K - 1) * (1 - np.eye(K)), atol=30)


def test_an_oracle_has_every_node_hear_as_many_as_it_sends_to() -> None:
    graph = drawn(1, sample=3, draws="oracle")
    assert not graph.directed
    assert [graph.degree(node) for node in range(K)] == [3] * K


def test_on_one_graph_it_is_dpsgd_that_adapts_first() -> None:
    found = federation.run(epidemic(federation.task(), batch=3), rounds=3)
    expected = federation.run(dpsgd(federation.task(), batch=3, adapt_first=True), rounds=3)
    assert_same(found.aggregate, expected.aggregate)


def test_an_experiment_draws_another_graph_in_every_round() -> None:
    built = setup(tiny.tiny("epidemic"))
    graphs = [built.graph(k) for k in (1, 2, 3)]
    assert len(set(graphs)) == 3
    assert all(graph is not None and len(graph.edges) == 3 * len(tiny.ROWS) for graph in graphs)  # log2 of 5, up
    assert built.description["topology"] is None
    again = setup(tiny.tiny("epidemic", seed=1)).graph(1)
    assert again != graphs[0]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"sample": 0}, "`sample` must be at least 1; got 0. Give a number of nodes, or leave it out."),
        ({"draws": "lokal"}, "`draws` must be 'local' or 'oracle'; got 'lokal'. Choose one of the two."),
        ({"sample": 5}, "`sample` must be below the number of nodes, 5; got 5. Use another, or more nodes."),
        (
            {"sample": 3, "draws": "oracle"},
            "`sample` must be even for an oracle of 5 nodes; got 3. Use another, or more nodes.",
        ),
        ({"degree": 3}, "`degree` must be left out for epidemic, which draws its own graphs; got 3. Drop it."),
        ({"static": True}, "`static` must be left out for epidemic, which draws its own graphs; got True. Drop it."),
    ],
)
def test_wrong_values_are_one_clear_sentence(options: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError) as caught:
        setup(tiny.tiny("epidemic", **options)).graph(1)
    assert str(caught.value) == message


def test_an_odd_oracle_adds_one_to_what_nobody_asked_for() -> None:
    graph = setup(tiny.tiny("epidemic", draws="oracle")).graph(1)
    assert graph is not None
    assert {graph.degree(node) for node in range(5)} == {4}
    assert torch.tensor(graph.edges).shape == (10, 2)
