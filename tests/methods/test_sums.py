"""Sums really are sums: whoever adds the messages first, in whatever tree, the server comes to the same weights."""

from typing import Any

import numpy as np
import pytest
import torch

from fedtangent import trees
from fedtangent.catalog import load, names
from fedtangent.federation import Central, Each, Fleet, Method
from tests import tiny_federation as federation
from tests.often import often
from tests.tiny_federation import assert_close

SERVERS = [
    name
    for name in names("methods")
    for made in [load("methods", name)(federation.task())]
    if made.exposure == "aggregate" and not made.traits.neighbours
]


def added(messages: list[Any], rng: np.random.Generator) -> Any:
    """Two at a time, drawn at random, until one is left."""
    messages = list(messages)
    while len(messages) > 1:
        i, j = sorted(rng.choice(len(messages), 2, replace=False), reverse=True)
        messages.append(trees.add(messages.pop(i), messages.pop(j)))
    return messages[0]


def test_the_tree_is_a_sum() -> None:
    assert added([torch.tensor(x) for x in (1, 2.5, 4, 8)], np.random.default_rng(0)) == 15.5


class Tree(Fleet):
    """A fleet whose server is handed one sum of all messages, and never one of them; of clients it may count rows."""

    def sum(self, x_k: Each[Any], *named: Any, **more: Any) -> tuple[Central[Any], Central[int]]:
        total, _ = super().sum(x_k, *named, **more)  # books the bytes
        assert trees.leaves(total.value)
        return Central(added(x_k.values_at(self.nodes), self.rng("tree"))), Central(0)

    def mean(self, x_k: Each[Any], weight_k: Each[Any] | None = None, *named: Any, **more: Any) -> Central[Any]:
        super().mean(x_k, weight_k, *named, **more)
        weights = [1] * len(self.nodes) if weight_k is None else weight_k.values_at(self.nodes)
        pairs = [(x, torch.as_tensor(n).double()) for x, n in zip(x_k.values_at(self.nodes), weights, strict=True)]
        total, weight = added([(trees.scale(x, n), n) for x, n in pairs], self.rng("tree"))
        return Central(trees.scale(total, 1 / weight))

    def gather(self, x_k: Each[Any], *named: Any, **more: Any) -> Central[list[Any]]:
        found = super().gather(x_k, *named, **more)
        assert all(count.dim() == 0 and not count.is_floating_point() for count in trees.leaves(found.value))
        return found


def test_the_methods_are_those_that_claim_it() -> None:
    assert {"fedavg", "fedkfac"} <= set(SERVERS)


@pytest.mark.parametrize("name", often(SERVERS))
def test_any_tree_of_additions_gives_the_same_weights(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    made: Method = load("methods", name)(federation.task())
    expected = federation.run(made, rounds=3)
    monkeypatch.setattr(federation, "Fleet", Tree)
    found = federation.run(made, rounds=3)
    assert any(not torch.equal(part, expected.aggregate[key]) for key, part in found.aggregate.items())  # rounding
    assert_close(found.aggregate, expected.aggregate, 1e-10)
    assert_close(found.extras, expected.extras, 1e-10)
    assert (found.ledger.sent, found.ledger.received) == (expected.ledger.sent, expected.ledger.received)
