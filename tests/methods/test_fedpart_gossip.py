"""FedPart under hosts without a server: the active group alone is trained and mixed, the rest stays at each node."""

from functools import partial
from typing import Any

import pytest
import torch

from fedtangent.catalog import load
from fedtangent.experiments.run import run
from fedtangent.methods.fedpart import fedpart
from tests import tiny_federation as federation
from tests.experiments import tiny
from tests.methods.literal_gossip import K, gossip, stepped
from tests.methods.literal_server import ENGINES, Weights, average, each, weights_0
from tests.methods.test_fedpart import GOSSIPING, LAYERS, ONE, SIZE, active
from tests.often import often
from tests.tiny_federation import GRAPH, ROWS, assert_close, assert_same

LOCAL: dict[str, Any] = {"epochs": 2, "batch": 3, "lr": 0.3}
MORE: dict[str, dict[str, Any]] = {
    "dfedsam": {"rho": 0.2},
    "gradient_tracking": {"momentum": 0.6},
    "oledfl": {"beta": 0.4},
    "qgdsgdm": {"momentum": 0.6, "mu": 0.5},
}


def transcript(rounds: int) -> list[Weights]:
    """One full round, two of each layer: a node trains the group from its own weights, and mixes that alone."""
    x = [weights_0() for _ in ROWS]
    for t in range(1, rounds + 1):
        names = active(t, 1, 2)

        def move(x: Weights, g: Weights, names: tuple[str, ...] = names) -> Weights:
            return {name: part - 0.3 * g[name] if name in names else part for name, part in x.items()}

        z = [stepped(x[i], t, i, 2, 3, move) for i in range(K)]
        mixed = gossip(z)
        x = [{name: (mixed if name in names else z)[i][name] for name in z[i]} for i in range(K)]
    return x


@pytest.mark.parametrize("engine", ENGINES)
def test_the_group_alone_is_trained_and_mixed(engine: str) -> None:
    host = partial(load("methods", "dfedavg"), **LOCAL)
    made = fedpart(federation.task(), host=host, warm_up=1, rounds_per_group=2)
    found = federation.run(made, rounds=7, engine=federation.engine(engine, 3))
    expected = transcript(7)
    assert_close(found.state.host.w_k.values, expected, 1e-11)
    assert_close(found.aggregate, average(expected), 1e-11)
    sent = 8 * sum(SIZE[name] for t in range(1, 8) for name in active(t, 1, 2))
    assert {i: found.ledger.sent[i] for i in range(K)} == {i: sent * GRAPH.degree(i) for i in range(K)}
    assert made.personal is not None
    assert_same(made.personal(found.state).values, found.state.host.w_k.values)


@pytest.mark.few(1)
@pytest.mark.parametrize("name", often(GOSSIPING, ["dfedavg", "qgdsgdm"]))
def test_with_one_group_it_is_the_host_and_else_frozen_parts_stay(name: str) -> None:
    host = partial(load("methods", name), lr=0.2, batch=3, **MORE.get(name, {}))
    whole = federation.run(host(federation.task()), rounds=3)
    one = federation.run(fedpart(federation.task(), host=host, warm_up=0, groups=ONE), rounds=3)
    assert_same(federation.plain(one.state.host), federation.plain(whole.state))
    assert one.ledger.sent == whole.ledger.sent
    made = fedpart(federation.task(), host=host, warm_up=1, rounds_per_group=1)
    before, after = (federation.plain(federation.run(made, rounds=k).state.host) for k in (1, 2))
    for field, values in after.items():
        for new, old in zip(values, before[field], strict=True):
            if new:
                assert_same(each(lambda a: a, {p: new[p] for p in LAYERS[1]}), {p: old[p] for p in LAYERS[1]})
                assert not torch.equal(new[LAYERS[0][0]], old[LAYERS[0][0]])


def test_a_run_around_a_gossiping_host_is_recorded_with_its_nodes_accuracies() -> None:
    settings: dict[str, Any] = {"host": "dfedavg", "topology": "ring", "participation": None}
    asked = {name: value for name, value in tiny.settings("fedpart", **settings).items() if value is not None}
    result = run(tiny.experiment(**{**asked, "rounds": 4}))
    assert result.manifest["experiment"]["topology"] == "ring"
    assert all(entry["mean_node_accuracy"] is not None for entry in result.rounds)
