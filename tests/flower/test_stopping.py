"""A signal is Ctrl-C to what runs, and then what it was before."""

import signal

import pytest

from fedtangent.flower.stopping import stoppable


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_is_a_keyboard_interrupt_inside_and_flowers_afterwards(number: int) -> None:
    told: list[str] = []
    before = {each: signal.getsignal(each) for each in (signal.SIGINT, signal.SIGTERM)}
    try:
        for each in before:
            signal.signal(each, lambda *_: told.append("flower"))
        with stoppable():
            try:
                signal.raise_signal(number)
            except KeyboardInterrupt:
                told.append("goodbye")
                raise
        assert told == ["goodbye", "flower"]
        signal.raise_signal(number)
        assert told == ["goodbye", "flower", "flower"]
    finally:
        for each, handler in before.items():
            signal.signal(each, handler)


def test_what_fails_inside_fails_outside() -> None:
    before = signal.getsignal(signal.SIGTERM)
    with pytest.raises(ZeroDivisionError), stoppable():
        raise ZeroDivisionError
    assert signal.getsignal(signal.SIGTERM) is before
