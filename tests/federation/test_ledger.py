import json
from typing import Any

import pytest
import torch

from fedtangent import multiply_adds
from fedtangent.federation import SERVER, Ledger


def filled() -> Ledger:
    ledger = Ledger()
    ledger.send(0, 1, 100)
    ledger.send(1, 0, 20)
    ledger.send(0, SERVER, 3)
    ledger.send(SERVER, 2, 4000)
    ledger.run([0, 1], lambda: multiply_adds.run(torch.mm, torch.ones(3, 4), torch.ones(4, 5), times=2))
    return ledger


def test_bytes_are_booked_per_node_and_direction() -> None:
    ledger = filled()
    assert dict(ledger.sent) == {0: 103, 1: 20, SERVER: 4000}
    assert dict(ledger.received) == {1: 100, 0: 20, SERVER: 3, 2: 4000}
    assert ledger.sent_bytes == 4123
    assert Ledger().sent_bytes == 0


def test_nothing_is_booked_while_paused_even_twice() -> None:
    ledger = filled()
    with ledger.paused():
        with ledger.paused():
            ledger.send(0, 1, 7)
        ledger.send(0, 1, 7)
    assert ledger.sent_bytes == 4123
    ledger.send(0, 1, 7)
    assert ledger.sent_bytes == 4130


def test_an_error_inside_ends_the_pause() -> None:
    ledger = filled()
    with pytest.raises(KeyError), ledger.paused():
        raise KeyError
    ledger.send(2, 1, 5)
    assert ledger.sent[2] == 5


def test_a_checkpoint_gives_the_counts_back() -> None:
    ledger, restored = filled(), Ledger()
    restored.send(5, 6, 7)
    restored.restore(json.loads(json.dumps(ledger.state())))
    assert (restored.sent, restored.received, restored.work) == (ledger.sent, ledger.received, ledger.work)
    assert restored.costs == ledger.costs != {}
    assert restored.multiply_adds == ledger.multiply_adds == 2 * 3 * 4 * 5
    restored.send(3, 0, 1)
    assert (restored.sent[3], restored.received[0]) == (1, 21)


def test_work_is_booked_in_equal_parts_and_nothing_is_lost() -> None:
    ledger = Ledger()
    ledger.run([4, 2, 7], lambda: multiply_adds.run(torch.mm, torch.ones(1, 4), torch.ones(4, 5)))
    assert ledger.work == {4: 7, 2: 7, 7: 6}
    with ledger.paused():
        assert ledger.run([4], lambda: multiply_adds.run(torch.mm, torch.ones(1, 4), torch.ones(4, 1))).item() == 4
    assert ledger.multiply_adds == 20


@pytest.mark.parametrize("name", ["sent", "received", "work", "costs"])
@pytest.mark.parametrize("value", [None, 3, "x", [3], [["a", "b"]], [[0, 1, 2]], [[None, 3]]])
def test_counts_that_are_none(name: str, value: Any) -> None:
    with pytest.raises((ValueError, TypeError)):
        Ledger().restore({**Ledger().state(), name: value})


def test_many_messages_at_once() -> None:
    ledger = Ledger()
    ledger.book({0: 3, SERVER: 2}, {1: 5})
    ledger.send(0, 1, 4)
    with ledger.paused():
        ledger.book({0: 100}, {1: 100})
    assert (ledger.sent, ledger.received) == ({0: 7, SERVER: 2}, {1: 9})
