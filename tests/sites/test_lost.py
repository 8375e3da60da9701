"""Lost: whatever happens to a site or to its connection, a run comes to the record of one to which nothing happened."""

from __future__ import annotations

import random
import time
from pathlib import Path

import pytest
import torch

from fedtangent.experiments import apart
from tests.experiments import tiny
from tests.sites import federations, processes
from tests.sites.federations import begun, ended, expected, leader_of

METHODS = ("fedavg", "fedkfac", "ntkdfl", "dfedkfac")


def test_connections_that_are_cut_again_and_again(tmp_path: Path) -> None:
    federations.made(tmp_path, "fedavg")
    proxy = federations.behind(tmp_path, "server", ["rome"])
    running = begun(tmp_path, "fedavg", held=[1, 2, 4], change={"rounds": 5})
    for round in (1, 2, 4):
        with running["server"].at(round):
            proxy.cut()
    ended(running, 0)
    assert processes.rounds(tmp_path / "run") == expected("fedavg", rounds=5)
    proxy.close()


def test_a_site_is_lost_where_features_are_standardised(tmp_path: Path) -> None:
    running = begun(tmp_path, "fedavg", "--standardise", held=[2], change={"rounds": 4})
    with running["server"].at(2):
        running["rome"].kill()
        federations.again(tmp_path, running, "rome", "fedavg")
    ended(running, 0)
    data = tiny.data()
    std, mean = torch.std_mean(data.x_train.double(), 0, correction=0)
    scaled = data._replace(x_train=(data.x_train - mean) / std, x_test=(data.x_test - mean) / std)
    referee = [entry["loss"] for entry in expected("fedavg", rounds=4, data=scaled)]
    assert [entry["loss"] for entry in processes.rounds(tmp_path / "run")] == pytest.approx(referee, rel=1e-5)


@pytest.mark.slow
@pytest.mark.parametrize("method", METHODS)
def test_processes_that_are_killed_at_any_moment(method: str, tmp_path: Path) -> None:
    """A hundred kills of any process at random moments, from its start on; the run goes on for as long as they last.

    A site that breaks off the same round five times ends the run, so four kills without a round over are the most.
    """
    kills, rounds, rng, slow = 100, 60, random.Random(METHODS.index(method)), {"SLOW": "0.01"}
    leader = leader_of(method)
    names = ["berlin", "paris", "rome", leader]
    running = begun(
        tmp_path, method, held=[rounds - 1], change={"rounds": rounds}, variables=dict.fromkeys(names, slow)
    )
    killed_at = []
    for _ in range(kills):
        time.sleep(rng.uniform(0.0, 2.0))
        if killed_at[-4:] == [over(tmp_path)] * 4 and killed_at[-1] < rounds - 1:
            until_another_round(tmp_path)
        killed_at.append(over(tmp_path))
        name = rng.choice([*running])
        running[name].kill()
        federations.again(tmp_path, running, name, method, variables=slow, rounds=rounds)
    assert len({*killed_at}) > kills / 5
    running[leader].goes_on(rounds - 1)
    ended(running, 0)
    assert processes.rounds(tmp_path / "run") == expected(method, rounds=rounds)


def over(place: Path) -> int:
    """How many rounds are over at the leader."""
    return apart.rounds_over(place / "run")


def until_another_round(place: Path) -> None:
    """Waits until one more is."""
    before, end = over(place), time.monotonic() + processes.MOST
    while over(place) == before:
        assert time.monotonic() < end
        time.sleep(0.02)


@pytest.mark.slow
@pytest.mark.parametrize("method", ["fedavg", "dfedavg"])
def test_a_leader_that_is_killed_when_all_rounds_are_over(method: str, tmp_path: Path) -> None:
    """Its record is whole: it tells those who call it, and does not wait for one that has ended for good."""
    running = begun(tmp_path, method, held=[3])
    leader = leader_of(method)
    with running[leader].at(3):
        for name in (leader, "rome"):
            running[name].kill()
    del running["rome"]
    federations.again(tmp_path, running, leader, method, "--deadline", "2")
    ended(running, 0)
    assert processes.rounds(tmp_path / "run") == expected(method)
