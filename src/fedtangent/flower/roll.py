"""Roll: every SuperNode is asked which site it is, before any is told to begin."""

import time
from collections.abc import Mapping
from typing import Any

from fedtangent.errors import SettingError
from fedtangent.flower.orders import LOOK, Nodes, at
from fedtangent.sites.kit import Kit


def called(nodes: Nodes, own: Kit | None, wait: float) -> dict[str, int]:
    """The SuperNode of every site, in the sites' order, as soon as all have said who they are.

    Args:
        nodes: The SuperNodes; each must be a site.
        own: The server's kit; None without a server.
        wait: Seconds in which all must have answered.

    Raises:
        ValueError: One is missing, has no kit or no rows, or is of another federation.
    """
    until, asked, told = time.monotonic() + wait, dict[str, int](), dict[int, Mapping[str, Any]]()
    while True:
        for node in {*nodes.there()} - {*asked.values()}:
            asked[nodes.ask("query", node, "")] = node
        for number, answer in nodes.answers([number for number, node in asked.items() if node not in told]).items():
            if answer.error is not None:
                raise SettingError(at(f"SuperNode {asked[number]}", answer.error))
            told[asked[number]] = answer.values
        sites = [] if not told else [str(site) for site in next(iter(told.values()))["sites"]]
        found = {str(values["site"]): node for node, values in told.items()}
        if told:
            _check(told, found, own)
        if sites and {*sites} == {*found} and len(told) == len(asked):
            return {site: found[site] for site in sites}
        if time.monotonic() > until:
            late = [site for site in sites if site not in found]
            raise SettingError(
                f"`{late[0] if late else 'SuperNodes'}` must answer within {wait:g} seconds; got "
                f"{', '.join(found) or 'nobody'}. Start its SuperNode, or give more time by --wait."
            )
        time.sleep(LOOK)


def _check(told: Mapping[int, Mapping[str, Any]], found: Mapping[str, int], own: Kit | None) -> None:
    """Raises ValueError where two SuperNodes are one site, or are of several federations, or not of the server's."""
    if len(found) < len(told):
        names = [str(values["site"]) for values in told.values()]
        (twice, *_) = (name for name in found if names.count(name) > 1)
        raise SettingError(f"`kit` must be at one SuperNode alone; got that of {twice} at two. Stop one of them.")
    first = next(iter(told.values())) if own is None else _of(own)
    for values in told.values():
        if any(values[name] != first[name] for name in ("federation", "served")) or {*values["sites"]} != {
            *first["sites"]
        }:
            raise SettingError(
                f"`kit` must be of the same federation everywhere; got {first['federation']} and, at "
                f"{values['site']}, {values['federation']}, or other sites. Bring the right kits."
            )
    if own is None and first["served"]:
        raise SettingError("`kit` must be given to the run of a federation with a server; got none. Give the server's.")


def _of(own: Kit) -> dict[str, Any]:
    return {"federation": own.federation, "served": own.served, "sites": own.sites}
