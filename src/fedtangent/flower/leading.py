"""Leading: the ServerApp calls the roll of the sites, lets one of them lead or leads itself, and hears the end."""

import time
from collections.abc import Mapping, Sequence
from typing import Any

from fedtangent.errors import SettingError, UserError
from fedtangent.experiments.experiment import experiment
from fedtangent.flower import roll, taking_part, words
from fedtangent.flower.orders import LOOK, Nodes, Orders
from fedtangent.sites import commands
from fedtangent.sites import plan as plans
from fedtangent.sites.kit import SERVER, Kit, kit


class Unfinished(UserError, RuntimeError):
    """A run that has not come to its end."""


def lead(nodes: Nodes, config: Mapping[str, Any]) -> None:
    """Carries a run out, from the roll of the sites to what each says of the end; it ends as it does at its leader.

    Args:
        nodes: The SuperNodes; each must be a site.
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
    sites = roll.called(nodes, own, float(words.completed(commands.server, given.how)["wait"]))
    leader = _leader(str(config.get("leader", "")), own, list(sites))
    print(f"{', '.join(sites)} are there; {leader} leads {settings['method']}.", flush=True)
    if own is None:
        orders = Orders(nodes, sites, taking_part.order(leader, settings, given.how), leader)
        while leader not in orders.heard:
            time.sleep(LOOK)
            orders.look()
        well = orders.heard[leader].error is None
    else:
        orders = Orders(nodes, sites, taking_part.order(leader, {}, {}), leader)
        with orders.followed():
            well = commands.server(given.settings, given.kit, **given.how) == 0
    failed = orders.farewell()
    if not well:
        raise Unfinished(" ".join(failed) or "The run has ended before its time, as is told above.")


def _leader(chosen: str, own: Kit | None, sites: Sequence[str]) -> str:
    if own is not None:
        if chosen:
            raise SettingError(f"`leader` must be left out where a server leads; got {chosen!r}. Drop it.")
        return SERVER
    if chosen and chosen not in sites:
        raise SettingError(f"`leader` must be one of {', '.join(sites)}; got {chosen!r}. Choose one.")
    return chosen or sites[0]
