"""Asking: questions to the neighbours and their answers, computed wave of askers by wave."""

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor

from fedtangent import many, trees
from fedtangent.federation.ledger import Link
from fedtangent.federation.rule import Rule, fit, good, totalled
from fedtangent.federation.transport import Tag, Wire
from fedtangent.federation.values import Cache, Each, Inbox, Wave

Code = Callable[[Any, Link], Any]


class _Answers(NamedTuple):
    """The way back: its tag, what the nodes of this process answer, all its links, and who asks anew."""

    tag: Tag
    out: dict[Link, Any]
    links: list[Link]
    first: set[int]


class Asking:
    """One question of every node to its neighbours; a lonely node asks itself, for the shapes.

    Args:
        wire: What brings questions and answers.
        nodes: Who asks, of all processes.
        neighbours: Those of a node.
        call: Runs a function on some nodes, each with its own arguments.
        asked: The questions; what a neighbour has got in this round already is not sent again.
        own: What the nodes of this process answer from.
        code: What is seen of an answer on its way back.
        device: Of masks and counts.
        round: In which this is.
    """

    def __init__(
        self,
        wire: Wire,
        nodes: Sequence[int],
        neighbours: Callable[[int], tuple[int, ...]],
        call: Callable[[Sequence[int], list[tuple[Any, ...]]], list[Any]],
        asked: Each[Any],
        own: Mapping[int, tuple[Any, ...]],
        code: Code,
        device: torch.device | str,
        round: int,
    ) -> None:
        self._wire, self._neighbours, self._call = wire, neighbours, call
        self._asked, self._own, self._code, self._device, self._round = asked, own, code, device, round
        self._asking, self._answering = wire.tag(), wire.tag()
        self._first_half = frozenset(nodes[: len(nodes) // 2])
        self._unsent = set(nodes)  # an answer that is computed again, to spare memory, was sent once

    def inboxes(self, bill: Callable[[Any], int], wave: Wave, cache: Cache) -> list[Inbox]:
        """The answers that the wave's nodes of this process get; `bill` is what one of them takes."""
        came = self._came(bill, wave, cache)
        kept = dict(zip(came, good([*came.values()]), strict=True))
        left = [node for node, its in kept.items() if not its]  # whose own answer tells the shapes of none
        asked = dict(zip(wave.nodes, self._asked.pull(wave, cache), strict=True))
        for node, own in zip(left, self._call(left, [(asked[node], *self._own[node]) for node in left]), strict=True):
            kept[node] = [own]
        return self._put(wave.nodes, [*kept.values()], left)

    def singles(self, bill: Callable[[Any], int], wave: Wave, cache: Cache) -> list[tuple[list[Any], int]]:
        """The answers that every node of the wave gets, without those that are as absent; and how many these are."""
        came = self._came(bill, wave, cache)
        theirs = [its if self._neighbours(node) else [] for node, its in came.items()]
        return [(kept, len(its) - len(kept)) for kept, its in zip(good(theirs), theirs, strict=True)]

    def totals(
        self, rule: Rule, rows: Callable[[Any], Any], own: Sequence[Any], wave: Wave, cache: Cache
    ) -> list[tuple[Any, Tensor]]:
        """The sum of every node's own and its answers, as a rule takes sums, and how many of these were refused."""
        found = []
        for mine, (answers, refused) in zip(own, self.singles(trees.payload_bytes, wave, cache), strict=True):
            counts = [float(rows(value)) for value in (mine, *answers)]
            its = [(x, n) for x, n in zip(answers, counts[1:], strict=True) if 0 < n < math.inf]
            values, given = [mine, *(x for x, _ in its)], [counts[0], *(n for _, n in its)]
            lost = torch.tensor(refused + len(answers) - len(its), device=self._device)
            found.append((totalled(rule, values, given, 0) if counts[0] > 0 else mine, lost))
        return found

    def _came(self, bill: Callable[[Any], int], wave: Wave, cache: Cache) -> dict[int, list[Any]]:
        """All answers that the wave's nodes get; a lonely node its own."""
        tag, honest, links, first = self._answers(wave, cache)
        answers = self._wire.said(tag, {link: self._code(answer, link) for link, answer in honest.items()}, links)

        def booked(link: Link, value: Any) -> int:
            return bill(value) - self._wire.spared(value) if link[1] in first else 0

        came = self._wire.exchange(tag, answers, links, booked)
        theirs: dict[int, list[Any]] = {node: [] for node in wave.nodes}
        for link in links:
            if link[1] in theirs:
                theirs[link[1]].append(came[link])
        return theirs

    def sums(self, wave: Wave, cache: Cache) -> list[tuple[Any, Tensor]]:
        """The sum of a node's answers, and how many of them were refused, for the wave's nodes of this process."""
        tag, answers, links, first = self._answers(wave, cache)

        def bill(link: Link, value: tuple[Any, Tensor]) -> int:
            return self._wire.payload_bytes(value[0]) if link[1] in first else 0

        links = self._ending_at_home(links)
        sums = self._wire.total(tag, self._vetted(tag, answers, links), links, bill)
        return [sums[i] for i in wave.nodes]

    def _ending_at_home(self, links: list[Link]) -> list[Link]:
        """The links in the order of addition: a receiver of the first half of the nodes has its last neighbour first.

        So a sum over two processes, which hold the halves, ends at its receiver's and crosses the border once.
        """
        half = self._first_half
        return sorted(links, key=lambda link: -link.source if link.target in half else link.source)

    def _answers(self, wave: Wave, cache: Cache) -> _Answers:
        links = [Link(i, j) for i in wave.everybody for j in self._neighbours(i) or (i,)]
        questions = dict(zip(wave.nodes, self._asked.pull(wave, cache), strict=True))
        first = self._unsent.intersection(wave.everybody)
        self._unsent.difference_update(first)
        out = {link: questions[link[0]] for link in links if link[0] in questions}
        came = self._wire.exchange(
            self._asking._replace(wave=wave.number), out, links, self._wire.once(self._round, out.values())
        )
        pairs = [link for link in links if link in came]
        found = self._call([j for _, j in pairs], [(came[link], *self._own[link[1]]) for link in pairs])
        back = [Link(j, i) for i, j in links]
        replies = iter(found)
        answers = {turned: next(replies) for link, turned in zip(links, back, strict=True) if link in came}
        return _Answers(self._answering._replace(wave=wave.number), answers, back, first)

    def _vetted(
        self, tag: Tag, answers: Mapping[Link, Any], links: Sequence[Link]
    ) -> dict[Link, tuple[int, tuple[Any, Tensor]]]:
        """The answers, zeros for a wrong one or one to the node itself; and how many were refused, 0 or 1."""
        none, one = (torch.tensor(count, device=self._device) for count in (0, 1))
        said = self._wire.said(tag, {link: self._code(answer, link) for link, answer in answers.items()}, links)
        out = {}
        right = fit([(answer, answers[link]) for link, answer in said.items()])
        for (link, answer), fine in zip(said.items(), right, strict=True):
            alone = link.source == link.target
            kept = answer if fine and not alone else trees.zeros_like(answers[link])
            out[link] = (1, (kept, none if fine or alone else one))
        return out

    def _put(self, nodes: Sequence[int], answers: list[list[Any]], left: Sequence[int]) -> list[Inbox]:
        """Every node's answers in an Inbox, which is empty for the lonely and those that are `left` without any."""
        real = {count: torch.ones(count, dtype=torch.bool, device=self._device) for count in {*map(len, answers)}}
        inboxes = [Inbox(joined, real[len(its)]) for joined, its in zip(many.joined(answers), answers, strict=True)]
        return [
            inbox if self._neighbours(node) and node not in left else trees.map(lambda leaf: leaf[:0], inbox)
            for node, inbox in zip(nodes, inboxes, strict=True)
        ]
