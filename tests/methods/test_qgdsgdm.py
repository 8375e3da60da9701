from typing import Any

import pytest
import torch

from fedtangent.federation import Graph
from fedtangent.methods.dpsgd import dpsgd
from fedtangent.methods.qgdsgdm import qgdsgdm
from tests import tiny_federation as federation
from tests.methods.literal_gossip import K, batches, gossip, stepped
from tests.methods.literal_server import ENGINES, P, Weights, average, each, scalar, weights_0
from tests.tiny_federation import GRAPH, ROWS, assert_close

OPTIONS: list[dict[str, Any]] = [
    {"momentum": 0.7, "mu": 0.6, "epochs": 0, "batch": 3, "lr": 0.3},
    {"momentum": 0.8, "mu": 0.5, "epochs": 0, "batch": 4, "lr": 0.2, "nesterov": True},
    {"momentum": 0.6, "mu": 0.8, "epochs": 2, "batch": 3, "lr": 0.1},
]


def transcript(
    rounds: int, momentum: float, mu: float, epochs: int, batch: int, lr: float, nesterov: bool = False
) -> tuple[list[Weights], list[Weights]]:
    """Algorithm 1 of Lin et al. 2021; local steps all take the round's momentum."""
    x = [weights_0() for _ in ROWS]
    m = [each(torch.zeros_like, w) for w in x]
    for t in range(1, rounds + 1):
        half = []
        for i in range(K):

            def move(x: Weights, g: Weights, m: Weights = m[i]) -> Weights:
                v = each(lambda m, g: momentum * m + g, m, g)
                return each(lambda x, v, g: x - lr * (g + momentum * v if nesterov else v), x, v, g)

            half.append(stepped(x[i], t, i, epochs, batch, move))
        new = gossip(half)
        for i in range(K):
            steps = len(batches(t, i, epochs, batch))
            d = each(lambda x, new: (x - new) / (lr * steps), x[i], new[i])  # noqa: B023
            m[i] = each(lambda m, d: mu * m + (1 - mu) * d, m[i], d)
        x = new
    return x, m


@pytest.mark.parametrize("engine", ENGINES)
@pytest.mark.parametrize("options", OPTIONS)
def test_is_the_papers_algorithm(options: dict[str, Any], engine: str) -> None:
    found = federation.run(qgdsgdm(federation.task(), **options), rounds=4, engine=federation.engine(engine, 3))
    x, m = transcript(4, **options)
    assert_close(found.state.w_k.values, x, 1e-11)
    assert_close(found.state.m_k.values, m, 1e-11)
    assert_close(found.aggregate, average(x), 1e-11)
    assert {node: found.ledger.sent[node] for node in range(K)} == {i: 4 * P * GRAPH.degree(i) for i in range(K)}


@pytest.mark.parametrize("epochs", [0, 2])
def test_without_momentum_it_is_dpsgd_that_adapts_first(epochs: int) -> None:
    options: dict[str, Any] = {"epochs": epochs, "batch": 3, "lr": 0.2}
    found = federation.run(qgdsgdm(federation.task(), momentum=0.0, **options), rounds=3)
    expected = federation.run(dpsgd(federation.task(), adapt_first=True, **options), rounds=3)
    assert_close(found.state.w_k.values, expected.state.w_k.values)


def test_by_hand() -> None:
    """Targets 1 and 3, step 1/2: both at 1, m = (0 - 1) / (1/2) / 2 = -1; then gradients 0 and -2, less a half of m."""
    task, data = scalar([1.0], [3.0])
    method, pair = qgdsgdm(task, momentum=0.5, mu=0.5, batch=1, lr=0.5), Graph([(0, 1)], 2)
    first, second = (federation.run(method, data, rounds=k, graph=pair).state for k in (1, 2))
    assert [float(m["weight"]) for m in first.m_k.values] == [-1, -1]
    assert [float(w["weight"]) for w in second.w_k.values] == [1.75, 1.75]


@pytest.mark.parametrize("name", ["momentum", "mu"])
def test_a_wrong_value_is_one_clear_sentence(name: str) -> None:
    with pytest.raises(ValueError, match=rf"^`{name}` must be in \[0, 1\); got 1\. Use 0\.9, or 0 for none\.$"):
        qgdsgdm(federation.task(), **{name: 1})
