"""Every fault, F1 to F17, in a federation of every method: the record of a run without it, or one sentence at all."""

from __future__ import annotations

import json
import os
import shutil
import signal
import socket
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pytest

from fedtangent.sites.provision import provision, revoke
from tests.experiments import tiny
from tests.sites import federations, processes
from tests.sites.federations import SERVED, begun, ended, expected, leader_of
from tests.sites.lies import VALUES
from tests.sites.processes import Process
from tests.sites.proxy import Proxy

METHODS = ("fedavg", "fedkfac", "ntkdfl", "dfedkfac")
ROUNDS, DEADLINE = 4, 20
SHORT = 5  # the deadline where nobody comes back
HOW = ("--deadline", str(DEADLINE), "--patience", "5")
Running = dict[str, Process]


def start(place: Path, method: str, *held: int, deadline: float = DEADLINE, **how: object) -> Running:
    asked = ("--deadline", str(deadline), "--patience", "5")
    return begun(place, method, *asked, held=held, change={"rounds": ROUNDS}, **how)  # type: ignore[arg-type]


def restart(place: Path, running: Running, name: str, method: str, **variables: str) -> None:
    asked = [*federations.words(method, rounds=ROUNDS), "--out", place / "run", "--resume", *HOW]
    running[name] = processes.started(place, name, asked, method in SERVED, variables)


def well(place: Path, method: str, running: Running) -> dict[str, str]:
    """What all have said, who come to the record of a run to which nothing happened, in time."""
    said = ended(running, 0, DEADLINE + 5)
    assert processes.rounds(place / "run") == expected(method, rounds=ROUNDS)
    return said


def one_sentence(running: Running, sentence: str, seconds: float = SHORT + 5) -> None:
    """All end in time, not well, and say it."""
    found = {name: process.ended(seconds) for name, process in running.items()}
    for end in found.values():
        assert end.code in (1, 2) and sentence in end.said and "Traceback" not in end.said, found


def without_rome(running: Running, method: str) -> None:
    """The leader has waited for rome, who could not come; all end when it has, and rome by itself."""
    rome, leader = running.pop("rome"), leader_of(method)
    one_sentence({leader: running.pop(leader)}, "` must ", 15)
    one_sentence(running, "The run has ended at all sites.")
    one_sentence({"rome": rome}, "fedtangent: `", 15)


def stopped(process: Process, number: int) -> None:
    assert process.process.pid is not None
    os.kill(process.process.pid, number)


@contextmanager
def between(place: Path, method: str, other: str | None = None) -> Iterator[Proxy]:
    """A proxy between rome and its leader, or another that it calls."""
    federations.made(place, method)
    proxy = federations.behind(place, other or leader_of(method), ["rome"])
    yield proxy
    proxy.close()


def f1_a_site_is_killed(place: Path, method: str) -> None:
    """Before its first message, in the middle of one, and after a round."""
    running = start(place, method, 2, variables={"rome": {"LIE": "die"}})
    running["rome"].until("rome is ready")
    running["rome"].kill()
    restart(place, running, "rome", method, LIE="die")
    assert running["rome"].ended(DEADLINE).code == -signal.SIGKILL
    restart(place, running, "rome", method)
    with running[leader_of(method)].at(2):
        running["rome"].kill()
        restart(place, running, "rome", method)
    well(place, method, running)


def f2_the_leader_is_killed_at_every_step_of_its_journal(place: Path, method: str) -> None:
    leader = leader_of(method)
    running = start(place, method, variables={leader: {"DIE_AT": "1"}})
    for step in range(2, 26):
        if running[leader].ended(DEADLINE).code == 0:
            break
        restart(place, running, leader, method, DIE_AT=str(step))
    assert step > 8
    well(place, method, running)


def f3_a_site_is_slow(place: Path, method: str) -> None:
    """Its process by seconds a round, and every piece that passes by tenths of one."""
    with between(place, method) as proxy:
        running = start(place, method, 1, 2)
        with running[leader_of(method)].at(1):
            stopped(running["rome"], signal.SIGSTOP)
        time.sleep(3)
        stopped(running["rome"], signal.SIGCONT)
        with running[leader_of(method)].at(2):
            proxy.delay = 0.1
        well(place, method, running)


