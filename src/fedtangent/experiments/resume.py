"""Resume: where a run begins, or goes on, from the checkpoint of its folder."""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple, TypeVar

from fedtangent.experiments import apart, checkpoint, method, record
from fedtangent.experiments.experiment import factory
from fedtangent.experiments.setup import Setup
from fedtangent.federation import SERVER, Each, Fleet, Wire
from fedtangent.shard import Shard

T = TypeVar("T")


class Begun(NamedTuple):
    """What a run goes on from.

    Attributes:
        state: The method's.
        rounds: One entry a round that is over.
        digests: Of their lines in the record.
        types: Of the states that the method may have.
    """

    state: Any
    rounds: list[dict[str, Any]]
    digests: list[str]
    types: list[type]


class Refused(RuntimeError):
    """The server's process has failed, and says why."""


def agreed(wire: Wire, fn: Callable[[], T]) -> T:
    """What fn gives at the server's process, on every process; where it fails there, all fail."""
    found: Any = None
    error: Exception | None = None
    if wire.transport.here(SERVER):
        try:
            found = fn()
        except Exception as failure:
            error = failure
    failed, found = wire.tell((None if error is None else str(error), found))
    if error is not None:
        raise error
    if failed is not None:
        raise Refused(failed)
    return found  # type: ignore[no-any-return]


def begun(built: Setup, fleet: Fleet, data_k: Each[Shard], folder: Path | None) -> Begun:
    """The first state, or that of the folder's checkpoint."""
    functions = [factory("method", built.experiment.method), factory("host", built.experiment.hosted)]
    brought = [function for function in functions if function is not None]
    if folder is not None and built.share is not None:
        own = apart.begun(built, fleet, folder, brought)
        if own is not None:
            return Begun(*own)
    state = method.begun(built.method, fleet, data_k)
    if folder is None:
        return Begun(state, [], [], [])
    types = checkpoint.known_types(state, brought)
    if built.share is not None:
        record.cut(folder, [])
        apart.kept(built, fleet, folder, state, [], [])
        return Begun(state, [], [], types)
    told = agreed(fleet.wire, lambda: _recorded(built, fleet, folder, state, types))
    if told is None:
        return Begun(state, [], [], types)
    header, tensors, rounds, digests = told
    if not built.leads:
        fleet.ledger.costs = dict(header["meta"]["ledger"]["costs"])
    found = checkpoint.rebuilt(folder, header, tensors, fleet, state, types)
    if fleet.wire.coding is not None:
        fleet.wire.coding.restore(found.meta.get("kept", ()), fleet.wire.transport.here)
    return Begun(found.state, rounds, digests, types)


def _recorded(built: Setup, fleet: Fleet, folder: Path, first: Any, types: Sequence[type]) -> Any:
    """Header and tensors of the folder's checkpoint, its rounds and their digests; None where there is none."""
    found = checkpoint.read(folder)
    if found is None:
        record.cut(folder, [])
        return None
    header, tensors = found
    meta = checkpoint.rebuilt(folder, header, tensors, fleet, first, types).meta
    checkpoint.restore(folder, fleet.wire, meta, built.fingerprint, built.experiment.rounds)
    return header, tensors, record.cut(folder, meta["lines"]), meta["lines"]
