import json

import pytest

from fedtangent.ledger import SERVER, Ledger


def filled() -> Ledger:
    ledger = Ledger()
    ledger.send(0, 1, 100)
    ledger.send(1, 0, 20)
    ledger.send(0, SERVER, 3)
    ledger.send(SERVER, 2, 4000)
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
    assert (restored.sent, restored.received) == (ledger.sent, ledger.received)
    restored.send(3, 0, 1)
    assert (restored.sent[3], restored.received[0]) == (1, 21)