def f4_a_connection_is_half_open_or_reset(place: Path, method: str) -> None:
    with between(place, method) as proxy:
        running = start(place, method, 1, 2)
        leader = running[leader_of(method)]
        with leader.at(1):
            proxy.silent = True
        leader.until("The run goes on as soon as all are there.")
        proxy.cut()
        proxy.silent = False
        with leader.at(2):
            proxy.damage = 1
        leader.until("The run goes on as soon as all are there.", after="round 2/")
        well(place, method, running)


def f5_a_partition_heals(place: Path, method: str) -> None:
    """Of both ways, of one way, and of one that comes and goes."""
    with between(place, method) as proxy:
        running = start(place, method, 1, 2, 3)
        leader = running[leader_of(method)]
        for round, way in ((1, "silent"), (2, "deaf")):
            with leader.at(round):
                setattr(proxy, way, True)
            leader.until("The run goes on as soon as all are there.", after=f"round {round}/")
            proxy.cut()
            setattr(proxy, way, False)
        with leader.at(3):
            for _ in range(5):
                proxy.cut()
                time.sleep(0.2)
        well(place, method, running)


def f5_two_sites_cannot_reach_one_another(place: Path, method: str) -> None:
    """One of them is left out by the quorum, whom its leader can reach."""
    if method in SERVED:
        pytest.skip("sites have no connection to one another where there is a server")
    with between(place, method, "paris") as proxy:
        how = ("--deadline", str(SHORT), "--patience", "5", "--quorum", "0.6")
        running = begun(place, method, *how, held=[1], change={"rounds": ROUNDS})
        with running["berlin"].at(1):
            proxy.refusing = True
            proxy.cut()
        running["berlin"].until("Going on without rome, with 2 of 3 sites.")
        one_sentence({"rome": running.pop("rome")}, "The run is over, without this site.", DEADLINE + 5)
        ended(running, 0, SHORT)
    assert [entry["present"] for entry in processes.rounds(place / "run")] == [3, 2, 2, 2]


def _lie(lie: str) -> Callable[[Path, str], None]:
    def told(place: Path, method: str) -> None:
        running = start(place, method, variables={"rome": {"LIE": lie}})
        said = well(place, method, running)
        assert (place / "rome.lied").exists()
        assert any("The run goes on as soon as all are there." in one for one in said.values()), said

    return told


def f9_rows_are_strange(place: Path, method: str) -> None:
    """Rows of zeros, constants and the smallest numbers count as any others."""
    data = tiny.data()
    data.x_train[:4], data.x_train[4:8], data.x_train[12] = 0, 1, 1e-42
    federations.made(place, method, data=data)
    ended(start(place, method), 0, DEADLINE + 5)
    assert processes.rounds(place / "run") == expected(method, data, rounds=ROUNDS)


def f9_rows_are_not_finite(place: Path, method: str) -> None:
    federations.made(place, method)
    held = dict(np.load(place / "rome.npz"))
    held["x_train"][0, 0] = np.nan
    np.savez(place / "rome.npz", **held)
    one_sentence(start(place, method), "`x_train` must hold finite float32 numbers; got 1")


def f11_other_code(place: Path, method: str) -> None:
    told = "got another digest of the package. Install the same version of fedtangent at all sites."
    one_sentence(start(place, method, variables={"rome": {"OTHER_CODE": "edited"}}), told)


def f11_another_version(place: Path, method: str) -> None:
    running = start(place, method, variables={"rome": {"OTHER_VERSION": "0.0.1"}})
    assert "`plan` must be of version 0.0.1; got" in running["rome"].ended(SHORT + 5).said
    one_sentence({name: one for name, one in running.items() if name != "rome"}, "rome has failed, and says")


def f12_a_disk_is_full(place: Path, method: str) -> None:
    running = start(place, method, variables={"rome": {"LARGEST_FILE": "2000"}})
    end = running.pop("rome").ended(SHORT + 5)
    assert end.code == 2 and "`out` must be a folder that can be written; got" in end.said
    assert "(File too large, at " in end.said
    one_sentence(running, "rome has failed, and says why there. The run has ended at all sites.")
    well(place, method, begun(place, method, "--resume", change={"rounds": ROUNDS}))


def _damaged(how: Callable[[bytes], bytes]) -> Callable[[Path, str], None]:
    def told(place: Path, method: str) -> None:
        running = start(place, method, 2)
        with running[leader_of(method)].at(2):
            running["rome"].kill()
            (file,) = (place / "kits" / "rome" / "runs").glob("*/checkpoint.safetensors")
            file.write_bytes(how(file.read_bytes()))
            restart(place, running, "rome", method)
        end = running.pop("rome").ended(DEADLINE + 5)
        assert end.code == 2 and "must hold a whole checkpoint.safetensors; got a damaged one" in end.said, end.said
        one_sentence(running, "rome has failed, and says why there. The run has ended at all sites.")

    return told


