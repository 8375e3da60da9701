"""Two rounds of a method on any transport; run as a program on ranks, it prints digests of every method's results."""

import hashlib
import json
import sys
from typing import Any

import numpy as np
from torch import Tensor

from fedtangent import trees
from fedtangent.attacks.alie import alie
from fedtangent.catalog import load, names
from fedtangent.channels.quantize import quantize
from fedtangent.channels.topk import topk
from fedtangent.federation import SERVER, Coding, Each, Ledger, Liars, Missing, Transport, Wire
from fedtangent.federation.looking import collected, seen
from fedtangent.federation.values import replaced
from fedtangent.rules.geometric_median import geometric_median
from fedtangent.transports import _shared
from fedtangent.transports.ranks import joined, ranks
from tests import tiny_federation as federation
from tests.tiny_federation import ROWS, absences, plain

# Of three blocks one is empty in the second round, and links fail that cross a border.
GONE = (Missing(nodes=[1, 3], links=[(2, 4)]), Missing(nodes=[5, 0], links=[(1, 2)]))
BROKEN = ("sumntk",)  # a lie leaves no kernel, which ends the run
OPEN: dict[str, dict[str, Any]] = {  # of who would refuse so few
    "afl": {"guard": False},
    "fedkfac": {"guard": False},
    "fedpm": {"guard": False},
    "sumntk": {"columns": 1},
    "tct": {"first_rounds": 1, "features": 40, "steps": 9},
}
Played = tuple[Any, dict[str, Tensor], list[Any], Ledger]


def play(
    transport: Transport,
    what: str,
    *,
    coded: bool = False,
    convolutional: bool = False,
    faulty: bool = False,
    lied: bool = False,
    engine: str = "sequential",
) -> Played:
    """State, aggregate, extras and bill of two rounds of a method; the state at the server's process alone."""
    liars = Liars(alie(z=0.05), frozenset({1, 5})) if lied else None  # who collude: they hear what the others send
    wire = Wire(
        transport, coding=lossy(what) if coded else None, liars=liars, rule=geometric_median() if lied else None
    )
    computing = federation.engine(engine, len(ROWS))
    graph = federation.graph_of(what)
    fleet = federation.fleet(wire=wire, round=0, engine=computing, graph=graph)
    method = federation.method(
        what, federation.task(convolutional=convolutional), **(OPEN.get(what, {}) if faulty else {})
    )
    data_k = fleet.each(federation.shards())
    state, extras = method.init(fleet, data_k), []
    for k in (1, 2):
        now = federation.fleet(wire=wire, round=k, engine=computing, graph=graph)
        state, extra = federation.attended(method, now, state, data_k, k, absences(*GONE) if faulty else None)
        extras.append({name: seen(now, value) for name, value in extra.items()})
        replaced(state, lambda part: part.settle() if isinstance(part, Each) else part)
    with wire.ledger.paused():
        aggregate = seen(now, method.aggregate(now, state, data_k))
    whole = collected(now, state)
    return plain(whole) if transport.here(SERVER) else None, aggregate, extras, wire.books(fleet.nodes)


def lossy(what: str) -> Coding:
    """A part of the entries, drawn levels; what is lost of messages that last is sent later."""
    lasting = all(message.lasting for message in load("methods", what)(federation.task()).messages.values())
    channels = [topk(share=0.5), quantize(levels=7, rounding="stochastic")]
    return Coding(channels, feedback="error" if lasting else "none")


def digests(transport: Transport, every: bool) -> dict[str, str]:
    """Of every method, dense and in some other way: convolutional, with channels, with absent nodes, or with liars.

    Args:
        transport: Any.
        every: Whether in every other way, and not in one that the method bears.
    """
    found = {}
    for place, what in enumerate(names("methods")):
        made = load("methods", what)(federation.task())
        borne = {"coded": bool(made.messages), "faulty": not made.traits.needs_all, "lied": what not in BROKEN}
        ways = [how for how in ("convolutional", "coded", "faulty", "lied") if borne.get(how, True)]
        for how in ("dense", *(ways if every else ways[place % len(ways) :][:1])):
            found[f"{what} {how}"] = digest(play(transport, what, **({} if how == "dense" else {how: True})))
    return found


def digest(played: Played) -> str:
    """Of all numbers, to the bit."""
    *values, ledger = played
    sum_ = hashlib.sha256(json.dumps([ledger.state()[name] for name in ("sent", "received", "work")]).encode())
    for leaf in trees.leaves(values):
        array = leaf.detach().numpy() if isinstance(leaf, Tensor) else np.asarray(leaf)
        sum_.update(f"{array.shape} {array.dtype}".encode() + np.ascontiguousarray(array).tobytes())
    return sum_.hexdigest()


if __name__ == "__main__":
    if "shared" in sys.argv:
        _shared._LEAST = 1  # every message's numbers go through memory, however few they are
    with joined():
        transport = ranks(ROWS)
        told = digests(transport, every="every" in sys.argv)
        assert bool(transport._pipes._shared._theirs) >= ("shared" in sys.argv)  # type: ignore[attr-defined]
        if transport.here(SERVER):
            print(json.dumps(told))
