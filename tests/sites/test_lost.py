"""Lost: whatever happens to a site or to its connection, a run comes to the record of one to which nothing happened."""

from __future__ import annotations

import json
import os
import random
import signal
import time
from pathlib import Path
from typing import Any

import pytest
import torch

from tests.experiments import tiny
from tests.sites import processes
from tests.sites.proxy import Proxy
from tests.sites.test_federation import SERVED, expected, words

METHODS = ("fedavg", "fedkfac", "ntkdfl", "dfedkfac")
ROUNDS = 25


@pytest.fixture
def place(tmp_path: Path) -> Path:
    processes.files(tmp_path)
    return tmp_path


def leader_of(method: str) -> str:
    return "server" if method in SERVED else "berlin"


def begun(place: Path, method: str, rounds: int = ROUNDS, *more: Any, **change: Any) -> dict[str, processes.Process]:
    served = method in SERVED
    processes.kits(place, served, consent=["kernel", "raw-equivalent"])
    asked = [*words(method, rounds=rounds), "--out", place / "run", *more]
    return processes.run(place, asked, served, **change)


def well(running: dict[str, processes.Process]) -> None:
    ended = {name: process.ended() for name, process in running.items()}
    assert {name: end.code for name, end in ended.items()} == dict.fromkeys(ended, 0), ended
    assert not any("Traceback" in end.said for end in ended.values()), ended


def behind(place: Path, name: str, callers: list[str]) -> Proxy:
    """A proxy before a process's door, which its callers have in their books."""
    book = json.loads((place / "kits" / name / "kit.json").read_text())["book"]
    proxy = Proxy(book[name][1])
    for caller in callers:
        path = place / "kits" / caller / "kit.json"
        told = json.loads(path.read_text())
        told["book"][name][1] = proxy.port
        path.write_text(json.dumps(told))
    return proxy


def through(place: Path, method: str, rounds: int = ROUNDS, *more: Any, **change: Any) -> tuple[Proxy, dict[str, Any]]:
    """A federation, and a proxy between its leader and rome."""
    served = method in SERVED
    processes.kits(place, served, consent=["kernel", "raw-equivalent"])
    proxy = behind(place, leader_of(method), ["rome"])
    asked = [*words(method, rounds=rounds), "--out", place / "run", *more]
    return proxy, processes.run(place, asked, served, **change)


def test_a_site_that_hangs_is_left_out_and_is_back_when_it_goes_on(place: Path) -> None:
    running = begun(place, "fedavg", 10**6, "--quorum", "0.8", "--patience", "3", "--deadline", "1")
    running["server"].until("round 3/")
    pid = running["rome"].process.pid
    assert pid is not None
    os.kill(pid, signal.SIGSTOP)
    running["server"].until("fedtangent: rome has said nothing for 3 seconds.")
    running["server"].until("as soon as all are there, or in 1 seconds with those that are.")
    running["server"].until("Going on without rome, with 4 of 5 sites.")
    os.kill(pid, signal.SIGCONT)
    running["server"].until("fedtangent: rome is back.")
    running["server"].until("5 present", after="fedtangent: rome is back.")
    assert "fedtangent: rome is back. Waiting for server to go on." in running["oslo"].said()


@pytest.mark.parametrize("method", ["fedavg", pytest.param("dfedkfac", marks=pytest.mark.slow)])
def test_connections_that_are_cut_again_and_again(method: str, place: Path) -> None:
    proxy, running = through(place, method)
    for round in (2, 3, 7):
        running[leader_of(method)].until(f"round {round}/")
        proxy.cut()
    well(running)
    assert processes.rounds(place / "run") == expected(method, rounds=ROUNDS)
    proxy.close()


def test_a_site_is_lost_where_features_are_standardised(place: Path) -> None:
    running = begun(place, "fedavg", ROUNDS, "--standardise")
    running["server"].until("round 3/")
    running["rome"].process.kill()
    running["rome"].ended(60)
    running["rome"] = processes.started(place, "rome", [], True)
    well(running)
    data = tiny.data()
    std, mean = torch.std_mean(data.x_train.double(), 0, correction=0)
    scaled = data._replace(x_train=(data.x_train - mean) / std, x_test=(data.x_test - mean) / std)
    referee = [entry["loss"] for entry in expected("fedavg", rounds=ROUNDS, data=scaled)]
    assert [entry["loss"] for entry in processes.rounds(place / "run")] == pytest.approx(referee, rel=1e-5)


