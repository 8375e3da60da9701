"""Looking: what record, evaluation and checkpoint see of the values that nodes and the server hold; never billed."""

from dataclasses import replace
from typing import Any

from fedtangent.federation.fleet import Fleet
from fedtangent.federation.values import Central, Each, Holders, replaced


def seen(fleet: Fleet, value: Any) -> Any:
    """What a method records, on every process: of an Each the list of all values, of a Central its value."""
    if isinstance(value, Each):
        return replace(fleet, nodes=value.nodes).observe(value)
    return fleet.wire.tell(value.value) if isinstance(value, Central) else value


def collected(fleet: Fleet, state: Any) -> Any:
    """A state whose values are all where the server is, for a checkpoint; elsewhere it is of no use."""

    def whole(part: Each[Any] | Central[Any]) -> Any:
        if isinstance(part, Central):
            return part
        with fleet.ledger.paused():
            gathered = replace(fleet, nodes=part.nodes).gather(part)
        return (
            Each(Holders(part.nodes), dict(zip(part.nodes, gathered.value, strict=True))) if gathered.is_here else part
        )

    return state if len(fleet.wire.transport.blocks(fleet.nodes)[0]) == 1 else replaced(state, whole)
