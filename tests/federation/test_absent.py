"""A message that is not finite, or of another shape, has exactly the influence of an absent node: in every verb."""

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor

from fedtangent.federation import Attack, Each, Fleet, Graph, Liars, Rule, Told, Wire
from fedtangent.rules.cs_plus import cs_plus
from fedtangent.rules.krum import krum
from fedtangent.rules.norm_clipping import norm_clipping
from fedtangent.rules.trimmed_mean import trimmed_mean
from fedtangent.transports.memory import memory
from tests import tiny_federation as federation
from tests.tiny_federation import GRAPH, ROWS, assert_close, assert_same

ABSENT = 4  # who has three neighbours
LEFT = [node for node in range(len(ROWS)) if node != ABSENT]
WITHOUT = Graph([edge for edge in GRAPH.edges if ABSENT not in edge], len(ROWS))


def _infinite(told: Told) -> Tensor:
    found = told.own.clone()
    found[0] = torch.inf
    return found


WRONG = {
    "nan": lambda told: torch.full_like(told.own, torch.nan),
    "one infinity": _infinite,
    "another shape": lambda told: torch.cat([told.own, told.own]),
    "a scalar": lambda told: told.own.sum(),
    "another type": lambda told: told.own.to(torch.float32),
}
every_lie = pytest.mark.parametrize("lie", WRONG)
AT_SERVER = {"none": None, "krum": krum(liars=1), "norm_clipping": norm_clipping()}
BETWEEN = {"none": None, "trimmed_mean": trimmed_mean(liars=1), "cs_plus": cs_plus(liars=1)}


def fleet(lie: str | None, nodes: Sequence[int] | None = None, rule: Rule | None = None, **options: Any) -> Fleet:
    liars = None if lie is None else Liars(Attack(WRONG[lie]), frozenset([ABSENT]))
    now = federation.fleet(wire=Wire(memory(), liars=liars, rule=rule), **options)
    return now if nodes is None else replace(now, nodes=tuple(nodes))


def values(now: Fleet) -> tuple[Each[Any], Each[Any]]:
    x_k = now.each([torch.linspace(-1, node + 0.3, 3, dtype=torch.float64) * (node + 1) for node in range(len(ROWS))])
    return x_k, now.each([torch.tensor(n) for n in ROWS])


def answer(x: Tensor, y: Tensor) -> dict[str, Tensor]:
    return {"x": x * y.sum(), "n": torch.tensor(3)}


@every_lie
@pytest.mark.parametrize("rule", AT_SERVER)
def test_at_a_server(lie: str, rule: str) -> None:
    now, fewer = fleet(lie, rule=AT_SERVER[rule]), fleet(None, rule=AT_SERVER[rule], nodes=LEFT)
    x_k, n_k = values(now)
    assert_same(now.mean(x_k, n_k).value, fewer.mean(x_k, n_k).value)
    assert_same(now.mean(x_k).value, fewer.mean(x_k).value)
    assert_same(now.sum(x_k)[0].value, fewer.sum(x_k)[0].value)
    assert (now.sum(x_k)[1].value, fewer.sum(x_k)[1].value) == (1, 0)
    assert_same(now.gather(x_k).value, fewer.gather(x_k).value)


@pytest.mark.few(10)
@every_lie
@pytest.mark.parametrize("rule", BETWEEN)
@pytest.mark.parametrize("weights", ["uniform", "metropolis"])
def test_between_neighbours(lie: str, rule: str, weights: Any) -> None:
    now = fleet(lie, rule=BETWEEN[rule], gossip_weights=weights)
    without = fleet(None, graph=WITHOUT, rule=BETWEEN[rule], gossip_weights=weights)
    x_k, _ = values(now)
    pairs: dict[str, tuple[list[Any], list[Any]]] = {
        "share": (now.share(x_k).values, without.share(x_k).values),
        "ask": (now.ask(answer, x_k, x_k).values, without.ask(answer, x_k, x_k).values),
        "sum": (
            [x for x, _ in now.ask_sum(answer, x_k, x_k).values],
            [x for x, _ in without.ask_sum(answer, x_k, x_k).values],
        ),
        "total": (
            [x for x, _ in now.ask_total(answer, x_k, x_k).values],
            [x for x, _ in without.ask_total(answer, x_k, x_k).values],
        ),
    }  # fmt: skip
    if weights == "uniform":
        pairs["mix"] = (now.mix(x_k).values, without.mix(x_k).values)
    for found, expected in pairs.values():
        for node in LEFT:
            assert_close(found[node], expected[node], 1e-12)
    refused = [int(lost) for _, lost in now.ask_sum(answer, x_k, x_k).values]
    assert refused == [int(ABSENT in GRAPH.neighbours[node]) for node in range(len(ROWS))]


@every_lie
def test_with_metropolis_weights_a_node_keeps_the_share_of_an_absent_neighbour(lie: str) -> None:
    now = fleet(lie, gossip_weights="metropolis")
    x_k, _ = values(now)
    w = GRAPH.gossip("metropolis")
    x = torch.stack(x_k.values)
    found = now.mix(x_k).values
    for node in LEFT:
        row = torch.from_numpy(w[node].copy())
        row[node] += row[ABSENT]
        row[ABSENT] = 0
        assert_close(found[node], row @ x, 1e-12)


@every_lie
def test_a_node_that_gets_nothing_but_wrong_answers_has_an_empty_inbox(lie: str) -> None:
    graph = Graph([(0, ABSENT), (1, 2)], len(ROWS))
    now = fleet(lie, graph=graph)
    x_k, _ = values(now)
    inbox = now.ask(answer, x_k, x_k).values[0]
    assert (len(inbox.real), tuple(inbox.values["x"].shape), tuple(inbox.values["n"].shape)) == (0, (0, 3), (0,))
    assert_same(now.mix(x_k).values[0], x_k.values[0])


@every_lie
def test_rows_of_data_that_are_wrong_are_left_out(lie: str) -> None:
    now = fleet(lie)
    without = fleet(None, graph=WITHOUT)
    data_k = now.each(federation.shards())
    wrong, right = now.share(data_k).values, without.share(data_k).values
    for node in LEFT:
        assert_same(wrong[node].values, right[node].values)


def test_a_weight_that_is_no_weight_makes_a_client_absent() -> None:
    now = fleet(None)
    x_k, _ = values(now)
    for wrong in (torch.nan, torch.inf, -3.0):
        n_k = now.each([torch.tensor(wrong if node == ABSENT else float(n)) for node, n in enumerate(ROWS)])
        fewer = fleet(None, nodes=LEFT)
        assert_same(now.mean(x_k, n_k).value, fewer.mean(x_k, n_k).value)


def test_of_nothing_but_wrong_messages_the_mean_is_wrong_too() -> None:
    """So that a run whose clients all diverge ends, and says so."""
    now = fleet(None)
    assert torch.isnan(now.mean(now.everywhere(torch.tensor([torch.nan, 1.0]))).value).any()


def test_a_rule_of_sums_leaves_out_who_claims_no_rows() -> None:
    now = fleet(None, rule=trimmed_mean(liars=0))
    x_k, _ = values(now)
    counts = {ABSENT: -2.0}
    of = {tuple(x.tolist()): counts.get(node, 1.0) for node, x in enumerate(x_k.values)}
    found, refused = now.sum(x_k, rows=lambda x: of[tuple(x.tolist())])
    assert refused.value == 1
    assert_close(found.value, sum(x for node, x in enumerate(x_k.values) if node != ABSENT), 1e-12)
