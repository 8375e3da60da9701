"""Memory: all nodes and the server in one process; a message is there already."""

from collections.abc import Mapping, Sequence
from typing import Any, TypeVar

from fedtangent import many
from fedtangent.federation.ledger import Link
from fedtangent.federation.transport import Tag

T = TypeVar("T")


class _Memory:
    name = "memory"

    def here(self, node: int) -> bool:
        return True

    def blocks(self, nodes: Sequence[int]) -> tuple[list[list[int]], int]:
        return [list(nodes)], 0

    def exchange(self, tag: Tag, out: Mapping[Link, Any], links: Sequence[Link]) -> dict[Link, Any]:
        return {link: out[link] for link in links}

    def total(self, tag: Tag, out: Mapping[Link, tuple[float, Any]], links: Sequence[Link]) -> dict[int, Any]:
        parts: dict[int, list[tuple[float, Any]]] = {}
        for link in links:
            parts.setdefault(link.target, []).append(out[link])
        values = [[value for _, value in its] for its in parts.values()]
        sums = many.weighted_sums(values, [[weight for weight, _ in its] for its in parts.values()])
        return dict(zip(parts, sums, strict=True))

    def tell(self, tag: Tag, value: T) -> T:
        return value


def memory() -> _Memory:
    """Everything in this process."""
    return _Memory()