@pytest.mark.slow
@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("fault", ["damage", "delay", "silence"])
def test_a_bad_network(method: str, fault: str, place: Path) -> None:
    """Flipped bytes break TLS, and so the round, off; late ones are waited for; a line that is dead is missed."""
    proxy, running = through(place, method, ROUNDS, "--patience", "3")
    leader = running[leader_of(method)]
    leader.until("round 2/")
    if fault == "damage":
        proxy.damage = 1
        leader.until("The run goes on as soon as all are there.")
    elif fault == "delay":
        proxy.delay = 0.3
        time.sleep(3)
        proxy.delay = 0.0
    else:
        proxy.silent = True
        leader.until("The run goes on as soon as all are there.")
        proxy.cut()
        proxy.silent = False
    well(running)
    assert processes.rounds(place / "run") == expected(method, rounds=ROUNDS)
    proxy.close()


@pytest.mark.slow
def test_a_site_without_space_ends_the_run_and_nothing_is_lost(place: Path) -> None:
    running = begun(place, "fedkfac", 60, variables={"rome": {"LARGEST_FILE": "12000"}})  # of its record
    ended = {name: process.ended(60) for name, process in running.items()}
    assert {name for name, end in ended.items() if end.code == 1} == {*ended} - {"rome"}, ended
    assert ended["rome"].code == 2
    assert "`out` must be a folder that can be written; got" in ended["rome"].said
    assert "(File too large, at " in ended["rome"].said
    assert "fedtangent: rome has failed, and says why there. The run has ended at all sites." in ended["oslo"].said
    again = [*words("fedkfac", rounds=60), "--out", place / "run", "--resume"]
    well(processes.run(place, again, True))
    assert processes.rounds(place / "run") == expected("fedkfac", rounds=60)


@pytest.mark.slow
def test_two_sites_that_cannot_reach_one_another(place: Path) -> None:
    """One of them is left out, whom its leader can reach; the run does not hang."""
    processes.kits(place, False, consent=["kernel"])
    proxy = behind(place, "rome", ["wien"])
    asked = [*words("dfedavg", rounds=2000), "--out", place / "run", "--quorum", "0.8", "--deadline", "2"]
    running = processes.run(place, asked, False)
    running["berlin"].until("round 2/")
    proxy.close()
    running["berlin"].until("Going on without wien, with 4 of 5 sites.")
    running["berlin"].until("4 present")


@pytest.mark.slow
@pytest.mark.parametrize("method", METHODS)
def test_processes_that_are_killed_at_any_moment(method: str, place: Path) -> None:
    """Up to twenty-five kills of any process at random moments, from its start to a few rounds before its end."""
    rounds, kills, done, rng = 400, 25, 0, random.Random(METHODS.index(method))
    running = begun(place, method, rounds)
    asked = [*words(method, rounds=rounds), "--out", place / "run", "--resume"]
    for _ in range(kills):
        time.sleep(rng.uniform(0.0, 2.0))
        record = place / "run" / "rounds.jsonl"
        if record.exists() and record.read_bytes().count(b"\n") > rounds - 20:
            break  # whoever is started when all others have ended finds nobody
        name = rng.choice([*running])
        running[name].process.kill()
        end = running[name].ended(60)
        assert end.code in (0, -signal.SIGKILL), end
        running[name] = processes.started(place, name, asked, method in SERVED)
        done += 1
    well(running)
    assert processes.rounds(place / "run") == expected(method, rounds=rounds)
    assert done > 10


@pytest.mark.slow
@pytest.mark.parametrize("method", ["fedavg", "dfedavg"])
def test_a_leader_that_is_killed_when_all_rounds_are_over(method: str, place: Path) -> None:
    """Its record is whole: it tells those who call it, and does not wait for one that has ended for good."""
    running = begun(place, method, 3)
    leader, gone = leader_of(method), "wien"
    running[leader].until("round 3/3")
    for name in (leader, gone):
        running[name].process.kill()
        running[name].ended(60)
    del running[gone]
    asked = [*words(method, rounds=3), "--out", place / "run", "--resume", "--deadline", "2"]
    running[leader] = processes.started(place, leader, asked, method in SERVED)
    well(running)
    assert processes.rounds(place / "run") == expected(method, rounds=3)
