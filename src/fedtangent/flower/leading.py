"""Leading: the ServerApp calls the roll of the sites, lets one of them lead or leads itself, and hears the end."""

import time
from collections.abc import Collection, Mapping, Sequence
from typing import Any, NamedTuple, Protocol

from fedtangent.errors import SettingError, UserError
from fedtangent.experiments.experiment import experiment
from fedtangent.flower import taking_part, words
from fedtangent.reports.schema import printable
from fedtangent.sites import commands
from fedtangent.sites import plan as plans
from fedtangent.sites.kit import SERVER, Kit, kit

_LOOK = 1.0  # seconds between two looks at what has come
_FAREWELL = 30.0  # seconds in which the others may still tell how they ended, once one has failed


class Unfinished(UserError, RuntimeError):
    """A run that has not come to its end."""


class Answer(NamedTuple):
    """values: What a site answers; none where it failed. error: Why it did."""

    values: Mapping[str, Any]
    error: str | None = None


class Nodes(Protocol):
    """The SuperNodes, as the ServerApp reaches them."""

    def there(self) -> Collection[int]:
        """Those that are connected."""

    def ask(self, kind: str, node: int, told: str) -> str:
        """The number of a question to one of them.

        Args:
            kind: "query" or "train".
            node: Which.
            told: A text.
        """

    def answers(self, asked: Collection[str]) -> dict[str, Answer]:
        """Those that have come, by the number of the question."""


def lead(nodes: Nodes, config: Mapping[str, Any]) -> None:
    """Carries a run out, from the roll of the sites to what each says of the end.

    Args:
        nodes: Those that Flower knows; each must be a site.
        config: The run's configuration: kit, leader, method and options.

    Raises:
        ValueError: What cannot be, here or at a site.
        RuntimeError: The run has ended before its time.
    """
    given = words.of_run(config)
    settings = plans.settings(experiment(**given.settings))
    own = kit(given.kit) if config.get("kit") else None
    if own is not None and own.name != SERVER:
        raise SettingError(f"`kit` must be the server's in a run; got that of {own.name}. Drop it without a server.")
    wait = float(words.completed(commands.server, given.how)["wait"])
    sites = _present(nodes, own, wait)
    leader = _leader(str(config.get("leader", "")), own, list(sites))
    print(f"{', '.join(sites)} are there; {leader} leads {settings['method']}.", flush=True)
    how = given.how if own is None else {}
    order = taking_part.order(leader, settings if own is None else {}, how)
    asked = {nodes.ask("train", node, order): site for site, node in sites.items()}
    code = 0 if own is None else commands.server(given.settings, given.kit, **given.how)
    _heard(nodes, asked, ended=code != 0)


def _leader(chosen: str, own: Kit | None, sites: Sequence[str]) -> str:
    if own is not None:
        if chosen:
            raise SettingError(f"`leader` must be left out where a server leads; got {chosen!r}. Drop it.")
        return SERVER
    if chosen and chosen not in sites:
        raise SettingError(f"`leader` must be one of {', '.join(sites)}; got {chosen!r}. Choose one.")
    return chosen or sites[0]


def _present(nodes: Nodes, own: Kit | None, wait: float) -> dict[str, int]:
    """The SuperNode of every site, in the sites' order, as soon as all have said who they are."""
    until, asked, told = time.monotonic() + wait, dict[str, int](), dict[int, Mapping[str, Any]]()
    while True:
        for node in {*nodes.there()} - {*asked.values()}:
            asked[nodes.ask("query", node, "")] = node
        open_ = [number for number, node in asked.items() if node not in told]
        for number, answer in nodes.answers(open_).items():
            if answer.error is not None:
                raise SettingError(_at(f"SuperNode {asked[number]}", answer.error))
            told[asked[number]] = answer.values
        found = {str(values["site"]): node for node, values in told.items()}
        if told:
            _check_roll(told, found, own)
            sites = [str(site) for site in next(iter(told.values()))["sites"]]
            if {*sites} == {*found} and len(told) == len(asked):
                return {site: found[site] for site in sites}
        if time.monotonic() > until:
            late = [site for site in (sites if told else []) if site not in found]
            raise SettingError(
                f"`{late[0] if late else 'SuperNodes'}` must answer within {wait:g} seconds; got "
                f"{', '.join(found) or 'nobody'}. Start its SuperNode, or give more time by --wait."
            )
        time.sleep(_LOOK)


def _check_roll(told: Mapping[int, Mapping[str, Any]], found: Mapping[str, int], own: Kit | None) -> None:
    """Raises ValueError where two SuperNodes are one site, or are of several federations, or not of the server's."""
    if len(found) < len(told):
        names = [str(values["site"]) for values in told.values()]
        (twice, *_) = (name for name in found if names.count(name) > 1)
        raise SettingError(f"`kit` must be at one SuperNode alone; got that of {twice} at two. Stop one of them.")
    first = next(iter(told.values())) if own is None else _of(own)
    for values in told.values():
        if (
            any(values[name] != first[name] for name in ("federation", "served"))
            or [*values["sites"]] != first["sites"]
        ):
            raise SettingError(
                f"`kit` must be of the same federation everywhere; got {first['federation']} and, at "
                f"{values['site']}, {values['federation']}, or other sites. Bring the right kits."
            )
    if own is None and first["served"]:
        raise SettingError("`kit` must be given to the run of a federation with a server; got none. Give the server's.")


def _of(own: Kit) -> dict[str, Any]:
    return {"federation": own.federation, "served": own.served, "sites": own.sites}


def _heard(nodes: Nodes, asked: Mapping[str, str], ended: bool) -> None:
    """Waits until every site has told what came of the run, or for a while after one has failed.

    Args:
        nodes: The SuperNodes.
        asked: The sites, by the numbers of their questions.
        ended: Whether the run is known to have failed.
    """
    left, failed = dict(asked), list[str]()
    until = time.monotonic() + _FAREWELL if ended else float("inf")
    while left and time.monotonic() < until:
        for number, answer in nodes.answers([*left]).items():
            site = left.pop(number)
            if answer.error is not None:
                failed.append(_at(site, answer.error))
                until = min(until, time.monotonic() + _FAREWELL)
                continue
            values = ", ".join(f"{name} {value}" for name, value in answer.values.items() if name != "site")
            print(f"{site} is done: {values}.", flush=True)
        if left:
            time.sleep(_LOOK)
    if failed or ended or left:
        raise Unfinished(" ".join(failed) or "The run has ended before its time, as is told above.")


def _at(where: str, why: str) -> str:
    return printable(f"At {where}: {why}")
