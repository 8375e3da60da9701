"""Orders: what the sites are told to do, and how each has ended; one whose SuperNode comes back is told again."""

import threading
import time
from collections.abc import Collection, Iterator, Mapping
from contextlib import contextmanager
from typing import Any, NamedTuple, Protocol

from fedtangent.reports.schema import printable

LOOK = 1.0  # seconds between two looks at what has come
_FAREWELL = 30.0  # seconds in which sites may still tell how they ended, once the leader has


class Answer(NamedTuple):
    """What came of a question.

    Attributes:
        values: What the site answers; none where it failed.
        error: Why it did.
        lost: Whether its SuperNode, or the process that should have answered, is gone; it may come back.
    """

    values: Mapping[str, Any]
    error: str | None = None
    lost: bool = False


class Nodes(Protocol):
    """The SuperNodes, as the ServerApp reaches them."""

    def there(self) -> Mapping[int, str]:
        """Those that are connected, and since when."""

    def ask(self, kind: str, node: int, told: str) -> str:
        """The number of a question to one of them.

        Args:
            kind: "query" or "train".
            node: Which.
            told: A text.
        """

    def answers(self, asked: Collection[str]) -> dict[str, Answer]:
        """Those that have come, by the number of the question."""


class Orders:
    """The order to take part, given to every site, and how each of them has ended.

    Args:
        nodes: The SuperNodes.
        sites: The SuperNode of every site.
        order: What they are told.
        leader: Who proposes the plan, and is not told again: a run is gone on with by --resume alone.

    Attributes:
        heard: How sites have ended.
    """

    def __init__(self, nodes: Nodes, sites: Mapping[str, int], order: str, leader: str) -> None:
        self._nodes, self._sites, self._order, self._leader = nodes, sites, order, leader
        self._asked: dict[str, str] = {}
        self._since: dict[str, str | None] = {}
        self._lost: set[str] = set()
        self.heard: dict[str, Answer] = {}
        there = nodes.there()
        for site in sites:
            self._ask(site, there)

    def look(self) -> None:
        """Hears what has come, and tells those again who are back."""
        there = self._nodes.there()
        found = self._nodes.answers([*self._asked])
        for number, site in self._asked.items():
            if number not in found and there.get(self._sites[site], self._since[site]) != self._since[site]:
                found[number] = Answer({}, "its SuperNode has ended, and was started again.", lost=True)
        for number, answer in found.items():
            self._hear(self._asked.pop(number), answer)
        for site in [site for site in self._lost if self._sites[site] in there]:
            self._lost.remove(site)
            self._ask(site, there)
            print(f"{site} is connected again, and told to take part.", flush=True)

    def _hear(self, site: str, answer: Answer) -> None:
        if answer.lost and site != self._leader:
            self._lost.add(site)
            print(f"{site} is lost. It is told to take part again when its SuperNode is back.", flush=True)
            return
        self.heard[site] = answer
        if answer.error is not None:
            print(at(site, answer.error), flush=True)
            return
        values = ", ".join(f"{name} {value}" for name, value in answer.values.items() if name != "site")
        print(f"{site} is done: {values}.", flush=True)

    def _ask(self, site: str, there: Mapping[int, str]) -> None:
        node = self._sites[site]
        self._asked[self._nodes.ask("train", node, self._order)] = site
        self._since[site] = there.get(node)

    @contextmanager
    def followed(self) -> Iterator[None]:
        """Looks every second, beside what is done meanwhile."""
        over = threading.Event()

        def follow() -> None:
            while not over.wait(LOOK):
                self.look()

        follower = threading.Thread(target=follow, daemon=True)
        follower.start()
        try:
            yield
        finally:
            over.set()
            follower.join()

    def farewell(self) -> list[str]:
        """Why sites have failed, once all are heard, or had time for that."""
        until = time.monotonic() + _FAREWELL
        while self._asked and time.monotonic() < until:
            self.look()
            time.sleep(LOOK)
        silent = [site for site in self._sites if site not in self.heard]
        if silent:
            print(f"Nothing was heard of the end at {', '.join(silent)}.", flush=True)
        return [at(site, answer.error) for site, answer in self.heard.items() if answer.error is not None]


def at(where: str, why: str) -> str:
    """A sentence, and where it was said."""
    return printable(f"At {where}: {why}")
