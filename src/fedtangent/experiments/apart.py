"""Apart: what every process of a real federation keeps of a run, and how all of them go on from the same round.

Each has a checkpoint of its own part, and all but the leader the one before. A round is over when the leader has
written its checkpoint, which it does last, when all that took part have written theirs. The leader's says which round
is whose last one: a site that was away keeps the state that it had, as an absent node does in a simulation.
"""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from fedtangent.errors import SettingError
from fedtangent.experiments import atomic, checkpoint, record
from fedtangent.experiments.setup import Setup
from fedtangent.federation import SERVER, Fleet

_NAMES = (checkpoint.BEFORE, checkpoint.NAME)
_AWAY = "away"  # in the entry of a round in which a site took no part


def rounds_over(folder: Path) -> int:
    """How many rounds of a leader's record are over; -1 where none has begun.

    Raises:
        ValueError: Its checkpoint is cut off, or of another version.
    """
    found = checkpoint.read(folder, whole=False)
    return -1 if found is None else int(found[0]["meta"]["round"])


def begun(
    built: Setup, fleet: Fleet, folder: Path, brought: Sequence[Callable[..., Any]]
) -> tuple[Any, list[dict[str, Any]], list[str], list[type]] | None:
    """State, rounds, digests of their lines and types of states after the last round that is over; None before it.

    Args:
        built: This process's setup.
        fleet: Before the first round.
        folder: With its part.
        brought: The method's factory and its host's.

    Raises:
        ValueError: A process lacks its part, on every process.
    """
    wire = fleet.wire
    held = {found[0]["meta"]["round"]: (name, found) for name in _NAMES if (found := checkpoint.read(folder, name))}
    meta = held[max(held)][1][0]["meta"] if built.leads and held else None
    told = wire.tell(None if meta is None else {node: books["round"] for node, books in meta["books"].items()})
    if told is None:
        return None
    own, over = told[str(_node(built))], max(told.values())
    _check(built, fleet, own in held)
    name, (header, tensors) = held[own]
    if name == checkpoint.BEFORE:  # what came after it does not count
        atomic.renamed(folder / name, folder / checkpoint.NAME)
    types = checkpoint.known_types(None, brought, everywhere=True)
    state, meta = checkpoint.rebuilt(folder, header, tensors, fleet, None, types)
    checkpoint.restore(folder, wire, meta, built.fingerprint, built.experiment.rounds)
    if wire.coding is not None:
        wire.coding.restore(meta.get("kept", ()), wire.transport.here)
    if built.leads:
        wire.away = {int(node): books for node, books in meta["books"].items() if int(node) not in fleet.nodes}
    rounds, digests = record.cut(folder, meta["lines"]), list(meta["lines"])
    while len(rounds) < over:
        rounds.append({"round": len(rounds) + 1, _AWAY: True})
        digests.append(record.append(folder, rounds[-1]))
    return state, rounds, digests, types


def kept(
    built: Setup, fleet: Fleet, folder: Path, state: Any, rounds: Sequence[dict[str, Any]], digests: Sequence[str]
) -> None:
    """Writes this process's checkpoint, the leader's when all others have written theirs.

    Args:
        built: This process's setup.
        fleet: Of the round.
        folder: For its part.
        state: After the round.
        rounds: Those that are over, this one included.
        digests: Of their lines.
    """
    wire = fleet.wire
    meta = {"round": len(rounds), "lines": list(digests), "fingerprint": built.fingerprint}
    meta |= {"ledger": wire.ledger.state(), "held": wire.cache.state()}
    meta["kept"] = [] if wire.coding is None else wire.coding.state()
    if not built.leads:
        checkpoint.set_aside(folder)
        checkpoint.save(folder, state, meta)
    books = wire.books_of(built.nodes)  # which tells the leader that all have written theirs
    if built.leads:  # whose newest always counts: it is replaced, and never away in between
        now = {node: {**own, "round": len(rounds)} for node, own in books.items()}
        meta["books"] = {str(node): own for node, own in {**wire.away, **now}.items()}
        checkpoint.save(folder, state, meta)


def _node(built: Setup) -> int:
    """This process's node, or SERVER."""
    assert built.share is not None
    return SERVER if built.share.node is None else built.share.node


def _check(built: Setup, fleet: Fleet, held: bool) -> None:
    """Raises the same sentence on every process where one of them lacks its part."""
    for node, there in fleet.wire.everybody(built.nodes, (_node(built), held)):
        if not there:
            who = "the server" if node == SERVER else f"node {node}"
            raise SettingError(
                f"`out` must hold the part of every process that took part; got none at {who}. Bring its folder back, "
                "or run anew with another --out."
            )
