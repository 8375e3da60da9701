from typing import Any

import pytest
import torch

from fedtangent.experiments.run import run
from fedtangent.experiments.setup import setup
from fedtangent.federation import Graph
from fedtangent.methods.dpsgd import dpsgd
from fedtangent.methods.relaysgd import relaysgd
from tests import tiny_federation as federation
from tests.experiments import tiny
from tests.methods.literal_gossip import K, batches, gradient, stepped
from tests.methods.literal_server import ENGINES, P, Weights, average, each, scalar, weights_0
from tests.tiny_federation import ROWS, TREE, assert_close

OPTIONS: list[dict[str, Any]] = [
    {"batch": 3, "lr": 0.3},
    {"batch": 4, "lr": 0.1, "momentum": 0.7},
    {"epochs": 2, "batch": 3, "lr": 0.1},
]


def transcript(rounds: int, batch: int, lr: float, epochs: int = 0, momentum: float = 0.0) -> list[Weights]:
    """Algorithm 1 of Vogels et al. 2021."""
    x = [weights_0() for _ in ROWS]
    zero, links = each(torch.zeros_like, x[0]), [(i, j) for i in range(K) for j in TREE.neighbours[i]]
    u, m, c = [zero] * K, dict.fromkeys(links, zero), dict.fromkeys(links, 0)
    for t in range(1, rounds + 1):
        half = []
        for i in range(K):
            if momentum:
                u[i] = each(lambda u, g: momentum * u + g, u[i], gradient(x[i], i, batches(t, i, 0, batch)[0]))
                half.append(each(lambda x, u: x - lr * u, x[i], u[i]))
            else:
                half.append(stepped(x[i], t, i, epochs, batch, lambda x, g: each(lambda x, g: x - lr * g, x, g)))
        sent, counted = {}, {}
        for i, j in links:  # m_{i -> j}
            behind = [k for k in TREE.neighbours[i] if k != j]
            sent[i, j] = each(lambda *parts: sum(parts), half[i], *(m[k, i] for k in behind))
            counted[i, j] = 1 + sum(c[k, i] for k in behind)
        m, c = sent, counted
        for i in range(K):
            near = TREE.neighbours[i]
            missing = K - sum(c[j, i] for j in near)
            x[i] = each(lambda own, *parts: (missing * own + sum(parts)) / K, half[i], *(m[j, i] for j in near))  # noqa: B023
    return x


@pytest.mark.parametrize("engine", ENGINES)
@pytest.mark.parametrize("options", OPTIONS)
def test_is_the_papers_algorithm(options: dict[str, Any], engine: str) -> None:
    made = relaysgd(federation.task(), **options)
    found = federation.run(made, rounds=6, engine=federation.engine(engine, 3), graph=TREE)
    expected = transcript(6, **options)
    assert_close(found.state.w_k.values, expected, 1e-11)
    assert_close(found.aggregate, average(expected), 1e-11)
    each_way = P + 8 + 8  # a model, how many it stands for, and the number of the one who asks
    assert {i: found.ledger.sent[i] for i in range(K)} == {i: 6 * each_way * TREE.degree(i) for i in range(K)}


def test_by_hand_on_a_line_of_three_with_targets_that_are_reached_at_once() -> None:
    """Step 1 goes to the targets 3, 6 and 0; the ends hear of each other a round later, of what was then."""
    task, data = scalar([3.0], [6.0], [0.0])
    line = Graph([(0, 1), (1, 2)], 3)
    after = [
        [
            float(w["weight"])
            for w in federation.run(relaysgd(task, batch=1, lr=1.0), data, rounds=k, graph=line).state.w_k.values
        ]
        for k in (1, 2)
    ]
    assert after[0] == pytest.approx([(2 * 3 + 6) / 3, 3, (2 * 0 + 6) / 3])
    assert after[1] == pytest.approx([3, 3, 3])


def test_of_two_nodes_it_is_dpsgd_that_adapts_first() -> None:
    data, pair, options = federation.shards([4, 7]), Graph([(0, 1)], 2), {"batch": 3, "lr": 0.2}
    found = federation.run(relaysgd(federation.task(), **options), data, rounds=4, graph=pair)  # type: ignore[arg-type]
    expected = federation.run(dpsgd(federation.task(), adapt_first=True, **options), data, rounds=4, graph=pair)  # type: ignore[arg-type]
    assert_close(found.state.w_k.values, expected.state.w_k.values)


def test_a_run_that_is_resumed_goes_on_with_what_is_under_way(tmp_path: Any) -> None:
    for rounds in (2, 5):
        found = run(tiny.tiny("relaysgd", rounds=rounds), tmp_path / "run", resume=rounds > 2)
    assert tiny.timeless(found.rounds) == tiny.timeless(run(tiny.tiny("relaysgd", rounds=5)).rounds)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"momentum": 1.0}, "`momentum` must be in [0, 1); got 1.0. Use 0.9, or 0 for none."),
        (
            {"momentum": 0.5, "epochs": 1},
            "`momentum` must be 0 with local epochs; got 0.5. Use epochs 0, or no momentum.",
        ),
        (
            {"topology": "ring"},
            "`topology` must be a tree for relaysgd, connected and with one edge less than nodes; got 5 edges for 5 "
            "nodes. Choose 'line' or 'star'.",
        ),
    ],
)
def test_wrong_values_are_one_clear_sentence(options: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError) as caught:
        run(setup(tiny.tiny("relaysgd", **options)))
    assert str(caught.value) == message


@pytest.mark.parametrize("edges", [[(0, 1), (1, 2), (0, 2)], [(0, 1)], [(0, 1), (1, 2), (2, 3), (0, 3)]])
def test_a_cycle_beside_a_lonely_node_is_no_tree(edges: list[tuple[int, int]]) -> None:
    with pytest.raises(ValueError, match=r"^`topology` must be a tree for relaysgd"):
        federation.run(relaysgd(federation.task()), federation.shards([2] * 4), graph=Graph(edges, 4))
