"""Federations of a few sites on this machine: what they are asked, how they run, and what they must come to."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from fedtangent.experiments.run import run as in_memory
from fedtangent.shard import Dataset
from tests.experiments import tiny
from tests.sites import processes
from tests.sites.processes import NAMES, Process
from tests.sites.proxy import Proxy

OPTIONS: dict[str, dict[str, Any]] = {
    "fedavg": {"participation": 0.7, "batch": 4},
    "fedkfac": {"guard": False},
    "dfedavg": {"epochs": 2, "batch": 4, "momentum": 0.5, "degree": 2},
    "dfedkfac": {"degree": 2, "hops": 2},
    "ntkdfl": {"times": (2, 9), "lr": 0.3, "degree": 2},
}
SERVED = ("fedavg", "fedkfac")
ROUNDS = 3


def leader_of(method: str) -> str:
    """Who leads."""
    return "server" if method in SERVED else "berlin"


def words(method: str, **change: Any) -> list[str]:
    """METHOD and its options as one types them."""
    given = {**OPTIONS[method], "rounds": ROUNDS, "dtype": "float64", "hidden": (6,), **change}
    typed = {name: ",".join(map(str, value)) if isinstance(value, tuple) else value for name, value in given.items()}
    found = [method]
    for name, value in typed.items():
        flag = f"--{name.replace('_', '-')}"
        found += [flag if value else f"--no-{flag[2:]}"] if isinstance(value, bool) else [flag, str(value)]
    return found


def expected(
    method: str, data: Dataset | None = None, names: Sequence[str] = NAMES, **change: Any
) -> list[dict[str, Any]]:
    """The record of one process with all rows."""
    given = {**OPTIONS[method], "rounds": ROUNDS, "dtype": "float64", "hidden": (6,), "engine": "sequential", **change}
    asked = tiny.experiment(
        method,
        **given,
        dataset=tiny.data() if data is None else data,
        partition=processes.partition(names),
    )
    return tiny.timeless(in_memory(asked).rounds)


def begun(
    place: Path,
    method: str,
    *more: Any,
    held: Sequence[int] = (),
    back: int = 0,
    names: Sequence[str] = NAMES,
    change: Mapping[str, Any] | None = None,
    **how: Any,
) -> dict[str, Process]:
    """The processes of a federation that records in `run`, the leader's first.

    Args:
        place: With its kits; they and the rows are made where they are not there.
        method: Whose run it is.
        more: What the leader is given.
        held: As of `processes.held`.
        back: As of `processes.held`.
        names: Of the sites.
        change: Of the method's options.
        how: As of `processes.run`.
    """
    made(place, method, names)
    processes.held(place, leader_of(method), *held, back=back)
    asked = [*words(method, **(change or {})), "--out", place / "run", *more]
    return processes.run(place, asked, method in SERVED, names=names, **how)


def made(place: Path, method: str, names: Sequence[str] = NAMES, data: Dataset | None = None) -> None:
    """Kits and rows of a federation, once."""
    if not (place / "kits").exists():
        processes.kits(place, method in SERVED, names, consent=["kernel", "raw-equivalent"])
        processes.files(place, data, names)


def again(
    place: Path,
    running: dict[str, Process],
    name: str,
    method: str,
    *more: Any,
    variables: Mapping[str, str] | None = None,
    **change: Any,
) -> None:
    """Starts a process once more that has ended, a leader to go on."""
    asked = [*words(method, **change), "--out", place / "run", "--resume", *more]
    running[name] = processes.started(place, name, asked, method in SERVED, variables)


def ended(running: Mapping[str, Process], code: int, seconds: float = processes.MOST) -> dict[str, str]:
    """What all have said that have ended by now with this code and without a traceback."""
    found = {name: process.ended(seconds) for name, process in running.items()}
    assert {name: end.code for name, end in found.items()} == dict.fromkeys(found, code), found
    assert not any("Traceback" in end.said for end in found.values()), found
    return {name: end.said for name, end in found.items()}


def behind(place: Path, name: str, callers: Sequence[str]) -> Proxy:
    """A proxy before a process's door, which its callers have in their books."""
    book = json.loads((place / "kits" / name / "kit.json").read_text())["book"]
    proxy = Proxy(book[name][1])
    for caller in callers:
        path = place / "kits" / caller / "kit.json"
        told = json.loads(path.read_text())
        told["book"][name][1] = proxy.port
        path.write_text(json.dumps(told))
    return proxy
