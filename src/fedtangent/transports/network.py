"""Network: a process a site, and perhaps a server, joined by TLS; what one sends another goes through no third.

A site's values go to their receiver alone: sums are added by the receiver, and not on the way from site to site.
"""

from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any, TypeVar

from fedtangent import many, shard
from fedtangent.errors import SettingError
from fedtangent.federation.disclosure import OWNERS
from fedtangent.federation.ledger import Link
from fedtangent.federation.transport import Tag
from fedtangent.transports._lines import Gone, Lines
from fedtangent.transports._masks import Masks, fixed, form, opened
from fedtangent.transports._pipes import Piped

T = TypeVar("T")


class _Network:
    name = "network"

    def __init__(self, lines: Lines, places: Mapping[int, int], masks: Masks | None) -> None:
        self._piped, self._masks = Piped("network", lines, places), masks
        self._lines, self._places = lines, places

    def here(self, node: int) -> bool:
        return self._piped.here(node)

    def blocks(self, nodes: Sequence[int]) -> tuple[list[list[int]], int]:
        return self._piped.blocks(nodes)

    def exchange(self, tag: Tag, out: Mapping[Link, Any], links: Sequence[Link]) -> dict[Link, Any]:
        return self._exchanged(tag, out, links, False)

    def _exchanged(self, tag: Tag, out: Mapping[Link, Any], links: Sequence[Link], summed: bool) -> dict[Link, Any]:
        try:
            came = self._piped.exchange(tag, out, links)
        except ValueError as error:  # of zip: another count
            raise Gone(f"a site sent another number of messages than is due at {tag}.") from error
        if came:
            self._check({**came, **out}, summed)
        return came

    def _check(self, values: Mapping[Link, Any], summed: bool) -> None:
        """Raises where messages of one verb differ in more than their numbers; this process's own are right."""
        forms = [(link.source, shard.form(value, summed)) for link, value in values.items()]
        own = [found for node, found in forms if self.here(node)]
        right = own[0] if own else Counter(found for _, found in forms).most_common(1)[0][0]
        for node, found in forms:
            if found != right:
                name = self._lines.name(self._places.get(node, 0))
                raise Gone(f"{name} sent a message of another form than is due.", name)

    def total(self, tag: Tag, out: Mapping[Link, tuple[float, Any]], links: Sequence[Link]) -> dict[int, Any]:
        """Added by their receiver, in the order of the nodes."""
        if self._masks is not None:
            return self._masked_total(self._masks, tag, out, links)
        came = self._exchanged(tag, out, links, True)
        parts: dict[int, list[tuple[float, Any]]] = {}
        for link in links:
            if link in came:
                parts.setdefault(link.target, []).append(came[link])
        values = [[value for _, value in its] for its in parts.values()]
        sums = many.weighted_sums(values, [[weight for weight, _ in its] for its in parts.values()])
        return dict(zip(parts, sums, strict=True))

    def _masked_total(
        self, masks: Masks, tag: Tag, out: Mapping[Link, tuple[float, Any]], links: Sequence[Link]
    ) -> dict[int, Any]:
        senders: dict[int, list[int]] = {}
        for link in links:
            senders.setdefault(link.target, []).append(link.source)
        leaving = {}
        for link, (weight, value) in out.items():
            its = senders[link.target]
            if its != [link.target] and len(its) < OWNERS:
                raise SettingError(
                    f"`nodes` must be at least {OWNERS} in a masked sum; got {len(its)}. Raise participation or degree."
                )
            part = masks.masked(tag, link.target, link.source, its, fixed(weight, value, len(its)))
            leaving[link] = (form(value), part)
        came = self.exchange(tag, leaving, links)
        try:
            return {
                target: opened(came[Link(its[0], target)][0], [came[Link(node, target)][1] for node in its])
                for target, its in senders.items()
                if Link(its[0], target) in came
            }
        except (ValueError, TypeError, AttributeError, IndexError) as error:
            raise Gone(f"a site sent no part of the sum that is due at {tag}.") from error

    def tell(self, tag: Tag, value: T) -> T:
        return self._piped.tell(tag, value)


def network(lines: Lines, places: Mapping[int, int], masks: Masks | None = None) -> _Network:
    """The transport between sites.

    Args:
        lines: To the others.
        places: On which process a node is.
        masks: Of this process; None where sums are not masked.
    """
    return _Network(lines, places, masks)


def everybody(lines: Lines, number: int, value: Any) -> list[Any]:
    """Every process's value, in their order, on every process, before the first verb.

    Args:
        lines: Between them.
        number: Of this question, from 1.
        value: A tree of tensors and plain values.
    """
    own, others = lines.place, range(1, lines.count)
    up, down = Tag(0, 2 * number), Tag(0, 2 * number + 1)
    if own:
        lines.swap(up, {0: [value]}, [])
        return list(lines.swap(down, {}, [0])[0][0])
    came = lines.swap(up, {}, list(others))
    found = [value, *(came[place][0] for place in others)]
    lines.swap(down, {place: [found] for place in others}, [])
    return found
