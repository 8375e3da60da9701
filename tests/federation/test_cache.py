"""What a receiver has is not sent again: of the server's for two rounds, of neighbours' within one; content tells."""

import json
from dataclasses import replace

import torch

from fedtangent.federation import SERVER, Central, Fleet, Graph
from fedtangent.federation.cache import Cache
from tests import tiny_federation as federation

A, B, C = torch.arange(5.0), torch.arange(3.0).double(), torch.arange(2.0)  # of 20, 24 and 8 bytes


def received(fleet: Fleet) -> list[int]:
    return [fleet.ledger.received[node] for node in fleet.nodes]


def test_what_the_server_has_sent_in_a_node_s_last_round_is_not_sent_again() -> None:
    fleet = federation.fleet(3, round=1)
    fleet.broadcast(Central({"a": A, "b": B}))
    assert received(fleet) == [44] * 3
    some = replace(fleet, nodes=(0, 2), round=2)
    found = some.broadcast(Central({"b": B.clone(), "c": C}))  # another tensor of the same numbers
    assert received(fleet) == [44 + 8, 44, 44 + 8]
    assert torch.equal(found.values[0]["b"], B)
    replace(fleet, round=3).broadcast(Central((A, B, C)))  # 0 and 2 had no use for A in round 2; 1 had no round
    assert received(fleet) == [52 + 20, 44 + 8, 52 + 20]


def test_other_shapes_types_and_signs_are_other_contents() -> None:
    fleet = federation.fleet(1)
    for x in (torch.zeros(4), torch.zeros(2, 2), torch.zeros(4, dtype=torch.int32), -torch.zeros(4), torch.zeros(4)):
        fleet.broadcast(Central(x))
    assert received(fleet) == [4 * 16]


def test_numbers_are_always_sent_and_masks_of_padding_never() -> None:
    fleet, (data, *_) = federation.fleet(1), federation.shards()
    for _ in range(2):
        fleet.broadcast(Central((7, data)))
    assert received(fleet) == [2 * 8 + data.x.nbytes + data.y.nbytes]


def test_between_neighbours_what_was_asked_with_is_known_in_the_same_round() -> None:
    """On the path 0 - 1 - 2: questions of 24 bytes, then of 24 more; answers of 8."""
    fleet = federation.fleet(3, graph=Graph([(0, 1), (1, 2)], 3))
    first_k = fleet.each([B + 10 * i for i in range(3)])
    second_k = fleet.each([B + 10 * i + 1 for i in range(3)])

    def asked(fleet: Fleet) -> list[int]:
        before = dict(fleet.ledger.sent)
        fleet.ask_sum(lambda x, _: x[0].sum() + x[-1].sum(), first_k.zip(second_k), first_k).settle()
        return [fleet.ledger.sent[node] - before.get(node, 0) for node in range(3)]

    fleet.ask_sum(lambda x, _: x.sum(), first_k, first_k).settle()
    assert [fleet.ledger.sent[node] for node in range(3)] == [24 + 8, 48 + 16, 24 + 8]
    assert asked(fleet) == [24 + 8, 48 + 16, 24 + 8]
    assert asked(fleet) == [8, 16, 8]
    assert asked(replace(fleet, round=2)) == [48 + 8, 96 + 16, 48 + 8]


def test_a_checkpoint_tells_what_nodes_hold() -> None:
    whole = federation.fleet(4, round=1)
    whole.broadcast(Central((A, B)))
    replace(whole, round=2, nodes=(1, 2)).broadcast(Central((B, C)))
    again = federation.fleet(4, round=3)
    again.wire.cache.restore(json.loads(json.dumps(whole.wire.cache.state())))
    for fleet in (replace(whole, round=3), again):
        fleet.ledger.restore({name: [] for name in ("sent", "received", "work", "costs")})
        fleet.broadcast(Central((A, B, C)))
        assert received(fleet) == [8, 20, 20, 8]
        assert fleet.ledger.sent[SERVER] == 56
    assert len(whole.wire.cache.state()) == 1  # all hold the same now
    assert Cache().state() == []
