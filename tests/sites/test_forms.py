"""A message of the right type and number of axes whose lengths are wrong, in one verb after the other."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.sites import processes
from tests.sites.federations import begun, ended, expected, leader_of

TOLD = "rome sent a message of another form than is due."
MESSAGES = {"fedavg": 3, "fedkfac": 9, "ntkdfl": 9, "dfedkfac": 9}  # those of two rounds, or some of them


def tried(method: str, message: int, place: Path) -> None:
    """Nothing is computed with it, and the round is done again."""
    lie = {"LIE": "length", "LIE_AT": str(message)}
    running = begun(place, method, "--deadline", "20", variables={"rome": lie}, change={"rounds": 2})
    said = ended(running, 0)
    assert (place / "rome.lied").exists()
    assert f"{TOLD} The run goes on as soon as all are there." in said[leader_of(method)]
    assert processes.rounds(place / "run") == expected(method, rounds=2)


@pytest.mark.few(1)
@pytest.mark.parametrize("method", ["ntkdfl", "fedkfac"])
def test_a_message_of_other_lengths_is_refused(method: str, tmp_path: Path) -> None:
    tried(method, 4, tmp_path)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("method", "message"), [(method, number + 1) for method, count in MESSAGES.items() for number in range(count)]
)
def test_every_message_of_other_lengths_is_refused(method: str, message: int, tmp_path: Path) -> None:
    tried(method, message, tmp_path)


@pytest.mark.few(1)
@pytest.mark.parametrize("method", ["fedkfac", "fedavg"])
def test_what_a_server_sends_of_other_lengths_ends_the_run_with_a_sentence(method: str, tmp_path: Path) -> None:
    """Sites have nothing to compare it with, and cannot compute with it."""
    lie = {"LIE": "length", "LIE_AT": "1" if method == "fedavg" else "4"}
    running = begun(tmp_path, method, variables={"server": lie}, change={"rounds": 2})
    found = {name: process.ended() for name, process in running.items()}
    assert {end.code for end in found.values()} == {1, 2}
    told = [end.said for end in found.values() if f" of {method}, round 1: " in end.said]
    assert len(told) == 1 and "shapes cannot be multiplied" in told[0]
    assert not any("Traceback" in end.said for end in found.values()), found
    others = [end.said for end in found.values() if end.code == 1]
    assert all("has failed, and says why there. The run has ended at all sites." in said for said in others)