def f13_no_more_files_can_be_opened(place: Path, method: str) -> None:
    running = start(place, method, variables={"rome": {"MORE_FILES": "0"}}, wait=10)
    without_rome(running, method)


def f14_a_clock_is_wrong(place: Path, method: str) -> None:
    variables = {"rome": {"CLOCK": "600"}, "paris": {"CLOCK": "-600"}}
    well(place, method, start(place, method, variables=variables))


def f15_a_certificate_that_does_not_count(place: Path, method: str) -> None:
    """Nobody lets a revoked one in, nor one of another authority, nor whoever speaks no TLS."""
    federations.made(place, method)
    book = json.loads((place / "kits" / leader_of(method) / "kit.json").read_text())["book"]
    revoke(place / "kits", "rome")
    running = start(place, method, wait=10)
    leader = running[leader_of(method)]
    leader.until("turned away 127.0.0.1: a certificate that is not accepted (certificate revoked)")
    with socket.create_connection(("127.0.0.1", book[leader_of(method)][1])) as plain:
        plain.sendall(b"GET / HTTP/1.1\r\n\r\n")
        leader.until("turned away 127.0.0.1: no TLS")
    without_rome(running, method)
    shutil.rmtree(place / "kits")
    federations.made(place, method)
    shutil.copytree(place / "kits" / "rome", place / "rome")
    provision(place / "federation.toml", place / "others")
    for file in ("site.pem", "key.pem", "authority.pem", "revoked.pem"):
        shutil.copy(place / "others" / "rome" / file, place / "kits" / "rome" / file)
    running = start(place, method, wait=10)
    running[leader_of(method)].until("turned away 127.0.0.1: ")
    without_rome(running, method)


def _rows(count: str) -> Callable[[Path, str], None]:
    def told(place: Path, method: str) -> None:
        running = start(place, method, variables={"rome": {"ROWS": count}})
        one_sentence(running, "`rome` must have training and test rows; got none. Give its --data-dir.")

    return told


def f17_the_leader_is_killed_in_the_middle_of_a_round(place: Path, method: str) -> None:
    leader = leader_of(method)
    running = start(place, method, variables={leader: {"LIE": "die"}})
    assert running[leader].ended(DEADLINE).code == -signal.SIGKILL
    restart(place, running, leader, method)
    well(place, method, running)


FAULTS: dict[str, Callable[[Path, str], None]] = {
    "F1": f1_a_site_is_killed,
    "F2": f2_the_leader_is_killed_at_every_step_of_its_journal,
    "F3": f3_a_site_is_slow,
    "F4": f4_a_connection_is_half_open_or_reset,
    "F5 of all": f5_a_partition_heals,
    "F5 of two sites": f5_two_sites_cannot_reach_one_another,
    **{f"F6 {lie}": _lie(lie) for lie in ("twice", "late", "early")},
    **{f"F7 {lie}": _lie(lie) for lie in ("of another run", "of another sender")},
    **{f"F8 {lie}": _lie(lie) for lie in VALUES},
    "F9 strange": f9_rows_are_strange,
    "F9 not finite": f9_rows_are_not_finite,
    **{f"F10 {lie}": _lie(lie) for lie in ("long", "short", "trailing", "deep", "tensors")},
    "F11 code": f11_other_code,
    "F11 version": f11_another_version,
    "F12 full": f12_a_disk_is_full,
    "F12 torn": _damaged(lambda data: data[: len(data) // 2]),
    "F12 flipped": _damaged(lambda data: data[:-9] + bytes([data[-9] ^ 1]) + data[-8:]),
    "F13 files": f13_no_more_files_can_be_opened,
    "F14": f14_a_clock_is_wrong,
    "F15": f15_a_certificate_that_does_not_count,
    **{f"F16 {count}": _rows(count) for count in ("0", "-1", "1000000000000000000", "NaN")},
    "F17": f17_the_leader_is_killed_in_the_middle_of_a_round,
}


@pytest.mark.slow
@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("fault", FAULTS)
def test_a_fault(fault: str, method: str, tmp_path: Path) -> None:
    FAULTS[fault](tmp_path, method)
    assert not processes.alive()
