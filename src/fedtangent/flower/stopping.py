"""Stopping: Flower ends a process by a signal, which the other sites hear of as Ctrl-C, not as a failure."""

import signal
from collections.abc import Iterator
from contextlib import contextmanager


@contextmanager
def stoppable() -> Iterator[None]:
    """Lets a signal be a KeyboardInterrupt inside, by which a site says goodbye, and Flower's own end after that."""
    flower = {number: signal.signal(number, signal.default_int_handler) for number in (signal.SIGINT, signal.SIGTERM)}
    stopped = False
    try:
        yield
    except KeyboardInterrupt:
        stopped = True
    finally:
        for number, handler in flower.items():
            signal.signal(number, handler)
    if stopped:
        signal.raise_signal(signal.SIGINT)
