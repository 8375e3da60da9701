"""A federation by a relay, all processes on loopback: the record of one process, of which the relay reads nothing."""

from __future__ import annotations

import shutil
import signal
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from fedtangent.transports._tls import Address
from tests.sites import processes
from tests.sites.test_federation import SERVED, expected, words
from tests.transports.tap import Tap

RELAYED = {"fedavg": ("server",), "dfedavg": ("berlin", "rome")}  # the other peers have addresses
MARKERS = (b"FdTg", b'"settings"', b'"digest"', b'"hearts')  # of every frame, a plan, a profile of the rows


class Relayed:
    """A relay's process behind a tap, and the kits of those that use it."""

    def __init__(self, folder: Path, method: str) -> None:
        self.folder, (self.port,) = folder, processes.ports(1)
        self.tap = Tap(Address("127.0.0.1", self.port))
        how = {"consent": ["kernel"], "relayed": RELAYED[method], "relay": self.tap.address.port}
        processes.kits(folder, method in SERVED, **how)  # type: ignore[arg-type]
        self.relay = self.started()

    def started(self) -> processes.Process:
        listen = ["--listen", f"127.0.0.1:{self.port}"]
        found = processes.Process(["relay", self.folder / "kits" / "relay", *listen], self.folder / "relay.log")
        found.until("The relay of hearts listens at 127.0.0.1")
        return found

    def close(self) -> None:
        self.relay.process.kill()
        self.relay.ended()
        self.tap.close()


@pytest.fixture
def relayed(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Relayed]:
    processes.files(tmp_path)
    found = Relayed(tmp_path, request.param)
    yield found
    found.close()


def every(relayed: Relayed, method: str, **change: object) -> dict[str, processes.Process]:
    asked = [*words(method, **change), "--out", relayed.folder / "run"]
    return processes.run(relayed.folder, asked, method in SERVED)


@pytest.mark.parametrize(("method", "relayed"), [(name, name) for name in RELAYED], indirect=["relayed"])
def test_the_record_is_that_of_one_process_and_the_relay_reads_nothing(method: str, relayed: Relayed) -> None:
    ended = {name: process.ended() for name, process in every(relayed, method).items()}
    assert {name: end.code for name, end in ended.items()} == dict.fromkeys(ended, 0), ended
    assert processes.rounds(relayed.folder / "run") == expected(method)
    assert len(relayed.tap.seen) > 20_000
    assert [marker for marker in (*MARKERS, method.encode()) if marker in relayed.tap.seen] == []
    pairs = 5 if method == "fedavg" else 6  # all call the server; all others call berlin, and oslo and wien call rome
    relayed.relay.until("have ended")
    said = relayed.relay.said()
    assert said.count("is joined to") == pairs, said


@pytest.mark.parametrize(("method", "relayed"), [(name, name) for name in RELAYED], indirect=["relayed"])
def test_a_relay_or_a_site_that_is_killed_and_started_again_takes_part_in_the_same_record(
    method: str, relayed: Relayed
) -> None:
    long, leader = 25, "server" if method in SERVED else "berlin"
    running = every(relayed, method, rounds=long)
    running[leader].until("round 3/")
    relayed.relay.process.kill()
    assert relayed.relay.ended(60).code == -signal.SIGKILL
    running[leader].until(" has ended, or the relay has. The run goes on as soon as all are there.", 30)
    relayed.relay = relayed.started()
    running[leader].until("round 9/")
    running["rome"].process.kill()
    assert running["rome"].ended(60).code == -signal.SIGKILL
    running["rome"] = processes.started(relayed.folder, "rome", [], method in SERVED)
    ended = {name: process.ended() for name, process in running.items()}
    assert {name: end.code for name, end in ended.items()} == dict.fromkeys(ended, 0), ended
    assert processes.rounds(relayed.folder / "run") == expected(method, rounds=long)
    if method == "fedavg":
        assert " is there again" in ended["server"].said


@pytest.mark.parametrize("relayed", ["fedavg"], indirect=True)
def test_a_relay_that_does_not_come_back_ends_all_with_one_sentence(relayed: Relayed) -> None:
    asked = [*words("fedavg", rounds=50), "--out", relayed.folder / "run"]
    running = processes.run(relayed.folder, asked, True, wait=3)
    running["server"].until("round 3/")
    relayed.relay.process.kill()
    begin = time.monotonic()
    ended = {name: process.ended(60) for name, process in running.items()}
    assert time.monotonic() - begin < 30
    assert {end.code for end in ended.values()} == {1}, ended
    for end in ended.values():
        assert " was waited for, 3 seconds long" in end.said
        assert "Go on with --resume." in end.said
        assert "Traceback" not in end.said


@pytest.mark.parametrize("relayed", ["fedavg"], indirect=True)
def test_a_relay_that_is_not_there(relayed: Relayed) -> None:
    relayed.relay.process.kill()
    relayed.relay.ended()
    relayed.tap.close()
    kits, data = relayed.folder / "kits", ("--dataset", "npz", "--data-dir", relayed.folder / "rome.npz")
    server = processes.Process(["server", kits / "server", *words("fedavg"), "--wait", "2"], relayed.folder / "one.log")
    site = processes.Process(["site", kits / "rome", *data, "--wait", "2"], relayed.folder / "two.log")
    for process, told in {
        server: "`relay` must be reached at 127.0.0.1",
        site: "`server` must be reached at the relay 127.0.0.1",
    }.items():
        end = process.ended(60)
        assert end.code == 2
        assert told in end.said and "got Connection refused. Start " in end.said
        assert "Traceback" not in end.said


@pytest.mark.parametrize("relayed", ["dfedavg"], indirect=True)
def test_the_relays_own_port_or_kit_in_use(relayed: Relayed) -> None:
    kit, listen = relayed.folder / "kits" / "relay", ["--listen", f"127.0.0.1:{relayed.port}"]
    shutil.copytree(kit, relayed.folder / "copied")
    for place, told in {
        kit: "`kit` must not be in use; got ",
        relayed.folder / "copied": "`address` must be one where this site can listen; got 127.0.0.1",
    }.items():
        second = processes.Process(["relay", place, *listen], relayed.folder / "second.log").ended(60)
        assert second.code == 2
        assert told in second.said
