"""Taking part: what a SuperNode's site does when the ServerApp asks who it is, and when the run begins."""

import json
from collections.abc import Mapping
from typing import Any

from fedtangent.errors import SettingError
from fedtangent.experiments.experiment import Experiment
from fedtangent.experiments.run import Result
from fedtangent.flower import words
from fedtangent.sites import commands, session
from fedtangent.sites import plan as plans
from fedtangent.sites.in_use import in_use
from fedtangent.sites.kit import SERVER, kit


def known(node: Mapping[str, Any]) -> dict[str, Any]:
    """Who the site is: its federation, its name, all sites, and whether there is a server.

    Args:
        node: The SuperNode's own configuration.

    Raises:
        ValueError: Its kit or its rows cannot be read, or another process uses the kit.
    """
    given = words.of_node(node, False)
    own = kit(given.kit)
    if own.name == SERVER:
        raise SettingError(
            "`kit` must be a site's at a SuperNode; got the server's. Give that to the run, as its `kit`."
        )
    with in_use(given.kit, given.how.get("state")):
        session.own_data(given.settings)
    return {"federation": own.federation, "site": own.name, "sites": own.sites, "served": own.served}


def order(leader: str, settings: Mapping[str, Any], how: Mapping[str, Any]) -> str:
    """What the ServerApp tells every site; only the leader reads more than its name.

    Args:
        leader: Who proposes the plan: a site, or the server.
        settings: Of a plan.
        how: Options of the leader.
    """
    return json.dumps({"leader": leader, "settings": dict(settings), "how": dict(how)})


def taken(node: Mapping[str, Any], told: str) -> dict[str, Any]:
    """What came of the run at this site: its rounds, and the last accuracy or loss that is known here.

    Args:
        node: The SuperNode's own configuration.
        told: From `order`.

    Raises:
        ValueError: What cannot be; or the run has ended before its time.
    """
    try:
        parts = json.loads(told)
        leader, settings, how = (parts[name] for name in ("leader", "settings", "how"))
        how = words.from_afar(how)
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        if isinstance(error, SettingError):
            raise
        raise SettingError("`order` must be one of this version; got another. Install the same everywhere.") from error
    own = kit(words.of_node(node, False).kit)
    leads = leader == own.name
    given = words.of_node(node, leads)
    rows = session.own_data(given.settings)
    device = given.settings.get("device", "cpu")
    result: Result | None
    with in_use(given.kit, given.how.get("out" if leads else "state")):
        if leads:
            asked = Experiment(**plans.checked(settings), device=device)
            result = session.lead(given.kit, asked, rows, **words.completed(commands.start, {**how, **given.how}))
        else:
            result = session.join(given.kit, rows, device=device, **words.completed(commands.site, given.how))
    if result is None:
        raise SettingError(f"`run` must come to its end; got one that ended before. The log of {own.name} says why.")
    print("The run has ended well.", flush=True)
    last = result.rounds[-1] if result.rounds else {}
    measured = {name: float(last[name]) for name in ("accuracy", "loss") if last.get(name) is not None}
    return {"site": own.name, "rounds": len(result.rounds), **measured}
